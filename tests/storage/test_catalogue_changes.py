"""Changes of topics, settings and group configs are noted with who and when; readers miss none and get none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.storage.janitors import janitor_of
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_topic, connect_migrated
from tests.wire_batches import batch, values

from pg_kafka.storage.catalogue_changes import CatalogueChanges, Change
from pg_kafka.storage.sessions import unavailable
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.wire.error_codes import ErrorCode

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn, settings={"pg_kafka.num_partitions": "Partitions of new topics."})
    yield connection
    await connection.close()


@pytest.fixture
async def other(db: asyncpg.Connection, pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn, server_settings={"application_name": "other"})
    yield connection
    await connection.close()


class Reader:
    """What one reader is told; None when it has to reread everything."""

    def __init__(self, connection: asyncpg.Connection, **options: int) -> None:
        self._connection = connection
        self._changes = CatalogueChanges(**options)

    async def look(self) -> list[str] | None:
        told: list[Sequence[Change] | None] = []

        async def apply(changes: Sequence[Change] | None) -> None:
            told.append(changes)

        await self._changes.follow(self._connection, apply)
        assert len(told) < 2
        if not told:
            return []
        return None if told[0] is None else [f"{change.kind} {change.name} {change.what}" for change in told[0]]


@BOTH_SERVERS
async def test_every_kind_of_change_is_noted_with_who_and_when(
    db: asyncpg.Connection, other: asyncpg.Connection, pg_superuser_dsn: str
) -> None:
    role = await db.fetchval("SELECT session_user")
    before = await db.fetchval("SELECT clock_timestamp()")
    first, second = await add_topic(other, "a"), await add_topic(other, "b")
    await other.execute('UPDATE kafka.topics SET configs = \'{"retention.ms": "5"}\'')
    await other.execute("UPDATE kafka.topics SET partitions = 3 WHERE id = $1", first)
    # What is no change of a topic, and what changes nothing.
    await db.execute("UPDATE kafka.topics SET configs = configs, partitions = partitions, view_name = name, series = 0")
    await db.execute("UPDATE kafka.topics SET series = id WHERE id = $1", second)
    await db.execute("INSERT INTO kafka.topics (name, partitions) VALUES ('a', 1) ON CONFLICT DO NOTHING")
    for value in ("1", "1", "2", None):
        await db.execute("SELECT kafka.set_config('num.partitions', $1)", value)
    for configs in ('{"a": "1"}', '{"a": "1"}', '{"a": "2"}'):
        await db.execute(
            "INSERT INTO kafka.group_configs VALUES ('g', $1) ON CONFLICT (group_id) DO UPDATE SET configs = excluded.configs",
            configs,
        )
    await db.execute("DELETE FROM kafka.group_configs")
    await db.execute("DELETE FROM kafka.topics WHERE id = $1", second)
    rows = await db.fetch("SELECT kind, object_id, name, what FROM kafka.catalogue_changes ORDER BY number")
    assert [tuple(row) for row in rows] == [
        ("topic", first, "a", "created"),
        ("topic", second, "b", "created"),
        ("topic", first, "a", "changed"),
        ("topic", second, "b", "changed"),
        ("topic", first, "a", "changed"),
        *(("setting", None, "pg_kafka.num_partitions", what) for what in ("created", "changed", "deleted")),
        *(("group config", None, "g", what) for what in ("created", "changed", "deleted")),
        ("topic", second, "b", "deleted"),
    ]
    who = await db.fetch(
        "SELECT DISTINCT changed_by, application, changed_at BETWEEN $1 AND clock_timestamp() FROM kafka.catalogue_changes"
        " WHERE kind = 'topic' AND what <> 'deleted'",
        before,
    )
    assert [tuple(row) for row in who] == [(role, "other", True)]

    # Who may change a topic needs no right on the changes, and is named.
    superuser = await asyncpg.connect(pg_superuser_dsn)
    await superuser.execute("DROP ROLE IF EXISTS config_setter; CREATE ROLE config_setter")
    try:
        await db.execute(
            "GRANT USAGE ON SCHEMA kafka TO config_setter; GRANT SELECT, UPDATE (configs) ON kafka.topics TO config_setter"
        )
        await superuser.execute("SET SESSION AUTHORIZATION config_setter")
        await superuser.execute("UPDATE kafka.topics SET configs = '{}' WHERE name = 'a'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute("SELECT * FROM kafka.catalogue_changes")
        last = "SELECT changed_by::text FROM kafka.catalogue_changes ORDER BY number DESC LIMIT 1"
        assert await db.fetchval(last) == "config_setter"
    finally:
        await superuser.execute("RESET SESSION AUTHORIZATION; DROP OWNED BY config_setter; DROP ROLE config_setter")
        await superuser.close()


@BOTH_SERVERS
async def test_a_change_that_is_committed_after_a_later_one_is_seen_once(
    db: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    reader = Reader(db)
    assert await reader.look() is None  # whatever was before
    assert await reader.look() == []
    late = other.transaction()
    await late.start()
    await add_topic(other, "late")
    async with other.transaction():  # a savepoint
        await add_topic(other, "later")
    # Nobody waits for the transaction that is open.
    await db.execute("SET lock_timeout = '5s'")
    for name in ("soon", "sooner"):
        await add_topic(db, name)
        assert await reader.look() == [f"topic {name} created"]
        assert await reader.look() == []
    new = Reader(db)
    assert await new.look() is None
    await late.commit()
    for each in (reader, new):
        assert await each.look() == ["topic late created", "topic later created"]
        assert await each.look() == []

    aborted = other.transaction()
    await aborted.start()
    await other.execute("DELETE FROM kafka.topics WHERE name = 'late'")
    await aborted.rollback()
    assert await reader.look() == []


async def test_what_could_not_be_applied_is_there_again(db: asyncpg.Connection) -> None:
    changes = CatalogueChanges()
    told: list[Any] = []
    fails = True

    async def apply(found: Sequence[Change] | None) -> None:
        told.append(found and [change.name for change in found])
        if fails:
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            await changes.follow(db, apply)
    fails = False
    await changes.follow(db, apply)
    fails = True
    await add_topic(db, "t")
    with pytest.raises(RuntimeError):
        await changes.follow(db, apply)
    fails = False
    for _ in range(2):
        await changes.follow(db, apply)
    assert told == [None, None, None, ["t"], ["t"]]


@BOTH_SERVERS
async def test_old_changes_are_forgotten_and_who_has_missed_them_rereads(
    db: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """The janitor's reader keeps few here, and forgets at once."""
    janitor, late, early = Reader(db, kept=3, forget_every=1), Reader(db), Reader(db)
    for reader in (janitor, late, early):
        assert await reader.look() is None
    # Without an old transaction, only who has missed something rereads.
    for number in range(6):
        await add_topic(db, f"s{number}")
        assert await early.look() == await janitor.look() == [f"topic s{number} created"]
        assert await db.fetchval("SELECT count(*) FROM kafka.catalogue_changes") <= 3
    assert await late.look() is None
    assert await late.look() == []

    held = other.transaction()  # the oldest running transaction of all snapshots from now on
    await held.start()
    await add_topic(other, "held")
    for reader in (janitor, late, early):
        assert await reader.look() == []
    for number in range(6):
        await add_topic(db, f"t{number}")
        assert await early.look() == await janitor.look() == [f"topic t{number} created"]
        # It had seen what was forgotten, and cannot know that as long as the old transaction is open.
        assert await early.look() == ([] if number < 3 else None)
    assert await late.look() is None
    await held.commit()
    # Its number is the lowest of all: it is forgotten as soon as the janitor has seen it, and not before.
    await add_topic(db, "u")
    assert await janitor.look() == ["topic held created", "topic u created"]
    assert await db.fetchval("SELECT count(*) FROM kafka.catalogue_changes WHERE name = 'held'") == 0
    assert await late.look() is None
    assert await late.look() == await janitor.look() == []


async def test_two_who_forget_lose_nothing_for_each_other(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """One looks; the other looks at more, and forgets that; then the first wants to forget as well."""
    one, two = Reader(db, kept=0, forget_every=1), Reader(other, kept=0, forget_every=1)
    for reader in (one, two):
        assert await reader.look() is None
    has_come = False

    class Interrupted:
        """Between the look of the one and its forgetting."""

        fetch = staticmethod(db.fetch)
        execute = staticmethod(db.execute)

        async def fetchval(self, *arguments: Any) -> Any:
            nonlocal has_come
            has_come = True
            await add_topic(db, "second")
            assert await two.look() == ["topic first created", "topic second created"]
            return await db.fetchval(*arguments)

    await add_topic(db, "first")
    one._connection = Interrupted()  # type: ignore[assignment]
    assert await one.look() == ["topic first created"]
    assert has_come and await db.fetchval("SELECT count(*) FROM kafka.catalogue_changes") == 0
    one._connection = db
    assert await one.look() is None  # it has not seen the second
    await add_topic(db, "third")
    assert await one.look() == ["topic third created"]
    assert await two.look() is None


async def test_a_change_between_look_and_forgetting_is_kept(db: asyncpg.Connection, other: asyncpg.Connection) -> None:
    reader = Reader(db, kept=0, forget_every=1)
    assert await reader.look() is None

    class Interrupted:
        fetch = staticmethod(db.fetch)

        async def fetchval(self, *arguments: Any) -> Any:
            await add_topic(other, "second")
            return await db.fetchval(*arguments)

    await add_topic(other, "first")
    reader._connection = Interrupted()  # type: ignore[assignment]
    assert await reader.look() == ["topic first created"]
    reader._connection = db
    assert await reader.look() == ["topic second created"]
    assert await reader.look() == []


async def test_changes_that_came_with_a_dump_of_another_server_are_no_news(db: asyncpg.Connection) -> None:
    await db.execute(
        "INSERT INTO kafka.catalogue_changes (kind, name, what, transaction_id)"
        " SELECT 'setting', n::text, 'changed', (1000000000000 + n)::text::xid8 FROM generate_series(1, 10) n"
    )
    await db.execute("UPDATE kafka.catalogue_forgotten SET transaction_id = '1000000000000', newest = '1000000000000'")
    reader = Reader(db)
    assert await reader.look() is None
    assert await reader.look() == []
    await add_topic(db, "t")
    assert await reader.look() == ["topic t created"]


@asynccontextmanager
async def followed(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Janitor]:
    """A broker's storage with a janitor that tells it of changes, quickly."""
    monkeypatch.setattr("pg_kafka.storage.upkeep.catalogue.INTERVAL_S", 0.02)
    janitor = janitor_of(
        leader.dsn,
        leader.log,
        owner=leader.log.node_id,
        segment_bytes=1 << 40,
        segment_ms=1 << 60,
        compression="none",
        on_changes=leader.topics.follow,
    )
    leader.topics.watch(janitor)
    await janitor.start()
    try:
        yield janitor
    finally:
        await janitor.stop()


async def until(is_so: Any) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


@BOTH_SERVERS
async def test_a_broker_follows_what_is_changed_by_sql(
    db: asyncpg.Connection, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leading(pg_dsn) as leader, followed(leader, monkeypatch) as janitor:
        topics = leader.topics
        topic = await leader.topic("orders", 1, **{"retention.ms": "1000"})
        partition = await leader.partition(topic)
        await db.execute(
            'UPDATE kafka.topics SET configs = \'{"max.message.bytes": "77", "segment.bytes": 2000000}\' WHERE id = $1',
            topic.id,
        )
        await until(lambda: topics.by_name["orders"].settings.max_message_bytes == 77)
        assert topics.by_name["orders"].configs == {"max.message.bytes": "77", "segment.bytes": "2000000"}
        assert partition.topic is topics.by_name["orders"] is topics.by_id[topic.id] is topics.by_uuid[topic.uuid]

        await db.execute("UPDATE kafka.topics SET partitions = 3 WHERE id = $1", topic.id)
        await until(lambda: topics.by_name["orders"].partitions == 3)
        assert topics.by_name["orders"].settings.max_message_bytes == 77
        assert (
            await leader.append(await leader.partition(topics.by_name["orders"], 2), batch(values(b"a")))
        ).error == 0
        await db.execute("UPDATE kafka.topics SET partitions = 1, configs = '[]' WHERE id = $1", topic.id)
        await until(lambda: not topics.by_name["orders"].configs)
        assert topics.by_name["orders"].partitions == 3  # what is served does not vanish

        made = await add_topic(db, "made", 2, '{"retention.ms": "nonsense", "unknown": "1"}')
        await until(lambda: "made" in topics.by_name)
        assert (await leader.append(await leader.partition(topics.by_name["made"], 1), batch(values(b"a")))).error == 0
        # Another topic of that name, in one transaction.
        old = await leader.partition(topics.by_name["made"], 1)
        async with db.transaction():
            await db.execute(
                "WITH gone AS (DELETE FROM kafka.topics WHERE id = $1 RETURNING id, name, series, view_name)"
                " INSERT INTO kafka.deleted_topics (id, name, series, view_name) SELECT * FROM gone",
                made,
            )
            again = await add_topic(db, "made")
        await until(lambda: topics.by_name["made"].id == again)
        assert made not in topics.by_id and len(topics.by_uuid) == len(topics.by_id) == len(topics.by_name) == 2
        assert leader.log.partition(topics.by_name["made"], 1) is None
        assert (await leader.append(old, batch(values(b"b")))).error == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (
            await leader.append(await leader.partition(topics.by_name["made"]), batch(values(b"c")))
        ).base_offset == 0
        assert not janitor.failures


async def test_what_a_broker_changes_itself_is_not_read_again(
    db: asyncpg.Connection, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leading(pg_dsn) as leader:
        reader = CatalogueChanges()
        asked: list[str] = []
        fetch = leader.control.fetch

        async def watched(sql: str, *arguments: Any) -> Any:
            asked.append(sql)
            return await fetch(sql, *arguments)

        monkeypatch.setattr(leader.control, "fetch", watched)
        await reader.follow(db, leader.topics.follow)
        made = [await leader.topic(f"t{n}") for n in range(3)]
        await leader.topics.delete(made[:1])
        asked.clear()
        await reader.follow(db, leader.topics.follow)
        assert asked == []
        await db.execute('UPDATE kafka.topics SET configs = \'{"retention.ms": "7"}\' WHERE id = $1', made[1].id)
        await reader.follow(db, leader.topics.follow)
        assert len(asked) == 1 and leader.topics.by_id[made[1].id].configs == {"retention.ms": "7"}


async def test_a_database_that_does_not_answer_delays_it_only(
    db: asyncpg.Connection, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_kafka.storage.upkeep.janitor.FIRST_RETRY_S", 0.01)
    async with leading(pg_dsn) as leader, followed(leader, monkeypatch) as janitor:
        topic = await leader.topic("t")
        await until(lambda: janitor._follow._changes._snapshot is not None)
        fetch = leader.control.fetch

        async def refused(sql: str, *arguments: Any) -> Any:
            raise unavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(leader.control, "fetch", refused)
            await db.execute('UPDATE kafka.topics SET configs = \'{"retention.ms": "7"}\' WHERE id = $1', topic.id)
            await until(lambda: janitor.failures["follow catalogue"] > 1)
            assert leader.topics.by_name["t"].configs == {}
        leader.control.fetch = fetch  # type: ignore[method-assign]
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'pg_kafka janitor' AND datname = current_database()"
        )
        await until(lambda: leader.topics.by_name["t"].configs == {"retention.ms": "7"})
