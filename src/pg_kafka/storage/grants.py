"""What PostgreSQL grants on the views of topics, and whether it has changed.

store = GrantStore(control)
grants = await store.load()
sign = await store.sign()       another text when load() may give something else
"""

from __future__ import annotations

from pg_kafka.security.grants import PUBLIC, Grants, Rights, Role
from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("grants")


class GrantStore:
    """See the module."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def sign(self) -> str:
        """Raises StorageError."""
        sign: str = (await self._control.fetch(SQL["sign"]))[0]["sign"]
        return sign

    async def load(self) -> Grants:
        """Everything. Raises StorageError."""
        schema = (await self._control.fetch(SQL["schema"]))[0]
        lists = {
            row["acl"]: (frozenset(row["select"]), frozenset(row["insert"]))
            for row in await self._control.fetch(SQL["rights"])
        }
        known: dict[tuple[int, str], Rights] = {}
        topics: dict[str, Rights] = {}
        for row in await self._control.fetch(SQL["topics"]):
            key = (row["relowner"], row["acl"])
            if key not in known:
                # A view that was made or granted since the lists were read has its rights at the next look.
                known[key] = Rights(row["relowner"], *lists.get(row["acl"], (frozenset(), frozenset())))
            topics[row["name"]] = known[key]
        roles = {
            row["name"]: Role(frozenset((PUBLIC, *row["has"])), row["is_superuser"])
            for row in await self._control.fetch(SQL["roles"])
        }
        everywhere = Rights(schema["owner"], frozenset((schema["read_all"],)), frozenset((schema["write_all"],)))
        return Grants(roles, topics, everywhere, frozenset(schema["creators"]))
