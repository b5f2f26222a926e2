"""The limit of open files: clients stop short of it, sessions with PostgreSQL do not."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, batch, offsets_of

from pg_kafka import checks
from pg_kafka.broker import open_files
from pg_kafka.config import Config

FILES = 80
TOO_MANY = 2 * FILES
REFUSED = f"which are kept for sessions with PostgreSQL; the limit of open files (ulimit -n) is {FILES}"


async def stays_open(client: RawClient) -> bool:
    """Whether the broker serves this connection; it closes the others at once."""
    try:
        await client.offset_at(NOWHERE, -1)
    except (OSError, asyncio.IncompleteReadError):
        return False
    return True


class Nowhere:
    name = "nowhere"


NOWHERE: Any = Nowhere()


async def test_clients_leave_files_for_the_sessions(start_broker: Callable[..., Any], pg_dsn: str) -> None:
    broker = start_broker(files=FILES, TAIL_BYTES="0")
    clients = [await RawClient.connect(broker) for _ in range(TOO_MANY)]
    try:
        served = [client for client in clients if await stays_open(client)]
        assert 10 < len(served) < FILES
        assert clients[: len(served)] == served
        lines = [line for line in broker.log.read_text().splitlines() if REFUSED in line]
        assert lines
        assert all('level=warning source=broker.server message="connection closed"' in line for line in lines)
        assert len(lines) < TOO_MANY - len(served), "one line for each"
        topic = await served[0].create_topic()
        assert (await served[0].produce(topic, batch())).base_offset == 0
        # All sessions are lost while clients have all files that they may have.
        connection = await asyncpg.connect(pg_dsn)
        try:
            killed = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        finally:
            await connection.close()
        assert killed >= 4
        async with asyncio.timeout(60):
            while (await served[1].produce(topic, batch())).error_code:  # noqa: ASYNC110 - the broker does not tell
                await asyncio.sleep(0.1)
            for client in served[2:]:
                assert offsets_of(await client.fetch(topic, 0))[:2] == [0, 1]
        # Where one leaves, another finds room.
        await served[-1].close()
        async with asyncio.timeout(60):
            while True:
                async with await RawClient.connect(broker) as another:
                    if await stays_open(another):
                        break
                await asyncio.sleep(0.1)
    finally:
        for client in clients:
            client.writer.transport.abort()


def test_the_limit_is_raised_as_far_as_it_may(tmp_path: Path) -> None:
    program = (
        "import resource; from pg_kafka.broker import open_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256)); open_files.raise_limit(); print(open_files.limit())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "256\n"


def test_serve_raises_its_limit(broker: Any) -> None:
    soft, hard = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(("wanted", "allowed", "is_enough"), [(100, 200, True), (100, 110, False), (None, 4096, True)])
def test_advice_on_too_few_files(wanted: int | None, allowed: int, is_enough: bool) -> None:
    config = Config() if wanted is None else Config(max_connections=wanted)
    with open(os.devnull) as lowest:
        used = lowest.fileno()
    advice = checks.file_advice(config, used + allowed)
    if is_enough:
        assert advice == []
    else:
        room = allowed - 2 * checks.connections_needed(config) - open_files.SPARE_FILES
        assert len(advice) == 1
        assert f"{used + allowed}, leaves room for {room} connections of clients" in advice[0]
