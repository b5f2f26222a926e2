"""Reads at every moment while rows go and move: the right answer, or that the log begins later; never a gap."""

from __future__ import annotations

import asyncio

import pytest
from tests.storage.leader import Leader
from tests.storage.retaining import NOW, keeping
from tests.storage.test_retention import NEVER, by_sql, send
from tests.wire_batches import records

from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode


async def follow(leader: Leader, partition: Partition, end: int) -> tuple[int, int]:
    """Read all the way to `end` as a consumer with auto.offset.reset = earliest: how many records, how many resets."""
    offset = count = resets = 0
    while offset < end:
        try:
            found = [o for o, _, _ in records(await leader.log.read(partition, offset, 1)) if o >= offset]
        except StorageError as error:
            assert error.code == ErrorCode.OFFSET_OUT_OF_RANGE, error
            assert partition.log_start_offset > offset
            offset = partition.log_start_offset
            resets += 1
            continue
        # Nothing at all only at the end of what there is, from where the next read goes on.
        assert found[:1] == ([offset] if offset < partition.high_watermark or found else [])
        if not found:
            await asyncio.sleep(0)
        count += len(found)
        offset += len(found)
    return count, resets


@pytest.mark.parametrize("lanes", [1, 3])
async def test_consumers_and_sql_while_segments_are_freed_and_carried_over(pg_dsn: str, lanes: int) -> None:
    async with keeping(pg_dsn, lanes=lanes, tail_bytes=0) as (leader, keeper, db):
        topic = await leader.topic("t", 2, **{"retention.ms": "1000"})
        kept = await leader.partition(await leader.topic("kept", **NEVER))
        parts = [await leader.partition(topic, index) for index in range(2)]
        rounds, each = 12, 6
        readers = [asyncio.create_task(follow(leader, part, rounds * each)) for part in parts for _ in range(2)]
        readers.append(asyncio.create_task(follow(leader, kept, rounds)))
        for number in range(rounds):
            now = keeper.now = NOW + number * 1000
            for part in parts:
                await send(leader, part, *[now] * each)
            await send(leader, kept, now)
            await keeper.seal()
            await keeper.retain()
            await keeper.free()
            await keeper.clean()
            assert await by_sql(db, kept.topic.id) == list(range(number + 1))
            for index, part in enumerate(parts):
                assert await by_sql(db, topic.id, index) == list(range(part.log_start_offset, part.high_watermark))
        async with asyncio.timeout(60):
            results = await asyncio.gather(*readers)
        assert results[-1] == (rounds, 0)
        assert all(count >= each for count, _ in results[:-1])
        assert [part.log_start_offset for part in parts] == [(rounds - 2) * each] * 2
        # The segments of the past are gone, but for what was carried over.
        await keeper.free()
        states = await db.fetch("SELECT state, count(*) FROM kafka.segments GROUP BY 1")
        assert sum(row["count"] for row in states) <= 5
