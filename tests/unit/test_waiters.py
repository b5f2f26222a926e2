"""Parked fetches: what wakes them, and when they end."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.event_loop import StillLoop

from pg_kafka.broker.waiters import (
    CROWD,
    EARLY_SHARE,
    ENDS_PER_TURN,
    LATE_MS,
    TICK_MS,
    WAKES_PER_TURN,
    Deadlines,
    Waiting,
)

DEFAULT_WAIT_MS = 500


class World:
    def __init__(self) -> None:
        self.loop = StillLoop()
        self.deadlines = Deadlines(cast(Any, self.loop))

    def park(self, max_wait_ms: int, needed_bytes: int = 1) -> Sleeper:
        sleeper = Sleeper(self)
        self.deadlines.add(sleeper, self.loop.time(), max_wait_ms)
        sleeper.wait(needed_bytes)
        return sleeper


class Sleeper(Waiting):
    def __init__(self, world: World) -> None:
        super().__init__(world.deadlines)
        self._loop = world.loop
        self.begun_s = world.loop.time()
        self.woken_s: list[float] = []

    def on_wake(self) -> None:
        self.woken_s.append(self._loop.time())

    @property
    def lasted_ms(self) -> float:
        [woken_s] = self.woken_s
        return (woken_s - self.begun_s) * 1000


@pytest.mark.parametrize("max_wait_ms", [1, 7, 79, 80, 100, 101, 500, 60_000, 2**31 - 1])
def test_a_wait_alone_lasts_its_time_and_a_tick_at_most(max_wait_ms: int) -> None:
    world = World()
    world.loop._now += 0.0123456
    sleeper = world.park(max_wait_ms)
    world.loop.run_until(world.loop.time() + max_wait_ms / 1000 + 1)
    assert sleeper.is_due
    assert max_wait_ms - 0.001 <= sleeper.lasted_ms <= max_wait_ms + TICK_MS + 1


def test_a_time_that_is_over_ends_at_once() -> None:
    world = World()
    sleeper = Sleeper(world)
    world.deadlines.add(sleeper, world.loop.time() - 1, 100)
    sleeper.wait(1)
    world.loop.turn()
    assert sleeper.is_due
    assert len(sleeper.woken_s) == 1


def test_a_crowd_leaves_over_the_last_tenth_of_its_time() -> None:
    world = World()
    crowd = [world.park(DEFAULT_WAIT_MS) for _ in range(1000)]
    world.loop.run_until(world.loop.time() + 1)
    lasted = [sleeper.lasted_ms for sleeper in crowd]
    assert min(lasted) >= DEFAULT_WAIT_MS * (1 - 1 / EARLY_SHARE) - 0.001
    assert max(lasted) <= DEFAULT_WAIT_MS + TICK_MS
    ticks = DEFAULT_WAIT_MS // EARLY_SHARE // TICK_MS + 1
    together = [lasted.count(one) for one in set(lasted)]
    assert len(together) == ticks
    assert max(together) <= 1000 / ticks + CROWD


def test_a_crowd_that_polls_on_is_dispersed() -> None:
    world = World()
    polls: list[float] = []

    class Poller(Sleeper):
        def on_wake(self) -> None:
            polls.append(world.loop.time())
            self.poll()

        def poll(self) -> None:
            self.is_due = False
            world.deadlines.add(self, world.loop.time(), DEFAULT_WAIT_MS)
            self.wait(1)

    for _ in range(1000):
        Poller(world).poll()
    world.loop.run_until(world.loop.time() + 10)
    last = [at for at in polls if at > world.loop.time() - 0.5]
    # 62 ticks in half a second: 16 in each would be even.
    assert max(last.count(at) for at in set(last)) <= 3 * CROWD


def test_few_end_in_one_turn_so_that_others_get_theirs() -> None:
    world = World()
    crowd = [world.park(10) for _ in range(5 * ENDS_PER_TURN)]
    world.loop._now += 0.011
    ended = []
    while not world.loop.is_idle:
        world.loop.turn()
        ended.append(sum(len(sleeper.woken_s) for sleeper in crowd))
    assert ended == [ENDS_PER_TURN * turn for turn in range(1, 6)]


def test_none_is_late_by_much_however_long_turns_take() -> None:
    world = World()
    crowd = [world.park(10) for _ in range(2000)]
    turn_s = 0.02
    world.loop.run_until(world.loop.time() + 1, turn_s)
    assert max(sleeper.lasted_ms for sleeper in crowd) <= 10 + LATE_MS + 2 * turn_s * 1000


def test_who_is_cancelled_is_not_woken_and_leaves_nothing_behind() -> None:
    world = World()
    sleepers = [world.park(10) for _ in range(3 * ENDS_PER_TURN)]
    sleepers[0].cancel()
    world.loop._now += 0.011
    world.loop.turn()
    woken = [sleeper for sleeper in sleepers if sleeper.woken_s]
    assert len(woken) == ENDS_PER_TURN
    for sleeper in sleepers:  # some have ended, the others are over and wait for their turn
        sleeper.cancel()
    assert len(world.deadlines) == 0
    world.loop.run_until(world.loop.time() + 1)
    assert [sleeper for sleeper in sleepers if sleeper.woken_s] == woken
    assert world.loop.is_idle
    assert not sleepers[0].is_due


def test_a_tick_that_all_have_left_has_no_timer() -> None:
    world = World()
    for sleeper in [world.park(60_000 + wait) for wait in range(100)]:
        sleeper.wake()
        sleeper.cancel()
    world.loop.turn()
    assert len(world.deadlines) == 0
    assert world.loop.is_idle


def test_one_that_fails_does_not_keep_the_others() -> None:
    world = World()

    class Failing(Sleeper):
        def on_wake(self) -> None:
            raise RuntimeError("as it happens")

    others = [world.park(10)]
    failing = Failing(world)
    world.deadlines.add(failing, world.loop.time(), 10)
    failing.wait(1)
    world.loop._now += 0.011
    with pytest.raises(RuntimeError, match="as it happens"):
        world.loop.turn()
    others += [world.park(10)]
    world.loop.run_until(world.loop.time() + 1)
    assert all(sleeper.woken_s for sleeper in others)


@given(st.lists(st.sampled_from([1, 20, 79, 95, 500, 501, 5000]), max_size=300), st.integers(0, 5))
def test_any_waits_end_once_within_their_bounds(waits_ms: list[int], step: int) -> None:
    world = World()
    sleepers = []
    for wait_ms in waits_ms:
        sleepers.append((wait_ms, world.park(wait_ms)))
        world.loop.run_until(world.loop.time() + step / 1000)
    world.loop.run_until(world.loop.time() + 6)
    for wait_ms, sleeper in sleepers:
        assert wait_ms * (1 - 1 / EARLY_SHARE) - 0.001 <= sleeper.lasted_ms <= wait_ms + TICK_MS + 1
    assert len(world.deadlines) == 0


# -- what wakes ------------------------------------------------------------------------------------------------------


def test_enough_bytes_wake_once_after_all_callbacks() -> None:
    world = World()
    sleeper = world.park(DEFAULT_WAIT_MS, needed_bytes=100)
    for _ in range(3):
        sleeper.on_news(50)
    assert sleeper.woken_s == []
    world.loop.turn()
    assert len(sleeper.woken_s) == 1
    assert not sleeper.is_due


def test_a_thousand_that_are_woken_together_leave_turns_to_others() -> None:
    world = World()
    crowd = [world.park(DEFAULT_WAIT_MS) for _ in range(3 * WAKES_PER_TURN)]
    for sleeper in crowd:
        sleeper.on_news(1)
    woken = []
    for _ in range(3):
        world.loop.turn()
        woken.append([bool(sleeper.woken_s) for sleeper in crowd])
    assert woken == [[True] * n + [False] * (len(crowd) - n) for n in (32, 64, 96)]
    for sleeper in crowd:
        sleeper.cancel()
    assert world.loop.is_idle


def test_who_is_cancelled_before_its_turn_is_not_woken_and_may_wait_again() -> None:
    world = World()
    crowd = [world.park(DEFAULT_WAIT_MS) for _ in range(WAKES_PER_TURN + 2)]
    for sleeper in crowd:
        sleeper.wake()
    world.loop.turn()
    gone, again = crowd[-2:]
    for sleeper in (gone, again):
        assert not sleeper.woken_s
        sleeper.cancel()
    again.restart()
    again.wait(0)
    world.loop.turn()
    world.loop.turn()
    assert (len(gone.woken_s), len(again.woken_s)) == (0, 1)


def test_a_woken_one_that_fails_does_not_keep_the_others() -> None:
    world = World()

    class Failing(Sleeper):
        def on_wake(self) -> None:
            raise RuntimeError("as it happens")

    failing = Failing(world)
    failing.wait(0)
    others = [world.park(DEFAULT_WAIT_MS, needed_bytes=0) for _ in range(2)]
    with pytest.raises(RuntimeError, match="as it happens"):
        world.loop.turn()
    others.append(world.park(DEFAULT_WAIT_MS, needed_bytes=0))
    world.loop.turn()
    assert [len(sleeper.woken_s) for sleeper in others] == [1, 1, 1]


def test_news_between_attempts_count_for_the_next_wait() -> None:
    world = World()
    sleeper = world.park(DEFAULT_WAIT_MS, needed_bytes=100)
    sleeper.wake()
    world.loop.turn()
    sleeper.restart()
    sleeper.on_news(60)
    sleeper.wait(60)
    world.loop.turn()
    assert len(sleeper.woken_s) == 2


def test_a_deadline_between_attempts_ends_the_next_wait() -> None:
    world = World()
    sleeper = world.park(DEFAULT_WAIT_MS)
    sleeper.wake()
    world.loop.turn()
    world.loop.run_until(world.loop.time() + 1)
    assert len(sleeper.woken_s) == 1
    sleeper.restart()
    sleeper.wait(1)
    world.loop.turn()
    assert len(sleeper.woken_s) == 2
