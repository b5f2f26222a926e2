"""kafka.commit_offsets: members of Kafka's clients commit in transactions of their own, and are fenced by the group.

A new owner of a partition asks for the offset after its generation is committed. Whatever a former owner does, before,
during or after that, the new one begins behind all that a transaction has committed, or that transaction fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker, serving
from tests.broker.groupclient import (
    OFFSET_DELETE,
    OFFSET_FETCH,
    Consumer,
    Member,
    commit,
    delete_group,
    described,
    fetched,
    fresh_group,
    listed,
)
from tests.broker.pgbouncer import pgbouncer
from tests.broker.rawclient import RawClient, SomeTopic, only
from tests.kafka_reference import end
from tests.postgres import PostgresServer

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)

StartBroker = Callable[..., RunningBroker]
COMMIT = "SELECT kafka.commit_offsets($1, $2, $3, $4::text::jsonb)"


@pytest.fixture
async def client(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.fixture
async def other(group_broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(group_broker) as client:
        yield client


@pytest.fixture
async def db(group_broker: Any) -> AsyncIterator[asyncpg.Connection]:
    async with connected(group_broker) as connection:
        yield connection


@contextlib.asynccontextmanager
async def connected(broker: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(broker.dsn)
    try:
        yield connection
    finally:
        connection.terminate()


def assignment(topic: SomeTopic, partitions: Sequence[int]) -> bytes:
    """A consumer's assignment, in the form of version 0."""
    numbers = b"".join(number.to_bytes(4, "big") for number in partitions)
    topics = len(topic.name).to_bytes(2, "big") + topic.name.encode() + len(partitions).to_bytes(4, "big") + numbers
    return b"\0\0" + (1).to_bytes(4, "big") + topics + b"\xff\xff\xff\xff"


async def alone(client: RawClient, group: str, topic: SomeTopic, partitions: Sequence[int] = (0,)) -> Member:
    """A member that has some partitions and is the only one."""
    member = Member(client, group)
    assert (await member.join(topics=[topic.name])).error_code == ErrorCode.NONE
    assert (await member.sync({member.member_id: assignment(topic, partitions)})).error_code == ErrorCode.NONE
    return member


async def take_over(former: Member, client: RawClient, topic: SomeTopic) -> Member:
    """Another member gets partition 0, and the former one stays without any. Both are in the new generation."""
    new = Member(client, former.group)
    joins = asyncio.create_task(new.join(topics=[topic.name]))
    while await former.heartbeat() != ErrorCode.REBALANCE_IN_PROGRESS:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await former.join(topics=[topic.name])
    await joins
    shares = {former.member_id: assignment(topic, []), new.member_id: assignment(topic, [0])}
    leader, follower = (former, new) if former.is_leader else (new, former)
    await asyncio.gather(leader.sync(shares), follower.sync())
    return new


async def commit_by_sql(
    db: asyncpg.Connection, member: Member | Consumer, topic: SomeTopic, offsets: Mapping[int, int]
) -> None:
    generation = member.epoch if isinstance(member, Consumer) else member.generation
    named = json.dumps({topic.name: {str(index): offset for index, offset in offsets.items()}})
    await db.execute(COMMIT, member.group, member.member_id, generation, named)


async def ask(client: RawClient, group: str, topic: SomeTopic, *, version: int = 9, is_stable: bool = True) -> Any:
    topics = [OffsetFetchRequestTopics(name=topic.name, topic_id=topic.id, partition_indexes=[0])]
    request = OffsetFetchRequest(
        groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)], require_stable=is_stable
    )
    return only((await client.call(request, OFFSET_FETCH, version, 30.0)).groups)


async def told(client: RawClient, group: str, topic: SomeTopic, **more: Any) -> tuple[int, int]:
    """The error code and the offset that a client is told of partition 0."""
    answer = await ask(client, group, topic, **more)
    if answer.error_code:
        return answer.error_code, -1
    one = only(only(answer.topics).partitions)
    return one.error_code, one.committed_offset


@contextlib.asynccontextmanager
async def refused(sqlstate: str, match: str | None = None) -> AsyncIterator[None]:
    with pytest.raises(asyncpg.PostgresError, match=match) as raised:
        yield
    assert raised.value.sqlstate == sqlstate
    assert raised.value.hint  # type: ignore[attr-defined]


# -- what is committed -----------------------------------------------------------------------------------------------


async def test_what_a_transaction_commits_is_the_group_s_offset(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic(partitions=2)
    member = await alone(client, fresh_group(), topic, [0, 1])
    async with db.transaction():
        await commit_by_sql(db, member, topic, {0: 5, 1: 7})
    assert await fetched(client, member.group, topic, [0, 1]) == {0: 5, 1: 7}
    named = json.dumps({topic.name: {"1": {"offset": 8, "leader_epoch": 3, "metadata": "what I like ␀"}}})
    await db.execute(COMMIT, member.group, member.member_id, member.generation, named)
    await db.execute(
        "SELECT kafka.commit_offsets($1, $2, $3, $4, 0, 6)",
        member.group,
        member.member_id,
        member.generation,
        topic.name,
    )
    assert await fetched(client, member.group, topic, [0, 1]) == {0: 6, 1: 8}
    rows = await db.fetch(
        "SELECT partition_id, committed_offset, leader_epoch, metadata FROM kafka.consumer_offsets"
        " WHERE group_id = $1 ORDER BY 1",
        member.group,
    )
    assert [tuple(row) for row in rows] == [(0, 6, None, ""), (1, 8, 3, "what I like ␀")]


async def test_views_have_it_within_seconds_though_nobody_asks(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    seen = "SELECT committed_offset FROM kafka.consumer_offsets WHERE group_id = $1"
    async with asyncio.timeout(30):
        while await db.fetchval(seen, member.group) != 5:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def test_what_is_rolled_back_leaves_no_trace(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    transaction = db.transaction()
    await transaction.start()
    await commit_by_sql(db, member, topic, {0: 9})
    await transaction.rollback()
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 5)


async def test_a_savepoint_that_is_rolled_back_takes_its_commit_along(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic(partitions=2)
    member = await alone(client, fresh_group(), topic, [0, 1])
    async with db.transaction():
        await commit_by_sql(db, member, topic, {1: 3})
        inner = db.transaction()
        await inner.start()
        await commit_by_sql(db, member, topic, {0: 9})
        await inner.rollback()
        assert await told(client, member.group, topic) == (ErrorCode.NONE, -1), "its lock is gone too"
    assert await fetched(client, member.group, topic, [0, 1]) == {0: -1, 1: 3}


async def test_the_last_of_several_commits_of_a_transaction_counts(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    async with db.transaction():
        for offset in (3, 9, 4):
            await commit_by_sql(db, member, topic, {0: offset})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 4)


async def test_two_transactions_of_one_partition_go_one_after_the_other(
    client: RawClient, db: asyncpg.Connection, group_broker: Any
) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    async with connected(group_broker) as second:
        async with db.transaction():
            await commit_by_sql(db, member, topic, {0: 5})
            later = asyncio.create_task(commit_by_sql(second, member, topic, {0: 6}))
            waiting = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
            while not await db.fetchval(waiting, second.get_server_pid()):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        await later
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 6)


async def test_a_wire_commit_after_it_counts(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 5)
    await member.commit(topic, {0: 7})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 7)
    await commit_by_sql(db, member, topic, {0: 6})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 6)


# -- the fence -------------------------------------------------------------------------------------------------------


async def test_a_new_owner_begins_behind_what_was_committed_before(
    client: RawClient, other: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic()
    former = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, former, topic, {0: 5})
    new = await take_over(former, other, topic)
    assert await told(other, new.group, topic) == (ErrorCode.NONE, 5)


@pytest.mark.parametrize("commits", [True, False])
async def test_a_new_owner_waits_for_a_transaction_that_is_under_way(
    client: RawClient, other: RawClient, db: asyncpg.Connection, commits: bool
) -> None:
    topic = await client.create_topic()
    former = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, former, topic, {0: 5})
    transaction = db.transaction()
    await transaction.start()
    await commit_by_sql(db, former, topic, {0: 9})
    new = await take_over(former, other, topic)
    assert await told(other, new.group, topic) == (ErrorCode.UNSTABLE_OFFSET_COMMIT, -1)
    waits = asyncio.create_task(told(other, new.group, topic))
    await (transaction.commit() if commits else transaction.rollback())
    code, offset = await waits
    if code:  # it waits but half a second, and the machine may be busy
        code, offset = await told(other, new.group, topic)
    assert (code, offset) == (ErrorCode.NONE, 9 if commits else 5)


async def test_a_former_owner_that_comes_later_is_fenced(
    client: RawClient, other: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic()
    former = await alone(client, fresh_group(), topic)
    before = former.generation
    await db.execute("BEGIN")  # READ COMMITTED: each statement sees what is committed by then
    assert await db.fetchval("SELECT count(*) FROM kafka.consumer_offsets WHERE group_id = $1", former.group) == 0
    new = await take_over(former, other, topic)
    assert await told(other, new.group, topic) == (ErrorCode.NONE, -1)
    stale = Member(client, former.group, former.member_id, before)
    async with refused("KF012", f"the generation of the group is {new.generation}"):
        await commit_by_sql(db, stale, topic, {0: 9})
    await db.execute("ROLLBACK")
    async with refused("KF012", f'partition {topic.name}-0 belongs to member "{new.member_id}" now'):
        await commit_by_sql(db, former, topic, {0: 9})
    await commit_by_sql(db, new, topic, {0: 1})
    assert await told(other, new.group, topic) == (ErrorCode.NONE, 1)


async def test_who_has_left_is_fenced(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await member.leave()
    async with refused("KF012", "it is no member any more"):
        await commit_by_sql(db, member, topic, {0: 9})
    stranger = Member(client, fresh_group(), "never-there", 1)
    async with refused("KF012", "it is no member any more"):
        await commit_by_sql(db, stranger, topic, {0: 9})


async def test_nobody_commits_while_a_rebalance_ends(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = Member(client, fresh_group())
    await member.join(topics=[topic.name])
    async with refused("KF012", "the group is being rebalanced"):
        await commit_by_sql(db, member, topic, {0: 9})


async def test_a_partition_that_is_given_up_is_committed_until_another_member_has_it(
    client: RawClient, db: asyncpg.Connection
) -> None:
    """A cooperative consumer commits as it gives a partition up, in the generation in which it has it no more."""
    topic = await client.create_topic(partitions=2)
    member = await alone(client, fresh_group(), topic, [0])
    await commit_by_sql(db, member, topic, {1: 4})
    assert await fetched(client, member.group, topic, [1]) == {1: 4}


async def test_who_is_no_member_may_commit_for_a_group_without_members(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic, group = await client.create_topic(), fresh_group()
    named = json.dumps({topic.name: {"0": 3}})
    await db.execute(COMMIT, group, None, -1, named)
    assert await told(client, group, topic) == (ErrorCode.NONE, 3)
    assert (await described(client, group)).group_state == "Empty"
    await alone(client, group, topic)
    async with refused("KF012", "the group has members"):
        await db.execute(COMMIT, group, None, -1, named)


async def test_members_of_the_consumer_protocol_commit_by_their_epoch(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic()
    first = Consumer(client, fresh_group())
    await first.heartbeat([topic.name])
    while not first.owned:
        await first.heartbeat()
    await commit_by_sql(db, first, topic, {0: 5})
    assert await told(client, first.group, topic) == (ErrorCode.NONE, 5)
    first.epoch += 1
    async with refused("KF012", "the epoch of the member is"):
        await commit_by_sql(db, first, topic, {0: 6})
    first.epoch -= 1
    owned_at = first.epoch
    second = Consumer(client, first.group)
    await second.heartbeat([topic.name])
    while first.epoch == owned_at or second.epoch < first.epoch:
        await first.heartbeat()
        await second.heartbeat()
    keeps, lacks = (first, second) if first.owned else (second, first)
    async with refused("KF012", f'belongs to member "{keeps.member_id}" now'):
        await commit_by_sql(db, lacks, topic, {0: 7})
    if keeps is first:
        keeps.epoch, now = owned_at, keeps.epoch
        await commit_by_sql(db, keeps, topic, {0: 8})  # it has had the partition since that epoch
        keeps.epoch = now
        assert await told(client, first.group, topic) == (ErrorCode.NONE, 8)
    last = keeps.epoch
    await keeps.leave()
    keeps.epoch = last
    async with refused("KF012", "it is no member any more"):
        await commit_by_sql(db, keeps, topic, {0: 9})


async def test_who_does_not_ask_for_stable_offsets_is_kept_waiting_when_it_is_a_member(
    client: RawClient, other: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    async with db.transaction():
        await commit_by_sql(db, member, topic, {0: 9})
        code = await told(other, member.group, topic, is_stable=False)
        assert code == (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, -1), "a client of the same name on the same host"
        other.client_id = "a tool"
        assert await told(other, member.group, topic, is_stable=False) == (ErrorCode.NONE, 5)
    assert await told(other, member.group, topic, is_stable=False) == (ErrorCode.NONE, 9)


# -- administration --------------------------------------------------------------------------------------------------


async def test_offsets_that_are_set_from_outside_count_after_what_is_under_way(
    client: RawClient, db: asyncpg.Connection
) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 5)
    transaction = db.transaction()
    await transaction.start()
    await commit_by_sql(db, member, topic, {0: 9})
    await member.leave()
    assert await commit(client, member.group, topic, {0: 1}) == {0: ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}
    await transaction.commit()
    assert await commit(client, member.group, topic, {0: 1}) == {0: ErrorCode.NONE}
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 1)


async def test_a_deleted_group_does_not_come_back(start_broker: StartBroker) -> None:
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    group = fresh_group()
    async with await RawClient.connect(broker) as client, connected(broker) as db:
        topic = await client.create_topic()
        member = await alone(client, group, topic)
        async with db.transaction():
            await commit_by_sql(db, member, topic, {0: 5})
            assert await told(client, group, topic) == (ErrorCode.UNSTABLE_OFFSET_COMMIT, -1)
        await member.leave()
        # It has not been taken in when the group is asked to go.
        assert await delete_group(client, group) == ErrorCode.NONE
        assert group not in await listed(client)
    end(broker.process, signal.SIGKILL)
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    async with await RawClient.connect(broker) as client, connected(broker) as db:
        assert await told(client, group, topic) == (ErrorCode.NONE, -1)
        assert group not in await listed(client)
        member = await alone(client, group, topic)
        await commit_by_sql(db, member, topic, {0: 2})
        assert await told(client, group, topic) == (ErrorCode.NONE, 2)


async def test_an_offset_that_was_deleted_does_not_come_back(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    await commit_by_sql(db, member, topic, {0: 5})
    assert await told(client, member.group, topic) == (ErrorCode.NONE, 5)
    await commit_by_sql(db, member, topic, {0: 6})
    await member.leave()
    request = OffsetDeleteRequest(
        group_id=member.group,
        topics=[
            OffsetDeleteRequestTopic(name=topic.name, partitions=[OffsetDeleteRequestPartition(partition_index=0)])
        ],
    )
    answer = await client.call(request, OFFSET_DELETE, 0)
    assert (answer.error_code, only(only(answer.topics).partitions).error_code) == (ErrorCode.NONE, ErrorCode.NONE)
    assert await told(client, member.group, topic) == (ErrorCode.NONE, -1)


# -- crashes ---------------------------------------------------------------------------------------------------------


async def test_a_commit_is_taken_in_once_whenever_the_broker_is_killed(start_broker: StartBroker) -> None:
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    group = fresh_group()
    async with await RawClient.connect(broker) as client, connected(broker) as db:
        topic = await client.create_topic()
        member = await alone(client, group, topic)
        # Begun before the broker is killed, committed while there is none.
        transaction = db.transaction()
        await transaction.start()
        await commit_by_sql(db, member, topic, {0: 5})
        end(broker.process, signal.SIGKILL)
        await transaction.commit()
        await commit_by_sql(db, member, topic, {0: 6})
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    async with await RawClient.connect(broker) as client:
        again = Member(client, group, member.member_id, member.generation)
        assert await told(client, group, topic) == (ErrorCode.NONE, 6)
        assert await again.commit(topic, {0: 9}) == {0: ErrorCode.NONE}
    end(broker.process, signal.SIGKILL)
    broker = start_broker(GROUP_INITIAL_REBALANCE_DELAY_MS="0")
    async with await RawClient.connect(broker) as client, connected(broker) as db:
        assert await told(client, group, topic) == (ErrorCode.NONE, 9), "what came first was not taken in again"
        assert await db.fetchval("SELECT count(*) FROM kafka.member_commits_0") == 2


# -- what is refused -------------------------------------------------------------------------------------------------


async def test_an_older_snapshot_cannot_fence(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    for isolation in ("repeatable_read", "serializable"):
        async with refused("KF014"), db.transaction(isolation=isolation):
            await commit_by_sql(db, member, topic, {0: 1})


async def test_each_mistake_has_its_sqlstate(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    name = topic.name

    async def committed(offsets: str | None, group: str | None = member.group, who: str | None = "x") -> None:
        await db.execute(COMMIT, group, who, member.generation, offsets)

    for sqlstate, offsets in (
        ("KF001", '{"no-such-topic": {"0": 1}}'),
        ("KF002", f'{{"{name}": {{"1": 1}}}}'),
        ("KF002", f'{{"{name}": {{"-1": 1}}}}'),
        ("KF002", f'{{"{name}": {{"zero": 1}}}}'),
        ("KF013", f'{{"{name}": {{"0": -1}}}}'),
        ("22023", f'{{"{name}": {{"0": "five"}}}}'),
        ("22023", f'{{"{name}": {{"0": null}}}}'),
        ("22023", f'{{"{name}": {{"0": 1, "00": 2}}}}'),
        ("22023", f'{{"{name}": {{"0": {{"offset": 1, "leader_epoch": "x"}}}}}}'),
        ("22023", f'{{"{name}": {{"0": {{"offset": 1, "metadata": "{"m" * 4097}"}}}}}}'),
        ("22023", f'{{"{name}": 1}}'),
        ("22023", "[]"),
    ):
        async with refused(sqlstate):
            await committed(offsets)
    for offsets, group, who in ((None, "g", "x"), ("{}", None, "x"), ("{}", "g", None)):
        async with refused("22004"):
            await committed(offsets, group, who)
    for group in ("", "g" * 2001):
        async with refused("22023"):
            await committed("{}", group)


async def test_a_role_needs_the_right_to_read_the_topic(
    client: RawClient, db: asyncpg.Connection, postgres15: Any, group_broker: Any
) -> None:
    topic = await client.create_topic()
    member = await alone(client, fresh_group(), topic)
    role = f"reader_{fresh_group().replace('-', '_')}"
    view = "SELECT view_name FROM kafka.topics WHERE name = $1"
    while await db.fetchval(view, topic.name) is None:  # noqa: ASYNC110 - the janitor makes it
        await asyncio.sleep(0.05)
    async with superuser_of(postgres15, db) as admin:
        await admin.execute(f"CREATE ROLE {role}; GRANT {role} TO CURRENT_USER")
        try:
            owner = await db.fetchval("SELECT current_user")
            await admin.execute(f'GRANT {role} TO "{owner}"')
            async with db.transaction():
                await db.execute(f"SET LOCAL ROLE {role}")
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema kafka"):
                    async with db.transaction():
                        await commit_by_sql(db, member, topic, {0: 1})
            await db.execute(f"GRANT USAGE ON SCHEMA kafka, topics TO {role}")
            await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.commit_offsets(text, text, integer, jsonb) TO {role}")
            async with db.transaction():
                await db.execute(f"SET LOCAL ROLE {role}")
                async with refused("42501", f'permission denied for topic "{topic.name}"'), db.transaction():
                    await commit_by_sql(db, member, topic, {0: 1})
            await db.execute(f'GRANT SELECT ON topics."{topic.name}" TO {role}')
            async with db.transaction():
                await db.execute(f"SET LOCAL ROLE {role}")
                await commit_by_sql(db, member, topic, {0: 1})
            assert await told(client, member.group, topic) == (ErrorCode.NONE, 1)
        finally:
            await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@contextlib.asynccontextmanager
async def superuser_of(postgres: Any, db: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    database = await db.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres.dsn(database))
    try:
        yield admin
    finally:
        admin.terminate()


async def test_prepared_transactions_and_a_pooler_are_like_any_other(
    make_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    server = make_postgres("postgresql-15", settings={"max_prepared_transactions": "5"})
    database = server.create_database()
    settings = {"GROUP_INITIAL_REBALANCE_DELAY_MS": "0"}
    with serving(database.dsn, tmp_path, settings) as broker, pgbouncer(server, database, "transaction") as pooled:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(await RawClient.connect(broker))
            db = await asyncpg.connect(pooled, statement_cache_size=0)
            stack.callback(db.terminate)
            topic = await client.create_topic()
            member = await alone(client, fresh_group(), topic)
            async with db.transaction():
                await commit_by_sql(db, member, topic, {0: 5})
                assert await told(client, member.group, topic) == (ErrorCode.UNSTABLE_OFFSET_COMMIT, -1)
            assert await told(client, member.group, topic) == (ErrorCode.NONE, 5)

            own = await stack.enter_async_context(connected(broker))
            await own.execute("BEGIN")
            await commit_by_sql(own, member, topic, {0: 7})
            await own.execute("PREPARE TRANSACTION 'billing'")
            assert await told(client, member.group, topic) == (ErrorCode.UNSTABLE_OFFSET_COMMIT, -1)
            await db.execute("COMMIT PREPARED 'billing'")
            assert await told(client, member.group, topic) == (ErrorCode.NONE, 7)
