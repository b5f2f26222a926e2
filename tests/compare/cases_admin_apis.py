"""Requests of administrators about brokers, replicas, features and access control lists."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tests.compare.scene import Scene, case, sized

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
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest
from pg_kafka.wire.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest
from pg_kafka.wire.messages.describe_acls import DescribeAclsRequest
from pg_kafka.wire.messages.describe_cluster import DescribeClusterRequest
from pg_kafka.wire.messages.describe_quorum import DescribeQuorumRequest, RequestPartitionData, RequestTopicData
from pg_kafka.wire.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from pg_kafka.wire.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
)
from pg_kafka.wire.messages.unregister_broker import UnregisterBrokerRequest
from pg_kafka.wire.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest

API_VERSIONS, DESCRIBE_ACLS, CREATE_ACLS, DELETE_ACLS, ALTER_REPLICA_LOG_DIRS = 18, 29, 30, 31, 34
ELECT_LEADERS, ALTER_REASSIGNMENTS, LIST_REASSIGNMENTS = 43, 45, 46
DESCRIBE_QUORUM, UPDATE_FEATURES, DESCRIBE_CLUSTER, UNREGISTER_BROKER = 55, 57, 60, 64


def _texts(message: Any, found: list[str] | None = None) -> list[str]:
    """All messages of errors in an answer: here both brokers use the same words."""
    found = [] if found is None else found
    for name in getattr(message, "FIELDS", ()):
        part = getattr(message, name)
        if name == "error_message":
            found.append(repr(part))
        for one in part if isinstance(part, list | tuple) else ():
            _texts(one, found)
    return found


def with_words(answer: Any) -> dict[str, Any]:
    """The answer, and its words, of which the comparison otherwise sees only whether there are any."""
    return {"answer": answer, "words": [f"text {number}: {text}" for number, text in enumerate(_texts(answer))]}


# ApiVersions: whom the client means (KIP-1242)


async def _identity(scene: Scene) -> tuple[str, int]:
    cluster = await scene.ask(DescribeClusterRequest(), 0, DESCRIBE_CLUSTER)
    return cluster.cluster_id, cluster.brokers[0].broker_id


def _add_identity(name: str, *, cluster: str | None = "", node: int | None = None) -> None:
    """A cluster "" and the node None stand for those that there are."""

    @case(f"versions-identity-{name}", API_VERSIONS, (5,))
    async def ask(scene: Scene) -> Any:
        cluster_id, node_id = await _identity(scene)
        asked = ApiVersionsRequest(
            client_software_name="raw",
            client_software_version="1",
            cluster_id=cluster_id if cluster == "" else cluster,
            node_id=node_id if node is None else node,
        )
        answer = await scene.ask(asked)
        return {"code": answer.error_code, "names apis": bool(answer.api_keys)}


_add_identity("own")
_add_identity("unknown", cluster=None, node=-1)
_add_identity("another-node", node=7)
_add_identity("another-cluster", cluster="another")
_add_identity("cluster-alone", node=-1)
_add_identity("node-alone", cluster=None)
_add_identity("node-negative", node=-2)
_add_identity("node-negative-alone", cluster=None, node=-2)


@case("versions-identity-and-bad-software", API_VERSIONS, (5,))
async def _(scene: Scene) -> Any:
    asked = ApiVersionsRequest(client_software_name="r w", client_software_version="1", cluster_id="a", node_id=7)
    return await scene.ask(asked)


# What is not served


def _add_unserved(name: str, key: int) -> None:
    @case(f"unserved-{name}", API_VERSIONS, (0,))
    async def ask(scene: Scene) -> Any:
        """A request without a client id; closed."""
        return await scene.tell(sized(struct.pack(">hhih", key, 0, 7, -1) + b"\0"))


_add_unserved("broker-heartbeat", 63)
_add_unserved("vote", 52)
_add_unserved("removed", 4)
_add_unserved("nobody-knows", 999)


# ElectLeaders


def electing(*topics: tuple[str, Sequence[int]], kind: int = 0) -> ElectLeadersRequest:
    wanted = [TopicPartitions(topic=name, partitions=indexes) for name, indexes in topics]
    return ElectLeadersRequest(election_type=kind, topic_partitions=wanted)


@case("elect-known-and-unknown", ELECT_LEADERS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    asked = ((topic.name, (0, 1)), (topic.name, (7, -1)), ("nowhere", (0,)), ("", (0,)))
    return with_words(await scene.ask(electing(*asked)))


@case("elect-twice", ELECT_LEADERS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return with_words(await scene.ask(electing((topic.name, (0, 0)), (topic.name, (0,)))))


@case("elect-kinds", ELECT_LEADERS, since=1)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return {
        f"kind {kind}": with_words(await scene.ask(electing((topic.name, (0,)), ("nowhere", (0,)), kind=kind)))
        for kind in (0, 1, 2, -1)
    }


@case("elect-all", ELECT_LEADERS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=2)
    answer = await scene.ask(ElectLeadersRequest(topic_partitions=None))
    answer.replica_election_results = [one for one in answer.replica_election_results if one.topic == topic.name]
    return answer


@case("elect-all-of-a-kind-that-is-none", ELECT_LEADERS, since=1)
async def _(scene: Scene) -> Any:
    return await scene.ask(ElectLeadersRequest(election_type=2, topic_partitions=None))


@case("elect-nothing", ELECT_LEADERS)
async def _(scene: Scene) -> Any:
    return {"no topic": await scene.ask(electing()), "no partition": await scene.ask(electing(("nowhere", ())))}


# Reassignments


def moving(
    *parts: tuple[str, int, Sequence[int] | None], may_change_factor: bool = True
) -> AlterPartitionReassignmentsRequest:
    return AlterPartitionReassignmentsRequest(
        topics=[
            ReassignableTopic(name=name, partitions=[ReassignablePartition(partition_index=index, replicas=replicas)])
            for name, index, replicas in parts
        ],
        allow_replication_factor_change=may_change_factor,
    )


_REPLICAS: dict[str, Sequence[int] | None] = {
    "here": (1,),
    "none": (),
    "nobody": None,
    "unknown": (7,),
    "here-and-unknown": (1, 7),
    "unknown-and-here": (7, 1),
    "twice": (1, 1),
    "negative": (-1,),
}


def _add_move(name: str, replicas: Sequence[int] | None) -> None:
    @case(f"reassign-{name}", ALTER_REASSIGNMENTS)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic()
        return with_words(await scene.ask(moving((topic.name, 0, replicas))))


for _name, _wanted in _REPLICAS.items():
    _add_move(_name, _wanted)


@case("reassign-unknown-places", ALTER_REASSIGNMENTS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    parts = (("nowhere", 0, (1,)), ("nowhere", 0, None), (topic.name, 5, (1,)), (topic.name, -1, None), ("", 0, (1,)))
    return with_words(await scene.ask(moving(*parts, (topic.name, 0, (1,)))))


@case("reassign-same-factor", ALTER_REASSIGNMENTS, (1,))
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return [
        with_words(await scene.ask(moving((topic.name, 0, replicas), may_change_factor=False)))
        for replicas in ((1,), (), (7,), (1, 7), None)
    ]


@case("reassign-nothing", ALTER_REASSIGNMENTS)
async def _(scene: Scene) -> Any:
    return await scene.ask(moving())


@case("reassignments", LIST_REASSIGNMENTS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    asked = [
        ListPartitionReassignmentsTopics(name=name, partition_indexes=indexes)
        for name, indexes in ((topic.name, (0, 7)), ("nowhere", (0,)))
    ]
    return {
        "all": await scene.ask(ListPartitionReassignmentsRequest(topics=None)),
        "some": await scene.ask(ListPartitionReassignmentsRequest(topics=asked)),
        "none": await scene.ask(ListPartitionReassignmentsRequest(topics=[])),
    }


# AlterReplicaLogDirs


@case("log-dirs-unknown", ALTER_REPLICA_LOG_DIRS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    seen = {}
    for path in ("/no/such/directory", "relative", ""):
        named = [
            AlterReplicaLogDirTopic(name=name, partitions=indexes)
            for name, indexes in ((topic.name, (0, 7)), ("nowhere", (0,)))
        ]
        answer = await scene.ask(AlterReplicaLogDirsRequest(dirs=[AlterReplicaLogDir(path=path, topics=named)]))
        seen[f"to {path}"] = {one.topic_name: one.partitions for one in answer.results}
    return seen


@case("log-dirs-nothing", ALTER_REPLICA_LOG_DIRS)
async def _(scene: Scene) -> Any:
    return await scene.ask(AlterReplicaLogDirsRequest(dirs=[]))


# DescribeQuorum


def quorum(name: str = "__cluster_metadata", *indexes: int) -> DescribeQuorumRequest:
    partitions = [RequestPartitionData(partition_index=index) for index in indexes or (0,)]
    return DescribeQuorumRequest(topics=[RequestTopicData(topic_name=name, partitions=partitions)])


@case("quorum", DESCRIBE_QUORUM)
async def _(scene: Scene) -> Any:
    answer = await scene.ask(quorum())
    described = answer.topics[0].partitions[0]
    (voter,) = described.current_voters
    assert described.high_watermark >= 0
    assert voter.log_end_offset >= described.high_watermark
    assert (voter.last_fetch_timestamp > 0) == (scene.version > 0)
    assert voter.last_fetch_timestamp == voter.last_caught_up_timestamp
    described.high_watermark = voter.log_end_offset = voter.last_fetch_timestamp = voter.last_caught_up_timestamp = 0
    return with_words(answer)


@case("quorum-unknown", DESCRIBE_QUORUM)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    asked = (quorum(topic.name), quorum("nowhere"), quorum("__cluster_metadata", 1), quorum("__cluster_metadata", 0, 1))
    return [with_words(await scene.ask(request)) for request in asked]


@case("quorum-nothing", DESCRIBE_QUORUM)
async def _(scene: Scene) -> Any:
    return with_words(await scene.ask(DescribeQuorumRequest(topics=[])))


# UpdateFeatures

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


def _add_features(name: str, *updates: tuple[str, int, int], since: int = 0) -> None:
    @case(f"features-{name}", UPDATE_FEATURES, since=since)
    async def ask(scene: Scene) -> Any:
        wanted = [
            FeatureUpdateKey(feature=feature, max_version_level=level, upgrade_type=kind)
            for feature, level, kind in updates
        ]
        return with_words(
            await scene.ask(UpdateFeaturesRequest(feature_updates=wanted, validate_only=scene.version > 0))
        )


_add_features("nothing")
_add_features("as-it-is", ("group.version", 1, UPGRADE))
_add_features("two-as-they-are", ("group.version", 1, UPGRADE), ("transaction.version", 2, UPGRADE))
_add_features("as-it-is-downgrade", ("group.version", 1, SAFE_DOWNGRADE), since=1)
_add_features("negative", ("group.version", -1, UPGRADE))
_add_features("kind-0", ("group.version", 1, 0), since=1)
_add_features("kind-9", ("group.version", 1, 9), since=1)
_add_features("not-there", ("no.such.feature", 1, UPGRADE))
_add_features("not-there-level-0", ("no.such.feature", 0, UPGRADE))
_add_features("nameless", ("", 1, UPGRADE))
_add_features("one-not-there", ("transaction.version", 2, UPGRADE), ("no.such.feature", 1, UPGRADE))
_add_features("too-high", ("group.version", 2, UPGRADE))
_add_features("metadata-too-high", ("metadata.version", 99, UPGRADE))
_add_features("metadata-unsafe", ("metadata.version", 1, UNSAFE_DOWNGRADE), since=1)
_add_features("downgrade", ("transaction.version", 1, SAFE_DOWNGRADE), since=1)
_add_features("downgrade-as-upgrade", ("transaction.version", 1, UPGRADE))


# UnregisterBroker


@case("unregister-unknown", UNREGISTER_BROKER)
async def _(scene: Scene) -> Any:
    return [
        with_words(await scene.ask(UnregisterBrokerRequest(broker_id=broker_id))) for broker_id in (99, -1, 2**31 - 1)
    ]


# Access control lists

ANY, MATCH, LITERAL, PREFIXED = 1, 2, 3, 4


def _add_describe_acls(name: str, kind: int = ANY, pattern: int = ANY, operation: int = ANY, allows: int = ANY) -> None:
    @case(f"acls-{name}", DESCRIBE_ACLS)
    async def ask(scene: Scene) -> Any:
        asked = DescribeAclsRequest(
            resource_type_filter=kind, pattern_type_filter=pattern, operation=operation, permission_type=allows
        )
        return with_words(await scene.ask(asked))


_add_describe_acls("any")
_add_describe_acls("prefixed", kind=2, pattern=PREFIXED, operation=3, allows=3)
_add_describe_acls("unknown-kind", 0, 0, 0, 0)
_add_describe_acls("high-numbers", 77, 77, 77, 77)


def _creation(**fields: Any) -> AclCreation:
    ordinary = {"resource_type": 2, "resource_name": "t", "resource_pattern_type": LITERAL}
    return AclCreation(
        **{**ordinary, "principal": "User:a", "host": "*", "operation": 3, "permission_type": 3, **fields}
    )


def _add_create_acls(name: str, *creations: AclCreation) -> None:
    @case(f"acls-create-{name}", CREATE_ACLS)
    async def ask(scene: Scene) -> Any:
        return with_words(await scene.ask(CreateAclsRequest(creations=creations)))


_add_create_acls("none")
_add_create_acls("two", _creation(), _creation(resource_pattern_type=PREFIXED))
_add_create_acls("nonsense", _creation(principal="nobody", host="", resource_name=""))
_add_create_acls("any", _creation(resource_type=ANY, operation=ANY, permission_type=ANY))
_add_create_acls("unknown-kind", _creation(resource_type=0, resource_pattern_type=0, operation=0, permission_type=0))


def _filter(**fields: Any) -> DeleteAclsFilter:
    ordinary = {"resource_type_filter": ANY, "pattern_type_filter": ANY, "operation": ANY, "permission_type": ANY}
    return DeleteAclsFilter(**{**ordinary, **fields})


def _add_delete_acls(name: str, *filters: DeleteAclsFilter) -> None:
    @case(f"acls-delete-{name}", DELETE_ACLS)
    async def ask(scene: Scene) -> Any:
        return with_words(await scene.ask(DeleteAclsRequest(filters=filters)))


_add_delete_acls("none")
_add_delete_acls("two", _filter(), _filter(pattern_type_filter=PREFIXED))
_add_delete_acls("unknown-kind", _filter(resource_type_filter=0, pattern_type_filter=0, operation=0, permission_type=0))
