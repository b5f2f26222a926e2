"""Requests about everything but records."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.broker.rawclient import CREATE_TOPICS, DELETE_TOPICS, SomeTopic
from tests.compare.scene import Scene, case

from pg_kafka.wire.error_codes import ErrorCode
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
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

METADATA, FIND_COORDINATOR, API_VERSIONS, DESCRIBE_CONFIGS = 3, 10, 18, 32
SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36
CREATE_PARTITIONS, DESCRIBE_CLUSTER, DESCRIBE_TOPIC_PARTITIONS = 37, 60, 75

UNKNOWN_ID = UUID("00000000-0000-4000-8000-000000000001")

# ApiVersions


def _add_software(name: str, software: str, version: str, since: int = 3) -> None:
    @case(f"versions-{name}", API_VERSIONS, since=since)
    async def ask(scene: Scene) -> Any:
        return await scene.ask(ApiVersionsRequest(client_software_name=software, client_software_version=version))


_add_software("plain", "raw", "1.0", since=0)
_add_software("software-dots", "a.b-c9", "1.2.3-x")
_add_software("software-empty", "", "1")
_add_software("software-version-empty", "raw", "")
_add_software("software-space", "r w", "1")
_add_software("software-dash-first", "-raw", "1")
_add_software("software-dot-last", "raw", "1.")
_add_software("software-umlaut", "räw", "1")

# Metadata


def naming(*names: str | None, **fields: Any) -> MetadataRequest:
    fields.setdefault("allow_auto_topic_creation", False)
    return MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in names], **fields)


def _only_own(scene: Scene, answer: Any) -> Any:
    """Of all topics those of this case."""
    if not isinstance(answer, str):
        answer.topics = [topic for topic in answer.topics if (topic.name or "").startswith(f"{scene.case}-")]
    return answer


@case("metadata-one", METADATA)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(partitions=3)
    return await scene.ask(naming(topic.name))


@case("metadata-operations", METADATA, since=8)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    asked = {"include_cluster_authorized_operations": True, "include_topic_authorized_operations": True}
    return await scene.ask(naming(topic.name, "nowhere", **asked))


@case("metadata-null", METADATA, since=1)
async def _(scene: Scene) -> Any:
    await scene.topic()
    return _only_own(scene, await scene.ask(MetadataRequest(topics=None)))


@case("metadata-empty", METADATA)
async def _(scene: Scene) -> Any:
    await scene.topic()
    return _only_own(scene, await scene.ask(MetadataRequest(topics=[])))


@case("metadata-twice", METADATA)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return await scene.ask(naming(topic.name, topic.name))


@case("metadata-unknown", METADATA, since=4)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return await scene.ask(naming("nowhere", topic.name))


@case("metadata-auto-create", METADATA)
async def _(scene: Scene) -> Any:
    name = scene.fresh()
    first = await scene.ask(naming(name, allow_auto_topic_creation=True))
    await scene.wait_until_led(name)
    second = await scene.ask(naming(name, allow_auto_topic_creation=True))
    scene.side.topics[name] = SomeTopic(name, second.topics[0].topic_id)
    return {"first": first, "second": second}


@case("metadata-auto-create-collision", METADATA)
async def _(scene: Scene) -> Any:
    topic = await scene.topic("with.dot")
    return await scene.ask(naming(topic.name.replace(".", "_"), allow_auto_topic_creation=True))


@case("metadata-invalid-names", METADATA)
async def _(scene: Scene) -> Any:
    names = ("", "a b", ".", "..", "x" * 250, "ä")
    return {f"name {number}": await scene.ask(naming(name)) for number, name in enumerate(names)}


@case("metadata-invalid-names-auto-create", METADATA)
async def _(scene: Scene) -> Any:
    names = ("", "a b", "..", "x" * 250)
    return {
        f"name {number}": await scene.ask(naming(name, allow_auto_topic_creation=True))
        for number, name in enumerate(names)
    }


def _add_by_id(name: str, since: int = 12, *, known: bool, named: bool) -> None:
    @case(f"metadata-{name}", METADATA, since=since)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic()
        wanted = MetadataRequestTopic(topic_id=topic.id if known else UNKNOWN_ID, name=topic.name if named else None)
        return await scene.ask(MetadataRequest(topics=[wanted], allow_auto_topic_creation=False))


_add_by_id("id", known=True, named=False)
_add_by_id("id-unknown", known=False, named=False)
_add_by_id("id-and-name", known=True, named=True)
_add_by_id("unknown-id-and-name", known=False, named=True)


@case("metadata-id-early", METADATA, (10, 11))
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return await scene.ask(MetadataRequest(topics=[MetadataRequestTopic(topic_id=topic.id, name=None)]))


@case("metadata-id-and-name-of-another", METADATA, since=12)
async def _(scene: Scene) -> Any:
    topic, other = await scene.topic(), await scene.topic("other")
    wanted = [MetadataRequestTopic(topic_id=topic.id, name=None), MetadataRequestTopic(name=other.name)]
    return await scene.ask(MetadataRequest(topics=wanted, allow_auto_topic_creation=False))


@case("metadata-null-name", METADATA, since=10)
async def _(scene: Scene) -> Any:
    return await scene.ask(naming(None))


# CreateTopics


def creating(*topics: CreatableTopic, **fields: Any) -> CreateTopicsRequest:
    return CreateTopicsRequest(topics=topics, timeout_ms=30_000, **fields)


def a_topic(name: str, **fields: Any) -> CreatableTopic:
    return CreatableTopic(name=name, **{"num_partitions": 1, "replication_factor": 1, **fields})


async def _create(scene: Scene, *topics: CreatableTopic, **fields: Any) -> Any:
    answer = await scene.ask(creating(*topics, **fields))
    if not isinstance(answer, str):
        for one in answer.topics:
            if not one.error_code:
                scene.side.topics[one.name] = SomeTopic(one.name, one.topic_id)
    return answer


def _add_create(name: str, configs: dict[str, str | None] | None = None, **fields: Any) -> None:
    """Both really and for validation only."""
    entries = [CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()]

    @case(f"create-{name}", CREATE_TOPICS)
    async def ask(scene: Scene) -> Any:
        return {
            "checked": await scene.ask(creating(a_topic(scene.fresh(), configs=entries, **fields), validate_only=True)),
            "created": await _create(scene, a_topic(scene.fresh(), configs=entries, **fields)),
        }


def assigned(*partitions: tuple[int, list[int]]) -> dict[str, Any]:
    return {
        "num_partitions": -1,
        "replication_factor": -1,
        "assignments": [CreatableReplicaAssignment(partition_index=index, broker_ids=ids) for index, ids in partitions],
    }


_add_create("one")
_add_create("three-partitions", num_partitions=3)
_add_create("defaults", num_partitions=-1, replication_factor=-1)
_add_create("no-partitions", num_partitions=0)
_add_create("negative-partitions", num_partitions=-2)
_add_create("too-many-partitions", num_partitions=10_001)
_add_create("no-replicas", replication_factor=0)
_add_create("negative-replicas", replication_factor=-2)
_add_create("three-replicas", replication_factor=3)
_add_create("configs", {"retention.ms": "1000", "cleanup.policy": "compact", "max.message.bytes": "5000"})
_add_create("config-unknown", {"no.such.config": "1"})
_add_create("config-no-number", {"retention.ms": "soon"})
_add_create("config-too-low", {"max.message.bytes": "-1"})
_add_create("config-no-choice", {"cleanup.policy": "shred"})
_add_create("config-null", {"retention.ms": None})
_add_create("config-empty", {"retention.ms": ""})
_add_create("config-spaces", {"retention.ms": " 1000 "})
_add_create("config-list", {"cleanup.policy": "compact,delete"})
_add_create("config-empty-list", {"cleanup.policy": ""})
_add_create("config-tiered", {"remote.storage.enable": "true"})
_add_create("config-boolean", {"preallocate": "maybe"})
_add_create("config-lags", {"min.compaction.lag.ms": "20", "max.compaction.lag.ms": "10"})
_add_create("assigned", **assigned((0, [1]), (1, [1])))
_add_create("assigned-and-counted", **{**assigned((0, [1])), "num_partitions": 1})
_add_create("assigned-and-replicated", **{**assigned((0, [1])), "replication_factor": 1})
_add_create("assigned-with-gap", **assigned((0, [1]), (2, [1])))
_add_create("assigned-twice", **assigned((0, [1]), (0, [1])))
_add_create("assigned-to-nobody", **assigned((0, [])))
_add_create("assigned-elsewhere", **assigned((0, [77])))
_add_create("assigned-double", **assigned((0, [1, 1])))


@case("create-invalid-names", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    names = ("", "a b", ".", "..", "x" * 250, "ä", "__cluster_metadata")
    return {f"name {number}": await _create(scene, a_topic(name)) for number, name in enumerate(names)}


@case("create-existing", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    return {
        "checked": await scene.ask(creating(a_topic(topic.name), validate_only=True)),
        "created": await scene.ask(creating(a_topic(topic.name))),
        "and wrong": await scene.ask(creating(a_topic(topic.name, num_partitions=-2))),
    }


@case("create-colliding", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic("with.dot")
    return await scene.ask(creating(a_topic(topic.name.replace(".", "_"))))


@case("create-twice", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    return await _create(scene, a_topic(scene.fresh()), a_topic(scene.fresh()), a_topic(scene.fresh("other")))


@case("create-colliding-in-one-request", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    return await _create(scene, a_topic(scene.fresh("x.y")), a_topic(scene.fresh("x_y")))


@case("create-config-twice", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    entries = [CreatableTopicConfig(name="retention.ms", value=value) for value in ("1000", "2000")]
    return await _create(scene, a_topic(scene.fresh(), configs=entries))


@case("create-nothing", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    return await scene.ask(creating())


@case("create-some-wrong", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    return await _create(scene, a_topic(scene.fresh()), a_topic(scene.fresh("wrong"), num_partitions=0), a_topic("a b"))


@case("create-timeout", CREATE_TOPICS)
async def _(scene: Scene) -> Any:
    request = creating(a_topic(scene.fresh()))
    request.timeout_ms = -1
    return await scene.ask(request)


# DeleteTopics


def deleting(scene: Scene, *states: DeleteTopicState) -> DeleteTopicsRequest:
    names = [state.name or "" for state in states]
    return DeleteTopicsRequest(topic_names=names, topics=states, timeout_ms=30_000)


@case("delete-one", DELETE_TOPICS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(f"v{scene.version}")
    first = await scene.ask(deleting(scene, DeleteTopicState(name=topic.name)))
    await scene.until_gone(topic.name)
    return {"first": first, "again": await scene.ask(deleting(scene, DeleteTopicState(name=topic.name)))}


@case("delete-unknown", DELETE_TOPICS)
async def _(scene: Scene) -> Any:
    return await scene.ask(deleting(scene, DeleteTopicState(name="nowhere")))


@case("delete-invalid-names", DELETE_TOPICS)
async def _(scene: Scene) -> Any:
    return await scene.ask(deleting(scene, DeleteTopicState(name=""), DeleteTopicState(name="a b")))


@case("delete-twice", DELETE_TOPICS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    state = DeleteTopicState(name=topic.name)
    return await scene.ask(deleting(scene, state, state))


@case("delete-nothing", DELETE_TOPICS)
async def _(scene: Scene) -> Any:
    return await scene.ask(deleting(scene))


@case("delete-by-id", DELETE_TOPICS, since=6)
async def _(scene: Scene) -> Any:
    topic = await scene.topic(f"v{scene.version}")
    first = await scene.ask(deleting(scene, DeleteTopicState(topic_id=topic.id)))
    await scene.until_gone(topic.name)
    return {"first": first, "again": await scene.ask(deleting(scene, DeleteTopicState(topic_id=topic.id)))}


@case("delete-by-id-twice", DELETE_TOPICS, since=6)
async def _(scene: Scene) -> Any:
    state = DeleteTopicState(topic_id=(await scene.topic()).id)
    return await scene.ask(deleting(scene, state, state))


@case("delete-by-id-and-name", DELETE_TOPICS, since=6)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    by_id, by_name = DeleteTopicState(topic_id=topic.id), DeleteTopicState(name=topic.name)
    both = DeleteTopicState(topic_id=topic.id, name=topic.name)
    return {
        "in one": await scene.ask(deleting(scene, both)),
        "in two": await scene.ask(deleting(scene, by_id, by_name)),
        "neither": await scene.ask(deleting(scene, DeleteTopicState())),
    }


# CreatePartitions


def _add_growth(name: str, *changes: dict[str, Any]) -> None:
    @case(f"grow-{name}", CREATE_PARTITIONS)
    async def ask(scene: Scene) -> Any:
        topic = await scene.topic(f"v{scene.version}", partitions=2)
        wanted = [CreatePartitionsTopic(**{"name": topic.name, **change}) for change in changes]
        request = CreatePartitionsRequest(topics=wanted, timeout_ms=30_000, validate_only=True)
        checked = await scene.ask(request)
        request.validate_only = False
        return {"checked": checked, "done": await scene.ask(request)}


def placed(*lists: list[int]) -> list[CreatePartitionsAssignment]:
    return [CreatePartitionsAssignment(broker_ids=ids) for ids in lists]


_add_growth("one", {"count": 3})
_add_growth("same", {"count": 2})
_add_growth("less", {"count": 1})
_add_growth("zero", {"count": 0})
_add_growth("negative", {"count": -1})

_add_growth("twice", {"count": 3}, {"count": 4})
_add_growth("unknown", {"name": "nowhere", "count": 3})
_add_growth("invalid-name", {"name": "a b", "count": 3}, {"name": "", "count": 3})
_add_growth("nothing")
_add_growth("assigned", {"count": 4, "assignments": placed([1], [1])})
_add_growth("assigned-none", {"count": 4, "assignments": []})
_add_growth("assigned-too-few", {"count": 4, "assignments": placed([1])})
_add_growth("assigned-too-many", {"count": 3, "assignments": placed([1], [1])})
_add_growth("assigned-elsewhere", {"count": 3, "assignments": placed([77])})
_add_growth("assigned-to-nobody", {"count": 3, "assignments": placed([])})
_add_growth("assigned-double", {"count": 3, "assignments": placed([1, 1])})

# DescribeTopicPartitions


@case("topic-partitions", DESCRIBE_TOPIC_PARTITIONS)
async def _(scene: Scene) -> Any:
    a, b = await scene.topic("a", partitions=3), await scene.topic("b", partitions=3)
    asked = [TopicRequest(name=name) for name in (b.name, a.name, f"{a.name}-nowhere")]

    async def page(limit: int, cursor: RequestCursor | None = None, topics: list[TopicRequest] = asked) -> Any:
        request = DescribeTopicPartitionsRequest(topics=topics, response_partition_limit=limit, cursor=cursor)
        return await scene.ask(request)

    good = asked[:2]
    return {
        "all": await page(2000),
        "twice": await page(2000, topics=[asked[0], asked[0]]),
        "invalid": await page(2000, topics=[TopicRequest(name="a b")]),
        "unnamed": await page(2000, topics=[TopicRequest(name=""), asked[0]]),
        "limit 2": await page(2, topics=good),
        "limit 3": await page(3, topics=good),
        "limit 4": await page(4, topics=good),
        "limit 0": await page(0, topics=good),
        "limit negative": await page(-1, topics=good),
        "from 1": await page(2000, RequestCursor(topic_name=a.name, partition_index=1), good),
        "from b": await page(2000, RequestCursor(topic_name=b.name, partition_index=0), good),
        "from 3": await page(2000, RequestCursor(topic_name=a.name, partition_index=3), good),
        "from 7": await page(2000, RequestCursor(topic_name=a.name, partition_index=7), good),
        "from nowhere": await page(2000, RequestCursor(topic_name="nowhere", partition_index=0), good),
        "from below zero": await page(2000, RequestCursor(topic_name=a.name, partition_index=-1), good),
        "all from a": await page(1, RequestCursor(topic_name=a.name, partition_index=0), []),
    }


# DescribeCluster


def _add_cluster(name: str, since: int = 0, **fields: Any) -> None:
    @case(f"cluster-{name}", DESCRIBE_CLUSTER, since=since)
    async def ask(scene: Scene) -> Any:
        return await scene.ask(DescribeClusterRequest(**fields))


_add_cluster("plain")
_add_cluster("operations", include_cluster_authorized_operations=True)
_add_cluster("controllers", since=1, endpoint_type=2)
_add_cluster("unknown-endpoint", since=1, endpoint_type=3)
_add_cluster("fenced", since=2, include_fenced_brokers=True)

# DescribeConfigs

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
# With the same meaning and default on both sides.
BROKER_KEYS = (
    "num.partitions",
    "auto.create.topics.enable",
    "message.max.bytes",
    "log.segment.bytes",
    "socket.request.max.bytes",
    "connections.max.idle.ms",
    "max.connections",
    "fetch.max.bytes",
    "no.such.config",
)


def _add_configs(name: str, resource_type: int, resource_name: str, keys: tuple[str, ...] | None) -> None:
    @case(f"configs-{name}", DESCRIBE_CONFIGS)
    async def ask(scene: Scene) -> Any:
        resource = DescribeConfigsResource(
            resource_type=resource_type, resource_name=resource_name, configuration_keys=keys
        )
        request = DescribeConfigsRequest(resources=[resource], include_synonyms=True, include_documentation=True)
        return await scene.ask(request)


_add_configs("broker", BROKER, "1", BROKER_KEYS)
_add_configs("all-brokers", BROKER, "", None)
_add_configs("other-broker", BROKER, "77", None)
_add_configs("no-broker", BROKER, "one", None)
_add_configs("logger", BROKER_LOGGER, "1", ("no.such.logger",))
_add_configs("other-logger", BROKER_LOGGER, "77", None)
_add_configs("client-metrics", CLIENT_METRICS, "some", None)
_add_configs("client-metrics-unnamed", CLIENT_METRICS, "", None)
_add_configs("group", GROUP, "some", None)
_add_configs("group-unnamed", GROUP, "", None)
_add_configs("unknown-topic", TOPIC, "nowhere", None)
_add_configs("invalid-topic", TOPIC, "a b", None)
_add_configs("unnamed-topic", TOPIC, "", None)
_add_configs("unknown-type", 99, "x", None)
_add_configs("type-0", 0, "x", None)


@case("configs-topic", DESCRIBE_CONFIGS)
async def _(scene: Scene) -> Any:
    plain = await scene.topic()
    special = await scene.topic("special", retention_ms="1000", cleanup_policy="compact", compression_type="lz4")

    async def described(topic: SomeTopic, *, more: bool, keys: list[str] | None = None) -> Any:
        resource = DescribeConfigsResource(resource_type=TOPIC, resource_name=topic.name, configuration_keys=keys)
        return await scene.ask(
            DescribeConfigsRequest(resources=[resource], include_synonyms=more, include_documentation=more)
        )

    return {
        "plain": await described(plain, more=True),
        "special": await described(special, more=True),
        "without synonyms": await described(special, more=False),
        "some keys": await described(plain, more=False, keys=["retention.ms", "no.such.config"]),
        "no keys": await described(plain, more=False, keys=[]),
    }


@case("configs-twice", DESCRIBE_CONFIGS)
async def _(scene: Scene) -> Any:
    topic = await scene.topic()
    one = DescribeConfigsResource(resource_type=TOPIC, resource_name=topic.name, configuration_keys=["retention.ms"])
    return await scene.ask(DescribeConfigsRequest(resources=[one, one]))


@case("configs-nothing", DESCRIBE_CONFIGS)
async def _(scene: Scene) -> Any:
    return await scene.ask(DescribeConfigsRequest())


# FindCoordinator

_NOT_YET = ErrorCode.COORDINATOR_NOT_AVAILABLE


def _is_settled(answer: Any) -> bool:
    codes = [] if isinstance(answer, str) else [answer.error_code, *(one.error_code for one in answer.coordinators)]
    return _NOT_YET not in codes


def _add_coordinator(name: str, keys: list[str], key_type: int, since: int = 0) -> None:
    @case(f"coordinator-{name}", FIND_COORDINATOR, since=since)
    async def ask(scene: Scene) -> Any:
        request = FindCoordinatorRequest(key=keys[0] if keys else "", key_type=key_type, coordinator_keys=keys)
        return await scene.ask_until(_is_settled, request)


_add_coordinator("group", ["some"], 0)
_add_coordinator("groups", ["some", "other", "some"], 0, since=4)
_add_coordinator("no-groups", [], 0, since=4)
_add_coordinator("group-unnamed", [""], 0)
_add_coordinator("transaction", ["some"], 1, since=1)
_add_coordinator("transaction-unnamed", [""], 1, since=1)
_add_coordinator("transactions", ["some", "other", "", "some"], 1, since=4)
_add_coordinator("no-transactions", [], 1, since=4)
_add_coordinator("unknown-type", ["some"], 7, since=1)
_add_coordinator("share-malformed", ["some"], 2, since=1)
_add_coordinator("share", ["some:AAAAAAAAQACAAAAAAAAAAQ:0"], 2, since=6)


# SaslHandshake, SaslAuthenticate


@case("sasl-handshake", SASL_HANDSHAKE)
async def _(scene: Scene) -> Any:
    return await scene.ask(SaslHandshakeRequest(mechanism="PLAIN"))


@case("sasl-authenticate", SASL_AUTHENTICATE)
async def _(scene: Scene) -> Any:
    return await scene.ask(SaslAuthenticateRequest(auth_bytes=b"\0user\0password"))
