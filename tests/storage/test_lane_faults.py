"""A lane answers every batch once and leaves no gap, whatever fails and whenever it does."""

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.crash.proxy import Proxy
from tests.postgres import Database, PostgresServer
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, records, values

from pg_kafka.errors import StorageError
from pg_kafka.storage import lane as lane_module
from pg_kafka.storage import staging
from pg_kafka.wire.error_codes import ErrorCode


async def append_again(leader: Leader, topic: Any, index: int, wire: bytes) -> int:
    """Append as a client does: again after a retriable error, to the partition as it is loaded then."""
    for _ in range(50):
        try:
            result = await leader.append(await leader.partition(topic, index), wire)
        except StorageError:
            continue
        if result.error == 0:
            return result.base_offset
        assert result.error in (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER), result
        await asyncio.sleep(0.05)
    raise AssertionError("never written")


async def refuse_partition_1(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    for row in await connection.fetch("SELECT format('kafka.log_%s_%s', series, segment) AS leaf FROM kafka.segments"):
        await connection.execute(f"ALTER TABLE {row['leaf']} ADD CHECK (partition <> 1) NOT VALID")
    await connection.close()


@pytest.mark.parametrize("trial", [1, 2, 3])
async def test_connection_lost_while_the_culprit_is_sought(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, trial: int
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 4)
        partitions = await leader.log.load([(topic, index) for index in range(4)])
        await refuse_partition_1(pg_dsn)
        write, calls = lane_module.write_statements, 0

        async def cut_at_a_trial(session: Any, transaction: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == trial + 1:
                session.drop()
            await write(session, transaction)

        monkeypatch.setattr(lane_module, "write_statements", cut_at_a_trial)
        monkeypatch.setattr(lane_module, "named_culprit", lambda transaction, error: None)
        answers = [leader.send(partition, batch(values(b"a", b"b"))) for partition in partitions]
        results = await asyncio.wait_for(asyncio.gather(*answers), 10)
        assert all(r.error in (0, ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.KAFKA_STORAGE_ERROR) for r in results)
        for index in (0, 2, 3):
            expected = 2 if results[index].error == 0 else 0
            assert await append_again(leader, topic, index, batch(values(b"c"))) == expected
        assert leader.log.backlog.bytes == 0


async def test_error_while_a_transaction_is_built(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partitions = await leader.log.load([(topic, 0), (topic, 1)])
        make_rows, calls = staging.make_rows, 0

        def fail_once(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise RuntimeError("a bug")
            make_rows(*arguments)

        monkeypatch.setattr(staging, "make_rows", fail_once)
        answers = [leader.send(partition, batch(values(b"a"))) for partition in partitions]
        results = await asyncio.wait_for(asyncio.gather(*answers), 10)
        assert [r.error for r in results] == [ErrorCode.KAFKA_STORAGE_ERROR] * 2
        for index in range(2):
            assert await append_again(leader, topic, index, batch(values(b"b"))) == 0
            found = records(await leader.log.read(await leader.partition(topic, index), 0, 1 << 20))
            assert found == [(0, None, b"b")]
        assert leader.log.backlog.bytes == 0


async def test_connection_lost_while_a_copy_waits_to_write(
    postgres_server: PostgresServer, pg_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver alone would wait for ever: nothing tells a paused COPY that its connection is gone."""
    proxy = Proxy(("127.0.0.1", postgres_server.port))
    await proxy.start()
    name, password = pg_database.name, postgres_server.password
    try:
        async with leading(f"postgresql://{name}:{password}@127.0.0.1:{proxy.port}/{name}?sslmode=disable") as leader:
            topic = await leader.topic("t")
            copy = lane_module.copy

            async def stalled(*arguments: Any, **more: Any) -> None:
                proxy.flows.clear()
                await copy(*arguments, **more)

            monkeypatch.setattr(lane_module, "copy", stalled)
            answer = leader.send(await leader.partition(topic), batch(values(*[bytes(1_000_000)] * 20)))
            await asyncio.sleep(1)
            assert not answer.done()
            monkeypatch.undo()
            proxy.cut()
            proxy.flows.set()
            assert (await asyncio.wait_for(answer, 10)).error == ErrorCode.KAFKA_STORAGE_ERROR
            assert await append_again(leader, topic, 0, batch(values(b"a"))) == 0
    finally:
        await proxy.stop()


async def test_topic_is_deleted_while_the_lane_breaks(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        answer = leader.send(partition, batch(values(b"a")))
        for session in leader.log._lanes[0]._sessions:
            session.drop()
        await asyncio.wait_for(leader.topics.delete([topic]), 10)
        await asyncio.wait_for(answer, 10)
        assert "t" not in leader.topics.by_name


async def test_first_batch_that_failed_comes_before_later_ones(pg_dsn: str) -> None:
    """A producer that the log does not know may begin anywhere, but not behind what it was told to send again."""
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        first, second = (batch(values(b"%d" % n), producer_id=7, epoch=0, sequence=n) for n in range(2))
        (lane,) = leader.log._lanes
        lane.ready.clear()
        assert (await leader.append(partition, first)).error == ErrorCode.KAFKA_STORAGE_ERROR
        lane.ready.set()
        assert (await leader.append(partition, second)).error == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert (await leader.append(partition, first)).base_offset == 0
        assert (await leader.append(partition, second)).base_offset == 1
        stranger = batch(values(b"x"), producer_id=8, epoch=0, sequence=5)
        assert (await leader.append(partition, stranger)).base_offset == 2
        # A new epoch begins anew.
        lane.ready.clear()
        assert (await leader.append(partition, batch(values(b"x"), producer_id=9, epoch=0, sequence=0))).error
        lane.ready.set()
        assert (await leader.append(partition, batch(values(b"y"), producer_id=9, epoch=1, sequence=0))).error == 0


async def test_loads_end_with_the_log(pg_dsn: str) -> None:
    leader = Leader(pg_dsn)
    await leader.start()
    topic = await leader.topic("t")
    (lane,) = leader.log._lanes
    lane.ready.clear()
    load = asyncio.create_task(leader.log.load([(topic, 0)]))
    await asyncio.sleep(0.05)
    leader.crash()
    with pytest.raises(StorageError):
        await asyncio.wait_for(load, 2)
