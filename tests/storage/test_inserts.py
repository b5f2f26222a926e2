"""A row that comes alone is inserted by a prepared statement: written once, refused alone, and found out about when in doubt."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.crash.proxy import Proxy, Trap
from tests.postgres import Database, PostgresServer
from tests.storage.leader import leading
from tests.wire_batches import batch, records, values

from pg_kafka.storage import exchange, sessions
from pg_kafka.storage.groups import GroupStore, OffsetWrite
from pg_kafka.storage.prepared import SLOTS
from pg_kafka.storage.segments import Segments
from pg_kafka.storage.sessions import Session
from pg_kafka.wire.error_codes import ErrorCode

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
INTO_A = "INSERT INTO a VALUES ($1)"
INTO_B = "INSERT INTO b VALUES ($1)"


@pytest.fixture
async def session(pg_database: Database) -> AsyncIterator[Session]:
    session = await sessions.connect(pg_database.dsn, "test")
    await session.connection.execute(
        "SET search_path = public;"
        "CREATE TABLE a (n bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE b (n bigint CHECK (n < 100))"
    )
    yield session
    await session.close()


def row(number: int) -> bytes:
    return struct.pack(">hiq", 1, 8, number)


async def insert(session: Session, statement: str, data: bytes) -> bool:
    """Whether the statement had been parsed before."""
    slot = session.prepared.take(statement) or session.prepared.take(statement)
    assert slot is not None
    is_parsed = slot.is_parsed
    await exchange.insert(session, statement, slot, data)
    return is_parsed


async def stored(session: Session, table: str) -> list[int]:
    return [row["n"] for row in await session.connection.fetch(f"SELECT n FROM {table} ORDER BY n")]


async def prepared(session: Session) -> list[tuple[str, int, int]]:
    """Our statements on the server, with how often they were planned for all values and for single ones."""
    found = await session.connection.fetch(
        "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements "
        "WHERE name LIKE 'pg\\_kafka%' AND NOT from_sql"
    )
    return [tuple(one) for one in found]


@BOTH_SERVERS
async def test_each_row_is_a_transaction_and_is_planned_once(session: Session) -> None:
    assert [await insert(session, INTO_A, row(number)) for number in range(3)] == [False, True, True]
    assert [await insert(session, INTO_B, row(number)) for number in range(2)] == [False, True]
    assert (await stored(session, "a"), await stored(session, "b")) == ([0, 1, 2], [0, 1])
    assert not session.connection.is_in_transaction()
    assert sorted(await prepared(session)) == [(INTO_A, 3, 0), (INTO_B, 2, 0)]
    assert await session.connection.fetchval("SELECT count(DISTINCT xmin::text) FROM a") == 3


async def test_refused_row_leaves_nothing_behind_and_the_next_is_taken(session: Session) -> None:
    for expected in (False, True):
        with pytest.raises(asyncpg.CheckViolationError):
            await insert(session, INTO_B, row(100))
        with pytest.raises(asyncpg.PostgresError):  # not a bigint
            await insert(session, INTO_B, struct.pack(">hii", 1, 4, 1))
        assert await insert(session, INTO_B, row(1)) is expected
    assert await stored(session, "b") == [1, 1]
    assert len(await prepared(session)) == 1


async def test_row_that_is_refused_at_the_commit_is_refused(session: Session) -> None:
    """CommandComplete comes before the commit."""
    await insert(session, INTO_A, row(1))
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(session, INTO_A, row(1))
    assert await stored(session, "a") == [1]


async def test_statement_that_could_not_be_parsed_is_parsed_again(session: Session) -> None:
    statement = "INSERT INTO later VALUES ($1)"
    for _ in range(2):
        with pytest.raises(asyncpg.UndefinedTableError):
            await insert(session, statement, row(1))
    await session.connection.execute("CREATE TABLE later (n bigint)")
    assert [await insert(session, statement, row(number)) for number in range(2)] == [False, True]
    assert await stored(session, "later") == [0, 1]


async def test_no_more_statements_than_slots_whatever_failed(session: Session) -> None:
    for number in range(2 * SLOTS + 3):
        await session.connection.execute(f"CREATE TABLE t{number} (n bigint CHECK (n < 100))")
        statement = f"INSERT INTO t{number} VALUES ($1)"
        if number % 3 == 0:
            with pytest.raises(asyncpg.CheckViolationError):
                await insert(session, statement, row(100))
        if number % 3 < 2:
            await insert(session, statement, row(1))
    assert SLOTS / 2 < len(await prepared(session)) <= SLOTS
    assert await insert(session, INTO_B, row(1)) is False
    assert len(await prepared(session)) <= SLOTS


@BOTH_SERVERS
async def test_what_changes_at_a_table_is_seen(session: Session) -> None:
    for number in range(2):
        await insert(session, INTO_B, row(number))
    await session.connection.execute("ALTER TABLE b ADD CHECK (n <> 7); CREATE INDEX ON b (n); ANALYZE b")
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(session, INTO_B, row(7))
    assert await insert(session, INTO_B, row(8)) is True
    assert await stored(session, "b") == [0, 1, 8]


@pytest.mark.parametrize("is_parsed", [False, True])
async def test_warnings_of_the_commit_reach_the_session(session: Session, is_parsed: bool) -> None:
    """As that of a cancelled wait for a synchronous standby, which comes behind CommandComplete as well."""
    await session.connection.execute(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.n = 2 THEN RAISE WARNING 'stands on this server only'; END IF; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON b DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn()"
    )
    if is_parsed:
        await insert(session, INTO_B, row(1))
    assert not session.commit_in_doubt
    assert await insert(session, INTO_B, row(2)) is is_parsed
    assert session.commit_in_doubt


async def test_terminated_backend_is_a_lost_connection(session: Session, pg_database: Database) -> None:
    async with sessions.opened(pg_database.dsn, "killer") as killer, killer.transaction():
        await insert(session, INTO_A, row(1))
        await killer.execute("LOCK TABLE public.a")
        blocked = asyncio.create_task(insert(session, INTO_A, row(2)))
        await until_it_waits(killer, session)
        await killer.fetchval("SELECT pg_terminate_backend($1)", session.identity.pid)
        with pytest.raises(asyncpg.AdminShutdownError):
            await blocked
        assert session.is_closed
        assert await killer.fetchval("SELECT count(*) FROM public.a") == 1


async def test_cancelled_wait_closes_the_connection(session: Session, pg_database: Database) -> None:
    async with sessions.opened(pg_database.dsn, "other") as other, other.transaction():
        await other.execute("LOCK TABLE public.a")
        wait = asyncio.create_task(insert(session, INTO_A, row(1)))
        await until_it_waits(other, session)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert session.is_closed


async def until_it_waits(connection: asyncpg.Connection, session: Session) -> None:
    while not await connection.fetchval(  # noqa: ASYNC110 - the server tells nobody
        "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'", session.identity.pid
    ):
        await asyncio.sleep(0.01)


ANSWER = b"12C312CZ"


@pytest.mark.parametrize("answers", range(len(ANSWER)))
async def test_connection_lost_behind_each_message_of_the_answer(
    session: Session, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    """Nothing but ReadyForQuery, the last, says that the row is there."""
    await exchange.run(session, "SELECT 1", [], 10)
    received, taken = type(session.switch).data_received, bytearray()

    def cut(switch: Any, data: bytes) -> None:
        taken.extend(data)
        while len(taken) >= 5 and len(taken) > (end := int.from_bytes(taken[1:5], "big")):
            message = bytes(taken[: end + 1])
            del taken[: end + 1]
            kinds.append(message[:1])
            if len(kinds) > answers:
                switch.transport.abort()
                return
            received(switch, message)

    kinds: list[bytes] = []
    monkeypatch.setattr(type(session.switch), "data_received", cut)
    with pytest.raises(ConnectionError):
        await insert(session, INTO_A, row(1))
    monkeypatch.undo()
    assert b"".join(kinds) == ANSWER[: answers + 1]
    assert session.is_closed


# -- through a lane --------------------------------------------------------------------------------------------------


@pytest.fixture
def inserted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that got rows one by one."""
    tables: list[str] = []
    original = exchange.insert

    async def watched(session: Any, statement: str, slot: Any, data: bytes) -> None:
        found = re.match(r'INSERT INTO kafka\."(\w+)"', statement)
        assert found is not None
        tables.append(found[1])
        await original(session, statement, slot, data)

    monkeypatch.setattr(exchange, "insert", watched)
    return tables


@BOTH_SERVERS
async def test_lone_batches_are_inserted_and_read_like_others(pg_dsn: str, inserted: list[str]) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        sent = [[b"%d" % number, b"x" * 50_000 * (number % 3)] for number in range(8)]
        for number, texts in enumerate(sent):
            assert (await leader.append(partition, batch(values(*texts)))).base_offset == 2 * number
        assert (
            inserted == ["log_0_0"] * 6
        )  # the first comes with its extent, and the second one shows that there is more
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        found = records(await leader.log.read(partition, 0, 1 << 20))
        assert [value for _, _, value in found] == [text for texts in sent for text in texts]
        connection = await asyncpg.connect(pg_dsn)
        assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM kafka.log_0_0") == 8
        await connection.close()


async def test_lone_batch_that_is_refused_fails_alone(pg_dsn: str, inserted: list[str]) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        good, bad = [await leader.partition(topic, index) for index in range(2)]
        for partition in (good, bad):
            assert (await leader.append(partition, batch(values(b"a")))).base_offset == 0
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("ALTER TABLE kafka.log_0_0 ADD CONSTRAINT refuse CHECK (partition <> 1) NOT VALID")
        for number in range(1, 4):
            refused = await leader.append(bad, batch(values(b"b")))
            assert refused.error == ErrorCode.UNKNOWN_SERVER_ERROR and "refuse" in (refused.message or "")
            assert (await leader.append(good, batch(values(b"b")))).base_offset == number
        await connection.execute("ALTER TABLE kafka.log_0_0 DROP CONSTRAINT refuse")
        await connection.close()
        assert (await leader.append(bad, batch(values(b"c")))).base_offset == 1
        assert inserted == ["log_0_0"] * 6


async def test_lone_batches_go_to_the_segment_that_is_active(pg_dsn: str, inserted: list[str]) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        connection = await asyncpg.connect(pg_dsn)
        offset = 0
        for segment in range(3):
            if segment:
                assert await Segments(connection).roll(0, segment - 1, "none") == segment
                await leader.log.switch_segment(0, segment)
            for _ in range(4):
                assert (await leader.append(partition, batch(values(b"%d" % offset)))).base_offset == offset
                offset += 1
        await connection.close()
        assert inserted == [f"log_0_{segment}" for segment in range(3) for _ in range(2)]
        found = [records(await leader.log.read(partition, start, 1 << 20)) for start in (0, 4, 8)]
        assert [offset for each in found for offset, _, _ in each] == list(range(12))


@BOTH_SERVERS
async def test_lone_commits_of_groups_are_inserted(pg_dsn: str, inserted: list[str]) -> None:
    async with leading(pg_dsn) as leader:
        store = GroupStore(leader.log, leader.control)
        topic = await leader.topic("t", 2)

        async def commit(group: str, *offsets: int) -> Any:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            store.write(group, (), [OffsetWrite(topic.id, p, o) for p, o in enumerate(offsets)], (), answer.set_result)
            return await asyncio.wait_for(answer, 20)

        for number in range(4):
            assert await commit("g", number) is None
        assert await commit("h", 1, 2) is None
        assert inserted == ["offset_journal_0"] * 3
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("ALTER TABLE kafka.offset_journal_0 ADD CHECK (group_id <> 'bad') NOT VALID")
        error = await commit("bad", 1)
        assert error is not None and not error.retriable
        assert await commit("g", 9) is None
        await connection.close()
        _, offsets = await store.load()
        assert sorted((each.group_id, each.partition, each.offset) for each in offsets) == [
            ("g", 0, 9),
            ("h", 0, 1),
            ("h", 1, 2),
        ]


@pytest.mark.parametrize("trap", list(Trap))
async def test_connection_lost_around_a_lone_insert(
    postgres_server: PostgresServer, pg_database: Database, trap: Trap
) -> None:
    """The outcome is read back: what is acknowledged is there once, what is not there was not acknowledged."""
    proxy = Proxy(("127.0.0.1", postgres_server.port))
    await proxy.start()
    name, password = pg_database.name, postgres_server.password
    try:
        async with leading(f"postgresql://{name}:{password}@127.0.0.1:{proxy.port}/{name}?sslmode=disable") as leader:
            topic = await leader.topic("t")
            for number in range(4):
                result = await leader.append(await leader.partition(topic), batch(values(b"%d" % number)))
                assert result.base_offset == number
            proxy.set_trap(trap, late_s=0.2)
            result = await leader.append(await leader.partition(topic), batch(values(b"doubtful")))
            assert proxy.sprung.is_set()
            if trap is Trap.ANSWER_LOST:
                assert (result.error, result.base_offset) == (0, 4)
            else:
                assert result.error in (0, ErrorCode.KAFKA_STORAGE_ERROR)
            expected = [b"0", b"1", b"2", b"3"] + [b"doubtful"] * (result.error == 0)
            found = records(await leader.log.read(await leader.partition(topic), 0, 1 << 20))
            assert [value for _, _, value in found] == expected
            last = await leader.append(await leader.partition(topic), batch(values(b"last")))
            assert last.base_offset == len(expected)
    finally:
        await proxy.stop()
