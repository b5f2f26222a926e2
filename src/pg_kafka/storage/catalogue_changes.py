"""What somebody has changed in the catalogue (topics, settings, configs of groups) since the last look.

Triggers note every change in `kafka.catalogue_changes`, also those by SQL and by other brokers. A reader remembers the
snapshot of its last look and gets what is visible and was not visible then: each change once, also that of a transaction
which commits after a later one. Only the newest changes are kept; who has missed some is told to reread everything.

    changes = CatalogueChanges()
    await changes.follow(connection, topics.follow)     # now and then
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from pg_kafka.storage import queries

SQL = queries.load("catalogue")

KEPT = 10_000
# After so many new ones, old changes are forgotten.
FORGET_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """A row of kafka.catalogue_changes."""

    number: int
    kind: str
    object_id: int | None
    name: str
    what: str
    changed_by: str
    application: str
    changed_at: datetime


# None: changes may have been missed, so that everything has to be read again.
Apply = Callable[[Sequence[Change] | None], Awaitable[None]]


class CatalogueChanges:
    """One reader."""

    def __init__(self, *, kept: int = KEPT, forget_every: int = FORGET_EVERY) -> None:
        self._kept = kept
        self._forget_every = forget_every
        self._snapshot: str | None = None
        self._forgotten_by = "0"  # our transaction that has forgotten changes, all of which we had seen
        self._since_forgotten = 0

    async def follow(self, connection: asyncpg.Connection, apply: Apply) -> None:
        """Have `apply` called with what has changed since the last look, if anything has; the first time with None.

        What raises an error is there again at the next look. Outside of a transaction.
        """
        if self._snapshot is None:
            await connection.execute(SQL["forgive_other_servers"])
        rows = await connection.fetch(SQL["look"], self._snapshot, self._forgotten_by)
        changes: list[Change] | None = None
        if rows[0]["is_complete"]:
            changes = [
                Change(
                    row["number"],
                    row["kind"],
                    row["object_id"],
                    row["name"],
                    row["what"],
                    row["changed_by"],
                    row["application"],
                    row["changed_at"],
                )
                for row in rows
                if row["number"] is not None
            ]
        if changes is None or changes:
            await apply(changes)
        self._snapshot = rows[0]["snapshot"]
        self._since_forgotten += self._forget_every if changes is None else len(changes)
        if self._since_forgotten >= self._forget_every:
            forgotten_by = await connection.fetchval(SQL["forget"], self._kept, self._snapshot, self._forgotten_by)
            self._forgotten_by = forgotten_by or self._forgotten_by
            self._since_forgotten = 0


def to_each(*appliers: Apply) -> Apply:
    """One that tells several, in this order; an error of one keeps it from the next ones, and all are told again."""

    async def apply(changes: Sequence[Change] | None) -> None:
        for each in appliers:
            await each(changes)

    return apply
