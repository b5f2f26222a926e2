"""How far groups are behind: what is asked of the database and when, what is kept of a minute, and the metrics of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pg_kafka.broker.lag import ASK_AGAIN_MS, Figures, GroupLag, entries_of
from pg_kafka.broker.metrics.lag import LagSource
from pg_kafka.clock import Clock
from pg_kafka.coordinator.group_offsets import Committed, GroupOffsets
from pg_kafka.errors import StorageError
from pg_kafka.metrics.series import Bounds
from pg_kafka.storage.lag import Entry, LagStore
from pg_kafka.wire.error_codes import ErrorCode

MINUTE = 60_000
NOW = 1_790_000_000_000 // MINUTE * MINUTE


class SetClock(Clock):
    def __init__(self) -> None:
        self.wall, self.steady = NOW, 5_000_000

    def wall_ms(self) -> int:
        return self.wall

    def steady_ms(self) -> int:
        return self.steady

    def pass_ms(self, ms: int) -> None:
        self.wall += ms
        self.steady += ms


class World:
    """Groups, a log and a database, of which the questions are written down."""

    def __init__(self, history_groups: int = 100) -> None:
        self.refusal = ErrorCode.NONE
        self.clock = SetClock()
        self.groups: dict[str, dict[tuple[int, int], Committed]] = {}
        self.topics: dict[int, Any] = {1: SimpleNamespace(id=1, name="orders"), 2: SimpleNamespace(id=2, name="clicks")}
        self.loaded: dict[tuple[int, int], Any] = {}
        self.committed_ends: dict[tuple[int, int], int] = {}
        self.stored_ends: dict[tuple[int, int], int] = {}
        self.append_times: dict[tuple[int, int, int], int] = {}
        self.asked: list[Any] = []
        self.minutes: dict[int, Sequence[Entry]] = {}
        self.is_away = self.is_full = False
        self.history_groups = history_groups
        self.lag = GroupLag(
            groups=self,
            topics=cast(Any, self.topics),
            log=self,
            store=cast(LagStore, self),
            clock=self.clock,
            history_groups=lambda: self.history_groups,
            is_looked_at=True,
        )

    def __iter__(self) -> Iterator[Any]:
        for group_id, commits in self.groups.items():
            yield SimpleNamespace(id=group_id, offsets=GroupOffsets(commits))

    def partition(self, topic: Any, index: int) -> Any:
        return self.loaded.get((topic.id, index))

    def committed_end(self, topic_id: int, index: int) -> int:
        return self.committed_ends.get((topic_id, index), 0)

    async def ends(self, places: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], int]:
        self._ask("ends", places)
        return {place: self.stored_ends[place] for place in places if place in self.stored_ends}

    async def unread_times(self, places: Sequence[tuple[int, int, int]]) -> list[int | None]:
        self._ask("times", places)
        return [self.append_times.get(place) for place in places]

    async def write_minute(self, minute_ms: int, entries: Sequence[Entry]) -> bool:
        self._ask("minute", [])
        self.minutes[minute_ms] = entries
        return not self.is_full

    def _ask(self, what: str, places: Sequence[Any]) -> None:
        if self.is_away and (places or what == "minute"):
            raise StorageError(True, 15, "away")
        self.asked += [(what, place) for place in places]

    def commit(self, group: str, topic: int, index: int, offset: int) -> None:
        self.groups.setdefault(group, {})[topic, index] = Committed(offset, -1, "", NOW)

    def load(self, topic: int, index: int, end: int, start: int = 0) -> None:
        self.loaded[topic, index] = SimpleNamespace(high_watermark=end, log_start_offset=start)

    async def look(self) -> list[Any]:
        """What was asked of the database in one look."""
        self.asked = []
        await self.lag.look()
        return self.asked

    def seen(self, group: str = "g", topic: str = "orders") -> tuple[int, float]:
        found = self.lag.figures[group, topic]
        return found.lag, self.lag.seconds(found.oldest_ms, found.seen_ms)


@pytest.fixture
def world() -> World:
    return World()


async def test_partitions_of_a_topic_are_added_up_and_the_oldest_record_counts(world: World) -> None:
    world.load(1, 0, 100)
    world.load(1, 1, 50)
    world.load(2, 0, 7)
    for index, offset in ((0, 90), (1, 20)):
        world.commit("g", 1, index, offset)
    world.commit("g", 2, 0, 7)
    world.commit("h", 2, 0, 10**15)
    world.append_times = {(1, 0, 90): NOW - 5_000, (1, 1, 20): NOW - 90_000}
    assert await world.look() == [("times", (1, 0, 90)), ("times", (1, 1, 20))]
    assert world.seen() == (40, 90.0)
    assert world.seen("g", "clicks") == (0, 0.0)
    assert world.seen("h", "clicks") == (0, 0.0)
    assert world.lag.figures["g", "orders"].offsets == 110


async def test_commits_that_mean_nothing_are_left_out(world: World) -> None:
    world.load(1, 0, 100)
    world.commit("g", 1, 0, -1)
    world.commit("gone", 3, 0, 5)
    assert await world.look() == []
    assert world.lag.figures == {}


async def test_a_place_is_asked_for_once_and_again_after_a_minute(world: World) -> None:
    world.load(1, 0, 100)
    world.commit("g", 1, 0, 90)
    world.commit("h", 1, 0, 90)
    world.append_times[1, 0, 90] = NOW - 1_000
    assert len(await world.look()) == 1
    world.clock.pass_ms(10_000)
    assert await world.look() == []
    assert world.seen() == (10, 11.0)
    world.commit("g", 1, 0, 95)
    assert await world.look() == [("times", (1, 0, 95))]
    world.clock.pass_ms(ASK_AGAIN_MS)
    del world.append_times[1, 0, 90]  # its transaction was aborted
    assert len(await world.look()) == 2
    assert world.seen("h") == (10, 0.0)


async def test_records_that_retention_deletes_are_noticed_at_once_where_the_log_start_is_known(world: World) -> None:
    world.load(1, 0, 100)
    world.commit("g", 1, 0, 10)
    world.append_times = {(1, 0, 10): NOW - 50_000, (1, 0, 60): NOW - 3_000}
    await world.look()
    world.load(1, 0, 100, start=60)
    assert await world.look() == [("times", (1, 0, 60))]
    assert world.seen() == (90, 3.0)


async def test_ends_of_idle_partitions_are_asked_for_once(world: World) -> None:
    world.stored_ends[1, 0] = 40
    world.commit("g", 1, 0, 40)
    assert await world.look() == [("ends", (1, 0))]
    assert await world.look() == []
    assert world.seen() == (0, 0.0)
    # It was loaded, written, and forgotten between two looks.
    world.committed_ends[1, 0] = 42
    assert await world.look() == [("times", (1, 0, 40))]
    assert world.seen()[0] == 2
    world.load(1, 0, 45)
    await world.look()
    assert world.seen()[0] == 5
    del world.loaded[1, 0]
    world.stored_ends[1, 0] = world.committed_ends[1, 0] = 45
    assert await world.look() == [("ends", (1, 0))]


async def test_a_clock_that_is_set_back_makes_nothing_younger_than_it_is_known(world: World) -> None:
    world.load(1, 0, 10)
    world.commit("g", 1, 0, 0)
    world.append_times[1, 0, 0] = NOW - 1_000
    await world.look()
    world.clock.pass_ms(30_000)
    world.clock.wall -= 3_600_000
    await world.look()
    assert world.seen() == (10, 30.0)
    world.clock.pass_ms(60_000)  # asked again, it is the same record
    await world.look()
    assert world.seen() == (10, 90.0)


async def test_figures_stay_while_groups_are_loaded_or_the_database_is_away(world: World) -> None:
    world.load(1, 0, 10)
    world.commit("g", 1, 0, 5)
    await world.look()
    before = world.lag.figures
    world.refusal = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    world.groups = {}
    await world.look()
    assert world.lag.figures is before
    world.refusal = ErrorCode.NONE
    world.commit("g", 1, 0, 6)
    world.is_away = True
    with pytest.raises(StorageError):
        await world.look()
    assert world.lag.figures is before


async def test_of_a_minute_the_most_is_written_when_it_is_over(world: World) -> None:
    """The minute in which the broker began to lead was not seen whole: it is left out."""
    world.load(1, 0, 100)
    world.append_times = {(1, 0, offset): NOW - 500 for offset in range(100)}
    for offset in (90, 10, 50):
        world.commit("g", 1, 0, offset)
        await world.look()
    world.clock.pass_ms(MINUTE)
    await world.look()
    assert world.minutes == {}
    for offset in (20, 100):
        world.commit("g", 1, 0, offset)
        world.clock.pass_ms(20_000)
        await world.look()
    world.clock.pass_ms(20_000)
    await world.look()
    assert world.minutes == {NOW + MINUTE: [Entry("g", "orders", 80, 80)]}
    # The clock is set back: another minute begins, with what is seen in it.
    world.clock.wall -= 10 * MINUTE
    await world.look()
    world.clock.pass_ms(MINUTE)
    await world.look()
    assert world.minutes[NOW + 2 * MINUTE] == world.minutes[NOW - 8 * MINUTE] == [Entry("g", "orders", 0, 0)]


async def test_nothing_is_written_without_a_history_and_failures_end_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.load(1, 0, 100)
    world.commit("g", 1, 0, 10)
    world.history_groups = 0
    for _ in range(3):
        await world.look()
        world.clock.pass_ms(MINUTE)
    assert world.minutes == {}
    world.history_groups = 5
    world.is_full = True
    for _ in range(2):
        await world.look()
        world.clock.pass_ms(MINUTE)
    assert "lag history is full" in caplog.messages
    world.commit("g", 1, 0, 100)  # nothing to ask but whether the minute can be written
    await world.look()
    world.clock.pass_ms(MINUTE)
    world.is_away = True
    await world.look()
    assert "a minute of the lag history is lost" in caplog.messages


async def test_a_minute_without_groups_is_not_written(world: World) -> None:
    for _ in range(4):
        await world.look()
        world.clock.pass_ms(MINUTE)
    assert world.minutes == {}


def test_those_furthest_behind_have_entries_and_the_rest_is_added_up() -> None:
    seen = {("a", "t"): (5, 10.4), ("b", "t"): (500, 2.0), ("c", "t"): (7, 99.6), ("d", "t"): (0, 0.0)}
    assert entries_of(seen, 4) == [
        Entry("a", "t", 5, 10), Entry("b", "t", 500, 2), Entry("c", "t", 7, 100), Entry("d", "t", 0, 0)
    ]  # fmt: skip
    assert entries_of(seen, 2) == [Entry("a", "t", 5, 10), Entry("c", "t", 7, 100), Entry(None, None, 500, 2)]
    assert entries_of({}, 2) == []
    huge = {("a", "t"): (2**63, 1e12), ("b", "t"): (2**63, 0.0)}
    assert entries_of(huge, 2)[0] == Entry("a", "t", 2**63 - 1, 2**31 - 1)


# -- metrics ---------------------------------------------------------------------------------------------------------


def families(world: World, *, most: int = 100, by_partition: bool = False) -> dict[str, dict[tuple[str, ...], float]]:
    source = LagSource(world.lag, Bounds(most, by_partition), world.clock)
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in source.families()
    }


async def behind(world: World) -> None:
    for index in (0, 1):
        world.load(1, index, 100)
        world.commit("g", 1, index, 90 - index)
        world.append_times[1, index, 90 - index] = NOW - 4_000 - index * 1_000
    world.load(2, 0, 8)
    world.commit("h", 2, 0, 5)
    world.append_times[2, 0, 5] = NOW - 7_000
    world.commit("h", 1, 0, 100)
    await world.look()


async def test_nothing_is_told_before_the_first_look(world: World) -> None:
    assert families(world) == {}


async def test_a_group_has_a_series_for_each_topic(world: World) -> None:
    await behind(world)
    world.clock.pass_ms(1_500)
    told = families(world)
    lags = {("g", "orders"): 21, ("h", "clicks"): 3, ("h", "orders"): 0}
    offsets = {("g", "orders"): 179, ("h", "clicks"): 5, ("h", "orders"): 100}
    assert told == {
        "kafka_consumergroup_lag": lags,
        "kafka_consumergroup_lag_sum": lags,
        "kafka_consumergroup_current_offset": offsets,
        "kafka_consumergroup_current_offset_sum": offsets,
        "pg_kafka_consumergroup_lag_seconds": {("g", "orders"): 6.5, ("h", "clicks"): 8.5, ("h", "orders"): 0.0},
        "pg_kafka_consumergroup_lag_age_seconds": {(): 1.5},
        "pg_kafka_consumergroup_lag_look_seconds": {(): 0.0},
        "pg_kafka_metrics_left_out": {("lag",): 0},
    }


async def test_partitions_have_series_when_that_is_asked_for(world: World) -> None:
    await behind(world)
    told = families(world, by_partition=True)
    assert told["kafka_consumergroup_lag"] == {
        ("g", "orders", "0"): 10,
        ("g", "orders", "1"): 11,
        ("h", "clicks", "0"): 3,
        ("h", "orders", "0"): 0,
    }
    assert told["pg_kafka_consumergroup_lag_seconds"]["g", "orders", "1"] == 5.0
    assert told["kafka_consumergroup_lag_sum"]["g", "orders"] == 21


@pytest.mark.parametrize("by_partition", (False, True))
async def test_series_are_bounded_and_the_rest_is_added_up(world: World, by_partition: bool) -> None:
    world.load(1, 0, 1_000)
    for n in range(100):
        world.commit(f"g{n:02}", 1, 0, n)
        world.append_times[1, 0, n] = NOW - n * 1_000
    await world.look()
    told = families(world, most=10, by_partition=by_partition)
    for name in ("kafka_consumergroup_lag", "kafka_consumergroup_lag_sum", "pg_kafka_consumergroup_lag_seconds"):
        assert len(told[name]) == 11
    assert sum(told["kafka_consumergroup_lag"].values()) == sum(range(901, 1_001))
    others = ("(other)", "(other)", "(other)") if by_partition else ("(other)", "(other)")
    assert told["pg_kafka_consumergroup_lag_seconds"][others] == 99.0
    assert told["pg_kafka_metrics_left_out"] == {("lag",): 90}


def test_figures_of_nothing_are_zero(world: World) -> None:
    assert world.lag.seconds(Figures().oldest_ms, 0) == 0.0
