"""What a job of the janitor is, and what all jobs use.

    class SweepFloors(Job):
        name = "sweep floors"

        async def step(self) -> bool:
            ...                     # a little of it, by what the tables say; True: there is more to do now

A step leaves the tables so that it can be done again: the janitor may be killed anywhere. On a disk that is nearly full a
job does only what frees space.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import asyncpg

from pg_kafka.config.keys import LONG_MAX
from pg_kafka.storage import sessions
from pg_kafka.storage.counts import UpkeepCounts
from pg_kafka.storage.growth import Growth
from pg_kafka.storage.queries import load
from pg_kafka.storage.segments import Segments

logger = logging.getLogger("pg_kafka.janitor")

SQL = load("janitor")

LANES_TIMEOUT_S = 60.0
# Looking at the sizes of all active segments costs some 20 us each; pokes come with every topic.
SIZES_INTERVAL_S = 2.0
# A table that is copied is on the disk once more, and its rows in the WAL, at worst with whole pages.
COPY_FACTOR = 3.2
NEVER = float("inf")


class LaneControl(Protocol):
    """What jobs ask of the lanes; each returns when every lane has done it."""

    async def switch_segment(self, series: int, segment: int) -> None:
        """New rows of a series go to this segment, and none is under way to an older one."""

    async def move_topic(self, topic_id: int, series: int, segment: int) -> None:
        """New rows of a topic go to this series, and kafka.topics says so."""

    async def write_checkpoints(self, places: Sequence[tuple[int, int]]) -> None:
        """Checkpoints of partitions (topic id, index) will be written soon."""

    async def rows_moved(self, places: Sequence[tuple[int, int]]) -> None:
        """Rows of partitions are in other segments, or gone."""

    async def switch_journal(self, journal: str, active: int) -> None:
        """New entries of a journal go to this one of its tables, and none is under way to the other."""


class Room(Protocol):
    """Whether so many bytes may be written to the disk; with `small`, from the reserve."""

    def __call__(self, disk_bytes: float, /, *, small: bool = False) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What settings say; the rest has good values, which tests change."""

    segment_bytes: int
    segment_ms: int
    compression: str
    # Are topics compacted that do not say so themselves? And how old is a segment of a compacted one at most?
    compacts: bool = False
    max_compaction_lag_ms: int = LONG_MAX
    # The net under lost events, and how often ages and sizes of segments are looked at when nobody pokes.
    interval_s: float = 30.0
    # A journal is rotated when it is larger than this and than some times what in it counted the last time.
    journal_bytes: int = 16 * 1024 * 1024
    # A transaction whose snapshot is older than the copy finds nothing once the table that it could see is truncated. So
    # long such snapshots are waited for; then the journal's size comes first. pg_dump takes its locks well within that.
    snapshot_grace_s: float = 30.0
    # kafka.partition_checkpoints is rewritten when it is larger than this and than some times its size after the last time.
    checkpoint_table_bytes: int = 16 * 1024 * 1024
    # An active segment is frozen again when it has grown by this, while most of that lies in PostgreSQL's buffers.
    freeze_bytes: int = 32 * 1024 * 1024
    # A sealed segment waits so long for snapshots from before to end, under which it cannot be frozen.
    freeze_grace_s: float = 3600.0


class Site:
    """What all jobs use. The janitor opens the session, and opens another one when it is lost."""

    def __init__(
        self,
        owner: int,
        lanes: LaneControl,
        growth: Growth,
        has_room: Room,
        options: Options,
        counts: UpkeepCounts,
    ) -> None:
        self.owner = owner  # node id of this broker
        self.counts = counts
        self.lanes = lanes
        self.growth = growth
        self.has_room = has_room
        self.options = options
        self.failures: Counter[str] = Counter()  # by job, of this janitor
        self.sealed: set[int] = set()  # series of which a segment was sealed, until retention has looked at them
        self.available: frozenset[str] = frozenset()  # what this server can compress with
        self.session: sessions.Session | None = None
        self._segments: Segments | None = None

    def use(self, session: sessions.Session, available: frozenset[str]) -> None:
        """A session has been opened."""
        self.session = session
        self._segments = Segments(session.connection)
        self.available = available

    def drop(self) -> None:
        """The session is lost, or not needed any more."""
        session, self.session = self.session, None
        if session is not None:
            session.drop()

    def failed(self, job: str) -> None:
        """Something that a job wanted to do could not be done now."""
        self.failures[job] += 1
        self.counts.job("janitor", job).failed += 1

    @property
    def is_connected(self) -> bool:
        return self.session is not None and not self.session.is_closed

    @property
    def connection(self) -> asyncpg.Connection:
        assert self.session is not None
        return self.session.connection

    @property
    def segments(self) -> Segments:
        assert self._segments is not None
        return self._segments

    @staticmethod
    def now() -> float:
        """The event loop's time, seconds."""
        return asyncio.get_running_loop().time()


class Job(ABC):
    """See the module."""

    name: ClassVar[str]

    def __init__(self, site: Site) -> None:
        self.site = site
        self.put_off: set[int] = set()  # topics whose step failed or has to wait; the janitor clears it now and then

    @abstractmethod
    async def step(self) -> bool:
        """Do some of it; True when there is more to do now. Whatever it raises is tried again later."""

    def wakes_at(self) -> float:
        """When the job wants to run though nobody pokes, by the event loop's time."""
        return NEVER

    def has_room(self, disk_bytes: float = 0.0, *, small: bool = False) -> bool:
        """May so many bytes be written to the disk?"""
        return self.site.has_room(disk_bytes, small=small)

    async def all_or_each(self, topics: Mapping[int, str], act: Callable[[list[int]], Awaitable[None]]) -> bool:
        """Do something for topics in one transaction; when that fails, for each alone, to find out which it cannot be.

        `topics` has their names, for the log, by their ids.
        """
        try:
            if topics:
                await act(list(topics))
        except asyncpg.PostgresError:
            for topic_id, name in topics.items():
                try:
                    await act([topic_id])
                except asyncpg.PostgresError as error:
                    self.put_off.add(topic_id)
                    self.site.failed(self.name)
                    logger.warning(
                        "janitor's job waits for a topic",
                        extra={
                            "job": self.name,
                            "topic": name,
                            "topic_id": topic_id,
                            "reason": sessions.describe(error),
                        },
                    )
        return bool(topics)
