"""A consumer that stops falls behind: in SQL and in the metrics, in records and in seconds; and catches up."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families
from tests.broker.conftest import RunningBroker
from tests.broker.inside import running
from tests.kafka_reference import HOST, free_port

from pg_kafka.app import Seams
from pg_kafka.clock import Clock

TOPIC, GROUP = "orders", "slow"
DEADLINE_S = 60
LAG = "SELECT coalesce(sum(lag), -1)::int, max(lag_seconds) FROM kafka.consumer_lag WHERE group_id = $1"


def create(bootstrap: str, partitions: int, **configs: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics([NewTopic(TOPIC, partitions, 1, config={"retention.ms": "-1", **configs})])
    for future in made.values():
        future.result(DEADLINE_S)


def produce(bootstrap: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for n in range(count):
        producer.produce(TOPIC, b"%d" % n, partition=n % 2)
    assert producer.flush(DEADLINE_S) == 0


@contextmanager
def consumer(bootstrap: str) -> Iterator[Consumer]:
    made = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "auto.offset.reset": "earliest",
                     "enable.auto.commit": False})  # fmt: skip
    made.subscribe([TOPIC])
    try:
        yield made
    finally:
        made.close()


def read(reader: Consumer, count: int) -> None:
    """Read so many records, and commit that."""
    got = 0
    deadline = time.monotonic() + DEADLINE_S
    while got < count:
        assert time.monotonic() < deadline
        message = reader.poll(1.0)
        if message is not None:
            assert message.error() is None
            got += 1
    reader.commit(asynchronous=False)


def metrics(port: int) -> dict[str, float]:
    """What is told of the group and the topic, by the metric's name."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels == {"consumergroup": GROUP, "topic": TOPIC}
    }


async def until_told(port: int, lag: int) -> dict[str, float]:
    """The metrics, once they tell this lag. The broker looks every ten seconds."""
    async with asyncio.timeout(DEADLINE_S):
        while (told := metrics(port)).get("kafka_consumergroup_lag") != lag:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.2)
    return told


async def test_a_consumer_that_stops_falls_behind_and_catches_up(
    start_broker: Callable[..., RunningBroker], pg_dsn: str
) -> None:
    port = free_port()
    broker = start_broker(METRICS=f"{HOST}:{port}")
    bootstrap = f"{HOST}:{broker.port}"
    db = await asyncpg.connect(pg_dsn)
    create(bootstrap, 2)
    produce(bootstrap, 10)
    with consumer(bootstrap) as reader:
        read(reader, 10)
    assert tuple(await db.fetchrow(LAG, GROUP)) == (0, 0.0)
    begun = time.time()
    produce(bootstrap, 20)
    done = time.time()
    # Nothing more comes, so each figure lies between two times that are measured around it.
    asked = time.time()
    records, seconds = await db.fetchrow(LAG, GROUP)
    assert records == 20
    assert asked - done - 0.01 <= seconds <= time.time() - begun + 0.01
    asked = time.time()
    told = await until_told(port, 20)
    assert told["kafka_consumergroup_lag_sum"] == 20
    assert told["kafka_consumergroup_current_offset_sum"] == 10
    # A page is kept for a second.
    assert asked - done - 1.1 <= told["pg_kafka_consumergroup_lag_seconds"] <= time.time() - begun + 0.01
    with consumer(bootstrap) as reader:
        read(reader, 20)
    assert tuple(await db.fetchrow(LAG, GROUP)) == (0, 0.0)
    told = await until_told(port, 0)
    assert told["pg_kafka_consumergroup_lag_seconds"] == 0
    assert told["kafka_consumergroup_current_offset"] == 30
    await db.close()


async def test_another_incarnation_tells_the_same_with_no_client_there(
    start_broker: Callable[..., RunningBroker], pg_dsn: str
) -> None:
    """No partition is loaded then: the database says where they end."""
    first = start_broker()
    bootstrap = f"{HOST}:{first.port}"
    create(bootstrap, 2)
    produce(bootstrap, 6)
    with consumer(bootstrap) as reader:
        read(reader, 6)
    produce(bootstrap, 8)
    done = time.time()
    first.process.kill()
    first.process.wait()
    port = free_port()
    start_broker(METRICS=f"{HOST}:{port}")
    told = await until_told(port, 8)
    assert told["pg_kafka_consumergroup_lag_seconds"] >= time.time() - done - 1.1


class Ahead(Clock):
    """A clock that a test sets forward."""

    __slots__ = ("ms",)

    def __init__(self) -> None:
        super().__init__()
        self.ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ms


async def test_minutes_are_kept(postgres15: Any) -> None:
    """Only the broker's idea of the time of day is the test's, or it would take minutes."""
    async with running(postgres15, Seams(), log_retention_ms=-1) as inside:
        bootstrap = f"{inside.host}:{inside.port}"
        lag, clock = inside.term.lag, Ahead()
        assert lag is not None and inside.term._lag_watch is not None
        inside.term._lag_watch.cancel()  # the test looks
        lag._clock = clock
        await asyncio.to_thread(create, bootstrap, 2)
        await asyncio.to_thread(produce, bootstrap, 12)

        def commit(offset: int) -> None:
            made = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
            made.commit(offsets=[TopicPartition(TOPIC, n, offset) for n in (0, 1)], asynchronous=False)
            made.close()

        clock.ms = -(clock.wall_ms() % 60_000)  # a minute begins
        await lag.look()
        for offset in (0, 2, 6):
            clock.ms += 60_000
            await asyncio.to_thread(commit, offset)
            await lag.look()
        clock.ms += 60_000
        await lag.look()
        db = await asyncpg.connect(inside.term._dsn)
        rows = await db.fetch("SELECT * FROM kafka.lag_history ORDER BY minute")
        assert [tuple(row)[1:4] for row in rows] == [(GROUP, TOPIC, 12), (GROUP, TOPIC, 8), (GROUP, TOPIC, 0)]
        last = datetime.fromtimestamp(clock.wall_ms() // 60_000 * 60, UTC)
        assert [last - row["minute"] for row in rows] == [timedelta(minutes=n) for n in (3, 2, 1)]
        assert rows[0]["lag_seconds"] <= rows[1]["lag_seconds"]
        assert rows[2]["lag_seconds"] == 0
        await db.close()


@pytest.mark.parametrize("layout", ("rows", "batches"))
async def test_open_transactions_count_until_they_are_aborted(
    start_broker: Callable[..., RunningBroker], pg_dsn: str, layout: str
) -> None:
    broker = start_broker()
    bootstrap = f"{HOST}:{broker.port}"
    db = await asyncpg.connect(pg_dsn)
    create(bootstrap, 1, **{"storage.layout": layout})
    committer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
    committer.commit(offsets=[TopicPartition(TOPIC, 0, 0)], asynchronous=False)
    committer.close()
    writer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "t", "compression.type": "zstd"})
    writer.init_transactions(DEADLINE_S)
    writer.begin_transaction()
    for _ in range(5):
        writer.produce(TOPIC, b"aborted" * 50)
    writer.flush(DEADLINE_S)
    records, seconds = await db.fetchrow(LAG, GROUP)
    assert records == 5
    assert seconds > 0
    writer.abort_transaction(DEADLINE_S)
    assert tuple(await db.fetchrow(LAG, GROUP)) == (6, 0.0)
    writer.begin_transaction()
    writer.produce(TOPIC, b"committed")
    writer.commit_transaction(DEADLINE_S)
    records, seconds = await db.fetchrow(LAG, GROUP)
    assert records == 8
    assert seconds > 0
    await db.close()
