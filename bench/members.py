"""What members of groups have in common: finding the coordinator, waiting until all have got somewhere, and the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from bench import processes
from bench.raw import FIND_COORDINATOR, RawConnection, check, connect
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest

FIND_VERSION = 6
REBALANCE_MS = 300_000
# Java's default.
HEARTBEAT_S = 3.0
STABLE_WITHIN_S = 300.0
COORDINATOR_WITHIN_S = 60.0

NOT_YET = (
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
)


class Clock:
    """Seconds and processor time since it was made."""

    def __init__(self, roles: Mapping[str, int]) -> None:
        self._roles = roles
        self._cpu_s = processes.cpu_s(roles)
        self._client_cpu_s = time.process_time()
        self._start = time.monotonic()

    def figures(self) -> dict[str, float]:
        seconds = time.monotonic() - self._start
        spent = {f"cpu_s_{role}": after - self._cpu_s[role] for role, after in processes.cpu_s(self._roles).items()}
        return {"seconds": seconds, **spent, "cpu_s_client": time.process_time() - self._client_cpu_s}


async def standing(roles: Mapping[str, int]) -> dict[str, float]:
    """What members that only send heartbeats cost, in percent of a core."""
    if not roles:
        return {}
    before, start = processes.cpu_s(roles), time.monotonic()
    await asyncio.sleep(2 * HEARTBEAT_S)
    took = time.monotonic() - start
    return {
        f"standing_cpu_percent_{role}": (after - before[role]) / took * 100
        for role, after in processes.cpu_s(roles).items()
    }


async def find_coordinator(host: str, port: int, group: str) -> None:
    """Returns when the group has a coordinator; Kafka makes its offsets topic with the first request."""
    connection = await connect(host, port)
    request = FindCoordinatorRequest(key_type=0, coordinator_keys=[group])
    deadline = time.monotonic() + COORDINATOR_WITHIN_S
    while True:
        answer = await connection.call(FIND_COORDINATOR, FIND_VERSION, request)
        found = answer.coordinators[0]
        if found.error_code not in NOT_YET or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)  # nobody tells when it is there
    check(found.error_code, f"no coordinator for {group}")
    connection.close()


async def until(tasks: Sequence[asyncio.Future[None]], is_reached: Callable[[], bool]) -> None:
    """Returns when the members have reached something; raises what one of them has run into."""
    deadline = time.monotonic() + STABLE_WITHIN_S
    while not is_reached():
        done, _ = await asyncio.wait(tasks, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if time.monotonic() > deadline:
            raise RuntimeError(f"not stable within {STABLE_WITHIN_S:.0f} s")


async def end(tasks: Sequence[asyncio.Future[None]], connections: Sequence[RawConnection]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for connection in connections:
        connection.close()
