"""The log on a real PostgreSQL: offsets, group commit, restart, duplicate windows, errors."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, records, values

from pg_kafka.clock import Clock
from pg_kafka.cluster import heartbeat
from pg_kafka.errors import StorageError
from pg_kafka.storage import log as log_module
from pg_kafka.storage.disk import NEARLY_FULL, DiskWatch
from pg_kafka.storage.journal import JournalWrite, OffsetWrite
from pg_kafka.storage.partition import AppendResult
from pg_kafka.storage.sessions import unavailable
from pg_kafka.storage.topics import NewTopic, Topic
from pg_kafka.wire.error_codes import ErrorCode


async def test_records_are_committed_rows_at_their_offsets(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        first = await leader.append(partition, batch(values(b"a", b"b")))
        second = await leader.append(partition, batch(values(b"c")))
        assert (first.error, first.base_offset, second.base_offset) == (0, 0, 2)
        assert partition.high_watermark == 3
        connection = await asyncpg.connect(pg_dsn)
        rows = await connection.fetch("SELECT base_offset, values FROM kafka.log ORDER BY base_offset")
        await connection.close()
        assert [tuple(row) for row in rows] == [(0, [b"a", b"b"]), (2, [b"c"])]


async def test_tail_and_database_give_the_same_records(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for number in range(20):
            await leader.append(partition, batch(values(b"x%d" % number, b"y%d" % number)))
        tail = leader.log.read_tail(partition, 0, 1 << 20)
        assert tail is not None
        stored = await leader.log.read(partition, 0, 1 << 20)
        assert records(tail) == records(stored)
        assert [offset for offset, _, _ in records(tail)] == list(range(40))
        # In the middle of a batch: whole batches, the wanted offset among them.
        middle = records(await leader.log.read(partition, 31, 1))
        assert any(offset == 31 for offset, _, _ in middle)


async def test_concurrent_batches_share_transactions_and_keep_their_order(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        partitions = await leader.log.load([(topic, index) for index in range(3)])
        answers = [
            (number, partition, leader.send(partition, batch(values(b"%d" % number))))
            for number in range(300)
            for partition in partitions
        ]
        for number, _, answer in answers:
            assert (await answer).base_offset == number
        for partition in partitions:
            stored = records(await leader.log.read(partition, 0, 1 << 20))
            assert stored == [(n, None, b"%d" % n) for n in range(300)]
        connection = await asyncpg.connect(pg_dsn)
        assert await connection.fetchval("SELECT count(*) FROM kafka.log") < 30
        await connection.close()


@pytest.mark.parametrize("orderly", [True, False])
async def test_restart_goes_on_where_the_log_ended(pg_dsn: str, orderly: bool) -> None:
    first = Leader(pg_dsn)
    await first.start()
    topic = await first.topic("t")
    partition = await first.partition(topic)
    sent = batch(values(b"a", b"b"), producer_id=7, epoch=0, sequence=0)
    assert (await first.append(partition, sent)).base_offset == 0
    if orderly:
        await first.stop()
    else:
        first.crash()
    async with leading(pg_dsn) as second:
        partition = await second.partition(second.topics.by_name["t"])
        assert (partition.high_watermark, partition.leader_epoch) == (2, second.log.epoch)
        assert second.log.epoch > first.log.epoch
        # The duplicate window has survived.
        again = await second.append(partition, sent)
        assert (again.error, again.base_offset) == (0, 0)
        gap = await second.append(partition, batch(values(b"z"), producer_id=7, epoch=0, sequence=5))
        assert gap.error == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        following = await second.append(partition, batch(values(b"c"), producer_id=7, epoch=0, sequence=2))
        assert following.base_offset == 2
        assert partition.epochs == [(first.log.epoch, 0), (second.log.epoch, 2)]
        assert partition.end_of_epoch(first.log.epoch) == (first.log.epoch, 2)


async def test_duplicate_of_a_batch_under_way_joins_its_wait(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        sent = batch(values(b"a"), producer_id=7, epoch=0, sequence=0)
        answers = [leader.send(partition, sent) for _ in range(3)]
        assert [(await a).base_offset for a in answers] == [0, 0, 0]
        assert partition.high_watermark == 1


async def test_refused_rows_fail_their_partition_alone(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        good, bad = await leader.topic("good", 2), await leader.topic("bad")
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute(f"ALTER TABLE kafka.log_0_0 ADD CHECK (topic <> {bad.id})")
        partitions = await leader.log.load([(good, 0), (bad, 0), (good, 1)])
        answers = [leader.send(p, batch(values(b"v"))) for _ in range(5) for p in partitions]
        results = [await a for a in answers]
        assert [r.error != 0 for r in results] == [False, True, False] * 5
        assert [r.base_offset for r in results[0::3]] == list(range(5))
        await connection.execute("ALTER TABLE kafka.log_0_0 DROP CONSTRAINT log_0_0_topic_check")
        await connection.close()
        assert (await leader.append(partitions[1], batch(values(b"v")))).base_offset == 0


async def test_lost_sessions_fail_retriably_and_the_lane_comes_back(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"a")))
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'pg_kafka lane%'"
        )
        await connection.close()
        for _ in range(200):
            partition = await leader.partition(topic)
            result = await leader.append(partition, batch(values(b"b")))
            if result.error == 0:
                break
            assert result.error in (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER)
            await asyncio.sleep(0.02)
        assert result.error == 0
        stored = records(await leader.log.read(partition, 0, 1 << 20))
        assert [offset for offset, _, _ in stored] == list(range(result.base_offset + 1))


async def test_fenced_broker_writes_nothing(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("UPDATE kafka.brokers SET status = 'fenced'")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'pg_kafka %'"
        )
        result = await leader.append(partition, batch(values(b"a")))
        assert result.error != 0
        assert await connection.fetchval("SELECT count(*) FROM kafka.log") == 0
        await connection.close()
        async with asyncio.timeout(10):
            await leader.over.wait()


async def test_deleted_topic_takes_no_more(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"a")))
        await leader.topics.delete([topic])
        assert (await leader.append(partition, batch(values(b"b")))).error != 0
        again = await leader.topic("t")
        assert again.id != topic.id
        partition = await leader.partition(again)
        assert (await leader.append(partition, batch(values(b"c")))).base_offset == 0


@pytest.mark.parametrize("task", ["heartbeat", "lane 0"])
async def test_task_that_fails_by_surprise_ends_the_incarnation(
    pg_dsn: str, task: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: object) -> None:
        raise ZeroDivisionError

    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        if task == "heartbeat":
            monkeypatch.setattr(heartbeat, "check_live", surprise)
            connection = await asyncpg.connect(pg_dsn)
            await connection.execute("UPDATE kafka.brokers SET status = 'stopped'")
            await connection.close()
        else:
            monkeypatch.setattr(leader.log._lanes[0], "_serve", surprise)
            monkeypatch.setattr(leader.log._lanes[0], "_recover", surprise)
            for session in leader.log._lanes[0]._sessions:
                session.drop()
            leader.send(partition, batch(values(b"a")))
        await asyncio.wait_for(leader.over.wait(), 20)
    failed = [vars(record)["task"] for record in caplog.records if record.getMessage() == "background task failed"]
    assert failed == [task]


async def test_deletion_that_takes_too_long_leaves_the_topic_as_it_was(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "CONTROL_TIMEOUT_S", 0.2)
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        connection = await asyncpg.connect(pg_dsn)
        async with connection.transaction():
            await connection.execute("LOCK TABLE kafka.log_0_0 IN ACCESS EXCLUSIVE MODE")
            held_up = leader.send(partition, batch(values(b"a")))
            while not partition.staged_end:  # noqa: ASYNC110
                await asyncio.sleep(0)
            with pytest.raises(StorageError):
                await leader.topics.delete([topic])
        await connection.close()
        assert (await asyncio.wait_for(held_up, 20)).error == 0
        assert (await leader.append(await leader.partition(topic), batch(values(b"b")))).base_offset == 1


async def test_deletion_that_the_database_refuses_leaves_the_topic_as_it_was(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise unavailable("not now")

    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        assert (await leader.append(await leader.partition(topic), batch(values(b"a")))).error == 0
        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr(leader.control, "execute", refuse)
            await leader.topics.delete([topic])
        assert (await leader.append(await leader.partition(topic), batch(values(b"b")))).base_offset == 1


async def test_batches_are_refused_while_the_disk_is_full_and_keep_their_order(pg_dsn: str) -> None:
    free = [10**9]
    disk = DiskWatch(lambda: free[0], 10**8)
    disk.look()
    async with leading(pg_dsn, disk=disk) as leader:
        partition = await leader.partition(await leader.topic("t"))
        assert (await leader.append(partition, batch(values(b"a")))).error == 0
        free[0] = 10**8 - 1
        disk.look()
        first, second = (batch(values(b"x"), producer_id=7, epoch=0, sequence=number) for number in (0, 1))
        refused = await leader.append(partition, first)
        assert (refused.error, refused.message) == (ErrorCode.KAFKA_STORAGE_ERROR, NEARLY_FULL)
        assert await leader.log.read(partition, 0, 1 << 20)
        free[0] = 10**9
        disk.look()
        # What was sent behind it on the same connection must not come before it.
        assert (await leader.append(partition, second)).error == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert (await leader.append(partition, first)).base_offset == 1
        assert (await leader.append(partition, second)).base_offset == 2


async def test_what_is_queued_counts_before_it_is_written(pg_dsn: str) -> None:
    free = [10**9]
    disk = DiskWatch(lambda: free[0], 10**8)
    disk.look()
    async with leading(pg_dsn, disk=disk) as leader:
        partition = await leader.partition(await leader.topic("t"))
        free[0] = 10**8 + 6_000_000
        disk.look()
        # None of them has been written yet when the next one comes; each is 3.5 MB on the disk.
        sent = [leader.send(partition, batch(values(b"x" * 1_000_000))) for _ in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*sent), 20)
        assert [result.error for result in results] == [0, ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.KAFKA_STORAGE_ERROR]
        disk.look()
        assert (await leader.append(partition, batch(values(b"x" * 1_000_000)))).base_offset == 1


async def test_what_is_queued_is_dropped_when_even_the_reserve_does_not_hold_it(pg_dsn: str) -> None:
    free = [10**9]
    disk = DiskWatch(lambda: free[0], 10**7)
    disk.look()
    async with leading(pg_dsn, disk=disk) as leader:
        partition = await leader.partition(await leader.topic("t"))
        queued = [leader.send(partition, batch(values(b"x" * size))) for size in (1_000_000, 1_500_000)]
        free[0] = 10**7 - 1
        disk.look()
        assert disk.must_drop
        results = await asyncio.wait_for(asyncio.gather(*queued), 20)
        # The second fits once the first is gone.
        assert [result.error for result in results] == [ErrorCode.KAFKA_STORAGE_ERROR, 0]
        assert not disk.must_drop
        free[0] = 10**9
        disk.look()
        assert (await leader.append(partition, batch(values(b"a")))).base_offset == 1


async def test_journals_go_on_within_the_reserve_and_stop_before_its_end(pg_dsn: str) -> None:
    free = [10**9]
    disk = DiskWatch(lambda: free[0], 10**8)
    disk.look()
    async with leading(pg_dsn, disk=disk) as leader:
        topic = await leader.topic("t")

        async def commit(offset: int) -> StorageError | None:
            done: asyncio.Future[StorageError | None] = asyncio.get_running_loop().create_future()
            write = JournalWrite("g", (), (OffsetWrite(topic.id, 0, offset),), (), done.set_result)
            assert write.prepare() is None
            refused = leader.log.write_journal(write)
            return refused or await asyncio.wait_for(done, 20)

        free[0] = 10**8 - 1
        disk.look()
        assert await commit(1) is None
        free[0] = 10**8 // 4
        disk.look()
        refused = await commit(2)
        assert refused is not None and refused.message == NEARLY_FULL and refused.retriable
        free[0] = 10**9
        disk.look()
        assert await commit(3) is None


async def test_offsets_by_timestamp(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for base in (100, 200, 150, 400):
            await leader.append(partition, batch([(None, b"v", base, ()), (None, b"v", base + 10, ())]))
        find = leader.log.offset_for_timestamp
        epoch = leader.log.epoch
        assert await find(partition, 0) == (0, 100, epoch)
        assert await find(partition, 105) == (1, 110, epoch)
        assert await find(partition, 111) == (2, 200, epoch)
        assert await find(partition, 211) == (6, 400, epoch)
        assert await find(partition, 411) is None
        assert await leader.log.offset_of_max_timestamp(partition) == (7, 410, epoch)


async def test_large_batch_spans_rows_and_comes_back_whole(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        sent = [(b"k%d" % n, bytes([n % 256]) * 1000, 1_700_000_000_000 + n, (("h", b"v"),)) for n in range(3000)]
        wire = batch(sent, codec=3, producer_id=9, epoch=0, sequence=0)
        assert (await leader.append(partition, wire)).base_offset == 0
        connection = await asyncpg.connect(pg_dsn)
        rows = await connection.fetch("SELECT batch_base_offset, base_sequence, batch_count FROM kafka.log")
        await connection.close()
        assert len(rows) > 1
        assert {tuple(row) for row in rows} == {(0, 0, 3000)}
        offset, found = 0, []
        while offset < 3000:
            got = records(await leader.log.read(partition, offset, 100_000))
            found += [r for r in got if r[0] >= offset]
            offset = found[-1][0] + 1
        assert found == [(n, r[0], r[1]) for n, r in enumerate(sent)]


async def test_topics_follow_the_settings_of_the_broker(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        plain = await leader.partition(await leader.topic("plain"))
        created = await leader.topics.create([NewTopic("own", 1, {"max.message.bytes": "77"})])
        assert isinstance(created[0], Topic)
        own = await leader.partition(created[0])
        before = own.topic.settings
        leader.settings.renew(replace(leader.config, message_max_bytes=5000))
        assert plain.topic.settings.max_message_bytes == 5000
        assert leader.topics.by_name["plain"] is plain.topic
        assert own.topic.settings is before


async def test_topic_moves_to_its_own_series(pg_dsn: str) -> None:
    async with leading(pg_dsn, series_bytes=1000) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(b"x" * 2000)))
        assert leader.growth.outgrown == {topic.id}
        connection = await asyncpg.connect(pg_dsn)
        from pg_kafka.storage.segments import Segments

        await Segments(connection).create_series(topic.id, "none")
        await leader.log.move_topic(topic.id, topic.id, 0)
        await leader.append(partition, batch(values(b"y")))
        assert await connection.fetchval(f"SELECT count(*) FROM kafka.log_{topic.id}_0") == 1
        await connection.close()
        stored = records(await leader.log.read(partition, 0, 1 << 20)) + records(
            await leader.log.read(partition, 1, 100)
        )
        assert [v for _, _, v in stored] == [b"x" * 2000, b"y"]
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(leader.topics.by_name["t"])
        assert partition.high_watermark == 2
        assert (await leader.append(partition, batch(values(b"z")))).base_offset == 2


async def test_second_broker_waits_and_takes_over(pg_dsn: str) -> None:
    first = Leader(pg_dsn)
    await first.start()
    topic = await first.topic("t")
    partition = await first.partition(topic)
    await first.append(partition, batch(values(b"a")))
    second = Leader(pg_dsn)
    starting = asyncio.create_task(second.start())
    done, _ = await asyncio.wait([starting], timeout=1.5)
    assert not done
    assert (await first.append(partition, batch(values(b"b")))).base_offset == 1
    first.crash()
    await asyncio.wait_for(starting, 5)
    partition = await second.partition(second.topics.by_name["t"])
    assert (await second.append(partition, batch(values(b"c")))).base_offset == 2
    await second.stop()


async def test_large_producer_does_not_hold_up_a_small_one(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        large, small = await leader.log.load([(topic, 0), (topic, 1)])
        done: list[str] = []

        def note(name: str, answer: asyncio.Future[AppendResult]) -> asyncio.Future[AppendResult]:
            answer.add_done_callback(lambda _: done.append(name))
            return answer

        big = batch(values(*[b"x" * 1000] * 200))
        answers = [note("large", leader.send(large, big)) for _ in range(60)]
        answers.append(note("small", leader.send(small, batch(values(b"y")))))
        assert {(await answer).error for answer in answers} == {0}
        # 12 MB were queued before it; it shares the first transaction.
        assert done.index("small") < 30


async def test_partition_that_is_due_for_a_checkpoint_twice_gets_one(pg_dsn: str) -> None:
    async with leading(pg_dsn, checkpoint_bytes=65_536) as leader:
        partition = await leader.partition(await leader.topic("t"))
        lane = leader.log._lanes[0]
        term = lane.term
        # Due by its bytes, and because the time of all changed partitions has come.
        lane._staging._next_checkpoint = 0
        assert (await leader.append(partition, batch(values(b"x" * 70_000)))).base_offset == 0
        assert (await leader.append(partition, batch(values(b"y")))).base_offset == 1
        await lane.control(lambda: None)
        assert (lane.term, partition.is_closed) == (term, False)
        connection = await asyncpg.connect(pg_dsn)
        assert await connection.fetchval("SELECT next_offset FROM kafka.partition_checkpoints") in (1, 2)
        await connection.close()


async def test_producers_are_known_after_the_clock_was_set_forward_by_days(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Leader(pg_dsn)
    await first.start()
    partition = await first.partition(await first.topic("t"))
    sent = batch(values(b"a", b"b"), producer_id=7, epoch=0, sequence=0)
    await first.append(partition, sent)
    now_ms = Clock.wall_ms
    monkeypatch.setattr(Clock, "wall_ms", lambda clock: now_ms(clock) + 3 * 86_400_000)
    # A checkpoint by the new time: in it, in memory and after a restart the producer's batches are known.
    await first.append(partition, batch(values(b"other")))
    first.log._lanes[0]._staging.mark_checkpoints()
    await first.log._lanes[0].control(lambda: None)
    again = await first.append(partition, sent)
    assert (again.error, again.base_offset) == (0, 0)
    await first.stop()
    async with leading(pg_dsn) as second:
        partition = await second.partition(second.topics.by_name["t"])
        again = await second.append(partition, sent)
        assert (again.error, again.base_offset) == (0, 0)
        assert (await second.append(partition, batch(values(b"c")))).base_offset == 3


@pytest.mark.parametrize("orderly", [True, False])
async def test_sequence_numbers_wrap_over_restarts(pg_dsn: str, orderly: bool) -> None:
    top = 2**31 - 1
    within = batch(values(b"a", b"b", b"c", b"d"), producer_id=7, epoch=0, sequence=top - 1)
    between = [
        batch(values(b"a", b"b"), producer_id=8, epoch=0, sequence=top - 1),
        batch(values(b"c"), producer_id=8, epoch=0, sequence=0),
    ]
    first = Leader(pg_dsn)
    await first.start()
    partition = await first.partition(await first.topic("t"))
    for sent, offset in ((within, 0), (between[0], 4)):
        assert (await first.append(partition, sent)).base_offset == offset
    if orderly:
        await first.stop()
    else:
        first.crash()
    async with leading(pg_dsn) as second:
        partition = await second.partition(second.topics.by_name["t"])
        assert (await second.append(partition, within)).base_offset == 0
        gap = await second.append(partition, batch(values(b"x"), producer_id=7, epoch=0, sequence=0))
        assert gap.error == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        for sent, offset in ((between[1], 6), (between[0], 4), (between[1], 6)):
            answer = await second.append(partition, sent)
            assert (answer.error, answer.base_offset) == (0, offset)
        following = await second.append(partition, batch(values(b"e"), producer_id=7, epoch=0, sequence=2))
        assert (following.error, following.base_offset) == (0, 7)
