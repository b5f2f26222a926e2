"""The seams are real: an authorizer that denies, and a placement that has nothing here, are heard by every API.

Which operation on which resource an API asks for stands in its row of the dispatch table; that the answer is Kafka's is
tested here, row by row, over the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.broker import samples
from tests.broker.inside import Deny, Elsewhere, Inside, running
from tests.broker.rawclient import FETCH, RawClient, SomeTopic, fetching, producing
from tests.broker.samples import Scene, codes

from pg_kafka.app import Seams
from pg_kafka.broker import waiting
from pg_kafka.broker.api import Api
from pg_kafka.broker.dispatch import APIS
from pg_kafka.broker.permission import DENIED, Access, If, Operation, ResourceType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic

pytestmark = pytest.mark.asyncio(loop_scope="module")
METADATA, LEAVE_GROUP = 3, 13

ROWS = [(api, access) for api in APIS.values() for access in api.access]
REFUSED = [(api, access) for api, access in ROWS if access.denied is If.REFUSED]
HIDDEN = [(api, access) for api, access in ROWS if access.denied is If.HIDDEN]
INSTEAD = [(api, access) for api, access in ROWS if access.denied is If.INSTEAD]
AUTHORIZATION_FAILED = set(DENIED.values())

TELL_OPERATIONS = {"Metadata", "DescribeCluster", "DescribeTopicPartitions"}
"""Answers tell which operations are allowed, so that all are asked about."""

CHANGING = {"DeleteTopics", "DeleteGroups", "InitProducerId"}
"""Requests that leave not all for the next test."""


def name_of(value: Any) -> str:
    if isinstance(value, Api):
        return value.name
    return f"{value.operation.name}-{value.resource.name}-{value.when}".rstrip("-").replace(" ", "-")


class World:
    """A broker and what decides in it."""

    def __init__(self, inside: Inside, authorizer: Deny, placement: Elsewhere) -> None:
        self.inside = inside
        self.authorizer = authorizer
        self.placement = placement

    async def ask(self, scene: Scene, api: Api, when: str) -> Any:
        async with await RawClient.connect(self.inside) as client:
            return await client.call(samples.of(api.name, when)(scene), api.key, samples.version_of(api, when))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres15: Any) -> AsyncIterator[World]:
    authorizer, placement = Deny(), Elsewhere()
    seams = Seams(authorizer=authorizer, placement=placement)
    async with running(postgres15, seams, group_initial_rebalance_delay_ms=0) as inside:
        yield World(inside, authorizer, placement)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(world: World) -> Scene:
    async with await RawClient.connect(world.inside) as client:
        return await samples.set_up(client)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(world: World, kept: Scene, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    api = request.getfixturevalue("api") if "api" in request.fixturenames else None
    if api is not None and api.name in CHANGING:
        async with await RawClient.connect(world.inside) as client:
            kept = await samples.set_up(client)
    yield kept
    world.authorizer.denied.clear()
    world.placement.is_elsewhere = False


@pytest.mark.parametrize(("api", "access"), REFUSED, ids=name_of)
async def test_without_permission_the_answer_is_kafkas(world: World, scene: Scene, api: Api, access: Access) -> None:
    world.authorizer.denied = {(access.operation, access.resource)}
    world.authorizer.denied |= {(one.operation, one.resource) for one in api.access if one.denied is If.INSTEAD}
    answer = await world.ask(scene, api, access.when)
    assert codes(answer) & AUTHORIZATION_FAILED == {DENIED[access.resource]}
    world.authorizer.denied.clear()
    answer = await world.ask(scene, api, access.when)
    assert not codes(answer) & AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("request_", "key", "version", "access"),
    [
        (FindCoordinatorRequest(key="g"), 10, 3, Access(Operation.DESCRIBE, ResourceType.GROUP)),
        (FindCoordinatorRequest(key="t", key_type=1), 10, 3, Access(Operation.DESCRIBE, ResourceType.TRANSACTIONAL_ID)),
        (OffsetFetchRequest(group_id="g", topics=None), 9, 7, Access(Operation.DESCRIBE, ResourceType.GROUP)),
        (
            OffsetFetchRequest(group_id="g", topics=[OffsetFetchRequestTopic(name="t", partition_indexes=[0])]),
            9,
            1,
            Access(Operation.DESCRIBE, ResourceType.GROUP),
        ),
        (
            OffsetFetchRequest(group_id="g", topics=[OffsetFetchRequestTopic(name="t", partition_indexes=[0])]),
            9,
            7,
            Access(Operation.DESCRIBE, ResourceType.TOPIC),
        ),
        (LeaveGroupRequest(group_id="g", member_id="m"), 13, 0, Access(Operation.READ, ResourceType.GROUP)),
        (DeleteTopicsRequest(topic_names=["t"]), 20, 5, Access(Operation.DELETE, ResourceType.TOPIC)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else None,
)
async def test_older_versions_are_refused_in_their_own_form(
    world: World, scene: Scene, request_: Message, key: int, version: int, access: Access
) -> None:
    world.authorizer.denied = {
        (access.operation, access.resource),
        (Operation.DELETE, ResourceType.CLUSTER),
        (Operation.DESCRIBE, ResourceType.TOPIC),
    }
    async with await RawClient.connect(world.inside) as client:
        assert codes(await client.call(request_, key, version)) == {DENIED[access.resource]}


@pytest.mark.parametrize(("api", "access"), INSTEAD, ids=name_of)
async def test_one_of_two_permissions_is_enough(world: World, scene: Scene, api: Api, access: Access) -> None:
    """Of those that the row asks for in the same case, which may be all of its cases."""
    world.authorizer.denied = {
        (one.operation, one.resource)
        for one in api.access
        if one.denied is not If.INSTEAD and _is_instead_of(api, access, one)
    }
    assert world.authorizer.denied
    answer = await world.ask(scene, api, access.when)
    assert not codes(answer) & AUTHORIZATION_FAILED
    assert scene.group in repr(answer) or api.name != "ListGroups"


def _is_instead_of(api: Api, access: Access, one: Access) -> bool:
    if api.name == "CreateTopics":
        return one.operation is access.operation
    return one.when.startswith(access.when.partition(",")[0]) or not access.when


@pytest.mark.parametrize(("api", "access"), HIDDEN, ids=name_of)
async def test_what_may_not_be_seen_is_left_out(world: World, scene: Scene, api: Api, access: Access) -> None:
    shown = await world.ask(scene, api, access.when)
    world.authorizer.denied = {(access.operation, access.resource)}
    world.authorizer.denied |= {(one.operation, one.resource) for one in api.access if one.denied is If.INSTEAD}
    world.inside.house.changed()
    hidden = await world.ask(scene, api, access.when)
    assert not codes(shown)
    assert not codes(hidden)
    if access.resource is ResourceType.CLUSTER:
        assert shown.cluster_authorized_operations > 0
        assert hidden.cluster_authorized_operations == 0
        return
    secret = {
        ResourceType.TOPIC: str(scene.topic.id) if api.name == "ConsumerGroupHeartbeat" else scene.name,
        ResourceType.GROUP: scene.group,
        ResourceType.TRANSACTIONAL_ID: scene.transactional_id,
    }[access.resource]
    assert secret in repr(shown)
    assert secret not in repr(hidden)


@pytest.mark.parametrize("api", APIS.values(), ids=name_of)
async def test_nothing_is_asked_for_but_what_the_row_says(world: World, scene: Scene, api: Api) -> None:
    world.authorizer.asked.clear()
    for when in dict.fromkeys(access.when for access in api.access) or ("",):
        await world.ask(scene, api, when)
    asked = {(operation, resource) for operation, resource, _ in world.authorizer.asked}
    expected = {(access.operation, access.resource) for access in api.access}
    if api.name in TELL_OPERATIONS:
        expected |= {(operation, access.resource) for access in api.access for operation in Operation}
    assert asked <= expected


async def test_who_may_not_describe_a_topic_is_not_told_whether_there_is_one(world: World, scene: Scene) -> None:
    world.authorizer.denied = {(operation, ResourceType.TOPIC) for operation in Operation}
    world.authorizer.denied.add((Operation.CLUSTER_ACTION, ResourceType.CLUSTER))
    nowhere = Scene(SomeTopic("nowhere", scene.topic.id))
    for name in (
        "Metadata",
        "Produce",
        "ListOffsets",
        "OffsetForLeaderEpoch",
        "DescribeProducers",
        "DescribeConfigs",
        "CreatePartitions",
        "DescribeTopicPartitions",
    ):
        api = next(row for row in APIS.values() if row.name == name)
        there, not_there = [await world.ask(each, api, "") for each in (scene, nowhere)]
        assert repr(there).replace(scene.name, "nowhere") == repr(not_there)


async def test_an_id_that_is_no_topics_is_told_before_permission(world: World, scene: Scene) -> None:
    world.authorizer.denied = {(operation, ResourceType.TOPIC) for operation in Operation}
    unknown = SomeTopic("", type(scene.topic.id)(int=77))
    async with await RawClient.connect(world.inside) as client:
        for topic, code in ((unknown, ErrorCode.UNKNOWN_TOPIC_ID), (scene.topic, ErrorCode.TOPIC_AUTHORIZATION_FAILED)):
            by_id = MetadataRequest(topics=[MetadataRequestTopic(topic_id=topic.id, name=None)])
            assert codes(await client.call(by_id, METADATA, 12)) == {code}
            assert codes(await client.call(fetching(topic, {0: 0}), FETCH, 13)) == {code}
            assert codes(await client.call(producing(topic, {0: b""}), 0, 13)) == {code}


async def test_a_topic_that_may_not_be_created_is_refused_or_not_made(world: World, scene: Scene) -> None:
    world.authorizer.denied = {
        (Operation.CREATE, ResourceType.TOPIC),
        (Operation.CREATE, ResourceType.CLUSTER),
    }
    async with await RawClient.connect(world.inside) as client:
        request = samples.metadata("not-to-be-made", allow_auto_topic_creation=True)
        assert codes(await client.call(request, METADATA, 12)) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}
        world.authorizer.denied.clear()
        request = samples.metadata("not-to-be-made", allow_auto_topic_creation=False)
        assert codes(await client.call(request, METADATA, 12)) == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}


async def test_a_parked_fetch_hears_of_a_change(world: World, scene: Scene) -> None:
    async with await RawClient.connect(world.inside) as client:
        opened = await client.call(fetching(scene.topic, {0: 0}, session=(0, 0)), FETCH, 12)
        end = opened.responses[0].partitions[0].high_watermark
        session = (opened.session_id, 1)
        request = fetching(scene.topic, {0: end}, session=session, max_wait_ms=60_000, min_bytes=1)
        parked = client.send(request, FETCH, 12)
        async with await RawClient.connect(world.inside) as other:
            await other.call(samples.of("ListGroups")(scene), 16, 5)  # by now the fetch has been read
        world.authorizer.denied = {(Operation.READ, ResourceType.TOPIC)}
        world.inside.house.changed()
        assert codes(await client.receive(FETCH, 12, parked)) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}


async def test_a_group_that_is_asked_for_again_is_refused_without_permission(world: World, scene: Scene) -> None:
    async with await RawClient.connect(world.inside) as client:
        request = LeaveGroupRequest(group_id="asked-again")
        answer = await client.call(request, LEAVE_GROUP, 2)
        assert answer.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        world.authorizer.denied = {(Operation.READ, ResourceType.GROUP)}
        answer = await client.call(request, LEAVE_GROUP, 2)
        assert answer.error_code == ErrorCode.GROUP_AUTHORIZATION_FAILED


# -- placement -----------------------------------------------------------------------------------------------------------

NOT_LED = {
    **dict.fromkeys(waiting._NOT_LED_HERE, ErrorCode.NOT_LEADER_OR_FOLLOWER),
    **waiting._CODES,
}


@pytest.mark.parametrize("api", [api for api in APIS.values() if api.name in NOT_LED], ids=name_of)
async def test_what_is_not_here_is_answered_as_by_a_broker_that_waits(world: World, scene: Scene, api: Api) -> None:
    world.placement.is_elsewhere = True
    assert codes(await world.ask(scene, api, "")) == {NOT_LED[api.name]}


async def test_a_transactional_id_that_is_not_here(world: World, scene: Scene) -> None:
    world.placement.is_elsewhere = True
    api = APIS[22]
    assert codes(await world.ask(scene, api, "with a transactional id")) == {ErrorCode.NOT_COORDINATOR}
    assert not codes(await world.ask(scene, api, "without one"))
