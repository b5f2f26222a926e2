"""Where the partitions of all topics begin and end, and how much they hold, loaded or not: for metrics.

Of a loaded partition memory knows it. Of the others the database is asked once, since only the leader writes to them, and
then they are loaded; where they begin is read again and again. No row of the log is read but the last one of a partition.

    figures = TopicFigures(topics, log)
    await figures.run()         until it is cancelled
    figures.of(topic, 0)        PartitionFigures, or None while they are not known
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from pg_kafka.clock import Clock
from pg_kafka.errors import StorageError
from pg_kafka.storage.log import Log
from pg_kafka.storage.topics import Topic, Topics, TopicsWatcher

logger = logging.getLogger("pg_kafka.topics")

INTERVAL_S: Final = 30.0
SHARE: Final = 50
"""A refresh takes no more than so small a part of the time, 1 in 50."""

SOON_S: Final = 1.0
"""New topics are looked up together."""

PARTITIONS_AT_ONCE: Final = 500
TOPICS_AT_ONCE: Final = 1_000
"""A session for reading is lent for so many, and consumers may have it in between."""


class PartitionFigures(NamedTuple):
    """Of one partition: offsets, and bytes in Kafka's format."""

    start: int
    end: int
    bytes: int


class TopicFigures(TopicsWatcher):
    """See the module."""

    def __init__(self, topics: Topics, log: Log, clock: Clock) -> None:
        self._topics = topics
        self._log = log
        self._clock = clock
        self._places: dict[tuple[int, int], tuple[int, int]] = {}  # of partitions that were not loaded: start and end
        self._bytes: dict[tuple[int, int], int] = {}
        self._wanted = asyncio.Event()
        self._read_at = clock.steady_s()
        self._is_failing = False
        topics.watch(self)

    @property
    def age_s(self) -> float:
        """How old is what was read from the database."""
        return self._clock.steady_s() - self._read_at

    def of(self, topic: Topic, index: int) -> PartitionFigures | None:
        """What is known of a partition; None: nothing yet."""
        key = (topic.id, index)
        partition = self._log.partition(topic, index)
        if partition is not None:
            start, end = partition.log_start_offset, partition.high_watermark
        else:
            place = self._places.get(key)
            if place is None:
                return None
            start, end = place[0], max(place[1], self._log.committed_end(topic.id, index))
        return PartitionFigures(start, end, self._bytes.get(key, 0))

    def on_listed(self, topic: Topic) -> None:
        self._wanted.set()

    def after_leaving(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            for index in range(topic.partitions):
                self._places.pop((topic.id, index), None)
                self._bytes.pop((topic.id, index), None)

    async def run(self) -> None:
        """Read them again and again. A failure of the database is logged once, and tried again."""
        loop = asyncio.get_running_loop()
        next_s = 0.0
        while True:
            begun_s = loop.time()
            self._wanted.clear()
            try:
                await self._look_up()
                if begun_s >= next_s:
                    await self.refresh()
                    next_s = loop.time() + max(INTERVAL_S, (loop.time() - begun_s) * SHARE)
                self._is_failing = False
            except StorageError as error:
                if not self._is_failing:
                    logger.warning("figures of topics cannot be read", extra={"reason": str(error)})
                self._is_failing = True
                self._wanted.set()
            await asyncio.sleep(SOON_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_s - loop.time())):
                    await self._wanted.wait()

    async def refresh(self) -> None:
        """Read what may have changed since: sizes, and where partitions begin. Raises StorageError."""
        topics = list(self._topics.by_id.values())
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            some = topics[start : start + TOPICS_AT_ONCE]
            sizes = await self._log.sizes(some)
            for topic in some:
                for index in range(topic.partitions):
                    self._bytes[topic.id, index] = sizes.get((topic.id, index), 0)
        for key, offset in (await self._log.starts()).items():
            place = self._places.get(key)
            if place is not None and offset > place[0]:
                self._places[key] = offset, max(offset, place[1])
        self._read_at = self._clock.steady_s()

    async def _look_up(self) -> None:
        """Ask for partitions that are neither loaded nor known. Raises StorageError."""
        missing: list[tuple[int, int]] = []
        for number, topic in enumerate(list(self._topics.by_id.values()), 1):
            for index in range(topic.partitions):
                if (topic.id, index) not in self._places and self._log.partition(topic, index) is None:
                    missing.append((topic.id, index))
            if number % TOPICS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for start in range(0, len(missing), PARTITIONS_AT_ONCE):
            self._places.update(await self._log.places(missing[start : start + PARTITIONS_AT_ONCE]))
