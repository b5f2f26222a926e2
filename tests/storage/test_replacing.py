"""Rows move to another segment, and whoever reads sees all of them, in either place and never in both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated
from tests.storage.test_janitor import until
from tests.storage.test_segments import Killed, MortalConnection
from tests.wire_batches import batch, records, values

from pg_kafka.storage.replacing import Filling, NotNow, Replacement, Replacing
from pg_kafka.storage.segments import Segments
from pg_kafka.storage.upkeep.carry_over import copy_alive

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
SEGMENTS = 3
PER_SEGMENT = 4
OFFSETS = list(range(SEGMENTS * PER_SEGMENT + 1))
VIEW = "SELECT partition_offset FROM topics.orders ORDER BY 1"
MESSAGES = "SELECT partition_offset FROM kafka.messages WHERE topic_id = 1 ORDER BY 1"
ALL = "SELECT partition_offset FROM kafka.all_messages WHERE topic_id = 1 ORDER BY 1"
READ = "SELECT partition_offset FROM kafka.read('orders', 0, 0, 1000)"
QUERIES = (VIEW, MESSAGES, ALL, READ)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Topic orders (id 1) with rows in three sealed segments of its own series and in the active one."""
    connection = await connect_migrated(pg_dsn, compression="none")
    topic = await add_topic(connection, "orders")
    assert topic == 1
    segments = Segments(connection)
    await segments.create_series(topic, "none")
    for number in range(SEGMENTS):
        for offset in range(number * PER_SEGMENT, (number + 1) * PER_SEGMENT):
            await add_row(connection, topic, offset, [b"v%d" % offset], series=topic, segment=number)
        await segments.roll(topic, number, "none")
        await segments.seal(topic, number)
    await add_row(connection, topic, OFFSETS[-1], [b"v%d" % OFFSETS[-1]], series=topic, segment=SEGMENTS)
    await connection.execute("SELECT kafka.create_topic_view(1)")
    yield connection
    await connection.close()


@pytest.fixture
async def reader(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    yield connection
    await connection.close()


async def offsets(connection: asyncpg.Connection, query: str = VIEW) -> list[int]:
    return [row[0] for row in await connection.fetch(query)]


async def replaced(db: asyncpg.Connection, sources: Sequence[int] = (0, 1, 2)) -> Replacement:
    """All steps up to the swap, which nobody holds up."""
    replacing = Replacing(db)
    replacement = await replacing.begin(1, sources)
    await replacing.fill(replacement, copy_alive)
    holders = await replacing.attach(replacement)
    assert not await replacing.running(holders)
    await replacing.swap(replacement)
    return replacement


async def states(db: asyncpg.Connection) -> dict[int, str]:
    rows = await db.fetch("SELECT segment, state FROM kafka.segments WHERE series = 1 ORDER BY segment")
    return {row["segment"]: row["state"] for row in rows}


@BOTH
async def test_each_snapshot_sees_all_rows_once_at_every_step(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_dsn: str
) -> None:
    """READ COMMITTED, REPEATABLE READ from before each step, with and without a look at the topic before it."""
    keeping: list[asyncpg.Connection] = []

    async def keep(first: str | None) -> None:
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval(first or "SELECT pg_current_snapshot()")
        keeping.append(connection)

    async def all_see_all() -> None:
        for query in QUERIES:
            assert await offsets(reader, query) == OFFSETS
            for connection in keeping:
                assert await offsets(connection, query) == OFFSETS

    replacing = Replacing(db)
    await keep(None)
    await keep(VIEW)
    replacement = await replacing.begin(1, [0, 1, 2])
    await all_see_all()
    await keep(VIEW)

    async def filled_in_pieces(filling: Filling) -> None:
        await copy_alive(filling)
        await keep(None)
        await all_see_all()

    await replacing.fill(replacement, filled_in_pieces)
    await keep(VIEW)
    holders = await replacing.attach(replacement)
    await all_see_all()
    await keep(None)
    await keep(VIEW)
    # All but those that came later have looked at the log before, and may go on with plans from then.
    assert len(await replacing.running(holders)) == 5
    for connection in keeping:
        await connection.execute("ROLLBACK")
        await connection.close()
    keeping.clear()
    assert not await replacing.running(holders)
    await keep(None)
    await keep(VIEW)
    await replacing.swap(replacement)
    await all_see_all()
    await keep(None)
    await keep(VIEW)
    assert await states(db) == {0: "replaced", 1: "replaced", 2: "replaced", 3: "active", 4: "sealed"}
    assert not await replacing.unseen()
    for connection in keeping:
        await connection.execute("ROLLBACK")
        await connection.close()
    keeping.clear()
    assert await replacing.unseen() == [(1, 0), (1, 1), (1, 2)]
    for _, number in await replacing.unseen():
        await Segments(db).drop_segment(1, number)
    await all_see_all()
    assert await states(db) == {3: "active", 4: "sealed"}
    assert [tuple(row) for row in await db.fetch(
        "SELECT first_offset, last_offset, segment, generation, records FROM kafka.extents ORDER BY 1"
    )] == [(0, 11, 4, 1, 12), (12, None, 3, 0, None)]  # fmt: skip


@BOTH
async def test_a_swap_waits_for_those_who_planned_before_the_segment_was_attached(
    db: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    """A transaction that has locked the log goes on with what it knew of it: it would not look into a new segment."""
    replacing = Replacing(db)
    replacement = await replacing.begin(1, [0, 1])
    await replacing.fill(replacement, copy_alive)
    await reader.execute("BEGIN")  # READ COMMITTED: each statement has a new snapshot
    prepared = await reader.prepare(VIEW)
    await reader.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    assert [row[0] for row in await prepared.fetch()] == OFFSETS
    holders = await replacing.attach(replacement)
    assert len(await replacing.running(holders)) == 1
    assert [row[0] for row in await prepared.fetch()] == OFFSETS
    await reader.execute("COMMIT")
    assert not await replacing.running(holders)
    await replacing.swap(replacement)
    assert [row[0] for row in await prepared.fetch()] == OFFSETS


@BOTH
async def test_a_query_under_way_and_a_cursor_see_all_rows(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_dsn: str
) -> None:
    replacing = Replacing(db)
    replacement = await replacing.begin(1, [0, 1, 2])
    await replacing.fill(replacement, copy_alive)
    holders = await replacing.attach(replacement)
    await reader.execute("BEGIN")
    await reader.execute(f"DECLARE half CURSOR FOR {VIEW.replace(' ORDER BY 1', '')}")
    seen = [row[0] for row in await reader.fetch("FETCH 5 FROM half")]
    other = await asyncpg.connect(pg_dsn)
    # Stands still in the middle of its plan, behind a lock that this test holds.
    await db.execute("SELECT pg_advisory_lock(42)")
    slow = asyncio.create_task(
        other.fetch(
            f"SELECT o, pg_advisory_lock_shared(42) FROM ({VIEW.replace('SELECT', 'SELECT partition_offset AS o,')}) s"
        )
    )
    await until(
        db, "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    )
    assert not await replacing.running(holders)
    await replacing.swap(replacement)
    assert await replacing.unseen() == []
    seen += [row[0] for row in await reader.fetch("FETCH ALL FROM half")]
    assert sorted(seen) == OFFSETS
    await reader.execute("COMMIT")
    await db.execute("SELECT pg_advisory_unlock(42)")
    assert sorted(row[0] for row in await slow) == OFFSETS
    await other.close()
    assert len(await replacing.unseen()) == 3


async def test_kafka_read_looks_again_when_rows_move_between_its_two_looks(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_dsn: str
) -> None:
    """In READ COMMITTED its statements have snapshots of their own: the segments that it was told may be out of date."""
    replacing = Replacing(db)
    replacement = await replacing.begin(1, [0, 1, 2])
    await replacing.fill(replacement, copy_alive)
    await replacing.attach(replacement)
    blocker = await asyncpg.connect(pg_dsn)
    await blocker.execute("BEGIN")
    await blocker.execute(
        "ALTER VIEW topics.orders RESET (check_option)"
    )  # LOCK TABLE would lock what is below as well
    reading = asyncio.create_task(offsets(reader, READ))
    await until(db, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'topics.orders'::regclass")
    await replacing.swap(replacement)
    await blocker.execute("COMMIT")
    await blocker.close()
    assert await reading == OFFSETS


@BOTH
async def test_crash_after_every_statement_and_the_next_one_begins_anew(
    db: asyncpg.Connection, reader: asyncpg.Connection, pg_dsn: str
) -> None:
    deaths = 0
    while True:
        connection = await asyncpg.connect(pg_dsn)
        mortal = MortalConnection(connection, deaths)
        replacing = Replacing(mortal)  # type: ignore[arg-type]
        try:
            await replacing.give_up_interrupted()
            replacement = await replacing.begin(1, [0, 1, 2])
            await replacing.fill(replacement, copy_alive)
            await replacing.attach(replacement)
            await replacing.swap(replacement)
            break
        except (Killed, asyncpg.InterfaceError):
            deaths += 1
        finally:
            connection.terminate()
        assert await offsets(reader) == OFFSETS
    assert deaths > 20
    assert await offsets(reader) == OFFSETS
    assert not await Replacing(db).give_up_interrupted()
    left = await states(db)
    assert [left[number] for number in range(4)] == ["replaced", "replaced", "replaced", "active"]
    assert {state for number, state in left.items() if number > 3} <= {"freed", "sealed"}
    tables = await db.fetch(
        "SELECT c.relname FROM pg_class c WHERE c.relname ~ '^log_1_[0-9]+$' AND NOT EXISTS"
        " (SELECT FROM kafka.segments g WHERE c.relname = format('log_%s_%s', g.series, g.segment))"
    )
    assert not tables


async def test_a_source_that_changes_meanwhile_is_copied_again(db: asyncpg.Connection) -> None:
    replacing = Replacing(db)
    replacement = await replacing.begin(1, [0, 1])
    await replacing.fill(replacement, copy_alive)
    await replacing.attach(replacement)
    await db.execute("UPDATE kafka.segments SET changes = changes + 1 WHERE series = 1 AND segment = 1")
    with pytest.raises(NotNow):
        await replacing.swap(replacement)
    assert await replacing.give_up_interrupted() == 1
    assert await states(db) == {0: "sealed", 1: "sealed", 2: "sealed", 3: "active", 4: "freed"}
    assert await offsets(db) == OFFSETS
    await replaced(db, [0, 1])
    assert await offsets(db) == OFFSETS


async def test_a_series_has_one_replacement_at_a_time_and_of_complete_segments_only(db: asyncpg.Connection) -> None:
    replacing = Replacing(db)
    with pytest.raises(NotNow):
        await replacing.begin(1, [2, 3])
    with pytest.raises(NotNow):
        await replacing.begin(1, [])
    replacement = await replacing.begin(1, [0])
    with pytest.raises(NotNow):
        await replacing.begin(1, [1])
    await replacing.fill(replacement, copy_alive)
    await replacing.attach(replacement)
    await replacing.swap(replacement)
    with pytest.raises(NotNow):
        await replacing.begin(1, [1])  # while older snapshots may need what was replaced
    with pytest.raises(NotNow):
        await replacing.begin(77, [1])


async def test_the_room_of_the_disk_is_asked_before_each_piece(db: asyncpg.Connection) -> None:
    asked: list[float] = []

    def has_room(size: float) -> bool:
        asked.append(size)
        return len(asked) < 3

    paced: list[int] = []

    def pace(size: int) -> float:
        paced.append(size)
        return 0.0

    replacing = Replacing(db, has_room=has_room, pace=pace)
    replacement = await replacing.begin(1, [0, 1, 2])
    with pytest.raises(NotNow):
        await replacing.fill(replacement, copy_alive)
    assert len(asked) == 3 and asked[0] > 0
    assert sum(paced) == 4 * 2  # the first source's values
    await replacing.give_up_interrupted()
    assert set((await states(db)).values()) == {"sealed", "active"}


@BOTH
async def test_extents_of_neighbours_become_one_and_others_stay_apart(db: asyncpg.Connection) -> None:
    """Rows below the log start, of a deleted topic and of another partition; another segment between two extents."""
    await add_topic(db, "other", 2)
    await db.execute("INSERT INTO kafka.log_starts VALUES (1, 0, 3)")
    gone = await add_topic(db, "gone")
    for topic, partition, offset, segment in ((2, 1, 0, 0), (2, 1, 1, 2), (gone, 0, 0, 1)):
        await db.execute("UPDATE kafka.series SET id = id WHERE id = 1")
        await add_row(db, topic, offset, [b"o"], partition=partition, series=1, segment=segment)
    await db.execute("UPDATE kafka.extents SET last_offset = first_offset, bytes = 1, records = 1, first_timestamp = 1,"
                     " max_timestamp = 1 WHERE topic <> 1")  # fmt: skip
    await db.execute("UPDATE kafka.extents SET packed_from = 5 WHERE topic = 1 AND first_offset = 4")
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", gone)
    await replaced(db, [0, 2])
    rows = await db.fetch(
        "SELECT topic, first_offset, last_offset, segment, generation, records, bytes, packed_from"
        " FROM kafka.extents ORDER BY topic, first_offset"
    )
    assert [tuple(row) for row in rows] == [
        (1, 0, 3, 4, 1, 1, 2, None),
        (1, 4, 7, 1, 0, 4, 8, 5),
        (1, 8, 11, 4, 1, 4, 10, None),
        (1, 12, None, 3, 0, None, None, None),
        (2, 0, 1, 4, 1, 2, 2, None),
        (gone, 0, 0, 1, 0, 1, 1, None),
    ]
    assert await db.fetchval("SELECT bytes FROM kafka.segments WHERE series = 1 AND segment = 4") == 14
    assert await offsets(db) == OFFSETS[3:]


async def test_markers_move_and_are_not_noted_again(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"a"], is_transactional=True, producer_ids=[7])
    await add_marker(db, topic, 1, 7, is_commit=True)
    await add_row(db, topic, 2, [b"b"], is_transactional=True, producer_ids=[7])
    await add_marker(db, topic, 3, 7, is_commit=False)
    segments = Segments(db)
    await segments.roll(0, 0, "none")
    await segments.seal(0, 0)
    await db.execute("DELETE FROM kafka.markers WHERE marker_offset = 1")  # as retention does below the log start
    replacing = Replacing(db)
    replacement = await replacing.begin(0, [0])
    await replacing.fill(replacement, copy_alive)
    await replacing.attach(replacement)
    await replacing.swap(replacement)
    assert [row[0] for row in await db.fetch("SELECT marker_offset FROM kafka.markers")] == [3]
    assert await db.fetchval("SELECT count(*) FROM kafka.log_0_2 WHERE is_control") == 2


async def produced(leader: Leader, name: str, segments: int, per_segment: int, partitions: int = 1) -> list[object]:
    """A topic in series 0 whose rows lie in so many segments, the last one active."""
    topic = await leader.topic(name, partitions)
    parts = [await leader.partition(topic, index) for index in range(partitions)]
    connection = await asyncpg.connect(leader.dsn)
    for number in range(segments):
        for partition in parts:
            for count in range(per_segment):
                text = b"%d-%d" % (number, count)
                await leader.append(partition, batch(values(text, timestamp=1_700_000_000_000 + number)))
        if number + 1 < segments:
            await Segments(connection).roll(0, number, "none")
            await leader.log.switch_segment(0, number + 1)
            await Segments(connection).seal(0, number)
    await connection.close()
    return list(parts)


@pytest.mark.parametrize("lanes", [1, 3])
async def test_consumers_read_on_through_the_swap_and_those_that_did_not_hear_of_it(pg_dsn: str, lanes: int) -> None:
    async with leading(pg_dsn, lanes=lanes) as leader:
        parts = await produced(leader, "t", 4, 3, partitions=3)
        db = await asyncpg.connect(pg_dsn)
        replacing = Replacing(db)
        replacement = await replacing.begin(0, [0, 1, 2])
        await replacing.fill(replacement, copy_alive)
        await replacing.attach(replacement)
        moved = await replacing.swap(replacement)
        assert sorted(moved) == [(parts[0].topic.id, index) for index in range(3)]

        async def all_of(partition: object) -> list[int]:
            found: list[int] = []
            while len(found) < 12:
                found += [o for o, _, _ in records(await leader.log.read(partition, len(found), 1))]
            return found

        # Replaced segments still have their rows.
        assert await all_of(parts[0]) == list(range(12))
        for _, number in await replacing.unseen():
            await Segments(db).empty(0, number)
        # One has not heard of the swap, finds nothing, and looks where its rows are.
        assert await all_of(parts[0]) == list(range(12))
        for number in range(3):
            await Segments(db).drop_segment(0, number)
        # To another one the tables are not there any more.
        assert (await leader.log.offset_for_timestamp(parts[1], 1_700_000_000_002))[0] == 6
        assert await all_of(parts[1]) == list(range(12))
        await leader.log.rows_moved(moved)
        assert [(e.first_offset, e.segment, e.generation) for e in parts[2].extents] == [(0, 4, 1), (9, 3, 0)]
        assert await all_of(parts[2]) == list(range(12))
        await leader.append(parts[2], batch(values(b"more")))
        assert parts[2].high_watermark == 13
        await db.close()
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"], 2)
        assert partition.high_watermark == 13 and len(partition.extents) == 2


async def test_a_partition_that_is_loaded_while_its_segments_are_dropped(pg_dsn: str) -> None:
    """Its extents name tables that are gone when they are looked into; then they are read again."""
    async with leading(pg_dsn) as leader:
        await produced(leader, "t", 3, 2)
        db = await asyncpg.connect(pg_dsn)
        await db.execute("DELETE FROM kafka.partition_checkpoints")
    replacing = Replacing(db)
    async with leading(pg_dsn) as leader:
        await db.execute("DELETE FROM kafka.partition_checkpoints")
        replacement = await replacing.begin(0, [0, 1])
        await replacing.fill(replacement, copy_alive)
        await replacing.attach(replacement)
        loading = leader.log._loading
        read = loading._read_partitions
        calls = 0

        async def read_late(connection: asyncpg.Connection, chunk: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 1:
                fetch = connection.fetch
                rows = await read(connection, chunk)
                await replacing.swap(replacement)
                for number in (0, 1):
                    await Segments(db).drop_segment(0, number)
                assert fetch and rows
                raise asyncpg.UndefinedTableError("relation does not exist")
            return await read(connection, chunk)

        loading._read_partitions = read_late  # type: ignore[method-assign,assignment]
        partition = await leader.partition(leader.topics.by_name["t"])
        assert calls == 2 and partition.high_watermark == 6
        assert [e.segment for e in partition.extents] == [3, 2]
    await db.close()
