"""Server-side assignors: each partition to one subscriber, evenly, and where it was before if that is possible."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.coordinator.assignors import (
    ASSIGNORS,
    Assignment,
    Subscriber,
    assign_range,
    assign_roundrobin,
    assign_sticky,
    assign_uniform,
)

A, B, C, D = (UUID(int=number) for number in range(1, 5))
ALL = frozenset((A, B, C, D))

topic_counts = st.dictionaries(st.sampled_from((A, B, C, D)), st.integers(1, 12), min_size=1)
member_ids = st.text("abcdefgh", min_size=1, max_size=2)
subscriptions = st.dictionaries(member_ids, st.frozensets(st.sampled_from((A, B, C, D))), min_size=1, max_size=7)
names = st.sampled_from(sorted(ASSIGNORS))


def members_of(
    wanted: Mapping[str, frozenset[UUID]], given_before: Mapping[str, Assignment] | None = None
) -> dict[str, Subscriber]:
    before = given_before or {}
    return {member_id: Subscriber(topics, before.get(member_id, {})) for member_id, topics in wanted.items()}


def alike(count: int, *topics: UUID) -> dict[str, Subscriber]:
    return {f"m{number}": Subscriber(frozenset(topics)) for number in range(count)}


def pairs(part: Assignment) -> set[tuple[UUID, int]]:
    return {(topic, partition) for topic, partitions in part.items() for partition in partitions}


def loads(assigned: Mapping[str, Assignment]) -> list[int]:
    return sorted(len(pairs(part)) for part in assigned.values())


def check(members: Mapping[str, Subscriber], topics: Mapping[UUID, int], assigned: Mapping[str, Assignment]) -> None:
    """All of what is subscribed, once, to subscribers, written as the type says."""
    assert set(assigned) == set(members)
    seen: set[tuple[UUID, int]] = set()
    for member_id, part in assigned.items():
        assert set(part) <= members[member_id].topics
        assert all(partitions and list(partitions) == sorted(set(partitions)) for partitions in part.values())
        assert not seen & pairs(part)
        seen |= pairs(part)
    wanted = frozenset[UUID]().union(*(member.topics for member in members.values()))
    assert seen == {(topic, number) for topic, count in topics.items() if topic in wanted for number in range(count)}


@given(names, subscriptions, topic_counts)
def test_every_partition_has_one_subscriber(
    name: str, wanted: dict[str, frozenset[UUID]], topics: dict[UUID, int]
) -> None:
    members = members_of({member_id: chosen & topics.keys() for member_id, chosen in wanted.items()})
    check(members, topics, ASSIGNORS[name](members, topics))


@given(names, subscriptions, subscriptions, topic_counts, topic_counts)
def test_a_later_assignment_is_complete_whatever_was_before(
    name: str,
    first: dict[str, frozenset[UUID]],
    second: dict[str, frozenset[UUID]],
    topics: dict[UUID, int],
    later: dict[UUID, int],
) -> None:
    before = ASSIGNORS[name](members_of({key: chosen & topics.keys() for key, chosen in first.items()}), topics)
    members = members_of({key: chosen & later.keys() for key, chosen in second.items()}, before)
    check(members, later, ASSIGNORS[name](members, later))


@given(names, subscriptions, topic_counts, st.randoms(use_true_random=False))
def test_order_of_members_is_no_matter_and_an_assignment_is_its_own_successor(
    name: str, wanted: dict[str, frozenset[UUID]], topics: dict[UUID, int], shuffler: object
) -> None:
    wanted = {member_id: chosen & topics.keys() for member_id, chosen in wanted.items()}
    assigned = ASSIGNORS[name](members_of(wanted), topics)
    shuffled = list(wanted.items())
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ASSIGNORS[name](members_of(dict(shuffled)), topics) == assigned
    assert ASSIGNORS[name](members_of(wanted, assigned), topics) == assigned


@given(st.sampled_from(["uniform", "roundrobin", "sticky"]), st.integers(1, 9), topic_counts)
def test_loads_of_members_alike_differ_by_one_at_most(name: str, count: int, topics: dict[UUID, int]) -> None:
    assigned = ASSIGNORS[name](alike(count, *topics), topics)
    assert max(loads(assigned)) - min(loads(assigned)) <= 1


@given(st.sampled_from(["uniform", "sticky"]), st.integers(1, 9), st.integers(1, 9), topic_counts)
def test_no_more_moves_than_balance_needs(name: str, count: int, later: int, topics: dict[UUID, int]) -> None:
    assign = ASSIGNORS[name]
    before = assign(alike(count, *topics), topics)
    members = {key: Subscriber(member.topics, before.get(key, {})) for key, member in alike(later, *topics).items()}
    after = assign(members, topics)
    kept = sum(len(pairs(after[key]) & pairs(part)) for key, part in before.items() if key in after)
    total = sum(topics.values())
    # Each member that stays can keep up to its share; shares that are one longer go to who has that much.
    least, longer = divmod(total, later)
    had = sorted((len(pairs(before[key])) for key in before if key in members), reverse=True)
    assert kept == sum(min(count, least + (at < longer)) for at, count in enumerate(had))


@given(st.sampled_from(["uniform", "sticky"]), subscriptions, topic_counts)
def test_no_move_between_two_subscribers_would_even_loads(
    name: str, wanted: dict[str, frozenset[UUID]], topics: dict[UUID, int]
) -> None:
    members = members_of({member_id: chosen & topics.keys() for member_id, chosen in wanted.items()})
    assigned = ASSIGNORS[name](members, topics)
    load = {member_id: len(pairs(part)) for member_id, part in assigned.items()}
    for giver, part in assigned.items():
        for topic in part:
            for taker, member in members.items():
                assert topic not in member.topics or load[giver] - load[taker] < 2


def test_range_gives_the_same_numbers_of_each_topic() -> None:
    assert assign_range(alike(3, A, B), {A: 7, B: 7}) == {
        "m0": {A: (0, 1, 2), B: (0, 1, 2)},
        "m1": {A: (3, 4), B: (3, 4)},
        "m2": {A: (5, 6), B: (5, 6)},
    }


def test_range_with_more_members_than_partitions_leaves_the_last_without() -> None:
    assert assign_range(alike(3, A), {A: 2}) == {"m0": {A: (0,)}, "m1": {A: (1,)}, "m2": {}}


def test_range_keeps_the_place_of_static_members_over_new_member_ids() -> None:
    members = {
        "zzz": Subscriber(frozenset({A}), instance_id="first"),
        "aaa": Subscriber(frozenset({A})),
        "bbb": Subscriber(frozenset({A}), instance_id="second"),
    }
    assert assign_range(members, {A: 3}) == {"zzz": {A: (0,)}, "bbb": {A: (1,)}, "aaa": {A: (2,)}}


def test_roundrobin_deals_out_by_topic_and_number() -> None:
    assert assign_roundrobin(alike(2, A, B), {A: 3, B: 3}) == {
        "m0": {A: (0, 2), B: (1,)},
        "m1": {A: (1,), B: (0, 2)},
    }


def test_uniform_fills_member_by_member() -> None:
    assert assign_uniform(alike(2, A, B), {A: 3, B: 3}) == {"m0": {A: (0, 1, 2)}, "m1": {B: (0, 1, 2)}}


def test_sticky_spreads_each_topic() -> None:
    assert assign_sticky(alike(2, A, B), {A: 2, B: 2}) == {"m0": {A: (0,), B: (0,)}, "m1": {A: (1,), B: (1,)}}


def test_uniform_leaves_parts_that_stay_as_the_same_objects() -> None:
    topics = {A: 40, B: 40}
    before = assign_uniform(alike(8, A, B), topics)
    members = {key: Subscriber(member.topics, before.get(key, {})) for key, member in alike(8, A, B).items()}
    after = assign_uniform(members, topics)
    assert all(after[key] is before[key] for key in before)


def test_partitions_move_through_several_members_to_even_out() -> None:
    # What m0 has too much of only m1 can take, which has then to give to m2.
    members = {
        "m0": Subscriber(frozenset({A}), {A: (0, 1, 2, 3)}),
        "m1": Subscriber(frozenset({A, B}), {B: (0, 1, 2)}),
        "m2": Subscriber(frozenset({B})),
    }
    assert loads(assign_uniform(members, {A: 4, B: 3})) == [2, 2, 3]


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@pytest.mark.parametrize("members", [{}, {"m": Subscriber(frozenset())}])
def test_nothing_to_assign(name: str, members: dict[str, Subscriber]) -> None:
    assert ASSIGNORS[name](members, {A: 3}) == {key: {} for key in members}
