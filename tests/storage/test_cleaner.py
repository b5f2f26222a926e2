"""The task that moves rows: what holds up one series delays no other, and what fails is tried again."""

from __future__ import annotations

import asyncpg
from tests.storage.retaining import NOW, keeping
from tests.storage.test_janitor import until
from tests.storage.test_retention import NEVER, by_sql, readable, segments, send


async def test_a_query_delays_the_swap_of_its_series_only(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        hot = await leader.topic("hot", 2, **{"retention.ms": "1000"})
        own = await leader.topic("own", 2, **{"retention.ms": "1000"})
        kept = await leader.partition(await leader.topic("kept", **NEVER))
        await keeper.own_series(own.id)
        for topic, series in ((hot, 0), (own, own.id)):
            old, idle = await leader.partition(topic, 0), await leader.partition(topic, 1)
            await send(leader, old, *[NOW - 5000] * 20)
            await send(leader, idle, NOW)
            if series == 0:
                await send(leader, kept, NOW - 9000)
            await keeper.seal(series)
        reader = await asyncpg.connect(pg_dsn)
        await reader.execute("BEGIN")
        # Looks into the topic's own series only, as a view does not, which looks into series 0 as well.
        await reader.fetch(f"SELECT count(*) FROM kafka.log_{own.id}")
        await keeper.retain()
        await leader.log.write_checkpoints([(t.id, p) for t in (hot, own) for p in (0, 1)])
        await keeper.cleaner.start()
        await until(db, "SELECT state = 'replaced' FROM kafka.segments WHERE series = 0 AND segment = 0")
        await until(db, "SELECT count(*) = 1 FROM kafka.segments WHERE series = $1 AND state = 'filling'", own.id)
        assert (await segments(db, own.id))[0] == "sealed"
        assert await by_sql(db, own.id, 1) == [0] == await by_sql(db, hot.id, 1)
        await reader.execute("COMMIT")
        await reader.close()
        await until(db, "SELECT state = 'replaced' FROM kafka.segments WHERE series = $1 AND segment = 0", own.id)
        await keeper.free()
        assert sorted((await segments(db, own.id)).values()) == ["active", "sealed"]
        for topic in (hot, own):
            idle = await leader.partition(topic, 1)
            assert await readable(leader, idle) == [0] == await by_sql(db, topic.id, 1)
        assert not keeper.cleaner.failures
        await keeper.cleaner.stop()


async def test_a_lost_session_and_a_full_disk_are_got_over(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        hot = await leader.partition(await leader.topic("hot", **{"retention.ms": "1000"}))
        kept = await leader.partition(await leader.topic("kept", **NEVER))
        await send(leader, hot, *[NOW - 5000] * 20)
        await send(leader, kept, NOW)
        await keeper.seal()
        await keeper.retain()
        await leader.log.write_checkpoints([(hot.topic.id, 0)])
        asked = 0

        def has_room(_bytes: float) -> bool:
            nonlocal asked
            asked += 1
            return asked != 2  # the first piece

        keeper.cleaner.has_room = has_room
        begin = keeper.cleaner._connect
        lost = False

        async def connect() -> bool:
            nonlocal lost
            answer = await begin()
            if not lost:
                lost = True
                pid = await keeper.cleaner.connection.fetchval("SELECT pg_backend_pid()")
                await db.execute("SELECT pg_terminate_backend($1)", pid)
            return answer

        keeper.cleaner._connect = connect  # type: ignore[method-assign]
        await keeper.cleaner.start()
        await until(db, "SELECT state = 'replaced' FROM kafka.segments WHERE series = 0 AND segment = 0")
        assert lost and sum(keeper.cleaner.failures.values()) >= 2
        assert await readable(leader, kept) == [0] == await by_sql(db, kept.topic.id)
        await keeper.cleaner.stop()
