"""Requests as metrics, and slow ones as log lines: what a live broker tells of them, and that nobody looks on otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.broker.inside import Inside, running
from tests.broker.rawclient import FETCH, PRODUCE, RawClient, SomeTopic, batch, fetching, producing
from tests.broker.test_quotas import set_quota

from pg_kafka.app import Seams
from pg_kafka.config.address import Address
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEARTBEAT, FIND_COORDINATOR, ALTER_CONFIGS = 12, 10, 44
BROKER = 4  # a resource
MOST = 10
LOCKED_S = 0.3

Samples = dict[tuple[str, ...], float]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def measured(postgres15: Any) -> AsyncIterator[Inside]:
    settings = {"metrics": Address("127.0.0.1", 0), "metrics_max_series": MOST}
    async with running(postgres15, Seams(), **settings) as inside:
        yield inside


@pytest_asyncio.fixture(loop_scope="module")
async def client(measured: Inside, topic: SomeTopic) -> AsyncIterator[RawClient]:
    """Of a broker that has the topic first, before others take all places."""
    async with await RawClient.connect(measured) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def topic(measured: Inside) -> SomeTopic:
    async with await RawClient.connect(measured) as client:
        topic = await client.create_topic(retention_ms="-1")
        await client.produce(topic, batch())  # so that it has a place
        return topic


class Growth:
    """By how much samples have grown."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._before = inside.metrics()

    def of(self, *sample: str) -> float:
        return self._inside.metrics().get(sample, 0.0) - self._before.get(sample, 0.0)

    def part(self, api: str, part: str, what: str = "count") -> float:
        return self.of(f"pg_kafka_request_part_seconds_{what}", api, part)


async def test_requests_are_counted_and_timed(measured: Inside, client: RawClient, topic: SomeTopic) -> None:
    growth = Growth(measured)
    records = batch([b"x" * 100] * 7)
    for _ in range(3):
        assert (await client.produce(topic, records)).error_code == 0
    assert growth.of("pg_kafka_requests_total", "Produce", "NONE", "anonymous", "9") == 3
    assert growth.of("pg_kafka_request_seconds_count", "Produce") == 3
    assert [growth.part("Produce", part) for part in ("queue", "work", "lane", "database")] == [3, 3, 3, 3]
    assert growth.part("Produce", "waited") == growth.part("Produce", "throttle") == 0
    whole = growth.of("pg_kafka_request_seconds_sum", "Produce")
    assert whole == pytest.approx(
        sum(growth.part("Produce", part, "sum") for part in ("queue", "work", "lane", "database"))
    )
    assert growth.of("pg_kafka_request_bytes_total", "Produce") > 3 * len(records)


async def test_errors_are_told_apart(measured: Inside, client: RawClient, topic: SomeTopic) -> None:
    growth = Growth(measured)
    await client.produce(topic, batch(), partition=7)
    await client.call(HeartbeatRequest(group_id="nobody", member_id="m"), HEARTBEAT, 4)
    requests = "pg_kafka_requests_total"
    assert growth.of(requests, "Produce", "UNKNOWN_TOPIC_OR_PARTITION", "anonymous", "9") == 1
    assert growth.of(requests, "Heartbeat", "UNKNOWN_MEMBER_ID", "anonymous", "4") == 1


async def test_what_is_not_served_makes_one_series(measured: Inside) -> None:
    growth = Growth(measured)
    for key in range(2000, 2010):
        async with await RawClient.connect(measured) as stranger:
            head = key.to_bytes(2) + key.to_bytes(2) + bytes(4) + b"\0\0"
            stranger.writer.write(len(head).to_bytes(4) + head)
            assert await stranger.is_closed_by_peer()
    unserved = "(unserved)"
    assert growth.of("pg_kafka_requests_total", unserved, "UNSUPPORTED_VERSION", "anonymous", unserved) == 10


async def test_records_are_counted_by_topic_once_each_way(
    measured: Inside, client: RawClient, topic: SomeTopic
) -> None:
    records = batch([b"x" * 100] * 7)
    growth = Growth(measured)
    answer = await client.produce(topic, records)
    fetched = await client.fetch(topic, answer.base_offset)
    assert (await client.fetch(topic, answer.base_offset + 7)).records in (None, b"")
    counted = [growth.of(f"pg_kafka_topic_{what}_total", topic.name) for what in ("in_bytes", "in_records")]
    assert counted == [len(records), 7]
    counted = [growth.of(f"pg_kafka_topic_{what}_total", topic.name) for what in ("out_bytes", "out_records")]
    assert counted == [len(fetched.records or b""), 7]


async def test_batches_that_are_refused_are_not_counted(measured: Inside, client: RawClient) -> None:
    small = await client.create_topic(max_message_bytes="100")
    growth = Growth(measured)
    assert (await client.produce(small, batch([b"x" * 1000]))).error_code
    assert growth.of("pg_kafka_topic_in_bytes_total", small.name) == 0
    assert growth.of("pg_kafka_requests_refused_total", "max.message.bytes") == 1


async def test_wait_that_a_consumer_asks_for_is_no_part_of_the_whole(
    measured: Inside, client: RawClient, topic: SomeTopic
) -> None:
    end = (await client.offset_at(topic, -1)).offset
    growth = Growth(measured)
    await client.call(fetching(topic, {0: end}, max_wait_ms=300), FETCH, 12)
    assert growth.part("Fetch", "waited", "sum") >= 0.29
    whole = growth.of("pg_kafka_request_seconds_sum", "Fetch")
    assert whole == pytest.approx(sum(growth.part("Fetch", part, "sum") for part in ("queue", "work", "database")))


async def test_polls_that_come_again_wait_as_well(measured: Inside, client: RawClient, topic: SomeTopic) -> None:
    end = (await client.offset_at(topic, -1)).offset
    answer = await client.call(fetching(topic, {0: end}, session=(0, 0)), FETCH, 12)
    growth = Growth(measured)
    for epoch in range(1, 6):
        await client.call(fetching(topic, {}, session=(answer.session_id, epoch), max_wait_ms=20), FETCH, 12)
    assert growth.part("Fetch", "waited") == 5
    assert growth.of("pg_kafka_request_seconds_count", "Fetch") == 5


async def test_request_that_waits_behind_a_long_poll_is_in_the_queue(
    measured: Inside, client: RawClient, topic: SomeTopic
) -> None:
    end = (await client.offset_at(topic, -1)).offset
    growth = Growth(measured)
    first = client.send(fetching(topic, {0: end}, max_wait_ms=300), FETCH, 12)
    second = client.send(FindCoordinatorRequest(key="group"), FIND_COORDINATOR, 3)
    await client.receive(FETCH, 12, first)
    await client.receive(FIND_COORDINATOR, 3, second)
    assert growth.part("FindCoordinator", "queue", "sum") >= 0.25


async def test_time_of_a_quota_is_told_apart(measured: Inside, client: RawClient, topic: SomeTopic) -> None:
    async with await RawClient.connect(measured) as quoted:
        quoted.client_id = "quoted"
        await set_quota(client, {"client-id": "quoted"}, producer_byte_rate=3_000)
        growth = Growth(measured)
        sent = [quoted.send(producing(topic, {0: batch([b"x" * 20_000])}), PRODUCE, 9) for _ in range(3)]
        for correlation_id in sent[:2]:
            await quoted.receive(PRODUCE, 9, correlation_id)
        await set_quota(client, {"client-id": "quoted"}, producer_byte_rate=None)  # the third goes on
        await quoted.receive(PRODUCE, 9, sent[2])
    assert growth.part("Produce", "throttle") >= 1


async def test_topics_have_so_many_series_and_the_rest_one(measured: Inside, client: RawClient) -> None:
    records = batch()
    topics = [await client.create_topic() for _ in range(2 * MOST)]
    growth = Growth(measured)
    for each in topics:
        await client.produce(each, records)
    name = "pg_kafka_topic_in_bytes_total"
    places = [sample[1] for sample in measured.metrics() if sample[0] == name]
    assert len(places) == MOST + 1
    assert "(other)" in places
    assert sum(growth.of(name, place) for place in places) == 2 * MOST * len(records)
    kept = next(each for each in topics if each.name in places)
    await client.delete_topic(kept)
    assert (name, kept.name) not in measured.metrics()
    newcomer = await client.create_topic()
    await client.produce(newcomer, records)
    assert measured.metrics()[name, newcomer.name] == len(records)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare(postgres15: Any) -> AsyncIterator[Inside]:
    """Nobody asks for metrics."""
    async with running(postgres15, Seams()) as inside:
        yield inside


async def set_slow_ms(client: RawClient, value: str) -> None:
    config = AlterableConfig(name="pg_kafka.slow_request_ms", value=value)
    resource = AlterConfigsResource(resource_type=BROKER, resource_name="", configs=[config])
    answer = await client.call(IncrementalAlterConfigsRequest(resources=[resource]), ALTER_CONFIGS, 1)
    assert answer.responses[0].error_code == 0, answer


def slow_lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.getMessage() == "slow request"]


async def test_without_metrics_nobody_looks_on(bare: Inside) -> None:
    async with await RawClient.connect(bare) as client:
        topic = await client.create_topic()
        growth = Growth(bare)
        await client.produce(topic, batch())
        server: Any = bare.term._server
        own = client.writer.get_extra_info("sockname")
        connection = next(one for one in server._connections if one.info.peer == own)
        assert connection._watch is None
        assert connection._observer is None
        log: Any = bare.term._log
        assert {partition.traffic for partition in log._partitions.values()} == {None}
        assert growth.of("pg_kafka_requests_total", "Produce", "NONE", "anonymous", "9") == 0


async def test_slow_request_says_where_its_time_went(bare: Inside, caplog: pytest.LogCaptureFixture) -> None:
    """A lock in PostgreSQL holds up a Produce, and with it the one that comes after it; both connections were there before."""
    async with await RawClient.connect(bare) as client, await RawClient.connect(bare) as other:
        client.client_id, other.client_id = "first", "second"
        topic = await client.create_topic(retention_ms="-1")
        await client.produce(topic, batch())
        await set_slow_ms(other, "200")
        connection = await asyncpg.connect(bare.superuser_dsn)
        async with connection.transaction():
            await connection.execute("LOCK TABLE kafka.log IN ACCESS EXCLUSIVE MODE")
            first = client.send(producing(topic, {0: batch()}), PRODUCE, 9)
            async with asyncio.timeout(10):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            second = other.send(producing(topic, {0: batch()}), PRODUCE, 9)
            await asyncio.sleep(LOCKED_S)  # how long it takes is what is shown
        await connection.close()
        await client.receive(PRODUCE, 9, first)
        await other.receive(PRODUCE, 9, second)
        lines = {line.client_id: line for line in slow_lines(caplog)}
        assert set(lines) == {"first", "second"}
        one, two = lines["first"], lines["second"]
        assert (one.api, one.version, one.principal, one.topics) == ("Produce", 9, "User:ANONYMOUS", topic.name)
        assert one.postgres_ms >= LOCKED_S * 1000
        assert one.total_ms == pytest.approx(one.queue_ms + one.broker_ms + one.lane_ms + one.postgres_ms, abs=1)
        # The lane had the first one under way, so the second one's own transaction began after that.
        assert two.lane_ms >= LOCKED_S * 900 > two.postgres_ms
        await set_slow_ms(other, "-1")
        server: Any = bare.term._server
        assert {one._observer for one in server._connections} == {None}


async def test_wait_on_purpose_is_not_slow_and_many_slow_ones_are_one_line(
    bare: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.connect(bare) as client, await RawClient.connect(bare) as admin:
        client.client_id = "patient"
        topic = await client.create_topic()
        await set_slow_ms(admin, "250")
        await client.fetch(topic, 0, max_wait_ms=500)
        assert slow_lines(caplog) == []
        await set_slow_ms(admin, "0")
        for _ in range(20):
            await client.call(HeartbeatRequest(group_id="nobody", member_id="m"), HEARTBEAT, 4)
        (line,) = (line for line in slow_lines(caplog) if line.client_id == "patient")
        assert (line.api, line.group, line.error) == ("Heartbeat", "nobody", "UNKNOWN_MEMBER_ID")
        await set_slow_ms(admin, "-1")


async def test_slow_fetch_of_a_session_names_its_topics(bare: Inside, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.connect(bare) as client:
        topics = [await client.create_topic() for _ in range(5)]
        await set_slow_ms(client, "0")
        request = fetching(topics[0], {0: 0}, session=(0, 0))
        request.topics = [fetching(topic, {0: 0}).topics[0] for topic in topics]
        client.client_id = "whole"
        session_id = (await client.call(request, FETCH, 12)).session_id
        client.client_id = "incremental"
        await client.call(fetching(topics[0], {}, session=(session_id, 1)), FETCH, 12)
        lines = {line.client_id: line for line in slow_lines(caplog)}
        for who in ("whole", "incremental"):
            assert lines[who].topics == ",".join(topic.name for topic in topics[:3]) + " and 2 more"
        client.client_id = "by-id"
        await client.call(producing(topics[4], {0: batch()}), PRODUCE, 13)
        assert {line.client_id: line for line in slow_lines(caplog)}["by-id"].topics == topics[4].name
        client.client_id = "admin"
        await set_slow_ms(client, "-1")
