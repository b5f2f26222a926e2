"""Features, replicas, the quorum, brokers and access control lists, asked over the raw protocol in all versions.

The expectations are what Kafka 4.4.0 answers, where it has an answer; the comparison (tests/compare) asks for more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tests.broker.rawclient import RawClient, only

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from pg_kafka.wire.messages.alter_replica_log_dirs import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirTopic,
)
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.describe_cluster import DescribeClusterRequest
from pg_kafka.wire.messages.describe_log_dirs import DescribeLogDirsRequest
from pg_kafka.wire.messages.describe_quorum import DescribeQuorumRequest, RequestPartitionData, RequestTopicData
from pg_kafka.wire.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from pg_kafka.wire.messages.list_partition_reassignments import ListPartitionReassignmentsRequest
from pg_kafka.wire.messages.unregister_broker import UnregisterBrokerRequest
from pg_kafka.wire.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest

API_VERSIONS, ALTER_REPLICA_LOG_DIRS, DESCRIBE_LOG_DIRS, ELECT_LEADERS = 18, 34, 35, 43
ALTER_REASSIGNMENTS, LIST_REASSIGNMENTS, DESCRIBE_QUORUM, UPDATE_FEATURES = 45, 46, 55, 57
DESCRIBE_CLUSTER, UNREGISTER_BROKER = 60, 64


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


# -- features ------------------------------------------------------------------------------------------------------------

LEVELS = {"group.version": 1, "metadata.version": 30, "transaction.version": 2}


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_each_feature_has_one_level(client: RawClient, version: int) -> None:
    answer = await client.call(named_client(), API_VERSIONS, version)
    assert {one.name: (one.min_version, one.max_version) for one in answer.supported_features} == {
        name: (level, level) for name, level in LEVELS.items()
    }
    assert {one.name: (one.min_version_level, one.max_version_level) for one in answer.finalized_features} == {
        name: (level, level) for name, level in LEVELS.items()
    }
    assert answer.finalized_features_epoch >= 0  # features without an epoch are none


def named_client(**more: Any) -> ApiVersionsRequest:
    return ApiVersionsRequest(client_software_name="raw", client_software_version="1", **more)


def updating(*updates: tuple[str, int, int], **more: Any) -> UpdateFeaturesRequest:
    wanted = [
        FeatureUpdateKey(feature=name, max_version_level=level, upgrade_type=kind) for name, level, kind in updates
    ]
    return UpdateFeaturesRequest(feature_updates=wanted, **more)


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_features_may_be_set_to_what_they_are(client: RawClient, version: int) -> None:
    asked = updating(*((name, level, 1) for name, level in LEVELS.items()))
    answer = await client.call(asked, UPDATE_FEATURES, version)
    assert answer.error_code == 0
    assert [one.feature for one in answer.results] == (list(LEVELS) if version < 2 else [])
    assert not any(one.error_code for one in answer.results)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (("group.version", 0, 2), "Local controller 1 only supports versions 1-1"),
        (("metadata.version", 33, 1), "Local controller 1 only supports versions 30-30"),
        (("transaction.version", -1, 3), "A feature version cannot be less than 0."),
        (("share.version", 1, 1), "Local controller 1 does not support this feature."),
        (("share.version", 0, 2), "Feature share.version not found."),
        (("group.version", 1, 7), "The controller does not support the given upgrade type."),
    ],
)
@pytest.mark.parametrize("validate_only", [True, False])
async def test_other_levels_are_refused_for_all(
    client: RawClient, update: tuple[str, int, int], reason: str, *, validate_only: bool
) -> None:
    asked = updating(("transaction.version", 2, 1), update, validate_only=validate_only)
    # Named twice, the last mention counts.
    if update[0] == "transaction.version":
        asked = updating(("transaction.version", 2, 1), update)
    answer = await client.call(asked, UPDATE_FEATURES, 2)
    assert answer.error_code == ErrorCode.INVALID_UPDATE_VERSION
    assert answer.error_message == (
        "The update failed for all features since the following feature had an error: Invalid update version "
        f"{update[1]} for feature {update[0]}. {reason}"
    )


# -- whom a client means -------------------------------------------------------------------------------------------------


async def code_for(client: RawClient, cluster_id: str | None, node_id: int) -> int:
    answer = await client.call(named_client(cluster_id=cluster_id, node_id=node_id), API_VERSIONS, 5)
    assert bool(answer.api_keys) == (answer.error_code == 0)
    code: int = answer.error_code
    return code


async def test_a_client_says_whom_it_means(client: RawClient) -> None:
    cluster = await client.call(DescribeClusterRequest(), DESCRIBE_CLUSTER, 0)
    known, node_id = cluster.cluster_id, only(cluster.brokers).broker_id
    assert await code_for(client, None, -1) == 0
    assert await code_for(client, known, node_id) == 0
    for cluster_id, other in ((known, node_id + 1), ("another", node_id), ("", node_id)):
        assert await code_for(client, cluster_id, other) == ErrorCode.REBOOTSTRAP_REQUIRED
    for cluster_id, other in ((known, -1), (None, node_id)):
        assert await code_for(client, cluster_id, other) == ErrorCode.INVALID_REQUEST
    assert await code_for(client, known, node_id) == 0  # the connection is as good as before


# -- replicas ------------------------------------------------------------------------------------------------------------


def moving(topic: str, index: int, replicas: Sequence[int] | None, **more: Any) -> AlterPartitionReassignmentsRequest:
    partition = ReassignablePartition(partition_index=index, replicas=replicas)
    return AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name=topic, partitions=[partition])], **more)


async def moved(client: RawClient, request: AlterPartitionReassignmentsRequest, version: int = 1) -> tuple[int, Any]:
    answer = await client.call(request, ALTER_REASSIGNMENTS, version)
    assert answer.error_code == 0
    one = only(only(answer.responses).partitions)
    return one.error_code, one.error_message


@pytest.mark.parametrize("version", [0, 1])
async def test_partitions_can_only_stay(client: RawClient, version: int) -> None:
    topic = await client.create_topic(partitions=2)
    manual = "The manual partition assignment includes "
    for index, replicas, expected in (
        (1, [1], (0, None)),
        (0, None, (ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, None)),
        (0, [], (ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{manual}an empty replica list.")),
        (0, [1, 1], (ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{manual}the broker 1 more than once.")),
        (
            0,
            [7, 1],
            (ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{manual}broker 7, but no such broker is registered."),
        ),
        (
            2,
            [1],
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find partition {topic.name}:2."),
        ),
    ):
        assert await moved(client, moving(topic.name, index, replicas), version) == expected
    assert await moved(client, moving("nowhere", 0, [1]), version) == (
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "Unable to find a topic named nowhere.",
    )
    listed = await client.call(ListPartitionReassignmentsRequest(topics=None), LIST_REASSIGNMENTS, 0)
    assert (listed.error_code, list(listed.topics)) == (0, [])


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_no_election_is_needed(client: RawClient, version: int) -> None:
    topic = await client.create_topic(partitions=2)
    asked = [TopicPartitions(topic=topic.name, partitions=[0, 1, 2]), TopicPartitions(topic="nowhere", partitions=[0])]
    answer = await client.call(ElectLeadersRequest(topic_partitions=asked), ELECT_LEADERS, version)
    assert [
        (one.topic, part.partition_id, part.error_code, part.error_message)
        for one in answer.replica_election_results
        for part in one.partition_result
    ] == [
        (topic.name, 0, ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition."),
        (topic.name, 1, ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition."),
        (topic.name, 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such partition as {topic.name}-2"),
        ("nowhere", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "No such topic as nowhere"),
    ]
    everything = await client.call(ElectLeadersRequest(topic_partitions=None), ELECT_LEADERS, version)
    assert topic.name in [one.topic for one in everything.replica_election_results]
    assert not any(one.partition_result for one in everything.replica_election_results)


async def test_unknown_kind_of_election(client: RawClient) -> None:
    asked = ElectLeadersRequest(election_type=2, topic_partitions=[TopicPartitions(topic="t", partitions=[0])])
    answer = await client.call(asked, ELECT_LEADERS, 2)
    one = only(only(answer.replica_election_results).partition_result)
    assert (answer.error_code, one.error_code) == (ErrorCode.INVALID_REQUEST,) * 2
    assert one.error_message == "Unknown election type 2"


@pytest.mark.parametrize("version", [1, 2])
async def test_there_is_one_log_directory(client: RawClient, version: int) -> None:
    topic = await client.create_topic()
    there = only((await client.call(DescribeLogDirsRequest(topics=[]), DESCRIBE_LOG_DIRS, 5)).results).log_dir
    for path, expected in (
        (there, {(topic.name, 0): 0, (topic.name, 1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}),
        ("/var/lib/kafka", dict.fromkeys([(topic.name, 0), (topic.name, 1)], ErrorCode.LOG_DIR_NOT_FOUND)),
    ):
        topics = [AlterReplicaLogDirTopic(name=topic.name, partitions=[0, 1])]
        asked = AlterReplicaLogDirsRequest(dirs=[AlterReplicaLogDir(path=path, topics=topics)])
        answer = await client.call(asked, ALTER_REPLICA_LOG_DIRS, version)
        assert {
            (one.topic_name, part.partition_index): part.error_code for one in answer.results for part in one.partitions
        } == expected


# -- brokers -------------------------------------------------------------------------------------------------------------


def quorum(name: str = "__cluster_metadata", *indexes: int) -> DescribeQuorumRequest:
    partitions = [RequestPartitionData(partition_index=index) for index in indexes or (0,)]
    return DescribeQuorumRequest(topics=[RequestTopicData(topic_name=name, partitions=partitions)])


async def described(client: RawClient, version: int = 2) -> Any:
    answer = await client.call(quorum(), DESCRIBE_QUORUM, version)
    assert answer.error_code == 0
    return only(only(answer.topics).partitions)


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_quorum_is_the_broker_and_moves_with_the_catalogue(client: RawClient, version: int) -> None:
    before = await described(client, version)
    await client.create_topic()
    after = await described(client, version)
    assert after.high_watermark > before.high_watermark
    voter = only(after.current_voters)
    assert (after.leader_id, voter.replica_id, list(after.observers)) == (1, 1, [])
    assert voter.log_end_offset == after.high_watermark
    assert (voter.last_caught_up_timestamp > 0) == (version > 0)


@pytest.mark.parametrize("request_", [quorum("t"), quorum("__cluster_metadata", 1), quorum("__cluster_metadata", 0, 0)])
async def test_other_quorums_are_unknown(client: RawClient, request_: DescribeQuorumRequest) -> None:
    answer = await client.call(request_, DESCRIBE_QUORUM, 2)
    assert {one.error_code for one in only(answer.topics).partitions} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}


async def test_only_brokers_that_are_there_are_registered(client: RawClient) -> None:
    answer = await client.call(UnregisterBrokerRequest(broker_id=7), UNREGISTER_BROKER, 0)
    assert answer.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED
    assert answer.error_message == "Broker ID 7 is not currently registered"
    answer = await client.call(UnregisterBrokerRequest(broker_id=1), UNREGISTER_BROKER, 0)
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert "Broker 1 is running" in answer.error_message
