"""The log is rows: what clients wrote, SQL reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiokafka.admin
import asyncpg
import confluent_kafka
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import CODECS, Client
from tests.clients.records import EPOCH_MS, SHAPES, Record, at_offsets, numbered

CALL_S = 30.0


@pytest.fixture
def dsn(broker: Broker) -> str:
    """Where SQL reaches the broker's database."""
    dsn = broker.dsn()
    if dsn is None:
        pytest.skip(f"{broker.flavour} has no SQL")
    return dsn


def query(dsn: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of one statement on a connection of its own."""

    async def work() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    return asyncio.run(work())


def wait_for_view(dsn: str, topic: str) -> str:
    """The quoted name of the topic's view, which appears moments after the topic."""
    deadline = time.monotonic() + 20
    while not query(dsn, "SELECT FROM pg_views WHERE schemaname = 'topics' AND viewname = $1", topic):
        assert time.monotonic() < deadline, f"no view of {topic}"
        time.sleep(0.1)
    return f'topics."{topic}"'


def from_row(row: asyncpg.Record) -> Record:
    headers = tuple((header["key"], header["value"]) for header in row["headers"] or ())
    return Record(row["key"], row["value"], headers, row["timestamp_ms"], row["partition_offset"])


@pytest.mark.parametrize("writer", ["confluent-kafka", "java", "franz-go"])
def test_view_of_a_topic_has_what_was_written(
    broker: Broker, dsn: str, writer: str, clients: Callable[[str], Client], new_topic: Callable[..., str]
) -> None:
    client = clients(writer)
    topic = new_topic(len(CODECS))
    for partition, codec in enumerate(CODECS):
        client.produce(broker.bootstrap, topic, SHAPES, partition=partition, codec=codec)
    view = wait_for_view(dsn, topic)
    for partition in range(len(CODECS)):
        rows = query(dsn, f"SELECT * FROM {view} WHERE partition_id = $1 ORDER BY partition_offset", partition)
        assert [from_row(row) for row in rows] == at_offsets(SHAPES, range(len(SHAPES)))


def test_acknowledged_means_committed(broker: Broker, dsn: str, confluent: Client, topic: str) -> None:
    """Another session sees a record as soon as its producer knows its offset."""
    view = wait_for_view(dsn, topic)
    producer = confluent.producer(broker.bootstrap)
    for place in range(20):
        assert producer.send(topic, numbered(1, first=place)) == [place]
        rows = query(dsn, f"SELECT max(partition_offset) AS last FROM {view}")
        assert rows[0]["last"] == place
    producer.close()


def test_counts_sums_and_times(broker: Broker, dsn: str, confluent: Client, topic: str) -> None:
    confluent.produce(broker.bootstrap, topic, numbered(20_000), codec="zstd")
    view = wait_for_view(dsn, topic)
    (row,) = query(
        dsn,
        f"SELECT count(*) AS n, sum(length(value)) AS bytes, min(timestamp_ms) AS first, max(timestamp_ms) AS last,"
        f" count(DISTINCT global_offset) AS global FROM {view}",
    )
    assert dict(row) == {
        "n": 20_000,
        "bytes": 2_000_000,
        "first": EPOCH_MS,
        "last": EPOCH_MS + 19_999,
        "global": 20_000,
    }


def test_read_returns_a_range_of_offsets(broker: Broker, dsn: str, confluent: Client, topic: str) -> None:
    records = numbered(5000)
    confluent.produce(broker.bootstrap, topic, records)
    rows = query(dsn, "SELECT * FROM kafka.read($1, 0, 2345, 2445)", topic)
    assert [from_row(row) for row in rows] == at_offsets(records, range(5000))[2345:2445]


def test_kafka_topics_lists_names_and_partitions(broker: Broker, dsn: str, new_topic: Callable[..., str]) -> None:
    topic = new_topic(4)
    rows = query(dsn, "SELECT name, partitions FROM kafka.topics WHERE name = $1", topic)
    assert [tuple(row) for row in rows] == [(topic, 4)]


def test_metadata_of_commits_is_there_for_clients_and_in_sql(
    broker: Broker, dsn: str, new_topic: Callable[..., str]
) -> None:
    """Librdkafka's clients end it with a NUL, in a plain commit and in one that goes with a transaction."""
    topic, group = new_topic(2), new_topic()
    metadata = '{"step": 7, "who": "é"}'
    settings = {"bootstrap.servers": broker.bootstrap, "group.id": group, "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(settings)
    consumer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 5, metadata)], asynchronous=False)
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": group})
    producer.init_transactions(CALL_S)
    producer.begin_transaction()
    place = confluent_kafka.TopicPartition(topic, 1, 6, metadata)
    producer.send_offsets_to_transaction([place], consumer.consumer_group_metadata(), CALL_S)
    producer.commit_transaction(CALL_S)
    asked = [confluent_kafka.TopicPartition(topic, partition) for partition in range(2)]
    committed = consumer.committed(asked, timeout=CALL_S)
    consumer.close()
    assert [(one.offset, one.metadata) for one in committed] == [(5, metadata), (6, metadata)]

    async def ask_another_client() -> list[tuple[int, str]]:
        admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        found = await admin.list_consumer_group_offsets(group)
        await admin.close()
        return sorted((place.partition, one.metadata) for place, one in found.items())

    seen = asyncio.run(ask_another_client())
    assert seen == [(0, metadata + "\0"), (1, metadata + "\0")]
    rows = query(
        dsn,
        "SELECT metadata, metadata::jsonb ->> 'who' AS who, metadata_bytes FROM kafka.consumer_offsets"
        " WHERE group_id = $1 ORDER BY partition_id",
        group,
    )
    assert [tuple(row) for row in rows] == [(metadata, "é", metadata.encode() + b"\0")] * 2
