"""Transactions in the log on a real PostgreSQL: markers, the last stable offset, aborted transactions, what restart finds."""

import asyncpg
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, values

from pg_kafka.coordinator.records import Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import partition as partition_module
from pg_kafka.storage.groups import GroupStore, OffsetWrite
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.transactions import Marker, TransactionStore, group_write, transaction_write
from pg_kafka.wire._records import peek
from pg_kafka.wire.error_codes import ErrorCode

TRANSACTIONAL, CONTROL = 0x10, 0x20


def transactional(producer_id: int, sequence: int, *texts: bytes, epoch: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=1 << 20,
    )
    for offset, text in enumerate(texts):
        assert builder.append(offset, 1_700_000_000_000, None, text, []) is not None
    return bytes(builder.build())


def marker(partition: Partition, producer_id: int, *, commit: bool, epoch: int = 0) -> Marker:
    return Marker(partition.topic.id, partition.index, producer_id, epoch, commit, 3)


async def end(leader: Leader, *markers: Marker) -> None:
    await TransactionStore(leader.log, leader.control).end(0, (), markers)


async def test_marker_moves_the_last_stable_offset_and_is_read_as_a_control_batch(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        assert (await leader.append(partition, batch(values(b"plain")))).error == 0
        assert (await leader.append(partition, transactional(7, 0, b"a", b"b"))).base_offset == 1
        assert (await leader.append(partition, batch(values(b"plain")))).base_offset == 3
        assert (partition.last_stable_offset, partition.high_watermark) == (1, 4)
        await end(leader, marker(partition, 7, commit=True))
        assert (partition.last_stable_offset, partition.high_watermark) == (5, 5)
        tail = leader.log.read_tail(partition, 0, 1 << 20)
        assert tail is not None
        for wire in (tail, await leader.log.read(partition, 0, 1 << 20)):
            heads = [peek(one) for one in wire]
            assert [h.base_offset for h in heads] == [0, 1, 3, 4]
            assert [h.attributes & 0x30 for h in heads] == [0, TRANSACTIONAL, 0, TRANSACTIONAL | CONTROL]
            assert [(h.producer_id, h.producer_epoch) for h in heads if h.attributes & TRANSACTIONAL] == [(7, 0)] * 2
            assert heads[1].base_sequence == 0
            assert heads[3].base_sequence == -1
            # Key: version 0, type 1 (commit); value: version 0, coordinator epoch (protocol guide, "Control Batches").
            assert bytes(wire[3]).endswith(bytes([8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 3, 0]))


async def test_batches_of_a_transaction_share_rows_only_with_their_own(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        answers = [
            leader.send(partition, wire)
            for number in range(3)
            for wire in (transactional(7, number, b"x"), transactional(8, number, b"y"), batch(values(b"z")))
        ]
        answers += [leader.send(partition, transactional(7, number, b"x")) for number in (3, 4, 5)]
        for number, answer in enumerate(answers):
            assert (await answer).base_offset == number
        stored = [peek(one) for one in await leader.log.read(partition, 0, 1 << 20)]
        assert sum(h.record_count for h in stored) == 12
        assert {(h.producer_id, h.attributes & TRANSACTIONAL) for h in stored} == {
            (7, TRANSACTIONAL),
            (8, TRANSACTIONAL),
            (-1, 0),
        }
        connection = await asyncpg.connect(pg_dsn)
        rows = await connection.fetch(
            "SELECT DISTINCT coalesce(producer_id, producer_ids[1]) FROM kafka.log WHERE is_transactional"
        )
        await connection.close()
        assert {row[0] for row in rows} == {7, 8}
        assert partition.open_transactions == {7: 0, 8: 1}


@pytest.mark.parametrize("in_memory", [1000, 1])
async def test_aborted_transactions_are_found_in_memory_and_in_the_database(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(partition_module, "ABORTED_IN_MEMORY", in_memory)
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        await leader.append(partition, transactional(7, 0, b"a"))  # 0, aborted by the marker at 3
        await leader.append(partition, transactional(8, 0, b"b"))  # 1, committed by the marker at 2
        await end(leader, marker(partition, 8, commit=True))
        await end(leader, marker(partition, 7, commit=False))
        await leader.append(partition, transactional(7, 1, b"c"))  # 4, committed by the marker at 6
        await leader.append(partition, transactional(8, 1, b"d"))  # 5, aborted by the marker at 7
        await end(leader, marker(partition, 7, commit=True))
        await end(leader, marker(partition, 8, commit=False))

        async def check(leader: Leader, partition: Partition) -> None:
            expected = {0: [(7, 0), (8, 5)], 1: [(8, 5)], 4: [(8, 5)], 5: [(8, 5)], 6: []}
            for offset, transactions in expected.items():
                batches = await leader.log.read(partition, offset, 1 << 20)
                found = [
                    one for one in await leader.log.aborted(partition, offset, batches) if one != (7, 0) or not offset
                ]
                assert found == transactions, offset
            first = (await leader.log.read(partition, 0, 1 << 20))[:1]
            assert await leader.log.aborted(partition, 0, first) == [(7, 0)]

        await check(leader, partition)
        leader.log.forget(partition)
        again = await leader.partition(partition.topic)
        assert not again.aborted
        assert again.last_stable_offset == again.high_watermark == 8
        await check(leader, again)


async def test_open_transactions_are_known_after_a_restart(pg_dsn: str) -> None:
    for checkpoint_bytes in (65_536, 1 << 30):
        name = f"t{checkpoint_bytes}"
        async with leading(pg_dsn, checkpoint_bytes=checkpoint_bytes) as leader:
            partition = await leader.partition(await leader.topic(name))
            await leader.append(partition, transactional(7, 0, b"a"))
            await leader.append(partition, transactional(8, 0, b"b"))
            await end(leader, marker(partition, 7, commit=True, epoch=1))
            await leader.append(partition, transactional(9, 0, b"c" * 70_000))
            assert partition.open_transactions == {8: 1, 9: 3}
            if checkpoint_bytes > 65_536:
                leader.crash()
        async with leading(pg_dsn) as leader:
            topic = leader.topics.by_name[name]
            partition = await leader.partition(topic)
            assert partition.open_transactions == {8: 1, 9: 3}
            assert partition.last_stable_offset == 1
            assert partition.producers[7].epoch == 1
            refused = await leader.append(partition, transactional(7, 1, b"zombie"))
            assert refused.error == ErrorCode.INVALID_PRODUCER_EPOCH
            plain = await leader.append(partition, batch(values(b"x"), producer_id=8, epoch=0, sequence=1))
            assert plain.error == ErrorCode.INVALID_TXN_STATE
            await end(leader, marker(partition, 8, commit=False), marker(partition, 9, commit=True))
            assert partition.last_stable_offset == partition.high_watermark


async def test_the_end_is_written_whole_or_not_at_all(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partitions = [await leader.partition(topic, index) for index in (0, 1)]
        for partition in partitions:
            await leader.append(partition, transactional(7, 0, b"a"))
        store = TransactionStore(leader.log, leader.control)
        groups = GroupStore(leader.log, leader.control)
        markers = [marker(partition, 7, commit=True) for partition in partitions]
        decided = Record("transaction", "", {"state": "CompleteCommit", "producer_id": 7})
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute(
            "ALTER TABLE kafka.log ADD CONSTRAINT no_marker CHECK (NOT is_control OR partition <> 1) NOT VALID"
        )
        offsets = [OffsetWrite(topic.id, 0, 1, committed_at_ms=1_700_000_000_000)]
        other = leader.send(partitions[0], batch(values(b"other")))
        with pytest.raises(StorageError):
            await store.end(0, [transaction_write("id", [decided]), group_write("g", offsets)], markers)
        assert (await other).error in (0, ErrorCode.UNKNOWN_SERVER_ERROR)
        assert await store.load() == []
        assert (await groups.load())[1] == []
        assert [p.last_stable_offset for p in partitions] == [0, 0]
        await connection.execute("ALTER TABLE kafka.log DROP CONSTRAINT no_marker")
        await connection.close()
        await store.end(0, [transaction_write("id", [decided]), group_write("g", offsets)], markers)
        assert [p.last_stable_offset for p in partitions] == [p.high_watermark for p in partitions]
        (stored,) = await store.load()
        assert (stored.transactional_id, stored.records) == ("id", (decided,))
        assert [(o.group_id, o.offset) for o in (await groups.load())[1]] == [("g", 1)]


async def test_a_batch_whose_transaction_is_not_open_is_refused_when_its_turn_comes(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        opened = {(7, 0)}
        leader.admits = lambda place, producer_id, epoch: (  # type: ignore[method-assign]
            0 if (producer_id, epoch) in opened else ErrorCode.INVALID_TXN_STATE
        )
        assert (await leader.append(partition, transactional(7, 0, b"a"))).error == 0
        late = leader.send(partition, transactional(7, 1, b"late"))
        opened.clear()
        await end(leader, marker(partition, 7, commit=True))
        assert (await late).error == ErrorCode.INVALID_TXN_STATE
        # The first copy is there: asked again, it is answered as before.
        assert (await leader.append(partition, transactional(7, 0, b"a"))).base_offset == 0
        assert partition.open_transactions == {}
        assert partition.high_watermark == 2


async def test_end_without_any_partition_that_is_left(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, transactional(7, 0, b"a"))
        await leader.topics.delete([topic])
        await end(leader, marker(partition, 7, commit=True))
