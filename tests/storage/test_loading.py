"""Partitions are loaded once, however often they are asked for, and no offset is given out twice."""

import asyncio

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.wire_batches import batch, values

from pg_kafka.storage import loading
from pg_kafka.wire.error_codes import ErrorCode


async def test_partition_named_twice_is_loaded_once(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partition = await leader.partition(topic)
        sent = batch(values(b"a", b"b"), producer_id=7, epoch=0, sequence=0)
        await leader.append(partition, sent)
        leader.log.forget(partition)
        first, other, second = await leader.log.load([(topic, 0), (topic, 1), (topic, 0)])
        assert first is second and first is not partition
        assert (first.high_watermark, other.high_watermark) == (2, 0)
        # Its rows count once: the duplicate is known, and what follows comes right after.
        assert (await leader.append(first, sent)).base_offset == 0
        following = batch(values(b"c"), producer_id=7, epoch=0, sequence=2)
        assert (await leader.append(second, following)).base_offset == 2
        assert not leader.over.is_set()


async def test_partition_named_twice_far_apart_is_loaded_once(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PARTITIONS_PER_LOAD", 1)
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        loaded = await leader.log.load([(topic, 0), (topic, 1), (topic, 2), (topic, 0)])
        assert loaded[0] is loaded[3]
        assert (await leader.append(loaded[0], batch(values(b"a")))).base_offset == 0
        assert await leader.partition(topic) is loaded[0]


async def test_load_that_ends_late_does_not_replace_a_partition_in_use(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        async with leader.log._readers.use(10) as connection:
            (late,) = await leader.log._loading._read_settled(connection, [(topic, 0)])
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"a")))
        leader.log._loading._serve(late)
        assert await leader.partition(topic) is partition
        assert not leader.over.is_set()


async def test_offsets_are_never_given_out_again_whatever_the_cause(pg_dsn: str) -> None:
    """Even into another segment, whose unique key knows nothing of the one before."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"a", b"b", b"c")))
        partition.extents.clear()
        partition.high_watermark = partition.staged_end = 1
        result = await leader.append(partition, batch(values(b"again")))
        assert result.error == ErrorCode.KAFKA_STORAGE_ERROR
        async with asyncio.timeout(10):
            await leader.over.wait()
        connection = await asyncpg.connect(pg_dsn)
        assert await connection.fetchval("SELECT array_agg(base_offset) FROM kafka.log") == [0]
        await connection.close()
