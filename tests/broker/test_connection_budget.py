"""The sessions that a broker has open: as many as docs/operations.md says, and never more."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.rawclient import FETCH, RawClient, batch, fetching, offsets_of

from pg_kafka import checks
from pg_kafka.config import Config

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def budget(lanes: int, readers: int) -> dict[str, int]:
    """The rows of the page's table: sessions by what they are for."""
    section = PAGE.read_text().split("## Connections to PostgreSQL\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `pg_kafka ([^`]+)` \| ([^|]+?) \|", section, re.MULTILINE)
    numbers = {"two for each lane": 2 * lanes, "`pg_kafka.readers`": readers, "one": 1}
    return {kind: numbers[count] for kind, count in rows}


def test_budget_of_the_page_is_the_program_s() -> None:
    for lanes, readers in ((1, 2), (4, 7)):
        assert sum(budget(lanes, readers).values()) == checks.connections_needed(Config(lanes=lanes, readers=readers))
    assert f"{checks.connections_needed(Config())} with the defaults" in PAGE.read_text()


async def sessions(admin: asyncpg.Connection, role: str) -> Counter[str]:
    rows = await admin.fetch("SELECT application_name AS name FROM pg_stat_activity WHERE usename = $1", role)
    return Counter(re.sub(r"^pg_kafka |\d+$", "", row["name"]).strip() for row in rows)


@pytest.mark.parametrize(("lanes", "readers"), [(1, 2), (3, 4)])
async def test_all_that_a_broker_does_fits_into_its_budget(
    start_broker: Callable[..., RunningBroker], pg_database: Any, postgres15: Any, lanes: int, readers: int
) -> None:
    """The role may have no more sessions than that; all of them are lost once, and all at once."""
    needed = checks.connections_needed(Config(lanes=lanes, readers=readers))
    admin = await asyncpg.connect(pg_database.superuser_dsn)
    await admin.execute(f"ALTER ROLE {pg_database.name} CONNECTION LIMIT {needed}")
    broker = start_broker(LANES=str(lanes), READERS=str(readers), TAIL_BYTES="0")
    try:
        expected = Counter(budget(lanes, readers))
        expected.pop("start, check, settings, migrate")
        assert await use_everything(broker, admin, pg_database.name, expected) == expected
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", pg_database.name
        )
        # A lane that has nothing to write looks at its sessions when it has.
        assert await use_everything(broker, admin, pg_database.name, expected) <= expected
        assert "too many connections" not in broker.log.read_text()
    finally:
        await admin.close()


async def use_everything(
    broker: RunningBroker, admin: asyncpg.Connection, role: str, expected: Counter[str]
) -> Counter[str]:
    """Have all readers at work, and say which sessions there are meanwhile."""
    async with await RawClient.connect(broker) as client:
        async with asyncio.timeout(30):
            while True:
                try:
                    topic = await client.create_topic(partitions=8)
                    break
                except AssertionError:  # the sessions were just lost
                    await asyncio.sleep(0.1)
            for partition in range(8):
                while (await client.produce(topic, batch(), partition)).error_code != 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
    waiting = [await RawClient.connect(broker) for _ in range(expected["reader"] + 2)]
    try:
        async with admin.transaction():
            leaf = await admin.fetchval(
                "SELECT format('kafka.log_0_%s', segment) FROM kafka.segments WHERE series = 0 AND state = 'active'"
            )
            await admin.execute(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE")
            asked = [client.send(fetching(topic, {0: 0}), FETCH, 12) for client in waiting]
            async with asyncio.timeout(30):
                while (found := await sessions(admin, role))["reader"] < expected["reader"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for client, correlation_id in zip(waiting, asked, strict=True):
            answer = await client.receive(FETCH, 12, correlation_id, timeout_s=30)
            assert offsets_of(answer.responses[0].partitions[0]) == [0]
        return found
    finally:
        for client in waiting:
            await client.close()
