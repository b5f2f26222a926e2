"""A database that an older program made is, after its upgrade, what this program makes; its data are where they were."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.leader import leading
from tests.storage.log_rows import add_row, add_topic, connect_migrated
from tests.wire_batches import batch, records, values

from pg_kafka.coordinator.records import Record
from pg_kafka.storage import queries, segments
from pg_kafka.storage.groups import GroupStore, OffsetWrite, StoredOffset
from pg_kafka.storage.migrate import SCHEMA_VERSION, migrate

OLD = Path(__file__).parent / "old_schemas"
MIGRATE = queries.load("migrate")

# Everything that pg_dump would write, in one row for each object. Columns in their order: COPY and SELECT * depend on it.
SCHEMA = """
    SELECT 'relation' AS what, c.oid::regclass::text AS name,
           concat_ws(' | ', c.relkind, c.reloptions::text, t.reloptions::text, c.relacl::text, obj_description(c.oid, 'pg_class'),
                     pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
                     CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
                     CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END) AS definition
    FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    WHERE c.relnamespace IN ('kafka'::regnamespace, 'topics'::regnamespace)
    UNION ALL
    SELECT 'column', a.attrelid::regclass || '.' || a.attname,
           concat_ws(' | ', row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
                     a.attnotnull, a.attidentity, a.attstorage, a.attcompression, a.attstattarget,
                     pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'kafka'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'kafka'::regnamespace AND contype <> 'n'  -- PostgreSQL 18 names NOT NULL
    UNION ALL
    SELECT 'sequence', seqrelid::regclass::text, concat_ws(' | ', seqtypid::regtype, seqstart, seqincrement, seqmin, seqcycle)
    FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid WHERE c.relnamespace = 'kafka'::regnamespace
    UNION ALL
    SELECT 'function', oid::regprocedure::text,
           concat_ws(' | ', pg_get_functiondef(oid), proacl::text, obj_description(oid, 'pg_proc'))
    FROM pg_proc WHERE pronamespace = 'kafka'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(t.oid)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'kafka'::regnamespace AND NOT t.tgisinternal
    UNION ALL
    SELECT 'row', journal, concat_ws(' | ', active, state, live_bytes) FROM kafka.journals
"""

COMMIT = {
    1: "INSERT INTO kafka.offset_journal (group_id, topic_id, partition_id, committed_offset, metadata, committed_at) "
    "VALUES ('g', $1, 0, $2, 'note', timestamptz 'epoch' + interval '5 s')",
    2: "INSERT INTO kafka.offset_journal_0 "
    "(entry, group_id, topic_id, partition_id, committed_offset, metadata, committed_at) "
    "VALUES (nextval('kafka.journal_entries') + $2, 'g', $1, 0, $2, 'note', timestamptz 'epoch' + interval '5 s')",
}
COMMIT[4] = COMMIT[3] = COMMIT[2]


async def make_old(dsn: str, version: int, monkeypatch: pytest.MonkeyPatch) -> asyncpg.Connection:
    """A database as that version's program made it."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute(MIGRATE["search_path"])
        await connection.execute((OLD / f"{version}.sql").read_text())
        await connection.execute(MIGRATE["insert_cluster"], "x" * 22, version)
        if version < 3:
            monkeypatch.setitem(segments.SQL, "index_markers", "SELECT")
            monkeypatch.setitem(segments.SQL, "note_markers", "SELECT")
        if version < 5:
            series = "INSERT INTO kafka.series (id, active_segment) VALUES (0, 0)"
            monkeypatch.setitem(segments.SQL, "insert_shared_series", series)
            monkeypatch.setitem(segments.SQL, "next_segment", "SELECT 0 WHERE $1::bigint = 0")
            segment = (
                "INSERT INTO kafka.segments (series, segment, compression) SELECT $1, $2, $4 WHERE $3::integer IS NULL"
            )
            monkeypatch.setitem(segments.SQL, "insert_segment", segment)
            batch = " ALTER batch SET STORAGE EXTERNAL, ALTER batch SET STATISTICS 0,"
            target = " SET (toast_tuple_target = 4080),"
            stored = segments.SQL["store_none"].replace(batch, "").replace(target, "")
            monkeypatch.setitem(segments.SQL, "store_none", stored)
        await segments.create_shared_series(connection, "none")
        monkeypatch.undo()
        await connection.execute(MIGRATE["revoke_all"])
    return connection


ODD = "␀ and ␛"


@pytest.mark.parametrize("version", (2, 3))
async def test_symbols_of_the_journals_are_what_they_were(
    pg_dsn: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make_old(pg_dsn, version, monkeypatch)
    topic = await add_topic(old, "orders", 1)
    await old.execute(COMMIT[version].replace("'note'", f"'{ODD}'"), topic, 1)
    await old.execute(
        "INSERT INTO kafka.group_journal_1 (entry, group_id, kind, key, value) VALUES (1, 'g', 'member', $1, $2)",
        ODD,
        json.dumps({"rack_id": ODD}),
    )
    await migrate(old)
    async with leading(pg_dsn) as leader:
        (group,), (offset,) = await GroupStore(leader.log, leader.control).load()
        assert group.records == (Record("member", ODD, {"rack_id": ODD}),)
        assert offset.metadata == ODD
    assert await old.fetchval("SELECT metadata FROM kafka.consumer_offsets") == ODD
    await old.close()


async def described(connection: asyncpg.Connection) -> dict[tuple[str, str], str]:
    role = await connection.fetchval("SELECT current_user")
    rows = await connection.fetch(SCHEMA)
    return {(row["what"], row["name"]): (row["definition"] or "").replace(role, "OWNER") for row in rows}


@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_an_upgraded_schema_is_a_new_one(
    pg_dsn: str, postgres_server: Any, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make_old(pg_dsn, version, monkeypatch)
    await migrate(old)
    other = postgres_server.create_database()
    fresh = await connect_migrated(other.dsn, compression="none")
    upgraded, wanted = await described(old), await described(fresh)
    assert {key: upgraded.get(key) for key in upgraded.keys() | wanted.keys()} == {
        key: wanted.get(key) for key in upgraded.keys() | wanted.keys()
    }
    assert await old.fetchval("SELECT schema_version FROM kafka.cluster") == SCHEMA_VERSION
    await old.close()
    await fresh.close()
    postgres_server.drop_database(other)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_what_was_there_is_served_after_the_upgrade(
    pg_dsn: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make_old(pg_dsn, version, monkeypatch)
    topic = await add_topic(old, "orders", 2)
    await add_row(old, topic, 0, [b"a", b"b"])
    await old.execute("SELECT kafka.create_topic_view($1)", topic)
    await old.execute("CREATE VIEW public.mine AS SELECT * FROM kafka.consumer_offsets")
    for offset in (1, 2):
        await old.execute(COMMIT[version], topic, offset)
    await migrate(old)
    assert await old.fetchval("SELECT count(*) FROM topics.orders") == 2
    async with leading(pg_dsn) as leader:
        store = GroupStore(leader.log, leader.control)
        assert await store.load() == ([], [StoredOffset("g", topic, 0, 2, -1, "note", 5000)])
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store.write("g", (), [OffsetWrite(topic, 0, 3)], (), done.set_result)
        assert await done is None
        _, (stored,) = await store.load()
        assert stored.offset == 3
    assert await old.fetchval("SELECT committed_offset FROM public.mine") == 3
    await old.close()


async def add_old_segment(old: asyncpg.Connection, series: int, segment: int, state: str) -> None:
    """A segment as the program of version 4 made and left it."""
    names: dict[str, str | int] = {"name": f"log_{series}", "leaf": f"log_{series}_{segment}"}
    names |= {"schema": "kafka", "series": series}
    if segment == 0:
        await old.execute("INSERT INTO kafka.series (id, active_segment) VALUES ($1, 0)", series)
        await old.execute(queries.render(segments.SQL["create_series"], **names))
        await old.execute(queries.render(segments.SQL["attach_series"], **names))
    index = f"log_{series}_{segment}_markers"
    for statement in ("create_leaf", "index_markers", "note_markers", "attach_leaf"):
        await old.execute(queries.render(segments.SQL[statement], segment=segment, index=index, **names))
    await old.execute("UPDATE kafka.series SET active_segment = $2 WHERE id = $1", series, segment)
    await old.execute("INSERT INTO kafka.segments (series, segment, state) VALUES ($1, $2, $3)", series, segment, state)


@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
async def test_segments_in_every_state_are_served_and_known_after_the_upgrade(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make_old(pg_dsn, 4, monkeypatch)
    topic, large, doomed = await add_topic(old, "t"), await add_topic(old, "large"), await add_topic(old, "doomed")
    await old.execute("SELECT kafka.create_topic_view($1)", topic)
    await old.execute("UPDATE kafka.segments SET state = 'frozen'")
    for number, state in enumerate(("sealed", "active", "active"), 1):  # lanes had not left segment 2 yet
        await add_old_segment(old, 0, number, state)
    await add_old_segment(old, large, 0, "sealed")
    await add_old_segment(old, large, 1, "active")
    await old.execute("UPDATE kafka.topics SET series = id WHERE id = $1", large)
    for number in range(4):
        for offset in (2 * number, 2 * number + 1):
            await add_row(old, topic, offset, [b"%d" % offset], segment=number, first_timestamp=1000 + offset)
    await add_row(old, doomed, 0, [b"x"])
    await add_row(old, large, 0, [b"a", b"b"], series=large)
    await add_row(old, large, 2, [b"c"], series=large, segment=1)
    await old.execute("DELETE FROM kafka.topics WHERE id = $1", doomed)
    await old.execute("INSERT INTO kafka.deleted_topics (id, name, series) VALUES ($1, 'doomed', 0)", doomed)

    await migrate(old)

    states = (
        "SELECT array_agg(concat_ws(' ', g.series = $1, g.segment, g.state, g.owner) ORDER BY g.series, g.segment)"
        " FROM kafka.segments g"
    )
    assert await old.fetchval(states, large) == [
        *("f 0 frozen", "f 1 sealed", "f 2 superseded", "f 3 active"),
        *("t 0 sealed", "t 1 active"),
    ]
    assert await old.fetchval("SELECT array_agg(next_segment ORDER BY id) FROM kafka.series") == [4, 2]
    assert await old.fetchval("SELECT count(*) FROM kafka.extents WHERE last_offset IS NOT NULL") == 0
    async with leading(pg_dsn) as leader:
        node = leader.log.node_id
        for name, offsets in (("t", range(8)), ("large", range(3))):
            partition = await leader.partition(leader.topics.by_name[name])
            read: list[int] = []
            while len(read) < len(offsets):
                found = records(await leader.log.read(partition, len(read), 1 << 20))
                read += [offset for offset, _, _ in found]
            assert read == [*offsets]
            assert (await leader.append(partition, batch(values(b"new")))).base_offset == len(offsets)
        janitor = janitor_of(
            pg_dsn, leader.log, owner=node, segment_bytes=1 << 40, segment_ms=1 << 60, compression="none"
        )
        await janitor.start()
        unknown = (
            "SELECT array_agg(format('%s %s', series = $1, segment) ORDER BY series, segment)"
            " FROM kafka.extents WHERE last_offset IS NULL"
        )
        under_way = (
            "SELECT EXISTS (SELECT FROM kafka.deleted_topics)"
            " OR EXISTS (SELECT FROM kafka.segments WHERE state NOT IN ('active', 'frozen'))"
        )
        async with asyncio.timeout(30):
            while await old.fetchval(under_way) or await old.fetchval(unknown, large) != ["f 3", "t 1"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await janitor.stop()
        assert await old.fetchval(states, large) == [
            *("f 0 frozen", "f 1 frozen", "f 2 frozen", f"f 3 active {node}"),
            *("t 0 frozen", f"t 1 active {node}"),
        ]
    rows = await old.fetch(
        "SELECT first_offset, last_offset, bytes, records, first_timestamp, max_timestamp FROM kafka.extents"
        " WHERE last_offset IS NOT NULL ORDER BY topic, first_offset"
    )
    time = 1_700_000_000_000
    assert [tuple(row) for row in rows] == [
        *((2 * n, 2 * n + 1, 2, 2, 1000 + 2 * n, 1001 + 2 * n) for n in range(3)),
        (0, 1, 2, 2, time, time),
    ]
    assert await old.fetchval("SELECT count(*) FROM topics.t") == 9
    await old.close()
