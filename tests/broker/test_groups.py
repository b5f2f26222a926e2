"""Groups over the raw protocol: what the broker adds to their machines. The expectations are what Kafka 4.4.0 answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from tests.broker.groupclient import (
    FIND_COORDINATOR,
    HEARTBEAT,
    INCREMENTAL_ALTER_CONFIGS,
    JOIN_GROUP,
    LEAVE_GROUP,
    SYNC_GROUP,
    Consumer,
    Member,
    commit,
    delete_group,
    described,
    described_consumers,
    fetched,
    fresh_group,
    joining,
    listed,
    subscription,
)
from tests.broker.rawclient import CREATE_TOPICS, RawClient, only
from tests.kafka_reference import end

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.sync_group import SyncGroupRequest

DESCRIBE_CONFIGS, CREATE_PARTITIONS = 32, 37
TOPIC, BROKER, GROUP = 2, 4, 32
SET, DELETE, APPEND = 0, 1, 2
GROUP_OPERATIONS = 3400
SESSION, INTERVAL = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.fixture
async def connect(group_broker: Any) -> AsyncIterator[Callable[[], Any]]:
    """More connections to the broker: a request that waits holds up its connection."""
    async with AsyncExitStack() as stack:

        async def another() -> RawClient:
            return await stack.enter_async_context(await RawClient.connect(group_broker))

        yield another


# -- the classic protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(10))
async def test_members_join_and_are_assigned_in_every_version(connect: Any, version: int) -> None:
    first, second = Member(await connect(), fresh_group()), Member(await connect(), "")
    second.group = first.group
    await first.join(version)
    assert first.is_leader and first.generation == 1
    sync_version = min(version, 5)
    assert (await first.sync({first.member_id: b"all"}, sync_version)).assignment == b"all"
    joined = asyncio.create_task(second.join(version))
    heartbeat_version = min(version, 4)
    while await first.heartbeat(heartbeat_version) != ErrorCode.REBALANCE_IN_PROGRESS:
        pass
    await first.join(version)
    answer = await joined
    assert (answer.error_code, answer.leader, list(answer.members)) == (ErrorCode.NONE, first.member_id, [])
    assert sorted(first.others) == sorted([first.member_id, second.member_id])
    assert first.generation == second.generation == 2
    waiting = asyncio.create_task(second.sync(version=sync_version))
    assignments = {first.member_id: b"one", second.member_id: b"two"}
    assert (await first.sync(assignments, sync_version)).assignment == b"one"
    assert (await waiting).assignment == b"two"
    assert await second.heartbeat(heartbeat_version) == ErrorCode.NONE
    left = await second.leave(min(version, 5))
    assert left.error_code == ErrorCode.NONE and all(member.error_code == 0 for member in left.members)
    assert await first.heartbeat(heartbeat_version) == ErrorCode.REBALANCE_IN_PROGRESS


async def test_groups_that_are_not_there(client: RawClient) -> None:
    group = fresh_group()
    assert (await client.call(joining(group, "stranger"), JOIN_GROUP, 9)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    heartbeat = HeartbeatRequest(group_id=group, generation_id=1, member_id="stranger")
    assert (await client.call(heartbeat, HEARTBEAT, 4)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    sync = SyncGroupRequest(
        group_id=group, generation_id=1, member_id="stranger", protocol_type="consumer", protocol_name="range"
    )
    assert (await client.call(sync, SYNC_GROUP, 5)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    leave = LeaveGroupRequest(group_id=group, member_id="stranger", members=[MemberIdentity(member_id="stranger")])
    assert only((await client.call(leave, LEAVE_GROUP, 5)).members).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert (await client.call(leave, LEAVE_GROUP, 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert group not in await listed(client)


@pytest.mark.parametrize("group", ["", "a\0b", "x" * 2001])
async def test_group_ids_that_cannot_be(client: RawClient, group: str) -> None:
    assert (await client.call(joining(group), JOIN_GROUP, 9)).error_code == ErrorCode.INVALID_GROUP_ID
    assert (await described(client, group)).group_state == "Dead"


async def test_a_refused_join_leaves_no_group(client: RawClient) -> None:
    for changes, code in (
        ({"session_timeout_ms": 5}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"protocols": []}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ):
        group = fresh_group()
        assert (await client.call(joining(group, **changes), JOIN_GROUP, 9)).error_code == code
        assert (await described(client, group)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_too_much_metadata_is_refused(client: RawClient) -> None:
    request = joining(fresh_group())
    request.protocols[0].metadata = bytes(1_048_577)
    assert (await client.call(request, JOIN_GROUP, 9)).error_code == ErrorCode.INVALID_REQUEST


async def test_sync_must_name_the_protocol(client: RawClient) -> None:
    member = Member(client, fresh_group())
    await member.join()
    request = SyncGroupRequest(group_id=member.group, generation_id=1, member_id=member.member_id)
    assert (await client.call(request, SYNC_GROUP, 5)).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert (await client.call(request, SYNC_GROUP, 4)).error_code == ErrorCode.NONE


async def test_a_member_that_is_silent_is_removed(client: RawClient) -> None:
    member = Member(client, fresh_group())
    await member.join(session_timeout_ms=100)
    await member.sync({member.member_id: b""})
    while (await described(client, member.group)).group_state != "Empty":
        pass
    assert await member.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_client_that_goes_while_it_waits_is_no_harm(connect: Any) -> None:
    first, second = Member(await connect(), fresh_group()), Member(await connect(), "")
    second.group = first.group
    await first.become_stable()
    joined = asyncio.create_task(second.join())
    while await first.heartbeat() != ErrorCode.REBALANCE_IN_PROGRESS:
        pass
    joined.cancel()
    await second.client.close()
    await first.join()
    assert len(first.others) == 2
    await first.sync(dict.fromkeys(first.others, b""))
    assert (await described(first.client, first.group)).group_state == "Stable"


# -- the consumer protocol -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1])
async def test_consumers_share_the_partitions(connect: Any, version: int) -> None:
    first, second = Consumer(await connect(), fresh_group()), Consumer(await connect(), "")
    second.group = first.group
    topic = await first.client.create_topic(partitions=4)
    await first.heartbeat([topic.name], version)
    while sum(map(len, first.owned.values())) < 4:
        await first.heartbeat(version=version)
    await second.heartbeat([topic.name], version)
    while not (len(first.owned.get(topic.id, [])) == len(second.owned.get(topic.id, [])) == 2):
        await first.heartbeat(version=version)
        await second.heartbeat(version=version)
    assert sorted(first.owned[topic.id] + second.owned[topic.id]) == [0, 1, 2, 3]
    found = await described_consumers(first.client, first.group, include_authorized_operations=True)
    assert (found.authorized_operations, len(found.members)) == (GROUP_OPERATIONS, 2)
    assert (await second.leave()).member_epoch == -1
    while len(first.owned[topic.id]) < 4:
        await first.heartbeat(version=version)


async def test_consumer_groups_that_are_not_there(client: RawClient) -> None:
    consumer = Consumer(client, fresh_group(), epoch=3)
    answer = await consumer.heartbeat()
    assert answer.error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert answer.error_message == f"Consumer group {consumer.group} not found."
    assert (await consumer.leave()).error_message == f"Group {consumer.group} not found."
    assert (await described_consumers(client, consumer.group)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_a_refused_consumer_leaves_no_group(client: RawClient) -> None:
    for changes, code in (
        ({"subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
        ({"server_assignor": "unheard-of"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"subscribed_topic_regex": "("}, ErrorCode.INVALID_REGULAR_EXPRESSION),
    ):
        consumer = Consumer(client, fresh_group())
        answer = await consumer.heartbeat(["topic"], **changes)
        assert answer.error_code == code
        assert (await described_consumers(client, consumer.group)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_topics_come_grow_and_go(client: RawClient) -> None:
    consumer, first = Consumer(client, fresh_group()), await client.create_topic()

    async def owns(partitions: int) -> None:
        while sum(map(len, consumer.owned.values())) != partitions:
            await consumer.heartbeat()

    await consumer.heartbeat([], subscribed_topic_regex=f"{first.name}.*")
    await owns(1)
    second = CreatableTopic(name=f"{first.name}-more", num_partitions=2, replication_factor=1)
    await client.call(CreateTopicsRequest(topics=[second]), CREATE_TOPICS, 7)
    await owns(3)
    grown = CreatePartitionsTopic(name=first.name, count=3, assignments=None)
    await client.call(CreatePartitionsRequest(topics=[grown], timeout_ms=10_000), CREATE_PARTITIONS, 3)
    await owns(5)
    await client.delete_topic(first)
    await owns(2)


async def test_a_classic_group_is_upgraded_and_downgraded(connect: Any) -> None:
    classic, consumer = Member(await connect(), fresh_group()), Consumer(await connect(), "")
    consumer.group = classic.group
    topic = await classic.client.create_topic(partitions=2)
    await classic.join(protocols=joining("", topics=[topic.name]).protocols)
    assignment = b"\0\0\0\0\0\1" + len(topic.name).to_bytes(2, "big") + topic.name.encode()
    await classic.sync({classic.member_id: assignment + b"\0\0\0\2\0\0\0\0\0\0\0\1\xff\xff\xff\xff"})
    answer = await consumer.heartbeat([topic.name])
    assert answer.error_code == ErrorCode.NONE, answer
    found = await described_consumers(consumer.client, consumer.group)
    assert sorted(member.member_type for member in found.members) == [0, 1]
    assert (await listed(consumer.client))[consumer.group].group_type == "consumer"
    await consumer.leave()
    assert (await listed(consumer.client))[consumer.group].group_type == "classic"


async def test_an_empty_group_changes_its_kind(client: RawClient) -> None:
    group, topic = fresh_group(), await client.create_topic()
    member, consumer = Member(client, group), Consumer(client, group)
    await commit(client, group, topic, {0: 5})
    for _ in range(2):
        await member.become_stable()
        await member.leave()
        member.member_id = ""
        assert (await consumer.heartbeat([topic.name])).error_code == ErrorCode.NONE
        await consumer.leave()
        consumer.epoch = 0
    assert await fetched(client, group, topic) == {0: 5}


# -- administration ------------------------------------------------------------------------------------------------------


async def test_groups_are_listed_by_state_and_type(client: RawClient) -> None:
    topic = await client.create_topic()
    stable, empty, consumer = Member(client, fresh_group()), fresh_group(), Consumer(client, fresh_group())
    await stable.become_stable()
    await commit(client, empty, topic, {0: 1})
    await consumer.heartbeat([topic.name])
    ours = {stable.group, empty, consumer.group}
    assert ours <= set(await listed(client))
    for filters, wanted in (
        ({"states_filter": ["sTABLE"]}, {stable.group}),
        ({"states_filter": ["Empty", "Stable"]}, {stable.group, empty}),
        ({"states_filter": ["unheard-of"]}, set()),
        ({"types_filter": ["Classic"]}, {stable.group, empty}),
        ({"types_filter": ["consumer"]}, {consumer.group}),
        ({"types_filter": ["unheard-of"]}, set()),
        ({"types_filter": ["classic"], "states_filter": ["empty"]}, {empty}),
    ):
        found = set(await listed(client, **filters))
        assert found & ours - {consumer.group} == wanted - {consumer.group}
        assert consumer.group not in wanted or consumer.group in found
    for version in range(6):
        found = (await listed(client, version))[stable.group]
        assert found.protocol_type == "consumer"
        assert found.group_state == ("Stable" if version >= 4 else "")
        assert found.group_type == ("classic" if version >= 5 else "")


@pytest.mark.parametrize("version", range(7))
async def test_groups_are_described(client: RawClient, version: int) -> None:
    member, unknown, consumer = Member(client, fresh_group()), fresh_group(), Consumer(client, fresh_group())
    await member.join(protocols=joining("", topics=["a"]).protocols)
    await member.sync({member.member_id: b"mine"})
    found = await described(client, member.group, version, include_authorized_operations=version >= 3)
    assert (found.group_state, found.protocol_type, found.protocol_data) == ("Stable", "consumer", "range")
    assert found.authorized_operations == (GROUP_OPERATIONS if version >= 3 else -(2**31))
    one = only(found.members)
    assert (one.member_id, one.client_id, one.client_host) == (member.member_id, "raw", "/127.0.0.1")
    assert (one.member_metadata, one.member_assignment) == (subscription("a"), b"mine")
    await consumer.heartbeat(["a"])
    for group in (unknown, consumer.group):
        found = await described(client, group, version)
        assert (found.group_id, found.group_state) == (group, "Dead")
        assert found.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else ErrorCode.NONE)


@pytest.mark.parametrize("version", range(4))
async def test_groups_are_deleted(client: RawClient, version: int) -> None:
    member = Member(client, fresh_group())
    await member.become_stable()
    assert await delete_group(client, member.group, version) == ErrorCode.NON_EMPTY_GROUP
    await member.leave()
    assert await delete_group(client, member.group, version) == ErrorCode.NONE
    assert await delete_group(client, member.group, version) == ErrorCode.GROUP_ID_NOT_FOUND
    assert await member.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("version", range(7))
async def test_every_group_is_coordinated_here(client: RawClient, group_broker: Any, version: int) -> None:
    request = FindCoordinatorRequest(key="a", key_type=0, coordinator_keys=["a", "b"])
    answer = await client.call(request, FIND_COORDINATOR, version)
    for found in answer.coordinators if version >= 4 else [answer]:
        assert (found.error_code, found.host, found.port) == (0, group_broker.host, group_broker.port)
    if version >= 1:
        request.key_type = 2
        answer = await client.call(request, FIND_COORDINATOR, version)
        codes = {found.error_code for found in answer.coordinators} if version >= 4 else {answer.error_code}
        assert codes == {ErrorCode.INVALID_REQUEST}


# -- configs of groups ---------------------------------------------------------------------------------------------------


async def alter(
    client: RawClient, *changes: tuple[int, str, str | None], group: str, type_: int = GROUP, **more: Any
) -> Any:
    configs = [
        AlterableConfig(config_operation=operation, name=name, value=value) for operation, name, value in changes
    ]
    resource = AlterConfigsResource(resource_type=type_, resource_name=group, configs=configs)
    request = IncrementalAlterConfigsRequest(resources=[resource], **more)
    return only((await client.call(request, INCREMENTAL_ALTER_CONFIGS, 1)).responses)


async def configs_of(client: RawClient, group: str) -> dict[str, tuple[str, int]]:
    resource = DescribeConfigsResource(resource_type=GROUP, resource_name=group)
    answer = await client.call(DescribeConfigsRequest(resources=[resource]), DESCRIBE_CONFIGS, 4)
    return {config.name: (config.value, config.config_source) for config in only(answer.results).configs}


async def test_groups_have_configs(client: RawClient) -> None:
    group = fresh_group()
    assert (await configs_of(client, group))[SESSION] == ("45000", 5)
    answer = await alter(client, (SET, SESSION, "50000"), (SET, INTERVAL, "6000"), group=group)
    assert (answer.error_code, answer.error_message) == (0, None)
    assert (await configs_of(client, group))[SESSION] == ("50000", 8)
    topic, consumer = await client.create_topic(), Consumer(client, group)
    assert (await consumer.heartbeat([topic.name])).heartbeat_interval_ms == 6000
    await alter(client, (SET, INTERVAL, "7000"), group=group)
    assert (await consumer.heartbeat()).heartbeat_interval_ms == 7000
    await alter(client, (DELETE, INTERVAL, None), group=group)
    assert (await consumer.heartbeat()).heartbeat_interval_ms == 5000
    await alter(client, (SET, SESSION, "51000"), group=group, validate_only=True)
    assert (await configs_of(client, group))[SESSION] == ("50000", 8)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ([(SET, SESSION, "5")], ErrorCode.INVALID_CONFIG, f"{SESSION} must be greater than or equal to group."),
        ([(SET, SESSION, "90000")], ErrorCode.INVALID_CONFIG, f"{SESSION} must be less than or equal to group."),
        ([(SET, INTERVAL, "1")], ErrorCode.INVALID_CONFIG, f"{INTERVAL} must be greater than or equal to group."),
        ([(SET, SESSION, "x")], ErrorCode.INVALID_CONFIG, f"Invalid value x for configuration {SESSION}: Not a number"),
        ([(SET, "nonsense", "1")], ErrorCode.INVALID_CONFIG, "Unknown group config name: nonsense"),
        ([(SET, SESSION, None)], ErrorCode.INVALID_REQUEST, f"Null value not supported for : {SESSION}"),
        ([(APPEND, SESSION, "1")], ErrorCode.INVALID_CONFIG, f"Can't APPEND to key {SESSION} because its type is not"),
        ([(9, SESSION, "1")], ErrorCode.INVALID_REQUEST, "Unknown operation 9"),
        ([(SET, SESSION, "50000")] * 2, ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys"),
    ],
)
async def test_configs_that_are_refused(client: RawClient, changes: Any, code: int, message: str) -> None:
    group = fresh_group()
    answer = await alter(client, *changes, group=group)
    assert (answer.error_code, answer.error_message[: len(message)]) == (code, message)
    assert (await configs_of(client, group))[SESSION] == ("45000", 5)


async def test_configs_of_other_resources_are_refused(client: RawClient) -> None:
    for type_, name, code in (
        (TOPIC, "topic", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (BROKER, "1", ErrorCode.INVALID_REQUEST),
        (77, "x", ErrorCode.INVALID_REQUEST),
        (GROUP, "", ErrorCode.INVALID_REQUEST),
    ):
        answer = await alter(client, (SET, SESSION, "50000"), group=name, type_=type_)
        assert answer.error_code == code
        assert answer.error_message


# -- what survives -------------------------------------------------------------------------------------------------------


def kill(broker: Any) -> None:
    broker.process.kill()
    broker.process.wait()


async def test_members_go_on_after_the_broker_was_killed(start_broker: Callable[..., Any]) -> None:
    settings = {"GROUP_INITIAL_REBALANCE_DELAY_MS": "0"}
    broker = start_broker(**settings)
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(partitions=3)
        member, consumer = Member(client, fresh_group()), Consumer(client, fresh_group())
        await member.join()
        await member.sync({member.member_id: b"mine"})
        await member.commit(topic, {0: 4})
        await consumer.heartbeat([topic.name])
        while not consumer.owned:
            await consumer.heartbeat()
        await alter(client, (SET, INTERVAL, "6000"), group=consumer.group)
        owned = dict(consumer.owned)
        kill(broker)
    async with await RawClient.connect(start_broker(**settings)) as client:
        zombie = Member(client, member.group, "zombie", 1)
        member.client = consumer.client = client
        assert await member.heartbeat() == ErrorCode.NONE
        assert await zombie.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
        assert await member.commit(topic, {0: 5}) == {0: ErrorCode.NONE}
        assert (await member.sync()).assignment == b"mine"
        epoch = consumer.epoch
        answer = await consumer.heartbeat()
        assert (answer.error_code, answer.member_epoch, answer.assignment) == (ErrorCode.NONE, epoch, None)
        assert answer.heartbeat_interval_ms == 6000
        assert consumer.owned == owned
        found = await described(client, member.group)
        assert (found.group_state, only(found.members).member_assignment) == ("Stable", b"mine")
        assert (await described_consumers(client, consumer.group)).group_state == "Stable"
        member.generation -= 1
        assert await member.heartbeat() == ErrorCode.ILLEGAL_GENERATION


async def test_names_with_a_nul_are_the_same_after_a_restart(start_broker: Callable[..., Any]) -> None:
    name = "a\0b␀␛\\\0"
    settings = {"GROUP_INITIAL_REBALANCE_DELAY_MS": "0"}
    broker = start_broker(**settings)
    async with await RawClient.connect(broker) as client:
        client.client_id = name
        topic = await client.create_topic()
        member, consumer = Member(client, fresh_group()), Consumer(client, fresh_group(), member_id=name)
        await member.join(group_instance_id=name, reason=name)
        await member.sync({member.member_id: b"mine"})
        assert await consumer.heartbeat([topic.name, "\0"], instance_id=name, rack_id=name)
        assert consumer.epoch > 0
        kill(broker)
    async with await RawClient.connect(start_broker(**settings)) as client:
        client.client_id = name
        member.client = consumer.client = client
        assert await member.heartbeat() == ErrorCode.NONE
        assert (await consumer.heartbeat()).error_code == ErrorCode.NONE
        found = only((await described(client, member.group)).members)
        assert (found.group_instance_id, found.client_id, found.member_assignment) == (name, name, b"mine")
        assert found.member_id == member.member_id and member.member_id.startswith(name)
        other = only((await described_consumers(client, consumer.group)).members)
        assert (other.member_id, other.instance_id, other.rack_id, other.client_id) == (name, name, name, name)
        assert sorted(other.subscribed_topic_names) == ["\0", topic.name]
        gone = LeaveGroupRequest(group_id=member.group, members=[MemberIdentity(group_instance_id=name, reason=name)])
        assert only((await client.call(gone, LEAVE_GROUP, 5)).members).error_code == ErrorCode.NONE
    connection = await asyncpg.connect(broker.dsn)
    told = await connection.fetch(
        "SELECT event, client_id, detail FROM kafka.group_history WHERE group_id = $1 ORDER BY entry", member.group
    )
    await connection.close()
    shown = "a␀b␛␀␛␛\\␀"
    assert ("member joined", shown, shown) in {tuple(row) for row in told}
    assert ("member left", shown, shown) in {tuple(row) for row in told}


async def test_a_waiting_member_does_not_hold_up_the_end(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="600000")
    async with await RawClient.connect(broker) as client:
        member = Member(client, fresh_group())
        joined = asyncio.create_task(member.join(rebalance_timeout_ms=1_000_000, session_timeout_ms=30_000))
        async with await RawClient.connect(broker) as other:
            while not (await described(other, member.group)).members:
                pass
        assert end(broker.process) == 0
        assert (await joined).error_code == ErrorCode.NOT_COORDINATOR


async def test_no_heartbeat_is_lost_while_the_database_is_away(
    start_broker: Callable[..., Any], pg_superuser_dsn: str
) -> None:
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    admin = await asyncpg.connect(pg_superuser_dsn)
    async with await RawClient.connect(broker) as client:
        topic, member = await client.create_topic(), Member(client, fresh_group())
        await member.become_stable()
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND application_name LIKE '%lane%'"
        )
        seen = set()
        while (code := (await member.commit(topic, {0: 7}))[0]) != ErrorCode.NONE:
            seen.add(code)
            assert await member.heartbeat() == ErrorCode.NONE
        assert seen <= {ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE}
        assert await member.heartbeat() == ErrorCode.NONE
        assert await fetched(client, member.group, topic) == {0: 7}
        assert (await described(client, member.group)).group_state == "Stable"
    await admin.close()


async def test_heartbeats_do_not_touch_the_database(start_broker: Callable[..., Any]) -> None:
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    observer = await asyncpg.connect(broker.dsn)
    async with await RawClient.connect(broker) as client:
        member, consumer = Member(client, fresh_group()), Consumer(client, fresh_group())
        topic = await client.create_topic()
        await member.become_stable()
        await consumer.heartbeat([topic.name])
        while not consumer.owned:
            await consumer.heartbeat()
        last = (
            "SELECT max(query_start) FROM pg_stat_activity"
            " WHERE application_name LIKE '%lane%' AND datname = current_database()"
        )
        before = await observer.fetchval(last)
        for _ in range(50):
            assert await member.heartbeat() == ErrorCode.NONE
            assert (await consumer.heartbeat()).error_code == ErrorCode.NONE
        assert before is not None and await observer.fetchval(last) == before
    await observer.close()


async def test_consumer_group_with_a_nul_is_refused(client: RawClient) -> None:
    consumer = Consumer(client, "a\0b")
    assert (await consumer.heartbeat(["topic"])).error_code == ErrorCode.INVALID_GROUP_ID
