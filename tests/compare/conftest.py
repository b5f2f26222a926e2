"""Both brokers, started once, and what each case showed on them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.broker.conftest import serving
from tests.broker.rawclient import RawClient
from tests.compare import (
    cases_admin,
    cases_admin_apis,
    cases_bytes,
    cases_configs,
    cases_deletion,
    cases_groups,
    cases_log,
    cases_quotas,
    cases_telemetry,
    cases_transaction_log,
    cases_transactions,
    cases_users,
)
from tests.compare.answers import differences, field_of, flattened
from tests.compare.scene import READY_S, Case, Scene, Side
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing, compiled

from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest

FIND_COORDINATOR = 10

# Importing them fills the table.
assert (
    cases_admin
    and cases_admin_apis
    and cases_bytes
    and cases_configs
    and cases_deletion
    and cases_groups
    and cases_log
    and cases_quotas
    and cases_telemetry
    and cases_transaction_log
    and cases_transactions
    and cases_users
)

# Records of the cases are old: the check that would remove them never comes. Internal topics small.
KAFKA_SETTINGS = {
    "log.initial.task.delay.ms": "86400000",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "50",
    "share.coordinator.state.topic.num.partitions": "1",
}

SETTINGS = {
    "LOG_RETENTION_MS": None,
    "LOG_INITIAL_TASK_DELAY_MS": KAFKA_SETTINGS["log.initial.task.delay.ms"],
    "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
}

Seen = dict[tuple[str, str, str], set[int]]
"""Field, Kafka's value and pg_kafka's, and the versions in which they differ so."""


class KafkaAddress:
    def __init__(self, kafka: ApacheKafka) -> None:
        self.host = HOST
        self.port = kafka.port


@pytest.fixture(scope="session")
def sides(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """Apache Kafka and pg_kafka."""
    folder: Path = tmp_path_factory.mktemp("compare")
    try:
        reporter = compiled(Path(__file__).with_name("TelemetryReporter.java"))
        # Without one that takes metrics of clients, Kafka does not say that it serves them.
        settings = {**KAFKA_SETTINGS, "metric.reporters": reporter.name}
        kafka = ApacheKafka(folder / "kafka", settings, heap="512m", more_classes=reporter)
        kafka.start()
    except ToolMissing as missing:
        if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    database = postgres15.create_database()
    try:
        with serving(database.dsn, folder, SETTINGS) as broker:
            yield Side("Kafka", KafkaAddress(kafka)), Side("pg_kafka", broker)
    finally:
        kafka.kill()
        postgres15.drop_database(database)


@asynccontextmanager
async def scene(side: Side, case: Case, version: int) -> AsyncIterator[Scene]:
    async with await RawClient.connect(side.address) as client:
        yield Scene(side, case.name, case.api_key, version, client)


async def coordinators_are_there(side: Side) -> None:
    """Apache Kafka makes the topics of groups and transactions when a coordinator is first asked for, not before."""
    async with await RawClient.connect(side.address) as client, asyncio.timeout(READY_S):
        for key_type in (0, 1):
            request = FindCoordinatorRequest(key="first", key_type=key_type)
            while (await client.call(request, FIND_COORDINATOR, 3)).error_code:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.05)


async def seen_on(side: Side, case: Case, version: int) -> dict[str, str]:
    """What one broker shows."""
    async with scene(side, case, version) as there:
        answer = await case.ask(there)
    return flattened(answer, side.names)


@pytest.fixture(scope="session")
def compared(sides: tuple[Side, Side]) -> Callable[[Case], Awaitable[Seen]]:
    """What differs in a case; it is asked once."""
    known: dict[str, Seen] = {}

    async def compare(case: Case) -> Seen:
        if not known:
            await coordinators_are_there(sides[0])
        if case.name not in known:
            found: Seen = {}
            for version in case.versions:
                kafka, ours = [await seen_on(side, case, version) for side in sides]
                for path, pair in differences(kafka, ours).items():
                    found.setdefault((field_of(path), *pair), set()).add(version)
            known[case.name] = found
        return known[case.name]

    return compare
