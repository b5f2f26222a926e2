"""kafka.delete_records(): by offset, by time, who may, and what it leaves for others to do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.storage.log_rows import add_row, add_topic, connect_migrated
from tests.wire_batches import batch, values

from pg_kafka.storage import log_starts
from pg_kafka.storage.catalogue_changes import CatalogueChanges, Change
from pg_kafka.storage.segments import Segments

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
T0 = 1_700_000_000_000


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


async def offsets(db: asyncpg.Connection, partition: int = 0) -> list[int]:
    found = await db.fetch("SELECT partition_offset FROM kafka.messages WHERE partition_id = $1 ORDER BY 1", partition)
    return [row[0] for row in found]


@BOTH_SERVERS
async def test_by_offset(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t", 2)
    await add_row(db, topic, 0, [b"a", b"b", b"c"])
    await add_row(db, topic, 3, [b"d"])
    assert await db.fetchval("SELECT kafka.delete_records('t', 0, 1)") == 1
    assert await offsets(db) == [1, 2, 3]
    assert await db.fetchval("SELECT kafka.delete_records('t', 0, 0)") == 1
    assert await db.fetchval("SELECT kafka.delete_records('t', 0, 3)") == 3
    assert await db.fetchval("SELECT kafka.delete_records('t', 0, -1)") == 4
    assert await offsets(db) == []
    assert await db.fetchval("SELECT kafka.delete_records('t', 1, -1)") == 0


async def test_what_is_not_there_is_an_error(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t", 2)
    await add_row(db, topic, 0, [b"a"])
    for call, error in (
        ("'nowhere', 0, 0", asyncpg.UndefinedObjectError),
        ("'t', 2, 0", asyncpg.UndefinedObjectError),
        ("'t', -1, 0", asyncpg.UndefinedObjectError),
        ("'t', 0, 2", asyncpg.NumericValueOutOfRangeError),
        ("'t', 0, -2", asyncpg.NumericValueOutOfRangeError),
        ("'t', 0, NULL", asyncpg.NullValueNotAllowedError),
        ("NULL, 0, 0", asyncpg.NullValueNotAllowedError),
        ("'t', 'infinity'", asyncpg.DatetimeFieldOverflowError),
        ("'nowhere', now()", asyncpg.UndefinedObjectError),
        ("'t', NULL::timestamptz", asyncpg.NullValueNotAllowedError),
    ):
        with pytest.raises(error):
            await db.fetch(f"SELECT kafka.delete_records({call})")
    assert await db.fetchval("SELECT count(*) FROM kafka.log_starts") == 0


async def test_topics_that_are_compacted_only_keep_their_records(db: asyncpg.Connection) -> None:
    await add_topic(db, "compacted", configs='{"cleanup.policy": "compact"}')
    await add_topic(db, "both", configs='{"cleanup.policy": "compact,delete"}')
    for call in ("'compacted', 0, 0", "'compacted', now()"):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="compacted"):
            await db.fetch(f"SELECT kafka.delete_records({call})")
    assert await db.fetchval("SELECT kafka.delete_records('both', 0, 0)") == 0


async def test_by_time_up_to_the_first_record_that_is_as_late(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t", 3)
    # The record at 3 is older than those before it, and stays: what is deleted is a beginning of the log.
    await add_row(db, topic, 0, [b"a", b"b"], timestamps=[T0, T0 + 1])
    await add_row(db, topic, 2, [b"c", b"d", b"e"], timestamps=[T0 + 2, T0 - 5, T0 + 3])
    await add_row(db, topic, 0, [b"x"], partition=1, first_timestamp=T0)

    async def starts(at_ms: int) -> list[int]:
        rows = await db.fetch(
            "SELECT * FROM kafka.delete_records('t', timestamptz 'epoch' + $1 * interval '1 ms')", at_ms
        )
        assert [row["partition_id"] for row in rows] == [0, 1, 2]
        return [row["log_start_offset"] for row in rows]

    assert await starts(T0) == [0, 0, 0]
    assert await starts(T0 + 1) == [1, 1, 0]
    assert await offsets(db, 1) == []
    assert await starts(T0 + 2) == [2, 1, 0]
    assert await offsets(db) == [2, 3, 4]
    # From the start on there is none before offset 4 that is as late.
    assert await starts(T0 + 3) == [4, 1, 0]
    assert await starts(T0) == [4, 1, 0]
    assert await starts(T0 + 4) == [5, 1, 0]


async def test_time_over_segments_with_and_without_figures(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    await Segments(db).roll(0, 0, "none")
    await add_row(db, topic, 0, [b"a"], first_timestamp=T0)
    await add_row(db, topic, 1, [b"b"], first_timestamp=T0 + 9)
    await add_row(db, topic, 2, [b"c"], segment=1, first_timestamp=T0 + 1)
    await db.execute(
        "UPDATE kafka.extents SET last_offset = 1, bytes = 2, records = 2, first_timestamp = $1::bigint,"
        " max_timestamp = $1::bigint + 9 WHERE segment = 0",
        T0,
    )
    at = "timestamptz 'epoch' + $1 * interval '1 ms'"
    assert await db.fetchval("SELECT kafka.offset_at($2, 0, $1)", T0 + 1, topic) == 1
    await db.execute("SELECT kafka.delete_records('t', 0, 2)")
    assert await db.fetchval(f"SELECT log_start_offset FROM kafka.delete_records('t', {at})", T0) == 2
    assert await db.fetchval("SELECT kafka.offset_at($2, 0, $1)", T0 + 1, topic) == 2
    assert await db.fetchval("SELECT kafka.offset_at($2, 0, $1)", T0 + 2, topic) is None


async def test_of_a_row_that_sql_cannot_look_into_all_is_kept(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", **{"storage.layout": "batches"})
        await leader.keep_layouts()
        assert leader.layouts is not None
        partition = await leader.partition(topic)
        connection = await asyncpg.connect(pg_dsn)
        async with asyncio.timeout(20):
            number = 0
            while not await connection.fetchval("SELECT bool_or(batch IS NOT NULL) FROM kafka.log"):
                # Batches are kept as they come once the broker has said so in the catalogue.
                partition = await leader.partition(leader.topics.by_name["t"])
                stamped = [(None, b"v", T0 + 1000 * number + n, ()) for n in range(3)]
                await leader.append(partition, batch(stamped, codec=1))
                number += 1
        packed = await connection.fetchval("SELECT min(base_offset) FROM kafka.log WHERE batch IS NOT NULL")
        at_ms = T0 + 1000 * (packed // 3) + 1
        found = await connection.fetchval("SELECT kafka.offset_at((SELECT id FROM kafka.topics), 0, $1)", at_ms)
        assert found == packed
        await connection.close()


async def test_change_is_noted_once_and_a_leader_follows_it(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        partitions = [await leader.partition(topic, index) for index in range(3)]
        for partition in partitions:
            await leader.append(partition, batch(values(b"a", b"b")))
        connection = await asyncpg.connect(pg_dsn)
        changes = CatalogueChanges()
        told: list[Change] = []
        follower = log_starts.FollowStarts(leader.control, leader.log.take_starts)

        async def apply(found: list[Change] | None) -> None:
            told.extend(found or ())
            await follower.follow(found)

        await changes.follow(connection, apply)  # type: ignore[arg-type]
        other = await asyncpg.connect(pg_dsn)
        async with other.transaction():
            await other.fetch("SELECT kafka.delete_records('t', 'epoch'::timestamptz + interval '99 years')")
            await changes.follow(connection, apply)  # type: ignore[arg-type]
            assert not told and [p.log_start_offset for p in partitions] == [0, 0, 0]
        await changes.follow(connection, apply)  # type: ignore[arg-type]
        assert [(c.kind, c.object_id, c.name, c.what) for c in told] == [("log start", topic.id, "t", "changed")]
        assert [p.log_start_offset for p in partitions] == [2, 2, 2]
        await connection.close()
        await other.close()


async def test_an_open_sql_transaction_holds_nobody_up(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        first, second = await leader.partition(topic, 0), await leader.partition(topic, 1)
        for partition in (first, second):
            await leader.append(partition, batch(values(b"a", b"b")))
        assert await leader.log.delete_records([(first, 1)]) == [1]
        other = await asyncpg.connect(pg_dsn)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT kafka.delete_records('t', 0, 2)")
        async with asyncio.timeout(20):
            busy, moved = await leader.log.delete_records([(first, 2), (second, 1)])
            assert (moved, getattr(busy, "retriable", None)) == (1, True)
            assert (await leader.append(first, batch(values(b"c")))).base_offset == 2
            await leader.topics.delete([topic])
        await transaction.commit()
        # What it has written belongs to no topic any more.
        assert await other.fetchval("SELECT count(*) FROM kafka.topics") == 0
        await other.close()


@BOTH_SERVERS
async def test_only_who_was_granted_it_may(db: asyncpg.Connection, pg_superuser_dsn: str) -> None:
    topic = await add_topic(db, "t")
    await add_row(db, topic, 0, [b"a", b"b"])
    superuser = await asyncpg.connect(pg_superuser_dsn)
    role = f"deleter_{secrets.token_hex(4)}"
    await superuser.execute(f"CREATE ROLE {role}")
    try:
        await superuser.execute(f"GRANT USAGE ON SCHEMA kafka TO {role}")
        for call in ("delete_records('t', 0, 1)", "delete_records('t', now())", f"delete_before({topic}, 0, 1)"):
            await superuser.execute(f"SET ROLE {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await superuser.execute(f"SELECT kafka.{call}")
            await superuser.execute("RESET ROLE")
        await superuser.execute(f"GRANT EXECUTE ON FUNCTION kafka.delete_records(text, integer, bigint) TO {role}")
        await superuser.execute(f"SET ROLE {role}")
        assert await superuser.fetchval("SELECT kafka.delete_records('t', 0, 1)") == 1
        await superuser.execute("RESET ROLE")
    finally:
        await superuser.execute(f"DROP OWNED BY {role}")
        await superuser.execute(f"DROP ROLE {role}")
        await superuser.close()
