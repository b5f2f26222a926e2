"""Server-side assignors of the consumer protocol: who gets which partitions of the topics that members subscribe to.

Pure functions of the members and what they were given before; the order in which members or topics come does not
matter, and the same question always has the same answer. Every partition of a subscribed topic is given to exactly one
subscriber.

| name       | what it does                                                                                    |
|------------|-------------------------------------------------------------------------------------------------|
| uniform    | loads differ by one at most, as little moves as possible (Kafka's default)                      |
| range      | of each topic a run of neighbouring partitions; the same numbers of all topics, nothing is kept |
| roundrobin | partitions are dealt out like cards, by topic and number; nothing is kept                       |
| sticky     | as uniform, but what is dealt out anew goes to members in turns, not in runs                    |

With members of different subscriptions `uniform` and `sticky` are one method: partitions go to the subscriber that has
least, then move from who has more to who has two less until no move is left.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Final
from uuid import UUID

Assignment = Mapping[UUID, tuple[int, ...]]
"""Partitions by topic, ascending; no topic without partitions."""

NOTHING: Final[Assignment] = {}


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What an assignor knows of a member. `topics` exist; `given` is its part of the previous target assignment."""

    topics: frozenset[UUID]
    given: Assignment = field(default_factory=dict)
    instance_id: str | None = None


Assignor = Callable[[Mapping[str, Subscriber], Mapping[UUID, int]], dict[str, Assignment]]
"""Members by id and partition counts of topics, in the topics' order, to a part for each member."""


def _in_kafkas_order(members: Mapping[str, Subscriber]) -> list[str]:
    """Static members by instance id, then the others by member id: static ones keep their place over restarts."""
    return sorted(members, key=lambda member_id: _rank(member_id, members[member_id].instance_id))


def _rank(member_id: str, instance_id: str | None) -> tuple[bool, str]:
    return (instance_id is None, member_id if instance_id is None else instance_id)


def _are_alike(members: Mapping[str, Subscriber]) -> bool:
    """All members subscribe to the same topics. Their sets are mostly one object, which makes this quick."""
    subscriptions = iter(members.values())
    first = next(subscriptions).topics
    return all(member.topics is first or member.topics == first for member in subscriptions)


def _pack(taken: Mapping[UUID, Iterable[int]]) -> Assignment:
    return {topic: tuple(sorted(partitions)) for topic, partitions in taken.items() if partitions}


def assign_range(members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> dict[str, Assignment]:
    """Each topic is cut into as many runs as it has subscribers; the first ones are longer by one."""
    order = _in_kafkas_order(members)
    given: dict[str, dict[UUID, tuple[int, ...]]] = {member_id: {} for member_id in order}
    for topic, partitions in topics.items():
        subscribers = [member_id for member_id in order if topic in members[member_id].topics]
        if not subscribers:
            continue
        least, longer = divmod(partitions, len(subscribers))
        start = 0
        for at, member_id in enumerate(subscribers):
            end = start + least + (at < longer)
            if end == start:
                break
            given[member_id][topic] = tuple(range(start, end))
            start = end
    return dict(given)


def assign_roundrobin(members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> dict[str, Assignment]:
    """One partition to each in turn; whoever does not subscribe to the topic is passed over."""
    order = _in_kafkas_order(members)
    given: dict[str, dict[UUID, list[int]]] = {member_id: {} for member_id in order}
    turn = 0
    for topic, partitions in topics.items():
        if not any(topic in members[member_id].topics for member_id in order):
            continue
        for partition in range(partitions):
            while topic not in members[order[turn % len(order)]].topics:
                turn += 1
            given[order[turn % len(order)]].setdefault(topic, []).append(partition)
            turn += 1
    return {member_id: _pack(taken) for member_id, taken in given.items()}


def assign_uniform(members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> dict[str, Assignment]:
    """Balanced first, then as near to the previous assignment as that allows."""
    if not members:
        return {}
    return _assign_alike(members, topics, in_turns=False) if _are_alike(members) else _assign_unlike(members, topics)


def assign_sticky(members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> dict[str, Assignment]:
    """As `assign_uniform`, but members get partitions in turns."""
    if not members:
        return {}
    return _assign_alike(members, topics, in_turns=True) if _are_alike(members) else _assign_unlike(members, topics)


def _assign_alike(
    members: Mapping[str, Subscriber], topics: Mapping[UUID, int], *, in_turns: bool
) -> dict[str, Assignment]:
    """All subscribe to the same. Parts that stay as they are stay the same object."""
    subscribed = next(iter(members.values())).topics
    counts = {topic: partitions for topic, partitions in topics.items() if topic in subscribed}
    least, longer = divmod(sum(counts.values()), len(members))
    kept = {member_id: _still_valid(member.given, counts) for member_id, member in members.items()}
    held = {member_id: sum(map(len, part.values())) for member_id, part in kept.items()}
    # Who has more than the least keeps one of the longer parts: that moves nothing. The others follow in order.
    order = sorted(
        members, key=lambda member_id: (held[member_id] <= least, *_rank(member_id, members[member_id].instance_id))
    )
    free = {topic: set(range(partitions)) for topic, partitions in counts.items()}
    wanting: list[tuple[str, int]] = []
    for at, member_id in enumerate(order):
        quota = least + (at < longer)
        if held[member_id] > quota:
            kept[member_id] = _first(kept[member_id], quota)
        elif held[member_id] < quota:
            wanting.append((member_id, quota - held[member_id]))
        for topic, partitions in kept[member_id].items():
            free[topic].difference_update(partitions)
    taken = {member_id: {topic: list(ids) for topic, ids in kept[member_id].items()} for member_id, _ in wanting}
    if in_turns:
        turns = [
            member_id for at in range(max((n for _, n in wanting), default=0)) for member_id, n in wanting if at < n
        ]
    else:
        turns = [member_id for member_id, count in wanting for _ in range(count)]
    rest = [(topic, partition) for topic in counts for partition in sorted(free[topic])]
    for member_id, (topic, partition) in zip(turns, rest, strict=True):
        taken[member_id].setdefault(topic, []).append(partition)
    for member_id, part in taken.items():
        kept[member_id] = _pack(part)
    return kept


def _still_valid(given: Assignment, counts: Mapping[UUID, int]) -> Assignment:
    if all(topic in counts and partitions[-1] < counts[topic] for topic, partitions in given.items()):
        return given
    return _pack({
        topic: [partition for partition in partitions if partition < counts[topic]]
        for topic, partitions in given.items()
        if topic in counts
    })  # fmt: skip


def _first(part: Assignment, count: int) -> Assignment:
    """The first `count` partitions."""
    left: dict[UUID, tuple[int, ...]] = {}
    for topic, partitions in part.items():
        if count <= 0:
            break
        left[topic] = partitions[:count]
        count -= len(partitions)
    return left


class _Deal:
    """Who has what while partitions are dealt out one at a time."""

    def __init__(self, members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> None:
        order = _in_kafkas_order(members)
        self.counts = topics
        self.taken: dict[str, dict[UUID, list[int]]] = {member_id: {} for member_id in order}
        self.load = dict.fromkeys(order, 0)
        self.place = {member_id: at for at, member_id in enumerate(order)}
        self.subscribers: dict[UUID, list[str]] = {topic: [] for topic in topics}
        for member_id in order:
            for topic in members[member_id].topics:
                if topic in topics:
                    self.subscribers[topic].append(member_id)

    def give(self, member_id: str, topic: UUID, partition: int) -> None:
        insort(self.taken[member_id].setdefault(topic, []), partition)
        self.load[member_id] += 1

    def keep(self, members: Mapping[str, Subscriber]) -> dict[UUID, list[int]]:
        """Leave with its member what it still subscribes to; returns what nobody has then."""
        free = {topic: set(range(count)) for topic, count in self.counts.items() if self.subscribers[topic]}
        for member_id in self.taken:
            member = members[member_id]
            for topic, partitions in member.given.items():
                if topic not in member.topics or topic not in free:
                    continue
                for partition in partitions:
                    if partition in free[topic]:
                        free[topic].remove(partition)
                        self.give(member_id, topic, partition)
        return {topic: sorted(partitions) for topic, partitions in free.items() if partitions}

    def hand_out(self, free: Mapping[UUID, Collection[int]]) -> None:
        """Topics with few subscribers first: they have the least choice."""
        for topic in sorted(free, key=lambda topic: len(self.subscribers[topic])):
            heap = [(self.load[member_id], self.place[member_id], member_id) for member_id in self.subscribers[topic]]
            heapify(heap)
            for partition in free[topic]:
                load, place, member_id = heap[0]
                self.give(member_id, topic, partition)
                heapreplace(heap, (load + 1, place, member_id))

    def level(self) -> None:
        """Move partitions between subscribers of a topic while one has two more than another.

        Each move brings the sum of squared loads down, so this ends.
        """
        moved = True
        while moved:
            moved = False
            for topic, subscribers in self.subscribers.items():
                if len(subscribers) > 1 and self._level_topic(topic, subscribers):
                    moved = True

    def _level_topic(self, topic: UUID, subscribers: list[str]) -> bool:
        moved = False
        takers = [(self.load[member_id], self.place[member_id], member_id) for member_id in subscribers]
        givers = [(-load, place, member_id) for load, place, member_id in takers if self.taken[member_id].get(topic)]
        heapify(takers)
        heapify(givers)
        while givers:
            _, giver_place, giver = givers[0]
            _, taker_place, taker = takers[0]
            partitions = self.taken[giver].get(topic)
            if not partitions:
                heappop(givers)
            elif givers[0][0] != -self.load[giver]:  # it took meanwhile
                heapreplace(givers, (-self.load[giver], giver_place, giver))
            elif takers[0][0] != self.load[taker]:  # it gave meanwhile
                heapreplace(takers, (self.load[taker], taker_place, taker))
            elif self.load[giver] - self.load[taker] < 2:
                break
            else:
                partition = partitions.pop()
                self.load[giver] -= 1
                self.give(taker, topic, partition)
                moved = True
        return moved


def _assign_unlike(members: Mapping[str, Subscriber], topics: Mapping[UUID, int]) -> dict[str, Assignment]:
    deal = _Deal(members, topics)
    deal.hand_out(deal.keep(members))
    deal.level()
    return {member_id: _pack(taken) for member_id, taken in deal.taken.items()}


ASSIGNORS: Final[Mapping[str, Assignor]] = {
    "uniform": assign_uniform,
    "range": assign_range,
    "roundrobin": assign_roundrobin,
    "sticky": assign_sticky,
}
