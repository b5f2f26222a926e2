"""A later version appends a column to kafka.messages; what stands on the view goes on, and gets the column."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.storage import queries
from pg_kafka.storage.upkeep.janitor import Janitor

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

MESSAGES = "020_messages.sql"
COLUMNS = "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::text::regclass"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def start_janitor(pg_dsn: str) -> AsyncIterator[Callable[[], Awaitable[Janitor]]]:
    made: list[Janitor] = []

    async def start() -> Janitor:
        class Lanes:
            async def switch_segment(self, series: int, segment: int) -> None: ...
            async def move_topic(self, topic_id: int, series: int, segment: int) -> None: ...
            async def switch_journal(self, journal: str, active: int) -> None: ...

        janitor = janitor_of(
            pg_dsn, Lanes(), owner=1, segment_bytes=1 << 30, segment_ms=1 << 40, compression="none", interval_s=0.3
        )
        made.append(janitor)
        await janitor.start()
        return janitor

    yield start
    for janitor in made:
        await janitor.stop()


async def append_column(db: asyncpg.Connection) -> None:
    """As the features of a later version do."""
    script = (queries.SQL / "features" / MESSAGES).read_text(encoding="utf-8")
    assert script.count("l.segment%1$s\n") == 1
    await db.execute("SET search_path = pg_catalog")
    await db.execute(
        script.replace("l.segment%1$s\n", "l.segment%1$s,\n l.leader_epoch + l.record_count - 1 AS epoch\n")
    )
    await db.execute("RESET search_path")


async def until(db: asyncpg.Connection, question: str, *arguments: Any) -> None:
    async with asyncio.timeout(30):
        while not await db.fetchval(question, *arguments):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_what_stands_on_the_view_goes_on(
    db: asyncpg.Connection, start_janitor: Callable[[], Awaitable[Janitor]]
) -> None:
    before = await db.fetchval(COLUMNS, "kafka.messages")
    old = await add_topic(db, "old")
    await db.execute("SELECT kafka.create_topic_view($1)", old)
    await add_row(db, old, 0, [b"a", b"b"], headers=[[(b"h", b"1")], []])
    await db.execute("CREATE VIEW public.mine AS SELECT * FROM topics.old WHERE value = 'b'")
    await db.execute("CREATE VIEW public.read AS SELECT * FROM kafka.read('old', 0, 0, 10)")

    await append_column(db)

    assert await db.fetchval(COLUMNS, "kafka.messages") == [*before, "epoch"]
    assert await db.fetchval(COLUMNS, "kafka.all_messages") == [
        *before,
        *("transaction", "is_transactional", "is_control", "producer_id", "producer_epoch", "epoch"),
    ]
    # Until the janitor comes, the old view lacks the column and kafka.read() has nothing in it.
    assert [tuple(row) for row in await db.fetch("SELECT value, epoch FROM kafka.read('old', 0, 0, 10)")] == [
        (b"a", None),
        (b"b", None),
    ]
    for name, wanted in (("topics.old", [b"a", b"b"]), ("public.mine", [b"b"]), ("public.read", [b"a", b"b"])):
        assert await db.fetchval(COLUMNS, name) == before
        assert [row["value"] for row in await db.fetch(f"SELECT * FROM {name} ORDER BY partition_offset")] == wanted
    new = await add_topic(db, "new")
    await db.execute("SELECT kafka.create_topic_view($1)", new)
    await add_row(db, new, 0, [b"c"])
    assert [tuple(row) for row in await db.fetch("SELECT value, epoch FROM topics.new")] == [(b"c", 1)]
    assert [tuple(row) for row in await db.fetch("SELECT value, epoch FROM kafka.read('new', 0, 0, 1)")] == [(b"c", 1)]

    await start_janitor()

    await until(db, f"SELECT ({COLUMNS}) = $2", "topics.old", [*before, "epoch"])
    for relation in ("topics.old", "kafka.read('old', 0, 0, 10)"):
        rows = await db.fetch(f"SELECT value, epoch FROM {relation}")
        assert [tuple(row) for row in rows] == [(b"a", 2), (b"b", 2)]
    for name, wanted in (("public.mine", [b"b"]), ("public.read", [b"a", b"b"])):
        assert await db.fetchval(COLUMNS, name) == before
        assert [row["value"] for row in await db.fetch(f"SELECT * FROM {name} ORDER BY partition_offset")] == wanted


async def test_many_old_views_are_made_anew_and_a_locked_one_waits_alone(
    db: asyncpg.Connection, pg_dsn: str, start_janitor: Callable[[], Awaitable[Janitor]]
) -> None:
    await db.execute("INSERT INTO kafka.topics (name, partitions) SELECT 't' || n, 1 FROM generate_series(1, 250) n")
    await db.execute("INSERT INTO kafka.topics (name, partitions) VALUES (repeat('x', 100), 1)")
    await db.execute("SELECT count(kafka.create_topic_view(id)) FROM kafka.topics")
    await db.execute("CREATE VIEW public.mine AS SELECT value FROM topics.t7")
    await append_column(db)
    reader = await asyncpg.connect(pg_dsn)
    await reader.execute("BEGIN; SELECT count(*) FROM topics.t3")

    janitor = await start_janitor()

    lacking = (
        "SELECT count(*) FROM kafka.topics t WHERE NOT EXISTS (SELECT FROM pg_attribute a"
        " WHERE a.attrelid = to_regclass('topics.' || quote_ident(t.view_name)) AND a.attname = 'epoch')"
    )
    await until(db, f"SELECT ({lacking}) = 1")
    assert janitor.failures["renew views"] > 0
    await reader.close()
    await until(db, f"SELECT ({lacking}) = 0")
    assert await db.fetch("SELECT value FROM public.mine") == []


async def test_who_may_read_the_topic_only_can_use_kafka_read_before_the_view_is_made_anew(
    db: asyncpg.Connection, pg_superuser_dsn: str
) -> None:
    topic = await add_topic(db, "old")
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    await add_row(db, topic, 0, [b"a"])
    superuser = await asyncpg.connect(pg_superuser_dsn)
    await superuser.execute("DROP ROLE IF EXISTS analyst_of_columns; CREATE ROLE analyst_of_columns")
    try:
        await db.execute(
            "GRANT USAGE ON SCHEMA topics, kafka TO analyst_of_columns; GRANT SELECT ON topics.old TO analyst_of_columns;"
            "GRANT EXECUTE ON FUNCTION kafka.read, kafka.locate TO analyst_of_columns"
        )
        await append_column(db)
        await superuser.execute("SET ROLE analyst_of_columns")
        rows = await superuser.fetch("SELECT value, epoch FROM kafka.read('old', 0, 0, 1)")
        assert [tuple(row) for row in rows] == [(b"a", None)]
        await db.execute("SELECT kafka.create_topic_view($1)", topic)  # as the janitor does
        rows = await superuser.fetch("SELECT value, epoch FROM kafka.read('old', 0, 0, 1)")
        assert [tuple(row) for row in rows] == [(b"a", 1)]
    finally:
        await superuser.execute("RESET ROLE; DROP OWNED BY analyst_of_columns; DROP ROLE analyst_of_columns")
        await superuser.close()
