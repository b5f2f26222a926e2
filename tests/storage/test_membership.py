"""A database that went back in time ends the incarnation; the next one has epochs and producer ids that nobody knows."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.storage.leader import leading, stop_beating, tell_nobody
from tests.wire_batches import batch, values

from pg_kafka.clock import Clock
from pg_kafka.cluster import heartbeat
from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.membership import Membership
from pg_kafka.cluster.view import ClusterView, Peer, TopicSeen
from pg_kafka.errors import StorageError
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Fenced, Identity, WentBack

WAITING_FOR_LOCKS = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
HEARTBEAT_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'pg_kafka heartbeat' AND datname = current_database()
"""


@pytest.fixture
async def sql(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(pg_dsn)
    await migrate(connection)
    yield connection
    await connection.close()


def member(
    dsn: str, history: History, ends: list[str], *, heartbeat_ms: int = 60_000, eviction_ms: int = 6000
) -> Membership:
    return Membership(
        dsn,
        host="h",
        port=1,
        version="t",
        heartbeat_ms=heartbeat_ms,
        eviction_ms=eviction_ms,
        clock=Clock(),
        on_end=ends.append,
        history=history,
    )


async def beaten(history: History, more: int = 1) -> None:
    """Wait for so many heartbeats."""
    wanted = history.beats + more
    async with asyncio.timeout(20):
        while history.beats < wanted:  # noqa: ASYNC110 - nothing tells of a heartbeat
            await asyncio.sleep(0.01)


async def joined(dsn: str, history: History, ends: list[str], **times: int) -> Membership:
    """A member whose first heartbeat is over, and the next one far away unless `times` say otherwise."""
    membership = member(dsn, history, ends, **times)
    await membership.join(tell_nobody)
    await beaten(history, 1 - history.beats)
    return membership


class Waiting:
    """A member that waits for another one's end."""

    def __init__(self, dsn: str, history: History | None = None, **times: int) -> None:
        self.history = history or History()
        self.ends: list[str] = []
        self.member = member(dsn, self.history, self.ends, **times)
        self.waits = asyncio.Event()
        self.views: list[ClusterView] = []
        self.joining = asyncio.create_task(self.member.join(self._on_wait))

    async def _on_wait(self, view: ClusterView) -> None:
        self.views.append(view)
        self.waits.set()

    async def begun(self) -> "Waiting":
        await asyncio.wait_for(self.waits.wait(), 20)
        return self

    async def took_over(self) -> Incarnation:
        return await asyncio.wait_for(self.joining, 20)

    async def end(self) -> None:
        self.joining.cancel()
        await asyncio.wait([self.joining])


@pytest.mark.parametrize("loss", ["a heartbeat", "the incarnation"])
async def test_lost_heartbeat_ends_the_incarnation_and_epochs_jump(
    pg_dsn: str, sql: asyncpg.Connection, loss: str
) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    assert first.incarnation is not None
    ids = await sql.fetchval("SELECT nextval('kafka.producer_ids')")
    if loss == "a heartbeat":
        await sql.execute("UPDATE kafka.brokers SET beats = beats - 1")
    else:
        await sql.execute("DELETE FROM kafka.brokers")
    with pytest.raises(WentBack):
        await first.open_writer("lane 0")
    assert len(ends) == 1
    first.abandon()
    second = await joined(pg_dsn, history, ends)
    assert second.incarnation is not None
    assert second.incarnation.epoch == first.incarnation.epoch + 1000
    assert await sql.fetchval("SELECT nextval('kafka.producer_ids')") > ids + 1_000_000
    await second.leave()
    third = await joined(pg_dsn, history, ends)
    assert third.incarnation is not None
    assert third.incarnation.epoch == second.incarnation.epoch + 1
    await third.leave()


@pytest.mark.parametrize(
    "loss",
    [
        "UPDATE kafka.brokers SET beats = 0",
        "DELETE FROM kafka.brokers",
        "DROP SCHEMA kafka CASCADE",
        "DROP TABLE kafka.brokers CASCADE",
    ],
)
async def test_heartbeat_notices_that_the_one_before_is_gone(pg_dsn: str, sql: asyncpg.Connection, loss: str) -> None:
    """As when an older dump has taken the place of what was there, under sessions that live on."""
    history, ended = History(), asyncio.Event()
    first = Membership(
        pg_dsn,
        host="h",
        port=1,
        version="t",
        heartbeat_ms=100,
        eviction_ms=6000,
        clock=Clock(),
        on_end=lambda _reason: ended.set(),
        history=history,
    )
    await first.join(tell_nobody)
    await beaten(history)
    await sql.execute("SET client_min_messages = error")
    await sql.execute(loss)
    await asyncio.wait_for(ended.wait(), 20)
    assert history.went_back
    first.abandon()


async def test_fenced_incarnation_is_told_from_a_lost_one(pg_dsn: str, sql: asyncpg.Connection) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    await sql.execute("UPDATE kafka.brokers SET status = 'fenced'")
    with pytest.raises(Fenced) as raised:
        await first.open_writer("lane 0")
    assert not isinstance(raised.value, WentBack)
    assert not history.went_back
    first.abandon()


def test_server_on_an_older_timeline_is_refused() -> None:
    history = History()
    here = Identity("7", "00000002", datetime(2024, 1, 1, tzinfo=UTC), 1)
    history.led(here)
    history.refuse_older(replace(here, timeline="00000003"))
    history.refuse_older(replace(here, system_identifier="8", timeline="00000001"))
    with pytest.raises(StorageError, match="old primary"):
        history.refuse_older(replace(here, timeline="00000001"))


async def test_log_that_ends_below_what_was_committed_ends_the_incarnation(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        partition = await leader.partition(await leader.topic("t"))
        for _ in range(2):
            await leader.append(partition, batch(values(b"a")))
        connection = await asyncpg.connect(pg_dsn)
        await connection.execute("DELETE FROM kafka.log WHERE base_offset = 1")
        await connection.close()
        leader.log.forget(partition)
        with pytest.raises(StorageError):
            await leader.partition(partition.topic)
        assert leader.over.is_set()


async def test_backend_that_holds_its_lock_is_ended_and_no_other(pg_dsn: str, sql: asyncpg.Connection) -> None:
    """A take-over's warnings about backends that are gone are none about its commit."""
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    writer = await first.open_writer("lane 0")
    first.abandon()
    second = Waiting(pg_dsn, eviction_ms=300)
    await second.took_over()
    with pytest.raises((*CONNECTION_ERRORS, asyncpg.PostgresError)):
        await writer.connection.execute("SELECT 1")
    await second.member.leave()
    writer.drop()


# -- clocks and those who wait -------------------------------------------------------------------------------------------

SHIFTED_CLOCK = """
    CREATE FUNCTION public.shift() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.seen_at := clock_timestamp() + interval '{shift}'; RETURN NEW; END $$;
    CREATE TRIGGER shift BEFORE UPDATE ON kafka.brokers FOR EACH ROW EXECUTE FUNCTION public.shift();
"""


@pytest.mark.parametrize("shift", ["-1 h", "-10 s"])
async def test_clock_of_the_server_that_jumps_ahead_evicts_nobody(
    pg_dsn: str, sql: asyncpg.Connection, shift: str
) -> None:
    """Heartbeats are written by the clock before its step, and looked at by that after it."""
    await sql.execute(SHIFTED_CLOCK.format(shift=shift))
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends, heartbeat_ms=50)
    second = await Waiting(pg_dsn, eviction_ms=1000).begun()
    await beaten(history, 60)
    assert not second.joining.done()
    assert ends == []
    await second.end()
    await first.leave()


async def test_frozen_leader_is_replaced_though_the_clock_went_back(pg_dsn: str, sql: asyncpg.Connection) -> None:
    first = await joined(pg_dsn, History(), [])
    await stop_beating(first)
    await sql.execute("UPDATE kafka.brokers SET seen_at = seen_at + interval '1 h'")
    second = Waiting(pg_dsn, eviction_ms=300)
    incarnation = await second.took_over()
    assert first.incarnation is not None
    assert incarnation.epoch == first.incarnation.epoch + 1
    await second.member.leave()
    first.abandon()


async def test_clock_that_goes_back_is_no_database_that_went_back(pg_dsn: str, sql: asyncpg.Connection) -> None:
    """Those who wait, sessions that are opened, and heartbeats compare what the clock does not touch."""
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends, heartbeat_ms=50)
    second = await Waiting(pg_dsn).begun()
    await sql.execute(SHIFTED_CLOCK.format(shift="1 h"))
    await beaten(history, 20)
    await beaten(second.history)
    await sql.execute("DROP TRIGGER shift ON kafka.brokers")
    await beaten(history, 20)
    await beaten(second.history)
    for _ in range(5):
        (await first.open_writer("lane 0")).drop()
    assert ends == []
    await first.leave()
    assert first.incarnation is not None
    assert (await second.took_over()).epoch == first.incarnation.epoch + 1
    await second.member.leave()


async def test_session_opened_beside_a_heartbeat_whose_answer_is_under_way(
    pg_dsn: str, sql: asyncpg.Connection
) -> None:
    """It may find more heartbeats than are known, or as many, and the time of the newer one may be the earlier one."""
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends)
    await sql.execute("UPDATE kafka.brokers SET beats = beats + 1, seen_at = seen_at - interval '1 h'")
    (await first.open_writer("lane 0")).drop()
    history.beat(1, history.beats + 1)
    (await first.open_writer("lane 0")).drop()
    assert ends == []
    await first.leave()


async def test_leader_of_schema_3_lives_as_long_as_its_time_changes(pg_dsn: str, sql: asyncpg.Connection) -> None:
    """It does not count. A process that has ended leaves a row that looks live and a number that never was."""
    first = await joined(pg_dsn, History(), [])
    await stop_beating(first)
    await sql.execute("UPDATE kafka.brokers SET beats = 0")
    second = await Waiting(pg_dsn, eviction_ms=500).begun()
    for _ in range(60):
        await sql.execute("UPDATE kafka.brokers SET seen_at = clock_timestamp()")
        await asyncio.sleep(0.05)
    assert not second.joining.done()
    first.abandon()
    assert first.incarnation is not None
    assert (await second.took_over()).epoch == first.incarnation.epoch + 1
    await second.member.leave()


async def test_two_that_wait_never_lead_both(pg_dsn: str, sql: asyncpg.Connection) -> None:
    """Both find the leader dead; the second one to get its turn finds another one that lives."""
    first = await joined(pg_dsn, History(), [])
    await stop_beating(first)
    others = [await Waiting(pg_dsn, eviction_ms=500, heartbeat_ms=50).begun() for _ in range(2)]
    gate = await asyncpg.connect(pg_dsn)
    async with gate.transaction():
        await gate.execute("SELECT FROM kafka.cluster FOR UPDATE")
        async with asyncio.timeout(20):
            while await sql.fetchval(WAITING_FOR_LOCKS) < 2:  # noqa: ASYNC110 - PostgreSQL tells nobody that a session waits
                await asyncio.sleep(0.01)
    await gate.close()
    await asyncio.wait([other.joining for other in others], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    winner, loser = sorted(others, key=lambda other: not other.joining.done())
    await beaten(winner.history, 20)
    assert await sql.fetchval("SELECT count(*) FROM kafka.brokers WHERE status = 'live'") == 1
    assert not loser.joining.done()
    await winner.member.leave()
    await loser.took_over()
    await loser.member.leave()
    first.abandon()


async def test_who_has_just_begun_to_wait_gives_the_leader_its_whole_time(pg_dsn: str, sql: asyncpg.Connection) -> None:
    history = History()
    first = await joined(pg_dsn, history, [])
    await sql.execute("UPDATE kafka.brokers SET seen_at = seen_at - interval '1 day'")
    second = await Waiting(pg_dsn, eviction_ms=60_000).begun()
    await beaten(second.history, 0)
    assert not second.joining.done()
    await second.end()
    await first.leave()


# -- the heartbeat's thread ----------------------------------------------------------------------------------------------


class WaitingElsewhere:
    """A member that waits in a thread and a loop of its own, so that this loop may be blocked meanwhile."""

    def __init__(self, dsn: str, *, eviction_ms: int) -> None:
        self._dsn, self._eviction_ms = dsn, eviction_ms
        self.waits = threading.Event()

    async def _on_wait(self, _view: ClusterView) -> None:
        self.waits.set()

    def take_over(self, patience_s: float) -> Incarnation | None:
        """Wait so long for a take-over; None when there is none."""

        async def wait() -> Incarnation | None:
            membership = member(self._dsn, History(), [], eviction_ms=self._eviction_ms)
            try:
                return await asyncio.wait_for(membership.join(self._on_wait), patience_s)
            except TimeoutError:
                return None
            finally:
                await membership.leave()

        return asyncio.run(wait())


async def test_blocked_event_loop_does_not_cost_the_leadership(pg_dsn: str, sql: asyncpg.Connection) -> None:
    ends: list[str] = []
    first = await joined(pg_dsn, History(), ends, heartbeat_ms=100)
    second = WaitingElsewhere(pg_dsn, eviction_ms=1000)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(second.take_over, 4)
        assert outcome.result(20) is None
    assert second.waits.is_set()
    (await first.open_writer("lane 0")).drop()
    assert ends == []
    await first.leave()


async def test_event_loop_that_hangs_loses_its_leadership(
    pg_dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "HANG_S", 0.5)
    ended = asyncio.Event()
    first = Membership(
        pg_dsn,
        host="h",
        port=1,
        version="t",
        heartbeat_ms=100,
        eviction_ms=1000,
        clock=Clock(),
        on_end=lambda _reason: ended.set(),
    )
    await first.join(tell_nobody)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(WaitingElsewhere(pg_dsn, eviction_ms=1000).take_over, 20)
        incarnation = outcome.result(30)
    assert incarnation is not None and first.incarnation is not None
    assert incarnation.epoch == first.incarnation.epoch + 1
    assert "the event loop hangs, so the broker shows no life" in [record.getMessage() for record in caplog.records]
    await asyncio.wait_for(ended.wait(), 20)  # the loop turns again, and finds out
    await first.leave()


async def test_heartbeat_goes_on_in_a_new_session(pg_dsn: str, sql: asyncpg.Connection) -> None:
    history, ends = History(), list[str]()
    first = await joined(pg_dsn, history, ends, heartbeat_ms=50)
    for _ in range(3):
        assert await sql.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pg_kafka heartbeat'"
            " AND datname = current_database()"
        )
        await beaten(history, 3)
    assert ends == []
    await first.leave()
    assert await sql.fetchval("SELECT status FROM kafka.brokers") == "stopped"


async def test_member_that_leaves_ends_its_thread(pg_dsn: str, sql: asyncpg.Connection) -> None:
    first = await joined(pg_dsn, History(), [])
    assert first._heartbeat is not None
    thread = first._heartbeat._thread
    assert thread.is_alive()
    await first.leave()
    thread.join(20)
    assert not thread.is_alive()
    async with asyncio.timeout(20):
        while await sql.fetchval(HEARTBEAT_SESSIONS):  # noqa: ASYNC110 - nor when one has ended
            await asyncio.sleep(0.01)


# -- places of those who wait --------------------------------------------------------------------------------------------


async def named_by(first: Membership, *wanted: Peer) -> None:
    """Wait until the leader names these as waiting."""
    async with asyncio.timeout(20):
        while first.waiting != wanted:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def test_leader_knows_who_waits_until_they_are_gone(pg_dsn: str, sql: asyncpg.Connection) -> None:
    first = await joined(pg_dsn, History(), [], heartbeat_ms=50)
    second, third = [await Waiting(pg_dsn, heartbeat_ms=50).begun() for _ in range(2)]
    await named_by(first, Peer(2, "h", 1), Peer(3, "h", 1))
    await second.end()
    await named_by(first, Peer(3, "h", 1))
    await sql.execute(  # as kill -9 of the process does
        "SELECT pg_terminate_backend(pid) FROM pg_locks l JOIN kafka.brokers b ON l.objid::bigint = b.lock_id"
        " WHERE b.status = 'waiting' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await named_by(first)
    with pytest.raises(StorageError):
        await third.took_over()
    assert await sql.fetchval("SELECT count(*) FROM kafka.brokers WHERE status = 'waiting'") == 0
    await first.leave()


async def test_waiting_broker_that_stands_still_is_dropped_and_comes_back(pg_dsn: str, sql: asyncpg.Connection) -> None:
    first = await joined(pg_dsn, History(), [], heartbeat_ms=50, eviction_ms=600)
    second = await Waiting(pg_dsn, heartbeat_ms=50).begun()
    await named_by(first, Peer(2, "h", 1))
    async with sql.transaction():  # its heartbeats wait, and so it shows no life
        await sql.execute("SELECT FROM kafka.brokers WHERE status = 'waiting' FOR UPDATE")
        await asyncio.sleep(1.5)
    await named_by(first, Peer(2, "h", 1))
    await second.end()
    await first.leave()


async def test_waiting_broker_sees_leader_and_topics_and_keeps_its_node_id(
    pg_dsn: str, sql: asyncpg.Connection
) -> None:
    first = await joined(pg_dsn, History(), [], heartbeat_ms=50)
    second = await Waiting(pg_dsn, heartbeat_ms=50).begun()
    uuid = await sql.fetchval("INSERT INTO kafka.topics (name, partitions) VALUES ('t', 3) RETURNING uuid")

    async def seen(topics: dict[str, TopicSeen]) -> ClusterView:
        async with asyncio.timeout(20):
            while second.views[-1].topics != topics:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return second.views[-1]

    view = await seen({"t": TopicSeen("t", uuid, 3)})
    assert first.incarnation is not None
    assert (view.leader, view.leader_epoch, view.node_id) == (Peer(1, "h", 1), first.incarnation.epoch, 2)
    assert (view.cluster_id, view.waiting) == (first.incarnation.cluster_id, (Peer(2, "h", 1),))
    await sql.execute("UPDATE kafka.topics SET partitions = 4")
    await seen({"t": TopicSeen("t", uuid, 4)})
    await sql.execute("DELETE FROM kafka.topics")
    await seen({})
    await first.leave()
    assert (await second.took_over()).node_id == 2
    assert await sql.fetch("SELECT node_id, status FROM kafka.brokers WHERE status IN ('live', 'waiting')") == [
        (2, "live")
    ]
    await second.member.leave()


async def test_leader_whose_heartbeat_is_late_gives_up_when_another_one_waits(
    pg_dsn: str, sql: asyncpg.Connection
) -> None:
    """Without one it goes on: nobody else can lead, and what is cached can be read."""
    for waits in (False, True):
        ended = asyncio.Event()
        first = Membership(
            pg_dsn,
            host="h",
            port=1,
            version="t",
            heartbeat_ms=50,
            eviction_ms=600,
            clock=Clock(),
            on_end=lambda _reason, ended=ended: ended.set(),  # type: ignore[misc]
        )
        await first.join(tell_nobody)
        second = await Waiting(pg_dsn, eviction_ms=60_000, heartbeat_ms=50).begun() if waits else None
        await named_by(first, *[Peer(2, "h", 1)] if waits else ())
        async with sql.transaction():
            await sql.execute("SELECT FROM kafka.brokers WHERE status = 'live' FOR UPDATE")
            if waits:
                await asyncio.wait_for(ended.wait(), 20)
            else:
                await asyncio.sleep(2.5)
        assert ended.is_set() == waits
        if second is not None:
            await second.end()
        await first.leave()
        if waits:
            await sql.execute("UPDATE kafka.brokers SET status = 'stopped'")
