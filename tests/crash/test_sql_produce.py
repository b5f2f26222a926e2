"""Fifty sessions produce by SQL while brokers and PostgreSQL are killed, and while brokers take over from each other.

Readers see exactly the committed records, once, in order for each key. PG_KAFKA_SQL_CRASH_SECONDS=600 goes on for ten
minutes; PG_KAFKA_CRASH_SEED makes the same choices again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from tests.clients.agents import JavaClient
from tests.crash.servers import Given, WithStandby
from tests.crash.sql_faults import (
    ON_ONE_BROKER,
    ON_TWO_BROKERS,
    THROUGH_A_PROXY,
    Fault,
    broker_killed,
    other_broker_takes_over,
    trouble,
)
from tests.crash.sql_rounds import Report, create_topic, play
from tests.crash.sql_sessions import SESSIONS, Sessions

SECONDS = float(os.environ.get("PG_KAFKA_SQL_CRASH_SECONDS", "8"))
SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))
TOPIC = "orders"

pytestmark = [
    pytest.mark.timeout(400 + SECONDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def round_on(
    system: Given, faults: Sequence[Fault], last: Fault, java: JavaClient | None, count: int = SESSIONS
) -> Report:
    bootstrap = f"{system.bootstrap.host}:{system.bootstrap.port}"
    await asyncio.to_thread(create_topic, bootstrap, TOPIC)
    sessions = Sessions(system.sql_dsn, TOPIC, SEED, count)
    await sessions.prepare()

    async def work() -> Counter[str]:
        return await trouble(system, faults, SEED, SECONDS)

    async def begin_anew() -> None:
        await last(system, random.Random(SEED))

    report = await play(last.__name__, bootstrap, sessions, java, work, begin_anew, SEED)
    report.faults += [line for broker in system.brokers for line in broker.complaints()]
    print(report)
    return report


async def test_every_committed_record_is_there_once_whatever_is_killed(
    one_broker: Given, java: JavaClient | None
) -> None:
    report = await round_on(one_broker, ON_ONE_BROKER, broker_killed, java)
    assert report.committed and not report.faults, str(report)


async def test_every_committed_record_is_there_once_when_brokers_take_over(
    two_brokers: WithStandby, java: JavaClient | None
) -> None:
    report = await round_on(two_brokers, ON_TWO_BROKERS, other_broker_takes_over, java)
    assert report.committed and not report.faults, str(report)


async def test_every_committed_record_is_there_once_when_the_relays_commits_are_lost(
    proxied_broker: Given, java: JavaClient | None
) -> None:
    """With fewer sessions, for the proxy runs beside them."""
    report = await round_on(proxied_broker, THROUGH_A_PROXY, broker_killed, java, count=10)
    assert report.committed and not report.faults, str(report)
