"""The access control lists that are in force on this broker: those of the database, as they are at this moment.

    book = AclBook(store)
    await book.start()
    await book.create([acl])            a client wants to; in force here when it is committed
    await book.follow(changes)          somebody has changed something in the database
    book.watch(authorizer.look_again)   called after each change

An authorizer asks `book.acls`, which is another object after each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from pg_kafka.security.acls import Acl, AclFilter, Acls
from pg_kafka.storage.acls import AclStore
from pg_kafka.storage.catalogue_changes import Change

KIND = "acl"
"""Of changes in kafka.catalogue_changes."""


class AclBook:
    """Without a store it shows what it is told, in tests of authorizers."""

    def __init__(self, store: AclStore | None = None) -> None:
        self._store = store
        self._changing = asyncio.Lock()  # what was read before a change must not come to be in force after it
        self._watchers: list[Callable[[], None]] = []
        self.acls = Acls()

    def watch(self, on_change: Callable[[], None]) -> None:
        self._watchers.append(on_change)

    def show(self, acls: Iterable[Acl]) -> None:
        """These are in force from now on."""
        self.acls = Acls(acls)
        for on_change in self._watchers:
            on_change()

    async def start(self) -> None:
        """Raises StorageError."""
        assert self._store is not None
        async with self._changing:
            self.show(await self._store.load())

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed; None: whatever it was. Raises StorageError."""
        if changes is None or any(change.kind == KIND for change in changes):
            assert self._store is not None
            async with self._changing:
                acls = await self._store.load()
                if len(acls) != len(self.acls) or not all(acl in self.acls for acl in acls):
                    self.show(acls)

    def matching(self, wanted: AclFilter) -> list[Acl]:
        return [acl for acl in self.acls if wanted.matches(acl)]

    async def create(self, acls: Collection[Acl]) -> None:
        """Add those that are not there, all or none. Raises StorageError."""
        assert self._store is not None
        async with self._changing:
            fresh = [acl for acl in dict.fromkeys(acls) if acl not in self.acls]
            if fresh:
                await self._store.create(fresh)
                self.show([*self.acls, *fresh])

    async def delete(self, acls: Collection[Acl]) -> None:
        """Remove these. Raises StorageError."""
        assert self._store is not None
        async with self._changing:
            gone = set(acls)
            if gone:
                await self._store.delete(gone)
                self.show(acl for acl in self.acls if acl not in gone)
