"""What SQL users see of consumer groups, made of records as the machines write them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.classic_member import ClassicMember
from pg_kafka.coordinator.consumer_member import (
    ConsumerMember,
    MemberState,
    current_value,
    member_value,
)
from pg_kafka.coordinator.records import Record
from pg_kafka.storage.segments import Segments

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

# ConsumerProtocolSubscription and ConsumerProtocolAssignment of version 0: topic orders, partitions 0 and 1.
SUBSCRIPTION = b"\0\0" + b"\0\0\0\1" + b"\0\6orders" + b"\xff\xff\xff\xff"
ASSIGNMENT = b"\0\0" + b"\0\0\0\1" + b"\0\6orders" + b"\0\0\0\2" + b"\0\0\0\0" + b"\0\0\0\1" + b"\xff\xff\xff\xff"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


class Journal:
    """Appends to the journals as a lane does."""

    def __init__(self, db: asyncpg.Connection) -> None:
        self.db = db
        self.entry = 0

    async def record(self, group: str, record: Record, table: int = 0) -> None:
        self.entry += 1
        await self.db.execute(
            f"INSERT INTO kafka.group_journal_{table} (entry, group_id, kind, key, value) VALUES ($1, $2, $3, $4, $5)",
            self.entry,
            group,
            record.kind,
            record.key,
            None if record.value is None else json.dumps(record.value),
        )

    async def commit(self, group: str, topic: int, partition: int, offset: int | None, table: int = 0) -> None:
        self.entry += 1
        await self.db.execute(
            f"INSERT INTO kafka.offset_journal_{table} (entry, group_id, topic_id, partition_id, committed_offset) "
            "VALUES ($1, $2, $3, $4, $5)",
            self.entry,
            group,
            topic,
            partition,
            offset,
        )

    async def consumer(self, group: str, epoch: int, target_epoch: int, *members: ConsumerMember) -> None:
        value: Mapping[str, Any] = {"epoch": epoch, "target_epoch": target_epoch, "topics_hash": "00"}
        await self.record(group, Record("consumer", "", value))
        for member in members:
            await self.record(group, Record("member", member.member_id, member_value(member)))
            await self.record(group, Record("current", member.member_id, current_value(member)))


@pytest.fixture
def journal(db: asyncpg.Connection) -> Journal:
    return Journal(db)


def classic_record(protocol: bytes = SUBSCRIPTION, assignment: bytes = ASSIGNMENT) -> Record:
    members = [
        ClassicMember("m-1", None, "reader", "/10.0.0.7", 45_000, 60_000, (("range", protocol),), assignment),
        ClassicMember("m-2", "static", "other", "/10.0.0.8", 45_000, 60_000, (("range", protocol),), b""),
    ]
    _, record = ClassicGroup.of_members(
        "g", GroupSettings(), members, generation=3, protocol="range", leader="m-1", steady_ms=5
    )
    return record


async def rows(db: asyncpg.Connection, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await db.fetch(query, *arguments)]


async def test_classic_group_is_shown_with_what_its_clients_said(db: asyncpg.Connection, journal: Journal) -> None:
    await journal.record("g", classic_record())
    assert await rows(
        db, "SELECT group_id, kind, state, generation, protocol_type, protocol, members FROM kafka.groups"
    ) == [("g", "classic", "Stable", 3, "consumer", "range", 2)]
    assert await rows(
        db,
        "SELECT member_id, group_instance_id, client_id, client_host, protocol, generation, session_timeout_ms, "
        "rebalance_timeout_ms, topics, topic_regex FROM kafka.group_members ORDER BY member_id",
    ) == [
        ("m-1", None, "reader", "10.0.0.7", "classic", 3, 45_000, 60_000, ["orders"], None),
        ("m-2", "static", "other", "10.0.0.8", "classic", 3, 45_000, 60_000, ["orders"], None),
    ]
    assert await rows(db, "SELECT * FROM kafka.group_assignments ORDER BY partition") == [
        ("g", "m-1", "orders", 0),
        ("g", "m-1", "orders", 1),
    ]


async def test_bytes_that_nobody_can_read_are_no_error(db: asyncpg.Connection, journal: Journal) -> None:
    await journal.record("g", classic_record(b"\xff\xfe", b"\xff"))
    assert await rows(db, "SELECT topics FROM kafka.group_members") == [(None,), (None,)]
    assert await rows(db, "SELECT * FROM kafka.group_assignments") == []
    assert await rows(db, "SELECT * FROM kafka.consumer_lag") == []


async def test_deleted_group_is_gone_and_a_newer_record_counts(db: asyncpg.Connection, journal: Journal) -> None:
    await journal.record("gone", classic_record())
    await journal.record("gone", Record("classic", "", None), table=1)
    await journal.record("empty", classic_record(), table=1)
    await journal.record("empty", Record("classic", "", {**classic_record().value, "members": [], "state": "Empty"}))  # type: ignore[dict-item]
    assert await rows(db, "SELECT group_id, state, members FROM kafka.groups") == [("empty", "Empty", 0)]
    assert await rows(db, "SELECT * FROM kafka.group_members") == []


async def test_group_that_only_commits_is_shown(db: asyncpg.Connection, journal: Journal) -> None:
    topic = await add_topic(db, "orders")
    await journal.commit("simple", topic, 0, 5)
    await journal.commit("forgotten", topic, 0, 5)
    await journal.commit("forgotten", topic, 0, None)
    await journal.record("g", classic_record())
    await journal.commit("g", topic, 0, 5)
    assert await rows(db, "SELECT group_id, kind, state, members FROM kafka.groups ORDER BY 1") == [
        ("g", "classic", "Stable", 2),
        ("simple", "classic", "Empty", 0),
    ]


async def test_consumer_group_is_shown_with_how_far_its_members_are(db: asyncpg.Connection, journal: Journal) -> None:
    topic = await add_topic(db, "orders", 4)
    uuid: UUID = await db.fetchval("SELECT uuid FROM kafka.topics WHERE id = $1", topic)
    first = ConsumerMember(
        "m-1", None, None, "reader", "/10.0.0.7", "", 45_000, ("orders",), "", "uniform", None, 2, 1, MemberState.STABLE,
        {uuid: {0: 1, 3: 2}},
    )  # fmt: skip
    second = ConsumerMember(
        "m-2", "static", None, "other", "/h", "", 45_000, (), "ord.*", None, None, 1, 0, MemberState.UNREVOKED_PARTITIONS,
        {uuid: {1: 1}}, {uuid: {2: 1}},
    )  # fmt: skip
    state = "SELECT state, generation, protocol, members FROM kafka.groups"
    await journal.consumer("c", 2, 2, first, second)
    assert await rows(db, state) == [("Reconciling", 2, "uniform", 2)]
    assert await rows(
        db,
        "SELECT member_id, group_instance_id, client_host, protocol, generation, topics, topic_regex FROM kafka.group_members",
    ) == [
        ("m-1", None, "10.0.0.7", "consumer", 2, ["orders"], None),
        ("m-2", "static", "h", "consumer", 1, [], "ord.*"),
    ]
    assert await rows(db, "SELECT member_id, topic, partition FROM kafka.group_assignments ORDER BY 3") == [
        ("m-1", "orders", 0),
        ("m-2", "orders", 1),
        ("m-1", "orders", 3),
    ]
    await journal.consumer("c", 3, 2)
    assert (await rows(db, state))[0][0] == "Assigning"
    for kind in ("member", "current"):
        await journal.record("c", Record(kind, "m-2", None))
    await journal.consumer("c", 2, 2)
    assert (await rows(db, state))[0][0] == "Stable"
    for kind in ("member", "current"):
        await journal.record("c", Record(kind, "m-1", None))
    assert await rows(db, state) == [("Empty", 2, None, 0)]
    await journal.record("c", Record("consumer", "", None))
    assert await rows(db, state) == []


async def test_lag_is_the_log_s_end_less_the_commit(db: asyncpg.Connection, journal: Journal) -> None:
    topic, other = await add_topic(db, "orders", 4), await add_topic(db, "other")
    await add_row(db, topic, 0, [b"a"] * 10)
    await add_row(db, topic, 10, [b"a"] * 5)
    await add_row(db, topic, 0, [b"a"] * 3, partition=1)
    await add_row(db, other, 0, [b"a"] * 7)
    await journal.record("g", classic_record())
    await journal.commit("g", topic, 0, 4)
    await journal.commit("g", topic, 2, 0)
    await journal.commit("g", other, 0, 9)
    columns = "group_id, topic, partition, committed_offset, end_offset, lag, member_id, client_id, client_host"
    lag = f"SELECT {columns} FROM kafka.consumer_lag WHERE group_id = 'g' ORDER BY topic, partition"
    assert await rows(db, lag) == [
        ("g", "orders", 0, 4, 15, 11, "m-1", "reader", "10.0.0.7"),
        ("g", "orders", 1, None, 3, None, "m-1", "reader", "10.0.0.7"),
        ("g", "orders", 2, 0, 0, 0, None, None, None),
        ("g", "other", 0, 9, 7, 0, None, None, None),
    ]
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", topic)
    assert await rows(db, "SELECT topic, lag FROM kafka.consumer_lag") == [("other", 0)]


async def test_commits_of_any_number_end_no_query(db: asyncpg.Connection, journal: Journal) -> None:
    """A client may commit what it likes: its group's lag is unknown, and that of others is there."""
    topic = await add_topic(db, "orders", 5)
    await add_row(db, topic, 0, [b"a"] * 10)
    for partition, offset in enumerate((-1, -(2**63), -5, 2**63 - 1, 4)):
        await journal.commit("g", topic, partition, offset)
    await journal.commit("h", topic, 0, 4)
    lags = "SELECT group_id, partition, lag FROM kafka.consumer_lag ORDER BY group_id, partition"
    assert await rows(db, lags) == [
        ("g", 0, None),
        ("g", 1, None),
        ("g", 2, None),
        ("g", 3, 0),
        ("g", 4, 0),
        ("h", 0, 6),
    ]
    behind = "SELECT group_id FROM kafka.consumer_lag WHERE lag > 5 ORDER BY lag DESC"
    assert await rows(db, behind) == [("h",)]
    assert await rows(db, "SELECT count(*) FROM kafka.groups") == [(2,)]


async def test_end_of_a_partition_is_found_wherever_its_last_rows_are(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t", 3)
    end = "SELECT kafka.end_offset($1, $2)"
    assert await db.fetchval(end, topic, 0) == 0
    await add_row(db, topic, 0, [b"a"] * 10)
    await add_row(db, topic, 10, [b"m"], is_control=True)
    assert await db.fetchval(end, topic, 0) == 11
    assert await db.fetchval(end, topic, 1) == 0
    await Segments(db).create_series(topic, "none")
    await add_row(db, topic, 11, [b"a"] * 4, series=topic)
    assert await db.fetchval(end, topic, 0) == 15
    # All of it has been deleted and its table freed; the next append begins where it ended.
    await db.execute("INSERT INTO kafka.log_starts VALUES ($1, 0, 15)", topic)
    await Segments(db).empty(topic, 0)
    assert await db.fetchval(end, topic, 0) == 15
    await db.execute("UPDATE kafka.extents SET segment = 7 WHERE topic = $1 AND series = $1", topic)
    assert await db.fetchval(end, topic, 0) == 15


async def test_end_of_a_partition_costs_an_index_look_up(db: asyncpg.Connection) -> None:
    topic = await add_topic(db, "t")
    for base in range(0, 3000, 10):
        await add_row(db, topic, base, [b"a"] * 10)
    await db.execute("ANALYZE")
    read = (
        "SELECT coalesce(sum(seq_scan), 0), coalesce(sum(idx_tup_fetch), 0) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'log_0_0'"
    )
    async with db.transaction():
        before = await db.fetchrow(read)
        assert await db.fetchval("SELECT kafka.end_offset($1, 0)", topic) == 3000
        after = await db.fetchrow(read)
    assert (after[0] - before[0], after[1] - before[1]) in [(0, 0), (0, 1)]


async def test_history_lists_a_line_once(db: asyncpg.Connection) -> None:
    for table in (0, 1):
        await db.execute(
            f"INSERT INTO kafka.history_journal_{table} SELECT n, 'g', 'member joined', n, 'm', 'c', '/h', 'why', "
            "timestamptz '2026-01-01Z' FROM generate_series(1, $1::bigint) n",
            3 - table,
        )
    assert await rows(db, "SELECT generation, event, detail FROM kafka.group_history ORDER BY entry") == [
        (n, "member joined", "why") for n in (1, 2, 3)
    ]


async def test_a_reader_of_lag_needs_the_view_and_the_function(
    db: asyncpg.Connection, journal: Journal, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    topic = await add_topic(db, "orders")
    await add_row(db, topic, 0, [b"a"] * 2)
    await journal.commit("g", topic, 0, 1)
    reader = postgres_server.create_database()
    await db.execute(f"GRANT USAGE ON SCHEMA kafka TO {reader.name}")
    await db.execute(f"GRANT SELECT ON kafka.consumer_lag TO {reader.name}")
    other = await asyncpg.connect(pg_superuser_dsn)
    await other.execute(f"SET ROLE {reader.name}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await other.fetch("SELECT lag FROM kafka.consumer_lag")
    await db.execute(f"GRANT EXECUTE ON FUNCTION kafka.end_offset TO {reader.name}")
    assert await rows(other, "SELECT lag FROM kafka.consumer_lag") == [(1,)]
    for secret in ("kafka.group_records", "kafka.offset_journal_0", "kafka.log_0_0"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch(f"SELECT * FROM {secret}")
    await other.close()
    await db.execute(f"REVOKE ALL ON SCHEMA kafka FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON kafka.consumer_lag FROM {reader.name}")
    await db.execute(f"REVOKE ALL ON FUNCTION kafka.end_offset FROM {reader.name}")
    postgres_server.drop_database(reader)
