"""A batch of a hundred megabytes shares its lane: other partitions are written meanwhile, and the event loop turns."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.storage.test_lane_faults import append_again
from tests.wire_batches import batch, records, values

from pg_kafka.storage import lane as lane_module
from pg_kafka.storage import staging
from pg_kafka.storage.endings import Marker
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.transactions import TransactionStore
from pg_kafka.wire.error_codes import ErrorCode


@pytest.fixture(autouse=True)
def small_giants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "GIANT_BYTES", 1_000_000)


class Gate:
    """Holds the COPY of giants back until it is opened; everything else goes through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open, self.reached = asyncio.Event(), asyncio.Event()
        self.pieces = 0
        copy = lane_module.copy

        async def held_back(*arguments: Any, **more: Any) -> None:
            progress = more.get("on_progress")
            if progress is None:
                await copy(*arguments, **more)
                return
            self.reached.set()
            await self.is_open.wait()

            def count() -> None:
                self.pieces += 1
                progress()

            await copy(*arguments, **more | {"on_progress": count})

        monkeypatch.setattr(lane_module, "copy", held_back)


def giant(*, producer_id: int = -1, sequence: int = -1, size: int = 3) -> bytes:
    texts = [b"%d" % n * 500_000 for n in range(size)]
    return batch(values(*texts), producer_id=producer_id, epoch=0 if producer_id >= 0 else -1, sequence=sequence)


async def lengths(leader: Leader, partition: Partition) -> list[int]:
    found: list[int] = []
    while len(found) < partition.high_watermark:
        wire = await leader.log.read(partition, len(found), 1 << 30)
        found += [len(value or b"") for offset, _, value in records(wire) if offset >= len(found)]
    return found


async def test_small_batches_do_not_wait_for_a_giant(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        large, small, later = await leader.log.load([(topic, index) for index in range(3)])
        gate = Gate(monkeypatch)
        answer = leader.send(large, giant())
        behind = leader.send(large, batch(values(b"behind")))
        await asyncio.wait_for(gate.reached.wait(), 20)
        for n in range(5):
            assert (await leader.append(small, batch(values(b"%d" % n)))).base_offset == n
        assert (await leader.append(later, batch(values(b"x")))).base_offset == 0
        assert not answer.done() and not behind.done() and large.high_watermark == 0
        gate.is_open.set()
        assert (await asyncio.wait_for(answer, 20)).base_offset == 0
        assert (await asyncio.wait_for(behind, 20)).base_offset == 3
        assert gate.pieces > 3  # between which other tasks have run
        assert await lengths(leader, large) == [500_000] * 3 + [6]
        assert leader.log.backlog.bytes == 0


async def test_giant_comes_after_what_its_partition_has_on_the_way(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that does not happen, the giant must not stand behind a gap."""
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        large, *others = await leader.log.load([(topic, index) for index in range(3)])
        gate = Gate(monkeypatch)
        commit, is_held, go_on = lane_module.commit, asyncio.Event(), asyncio.Event()

        async def held_back(*arguments: Any, **more: Any) -> None:
            is_held.set()
            await go_on.wait()
            await commit(*arguments, **more)

        monkeypatch.setattr(lane_module, "commit", held_back)
        before, answer = leader.send(large, batch(values(b"before"))), leader.send(large, giant())
        await asyncio.wait_for(is_held.wait(), 20)
        # So much is queued that what is next is loaded beside the transaction that commits.
        answers = [leader.send(partition, batch(values(bytes(100_000)))) for partition in others for _ in range(2)]
        await asyncio.sleep(0.2)
        assert not gate.reached.is_set() and not before.done()
        for session in leader.log._lanes[0]._sessions:
            session.drop()
        go_on.set()
        gate.is_open.set()
        results = await asyncio.wait_for(asyncio.gather(before, answer, *answers), 20)
        assert {r.error for r in results} == {ErrorCode.KAFKA_STORAGE_ERROR}
        monkeypatch.undo()
        assert await append_again(leader, topic, 0, batch(values(b"again"))) == 0


async def test_giants_of_one_producer_stay_in_order_and_have_no_duplicates(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partitions = await leader.log.load([(topic, index) for index in range(2)])
        answers = [
            leader.send(partition, wire)
            for partition in partitions
            for wire in (
                giant(producer_id=7, sequence=0),
                batch(values(b"a"), producer_id=7, epoch=0, sequence=3),
                giant(producer_id=7, sequence=4),
                giant(producer_id=7, sequence=4),
                batch(values(b"b"), producer_id=7, epoch=0, sequence=7),
            )
        ]
        results = await asyncio.wait_for(asyncio.gather(*answers), 30)
        assert [(r.error, r.base_offset) for r in results] == [(0, 0), (0, 3), (0, 4), (0, 4), (0, 7)] * 2
        for partition in partitions:
            assert await lengths(leader, partition) == [500_000] * 3 + [1] + [500_000] * 3 + [1]


async def test_segment_is_not_switched_under_a_giant(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever switches is told when no lane writes to the old segment any more."""
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        gate = Gate(monkeypatch)
        answer = leader.send(partition, giant())
        await asyncio.wait_for(gate.reached.wait(), 20)
        done: list[str] = []
        control = asyncio.create_task(leader.log._lanes[0].control(lambda: done.append("applied")))
        await asyncio.sleep(0.05)
        assert not done and not control.done()
        gate.is_open.set()
        await asyncio.wait_for(control, 20)
        assert done == ["applied"] and answer.done()


async def test_marker_comes_after_the_giant_of_its_partition(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        large, other = await leader.log.load([(topic, 0), (topic, 1)])
        store = TransactionStore(leader.log, leader.control)
        gate = Gate(monkeypatch)
        answer = leader.send(large, giant())
        await asyncio.wait_for(gate.reached.wait(), 20)
        await asyncio.wait_for(store.end(0, (), [Marker(topic.id, 1, 9, 0, True, 0)]), 20)
        ending = asyncio.create_task(store.end(0, (), [Marker(topic.id, 0, 9, 0, True, 0)]))
        await asyncio.sleep(0.05)
        assert not ending.done()
        gate.is_open.set()
        await asyncio.wait_for(ending, 20)
        assert answer.done() and (large.high_watermark, other.high_watermark) == (4, 1)


async def test_checkpoint_holds_nothing_of_a_giant_that_may_fail(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        large, small = await leader.log.load([(topic, 0), (topic, 1)])
        for partition in (large, small):
            assert (await leader.append(partition, batch(values(b"first")))).error == 0
        gate = Gate(monkeypatch)
        answer = leader.send(large, giant())
        await asyncio.wait_for(gate.reached.wait(), 20)
        (lane,) = leader.log._lanes
        lane._staging.mark_checkpoints()
        assert (await leader.append(small, batch(values(b"second")))).base_offset == 1
        connection = await asyncpg.connect(pg_dsn)
        stored = await connection.fetch("SELECT partition, next_offset FROM kafka.partition_checkpoints")
        assert [tuple(row) for row in stored if row["partition"] == 0] in ([], [(0, 1)])
        for session in lane._sessions:
            session.drop()
        gate.is_open.set()
        assert (await asyncio.wait_for(answer, 20)).error == ErrorCode.KAFKA_STORAGE_ERROR
        await connection.close()
        assert await append_again(leader, topic, 0, giant()) == 1


async def test_giant_that_the_database_refuses_fails_alone(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        large, small = await leader.log.load([(topic, 0), (topic, 1)])
        connection = await asyncpg.connect(pg_dsn)
        leaf = await connection.fetchval("SELECT format('kafka.log_%s_%s', series, segment) FROM kafka.segments")
        await connection.execute(
            f"ALTER TABLE {leaf} ADD CONSTRAINT no CHECK (partition <> 0 OR base_offset = 0) NOT VALID"
        )
        answers = [leader.send(large, giant()), leader.send(small, batch(values(b"a"))), leader.send(large, giant())]
        results = await asyncio.wait_for(asyncio.gather(*answers), 20)
        assert [r.error for r in results] == [ErrorCode.UNKNOWN_SERVER_ERROR, 0, ErrorCode.UNKNOWN_SERVER_ERROR]
        await connection.execute(f"ALTER TABLE {leaf} DROP CONSTRAINT no")
        await connection.close()
        assert (await leader.append(large, giant())).base_offset == 0
        assert await lengths(leader, large) == [500_000] * 3
        assert leader.log.backlog.bytes == 0


async def test_topic_of_a_giant_is_deleted(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partitions = await leader.log.load([(topic, 0), (topic, 1)])
        answers = [leader.send(partition, giant()) for partition in partitions for _ in range(2)]
        await asyncio.wait_for(leader.topics.delete([topic]), 20)
        results = await asyncio.wait_for(asyncio.gather(*answers), 20)
        assert {r.error for r in results} <= {0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert leader.log.backlog.bytes == 0


async def test_stop_writes_giants_that_wait(pg_dsn: str) -> None:
    leader = Leader(pg_dsn)
    await leader.start()
    partition = await leader.partition(await leader.topic("t"))
    answers = [leader.send(partition, giant()) for _ in range(2)]
    await leader.stop()
    assert [answer.result().base_offset for answer in answers] == [0, 3]


async def test_large_batch_is_not_kept_in_memory(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a hundred megabytes holds up all connections; what was kept before makes no gap."""
    monkeypatch.setattr(staging, "MAX_TAIL_BATCH_BYTES", 1_000_000)
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        wires = [batch(values(b"a")), giant(), batch(values(b"b"))]
        assert [(await leader.append(partition, wire)).base_offset for wire in wires] == [0, 1, 4]
        kept = [offset for offset in range(5) if leader.log.read_tail(partition, offset, 1 << 20)]
        assert kept == [4]
        assert await lengths(leader, partition) == [1, 500_000, 500_000, 500_000, 1]
