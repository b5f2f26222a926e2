"""What is produced by SQL is in the log once, in order, moments after its commit; whatever is open, killed or restored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.broker.inside import Inside, running
from tests.postgres import PostgresServer

from pg_kafka import app
from pg_kafka.app import Seams, Term
from pg_kafka.cluster.incarnation import History
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.embedded.given import GivenPostgres
from pg_kafka.storage.journal import not_written
from pg_kafka.storage.topics import NewTopic, Topic

DEADLINE_S = 30.0
Record = tuple[int, bytes | None, bytes | None]


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


async def new_topic(inside: Inside, name: str, partitions: int = 1, **configs: str) -> Topic:
    named = {key.replace("_", "."): value for key, value in configs.items()}
    (topic,) = await inside.term._topics.create([NewTopic(name, partitions, {"retention.ms": "-1"} | named)])  # type: ignore[union-attr]
    assert isinstance(topic, Topic)
    return topic


async def until(question: Any, what: str) -> None:
    """Wait until an awaitable function says yes."""
    async with asyncio.timeout(DEADLINE_S):
        while not await question():  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.005)


async def records(connection: asyncpg.Connection, topic: str, count: int) -> list[Record]:
    """Partition, key and value of all records of a topic, once there are so many; in the order of partitions and offsets."""
    sql = """SELECT partition_id, key, value FROM kafka.messages WHERE topic_id = (SELECT id FROM kafka.topics WHERE name = $1)
             ORDER BY partition_id, partition_offset"""

    async def are_there() -> bool:
        return len(await connection.fetch(sql, topic)) >= count

    await until(are_there, f"{count} records")
    return [tuple(row) for row in await connection.fetch(sql, topic)]


async def produce(connection: asyncpg.Connection, topic: str, value: str, key: str | None = None) -> int:
    found: int = await connection.fetchval(
        "SELECT kafka.produce($1, convert_to($2, 'UTF8'), key => convert_to($3, 'UTF8'))", topic, value, key
    )
    return found


async def test_what_commits_is_sent_once_and_what_is_rolled_back_never(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams()) as inside, connected(inside.term._dsn) as db:
        await new_topic(inside, "orders", 3)
        for number in range(20):
            transaction = db.transaction()
            await transaction.start()
            await produce(db, "orders", f"v{number}", "k")
            async with contextlib.AsyncExitStack() as stack:
                stack.push(lambda *_: True)
                async with db.transaction():  # a savepoint
                    await produce(db, "orders", f"undone {number}", "k")
                    raise LookupError
            await produce(db, "orders", f"w{number}", "k")
            await (transaction.rollback() if number % 3 == 2 else transaction.commit())
        kept = [f"{which}{number}".encode() for number in range(20) if number % 3 != 2 for which in "vw"]
        found = await records(db, "orders", len(kept))
        assert [value for _, _, value in found] == kept
        assert len({partition for partition, _, _ in found}) == 1


async def test_an_open_transaction_delays_nobody_and_comes_when_it_commits(postgres15: PostgresServer) -> None:
    async with (
        running(postgres15, Seams()) as inside,
        connected(inside.term._dsn) as slow,
        connected(inside.term._dsn) as db,
    ):
        await new_topic(inside, "orders")
        transaction = slow.transaction()
        await transaction.start()
        await produce(slow, "orders", "slow")
        for number in range(5):
            await produce(db, "orders", f"quick {number}")
            assert len(await records(db, "orders", number + 1)) == number + 1
        await transaction.commit()
        found = await records(db, "orders", 6)
        assert [value for _, _, value in found] == [*(b"quick %d" % number for number in range(5)), b"slow"]


async def test_a_pass_reads_only_what_is_new_while_a_snapshot_is_held(postgres15: PostgresServer) -> None:
    async with (
        running(postgres15, Seams()) as inside,
        connected(inside.term._dsn) as holder,
        connected(inside.term._dsn) as db,
    ):
        await new_topic(inside, "orders")
        held = holder.transaction(isolation="repeatable_read")
        await held.start()
        await holder.execute("CREATE TEMP TABLE mine ()")  # a transaction with a number
        for _ in range(3):
            await db.execute("SELECT kafka.produce('orders', 'x'::text) FROM generate_series(1, 1000)")
        await records(db, "orders", 3000)
        relay = inside.term._relay
        assert relay is not None
        previous = relay._previous
        await db.execute("SET enable_seqscan = off")
        sql = """EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT id FROM kafka.outbox_0
                 WHERE xid >= '%s'::xid8 OR xid = ANY ('{%s}'::xid8[])"""
        plan = await db.fetchval(sql % (previous.xmax, ",".join(previous.xip)))
        top = json.loads(plan)[0]["Plan"]
        assert top["Actual Rows"] == 0
        assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 20
        await held.rollback()


async def test_a_large_backlog_goes_in_order(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams()) as inside, connected(inside.term._dsn) as db:
        await new_topic(inside, "orders", 2)
        await db.execute(
            "SELECT kafka.produce('orders', n::text, key => (n % 7)::text) FROM generate_series(1, 30000) AS n"
        )
        found = await records(db, "orders", 30_000)
        assert len(found) == 30_000
        by_key: dict[bytes | None, list[int]] = {}
        for _, key, value in found:
            by_key.setdefault(key, []).append(int(value or b""))
        assert by_key == {str(key).encode(): list(range(key or 7, 30_001, 7)) for key in range(7)}


@pytest.mark.parametrize("lanes", [1, 3])
async def test_a_lost_session_loses_and_repeats_nothing(postgres15: PostgresServer, lanes: int) -> None:
    async with running(postgres15, Seams(), lanes=lanes) as inside, connected(inside.superuser_dsn) as db:
        await new_topic(inside, "orders", 5)

        async def disturb() -> None:
            for _ in range(12):
                await asyncio.sleep(0.05)
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name ~ 'pg_kafka (relay|lane)' AND datname = current_database() ORDER BY random() LIMIT 1"
                )

        async with connected(inside.term._dsn) as producer:
            disturbing = asyncio.create_task(disturb())
            for number in range(300):
                await produce(producer, "orders", str(number), f"k{number}")
            await disturbing
            found = await records(producer, "orders", 300)
        assert sorted(int(value or b"") for _, _, value in found) == list(range(300))


async def test_tables_take_turns_and_an_open_transaction_keeps_its_own_only(postgres15: PostgresServer) -> None:
    async with (
        running(postgres15, Seams()) as inside,
        connected(inside.term._dsn) as slow,
        connected(inside.term._dsn) as db,
    ):
        await new_topic(inside, "orders")
        relay = inside.term._relay
        assert relay is not None
        relay._tables._turn_bytes, relay._tables._grace_s = 100_000, 0.0
        transaction = slow.transaction()
        await transaction.start()
        await produce(slow, "orders", "slow")
        sizes = "SELECT pg_table_size(format('kafka.outbox_%s', n)::regclass) FROM generate_series(0, 3) AS n"
        count = 0

        async def other_table() -> bool:
            nonlocal count
            await db.execute("SELECT kafka.produce('orders', repeat('x', 1000)) FROM generate_series(1, 200)")
            count += 200
            relay._looks_at_s = 0.0
            return relay._counts.emptied >= 3

        await until(other_table, "three tables are emptied")
        found = [row[0] for row in await db.fetch(sizes)]
        assert found[0] > 100_000, "the open transaction has written there"
        assert sum(found) < 4_000_000
        assert len(await records(db, "orders", count)) == count
        await transaction.commit()
        assert len(await records(db, "orders", count + 1)) == count + 1

        async def first_is_empty() -> bool:
            await produce(db, "orders", "wake")
            relay._looks_at_s = 0.0
            return (await db.fetch(sizes))[0][0] <= 65_536

        await until(first_is_empty, "the table of the transaction that has ended is emptied")


async def test_what_cannot_be_sent_any_more_is_kept_with_its_reason(postgres15: PostgresServer) -> None:
    async with (
        running(postgres15, Seams()) as inside,
        connected(inside.term._dsn) as slow,
        connected(inside.term._dsn) as db,
    ):
        gone = await new_topic(inside, "gone")
        small = await new_topic(inside, "small")
        transaction = slow.transaction()
        await transaction.start()
        first = await slow.fetchval(
            "SELECT kafka.produce('gone', 'lost'::text, key => 'k'::text, headers => '{\"trace\": \"1\"}'::jsonb)"
        )
        second = await produce(slow, "small", "x" * 5000)
        await produce(slow, "small", "fits")
        await inside.term._topics.delete([gone])  # type: ignore[union-attr]
        await inside.term._topics.alter(small, lambda configs: {**configs, "max.message.bytes": "1000"})  # type: ignore[union-attr]
        await transaction.commit()
        assert [value for _, _, value in await records(db, "small", 1)] == [b"fits"]
        rows = await db.fetch("SELECT * FROM kafka.outbox_errors ORDER BY id")
        assert [(row["id"], row["topic"], row["sqlstate"]) for row in rows] == [
            (first, "gone", "KF001"),
            (second, "small", "KF003"),
        ]
        assert (rows[0]["key"], rows[0]["value"], rows[0]["headers"]) == (b"k", b"lost", [("trace", b"1")])
        assert rows[1]["value"] == b"x" * 5000


async def test_produced_tells_where_each_record_is(postgres15: PostgresServer) -> None:
    async with (
        running(postgres15, Seams()) as inside,
        connected(inside.term._dsn) as slow,
        connected(inside.term._dsn) as db,
    ):
        await new_topic(inside, "orders", 4)
        transaction = slow.transaction()
        await transaction.start()
        undone = await produce(slow, "orders", "undone")
        first, count = await db.fetchrow(
            "SELECT (p.r).* FROM (SELECT kafka.produce_many('orders', array_agg(n::text ORDER BY n),"
            " array_agg((n % 9)::text ORDER BY n)) AS r FROM generate_series(1, 500) AS n) AS p"
        )
        ids = [*range(first, first + count)]
        ids.append(await produce(db, "orders", "501"))
        await records(db, "orders", 501)
        assert await db.fetch("SELECT * FROM kafka.produced($1)", undone) == []
        await transaction.rollback()
        assert await db.fetch("SELECT * FROM kafka.produced($1)", undone) == []
        told = await db.fetch(
            """SELECT p.state, p.topic, convert_from(m.value, 'UTF8')::integer AS value
               FROM unnest($1::bigint[]) WITH ORDINALITY AS i (id, n)
               CROSS JOIN LATERAL kafka.produced(i.id) AS p
               JOIN kafka.messages m ON m.partition_id = p.partition_id AND m.partition_offset = p.partition_offset
               ORDER BY i.n""",
            ids,
        )
        assert [tuple(row) for row in told] == [("sent", "orders", value) for value in range(1, 502)]
        with pytest.raises(asyncpg.InvalidParameterValueError, match="what kafka"):
            await db.fetch("SELECT * FROM kafka.produced(-1)")


async def test_a_record_waits_as_long_as_no_broker_runs(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams()) as inside, connected(inside.term._dsn) as db:
        await new_topic(inside, "orders")
        relay, task = inside.term._relay, inside.term._relaying
        assert relay is not None and task is not None
        relay.stop()
        await task
        waiting = await produce(db, "orders", "x")
        rows = await db.fetch("SELECT state, topic, partition_offset FROM kafka.produced($1)", waiting)
        assert [tuple(row) for row in rows] == [("waiting", "orders", None)]


async def test_a_row_that_the_database_refuses_keeps_no_other_back(postgres15: PostgresServer) -> None:
    async with running(postgres15, Seams()) as inside, connected(inside.superuser_dsn) as db:
        await new_topic(inside, "orders")
        await db.execute("ALTER TABLE kafka.log_0_0 ADD CHECK (NOT (values && ARRAY['poison'::bytea]))")
        poison: list[int] = []
        async with db.transaction():
            for number in range(6):
                await produce(db, "orders", f"{number}")
                if number == 3:
                    poison.append(await produce(db, "orders", "poison"))
        found = await records(db, "orders", 6)
        assert [value for _, _, value in found] == [b"%d" % number for number in range(6)]
        kept = await db.fetch("SELECT id, sqlstate, value FROM kafka.outbox_errors")
        assert [tuple(row) for row in kept] == [(poison[0], "XX000", b"poison")]


@contextlib.asynccontextmanager
async def serving(dsn: str, **settings: Any) -> AsyncIterator[Term]:
    """A broker on a database that is there."""
    config = Config(database=dsn, listen=Address("127.0.0.1", 0), **settings)
    given = GivenPostgres(dsn, logging.getLogger("inside"))
    await app._prepare(given, config)
    term = Term(config, given, History(), Seams())
    try:
        async with asyncio.timeout(60):
            await term.start()
        yield term
    finally:
        await term.stop()


@pytest.mark.parametrize("has_sent", [True, False])
async def test_a_restored_dump_sends_what_was_not_sent_and_nothing_twice(
    postgres15: PostgresServer, has_sent: bool
) -> None:
    async with running(postgres15, Seams()) as inside, connected(inside.term._dsn) as db:
        dsn = inside.term._dsn
        await new_topic(inside, "orders", 2)
        if has_sent:
            for number in range(5):
                await produce(db, "orders", f"sent {number}", "k")
            await records(db, "orders", 5)
        relay, task = inside.term._relay, inside.term._relaying
        assert relay is not None and task is not None
        relay.stop()
        await task
        waiting = [await produce(db, "orders", f"waiting {number}", "k") for number in range(3)]
        if not has_sent:
            await db.execute("TRUNCATE kafka.relay_journal_0, kafka.relay_journal_1")  # as if no relay had ever run
        target = postgres15.create_database()
        try:

            def copy() -> None:
                binaries = postgres15.binaries
                dump = [binaries / "pg_dump", "--format=custom", "--no-owner", "--no-privileges", dsn]
                dumped = subprocess.run(dump, capture_output=True, check=True).stdout
                restore = [
                    binaries / "pg_restore",
                    "--no-owner",
                    "--no-privileges",
                    "--exit-on-error",
                    "-d",
                    target.dsn,
                ]
                subprocess.run(restore, input=dumped, check=True)

            await asyncio.to_thread(copy)
            async with connected(target.dsn) as restored:
                # A producer that is there before the broker.
                transaction = restored.transaction()
                await transaction.start()
                await restored.execute("SAVEPOINT one")
                early = await produce(restored, "orders", "early", "k")
                await transaction.commit()
                assert early > waiting[-1]
                async with serving(target.dsn):
                    await produce(restored, "orders", "late", "k")
                    count = 5 * has_sent + 5
                    found = [value for _, _, value in await records(restored, "orders", count)]
                    expected = [*(b"sent %d" % n for n in range(5 * has_sent)), *(b"waiting %d" % n for n in range(3))]
                    assert found == [*expected, b"early", b"late"]
                    places = await restored.fetch(
                        "SELECT p.state, p.partition_offset FROM unnest($1::bigint[]) AS i, kafka.produced(i) AS p",
                        waiting,
                    )
                    assert [row["state"] for row in places] == ["sent"] * 3
        finally:
            postgres15.drop_database(target)


async def test_a_chunk_that_was_broken_off_is_finished_with_other_lanes_and_partitions(
    postgres15: PostgresServer,
) -> None:
    database = postgres15.create_database()
    try:
        async with connected(database.dsn) as db:
            async with serving(database.dsn, lanes=3) as term:
                topics, log = term._topics, term._log
                assert topics is not None and log is not None
                (topic,) = await topics.create([NewTopic("orders", 6, {"retention.ms": "-1"})])
                assert isinstance(topic, Topic)
                write = log.write_bundle
                lanes = {log.lane_of(topic.id, index) for index in range(6)}
                assert len(lanes) > 1
                log.write_bundle = lambda lane, bundle: (  # type: ignore[method-assign]
                    not_written("this lane is broken") if lane == max(lanes) else write(lane, bundle)
                )
                await db.execute(
                    "SELECT kafka.produce_many('orders', array_agg(n::text ORDER BY n), array_agg((n % 50)::text ORDER BY n))"
                    " FROM generate_series(1, 500) AS n"
                )
                some = await records(db, "orders", 1)
                assert len(some) < 500
                await topics.grow(topic, 9)
            async with serving(database.dsn, lanes=2):
                found = await records(db, "orders", 500)
                assert sorted(int(value or b"") for _, _, value in found) == list(range(1, 501))
                assert {partition for partition, _, _ in found} <= set(range(6))
                for wanted in range(50):
                    values = [int(value or b"") for _, key, value in found if key == b"%d" % wanted]
                    assert values == sorted(values)
    finally:
        postgres15.drop_database(database)
