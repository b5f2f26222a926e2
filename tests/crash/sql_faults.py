"""What happens to brokers and PostgreSQL under SQL sessions: each fault harms, undoes that, and returns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from tests.crash.proxy import Trap
from tests.crash.servers import BrokerProcess, Given, WithStandby

STARTED_S = 60.0  # on a machine that has much else to do
Fault = Callable[[Given, random.Random], Awaitable[None]]


async def broker_killed(system: Given, chance: random.Random) -> None:
    broker = system.brokers[0]
    broker.kill()
    await asyncio.sleep(chance.choice([0, 0, 0.5]))  # the outbox waits
    broker.start()
    await broker.serves()
    await broker.leads()


async def broker_killed_and_has_other_lanes(system: Given, chance: random.Random) -> None:
    """What one had begun in its lanes the next one ends in others."""
    system.brokers[0].environment = os.environ | {"PG_KAFKA_LANES": str(chance.choice([1, 2, 3, 4]))}
    await broker_killed(system, chance)


async def postgres_killed(system: Given, chance: random.Random) -> None:
    system.server.kill()
    await asyncio.to_thread(system.server.start_again)


async def both_killed(system: Given, chance: random.Random) -> None:
    broker = system.brokers[0]
    system.server.kill()
    broker.kill()
    await asyncio.to_thread(system.server.start_again)
    broker.start()
    await broker.serves()
    await broker.leads()


async def backend_killed(system: Given, chance: random.Random) -> None:
    """One of the broker's; PostgreSQL ends all others with it."""
    with contextlib.suppress(RuntimeError, ProcessLookupError):  # it has just come back and has none yet
        if found := await system.backends(""):
            os.kill(chance.choice(found), signal.SIGKILL)


async def sessions_ended(system: Given, chance: random.Random) -> None:
    """Of the broker, one kind after the other."""
    for _ in range(3):
        which = chance.choice(["lane", "control", "reader", "janitor", "heartbeat", "outbox", ""])
        with contextlib.suppress(RuntimeError):
            await system.superuser(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka {which}%'"
            )
        await asyncio.sleep(chance.uniform(0, 0.3))


async def commit_lost(system: Given, chance: random.Random) -> None:
    """A connection of the broker breaks at a COMMIT: before it, behind it, or only for the broker and a second too early."""
    assert system.proxy is not None
    system.proxy.set_trap(chance.choice(list(Trap)), after=chance.randint(0, 20))
    with contextlib.suppress(TimeoutError):  # there may be nothing to commit
        async with asyncio.timeout(5):
            await system.proxy.sprung.wait()


async def connections_cut(system: Given, chance: random.Random) -> None:
    assert system.proxy is not None
    system.proxy.cut()


async def other_broker_takes_over(system: Given, chance: random.Random) -> None:
    """From one that is killed, or is only frozen and finds out when it wakes up."""
    assert isinstance(system, WithStandby) and system.front is not None
    leader, other = system.brokers
    is_frozen = chance.random() < 0.4
    if is_frozen:
        leader.signal(signal.SIGSTOP)
    else:
        leader.kill()
    try:
        await other.leads()
        system.front.lead_to((other.host, other.port))
    finally:
        if is_frozen:
            leader.signal(signal.SIGCONT)
    if is_frozen:
        await _gives_up(leader)
    else:
        leader.start()
        await leader.waits(STARTED_S)
    system.brokers.reverse()  # the first is the one that leads


async def _gives_up(broker: BrokerProcess, timeout_s: float = 30) -> None:
    """Return when a broker that was frozen has ended or waits: start it again in the first case."""
    start = broker.log.stat().st_size
    deadline = time.monotonic() + timeout_s
    while broker.is_running() and "waiting" not in broker.log.read_text()[start:].lower():
        assert time.monotonic() < deadline, "it does not see that another one leads"
        await asyncio.sleep(0.05)
    if not broker.is_running():
        broker.start()
        await broker.waits(STARTED_S)


ON_ONE_BROKER: Sequence[Fault] = (
    broker_killed,
    broker_killed_and_has_other_lanes,
    postgres_killed,
    both_killed,
    backend_killed,
    sessions_ended,
)
THROUGH_A_PROXY: Sequence[Fault] = (commit_lost, commit_lost, connections_cut)
ON_TWO_BROKERS: Sequence[Fault] = (other_broker_takes_over,)


async def trouble(system: Given, faults: Sequence[Fault], seed: int, seconds: float) -> Counter[str]:
    """One fault after the other, in an order by chance, until the time is over; returns how often each was played."""
    chance, played = random.Random(seed), Counter[str]()
    left: list[Fault] = []
    deadline = time.monotonic() + seconds
    while not played or time.monotonic() < deadline:
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        left = left or chance.sample(faults, len(faults))
        fault = left.pop()
        await fault(system, chance)
        played[fault.__name__] += 1
    await asyncio.sleep(0.5)
    return played
