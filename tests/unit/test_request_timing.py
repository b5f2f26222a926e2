"""Where the time of a request goes, and how requests are counted: the native part, with a clock that goes when it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pg_kafka.metrics import current
from pg_kafka.metrics._requests import (
    BOUNDS_S,
    MIXED,
    PART_NAMES,
    UNSERVED,
    Commit,
    RequestCounters,
    SetClock,
    Timing,
    Traffic,
    Watch,
)
from pg_kafka.metrics.counters import LATENCY_S
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader

HEARTBEAT, PRODUCE = 12, 0
NONE = int(ErrorCode.NONE)


class Scene:
    """A connection, and a lane."""

    def __init__(self) -> None:
        self.clock = SetClock(1000.0)
        self.commit = Commit(self.clock)
        self.watch = Watch(self.clock, self.commit)

    def after(self, seconds: float) -> None:
        self.clock.seconds += seconds

    def start(self) -> Timing:
        return self.watch.started(self.clock.seconds)

    def arrive(self, frames: int = 1) -> None:
        self.watch.arrived(self.clock.seconds, frames)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def parts(timing: Timing) -> dict[str, float]:
    """In milliseconds; what is 0 is left out."""
    found = {name: round(getattr(timing, f"{name}_s") * 1000, 3) for name in PART_NAMES}
    return {name: value for name, value in found.items() if value}


def test_bounds_are_those_of_all_latencies() -> None:
    assert BOUNDS_S == LATENCY_S


def test_queue_and_work(scene: Scene) -> None:
    scene.arrive()
    scene.after(0.003)
    timing = scene.start()
    scene.after(0.002)
    timing.finish()
    scene.after(1)
    assert parts(timing) == {"total": 5, "queue": 3, "work": 2}
    assert (timing.arrived_s, timing.started_s, timing.finished_s) == (1000.0, 1000.003, pytest.approx(1000.005))


def test_frames_start_in_the_order_of_their_arrival(scene: Scene) -> None:
    scene.arrive(2)
    scene.after(0.010)
    scene.arrive(1)
    found = []
    for _ in range(3):
        scene.after(0.001)
        timing = scene.start()
        timing.finish()
        found.append(round(timing.queue_s * 1000))
    assert found == [11, 12, 3]


def test_many_arrivals_are_remembered_by_the_last_that_had_a_place(scene: Scene) -> None:
    for _ in range(100):
        scene.arrive(2)
        scene.after(0.001)
    started = [scene.start() for _ in range(201)]
    queues = [round(timing.queue_s * 1000) for timing in started]
    assert queues[:3] == [100, 100, 99]
    assert queues[15:200] == [93] * 185
    assert queues[200] == 0  # it has arrived before anybody looked on


def test_long_turn_of_the_event_loop_counts_as_queue(scene: Scene) -> None:
    turn_s = scene.clock.seconds
    scene.after(0.050)
    scene.watch.arrived(turn_s, 1)
    timing = scene.start()
    timing.finish()
    assert timing.queue_s == pytest.approx(0.0495)
    at_once = scene.watch.started(turn_s)
    at_once.finish()
    assert at_once.queue_s == pytest.approx(0.0495)


def test_what_is_waited_for_on_purpose_is_no_work(scene: Scene) -> None:
    timing = scene.start()
    scene.after(0.001)
    for _ in range(2):
        timing.park()
        timing.park()  # again, which is no matter
        scene.after(0.250)
        timing.unpark()
        timing.unpark()
        scene.after(0.002)
    timing.finish()
    assert parts(timing) == {"total": 5, "work": 5, "waited": 500}


def test_request_that_ends_while_it_waits_on_purpose(scene: Scene) -> None:
    timing = scene.start()
    timing.park()
    scene.after(0.5)
    timing.finish()
    assert parts(timing) == {"waited": 500}


def test_commit_is_split_into_lane_and_database(scene: Scene) -> None:
    timing = scene.start()
    scene.after(0.001)
    timing.hand_over()
    scene.after(0.020)
    begun_s = scene.commit.now()
    scene.after(0.300)
    scene.commit.enter(begun_s)
    scene.after(0.002)
    timing.finish()
    scene.commit.leave()
    assert parts(timing) == {"total": 323, "work": 3, "lane": 20, "database": 300}


def test_transaction_that_had_begun_before_the_request(scene: Scene) -> None:
    """Its commit is what a later request of the same group may have to wait for."""
    begun_s = scene.commit.now()
    scene.after(0.100)
    timing = scene.start()
    scene.after(0.050)
    scene.commit.enter(begun_s)
    timing.finish()
    scene.commit.leave()
    assert parts(timing) == {"total": 50, "database": 50}


def test_commit_that_never_began_is_the_lanes(scene: Scene) -> None:
    timing = scene.start()
    timing.hand_over()
    scene.after(0.040)
    scene.commit.enter(0.0)
    timing.finish()
    scene.commit.leave()
    assert parts(timing) == {"total": 40, "lane": 40}


def test_answer_outside_of_a_commit_after_it_was_handed_over(scene: Scene) -> None:
    timing = scene.start()
    timing.hand_over()
    scene.after(0.040)
    timing.finish()
    assert parts(timing) == {"total": 40, "lane": 40}


def test_answer_that_waits_for_those_before_it(scene: Scene) -> None:
    """Its commit was one, and the transaction that answers at last is another."""
    timing = scene.start()
    timing.hand_over()
    begun_s = scene.commit.now()
    scene.after(0.010)
    scene.commit.enter(begun_s)
    timing.settle()
    scene.commit.leave()
    scene.after(0.100)
    scene.commit.enter(begun_s)
    timing.finish()
    scene.commit.leave()
    assert parts(timing) == {"total": 110, "work": 100, "database": 10}


def test_commit_after_a_wait_on_purpose(scene: Scene) -> None:
    """JoinGroup: the members have come, and then it is written."""
    timing = scene.start()
    timing.park()
    scene.after(3)
    timing.unpark()
    begun_s = scene.commit.now()
    scene.after(0.007)
    scene.commit.enter(begun_s)
    timing.finish()
    scene.commit.leave()
    assert parts(timing) == {"total": 7, "waited": 3000, "database": 7}


def test_statements_at_the_same_time_count_once(scene: Scene) -> None:
    timing = scene.start()
    timing.ask()
    scene.after(0.001)
    timing.ask()
    scene.after(0.001)
    timing.answered()
    scene.after(0.001)
    timing.answered()
    scene.after(0.001)
    timing.ask()
    scene.after(0.001)
    timing.answered()
    timing.finish()
    assert parts(timing) == {"total": 5, "work": 1, "database": 4}


def test_database_is_asked_for_the_current_request(scene: Scene) -> None:
    timing = scene.start()
    with current.database():
        scene.after(0.010)
    token = current.TIMING.set(timing)
    try:
        with pytest.raises(KeyError), current.database():
            scene.after(0.005)
            raise KeyError
    finally:
        current.TIMING.reset(token)
    timing.finish()
    assert parts(timing) == {"total": 15, "work": 10, "database": 5}


def test_time_that_a_quota_keeps_a_request_waiting_is_no_queue(scene: Scene) -> None:
    scene.watch.mute()
    scene.after(0.100)
    scene.arrive()
    scene.after(0.200)
    scene.watch.mute()  # longer now, which is the same wait
    scene.after(0.200)
    scene.watch.unmute()
    scene.after(0.010)
    timing = scene.start()
    timing.finish()
    assert parts(timing) == {"total": 10, "queue": 10, "throttle": 400}
    later = scene.start()
    later.finish()
    assert parts(later) == {}


class Counting:
    """Counters, and requests that are over at once or take their time."""

    def __init__(self, most: int = 100) -> None:
        self.scene = Scene()
        self.counters = RequestCounters((PRODUCE, HEARTBEAT), most)

    def answer(
        self,
        key: int,
        version: int,
        code: int = NONE,
        *,
        kind: str = "anonymous",
        seconds: float = 0.0,
        waited: float = 0,
    ) -> None:
        timing = self.scene.start()
        timing.park()
        self.scene.after(waited)
        timing.unpark()
        self.scene.after(seconds)
        who: Any = SimpleNamespace(kind=kind)
        self.counters.on_answer(RequestHeader(key, version, 7, "app"), who, timing, 100, 20, code)

    def counted(self) -> dict[tuple[int, int, str, int], tuple[int, int, int]]:
        return {
            (one.api_key, one.api_version, one.kind, one.error_code): (
                one.requests,
                one.request_bytes,
                one.response_bytes,
            )
            for one in self.counters.counts
        }


def test_requests_are_counted_by_api_version_kind_and_error() -> None:
    counting = Counting()
    for _ in range(3):
        counting.answer(PRODUCE, 9)
        counting.answer(PRODUCE, 9, kind="user")
    counting.answer(HEARTBEAT, 4, int(ErrorCode.REBALANCE_IN_PROGRESS))
    assert counting.counted() == {
        (PRODUCE, 9, "anonymous", NONE): (3, 300, 60),
        (PRODUCE, 9, "user", NONE): (3, 300, 60),
        (HEARTBEAT, 4, "anonymous", int(ErrorCode.REBALANCE_IN_PROGRESS)): (1, 100, 20),
    }


def test_what_is_not_served_is_counted_together() -> None:
    counting = Counting()
    for number in range(200, 300):
        counting.answer(number, number, int(ErrorCode.UNSUPPORTED_VERSION))
        counting.answer(PRODUCE, number, int(ErrorCode.UNSUPPORTED_VERSION))
    code = int(ErrorCode.UNSUPPORTED_VERSION)
    assert counting.counted() == {
        (UNSERVED, UNSERVED, "anonymous", code): (100, 10_000, 2_000),
        (PRODUCE, UNSERVED, "anonymous", code): (100, 10_000, 2_000),
    }


def test_kinds_of_requests_are_bounded() -> None:
    counting = Counting(most=5)
    for code in range(100):
        counting.answer(PRODUCE, 9, 1000 + code)
    found = counting.counted()
    assert len(found) == 6
    assert found[MIXED, MIXED, "", MIXED][0] == 95
    assert sum(count for count, *_ in found.values()) == 100


def test_parts_are_observed_by_api() -> None:
    counting = Counting()
    counting.answer(HEARTBEAT, 4, seconds=0.004)
    counting.answer(HEARTBEAT, 3, seconds=40, waited=2.0)
    times = counting.counters.times[HEARTBEAT]
    found = {name: times.counts(part) for part, name in enumerate(PART_NAMES)}
    four, forty = LATENCY_S.index(0.005), len(LATENCY_S)
    assert [number for number, count in enumerate(found["total"]) if count] == [four, forty]
    assert [number for number, count in enumerate(found["waited"]) if count] == [LATENCY_S.index(2.5)]
    assert sum(found["queue"]) == 2
    assert sum(found["lane"]) == sum(found["database"]) == sum(found["throttle"]) == 0
    assert times.total(PART_NAMES.index("total")) == pytest.approx(40.004)


@pytest.mark.parametrize(("seconds", "waited", "is_slow"), [(0.2, 0, True), (0.099, 0, False), (0.05, 30, False)])
def test_slow_requests_are_told_but_not_for_what_they_wait_on_purpose(
    seconds: float, waited: float, is_slow: bool
) -> None:
    counting = Counting()
    told: list[tuple[Any, ...]] = []
    counting.counters.watch_slow(0.1, lambda *slow: told.append(slow))
    assert counting.counters.wants_requests
    counting.answer(PRODUCE, 9, seconds=seconds, waited=waited)
    assert [slow[0] for slow in told] == ([(PRODUCE, 9, 7, "app")] if is_slow else [])
    counting.counters.watch_slow(0.1, None)
    assert not counting.counters.wants_requests
    counting.answer(PRODUCE, 9, seconds=10)
    assert len(told) == is_slow


def test_traffic_counts_batches_by_their_headers() -> None:
    traffic = Traffic()
    batch = bytes(57) + (70_000).to_bytes(4, "big") + bytes(39)
    traffic.read([batch, batch, b"short"])
    assert (traffic.out_bytes, traffic.out_records) == (205, 140_000)
    with pytest.raises(TypeError):
        traffic.read([bytearray(100)])  # type: ignore[list-item]


def test_traffic_counts_what_is_committed_without_markers() -> None:
    def append(attributes: int) -> Any:
        return SimpleNamespace(batch=SimpleNamespace(attributes=attributes, wire=b"x" * 80, count=5))

    traffic = Traffic()
    traffic.written([append(0), append(0x10), append(0x30)])
    assert (traffic.in_bytes, traffic.in_records) == (160, 10)


def test_header_that_is_none_is_refused() -> None:
    counting = Counting()
    timing = counting.scene.start()
    for header in (7, (), (1,)):
        with pytest.raises(TypeError):
            counting.counters.on_answer(header, SimpleNamespace(kind="user"), timing, 0, 0, 0)  # type: ignore[arg-type]
