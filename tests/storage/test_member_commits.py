"""The tables behind kafka.commit_offsets(): they take turns, and nothing in them goes before it has been taken over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.log_rows import add_topic, connect_migrated

from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.member_commits import SQL, MemberCommits
from pg_kafka.storage.sessions import connect
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.member_commits import TurnMemberCommits

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def other(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def commits(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[MemberCommits]:
    session = ControlSession(lambda kind: connect(pg_dsn, kind))
    yield MemberCommits(session)
    await session.close()


@pytest.fixture
async def janitor(pg_dsn: str, db: asyncpg.Connection) -> AsyncIterator[Janitor]:
    """Not started: tests take the steps."""

    class Lanes: ...

    made = janitor_of(pg_dsn, Lanes(), owner=1, snapshot_grace_s=0.0)  # type: ignore[arg-type]
    await made._connect()
    yield made
    made._site.drop()


async def commit(db: asyncpg.Connection, offset: int, topic: str = "orders", group: str = "g") -> None:
    named = json.dumps({topic: {"0": offset}})
    await db.execute("SELECT kafka.commit_offsets($1, NULL, -1, $2::text::jsonb)", group, named)


async def take_over(db: asyncpg.Connection, topic: int, number: int, key: str | None = None, group: str = "g") -> None:
    """What a broker writes beside the offset that it takes over."""
    await db.execute(
        "INSERT INTO kafka.group_journal_0 (entry, group_id, kind, key, value)"
        " VALUES (nextval('kafka.journal_entries'), $1, 'sql commits', $2, jsonb_build_object('id', $3::bigint))",
        group,
        f"{topic}-0" if key is None else key,
        number,
    )


async def look(job: TurnMemberCommits) -> None:
    job._looks_at = float("-inf")
    assert await job.step() is False


async def rows(db: asyncpg.Connection) -> list[int]:
    counts = "SELECT (SELECT count(*) FROM kafka.member_commits_0), (SELECT count(*) FROM kafka.member_commits_1)"
    return list((await db.fetch(counts))[0])


async def test_a_look_finds_each_commit_once_in_whatever_order_they_end(
    db: asyncpg.Connection, other: asyncpg.Connection, commits: MemberCommits
) -> None:
    await add_topic(db, "orders")
    await add_topic(db, "others")
    found, snapshot = await commits.news(None)
    assert found == []
    async with other.transaction():
        await commit(other, 1, topic="others")
        await commit(db, 2)
        found, snapshot = await commits.news(snapshot)
        assert [c.offset for c in found] == [2]
        await commit(db, 3)
    found, snapshot = await commits.news(snapshot)
    assert sorted(c.offset for c in found) == [1, 3]
    found, snapshot = await commits.news(snapshot)
    assert found == []
    found, _ = await commits.news(None)
    assert sorted(c.offset for c in found) == [1, 3], "of each partition the last one"


async def test_a_look_tells_what_is_under_way(
    db: asyncpg.Connection, other: asyncpg.Connection, commits: MemberCommits
) -> None:
    topic = await add_topic(db, "orders")
    places = [("g", topic, 0), ("g", topic, 1), ("h", topic, 0)]
    assert (await commits.look(places, ["g"])) == ({}, {}, True)
    async with other.transaction():
        await commit(other, 1)
        assert (await commits.look(places, [])).busy == {("g", topic, 0): other.get_server_pid()}
    assert (await commits.look(places, [])).busy == {}


async def test_a_table_is_emptied_when_all_of_it_is_taken_over(db: asyncpg.Connection, janitor: Janitor) -> None:
    topic = await add_topic(db, "orders")
    job = TurnMemberCommits(janitor._site, table_bytes=1)
    await commit(db, 1)
    await commit(db, 2)
    await look(job)
    await commit(db, 3)
    assert await rows(db) == [2, 1], "the other table is written"
    await look(job)
    assert await rows(db) == [2, 1], "no broker has taken them over"
    await take_over(db, topic, 1)
    await look(job)
    assert await rows(db) == [2, 1]
    await take_over(db, topic, 2)
    await look(job)
    assert await rows(db) == [0, 1]
    await look(job)
    await commit(db, 4)
    assert await rows(db) == [1, 1]


async def test_commits_of_deleted_groups_and_topics_keep_no_table(db: asyncpg.Connection, janitor: Janitor) -> None:
    await add_topic(db, "orders")
    await add_topic(db, "gone")
    job = TurnMemberCommits(janitor._site, table_bytes=1)
    await commit(db, 1)
    await commit(db, 2, topic="gone", group="h")
    await look(job)
    await db.execute("DELETE FROM kafka.topics WHERE name = 'gone'")
    await take_over(db, 0, 1, key="")
    await look(job)
    assert await rows(db) == [0, 0]


async def test_a_transaction_that_stays_open_keeps_only_its_own_table(
    db: asyncpg.Connection, other: asyncpg.Connection, janitor: Janitor, commits: MemberCommits
) -> None:
    topic = await add_topic(db, "orders")
    await add_topic(db, "others")
    job = TurnMemberCommits(janitor._site, table_bytes=1)
    async with other.transaction():
        await commit(other, 1, topic="others")
        await commit(db, 2)
        await take_over(db, topic, 2)
        await look(job)
        await look(job)
        assert await rows(db) == [1, 0], "the full one waits for it"
        await commit(db, 3)
        assert await rows(db) == [1, 1], "and nobody waits for that"
    assert sorted(c.offset for c in (await commits.news(None))[0]) == [1, 3]


async def test_looks_use_the_index_under_a_held_snapshot(
    db: asyncpg.Connection, other: asyncpg.Connection, commits: MemberCommits
) -> None:
    """A pass beside an old transaction reads what is new, and not what has come since that began."""
    await add_topic(db, "orders")
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("SELECT pg_current_xact_id()")
        for n in range(500):
            await commit(db, n)
        await db.execute("ANALYZE kafka.member_commits_0")
        _, snapshot = await commits.news(None)
        await commit(db, 1_000)
        query = SQL["news"].replace("$1", f"'{snapshot}'")
        plan = json.loads(await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}"))
        assert plan[0]["Plan"]["Actual Rows"] == 1
        assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 20
