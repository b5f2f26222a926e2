"""A database that went back in time ends the incarnation; the next one has epochs and producer ids that nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.wire_batches import batch, values

from pg_kafka.cluster.membership import History, Membership
from pg_kafka.errors import StorageError
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.sessions import Fenced, Identity, WentBack


@pytest.fixture
async def sql(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    await migrate(connection)
    yield connection
    await connection.close()


def member(dsn: str, history: History, ends: list[str]) -> Membership:
    return Membership(
        dsn, host="h", port=1, version="t", heartbeat_ms=60_000, eviction_ms=6000, on_end=ends.append, history=history
    )


async def joined(dsn: str, history: History, ends: list[str]) -> Membership:
    """A member whose first heartbeat is over, and the next one far away."""
    membership = member(dsn, history, ends)
    await membership.join(lambda other: None)
    before = history.seen_at
    for _ in range(500):  # nothing tells of a heartbeat
        if history.seen_at != before:
            return membership
        await asyncio.sleep(0.01)
    raise AssertionError("no heartbeat")


@pytest.mark.parametrize("loss", ["a heartbeat", "the incarnation"])
async def test_lost_heartbeat_ends_the_incarnation_and_epochs_jump(
    pg_dsn: str, sql: asyncpg.Connection, loss: str
) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    assert first.incarnation is not None
    ids = await sql.fetchval("SELECT nextval('kafka.producer_ids')")
    if loss == "a heartbeat":
        await sql.execute("UPDATE kafka.brokers SET seen_at = seen_at - interval '1 ms'")
    else:
        await sql.execute("DELETE FROM kafka.brokers")
    with pytest.raises(WentBack):
        await first.open_writer("lane 0")
    assert len(ends) == 1
    first.abandon()
    second = await joined(pg_dsn, history, ends)
    assert second.incarnation is not None
    assert second.incarnation.epoch == first.incarnation.epoch + 1000
    assert await sql.fetchval("SELECT nextval('kafka.producer_ids')") > ids + 1_000_000
    await second.leave()
    third = await joined(pg_dsn, history, ends)
    assert third.incarnation is not None
    assert third.incarnation.epoch == second.incarnation.epoch + 1
    await third.leave()


@pytest.mark.parametrize(
    "loss",
    [
        "UPDATE kafka.brokers SET seen_at = seen_at - interval '1 hour'",
        "DELETE FROM kafka.brokers",
        "DROP SCHEMA kafka CASCADE",
        "DROP TABLE kafka.brokers CASCADE",
    ],
)
async def test_heartbeat_notices_that_the_one_before_is_gone(pg_dsn: str, sql: asyncpg.Connection, loss: str) -> None:
    """As when an older dump has taken the place of what was there, under sessions that live on."""
    history, ended = History(), asyncio.Event()
    first = Membership(
        pg_dsn,
        host="h",
        port=1,
        version="t",
        heartbeat_ms=100,
        eviction_ms=6000,
        on_end=lambda _reason: ended.set(),
        history=history,
    )
    await first.join(lambda other: None)
    await sql.execute("SET client_min_messages = error")
    await sql.execute(loss)
    await asyncio.wait_for(ended.wait(), 20)
    assert history.went_back
    first.abandon()


async def test_fenced_incarnation_is_told_from_a_lost_one(pg_dsn: str, sql: asyncpg.Connection) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    await sql.execute("UPDATE kafka.brokers SET status = 'fenced'")
    with pytest.raises(Fenced) as raised:
        await first.open_writer("lane 0")
    assert not isinstance(raised.value, WentBack)
    assert not history.went_back
    first.abandon()


def test_server_on_an_older_timeline_is_refused() -> None:
    history = History()
    here = Identity("7", "00000002", datetime(2024, 1, 1, tzinfo=UTC), 1)
    history.led(here)
    history.refuse_older(replace(here, timeline="00000003"))
    history.refuse_older(replace(here, system_identifier="8", timeline="00000001"))
    with pytest.raises(StorageError, match="old primary"):
        history.refuse_older(replace(here, timeline="00000001"))


async def test_log_that_ends_below_what_was_committed_ends_the_incarnation(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for _ in range(2):
            await leader.append(partition, batch(values(b"a")))
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("DELETE FROM kafka.log WHERE base_offset = 1")
        await connection.close()
        leader.log.forget(partition)
        with pytest.raises(StorageError):
            await leader.partition(partition.topic)
        assert leader.over.is_set()


async def test_backend_that_holds_its_lock_is_ended_and_no_other(pg_dsn: str, sql: asyncpg.Connection) -> None:
    """A take-over's warnings about backends that are gone are none about its commit."""
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    writer = await first.open_writer("lane 0")
    first.abandon()
    await sql.execute("UPDATE kafka.brokers SET seen_at = seen_at - interval '1 h'")
    async with asyncio.timeout(5):
        second = await joined(pg_dsn, History(), [])
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await writer.connection.execute("SELECT 1")
    await second.leave()
    writer.drop()
