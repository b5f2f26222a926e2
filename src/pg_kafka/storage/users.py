"""Users who log in by SASL: rows of `kafka.user_keys`.

    users = Users()
    await users.follow(connection, None)            read all; later with what has changed (`security_changes.py`)
    users.keys("alice", SHA_512)                    what is stored of her password, or None
    users.like_keys("nobody", SHA_512)              what a login is answered by a name that nobody has

    stored = StoredUsers(control)
    await stored.alter([Removal("bob", SHA_256)], [Entry("alice", SHA_512, keys)])

`Users` is every broker's copy in memory, `StoredUsers` what clients of Kafka may ask of the broker that leads.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

import asyncpg

from pg_kafka.security import scram
from pg_kafka.security.scram import Keys, Mechanism
from pg_kafka.storage import queries
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.control import ControlSession

SQL = queries.load("users")
KIND = "user"

UserKeys = tuple[str, str]
"""A user's name and a mechanism's: one row."""


class Users:
    """All users and their keys, as they are in the database or were moments ago."""

    def __init__(self) -> None:
        self._keys: dict[UserKeys, Keys] = {}
        self._secret = b""
        self._samples: dict[str, list[Keys]] = {}  # by mechanism, in an order that a new user hardly changes
        self._checked_by: list[str] = []  # mechanisms, one for each user
        self.on_revoked: Callable[[frozenset[UserKeys]], None] = lambda _revoked: None
        """Called with what no longer proves anything: keys that are gone, or are others now."""

    def __len__(self) -> int:
        return len({name for name, _ in self._keys})

    def keys(self, name: str, mechanism: Mechanism) -> Keys | None:
        return self._keys.get((name, mechanism.name))

    def like_keys(self, name: str, mechanism: Mechanism) -> Keys:
        """Keys that nobody can meet, for a name that nobody has."""
        return scram.keys_of_nobody(mechanism, name, self._secret, self._samples.get(mechanism.name, ()))

    def likely_mechanism(self, name: str) -> Mechanism:
        """The one that PLAIN would check a password by if somebody had this name: with another hash it takes another time."""
        if not self._checked_by:
            return scram.SHA_512
        number = hmac.digest(self._secret, name.encode(), "sha256")[:8]
        return scram.MECHANISMS[self._checked_by[int.from_bytes(number) % len(self._checked_by)]]

    async def follow(self, connection: asyncpg.Connection, changes: Sequence[Change] | None) -> None:
        """Take over what has changed; None: read all. Raises as the driver does."""
        if changes is None:
            self._secret = await connection.fetchval(SQL["secret"])
            self._take(await connection.fetch(SQL["all"]), set(self._keys))
            return
        names = {change.name for change in changes if change.kind == KIND}
        if names:
            known = {key for key in self._keys if key[0] in names}
            self._take(await connection.fetch(SQL["some"], sorted(names)), known)

    def _take(self, rows: Iterable[asyncpg.Record], known: set[UserKeys]) -> None:
        """Believe these rows of the users that had the keys `known`."""
        read = {(row["name"], row["mechanism"]): _keys(row) for row in rows}
        revoked = frozenset(key for key in known if read.get(key) != self._keys[key])
        for key in known - read.keys():
            del self._keys[key]
        for key, keys in read.items():
            if self._keys.get(key) != keys:
                self._keys[key] = keys
        self._samples = {}
        checked_by: dict[str, str] = {}
        for (name, mechanism), keys in sorted(self._keys.items(), key=itemgetter(0)):
            self._samples.setdefault(mechanism, []).append(keys)
            checked_by[name] = mechanism  # SHA-512 comes last
        self._checked_by = list(checked_by.values())
        if revoked:
            self.on_revoked(revoked)


def _keys(row: asyncpg.Record) -> Keys:
    return Keys(row["salt"], row["stored_key"], row["server_key"], row["iterations"])


class Removal(NamedTuple):
    name: str
    mechanism: Mechanism


class Entry(NamedTuple):
    name: str
    mechanism: Mechanism
    keys: Keys


class StoredUsers:
    """`on_changed` is called after a change: brokers need not wait for their next look."""

    def __init__(self, control: ControlSession, on_changed: Callable[[], None] = lambda: None) -> None:
        self._control = control
        self._on_changed = on_changed

    async def describe(self, names: Sequence[str] | None) -> dict[str, dict[Mechanism, int]]:
        """Mechanisms and iterations of these users, as far as they are there; None: of all. Raises StorageError."""
        found: dict[str, dict[Mechanism, int]] = {}
        for row in await self._control.fetch(SQL["described"], names):
            found.setdefault(row["name"], {})[scram.MECHANISMS[row["mechanism"]]] = row["iterations"]
        return found

    async def alter(self, removals: Sequence[Removal], entries: Sequence[Entry]) -> set[str]:
        """Remove and set keys, all in one transaction; the names of which something has been removed.

        No name comes twice. Raises StorageError.
        """
        rows = await self._control.fetch(
            SQL["alter"],
            [removal.name for removal in removals],
            [removal.mechanism.name for removal in removals],
            [entry.name for entry in entries],
            [entry.mechanism.name for entry in entries],
            [entry.keys.iterations for entry in entries],
            [entry.keys.salt for entry in entries],
            [entry.keys.stored_key for entry in entries],
            [entry.keys.server_key for entry in entries],
        )
        self._on_changed()
        return {row["name"] for row in rows}
