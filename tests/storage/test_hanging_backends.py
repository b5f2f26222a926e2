"""A backend that hangs costs its own lane only, is named in the log, and what it was asked to write is found out in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.postgres import PostgresServer
from tests.storage.leader import Leader, frozen, leading
from tests.wire_batches import batch, records, values

from pg_kafka.coordinator.records import Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import lane_recovery, reading
from pg_kafka.storage.groups import GroupStore
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode

TIMEOUT_MS = 300
WRITTEN = values(b"written")


class Lines(logging.Handler):
    """What the log says, to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._arrived = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._arrived.set()

    def said(self, message: str) -> list[Any]:
        return [record for record in self.records if record.getMessage() == message]

    async def wait_for(self, message: str) -> Any:
        """The first line with this message."""
        async with asyncio.timeout(20):
            while not (found := self.said(message)):
                self._arrived.clear()
                await self._arrived.wait()
        return found[0]


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    handler = Lines()
    logging.getLogger("pg_kafka").addHandler(handler)
    yield handler
    logging.getLogger("pg_kafka").removeHandler(handler)


def pids_of(leader: Leader, lane: int) -> list[int]:
    return [session.identity.pid for session in leader.log._lanes[lane]._sessions]


async def one_of_each_lane(leader: Leader, name: str = "t") -> tuple[Partition, Partition]:
    topic = await leader.topic(name, 16)
    index = {leader.log.lane_of(topic.id, index): index for index in range(16)}
    return await leader.partition(topic, index[0]), await leader.partition(topic, index[1])


async def written_at(leader: Leader, partition: Partition, wire: bytes) -> int:
    """Append as an idempotent producer does, until it is acknowledged; the offset."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StorageError):
                again = await leader.partition(partition.topic, partition.index)
                result = await leader.append(again, wire)
                if result.error == 0:
                    return result.base_offset
                assert result.error in (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER), result
            await asyncio.sleep(0.02)


async def read(leader: Leader, partition: Partition) -> list[bytes | None]:
    loaded = await leader.partition(partition.topic, partition.index)
    return [value for _, _, value in records(await leader.log.read(loaded, 0, 1 << 20))]


@pytest.mark.parametrize("is_first", [True, False])
async def test_frozen_backend_costs_its_own_lane_only(
    pg_dsn: str, lines: Lines, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """The first append of a partition hangs before its COMMIT, a later one in a COPY that commits itself."""
    monkeypatch.setattr(lane_recovery, "DOUBT_S", 0.3)
    monkeypatch.setattr(lane_recovery, "END_TIMEOUT_S", 0.5)
    async with leading(pg_dsn, lanes=2, backend_timeout_ms=TIMEOUT_MS) as leader:
        ours, others = await one_of_each_lane(leader)
        before = 0 if is_first else 2
        another, _ = await one_of_each_lane(leader, "u")
        for partition in (another, *[ours] * before):
            assert (await leader.append(partition, batch(WRITTEN))).error == 0
        wire = batch(values(b"doubtful"), producer_id=7, epoch=0, sequence=0)
        pids = pids_of(leader, 0)
        with frozen(pids):
            doubtful = leader.send(ours, wire)
            line = await lines.wait_for("a backend did not answer in time and is given up")
            assert line.pid in pids and line.waits_for and line.state and line.session == "lane 0"
            known = ErrorCode.KAFKA_STORAGE_ERROR if is_first else ErrorCode.REQUEST_TIMED_OUT
            assert (await asyncio.wait_for(doubtful, 20)).error == known
            assert (await lines.wait_for("a lost backend does not end")).pid in pids
            # Refused at once, also what was not in doubt; what is committed stays readable.
            assert (await leader.append(ours, wire)).error == ErrorCode.KAFKA_STORAGE_ERROR
            assert not ours.is_closed
            assert await read(leader, ours) == [b"written"] * before
            for n in range(3):
                assert (await leader.append(others, batch(values(b"%d" % n)))).base_offset == n
            assert not lines.said("lane recovered")
        await lines.wait_for("lane recovered")
        assert await written_at(leader, ours, wire) == before
        assert await written_at(leader, ours, wire) == before, "a duplicate"
        following = batch(values(b"next"), producer_id=7, epoch=0, sequence=1)
        assert await written_at(leader, ours, following) == before + 1
        assert await read(leader, ours) == [b"written"] * before + [b"doubtful", b"next"]
        assert leader.log.backlog.bytes == 0


async def test_groups_of_other_lanes_go_on(pg_dsn: str, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_recovery, "END_TIMEOUT_S", 0.5)
    async with leading(pg_dsn, lanes=2, backend_timeout_ms=TIMEOUT_MS) as leader:
        store = GroupStore(leader.log, leader.control)
        names = {leader.log.lane_of_journal(f"g{n}"): f"g{n}" for n in range(32)}

        def write(lane: int, number: int) -> asyncio.Future[StorageError | None]:
            answer: asyncio.Future[StorageError | None] = asyncio.get_running_loop().create_future()
            store.write(names[lane], [Record("classic", "", {"number": number})], (), (), answer.set_result)
            return answer

        assert [await asyncio.wait_for(write(lane, 0), 20) for lane in range(2)] == [None, None]
        with frozen(pids_of(leader, 0)):
            hanging = write(0, 1)
            await lines.wait_for("a lost backend does not end")
            queued = write(0, 2)
            assert await asyncio.wait_for(write(1, 1), 20) is None
            # An error would have all groups loaded again, which has to wait for this lane.
            assert not hanging.done() and not queued.done()
        await lines.wait_for("lane recovered")
        errors = [await asyncio.wait_for(answer, 20) for answer in (hanging, queued)]
        assert all(error is None or error.retriable for error in errors)
        assert errors[1] is not None or errors[0] is None, "a write overtook one that failed"
        last = max(n for n, error in enumerate((None, *errors)) if error is None)
        (found,) = [g for g in (await store.load())[0] if g.group_id == names[0]]
        assert found.records[0].value == {"number": last}


async def test_lane_that_is_waited_for_says_who_blocks_it(
    pg_dsn: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_recovery, "DOUBT_S", 0.3)
    async with leading(pg_dsn, backend_timeout_ms=TIMEOUT_MS) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for _ in range(2):
            assert (await leader.append(partition, batch(WRITTEN))).error == 0
        blocker = await asyncpg.connect(pg_dsn)
        async with blocker.transaction():
            leaf = await blocker.fetchval("SELECT format('kafka.log_%s_%s', series, segment) FROM kafka.segments")
            await blocker.execute(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE")
            answer = leader.send(partition, batch(values(b"blocked"), producer_id=7, epoch=0, sequence=0))
            line = await lines.wait_for("a backend did not answer in time and is given up")
            assert (line.waits_for, line.blocked_by) == ("Lock/relation", str(blocker.get_server_pid()))
            # It ends, but whether it has written can not be read before the lock is gone.
            assert (await asyncio.wait_for(answer, 20)).error == ErrorCode.REQUEST_TIMED_OUT
        await blocker.close()
        await lines.wait_for("commit in doubt did not happen")
        assert await written_at(leader, partition, batch(values(b"z"), producer_id=7, epoch=0, sequence=0)) == 2


async def test_commit_that_waits_for_a_standby_is_left_alone(
    make_postgres: Callable[..., PostgresServer], lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its connection is lost: it counts once the standby is back, and its duplicate gets its offset."""
    monkeypatch.setattr(lane_recovery, "DOUBT_S", 0.3)
    monkeypatch.setattr(lane_recovery, "END_TIMEOUT_S", 0.5)
    server = make_postgres("postgresql-15")
    try:
        async with leading(server.create_database().dsn, backend_timeout_ms=TIMEOUT_MS) as leader:
            partition = await leader.partition(await leader.topic("t"))
            for _ in range(2):
                assert (await leader.append(partition, batch(WRITTEN))).error == 0
            server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody';\nSELECT pg_reload_conf();\n")
            waiting = asyncio.create_task(lines.wait_for("a commit waits for a synchronous standby"))
            sequence = -1
            while not waiting.done():  # the server takes the setting in its own time
                sequence += 1
                wire = batch(values(b"waits"), producer_id=7, epoch=0, sequence=sequence)
                answer = leader.send(partition, wire)
                await asyncio.wait([answer, waiting], return_when=asyncio.FIRST_COMPLETED)
            line = waiting.result()
            assert line.waits_for == "IPC/SyncRep"
            assert not lines.said("a backend did not answer in time and is given up") and not answer.done()
            for session in leader.log._lanes[0]._sessions:
                session.drop()
            await lines.wait_for("a lost backend does not end")
            assert (await asyncio.wait_for(answer, 20)).error == ErrorCode.REQUEST_TIMED_OUT
            assert (await leader.append(partition, wire)).error == ErrorCode.KAFKA_STORAGE_ERROR
            server.sql("ALTER SYSTEM RESET synchronous_standby_names;\nSELECT pg_reload_conf();\n")
            await lines.wait_for("commit in doubt did happen")
            assert await written_at(leader, partition, wire) == 2 + sequence
            assert await read(leader, partition) == [b"written"] * 2 + [b"waits"] * (sequence + 1)
    finally:
        server.destroy()


async def test_frozen_control_session_is_replaced(pg_dsn: str, lines: Lines) -> None:
    async with leading(pg_dsn, backend_timeout_ms=TIMEOUT_MS) as leader:
        await leader.topic("before")
        session = leader.control._session
        assert session is not None
        with frozen([session.identity.pid]):
            with pytest.raises(StorageError):
                await leader.topic("lost")
            assert (await lines.wait_for("a backend did not answer in time and is given up")).session == "control"
            await leader.topic("after")
        assert {"before", "after"} <= set(leader.topics.by_name)


async def test_frozen_reader_is_named_and_replaced(pg_dsn: str, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(pg_dsn, backend_timeout_ms=TIMEOUT_MS, readers=1) as leader:
        partition = await leader.partition(await leader.topic("t"))
        assert (await leader.append(partition, batch(WRITTEN))).error == 0
        assert await read(leader, partition) == [b"written"]
        monkeypatch.setattr(reading, "READ_TIMEOUT_S", 1.0)
        connection = await asyncpg.connect(pg_dsn)
        pid = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_kafka reader' AND datname = current_database()"
        )
        await connection.close()
        with frozen([pid]):
            with pytest.raises(StorageError):
                await read(leader, partition)
            assert (await lines.wait_for("a backend does not answer")).pid == pid
            assert await read(leader, partition) == [b"written"]


async def test_backend_that_answers_late_is_not_given_up(pg_dsn: str, lines: Lines) -> None:
    async with leading(pg_dsn, backend_timeout_ms=20_000) as leader:
        leader.log._backends._notice_s = 0.2
        partition = await leader.partition(await leader.topic("t"))
        assert (await leader.append(partition, batch(WRITTEN))).error == 0
        with frozen(pids_of(leader, 0)):
            answer = leader.send(partition, batch(values(b"late")))
            await lines.wait_for("a backend does not answer")
            assert not answer.done()
        assert (await asyncio.wait_for(answer, 20)).base_offset == 1
        assert lines.said("a backend answers again") and not lines.said("lane broken")


async def test_what_did_not_happen_may_come_before_what_was_refused_behind_it(pg_dsn: str, lines: Lines) -> None:
    """The log does not know the producer, and takes from it first what it has to send again first."""
    async with leading(pg_dsn, backend_timeout_ms=TIMEOUT_MS) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for _ in range(2):
            assert (await leader.append(partition, batch(WRITTEN))).error == 0
        wires = [batch(values(b"%d" % n), producer_id=7, epoch=0, sequence=n) for n in range(3)]
        with frozen(pids_of(leader, 0)):
            answers = [leader.send(partition, wires[0])]
            await asyncio.sleep(0.05)  # on its way, with the others behind it
            answers += [leader.send(partition, wire) for wire in wires[1:]]
            await lines.wait_for("lane broken")
        for answer in answers:
            assert (await asyncio.wait_for(answer, 20)).error == ErrorCode.KAFKA_STORAGE_ERROR
        assert [await written_at(leader, partition, wire) for wire in wires] == [2, 3, 4]
