"""Compacts topics whose cleanup.policy says so, one round of one topic after the other. See storage/compaction.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.config.settings import Settings
from pg_kafka.storage.compaction import Candidate, Changed, Compaction, LogControl, Piece, Round, segment_ms
from pg_kafka.storage.counts import UpkeepCounts
from pg_kafka.storage.disk import WRITE_FACTOR
from pg_kafka.storage.replacing import NotNow
from pg_kafka.storage.segments import SHARED_SERIES
from pg_kafka.storage.topics import Topic, Topics, TopicsWatcher
from pg_kafka.storage.upkeep.cleaner import Cleaner, CleaningJob
from pg_kafka.storage.upkeep.job import NEVER

logger = logging.getLogger("pg_kafka.compaction")

# A partition with nothing to clean is looked at again when it has a new checkpoint, and when a tenth of the time has passed
# after which its records may be cleaned, within these bounds.
LOOKS_AGAIN_MS = (500, 600_000)
# Temporary files for a record's key, at worst.
KEY_BYTES = 64
# A topic whose round could not be ended is left alone for so long.
RESTS_MS = 10_000
# So long a round waits for the segments of its last group to be freed, and so often it looks. Other topics wait meanwhile.
WAITS_MS, POLL_S = 60_000, 0.25


@dataclass(slots=True)
class Going:
    """A round whose segments are replaced, group by group; what it knows is in temporary tables of a session."""

    compaction: Compaction
    work: Round
    pieces: Sequence[Piece]
    groups: list[tuple[int, ...]]
    began_ms: int
    deadline_ms: int = 0  # for the segments of the last group; 0: they are not waited for
    is_swapped: bool = True  # the last group


class CompactTopics(CleaningJob, TopicsWatcher):
    """A step is a round, or one group of its segments. One that is cut off is begun anew.

    `on_wanted` is called when there is a compacted topic, so that somebody asks when this wants to run.
    """

    name = "compact topics"

    def __init__(
        self, topics: Topics, settings: Settings, log: LogControl, clock: Clock, counts: UpkeepCounts | None = None
    ) -> None:
        self._topics = topics
        self._settings = settings
        self._log = log
        self._clock = clock
        self._counts = counts or UpkeepCounts()
        self.on_wanted: Callable[[], None] = lambda: None
        self._looks_at = 0.0
        self._going: Going | None = None
        self._checkpointed: set[int] = set()  # topics whose partitions were all told to write checkpoints
        self._rests_until: dict[int, int] = {}
        self._looked: dict[
            tuple[int, int], tuple[int, int, int]
        ] = {}  # partition: its checkpoint, settings, until when

    def on_listed(self, topic: Topic) -> None:
        if topic.settings.is_compacted:
            self.on_wanted()

    def wakes_at(self) -> float:
        if not self._settings.current.log_cleaner_enable or not self._compacted():
            return NEVER
        return self._looks_at

    async def step(self, cleaner: Cleaner) -> bool:
        now = asyncio.get_running_loop().time()
        going = self._going
        self._going = None
        if not self._settings.current.log_cleaner_enable:
            return False
        try:
            if going is not None and going.compaction.connection is cleaner.connection:
                has_done = await self._go_on(cleaner, going)
            else:
                has_done = await self._begin(cleaner)
        except Changed as reason:
            logger.info("a topic's compaction begins anew", extra={"reason": str(reason)})
            has_done = False
        self._looks_at = now if has_done else now + self._pause_s()
        return has_done

    def _pause_s(self) -> float:
        return self._settings.current.log_cleaner_backoff_ms / 1000 if self._going is None else POLL_S

    def _compacted(self) -> dict[int, Topic]:
        return {topic.id: topic for topic in self._topics.by_id.values() if topic.settings.is_compacted}

    async def _begin(self, cleaner: Cleaner) -> bool:
        """Find a topic that is due, and compact it; False when there is none."""
        compacted = self._compacted()
        # What a broker before has left above its checkpoints may never change again.
        for topic_id in compacted.keys() - self._checkpointed:
            await self._log.write_checkpoints([(topic_id, index) for index in range(compacted[topic_id].partitions)])
            self._checkpointed.add(topic_id)
        self._checkpointed &= compacted.keys()
        if not compacted:
            return False
        compaction = Compaction(cleaner.connection, self._log, self._settings.current.log_cleaner_dedupe_buffer_size)
        for topic_id, candidates in (await compaction.candidates(list(compacted))).items():
            topic = self._topics.by_id.get(topic_id)
            if topic is None or not topic.settings.is_compacted or not self._has_news(topic, candidates):
                continue
            work = None
            if not await compaction.is_replacing(topic.series):
                work = await compaction.look(topic, candidates, self._clock.wall_ms())
            if work is None or not cleaner.has_room(KEY_BYTES * work.records):
                self._put_off(topic, candidates)
                continue
            self._rests_until[topic_id] = self._clock.steady_ms() + RESTS_MS  # when it fails
            await self._compact(cleaner, compaction, work)
            del self._rests_until[topic_id]
            return True
        return False

    def _has_news(self, topic: Topic, candidates: list[Candidate]) -> bool:
        now = self._clock.steady_ms()
        return now >= self._rests_until.get(topic.id, 0) and any(
            (looked := self._looked.get((topic.id, one.partition))) is None
            or looked[:2] != (one.next_offset, hash(topic.settings))
            or now >= looked[2]
            for one in candidates
        )

    def _put_off(self, topic: Topic, candidates: list[Candidate]) -> None:
        settings = topic.settings
        waits = [ms for ms in (segment_ms(settings), settings.min_compaction_lag_ms) if ms > 0]
        low, high = LOOKS_AGAIN_MS
        until = self._clock.steady_ms() + min(max(min(waits, default=high) // 10, low), high)
        for one in candidates:
            self._looked[topic.id, one.partition] = (one.next_offset, hash(settings), until)

    async def _compact(self, cleaner: Cleaner, compaction: Compaction, work: Round) -> None:
        began = self._clock.steady_ms()
        pieces = await compaction.prepare(work)
        for piece in pieces:
            if piece.series == SHARED_SERIES:
                if not cleaner.has_room(WRITE_FACTOR * piece.bytes):
                    raise NotNow("the disk of the database is nearly full")
                await compaction.apply_in_place(work, piece)
                await asyncio.sleep(cleaner.pace(piece.bytes))
        if any(piece.series == SHARED_SERIES for piece in pieces):
            await compaction.recount(work)
        going = Going(compaction, work, pieces, await compaction.groups(work), began)
        if going.groups:
            await self._go_on(cleaner, going)
        else:
            await compaction.finish(work)
            self._tell(going)

    async def _go_on(self, cleaner: Cleaner, going: Going) -> bool:
        """Have the next group of segments replaced; False when that has to wait."""
        work, group = going.work, going.groups[0]
        markers = await going.compaction.dropped_markers(work, group)
        is_last = len(going.groups) == 1

        async def within_swap(connection: asyncpg.Connection) -> None:
            await going.compaction.within_swap(work, markers, connection, is_last=is_last)
            going.is_swapped = True
            if is_last:
                self._tell(going)

        if await going.compaction.is_replacing(work.topic.series):
            # The group before: its segments wait until no older snapshot is left.
            going.deadline_ms = going.deadline_ms or self._clock.steady_ms() + WAITS_MS
            if self._clock.steady_ms() > going.deadline_ms:
                raise Changed("the segments that were replaced cannot be freed yet")
            self._going = going
            return False
        if not going.is_swapped:
            raise Changed("segments could not be replaced")
        going.is_swapped = False
        await cleaner.replace(work.topic.series, group, partial(going.compaction.fill, work, going.pieces), within_swap)
        del going.groups[0]
        going.deadline_ms = 0
        if going.groups:
            self._going = going
        return True

    def _tell(self, going: Going) -> None:
        work = going.work
        before, after = (sum(counts[n] for counts in work.counts.values()) for n in (0, 1))
        took_s = (self._clock.steady_ms() - going.began_ms) / 1000
        self._counts.compactions += 1
        self._counts.compacted_records += before
        self._counts.removed_records += before - after
        self._counts.compaction_s += took_s
        logger.info(
            "topic compacted",
            extra={
                "topic": work.topic.name,
                "partitions": len(work.ranges),
                "records_before": before,
                "records_after": after,
                "took_s": round(took_s, 1),
            },
        )
