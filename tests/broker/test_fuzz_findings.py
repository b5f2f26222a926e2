"""What the fuzzer of the whole broker (`tests/fuzz`) has found, as requests of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.broker.groupclient import JOIN_GROUP, joining
from tests.broker.rawclient import CREATE_TOPICS, PRODUCE, RawClient, only
from tests.wire_batches import batch, values

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

DESCRIBE_CONFIGS = 32
BROKER_RESOURCE = 4
LONGEST = "a" * 32_767


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        (CreatableTopic(name=LONGEST, num_partitions=1, replication_factor=1), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (
            CreatableTopic(
                name="fuzz-long-value",
                num_partitions=1,
                replication_factor=1,
                configs=[CreatableTopicConfig(name="retention.ms", value=LONGEST)],
            ),
            ErrorCode.INVALID_CONFIG,
        ),
    ],
    ids=["name", "config"],
)
async def test_message_that_quotes_the_longest_string_fits(
    client: RawClient, topic: CreatableTopic, code: ErrorCode
) -> None:
    for version in (2, 7):
        request = CreateTopicsRequest(topics=[topic], validate_only=True)
        refused = only((await client.call(request, CREATE_TOPICS, version)).topics)
        assert refused.error_code == code
        assert len(refused.error_message) < 2000


async def test_produce_to_the_longest_name_is_answered(client: RawClient) -> None:
    data = TopicProduceData(name=LONGEST, partition_data=[PartitionProduceData(index=0, records=batch(values(b"x")))])
    for version in (8, 9):
        request = ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[data])
        refused = only(only((await client.call(request, PRODUCE, version)).responses).partition_responses)
        assert refused.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert len(refused.error_message) < 2000


async def test_member_with_the_longest_name_gets_an_id(client: RawClient) -> None:
    request = joining("fuzz-longest-name", group_instance_id=LONGEST)
    joined = await client.call(request, JOIN_GROUP, 5)
    assert joined.error_code == ErrorCode.NONE
    assert joined.member_id.startswith("aaa") and len(joined.member_id) < 2000


async def test_description_of_a_resource_with_the_longest_name_fits(client: RawClient) -> None:
    resource = DescribeConfigsResource(resource_type=BROKER_RESOURCE, resource_name=LONGEST, configuration_keys=None)
    refused = only((await client.call(DescribeConfigsRequest(resources=[resource]), DESCRIBE_CONFIGS, 1)).results)
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert refused.resource_name == LONGEST
