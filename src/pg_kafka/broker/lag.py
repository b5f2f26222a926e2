"""How far consumer groups are behind, in records and in time, looked at every ten seconds; and the minutes of that.

    lag = GroupLag(groups=groups, topics=topics, log=log, store=LagStore(control), clock=clock, ...)
    supervised(lag.run(), "group lag", ...)
    lag.figures["billing", "orders"]         what was found last: `Figures`
    lag.seconds(figures)                     for how long the oldest unread record is in the log, now

Memory knows the commits, and the ends of partitions that are in use. The database is asked for the ends of the others,
once, and for the append time of the first unread record, when a commit has moved or that is a minute ago. The event loop
gets its turn in between, and looking takes a twentieth of the time at most: with very many groups it is done less often.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from pg_kafka.clock import Clock
from pg_kafka.coordinator.group_offsets import Committed, OffsetKey
from pg_kafka.errors import StorageError
from pg_kafka.storage.lag import Entry, LagStore
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.lag")

LOOK_S = 10.0
# A look takes one in so many seconds at most, and comes at least once a minute.
LEISURE = 20
LONGEST_PAUSE_S = 60.0
# What the database said of a place is asked again then: retention may have deleted the record, or its transaction was aborted.
ASK_AGAIN_MS = 60_000
COMMITS_PER_TURN = 1_000
MINUTE_MS = 60_000
BYTES_OF_ENTRY = 100  # of a minute that is written, on the disk with its WAL, as a guess

T = TypeVar("T")

_LARGEST_LAG, _LARGEST_SECONDS = (1 << 63) - 1, (1 << 31) - 1


class Offsets(Protocol):
    """The commits of a group."""

    def items(self) -> Iterator[tuple[OffsetKey, Committed]]: ...


class CommittingGroup(Protocol):
    """What is asked of a group."""

    @property
    def id(self) -> str: ...
    @property
    def offsets(self) -> Offsets: ...


class Groups(Protocol):
    """All groups, once they are loaded: `refusal` is NONE then."""

    refusal: ErrorCode

    def __iter__(self) -> Iterator[CommittingGroup]: ...


class Ends(Protocol):
    """What the log has in memory."""

    def partition(self, topic: Topic, index: int) -> Partition | None: ...

    def committed_end(self, topic_id: int, index: int) -> int: ...


class Place(NamedTuple):
    """The commit of a group in one partition, and what is unread behind it."""

    partition: int
    offset: int
    lag: int
    unread: Unread | None  # None: nothing


class Unread(NamedTuple):
    """What the database said of a place, and when, by the steady clock."""

    append_ms: int | None  # None: nothing to read, whatever the offsets say
    asked_ms: int
    seen_ms: int  # since when this append time is known: it was unread all the while


@dataclass(slots=True)
class Figures:
    """Of one group and one topic."""

    places: list[Place] = field(default_factory=list)
    lag: int = 0
    offsets: int = 0  # the sum of what is committed
    oldest_ms: int | None = None  # append time of the oldest unread record, wall time
    seen_ms: int = 0  # since when one of the unread records is known, steady time

    def add(self, place: Place) -> None:
        self.places.append(place)
        self.lag += place.lag
        self.offsets += place.offset
        if place.unread is not None:
            self._age(place.unread.append_ms, place.unread.seen_ms)

    def include(self, other: Figures) -> None:
        """Add up with those of another group or topic; places are not taken over."""
        self.lag += other.lag
        self.offsets += other.offsets
        self._age(other.oldest_ms, other.seen_ms)

    def _age(self, append_ms: int | None, seen_ms: int) -> None:
        if append_ms is None:
            return
        if self.oldest_ms is None:
            self.oldest_ms, self.seen_ms = append_ms, seen_ms
        else:
            self.oldest_ms, self.seen_ms = min(self.oldest_ms, append_ms), min(self.seen_ms, seen_ms)


PlaceKey = tuple[int, int, int]
"""Topic id, partition, and the first offset that may be unread."""


class GroupLag:
    """See the module. Everything runs on one event loop."""

    def __init__(
        self,
        *,
        groups: Groups,
        topics: Mapping[int, Topic],
        log: Ends,
        store: LagStore,
        clock: Clock,
        history_groups: Callable[[], int],
        is_looked_at: bool,
        has_room: Callable[[float], bool] = lambda _bytes: True,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`topics` by their ids. `history_groups`: pg_kafka.lag_history_groups, asked each time.

        `refresh` has commits in memory that only the database knows, and raises StorageError.
        `is_looked_at`: somebody reads `figures`; otherwise, and without a history, nobody is asked anything.
        """
        self.figures: Mapping[tuple[str, str], Figures] = {}
        """What was found last, by group id and the topic's name."""
        self.looked_at_ms: int | None = None  # when that was, by the steady clock; None: not yet
        self.look_s = 0.0  # how long it took
        self._groups = groups
        self._topics = topics
        self._log = log
        self._store = store
        self._clock = clock
        self._history_groups = history_groups
        self._is_looked_at = is_looked_at
        self._has_room = has_room
        self._refresh = refresh
        self._ends: dict[OffsetKey, int] = {}  # of partitions that are not loaded
        self._unread: dict[PlaceKey, Unread] = {}
        self._minutes = _Minutes()
        self._is_known = True

    async def run(self) -> None:
        """Look, and write minutes down, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if self._is_looked_at or self._history_groups():
                    await self.look()
                if not self._is_known:
                    self._is_known = True
                    logger.info("group lag is known again")
            except StorageError as error:
                if self._is_known:
                    self._is_known = False
                    logger.warning("group lag is not known", extra={"error": str(error)})
            took_s = loop.time() - began
            await asyncio.sleep(min(max(LOOK_S - took_s, LEISURE * took_s), LONGEST_PAUSE_S))

    async def look(self) -> None:
        """Find out how far all groups are behind. Raises StorageError; then the figures are those from before."""
        if self._groups.refusal is not ErrorCode.NONE:
            return
        began_ms = self._clock.steady_ms()
        if self._refresh is not None:
            await self._refresh()
        commits = await self._commits()
        ends = await self._find_ends({key for _, _, key, _ in commits})
        # Where the log begins may change while the database is asked: from here on it is where it is now.
        behind: list[PlaceKey | None] = []
        async for _, _, key, offset in _in_turns(commits):
            behind.append((*key, self._first(*key, offset)) if offset < ends[key] else None)
        unread = await self._find_unread(dict.fromkeys(place for place in behind if place is not None))
        figures: dict[tuple[str, str], Figures] = {}
        async for (group_id, name, key, offset), place in _in_turns(zip(commits, behind, strict=True)):
            found = Place(key[1], offset, 0, None)
            if place is not None:
                found = Place(key[1], offset, ends[key] - offset, unread[place])
            figures.setdefault((group_id, name), Figures()).add(found)
        self.figures = figures
        self.looked_at_ms = self._clock.steady_ms()
        self.look_s = (self.looked_at_ms - began_ms) / 1000
        await self._note()

    def seconds(self, oldest_ms: int | None, seen_ms: int) -> float:
        """For how long a record has been in the log; 0 when there is none.

        What is known to be unread for some time is not younger than that, wherever the clock was set since.
        """
        if oldest_ms is None:
            return 0.0
        return max(self._clock.wall_ms() - oldest_ms, self._clock.steady_ms() - seen_ms, 0) / 1000

    # -- looking -----------------------------------------------------------------------------------------------------

    async def _commits(self) -> list[tuple[str, str, OffsetKey, int]]:
        """Group, topic, place and offset of all commits from which something can be read."""
        found: list[tuple[str, str, OffsetKey, int]] = []
        turn = 0
        for group in self._groups:
            for key, committed in group.offsets.items():
                topic = self._topics.get(key[0])
                if topic is not None and committed.offset >= 0:
                    found.append((group.id, topic.name, key, committed.offset))
            if len(found) - turn >= COMMITS_PER_TURN:
                turn = len(found)
                await asyncio.sleep(0)
        return found

    def _partition(self, topic_id: int, index: int) -> Partition | None:
        topic = self._topics.get(topic_id)
        return None if topic is None else self._log.partition(topic, index)

    def _first(self, topic_id: int, index: int, offset: int) -> int:
        """The first offset that is unread, and not deleted as far as memory knows."""
        partition = self._partition(topic_id, index)
        return offset if partition is None else max(offset, partition.log_start_offset)

    async def _find_ends(self, keys: Collection[OffsetKey]) -> dict[OffsetKey, int]:
        """High watermarks. A partition that is not loaded ends where it did, unless it was loaded since."""
        ends: dict[OffsetKey, int] = {}
        idle: dict[OffsetKey, int] = {}
        asked: list[OffsetKey] = []
        async for key in _in_turns(keys):
            partition = self._partition(*key)
            if partition is not None:
                ends[key] = partition.high_watermark
            elif key in self._ends:
                ends[key] = idle[key] = max(self._ends[key], self._log.committed_end(*key))
            else:
                asked.append(key)
        told = await self._store.ends(asked)
        for key in asked:
            ends[key] = idle[key] = max(told.get(key, 0), self._log.committed_end(*key))
        self._ends = idle
        return ends

    async def _find_unread(self, behind: Collection[PlaceKey]) -> dict[PlaceKey, Unread]:
        """When the first records at or behind these places were appended."""
        now_ms = self._clock.steady_ms()
        found: dict[PlaceKey, Unread] = {}
        asked: list[PlaceKey] = []
        async for place in _in_turns(behind):
            known = self._unread.get(place)
            if known is not None and now_ms - known.asked_ms < ASK_AGAIN_MS:
                found[place] = known
            else:
                asked.append(place)
        times = await self._store.unread_times(asked)
        async for place, append_ms in _in_turns(zip(asked, times, strict=True)):
            known = self._unread.get(place)
            is_same = known is not None and known.append_ms == append_ms
            found[place] = Unread(append_ms, now_ms, known.seen_ms if known is not None and is_same else now_ms)
        self._unread = found
        return found

    # -- the history -------------------------------------------------------------------------------------------------

    async def _note(self) -> None:
        """Take what was found into this minute, and write the one that is over."""
        most = self._history_groups()
        over = self._minutes.take(
            self._clock.wall_ms() // MINUTE_MS * MINUTE_MS,
            {
                names: (found.lag, self.seconds(found.oldest_ms, found.seen_ms))
                for names, found in self.figures.items()
                if most
            },
        )
        if over is None or not most:
            return
        entries = entries_of(over[1], most)
        if not entries or not self._has_room(BYTES_OF_ENTRY * len(entries)):
            return
        try:
            is_written = await self._store.write_minute(over[0], entries)
        except StorageError as error:
            logger.warning("a minute of the lag history is lost", extra={"error": str(error)})
            return
        if not is_written:
            logger.warning("lag history is full", extra={"groups": len(entries)})


async def _in_turns(things: Iterable[T]) -> AsyncIterator[T]:
    """One after the other; the event loop gets its turn in between."""
    for number, thing in enumerate(things, 1):
        yield thing
        if number % COMMITS_PER_TURN == 0:
            await asyncio.sleep(0)


class _Minutes:
    """The most that was seen in the minute that has begun. Of the first minute a part was not seen: it is left out."""

    __slots__ = ("_begin_ms", "_is_whole", "_most")

    def __init__(self) -> None:
        self._begin_ms: int | None = None
        self._is_whole = False
        self._most: dict[tuple[str, str], tuple[int, float]] = {}

    def take(
        self, minute_ms: int, seen: Mapping[tuple[str, str], tuple[int, float]]
    ) -> tuple[int, Mapping[tuple[str, str], tuple[int, float]]] | None:
        """Add what is seen in a minute; the one before with what was seen in it, when this is another one."""
        over = None
        if minute_ms != self._begin_ms:
            if self._begin_ms is not None:
                over = (self._begin_ms, self._most) if self._is_whole else None
                self._is_whole = True
            self._begin_ms = minute_ms
            self._most = {}
        for names, (lag, seconds) in seen.items():
            lag_before, seconds_before = self._most.get(names, (0, 0.0))
            self._most[names] = max(lag, lag_before), max(seconds, seconds_before)
        return over


def entries_of(seen: Mapping[tuple[str, str], tuple[int, float]], most: int) -> list[Entry]:
    """What is written of a minute: those furthest behind in the order of their names, and one entry for the rest."""
    chosen = seen.keys()
    if len(seen) > most:
        chosen = dict.fromkeys(heapq.nlargest(most, seen, key=lambda names: (*seen[names][::-1], names))).keys()
    entries = [_entry(*names, *seen[names]) for names in sorted(chosen)]
    rest = [seen[names] for names in seen.keys() - chosen]
    if rest:
        entries.append(_entry(None, None, sum(lag for lag, _ in rest), max(seconds for _, seconds in rest)))
    return entries


def _entry(group_id: str | None, topic: str | None, lag: int, seconds: float) -> Entry:
    # A client may commit any number, and a clock may say anything.
    return Entry(group_id, topic, min(lag, _LARGEST_LAG), min(round(seconds), _LARGEST_SECONDS))
