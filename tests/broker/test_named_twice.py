"""A request that names a partition twice, and is the first one for it: the partition is loaded once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import (
    FETCH,
    LIST_OFFSETS,
    OFFSET_FOR_LEADER_EPOCH,
    PRODUCE,
    RawClient,
    SomeTopic,
    batch,
    fetching,
    producing,
    records_of,
)

from pg_kafka.wire.messages.describe_producers import DescribeProducersRequest, TopicRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

WRITE_TXN_MARKERS, DESCRIBE_PRODUCERS = 27, 61
PARTITIONS = 3
# The partition that is named twice, with others between.
NAMED = (0, *range(1, PARTITIONS), 0)


def produce(topic: SomeTopic) -> tuple[Any, int, int]:
    request = producing(topic, dict.fromkeys(range(PARTITIONS), batch([b"new"])))
    data = request.topic_data[0].partition_data
    data.append(data[0])
    return request, PRODUCE, 9


def fetch(topic: SomeTopic) -> tuple[Any, int, int]:
    request = fetching(topic, dict.fromkeys(range(PARTITIONS), 0))
    request.topics[0].partitions.append(request.topics[0].partitions[0])
    return request, FETCH, 12


def list_offsets(topic: SomeTopic) -> tuple[Any, int, int]:
    asked = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in NAMED]
    return (
        ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic.name, partitions=asked)]),
        LIST_OFFSETS,
        9,
    )


def offset_for_leader_epoch(topic: SomeTopic) -> tuple[Any, int, int]:
    asked = [OffsetForLeaderPartition(partition=index, leader_epoch=0) for index in NAMED]
    topics = [OffsetForLeaderTopic(topic=topic.name, partitions=asked)]
    return OffsetForLeaderEpochRequest(topics=topics), OFFSET_FOR_LEADER_EPOCH, 4


def describe_producers(topic: SomeTopic) -> tuple[Any, int, int]:
    topics = [TopicRequest(name=topic.name, partition_indexes=list(NAMED))]
    return DescribeProducersRequest(topics=topics), DESCRIBE_PRODUCERS, 0


def write_txn_markers(topic: SomeTopic) -> tuple[Any, int, int]:
    marker = WritableTxnMarker(
        producer_id=7,
        producer_epoch=0,
        transaction_result=False,
        topics=[WritableTxnMarkerTopic(name=topic.name, partition_indexes=list(NAMED))],
    )
    return WriteTxnMarkersRequest(markers=[marker, marker]), WRITE_TXN_MARKERS, 1


ASK = (produce, fetch, list_offsets, offset_for_leader_epoch, describe_producers, write_txn_markers)


@pytest.mark.parametrize("ask", ASK)
async def test_partition_named_twice_while_it_is_loaded(
    start_broker: Callable[..., Any], ask: Callable[[SomeTopic], tuple[Any, int, int]]
) -> None:
    broker = start_broker()
    async with await RawClient.connect(broker) as client:
        topic, other = await client.create_topic(partitions=PARTITIONS), await client.create_topic()
        assert (await client.produce(topic, batch([b"a", b"b"]))).base_offset == 0
        epoch = (await client.offset_at(topic, -1)).leader_epoch
        await lose_lane_sessions(broker.dsn)
        while (await client.produce(other, batch())).error_code:  # noqa: ASYNC110 - a retry, as clients do
            await asyncio.sleep(0.02)
        # What had changed since its checkpoint was forgotten by the lane, so this is what loads the partition.
        await client.call(*ask(topic), timeout_s=30)
        assert (await client.produce(topic, batch([b"last"]))).error_code == 0
        found = records_of(await client.fetch(topic, 0))
        new = [b"new", b"new"] if ask is produce else []
        values = [value for _, value in found if value is not None and len(value) < 6]
        assert values == [b"a", b"b", *new, b"last"]
        assert [offset for offset, _ in found] == list(range(len(found)))
        # No new term was begun, and nothing was held against the database.
        assert (await client.offset_at(topic, -1)).leader_epoch == epoch
    assert "leadership ended" not in broker.log.read_text()


async def lose_lane_sessions(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'pg_kafka lane%'"
    )
    await connection.close()
