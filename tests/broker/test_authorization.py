"""Access control lists over the wire and by SQL, on one broker whose clients' principals the tests choose."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.broker import samples
from tests.broker.inside import Inside, running
from tests.broker.rawclient import FETCH, RawClient, SomeTopic, batch, fetching, producing
from tests.broker.samples import codes

from pg_kafka.app import Seams
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from pg_kafka.wire.messages.create_acls import AclCreation, CreateAclsRequest
from pg_kafka.wire.messages.delete_acls import DeleteAclsFilter, DeleteAclsRequest
from pg_kafka.wire.messages.describe_acls import DescribeAclsRequest
from pg_kafka.wire.messages.end_txn import EndTxnRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRODUCE, DESCRIBE_ACLS, CREATE_ACLS, DELETE_ACLS = 0, 29, 30, 31
ANY, LITERAL, PREFIXED, DENY, ALLOW = 1, 3, 4, 2, 3
TOPIC, GROUP, CLUSTER = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER
ADMIN = "User:admin"


class World:
    """A broker that goes by ACLs."""

    def __init__(self, inside: Inside, dsn: str) -> None:
        self.inside = inside
        self.dsn = dsn

    @contextlib.asynccontextmanager
    async def client(self, principal: str) -> AsyncIterator[RawClient]:
        """A connection of somebody: who it is is decided by how they log in, which is not tested here."""
        server: Any = self.inside.term._server
        before = set(server._connections)
        async with await RawClient.connect(self.inside) as client:
            await client.call(ApiVersionsRequest(client_software_name="raw", client_software_version="1"), 18, 3)
            (connection,) = set(server._connections) - before
            connection.info.principal = principal
            yield client

    async def create(self, *acls: AclCreation) -> list[int]:
        async with self.client(ADMIN) as admin:
            answer = await admin.call(CreateAclsRequest(creations=acls), CREATE_ACLS, 3)
            return [result.error_code for result in answer.results]

    async def delete(self, *filters: DeleteAclsFilter) -> Any:
        async with self.client(ADMIN) as admin:
            return (await admin.call(DeleteAclsRequest(filters=filters), DELETE_ACLS, 3)).filter_results

    async def sql(self, statement: str, *arguments: Any) -> Any:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()


def acl(name: str, operation: int, **fields: Any) -> AclCreation:
    ordinary = {"resource_type": TOPIC, "resource_pattern_type": LITERAL, "principal": "User:alice", "host": "*"}
    return AclCreation(
        **{**ordinary, "resource_name": name, "operation": operation, "permission_type": ALLOW, **fields}
    )


def named(**fields: Any) -> DeleteAclsFilter:
    everything = {"resource_type_filter": ANY, "pattern_type_filter": ANY, "operation": ANY, "permission_type": ANY}
    return DeleteAclsFilter(**{**everything, **fields})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres15: Any) -> AsyncIterator[World]:
    settings = {"authorizer": "acl", "super_users": "User:other; User:admin", "group_initial_rebalance_delay_ms": 0}
    async with running(postgres15, Seams(), **settings) as inside:
        yield World(inside, inside.term._dsn)


@pytest_asyncio.fixture(loop_scope="module")
async def topic(world: World) -> SomeTopic:
    async with world.client(ADMIN) as admin:
        return await admin.create_topic()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_acls(world: World) -> AsyncIterator[None]:
    yield
    await world.delete(named())


async def listed(world: World, wanted: DeleteAclsFilter) -> list[tuple[Any, ...]]:
    """What DescribeAcls lists, by a filter as DeleteAcls has it."""
    request = DescribeAclsRequest(**{name: getattr(wanted, name) for name in DescribeAclsRequest.FIELDS})
    async with world.client(ADMIN) as admin:
        answer = await admin.call(request, DESCRIBE_ACLS, 3)
    assert not answer.error_code
    return [
        (each.resource_type, each.resource_name, each.pattern_type, entry.principal, entry.host, entry.operation)
        for each in answer.resources
        for entry in each.acls
    ]


async def may_write(client: RawClient, topic: SomeTopic) -> bool:
    answer = await client.call(producing(topic, {0: batch()}), PRODUCE, 9)
    assert codes(answer) <= {ErrorCode.TOPIC_AUTHORIZATION_FAILED}
    return not codes(answer)


# -- the lists -----------------------------------------------------------------------------------------------------------


async def test_an_acl_that_is_created_counts_at_once(world: World, topic: SomeTopic) -> None:
    async with world.client("User:alice") as alice:
        assert not await may_write(alice, topic)
        assert await world.create(acl(topic.name, Operation.WRITE)) == [0]
        assert await may_write(alice, topic)
        await world.delete(named(resource_name_filter=topic.name))
        assert not await may_write(alice, topic)


async def test_denying_wins_and_super_users_may_all_the_same(world: World, topic: SomeTopic) -> None:
    every = acl("*", 2, principal="User:*")
    denied = acl(
        topic.name[:3], Operation.WRITE, principal="User:*", permission_type=DENY, resource_pattern_type=PREFIXED
    )
    assert await world.create(every, denied) == [0, 0]
    async with world.client("User:alice") as alice, world.client(ADMIN) as admin:
        assert not await may_write(alice, topic)
        assert await may_write(admin, topic)


async def test_hosts_are_those_that_clients_come_from(world: World, topic: SomeTopic) -> None:
    async with world.client("User:alice") as alice:
        await world.create(acl(topic.name, Operation.WRITE, host="10.1.2.3"))
        assert not await may_write(alice, topic)
        await world.create(acl(topic.name, Operation.WRITE, host="127.0.0.1"))
        assert await may_write(alice, topic)


async def test_what_was_created_is_listed_and_told_when_it_is_deleted(world: World) -> None:
    three = [
        acl("orders", Operation.READ),
        acl("or", Operation.WRITE, resource_pattern_type=PREFIXED, principal="User:bob", host="10.0.0.1"),
        acl("*", Operation.DESCRIBE, principal="User:*"),
    ]
    assert await world.create(*three, three[0]) == [0, 0, 0, 0]
    assert len(await listed(world, named())) == 3
    assert await listed(world, named(resource_name_filter="or")) == [(2, "or", 4, "User:bob", "10.0.0.1", 4)]
    match = named(resource_name_filter="orders", pattern_type_filter=2)
    assert {each[1] for each in await listed(world, match)} == {"orders", "or", "*"}
    literal = named(resource_name_filter="orders", pattern_type_filter=LITERAL)
    assert {each[1] for each in await listed(world, literal)} == {"orders"}
    one, none = await world.delete(named(principal_filter="User:bob"), named(principal_filter="User:nobody"))
    assert [each.resource_name for each in one.matching_acls] == ["or"]
    assert not none.matching_acls
    assert {each[1] for each in await listed(world, named())} == {"orders", "*"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            acl("other", Operation.ALTER, resource_type=CLUSTER),
            "The only valid name for the CLUSTER resource is kafka-cluster",
        ),
        (acl("", Operation.READ), "Invalid empty resource name"),
        (acl("a", Operation.READ, resource_type=ANY), "Invalid resourceType ANY"),
        (acl("a", Operation.READ, resource_type=77), "Invalid resourceType UNKNOWN"),
        (acl("a", Operation.READ, resource_pattern_type=2), "Invalid patternType MATCH"),
        (acl("a", ANY), "Invalid operation ANY"),
        (acl("a", Operation.READ, permission_type=ANY), "Invalid permissionType ANY"),
        (acl("a", Operation.READ, principal="alice"), "Could not parse principal from `alice`"),
        (acl("n" * 1001, Operation.READ), "The resource name of an ACL may have 1000 bytes."),
        (acl("a", Operation.READ, host="h" * 256), "The host of an ACL may have 255 bytes."),
        (acl("a\0b", Operation.READ), "The resource name of an ACL must not have a NUL."),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_may_not_be_is_refused_and_the_others_are_created(
    world: World, wrong: AclCreation, words: str
) -> None:
    async with world.client(ADMIN) as admin:
        request = CreateAclsRequest(creations=[wrong, acl("right", Operation.READ)])
        refused, created = (await admin.call(request, CREATE_ACLS, 3)).results
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert refused.error_message.startswith(words)
    assert created.error_code == 0
    assert [each[1] for each in await listed(world, named())] == ["right"]


async def test_a_filter_with_a_number_that_is_unknown_is_refused_alone(world: World) -> None:
    await world.create(acl("orders", Operation.READ))
    strange, other, right = await world.delete(named(resource_type_filter=99), named(operation=99), named())
    assert (strange.error_code, strange.error_message) == (ErrorCode.INVALID_REQUEST, "Unknown patternFilter.")
    assert (other.error_code, other.error_message) == (ErrorCode.INVALID_REQUEST, "Unknown entryFilter.")
    assert [each.resource_name for each in right.matching_acls] == ["orders"]


# -- SQL -----------------------------------------------------------------------------------------------------------------


async def until(happens: Any, *, deadline_s: float = 10.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await happens():  # noqa: ASYNC110 - the broker looks by itself, and tells nobody
            await asyncio.sleep(0.05)


async def test_acls_by_sql_are_followed(world: World, topic: SomeTopic) -> None:
    async with world.client("User:alice") as alice:
        assert not await may_write(alice, topic)
        (made,) = await world.sql("SELECT kafka.create_acl('User:alice', 'write', 'topic', $1)", topic.name)
        assert made[0] is True
        await until(lambda: may_write(alice, topic))
        (again,) = await world.sql("SELECT kafka.create_acl('User:alice', 'Write', 'TOPIC', $1, 'Literal')", topic.name)
        assert again[0] is False
        (dropped,) = await world.sql("SELECT kafka.drop_acls(principal => 'User:alice')")
        assert dropped[0] == 1

        async def may_not() -> bool:
            return not await may_write(alice, topic)

        await until(may_not)
        await world.sql("SELECT kafka.create_acl('User:alice', 'Write', 'topic', $1)", topic.name)
        await until(lambda: may_write(alice, topic))
        await world.sql("TRUNCATE kafka.acls")
        await until(may_not)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ("'alice', 'read', 'topic', 'a'", "invalid principal 'alice'", "User:alice"),
        ("'User:alice', 'reading', 'topic', 'a'", "unknown operation 'reading'", "IDEMPOTENT_WRITE"),
        ("'User:alice', 'read', 'table', 'a'", "unknown resource type 'table'", "TRANSACTIONAL_ID"),
        ("'User:alice', 'read', 'topic', ''", "invalid resource name ''", "1000 bytes"),
        ("'User:alice', 'read', 'topic', NULL", "invalid resource name NULL", "1000 bytes"),
        ("'User:alice', 'read', 'topic', repeat('x', 1001)", "invalid resource name", "1000 bytes"),
        ("'User:alice', 'alter', 'cluster', 'mine'", "there is no cluster 'mine'", "leave it out"),
        ("'User:alice', 'read', 'topic', 'a', 'match'", "unknown pattern type 'match'", "PREFIXED"),
        ("'User:alice', 'read', 'topic', 'a', 'literal', NULL", "invalid host NULL", "any"),
        ("'User:alice', 'read', 'topic', 'a', 'literal', '*', 'maybe'", "unknown permission 'maybe'", "DENY"),
    ],
)
async def test_sql_refuses_with_a_hint(world: World, arguments: str, error: str, hint: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=error) as caught:
        await world.sql(f"SELECT kafka.create_acl({arguments})")
    assert hint in (caught.value.hint or "")


async def test_sql_does_not_drop_all_by_mistake(world: World) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="no ACLs are named"):
        await world.sql("SELECT kafka.drop_acls()")


async def test_the_cluster_needs_no_name_in_sql(world: World) -> None:
    await world.sql("SELECT kafka.create_acl('User:alice', 'DescribeConfigs', 'cluster')")
    (row,) = await world.sql("SELECT resource_type, resource_name, operation FROM kafka.acls")
    assert tuple(row) == ("CLUSTER", "kafka-cluster", "DESCRIBE_CONFIGS")
    await world.sql("DELETE FROM kafka.acls")


async def test_who_changed_acls_is_noted_in_the_same_words_by_wire_and_by_sql(world: World) -> None:
    name = f"noted-{secrets.token_hex(4)}"
    await world.create(acl(name, Operation.READ, resource_pattern_type=PREFIXED, host="10.0.0.1"))
    await world.delete(named(resource_name_filter=name))
    prefixed = "User:alice ALLOW READ on PREFIXED TOPIC"
    await world.sql(f"SELECT kafka.create_acl('User:alice', 'read', 'topic', '{name}', 'prefixed', '10.0.0.1')")
    await world.sql(f"SELECT kafka.drop_acls(resource_name => '{name}')")

    async def all_noted() -> bool:
        rows = await world.sql(
            "SELECT event, via FROM kafka.audit_log WHERE resource = $1", f"acl {prefixed} {name} from 10.0.0.1"
        )
        noted = {("acl created", "kafka"), ("acl deleted", "kafka"), ("acl created", "sql"), ("acl deleted", "sql")}
        return {tuple(row) for row in rows} == noted

    await until(all_noted)


# -- revocation ----------------------------------------------------------------------------------------------------------

REVOKED_S = 5.0


def reading(topic: SomeTopic) -> list[AclCreation]:
    return [acl(topic.name, Operation.READ), acl("*", Operation.READ, resource_type=GROUP)]


@pytest.mark.parametrize("by", ["kafka", "sql"])
async def test_a_parked_fetch_ends_when_its_right_is_revoked(world: World, topic: SomeTopic, by: str) -> None:
    await world.create(*reading(topic))
    async with world.client("User:alice") as alice:
        parked = alice.send(fetching(topic, {0: 0}, max_wait_ms=60_000), FETCH, 12)
        async with world.client(ADMIN) as admin:  # by now the fetch has been read
            assert codes(await admin.call(fetching(topic, {0: 0}), FETCH, 12)) == set()
        if by == "kafka":
            await world.delete(named(resource_name_filter=topic.name))
        else:
            await world.sql("DELETE FROM kafka.acls WHERE resource_name = $1", topic.name)
        answer = await alice.receive(FETCH, 12, parked, REVOKED_S)
        assert codes(answer) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}


async def test_a_fetch_session_loses_what_is_revoked(world: World, topic: SomeTopic) -> None:
    async with world.client(ADMIN) as admin:
        other = await admin.create_topic()
    await world.create(*reading(topic), *reading(other))
    async with world.client("User:alice") as alice:
        opened = await alice.call(fetching(topic, {0: 0}, session=(0, 0)), FETCH, 12)
        nothing = fetching(topic, {}, session=(opened.session_id, 1), max_wait_ms=60_000)
        parked = alice.send(nothing, FETCH, 12)
        async with world.client(ADMIN) as admin:
            await admin.call(fetching(topic, {0: 0}), FETCH, 12)
        await world.delete(named(resource_name_filter=topic.name))
        assert codes(await alice.receive(FETCH, 12, parked, REVOKED_S)) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}
        await world.create(*reading(topic))
        async with world.client(ADMIN) as admin:
            await admin.produce(topic, batch())
        again = await alice.call(fetching(topic, {}, session=(opened.session_id, 2)), FETCH, 12)
        assert codes(again) == set()
        assert again.responses[0].partitions[0].high_watermark == 1


async def test_a_member_of_a_group_is_refused_at_its_next_request(world: World, topic: SomeTopic) -> None:
    await world.create(*reading(topic))
    scene = samples.Scene(topic)
    async with world.client("User:alice") as alice:
        joined = await alice.call(samples.of("ConsumerGroupHeartbeat")(scene), 68, 1)
        assert not joined.error_code
        commit = samples.of("OffsetCommit")(scene)
        assert codes(await alice.call(commit, 8, 9)) == set()
        await world.delete(named(resource_type_filter=GROUP))
        beat = ConsumerGroupHeartbeatRequest(
            group_id=scene.members, member_id=joined.member_id, member_epoch=joined.member_epoch
        )
        assert (await alice.call(beat, 68, 1)).error_code == ErrorCode.GROUP_AUTHORIZATION_FAILED
        assert codes(await alice.call(commit, 8, 9)) == {ErrorCode.GROUP_AUTHORIZATION_FAILED}
        await world.create(*reading(topic))
        await world.delete(named(resource_type_filter=TOPIC))
        assert codes(await alice.call(commit, 8, 9)) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}


async def test_an_open_transaction_cannot_go_on_without_its_right(world: World, topic: SomeTopic) -> None:
    await world.create(acl("*", Operation.WRITE, resource_type=ResourceType.TRANSACTIONAL_ID), *reading(topic))
    await world.create(acl(topic.name, Operation.WRITE))
    scene = samples.Scene(topic)
    async with world.client("User:alice") as alice:
        begun = await alice.call(samples.of("InitProducerId", "with a transactional id")(scene), 22, 4)
        scene.producer = (begun.producer_id, begun.producer_epoch)
        assert codes(await alice.call(samples.of("AddPartitionsToTxn", "below version 4")(scene), 24, 3)) == set()
        written = samples.of("Produce", "transactional batches")(scene)
        assert codes(await alice.call(written, PRODUCE, 9)) == set()
        end = EndTxnRequest(
            transactional_id=scene.transactional_id,
            producer_id=begun.producer_id,
            producer_epoch=begun.producer_epoch,
            committed=True,
        )
        await world.delete(named(resource_type_filter=ResourceType.TRANSACTIONAL_ID))
        refused = {ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
        assert codes(await alice.call(written, PRODUCE, 9)) == refused
        assert codes(await alice.call(end, 26, 3)) == refused
        async with world.client(ADMIN) as admin:
            answer = await admin.call(fetching(topic, {0: 0}, isolation_level=1), FETCH, 12)
            assert answer.responses[0].partitions[0].last_stable_offset == 0  # it is still open
        await world.create(acl("*", Operation.WRITE, resource_type=ResourceType.TRANSACTIONAL_ID))
        assert codes(await alice.call(end, 26, 3)) == set()


async def test_a_start_says_that_nobody_may_do_anything(postgres15: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with running(postgres15, Seams(), authorizer="acl"):
        assert "nobody may do anything" in caplog.messages
    caplog.clear()
    async with running(postgres15, Seams(), authorizer="acl", super_users="User:admin"):
        assert "nobody may do anything" not in caplog.messages
