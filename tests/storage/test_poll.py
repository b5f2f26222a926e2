"""kafka.poll(): records and the group's offsets in the caller's own transaction."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.pgbouncer import pgbouncer
from tests.postgres import Database, PostgresServer
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated
from tests.storage.polling import NOW, Connect, committed, drained, fill, polled, sessions

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def connect(pg_dsn: str) -> AsyncIterator[Connect]:
    """More sessions."""
    async with sessions(pg_dsn) as opened:
        yield opened


# -- records -------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("max_records", [1, 3, 7, 8, 9, 25, 1000])
async def test_records_are_those_of_the_views_once_and_in_order(db: asyncpg.Connection, max_records: int) -> None:
    topic = await add_topic(db, "orders", 2)
    row = add_row
    await row(db, topic, 0, [b"a", None, b""], keys=[b"k", None, b""], timestamps=[NOW + 1, NOW, -1])
    await row(db, topic, 3, [b"x", b"y"], headers=[[(b"h", b"1"), (b"h", None)], [(b"\xff\\", b"\0")]])
    await row(db, topic, 5, [b"%d" % n for n in range(20)], first_timestamp=2**62)
    await row(db, topic, 25, [b"only"], headers=[[("größe".encode(), b"3")]])
    await row(db, topic, 26, [b"s1", b"s2", b"s3"], keys=[b"1", b"2", b"3"], offset_deltas=[0, 5, 900])
    await row(db, topic, 927, [b"gone"])
    await db.execute(
        "UPDATE kafka.log SET record_count = 0, values = '{}', offset_deltas = '{}' WHERE base_offset = 927"
    )  # as compaction leaves it
    await row(
        db,
        topic,
        1000,
        [b"t%d" % n for n in range(12)],
        timestamps=[NOW + n for n in range(12)],
        producer_ids=[7],
        is_transactional=True,
    )
    await row(db, topic, 1012, [b"aborted"] * 9, producer_ids=[8], is_transactional=True)
    await add_marker(db, topic, 1021, 7, is_commit=True)
    await add_marker(db, topic, 1022, 8, is_commit=False)
    await row(db, topic, 1023, [b"last"] * 10, keys=[b"k"] * 10)
    await row(db, topic, 4, [b"other"] * 3, partition=1)
    columns = 'partition_id, partition_offset, key, value, headers, timestamp_ms, "timestamp"::text'
    expected = await db.fetch(f"SELECT {columns} FROM kafka.messages ORDER BY 1, 2")
    found: list[asyncpg.Record] = []
    polls = 0
    while got := await db.fetch(f"SELECT topic, {columns} FROM kafka.poll('g', 'orders', $1)", max_records):
        assert len(got) <= max_records
        assert {r["topic"] for r in got} == {"orders"}
        found += got
        polls += 1
    for partition in (0, 1):
        of_partition = [tuple(r)[1:] for r in found if r["partition_id"] == partition]
        assert of_partition == [tuple(r) for r in expected if r["partition_id"] == partition]
    assert len(found) == len(expected) == 3 + 2 + 20 + 1 + 3 + 12 + 10 + 3
    assert polls == -(-len(expected) // max_records)
    assert await committed(db) == {0: 1033, 1: 7}


async def test_bytes_are_bounded_and_one_record_always_comes(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await add_row(db, topic, 0, [b"x" * 1000] * 50)
    await add_row(db, topic, 50, [b"x" * 50_000])
    assert len(await polled(db, 100, max_bytes=10_000)) == 10
    assert len(await polled(db, 100, max_bytes=39_999)) == 39
    assert await polled(db, 100, max_bytes=1) == [(0, 49)]
    assert await polled(db, 100, max_bytes=1) == [(0, 50)]
    assert await polled(db) == []


async def test_several_topics_and_groups(db: asyncpg.Connection) -> None:
    one, two = await add_topic(db, "orders"), await add_topic(db, "payments")
    await fill(db, one, 20)
    await fill(db, two, 20)
    rows = await db.fetch("SELECT * FROM kafka.poll('g', ARRAY['orders', 'payments', 'orders'], 40)")
    assert Counter(row["topic"] for row in rows) == {"orders": 20, "payments": 20}
    assert await db.fetch("SELECT * FROM kafka.poll('g', ARRAY['orders', 'payments'])") == []
    assert await drained(db, group="h") == [(0, n) for n in range(20)]
    assert await db.fetchval("SELECT sum(lag) FROM kafka.consumer_lag") == 0


# -- transactions --------------------------------------------------------------------------------------------------------


async def test_rolled_back_is_not_consumed(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 50)
    for _ in range(2):
        transaction = db.transaction()
        await transaction.start()
        assert await polled(db, 10) == [(0, n) for n in range(10)]
        assert await polled(db, 10) == [(0, n) for n in range(10, 20)]
        await transaction.rollback()
    async with db.transaction():
        assert await polled(db, 10) == [(0, n) for n in range(10)]
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():  # a savepoint
                assert await polled(db, 10) == [(0, n) for n in range(10, 20)]
                raise ZeroDivisionError
        assert await polled(db, 5) == [(0, n) for n in range(10, 15)]
    assert await committed(db) == {0: 15}


async def test_sessions_share_partitions(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders", 2)
    for partition in (0, 1):
        await fill(db, topic, 20, partition=partition)
    assert await polled(db, 0) == []  # begins the topic, so that no session waits for another that does
    first, second, third = [await connect() for _ in range(3)]
    async with first.transaction():
        mine = {partition for partition, _ in await polled(first, 5)}
        assert len(mine) == 1
        async with second.transaction():
            assert {partition for partition, _ in await polled(second)} == {0, 1} - mine
            assert await polled(third) == []
            assert await db.fetchval("SELECT (state, members)::text FROM kafka.groups") == "(Stable,2)"
        assert await polled(third) == []
    assert sorted(await polled(third)) == [(*mine, n) for n in range(5, 20)]
    assert await db.fetchval("SELECT (kind, state, members)::text FROM kafka.groups") == "(sql,Empty,0)"


async def test_lock_goes_with_a_savepoint(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 20)
    await polled(db, 0)
    other = await connect()
    async with db.transaction():
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                assert len(await polled(db, 10)) == 10
                assert await polled(other) == []
                raise ZeroDivisionError
        assert len(await polled(other, 5)) == 5
        assert await polled(db, 1) == [(0, 5)]


async def test_second_session_does_not_wait_while_a_group_is_made(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders", 2)
    for partition in (0, 1):
        await fill(db, topic, 20, partition=partition)
    other = await connect()
    transaction = db.transaction()
    await transaction.start()
    assert len(await polled(db, 40)) == 40
    async with asyncio.timeout(10):
        assert await polled(other) == []
    await transaction.rollback()
    assert len(await drained(other)) == 40


@BOTH
@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_eight_sessions_get_each_record_once(db: asyncpg.Connection, connect: Connect, isolation: str) -> None:
    topic = await add_topic(db, "orders", 5)
    for partition in range(5):
        await fill(db, topic, 120, partition=partition)
    await db.execute("CREATE TABLE effects (partition integer, at bigint, worker integer)")
    left = 600
    refused = 0

    async def work(number: int) -> None:
        nonlocal left, refused
        chance = random.Random(number)
        session = await connect()
        while left > 0:
            transaction = session.transaction(isolation=isolation)
            await transaction.start()
            try:
                got = await polled(session, chance.randint(1, 15))
                await session.executemany(
                    "INSERT INTO effects VALUES ($1, $2, $3)", [(*place, number) for place in got]
                )
                await asyncio.sleep(0)  # others have their turn
                if chance.random() < 0.3:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    left -= len(got)
            except asyncpg.SerializationError:
                refused += 1
                if not session.is_in_transaction():
                    continue
                await transaction.rollback()

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(number))
    rows = await db.fetch("SELECT partition, at, count(*) AS times FROM effects GROUP BY 1, 2 ORDER BY 1, 2")
    assert [(r["partition"], r["at"], r["times"]) for r in rows] == [(p, n, 1) for p in range(5) for n in range(120)]
    assert await committed(db) == dict.fromkeys(range(5), 120)
    assert isolation != "read_committed" or refused == 0


@BOTH
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_older_snapshot_is_refused_instead_of_a_double(
    db: asyncpg.Connection, connect: Connect, isolation: str
) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 30)
    await polled(db, 0)
    other = await connect()
    with pytest.raises(asyncpg.SerializationError):
        async with db.transaction(isolation=isolation):
            await db.fetch("SELECT FROM kafka.topics")  # takes its snapshot
            assert len(await polled(other, 10)) == 10
            await polled(db, 10)
    async with db.transaction(isolation=isolation):
        assert await polled(db, 10) == [(0, n) for n in range(10, 20)]
        assert await polled(db, 5) == [(0, n) for n in range(20, 25)]
    with pytest.raises(asyncpg.SerializationError):
        async with db.transaction(isolation=isolation):
            await db.fetch("SELECT FROM kafka.topics")
            await other.fetch("SELECT * FROM kafka.seek('g', 'orders', 'earliest')")
            await polled(db, 10)
    assert await polled(db, 1) == [(0, 0)]


async def test_older_snapshot_that_does_not_see_the_group(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 30)
    other = await connect()
    with pytest.raises(asyncpg.SerializationError):
        async with db.transaction(isolation="repeatable_read"):
            await db.fetch("SELECT FROM kafka.topics")
            assert len(await polled(other, 10)) == 10
            await polled(db, 10)


async def test_killed_session_has_consumed_nothing(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 30)
    await polled(db, 0)
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    assert len(await polled(other, 10)) == 10
    assert await polled(db, 10) == []
    await db.execute("SELECT pg_terminate_backend($1, 10000)", other.get_server_pid())
    assert await polled(db, 10) == [(0, n) for n in range(10)]


async def test_prepared_transaction_keeps_its_partition(
    make_postgres: Callable[..., PostgresServer], connect: Connect
) -> None:
    server = make_postgres("postgresql-15", settings={"max_prepared_transactions": "5"})
    database = server.create_database()
    db = await connect_migrated(database.dsn)
    try:
        topic = await add_topic(db, "orders")
        await fill(db, topic, 30)
        await db.execute("BEGIN")
        assert len(await polled(db, 10)) == 10
        await db.execute("PREPARE TRANSACTION 'one'")
        assert await polled(db, 10) == []
        await db.execute("COMMIT PREPARED 'one'")
        assert await polled(db, 10) == [(0, n) for n in range(10, 20)]
    finally:
        await db.close()


async def test_through_pgbouncer_in_transaction_mode(
    db: asyncpg.Connection, pg_database: Database, postgres_server: PostgresServer
) -> None:
    topic = await add_topic(db, "orders", 4)
    for partition in range(4):
        await fill(db, topic, 50, partition=partition)
    found: list[tuple[int, int]] = []
    # Two sessions of the server for four clients.
    with pgbouncer(postgres_server, pg_database, "transaction", default_pool_size="2") as dsn:

        async def work(number: int) -> None:
            session = await asyncpg.connect(dsn, statement_cache_size=0)
            chance = random.Random(number)
            try:
                while len(found) < 200:
                    transaction = session.transaction()
                    await transaction.start()
                    got = await polled(session, 9)
                    if chance.random() < 0.3:
                        await transaction.rollback()
                    else:
                        await transaction.commit()
                        found.extend(got)
            finally:
                await session.close()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(work(number))
    assert sorted(found) == [(p, n) for p in range(4) for n in range(50)]


# -- transactions of Kafka's producers -----------------------------------------------------------------------------------


async def test_open_transaction_of_a_producer_is_not_passed(db: asyncpg.Connection, connect: Connect) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    await add_row(db, topic, 10, [b"open"] * 5, producer_ids=[7], is_transactional=True)
    await add_row(db, topic, 15, [b"aborted"] * 5, producer_ids=[8], is_transactional=True)
    await add_marker(db, topic, 20, 8, is_commit=False)
    await fill(db, topic, 10, first=21)
    assert await drained(db) == [(0, n) for n in range(10)]
    other = await connect()
    async with db.transaction():
        # Nothing to consume: the partition stays free for others.
        assert await polled(db) == []
        await add_marker(other, topic, 31, 7, is_commit=True)
        assert await polled(other, 3) == [(0, 10), (0, 11), (0, 12)]
    assert await drained(db) == [(0, 13), (0, 14), *((0, n) for n in range(21, 31))]
    # Nothing is left but a marker: the group passes it.
    assert await committed(db) == {0: 32}
    await add_row(db, topic, 32, [b"open"] * 5, producer_ids=[7], is_transactional=True)
    assert await polled(db) == []
    await add_marker(db, topic, 37, 7, is_commit=False)
    assert await polled(db) == []
    assert await committed(db) == {0: 38}


async def test_latest_begins_before_an_open_transaction(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    await add_row(db, topic, 10, [b"open"] * 5, producer_ids=[7], is_transactional=True)
    await db.execute(
        "INSERT INTO kafka.transaction_journal_0 (entry, transactional_id, kind, key, value) VALUES (1, 't', "
        "'transaction', '', jsonb_build_object('state', 'Ongoing', 'producer_id', 7, 'partitions', "
        "jsonb_build_array(jsonb_build_array($1::bigint, 0, 10))))",
        topic,
    )
    assert await polled(db, start="latest") == []
    await add_marker(db, topic, 15, 7, is_commit=True)
    assert await polled(db, start="latest") == [(0, n) for n in range(10, 15)]


# -- where a group begins ------------------------------------------------------------------------------------------------


async def test_latest_is_where_the_partition_ends_at_the_first_poll(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders", 2)
    await fill(db, topic, 10)
    assert await polled(db, start="latest") == []
    assert await committed(db) == {0: 10, 1: 0}
    await fill(db, topic, 10, first=10)
    await fill(db, topic, 10, partition=1)
    assert len(await drained(db, start="latest")) == 20


async def test_none_asks_for_an_offset(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    with pytest.raises(asyncpg.PostgresError, match="has no offset in partition 0") as caught:
        await polled(db, start="none")
    assert caught.value.sqlstate == "KF013"
    assert "kafka.seek('g', 'orders', 'earliest')" in caught.value.hint
    await db.fetch("SELECT * FROM kafka.seek('g', 'orders', 3)")
    assert await polled(db, 1, start="none") == [(0, 3)]


@pytest.mark.parametrize(("start", "first"), [("earliest", 35), ("latest", None), ("none", KeyError)])
async def test_records_that_retention_has_removed(db: asyncpg.Connection, start: str, first: Any) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 50)
    assert len(await polled(db, 20)) == 20
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 35)", topic)
    if first is KeyError:
        with pytest.raises(asyncpg.PostgresError, match="no offset that is still in") as caught:
            await polled(db, 1, start=start)
        assert caught.value.sqlstate == "KF013"
        return
    assert await polled(db, 1, start=start) == ([] if first is None else [(0, first)])
    assert await committed(db) == {0: 50 if first is None else first + 1}


async def test_new_partition_is_read_from_its_beginning(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    assert await polled(db, start="latest") == []
    await db.execute("UPDATE kafka.topics SET partitions = 2")
    await fill(db, topic, 10, partition=1)
    assert await drained(db, start="latest") == [(1, n) for n in range(10)]
    assert await committed(db) == {0: 10, 1: 10}


async def test_topic_that_is_made_again_is_another_one(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    assert len(await drained(db)) == 10
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", topic)
    assert await committed(db) == {}
    again = await add_topic(db, "orders")
    await fill(db, again, 5)
    assert await drained(db) == [(0, n) for n in range(5)]


async def test_group_goes_on_where_kafka_s_clients_were(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "orders", 4)
    for partition in range(4):
        await fill(db, topic, 10, partition=partition)
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 1, 5)", topic)
    await db.executemany(
        "INSERT INTO kafka.offset_journal_0 (entry, group_id, topic_id, partition_id, committed_offset) "
        "VALUES ($1, 'g', $2, $3, $4)",
        [(1, topic, 0, 7), (2, topic, 1, 3), (3, topic, 2, 99)],
    )
    assert await db.fetchval("SELECT kind FROM kafka.groups") == "classic"
    found = sorted(await drained(db))
    assert found == [
        (0, 7),
        (0, 8),
        (0, 9),
        *((1, n) for n in range(5, 10)),
        *((p, n) for p in (2, 3) for n in range(10)),
    ]
    assert await committed(db) == dict.fromkeys(range(4), 10)
    assert await db.fetchval("SELECT string_agg(kind, ' ') FROM kafka.groups") == "sql"


async def test_group_of_kafka_s_clients_is_refused(db: asyncpg.Connection) -> None:
    await add_topic(db, "orders")
    await db.execute(
        "INSERT INTO kafka.group_journal_0 (entry, group_id, kind, key, value) VALUES "
        '(1, \'classic\', \'classic\', \'\', \'{"state": "Stable", "members": [{"member_id": "m"}]}\'), '
        "(2, 'new', 'member', 'm', '{}'), (3, 'left', 'classic', '', '{\"state\": \"Empty\", \"members\": []}')"
    )
    for group in ("classic", "new"):
        with pytest.raises(asyncpg.PostgresError, match="is driven by Kafka clients: it has 1 members") as caught:
            await polled(db, group=group)
        assert caught.value.sqlstate == "KF010"
    assert await polled(db, group="left") == []
    assert await db.fetchval("SELECT array_agg(group_id) FROM kafka.sql_groups") == ["left"]
    change = await db.fetchrow("SELECT kind, name, what FROM kafka.catalogue_changes WHERE kind = 'sql group'")
    assert tuple(change) == ("sql group", "left", "created")


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "says"),
    [
        ("'g', 'nope'", "KF001", 'topic "nope" does not exist'),
        ("'g', ARRAY['orders', 'nope']", "KF001", 'topic "nope" does not exist'),
        ("NULL, 'orders'", "22004", "must not be NULL"),
        ("'g', NULL::text", "22004", "must not be NULL"),
        ("'g', ARRAY['orders', NULL]", "22004", "must not be NULL"),
        ("'g', 'orders', NULL", "22004", "must not be NULL"),
        ("'g', 'orders', -1", "22023", "max_records must be from 0"),
        ("'g', 'orders', max_bytes => 0", "22023", "max_bytes must be at least 1"),
        ("'g', 'orders', start => 'first'", "22023", "start must be earliest, latest or none"),
        ("'g', '{}'::text[]", "22023", "1 to 1000 topics"),
        ("'', 'orders'", "22023", "a group id has 1 to 2000 bytes"),
        ("repeat('x', 2001), 'orders'", "22023", "a group id has 1 to 2000 bytes"),
    ],
)
async def test_wrong_arguments(db: asyncpg.Connection, arguments: str, sqlstate: str, says: str) -> None:
    await add_topic(db, "orders")
    with pytest.raises(asyncpg.PostgresError, match=says) as caught:
        await db.fetch(f"SELECT * FROM kafka.poll({arguments})")
    assert caught.value.sqlstate == sqlstate
    assert sqlstate == "22004" or caught.value.hint


# -- who may -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def reader(
    db: asyncpg.Connection, pg_superuser_dsn: str, pg_database: Database
) -> AsyncIterator[asyncpg.Connection]:
    """A session as a role that has no rights but those that the test gives."""
    role = pg_database.name + "_reader"
    boss = await asyncpg.connect(pg_superuser_dsn)
    await boss.execute(f"CREATE ROLE {role}; GRANT {role} TO {pg_database.name}")
    session = await asyncpg.connect(pg_database.dsn)
    await session.execute(f"SET ROLE {role}")
    try:
        yield session
    finally:
        await session.close()
        await boss.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await boss.close()


async def test_who_may_read_the_view_may_consume(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_database: Database
) -> None:
    role = pg_database.name + "_reader"
    for name in ("orders", "secrets"):
        topic = await add_topic(db, name)
        await fill(db, topic, 10)
        await db.execute("SELECT kafka.create_topic_view($1)", topic)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await polled(reader)
    await db.execute("SELECT kafka.grant_consumer($1, 'orders')", role)
    assert len(await drained(reader)) == 10
    assert await reader.fetchval("SELECT new_offset FROM kafka.seek('g', 'orders', 5)") == 5
    assert len(await drained(reader)) == 5
    for call in ("poll('g', 'secrets')", "poll('g', ARRAY['orders', 'secrets'])", "seek('g', 'secrets', 'earliest')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
            await reader.fetch(f"SELECT * FROM kafka.{call}")
        assert caught.value.hint == f"GRANT SELECT ON topics.secrets TO {role}"
    for what in ("kafka.sql_groups", "kafka.sql_commits_0", "kafka.log", "kafka.consumer_offsets"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch(f"SELECT * FROM {what}")
    assert await db.fetchval("SELECT created_by FROM kafka.sql_groups") == role


async def test_topic_whose_view_is_not_made_yet(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_database: Database
) -> None:
    role = pg_database.name + "_reader"
    first = await add_topic(db, "first")
    await db.execute("SELECT kafka.create_topic_view($1)", first)
    await db.execute("SELECT kafka.grant_consumer($1, 'first')", role)
    await db.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA topics GRANT SELECT ON TABLES TO {role}")
    topic = await add_topic(db, "orders")
    await fill(db, topic, 10)
    assert len(await drained(reader)) == 10
    assert await db.fetchval("SELECT view_name FROM kafka.topics WHERE id = $1", topic) == "orders"


async def test_nothing_is_granted_to_public(db: asyncpg.Connection) -> None:
    open_to_all = await db.fetch(
        "SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a "
        "WHERE p.pronamespace = 'kafka'::regnamespace AND a.grantee = 0 "
        "AND p.proname ~ 'poll|seek|sql_|stable|offset_at|readable'"
    )
    assert open_to_all == []
