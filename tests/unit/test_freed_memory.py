"""When freed memory goes back to the system: once after each busy time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from pg_kafka.broker import freed_memory
from pg_kafka.broker.freed_memory import BUSY_BYTES, QUIET_BYTES, FreedMemory, give_back


@pytest.fixture
async def memory() -> FreedMemory:
    return FreedMemory(cast(Any, None))


async def test_nothing_happens_while_much_moves(memory: FreedMemory) -> None:
    for _ in range(10):
        memory.moved_bytes += max(BUSY_BYTES, QUIET_BYTES)
        assert not memory.is_worthwhile()


async def test_a_busy_time_that_has_ended_counts_once(memory: FreedMemory) -> None:
    for _ in range(2):
        memory.moved_bytes += BUSY_BYTES
        assert not memory.is_worthwhile()
        memory.moved_bytes += QUIET_BYTES - 1
        assert memory.is_worthwhile()
        assert not memory.is_worthwhile()


async def test_little_traffic_adds_up(memory: FreedMemory) -> None:
    worthwhile = 0
    looks = 4 * BUSY_BYTES // (QUIET_BYTES // 2)
    for _ in range(looks):
        memory.moved_bytes += QUIET_BYTES // 2
        worthwhile += memory.is_worthwhile()
    assert worthwhile == 4


async def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "LOOK_S", 0.01)
    with ThreadPoolExecutor(1) as pool:
        memory = FreedMemory(pool)
        memory.moved_bytes += BUSY_BYTES
        memory._seen_bytes = memory.moved_bytes

        given_back = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(freed_memory, "give_back", lambda: loop.call_soon_threadsafe(given_back.set))
        memory.start()
        async with asyncio.timeout(5):
            await given_back.wait()
        memory.stop()


def test_giving_back_does_no_harm_anywhere() -> None:
    give_back()
