"""Consumer groups that SQL drives, as brokers see them.

store = SqlGroups(control)
await store.names()                              all of them
await store.offsets(["billing"])                 how far they have come
await store.delete("billing")                    False: it is polled at the moment
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("driven_groups")


class SqlOffset(NamedTuple):
    """The next offset of a group in a partition."""

    group_id: str
    topic_id: int
    partition: int
    offset: int
    committed_at_ms: int


class SqlGroups:
    """See the module. Every method raises StorageError."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def names(self) -> set[str]:
        """The ids of all groups that SQL drives."""
        return {row["group_id"] for row in await self._control.fetch(SQL["names"])}

    async def offsets(self, group_ids: Collection[str]) -> list[SqlOffset]:
        """All offsets of some groups, as they are committed."""
        return [SqlOffset(*row) for row in await self._control.fetch(SQL["offsets"], list(group_ids))]

    async def delete(self, group_id: str) -> bool:
        """Forget a group with its offsets; False when a transaction that has polled it is open."""
        try:
            await self._control.execute(SQL["delete"], group_id)
        except StorageError as error:
            if isinstance(error.__cause__, asyncpg.ObjectInUseError):
                return False
            raise
        return True
