"""A request of every API, for each thing that its row of the dispatch table asks permission for."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.broker.rawclient import RawClient, SomeTopic, batch, fetching, producing

from pg_kafka.wire.message import Message
from pg_kafka.wire.messages import (
    alter_configs,
    consumer_group_describe,
    describe_producers,
    describe_topic_partitions,
)
from pg_kafka.wire.messages.add_offsets_to_txn import AddOffsetsToTxnRequest
from pg_kafka.wire.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from pg_kafka.wire.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    OpData,
    RequestEntityData,
    RequestEntryData,
)
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
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    ScramCredentialDeletion,
)
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest
from pg_kafka.wire.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.describe_acls import DescribeAclsRequest
from pg_kafka.wire.messages.describe_client_quotas import DescribeClientQuotasRequest
from pg_kafka.wire.messages.describe_cluster import DescribeClusterRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.describe_log_dirs import DescribeLogDirsRequest
from pg_kafka.wire.messages.describe_quorum import DescribeQuorumRequest, RequestPartitionData, RequestTopicData
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.describe_user_scram_credentials import DescribeUserScramCredentialsRequest, UserName
from pg_kafka.wire.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from pg_kafka.wire.messages.end_txn import EndTxnRequest
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.get_telemetry_subscriptions import GetTelemetrySubscriptionsRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.incremental_alter_configs import AlterConfigsResource, IncrementalAlterConfigsRequest
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.list_config_resources import ListConfigResourcesRequest
from pg_kafka.wire.messages.list_groups import ListGroupsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.list_partition_reassignments import ListPartitionReassignmentsRequest
from pg_kafka.wire.messages.list_transactions import ListTransactionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from pg_kafka.wire.messages.push_telemetry import PushTelemetryRequest
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest
from pg_kafka.wire.messages.sync_group import SyncGroupRequest
from pg_kafka.wire.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from pg_kafka.wire.messages.unregister_broker import UnregisterBrokerRequest
from pg_kafka.wire.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

TOPIC, BROKER, GROUP = 2, 4, 32  # resources with configs
OFFSET_COMMIT, INIT_PRODUCER_ID, ADD_PARTITIONS, DESCRIBE_LOG_DIRS, CONSUMER_HEARTBEAT = 8, 22, 24, 35, 68


@dataclass
class Scene:
    """What there is to ask for: a topic, a group with a commit, one with a member, and an open transaction."""

    topic: SomeTopic
    group: str = field(default_factory=lambda: f"group-{secrets.token_hex(6)}")
    members: str = field(default_factory=lambda: f"members-{secrets.token_hex(6)}")
    transactional_id: str = field(default_factory=lambda: f"transactional-{secrets.token_hex(6)}")
    producer: tuple[int, int] = (-1, -1)
    log_dir: str = ""

    @property
    def name(self) -> str:
        return self.topic.name


async def set_up(client: RawClient) -> Scene:
    scene = Scene(await client.create_topic())
    described = await client.call(DescribeLogDirsRequest(topics=[]), DESCRIBE_LOG_DIRS, 5)
    scene.log_dir = described.results[0].log_dir
    assert not codes(await client.call(of("OffsetCommit")(scene), OFFSET_COMMIT, 9))
    joined = await client.call(of("ConsumerGroupHeartbeat")(scene), CONSUMER_HEARTBEAT, 1)
    assert not joined.error_code
    begun = await client.call(of("InitProducerId", "with a transactional id")(scene), INIT_PRODUCER_ID, 4)
    scene.producer = (begun.producer_id, begun.producer_epoch)
    assert not codes(await client.call(of("AddPartitionsToTxn", "below version 4")(scene), ADD_PARTITIONS, 3))
    return scene


def codes(message: Message) -> set[int]:
    """All error codes of a response that are not 0."""
    return {code for code in _codes(message) if code}


def _codes(message: Message) -> Iterator[int]:
    for name in message.FIELDS:
        value = getattr(message, name)
        if name.endswith("error_code"):
            yield value
        elif isinstance(value, list | tuple):
            for part in value:
                if isinstance(part, Message):
                    yield from _codes(part)


Make = Callable[[Scene], Message]

_VERSIONS: dict[tuple[str, str], int] = {}
_SAMPLES: dict[tuple[str, str], Make] = {}


def of(api: str, when: str = "") -> Make:
    """The request for what an API asks when; the API's ordinary one where there is none for it alone."""
    return _SAMPLES.get((api, when)) or _SAMPLES[api, ""]


def version_of(api: Any, when: str) -> int:
    return _VERSIONS.get((api.name, when), _VERSIONS.get((api.name, ""), api.max_version))


def sample(api: str, when: str = "", version: int | None = None) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        _SAMPLES[api, when] = make
        if version is not None:
            _VERSIONS[api, when] = version
        return make

    return keep


sample("Produce", version=12)(lambda s: producing(s.topic, {0: batch()}))
sample("Produce", "transactional batches", 9)(
    lambda s: producing(
        s.topic, {0: batch(producer=(*s.producer, 0), is_transactional=True)}, transactional_id=s.transactional_id
    )
)
sample("Fetch")(lambda s: fetching(s.topic, {0: 0}))
sample("ListOffsets")(
    lambda s: ListOffsetsRequest(
        topics=[ListOffsetsTopic(name=s.name, partitions=[ListOffsetsPartition(timestamp=-1)])]
    )
)


def metadata(*names: str, **more: Any) -> MetadataRequest:
    return MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in names], **more)


sample("Metadata")(lambda s: metadata(s.name, allow_auto_topic_creation=False))
sample("Metadata", "all topics")(lambda s: MetadataRequest(topics=None))
sample("Metadata", "auto-creation")(lambda s: metadata(f"made-{secrets.token_hex(6)}", allow_auto_topic_creation=True))
sample("Metadata", "authorized operations", 10)(lambda s: metadata(include_cluster_authorized_operations=True))
sample("OffsetCommit", version=9)(
    lambda s: OffsetCommitRequest(
        group_id=s.group,
        topics=[
            OffsetCommitRequestTopic(
                name=s.name, topic_id=s.topic.id, partitions=[OffsetCommitRequestPartition(committed_offset=1)]
            )
        ],
    )
)


def fetching_offsets(scene: Scene, *, of_all: bool = False) -> OffsetFetchRequest:
    topics = [OffsetFetchRequestTopics(name=scene.name, topic_id=scene.topic.id, partition_indexes=[0])]
    group = OffsetFetchRequestGroup(group_id=scene.group, topics=None if of_all else topics)
    return OffsetFetchRequest(groups=[group])


sample("OffsetFetch", version=9)(fetching_offsets)
sample("OffsetFetch", "all topics", 9)(lambda s: fetching_offsets(s, of_all=True))
sample("FindCoordinator")(lambda s: FindCoordinatorRequest(coordinator_keys=[s.group]))
sample("FindCoordinator", "transactional ids")(
    lambda s: FindCoordinatorRequest(key_type=1, coordinator_keys=[s.transactional_id])
)
sample("JoinGroup")(
    lambda s: JoinGroupRequest(
        group_id=s.group,
        session_timeout_ms=10_000,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
    )
)
sample("Heartbeat")(lambda s: HeartbeatRequest(group_id=s.group, member_id="m"))
sample("LeaveGroup")(lambda s: LeaveGroupRequest(group_id=s.group, members=[MemberIdentity(member_id="m")]))
sample("SyncGroup")(
    lambda s: SyncGroupRequest(group_id=s.group, member_id="m", protocol_type="consumer", protocol_name="range")
)
sample("DescribeGroups")(lambda s: DescribeGroupsRequest(groups=[s.group]))
sample("ListGroups")(lambda s: ListGroupsRequest())
sample("SaslHandshake")(lambda s: SaslHandshakeRequest(mechanism="PLAIN"))
sample("SaslAuthenticate")(lambda s: SaslAuthenticateRequest(auth_bytes=b"secret"))
sample("ApiVersions")(lambda s: ApiVersionsRequest(client_software_name="raw", client_software_version="1"))
sample("CreateTopics")(
    lambda s: CreateTopicsRequest(
        topics=[CreatableTopic(name=f"made-{secrets.token_hex(6)}", num_partitions=1, replication_factor=1)],
        validate_only=True,
    )
)
sample("DeleteTopics")(lambda s: DeleteTopicsRequest(topics=[DeleteTopicState(topic_id=s.topic.id)], timeout_ms=10_000))
sample("DeleteTopics", "by name")(
    lambda s: DeleteTopicsRequest(topics=[DeleteTopicState(name=s.name)], timeout_ms=10_000)
)
sample("InitProducerId", version=5)(lambda s: InitProducerIdRequest(transactional_id=None))
sample("InitProducerId", "with a transactional id", 5)(
    lambda s: InitProducerIdRequest(transactional_id=s.transactional_id, transaction_timeout_ms=60_000)
)
sample("OffsetForLeaderEpoch")(
    lambda s: OffsetForLeaderEpochRequest(
        topics=[OffsetForLeaderTopic(topic=s.name, partitions=[OffsetForLeaderPartition(current_leader_epoch=-1)])]
    )
)


def adding_partitions(scene: Scene) -> AddPartitionsToTxnRequest:
    topics = [AddPartitionsToTxnTopic(name=scene.name, partitions=[0])]
    producer_id, epoch = scene.producer
    return AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=scene.transactional_id,
        v3_and_below_producer_id=producer_id,
        v3_and_below_producer_epoch=epoch,
        v3_and_below_topics=topics,
        transactions=[
            AddPartitionsToTxnTransaction(
                transactional_id=scene.transactional_id, producer_id=producer_id, producer_epoch=epoch, topics=topics
            )
        ],
    )


sample("AddPartitionsToTxn")(adding_partitions)
sample("AddPartitionsToTxn", "below version 4", 3)(adding_partitions)
sample("AddOffsetsToTxn")(
    lambda s: AddOffsetsToTxnRequest(
        transactional_id=s.transactional_id, producer_id=s.producer[0], producer_epoch=s.producer[1], group_id=s.group
    )
)
# Of another epoch, so that the transaction stays open.
sample("EndTxn")(
    lambda s: EndTxnRequest(
        transactional_id=s.transactional_id, producer_id=s.producer[0], producer_epoch=s.producer[1] + 7
    )
)
sample("WriteTxnMarkers")(
    lambda s: WriteTxnMarkersRequest(
        markers=[
            WritableTxnMarker(producer_id=10**9, topics=[WritableTxnMarkerTopic(name=s.name, partition_indexes=[0])])
        ]
    )
)
sample("TxnOffsetCommit")(
    lambda s: TxnOffsetCommitRequest(
        transactional_id=s.transactional_id,
        group_id=s.group,
        producer_id=s.producer[0],
        producer_epoch=s.producer[1],
        topics=[
            TxnOffsetCommitRequestTopic(
                name=s.name, topic_id=s.topic.id, partitions=[TxnOffsetCommitRequestPartition(committed_offset=1)]
            )
        ],
    )
)


def describing(kind: int, name: str) -> DescribeConfigsRequest:
    return DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=kind, resource_name=name)])


def altering(kind: int, name: str) -> IncrementalAlterConfigsRequest:
    return IncrementalAlterConfigsRequest(resources=[AlterConfigsResource(resource_type=kind, resource_name=name)])


def replacing(kind: int, name: str) -> alter_configs.AlterConfigsRequest:
    resource = alter_configs.AlterConfigsResource(resource_type=kind, resource_name=name)
    return alter_configs.AlterConfigsRequest(resources=[resource], validate_only=True)


sample("ListConfigResources")(lambda s: ListConfigResourcesRequest())
for _api, _asking in (
    ("DescribeConfigs", describing),
    ("AlterConfigs", replacing),
    ("IncrementalAlterConfigs", altering),
):
    sample(_api)(lambda s, asking=_asking: asking(TOPIC, s.name))  # type: ignore[misc]
    sample(_api, "groups")(lambda s, asking=_asking: asking(GROUP, s.group))  # type: ignore[misc]
    sample(_api, "brokers")(lambda s, asking=_asking: asking(BROKER, ""))  # type: ignore[misc]
sample("CreatePartitions")(
    lambda s: CreatePartitionsRequest(
        topics=[CreatePartitionsTopic(name=s.name, count=7)], timeout_ms=10_000, validate_only=True
    )
)
sample("DeleteGroups")(lambda s: DeleteGroupsRequest(groups_names=[s.members]))
sample("OffsetDelete")(
    lambda s: OffsetDeleteRequest(
        group_id=s.group,
        topics=[OffsetDeleteRequestTopic(name=s.name, partitions=[OffsetDeleteRequestPartition(partition_index=5)])],
    )
)
sample("DescribeLogDirs")(lambda s: DescribeLogDirsRequest(topics=None))
sample("DeleteRecords")(
    lambda s: DeleteRecordsRequest(
        topics=[DeleteRecordsTopic(name=s.name, partitions=[DeleteRecordsPartition(partition_index=0, offset=0)])]
    )
)
sample("DescribeCluster")(lambda s: DescribeClusterRequest(include_cluster_authorized_operations=True))
sample("DescribeProducers")(
    lambda s: describe_producers.DescribeProducersRequest(
        topics=[describe_producers.TopicRequest(name=s.name, partition_indexes=[0])]
    )
)
sample("DescribeTransactions")(lambda s: DescribeTransactionsRequest(transactional_ids=[s.transactional_id]))
sample("ListTransactions")(lambda s: ListTransactionsRequest())
sample("ConsumerGroupHeartbeat")(
    lambda s: ConsumerGroupHeartbeatRequest(
        group_id=s.members,
        member_id="AAAAAAAAAAAAAAAAAAAAAA",
        rebalance_timeout_ms=60_000,
        subscribed_topic_names=[s.name],
        topic_partitions=[],
    )
)
# Of a new group each time: an old one keeps its target for a while.
sample("ConsumerGroupHeartbeat", "subscribed expression")(
    lambda s: ConsumerGroupHeartbeatRequest(
        group_id=f"{s.members}-{secrets.token_hex(6)}",
        member_id="AAAAAAAAAAAAAAAAAAAAAA",
        rebalance_timeout_ms=60_000,
        subscribed_topic_regex=s.name,
        topic_partitions=[],
    )
)
sample("ConsumerGroupDescribe")(lambda s: consumer_group_describe.ConsumerGroupDescribeRequest(group_ids=[s.members]))
sample("DescribeTopicPartitions")(
    lambda s: describe_topic_partitions.DescribeTopicPartitionsRequest(
        topics=[describe_topic_partitions.TopicRequest(name=s.name)], response_partition_limit=100
    )
)
sample("DescribeTopicPartitions", "all topics")(
    lambda s: describe_topic_partitions.DescribeTopicPartitionsRequest(response_partition_limit=2000)
)
ANY_KIND = 1  # of resource, operation, permission and pattern
sample("DescribeAcls")(
    lambda s: DescribeAclsRequest(
        resource_type_filter=ANY_KIND, pattern_type_filter=ANY_KIND, operation=ANY_KIND, permission_type=ANY_KIND
    )
)
sample("CreateAcls")(
    lambda s: CreateAclsRequest(
        creations=[
            AclCreation(
                resource_type=TOPIC,
                resource_name=s.name,
                resource_pattern_type=3,
                principal="User:a",
                host="*",
                operation=3,
                permission_type=3,
            )
        ]
    )
)
sample("DeleteAcls")(
    lambda s: DeleteAclsRequest(
        filters=[
            DeleteAclsFilter(
                resource_type_filter=ANY_KIND,
                pattern_type_filter=ANY_KIND,
                operation=ANY_KIND,
                permission_type=ANY_KIND,
            )
        ]
    )
)
sample("AlterReplicaLogDirs")(
    lambda s: AlterReplicaLogDirsRequest(
        dirs=[AlterReplicaLogDir(path=s.log_dir, topics=[AlterReplicaLogDirTopic(name=s.name, partitions=[0])])]
    )
)
sample("ElectLeaders")(lambda s: ElectLeadersRequest(topic_partitions=[TopicPartitions(topic=s.name, partitions=[0])]))
sample("AlterPartitionReassignments")(
    lambda s: AlterPartitionReassignmentsRequest(
        topics=[ReassignableTopic(name=s.name, partitions=[ReassignablePartition(replicas=None)])]
    )
)
sample("ListPartitionReassignments")(lambda s: ListPartitionReassignmentsRequest(topics=None))
sample("DescribeQuorum")(
    lambda s: DescribeQuorumRequest(
        topics=[RequestTopicData(topic_name="__cluster_metadata", partitions=[RequestPartitionData()])]
    )
)
sample("UpdateFeatures")(
    lambda s: UpdateFeaturesRequest(feature_updates=[FeatureUpdateKey(feature="group.version", max_version_level=1)])
)
sample("DescribeUserScramCredentials")(lambda s: DescribeUserScramCredentialsRequest(users=[UserName(name="somebody")]))
sample("AlterUserScramCredentials")(
    lambda s: AlterUserScramCredentialsRequest(deletions=[ScramCredentialDeletion(name="somebody", mechanism=1)])
)
sample("DescribeClientQuotas")(lambda s: DescribeClientQuotasRequest())
sample("AlterClientQuotas")(
    lambda s: AlterClientQuotasRequest(
        entries=[
            RequestEntryData(
                entity=[RequestEntityData(entity_type="user", entity_name="somebody")],
                ops=[OpData(key="producer_byte_rate", value=1e9)],
            )
        ],
        validate_only=True,
    )
)
sample("GetTelemetrySubscriptions")(lambda s: GetTelemetrySubscriptionsRequest(client_instance_id=uuid4()))
sample("PushTelemetry")(lambda s: PushTelemetryRequest(client_instance_id=uuid4(), metrics=b""))
sample("UnregisterBroker")(lambda s: UnregisterBrokerRequest(broker_id=99))
