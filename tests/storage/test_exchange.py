"""Queries and COPY data that go out at once mean what they mean one after the other."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from tests.postgres import Database

from pg_kafka.storage import exchange, sessions
from pg_kafka.storage.sessions import Session

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
INTO_A = "COPY a FROM STDIN (FORMAT binary)"
INTO_B = "COPY b FROM STDIN (FORMAT binary)"


def rows(*numbers: int) -> list[bytes]:
    return [HEADER, *(struct.pack(">hiq", 1, 8, number) for number in numbers), TRAILER]


@pytest.fixture
async def session(pg_database: Database) -> AsyncIterator[Session]:
    session = await sessions.connect(pg_database.dsn, "test")
    await session.connection.execute(
        "SET search_path = public; CREATE TABLE a (n bigint PRIMARY KEY); CREATE TABLE b (n bigint CHECK (n < 100))"
    )
    yield session
    await session.close()


async def stored(session: Session, table: str) -> list[int]:
    return [row["n"] for row in await session.connection.fetch(f"SELECT n FROM {table} ORDER BY n")]


async def test_several_copies_are_one_transaction(session: Session) -> None:
    assert await exchange.run(session, f"{INTO_A}; {INTO_B}", [rows(1, 2), rows(3)], 10) == ["COPY 2", "COPY 1"]
    assert (await stored(session, "a"), await stored(session, "b")) == ([1, 2], [3])
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await exchange.run(session, f"{INTO_A}; {INTO_B}", [rows(4), rows(5, 100)], 10)
    assert "line 2" in caught.value.context
    assert (await stored(session, "a"), await stored(session, "b")) == ([1, 2], [3])


async def test_data_behind_a_refused_copy_is_ignored(session: Session) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await exchange.run(session, f"{INTO_A}; {INTO_B}", [rows(1, 1, *range(2, 50_000)), rows(5)], 10)
    with pytest.raises(asyncpg.UndefinedTableError):
        await exchange.run(session, "COPY nothing FROM STDIN (FORMAT binary)", [rows(*range(100_000))], 10)
    assert (await stored(session, "a"), await stored(session, "b")) == ([], [])


async def test_the_driver_goes_on_afterwards_within_its_transaction(session: Session) -> None:
    await session.connection.execute("BEGIN")
    await exchange.run(session, INTO_A, [rows(1)], 10)
    await session.connection.execute("ROLLBACK")
    await session.connection.execute("BEGIN")
    await exchange.run(session, INTO_A, [rows(2)], 10)
    with pytest.raises(asyncpg.UniqueViolationError):
        await exchange.run(session, INTO_A, [rows(2)], 10)
    assert session.connection.is_in_transaction()
    await session.connection.execute("ROLLBACK")
    await exchange.run(session, INTO_A, [rows(3)], 10)
    assert await stored(session, "a") == [3]


async def test_much_data_arrives_whole(session: Session) -> None:
    await exchange.run(session, INTO_A, [rows(*range(300_000))], 30)
    assert await session.connection.fetchval("SELECT count(*) = 300000 AND sum(n) = 44999850000 FROM a")


async def test_warnings_reach_the_session(session: Session) -> None:
    assert not session.commit_in_doubt
    await exchange.run(session, "DO $$ BEGIN RAISE WARNING 'stands on this server only'; END $$", [], 10)
    assert session.commit_in_doubt


async def test_a_terminated_backend_is_a_lost_connection(session: Session, pg_database: Database) -> None:
    async with sessions.opened(pg_database.dsn, "killer") as killer:
        blocked = asyncio.create_task(exchange.run(session, f"SELECT pg_sleep(60); {INTO_A}", [rows(1)], None))
        while not await killer.fetchval(  # noqa: ASYNC110 - the server tells nobody
            "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", session.identity.pid
        ):
            await asyncio.sleep(0.01)
        await killer.fetchval("SELECT pg_terminate_backend($1)", session.identity.pid)
        with pytest.raises(asyncpg.AdminShutdownError):
            await blocked
        assert session.is_closed
        with pytest.raises(asyncpg.InterfaceError):
            await exchange.run(session, INTO_A, [rows(1)], 10)
        assert await killer.fetchval("SELECT count(*) FROM public.a") == 0


async def test_a_deadline_and_a_cancelled_wait_close_the_connection(session: Session, pg_database: Database) -> None:
    with pytest.raises(TimeoutError):
        await exchange.run(session, "SELECT pg_sleep(60)", [], 0.05)
    assert session.is_closed
    other = await sessions.connect(pg_database.dsn, "test")
    wait = asyncio.create_task(exchange.run(other, "SELECT pg_sleep(60)", [], None))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert other.is_closed


async def test_what_the_server_says_right_behind_an_answer_is_the_drivers(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that a reload has changed, in two pieces, the first of which comes with the answer."""
    news = b"S" + struct.pack(">i", 4 + 9 + 11) + b"TimeZone\0Asia/Tokyo\0"
    await exchange.run(session, "SELECT 1", [], 10)
    switch = session.switch
    received = type(switch).data_received

    def with_news(self: object, data: bytes) -> None:
        monkeypatch.setattr(type(switch), "data_received", received)
        received(switch, data + news[:7])
        received(switch, news[7:])

    monkeypatch.setattr(type(switch), "data_received", with_news)
    assert await exchange.run(session, "SELECT 1", [], 10) == ["SELECT 1"]
    assert session.connection.get_settings().TimeZone == "Asia/Tokyo"
    assert await session.connection.fetchval("SELECT 2") == 2


async def test_pieces_are_made_as_the_server_reads(session: Session) -> None:
    """No more than a few are in memory at a time, however slow the server is."""
    made, progress = 0, asyncio.Event()

    def pieces() -> Iterator[bytes]:
        nonlocal made
        yield HEADER
        for number in range(200):
            made += 1
            yield b"".join(rows(*range(number * 5_000, (number + 1) * 5_000))[1:-1])
        yield TRAILER

    query = "BEGIN; SELECT pg_sleep(1); COPY a FROM STDIN (FORMAT binary); COMMIT"
    run = asyncio.create_task(exchange.run(session, query, [pieces()], 20, progress.set))
    await asyncio.wait_for(progress.wait(), 20)
    await asyncio.sleep(0.3)
    assert made < 100
    assert await run == ["BEGIN", "SELECT 1", "COPY 1000000", "COMMIT"]
    assert made == 200
    assert await session.connection.fetchrow("SELECT min(n), max(n) FROM a") == (0, 999_999)


async def test_no_more_pieces_are_made_after_a_refusal(session: Session) -> None:
    made = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(100_000)

    with pytest.raises(asyncpg.UndefinedTableError):
        await exchange.run(session, "COPY nothing FROM STDIN", [pieces()], 20, lambda: None)
    assert made > 0
    assert await exchange.run(session, "SELECT 1", [], 10) == ["SELECT 1"]


async def test_connection_lost_between_two_pieces(session: Session) -> None:
    progress = asyncio.Event()
    query = f"SELECT pg_sleep(60); {INTO_A}"
    run = asyncio.create_task(exchange.run(session, query, [rows(*range(500_000))], 20, progress.set))
    await asyncio.wait_for(progress.wait(), 20)
    session.drop()
    with pytest.raises((ConnectionError, asyncpg.InterfaceError)):
        await asyncio.wait_for(run, 20)
