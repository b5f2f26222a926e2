"""What SQL users see: kafka.messages, a topic's view, kafka.read, consumer_offsets, set_config."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.storage.segments import Segments

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn, settings={"pg_kafka.num_partitions": "Partitions of new topics."})
    yield connection
    await connection.close()


async def add_viewed_topic(db: asyncpg.Connection, name: str, partitions: int = 1) -> int:
    topic = await add_topic(db, name, partitions)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    return topic


async def offsets(db: asyncpg.Connection, query: str, *arguments: Any) -> list[int]:
    return [row["partition_offset"] for row in await db.fetch(query, *arguments)]


async def test_columns_are_a_contract(db: asyncpg.Connection) -> None:
    columns = await db.fetch(
        "SELECT attrelid::regclass::text || '.' || attname AS name FROM pg_attribute WHERE attnum > 0 AND attrelid = ANY "
        "('{kafka.messages,kafka.consumer_offsets}'::regclass[]) ORDER BY attrelid, attnum"
    )
    assert [row["name"] for row in columns] == [
        "kafka.messages.topic_id",
        "kafka.messages.partition_id",
        "kafka.messages.partition_offset",
        "kafka.messages.global_offset",
        "kafka.messages.key",
        "kafka.messages.value",
        "kafka.messages.timestamp",
        "kafka.messages.timestamp_ms",
        "kafka.messages.headers",
        "kafka.messages.batch_base_offset",
        "kafka.messages.batch_last_offset",
        "kafka.messages.batch_max_timestamp",
        "kafka.messages.series",
        "kafka.messages.segment",
        "kafka.consumer_offsets.group_id",
        "kafka.consumer_offsets.topic_id",
        "kafka.consumer_offsets.partition_id",
        "kafka.consumer_offsets.committed_offset",
        "kafka.consumer_offsets.metadata",
        "kafka.consumer_offsets.leader_epoch",
        "kafka.consumer_offsets.committed_at",
        "kafka.consumer_offsets.metadata_bytes",
    ]
    await db.fetch("SELECT id, name, partitions FROM kafka.topics")


async def test_records_of_a_row_come_apart(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "orders")
    await add_row(
        db,
        topic,
        10,
        [b"a", None, b""],
        keys=[b"k", None, b""],
        timestamps=[1_700_000_000_001, 1_700_000_000_000, 5],
        headers=[[(b"h", b"1"), (b"h", None)], [], [(b"x", b"\x00")]],
    )
    rows = await db.fetch('SELECT *, "timestamp"::text AS shown FROM topics.orders ORDER BY partition_offset')
    assert [(row["partition_offset"], row["global_offset"], row["key"], row["value"]) for row in rows] == [
        (10, 1_000_010, b"k", b"a"),
        (11, 1_000_011, None, None),
        (12, 1_000_012, b"", b""),
    ]
    assert [row["timestamp_ms"] for row in rows] == [1_700_000_000_001, 1_700_000_000_000, 5]
    assert rows[0]["timestamp"].timestamp() == 1_700_000_000.001
    assert [row["headers"] for row in rows] == [[("h", b"1"), ("h", None)], None, [("x", b"\x00")]]
    assert {(row["batch_base_offset"], row["batch_last_offset"], row["batch_max_timestamp"]) for row in rows} == {
        (10, 12, 1_700_000_000_001)
    }


async def test_rows_without_keys_headers_and_timestamps_of_their_own(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "plain")
    await add_row(db, topic, 0, [b"a", b"b"], first_timestamp=7)
    rows = await db.fetch("SELECT key, headers, timestamp_ms FROM topics.plain")
    assert [tuple(row) for row in rows] == [(None, None, 7)] * 2


async def test_compacted_rows_keep_their_offsets(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "compacted")
    await add_row(db, topic, 100, [b"a", b"b", b"c"], offset_deltas=[0, 5, 900])
    rows = await db.fetch("SELECT partition_offset, global_offset FROM topics.compacted ORDER BY 1")
    assert [tuple(row) for row in rows] == [(100, 1_000_100), (105, 1_000_105), (1000, 1_001_000)]
    assert await offsets(db, "SELECT * FROM kafka.read('compacted', 0, 101, 1000)") == [105]


async def test_control_records_and_deleted_topics_are_hidden(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "hidden")
    await add_row(db, topic, 0, [b"a"])
    await add_row(db, topic, 1, [b"marker"], is_control=True)
    assert await offsets(db, "SELECT * FROM topics.hidden") == [0]
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", topic)
    assert await offsets(db, "SELECT * FROM topics.hidden UNION ALL SELECT * FROM kafka.messages") == []


async def test_records_below_the_log_start_are_hidden(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "trimmed", 2)
    for partition in (0, 1):
        await add_row(db, topic, 0, [b"a"] * 3, partition=partition)
        await add_row(db, topic, 3, [b"b"] * 3, partition=partition)
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 4)", topic)
    assert await offsets(db, "SELECT * FROM topics.trimmed WHERE partition_id = 0 ORDER BY 3") == [4, 5]
    assert await offsets(db, "SELECT * FROM kafka.read('trimmed', 0, 0, 100)") == [4, 5]
    assert await db.fetchval("SELECT count(*) FROM topics.trimmed WHERE partition_id = 1") == 6


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**62, 2**63 - 1, 2**53])
async def test_a_timestamp_that_is_no_time_is_null(db: asyncpg.Connection, timestamp: int) -> None:
    topic = await add_viewed_topic(db, "odd")
    await add_row(db, topic, 0, [b"a"], timestamps=[timestamp])
    row = await db.fetchrow('SELECT "timestamp" IS NULL AS has_none, timestamp_ms FROM topics.odd')
    assert tuple(row) == (True, timestamp)


async def test_far_times_are_shown(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "late")
    await add_row(db, topic, 0, [b"a"] * 3, timestamps=[2**53 - 1, 0, 9_000_000_000_123])
    shown = await db.fetch(
        "SELECT left((timestamp AT TIME ZONE 'UTC')::text, 23) AS at FROM topics.late ORDER BY partition_offset"
    )
    assert [row["at"] for row in shown] == ["287396-10-12 08:59:00.9", "1970-01-01 00:00:00", "2255-03-14 16:00:00.123"]


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"trace-id", "trace-id"),
        ("größe €😀".encode(), "größe €😀"),
        (b"back\\slash", "back\\slash"),
        (b"nul\x00", "nul\\000"),
        (b"\xff\xfe", "\\377\\376"),
        (b"\xc0\x80", "\\300\\200"),
        (b"\xed\xa0\x80", "\\355\\240\\200"),
        (b"\xf4\x90\x80\x80", "\\364\\220\\200\\200"),
        (b"cut\xc3", "cut\\303"),
        (b"", ""),
    ],
)
async def test_any_header_key_can_be_shown(db: asyncpg.Connection, key: bytes, shown: str) -> None:
    topic = await add_viewed_topic(db, "headers")
    await add_row(db, topic, 0, [b"a"], headers=[[(key, b"v")]])
    assert await db.fetchval("SELECT headers FROM topics.headers") == [(shown, b"v")]
    is_text = key.decode("utf-8", "replace").encode() == key and b"\x00" not in key
    assert await db.fetchval("SELECT kafka.as_text($1)", key) == (key.decode() if is_text else None)


async def test_the_last_header_of_a_name_counts(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "headers")
    await add_row(db, topic, 0, [b"a"], headers=[[(b"x", b"1"), (b"y", b"2"), (b"x", b"3")]])
    assert await db.fetchval("SELECT kafka.header_value(headers, 'x') FROM topics.headers") == b"3"
    assert await db.fetchval("SELECT kafka.header_value(headers, 'z') FROM topics.headers") is None


async def test_read_finds_the_row_that_holds_the_offset(db: asyncpg.Connection) -> None:
    topic = await add_viewed_topic(db, "orders", 2)
    for base in range(0, 100, 10):
        await add_row(db, topic, base, [b"%d" % n for n in range(base, base + 10)])
        await add_row(db, topic, base, [b"other"] * 10, partition=1)
    rows = await db.fetch("SELECT * FROM kafka.read('orders', 0, 37, 42)")
    assert [(row["partition_id"], row["partition_offset"], row["value"]) for row in rows] == [
        (0, n, b"%d" % n) for n in range(37, 42)
    ]
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, 95, 1000)") == list(range(95, 100))
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, 0, 1)") == [0]
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, 5, 5)") == []
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, -5, 2)") == [0, 1]
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, 5000, 5001)") == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ("'nope', 0, 0, 1", asyncpg.UndefinedObjectError, 'topic "nope" does not exist'),
        ("'orders', 2, 0, 10", asyncpg.UndefinedObjectError, 'topic "orders" has no partition 2'),
        ("'orders', -1, 0, 10", asyncpg.UndefinedObjectError, 'topic "orders" has no partition -1'),
        *(
            (arguments, asyncpg.NullValueNotAllowedError, 'topic, partition, "from" and "to" must not be NULL')
            for arguments in ("NULL, 0, 0, 1", "'orders', NULL, 0, 1", "'orders', 0, NULL, 1", "'orders', 0, 0, NULL")
        ),
    ],
)
async def test_read_of_what_is_not_there_is_an_error(
    db: asyncpg.Connection, arguments: str, error: type[Exception], says: str
) -> None:
    topic = await add_viewed_topic(db, "orders", 2)
    await add_row(db, topic, 0, [b"a"])
    with pytest.raises(error, match=re.escape(says)):
        await db.fetch(f"SELECT * FROM kafka.read({arguments})")


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (b'{"a": [1, null]}', '{"a": [1, null]}'),
        (' "ö\\ud83d\\ude00" '.encode(), '"ö😀"'),
        (b"null", "null"),
        (b"", None),
        (b"no json", None),
        (b'{"a": 1', None),
        (b"\x00", None),
        (b'"\\u0000"', None),
        (b'"\\ud800"', None),
        (b"\xff\xfe", None),
        (b'"cut\xc3"', None),
        (b"1e1000000", None),
        (b"[" * 1_000_000, None),
    ],
    ids=range(13),
)
async def test_what_is_no_json_is_null(db: asyncpg.Connection, value: bytes, json: str | None) -> None:
    assert await db.fetchval("SELECT kafka.as_json($1)::text", value) == json
    assert await db.fetchval("SELECT kafka.as_json(NULL)") is None
    # One such record among others, in a query that could be a parallel one, and in one that writes.
    await db.execute("CREATE TABLE docs AS SELECT kafka.as_json(v) AS doc FROM unnest($1::bytea[]) v", [b"1", value])
    assert [row[0] for row in await db.fetch("SELECT doc::text FROM docs")] == ["1", json]


async def test_read_works_while_the_view_is_gone(db: asyncpg.Connection) -> None:
    await add_row(db, await add_viewed_topic(db, "orders"), 0, [b"a"])
    await db.execute("DROP VIEW topics.orders")
    assert await offsets(db, "SELECT * FROM kafka.read('orders', 0, 0, 1)") == [0]


async def test_read_works_before_the_view_is_made(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "__internal")
    await add_row(db, topic, 0, [b"a", b"b"])
    assert await offsets(db, "SELECT * FROM kafka.read('__internal', 0, 1, 2)") == [1]


async def test_select_on_a_view_is_all_that_a_reader_needs(
    db: asyncpg.Connection, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    for name in ("allowed", "secret"):
        await add_row(db, await add_viewed_topic(db, name), 0, [b"a"], headers=[[("ö".encode(), b"v")]])
    reader = postgres_server.create_database()
    await db.execute(f"GRANT USAGE ON SCHEMA kafka, topics TO {reader.name}")
    await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.read, kafka.locate TO {reader.name}")
    await db.execute(f"GRANT SELECT ON topics.allowed, kafka.topic_configs TO {reader.name}")
    other = await asyncpg.connect(pg_superuser_dsn)
    await other.execute(f"SET ROLE {reader.name}")

    assert await other.fetchval("SELECT headers FROM topics.allowed") == [("ö", b"v")]
    assert await offsets(other, "SELECT * FROM kafka.read('allowed', 0, 0, 10)") == [0]
    effect = "SELECT effect FROM kafka.topic_configs WHERE topic = 'secret' AND name = 'retention.ms'"
    assert await other.fetchval(effect) == "works"
    for statement in (
        "SELECT kafka.set_topic_config('allowed', 'retention.ms', '6')",
        "SELECT * FROM topics.secret",
        "SELECT * FROM kafka.read('secret', 0, 0, 10)",
        "SELECT * FROM kafka.messages",
        "SELECT * FROM kafka.log",
        "SELECT kafka.set_config('num.partitions', '3')",
        "SELECT kafka.drop_topic_view('allowed')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute(statement)
    await other.close()
    await db.execute(f"REVOKE ALL ON SCHEMA kafka, topics FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON FUNCTION kafka.read, kafka.locate FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON topics.allowed, kafka.topic_configs FROM {reader.name}")
    postgres_server.drop_database(reader)


async def test_a_view_reads_its_topic_in_both_series(db: asyncpg.Connection) -> None:
    topic, other = await add_viewed_topic(db, "grown"), await add_viewed_topic(db, "other")
    await add_row(db, topic, 0, [b"a"] * 2)
    await add_row(db, other, 0, [b"b"])
    assert await Segments(db).create_series(topic, "none")
    await add_row(db, topic, 2, [b"a"] * 2, series=topic)
    assert await offsets(db, "SELECT * FROM topics.grown ORDER BY 3") == [0, 1, 2, 3]
    assert await offsets(db, "SELECT * FROM kafka.read('grown', 0, 1, 3)") == [1, 2]
    plan = "\n".join(row[0] for row in await db.fetch("EXPLAIN SELECT count(*) FROM topics.other"))
    assert f"log_{topic}_0" not in plan


async def test_a_topics_view_has_its_name(db: asyncpg.Connection) -> None:
    longest = "x" * 249
    cases = {"Orders.v1-a_b": "Orders.v1-a_b", "y" * 63: "y" * 63}
    for name, view in cases.items():
        topic = await add_topic(db, name)
        assert await db.fetchval("SELECT kafka.create_topic_view($1)", topic) == view
    topic = await add_topic(db, longest)
    assert await db.fetchval("SELECT kafka.create_topic_view($1)", topic) == "x" * 50 + f"~{topic}"
    assert await db.fetchval("SELECT view_name FROM kafka.topics WHERE id = $1", topic) == "x" * 50 + f"~{topic}"


async def test_somebody_elses_table_keeps_its_name(db: asyncpg.Connection) -> None:
    await db.execute("CREATE TABLE topics.mine (id int)")
    topic = await add_topic(db, "mine")
    assert await db.fetchval("SELECT kafka.create_topic_view($1)", topic) == f"mine~{topic}"


async def test_the_latest_commit_of_a_group_counts(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    for entry, table, group, offset, metadata in [
        (3, 0, "g", 5, ""),
        (7, 1, "g", 9, "note"),
        (8, 0, "g", 8, ""),
        (9, 0, "g", 9, "note"),
        (4, 1, "gone", 1, ""),
        (5, 0, "gone", None, ""),
    ]:
        await db.execute(
            f"INSERT INTO kafka.offset_journal_{table} "
            "(entry, group_id, topic_id, partition_id, committed_offset, metadata) VALUES ($1, $2, $3, 0, $4, $5)",
            entry,
            group,
            topic,
            offset,
            metadata,
        )
    rows = await db.fetch(
        "SELECT group_id, topic_id, partition_id, committed_offset, metadata, leader_epoch, metadata_bytes"
        " FROM kafka.consumer_offsets"
    )
    assert [tuple(row) for row in rows] == [("g", topic, 0, 9, "note", None, b"note")]


async def test_only_known_settings_can_be_set(db: asyncpg.Connection) -> None:
    for name, value in (("num.partitions", "3"), ("pg_kafka.num_partitions", "4"), ("pg_kafka.num.partitions", "5")):
        assert await db.fetchval("SELECT kafka.set_config($1, $2)", name, value) == value
        assert [tuple(row) for row in await db.fetch("SELECT name, value FROM kafka.settings")] == [
            ("pg_kafka.num_partitions", value)
        ]
    await db.execute("SELECT kafka.set_config('num.partitions', NULL)")
    assert await db.fetch("SELECT name, value FROM kafka.settings") == []
    for name in ("num.partition", "xnum.partitions", "", None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=f'unknown setting "{name or ""}'):
            await db.execute("SELECT kafka.set_config($1, '3')", name)
