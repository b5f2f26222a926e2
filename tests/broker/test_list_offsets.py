"""ListOffsets over the raw protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from tests.broker.rawclient import LIST_OFFSETS, RawClient, SomeTopic, batch, only

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = range(-1, -7, -1)


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


async def stamped(client: RawClient, *batches: list[int]) -> SomeTopic:
    """A topic with records of these timestamps, a batch for each list."""
    topic = await client.create_topic()
    for stamps in batches:
        await client.produce(topic, batch([b"v"] * len(stamps), timestamps=stamps))
    return topic


def found(answer: ListOffsetsPartitionResponse) -> tuple[int, int, int]:
    return answer.error_code, answer.offset, answer.timestamp


@pytest.mark.parametrize("version", range(1, 12))
async def test_both_ends_in_every_version(client: RawClient, version: int) -> None:
    topic = await stamped(client, [10, 20, 30])
    assert found(await client.offset_at(topic, LATEST, version=version)) == (0, 3, -1)
    assert found(await client.offset_at(topic, EARLIEST, version=version)) == (0, 0, -1)


async def test_empty_partition(client: RawClient) -> None:
    topic = await client.create_topic()
    assert found(await client.offset_at(topic, LATEST)) == (0, 0, -1)
    assert found(await client.offset_at(topic, EARLIEST)) == (0, 0, -1)
    assert found(await client.offset_at(topic, MAX_TIMESTAMP)) == (0, -1, -1)
    assert found(await client.offset_at(topic, 5)) == (0, -1, -1)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (0, (0, 100)),
        (100, (0, 100)),
        (101, (1, 200)),
        (200, (1, 200)),
        (250, (3, 300)),
        (300, (3, 300)),
        (301, (-1, -1)),
    ],
)
async def test_first_record_at_or_after_a_time(client: RawClient, timestamp: int, expected: tuple[int, int]) -> None:
    topic = await stamped(client, [100, 200, 150], [300, 120], [300])
    assert found(await client.offset_at(topic, timestamp)) == (0, *expected)


async def test_max_timestamp_names_its_first_record(client: RawClient) -> None:
    topic = await stamped(client, [100, 500], [200, 500, 300])
    assert found(await client.offset_at(topic, MAX_TIMESTAMP)) == (0, 1, 500)


async def test_without_tiered_storage(client: RawClient) -> None:
    topic = await stamped(client, [100])
    assert found(await client.offset_at(topic, EARLIEST_LOCAL)) == (0, 0, -1)
    assert found(await client.offset_at(topic, LATEST_TIERED)) == (0, -1, -1)
    assert found(await client.offset_at(topic, EARLIEST_PENDING_UPLOAD, version=11)) == (0, -1, -1)


@pytest.mark.parametrize(
    ("timestamp", "first_version"),
    [
        (MAX_TIMESTAMP, 7),
        (EARLIEST_LOCAL, 8),
        (LATEST_TIERED, 9),
        (EARLIEST_PENDING_UPLOAD, 11),
        (-7, 12),
        (-(2**63), 12),
    ],
)
async def test_special_times_need_their_version(client: RawClient, timestamp: int, first_version: int) -> None:
    topic = await stamped(client, [100])
    for version in range(1, 12):
        answer = await client.offset_at(topic, timestamp, version=version)
        assert answer.error_code == (0 if version >= first_version else ErrorCode.UNSUPPORTED_VERSION)


async def test_leader_epoch_is_returned_and_checked(client: RawClient) -> None:
    topic = await stamped(client, [100])
    epoch = (await client.offset_at(topic, LATEST)).leader_epoch
    assert epoch >= 0
    assert (await client.offset_at(topic, 50)).leader_epoch == epoch
    assert (await client.offset_at(topic, EARLIEST)).leader_epoch == epoch
    newer = await client.offset_at(topic, LATEST, current_leader_epoch=epoch + 1)
    assert newer.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH
    if epoch > 0:
        older = await client.offset_at(topic, LATEST, current_leader_epoch=epoch - 1)
        assert older.error_code == ErrorCode.FENCED_LEADER_EPOCH


async def test_unknown_topics_and_partitions(client: RawClient) -> None:
    topic = await stamped(client, [100])
    for one, partition in ((topic, 1), (topic, -1), (SomeTopic("nowhere", UUID(int=5)), 0)):
        answer = await client.offset_at(one, LATEST, partition)
        assert found(answer) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1)


async def test_partition_named_twice_is_invalid_and_the_others_are_not(client: RawClient) -> None:
    topic = await client.create_topic(partitions=2)
    asked = [ListOffsetsPartition(partition_index=index, timestamp=LATEST) for index in (0, 1, 0)]
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name=topic.name, partitions=asked)])
    response = await client.call(request, LIST_OFFSETS, 9)
    invalid = ErrorCode.INVALID_REQUEST
    assert [one.error_code for one in only(response.topics).partitions] == [invalid, 0, invalid]
