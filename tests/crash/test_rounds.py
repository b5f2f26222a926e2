"""One short round of each kind of fault. `make soak` plays them at random for hours."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from tests.crash.faults import KINDS, Kind, NotHere
from tests.crash.rounds import Report, keep_logs, play
from tests.crash.servers import System
from tests.postgres import FLAVOURS

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),
    # A client that is killed on purpose does not close what it had open.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system_for() -> AsyncIterator[Callable[[Kind], Awaitable[System]]]:
    """Systems by kind; those that a fault uses up are made anew."""
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    systems: dict[object, System] = {}
    spent: list[System] = []

    async def get(kind: Kind) -> System:
        system = systems.get(kind.system)
        if system is None:
            try:
                system = kind.system()
            except NotHere as reason:
                pytest.skip(str(reason))
            await system.open()
            if kind.once:
                spent.append(system)
            else:
                systems[kind.system] = system
        return system

    yield get
    await asyncio.gather(*(system.close() for system in [*systems.values(), *spent]))


@pytest.mark.parametrize("name", KINDS)
async def test_nothing_acknowledged_is_lost(name: str, system_for: Callable[[Kind], Awaitable[System]]) -> None:
    kind = KINDS[name]
    system = await system_for(kind)
    report: Report = await play(kind, system, SEED)
    print(report.line())
    if report.faults:
        keep_logs(system, report)
    again = f"again: PG_KAFKA_CRASH_SEED={SEED} make crash ARGS='-k {name}'; logs in build/crash/{name}-{SEED}"
    assert not report.faults, "\n".join([report.line(), again, *report.faults])
