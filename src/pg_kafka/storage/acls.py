"""Access control lists in `kafka.acls`: rows in Kafka's words, numbers of the protocol in the program.

store = AclStore(statements)
acls = await store.load()
await store.create([acl])
gone = await store.delete([acl])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import asyncpg

from pg_kafka.security.acls import OPERATIONS, RESOURCE_TYPES, Acl, PatternType, Permission
from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("acls")

_TYPES: Mapping[str, int] = {word: number for number, word in enumerate(RESOURCE_TYPES)}
_OPERATIONS: Mapping[str, int] = {word: number for number, word in enumerate(OPERATIONS)}


class AclStore:
    """See the module."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def load(self) -> list[Acl]:
        """All ACLs. Raises StorageError."""
        return acls_of(await self._control.fetch(SQL["load"]))

    async def sign(self) -> str:
        """Another text when load() may give something else. Raises StorageError."""
        sign: str = (await self._control.fetch(SQL["sign"]))[0]["sign"]
        return sign

    async def create(self, acls: Collection[Acl]) -> None:
        """Add those that are not there, all or none. Raises StorageError."""
        await self._control.execute(SQL["create"], *_columns(acls))

    async def delete(self, acls: Collection[Acl]) -> list[Acl]:
        """Remove these; returns those that were there. Raises StorageError."""
        return acls_of(await self._control.fetch(SQL["delete"], *_columns(acls)))


def acls_of(rows: Iterable[asyncpg.Record]) -> list[Acl]:
    """ACLs of rows of kafka.acls."""
    return [
        Acl(
            _TYPES[type_],
            name,
            PatternType[pattern],
            principal,
            host,
            _OPERATIONS[operation],
            Permission[permission],
        )
        for type_, name, pattern, principal, host, operation, permission in rows
    ]


def _columns(acls: Collection[Acl]) -> tuple[list[str], ...]:
    return (
        [RESOURCE_TYPES[acl.resource] for acl in acls],
        [acl.name for acl in acls],
        [acl.pattern.name for acl in acls],
        [acl.principal for acl in acls],
        [acl.host for acl in acls],
        [OPERATIONS[acl.operation] for acl in acls],
        [acl.permission.name for acl in acls],
    )
