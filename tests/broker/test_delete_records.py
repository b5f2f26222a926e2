"""DeleteRecords over the raw protocol, and what it does to those who read. The rules are those of Kafka 4.4.0."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import (
    CREATE_TOPICS,
    FETCH,
    OFFSET_FOR_LEADER_EPOCH,
    RawClient,
    SomeTopic,
    answered,
    batch,
    fetching,
    offsets_of,
)
from tests.broker.test_fetch import LONG_WAIT_MS, Session, filled

from pg_kafka.broker.handlers.list_offsets import EARLIEST, LATEST, MAX_TIMESTAMP
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.delete_records import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)

DELETE_RECORDS = 21


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as connected:
        yield connected


@pytest.fixture
async def other(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as connected:
        yield connected


async def deleted(
    client: RawClient, name: str, *wanted: tuple[int, int], version: int = 2
) -> list[tuple[int, int, int]]:
    """Partition, low watermark and error of each answer."""
    partitions = [DeleteRecordsPartition(partition_index=index, offset=offset) for index, offset in wanted]
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=name, partitions=partitions)], timeout_ms=30_000)
    answer = await client.call(request, DELETE_RECORDS, version)
    (topic,) = answer.topics
    assert topic.name == name
    return [(one.partition_index, one.low_watermark, one.error_code) for one in topic.partitions]


@pytest.mark.parametrize("version", range(3))
async def test_the_log_begins_where_it_was_asked_to(client: RawClient, version: int) -> None:
    topic = await filled(client, 2, 2, 2, partitions=2)
    assert await deleted(client, topic.name, (0, 3), (1, 0), version=version) == [(0, 3, 0), (1, 0, 0)]
    assert (await client.offset_at(topic, EARLIEST)).offset == 3
    assert (await client.offset_at(topic, LATEST)).offset == 6
    below = await client.fetch(topic, 2)
    assert (below.error_code, below.log_start_offset, below.high_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, 3, 6)
    # The batch that holds the first record is given whole, as in Kafka.
    assert offsets_of(await client.fetch(topic, 3)) == [2, 3, 4, 5]
    answer = await client.produce(topic, batch())
    assert (answer.base_offset, answer.log_start_offset) == (6, 3)
    assert await deleted(client, topic.name, (0, 2)) == [(0, 3, 0)]  # never back
    assert await deleted(client, topic.name, (0, -1)) == [(0, 7, 0)]
    assert (await client.offset_at(topic, EARLIEST)).offset == 7
    assert (await client.fetch(topic, 7)).error_code == 0
    assert (await client.produce(topic, batch())).base_offset == 7


async def test_errors_are_kafkas(client: RawClient) -> None:
    topic = await filled(client, 3, partitions=2)
    out_of_range, unknown = int(ErrorCode.OFFSET_OUT_OF_RANGE), int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    for offset in (4, -2, 2**63 - 1, -(2**63)):
        assert await deleted(client, topic.name, (0, offset)) == [(0, -1, out_of_range)]
    wanted = ((2, 0), (0, 4), (1, 0), (-1, 0))
    assert await deleted(client, topic.name, *wanted) == [
        (2, -1, unknown),
        (0, -1, out_of_range),
        (1, 0, 0),
        (-1, -1, unknown),
    ]
    assert await deleted(client, "nowhere", (0, 0)) == [(0, -1, unknown)]
    assert await deleted(client, topic.name, (0, 9), (0, 1)) == [(0, 1, 0)]  # the last one counts
    assert (await client.call(DeleteRecordsRequest(), DELETE_RECORDS, 2)).topics == ()


@pytest.mark.parametrize(
    ("policy", "code"), [("compact", ErrorCode.POLICY_VIOLATION), ("compact,delete", 0), ("delete", 0)]
)
async def test_topics_that_are_compacted_only_keep_their_records(client: RawClient, policy: str, code: int) -> None:
    topic = await client.create_topic(**{"cleanup.policy": policy})
    # The policy comes first: the offset is out of range as well.
    offset = 5 if code else 0
    assert await deleted(client, topic.name, (0, offset)) == [(0, -1 if code else 0, code)]


async def test_internal_topics_are_refused(client: RawClient, broker: Any) -> None:
    connection = await asyncpg.connect(broker.dsn)
    await connection.execute("INSERT INTO kafka.topics (name, partitions) VALUES ('__share_group_state', 1)")
    await connection.close()
    async with asyncio.timeout(20):
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        while (await deleted(client, "__share_group_state", (0, 0)))[0][2] == unknown:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await deleted(client, "__share_group_state", (0, 0)) == [(0, -1, ErrorCode.INVALID_TOPIC_EXCEPTION)]


async def test_a_parked_fetch_before_the_new_start_is_told_at_once(client: RawClient, other: RawClient) -> None:
    topic = await filled(client, 3)
    sent = client.send(fetching(topic, {0: 1}, max_wait_ms=LONG_WAIT_MS, min_bytes=1 << 20), FETCH, 12)
    # Its answer cannot come before the requests of the same connection, so another one asks until it is there.
    assert await deleted(other, topic.name, (0, 2)) == [(0, 2, 0)]
    answer = answered(await client.receive(FETCH, 12, sent))[0]
    assert (answer.error_code, answer.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 2)


async def test_a_session_is_told_where_the_log_begins_with_its_next_answer(client: RawClient, other: RawClient) -> None:
    topic = await filled(client, 3, partitions=2)
    session = Session(client, topic, 12)
    await session.fetch({0: 3, 1: 3})
    assert await session.fetch({}, max_wait_ms=1) == {}
    await deleted(other, topic.name, (1, 2))
    (news,) = (await session.fetch({}, max_wait_ms=1)).items()
    assert (news[0], news[1].error_code, news[1].log_start_offset) == (1, 0, 2)
    assert await session.fetch({}, max_wait_ms=1) == {}


async def test_epochs_before_the_start_are_forgotten_as_in_kafka(client: RawClient) -> None:
    topic = await filled(client, 3)
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch
    await deleted(client, topic.name, (0, 2))
    request = OffsetForLeaderEpochRequest(
        topics=[
            OffsetForLeaderTopic(
                topic=topic.name, partitions=[OffsetForLeaderPartition(partition=0, leader_epoch=epoch - 1)]
            )
        ]
    )
    answer = await client.call(request, OFFSET_FOR_LEADER_EPOCH, 3)
    (partition,) = answer.topics[0].partitions
    assert partition.end_offset == (2 if epoch else -1)
    assert (await client.offset_at(topic, EARLIEST)).leader_epoch == epoch


async def test_times_are_those_of_what_is_left(client: RawClient) -> None:
    topic = await client.create_topic()
    for number, timestamp in enumerate((5_000, 9_000, 1_000, 3_000, 2_000)):
        await client.produce(topic, batch([b"%d" % number], timestamps=[timestamp]))
    assert (await client.offset_at(topic, MAX_TIMESTAMP)).offset == 1
    await deleted(client, topic.name, (0, 2))
    found = await client.offset_at(topic, MAX_TIMESTAMP)
    assert (found.offset, found.timestamp) == (3, 3_000)
    assert (await client.offset_at(topic, 1_500)).offset == 3
    assert (await client.offset_at(topic, 4_000)).offset == -1
    await deleted(client, topic.name, (0, -1))
    assert (await client.offset_at(topic, MAX_TIMESTAMP)).offset == -1


@pytest.mark.parametrize(("layout", "codec"), [("rows", 0), ("batches", 1)])
async def test_times_within_a_row_that_is_left_in_part(client: RawClient, layout: str, codec: int) -> None:
    topic = await client.create_topic(**{"storage.layout": layout})
    await client.produce(topic, batch([b"v"] * 3, timestamps=[7_000, 1_000, 4_000], compression=codec))
    await client.produce(topic, batch([b"v"], timestamps=[2_000]))
    await deleted(client, topic.name, (0, 1))
    found = await client.offset_at(topic, MAX_TIMESTAMP)
    assert (found.offset, found.timestamp) == (2, 4_000)
    await deleted(client, topic.name, (0, 3))
    assert (await client.offset_at(topic, MAX_TIMESTAMP)).offset == 3


async def test_it_survives_a_restart(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    async with await RawClient.connect(broker) as client:
        topic = await filled(client, 2, 2)
        assert await deleted(client, topic.name, (0, 3)) == [(0, 3, 0)]
    broker.process.kill()
    broker.process.wait()
    broker = start_broker()
    async with await RawClient.connect(broker) as client:
        assert (await client.offset_at(topic, EARLIEST)).offset == 3
        assert (await client.fetch(topic, 2)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert offsets_of(await client.fetch(topic, 3)) == [3]


async def test_sql_moves_the_start_of_the_running_broker(broker: Any, client: RawClient) -> None:
    topic = await filled(client, 3, partitions=2)
    connection = await asyncpg.connect(broker.dsn)
    assert await connection.fetchval("SELECT kafka.delete_records($1, 0, 2)", topic.name) == 2
    await connection.close()
    async with asyncio.timeout(20):
        while (await client.offset_at(topic, EARLIEST)).offset != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await client.fetch(topic, 1)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert offsets_of(await client.fetch(topic, 2)) == [0, 1, 2]


async def test_a_topic_made_again_begins_at_zero(client: RawClient) -> None:
    topic = await filled(client, 3)
    await deleted(client, topic.name, (0, -1))
    await client.delete_topic(topic)
    request = CreateTopicsRequest(topics=[CreatableTopic(name=topic.name, num_partitions=1, replication_factor=1)])
    (made,) = (await client.call(request, CREATE_TOPICS, 7)).topics
    again = SomeTopic(topic.name, made.topic_id)
    assert again.id != topic.id
    assert (await client.fetch(topic, 3, version=13)).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert (await client.offset_at(again, EARLIEST)).offset == 0
    assert (await client.produce(again, batch())).base_offset == 0
    assert offsets_of(await client.fetch(again, 0, version=13)) == [0]
