"""What is known of a sealed segment without reading it, and what can be done with that alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated
from tests.storage.test_janitor import Lanes, until
from tests.storage.test_segments import Killed, MortalConnection

from pg_kafka.storage.queries import render
from pg_kafka.storage.segments import SQL, Segments, adopt
from pg_kafka.storage.upkeep.janitor import Janitor

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
NODE = 1
FIGURES = "last_offset, bytes, records, first_timestamp, max_timestamp"
ALL_KNOWN = "SELECT NOT EXISTS (SELECT FROM kafka.extents WHERE last_offset IS NULL)"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn, compression="none")
    await adopt(connection.fetch, NODE)
    yield connection
    await connection.close()


@pytest.fixture
async def start_janitor(db: asyncpg.Connection, pg_dsn: str) -> AsyncIterator[Callable[..., Awaitable[Janitor]]]:
    made: list[Janitor] = []

    async def start(**changes: Any) -> Janitor:
        options = {"segment_bytes": 1 << 30, "segment_ms": 1 << 40, "compression": "none", "interval_s": 0.3}
        janitor = janitor_of(pg_dsn, Lanes(db), owner=NODE, **{**options, **changes})
        made.append(janitor)
        await janitor.start()
        return janitor

    yield start
    for janitor in made:
        await janitor.stop()


async def figures(db: asyncpg.Connection, topic: int, partition: int = 0) -> list[tuple[int | None, ...]]:
    rows = await db.fetch(
        f"SELECT first_offset, {FIGURES} FROM kafka.extents WHERE topic = $1 AND partition = $2 ORDER BY first_offset",
        topic,
        partition,
    )
    return [tuple(row) for row in rows]


async def seal(db: asyncpg.Connection, series: int, segment: int) -> None:
    segments = Segments(db)
    assert await segments.roll(series, segment, "none") == segment + 1
    await segments.seal(series, segment)


@BOTH_SERVERS
async def test_a_sealed_segment_says_what_each_partition_has_in_it(db: asyncpg.Connection) -> None:
    topic, other = await add_topic(db, "t", 2), await add_topic(db, "other")
    await add_row(db, topic, 0, [b"x" * 10, b"y"], timestamps=[500, 900], first_timestamp=500)
    await add_row(db, topic, 2, [b"x" * 100], first_timestamp=400, offset_deltas=[5])
    await add_marker(db, topic, 8, 7, is_commit=True)
    await db.execute("UPDATE kafka.log SET wire_bytes = 70 WHERE base_offset = 2")
    await db.execute("UPDATE kafka.log SET max_timestamp = 950, row_bytes = 6 WHERE is_control")
    await add_row(db, topic, 5, [b"z"], partition=1, first_timestamp=-1)
    assert await figures(db, topic) == [(0, *[None] * 5)]

    await seal(db, 0, 0)
    await add_row(db, topic, 9, [b"later"], segment=1)
    await add_row(db, other, 0, [b"later"], segment=1)

    # 11 bytes that were not counted on the wire, 70 that were, and a marker, which is no record.
    assert await figures(db, topic) == [(0, 8, 11 + 70 + 6, 3, 500, 950), (9, *[None] * 5)]
    assert await figures(db, topic, 1) == [(5, 5, 1, 1, -1, -1)]
    assert await figures(db, other) == [(0, *[None] * 5)]


@BOTH_SERVERS
async def test_several_extents_of_a_partition_in_a_segment_and_one_without_rows(db: asyncpg.Connection) -> None:
    """As when rows have moved: each extent goes to the next one's first offset."""
    topic, empty = await add_topic(db, "t"), await add_topic(db, "empty")
    for offset in (0, 1, 20, 21, 22):
        await add_row(db, topic, offset, [b"x"], first_timestamp=offset)
    await db.execute(
        "INSERT INTO kafka.extents (topic, partition, first_offset, series, segment)"
        " VALUES ($1, 0, 10, 0, 5), ($1, 0, 20, 0, 0), ($2, 0, 7, 0, 0)",
        topic,
        empty,
    )
    await seal(db, 0, 0)
    assert await figures(db, topic) == [(0, 1, 2, 2, 0, 1), (10, *[None] * 5), (20, 22, 3, 3, 20, 22)]
    assert await figures(db, empty) == [(7, 6, 0, 0, -1, -1)]


@BOTH_SERVERS
async def test_finding_out_reads_no_toast(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t", 20)
    values = await db.fetchval(
        "SELECT array_agg(decode(repeat(md5(n::text), 40), 'hex')) FROM generate_series(1, 50) n"
    )
    for offset in range(100):
        await add_row(db, topic, offset, values, partition=offset % 20)
    looked = (
        "SELECT pg_stat_get_xact_blocks_fetched(c.oid) AS heap, pg_stat_get_xact_blocks_fetched(c.reltoastrelid) AS toast"
        " FROM pg_class c WHERE c.oid = 'kafka.log_0_0'::regclass"
    )
    async with db.transaction():
        before = await db.fetchrow(looked)
        await db.execute(render(SQL["fill_extents"], leaf="log_0_0"), 0, 0)
        after = await db.fetchrow(looked)
        assert after["heap"] > before["heap"] and after["toast"] == before["toast"]
        await db.fetch("SELECT values FROM kafka.log_0_0")
        assert (await db.fetchrow(looked))["toast"] > after["toast"]  # the counter counts
    assert await db.fetchval(ALL_KNOWN)


async def test_what_is_sealed_is_known_wherever_the_janitor_dies(db: asyncpg.Connection, pg_dsn: str) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x"])
    assert await Segments(db).roll(0, 0, "none") == 1
    deaths = 0
    while True:
        connection = await asyncpg.connect(pg_dsn)
        try:
            await Segments(MortalConnection(connection, deaths)).seal(0, 0)  # type: ignore[arg-type]
            break
        except (Killed, asyncpg.InterfaceError):
            deaths += 1
        finally:
            connection.terminate()
        assert await db.fetchval("SELECT state FROM kafka.segments WHERE segment = 0") == "superseded"
        assert not await db.fetchval(ALL_KNOWN)
    assert deaths >= 2
    assert await db.fetchval("SELECT state FROM kafka.segments WHERE segment = 0") == "sealed"
    assert await figures(db, topic) == [(0, 0, 1, 1, 1_700_000_000_000, 1_700_000_000_000)]


async def test_figures_are_all_known_or_none(db: asyncpg.Connection) -> None:
    await add_row(db, await add_topic(db, "t"), 0, [b"x"])
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("UPDATE kafka.extents SET bytes = 1")


async def test_segments_that_an_older_program_sealed_are_looked_at_in_turn(
    db: asyncpg.Connection, start_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topics = [await add_topic(db, name) for name in ("a", "b", "c", "doomed")]
    segments = Segments(db)
    for number in range(5):
        for topic in topics:
            await add_row(db, topic, number, [b"x" * (number + 1)], segment=number)
        await seal(db, 0, number)
    await add_row(db, topics[0], 5, [b"x"], segment=5)
    await segments.freeze(0, 0)
    await db.execute("UPDATE kafka.extents SET last_offset = NULL, bytes = NULL, records = NULL, first_timestamp = NULL,"
                     " max_timestamp = NULL WHERE segment <> 3")  # fmt: skip
    # One topic is being deleted, and half of its rows are gone; a table was dropped already.
    await db.execute("DELETE FROM kafka.log WHERE topic = $1 AND segment > 1", topics[3])
    await db.execute("UPDATE kafka.segments SET state = 'freed' WHERE segment = 4")
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", topics[3])
    await db.execute("DELETE FROM kafka.deleted_topics")  # until the rest of it is to go

    has_room = False
    janitor = await start_janitor(has_room=lambda _bytes, *, small=False: has_room)
    await until(db, "SELECT state = 'sealed' FROM kafka.segments WHERE segment = 1")
    assert await db.fetchval("SELECT count(*) FROM kafka.extents WHERE last_offset IS NOT NULL") == 4
    has_room = True
    janitor.poke()

    await until(db, "SELECT count(*) = 5 FROM kafka.extents WHERE last_offset IS NULL")
    for topic in topics[:3]:
        known = [row[:4] for row in await figures(db, topic)][:4]
        assert known == [(n, n, n + 1, 1) for n in range(4)]
    left = await db.fetch("SELECT topic, segment FROM kafka.extents WHERE last_offset IS NULL ORDER BY segment, topic")
    assert [tuple(row) for row in left] == [(topic, 4) for topic in topics] + [(topics[0], 5)]
    await db.execute("INSERT INTO kafka.deleted_topics (id, name, series) VALUES ($1, 'doomed', 0)", topics[3])
    janitor.poke()
    await until(db, "SELECT NOT EXISTS (SELECT FROM kafka.extents WHERE topic = $1)", topics[3])
    assert not janitor.failures


async def test_on_a_nearly_full_disk_a_segment_is_sealed_later(
    db: asyncpg.Connection, start_janitor: Callable[..., Awaitable[Janitor]]
) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"x"])
    await Segments(db).roll(0, 0, "none")
    asked = False

    def has_room(_bytes: float, *, small: bool = False) -> bool:
        nonlocal asked
        asked = True
        return is_free

    is_free = False
    janitor = await start_janitor(has_room=has_room)
    await until(db, "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'pg_kafka janitor'"
                    " AND datname = current_database() AND state = 'idle'")  # fmt: skip
    assert await db.fetchval("SELECT state FROM kafka.segments WHERE segment = 0") == "superseded"
    is_free = True
    janitor.poke()
    await until(db, "SELECT state = 'frozen' FROM kafka.segments WHERE segment = 0")
    assert asked and await db.fetchval(ALL_KNOWN)


RETENTION = """
WITH unsealed AS (
    SELECT l.topic, l.partition, l.series, l.segment,
           sum(coalesce(l.wire_bytes, l.row_bytes)) AS bytes, max(l.max_timestamp) AS max_timestamp
    FROM ({leaves}) AS l GROUP BY l.topic, l.partition, l.series, l.segment
), extents AS (
    SELECT x.topic, x.partition, x.last_offset, coalesce(x.bytes, u.bytes, 0) AS bytes,
           max(coalesce(x.max_timestamp, u.max_timestamp)) OVER (
               PARTITION BY x.topic, x.partition ORDER BY x.first_offset) AS newest,
           sum(coalesce(x.bytes, u.bytes, 0)) OVER (
               PARTITION BY x.topic, x.partition ORDER BY x.first_offset DESC) AS bytes_from_here,
           (t.configs ->> 'retention.ms')::bigint AS retention_ms, (t.configs ->> 'retention.bytes')::bigint AS retention_bytes
    FROM kafka.extents x JOIN kafka.topics t ON t.id = x.topic
    LEFT JOIN unsealed u ON u.topic = x.topic AND u.partition = x.partition AND u.series = x.series AND u.segment = x.segment
                        AND x.last_offset IS NULL
)
SELECT topic, partition, max(last_offset) + 1 AS log_start
FROM extents
WHERE last_offset IS NOT NULL
  AND (newest < $1::bigint - retention_ms OR bytes_from_here - bytes >= retention_bytes)
GROUP BY topic, partition ORDER BY topic, partition
"""


@BOTH_SERVERS
async def test_retention_of_ten_thousand_topics_reads_the_active_segments_only(db: asyncpg.Connection) -> None:
    """An extent goes when all up to it are too old, or when enough bytes are behind it."""
    topics = 10_000
    kinds = [
        '{"retention.ms": "1000"}',
        '{"retention.bytes": "25"}',
        "{}",
        '{"retention.ms": "1000", "retention.bytes": "5"}',
    ]
    await db.execute(
        "INSERT INTO kafka.topics (name, partitions, configs)"
        " SELECT 't' || n, 1, ($1::text[])[n % 4 + 1]::jsonb FROM generate_series(0, $2 - 1) n",
        kinds,
        topics,
    )
    first = await db.fetchval("SELECT min(id) FROM kafka.topics")
    own = await db.fetchval("SELECT id FROM kafka.topics WHERE name = 't1'")
    segments = Segments(db)
    assert await segments.create_series(own, "none", NODE)
    # Ten bytes in each of three sealed segments, at 100, 200 and 300, and in the active one, at 5000.
    for number, timestamp in enumerate((100, 200, 300, 5000)):
        for series in (0, own):
            await db.execute(
                f"""
                INSERT INTO kafka.log_{series}_{number} (series, segment, topic, partition, base_offset, last_offset,
                    global_base, max_timestamp, running_max_timestamp, append_time, first_timestamp, record_count, row_bytes,
                    leader_epoch, timestamp_type, codec, is_transactional, is_control, values, wire_bytes)
                SELECT $1::bigint, $2::integer, t.id, 0, $2, $2, $2, $3::bigint, $3, $3, $3, 1, 1, 0, 0, 0,
                    false, false, '{{a}}', 10
                FROM kafka.topics t WHERE (t.id = $4::bigint) = ($1 = $4)
                """,
                series,
                number,
                timestamp,
                own,
            )
            await db.execute(
                "INSERT INTO kafka.extents (topic, partition, first_offset, series, segment)"
                f" SELECT topic, partition, base_offset, series, segment FROM kafka.log_{series}_{number}"
            )
            if number < 3:
                await seal(db, series, number)
    await db.execute("ANALYZE kafka.extents; ANALYZE kafka.topics")
    unsealed = await db.fetch(
        "SELECT format('SELECT * FROM kafka.log_%s_%s', series, segment) AS leaf, format('log_%s_%s', series, segment) AS name"
        " FROM kafka.segments WHERE state IN ('active', 'superseded')"
    )
    query = RETENTION.format(leaves=" UNION ALL ".join(row["leaf"] for row in unsealed))

    plan = await db.fetchval(f"EXPLAIN (FORMAT JSON) {query.replace('$1', '1250')}")
    relations = set()

    def look(node: dict[str, Any]) -> None:
        relations.add(node.get("Relation Name"))
        for part in node.get("Plans", ()):
            look(part)

    look(json.loads(plan)[0]["Plan"])
    assert {name for name in relations if name and name.startswith("log_")} == {"log_0_3", f"log_{own}_3"}

    starts = {row["topic"]: row["log_start"] for row in await db.fetch(query, 1250)}
    # By time at 1250: what ends at 100 and 200. By size: 25 bytes stay, whole extents go; of 5 bytes one extent stays.
    expected = {0: 2, 1: 1, 3: 3}
    assert starts == {first + n: expected[n % 4] for n in range(topics) if n % 4 != 2}
    assert starts[own] == 1
