"""Clients push their metrics (KIP-714), and Prometheus sees them."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, Sum
from prometheus_client.parser import text_string_to_metric_families
from tests.broker.rawclient import RawClient
from tests.broker.test_changes_by_sql import until
from tests.broker.test_waiting import Pair
from tests.broker.test_waiting import pair as pair
from tests.kafka_reference import HOST, free_port
from tests.unit.test_otlp import attribute, told

from pg_kafka.wire import compression
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from pg_kafka.wire.messages.push_telemetry import PushTelemetryRequest

API_VERSIONS, ASK, PUSH = 18, 71, 72
SENT, LAG = "org.apache.kafka.producer.record.send.total", "org.apache.kafka.consumer.records.lag.max"
SENT_NAME, LAG_NAME = "org_apache_kafka_producer_record_send_total", "org_apache_kafka_consumer_records_lag_max"
SET = "SELECT kafka.set_client_metrics($1, $2, $3)"


def payload(sent: int, lag: float = 0.0, topic: str = "orders") -> bytes:
    point = NumberDataPoint(as_int=sent, attributes=[attribute("topic", topic)])
    delta = Sum(data_points=[point], is_monotonic=True, aggregation_temporality="AGGREGATION_TEMPORALITY_DELTA")
    gauge = Gauge(data_points=[NumberDataPoint(as_double=lag, attributes=[attribute("partition", "0")])])
    return told(Metric(name=SENT, sum=delta), Metric(name=LAG, gauge=gauge))


async def ask(client: RawClient, instance_id: UUID = ZERO_UUID) -> GetTelemetrySubscriptionsResponse:
    answer: GetTelemetrySubscriptionsResponse = await client.call(
        GetTelemetrySubscriptionsRequest(client_instance_id=instance_id), ASK, 0
    )
    return answer


async def push(
    client: RawClient, by: GetTelemetrySubscriptionsResponse, metrics: bytes, codec: int = 0, **more: Any
) -> int:
    request = PushTelemetryRequest(
        client_instance_id=by.client_instance_id,
        subscription_id=by.subscription_id,
        compression_type=codec,
        metrics=compression.compress(codec, metrics) if codec else metrics,
    )
    for name, value in more.items():
        setattr(request, name, value)
    return int((await client.call(request, PUSH, 0)).error_code)


async def samples(port: int, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    def page() -> str:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    return {
        tuple(sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(await asyncio.to_thread(page))
        for one in family.samples
        if one.name == name
    }


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def serving(postgres15: Any, metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.broker.conftest import serving as started

    database = postgres15.create_database()
    settings = {"METRICS": f"{HOST}:{metrics_port}"}
    try:
        with started(database.dsn, tmp_path_factory.mktemp("telemetry"), settings) as running:
            yield running
    finally:
        postgres15.drop_database(database)


@pytest.fixture
async def db(serving: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(serving.dsn)
    yield connection
    await connection.execute("DELETE FROM kafka.client_metrics")
    await connection.close()


@pytest.fixture
async def client(serving: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(serving) as client:
        client.client_id = f"app-{uuid4()}"
        yield client


async def subscribed(
    client: RawClient, db: asyncpg.Connection, interval_ms: int = 100
) -> GetTelemetrySubscriptionsResponse:
    """A client for which all metrics are wanted."""
    await db.execute(SET, client.client_id, "match", f"client_id={client.client_id}")
    await db.execute(SET, client.client_id, "interval.ms", str(interval_ms))
    await db.execute(SET, client.client_id, "metrics", "*")
    found: list[GetTelemetrySubscriptionsResponse] = []

    async def is_wanted() -> bool:
        found.append(await ask(client))
        return list(found[-1].requested_metrics) == ["*"]

    await until(is_wanted)
    return found[-1]


async def test_what_is_pushed_is_served(client: RawClient, db: asyncpg.Connection, metrics_port: int) -> None:
    mine = await subscribed(client, db)
    assert (mine.push_interval_ms, mine.telemetry_max_bytes, mine.delta_temporality) == (100, 1048576, True)
    assert list(mine.accepted_compression_types) == [4, 3, 1, 2]
    for codec in range(5):
        again = await ask(client, mine.client_instance_id)
        while again.error_code == ErrorCode.THROTTLING_QUOTA_EXCEEDED:
            again = await ask(client, mine.client_instance_id)
        assert await push(client, mine, payload(codec + 1, 7.5), codec) == 0
    labels = (("client_id", client.client_id),)
    assert (await samples(metrics_port, SENT_NAME))[*labels, ("topic", "orders")] == 15
    assert (await samples(metrics_port, LAG_NAME))[labels] == 7.5
    taken = await samples(metrics_port, "pg_kafka_telemetry_pushes_total")
    assert taken[("error", "NONE"),] >= 5


async def test_sql_and_settings_say_how_far_clients_are_told_apart(
    client: RawClient, db: asyncpg.Connection, metrics_port: int
) -> None:
    mine = await subscribed(client, db)
    try:
        await db.execute("SELECT kafka.set_config('pg_kafka.client_metrics_by_instance', 'true')")
        await db.execute("SELECT kafka.set_config('pg_kafka.metrics_per_partition', 'true')")
        wanted = {"client_id", "client_instance_id", "partition"}

        async def are_told_apart() -> bool:
            await push(client, mine, payload(1, 3.0), terminating=False)
            found = await samples(metrics_port, LAG_NAME)
            return any(("client_id", client.client_id) in one and {name for name, _ in one} == wanted for one in found)

        await until(are_told_apart)
    finally:
        await db.execute("SELECT kafka.set_config('pg_kafka.client_metrics_by_instance', NULL)")
        await db.execute("SELECT kafka.set_config('pg_kafka.metrics_per_partition', NULL)")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"metrics": b"garbage"}, ErrorCode.INVALID_RECORD),
        ({"metrics": b"garbage", "compression_type": 1}, ErrorCode.INVALID_RECORD),
        ({"metrics": b"\0" * (2**20 + 1)}, ErrorCode.TELEMETRY_TOO_LARGE),
        ({"metrics": compression.compress(4, b"\x0a\x00" * 2**20), "compression_type": 4}, ErrorCode.TELEMETRY_TOO_LARGE),
        ({"compression_type": 9}, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        ({"subscription_id": 1}, ErrorCode.UNKNOWN_SUBSCRIPTION_ID),
        ({"client_instance_id": UUID(int=0)}, ErrorCode.INVALID_REQUEST),
        ({"metrics": b""}, ErrorCode.NONE),
        ({"terminating": True}, ErrorCode.NONE),
    ],
)  # fmt: skip
async def test_what_is_refused_changes_nothing(
    client: RawClient, db: asyncpg.Connection, metrics_port: int, more: dict[str, Any], code: int
) -> None:
    mine = await subscribed(client, db, 3_600_000)
    assert await push(client, mine, more.pop("metrics", b""), **more) == code
    if "client_instance_id" not in more:
        # Not before the interval is over, as something was pushed.
        assert await push(client, mine, payload(1)) in (ErrorCode.THROTTLING_QUOTA_EXCEEDED, ErrorCode.INVALID_REQUEST)
    assert not any(("client_id", client.client_id) in one for one in await samples(metrics_port, SENT_NAME))


async def test_half_a_push_is_no_push(client: RawClient, db: asyncpg.Connection, metrics_port: int) -> None:
    mine = await subscribed(client, db)
    assert await push(client, mine, payload(1) + b"\x0a\x7f") == ErrorCode.INVALID_RECORD
    assert not any(("client_id", client.client_id) in one for one in await samples(metrics_port, SENT_NAME))


async def test_others_are_answered_while_a_megabyte_is_read(
    serving: Any, client: RawClient, db: asyncpg.Connection
) -> None:
    mine = await subscribed(client, db)
    sent = asyncio.create_task(push(client, mine, b"\x0a\x00" * 2**19))
    async with await RawClient.connect(serving) as other:
        answers = 0
        while not sent.done():
            await other.call(ApiVersionsRequest(), API_VERSIONS, 0)
            answers += 1
    assert await sent == 0
    assert answers > 3


async def test_a_broker_that_waits_takes_metrics(pair: Pair) -> None:
    ports = [free_port(), free_port()]
    for which in (0, 1):
        pair.settings = {"METRICS": f"{HOST}:{ports[which]}"}
        pair.start(which)
        if not which:
            pair.brokers[0].ready()
    pair.brokers[1].wait_for("waiting to take over")
    await pair.waiting(1)
    connection = await asyncpg.connect(pair.dsn)
    await connection.execute(SET, "all", "metrics", "*")
    await connection.close()
    async with await RawClient.connect(pair.place(1)) as client:
        client.client_id = "of-the-one-that-waits"
        found: list[GetTelemetrySubscriptionsResponse] = []

        async def is_wanted() -> bool:
            found.append(await ask(client))
            return bool(found[-1].requested_metrics)

        await until(is_wanted)
        assert await push(client, found[-1], payload(3)) == 0
    labels = (("client_id", "of-the-one-that-waits"), ("topic", "orders"))
    assert await samples(ports[1], SENT_NAME) == {labels: 3}
    # What it has been told stays when it takes over.
    pair.brokers.pop(0).__exit__(None, None, None)
    pair.brokers[0].ready()
    assert await samples(ports[1], SENT_NAME) == {labels: 3}
