"""How far consumer groups are behind, as SQL sees it: for how long the first unread record has been in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import add_marker, add_row, add_topic, connect_migrated

from pg_kafka.storage.queries import SQL, load
from pg_kafka.storage.segments import Segments

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

MINUTE = 60_000
SINCE = "SELECT kafka.unread_since($1, $2, $3)"
SECONDS = "SELECT partition, lag, lag_seconds FROM kafka.consumer_lag ORDER BY group_id, topic, partition"


class Group:
    """A group that commits, and a topic with rows that were appended a minute after each other."""

    def __init__(self, db: asyncpg.Connection, topic: int, now: int) -> None:
        self.db = db
        self.topic = topic
        self.now = now
        self._entry = 0

    async def commit(self, partition: int, offset: int | None, *, group: str = "g", topic: int = 0) -> None:
        self._entry += 1
        await self.db.execute(
            "INSERT INTO kafka.offset_journal_0 (entry, group_id, topic_id, partition_id, committed_offset) "
            "VALUES ($1, $2, $3, $4, $5)",
            self._entry,
            group,
            topic or self.topic,
            partition,
            offset,
        )

    async def rows(self, *, partition: int = 0, minutes_ago: tuple[int, ...], **options: Any) -> None:
        """Rows of ten records, from the partition's end on."""
        end = await self.db.fetchval("SELECT kafka.end_offset($1, $2)", self.topic, partition)
        for n, ago in enumerate(minutes_ago):
            at = self.now - ago * MINUTE
            options |= {"partition": partition, "append_time": at, "first_timestamp": 5}
            await add_row(self.db, self.topic, end + 10 * n, [b"a"] * 10, **options)

    async def minutes(self, offset: int, partition: int = 0) -> int | None:
        """How many minutes ago the first unread record was appended."""
        at = await self.db.fetchval(SINCE, self.topic, partition, offset)
        many = await self.db.fetchval(
            "SELECT append_time FROM kafka.unread_times($1, $2, $3)", [self.topic], [partition], [offset]
        )
        assert many == at
        return None if at is None else (self.now - at) // MINUTE


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def group(db: asyncpg.Connection) -> Group:
    now = await db.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return Group(db, await add_topic(db, "orders", 4), now)


async def lag(db: asyncpg.Connection) -> list[tuple[int, int | None, int | None]]:
    """Partition, records, whole minutes."""
    return [
        (row["partition"], row["lag"], None if row["lag_seconds"] is None else int(row["lag_seconds"] // 60))
        for row in await db.fetch(SECONDS)
    ]


async def test_it_is_the_first_unread_record_that_counts(db: asyncpg.Connection, group: Group) -> None:
    await group.rows(minutes_ago=(30, 20, 10))
    assert [await group.minutes(offset) for offset in (0, 9, 10, 15, 20, 29, 30)] == [30, 30, 20, 20, 10, 10, None]
    await group.commit(0, 15)
    await group.commit(1, 0)
    await group.commit(2, -1)
    await group.commit(0, 30, group="h")
    await group.commit(0, 10**15, group="i")
    assert await lag(db) == [(0, 15, 20), (1, 0, 0), (2, None, None), (0, 0, 0), (0, 0, 0)]


async def test_seconds_have_fractions_and_are_never_below_zero(db: asyncpg.Connection, group: Group) -> None:
    """A record of the future: the clock was set back, or that of the broker is ahead of the database's."""
    await group.rows(minutes_ago=(1, -60))
    await group.commit(0, 0)
    await group.commit(0, 10, group="h")
    (first, second) = [row["lag_seconds"] for row in await db.fetch(SECONDS)]
    assert 60 <= first < 120
    assert second == 0


async def test_records_below_the_log_start_are_gone(db: asyncpg.Connection, group: Group) -> None:
    await group.rows(minutes_ago=(30, 20, 10))
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 25)", group.topic)
    assert [await group.minutes(offset) for offset in (0, 15, 25)] == [10, 10, 10]
    await group.commit(0, 5)
    assert await lag(db) == [(0, 25, 10)]
    await db.execute("UPDATE kafka.log_starts SET log_start_offset = 30")
    assert await lag(db) == [(0, 25, 0)]


async def test_records_that_compaction_removed_do_not_count(db: asyncpg.Connection, group: Group) -> None:
    at = [group.now - ago * MINUTE for ago in (40, 30, 20)]
    # Of 0 to 9 record 3 is left, nothing of 10 to 19, and 25 of 20 to 29.
    await add_row(db, group.topic, 0, [b"a"], offset_deltas=[3], append_time=at[0])
    await add_row(db, group.topic, 10, [b"a"], append_time=at[1])
    await db.execute("UPDATE kafka.log SET last_offset = 9 WHERE base_offset = 0")
    await db.execute("UPDATE kafka.log SET last_offset = 19, record_count = 0, values = NULL WHERE base_offset = 10")
    await add_row(db, group.topic, 20, [b"a"], offset_deltas=[5], append_time=at[2])
    assert [await group.minutes(offset) for offset in (0, 3, 4, 10, 19, 25, 26)] == [40, 40, 20, 20, 20, 20, None]


async def test_rows_of_later_segments_are_found(db: asyncpg.Connection, group: Group) -> None:
    """What a topic has in the shared series is gone, or has nothing to read behind the place."""
    await group.rows(minutes_ago=(30,))
    await Segments(db).create_series(group.topic, "none")
    await group.rows(minutes_ago=(20, 10), series=group.topic)
    assert [await group.minutes(offset) for offset in (5, 10, 25)] == [30, 20, 10]
    await db.execute(
        "UPDATE kafka.log SET record_count = 0, values = NULL WHERE topic = $1 AND series = 0", group.topic
    )
    assert await group.minutes(5) == 20
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 10)", group.topic)
    await db.execute("UPDATE kafka.extents SET segment = 7 WHERE topic = $1 AND series = 0", group.topic)
    assert [await group.minutes(offset) for offset in (0, 5)] == [20, 20]


async def test_ends_of_transactions_and_aborted_records_are_nothing_to_read(
    db: asyncpg.Connection, group: Group
) -> None:
    await group.rows(minutes_ago=(50,), is_transactional=True, producer_ids=[7])
    await add_marker(db, group.topic, 10, 7, is_commit=True, append_time=group.now - 40 * MINUTE)
    assert await db.fetchval("SELECT kafka.end_offset($1, 0)", group.topic) == 11
    await group.commit(0, 10)
    assert await lag(db) == [(0, 1, 0)]
    assert [await group.minutes(offset) for offset in (0, 10)] == [50, None]
    # An open transaction's records count: nobody knows yet what becomes of them.
    await group.rows(minutes_ago=(30,), is_transactional=True, producer_ids=[7])
    assert await lag(db) == [(0, 11, 30)]
    await add_marker(db, group.topic, 21, 7, is_commit=False, append_time=group.now)
    assert await lag(db) == [(0, 12, 0)]
    await group.rows(minutes_ago=(10,))
    assert await lag(db) == [(0, 22, 10)]
    # Between the two the producers are told apart.
    await group.rows(minutes_ago=(9,), is_transactional=True, producer_ids=[8])
    await add_marker(db, group.topic, 42, 9, is_commit=False, append_time=group.now)
    assert await group.minutes(32) == 9


async def test_a_crowd_of_ends_of_transactions_is_not_walked_through(db: asyncpg.Connection, group: Group) -> None:
    """A thousand rows are looked at; then the last of them counts, too old rather than none."""
    for n in range(1_000):
        await add_marker(db, group.topic, n, n, is_commit=True, append_time=group.now - 5 * MINUTE)
    await group.rows(minutes_ago=(1,))
    assert [await group.minutes(offset) for offset in (0, 1)] == [5, 1]


async def test_places_of_many_topics_are_found_at_once(db: asyncpg.Connection, group: Group) -> None:
    other = await add_topic(db, "other")
    await Segments(db).create_series(other, "none")
    await add_row(db, other, 0, [b"a"], series=other, append_time=77)
    await group.rows(minutes_ago=(3, 2))
    await group.rows(minutes_ago=(5,), partition=1)
    places = [
        (group.topic, 1, 0),
        (other, 0, 0),
        (group.topic, 3, 0),
        (group.topic, 0, 12),
        (10**9, 0, 0),
        (other, 0, 1),
    ]
    found = await db.fetch(
        "SELECT * FROM kafka.unread_times($1, $2, $3)", *(list(each) for each in zip(*places, strict=True))
    )
    assert {row["n"]: row["append_time"] for row in found if row["append_time"] is not None} == {
        1: group.now - 5 * MINUTE,
        2: 77,
        4: group.now - 2 * MINUTE,
    }


async def test_a_place_costs_an_index_look_up(db: asyncpg.Connection, group: Group) -> None:
    await group.rows(minutes_ago=tuple(range(300, 0, -1)))
    await db.execute("ANALYZE")
    read = (
        "SELECT coalesce(sum(seq_scan), 0), coalesce(sum(idx_tup_fetch), 0) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'log_0_0'"
    )
    async with db.transaction():
        before = await db.fetchrow(read)
        assert await db.fetchval(SINCE, group.topic, 0, 15) == group.now - 299 * MINUTE
        await db.fetch("SELECT * FROM kafka.unread_times($1, $2, $3)", [group.topic] * 2, [0, 0], [15, 2995])
        after = await db.fetchrow(read)
    assert after[0] == before[0]
    assert after[1] - before[1] <= 3 * 3


async def test_who_leaves_lag_seconds_out_does_not_pay_for_it(db: asyncpg.Connection, group: Group) -> None:
    await group.commit(0, 0)
    plan = "EXPLAIN (VERBOSE, COSTS off) SELECT {} FROM kafka.consumer_lag"
    asked = [
        any("unread_since" in row[0] for row in await db.fetch(plan.format(columns)))
        for columns in ("group_id, partition, lag", "lag, lag_seconds")
    ]
    assert asked == [False, True]


async def test_whoever_could_read_the_view_before_an_upgrade_can_after_it(
    db: asyncpg.Connection, group: Group, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    await group.rows(minutes_ago=(1,))
    await group.commit(0, 0)
    reader = postgres_server.create_database()
    await db.execute(f"GRANT USAGE ON SCHEMA kafka TO {reader.name}")
    await db.execute(f"GRANT SELECT ON kafka.consumer_lag, kafka.lag_history TO {reader.name}")
    await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.end_offset TO {reader.name}")
    other = await asyncpg.connect(pg_superuser_dsn)
    await other.execute(f"SET ROLE {reader.name}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await other.fetch("SELECT * FROM kafka.consumer_lag")
    assert await other.fetchval("SELECT lag FROM kafka.consumer_lag") == 10
    assert await other.fetch("SELECT * FROM kafka.lag_history") == []
    # As an upgrade does behind its migrations.
    async with db.transaction():
        await db.execute("SET LOCAL search_path = pg_catalog")
        await db.execute((SQL / "features" / "056_lag.sql").read_text(encoding="utf-8"))
        await db.execute(load("migrate")["revoke_all"])
    assert await other.fetchval("SELECT lag_seconds FROM kafka.consumer_lag") >= 60
    for secret in ("kafka.lag_minutes", "kafka.lag_minutes_0", "kafka.lag_turn"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch(f"SELECT * FROM {secret}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await other.fetch("SELECT * FROM kafka.unread_times('{}', '{}', '{}')")
    await other.close()
    await db.execute(f"REVOKE ALL ON SCHEMA kafka FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON kafka.consumer_lag, kafka.lag_history FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON FUNCTION kafka.end_offset, kafka.unread_since FROM {reader.name}")
    postgres_server.drop_database(reader)
