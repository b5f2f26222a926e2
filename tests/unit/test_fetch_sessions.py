"""The cache of fetch sessions: epochs, eviction, bounds, and which partitions a session holds ready."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_kafka.broker import fetch_sessions
from pg_kafka.broker.fetch_sessions import (
    EVICTION_MS,
    FINAL_EPOCH,
    INITIAL_EPOCH,
    NO_SESSION,
    FetchSession,
    FetchSessionError,
    FetchSessions,
)
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic

LAST_EPOCH = 2**31 - 1


class SomePartition:
    """What a session sees of a partition."""

    def __init__(self) -> None:
        self.waiters: set[Any] = set()
        self.log_start_offset = 0

    def move_start(self, offset: int) -> None:
        self.log_start_offset = offset
        for waiter in list(self.waiters):
            waiter.on_start_moved(self)

    def advance(self, bytes_added: int = 1) -> None:
        for waiter in list(self.waiters):
            waiter.on_advance(self, bytes_added)

    def close(self) -> None:
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            waiter.on_closed(self)


class SomeParked:
    def __init__(self) -> None:
        self.heard: list[int | str] = []

    def on_news(self, bytes_added: int) -> None:
        self.heard.append(bytes_added)

    def wake(self) -> None:
        self.heard.append("wake")


def asking(
    *indexes: int, forget: Sequence[int] = (), session_id: int = NO_SESSION, epoch: int = INITIAL_EPOCH, offset: int = 0
) -> FetchRequest:
    partitions = [FetchPartition(partition=i, fetch_offset=offset, partition_max_bytes=100) for i in indexes]
    return FetchRequest(
        session_id=session_id,
        session_epoch=epoch,
        topics=[FetchTopic(topic="t", partitions=partitions)] if indexes else [],
        forgotten_topics_data=[ForgottenTopic(topic="t", partitions=list(forget))] if forget else [],
    )


def cache(slots: int = 3) -> FetchSessions:
    ids = count(1)
    return FetchSessions(slots, lambda: next(ids))


def admitted(sessions: FetchSessions, *indexes: int, steady_ms: int = 0) -> FetchSession:
    session = sessions.open(asking(*indexes), False, steady_ms)
    assert sessions.admit(session, steady_ms)
    return session


def code_of(sessions: FetchSessions, request: FetchRequest, uses_topic_ids: bool = False) -> ErrorCode:
    with pytest.raises(FetchSessionError) as caught:
        sessions.open(request, uses_topic_ids, 0)
    return caught.value.code


def test_full_request_is_answered_in_a_session_without_an_id() -> None:
    sessions = cache()
    session = sessions.open(asking(0, 1), False, 0)
    assert (session.id, [entry.index for entry in session.ready], len(sessions)) == (NO_SESSION, [0, 1], 0)


def test_admitted_session_goes_on_with_epoch_one() -> None:
    sessions = cache()
    first = admitted(sessions, 0)
    assert first.epoch == 1
    again = sessions.open(asking(session_id=first.id, epoch=1), False, 5)
    assert again is first
    assert (first.epoch, first.last_used_ms) == (2, 5)


def test_epoch_wraps_to_one() -> None:
    sessions = cache()
    session = admitted(sessions, 0)
    session.epoch = LAST_EPOCH
    sessions.open(asking(session_id=session.id, epoch=LAST_EPOCH), False, 0)
    assert session.epoch == 1


def test_unknown_session() -> None:
    assert code_of(cache(), asking(session_id=9, epoch=1)) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


@pytest.mark.parametrize("epoch", [2, LAST_EPOCH, -2])
def test_wrong_epoch(epoch: int) -> None:
    sessions = cache()
    session = admitted(sessions, 0)
    assert code_of(sessions, asking(session_id=session.id, epoch=epoch)) is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert session.epoch == 1


def test_names_and_ids_do_not_mix_in_one_session() -> None:
    sessions = cache()
    session = admitted(sessions, 0)
    assert code_of(sessions, asking(session_id=session.id, epoch=1), True) is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


def test_partitions_are_known_by_topic_id() -> None:
    sessions, topic_id = cache(), UUID(int=7)
    request = FetchRequest(session_epoch=0, topics=[FetchTopic(topic_id=topic_id, partitions=[FetchPartition()])])
    assert list(sessions.open(request, True, 0).partitions) == [(topic_id, 0)]


def test_final_epoch_closes_the_session() -> None:
    sessions = cache()
    session = admitted(sessions, 0)
    partition = SomePartition()
    session.partitions["t", 0].bind(partition)  # type: ignore[arg-type]
    last = sessions.open(asking(session_id=session.id, epoch=FINAL_EPOCH), False, 0)
    assert (last.id, len(sessions), partition.waiters, session.is_closed) == (NO_SESSION, 0, set(), True)


def test_full_request_replaces_the_session_it_names() -> None:
    sessions = cache()
    session = admitted(sessions, 0)
    sessions.open(asking(1, session_id=session.id, epoch=INITIAL_EPOCH), False, 0)
    assert code_of(sessions, asking(session_id=session.id, epoch=1)) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_session_that_forgets_all_its_partitions_ends() -> None:
    sessions = cache()
    session = admitted(sessions, 0, 1)
    last = sessions.open(asking(forget=[0, 1], session_id=session.id, epoch=1), False, 0)
    assert (last.id, len(sessions), sessions.partition_count) == (NO_SESSION, 0, 0)


def test_update_adds_changes_and_forgets() -> None:
    sessions = cache()
    session = admitted(sessions, 0, 1)
    session.ready.clear()
    sessions.open(asking(1, 2, forget=[0], session_id=session.id, epoch=1, offset=50), False, 0)
    assert {key[1]: entry.fetch_offset for key, entry in session.partitions.items()} == {1: 50, 2: 50}
    assert [entry.index for entry in session.ready] == [1, 2]
    assert sessions.partition_count == 2


def test_full_cache_admits_nobody_while_its_sessions_are_in_use() -> None:
    sessions = cache(slots=1)
    admitted(sessions, 0)
    newcomer = sessions.open(asking(0, 1), False, EVICTION_MS)
    assert not sessions.admit(newcomer, EVICTION_MS)
    assert newcomer.id == NO_SESSION


def test_least_recently_used_session_is_evicted_once_idle_for_two_minutes() -> None:
    sessions = cache(slots=2)
    idle, busy = admitted(sessions, 0, 1, 2), admitted(sessions, 0)
    sessions.open(asking(session_id=busy.id, epoch=1), False, 10)
    admitted(sessions, 0, steady_ms=EVICTION_MS + 1)
    assert idle.is_closed
    assert not busy.is_closed


def test_larger_session_takes_the_place_of_a_smaller_one_that_had_it_for_two_minutes() -> None:
    sessions = cache(slots=2)
    small, large = admitted(sessions, 0), admitted(sessions, 0, 1)
    for steady_ms in (EVICTION_MS, EVICTION_MS + 1):
        for session in (small, large):
            sessions.open(asking(session_id=session.id, epoch=session.epoch), False, steady_ms)
    assert not sessions.admit(sessions.open(asking(5), False, 0), EVICTION_MS + 1)
    assert sessions.admit(sessions.open(asking(5, 6), False, 0), EVICTION_MS + 1)
    assert (small.is_closed, large.is_closed) == (True, False)


def test_partitions_over_all_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_sessions, "MAX_PARTITIONS", 3)
    sessions = cache()
    session = admitted(sessions, 0, 1)
    assert not sessions.admit(sessions.open(asking(0, 1), False, 0), 0)
    growing = asking(2, 3, session_id=session.id, epoch=1)
    assert code_of(sessions, growing) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert (len(sessions), sessions.partition_count) == (0, 0)


def test_growth_marks_the_partition_and_tells_who_is_parked() -> None:
    sessions, partition, parked = cache(), SomePartition(), SomeParked()
    session = admitted(sessions, 0, 1)
    session.partitions["t", 1].bind(partition)  # type: ignore[arg-type]
    session.ready.clear()
    partition.advance(10)
    assert [entry.index for entry in session.ready] == [1]
    session.parked = parked
    partition.advance(20)
    assert parked.heard == [20]


def test_lost_partition_is_looked_up_again() -> None:
    sessions, partition, parked = cache(), SomePartition(), SomeParked()
    session = admitted(sessions, 0)
    entry = session.partitions["t", 0]
    entry.bind(partition)  # type: ignore[arg-type]
    session.ready.clear()
    session.parked = parked
    partition.close()
    assert (entry.partition, list(session.ready), parked.heard) == (None, [entry], ["wake"])


def test_session_without_an_id_hears_nothing_until_armed() -> None:
    sessions, partition = cache(), SomePartition()
    session = sessions.open(asking(0), False, 0)
    session.partitions["t", 0].bind(partition)  # type: ignore[arg-type]
    assert not partition.waiters
    session.arm()
    assert partition.waiters == {session.partitions["t", 0]}
    session.close()
    assert not partition.waiters


def test_evicted_session_wakes_its_parked_fetch() -> None:
    sessions, parked = cache(), SomeParked()
    session = admitted(sessions, 0)
    session.parked = parked
    sessions.remove(session.id)
    assert parked.heard == ["wake"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["full", "next", "stale", "close"]),
        st.integers(1, 8),
        st.sets(st.integers(0, 5), max_size=4),
        st.sets(st.integers(0, 5), max_size=4),
        st.integers(0, EVICTION_MS),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_cache_stays_within_its_bounds_and_leaves_nothing_behind(
    steps: list[tuple[str, int, set[int], set[int], int]],
) -> None:
    sessions, partitions, steady_ms = cache(slots=3), [SomePartition() for _ in range(6)], 0
    alive: dict[int, FetchSession] = {}
    for kind, session_id, named, forgotten, wait_ms in steps:
        steady_ms += wait_ms
        known = alive.get(session_id)
        epoch = {"full": 0, "close": -1}.get(kind, known.epoch if known and kind == "next" else 12345)
        request = asking(*named, forget=list(forgotten), session_id=session_id, epoch=epoch)
        try:
            session = sessions.open(request, False, steady_ms)
        except FetchSessionError as error:
            assert kind == "stale" or known is None or known.is_closed
            assert error.code in (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH)
            continue
        for entry in session.partitions.values():
            if entry.partition is None:
                entry.bind(partitions[entry.index])  # type: ignore[arg-type]
        if kind == "full" and sessions.admit(session, steady_ms):
            alive[session.id] = session
        alive = {key: one for key, one in alive.items() if not one.is_closed}
        assert len(sessions) == len(alive) <= 3
        assert sessions.partition_count == sum(len(one.partitions) for one in alive.values())
        for index, partition in enumerate(partitions):
            assert partition.waiters == {
                e for one in alive.values() for (_, i), e in one.partitions.items() if i == index
            }
    sessions.clear()
    assert not any(partition.waiters for partition in partitions)
    assert sessions.partition_count == 0


def test_requests_that_wait_count_as_sessions_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_sessions, "MAX_PARTITIONS", 10)
    sessions = cache()
    first, second, third = (sessions.open(asking(*range(size)), False, 0) for size in (6, 4, 1))
    assert sessions.may_wait(first)
    assert sessions.may_wait(second)
    assert not sessions.may_wait(third)
    sessions.waited(second)
    assert sessions.may_wait(third)
    sessions.waited(first)
    named = admitted(sessions, *range(6))
    assert len(named.partitions) == sessions.partition_count
    assert not sessions.may_wait(second)
    sessions.remove(named.id)
    assert sessions.may_wait(second)


def test_a_start_that_moved_is_news_and_wakes_only_who_stands_before_it() -> None:
    sessions = cache()
    session = sessions.open(asking(0, offset=5), False, 0)
    assert sessions.admit(session, 0)
    partition = SomePartition()
    (entry,) = session.partitions.values()
    entry.bind(partition)  # type: ignore[arg-type]
    session.parked = parked = SomeParked()
    session.ready.clear()
    partition.move_start(5)
    assert (list(session.ready), parked.heard) == ([entry], [])
    session.ready.clear()
    partition.move_start(6)
    assert (list(session.ready), parked.heard) == ([entry], ["wake"])
