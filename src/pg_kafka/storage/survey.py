"""Figures that only the database knows: sizes, segments, held snapshots, what is to be compacted.

    survey = Survey(dsn, topics, clock, counts)
    task = supervised(survey.run(), "survey", on_death)
    survey.families()           what was found last, at once, and how old that is

A look is a few statements over catalogues and small tables, on a session that is opened for it. It has a deadline, and there
is none while nobody asks: after a look the next one comes when the figures have been read and are old enough. The more a look
costs, the rarer it is, so that it takes two percent of one backend's time at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import Metric

from pg_kafka.clock import Clock
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.metrics.catalogue import Family, disk, postgres, upkeep
from pg_kafka.metrics.families import many
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.counts import SurveyCounts

if TYPE_CHECKING:
    import asyncpg

    from pg_kafka.storage.topics import Topic

SQL = queries.load("survey")
logger = logging.getLogger("pg_kafka.survey")

INTERVAL_S = 15.0
TIMEOUT_S = 30.0
# After a look comes a pause of so many times as long as it took, and no longer than ten minutes.
PAUSE_FACTOR = 50
MAX_PAUSE_S = 600.0
# One that failed, perhaps since it had to wait for a lock, is tried again after so many intervals.
RETRY_FACTOR = 4


class Known(Protocol):
    """The topics that there are."""

    @property
    def by_id(self) -> Mapping[int, Topic]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a look has found. Sizes in bytes; None: nobody has looked."""

    table_bytes: Mapping[str, int] = field(default_factory=dict)  # by part: log, journals, other
    dead_rows: Mapping[str, int] = field(default_factory=dict)
    journal_bytes: Mapping[str, int] = field(default_factory=dict)
    journal_live_bytes: Mapping[str, int] = field(default_factory=dict)
    segments: Mapping[str, int] = field(default_factory=dict)  # by state
    deleted_topics: int | None = None
    database_bytes: int | None = None
    xid_age: int | None = None
    connections: int | None = None
    max_connections: int | None = None
    snapshot_s: Mapping[str, float] = field(default_factory=dict)  # by who holds it
    slot_xid_age: int | None = None
    slot_bytes: int | None = None
    compacted_bytes: int | None = None
    dirty_bytes: int | None = None
    max_dirty_ratio: float | None = None


_NOTHING = Findings()


class Survey:
    """See the module. `findings` is None before the first look."""

    def __init__(
        self,
        dsn: str,
        topics: Known,
        clock: Clock,
        counts: SurveyCounts | None = None,
        *,
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
        pause_factor: float = PAUSE_FACTOR,
    ) -> None:
        self._pause_factor = pause_factor
        self._dsn = dsn
        self._topics = topics
        self._clock = clock
        self._counts = counts or SurveyCounts()
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._looked_at_s = 0.0
        self._took_s = 0.0
        self._wanted = asyncio.Event()
        self.findings: Findings | None = None

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            self._wanted.clear()
            began_s = self._clock.steady_s()
            try:
                self.findings = await self._look()
                self._looked_at_s, self._took_s = began_s, self._clock.steady_s() - began_s
                pause_s = max(self._interval_s, min(self._pause_factor * self._took_s, MAX_PAUSE_S))
            except (TimeoutError, StorageError, FatalError) as error:
                self._counts.failures += 1
                reason = str(error) or f"it took longer than {self._timeout_s:.0f} s"
                logger.debug("cannot look at the database's sizes", extra={"reason": reason})
                pause_s = RETRY_FACTOR * self._interval_s
            await asyncio.sleep(pause_s)
            await self._wanted.wait()

    async def _look(self) -> Findings:
        """Raises StorageError, FatalError, TimeoutError."""
        async with asyncio.timeout(self._timeout_s), sessions.opened(self._dsn, "survey", timeout_s=None) as connection:
            tables = await connection.fetch(SQL["tables"])
            journals = await connection.fetch(SQL["journals"])
            segments = await connection.fetch(SQL["segments"])
            server = await sessions.only_row(connection, SQL["server"])
            snapshots = await sessions.only_row(connection, SQL["snapshots"])
            compacted = [topic.id for topic in self._topics.by_id.values() if topic.settings.is_compacted]
            dirty: list[asyncpg.Record] = await connection.fetch(SQL["dirty"], compacted) if compacted else []
        return Findings(
            table_bytes={row["part"]: row["bytes"] for row in tables},
            dead_rows={row["part"]: row["dead_rows"] for row in tables},
            journal_bytes={row["journal"]: row["bytes"] for row in journals},
            journal_live_bytes={row["journal"]: row["live_bytes"] for row in journals},
            segments={row["state"]: row["segments"] for row in segments},
            deleted_topics=server["deleted_topics"],
            database_bytes=server["database_bytes"],
            xid_age=server["xid_age"],
            connections=server["connections"],
            max_connections=server["max_connections"],
            snapshot_s={"session": snapshots["session_s"], "prepared transaction": snapshots["prepared_s"]},
            slot_xid_age=snapshots["slot_xid_age"],
            slot_bytes=snapshots["slot_bytes"],
            compacted_bytes=sum(row["bytes"] for row in dirty),
            dirty_bytes=sum(row["dirty_bytes"] for row in dirty),
            max_dirty_ratio=max((row["dirty_bytes"] / row["bytes"] for row in dirty if row["bytes"]), default=0.0),
        )

    def families(self) -> Iterable[Metric]:
        """What was found last; families without series before the first look."""
        self._wanted.set()
        found = self.findings
        yield _one(postgres.SURVEY_AGE, None if found is None else self._clock.steady_s() - self._looked_at_s)
        yield _one(postgres.SURVEY_SECONDS, None if found is None else self._took_s)
        found = found or _NOTHING
        yield _one(postgres.CONNECTIONS, found.connections)
        yield _one(postgres.MAX_CONNECTIONS, found.max_connections)
        yield _one(postgres.XID_AGE, found.xid_age)
        yield many(postgres.SNAPSHOT_SECONDS, _by_one(found.snapshot_s))
        yield _one(postgres.SLOT_XID_AGE, found.slot_xid_age)
        yield _one(postgres.SLOT_BYTES, found.slot_bytes)
        yield many(upkeep.SEGMENTS, _by_one(found.segments))
        yield _one(upkeep.DELETED_TOPICS, found.deleted_topics)
        yield many(upkeep.JOURNAL_BYTES, _by_one(found.journal_bytes))
        yield many(upkeep.JOURNAL_LIVE_BYTES, _by_one(found.journal_live_bytes))
        yield _one(upkeep.COMPACTED_BYTES, found.compacted_bytes)
        yield _one(upkeep.DIRTY_BYTES, found.dirty_bytes)
        yield _one(upkeep.DIRTY_RATIO, found.max_dirty_ratio)
        yield _one(disk.DATABASE_BYTES, found.database_bytes)
        yield many(disk.TABLE_BYTES, _by_one(found.table_bytes))
        yield many(disk.DEAD_ROWS, _by_one(found.dead_rows))


def _one(family: Family, value: float | None) -> Metric:
    """A family without labels, and without a series while nothing is known."""
    return many(family, {} if value is None else {(): value})


def _by_one(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """For a family with one label."""
    return {(name,): value for name, value in values.items()}
