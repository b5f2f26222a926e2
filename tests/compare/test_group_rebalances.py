"""Each assignor costs as many rebalances and moves as many partitions here as with Apache Kafka.

The same script on both: members join one after the other, one leaves, one comes back, another leaves. After each step
the group settles; what counts is how far its generation (or epoch) has come, and which partitions changed hands.

A cooperative member that is slow to hear of its assignment costs one rebalance more, on either broker: it joins the next
with what it owned before. So a script whose costs differ is played again, alone; it must come to the same at least once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.broker.rawclient import CREATE_TOPICS, RawClient, only
from tests.clients.groups import CONSUMER_GROUP_DESCRIBE, LIBRARIES, PARTITIONS, Group, Member, Process, place_of
from tests.compare.scene import Side

from pg_kafka.wire.messages.consumer_group_describe import ConsumerGroupDescribeRequest, DescribedGroup
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

pytestmark = pytest.mark.timeout(400)

SETTLED_MS = 1500
ATTEMPTS = 3
# Of the brokers' defaults none is below these.
TIMES = {"session_timeout_ms": 30_000, "heartbeat_interval_ms": 200, "max_poll_interval_ms": 30_000}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def java_members() -> Iterator[Process]:
    """One JVM for the members of all groups."""
    process = Process("java")
    yield process
    process.kill()


class Script:
    """Steps of one group on one broker, and what they cost."""

    def __init__(self, group: Group, process: Process, library: str, assignor: str, *, is_static: bool) -> None:
        self.costs: list[tuple[str, int, int]] = []
        self._group = group
        self._process = process
        self._library = LIBRARIES[library]
        self._assignor = assignor
        self._is_static = is_static
        self._is_consumer = self._library.protocol == "consumer"
        self._place = place_of(group.bootstrap)
        self._members: dict[str, Member] = {}
        self._owners: dict[int, str] = {}
        self._generation = 0

    def play(self) -> list[tuple[str, int, int]]:
        """Each step with the generations that it took and the partitions that have another owner since."""
        for name in ("a", "b", "c"):
            self._join(name)
        self._leave("b")
        self._join("b")
        self._leave("a")
        if self._is_static:
            self._join("a")
        self._join("d")
        self._group.leave(*self._members.values())
        return self.costs

    def _join(self, name: str) -> None:
        instance = f"instance-{name}" if self._is_static else None
        unique = f"{name}{len(self.costs)}"
        self._members[name] = self._group.join(
            unique, self._process, self._library, self._assignor, instance_id=instance, **TIMES
        )
        self._settle(f"{name} joins")

    def _leave(self, name: str) -> None:
        """A static member goes without a word, and is to be back before anybody knows."""
        self._group.leave(self._members.pop(name))
        if not self._is_static:
            self._settle(f"{name} leaves")

    def _settle(self, step: str) -> None:
        members = self._members

        def is_settled() -> bool:
            owned = sorted(partition for one in members.values() for partition in one.owned)
            generations = {one.generation for one in members.values()}
            has_one = None not in generations and (self._is_consumer or len(generations) == 1)
            return has_one and owned == list(range(PARTITIONS))

        self._group.wait_until_quiet(f"settle after {step}", is_settled, SETTLED_MS)
        while self._is_consumer and not self._is_reconciled():
            self._group.wait_until_quiet(f"settle after {step}", is_settled, SETTLED_MS)
        owners = {partition: name for name, one in members.items() for partition in one.owned}
        moved = sum(self._owners.get(partition, "") != name for partition, name in owners.items())
        generation = self._epoch() if self._is_consumer else next(iter(members.values())).generation or 0
        # Where epochs of the consumer protocol begin is not what it cost.
        added = 0 if self._is_consumer and not self.costs else generation - self._generation
        self.costs.append((step, added, moved))
        self._owners, self._generation = owners, generation

    def _is_reconciled(self) -> bool:
        """All members have what they are to have."""
        described = self._described()
        epochs = {described.group_epoch, described.assignment_epoch, *(one.member_epoch for one in described.members)}
        return described.group_state == "Stable" and len(epochs) == 1

    def _epoch(self) -> int:
        """The group's; its members hear of one that changes nothing for them without a word to the application."""
        return self._described().group_epoch

    def _described(self) -> DescribedGroup:
        async def ask() -> DescribedGroup:
            async with await RawClient.connect(self._place) as client:
                request = ConsumerGroupDescribeRequest(group_ids=[self._group.id])
                return only((await client.call(request, CONSUMER_GROUP_DESCRIBE, 1)).groups)

        return asyncio.run(ask())


SCRIPTS = [
    ("java", "range"),
    ("java", "roundrobin"),
    ("java", "sticky"),
    ("java", "cooperative-sticky"),
    ("java-consumer", "range"),
    ("java-consumer", "uniform"),
]
Costs = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def costs(
    request: pytest.FixtureRequest, sides: tuple[Side, Side], java_members: Process
) -> Iterator[Callable[..., list[Costs]]]:
    """What a script costs on either side. All that were asked for are played at once: most of each is waiting."""

    def play(side: Side, library: str, assignor: str, is_static: bool) -> Costs:
        topic = f"rebalances-{next(_numbers)}"
        asyncio.run(create(side, topic))
        group = Group(f"{side.address.host}:{side.address.port}", topic, topic)
        return Script(group, java_members, library, assignor, is_static=is_static).play()

    async def create(side: Side, topic: str) -> None:
        async with await RawClient.connect(side.address) as client:
            wanted = CreatableTopic(name=topic, num_partitions=PARTITIONS, replication_factor=1)
            answer = await client.call(CreateTopicsRequest(topics=[wanted]), CREATE_TOPICS, 7, 30)
            assert answer.topics[0].error_code == 0, answer

    chosen = {
        tuple(item.callspec.params[name] for name in ("library", "assignor", "is_static"))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    with ThreadPoolExecutor(2 * len(chosen)) as pool:
        playing = {one: [pool.submit(play, side, *one) for side in sides] for one in sorted(chosen)}

        def costs_of(*one: Any) -> list[Costs]:
            if one in playing:
                return [future.result() for future in playing.pop(one)]
            return [play(side, *one) for side in sides]

        yield costs_of


@pytest.mark.parametrize("is_static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize(("library", "assignor"), SCRIPTS)
def test_rebalances_and_moves_are_kafkas(
    costs: Callable[..., list[Costs]], library: str, assignor: str, is_static: bool
) -> None:
    for _ in range(ATTEMPTS):
        kafka, ours = costs(library, assignor, is_static)
        if (library, assignor, is_static) == ("java-consumer", "range", False):
            # The server hands out ranges in the order of member ids, which are random: only rebalances can be compared.
            kafka, ours = [[(step, added, 0) for step, added, _ in one] for one in (kafka, ours)]
        if ours == kafka:
            return
    assert ours == kafka
