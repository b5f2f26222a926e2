"""DDL on the tables of the log: in milliseconds, while readers and writers go on, and repeatable after a crash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.storage.segments import LOCK_TIMEOUT_MS, Segments, adopt, first_guess, server_compressions

# Generous for a busy machine; one blocked lock would cost LOCK_TIMEOUT_MS at least, an open transaction for ever.
SOON_S = 2.0


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def segments(db: asyncpg.Connection, pg_dsn: str) -> AsyncIterator[Segments]:
    connection = await asyncpg.connect(pg_dsn)
    yield Segments(connection)
    await connection.close()


@asynccontextmanager
async def open_select(dsn: str, relation: str) -> AsyncIterator[None]:
    """A transaction that has read a relation and stays open, as a report or a forgotten psql does."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    await connection.fetch(f"SELECT count(*) FROM {relation}")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


@asynccontextmanager
async def writer(dsn: str, topic: int) -> AsyncIterator[list[float]]:
    """Appends rows all the time; yields how long each transaction took."""
    took: list[float] = []
    connection = await asyncpg.connect(dsn)

    async def write() -> None:
        offset = 1000
        while True:
            begun = time.monotonic()
            await add_row(connection, topic, offset, [b"x"])
            took.append(time.monotonic() - begun)
            offset += 1

    task = asyncio.create_task(write())
    try:
        yield took
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.terminate()


async def owned(db: asyncpg.Connection) -> list[tuple[int, int, str, int | None]]:
    rows = await db.fetch("SELECT series, segment, state, owner FROM kafka.segments ORDER BY series, segment")
    return [tuple(row) for row in rows]


async def tables(db: asyncpg.Connection, parent: str) -> list[str]:
    rows = await db.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1",
        parent,
    )
    return [row["name"] for row in rows]


@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
async def test_new_tables_under_an_open_select_take_milliseconds_and_delay_no_writer(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str
) -> None:
    small, large = await add_topic(db, "small"), await add_topic(db, "large")
    async with open_select(pg_dsn, "kafka.messages"), writer(pg_dsn, small) as took:
        begun = time.monotonic()
        for number in range(5):
            assert await segments.roll(0, number, "none") == number + 1
        assert await segments.create_series(large, "none")
        assert await segments.roll(large, 0, "none") == 1
        needed = time.monotonic() - begun
        await add_row(db, large, 0, [b"x"], series=large, segment=1)
    assert needed < SOON_S
    assert len(took) > 10
    assert max(took) < SOON_S / 2
    assert await tables(db, "kafka.log_0") == [f"kafka.log_0_{number}" for number in range(6)]
    assert await tables(db, f"kafka.log_{large}") == [f"kafka.log_{large}_0", f"kafka.log_{large}_1"]


async def test_a_reader_that_locks_everything_delays_a_new_segment_only(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str
) -> None:
    connection = await asyncpg.connect(pg_dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE kafka.log_0 IN SHARE UPDATE EXCLUSIVE MODE")
    creating = asyncio.create_task(segments.roll(0, 0, "none"))
    await asyncio.sleep(3 * LOCK_TIMEOUT_MS / 1000)
    assert not creating.done()
    await transaction.rollback()
    async with asyncio.timeout(10):
        await creating
    assert "kafka.log_0_1" in await tables(db, "kafka.log_0")
    await connection.close()


async def test_a_segment_that_cannot_be_made_is_given_up(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_kafka.storage.segments.LOCK_ATTEMPTS", 2)
    connection = await asyncpg.connect(pg_dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE kafka.log_0 IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await segments.roll(0, 0, "none")
    assert [tuple(row) for row in await db.fetch("SELECT segment, state FROM kafka.segments")] == [(0, "active")]
    await connection.close()


async def test_a_new_segment_is_where_its_owner_appends(db: asyncpg.Connection, segments: Segments) -> None:
    assert await adopt(db.fetch, 7) == {0: 0}
    assert [await segments.roll(0, 0, "none") for _ in range(2)] == [1, None]
    assert await owned(db) == [(0, 0, "superseded", 7), (0, 1, "active", 7)]
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x"], segment=1)
    assert await db.fetchval("SELECT tableoid::regclass::text FROM kafka.log") == "kafka.log_0_1"


NEWEST = "SELECT max(segment) FROM kafka.segments WHERE series = $1"


async def second_owner(db: asyncpg.Connection, segments: Segments, series: int, owner: int) -> None:
    """A segment for another broker, beside that of the first."""
    newest = await db.fetchval(NEWEST, series)
    first = await db.fetchval("SELECT owner FROM kafka.segments WHERE series = $1 AND segment = $2", series, newest)
    assert await segments.roll(series, newest, "none") == newest + 1
    await db.execute(
        "UPDATE kafka.segments SET owner = $3 WHERE series = $1 AND segment = $2", series, newest + 1, owner
    )
    await db.execute(
        "UPDATE kafka.segments SET state = 'active', owner = $3 WHERE series = $1 AND segment = $2",
        series,
        newest,
        first,
    )


@pytest.mark.parametrize("node_id", [3, 4, 5])
async def test_who_leads_adopts_what_others_write_to_and_keeps_the_newest(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str, node_id: int
) -> None:
    topic = await add_topic(db, "t")
    assert await segments.create_series(topic, "none", 3)
    assert await adopt(db.fetch, 3) == {0: 0, topic: 0}
    await segments.roll(topic, 0, "none")
    await second_owner(db, segments, 0, 4)
    await second_owner(db, segments, topic, 4)
    assert await owned(db) == [
        (0, 0, "active", 3),
        (0, 1, "active", 4),
        (topic, 0, "superseded", 3),
        (topic, 1, "active", 3),
        (topic, 2, "active", 4),
    ]

    async def killed_after(statements: int) -> None:
        connection = await asyncpg.connect(pg_dsn)
        with pytest.raises(Killed):
            await adopt(MortalConnection(connection, statements).fetch, node_id)

    for statements in range(3):
        await killed_after(statements)
    for _ in range(2):
        assert await adopt(db.fetch, node_id) == {0: 1, topic: 2}
        assert await owned(db) == [
            (0, 0, "superseded", node_id),
            (0, 1, "active", node_id),
            (topic, 0, "superseded", node_id),
            (topic, 1, "superseded", node_id),
            (topic, 2, "active", node_id),
        ]
    await segments.seal(0, 0)
    assert (await owned(db))[0] == (0, 0, "sealed", None)


async def test_an_owner_has_one_active_segment_of_a_series(db: asyncpg.Connection, segments: Segments) -> None:
    await adopt(db.fetch, 3)
    await second_owner(db, segments, 0, 4)
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute("UPDATE kafka.segments SET owner = 3")
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("UPDATE kafka.segments SET state = 'sealed' WHERE segment = 0")


async def test_a_segment_that_is_written_to_is_not_sealed(db: asyncpg.Connection, segments: Segments) -> None:
    await segments.seal(0, 0)
    assert await owned(db) == [(0, 0, "active", None)]


async def test_numbers_are_not_given_twice_though_the_last_segment_is_gone(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str
) -> None:
    await adopt(db.fetch, 3)
    await second_owner(db, segments, 0, 4)
    await db.execute("UPDATE kafka.segments SET state = 'superseded' WHERE segment = 1")
    await segments.seal(0, 1)
    await segments.drop_segment(0, 1)
    assert await segments.roll(0, 0, "none") == 2

    # Brokers that need segments of one series at the same time.
    topic = await add_topic(db, "t")
    assert await segments.create_series(topic, "none", 3)
    for owner in (4, 5):
        await second_owner(db, segments, topic, owner)
    connections = [await asyncpg.connect(pg_dsn) for _ in range(3)]
    made = await asyncio.gather(*(Segments(c).roll(topic, number, "none") for number, c in enumerate(connections)))
    assert sorted(number for number in made if number is not None) == [3, 4, 5]
    assert [tuple(row)[2:] for row in await owned(db)][-3:] == [("active", 3 + made.index(n)) for n in (3, 4, 5)]
    for connection in connections:
        await connection.close()


async def test_there_is_no_series_for_a_topic_that_is_gone(db: asyncpg.Connection, segments: Segments) -> None:
    assert not await segments.create_series(12345, "none")
    assert await tables(db, "kafka.log") == ["kafka.log_0"]


async def test_offsets_are_unique_in_a_segment(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x"])
    with pytest.raises(asyncpg.UniqueViolationError):
        await add_row(db, topic, 0, [b"y"])


@pytest.mark.parametrize(("compression", "storage", "method"), [("none", b"e", b"\x00"), ("pglz", b"x", b"p")])
async def test_records_are_stored_as_asked(
    db: asyncpg.Connection, segments: Segments, compression: str, storage: bytes, method: bytes
) -> None:
    await segments.roll(0, 0, compression)
    columns = await db.fetch(
        "SELECT attname, attstorage, attcompression, attstattarget FROM pg_attribute "
        "WHERE attrelid = 'kafka.log_0_1'::regclass AND attname IN ('values', 'keys', 'header_values', 'timestamps')"
    )
    assert len(columns) == 4
    assert {row["attstorage"] for row in columns} == {storage}
    assert {row["attcompression"] for row in columns} <= {method, b""}
    assert {row["attstattarget"] for row in columns} == {0}
    options = await db.fetchval("SELECT reloptions FROM pg_class WHERE oid = 'kafka.log_0_1'::regclass")
    inline = ["toast_tuple_target=4080"] if compression == "none" else []
    assert options == ["autovacuum_vacuum_insert_threshold=-1", *inline]
    assert "autovacuum_enabled" not in str(options)


async def test_what_the_server_can_compress_with_is_known(db: asyncpg.Connection) -> None:
    available = await server_compressions(db)
    assert {"none", "pglz"} <= available
    assert first_guess(frozenset({"none", "pglz"})) == "none"
    assert first_guess(frozenset({"none", "pglz", "lz4"})) == "lz4"


async def test_a_sealed_segment_is_frozen(db: asyncpg.Connection, segments: Segments) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x" * 100] * 100)
    await segments.roll(0, 0, "none")
    await segments.seal(0, 0)
    await segments.freeze(0, 0)
    row = await db.fetchrow("SELECT state, sealed_at IS NOT NULL FROM kafka.segments WHERE segment = 0")
    assert tuple(row) == ("frozen", True)
    # All pages are marked as frozen in the visibility map, and the planner knows the number of rows.
    row = await db.fetchrow(
        "SELECT relallvisible, relpages, reltuples FROM pg_class WHERE oid = 'kafka.log_0_0'::regclass"
    )
    assert (row["relallvisible"], row["reltuples"]) == (row["relpages"], 1)


async def test_a_segment_is_emptied_and_dropped(db: asyncpg.Connection, segments: Segments) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x"])
    await segments.roll(0, 0, "none")
    for _ in range(2):
        await segments.drop_segment(0, 0)
    assert await tables(db, "kafka.log_0") == ["kafka.log_0_1"]
    assert await db.fetchval("SELECT to_regclass('kafka.log_0_0') IS NULL")
    assert await db.fetchval("SELECT count(*) FROM kafka.segments") == 1


async def test_dropping_under_an_open_select_frees_when_it_ends(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str
) -> None:
    topic, other = await add_topic(db, "doomed"), await add_topic(db, "other")
    assert await segments.create_series(topic, "none")
    await add_row(db, topic, 0, [b"x"], series=topic)
    async with open_select(pg_dsn, "kafka.log_0"), writer(pg_dsn, other) as took:
        with pytest.raises(asyncpg.LockNotAvailableError):
            # The leaf is emptied; detaching has to wait for transactions that have used kafka.log.
            async with open_select(pg_dsn, "kafka.topics"), open_select(pg_dsn, "kafka.log WHERE series = 0"):
                await segments.drop_series(topic)
    assert max(took) < SOON_S / 2
    assert await db.fetchval("SELECT state FROM kafka.segments WHERE series = $1", topic) == "freed"
    assert await db.fetchval(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = $1::text::regclass", f"kafka.log_{topic}"
    )

    await segments.drop_series(topic)

    assert await tables(db, "kafka.log") == ["kafka.log_0"]
    assert await db.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE $1", f"log_{topic}%") == 0
    assert await db.fetchval("SELECT count(*) FROM kafka.series") == 1


async def test_an_unfinished_detaching_does_not_block_others(
    db: asyncpg.Connection, segments: Segments, pg_dsn: str
) -> None:
    first, second = await add_topic(db, "first"), await add_topic(db, "second")
    for topic in (first, second):
        assert await segments.create_series(topic, "none")
    async with open_select(pg_dsn, "kafka.log WHERE series = 0"):
        with pytest.raises(asyncpg.LockNotAvailableError):
            await segments.drop_series(first)
    await segments.drop_series(second)
    await segments.drop_series(first)
    assert await tables(db, "kafka.log") == ["kafka.log_0"]


class Killed(Exception):
    pass


class MortalConnection:
    """Lets through a number of statements and then dies, as a process does under kill -9."""

    def __init__(self, connection: asyncpg.Connection, lives: int) -> None:
        self._connection = connection
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connection, name)
        if name not in ("execute", "fetch", "fetchval", "fetchrow"):
            return attribute

        async def call(*arguments: Any) -> Any:
            if self._lives == 0:
                self._connection.terminate()
                raise Killed
            self._lives -= 1
            return await attribute(*arguments)

        return call


async def survive_every_kill(dsn: str, work: Callable[[Segments], Awaitable[object]]) -> int:
    """Do the work on sessions that die after 0, 1, 2 ... statements until one lives long enough; returns how many died."""
    for lives in range(200):
        connection = await asyncpg.connect(dsn)
        try:
            await work(Segments(MortalConnection(connection, lives)))  # type: ignore[arg-type]
            return lives
        except (Killed, asyncpg.InterfaceError):
            # The server ends the dead session's transaction a moment later.
            await asyncio.sleep(0.01)
        finally:
            connection.terminate()
    raise AssertionError("never done")


async def test_killed_after_each_statement_it_ends_the_same(db: asyncpg.Connection, pg_dsn: str) -> None:
    topic = await add_topic(db, "t")

    async def live_and_die(segments: Segments) -> None:
        assert await segments.create_series(topic, "none")
        await segments.roll(topic, 0, "none")
        await segments.seal(topic, 0)
        await segments.freeze(topic, 0)

    assert await survive_every_kill(pg_dsn, live_and_die) > 5
    states = await db.fetch("SELECT segment, state FROM kafka.segments WHERE series = $1 ORDER BY segment", topic)
    assert [tuple(row) for row in states] == [(0, "frozen"), (1, "active")]
    await add_row(db, topic, 0, [b"x"], series=topic, segment=1)

    assert await survive_every_kill(pg_dsn, lambda segments: segments.drop_series(topic)) > 5
    assert await tables(db, "kafka.log") == ["kafka.log_0"]
    assert await db.fetchval("SELECT count(*) FROM kafka.segments") == 1
