"""Where a partition begins: forward only, in the database first, for every reader, whatever is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.test_transactions_log import end, marker, transactional
from tests.wire_batches import batch, records, values

from pg_kafka.errors import StorageError
from pg_kafka.storage import log_starts
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.segments import Segments
from pg_kafka.wire.error_codes import ErrorCode


async def filled(leader: Leader, count: int, name: str = "t") -> Partition:
    """Each record is a batch and a row of its own."""
    partition = await leader.partition(await leader.topic(name))
    for number in range(count):
        assert (await leader.append(partition, batch(values(b"%d" % number)))).error == 0
    return partition


@asynccontextmanager
async def stopped_reads(dsn: str, table: str = "log_0_0") -> AsyncIterator[asyncpg.Connection]:
    """Reads of a segment wait until the end; gives the connection that holds them up."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE kafka.{table} IN ACCESS EXCLUSIVE MODE")
        yield connection
    await connection.close()


async def is_waited_for(connection: asyncpg.Connection, waiters: int = 1) -> None:
    """Somebody waits for a lock of this connection."""
    async with asyncio.timeout(20):
        while (  # noqa: ASYNC110
            await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            < waiters
        ):
            await asyncio.sleep(0.01)


async def test_a_start_moves_forward_only_and_all_are_told_where_it_is(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    first, second = await add_topic(connection, "a", 2), await add_topic(connection, "b")
    assert await log_starts.advance(connection, [(first, 1, 7), (second, 0, 5), (first, 1, 3)]) == {
        (first, 1): 7,
        (second, 0): 5,
    }
    assert await log_starts.advance(connection, [(first, 0, 1), (first, 1, 6)]) == {(first, 0): 1, (first, 1): 7}
    stored = await connection.fetch("SELECT topic, partition, log_start_offset FROM kafka.log_starts ORDER BY 1, 2")
    assert [tuple(row) for row in stored] == [(first, 0, 1), (first, 1, 7), (second, 0, 5)]
    await connection.close()


async def test_a_topic_that_is_deleted_or_being_deleted_gets_no_start_that_nobody_removes(pg_dsn: str) -> None:
    connection, other = await connect_migrated(pg_dsn), await asyncpg.connect(pg_dsn)
    stays, goes = await add_topic(connection, "stays"), await add_topic(connection, "goes")
    async with other.transaction():
        await other.execute("DELETE FROM kafka.topics WHERE id = $1", goes)
        async with asyncio.timeout(20):  # it is not waited for
            assert await log_starts.advance(connection, [(goes, 0, 1), (stays, 0, 1)]) == {(stays, 0): 1}
    assert await log_starts.advance(connection, [(goes, 0, 1)]) == {}
    await connection.close()
    await other.close()


@pytest.mark.parametrize("lanes", [1, 3])
async def test_records_below_the_start_are_gone_for_readers_and_stay_so(pg_dsn: str, lanes: int) -> None:
    async with leading(pg_dsn, lanes=lanes) as leader:
        topic = await leader.topic("t", 5)
        partitions = [await leader.partition(topic, index) for index in range(5)]
        for partition in partitions:
            for number in range(4):
                await leader.append(partition, batch(values(b"%d" % number)))
        assert await leader.log.delete_records([(p, p.index) for p in partitions[1:]]) == [1, 2, 3, 4]
        assert await leader.log.delete_records([(p, 1) for p in partitions]) == [1, 1, 2, 3, 4]
        assert [p.log_start_offset for p in partitions] == [1, 1, 2, 3, 4]
        assert [p.high_watermark for p in partitions] == [4] * 5
        assert leader.log.read_tail(partitions[3], 2, 1 << 20) is None
        assert records(leader.log.read_tail(partitions[3], 3, 1 << 20) or ()) == [(3, None, b"3")]
        assert (await leader.append(partitions[4], batch(values(b"next")))).base_offset == 4
    async with leading(pg_dsn, lanes=lanes) as leader:
        again = await leader.log.load([(leader.topics.by_name["t"], index) for index in range(5)])
        assert [(p.log_start_offset, p.high_watermark) for p in again] == [(1, 4), (1, 4), (2, 4), (3, 4), (4, 5)]


async def test_what_leaves_memory_with_the_start(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 2)
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        old, new = partition.epochs[0][0], partition.leader_epoch
        await leader.append(partition, transactional(7, 0, b"a"))  # 2
        await end(leader, marker(partition, 7, commit=False))  # 3
        await leader.append(partition, transactional(7, 1, b"b"))  # 4
        await leader.append(partition, batch(values(b"c")))  # 5
        assert partition.epochs == [(old, 0), (new, 2)]
        assert partition.end_of_epoch(old) == (old, 2)
        held = leader.log._tails.held_bytes
        await leader.log.delete_records([(partition, 1)])
        assert partition.epochs == [(old, 1), (new, 2)] and len(partition.aborted) == 1
        await leader.log.delete_records([(partition, 5)])
        # Kafka answers for an epoch before all others with where the first one begins.
        assert partition.epochs == [(new, 5)] and partition.end_of_epoch(old) == (old, 5)
        assert not partition.aborted and leader.log._tails.held_bytes < held
        # The open transaction begins below the start: readers of what is committed stop at the start.
        assert (partition.last_stable_offset, partition.high_watermark) == (5, 6)
        await end(leader, marker(partition, 7, commit=True))
        assert partition.last_stable_offset == 7
        assert [o for o, _, _ in records(leader.log.read_tail(partition, 5, 1 << 20) or ())][:1] == [5]


async def test_sql_that_is_ahead_of_the_lane_moves_the_start_when_the_lane_has_heard_of_its_commit(
    pg_dsn: str,
) -> None:
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 2)
        # The rows of offsets 2 and 3 are committed in the database, and the lane is still to be told.
        leader.log.take_starts({(partition.topic.id, 0): 4})
        assert (partition.log_start_offset, partition.high_watermark) == (2, 2)
        await leader.append(partition, batch(values(b"2")))
        assert (partition.log_start_offset, partition.high_watermark) == (3, 3)
        await leader.append(partition, batch(values(b"3", b"4")))
        assert (partition.log_start_offset, partition.high_watermark) == (4, 5)


async def test_a_read_that_meets_a_moved_start_is_out_of_range_and_no_gap(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 6)
        async with stopped_reads(pg_dsn) as connection:
            below = asyncio.create_task(leader.log.read(partition, 1, 1 << 20))
            above = asyncio.create_task(leader.log.read(partition, 4, 1 << 20))
            await is_waited_for(connection, 2)
            await log_starts.advance(connection, [(partition.topic.id, 0, 4)])
            leader.log.take_starts({(partition.topic.id, 0): 4})
            await connection.execute("DELETE FROM kafka.log_0_0 WHERE last_offset < 4")
        with pytest.raises(StorageError) as raised:
            await below
        assert raised.value.code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert [o for o, _, _ in records(await above)] == [4, 5]


async def test_a_search_for_aborted_transactions_whose_markers_are_gone_is_out_of_range(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the marker, aborted records would be taken for committed ones."""
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 0)
        await leader.append(partition, transactional(7, 0, b"a"))  # 0, aborted by the marker at 1
        await end(leader, marker(partition, 7, commit=False))
        await leader.append(partition, batch(values(b"b")))
        found = await leader.log.read(partition, 0, 1)
        assert await leader.log.aborted(partition, 0, found) == [(7, 0)]
        await leader.log.delete_records([(partition, 2)])
        for is_in_memory in (True, False):
            partition.aborted_from = 0 if is_in_memory else 3
            with pytest.raises(StorageError) as raised:
                await leader.log.aborted(partition, 0, found)
            assert raised.value.code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_a_search_by_time_begins_anew_when_the_start_moves(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 0)
        for number in range(6):
            await leader.append(partition, batch(values(b"%d" % number, timestamp=1000 + number)))
        async with stopped_reads(pg_dsn) as connection:
            search = asyncio.create_task(leader.log.offset_for_timestamp(partition, 1001))
            await is_waited_for(connection)
            await log_starts.advance(connection, [(partition.topic.id, 0, 4)])
            leader.log.take_starts({(partition.topic.id, 0): 4})
        assert (await search or ())[:2] == (4, 1004)


async def test_a_load_that_read_the_old_start_serves_the_new_one(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        await filled(leader, 6)
    async with leading(pg_dsn, checkpoint_bytes=1) as leader:
        topic = leader.topics.by_name["t"]
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("DELETE FROM kafka.partition_checkpoints")
        await connection.close()
        async with stopped_reads(pg_dsn) as connection:
            load = asyncio.create_task(leader.partition(topic))
            await is_waited_for(connection)
            starts = await log_starts.advance(leader.control, [(topic.id, 0, 4)])
            leader.log.take_starts(starts)
        partition = await load
        assert (partition.log_start_offset, partition.high_watermark) == (4, 6)
        assert not leader.log._loading._starts


async def test_a_partition_without_any_row_left_goes_on_where_it_ended(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await filled(leader, 3)
        await leader.log.delete_records([(partition, 3)])
        connection = await asyncpg.connect(pg_dsn)
        await Segments(connection).roll(0, 0, "none")
        await leader.log.switch_segment(0, 1)
        await Segments(connection).empty(0, 0)
        await connection.execute("DELETE FROM kafka.extents")
        await connection.close()
        assert (await leader.append(partition, batch(values(b"3")))).base_offset == 3
        assert [o for o, _, _ in records(await leader.log.read(partition, 3, 1 << 20))] == [3]
    connection = await asyncpg.connect(pg_dsn)
    await connection.execute("DELETE FROM kafka.partition_checkpoints")
    await connection.close()
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        assert (partition.log_start_offset, partition.high_watermark) == (3, 4)


async def test_changes_of_others_are_taken_by_topic_or_all(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        first, second = await filled(leader, 5, "a"), await filled(leader, 5, "b")
        connection = await asyncpg.connect(pg_dsn)
        await log_starts.advance(connection, [(first.topic.id, 0, 1), (second.topic.id, 0, 2)])
        follower = log_starts.FollowStarts(leader.control, leader.log.take_starts)
        now = await connection.fetchval("SELECT clock_timestamp()")
        await connection.close()

        def change(kind: str, topic_id: int | None) -> Change:
            return Change(1, kind, topic_id, "t", "changed", "somebody", "psql", now)

        await follower.follow([change("topic", second.topic.id), change("setting", None)])
        assert (first.log_start_offset, second.log_start_offset) == (0, 0)
        await follower.follow([change(log_starts.KIND, second.topic.id)])
        assert (first.log_start_offset, second.log_start_offset) == (0, 2)
        await follower.follow(None)
        assert (first.log_start_offset, second.log_start_offset) == (1, 2)
