"""A broker that waits: clients find the leader through it, and it through the leader."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from tests.broker.command import Serving
from tests.broker.rawclient import PRODUCE, RawClient, batch, only, producing
from tests.kafka_reference import free_port
from tests.postgres import Database

from pg_kafka.broker import dispatch, waiting
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.describe_acls import DescribeAclsRequest
from pg_kafka.wire.messages.describe_cluster import DescribeClusterRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_quorum import DescribeQuorumRequest, RequestPartitionData, RequestTopicData
from pg_kafka.wire.messages.describe_topic_partitions import DescribeTopicPartitionsRequest, TopicRequest
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.list_groups import ListGroupsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from pg_kafka.wire.messages.unregister_broker import UnregisterBrokerRequest

FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR, HEARTBEAT, LIST_GROUPS = 1, 2, 3, 10, 12, 16
API_VERSIONS, CREATE_TOPICS, INIT_PRODUCER_ID, EPOCHS, DESCRIBE_CONFIGS, DESCRIBE_CLUSTER, TOPIC_PARTITIONS = (
    18,
    19,
    22,
    23,
    32,
    60,
    75,
)
EVERY_ACL = DescribeAclsRequest(resource_type_filter=1, pattern_type_filter=1, operation=1, permission_type=1)
DESCRIBE_ACLS, CREATE_ACLS, ALTER_REASSIGNMENTS, DESCRIBE_QUORUM, UNREGISTER_BROKER = 29, 30, 45, 55, 64


class Pair:
    """Two brokers on one database, at ports that are known beforehand."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.ports = [free_port(), free_port()]
        self.settings: dict[str, str] = {}
        self.brokers: list[Serving] = []

    def start(self, which: int) -> Serving:
        broker = Serving("--listen", f"127.0.0.1:{self.ports[which]}", "--database", self.dsn, settings=self.settings)
        self.brokers.append(broker)
        return broker

    def place(self, which: int) -> Any:
        return Place("127.0.0.1", self.ports[which])

    async def waiting(self, which: int) -> None:
        """Until that broker is named by the other as well."""
        async with asyncio.timeout(30):
            while True:
                try:
                    async with await RawClient.connect(self.place(1 - which)) as client:
                        answer = await client.call(MetadataRequest(topics=[]), METADATA, 12)
                        if self.ports[which] in [one.port for one in answer.brokers]:
                            return
                except OSError:
                    pass
                await asyncio.sleep(0.05)


@dataclasses.dataclass
class Place:
    host: str
    port: int


@pytest.fixture
def pair(pg_database: Database) -> Iterator[Pair]:
    pair = Pair(pg_database.dsn)
    try:
        yield pair
    finally:
        for broker in pair.brokers:
            broker.__exit__(None, None, None)


@pytest.fixture
async def two(pair: Pair) -> Pair:
    """The first leads, the second waits."""
    pair.start(0).ready()
    pair.start(1).wait_for("waiting to take over")
    await pair.waiting(1)
    return pair


def addresses(answer: Any) -> set[tuple[int, str, int]]:
    return {(getattr(one, "node_id", getattr(one, "broker_id", None)), one.host, one.port) for one in answer.brokers}


async def test_both_name_both_and_the_leader_leads_all(two: Pair) -> None:
    async with await RawClient.connect(two.place(0)) as client:
        topic = await client.create_topic(partitions=3)
    both = {(1, "127.0.0.1", two.ports[0]), (2, "127.0.0.1", two.ports[1])}
    seen = []
    for which in (0, 1):
        async with await RawClient.connect(two.place(which)) as client:
            async with asyncio.timeout(20):
                while True:  # the one that waits looks each second
                    metadata = await client.call(MetadataRequest(topics=None), METADATA, 12)
                    if metadata.topics:
                        break
                    await asyncio.sleep(0.05)
            cluster = await client.call(DescribeClusterRequest(), DESCRIBE_CLUSTER, 1)
            versions = await client.call(
                ApiVersionsRequest(client_software_name="x", client_software_version="1"), API_VERSIONS, 3
            )
            pages = await client.call(
                DescribeTopicPartitionsRequest(topics=[TopicRequest(name=topic.name)], response_partition_limit=9),
                TOPIC_PARTITIONS,
                0,
            )
            by_id = await client.call(
                MetadataRequest(topics=[MetadataRequestTopic(topic_id=metadata.topics[0].topic_id, name=None)]),
                METADATA,
                12,
            )
            coordinators = []
            for kind in (0, 1):
                request = FindCoordinatorRequest(key_type=kind, coordinator_keys=["g"])
                (found,) = (await client.call(request, FIND_COORDINATOR, 4)).coordinators
                coordinators.append((found.error_code, found.node_id, found.port))
        assert addresses(metadata) == addresses(cluster) == both
        assert metadata.controller_id == cluster.controller_id == 1
        assert coordinators == [(0, 1, two.ports[0])] * 2
        assert by_id.topics == metadata.topics
        seen.append((metadata.topics, metadata.cluster_id, cluster.cluster_id, versions.api_keys, pages.topics))
    (partitions,) = [one.partitions for one in seen[0][0]]
    assert [(one.leader_id, one.replica_nodes, one.isr_nodes) for one in partitions] == [(1, (1,), (1,))] * 3
    assert seen[0] == seen[1]


async def test_what_the_leader_does_is_refused_so_that_clients_look_for_it(two: Pair) -> None:
    async with await RawClient.connect(two.place(0)) as client:
        topic = await client.create_topic()
    name, uuid = topic.name, topic.id
    not_leader = ErrorCode.NOT_LEADER_OR_FOLLOWER
    async with await RawClient.connect(two.place(1)) as client:
        produced = await client.call(producing(topic, {0: batch()}), PRODUCE, 9)
        assert produced.responses[0].partition_responses[0].error_code == not_leader
        fetched = await client.call(
            FetchRequest(topics=[FetchTopic(topic=name, topic_id=uuid, partitions=[FetchPartition(partition=0)])]),
            FETCH,
            12,
        )
        assert (fetched.error_code, fetched.responses[0].partitions[0].error_code) == (0, not_leader)
        listed = await client.call(
            ListOffsetsRequest(topics=[ListOffsetsTopic(name=name, partitions=[ListOffsetsPartition()])]),
            LIST_OFFSETS,
            7,
        )
        assert listed.topics[0].partitions[0].error_code == not_leader
        epochs = await client.call(
            OffsetForLeaderEpochRequest(
                topics=[OffsetForLeaderTopic(topic=name, partitions=[OffsetForLeaderPartition()])]
            ),
            EPOCHS,
            4,
        )
        assert epochs.topics[0].partitions[0].error_code == not_leader
        beat = await client.call(HeartbeatRequest(group_id="g", member_id="m"), HEARTBEAT, 4)
        assert beat.error_code == ErrorCode.NOT_COORDINATOR
        begun = await client.call(
            InitProducerIdRequest(transactional_id="t", transaction_timeout_ms=1000), INIT_PRODUCER_ID, 4
        )
        assert begun.error_code == ErrorCode.NOT_COORDINATOR
        request = CreateTopicsRequest(topics=[CreatableTopic(name="new", num_partitions=1, replication_factor=1)])
        (made,) = (await client.call(request, CREATE_TOPICS, 7)).topics
        assert made.error_code == ErrorCode.NOT_CONTROLLER
        assert len((await client.call(ListGroupsRequest(), LIST_GROUPS, 4)).groups) == 0
    assert two.brokers[1].err == ""


async def test_what_any_broker_may_be_asked_is_asked_of_the_leader(two: Pair) -> None:
    async with await RawClient.connect(two.place(1)) as client:
        ids = [await client.new_producer_id() for _ in range(2)]
        assert ids[0] != ids[1]
        request = MetadataRequest(topics=[MetadataRequestTopic(name="made")], allow_auto_topic_creation=True)
        (made,) = (await client.call(request, METADATA, 9)).topics
        assert (made.error_code, made.name, made.partitions[0].leader_id) == (0, "made", 1)
        request = DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=2, resource_name="made")])
        (described,) = (await client.call(request, DESCRIBE_CONFIGS, 4)).results
        assert described.error_code == 0
        assert "retention.ms" in [entry.name for entry in described.configs]
        for name in ("1", "2"):  # its own settings are its own
            request = DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=4, resource_name=name)])
            (described,) = (await client.call(request, DESCRIBE_CONFIGS, 4)).results
            found = {entry.name: entry.value for entry in described.configs}
            assert (described.error_code, found["num.partitions"]) == (0, "1")
        two.brokers[0].process.kill()
        two.brokers[0].process.wait()
    two.brokers[1].ready()


def test_every_api_has_an_answer_or_none_on_purpose() -> None:
    """A new row of the dispatch table needs a decision."""
    known = {*waiting._ANSWERED, *waiting._OWN, *waiting._NOT_LED_HERE, *waiting._CODES, *waiting._ASKED}
    assert known == {api.name for api in dispatch.APIS.values()}
    assert all(dispatch_row.failure for dispatch_row in dispatch.APIS.values() if dispatch_row.name in waiting._CODES)


async def code_for(client: RawClient, cluster_id: str, node_id: int) -> int:
    """What a client gets that means this cluster and this broker (KIP-1242)."""
    request = ApiVersionsRequest(
        client_software_name="raw", client_software_version="1", cluster_id=cluster_id, node_id=node_id
    )
    code: int = (await client.call(request, API_VERSIONS, 5)).error_code
    return code


async def test_a_broker_that_waits_is_meant_by_its_own_number(two: Pair) -> None:
    """Also when it takes over: it keeps the number."""
    async with await RawClient.connect(two.place(1)) as client:
        cluster_id = (await client.call(DescribeClusterRequest(), DESCRIBE_CLUSTER, 0)).cluster_id
        assert await code_for(client, cluster_id, 2) == 0
        assert await code_for(client, cluster_id, 1) == ErrorCode.REBOOTSTRAP_REQUIRED
    two.brokers[0].process.kill()
    two.brokers[1].ready()
    async with await RawClient.connect(two.place(1)) as client:
        assert await code_for(client, cluster_id, 2) == 0
        assert await code_for(client, cluster_id, 1) == ErrorCode.REBOOTSTRAP_REQUIRED


@pytest.mark.parametrize("asked_of", [0, 1])
async def test_a_broker_that_waits_is_observed_and_has_no_partitions(two: Pair, asked_of: int) -> None:
    """It passes what only the leader knows on to the leader."""
    async with await RawClient.connect(two.place(0)) as leader:
        topic = await leader.create_topic()
    async with await RawClient.connect(two.place(asked_of)) as client:
        partitions = [RequestPartitionData(partition_index=0)]
        asked = DescribeQuorumRequest(topics=[RequestTopicData(topic_name="__cluster_metadata", partitions=partitions)])
        answer = await client.call(asked, DESCRIBE_QUORUM, 2)
        seen = only(only(answer.topics).partitions)
        assert (seen.leader_id, [one.replica_id for one in seen.current_voters]) == (1, [1])
        assert [(one.replica_id, one.log_end_offset) for one in seen.observers] == [(2, seen.high_watermark)]
        assert {(node.node_id, only(node.listeners).port) for node in answer.nodes} == {
            (1, two.ports[0]),
            (2, two.ports[1]),
        }
        for replicas in ([2], [1, 2]):
            wanted = [ReassignableTopic(name=topic.name, partitions=[ReassignablePartition(replicas=replicas)])]
            answer = await client.call(AlterPartitionReassignmentsRequest(topics=wanted), ALTER_REASSIGNMENTS, 1)
            one = only(only(answer.responses).partitions)
            assert one.error_code == ErrorCode.INVALID_REPLICA_ASSIGNMENT
            assert one.error_message.startswith("Each partition has one replica, on the broker that leads (1)")
        for number, expected in ((2, ErrorCode.INVALID_REQUEST), (3, ErrorCode.BROKER_ID_NOT_REGISTERED)):
            answer = await client.call(UnregisterBrokerRequest(broker_id=number), UNREGISTER_BROKER, 0)
            assert answer.error_code == expected
        answer = await client.call(EVERY_ACL, DESCRIBE_ACLS, 3)
        assert answer.error_code == ErrorCode.SECURITY_DISABLED


async def test_listener_stays_when_the_one_that_waits_takes_over(two: Pair) -> None:
    async with await RawClient.connect(two.place(0)) as client:
        topic = await client.create_topic()
        assert (await client.produce(topic, batch())).error_code == 0
    two.brokers[0].process.kill()
    two.brokers[1].ready()
    async with await RawClient.connect(two.place(1)) as client:
        assert (await client.produce(topic, batch())).base_offset == 1
        metadata = await client.call(MetadataRequest(topics=[]), METADATA, 12)
        assert addresses(metadata) == {(2, "127.0.0.1", two.ports[1])}
    two.start(0).wait_for("waiting to take over")
    await two.waiting(0)
    assert two.brokers[1].stop() == 0
    two.brokers[2].ready()
    async with await RawClient.connect(two.place(0)) as client:
        assert (await client.produce(topic, batch())).base_offset == 2


async def test_waiting_broker_ends_in_order_and_its_row_goes(two: Pair) -> None:
    assert two.brokers[1].stop() == 0
    assert two.brokers[1].err == ""
    async with asyncio.timeout(20):
        while True:
            async with await RawClient.connect(two.place(0)) as client:
                metadata = await client.call(MetadataRequest(topics=[]), METADATA, 12)
            if addresses(metadata) == {(1, "127.0.0.1", two.ports[0])}:
                break
            await asyncio.sleep(0.05)


def test_leader_without_an_address_to_tell_is_not_named(pair: Pair) -> None:
    first = Serving("--listen", f"0.0.0.0:{pair.ports[0]}", "--database", pair.dsn, "--allow-anonymous")
    pair.brokers.append(first)
    first.ready()
    second = pair.start(1)
    second.wait_for("give that broker --advertise")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", pair.ports[1])) != 0
    first.process.kill()
    second.ready()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", pair.ports[1])) == 0


async def test_a_broker_that_waits_goes_by_the_same_access_control_lists(pair: Pair) -> None:
    pair.settings = {"AUTHORIZER": "acl"}
    pair.start(0).ready()
    pair.start(1).wait_for("waiting to take over")
    everybody = "User:ANONYMOUS"
    connection = await asyncpg.connect(pair.dsn)
    try:
        async with connection.transaction():  # who knows one of them knows all
            await connection.execute("SELECT kafka.create_acl($1, 'describe', 'topic', 'seen')", everybody)
            await connection.execute("SELECT kafka.create_acl($1, 'create', 'cluster')", everybody)
            await connection.execute("SELECT kafka.create_acl($1, 'alter', 'cluster')", everybody)
        await until_created(pair, "seen", "hidden")
        async with await RawClient.connect(pair.place(1)) as client:

            async def shown() -> list[str]:
                answer = await client.call(MetadataRequest(topics=None), METADATA, 12)
                return sorted(topic.name for topic in answer.topics)

            async def until_shown(*names: str) -> None:
                async with asyncio.timeout(30):
                    while await shown() != sorted(names):  # noqa: ASYNC110 - it looks by itself, and tells nobody
                        await asyncio.sleep(0.05)

            await until_shown("seen")
            wanted = AclCreation(
                resource_type=2, resource_name="hidden", principal=everybody, host="*", operation=8, permission_type=3
            )
            answer = await client.call(CreateAclsRequest(creations=[wanted]), CREATE_ACLS, 3)
            assert [result.error_code for result in answer.results] == [0]
            assert await shown() == ["hidden", "seen"]
            await connection.execute("SELECT kafka.drop_acls(resource_name => 'seen')")
            await until_shown("hidden")
        assert await connection.fetchval("SELECT count(*) FROM kafka.acls") == 3
    finally:
        await connection.close()


async def until_created(pair: Pair, *names: str) -> None:
    """Topics by the broker that leads, once it lets us."""
    topics = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in names]
    async with asyncio.timeout(30):
        while True:
            async with await RawClient.connect(pair.place(0)) as client:
                answer = await client.call(CreateTopicsRequest(topics=topics), CREATE_TOPICS, 7)
            if not any(topic.error_code for topic in answer.topics):
                return
            await asyncio.sleep(0.05)


async def test_each_listener_names_the_addresses_of_the_same_one(pair: Pair) -> None:
    """A has real ports, B is advertised by other names; the broker that waits tells the leader's of each."""
    inner = pair.ports
    outer = [free_port(), free_port()]

    def start(which: int) -> Serving:
        broker = Serving(
            "--listeners",
            f"A://127.0.0.1:{inner[which]},B://127.0.0.1:{outer[which]}",
            "--advertised-listeners",
            f"B://b{which}.example:9092",
            "--listener-security-protocol-map",
            "A:PLAINTEXT,B:PLAINTEXT",
            "--database",
            pair.dsn,
        )
        pair.brokers.append(broker)
        return broker

    start(0).ready()
    start(1).wait_for("waiting to take over")
    of_a = {(1, "127.0.0.1", inner[0]), (2, "127.0.0.1", inner[1])}
    of_b = {(1, "b0.example", 9092), (2, "b1.example", 9092)}
    for port, expected in ((inner[0], of_a), (inner[1], of_a), (outer[0], of_b), (outer[1], of_b)):
        place = dataclasses.make_dataclass("Place", ["host", "port"])("127.0.0.1", port)
        async with asyncio.timeout(20):
            while True:
                try:
                    async with await RawClient.connect(place) as client:
                        metadata = await client.call(MetadataRequest(topics=[]), METADATA, 12)
                        found = await client.call(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
                except OSError:
                    metadata = None
                if metadata is not None and addresses(metadata) == expected:
                    break
                await asyncio.sleep(0.05)
        assert (1, found.host, found.port) in expected
