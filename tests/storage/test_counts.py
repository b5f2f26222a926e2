"""What is counted of lanes, sessions, upkeep, the disk and incarnations is what has happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg
import pytest
from prometheus_client.core import Metric
from tests.storage.compactor import compact
from tests.storage.leader import Leader, frozen, leading, stop_beating, tell_nobody
from tests.storage.retaining import NOW, keeping
from tests.storage.test_compaction import COMPACT, pairs
from tests.storage.test_hanging_backends import pids_of
from tests.storage.test_lane_faults import append_again, refuse_partition_1
from tests.wire_batches import batch, values

from pg_kafka.clock import Clock
from pg_kafka.cluster.counts import Cause, ClusterCounts
from pg_kafka.cluster.incarnation import History
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.metrics import ClusterSource, LeaderSource
from pg_kafka.errors import StorageError
from pg_kafka.storage import lane as lane_module
from pg_kafka.storage import lane_recovery
from pg_kafka.storage.counts import LaneCounts, StorageCounts
from pg_kafka.storage.disk import NO_ROOM, DiskWatch
from pg_kafka.storage.journal import JournalWrite, OffsetWrite
from pg_kafka.storage.metrics import LogSource, StorageSource
from pg_kafka.storage.sessions import Fenced
from pg_kafka.wire.error_codes import ErrorCode


def told(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Samples by their name and the values of their labels."""
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters tell nobody
            await asyncio.sleep(0.01)


def lane_of(leader: Leader) -> LaneCounts:
    return leader.counts.lane(0)


# -- lanes ---------------------------------------------------------------------------------------------------------------


async def test_records_that_are_committed_are_counted_once(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 2)
        partitions = [await leader.partition(topic, index) for index in range(2)]
        await asyncio.gather(*(leader.append(p, batch(values(b"a", b"b", b"c"))) for p in partitions))
        assert (await leader.append(partitions[0], batch(values(b"d"), producer_id=7, epoch=0, sequence=0))).error == 0
        again = await leader.append(partitions[0], batch(values(b"d"), producer_id=7, epoch=0, sequence=0))
        assert again.base_offset == 3  # a duplicate, which is not written again
        counts = lane_of(leader)
        assert counts.records == 7
        assert counts.bytes >= 7
        assert counts.failed == 0
        transactions = counts.transactions
        assert counts.commit_s.count == counts.whole_s.count == transactions >= 2
        assert counts.whole_s.total >= counts.commit_s.total > 0
        found = told(StorageSource(leader.counts).families())
        assert found["pg_kafka_lane_records_total", "0"] == 7
        assert found["pg_kafka_lane_transactions_total", "0", "committed"] == transactions
        assert found["pg_kafka_lane_commit_seconds_count",] == transactions
        assert found["pg_kafka_lane_transaction_bytes_count",] == transactions
        assert found["pg_kafka_lane_transaction_bytes_sum",] == counts.bytes
        assert found["pg_kafka_lane_transaction_bytes_bucket", "4096.0"] == transactions  # some hundred bytes each
        assert found["pg_kafka_lane_commit_seconds_bucket", "+Inf"] == transactions
    # Each partition that has changed gets a checkpoint at the end.
    assert lane_of(leader).checkpoints == 2


async def test_giants_and_journals_are_counted(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        assert (await leader.append(partition, batch(values(*[bytes(1_000_000)] * 5)))).error == 0
        done: asyncio.Future[StorageError | None] = asyncio.get_running_loop().create_future()
        write = JournalWrite("g", (), [OffsetWrite(topic.id, 0, 1), OffsetWrite(topic.id, 1, 2)], (), done.set_result)
        assert write.prepare() is None
        assert leader.log.write_journal(write) is None
        assert await asyncio.wait_for(done, 20) is None
        counts = lane_of(leader)
        assert counts.records == 5
        assert counts.bytes >= 5_000_000
        assert counts.entries == 2


async def test_queue_is_told_while_it_waits(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        may_go = asyncio.Event()
        copy = lane_module.copy

        async def held(*arguments: Any, **more: Any) -> None:
            await may_go.wait()
            await copy(*arguments, **more)

        monkeypatch.setattr(lane_module, "copy", held)
        source = LogSource(leader.log, DiskWatch(lambda: None, 0), lambda: None)
        first = leader.send(partition, batch(values(b"a")))
        await until(lambda: leader.log.lanes[0].under_way == 1)
        waiting = [
            leader.send(partition, batch(values(b"b", b"c"))),
            leader.send(partition, batch(values(bytes(5_000_000)))),
        ]
        found = told(source.families())
        assert found["pg_kafka_lane_queued_records", "0"] == 3
        assert found["pg_kafka_lane_queued_bytes", "0"] > 5_000_000
        assert found["pg_kafka_lane_transactions_under_way", "0"] == 1
        assert found["pg_kafka_lane_ready", "0"] == 1
        assert ("pg_kafka_disk_free_bytes",) not in found  # it cannot be seen, so the family has no series
        may_go.set()
        await asyncio.wait_for(asyncio.gather(first, *waiting), 20)
        found = told(source.families())
        for name in (
            "pg_kafka_lane_queued_records",
            "pg_kafka_lane_queued_bytes",
            "pg_kafka_lane_transactions_under_way",
        ):
            assert found[name, "0"] == 0


async def test_lane_that_breaks_is_counted_and_its_counters_go_on(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await append_again(leader, topic, 0, batch(values(b"a")))
        for session in leader.log._lanes[0]._sessions:
            session.drop()
        await append_again(leader, topic, 0, batch(values(b"b")))
        counts = lane_of(leader)
        assert (counts.broken, counts.recovered, counts.records) == (1, 1, 2)
        sessions = leader.counts.session("lane 0")
        assert sessions.opened == 4
        assert sessions.closed == 2
    assert leader.counts.session("lane").closed == 4


@pytest.mark.parametrize("happened", [True, False])
async def test_commit_in_doubt_is_counted_by_what_became_of_it(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await append_again(leader, topic, 0, batch(values(b"a")))
        copy = lane_module.copy

        async def lost(session: Any, *arguments: Any, **more: Any) -> None:
            monkeypatch.undo()
            if happened:
                await copy(session, *arguments, **more)
            session.drop()
            raise ConnectionResetError("cut")

        monkeypatch.setattr(lane_module, "copy", lost)
        result = await leader.append(await leader.partition(topic), batch(values(b"b", b"c")))
        assert result.error == (0 if happened else ErrorCode.KAFKA_STORAGE_ERROR)
        await append_again(leader, topic, 0, batch(values(b"d")))
        counts = lane_of(leader)
        assert (counts.doubts_committed, counts.doubts_lost) == ((1, 0) if happened else (0, 1))
        assert counts.failed == (0 if happened else 1)
        assert counts.records == (4 if happened else 2)
        assert counts.whole_s.count == counts.transactions


async def test_attempts_to_reconnect_that_fail_are_counted(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await append_again(leader, topic, 0, batch(values(b"a")))
        recovery = leader.log._lanes[0]._recovery
        open_session = recovery._open_session

        async def unreachable(_kind: str) -> Any:
            monkeypatch.setattr(recovery, "_open_session", open_session)
            raise ConnectionRefusedError("no")

        monkeypatch.setattr(recovery, "_open_session", unreachable)
        for session in leader.log._lanes[0]._sessions:
            session.drop()
        await append_again(leader, topic, 0, batch(values(b"b")))
        assert lane_of(leader).unreachable == 1


async def test_what_the_database_refuses_is_counted_and_the_rest_is_written(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        partitions = await leader.log.load([(topic, index) for index in range(3)])
        await refuse_partition_1(pg_dsn)
        results = await asyncio.gather(*(leader.append(p, batch(values(b"a"))) for p in partitions))
        assert [result.error for result in results] == [0, ErrorCode.UNKNOWN_SERVER_ERROR, 0]
        counts = lane_of(leader)
        assert (counts.refused, counts.records, counts.broken) == (1, 2, 0)


# -- sessions ------------------------------------------------------------------------------------------------------------


async def test_round_trips_are_counted_by_kind_of_session(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        lanes, readers, control = (leader.counts.session(kind) for kind in ("lane", "reader", "control"))
        before = lanes.round_trips_s.count
        assert (await leader.append(partition, batch(values(b"a")))).error == 0
        assert lanes.round_trips_s.count > before
        before = lanes.round_trips_s.count
        assert (await leader.append(partition, batch(values(b"a")))).error == 0
        assert lanes.round_trips_s.count == before + 1  # an INSERT by itself
        before = readers.round_trips_s.count
        assert await leader.log.read(partition, 0, 1 << 20)
        await until(lambda: readers.round_trips_s.count > before)
        assert readers.failed == 0
        with pytest.raises(StorageError):
            await leader.control.fetch("SELECT 1/0")
        await until(lambda: control.failed == 1)
        assert control.round_trips_s.total > 0
        found = told(StorageSource(leader.counts).families())
        assert found["pg_kafka_postgres_sessions", "lane"] == 2
        assert found["pg_kafka_postgres_failed_round_trips_total", "control"] == 1
        assert found["pg_kafka_postgres_round_trip_seconds_count", "lane"] == lanes.round_trips_s.count
    found = told(StorageSource(leader.counts).families())
    kinds = list(leader.counts.sessions)
    assert [found["pg_kafka_postgres_sessions", kind] for kind in kinds] == [0] * len(kinds)


async def test_backend_that_hangs_is_counted_and_given_up(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_recovery, "DOUBT_S", 0.3)
    monkeypatch.setattr(lane_recovery, "END_TIMEOUT_S", 0.5)
    async with leading(pg_dsn, backend_timeout_ms=300) as leader:
        topic = await leader.topic("t")
        await append_again(leader, topic, 0, batch(values(b"a")))
        counts = leader.counts.session("lane")
        source = LogSource(leader.log, DiskWatch(lambda: None, 0), lambda: None)
        assert told(source.families())["pg_kafka_postgres_hanging_backends",] == 0
        with frozen(pids_of(leader, 0)):
            answer = leader.send(await leader.partition(topic), batch(values(b"b")))
            await until(lambda: counts.given_up)
            assert counts.hangs == 1
        await asyncio.wait_for(answer, 20)
        await append_again(leader, topic, 0, batch(values(b"c")))
        assert (counts.hangs, counts.given_up, lane_of(leader).broken) == (1, 1, 1)


# -- upkeep --------------------------------------------------------------------------------------------------------------


async def test_what_retention_lets_go_and_frees_is_counted(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t", **{"retention.ms": "1000"})
        partition = await leader.partition(topic)
        for timestamp in (NOW - 5000, NOW - 4000, NOW - 3000):
            await leader.append(partition, batch(values(b"x" * 10_000, timestamp=timestamp)))
        await keeper.seal()
        await leader.append(partition, batch(values(b"y", timestamp=NOW)))
        size = await db.fetchval("SELECT pg_total_relation_size('kafka.log_0_0')")
        await keeper.retain()
        await keeper.free()
        assert await db.fetchval("SELECT count(*) FROM kafka.segments WHERE series = 0 AND segment = 0") == 0
        counts = leader.counts.upkeep
        assert (counts.moved_starts["retention"], counts.passed_offsets["retention"]) == (1, 3)
        assert counts.segments["freed"] == counts.segments["dropped"] == 1
        assert counts.segments["sealed"] == 1
        assert counts.freed_bytes == size > 30_000
        await keeper.retain()  # nothing is left to go
        assert counts.passed_offsets["retention"] == 3


async def test_starts_that_clients_and_sql_move_are_counted_apart(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        partition = await leader.partition(topic)
        await leader.append(partition, batch(values(*[b"x"] * 10)))
        await leader.log.delete_records([(partition, 3)])
        await leader.log.delete_records([(partition, 2)])  # it begins later already
        leader.log.follow_starts({(topic.id, 0): 7, (topic.id + 99, 0): 5})
        counts = leader.counts.upkeep
        assert counts.passed_offsets == {"request": 3, "sql": 4}
        assert counts.moved_starts == {"request": 1, "sql": 1}


async def test_compaction_is_counted(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", **COMPACT)
        partition = await leader.partition(topic)
        for texts in (("a=1", "b=1"), ("a=2", "b=2"), ("a=3", "c=1")):
            assert (await leader.append(partition, pairs(*texts))).error == 0
        await compact(leader)
        counts = leader.counts.upkeep
        assert counts.compactions == 1
        assert (counts.compacted_records, counts.removed_records) == (6, 3)
        assert counts.job("cleaner", "connect").bytes > 0  # the test runs the job itself
        assert counts.compaction_s >= 0


async def test_job_that_fails_is_counted(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with keeping(pg_dsn) as (leader, keeper, _):
        janitor = keeper.janitor

        async def fail() -> bool:
            raise asyncpg.LockNotAvailableError("busy")

        assert await janitor._try("seal segments", fail) is False
        job = leader.counts.upkeep.job("janitor", "seal segments")
        assert (job.steps, job.failed) == (1, 1)
        assert janitor.failures["seal segments"] == 1


async def test_deleted_topic_is_counted_with_what_its_series_gives_back(pg_dsn: str) -> None:
    async with keeping(pg_dsn) as (leader, keeper, db):
        topic = await leader.topic("t")
        await keeper.own_series(topic.id)
        await leader.append(await leader.partition(topic), batch(values(b"x" * 10_000)))
        size = await db.fetchval(f"SELECT pg_total_relation_size('kafka.log_{topic.id}_0')")
        await leader.topics.delete([topic])
        while await keeper.step("free topics"):
            pass
        counts = leader.counts.upkeep
        assert counts.topics_freed == 1
        assert counts.segments["freed"] == counts.segments["dropped"] == 1
        assert counts.freed_bytes == size


# -- the disk ------------------------------------------------------------------------------------------------------------


async def test_batch_without_room_is_counted_and_named(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    counts = StorageCounts()
    free = [10**9]
    disk = DiskWatch(lambda: free[0], 10**8, counts=counts.disk)
    disk.look()
    async with leading(pg_dsn, disk=disk, counts=counts) as leader:
        partition = await leader.partition(await leader.topic("orders", 3), 2)
        free[0] = 10**8 + 1_000_000
        disk.look()
        for _ in range(2):
            refused = await leader.append(partition, batch(values(b"x" * 1_000_000)))
            assert (refused.error, refused.message) == (ErrorCode.KAFKA_STORAGE_ERROR, NO_ROOM)
        (line,) = (vars(r) for r in caplog.records if r.getMessage() == "disk has no room for a batch, it is refused")
        assert (line["topic"], line["partition"], line["refused"]) == ("orders", 2, 1)
        free[0] = 10**8 - 1
        disk.look()
        assert (await leader.append(partition, batch(values(b"x")))).error == ErrorCode.KAFKA_STORAGE_ERROR
        found = told([*StorageSource(counts).families(), *LogSource(leader.log, disk, lambda: (10**10, 5)).families()])
        assert found["pg_kafka_disk_refused_writes_total", "no room"] == 2
        assert found["pg_kafka_disk_refused_writes_total", "nearly full"] == 1
        assert found["pg_kafka_disk_fillings_total",] == found["pg_kafka_disk_nearly_full",] == 1
        assert found["pg_kafka_disk_free_bytes",] == 10**8 - 1
        assert found["pg_kafka_disk_size_bytes",] == 10**10
        assert found["pg_kafka_disk_reserve_bytes",] == 10**8


async def test_group_without_room_is_named(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    disk = DiskWatch(lambda: 10**8 + 1, 10**8)
    disk.look()
    disk.expect(10**8)  # not nearly full, but what is queued takes it all
    async with leading(pg_dsn, disk=disk) as leader:
        write = JournalWrite("billing", (), [OffsetWrite(1, 0, 1)], (), lambda _error: None)
        assert write.prepare() is None
        assert leader.log.write_journal(write) is not None
        (line,) = (vars(r) for r in caplog.records if r.getMessage() == "disk has no room for a batch, it is refused")
        assert line["group"] == "billing"


# -- incarnations --------------------------------------------------------------------------------------------------------


def member(dsn: str, counts: ClusterCounts, **times: int) -> Membership:
    return Membership(
        dsn,
        host="h",
        port=1,
        version="t",
        heartbeat_ms=times.get("heartbeat_ms", 50),
        eviction_ms=times.get("eviction_ms", 300),
        clock=Clock(),
        on_end=lambda _reason: None,
        history=History(),
        counts=counts,
    )


async def test_take_over_is_counted_and_raises_the_epoch(pg_dsn: str) -> None:
    first, second = ClusterCounts(), ClusterCounts()
    async with leading(pg_dsn, cluster_counts=first, heartbeat_ms=50, eviction_ms=300) as leader:
        assert (first.incarnations, first.take_overs, first.leads) == (1, 0, True)
        await until(lambda: first.heartbeats >= 2)
        waits = asyncio.Event()

        async def on_wait(_view: object) -> None:
            waits.set()

        other = member(pg_dsn, second)
        joining = asyncio.create_task(other.join(on_wait))
        await asyncio.wait_for(waits.wait(), 20)
        assert not told(ClusterSource(second).families())["pg_kafka_leader",]
        await until(lambda: told(LeaderSource(leader.membership).families())["pg_kafka_waiting_brokers",] == 1)
        await stop_beating(leader.membership)
        incarnation = await asyncio.wait_for(joining, 20)
        other.served()
        found = told(ClusterSource(second).families())
        assert found["pg_kafka_leader_epoch",] == incarnation.epoch == first.epoch + 1
        assert found["pg_kafka_take_overs_total",] == found["pg_kafka_fenced_brokers_total",] == 1
        assert found["pg_kafka_leader",] == 1
        assert found["pg_kafka_take_over_seconds",] >= 0
        with pytest.raises(Fenced):
            await leader.membership.open_writer("lane 0")
        assert first.ended == {Cause.FENCED: 1}
        assert not first.leads
        await other.leave()
        assert second.ended == {Cause.STOPPED: 1}
    assert first.ended == {Cause.FENCED: 1}  # the end of the process adds nothing


async def test_start_after_a_stop_is_no_take_over(pg_dsn: str) -> None:
    counts = ClusterCounts()
    for epoch in (1, 2):
        async with leading(pg_dsn, cluster_counts=counts):
            assert (counts.epoch, counts.incarnations, counts.take_overs) == (epoch, epoch, 0)
    assert counts.ended == {Cause.STOPPED: 2}


async def test_database_that_went_back_is_told_from_a_fence(pg_dsn: str) -> None:
    counts = ClusterCounts()
    async with leading(pg_dsn, cluster_counts=counts, heartbeat_ms=50) as leader:
        await until(lambda: counts.heartbeats >= 1)
        db = await asyncpg.connect(pg_dsn)
        await db.execute("UPDATE kafka.brokers SET beats = beats - 1000")
        await db.close()
        await asyncio.wait_for(leader.over.wait(), 20)
        assert counts.ended == {Cause.HISTORY: 1}


async def test_writer_at_our_offsets_is_a_fence(pg_dsn: str) -> None:
    counts = ClusterCounts()
    async with leading(pg_dsn, cluster_counts=counts) as leader:
        partition = await leader.partition(await leader.topic("t"))
        await leader.append(partition, batch(values(b"a")))
        leader.log.fenced("another writer has used our offsets")
        assert counts.ended == {Cause.FENCED: 1}


async def test_heartbeat_that_fails_is_counted(pg_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    counts = ClusterCounts()
    caplog.set_level(logging.WARNING)
    membership = member(pg_dsn, counts, eviction_ms=1000)
    async with leading(pg_dsn):
        pass  # the schema
    await membership.join(tell_nobody)
    await until(lambda: counts.heartbeats >= 1)
    db = await asyncpg.connect(pg_dsn)
    async with db.transaction():
        await db.execute("LOCK TABLE kafka.brokers IN ACCESS EXCLUSIVE MODE")
        await until(lambda: counts.heartbeats_failed == 1)
        assert told(LeaderSource(membership).families())["pg_kafka_heartbeat_age_seconds",] >= 0.9
    await db.close()
    before = counts.heartbeats
    await until(lambda: counts.heartbeats > before)
    await membership.leave()
