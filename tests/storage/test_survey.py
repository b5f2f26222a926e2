"""The survey's figures are those of the database, and a look that cannot be had keeps those of before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from tests.storage.compactor import compact, give_series
from tests.storage.leader import Leader, leading
from tests.storage.test_compaction import COMPACT, pairs
from tests.storage.test_counts import told
from tests.wire_batches import batch, values

from pg_kafka.clock import Clock
from pg_kafka.storage.counts import SurveyCounts
from pg_kafka.storage.survey import Findings, Survey

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


def survey_of(leader: Leader, counts: SurveyCounts | None = None, *, timeout_s: float = 20.0) -> Survey:
    times = {"interval_s": 0.01, "timeout_s": timeout_s, "pause_factor": 0.0}
    return Survey(leader.dsn, leader.topics, Clock(), counts, **times)


@contextlib.asynccontextmanager
async def looking(survey: Survey) -> AsyncIterator[None]:
    task = asyncio.create_task(survey.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a survey tells nobody
            await asyncio.sleep(0.01)


@BOTH
async def test_sizes_and_segments_are_the_database_s(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await give_series(leader, topic)
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(*[bytes(100_000)] * 5)))
        gone = await leader.topic("gone")
        await leader.topics.delete([gone])
        found = await survey_of(leader)._look()
        leaves = ["log_0_0", f"log_{topic.id}_0"]
        size = "SELECT sum(pg_total_relation_size(format('kafka.%I', t)::regclass)) FROM unnest($1::text[]) AS t"
        assert found.table_bytes["log"] == await db.fetchval(size, leaves)
        journals = [
            f"{kind}_journal_{n}" for kind in ("offset", "group", "history", "transaction", "relay") for n in (0, 1)
        ]
        assert found.table_bytes["journals"] == await db.fetchval(size, journals) == sum(found.journal_bytes.values())
        assert found.journal_bytes["offsets"] == await db.fetchval(size, journals[:2])
        assert set(found.journal_bytes) == {"offsets", "groups", "history", "transactions", "relay"}
        assert found.table_bytes["other"] > 0
        assert found.segments == {"active": 2}
        assert found.deleted_topics == 1
        assert found.database_bytes >= sum(found.table_bytes.values())
        assert 0 < found.connections <= found.max_connections
        assert found.xid_age > 0
        assert (found.slot_xid_age, found.slot_bytes) == (0, 0)
        assert (found.compacted_bytes, found.dirty_bytes, found.max_dirty_ratio) == (0, 0, 0.0)


async def test_held_snapshot_is_seen_for_as_long_as_it_is_held(pg_dsn: str, db: asyncpg.Connection) -> None:
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader)
        async with db.transaction(isolation="repeatable_read"):
            began = await db.fetchval("SELECT now()")
            await db.fetchval("SELECT pg_sleep(0.3)")
            held = (await survey._look()).snapshot_s["session"]
            age = await db.fetchval("SELECT extract(epoch FROM clock_timestamp() - $1::timestamptz)::float8", began)
            assert 0.3 <= held <= age
        assert (await survey._look()).snapshot_s["session"] < held


async def test_prepared_transaction_is_seen(make_postgres: Callable[..., object]) -> None:
    server = make_postgres("postgresql-15", settings={"max_prepared_transactions": "5"})
    database = server.create_database()  # type: ignore[attr-defined]
    db = await asyncpg.connect(database.dsn)
    async with leading(database.dsn) as leader:
        survey = survey_of(leader)
        assert (await survey._look()).snapshot_s["prepared transaction"] == 0
        await db.execute("BEGIN; CREATE TABLE public.t (a int); PREPARE TRANSACTION 'forgotten'")
        await db.fetchval("SELECT pg_sleep(0.2)")
        assert (await survey._look()).snapshot_s["prepared transaction"] >= 0.2
        await db.execute("ROLLBACK PREPARED 'forgotten'")
        assert (await survey._look()).snapshot_s["prepared transaction"] == 0
    await db.close()


async def test_slot_that_keeps_wal_is_seen(make_postgres: Callable[..., object]) -> None:
    server = make_postgres("postgresql-15", settings={"wal_level": "replica"})
    database = server.create_database()  # type: ignore[attr-defined]
    superuser = await asyncpg.connect(database.superuser_dsn)
    await superuser.execute("SELECT pg_create_physical_replication_slot('standby', true)")
    try:
        async with leading(database.dsn) as leader:
            partition = await leader.partition(await leader.topic("t"))
            await leader.append(partition, batch(values(bytes(1_000_000))))
            assert (await survey_of(leader)._look()).slot_bytes >= 100_000
    finally:
        await superuser.execute("SELECT pg_drop_replication_slot('standby')")
        await superuser.close()


async def test_what_is_to_be_compacted_is_counted_in_bytes(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader)
        topic = await leader.topic("t", **COMPACT)
        await leader.topic("other")
        partition = await leader.partition(topic)
        for texts in (("a=1", "b=1"), ("a=2", "b=2")):
            assert (await leader.append(partition, pairs(*texts))).error == 0
        await leader.log.write_checkpoints([(topic.id, 0)])
        await until(lambda: leader.counts.lane(0).checkpoints)
        found = await survey._look()
        assert found.dirty_bytes == found.compacted_bytes > 0
        assert found.max_dirty_ratio == 1.0
        await compact(leader)
        await leader.log.write_checkpoints([(topic.id, 0)])
        checkpoints = leader.counts.lane(0).checkpoints
        await until(lambda: leader.counts.lane(0).checkpoints > checkpoints)
        found = await survey._look()
        assert found.compacted_bytes > 0
        assert (found.dirty_bytes, found.max_dirty_ratio) == (0, 0.0)


async def test_nobody_looks_while_nobody_asks(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader)
        looks = 0

        async def look() -> Findings:
            nonlocal looks
            looks += 1
            return Findings(connections=looks)

        survey._look = look  # type: ignore[method-assign]
        assert told(survey.families()) == {}
        async with looking(survey):
            await until(lambda: looks == 1)
            await asyncio.sleep(0.1)
            assert looks == 1
            found = told(survey.families())
            assert found["pg_kafka_postgres_connections",] == 1
            assert found["pg_kafka_survey_age_seconds",] >= 0
            await until(lambda: looks == 2)


async def test_look_that_takes_too_long_is_given_up_and_counted(pg_dsn: str, db: asyncpg.Connection) -> None:
    counts = SurveyCounts()
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader, counts, timeout_s=0.5)
        async with looking(survey):
            await until(lambda: survey.findings)
            before = survey.findings
            async with db.transaction():
                await db.execute("LOCK TABLE kafka.segments IN ACCESS EXCLUSIVE MODE")
                told(survey.families())
                await until(lambda: counts.failures)
            assert survey.findings is before
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_kafka survey'"
            assert await db.fetchval(f"{waiting} AND wait_event_type = 'Lock'") == 0
            told(survey.families())
            await until(lambda: survey.findings is not before)


async def test_look_without_a_database_fails_and_the_next_one_finds_it_again(pg_dsn: str) -> None:
    counts = SurveyCounts()
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader, counts)
        survey._dsn = "postgresql://nobody@127.0.0.1:1/nowhere"
        async with looking(survey):
            await until(lambda: counts.failures)
            assert told(survey.families()) == {}
            survey._dsn = pg_dsn
            await until(lambda: survey.findings)


async def test_each_family_has_the_labels_of_the_catalogue(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        survey = survey_of(leader)
        async with looking(survey):
            await until(lambda: survey.findings)
            found = told(survey.families())
        assert found["pg_kafka_segments", "active"] == 1
        assert found["pg_kafka_table_bytes", "log"] > 0
        assert found["pg_kafka_journal_bytes", "offsets"] > 0
        assert found["pg_kafka_oldest_snapshot_seconds", "prepared transaction"] == 0
