"""What each API allows and refuses is what Apache Kafka's StandardAuthorizer allows and refuses.

The matrix is made from the dispatch table: each request of each row is sent by users of whom each has one permission, by
users of whom each lacks one, by one who has none, one who has all, and one who has all on half of what is asked for. Of
the answers all that tells of permission is compared: which parts are refused and in which words, what is left out, and
which operations they say are allowed.
"""

from __future__ import annotations

import asyncio
import copy
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from tests.broker import samples
from tests.broker.rawclient import RawClient, SomeTopic
from tests.broker.samples import Scene
from tests.broker.saslpeer import sasl_broker
from tests.compare.answers import _identity
from tests.compare.conftest import KAFKA_SETTINGS
from tests.compare.secured import ADMIN, jaas, kafka_settings, logged_in
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing

from pg_kafka.broker.api import Api
from pg_kafka.broker.dispatch import APIS
from pg_kafka.broker.permission import DENIED, OPERATIONS, Operation, ResourceType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.describe_acls import DescribeAclsRequest
from pg_kafka.wire.messages.describe_log_dirs import DescribeLogDirsRequest
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

ANY, ALL, LITERAL, PREFIXED, DENY, ALLOW = 1, 2, 3, 4, 2, 3
METADATA, OFFSET_COMMIT, FIND_COORDINATOR, CREATE_TOPICS, INIT_PRODUCER_ID, ADD_PARTITIONS = 3, 8, 10, 19, 22, 24
DESCRIBE_ACLS, CREATE_ACLS, DESCRIBE_LOG_DIRS, CONSUMER_HEARTBEAT = 29, 30, 35, 68
READY_S, PAUSE_S = 30.0, 0.02

TYPES = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER, ResourceType.TRANSACTIONAL_ID)
PERMISSIONS: tuple[tuple[Operation, ResourceType], ...] = (
    *((operation, resource) for resource, operations in OPERATIONS.items() for operation in operations),
    (Operation.DELETE, ResourceType.CLUSTER),
    (Operation.DESCRIBE, ResourceType.TRANSACTIONAL_ID),
    (Operation.WRITE, ResourceType.TRANSACTIONAL_ID),
)


def _word(permission: tuple[Operation, ResourceType]) -> str:
    operation, resource = permission
    return f"{operation.name}-{resource.name}".lower().replace("_", "-")


NOBODY, EVERYTHING, HALF = "nobody", "everything", "half"
ONLY = {f"only-{_word(permission)}": permission for permission in PERMISSIONS}
WITHOUT = {f"without-{_word(permission)}": permission for permission in PERMISSIONS}
USERS = (NOBODY, EVERYTHING, *ONLY, *WITHOUT, HALF)

NOT_ASKED = {"SaslHandshake", "SaslAuthenticate"}
"""Who logs in has no permissions yet."""
CASES = [
    (api, when)
    for api in APIS.values()
    if api.name not in NOT_ASKED
    for when in dict.fromkeys(access.when for access in api.access) or ("",)
    if when != "subscribed expression"  # which Apache Kafka looks at later; it has a test of its own
]
REFUSALS = {*DENIED.values()}
OURS = re.compile("mine-|other-|made")
NOT_TWICE = {"WriteTxnMarkers", ("AlterConfigs", "brokers"), ("IncrementalAlterConfigs", "brokers")}
"""Requests that would name the same thing twice, which is answered once, or never."""
GONE_AFTERWARDS = {"DeleteTopics"}
"""Requests that need something new each time."""


def acl(
    user: str, operation: int, resource: int, name: str = "", *, allows: bool = True, pattern: int = LITERAL
) -> Any:
    is_cluster = resource == ResourceType.CLUSTER
    return AclCreation(
        resource_type=resource,
        resource_name="kafka-cluster" if is_cluster else name or "*",
        resource_pattern_type=LITERAL if is_cluster else pattern,
        principal=f"User:{user}",
        host="*",
        operation=operation,
        permission_type=ALLOW if allows else DENY,
    )


ACLS = [
    *(acl(EVERYTHING, ALL, resource) for resource in TYPES),
    *(acl(user, operation, resource) for user, (operation, resource) in ONLY.items()),
    *(acl(user, ALL, resource) for user in WITHOUT for resource in TYPES),
    *(acl(user, operation, resource, allows=False) for user, (operation, resource) in WITHOUT.items()),
    *(acl(HALF, ALL, resource, "mine-", pattern=PREFIXED) for resource in TYPES if resource != ResourceType.CLUSTER),
]


@dataclass
class Side:
    """One of the two brokers."""

    name: str
    address: Any
    topics: dict[UUID, str] = field(default_factory=dict)
    clients: dict[str, RawClient] = field(default_factory=dict)
    scenes: dict[str, Scene] = field(default_factory=dict)

    async def client(self, user: str) -> RawClient:
        """The connection of a user, who logs in once."""
        if user not in self.clients:
            self.clients[user] = await logged_in(self.address, user)
        return self.clients[user]

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sides(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("authorization")
    try:
        kafka = ApacheKafka(folder / "kafka", {**KAFKA_SETTINGS, **kafka_settings(USERS)}, heap="512m")
        await asyncio.to_thread(kafka.start)
    except ToolMissing as missing:
        if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    try:
        settings = {
            "authorizer": "acl",
            "super_users": f"User:{ADMIN}",
            "sasl_jaas_config": jaas(USERS),
            "group_initial_rebalance_delay_ms": 0,
        }
        async with sasl_broker(postgres15, **settings) as inside:
            both = Side("Kafka", SimpleNamespace(host=HOST, port=kafka.port)), Side("pg_kafka", inside)
            await asyncio.gather(*map(_prepare, both))
            yield both
            for side in both:
                await side.close()
    finally:
        kafka.kill()


async def _prepare(side: Side) -> None:
    everything = DescribeAclsRequest(
        resource_type_filter=ANY, pattern_type_filter=ANY, operation=ANY, permission_type=ANY
    )
    admin = await side.client(ADMIN)
    async with asyncio.timeout(READY_S):
        answer = await admin.call(CreateAclsRequest(creations=ACLS), CREATE_ACLS, 3)
        assert not samples.codes(answer), answer
        while sum(len(each.acls) for each in (await admin.call(everything, DESCRIBE_ACLS, 3)).resources) < len(ACLS):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_S)  # Apache Kafka answers before an ACL counts, and nothing tells when it does
        for key_type in (0, 1):
            await _until_fine(admin, FIND_COORDINATOR, 3, FindCoordinatorRequest(key="first", key_type=key_type))


async def _until_fine(client: RawClient, api_key: int, version: int, request: Message) -> Any:
    """The answer without an error; Apache Kafka needs a moment for what is new."""
    async with asyncio.timeout(READY_S):
        while samples.codes(answer := await client.call(request, api_key, version)):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_S)
    return answer


async def _until_assigned(client: RawClient, beat: Any) -> Any:
    """The answer with partitions; Apache Kafka assigns them in the background."""
    async with asyncio.timeout(READY_S):
        while True:
            answer = await client.call(beat, CONSUMER_HEARTBEAT, 1)
            assert answer.error_code in (0, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS), answer
            if answer.assignment is not None and answer.assignment.topic_partitions:
                return answer
            await asyncio.sleep(PAUSE_S)


async def _scene(side: Side, label: str) -> Scene:
    """What `samples.set_up` has, with the same names on both brokers."""
    label = re.sub("[ ,]+", "-", label)
    if label not in side.scenes:
        side.scenes[label] = await _set_up(side, await side.client(ADMIN), label)
    return side.scenes[label]


async def _set_up(side: Side, admin: RawClient, label: str) -> Scene:
    request = CreateTopicsRequest(topics=[CreatableTopic(name=label, num_partitions=1, replication_factor=1)])
    topic = (await _until_fine(admin, CREATE_TOPICS, 7, request)).topics[0].topic_id
    side.topics[topic] = label
    await _until_fine(admin, METADATA, 12, samples.metadata(label, allow_auto_topic_creation=False))
    scene = Scene(SomeTopic(label, topic), f"{label}-group", f"{label}-members", f"{label}-transactional")
    described = await admin.call(DescribeLogDirsRequest(topics=[]), DESCRIBE_LOG_DIRS, 4)
    scene.log_dir = described.results[0].log_dir
    await _until_fine(admin, OFFSET_COMMIT, 9, samples.of("OffsetCommit")(scene))
    await _until_assigned(admin, samples.of("ConsumerGroupHeartbeat")(scene))
    begin = samples.of("InitProducerId", "with a transactional id")(scene)
    begun = await _until_fine(admin, INIT_PRODUCER_ID, 4, begin)
    scene.producer = (begun.producer_id, begun.producer_epoch)
    await _until_fine(admin, ADD_PARTITIONS, 3, samples.of("AddPartitionsToTxn", "below version 4")(scene))
    return scene


def _both(one: Any, other: Any) -> Any:
    """A request that asks for what both ask for."""
    both = copy.copy(one)
    for name in one.FIELDS:
        if isinstance(getattr(one, name), list | tuple):
            setattr(both, name, [*getattr(one, name), *getattr(other, name)])
    return both


async def _told(side: Side, api: Api, when: str) -> dict[str, dict[str, str]]:
    """For each user what the answer tells of permission."""
    told: dict[str, dict[str, str]] = {}
    version = samples.version_of(api, when)
    for user in USERS:
        label = f"{api.name}-{when}-{user}" if api.name in GONE_AFTERWARDS else api.name
        request = _request(api, when, await _scene(side, f"mine-{label}"))
        if user == HALF and not {api.name, (api.name, when)} & NOT_TWICE:
            request = _both(request, _request(api, when, await _scene(side, f"other-{label}")))
        client = await side.client(user)
        try:
            answer = await client.call(request, api.key, version)
        except (EOFError, TimeoutError) as error:
            await side.clients.pop(user).close()
            told[user] = {"answer": "closed" if isinstance(error, EOFError) else "none"}
            continue
        found: dict[str, str] = {}
        _collect(answer, "", side, found)
        told[user] = found
    return told


def _request(api: Api, when: str, scene: Scene) -> Any:
    request = samples.of(api.name, when)(scene)
    if api.name == "DescribeAcls":
        request.principal_filter = "User:a"
    elif api.name == "DeleteAcls":
        request.filters[0].principal_filter = "User:nothing-to-delete"
    return request


def _collect(message: Message, path: str, side: Side, found: dict[str, str]) -> None:
    """Refusals and their words, which of our topics, groups and transactional ids are there, and operations."""
    code = getattr(message, "error_code", 0)
    for name in message.FIELDS:
        part = getattr(message, name)
        here = f"{path}.{name}".lstrip(".")
        if name.endswith("error_code"):
            if part in REFUSALS:
                found[here] = ErrorCode(part).name
        elif name.endswith("authorized_operations") and "[__" not in path:  # internal topics are Kafka's own
            found[here] = str(part)
        elif name.endswith("error_message") and code in REFUSALS and not _says_what_the_code_says(part):
            found[here] = _plain(repr(part))
        elif isinstance(part, list | tuple):
            for one in part:
                label = _plain(_identity(one, side.topics)) if isinstance(one, Message) else _plain(str(one))
                if OURS.match(label):
                    found[f"{here}[{label}]"] = "there"
                if isinstance(one, Message):
                    _collect(one, f"{here}[{label}]", side, found)


def _says_what_the_code_says(text: str | None) -> bool:
    """No words, those of the code, or Kafka's description of the whole request."""
    return not text or text.endswith("authorization failed.") or text.startswith("Request Request(")


def _plain(text: str) -> str:
    return re.sub(r"made-[0-9a-f]{12}", "made", text)


@pytest.mark.parametrize(("api", "when"), CASES, ids=lambda value: value.name if isinstance(value, Api) else value)
async def test_permissions_are_kafkas(sides: tuple[Side, Side], api: Api, when: str) -> None:
    both = await asyncio.gather(*(_told(side, api, when) for side in sides), return_exceptions=True)
    for each in both:
        if isinstance(each, BaseException):
            raise each
    kafka, ours = both
    assert isinstance(kafka, dict)
    assert isinstance(ours, dict)
    differences = [
        f"{user}: {path}: Kafka {kafka[user].get(path, 'nothing')}, pg_kafka {ours[user].get(path, 'nothing')}"
        for user in USERS
        for path in sorted({*kafka[user], *ours[user]})
        if kafka[user].get(path) != ours[user].get(path)
    ]
    assert not differences, "\n".join(differences)


async def test_an_expression_leaves_out_what_may_not_be_described(sides: tuple[Side, Side]) -> None:
    assigned = [await _assigned(side) for side in sides]
    assert assigned == [{"mine-expression"}] * 2


async def _assigned(side: Side) -> set[str]:
    """The topics that a member gets whose expression matches two, of which it may describe one."""
    for label in ("mine-expression", "other-expression"):
        await _scene(side, label)
    client = await side.client(HALF)
    beat = ConsumerGroupHeartbeatRequest(
        group_id="mine-expression-group-2",
        member_id="AAAAAAAAAAAAAAAAAAAAAQ",
        rebalance_timeout_ms=60_000,
        subscribed_topic_regex="(mine|other)-expression",
        topic_partitions=[],
    )
    answer = await _until_assigned(client, beat)
    return {side.topics[each.topic_id] for each in answer.assignment.topic_partitions}
