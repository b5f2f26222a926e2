"""Rows that hold compressed batches as they came: written, read, found by time, and loaded like all others."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, records, values

from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.wire import _records
from pg_kafka.wire.error_codes import ErrorCode

BOTH = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
NOW = 1_700_000_000_000
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


async def packing(leader: Leader, name: str = "t", partitions: int = 1, **configs: str) -> Topic:
    """A topic that keeps its batches."""
    topic = await leader.topic(name, partitions, **configs)
    connection = await asyncpg.connect(leader.dsn)
    await connection.execute("UPDATE kafka.topics SET keeps_batches = true WHERE id = $1", topic.id)
    await connection.close()
    leader.topics.show_layout(topic.id, keeps_batches=True, is_asked=False)
    return leader.topics.by_id[topic.id]


async def rows_of(dsn: str, what: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(f"SELECT {what} FROM kafka.log ORDER BY base_offset")]
    finally:
        await connection.close()


def as_stored(partition: Partition, sent: list[bytes], first_offset: int = 0, stamped: int = -1) -> list[bytes]:
    """What a consumer gets: the producer's bytes, with their place in the log."""
    found = []
    for wire in sent:
        found.append(_records.restamp(wire, first_offset, partition.leader_epoch, stamped))
        first_offset += _records.peek(wire).record_count
    return found


@BOTH
@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
async def test_batches_come_back_byte_for_byte(pg_dsn: str, codec: int) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        partition = await leader.partition(await packing(leader))
        sent = [batch(values(*(b"%d value" % n for n in range(20))), codec=codec) for _ in range(5)]
        answers = [leader.send(partition, wire) for wire in sent]
        assert [(await answer).base_offset for answer in answers] == [0, 20, 40, 60, 80]
        assert await leader.log.read(partition, 0, 1 << 20) == as_stored(partition, sent)
        rows = await rows_of(pg_dsn, "batch, values, keys, record_count, codec, wire_bytes, row_bytes")
        assert b"".join(row[0] for row in rows) == b"".join(as_stored(partition, sent))
        raw_bytes = _records.decode_batch(sent[0]).raw_bytes
        for stored, texts, keys, count, stored_codec, wire_bytes, row_bytes in rows:
            assert (texts, keys, stored_codec, wire_bytes) == (None, None, codec, len(stored))
            assert row_bytes * 20 == raw_bytes * count


@BOTH
async def test_rows_of_both_kinds_follow_each_other(pg_dsn: str) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        partition = await leader.partition(await packing(leader))
        sent = [
            batch(values(b"a%d" % number, b"b"), codec=codec)
            for number, codec in enumerate([0, LZ4, LZ4, ZSTD, 0, 0, GZIP, SNAPPY])
        ]
        for wire in sent:
            await leader.append(partition, wire)
        kinds = await rows_of(pg_dsn, "batch IS NOT NULL")
        assert [kind for (kind,) in kinds] == [False, True, True, True, False, False, True, True]
        stored = await leader.log.read(partition, 0, 1 << 20)
        assert records(stored) == records(as_stored(partition, sent))
        for offset in range(16):
            found = records(await leader.log.read(partition, offset, 1 << 20))
            assert [entry for entry in found if entry[0] >= offset] == records(stored)[offset:]
            assert found[0][0] in (offset, offset - 1)


async def test_fetch_from_the_middle_gives_whole_batches_within_its_limit(pg_dsn: str) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        partition = await leader.partition(await packing(leader))
        sent = [batch(values(b"x" * 50, b"%d" % number, b"z"), codec=LZ4) for number in range(30)]
        answers = [leader.send(partition, wire) for wire in sent]
        await asyncio.gather(*answers)
        assert len(await rows_of(pg_dsn, "1")) < 10  # they share rows
        stored = as_stored(partition, sent)
        size = len(stored[0])
        for number in range(30):
            for offset in range(3 * number, 3 * number + 3):
                # At least one, whatever its size; then those that fit.
                assert await leader.log.read(partition, offset, 1) == stored[number : number + 1]
                found = await leader.log.read(partition, offset, 4 * size + 10)
                assert found == stored[number : number + len(found)]
                assert 1 <= len(found) <= 4
                assert len(found) >= min(2, 30 - number) or await rows_of(pg_dsn, "1")


async def test_row_holds_what_a_row_may_hold(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await packing(leader))
        await leader.append(partition, batch(values(b"first")))
        small = batch(values(b"small" * 20), codec=LZ4)
        # Incompressible and larger than a row: alone, and whole. Zeros: so small that the bound is what they hold.
        large = batch(
            values(
                *(bytes(_records.crc32c(b"%d" % n).to_bytes(4) * 1000) for n in range(60)),
                os.urandom(_records.MAX_SLICE_BYTES),
            ),
            codec=LZ4,
        )
        zeros = batch(values(bytes(1_900_000)), codec=ZSTD)
        sent = [small, small, large, small, zeros, zeros, zeros, small]
        await asyncio.gather(*(leader.send(partition, wire) for wire in sent))
        rows = await rows_of(pg_dsn, "batch, row_bytes, record_count")
        for stored, row_bytes, _ in rows:
            if stored is not None and len(_records.batches_in(stored)) > 1:
                assert len(stored) <= _records.MAX_SLICE_BYTES
                assert row_bytes <= 4 * 1024 * 1024
        batches = [wire for stored, _, _ in rows if stored is not None for wire in _records.batches_in(stored)]
        assert batches == as_stored(partition, sent, 1)


@BOTH
@pytest.mark.parametrize("orderly", [True, False])
async def test_restart_goes_on_where_the_log_ended(pg_dsn: str, orderly: bool) -> None:
    first = Leader(pg_dsn)
    await first.start()
    topic = await packing(first)
    partition = await first.partition(topic)
    sent = batch(values(b"a", b"b", timestamp=NOW + 5), producer_id=7, epoch=0, sequence=0, codec=LZ4)
    assert (await first.append(partition, sent)).base_offset == 0
    more = [batch(values(b"c"), producer_id=pid, epoch=0, sequence=0, codec=LZ4) for pid in (8, 9, 10)]
    await asyncio.gather(*(first.send(partition, wire) for wire in more))
    if orderly:
        await first.stop()
    else:
        first.crash()
    async with leading(pg_dsn) as second:
        partition = await second.partition(second.topics.by_name["t"])
        assert second.topics.by_name["t"].is_packing
        assert (partition.high_watermark, partition.running_max_timestamp) == (5, NOW + 5)
        for wire, offset in [(sent, 0), *zip(more, (2, 3, 4), strict=True)]:
            again = await second.append(partition, wire)
            assert (again.error, again.base_offset) == (0, offset)
        gap = await second.append(partition, batch(values(b"z"), producer_id=7, epoch=0, sequence=5, codec=LZ4))
        assert gap.error == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


@BOTH
async def test_offsets_by_time(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await packing(leader))
        stamps = [NOW + delta for delta in (0, 50, 20, 90, 70, 100, 100, 130, 110)]
        for first in range(0, 9, 3):
            taken = [(None, b"v", stamp, ()) for stamp in stamps[first : first + 3]]
            await leader.append(partition, batch(taken, codec=LZ4 if first != 3 else 0))
        for wanted in range(NOW - 1, NOW + 132):
            expected = next(((n, s, partition.leader_epoch) for n, s in enumerate(stamps) if s >= wanted), None)
            assert await leader.log.offset_for_timestamp(partition, wanted) == expected
        assert await leader.log.offset_of_max_timestamp(partition) == (7, NOW + 130, partition.leader_epoch)


async def test_offset_by_time_in_a_large_batch(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await packing(leader))
        taken = [(None, b"v" * 100, NOW + number, ()) for number in range(20_000)]
        await leader.append(partition, batch(taken, codec=ZSTD))
        assert await rows_of(pg_dsn, "batch IS NOT NULL") == [(True,)]
        for number in (0, 1, 9_999, 19_999):
            found = await leader.log.offset_for_timestamp(partition, NOW + number)
            assert found == (number, NOW + number, partition.leader_epoch)


@BOTH
async def test_log_append_time_is_in_what_consumers_get(pg_dsn: str) -> None:
    async with leading(pg_dsn, tail_bytes=0) as leader:
        partition = await leader.partition(await packing(leader, **{"message.timestamp.type": "LogAppendTime"}))
        sent = batch(values(b"a", b"b"), codec=ZSTD)
        answer = await leader.append(partition, sent)
        (stored,) = await leader.log.read(partition, 0, 1 << 20)
        assert [stored] == as_stored(partition, [sent], 0, answer.log_append_time_ms)
        decoded = _records.decode_batch(stored, from_producer=False)
        assert (decoded.timestamp_type, decoded.max_timestamp) == (1, answer.log_append_time_ms)
        facts = "batch IS NOT NULL, first_timestamp, max_timestamp, append_time"
        assert await rows_of(pg_dsn, facts) == [(True, *[answer.log_append_time_ms] * 3)]
        found = await leader.log.offset_for_timestamp(partition, answer.log_append_time_ms)
        assert found == (0, answer.log_append_time_ms, partition.leader_epoch)


async def test_topics_that_want_another_codec_get_arrays(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        other = await leader.partition(await packing(leader, "other", **{"compression.type": "zstd"}))
        none = await leader.partition(await packing(leader, "none", **{"compression.type": "uncompressed"}))
        rows = await leader.partition(await packing(leader, "rows", **{"storage.layout": "rows"}))
        same = await leader.partition(await packing(leader, "same", **{"compression.type": "lz4"}))
        for partition in (other, none, rows, same):
            await leader.append(partition, batch(values(b"a"), codec=LZ4))
        connection = await asyncpg.connect(pg_dsn)
        found = await connection.fetch(
            "SELECT t.name FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic WHERE batch IS NOT NULL"
        )
        await connection.close()
        assert [row["name"] for row in found] == ["same"]


async def test_extents_say_where_packed_rows_may_be(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await packing(leader, "t", 3)
        partitions = await leader.log.load([(topic, index) for index in range(3)])
        await leader.append(partitions[0], batch(values(b"a"), codec=LZ4))
        for partition in partitions[1:]:
            await leader.append(partition, batch(values(b"a", b"b")))
        # The extent of the second is there; marked with its first packed row, and not again.
        await asyncio.gather(*(leader.send(partitions[1], batch(values(b"c"), codec=LZ4)) for _ in range(50)))
        connection = await asyncpg.connect(pg_dsn)
        found = await connection.fetch("SELECT partition, packed_from, xmin FROM kafka.extents ORDER BY partition")
        assert [(row["partition"], row["packed_from"]) for row in found] == [(0, 0), (1, 2), (2, None)]
        await leader.append(partitions[1], batch(values(b"d"), codec=LZ4))
        again = await connection.fetch("SELECT partition, packed_from, xmin FROM kafka.extents ORDER BY partition")
        assert again == found
        await connection.close()


async def test_mark_of_an_extent_that_is_not_committed_yet_is_not_lost(pg_dsn: str) -> None:
    """The first transaction begins the extent without packed rows; the second, loaded beside its flush, has some."""
    async with leading(pg_dsn) as leader:
        topic = await packing(leader, "t", 20)
        partitions = await leader.log.load([(topic, index) for index in range(20)])
        answers = []
        for partition in partitions:
            for _ in range(6):
                answers.append(leader.send(partition, batch(values(*(b"x" * 9_000 for _ in range(10))))))
            answers.append(leader.send(partition, batch(values(b"p" * 100), codec=LZ4)))
        await asyncio.gather(*answers)
        connection = await asyncpg.connect(pg_dsn)
        found = await connection.fetch("SELECT packed_from FROM kafka.extents")
        await connection.close()
        assert [row["packed_from"] for row in found] == [60] * 20


async def test_batch_of_a_topic_that_keeps_none_any_more_is_taken_apart(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await packing(leader))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        kept = _records.decode_batch(batch(values(b"a", b"b"), codec=LZ4), keeps_packed=True)
        leader.topics.show_layout(partition.topic.id, keeps_batches=True, is_asked=True)
        leader.log.append(partition, kept, answer.set_result, timestamp_type=0)
        assert (await answer).base_offset == 0
        assert await rows_of(pg_dsn, "batch, values") == [(None, [b"a", b"b"])]


async def test_layout_is_settled_when_all_that_was_queued_packed_is_committed(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await packing(leader))
        noise = [batch(values(os.urandom(100_000)), codec=LZ4) for _ in range(60)]
        answers = [leader.send(partition, wire) for wire in noise]
        leader.topics.show_layout(partition.topic.id, keeps_batches=True, is_asked=True)
        assert any(append.batch.is_packed for append in partition.pending)
        await leader.log.settle_layout(partition.topic.id)
        assert all(answer.done() for answer in answers)
        assert partition.packed_segments == set()


async def test_database_in_trouble_fails_packed_batches_retriably(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await packing(leader)
        partition = await leader.partition(topic)
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute(f"ALTER TABLE kafka.log_0_0 ADD CHECK (topic <> {topic.id})")
        refused = await leader.append(partition, batch(values(b"a"), codec=LZ4))
        assert refused.error == ErrorCode.UNKNOWN_SERVER_ERROR
        await connection.execute("ALTER TABLE kafka.log_0_0 DROP CONSTRAINT log_0_0_topic_check")
        assert (await leader.append(partition, batch(values(b"b"), codec=LZ4))).base_offset == 0
        assert await connection.fetchval("SELECT packed_from FROM kafka.extents") == 0
        await connection.close()
