"""Administrative requests over the raw protocol, in all versions. The expectations are what Kafka 4.4.0 answers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.broker.rawclient import CREATE_TOPICS, DELETE_TOPICS, RawClient, SomeTopic, batch, only, records_of

from pg_kafka.config.topics import TOPIC_KEYS
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from pg_kafka.wire.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.describe_cluster import DescribeClusterRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    RequestCursor,
    TopicRequest,
)
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

METADATA, FIND_COORDINATOR, API_VERSIONS, DESCRIBE_CONFIGS = 3, 10, 18, 32
CREATE_PARTITIONS, DESCRIBE_CLUSTER, DESCRIBE_TOPIC_PARTITIONS = 37, 60, 75
NOT_ASKED = -(2**31)
TOPIC_OPERATIONS, CLUSTER_OPERATIONS = 3576, 8096


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


def fresh(prefix: str = "admin") -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


# -- Metadata ------------------------------------------------------------------------------------------------------------


async def metadata(
    client: RawClient, names: Sequence[str] | None, version: int = 12, *, create: bool = False, **more: Any
) -> Any:
    topics = None if names is None else [MetadataRequestTopic(name=name) for name in names]
    request = MetadataRequest(topics=topics, allow_auto_topic_creation=create, **more)
    return await client.call(request, METADATA, version)


@pytest.mark.parametrize("version", range(14))
async def test_metadata_describes_brokers_and_topics(client: RawClient, broker: Any, version: int) -> None:
    topic = await client.create_topic(partitions=3)
    answer = await metadata(client, [topic.name], version)
    node = only(answer.brokers)
    assert (node.host, node.port, node.rack) == (broker.host, broker.port, None)
    assert answer.controller_id == (node.node_id if version >= 1 else -1)
    assert (answer.cluster_id is not None and len(answer.cluster_id) == 22) == (version >= 2)
    found = only(answer.topics)
    assert (found.error_code, found.name, found.is_internal) == (ErrorCode.NONE, topic.name, False)
    assert found.topic_id == (topic.id if version >= 10 else ZERO_UUID)
    assert found.topic_authorized_operations == NOT_ASKED
    assert [partition.partition_index for partition in found.partitions] == [0, 1, 2]
    for partition in found.partitions:
        assert partition.leader_id == node.node_id
        assert list(partition.replica_nodes) == list(partition.isr_nodes) == [node.node_id]
        assert list(partition.offline_replicas) == []
        assert (partition.leader_epoch >= 0) == (version >= 7)


async def test_empty_list_means_all_in_version_0_and_none_later(client: RawClient) -> None:
    topic = await client.create_topic()
    for version, names, is_all in ((0, (), True), (1, (), False), (1, None, True), (12, (), False), (12, None, True)):
        answer = await metadata(client, names, version)
        assert (topic.name in [found.name for found in answer.topics]) == is_all
        assert is_all or not answer.topics


async def test_authorized_operations_when_asked(client: RawClient) -> None:
    topic = await client.create_topic()
    for version in (8, 9, 10):
        answer = await metadata(
            client,
            [topic.name],
            version,
            include_topic_authorized_operations=True,
            include_cluster_authorized_operations=True,
        )
        assert only(answer.topics).topic_authorized_operations == TOPIC_OPERATIONS
        assert answer.cluster_authorized_operations == CLUSTER_OPERATIONS


async def test_unknown_and_invalid_names(client: RawClient) -> None:
    unknown = fresh()
    answer = await metadata(client, [unknown, "a b", ""])
    assert {topic.name: topic.error_code for topic in answer.topics} == {
        unknown: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "a b": ErrorCode.INVALID_TOPIC_EXCEPTION,
        "": ErrorCode.INVALID_TOPIC_EXCEPTION,
    }
    assert all(topic.topic_id == ZERO_UUID and not topic.partitions for topic in answer.topics)


async def test_topics_by_id(client: RawClient) -> None:
    topic = await client.create_topic()
    unknown = uuid4()
    wanted = [topic.id, unknown, topic.id]
    request = MetadataRequest(topics=[MetadataRequestTopic(topic_id=one, name=None) for one in wanted])
    for version in (12, 13):
        answer = await client.call(request, METADATA, version)
        assert [(found.name, found.topic_id, found.error_code) for found in answer.topics] == [
            (topic.name, topic.id, ErrorCode.NONE),
            (None, unknown, ErrorCode.UNKNOWN_TOPIC_ID),
        ]
    for version in (10, 11):
        answer = await client.call(
            MetadataRequest(topics=[MetadataRequestTopic(topic_id=topic.id, name=topic.name)]), METADATA, version
        )
        assert only(answer.topics).error_code == ErrorCode.INVALID_REQUEST


async def test_neither_name_nor_id_is_an_invalid_request(client: RawClient) -> None:
    answer = await client.call(MetadataRequest(topics=[MetadataRequestTopic(name=None)]), METADATA, 13)
    assert answer.error_code == ErrorCode.INVALID_REQUEST


async def test_name_twice_is_answered_once(client: RawClient) -> None:
    topic = await client.create_topic()
    assert len((await metadata(client, [topic.name, topic.name])).topics) == 1


@pytest.mark.parametrize("version", [0, 3, 4, 13])
async def test_unknown_topic_is_created_and_answered(client: RawClient, version: int) -> None:
    name = fresh()
    found = only((await metadata(client, [name], version, create=True)).topics)
    assert (found.error_code, len(found.partitions)) == (ErrorCode.NONE, 1)
    answer = await client.produce(SomeTopic(name, ZERO_UUID), batch([b"first"]))
    assert answer.error_code == ErrorCode.NONE


async def test_unknown_topic_is_not_created_when_the_client_or_the_broker_forbids_it(
    client: RawClient, start_broker: Callable[..., Any]
) -> None:
    name = fresh()
    for _ in range(2):
        found = only((await metadata(client, [name], create=False)).topics)
        assert found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    async with await RawClient.connect(start_broker(AUTO_CREATE_TOPICS_ENABLE="false")) as other:
        for _ in range(2):
            found = only((await metadata(other, [name], create=True)).topics)
            assert found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_internal_invalid_and_colliding_names_are_not_created(client: RawClient) -> None:
    name = fresh("dotted.name")
    await create(client, name)
    names = ["__consumer_offsets", "__cluster_metadata", "a/b", name.replace(".", "_")]
    answer = await metadata(client, names, create=True)
    assert [topic.error_code for topic in answer.topics] == [
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert answer.topics[0].is_internal


async def test_many_clients_may_ask_for_the_same_new_topic(broker: Any, client: RawClient) -> None:
    name = fresh()
    others = [await RawClient.connect(broker) for _ in range(10)]
    request = MetadataRequest(topics=[MetadataRequestTopic(name=name)])
    sent = [(other, other.send(request, METADATA, 12)) for other in others]
    answers = [await other.receive(METADATA, 12, number) for other, number in sent]
    for other in others:
        await other.close()
    assert {only(answer.topics).error_code for answer in answers} == {ErrorCode.NONE}
    assert len({only(answer.topics).topic_id for answer in answers}) == 1


async def test_advertised_address_is_told(start_broker: Callable[..., Any]) -> None:
    async with await RawClient.connect(start_broker(ADVERTISE="kafka.example:1234")) as client:
        node = only((await metadata(client, ())).brokers)
        assert (node.host, node.port) == ("kafka.example", 1234)


# -- CreateTopics --------------------------------------------------------------------------------------------------------


def new_topic(name: str, partitions: int = 1, replicas: int = 1, **configs: str | None) -> CreatableTopic:
    return CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=replicas,
        configs=[CreatableTopicConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()],
    )


def assigned(name: str, *assignments: tuple[int, Sequence[int]], partitions: int = -1, replicas: int = -1) -> Any:
    topic = new_topic(name, partitions, replicas)
    topic.assignments = [
        CreatableReplicaAssignment(partition_index=index, broker_ids=ids) for index, ids in assignments
    ]
    return topic


async def create(
    client: RawClient, *topics: CreatableTopic | str, version: int = 7, validate_only: bool = False
) -> list[Any]:
    wanted = [new_topic(topic) if isinstance(topic, str) else topic for topic in topics]
    request = CreateTopicsRequest(topics=wanted, timeout_ms=5000, validate_only=validate_only)
    return list((await client.call(request, CREATE_TOPICS, version)).topics)


@pytest.mark.parametrize("version", range(2, 8))
async def test_topics_are_created(client: RawClient, version: int) -> None:
    name = fresh()
    result = only(await create(client, new_topic(name, 2, 1, retention_ms=" 5 "), version=version))
    assert (result.name, result.error_code, result.error_message) == (name, ErrorCode.NONE, None)
    assert (result.topic_id != ZERO_UUID) == (version >= 7)
    if version >= 5:
        assert (result.num_partitions, result.replication_factor) == (2, 1)
        configs = {config.name: config for config in result.configs}
        assert len(configs) == len(TOPIC_KEYS)
        assert (configs["retention.ms"].value, configs["retention.ms"].config_source) == ("5", 1)
        assert (configs["segment.ms"].value, configs["segment.ms"].config_source) == ("604800000", 5)
    found = only((await metadata(client, [name])).topics)
    assert len(found.partitions) == 2


@pytest.mark.parametrize(
    ("topic", "code", "message"),
    [
        (new_topic("", 1), ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: the empty string is not allowed"),
        (new_topic("a b"), ErrorCode.INVALID_TOPIC_EXCEPTION, None),
        (new_topic("a" * 250), ErrorCode.INVALID_TOPIC_EXCEPTION, None),
        (
            new_topic("n0", 0),
            ErrorCode.INVALID_PARTITIONS,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (new_topic("n1", -2), ErrorCode.INVALID_PARTITIONS, None),
        (
            new_topic("n2", 1, 0),
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (new_topic("n3", 1, -2), ErrorCode.INVALID_REPLICATION_FACTOR, None),
        (new_topic("n4", foo="1"), ErrorCode.INVALID_CONFIG, "Unknown topic config name: foo"),
        (
            new_topic("n5", retention_ms="x"),
            ErrorCode.INVALID_CONFIG,
            "Invalid value x for configuration retention.ms: Not a number of type LONG",
        ),
        (
            new_topic("n6", retention_ms=None),
            ErrorCode.INVALID_CONFIG,
            "Null value not supported for topic configs: retention.ms",
        ),
        (
            new_topic("__cluster_metadata"),
            ErrorCode.INVALID_REQUEST,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ),
        (assigned("m1", (0, [1]), replicas=1), ErrorCode.INVALID_REQUEST, None),
        (assigned("m2", (0, [1]), partitions=1), ErrorCode.INVALID_REQUEST, None),
        (
            assigned("m3", (1, [1])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            assigned("m4", (0, [77])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes broker 77, but no such broker is registered.",
        ),
        (
            assigned("m5", (0, [])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            assigned("m6", (0, [1, 1])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            assigned("m7", (0, [1]), (0, [1])),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Found multiple manual partition assignments for partition 0",
        ),
        (
            new_topic("big", 10_001),
            ErrorCode.POLICY_VIOLATION,
            "Excessively large number of partitions per request.",
        ),
    ],
    ids=lambda value: value.name[:20] if isinstance(value, CreatableTopic) else "",
)
async def test_refused_topics(client: RawClient, topic: CreatableTopic, code: int, message: str | None) -> None:
    result = only(await create(client, topic))
    assert (result.name, result.error_code) == (topic.name, code)
    assert message is None or result.error_message == message
    assert (result.num_partitions, result.replication_factor, result.topic_id) == (-1, -1, ZERO_UUID)


async def test_one_refused_topic_does_not_stop_the_rest(client: RawClient) -> None:
    good, bad = fresh(), "bad name"
    results = {result.name: result.error_code for result in await create(client, good, bad)}
    assert results == {good: ErrorCode.NONE, bad: ErrorCode.INVALID_TOPIC_EXCEPTION}


async def test_existing_and_colliding_topics(client: RawClient) -> None:
    name = fresh("dotted.name")
    await create(client, name)
    again = only(await create(client, name))
    assert (again.error_code, again.error_message) == (
        ErrorCode.TOPIC_ALREADY_EXISTS,
        f"Topic '{name}' already exists.",
    )
    other = name.replace(".", "_")
    collision = only(await create(client, other))
    assert (collision.error_code, collision.error_message) == (
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        f"Topic '{other}' collides with existing topic: {name}",
    )


async def test_name_twice_in_a_request_is_refused_once(client: RawClient) -> None:
    twice, once = fresh(), fresh()
    results = await create(client, twice, once, twice)
    assert {result.name: result.error_code for result in results} == {
        twice: ErrorCode.INVALID_REQUEST,
        once: ErrorCode.NONE,
    }
    assert len(results) == 2


async def test_defaults_and_any_replication_factor(start_broker: Callable[..., Any]) -> None:
    async with await RawClient.connect(start_broker(NUM_PARTITIONS="4")) as client:
        result = only(await create(client, new_topic("default", -1, -1)))
        assert (result.error_code, result.num_partitions, result.replication_factor) == (ErrorCode.NONE, 4, 1)
        result = only(await create(client, new_topic("replicated", 2, 3)))
        assert (result.error_code, result.num_partitions, result.replication_factor) == (ErrorCode.NONE, 2, 1)
        found = only((await metadata(client, ["auto"], create=True)).topics)
        assert len(found.partitions) == 4


async def test_manual_assignment_to_this_broker(client: RawClient) -> None:
    node_id = only((await metadata(client, ())).brokers).node_id
    result = only(await create(client, assigned(fresh(), (1, [node_id]), (0, [node_id]))))
    assert (result.error_code, result.num_partitions) == (ErrorCode.NONE, 2)


async def test_validate_only_creates_nothing(client: RawClient) -> None:
    name = fresh()
    result = only(await create(client, new_topic(name, 3), validate_only=True))
    assert (result.error_code, result.num_partitions, len(result.configs)) == (ErrorCode.NONE, 3, len(TOPIC_KEYS))
    assert only(await create(client, "a b", validate_only=True)).error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    found = only((await metadata(client, [name])).topics)
    assert found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


# -- DeleteTopics --------------------------------------------------------------------------------------------------------


async def delete(client: RawClient, *topics: str | UUID | DeleteTopicState) -> list[tuple[Any, ...]]:
    states = [
        DeleteTopicState(name=topic)
        if isinstance(topic, str)
        else topic
        if isinstance(topic, DeleteTopicState)
        else DeleteTopicState(topic_id=topic)
        for topic in topics
    ]
    response = await client.call(DeleteTopicsRequest(topics=states, timeout_ms=5000), DELETE_TOPICS, 6)
    return [(one.name, one.topic_id, one.error_code, one.error_message) for one in response.responses]


@pytest.mark.parametrize("version", range(1, 6))
async def test_topics_are_deleted_by_name(client: RawClient, version: int) -> None:
    topic = await client.create_topic()
    request = DeleteTopicsRequest(topic_names=[topic.name, "not-there"], timeout_ms=5000)
    response = await client.call(request, DELETE_TOPICS, version)
    assert {one.name: one.error_code for one in response.responses} == {
        topic.name: ErrorCode.NONE,
        "not-there": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert only((await metadata(client, [topic.name])).topics).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_topics_are_deleted_by_id(client: RawClient) -> None:
    topic, unknown = await client.create_topic(), uuid4()
    assert only(await delete(client, topic.id)) == (topic.name, topic.id, ErrorCode.NONE, None)
    assert only(await delete(client, unknown)) == (
        None,
        unknown,
        ErrorCode.UNKNOWN_TOPIC_ID,
        "This server does not host this topic ID.",
    )


async def test_ambiguous_deletions_are_refused_and_the_topic_stays(client: RawClient) -> None:
    topic = await client.create_topic()
    both = DeleteTopicState(name=topic.name, topic_id=topic.id)
    for wanted, message in (
        ((topic.name, topic.name), "Duplicate topic name."),
        ((topic.id, topic.id), "Duplicate topic id."),
        ((topic.name, topic.id), "The provided topic name maps to an ID that was already supplied."),
        ((both,), "You may not specify both topic name and topic id."),
        ((DeleteTopicState(),), "Neither topic name nor id were specified."),
    ):
        _, _, code, said = only(await delete(client, *wanted))
        assert (code, said) == (ErrorCode.INVALID_REQUEST, message)
    assert only((await metadata(client, [topic.name])).topics).error_code == ErrorCode.NONE


async def test_topic_created_again_has_a_new_id_and_no_records(client: RawClient) -> None:
    topic = await client.create_topic()
    await client.produce(topic, batch([b"old"]))
    await delete(client, topic.name)
    again = only(await create(client, topic.name))
    assert again.error_code == ErrorCode.NONE
    assert again.topic_id not in (topic.id, ZERO_UUID)
    fetched = await client.fetch(SomeTopic(topic.name, again.topic_id), 0)
    assert (records_of(fetched), fetched.high_watermark) == ([], 0)


async def test_deletion_can_be_switched_off(start_broker: Callable[..., Any]) -> None:
    async with await RawClient.connect(start_broker(DELETE_TOPIC_ENABLE="false")) as client:
        topic = await client.create_topic()
        for version, code in ((2, ErrorCode.INVALID_REQUEST), (3, ErrorCode.TOPIC_DELETION_DISABLED)):
            request = DeleteTopicsRequest(topic_names=[topic.name], timeout_ms=5000)
            assert only((await client.call(request, DELETE_TOPICS, version)).responses).error_code == code
        assert only(await delete(client, topic.id))[2] == ErrorCode.TOPIC_DELETION_DISABLED


# -- CreatePartitions ----------------------------------------------------------------------------------------------------


async def grow(
    client: RawClient,
    *topics: tuple[str, int] | tuple[str, int, Sequence[Sequence[int]]],
    version: int = 3,
    validate_only: bool = False,
) -> list[tuple[str, int, str | None]]:
    wanted = [
        CreatePartitionsTopic(
            name=topic[0],
            count=topic[1],
            assignments=[CreatePartitionsAssignment(broker_ids=ids) for ids in topic[2]] if len(topic) == 3 else None,
        )
        for topic in topics
    ]
    request = CreatePartitionsRequest(topics=wanted, timeout_ms=5000, validate_only=validate_only)
    response = await client.call(request, CREATE_PARTITIONS, version)
    return [(one.name, one.error_code, one.error_message) for one in response.results]


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(client: RawClient, version: int) -> None:
    topic = await client.create_topic()
    assert await grow(client, (topic.name, 3), version=version) == [(topic.name, ErrorCode.NONE, None)]
    assert len(only((await metadata(client, [topic.name])).topics).partitions) == 3
    assert (await client.produce(topic, batch([b"x"]), 2)).base_offset == 0


async def test_refused_growth(client: RawClient) -> None:
    topic = await client.create_topic(partitions=2)
    node_id = only((await metadata(client, ())).brokers).node_id
    name = topic.name
    for wanted, code, message in (
        ((name, 2), ErrorCode.INVALID_PARTITIONS, "Topic already has 2 partition(s)."),
        (
            (name, 1),
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {name} currently has 2 partition(s); 1 would not be an increase.",
        ),
        ((name, -1), ErrorCode.INVALID_PARTITIONS, None),
        ((fresh(), 3), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None),
        (
            (name, 4, [[node_id]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (
            (name, 3, [[99]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes broker 99, but no such broker is registered.",
        ),
        ((name, 20_000), ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request."),
    ):
        _, found, said = only(await grow(client, wanted))
        assert found == code
        assert message is None or said == message
    assert await grow(client, (name, 3), (name, 4)) == [(name, ErrorCode.INVALID_REQUEST, "Duplicate topic name.")]
    assert only(await grow(client, (name, 3), validate_only=True))[1] == ErrorCode.NONE
    assert len(only((await metadata(client, [name])).topics).partitions) == 2
    assert only(await grow(client, (name, 3, [[node_id]])))[1] == ErrorCode.NONE


# -- DescribeTopicPartitions ---------------------------------------------------------------------------------------------


async def pages_of(
    client: RawClient, names: Sequence[str], limit: int = 2000, cursor: tuple[str, int] | None = None
) -> tuple[list[tuple[str, int, list[int]]], tuple[str, int] | None]:
    request = DescribeTopicPartitionsRequest(
        topics=[TopicRequest(name=name) for name in names],
        response_partition_limit=limit,
        cursor=None if cursor is None else RequestCursor(topic_name=cursor[0], partition_index=cursor[1]),
    )
    answer = await client.call(request, DESCRIBE_TOPIC_PARTITIONS, 0)
    topics = [
        (topic.name, topic.error_code, [partition.partition_index for partition in topic.partitions])
        for topic in answer.topics
    ]
    following = answer.next_cursor
    return topics, None if following is None else (following.topic_name, following.partition_index)


async def test_topic_partitions_come_in_pages(client: RawClient) -> None:
    stem = fresh()
    a, b, unknown = f"{stem}-a", f"{stem}-b", f"{stem}-c"
    await create(client, new_topic(a, 4), new_topic(b, 5))
    missing = (unknown, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])
    names = [b, unknown, a, a]
    assert await pages_of(client, names) == ([(a, 0, [0, 1, 2, 3]), (b, 0, [0, 1, 2, 3, 4]), missing], None)
    assert await pages_of(client, names, 6) == ([(a, 0, [0, 1, 2, 3]), (b, 0, [0, 1])], (b, 2))
    assert await pages_of(client, names, 6, (b, 2)) == ([(b, 0, [2, 3, 4]), missing], None)
    assert await pages_of(client, names, 4) == ([(a, 0, [0, 1, 2, 3])], (b, 0))
    assert await pages_of(client, names, 0) == ([(a, 0, [0])], (a, 1))
    assert await pages_of(client, [a], 1, (a, 9)) == ([(a, 0, [])], None)
    assert await pages_of(client, [a], 1, (a, -1)) == ([(a, ErrorCode.INVALID_REQUEST, [])], None)
    assert await pages_of(client, [a], 1, (b, 0)) == ([(a, ErrorCode.INVALID_REQUEST, [])], None)
    assert await pages_of(client, ["a b"]) == ([("a b", ErrorCode.INVALID_TOPIC_EXCEPTION, [])], None)


async def test_all_topics_can_be_paged_through(client: RawClient) -> None:
    stem = fresh("zz")
    await create(client, *(new_topic(f"{stem}-{index}", 3) for index in range(3)))
    seen: dict[str, list[int]] = {}
    cursor: tuple[str, int] | None = (stem, 0)
    while cursor is not None:
        topics, cursor = await pages_of(client, [], 2, cursor)
        for name, code, partitions in topics:
            assert code == ErrorCode.NONE
            seen.setdefault(name, []).extend(partitions)
    assert {name: found for name, found in seen.items() if name.startswith(stem)} == {
        f"{stem}-{index}": [0, 1, 2] for index in range(3)
    }


# -- DescribeCluster, FindCoordinator, ApiVersions -----------------------------------------------------------------------


@pytest.mark.parametrize("version", range(3))
async def test_cluster_is_described(client: RawClient, broker: Any, version: int) -> None:
    answer = await client.call(DescribeClusterRequest(), DESCRIBE_CLUSTER, version)
    node = only(answer.brokers)
    assert (answer.error_code, answer.controller_id, len(answer.cluster_id)) == (ErrorCode.NONE, node.broker_id, 22)
    assert (node.host, node.port, node.is_fenced) == (broker.host, broker.port, False)
    assert answer.cluster_authorized_operations == NOT_ASKED
    answer = await client.call(
        DescribeClusterRequest(include_cluster_authorized_operations=True), DESCRIBE_CLUSTER, version
    )
    assert answer.cluster_authorized_operations == CLUSTER_OPERATIONS


async def test_other_endpoint_types_are_refused(client: RawClient) -> None:
    for endpoint_type, code in ((2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)):
        answer = await client.call(DescribeClusterRequest(endpoint_type=endpoint_type), DESCRIBE_CLUSTER, 1)
        assert (answer.error_code, list(answer.brokers)) == (code, [])


@pytest.mark.parametrize("version", range(7))
@pytest.mark.parametrize(("key_type", "code"), [(0, 0), (1, 0), (2, 42), (7, 42)])
async def test_coordinators_are_this_broker(
    client: RawClient, broker: Any, version: int, key_type: int, code: int
) -> None:
    if version == 0 and key_type:
        return
    request = FindCoordinatorRequest(key="a", key_type=key_type, coordinator_keys=["a", "b", "a", ""])
    answer = await client.call(request, FIND_COORDINATOR, version)
    address = (broker.host, broker.port) if not code else ("", -1)
    if version < 4:
        assert (answer.error_code, (answer.host, answer.port)) == (code, address)
        assert (answer.node_id == -1) == bool(code)
        return
    assert [one.key for one in answer.coordinators] == ["a", "b", "a", ""]
    for one in answer.coordinators:
        assert (one.error_code, (one.host, one.port)) == (code, address)


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_are_told(client: RawClient, version: int) -> None:
    request = ApiVersionsRequest(client_software_name="raw", client_software_version="1")
    answer = await client.call(request, API_VERSIONS, version)
    assert answer.error_code == ErrorCode.NONE
    assert {api.api_key: api.min_version for api in answer.api_keys}[0] == 0


# -- DescribeConfigs -----------------------------------------------------------------------------------------------------


async def configs(
    client: RawClient, resource_type: int, name: str, keys: Sequence[str] | None = None, version: int = 4, **more: Any
) -> Any:
    resource = DescribeConfigsResource(resource_type=resource_type, resource_name=name, configuration_keys=keys)
    request = DescribeConfigsRequest(resources=[resource], **more)
    return only((await client.call(request, DESCRIBE_CONFIGS, version)).results)


@pytest.mark.parametrize("version", range(1, 5))
async def test_topic_configs_are_described(client: RawClient, version: int) -> None:
    topic = await client.create_topic(retention_ms="5", cleanup_policy="compact, delete")
    for keys in (None, ()):
        assert len((await configs(client, 2, topic.name, keys, version)).configs) == len(TOPIC_KEYS)
    wanted = ["retention.ms", "cleanup.policy", "foo", "preallocate"]
    result = await configs(client, 2, topic.name, wanted, version, include_synonyms=True, include_documentation=True)
    assert result.error_code == ErrorCode.NONE
    found = {entry.name: entry for entry in result.configs}
    assert {name: entry.value for name, entry in found.items()} == {
        "retention.ms": "5",
        "cleanup.policy": "compact,delete",
        "preallocate": "false",
    }
    assert {name: entry.config_source for name, entry in found.items()} == {
        "retention.ms": 1,
        "cleanup.policy": 1,
        "preallocate": 5,
    }
    assert [(s.name, s.value, s.source) for s in found["cleanup.policy"].synonyms] == [
        ("cleanup.policy", "compact,delete", 1),
        ("log.cleanup.policy", "delete", 5),
    ]
    if version >= 3:
        assert [found[name].config_type for name in ("retention.ms", "cleanup.policy", "preallocate")] == [5, 7, 1]
        assert found["retention.ms"].documentation


async def test_broker_settings_show_where_they_come_from(start_broker: Callable[..., Any]) -> None:
    async with await RawClient.connect(start_broker(NUM_PARTITIONS="4")) as client:
        node_id = str(only((await metadata(client, ())).brokers).node_id)
        result = await configs(client, 4, node_id, ["num.partitions", "message.max.bytes"], include_synonyms=True)
        found = {entry.name: entry for entry in result.configs}
        partitions = found["num.partitions"]
        assert (partitions.value, partitions.config_source, partitions.config_type) == ("4", 4, 3)
        assert [(s.value, s.source) for s in partitions.synonyms] == [("4", 4), ("1", 5)]
        assert (found["message.max.bytes"].value, found["message.max.bytes"].config_source) == ("1048588", 5)
        everything = await configs(client, 4, node_id)
        assert "database" not in {entry.name for entry in everything.configs}
        assert list((await configs(client, 4, "")).configs) == []


@pytest.mark.parametrize(
    ("resource_type", "name", "code", "message"),
    [
        (2, "not-there", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ""),
        (2, "a b", ErrorCode.INVALID_TOPIC_EXCEPTION, None),
        (2, "", ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: the empty string is not allowed"),
        (4, "99", ErrorCode.INVALID_REQUEST, None),
        (4, "x", ErrorCode.INVALID_REQUEST, "Broker id must be an integer, but it is: x"),
        (8, "99", ErrorCode.INVALID_REQUEST, None),
        (8, "", ErrorCode.INVALID_REQUEST, "Broker id must not be empty"),
        (16, "", ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty"),
        (16, "x", ErrorCode.NONE, ""),
        (32, "", ErrorCode.INVALID_REQUEST, "Group name must not be empty"),
        (0, "x", ErrorCode.INVALID_REQUEST, None),
        (64, "x", ErrorCode.INVALID_REQUEST, None),
    ],
)
async def test_other_resources(
    client: RawClient, resource_type: int, name: str, code: int, message: str | None
) -> None:
    result = await configs(client, resource_type, name)
    assert (result.resource_type, result.resource_name, result.error_code) == (resource_type, name, code)
    assert message is None or result.error_message == message
    defaults = [] if (resource_type, name) != (16, "x") else ["interval.ms", "match", "metrics"]
    assert [config.name for config in result.configs] == defaults


async def test_config_without_effect_is_a_warning_once(start_broker: Callable[..., Any]) -> None:
    running = start_broker()
    async with await RawClient.connect(running) as client:
        for _ in range(3):
            await client.create_topic(flush_ms="5", max_message_bytes="1000", preallocate="false")
    lines = [line for line in running.log.read_text().splitlines() if "has no effect" in line]
    assert len(lines) == 1
    assert "level=warning" in lines[0]
    assert "config=flush.ms" in lines[0]
