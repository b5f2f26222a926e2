"""The faults, one function each: it harms a system under load, undoes that, and returns.

A fault returns a Loss when the database itself went back in time. What is measured on the way goes into `notes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.account import Loss
from tests.crash.load import PARTITIONS, Load
from tests.crash.proxy import Trap
from tests.crash.servers import Embedded, Given, Pair, Server, System, WithStandby, signal_all

EPOCH_JUMP = 1000


@dataclass
class Round:
    """What a fault works on."""

    system: System
    load: Load
    topic: str
    chance: random.Random
    notes: dict[str, float] = field(default_factory=dict)

    async def acknowledgements_arrive(self) -> float:
        """Return when no acknowledgement has come for a while, from a database that gives none any more, and say when."""
        while True:
            count = len(self.load.ledger.acks)
            await asyncio.sleep(0.5)
            if len(self.load.ledger.acks) == count:
                return time.monotonic()

    async def take_over(self, since: float) -> None:
        """Wait until the second broker leads, measure that, and move the address to it."""
        second = self.system.brokers[1]
        await second.leads()
        self.notes["take_over_s"] = round(time.monotonic() - since, 2)
        assert self.system.front is not None
        self.system.front.lead_to((second.host, second.port))


Fault = Callable[[Round], Awaitable[Loss | None]]


@dataclass(frozen=True)
class Kind:
    """A fault, the system that it needs, and how often a soak does it."""

    name: str
    fault: Fault
    system: Callable[[], System]
    rare: bool = False
    once: bool = False  # the system is not used again
    may_lose: bool = False


KINDS: dict[str, Kind] = {}


def kind(
    system: Callable[[], System], *, rare: bool = False, once: bool = False, may_lose: bool = False
) -> Callable[[Fault], Fault]:
    def register(fault: Fault) -> Fault:
        name = fault.__name__
        KINDS[name] = Kind(name, fault, system, rare, once, may_lose)
        return fault

    return register


def given() -> System:
    return Given()


def with_two_lanes() -> System:
    """Which give up a backend soon."""
    return Given(settings="pg_kafka.lanes = 2\npg_kafka.backend_timeout_ms = 1000\n")


def proxied() -> System:
    return Given(through_proxy=True)


def with_standby() -> System:
    return WithStandby()


def embedded() -> System:
    return Embedded()


def synchronous_pair() -> System:
    return Pair(synchronous=True)


def asynchronous_pair() -> System:
    return Pair(synchronous=False)


class NotHere(Exception):
    """This machine cannot do the fault; the message says why."""


# -- the broker --------------------------------------------------------------------------------------------------------


@kind(given)
async def broker_killed(r: Round) -> None:
    broker = r.system.brokers[0]
    broker.kill()
    broker.start()
    await broker.serves()


@kind(given)
async def broker_killed_while_it_unpacks(r: Round) -> None:
    """SQL asks for the topic, whose compressed batches are kept as they came; it waits over the broker's death."""
    await asyncio.sleep(1)
    broker = r.system.brokers[0]
    async with r.system.sql() as connection:
        asked = asyncio.create_task(connection.fetchval("SELECT kafka.unpack($1)", r.topic))
        try:
            async with asyncio.timeout(10):
                is_asked = "SELECT FROM kafka.topics WHERE name = $1 AND sql_asked_at IS NOT NULL"
                while not await r.system.fetch(is_asked, r.topic):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(r.chance.uniform(0, 0.3))
            broker.kill()
            broker.start()
            await broker.serves()
            async with asyncio.timeout(30):
                assert await asked
        finally:
            asked.cancel()
    left = await r.system.fetch(
        "SELECT FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic WHERE t.name = $1 AND l.batch IS NOT NULL LIMIT 1",
        r.topic,
    )
    assert not left, "packed rows are left"


@kind(with_standby, rare=True)
async def broker_killed_standby_takes_over(r: Round) -> None:
    first, second = r.system.brokers
    second.start()
    await second.waits()
    at = time.monotonic()
    first.kill()
    await r.take_over(at)


@kind(with_standby, rare=True)
async def broker_frozen_standby_takes_over(r: Round) -> None:
    first, second = r.system.brokers
    second.start()
    await second.waits()
    at = time.monotonic()
    first.signal(signal.SIGSTOP)
    try:
        await r.take_over(at)
        await asyncio.sleep(0.5)
    finally:
        first.signal(signal.SIGCONT)
    await asyncio.sleep(1.5)  # whatever it still has in hand, it would write now


class SetClock(Given):
    """A broker whose wall clock is set by a file; its steady clock goes on as it does."""

    def __init__(self) -> None:
        self.library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        if self.library is None:
            raise NotHere("libfaketime is not installed: apt-get install faketime")
        super().__init__()

    async def open(self) -> None:
        await super().open()
        self.clock = self.folder / "clock"
        self.set_clock(0)
        self.brokers[0].environment = os.environ | {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_clock(self, by_s: int) -> None:
        new = self.folder / "clock.new"
        new.write_text(f"{by_s:+d}\n")
        new.rename(self.clock)


def set_clock() -> System:
    return SetClock()


@kind(set_clock, rare=True)
async def broker_clock_set(r: Round) -> None:
    """By nearly an hour back and by two days ahead, across checkpoints; at last it is killed while it is two days ahead."""
    system = r.system
    assert isinstance(system, SetClock)
    broker = system.brokers[0]
    try:
        for by_s in (-3_500, 172_800, -30, 90_000):
            system.set_clock(by_s)
            await r.load.served_since(time.monotonic(), 30)
            await asyncio.sleep(r.chance.uniform(0.3, 1.5))
        broker.kill()
        broker.start()
        await broker.serves()
        await r.load.served_since(time.monotonic(), 30)
    finally:
        system.set_clock(0)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@kind(given)
async def backend_killed(r: Round) -> None:
    assert isinstance(r.system, Given)
    os.kill(r.chance.choice(await r.system.backends("lane")), signal.SIGKILL)


@kind(given)
async def sessions_terminated(r: Round) -> None:
    assert isinstance(r.system, Given)
    for _ in range(4):
        which = r.chance.choice(["lane", "heartbeat", "control", "reader", "janitor", ""])
        await r.system.superuser(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka {which}%'"
        )
        await asyncio.sleep(r.chance.uniform(0.1, 0.6))


@kind(given)
async def postmaster_killed(r: Round) -> None:
    assert isinstance(r.system, Given)
    r.system.server.kill()
    await asyncio.to_thread(r.system.server.start_again)


@kind(embedded)
async def embedded_postmaster_killed(r: Round) -> None:
    assert isinstance(r.system, Embedded)
    os.kill(r.system.postmaster(), signal.SIGKILL)
    await r.system.brokers[0].serves()


@kind(given, rare=True)
async def database_frozen(r: Round) -> None:
    assert isinstance(r.system, Given)
    frozen = r.system.server.freeze()
    try:
        await asyncio.sleep(r.chance.uniform(2, 9))
    finally:
        signal_all(frozen, signal.SIGCONT)


@kind(with_two_lanes)
async def backend_frozen(r: Round) -> None:
    """One or both backends of a lane stand still: a moment, or until they are given up and cannot hear it."""
    assert isinstance(r.system, Given)
    for pause_s in (r.chance.uniform(0.2, 1), r.chance.uniform(2, 8)):
        frozen = await r.system.backends(f"lane {r.chance.randrange(2)}")
        frozen = r.chance.sample(frozen, r.chance.randint(1, len(frozen)))
        signal_all(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(pause_s)
        finally:
            signal_all(frozen, signal.SIGCONT)
        await r.load.served_since(time.monotonic(), 30)


@kind(given)
async def segment_locked(r: Round) -> None:
    """Somebody holds the segment's table against all writers; a lane waits or answers, and goes on."""
    async with r.system.sql() as connection, connection.transaction():
        leaf = await connection.fetchval(
            "SELECT format('kafka.log_0_%s', segment) FROM kafka.segments WHERE series = 0 AND state = 'active'"
        )
        await connection.execute(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(r.chance.uniform(2, 4))


WEAK_DEFAULTS = {
    "synchronous_commit": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "100ms",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "search_path": "nowhere",
    "row_security": "off",
}


@kind(given)
async def weak_defaults(r: Round) -> None:
    """Defaults of the role that would weaken durability; then a crash, which shows whether they did."""
    assert isinstance(r.system, Given)
    system, role = r.system, r.system.database.name
    for name, value in WEAK_DEFAULTS.items():
        await system.superuser(f"ALTER ROLE {role} SET {name} = '{value}'")
    await system.superuser("ALTER SYSTEM SET synchronous_commit = 'off'")
    await system.superuser("SELECT pg_reload_conf()")
    try:
        if r.chance.random() < 0.5:
            # New sessions begin with the new defaults; the old ones have been told of the new configuration only.
            await system.superuser(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka %'"
            )
        at = time.monotonic()
        await r.load.served_since(at, 30)
        await asyncio.sleep(0.7)
        system.server.kill()
        await asyncio.to_thread(system.server.start_again)
        await r.load.served_since(time.monotonic(), 30)
        system.brokers[0].kill()
        system.brokers[0].start()
        await system.brokers[0].serves()
    finally:
        await system.superuser(f"ALTER ROLE {role} RESET ALL")
        await system.superuser("ALTER SYSTEM RESET synchronous_commit")
        await system.superuser("SELECT pg_reload_conf()")


# -- the way to PostgreSQL ---------------------------------------------------------------------------------------------


@kind(proxied)
async def connections_cut(r: Round) -> None:
    proxy = r.system.proxy
    assert proxy is not None
    for _ in range(3):
        proxy.cut()
        await asyncio.sleep(r.chance.uniform(0.05, 0.5))
    proxy.refuses = True
    proxy.cut()
    await asyncio.sleep(r.chance.uniform(0.5, 2))
    proxy.refuses = False


@kind(proxied)
async def connections_slow(r: Round) -> None:
    proxy = r.system.proxy
    assert proxy is not None
    proxy.delay_s = r.chance.choice([0.01, 0.05, 0.3])
    await asyncio.sleep(r.chance.uniform(1, 3))
    if r.chance.random() < 0.5:
        proxy.cut()
    proxy.delay_s = 0.0


async def _spring(r: Round, trap: Trap) -> None:
    proxy = r.system.proxy
    assert proxy is not None
    for _ in range(3):
        proxy.set_trap(trap, after=r.chance.randrange(20), late_s=r.chance.uniform(0.2, 1.5))
        async with asyncio.timeout(20):
            await proxy.sprung.wait()
        await asyncio.sleep(r.chance.uniform(0.2, 0.6))


@kind(proxied)
async def commit_answer_lost(r: Round) -> None:
    await _spring(r, Trap.ANSWER_LOST)


@kind(proxied)
async def commit_request_lost(r: Round) -> None:
    await _spring(r, Trap.REQUEST_LOST)


@kind(proxied)
async def commit_request_late(r: Round) -> None:
    """The broker's connection is gone, and the server commits, or not, a moment after."""
    await _spring(r, Trap.REQUEST_LATE)


# -- the disk ----------------------------------------------------------------------------------------------------------


class SmallDisk(Given):
    """PostgreSQL on a file system of its own that is soon full."""

    def __init__(self) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400m", "pg_kafka-test", str(self.disk)],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            self.disk.rmdir()
            raise NotHere(f"mounting a small file system is not permitted: {done.stderr.decode().strip()}")
        super().__init__(server=Server(self.disk, max_wal_size="64MB", min_wal_size="32MB"))

    @property
    def ballast(self) -> Path:
        return self.disk / "ballast"

    def destroy(self) -> None:
        try:
            super().destroy()
        finally:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)
            with contextlib.suppress(OSError):
                self.disk.rmdir()


def small_disk() -> System:
    return SmallDisk()


@kind(small_disk, rare=True)
async def disk_full(r: Round) -> None:
    system = r.system
    assert isinstance(system, SmallDisk)
    free = os.statvfs(system.disk)
    size = free.f_bavail * free.f_frsize - r.chance.randrange(1 << 20, 8 << 20)
    with system.ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    await asyncio.sleep(r.chance.uniform(3, 6))
    system.ballast.unlink()
    if not system.server.is_running():
        r.notes["postgres_ended"] = 1
        system.server.stop()
        await asyncio.to_thread(system.server.start_again)


# -- two servers -------------------------------------------------------------------------------------------------------


async def _promote(r: Round) -> None:
    """The primary dies, the standby becomes it."""
    system = r.system
    assert isinstance(system, Pair) and system.standby is not None
    at = time.monotonic()
    await system.fail_over()
    await r.system.brokers[0].serves()
    r.notes["failover_s"] = round(time.monotonic() - at, 2)


async def _survived(r: Round, at: float) -> Loss:
    """Where the log of the server that is there now ended when it began to serve."""
    rows = await r.system.fetch(
        "SELECT e.partition, min(e.start_offset) AS start FROM kafka.leader_epochs e JOIN kafka.topics t ON t.id = e.topic "
        "WHERE t.name = $1 AND e.epoch >= $2 GROUP BY e.partition",
        r.topic,
        EPOCH_JUMP,
    )
    starts = {row["partition"]: row["start"] for row in rows}
    assert len(starts) == PARTITIONS, f"the epochs have not jumped: {starts}"
    return Loss(at, starts)


@kind(synchronous_pair, rare=True, once=True)
async def synchronous_standby_promoted(r: Round) -> None:
    await _promote(r)


@kind(asynchronous_pair, rare=True, once=True, may_lose=True)
async def asynchronous_standby_promoted(r: Round) -> Loss:
    system = r.system
    assert isinstance(system, Pair) and system.standby is not None
    frozen = system.standby.freeze()  # so that there is something to lose
    await asyncio.sleep(r.chance.uniform(0.2, 1))
    system.server.kill()
    signal_all(frozen, signal.SIGCONT)
    at = await r.acknowledgements_arrive()
    await _promote(r)
    await r.load.served_since(time.monotonic(), 60)
    return await _survived(r, at)


@kind(synchronous_pair, rare=True, once=True)
async def broker_and_primary_killed(r: Round) -> None:
    """Both are gone in the same moment, so nobody remembers what was acknowledged but the standby."""
    await _restart_and_promote(r)


@kind(asynchronous_pair, rare=True, once=True, may_lose=True)
async def broker_and_primary_killed_standby_lags(r: Round) -> Loss:
    """As above with a standby that has not all of it: the new timeline alone tells that history changed."""
    system = r.system
    assert isinstance(system, Pair) and system.standby is not None
    frozen = system.standby.freeze()
    await asyncio.sleep(r.chance.uniform(0.2, 1))
    system.server.kill()
    system.brokers[0].kill()
    signal_all(frozen, signal.SIGCONT)
    at = await r.acknowledgements_arrive()
    await _restart_and_promote(r)
    await r.load.served_since(time.monotonic(), 60)
    return await _survived(r, at)


async def _restart_and_promote(r: Round) -> None:
    system = r.system
    assert isinstance(system, Pair)
    at = time.monotonic()
    system.brokers[0].kill()
    await system.fail_over()
    system.brokers[0].start()
    await system.brokers[0].serves()
    r.notes["failover_s"] = round(time.monotonic() - at, 2)


@kind(synchronous_pair, rare=True, once=True)
async def commit_cancelled_then_standby_promoted(r: Round) -> None:
    """A cancelled wait for the synchronous standby looks like success; the standby does not have those commits."""
    system = r.system
    assert isinstance(system, Pair) and system.standby is not None
    frozen = system.standby.freeze()
    await asyncio.sleep(0.5)
    for _ in range(5):
        how = r.chance.choice(["pg_cancel_backend", "pg_cancel_backend", "pg_terminate_backend"])
        await system.superuser(
            f"SELECT {how}(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka %' AND wait_event = 'SyncRep'"
        )
        await asyncio.sleep(0.3)
    system.server.kill()
    signal_all(frozen, signal.SIGCONT)
    await _promote(r)


@kind(synchronous_pair, rare=True, once=True)
async def commit_cancelled(r: Round) -> None:
    """As above, but the standby comes back: what was cancelled counts after all."""
    system = r.system
    assert isinstance(system, Pair) and system.standby is not None
    frozen = system.standby.freeze()
    try:
        await asyncio.sleep(0.5)
        for _ in range(4):
            await system.superuser(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'pg_kafka %' AND wait_event = 'SyncRep'"
            )
            await asyncio.sleep(0.3)
    finally:
        signal_all(frozen, signal.SIGCONT)


async def _restore(r: Round, *, new_timeline: bool) -> Loss:
    system = r.system
    assert isinstance(system, Given) and system.proxy is not None
    backup = await asyncio.to_thread(system.server.copy)
    await asyncio.sleep(1)
    old = system.server
    old.kill()
    at = await r.acknowledgements_arrive()
    if new_timeline:
        backup.write("recovery.signal", "")
        backup.write("postgresql.auto.conf", "restore_command = 'false'\nrecovery_target_timeline = 'current'\n")
    await asyncio.to_thread(backup.start)
    system.server = backup
    old.destroy()
    system.proxy.upstream = ("127.0.0.1", backup.port)
    await r.load.served_since(time.monotonic(), 60)
    return await _survived(r, at)


@kind(proxied, rare=True, once=True, may_lose=True)
async def backup_restored(r: Round) -> Loss:
    """A base backup of a moment ago takes the database's place; recovery gives it a timeline of its own."""
    return await _restore(r, new_timeline=True)


@kind(proxied, rare=True, once=True, may_lose=True)
async def backup_started(r: Round) -> Loss:
    """As above without a recovery target: neither the timeline nor the system identifier tell."""
    return await _restore(r, new_timeline=False)
