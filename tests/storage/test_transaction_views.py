"""What SQL users see of transactions: committed data in messages and the topics' views, everything in all_messages."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated
from tests.storage.test_groups_store import Rotating, query, until
from tests.storage.test_transactions_log import end, marker, transactional

from pg_kafka.coordinator.records import Record
from pg_kafka.errors import StorageError
from pg_kafka.storage.segments import Segments
from pg_kafka.storage.transactions import TransactionStore

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
STATE = {
    "producer_id": 7,
    "producer_epoch": 3,
    "state": "Ongoing",
    "timeout_ms": 60_000,
    "started_ms": 1_700_000_000_000,
    "partitions": [],
    "groups": [],
}


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


async def add_viewed_topic(db: asyncpg.Connection, name: str, partitions: int = 1) -> int:
    topic = await add_topic(db, name, partitions)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    return topic


async def add_transactional(
    db: asyncpg.Connection, topic: int, base: int, count: int, *producers: int, **place: int
) -> None:
    await add_row(db, topic, base, [b"x"] * count, is_transactional=True, producer_ids=producers, **place)


async def offsets(db: asyncpg.Connection, relation: str) -> list[int]:
    rows = await db.fetch(f"SELECT partition_offset FROM {relation} ORDER BY partition_id, partition_offset")
    return [row[0] for row in rows]


async def fates(db: asyncpg.Connection, topic: int) -> list[tuple[int, str | None, bool]]:
    rows = await db.fetch(
        "SELECT partition_offset, transaction, is_control FROM kafka.all_messages WHERE topic_id = $1 ORDER BY 1", topic
    )
    return [tuple(row) for row in rows]


async def record(
    db: asyncpg.Connection, entry: int, name: str, kind: str, key: str, value: Mapping[str, Any] | None, table: int = 0
) -> None:
    await db.execute(
        f"INSERT INTO kafka.transaction_journal_{table} (entry, transactional_id, kind, key, value) "
        "VALUES ($1, $2, $3, $4, $5)",
        entry,
        name,
        kind,
        key,
        None if value is None else json.dumps(value),
    )


@BOTH_SERVERS
async def test_only_committed_records_are_messages(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "t")
    await add_row(db, topic, 0, [b"plain"] * 2)
    await add_transactional(db, topic, 2, 2, 7)  # committed at 8
    await add_transactional(db, topic, 4, 2, 8, 8)  # aborted at 9; two batches share the row
    await add_row(db, topic, 6, [b"plain"], producer_ids=[7])  # idempotent, in no transaction
    await add_transactional(db, topic, 7, 1, 7)  # committed at 8
    assert await offsets(db, "topics.t") == [0, 1, 6]
    await add_marker(db, topic, 8, 7, is_commit=True)
    await add_marker(db, topic, 9, 8, is_commit=False)
    await add_transactional(db, topic, 10, 1, 8)  # committed at 12
    await add_transactional(db, topic, 11, 1, 7)  # open
    await add_marker(db, topic, 12, 8, is_commit=True)
    for relation in ("topics.t", "kafka.messages", "kafka.read('t', 0, 0, 100)"):
        assert await offsets(db, relation) == [0, 1, 2, 3, 6, 7, 10]
    assert await fates(db, topic) == [
        (0, None, False),
        (1, None, False),
        (2, "committed", False),
        (3, "committed", False),
        (4, "aborted", False),
        (5, "aborted", False),
        (6, None, False),
        (7, "committed", False),
        (8, "committed", True),
        (9, "aborted", True),
        (10, "committed", False),
        (11, "open", False),
        (12, "committed", True),
    ]
    producers = await db.fetch(
        "SELECT DISTINCT producer_id, producer_epoch FROM kafka.all_messages WHERE is_transactional ORDER BY 1"
    )
    assert [tuple(row) for row in producers] == [(7, 0), (8, 0)]


async def test_markers_of_other_partitions_and_topics_decide_nothing(db: asyncpg.Connection) -> None:
    topic, other = await add_viewed_topic(db, "t", 2), await add_viewed_topic(db, "other")
    for partition in (0, 1):
        await add_transactional(db, topic, 0, 1, 7, partition=partition)
    await add_marker(db, topic, 1, 7, is_commit=True, partition=1)
    await add_marker(db, other, 1, 7, is_commit=True)
    assert await offsets(db, "topics.t WHERE partition_id = 0") == []
    assert await offsets(db, "topics.t WHERE partition_id = 1") == [0]


@BOTH_SERVERS
async def test_a_marker_may_be_in_any_later_segment(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "t")
    segments = Segments(db)
    await segments.roll(0, 0, "none")
    await segments.create_series(topic, "none")
    await add_transactional(db, topic, 0, 1, 7)
    await add_transactional(db, topic, 1, 1, 8)
    await add_transactional(db, topic, 2, 1, 9, segment=1)
    await add_marker(db, topic, 3, 7, is_commit=True, segment=1)
    await add_marker(db, topic, 4, 8, is_commit=False, series=topic)
    await add_marker(db, topic, 5, 9, is_commit=True, series=topic)
    assert await offsets(db, "topics.t") == [0, 2]
    # The marker's segment may be gone, and moved elsewhere what was in it.
    await db.execute("UPDATE kafka.log SET segment = 1 WHERE segment = 0 AND series = 0")
    await segments.empty(topic, 0)
    assert await offsets(db, "topics.t") == [0, 2]


async def test_every_segment_knows_its_markers(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    segments = Segments(db)
    await segments.create_series(topic, "none")
    await segments.roll(topic, 0, "none")
    for segment in ("0_0", f"{topic}_0", f"{topic}_1"):
        index = await db.fetchval("SELECT pg_get_indexdef($1::regclass)", f"kafka.log_{segment}_markers")
        assert index.endswith("(topic, partition, producer_id, base_offset) WHERE is_control")
        trigger = "SELECT count(*) FROM pg_trigger WHERE tgname = 'note_marker' AND tgrelid = $1::regclass"
        assert await db.fetchval(trigger, f"kafka.log_{segment}") == 1


@BOTH_SERVERS
async def test_without_transactions_nothing_is_looked_up(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "t")
    for base in range(0, 200, 10):
        await add_row(db, topic, base, [b"x"] * 10)
    await db.execute("ANALYZE kafka.log_0_0")
    plan = "\n".join(row[0] for row in await db.fetch("EXPLAIN (ANALYZE, COSTS OFF) SELECT value FROM topics.t"))
    (look_up,) = re.findall(r".* on markers .*", plan)
    assert "never executed" in look_up
    # Nor does it plan for segments where a marker might be.
    assert re.findall(r" on (log_\d+_\d+)", plan) == ["log_0_0"]


@BOTH_SERVERS
async def test_select_on_a_topics_view_is_enough_and_tells_committed_records_only(
    db: asyncpg.Connection, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    topic = await add_viewed_topic(db, "t")
    await add_transactional(db, topic, 0, 1, 7)
    await add_transactional(db, topic, 1, 1, 8)
    await add_marker(db, topic, 2, 7, is_commit=True)
    await record(db, 1, "tx", "transaction", "", STATE)
    reader = postgres_server.create_database()
    await db.execute(f"GRANT USAGE ON SCHEMA kafka, topics TO {reader.name}")
    await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.read, kafka.locate TO {reader.name}")
    await db.execute(f"GRANT SELECT ON topics.t TO {reader.name}")
    other = await asyncpg.connect(pg_superuser_dsn)
    await other.execute(f"SET ROLE {reader.name}")
    assert await offsets(other, "topics.t") == [0]
    assert await offsets(other, "kafka.read('t', 0, 0, 9)") == [0]
    for statement in (
        "SELECT * FROM kafka.all_messages",
        "SELECT * FROM kafka.markers",
        "SELECT * FROM kafka.transactions",
        "SELECT * FROM kafka.pending_offsets",
        "SELECT * FROM kafka.transaction_requests",
        "SELECT kafka.abort_transaction('tx')",
        f"SELECT kafka.first_open_offset({topic}, 0, 8, 0)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute(statement)
    await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.abort_transaction TO {reader.name}")
    await other.execute("SELECT kafka.abort_transaction('tx')")
    assert await db.fetchval("SELECT requested_by FROM kafka.transaction_requests") == reader.name
    await other.close()
    await db.execute(f"REVOKE ALL ON SCHEMA kafka, topics FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON FUNCTION kafka.read, kafka.locate, kafka.abort_transaction FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON topics.t FROM {reader.name}")
    postgres_server.drop_database(reader)


@BOTH_SERVERS
async def test_transactions_tell_whom_they_hold_back(db: asyncpg.Connection) -> None:
    orders, payments = await add_topic(db, "orders", 2), await add_topic(db, "payments")
    await add_transactional(db, orders, 0, 2, 7)
    await add_marker(db, orders, 2, 7, is_commit=True)
    await add_row(db, orders, 3, [b"plain"])
    await add_transactional(db, orders, 4, 1, 8)
    await add_transactional(db, orders, 5, 1, 7)
    await Segments(db).create_series(payments, "none")
    await add_transactional(db, payments, 0, 1, 8)
    await add_transactional(db, payments, 1, 1, 7, 7, series=payments)
    value = {**STATE, "partitions": [[orders, 0, 3], [orders, 1, 0], [payments, 0, -1], [999, 0, 0]], "groups": ["g"]}
    await record(db, 1, "tx", "transaction", "", STATE)
    await record(db, 2, "tx", "transaction", "", value, table=1)
    row = await db.fetchrow("SELECT * FROM kafka.transactions")
    assert (row["transactional_id"], row["state"], row["producer_id"], row["producer_epoch"]) == ("tx", "Ongoing", 7, 3)
    assert (row["timeout"].total_seconds(), row["started_at"].timestamp()) == (60, 1_700_000_000)
    assert row["age"].total_seconds() > 0
    assert row["groups"] == ["g"]
    places = [
        {"topic": "orders", "partition": 0},
        {"topic": "orders", "partition": 1},
        {"topic": "payments", "partition": 0},
    ]
    assert json.loads(row["partitions"]) == places
    assert json.loads(row["holds_back"]) == [{**places[0], "first_offset": 5}, {**places[2], "first_offset": 1}]

    await record(db, 3, "tx", "transaction", "", {**STATE, "state": "CompleteCommit"})
    row = await db.fetchrow("SELECT * FROM kafka.transactions")
    assert (row["state"], row["started_at"], row["age"], row["holds_back"]) == ("CompleteCommit", None, None, None)
    assert json.loads(row["partitions"]) == []
    await record(db, 4, "tx", "transaction", "", None)
    assert await db.fetch("SELECT * FROM kafka.transactions") == []


@BOTH_SERVERS
async def test_offsets_wait_for_the_end_of_their_transaction(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    value = {"group": "g", "topic_id": topic, "partition": 4, "offset": 9, "leader_epoch": -1, "metadata": "m"}
    await record(db, 1, "tx", "offset", f"g\n{topic}\n4", {**value, "committed_at_ms": 5})
    await record(db, 2, "tx", "offset", f"g\n{topic}\n5", {**value, "partition": 5, "leader_epoch": 2, "offset": 3})
    await record(db, 3, "tx", "offset", "g\n999\n0", {**value, "topic_id": 999})
    found = "SELECT group_id, topic_id, partition_id, pending_offset, metadata, leader_epoch, transactional_id "
    rows = await db.fetch(found + "FROM kafka.pending_offsets ORDER BY partition_id")
    assert [tuple(row) for row in rows] == [("g", topic, 4, 9, "m", None, "tx"), ("g", topic, 5, 3, "m", 2, "tx")]
    assert await db.fetch("SELECT * FROM kafka.consumer_offsets") == []
    await record(db, 4, "tx", "offset", f"g\n{topic}\n4", None)
    assert [row["partition_id"] for row in await db.fetch(found + "FROM kafka.pending_offsets")] == [5]


@BOTH_SERVERS
async def test_an_operator_asks_for_an_abort(db: asyncpg.Connection, pg_dsn: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(pg_dsn)
    await listener.add_listener("pg_kafka_transactions", lambda *call: heard.put_nowait(call[3]))
    with pytest.raises(asyncpg.UndefinedObjectError, match='transactional id "tx" does not exist'):
        await db.fetchval("SELECT kafka.abort_transaction('tx')")
    for entry, (state, complaint) in enumerate(
        {
            "Empty": "has no open transaction",
            "CompleteAbort": "has no open transaction",
            "PrepareCommit": "is decided and about to end",
        }.items()
    ):
        await record(db, entry, "tx", "transaction", "", {**STATE, "state": state})
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=complaint):
            await db.fetchval("SELECT kafka.abort_transaction('tx')")
    await record(db, 9, "tx", "transaction", "", STATE)
    request = await db.fetchval("SELECT kafka.abort_transaction('tx')")
    assert await asyncio.wait_for(heard.get(), 20) == str(request)
    row = await db.fetchrow("SELECT * FROM kafka.transaction_requests")
    assert tuple(row)[:6] == (request, "tx", 7, 3, "abort", await db.fetchval("SELECT current_user"))
    assert (row["done_at"], row["error"]) == (None, None)
    # What was done long ago is forgotten, what waits is not.
    await db.execute("UPDATE kafka.transaction_requests SET done_at = clock_timestamp()")
    waiting = await db.fetchval("SELECT kafka.abort_transaction('tx')")
    await db.execute("SELECT setval('kafka.transaction_requests_id_seq', 2000)")
    await db.fetchval("SELECT kafka.abort_transaction('tx')")
    left = [row["id"] for row in await db.fetch("SELECT id FROM kafka.transaction_requests ORDER BY id")]
    assert left == [waiting, 2001]
    await listener.close()


async def test_what_lanes_write_is_seen_when_it_is_committed(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, transactional(7, 0, b"a", b"b"))
        await leader.append(partition, transactional(8, 0, b"c"))
        seen = f"SELECT partition_offset FROM kafka.messages WHERE topic_id = {topic.id} ORDER BY 1"
        assert await query(pg_dsn, seen) == []
        await end(leader, marker(partition, 7, commit=True), marker(partition, 8, commit=False))
        assert [row[0] for row in await query(pg_dsn, seen)] == [0, 1]
        everything = await query(
            pg_dsn, "SELECT transaction, is_control FROM kafka.all_messages ORDER BY partition_offset"
        )
        assert [tuple(row) for row in everything] == [
            ("committed", False),
            ("committed", False),
            ("aborted", False),
            ("committed", True),
            ("aborted", True),
        ]


async def test_rotation_of_the_journal_keeps_what_counts(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        store = TransactionStore(leader.log, leader.control)

        async def write(name: str, *records: Record) -> None:
            done: asyncio.Future[StorageError | None] = asyncio.get_running_loop().create_future()
            store.write(name, records, done.set_result)
            assert await done is None

        for number in range(50):
            state = Record("transaction", "", {**STATE, "producer_epoch": number})
            await write("a", state, Record("offset", "g\n1\n0", {"offset": number}))
            await write("b", state)
        await write("a", Record("offset", "g\n1\n0", None))
        await write("b", Record("transaction", "", None))
        before = await store.load()
        assert [(each.transactional_id, len(each.records)) for each in before] == [("a", 1)]
        async with Rotating(leader):
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.transaction_journal_0")
        assert await store.load() == before
        assert tuple((await query(pg_dsn, "SELECT count(*) FROM kafka.transaction_journal_1"))[0]) == (1,)
        await write("a", Record("transaction", "", {**STATE, "producer_epoch": 50}))
        (stored,) = await store.load()
        assert stored.records[0].value is not None and stored.records[0].value["producer_epoch"] == 50


async def test_markers_of_a_deleted_topic_go_with_it(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pg_kafka.storage.upkeep.deleted_topics.MARKERS_PER_STEP", 2)
    async with leading(pg_dsn) as leader:
        doomed, kept = await leader.topic("doomed"), await leader.topic("kept")
        for topic in (doomed, kept):
            partition = await leader.partition(topic)
            for _ in range(5):
                await end(leader, marker(partition, 7, commit=True))
        assert (await query(pg_dsn, "SELECT count(*) FROM kafka.markers"))[0][0] == 10
        await leader.topics.delete([doomed])
        async with Rotating(leader):
            await until(pg_dsn, "SELECT count(*) = 0 FROM kafka.deleted_topics")
        left = await query(pg_dsn, "SELECT topic, count(*) FROM kafka.markers GROUP BY 1")
        assert [tuple(row) for row in left] == [(kept.id, 5)]


def copy_database(binaries: Path, source: str, target: str) -> None:
    dump = [binaries / "pg_dump", "--no-owner", "--no-privileges", source]
    dumped = subprocess.run(dump, capture_output=True, check=True).stdout
    subprocess.run([binaries / "psql", "-qX", "-v", "ON_ERROR_STOP=1", target], input=dumped, check=True)


async def test_a_dump_has_the_markers_once(db: asyncpg.Connection, pg_dsn: str, postgres_server: Any) -> None:
    topic = await add_viewed_topic(db, "t")
    await add_transactional(db, topic, 0, 1, 7)
    await add_transactional(db, topic, 1, 1, 8)
    await add_marker(db, topic, 2, 7, is_commit=True)
    other = postgres_server.create_database()
    await asyncio.to_thread(copy_database, postgres_server.binaries, pg_dsn, other.dsn)
    restored = await asyncpg.connect(other.dsn)
    assert await offsets(restored, "topics.t") == [0]
    await add_marker(restored, topic, 3, 8, is_commit=True)
    assert await offsets(restored, "topics.t") == [0, 1]
    assert await restored.fetchval("SELECT count(*) FROM kafka.markers") == 2
    await restored.close()
    postgres_server.drop_database(other)
