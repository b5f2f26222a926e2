"""What clients see of a lane whose PostgreSQL processes stand still: that lane refuses, everything else goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
from tests.broker.conftest import RunningBroker
from tests.broker.rawclient import (
    FETCH,
    PRODUCE,
    RawClient,
    SomeTopic,
    answered,
    batch,
    fetching,
    producing,
    records_of,
)
from tests.storage.leader import frozen

from pg_kafka.wire.error_codes import ErrorCode

PARTITIONS = 16


async def lanes_of(broker: RunningBroker, topic: SomeTopic) -> tuple[int, int]:
    """A partition of each of two lanes (Log.lane_of)."""
    connection = await asyncpg.connect(broker.dsn)
    topic_id = await connection.fetchval("SELECT id FROM kafka.topics WHERE name = $1", topic.name)
    await connection.close()
    index = {hash((topic_id, index)) % 2: index for index in range(PARTITIONS)}
    return index[0], index[1]


async def pids_of(broker: RunningBroker, kind: str) -> list[int]:
    connection = await asyncpg.connect(broker.dsn)
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
        f"pg_kafka {kind}",
    )
    await connection.close()
    assert rows
    return [row["pid"] for row in rows]


async def test_lane_that_hangs_refuses_and_the_others_go_on(start_broker: Callable[..., RunningBroker]) -> None:
    broker = start_broker(LANES="2", BACKEND_TIMEOUT_MS="2500")
    async with await RawClient.connect(broker) as client, await RawClient.connect(broker) as producer:
        topic = await client.create_topic(PARTITIONS)
        ours, others = await lanes_of(broker, topic)
        producer_id = await client.new_producer_id()
        for index in (ours, others):
            assert (await client.produce(topic, batch([b"a"]), index)).base_offset == 0
        end = 1
        doubtful = batch([b"b"], producer=(producer_id, 0, 0))
        with frozen(await pids_of(broker, "lane 0")):
            waiting = producer.send(producing(topic, {ours: doubtful}), PRODUCE, 9)
            assert answered(await producer.receive(PRODUCE, 9, waiting, 30))[ours].error_code in (
                ErrorCode.REQUEST_TIMED_OUT,
                ErrorCode.KAFKA_STORAGE_ERROR,
            )
            for _ in range(3):
                refused = await client.produce(topic, doubtful, ours)
                assert refused.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            # Both on one connection: a fetch that waits at both ends is woken by the lane that works.
            fetch = fetching(topic, {ours: end, others: 1}, max_wait_ms=20_000)
            parked = client.send(fetch, FETCH, 12)
            assert (await producer.produce(topic, batch([b"c"]), others)).base_offset == 1
            found = answered(await client.receive(FETCH, 12, parked))
            assert found[ours].error_code == 0 and not records_of(found[ours])
            assert records_of(found[others]) == [(1, b"c")]
            assert records_of(await client.fetch(topic, end - 1, ours)) == [(end - 1, b"a")]
            await client.create_topic()
        async with asyncio.timeout(20):
            while (result := await client.produce(topic, doubtful, ours)).error_code != 0:
                assert result.error_code in (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER)
                await asyncio.sleep(0.05)
        assert result.base_offset == end
        assert (await client.produce(topic, doubtful, ours)).base_offset == end
        assert records_of(await client.fetch(topic, end, ours)) == [(end, b"b")]
    log = broker.log.read_text()
    assert re.search(r'"a backend did not answer in time and is given up".* session="lane 0" pid=\d+', log), log
