"""SQL consumers that poll, book and produce in one transaction, while they, brokers and PostgreSQL are killed.

Orders come from Kafka producers, some in transactions that are aborted, and from SQL. Each committed order is handled
once and in the order of its partition, its receipt is in the log once and in that order, and at any moment the sums in
the tables are those of the orders below the group's offsets. PG_KAFKA_SQL_CRASH_SECONDS=600 goes on for ten minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
from tests.broker.pgbouncer import pgbouncer
from tests.crash.servers import Given, WithStandby
from tests.crash.sql_account import PARTITIONS
from tests.crash.sql_faults import ON_ONE_BROKER, ON_TWO_BROKERS, Fault, trouble
from tests.crash.sql_orders import Feed
from tests.crash.sql_readers import read_whole
from tests.crash.sql_rounds import create_topic
from tests.crash.sql_workers import ORDERS, RECEIPTS, Workers

SECONDS = float(os.environ.get("PG_KAFKA_SQL_CRASH_SECONDS", "8"))
SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))

pytestmark = [
    pytest.mark.timeout(400 + SECONDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def round_on(system: Given, faults: Sequence[Fault], dsn: str) -> None:
    bootstrap = f"{system.bootstrap.host}:{system.bootstrap.port}"
    for topic in (ORDERS, RECEIPTS):
        await asyncio.to_thread(create_topic, bootstrap, topic)
    workers = Workers(dsn, SEED, direct_dsn=system.sql_dsn)
    await workers.prepare()
    feed = Feed(bootstrap, system.sql_dsn, SEED)
    try:
        feed.start()
        workers.start()
        played = await trouble(system, faults, SEED + 1, SECONDS)
        await feed.stop()
        orders = await feed.everything()
        await workers.handle_all(sum(len(records) for records in orders.values()))
        receipts = await _receipts(system, bootstrap)
    finally:
        await workers.cancel()
        await feed.stop()
    wrong = [*feed.faults, *workers.faults, *await workers.check(orders, receipts)]
    wrong += [line for broker in system.brokers for line in broker.complaints()]
    told = f"{sum(map(len, orders.values()))} orders, {workers.audits} audits, {dict(workers.endings)}, {dict(played)}"
    print(told)
    assert not wrong, "\n".join([f"seed {SEED}", told, *wrong[:20]])
    assert workers.audits and workers.endings["committed"]


async def _receipts(system: Given, bootstrap: str) -> dict[int, list]:
    """All of them, when a last one in each partition says that none is under way any more."""
    async with system.sql() as connection:
        for partition in range(PARTITIONS):
            await connection.fetchval(
                "SELECT kafka.produce($1, $2::bytea, partition => $3)", RECEIPTS, b"last", partition
            )
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        log = await asyncio.to_thread(read_whole, bootstrap, RECEIPTS, "read_uncommitted")
        if all(records and records[-1].value == b"last" for records in log.values()):
            return {partition: list(records[:-1]) for partition, records in log.items()}
        assert asyncio.get_running_loop().time() < deadline, "the last receipts do not come"


async def test_sums_match_whatever_is_killed(one_broker: Given) -> None:
    await round_on(one_broker, ON_ONE_BROKER, one_broker.sql_dsn)


async def test_sums_match_when_brokers_take_over(two_brokers: WithStandby) -> None:
    await round_on(two_brokers, ON_TWO_BROKERS, two_brokers.sql_dsn)


async def test_sums_match_through_pgbouncer(one_broker: Given) -> None:
    """Sessions go through a pooler in transaction mode, and brokers and PostgreSQL are killed behind it."""
    with pgbouncer(one_broker.server, one_broker.database, "transaction", default_pool_size="8") as dsn:
        await round_on(one_broker, ON_ONE_BROKER, dsn)
