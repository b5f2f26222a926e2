"""Where the time of a request goes, and how requests are counted: the native part, with a clock that goes when it is told."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from pg_kafka.metrics import current
from pg_kafka.metrics._requests import (
    BOUNDS_S,
    MIXED,
    PART_NAMES,
    UNSERVED,
    Answers,
    Commit,
    Pace,
    RequestCounters,
    SetClock,
    Timing,
    Traffic,
    Watch,
    count_read,
)
from pg_kafka.metrics.counters import LATENCY_S
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.first_error import FINDERS, first_error
from pg_kafka.wire.frames import RequestHeader
from pg_kafka.wire.messages.heartbeat import HeartbeatResponse

HEARTBEAT, PRODUCE = 12, 0
NONE = int(ErrorCode.NONE)


class Scene:
    """A connection, and a lane."""

    def __init__(self) -> None:
        self.clock = SetClock(1000.0)
        self.commit = Commit(self.clock)
        self.pace = Pace()
        self.watch = Watch(self.clock, self.commit, self.pace)
        self.waiting = 0

    def after(self, seconds: float) -> None:
        self.clock.seconds += seconds

    def start(self) -> Timing:
        self.waiting = max(0, self.waiting - 1)
        return self.watch.started(self.clock.seconds, self.waiting)

    def arrive(self, frames: int = 1) -> None:
        self.watch.arrived(self.clock.seconds, frames, self.waiting)
        self.waiting += frames


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
    started = [scene.start() for _ in range(200)]
    queues = [round(timing.queue_s * 1000) for timing in started]
    assert queues[:3] == [100, 100, 99]
    assert queues[15:200] == [93] * 185


def test_what_is_known_of_no_arrival_has_come_just_now(scene: Scene) -> None:
    scene.arrive(2)
    scene.start()
    scene.start()
    scene.watch.forget()
    scene.after(0.010)
    timing = scene.start()
    timing.finish()
    assert timing.queue_s == 0


def test_long_turn_of_the_event_loop_counts_as_queue(scene: Scene) -> None:
    turn_s = scene.clock.seconds
    scene.after(0.050)
    scene.watch.arrived(turn_s, 1, 0)
    timing = scene.start()
    timing.finish()
    assert timing.queue_s == pytest.approx(0.0495)
    scene.watch.forget()
    at_once = scene.watch.started(turn_s, 0)
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
    scene.watch.forget()
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


class Connected:
    """A connection that is looked on, and times what it is told to."""

    def __init__(self, counting: Counting) -> None:
        self.clock = counting.scene.clock
        self.pace = counting.scene.pace
        self.watch = Watch(self.clock, counting.scene.commit, self.pace)
        self.until_timed = self.watch.until_timed
        self.counters = counting.counters
        self.answers = Answers(FINDERS, first_error)
        self.under_way: deque[Any] = deque()
        self.unwritten: list[bytes] = []
        self.timed = 0

    def begin(self, *, parts: tuple[bytes, ...] = (b"1234", b"5"), code: int | None = NONE, message: Any = None) -> Any:
        timing = None
        if self.until_timed:
            self.until_timed -= self.until_timed > 0
            if self.until_timed <= 0:
                timing = self.watch.started(self.clock.seconds, 0)
                self.timed += 1
        reply = SimpleNamespace(
            header=RequestHeader(HEARTBEAT, 4, 7, "app"), request_bytes=100, parts=list(parts), timing=timing,
            error_code=code, message=message, is_sent=False, is_encoding=False,
        )  # fmt: skip
        self.under_way.append(reply)
        return reply

    def end(self, reply: Any) -> int:
        reply.is_sent = True
        who: Any = SimpleNamespace(kind="user")
        found = self.answers.take(self.under_way, self.unwritten, self.counters, who, self.watch)
        if found < 0:
            self.until_timed = self.watch.until_timed
            found = -1 - found
        return found


def test_answers_leave_in_order_and_are_counted_by_their_own_error() -> None:
    counting = Counting()
    connected = Connected(counting)
    first, second = connected.begin(), connected.begin(code=None, message=HeartbeatResponse(error_code=27))
    second.is_encoding = True
    assert connected.end(first) == 5
    assert (connected.end(second), connected.unwritten) == (0, [b"1234", b"5"])
    second.is_encoding = False
    assert (connected.end(second), list(connected.under_way)) == (5, [])
    assert counting.counted() == {(HEARTBEAT, 4, "user", NONE): (1, 100, 5), (HEARTBEAT, 4, "user", 27): (1, 100, 5)}


@pytest.mark.parametrize(("most", "is_sampled"), [(1, False), (256, True)])
def test_of_many_requests_some_are_timed_and_stand_for_all(most: int, is_sampled: bool) -> None:
    counting = Counting()
    counting.scene.pace.most = most
    connections = [Connected(counting) for _ in range(4)]
    for number in range(100_000):  # of 20,000 a second
        connected = connections[number % 4]
        reply = connected.begin()
        counting.scene.after(0.00005 if number % 4 else 0.0007)  # those of one connection take longer
        connected.end(reply)
    counting.counters.settle()
    assert sum(one.requests for one in counting.counters.counts) == 100_000
    times = counting.counters.times[HEARTBEAT]
    total = PART_NAMES.index("total")
    assert sum(times.counts(total)) == sum(times.counts(PART_NAMES.index("work"))) == 100_000
    timed = sum(connected.timed for connected in connections)
    if is_sampled:
        assert 1_000 < timed < 10_000
        assert counting.scene.pace.spacing > 1
    else:
        assert timed == 100_000
    slower = sum(times.counts(total)[LATENCY_S.index(0.001) :])
    assert slower == pytest.approx(25_000, rel=0.15)
    assert times.total(total) == pytest.approx(25_000 * 0.0007 + 75_000 * 0.00005, rel=0.15)


def test_all_are_timed_again_when_they_have_become_few() -> None:
    counting = Counting()
    counting.scene.pace.most = 256
    connected = Connected(counting)
    for _ in range(20_000):
        reply = connected.begin()
        counting.scene.after(0.0001)
        connected.end(reply)
    assert counting.scene.pace.spacing > 1
    assert connected.until_timed >= 0
    counting.scene.after(60)
    counting.scene.pace.renew(counting.scene.clock.seconds)
    connected.end(connected.begin())
    before = connected.timed
    for _ in range(5):
        counting.scene.after(1)
        connected.end(connected.begin())
    assert connected.timed == before + 5


def test_histograms_never_go_back() -> None:
    counting = Counting()
    counting.scene.pace.most = 256
    connected = Connected(counting)
    before = [0] * (len(LATENCY_S) + 1)
    for number in range(20_000):
        reply = connected.begin()
        counting.scene.after(0.0001)
        connected.end(reply)
        if number % 100 == 0:
            counting.counters.settle()
            after = counting.counters.times[HEARTBEAT].counts(0)
            assert sum(after) == number + 1
            assert all(was <= now for was, now in zip(before, after, strict=True))
            before = after


def test_traffic_counts_batches_by_their_headers() -> None:
    traffic = Traffic()
    batch = bytes(57) + (70_000).to_bytes(4, "big") + bytes(39)
    traffic.read([batch, batch, b"short"])
    assert (traffic.out_bytes, traffic.out_records) == (205, 140_000)
    with pytest.raises(TypeError):
        traffic.read([bytearray(100)])  # type: ignore[list-item]


class _Entry:
    """Of a fetch session."""

    def __init__(self, partition: Any) -> None:
        self.partition = partition


def test_what_is_read_is_counted_by_the_topic_of_each_partition() -> None:
    traffic = Traffic()
    batch = bytes(57) + (3).to_bytes(4, "big") + bytes(39)

    of_topic, unmeasured = SimpleNamespace(traffic=traffic), SimpleNamespace(traffic=None)
    found = ((of_topic, [batch, batch]), (of_topic, b""), (unmeasured, [batch]), (None, [batch]))
    count_read({_Entry(partition): SimpleNamespace(records=records) for partition, records in found})
    assert (traffic.out_bytes, traffic.out_records) == (200, 6)


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
