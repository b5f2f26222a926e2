"""What readers get when rows are not where the extents say: an error, or the rows where they have moved."""

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.wire_batches import batch, records, values

from pg_kafka.errors import StorageError
from pg_kafka.storage.segments import Segments
from pg_kafka.wire.error_codes import ErrorCode


async def test_rows_that_are_missing_are_an_error_and_never_skipped(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        connection = await asyncpg.connect(pg_dsn)
        for number in range(12):
            if number == 6:
                await Segments(connection).roll(0, 0, "none")
                await leader.log.switch_segment(0, 1)
            await leader.append(partition, batch(values(b"%d" % number * 100)))
        assert len(partition.extents) == 2
        await connection.execute("DELETE FROM kafka.log WHERE base_offset IN (4, 5, 8)")
        assert [o for o, _, _ in records(await leader.log.read(partition, 2, 1 << 20))] == [2, 3]
        assert [o for o, _, _ in records(await leader.log.read(partition, 6, 1 << 20))] == [6, 7]
        for missing in (4, 5, 8):
            with pytest.raises(StorageError) as raised:
                await leader.log.read(partition, missing, 1 << 20)
            assert raised.value.code == ErrorCode.KAFKA_STORAGE_ERROR and raised.value.retriable
        assert [o for o, _, _ in records(await leader.log.read(partition, 9, 1 << 20))] == [9, 10, 11]
        await connection.close()


async def test_rows_that_moved_to_another_segment_are_found(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for number in range(4):
            await leader.append(partition, batch(values(b"%d" % number, timestamp=1_700_000_000_000 + number)))
        connection = await asyncpg.connect(pg_dsn)
        await Segments(connection).roll(0, 0, "none")
        columns = await connection.fetchval(
            "SELECT string_agg(attname, ', ') FROM pg_attribute"
            " WHERE attrelid = 'kafka.log'::regclass AND attnum > 0 AND attname <> 'segment'"
        )
        async with connection.transaction():
            await connection.execute(
                f"INSERT INTO kafka.log (segment, {columns}) SELECT 1, {columns} FROM kafka.log_0_0"
            )
            await connection.execute("DELETE FROM kafka.log_0_0")
            await connection.execute("UPDATE kafka.extents SET segment = 1, generation = generation + 1")
        await connection.close()
        stale = list(partition.extents)
        assert [o for o, _, _ in records(await leader.log.read(partition, 1, 1 << 20))] == [1, 2, 3]
        partition.extents[:] = stale
        found = await leader.log.offset_for_timestamp(partition, 1_700_000_000_002)
        assert found is not None and found[:2] == (2, 1_700_000_000_002)
