"""kafka.produce(), kafka.produce_many() and INSERT INTO topics.x: what gets into the outbox, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.pgbouncer import pgbouncer
from tests.postgres import Database, PostgresServer
from tests.storage.log_rows import add_topic, connect_migrated

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
OUTBOX = " UNION ALL ".join(f"SELECT * FROM kafka.outbox_{turn}" for turn in range(4))
DAY_MS = 86_400_000
BELL = 1885825896


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    await add_topic(connection, "orders", 3)
    yield connection
    await connection.close()


@pytest.fixture
async def other(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def outbox(db: asyncpg.Connection) -> list[asyncpg.Record]:
    return list(await db.fetch(f"SELECT * FROM ({OUTBOX}) AS o ORDER BY id"))


async def refused(db: asyncpg.Connection, sql: str, *arguments: Any) -> asyncpg.PostgresError:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await db.fetch(sql, *arguments)
    return caught.value


FORMS = {
    "'orders', 'é'": (b"\xc3\xa9", None, None),
    "'orders', 'v', 'k'": (b"v", b"k", None),
    "'orders', 'v'::varchar, 'k'::varchar": (b"v", b"k", None),
    "'orders', NULL, key => 'k'": (None, b"k", None),
    "'orders', NULL": (None, None, None),
    """'orders', '{"a":1}'""": (b'{"a":1}', None, None),
    """'orders', '{"a":1}'::jsonb, 'k'""": (b'{"a": 1}', b"k", None),
    r"""'orders', '{"a":1}'::jsonb, '\xff'::bytea""": (b'{"a": 1}', b"\xff", None),
    r"'orders', '\x00ff'::bytea": (b"\0\xff", None, None),
    r"'orders', '\x00ff'::bytea, 'k'": (b"\0\xff", b"k", None),
    r"'orders', '\x00ff'::bytea, '\xff'::bytea": (b"\0\xff", b"\xff", None),
    r"'orders', 'v', '\xff'::bytea": (b"v", b"\xff", None),
    "'orders', 'v', headers => NULL": (b"v", None, None),
    "'orders', 'v', headers => '{}'": (b"v", None, None),
    """'orders', 'v', headers => '{"a": "é", "b": null, "c": 1}'""": (
        b"v", None, [(b"a", "é".encode()), (b"b", None), (b"c", b"1")]),
    """'orders', 'v', 'k', '[{"key": "b", "value": "1"}, {"key": "a"}, {"key": "b", "value": {"x": 2}}]'""": (
        b"v", b"k", [(b"b", b"1"), (b"a", None), (b"b", b'{"x": 2}')]),
    r"""'orders', '\x00'::bytea, '\x01'::bytea, '{"a": "1"}'""": (b"\0", b"\1", [(b"a", b"1")]),
}  # fmt: skip


@BOTH
async def test_every_form_stores_what_it_was_given(db: asyncpg.Connection) -> None:
    for arguments, (value, key, headers) in FORMS.items():
        before = await db.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        id = await db.fetchval(f"SELECT kafka.produce({arguments})")
        row = (await outbox(db))[-1]
        assert (row["id"], row["topic_name"], row["partition"], row["record_count"]) == (id, "orders", None, 1), (
            arguments
        )
        assert row["values"] == [value], arguments
        assert row["keys"] == (None if key is None else [key]), arguments
        stored = (
            None if row["header_ends"] is None else list(zip(row["header_keys"], row["header_values"], strict=True))
        )
        assert stored == headers, arguments
        assert row["header_ends"] == (None if headers is None else [len(headers)]), arguments
        size = len(value or b"") + len(key or b"") + sum(len(k) + len(v or b"") for k, v in headers or ())
        assert row["bytes"] == size, arguments
        assert 0 <= row["first_timestamp"] - before < DAY_MS, arguments
        assert row["timestamps"] is None


async def test_drivers_that_leave_types_open_produce_text(db: asyncpg.Connection) -> None:
    await db.execute("PREPARE produce AS SELECT kafka.produce($1, $2, key => $3)")
    await db.execute("EXECUTE produce ('orders', 'v', 'k')")
    (row,) = await outbox(db)
    assert (row["values"], row["keys"]) == ([b"v"], [b"k"])


async def test_a_record_is_passed_on_with_its_headers(db: asyncpg.Connection) -> None:
    header = "ROW('h', '\\x00ff')::kafka.header"
    await db.fetchval(f"SELECT kafka.produce_record('orders', 'v', 'k', ARRAY[{header}, {header}], 2)")
    (row,) = await outbox(db)
    assert (row["header_keys"], row["header_values"], row["header_ends"]) == ([b"h", b"h"], [b"\0\xff"] * 2, [2])
    assert row["partition"] == 2


async def test_ids_are_in_the_order_of_calls(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    ids = [await connection.fetchval("SELECT kafka.produce('orders', 'v')") for connection in (db, other, db, other)]
    assert ids == sorted(ids)
    assert all(id % 65536 == 0 for id in ids)


REFUSALS = {
    "produce('nothing', 'v')": "KF001",
    "produce(NULL, 'v')": "22004",
    "produce('orders', 'v', partition => 3)": "KF002",
    "produce('orders', 'v', partition => -1)": "KF002",
    "produce('orders', repeat('x', 1048588 - 81))": "KF003",
    "produce('small', repeat('x', 19))": "KF003",
    """produce('small', 'x', 'k', '{"a": "1234567"}')""": "KF003",
    "produce('compacted', 'v')": "KF004",
    "produce('orders', 'v', \"timestamp\" => now() + interval '2 hours')": "KF006",
    "produce('recent', 'v', \"timestamp\" => now() - interval '2 minutes')": "KF006",
    "produce('orders', 'v', \"timestamp\" => '1969-12-31')": "22023",
    "produce('orders', 'v', \"timestamp\" => 'infinity')": "22023",
    "produce('orders', 'v', headers => '[1]')": "22023",
    "produce('orders', 'v', headers => '3')": "22023",
    "produce_record('orders', 'v', headers => ARRAY[ROW(NULL, 'v')::kafka.header])": "22004",
    "produce('orders', 'v', deliver_at => now())": "0A000",
    "produce('orders', 'v', dedup_id => '')": "22023",
    "produce('orders', 'v', dedup_id => repeat('x', 1025))": "22023",
    "produce_many('nothing', ARRAY['v'])": "KF001",
    "produce_many('nothing', '{}'::text[])": "KF001",
    "produce_many('orders', NULL::text[])": "22004",
    "produce_many('orders', ARRAY['v', 'w'], ARRAY['k'])": "22023",
    "produce_many('orders', ARRAY['v'], partition => 3)": "KF002",
    "produce_many('small', ARRAY['v', repeat('x', 19)])": "KF003",
    """produce_many('small', ARRAY['v', 'w'], headers => ARRAY[NULL, '{"a": "1234567"}'::jsonb])""": "KF003",
    "produce_many('compacted', ARRAY['v', 'w'], ARRAY['k', NULL])": "KF004",
    "produce_many('compacted', ARRAY['v', 'w'])": "KF004",
    "produce_many('orders', ARRAY['v', 'w'], timestamps => ARRAY[NULL, now() + interval '2 hours'])": "KF006",
    "produce_many('orders', ARRAY['v', 'w'], timestamps => ARRAY[NULL, '-infinity'::timestamptz])": "22023",
}


@BOTH
async def test_what_a_topic_does_not_take_fails_in_the_callers_transaction(db: asyncpg.Connection) -> None:
    await add_topic(db, "small", configs='{"max.message.bytes": "100"}')
    await add_topic(db, "compacted", configs='{"cleanup.policy": "delete, compact"}')
    await add_topic(db, "recent", configs='{"message.timestamp.before.max.ms": "60000"}')
    for call, sqlstate in REFUSALS.items():
        error = await refused(db, f"SELECT kafka.{call}")
        assert error.sqlstate == sqlstate, (call, error)
        assert getattr(error, "hint", None), call
    assert await outbox(db) == []
    # And just within the limits.
    await db.execute(
        "SELECT kafka.produce('orders', repeat('x', 1048588 - 82)), kafka.produce('small', repeat('x', 18))"
    )
    await db.execute("SELECT kafka.produce('compacted', 'v', ''), kafka.produce('orders', 'v', partition => 2)")
    await db.execute("SELECT kafka.produce('orders', 'v', \"timestamp\" => 'epoch')")
    assert len(await outbox(db)) == 5


async def test_a_topic_that_stamps_records_takes_any_time(db: asyncpg.Connection) -> None:
    await add_topic(db, "stamped", configs='{"message.timestamp.type": "LogAppendTime"}')
    await db.execute("SELECT kafka.produce('stamped', 'v', \"timestamp\" => '2200-01-01')")
    assert len(await outbox(db)) == 1


async def test_configs_that_no_broker_could_use_do_not_count(db: asyncpg.Connection) -> None:
    await add_topic(db, "odd", configs='{"max.message.bytes": "ten", "message.timestamp.after.max.ms": null}')
    await db.execute("SELECT kafka.produce('odd', 'v')")
    assert (await refused(db, "SELECT kafka.produce('odd', repeat('x', 1048588))")).sqlstate == "KF003"


async def test_settings_of_the_broker_hold_where_a_topic_has_none(db: asyncpg.Connection) -> None:
    await db.execute("""
        INSERT INTO kafka.brokers (node_id, status, epoch, lock_id, heartbeat_lock_id, host, port, version)
        VALUES (7, 'live', 1, 1, 2, 'h', 1, '1');
        INSERT INTO kafka.broker_configs (node_id, name, value, source)
        VALUES (7, 'message.max.bytes', '100', 'file'), (7, 'log.cleanup.policy', 'compact', 'file')
    """)
    await add_topic(db, "free", configs='{"max.message.bytes": "1000", "cleanup.policy": "delete"}')
    assert (await refused(db, "SELECT kafka.produce('orders', repeat('x', 19), 'k')")).sqlstate == "KF003"
    assert (await refused(db, "SELECT kafka.produce('orders', 'v')")).sqlstate == "KF004"
    await db.execute("SELECT kafka.produce('free', repeat('x', 19))")
    await db.execute("UPDATE kafka.broker_configs SET value = '1000' WHERE name = 'message.max.bytes'")
    await db.execute("SELECT kafka.produce('orders', repeat('x', 19), 'k')")
    await db.execute("SELECT kafka.set_config('pg_kafka.dedup_window_ms', '7000')")
    assert await db.fetchval("SELECT dedup_window_ms FROM kafka.produce_limits") == 7000
    await db.execute("SELECT kafka.set_config('pg_kafka.dedup_window_ms', NULL)")
    assert await db.fetchval("SELECT dedup_window_ms FROM kafka.produce_limits") == 300_000


@BOTH
async def test_what_is_rolled_back_leaves_nothing(db: asyncpg.Connection) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with db.transaction():
            await db.execute("SELECT kafka.produce('orders', 'gone')")
            raise ZeroDivisionError
    async with db.transaction():
        xid = await db.fetchval("SELECT pg_current_xact_id()::text")
        await db.execute("SELECT kafka.produce('orders', 'first')")
        await db.execute("SAVEPOINT a; SELECT kafka.produce('orders', 'gone'); ROLLBACK TO a")
        await db.execute("SAVEPOINT b; SELECT kafka.produce('orders', 'second'); RELEASE b")
        await db.execute("SELECT kafka.produce('orders', 'third')")
    rows = await outbox(db)
    assert [row["values"] for row in rows] == [[b"first"], [b"second"], [b"third"]]
    assert {str(row["xid"]) for row in await db.fetch(f"SELECT xid::text FROM ({OUTBOX}) AS o")} == {xid}


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_producers_do_not_fail_each_other(
    db: asyncpg.Connection, other: asyncpg.Connection, isolation: Any
) -> None:
    async with db.transaction(isolation=isolation):
        await db.execute("SELECT kafka.produce('orders', 'a')")
        async with other.transaction(isolation=isolation):
            await other.execute("SELECT kafka.produce('orders', 'b')")
            await other.execute("SELECT kafka.produce_many('orders', ARRAY['c', 'd'])")
        await db.execute("SELECT kafka.produce('orders', 'e')")
    assert [row["values"] for row in await outbox(db)] == [[b"a"], [b"b"], [b"c", b"d"], [b"e"]]


@pytest.mark.parametrize("flavour", ["postgresql-15", "embedded"])
async def test_no_transaction_that_has_produced_is_prepared(
    make_postgres: Callable[..., PostgresServer], flavour: str
) -> None:
    server = make_postgres(flavour, settings={"max_prepared_transactions": "5"})
    database = server.create_database()
    db = await connect_migrated(database.dsn)
    try:
        await add_topic(db, "orders")
        steps = [
            "SELECT kafka.produce('orders', 'v')",
            "SELECT kafka.produce('orders', 'v'); UNLISTEN *; SELECT pg_advisory_unlock_all()",
            "SAVEPOINT a; SELECT kafka.produce('orders', 'v'); RELEASE a",
            "SELECT kafka.produce('orders', 'v'); SAVEPOINT a; SELECT kafka.produce('orders', 'v'); ROLLBACK TO a",
            "SELECT kafka.produce_many('orders', ARRAY['v'])",
        ]
        # In a session's first transaction and in a later one.
        for step in (*steps, *steps):
            await db.execute(f"BEGIN; {step}")
            error = await refused(db, "PREPARE TRANSACTION 'p'")
            assert (error.sqlstate, await db.fetchval("SELECT count(*) FROM pg_prepared_xacts")) == ("0A000", 0), step
            await db.execute("ROLLBACK")
            await db.execute("SELECT kafka.produce('orders', 'v')")
        # One that has undone it has produced nothing.
        await db.execute("BEGIN; CREATE TABLE t (); SAVEPOINT a; SELECT kafka.produce('orders', 'v'); ROLLBACK TO a")
        await db.execute("PREPARE TRANSACTION 'p'")
        await db.execute("COMMIT PREPARED 'p'")
        assert await db.fetch("SELECT pg_listening_channels()") == []
        assert len(await outbox(db)) == len(steps) * 2
    finally:
        await db.close()


async def test_the_relay_is_woken_only_when_it_sleeps(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await other.add_listener("kafka_outbox", lambda *_: heard.put_nowait("outbox"))
    await other.add_listener("end", lambda *_: heard.put_nowait("end"))

    async def heard_of(*statements: str) -> list[str]:
        for statement in (*statements, 'NOTIFY "end"'):
            await db.execute(statement)
        names = []
        async with asyncio.timeout(30):
            while (name := await heard.get()) != "end":
                names.append(name)
        return names

    produce = "SELECT kafka.produce('orders', 'v')"
    assert await heard_of(produce) == []
    await other.execute(f"SELECT pg_advisory_lock({BELL}, 1)")
    assert await heard_of(produce) == ["outbox"]
    assert await heard_of(f"BEGIN; {produce}; {produce}; COMMIT") == ["outbox"]
    assert await heard_of(f"BEGIN; {produce}; ROLLBACK") == []
    assert await heard_of(f"BEGIN; SAVEPOINT a; {produce}; ROLLBACK TO a; COMMIT") == []
    assert await heard_of(f"BEGIN; SAVEPOINT a; {produce}; ROLLBACK TO a; {produce}; COMMIT") == ["outbox"]
    await other.execute(f"SELECT pg_advisory_unlock({BELL}, 1)")
    assert await heard_of(produce) == []
    # Until its end a transaction keeps the relay from falling asleep unnoticed.
    async with db.transaction():
        await db.execute(produce)
        assert not await other.fetchval(f"SELECT pg_try_advisory_lock({BELL}, 1)")
    assert await other.fetchval(f"SELECT pg_try_advisory_lock({BELL}, 1)")


@BOTH
async def test_a_full_outbox_takes_nothing(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    # What waits in a table that is not written any more counts as well.
    await db.execute("SELECT kafka.produce('orders', repeat('x', 500000)) FROM generate_series(1, 34)")
    await db.execute("SELECT setval('kafka.outbox_turn', 2)")
    await db.execute("SELECT kafka.set_config('pg_kafka.outbox_max_bytes', '16777216')")
    error = await refused(db, "SELECT kafka.produce_many('orders', ARRAY[repeat('x', 500000)])")
    assert (error.sqlstate, bool(getattr(error, "hint", None))) == ("KF005", True)
    # The transaction that found it full is undone; that it is full is known to everybody, and to the smallest record.
    for connection in (other, db, other):
        for call in ("produce('orders', 'v')", "produce_many('orders', ARRAY['v'])"):
            assert (await refused(connection, f"SELECT kafka.{call}")).sqlstate == "KF005"
    await db.execute("TRUNCATE kafka.outbox_0")
    await other.execute("SELECT kafka.produce('orders', 'v')")
    assert await db.fetchval("SELECT last_value FROM kafka.outbox_turn") == 2
    assert await db.fetchval("SELECT count(*) FROM kafka.outbox_2") == 1


@BOTH
async def test_many_records_are_those_that_were_given(db: asyncpg.Connection) -> None:
    number = 70_000
    values = [None if n % 7 == 3 else b"%d" % n for n in range(number)]
    keys = [None if n % 5 == 2 else b"k%d" % n for n in range(number)]
    ranges = await db.fetch(
        "SELECT * FROM kafka.produce_many('orders', $1::bytea[], $2::bytea[], partition => 1)", values, keys
    )
    rows = await outbox(db)
    assert [tuple(found) for found in ranges] == [(row["id"], row["record_count"]) for row in rows]
    assert [row["record_count"] for row in rows] == [65536, number - 65536]
    assert [value for row in rows for value in row["values"]] == values
    assert [key for row in rows for key in row["keys"]] == keys
    assert {(row["partition"], row["timestamps"], row["header_ends"]) for row in rows} == {(1, None, None)}
    assert sum(row["bytes"] for row in rows) == sum(len(item or b"") for item in values + keys)


async def test_rows_of_the_outbox_have_about_a_megabyte(db: asyncpg.Connection) -> None:
    sizes = [10, 900_000, 200_000, 5, 1_000_000, 1_000_000, *[300] * 10_000]
    await db.execute("SELECT kafka.produce_many('orders', $1::bytea[])", [b"x" * size for size in sizes])
    rows = await outbox(db)
    assert [len(value) for row in rows for value in row["values"]] == sizes
    assert all(row["bytes"] == sum(map(len, row["values"])) < 2_000_000 for row in rows)
    assert len(rows) < 10


async def test_many_records_with_headers_and_times(db: asyncpg.Connection) -> None:
    number = 3_000
    headers = [None if n % 3 == 0 else f'{{"h": "{n}", "x": null}}' for n in range(number)]
    await db.execute(
        "SELECT kafka.produce_many('orders', $1::text[], $2::text[], $3::jsonb[], timestamps => ARRAY("
        " SELECT CASE WHEN n % 2 = 0 THEN timestamptz 'epoch' + n * interval '1 ms' END FROM generate_series(0, 2999) AS n))",
        ["v" * 1000] * number,
        ["k"] * number,
        headers,
    )
    rows = await outbox(db)
    assert len(rows) > 1
    seen, stamps = [], []
    for row in rows:
        start = 0
        for end in row["header_ends"]:
            seen.append(list(zip(row["header_keys"][start:end], row["header_values"][start:end], strict=True)))
            start = end
        assert start == len(row["header_keys"]) == len(row["header_values"])
        assert row["first_timestamp"] == row["timestamps"][0]
        stamps += row["timestamps"]
        contents = sum(len(k) + len(v or b"") for k, v in zip(row["header_keys"], row["header_values"], strict=True))
        assert row["bytes"] == row["record_count"] * 1001 + contents
    assert seen == [[] if n % 3 == 0 else [(b"h", b"%d" % n), (b"x", None)] for n in range(number)]
    assert stamps[::2] == list(range(0, number, 2))
    assert len(set(stamps[1::2])) == 1


async def test_forms_of_many(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.produce_many('orders', ARRAY['v', NULL])")
    await db.execute("SELECT kafka.produce_many('orders', ARRAY['v', NULL], ARRAY['k', NULL])")
    await db.execute("""SELECT kafka.produce_many('orders', ARRAY['{"a":1}'::jsonb], ARRAY['k']::varchar[])""")
    await db.execute(
        "SELECT kafka.produce_many('orders', array_agg(n::text), array_agg('x'::bytea)) FROM generate_series(1, 2) AS n"
    )
    assert await db.fetch("SELECT * FROM kafka.produce_many('orders', '{}'::bytea[])") == []
    assert [(row["values"], row["keys"]) for row in await outbox(db)] == [
        ([b"v", None], None),
        ([b"v", None], [b"k", None]),
        ([b'{"a": 1}'], [b"k"]),
        ([b"1", b"2"], [b"x", b"x"]),
    ]


@BOTH
async def test_insert_into_a_topics_view_produces(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.create_topic_view(id) FROM kafka.topics")
    await db.execute(
        "INSERT INTO topics.orders (key, value) SELECT 'k', n::text::bytea FROM generate_series(1, 2) AS n"
    )
    await db.execute("""
        INSERT INTO topics.orders (value, partition_id, timestamp_ms, headers)
        VALUES ('v', 2, 1234567890123, ARRAY[ROW('h', 'x')::kafka.header])
    """)
    rows = await outbox(db)
    assert [(row["keys"], row["values"], row["partition"]) for row in rows] == [
        ([b"k"], [b"1"], None),
        ([b"k"], [b"2"], None),
        (None, [b"v"], 2),
    ]
    assert (rows[2]["first_timestamp"], rows[2]["header_keys"]) == (1234567890123, [b"h"])
    assert (
        await refused(db, "INSERT INTO topics.orders (value, partition_offset) VALUES ('v', 1)")
    ).sqlstate == "22023"
    assert (await refused(db, "INSERT INTO topics.orders (value, partition_id) VALUES ('v', 3)")).sqlstate == "KF002"
    # A topic that was made anew under its name has the same view.
    await db.execute("DELETE FROM kafka.topics")
    assert (await refused(db, "INSERT INTO topics.orders (value) VALUES ('v')")).sqlstate == "KF001"
    again = await add_topic(db, "orders")
    await db.execute("SELECT kafka.create_topic_view($1)", again)
    await db.execute("INSERT INTO topics.orders (value) VALUES ('v')")
    assert (await outbox(db))[-1]["topic"] == again


async def test_through_a_pooler_in_transaction_mode(
    postgres_server: PostgresServer, pg_database: Database, db: asyncpg.Connection
) -> None:
    with pgbouncer(postgres_server, pg_database, "transaction", default_pool_size="2") as dsn:
        clients = [await asyncpg.connect(dsn, statement_cache_size=0) for _ in range(6)]
        try:
            for n in range(10):
                await asyncio.gather(*(
                    client.execute(f"BEGIN; SELECT kafka.produce('orders', '{number}-{n}', 'k'); COMMIT")
                    for number, client in enumerate(clients)
                ))  # fmt: skip
                await clients[0].execute("BEGIN; SELECT kafka.produce('orders', 'gone'); ROLLBACK")
                await clients[1].execute(f"SELECT kafka.produce('orders', 'd', dedup_id => '{n // 2}')")
        finally:
            for client in clients:
                await client.close()
    produced = [row["values"][0].decode() for row in await outbox(db)]
    assert produced.count("d") == 5
    for number in range(6):
        assert [value for value in produced if value.startswith(f"{number}-")] == [f"{number}-{n}" for n in range(10)]
