"""Fifty SQL sessions commit, roll back, use savepoints and are killed: consumers see exactly what is committed.

The consumers are librdkafka's, at both isolation levels, and Java's, which read all the time. The account is
tests/crash/sql_account.py. PG_KAFKA_SQL_SECONDS=600 goes on for ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from tests.broker.pgbouncer import pgbouncer
from tests.clients.agents import JavaClient
from tests.clients.brokers import PgKafka
from tests.clients.client import Client
from tests.crash.sql_account import PARTITIONS, Note, Shape, check, note_of
from tests.crash.sql_readers import LibrdkafkaReader, read_to
from tests.crash.sql_rounds import create_topic, play
from tests.crash.sql_sessions import Sessions
from tests.postgres import Database, PostgresServer

SECONDS = float(os.environ.get("PG_KAFKA_SQL_SECONDS", "10"))
SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))
TOPIC = "orders"
STREAM_MEGABYTES = 192

pytestmark = pytest.mark.timeout(300 + SECONDS)


@dataclass
class Scene:
    """A broker on a database of its own, with a topic."""

    server: PostgresServer
    database: Database
    broker: PgKafka

    async def restart(self) -> None:
        self.broker.kill()
        self.broker.start()  # not in another thread: it ends with the thread that starts it


@pytest.fixture
def scene(postgres15: PostgresServer, tmp_path: Path) -> Iterator[Scene]:
    database = postgres15.create_database()
    broker = PgKafka("postgresql-15", tmp_path, database.dsn)
    try:
        broker.start()
        create_topic(broker.bootstrap, TOPIC)
        yield Scene(postgres15, database, broker)
    finally:
        broker.clean_up()
        postgres15.drop_database(database)


@pytest.fixture
def java(clients: Callable[[str], Client]) -> JavaClient:
    client = clients("java")
    assert isinstance(client, JavaClient)
    return client


async def work() -> Counter[str]:
    """Nothing but time for the sessions."""
    await asyncio.sleep(SECONDS)
    return Counter()


async def play_on(scene: Scene, sessions: Sessions, java: JavaClient, what: str) -> None:
    report = await play(what, scene.broker.bootstrap, sessions, java, work, scene.restart, SEED)
    print(report)
    assert report.committed and not report.faults, str(report)
    for ending in ("committed", "rolled back", "vanished", "ended by another"):
        assert report.endings[ending], f"no transaction was {ending}: {report}"


@pytest.fixture
def clerk(scene: Scene) -> Iterator[str]:
    """A role that owns nothing."""
    name = f"clerk_{scene.database.name}"
    scene.server.sql(f"CREATE ROLE {name} LOGIN; GRANT {name} TO {scene.database.name}")
    yield name
    scene.server.sql(f"DROP OWNED BY {name}", scene.database.name)
    scene.server.sql(f"DROP ROLE {name}")


async def test_consumers_see_what_fifty_sessions_committed(scene: Scene, java: JavaClient, clerk: str) -> None:
    """Of a role that may produce to the topic and nothing else."""
    dsn = scene.server.dsn(scene.database.name, clerk)
    sessions = Sessions(dsn, TOPIC, SEED, direct_dsn=scene.database.dsn)
    await sessions.prepare()
    async with session(scene.database.dsn) as owner:
        await owner.fetchval("SELECT kafka.grant_producer($1::text::name, $2)", clerk, TOPIC)
        await owner.execute(
            f"GRANT USAGE ON SCHEMA proof TO {clerk}; GRANT SELECT, UPDATE ON proof.names TO {clerk};"
            f"GRANT INSERT ON proof.notes TO {clerk}"
        )
    await play_on(scene, sessions, java, "sessions")


async def test_consumers_see_what_fifty_sessions_committed_through_pgbouncer(scene: Scene, java: JavaClient) -> None:
    """In transaction mode, with far fewer connections to the server than there are sessions."""
    with pgbouncer(scene.server, scene.database, "transaction", default_pool_size="20", max_client_conn="200") as dsn:
        sessions = Sessions(dsn, TOPIC, SEED, direct_dsn=scene.database.dsn)
        await sessions.prepare()
        await play_on(scene, sessions, java, "through pgbouncer")


@contextlib.asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def produce(connection: asyncpg.Connection, note: Note) -> None:
    statement = "SELECT kafka.produce($1, $2::bytea, key => $3::bytea, partition => $4)"
    await connection.fetchval(statement, TOPIC, note.value, note.key, note.asked_partition)


async def test_nothing_waits_for_a_held_snapshot_or_an_open_producer(scene: Scene) -> None:
    """Each record is read while both are open. The open transaction's record comes when that commits, and moves nothing."""
    numbers = iter(range(1, 1 << 30))

    def note(name: str, version: int) -> Note:
        return Note(name, version, next(numbers) << 2 | Shape.PLAIN)

    reader = LibrdkafkaReader(scene.broker.bootstrap, TOPIC, "read_uncommitted")
    reader.start()
    dsn = scene.database.dsn
    try:
        async with session(dsn) as holder, session(dsn) as opened, session(dsn) as writer:
            await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
            await opened.execute("BEGIN")
            held = note("at0-held", 1)
            await produce(opened, held)
            notes = []
            for number in range(200):
                notes.append(note(f"at{number % PARTITIONS}-free", number + 1))
                await produce(writer, notes[-1])
                await reader.has_seen(notes[-1:])
                if number == 100:  # as for whoever comes anew, or takes over
                    await scene.restart()
            assert held not in notes_of(reader)
            for connection in (holder, opened):
                assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            await opened.execute("COMMIT")
            await reader.has_seen([held])
            assert await holder.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            marks = [note(f"at{index}-mark", 1) for index in range(PARTITIONS)]
            for mark in marks:
                await produce(writer, mark)
            await reader.has_seen(marks)
    finally:
        await asyncio.to_thread(reader.close)
    log = await read_to(scene.broker.bootstrap, TOPIC, marks)
    assert check([held, *notes, *marks], log, {reader.name: reader.log}) == []


async def test_an_open_producer_and_a_held_snapshot_do_not_keep_the_outbox(scene: Scene) -> None:
    """What is sent makes room, but for the table that the open producer has written to."""
    dsn = scene.database.dsn
    size = (
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c "
        "WHERE c.relnamespace = 'kafka'::regnamespace AND c.relname ~ '^outbox_[0-3]$'"
    )
    array = "array_fill(convert_to(repeat('x', 4096), 'UTF8'), ARRAY[1024])"
    four_megabytes = f"SELECT max(p.first_id) FROM kafka.produce_many($1, {array}) p"
    async with session(dsn) as holder, session(dsn) as opened, session(dsn) as writer:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
        await opened.execute("BEGIN")
        await opened.fetchval("SELECT kafka.produce($1, 'open')", TOPIC)
        async with asyncio.timeout(150):
            for _ in range(STREAM_MEGABYTES // 4):
                id_ = await writer.fetchval(four_megabytes, TOPIC)
                while await writer.fetchval("SELECT state FROM kafka.produced($1)", id_) != "sent":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            while await writer.fetchval(size) > (STREAM_MEGABYTES << 20) * 3 // 4:
                await writer.fetchval("SELECT kafka.produce($1, 'more')", TOPIC)  # the relay looks when it is awake
                await asyncio.sleep(0.1)
        for connection in (holder, opened):
            assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")


def notes_of(reader: LibrdkafkaReader) -> set[Note | None]:
    return {note_of(record) for records in reader.log.values() for record in records}


async def test_repeats_of_a_dedup_id_are_one_record(scene: Scene) -> None:
    """Sessions repeat each other's calls at the same time, and some roll back: the next one then sends it."""
    dsn = scene.database.dsn
    async with session(dsn) as owner:
        await owner.execute("CREATE TABLE calls (dedup_id text, id bigint, value text)")
    faults: list[str] = []

    async def call(number: int) -> None:
        chance = random.Random(f"{SEED}/{number}")
        async with session(dsn) as connection:
            for turn in range(40):
                dedup_id, value = f"d{chance.randrange(60)}", f"{number}/{turn}"
                level = "REPEATABLE READ" if chance.random() < 0.3 else "READ COMMITTED"
                await connection.execute(f"BEGIN ISOLATION LEVEL {level}")
                try:
                    await connection.execute(
                        "INSERT INTO calls SELECT $2, kafka.produce($1, $3::text, key => $2, dedup_id => $2), $3",
                        TOPIC,
                        dedup_id,
                        value,
                    )
                    await connection.execute(chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
                except asyncpg.SerializationError:
                    await connection.execute("ROLLBACK")
                except asyncpg.PostgresError as error:
                    faults.append(repr(error))
                    await connection.execute("ROLLBACK")

    await asyncio.gather(*(call(number) for number in range(20)))
    assert not faults, faults[:5]
    marks = [Note(f"at{index}-mark", 1, index + 1 << 2) for index in range(PARTITIONS)]
    async with session(dsn) as owner:
        for mark in marks:
            await produce(owner, mark)
        log = await read_to(scene.broker.bootstrap, TOPIC, marks)
        calls = await owner.fetch(
            "SELECT dedup_id, array_agg(DISTINCT id) AS ids, array_agg(value) AS told FROM calls GROUP BY 1"
        )
        places = {
            row["id"]: (row["partition_id"], row["partition_offset"])
            for row in await owner.fetch(
                "SELECT c.id, p.* FROM (SELECT DISTINCT id FROM calls) c, kafka.produced(c.id) p"
            )
        }
    records = {(partition, record.offset): record for partition, found in log.items() for record in found[:-1]}
    assert len(records) == len(calls)
    for row in calls:
        (first,) = row["ids"]
        record = records[places[first]]
        assert (record.key or b"").decode() == row["dedup_id"]
        assert (record.value or b"").decode() in row["told"]
