"""The four tables of the outbox take turns: one is written, and the others are emptied once all that they held is in the log.

Nothing waits here for anybody: a table that somebody uses stays as it is until the next look. A table is emptied when
nobody can have a snapshot from before its rows were in the log, for a backup with such a snapshot would find neither these nor
those; transactions that are open longer than a backup needs to lock its tables do not count.

    tables = OutboxTables(lambda: outbox.session)
    await tables.look(previous)         now and then, between two passes
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.counts import RelayCounts
from pg_kafka.storage.outbox import STATEMENT_TIMEOUT_S, TABLES, Snapshot
from pg_kafka.storage.sessions import Session

SQL = queries.load("outbox")
logger = logging.getLogger("pg_kafka.relay")

# The next table is written when one is larger than this.
TURN_BYTES = 32 * 1024 * 1024
# An empty table with an empty TOAST table takes a page or two.
EMPTY_BYTES = 65_536
# pg_dump locks its tables well within this after it has taken its snapshot.
GRACE_S = 10.0


@dataclass(slots=True)
class _Sent:
    """All rows of a table were in the log at a time; who had a transaction open then."""

    at_s: float
    transactions: set[str] = field(default_factory=set)


class OutboxTables:
    """See the module."""

    def __init__(
        self,
        session: Callable[[], Session],
        now_s: Callable[[], float],
        *,
        counts: RelayCounts,
        turn_bytes: int = TURN_BYTES,
        grace_s: float = GRACE_S,
    ) -> None:
        self._session = session
        self._now_s = now_s
        self._counts = counts
        self._turn_bytes = turn_bytes
        self._grace_s = grace_s
        self._sent: dict[int, _Sent] = {}
        self.bytes = 0  # of all tables, at the last look

    @property
    def has_sent(self) -> bool:
        """Is a table to be emptied once nobody has an older snapshot?"""
        return bool(self._sent)

    async def look(self, previous: Snapshot) -> None:
        """Go on to another table when the one that is written is large; empty those whose rows are all in the log.

        All that is visible in `previous` is in the log. Not within a pass.
        """
        rows = await self._fetch(SQL["sizes"])
        self.bytes = sum(row["bytes"] for row in rows)
        sizes = {row["number"]: row["bytes"] for row in rows}
        active = next(row["number"] for row in rows if row["is_active"])
        if sizes[active] > self._turn_bytes:
            smallest = min((number for number in range(TABLES) if number != active), key=lambda number: sizes[number])
            if sizes[smallest] <= EMPTY_BYTES:
                await self._fetch(SQL["turn"], smallest)
                active = smallest
        for number, size in sizes.items():
            if number == active or size <= EMPTY_BYTES:
                self._sent.pop(number, None)
            elif await self._is_forgotten(number, previous):
                await self._empty(number, previous)

    async def _is_forgotten(self, number: int, previous: Snapshot) -> bool:
        """Is all of it in the log, for everybody who may look?"""
        if await self._has_unsent(number, previous):
            self._sent.pop(number, None)
            return False
        opened = {row["transaction"] for row in await self._fetch(SQL["open_transactions"])}
        sent = self._sent.get(number)
        if sent is None:
            self._sent[number] = _Sent(self._now_s(), opened)
            return not opened
        sent.transactions &= opened
        return not sent.transactions or self._now_s() - sent.at_s >= self._grace_s

    async def _empty(self, number: int, previous: Snapshot) -> None:
        connection = self._session().connection
        try:
            async with connection.transaction():
                await connection.execute(queries.render(SQL["lock_table"], number=number), timeout=STATEMENT_TIMEOUT_S)
                # Who was writing there has ended, perhaps with rows that no pass has seen.
                if await self._has_unsent(number, previous):
                    return
                await connection.execute(queries.render(SQL["empty"], number=number), timeout=STATEMENT_TIMEOUT_S)
        except asyncpg.LockNotAvailableError:
            return  # somebody writes or reads there; it is looked at again
        self._sent.pop(number, None)
        self._counts.emptied += 1

    async def _has_unsent(self, number: int, previous: Snapshot) -> bool:
        rows = await self._fetch(queries.render(SQL["has_unsent"], number=number), previous.xmax, previous.xip)
        return bool(rows[0][0])

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._session().connection.fetch(
            sql, *arguments, timeout=STATEMENT_TIMEOUT_S
        )
        return rows
