"""Compaction by hand, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from tests.storage.leader import Leader

from pg_kafka.storage import log_starts
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.replacing import Replacing
from pg_kafka.storage.segments import Segments
from pg_kafka.storage.sessions import Session
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.upkeep.cleaner import Cleaner
from pg_kafka.storage.upkeep.compaction import CompactTopics


class Crash(Exception):
    """The broker dies here."""


class MortalConnection:
    """Lets through a number of statements and then dies, as a process does under kill -9; None: it lives."""

    def __init__(self, connection: asyncpg.Connection, lives: int | None) -> None:
        self._connection = connection
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connection, name)
        if name not in ("execute", "fetch", "fetchval", "fetchrow"):
            return attribute

        async def call(*arguments: Any, **options: Any) -> Any:
            if self._lives is not None:
                if self._lives == 0:
                    self._connection.terminate()
                    raise Crash
                self._lives -= 1
            return await attribute(*arguments, **options)

        return call


async def settle(leader: Leader) -> None:
    """Write checkpoints of all partitions, and let rows grow old enough to be in no active segment."""
    topics = list(leader.topics.by_id.values())
    await leader.log.write_checkpoints([(topic.id, index) for topic in topics for index in range(topic.partitions)])
    for lane in leader.log._lanes:
        lane._staging.mark_checkpoints()
        lane._wake.set()
    async with asyncio.timeout(20):
        while any(lane._staging.dirty or lane._staging.checkpoints_due for lane in leader.log._lanes):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.003)


class Dying:
    """What the cleaner takes for its session."""

    def __init__(self, session: Session, lives: int | None) -> None:
        self.connection = MortalConnection(session.connection, lives)
        self.is_closed = False
        self.drop = session.drop


async def compact(leader: Leader, *, crash_at: int | None = None) -> int:
    """Steps until nothing is due; how many there were. With `crash_at`, Crash before that many statements are sent."""
    await settle(leader)
    session = await leader.membership.open_writer("cleaner")
    job = CompactTopics(leader.topics, leader.settings, leader.log, leader.clock, leader.counts.upkeep)
    cleaner = Cleaner(
        leader.membership.open_writer,
        [job],
        on_moved=leader.log.rows_moved,
        on_replaced=lambda: None,
        counts=leader.counts.upkeep,
    )
    cleaner._session = Dying(session, crash_at)  # type: ignore[assignment]
    try:
        await cleaner._connect()
        steps = 0
        async with asyncio.timeout(30), _freeing(leader.dsn):
            while True:
                has_done = await job.step(cleaner)
                steps += has_done
                await cleaner._swap_some()
                if not has_done and job._going is None and not cleaner._attached:
                    return steps
                if not has_done:
                    await asyncio.sleep(0.01)
    except asyncpg.InterfaceError as error:
        if not session.connection.is_closed():
            raise
        raise Crash from error  # what the driver says when a transaction ends whose session is dead
    finally:
        session.drop()


@contextlib.asynccontextmanager
async def _freeing(dsn: str) -> AsyncIterator[None]:
    """Replaced segments go when nobody can see them any more."""
    connection = await asyncpg.connect(dsn)

    async def free() -> None:
        while True:
            for series, segment in await Replacing(connection).unseen():
                await Segments(connection).drop_segment(series, segment)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(free())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await connection.close()


async def give_series(leader: Leader, topic: Topic) -> None:
    """The topic outgrows series 0."""
    session = await leader.membership.open_writer("janitor")
    try:
        await Segments(session.connection).create_series(topic.id, "none", leader.log.node_id)
        await leader.log.move_topic(topic.id, topic.id, 0)
    finally:
        session.drop()


async def roll(leader: Leader, series: int) -> None:
    """The active segment of a series is full."""
    session = await leader.membership.open_writer("janitor")
    try:
        segments = Segments(session.connection)
        active = await session.connection.fetchval(
            "SELECT segment FROM kafka.segments WHERE series = $1 AND state = 'active'", series
        )
        made = await segments.roll(series, active, "none")
        assert made is not None
        await leader.log.switch_segment(series, made)
        await segments.seal(series, active)
    finally:
        session.drop()


async def set_log_start(leader: Leader, partition: Partition, offset: int) -> None:
    """As DeleteRecords does."""
    await log_starts.advance(leader.control, [(partition.topic.id, partition.index, offset)])
    partition.advance_start(offset)
