"""Compacted topics: each library reads what Kafka's cleaner leaves, from the start, from the middle, and from gaps.

PG_KAFKA_TEST_AGAINST_KAFKA=1 asks Apache Kafka's own cleaner whether this is what it leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import confluent_kafka
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.records import Record

# Cleaned soon, and read from the database.
SETTINGS = {"log.cleaner.backoff.ms": "200", "checkpoint_ms": "200", "tail_bytes": "0"}
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "500",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "86400000",
}
KEYS, ROUNDS = 20, 30
DEADLINE_S = 60


@pytest.fixture
def compacting(broker: Broker, brokers: Callable[..., Broker]) -> Broker:
    return brokers(broker.flavour, "compacting", SETTINGS)


def everything(
    broker: Broker, topic: str, isolation: str = "read_uncommitted", offset: int = 0
) -> list[tuple[Any, ...]]:
    """(offset, key, value) of all records to the end of partition 0."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reads-all",
            "enable.partition.eof": True,
            "isolation.level": isolation,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, offset)])
    found = []
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error
                return found
            found.append((message.offset(), message.key(), message.value()))
        raise AssertionError("never came to the end")
    finally:
        consumer.close()


def until_cleaned(broker: Broker, topic: str, expected: Sequence[tuple[Any, ...]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (found := everything(broker, topic)) != expected:
        assert time.monotonic() < deadline, (found, expected)
        time.sleep(0.5)


def in_transactions(broker: Broker, topic: str, name: str, batches: Sequence[tuple[bool, dict[bytes, bytes]]]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    for is_commit, records in batches:
        producer.begin_transaction()
        for key, value in records.items():
            producer.produce(topic, value, key, partition=0)
        producer.flush(30)
        if is_commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


def query(dsn: str | None, statement: str) -> list[asyncpg.Record]:
    async def work() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(work())


def written(broker: Broker, topic: str, clients: Callable[[str], Client]) -> list[tuple[int, bytes, bytes | None]]:
    """Cleaned history of many overwritten keys, transactions and a tombstone; the records that Kafka's cleaner leaves."""
    confluent = clients("confluent-kafka")
    confluent.create_topic(broker.bootstrap, topic, 1, COMPACTED)
    latest: dict[bytes, tuple[int, bytes, bytes | None]] = {}

    def send(writer: Client, records: list[Record], codec: str = "none") -> None:
        for offset, record in zip(writer.produce(broker.bootstrap, topic, records, codec=codec), records, strict=True):
            assert record.key is not None
            latest[record.key] = (offset, record.key, record.value)

    for number in range(ROUNDS):
        keys = [b"k%d" % key for key in range(KEYS) if number == 0 or (key + number) % 3]
        records = [Record(key, b"%d of %s" % (number, key)) for key in keys]
        writer = confluent if number % 2 else clients("java")
        send(writer, records, "lz4" if number % 5 == 1 else "none")
    in_transactions(
        broker, topic, f"{topic}-id", [(False, {b"k0": b"aborted", b"z": b"aborted"}), (True, {b"k1": b"committed"})]
    )
    (latest[b"k1"],) = [r for r in everything(broker, topic, "read_committed") if r[2] == b"committed"]
    send(confluent, [Record(b"k2", None)])
    # Kafka's active segment ends with the first record after its time.
    time.sleep(1)
    send(confluent, [Record(b"last", b"record")])
    return sorted(latest.values())


def test_every_library_reads_what_is_left(
    compacting: Broker, client: Client, clients: Callable[[str], Client], once: dict[Any, Any]
) -> None:
    if compacting.flavour not in once:
        expected = written(compacting, "cleaned", clients)
        until_cleaned(compacting, "cleaned", expected)
        once[compacting.flavour] = expected
    expected = once[compacting.flavour]
    read = client.consume(compacting.bootstrap, "cleaned", len(expected))
    assert [(r.offset, r.key, r.value) for r in read] == expected
    # From a gap, and from the middle of a batch.
    for first in (1, expected[3][0], expected[-3][0] + 1):
        rest = [record for record in expected if record[0] >= first]
        read = client.consume(compacting.bootstrap, "cleaned", len(rest), offset=first)
        assert [(r.offset, r.key, r.value) for r in read] == rest
    assert everything(compacting, "cleaned", "read_committed") == expected
    if compacting.dsn() is not None:
        shown = query(compacting.dsn(), "SELECT partition_offset, key, value FROM topics.cleaned ORDER BY 1")
        assert [tuple(row) for row in shown] == expected
        latest = query(compacting.dsn(), "SELECT partition_offset, key, value FROM kafka.latest('cleaned') ORDER BY 1")
        assert [tuple(row) for row in latest] == [record for record in expected if record[2] is not None]


def test_record_without_key_is_refused(compacting: Broker, confluent: Client) -> None:
    confluent.create_topic(compacting.bootstrap, "needs-keys", 1, COMPACTED)
    producer = confluent_kafka.Producer({"bootstrap.servers": compacting.bootstrap})
    errors: list[Any] = []
    producer.produce("needs-keys", b"no key", on_delivery=lambda error, _message: errors.append(error))
    assert producer.flush(30) == 0
    assert errors[0].code() == confluent_kafka.KafkaError.INVALID_RECORD
