"""The broker is killed and started again every few seconds under several groups, which must not notice more than a pause.

Members are of four libraries and both protocols. In the end every record has been read, no committed offset has gone
back, no group began anew (its generation only grew), and what members were told is committed is committed. The short
form kills three times; `PG_KAFKA_GROUP_CRASH_SECONDS=120` goes on for two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.broker.rawclient import CREATE_TOPICS, RawClient
from tests.clients.groups import LIBRARIES, PARTITIONS, SETTINGS, Group, Process, Traffic, Watcher
from tests.crash.servers import BrokerProcess, Given
from tests.kafka_reference import ToolMissing
from tests.postgres import FLAVOURS

from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::ResourceWarning")]

SECONDS = float(os.environ.get("PG_KAFKA_GROUP_CRASH_SECONDS", "8"))
GROUPS_OF_EACH = 1 if SECONDS < 60 else 2
LIBRARY_NAMES = ("confluent-kafka", "confluent-kafka-consumer", "aiokafka", "kafka-python", "franz-go")
# Joins again, with its member id, whenever a connection to the coordinator is refused.
JOINS_AGAIN = ("franz-go",)
# Longer than the broker is away.
TIMES = {"session_timeout_ms": 20_000, "max_poll_interval_ms": 30_000}


@pytest.fixture
async def system() -> AsyncIterator[Given]:
    """A broker on a PostgreSQL of its own."""
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    system = Given()
    await system.open()
    try:
        yield system
    finally:
        await system.close()


@pytest.fixture
def processes() -> Iterator[dict[str, Process]]:
    """A member program of each library that is here."""
    running: dict[str, Process] = {}
    for program in {LIBRARIES[name].program for name in LIBRARY_NAMES}:
        with contextlib.suppress(ToolMissing):
            running[program] = Process(program)
    yield running
    for process in running.values():
        process.kill()


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of the consumer protocol are as long as those of the classic one."""
    chosen = {**SETTINGS, "group.consumer.session.timeout.ms": "20000", "group.initial.rebalance.delay.ms": "0"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"PG_KAFKA_{name.replace('.', '_').upper()}", value)


def library_of(group: Group) -> str:
    return group.id.rpartition("-")[0]


async def test_groups_outlive_the_broker(system: Given, processes: dict[str, Process]) -> None:
    place = await system.serving()
    bootstrap = f"{place.host}:{place.port}"
    watcher, traffic = Watcher(bootstrap), Traffic(bootstrap)
    groups = []
    for number in range(GROUPS_OF_EACH):
        for name in LIBRARY_NAMES:
            if LIBRARIES[name].program in processes:
                groups.append(Group(bootstrap, f"{name}-{number}", f"{name}-{number}"))
    async with await RawClient.connect(place) as client:
        for group in groups:
            wanted = CreatableTopic(name=group.topic, num_partitions=PARTITIONS, replication_factor=1)
            assert (await client.call(CreateTopicsRequest(topics=[wanted]), CREATE_TOPICS, 7)).topics[0].error_code == 0
    watcher.start()
    traffic.start()
    try:
        await asyncio.to_thread(_play, system.brokers[0], groups, processes, watcher, traffic)
    finally:
        watcher.stop()
        traffic.stop()
    assert not system.brokers[0].complaints()


def _play(
    broker: BrokerProcess, groups: list[Group], processes: dict[str, Process], watcher: Watcher, traffic: Traffic
) -> None:
    for group in groups:
        library = LIBRARIES[library_of(group)]
        assignor = "range" if library.protocol == "classic" else "uniform"
        process = processes[library.program]
        traffic.begin(group.topic)
        group.wait_until_owned(group.join("first", process, library, assignor, **TIMES))
        group.join("second", process, library, assignor, **TIMES)
        watcher.watch(group.id, library.protocol)
    for group in groups:
        group.wait_until_owned(*group.members.values())
    generations = {group.id: [one.generation for one in group.members.values()] for group in groups}
    told = {group.id: _owned_told(group) for group in groups}
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        broker.kill()
        broker.start()
        asyncio.run(broker.serves())
        for group in groups:
            group.wait_until_owned(*group.members.values())
    for group in groups:
        ends = traffic.end(group.topic)
        group.wait_until_read(ends)
        now = [one.generation for one in group.members.values()]
        if library_of(group) in JOINS_AGAIN:
            assert all((new or 0) >= (old or 0) for new, old in zip(now, generations[group.id], strict=True)), (
                group.story()
            )
        else:  # no member was given anything anew, and all are of the generation that they were
            assert _owned_told(group) == told[group.id], group.story()
            assert now == generations[group.id]
        group.leave(*group.members.values())
        group.check(ends)
        assert watcher.committed(group.id) == ends
    assert not watcher.faults, watcher.faults[:20]


def _owned_told(group: Group) -> int:
    return sum(event.what == "owned" for event in group.events)
