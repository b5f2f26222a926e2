"""A failover to a standby that lags: a Java consumer hears from which offset on its records are no more (KIP-320)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.broker.rawclient import RawClient, SomeTopic, batch
from tests.crash.load import Place
from tests.crash.servers import Pair
from tests.kafka_reference import ToolMissing, compiled, java
from tests.postgres import FLAVOURS

pytestmark = pytest.mark.timeout(300)

SOURCE = Path(__file__).with_name("Truncation.java")
SURVIVE, ARE_LOST = 70, 30
HEARD_S = 60


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    system = Pair(synchronous=False)
    await system.open()
    try:
        yield system
    finally:
        await system.close()


async def test_consumer_hears_where_the_log_was_truncated(pair: Pair) -> None:
    try:
        classes = compiled(SOURCE)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    place = await pair.serving()
    async with await RawClient.connect(place) as client:
        topic = await client.create_topic(retention_ms="-1")  # the records are old
        assert (await client.produce(topic, batch([b"kept"] * SURVIVE))).base_offset == 0
    assert pair.standby is not None
    await pair.wait_for(
        "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()", timeout_s=HEARD_S
    )
    pair.standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
    pair.standby.sql("SELECT pg_reload_conf()")
    await pair.wait_for("SELECT (count(*) = 0)::int FROM pg_stat_replication", timeout_s=HEARD_S)
    async with await RawClient.connect(place) as client:
        assert (await client.produce(topic, batch([b"lost"] * ARE_LOST))).base_offset == SURVIVE
    command = java("Truncation", f"{place.host}:{place.port}", topic.name, more_classes=classes)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(HEARD_S):
            assert await said(process, "read") == SURVIVE + ARE_LOST
        await pair.fail_over()
        async with asyncio.timeout(HEARD_S):
            # What is written next begins where the lost records began, so that offset alone would not tell.
            assert await produced(place, topic, [b"new"] * (2 * ARE_LOST)) == SURVIVE
            assert await said(process, "truncated") == SURVIVE
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def produced(place: Place, topic: SomeTopic, values: list[bytes]) -> int:
    """The offset that they got, once the broker has found out about the failover."""
    while True:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with await RawClient.connect(place) as client:
                answer = await client.produce(topic, batch(values))
                if not answer.error_code:
                    return answer.base_offset
        await asyncio.sleep(0.05)


async def said(process: asyncio.subprocess.Process, what: str) -> int:
    """The last number of its lines that begin so, up to the wanted end or another line."""
    assert process.stdout is not None
    while True:
        line = (await process.stdout.readline()).decode().split()
        assert line, "the consumer has ended"
        if line[0] == what and (what != "read" or int(line[1]) == SURVIVE + ARE_LOST):
            return int(line[1])
