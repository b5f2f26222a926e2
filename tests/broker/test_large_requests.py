"""Requests that name very many things: they are bounded, answered in full, and hold up nobody."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.broker.groupclient import OFFSET_COMMIT, OFFSET_FETCH, committing, fresh_group
from tests.broker.rawclient import (
    CREATE_TOPICS,
    FETCH,
    LIST_OFFSETS,
    OFFSET_FOR_LEADER_EPOCH,
    PRODUCE,
    RawClient,
    SomeTopic,
    answered,
    batch,
    fetching,
    offsets_of,
    only,
    producing,
)
from tests.broker.test_connection import FIND_COORDINATOR, Handlers, connected, frame_of, serving
from tests.broker.test_connection import batch as one_batch
from tests.broker.transactor import DESCRIBE_PRODUCERS, DESCRIBE_TRANSACTIONS, Transactor

from pg_kafka.broker.context import Context
from pg_kafka.broker.turns import ITEMS_AT_ONCE
from pg_kafka.wire.codec import MAX_REQUEST_ITEMS
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.describe_producers import DescribeProducersRequest, TopicRequest
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from pg_kafka.wire.messages.produce import ProduceResponse

MANY = ITEMS_AT_ONCE + 500
METADATA, DESCRIBE_GROUPS, API_VERSIONS, DELETE_TOPICS, DESCRIBE_CONFIGS, OFFSET_DELETE, CONSUMER_DESCRIBE = (
    3,
    15,
    18,
    20,
    32,
    47,
    69,
)
LATEST = -1
TOPIC, GROUP = 2, 32
LONG_WAIT_MS = 600_000


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.fixture
async def topic(client: RawClient) -> SomeTopic:
    """With a record in its first and last partition."""
    topic = await client.create_topic(partitions=MANY)
    for index in (0, MANY - 1):
        assert (await client.produce(topic, batch(), index)).error_code == 0
    return topic


# -- the connection ------------------------------------------------------------------------------------------------------


def keys(count: int) -> FindCoordinatorRequest:
    return FindCoordinatorRequest(coordinator_keys=[f"key-{number}" for number in range(count)])


class Coordinators(Handlers):
    """Answers a coordinator for each key, when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.large: list[bool] = []

    async def find_at_once(self, ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        self.large.append(ctx.is_large)
        await self.may_answer.wait()
        return FindCoordinatorResponse(coordinators=[Coordinator(key=key) for key in request.coordinator_keys])


@pytest.mark.parametrize(
    ("count", "is_large"), [(ITEMS_AT_ONCE, False), (ITEMS_AT_ONCE + 1, True), (MAX_REQUEST_ITEMS, True)]
)
async def test_large_message_is_read_and_answered_whole(count: int, is_large: bool) -> None:
    handlers = Coordinators()
    handlers.may_answer.set()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(keys(count), FIND_COORDINATOR, 4, 1)
        correlation_id, answer = await peer.receive(FIND_COORDINATOR, 4)
        assert correlation_id == 1
        assert [one.key for one in answer.coordinators] == keys(count).coordinator_keys
        assert handlers.large == [is_large]
        await handlers.until(lambda: server.request_bytes == 0)


async def test_more_items_than_any_request_may_have_close_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    with caplog.at_level(logging.WARNING, "pg_kafka.broker.server"):
        async with serving(handlers) as (server, _), connected(server) as peer:
            peer.send(keys(MAX_REQUEST_ITEMS + 1), FIND_COORDINATOR, 4, 1)
            assert await peer.is_closed()
            await handlers.until(lambda: server.request_bytes == 0)
    assert handlers.found == []
    (record,) = caplog.records
    reason = f"FindCoordinator: arrays of more than {MAX_REQUEST_ITEMS} items in one request"
    assert (record.message, record.levelname, record.reason) == ("connection closed", "WARNING", reason)  # type: ignore[attr-defined]


async def test_answers_keep_their_order_behind_a_large_one() -> None:
    handlers = Coordinators()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(one_batch(), PRODUCE, 9, 1)
        await handlers.until(lambda: len(handlers.produced) == 1)
        peer.send(keys(MANY), FIND_COORDINATOR, 4, 2)
        peer.send(one_batch(), PRODUCE, 9, 3)
        await handlers.until(lambda: handlers.large == [True])
        assert len(handlers.produced) == 1, "a request began before the large one was answered"
        handlers.may_answer.set()
        handlers.produced[0][1].send(ProduceResponse())
        assert (await peer.receive(PRODUCE, 9))[0] == 1
        correlation_id, answer = await peer.receive(FIND_COORDINATOR, 4)
        assert (correlation_id, len(answer.coordinators)) == (2, MANY)
        await handlers.until(lambda: len(handlers.produced) == 2)
        handlers.produced[1][1].send(ProduceResponse())
        assert (await peer.receive(PRODUCE, 9))[0] == 3


async def test_large_answer_whose_client_has_gone_is_dropped() -> None:
    handlers = Coordinators()
    async with serving(handlers) as (server, _):
        async with connected(server) as peer:
            peer.send(keys(MAX_REQUEST_ITEMS), FIND_COORDINATOR, 4, 1)
            await handlers.until(lambda: handlers.large == [True])
        await handlers.until(lambda: server.connection_count == 0)
        handlers.may_answer.set()
        await handlers.until(lambda: not server._work.tasks)
        async with connected(server) as peer:
            peer.send(FindCoordinatorRequest(coordinator_keys=["key"]), FIND_COORDINATOR, 4, 1)
            assert len((await peer.receive(FIND_COORDINATOR, 4))[1].coordinators) == 1


# -- handlers ------------------------------------------------------------------------------------------------------------


async def test_large_fetch_answers_every_partition(client: RawClient, topic: SomeTopic) -> None:
    for version in (12, 17):
        response = await client.call(fetching(topic, dict.fromkeys(range(MANY), 0)), FETCH, version)
        answers = answered(response)
        assert list(answers) == list(range(MANY))
        assert {one.error_code for one in answers.values()} == {0}
        assert [index for index, one in answers.items() if one.records] == [0, MANY - 1]
        assert offsets_of(answers[MANY - 1]) == [0]


async def test_partition_that_a_large_fetch_names_twice_is_answered_once(client: RawClient, topic: SomeTopic) -> None:
    request = fetching(topic, dict.fromkeys(range(MANY), 0))
    first = only(request.topics)
    first.partitions = [*first.partitions, only(fetching(topic, {0: 1}).topics).partitions[0]]
    answers = only((await client.call(request, FETCH, 12)).responses).partitions
    assert [one.partition_index for one in answers] == list(range(MANY))
    assert offsets_of(answers[0]) == []  # the offset that was named last


async def test_large_fetch_is_parked_and_woken(client: RawClient, topic: SomeTopic, group_broker: Any) -> None:
    offsets = dict.fromkeys(range(MANY), 0) | {0: 1, MANY - 1: 1}
    request = fetching(topic, offsets, max_wait_ms=LONG_WAIT_MS)
    waiting = asyncio.create_task(client.call(request, FETCH, 12))
    async with await RawClient.connect(group_broker) as producer:
        while not waiting.done():
            assert (await producer.produce(topic, batch(), 1234)).error_code == 0
            await asyncio.wait([waiting], timeout=0.2)
    answers = answered(await waiting)
    assert [index for index, one in answers.items() if one.records] == [1234]


async def test_large_session_tells_news_only(client: RawClient, topic: SomeTopic) -> None:
    offsets = dict.fromkeys(range(MANY), 0)
    first = await client.call(fetching(topic, offsets, session=(0, 0)), FETCH, 12)
    assert first.session_id > 0
    assert len(answered(first)) == MANY
    # All named again, a little further where there was something: there is nothing new.
    again = offsets | {0: 1, MANY - 1: 1}
    second = await client.call(fetching(topic, again, session=(first.session_id, 1)), FETCH, 12)
    assert (second.error_code, second.responses) == (0, ())
    assert (await client.produce(topic, batch(), 7)).error_code == 0
    third = await client.call(fetching(topic, {}, session=(first.session_id, 2)), FETCH, 12)
    assert {index: offsets_of(one) for index, one in answered(third).items()} == {7: [0]}


async def test_large_list_offsets_and_epochs(client: RawClient, topic: SomeTopic) -> None:
    partitions = [ListOffsetsPartition(partition_index=index, timestamp=LATEST) for index in range(MANY)]
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic.name, partitions=partitions)])
    found = only((await client.call(request, LIST_OFFSETS, 9)).topics).partitions
    assert [one.offset for one in found] == [1, *[0] * (MANY - 2), 1]
    asked = [
        OffsetForLeaderPartition(partition=one.partition_index, leader_epoch=one.leader_epoch)
        for one in reversed(found)
    ]
    epochs = OffsetForLeaderEpochRequest(
        replica_id=-1, topics=[OffsetForLeaderTopic(topic=topic.name, partitions=asked)]
    )
    ends = only((await client.call(epochs, OFFSET_FOR_LEADER_EPOCH, 4)).topics).partitions
    assert [(one.partition, one.end_offset) for one in ends] == [
        (one.partition_index, one.offset) for one in reversed(found)
    ]


async def test_large_metadata(client: RawClient, topic: SomeTopic) -> None:
    names = [*(f"absent-{number}" for number in range(MANY)), topic.name, topic.name]
    request = MetadataRequest(
        topics=[MetadataRequestTopic(name=name) for name in names], allow_auto_topic_creation=False
    )
    topics = (await client.call(request, METADATA, 12)).topics
    assert [one.name for one in topics] == names[:-1]
    assert {one.error_code for one in topics[:-1]} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert [one.partition_index for one in topics[-1].partitions] == list(range(MANY))


async def test_large_commit_is_read_back(client: RawClient, topic: SomeTopic) -> None:
    group = fresh_group()
    offsets = {index: index + 10 for index in range(MANY)}
    codes = only((await client.call(committing(group, topic, offsets), OFFSET_COMMIT, 8)).topics).partitions
    assert [(one.partition_index, one.error_code) for one in codes] == [(index, 0) for index in offsets]
    expected = list(offsets.items())
    for topics in (None, [OffsetFetchRequestTopics(name=topic.name, partition_indexes=list(offsets))]):
        asked = [OffsetFetchRequestGroup(group_id=group, topics=topics)]
        if topics is None:
            asked *= 3  # it is answered once
        groups = (await client.call(OffsetFetchRequest(groups=asked), OFFSET_FETCH, 8)).groups
        found = only(only(groups).topics).partitions
        assert [(one.partition_index, one.committed_offset) for one in found] == expected
    older = OffsetFetchRequest(
        group_id=group, topics=[OffsetFetchRequestTopic(name=topic.name, partition_indexes=list(offsets))]
    )
    found = only((await client.call(older, OFFSET_FETCH, 5)).topics).partitions
    assert [(one.partition_index, one.committed_offset) for one in found] == expected
    deletion = OffsetDeleteRequest(
        group_id=group,
        topics=[
            OffsetDeleteRequestTopic(
                name=topic.name,
                partitions=[OffsetDeleteRequestPartition(partition_index=index) for index in range(1, MANY)],
            )
        ],
    )
    deleted = await client.call(deletion, OFFSET_DELETE, 0)
    assert deleted.error_code == 0
    assert {one.error_code for one in only(deleted.topics).partitions} == {0}
    everything = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=None)])
    (left,) = only(only((await client.call(everything, OFFSET_FETCH, 8)).groups).topics).partitions
    assert (left.partition_index, left.committed_offset) == (0, 10)


async def test_large_commit_of_a_stranger_is_refused_everywhere(client: RawClient, topic: SomeTopic) -> None:
    group = fresh_group()
    request = committing(group, topic, dict.fromkeys(range(MANY), 5))
    request.generation_id_or_member_epoch, request.member_id = 7, "stranger"
    codes = only((await client.call(request, OFFSET_COMMIT, 8)).topics).partitions
    assert {one.error_code for one in codes} == {ErrorCode.ILLEGAL_GENERATION}
    assert len(codes) == MANY


async def test_large_transaction(client: RawClient, topic: SomeTopic) -> None:
    one = Transactor(client)
    assert await one.init() == ErrorCode.NONE
    assert await one.add(topic, range(MANY)) == dict.fromkeys(range(MANY), ErrorCode.NONE)
    assert await one.add(topic, range(MANY + 1)) == dict.fromkeys(range(MANY), ErrorCode.OPERATION_NOT_ATTEMPTED) | {
        MANY: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    }
    # Named often, described once.
    answer = await client.call(
        DescribeTransactionsRequest(transactional_ids=[one.id, "unknown", one.id] * 1000), DESCRIBE_TRANSACTIONS, 0
    )
    known, unknown = answer.transaction_states
    assert sorted(only(known.topics).partitions) == list(range(MANY))
    assert unknown.error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
    producers = DescribeProducersRequest(
        topics=[TopicRequest(name=topic.name, partition_indexes=[*range(MANY), *range(MANY)])]
    )
    found = only((await client.call(producers, DESCRIBE_PRODUCERS, 0)).topics).partitions
    assert [(answer.partition_index, answer.error_code) for answer in found] == [(index, 0) for index in range(MANY)]
    assert await one.abort() == ErrorCode.NONE


async def test_names_that_are_repeated_are_described_once(client: RawClient, topic: SomeTopic) -> None:
    names = ["a", "b"] * MANY
    answer = await client.call(DescribeGroupsRequest(groups=names), DESCRIBE_GROUPS, 5)
    assert [(one.group_id, one.group_state) for one in answer.groups] == [("a", "Dead"), ("b", "Dead")]
    answer = await client.call(ConsumerGroupDescribeRequest(group_ids=names), CONSUMER_DESCRIBE, 0)
    assert [one.group_id for one in answer.groups] == ["a", "b"]

    def of(name: str, *wanted: str) -> DescribeConfigsResource:
        return DescribeConfigsResource(resource_type=TOPIC, resource_name=name, configuration_keys=wanted or None)

    asked = [of(topic.name), of("absent"), of(topic.name, "cleanup.policy"), of(topic.name)] * (MANY // 4)
    results = (await client.call(DescribeConfigsRequest(resources=asked), DESCRIBE_CONFIGS, 4)).results
    assert [one.resource_name for one in results] == [topic.name, "absent", topic.name]
    assert [one.name for one in results[2].configs] == ["cleanup.policy"]
    assert len(results[0].configs) > 1


async def test_large_creation_and_deletion(client: RawClient) -> None:
    prefix = fresh_group()
    names = [f"{prefix}.{number}" for number in range(MANY)]
    topics = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in names]
    made = await client.call(CreateTopicsRequest(topics=topics, timeout_ms=30_000), CREATE_TOPICS, 7, 30.0)
    assert [(one.name, one.error_code) for one in made.topics] == [(name, 0) for name in names]
    doomed = DeleteTopicsRequest(topics=[DeleteTopicState(name=name) for name in names], timeout_ms=30_000)
    gone = await client.call(doomed, DELETE_TOPICS, 6, 30.0)
    assert sorted((one.name, one.error_code) for one in gone.responses) == sorted((name, 0) for name in names)


async def test_large_produce(client: RawClient, topic: SomeTopic) -> None:
    records = batch()
    response = await client.call(producing(topic, dict.fromkeys(range(MANY), records)), PRODUCE, 9, 60.0)
    answers = answered(response)
    assert {index: (one.error_code, one.base_offset) for index, one in answers.items()} == {
        index: (0, 1 if index in (0, MANY - 1) else 0) for index in range(MANY)
    }


# -- others --------------------------------------------------------------------------------------------------------------

ABSENT = [f"absent-{number}" for number in range(MAX_REQUEST_ITEMS)]
LARGE: dict[str, tuple[Any, int, int]] = {
    "Produce": (producing(SomeTopic("absent", ZERO_UUID), dict.fromkeys(range(90_000), batch())), PRODUCE, 9),
    "Metadata": (
        MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in ABSENT], allow_auto_topic_creation=False),
        METADATA,
        12,
    ),
    "DescribeGroups": (DescribeGroupsRequest(groups=ABSENT), DESCRIBE_GROUPS, 5),
    "DescribeConfigs": (
        DescribeConfigsRequest(
            resources=[
                DescribeConfigsResource(resource_type=GROUP, resource_name=name, configuration_keys=None)
                for name in ABSENT[::2]
            ]
        ),
        DESCRIBE_CONFIGS,
        4,
    ),
    "DeleteTopics": (
        DeleteTopicsRequest(topics=[DeleteTopicState(name=name) for name in ABSENT], timeout_ms=1000),
        DELETE_TOPICS,
        6,
    ),
    "Fetch": (
        fetching(SomeTopic("absent", ZERO_UUID), dict.fromkeys(range(90_000), 0)),
        FETCH,
        12,
    ),
    "OffsetFetch": (
        OffsetFetchRequest(
            groups=[
                OffsetFetchRequestGroup(
                    group_id="absent",
                    topics=[OffsetFetchRequestTopics(name="absent", partition_indexes=range(90_000))],
                )
            ]
        ),
        OFFSET_FETCH,
        8,
    ),
    "ListOffsets": (
        ListOffsetsRequest(
            replica_id=-1,
            topics=[
                ListOffsetsTopic(
                    name="absent",
                    partitions=[
                        ListOffsetsPartition(partition_index=index, timestamp=LATEST) for index in range(90_000)
                    ],
                )
            ],
        ),
        LIST_OFFSETS,
        9,
    ),
}


@pytest.mark.parametrize("api", LARGE)
async def test_others_are_answered_while_a_large_request_is_served(
    client: RawClient, group_broker: Any, api: str
) -> None:
    request, key, version = LARGE[api]
    frame = frame_of(request, key, version)
    async with await RawClient.connect(group_broker) as other:

        async def ask() -> None:
            assert (await other.call(ApiVersionsRequest(), API_VERSIONS, 2, 60.0)).error_code == 0

        client.writer.write(struct.pack(">i", len(frame)) + frame[:-1])
        await client.writer.drain()
        for _ in range(20):  # the broker has all but the last byte
            await ask()
        client.writer.write(frame[-1:])
        large = asyncio.create_task(client.receive(key, version, 1, 60.0))
        answers = 0
        while not large.done():
            await ask()
            answers += 1
        await large
    # Read, served and written in one piece each, it leaves room for three.
    assert answers >= 4
