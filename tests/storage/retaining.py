"""A broker's storage side with all that retention needs, whose steps a test runs one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from tests.storage.janitors import janitor_of, job
from tests.storage.leader import Leader, leading

from pg_kafka.storage.segments import Segments
from pg_kafka.storage.sessions import connect
from pg_kafka.storage.topics import Topic
from pg_kafka.storage.upkeep.carry_over import CarryOver
from pg_kafka.storage.upkeep.cleaner import Cleaner
from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.job import NEVER
from pg_kafka.storage.upkeep.retention import SQL, Retention

NOW = 1_700_000_000_000


class Keeper:
    """Retention, freeing and carrying over of a leader, by calls; it is `now` ms by the clock that they go by."""

    def __init__(self, leader: Leader, **options: Any) -> None:
        self.leader = leader
        self.now = NOW
        self.poked = 0
        self.carry_over = CarryOver(lambda _series: 1 << 30, leader.log.write_checkpoints, worthwhile_bytes=0, calm_s=0)
        self.cleaner = Cleaner(
            lambda kind: connect(leader.dsn, kind),
            [self.carry_over],
            on_moved=leader.log.rows_moved,
            on_replaced=leader.growth.look_for_free,
            counts=leader.counts.upkeep,
        )
        self.janitor: Janitor = janitor_of(
            leader.dsn,
            leader.log,
            owner=leader.log.node_id,
            growth=leader.growth,
            retention=Retention(
                topics=leader.topics.by_id.values,
                take_starts=leader.log.take_starts,
                wall_ms=lambda: self.now,
                interval_ms=lambda: 1 << 40,
            ),
            counts=leader.counts.upkeep,
            **options,
        )

    async def open(self) -> None:
        await self.janitor._connect()

    def close(self) -> None:
        self.janitor._site.drop()
        self.cleaner.drop()

    async def step(self, name: str) -> bool:
        """One step of a job of the janitor. Times at which it wants to look have come."""
        found = job(self.janitor, name)
        for attribute in ("_looks_at", "_looks_at_shared", "_drops_at"):
            if hasattr(found, attribute):
                setattr(found, attribute, float("-inf"))
        return await found.step()

    async def retain(self) -> None:
        """Move the log starts, and seal what is rolled for that."""
        await self.step("move log starts")
        await self.step("seal segments")

    async def free(self) -> None:
        """What may go, once the checkpoints that have to be there before are written."""
        async with asyncio.timeout(20):
            connection = self.janitor._site.connection
            await self.step("free segments")
            while any(row["uncovered"] for row in await connection.fetch(SQL["dead_segments"])):
                await asyncio.sleep(0.05)
                await self.step("free segments")  # what was asked of a lane that breaks is asked again
            await self.step("free segments")

    async def clean(self) -> None:
        """All that the cleaner has to do now."""
        self.cleaner._is_poked = True
        self.cleaner._not_before.clear()
        # Checkpoints have to be there before.
        while await self.cleaner._round() == 0.0 or self.carry_over.wakes_at() < NEVER:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def seal(self, series: int = 0) -> int:
        """Go on in a new segment of a series, and seal the one before; its number."""
        site = self.janitor._site
        active = await site.connection.fetchval(
            "SELECT segment FROM kafka.segments WHERE series = $1 AND state = 'active'", series
        )
        assert await site.segments.roll(series, active, "none") is not None
        await self.step("seal segments")
        return int(active)

    async def set_configs(self, topic: Topic, configs: dict[str, str]) -> None:
        """As AlterConfigs."""
        await self.janitor._site.connection.execute(
            "UPDATE kafka.topics SET configs = $2 WHERE id = $1", topic.id, json.dumps(configs)
        )
        await self.leader.topics.follow(None)

    async def own_series(self, topic_id: int) -> None:
        """The topic goes on in a series of its own."""
        assert await Segments(self.janitor._site.connection).create_series(topic_id, "none", self.leader.log.node_id)
        await self.leader.log.move_topic(topic_id, topic_id, 0)


@contextlib.asynccontextmanager
async def keeping(dsn: str, **settings: Any) -> AsyncIterator[tuple[Leader, Keeper, asyncpg.Connection]]:
    """A leader, its keeper, and a session to look with."""
    async with leading(dsn, **settings) as leader:
        keeper = Keeper(leader)
        db = await asyncpg.connect(dsn)
        await keeper.open()
        try:
            yield leader, keeper, db
        finally:
            keeper.close()
            await db.close()
