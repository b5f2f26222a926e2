"""DescribeLogDirs over the raw protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, SomeTopic, batch, only
from tests.broker.test_fetch import filled

from pg_kafka.wire.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
    DescribeLogDirsResult,
)

DESCRIBE_LOG_DIRS = 35


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as connected:
        yield connected


async def described(
    client: RawClient, *asked: tuple[str, list[int]], version: int = 5, everything: bool = False
) -> DescribeLogDirsResult:
    topics = [DescribableLogDirTopic(topic=name, partitions=partitions) for name, partitions in asked]
    answer = await client.call(
        DescribeLogDirsRequest(topics=None if everything else topics), DESCRIBE_LOG_DIRS, version
    )
    assert answer.error_code == 0
    found: DescribeLogDirsResult = only(answer.results)
    return found


def sizes_of(found: DescribeLogDirsResult) -> dict[str, dict[int, int]]:
    return {topic.name: {one.partition_index: one.partition_size for one in topic.partitions} for topic in found.topics}


@pytest.mark.parametrize("version", range(1, 6))
async def test_sizes_are_those_of_the_batches_that_were_sent(broker: Any, client: RawClient, version: int) -> None:
    topic = await client.create_topic(partitions=3)
    sent = {0: 0, 1: 0, 2: 0}
    for partition, size, compression in ((0, 100, 0), (0, 5_000, 1), (1, 20_000, 4)):
        wire = batch([b"x" * size], compression=compression)
        assert (await client.produce(topic, wire, partition)).error_code == 0
        sent[partition] += len(wire)
    found = await described(client, (topic.name, [0, 1, 2]), version=version)
    assert sizes_of(found) == {topic.name: sent}
    assert {(one.offset_lag, one.is_future_key) for one in found.topics[0].partitions} == {(0, False)}
    assert found.error_code == 0 and not found.is_cordoned
    # A server that somebody gave us: its disk is not seen from here.
    assert found.log_dir.startswith("postgresql://") and "@" not in found.log_dir
    assert (found.total_bytes, found.usable_bytes) == (-1, -1)


async def test_only_what_is_asked_for_and_there_is_answered(client: RawClient) -> None:
    topic = await filled(client, 2, partitions=3)
    found = await described(client, (topic.name, [2, 0, 2, 7, -1]), ("nowhere", [0]), (topic.name, [1]))
    assert {name: set(sizes) for name, sizes in sizes_of(found).items()} == {topic.name: {0, 1, 2}}
    assert sizes_of(await described(client)) == {}
    assert sizes_of(await described(client, (topic.name, []))) == {}


async def test_null_means_everything(client: RawClient) -> None:
    first, second = await filled(client, 1, partitions=2), await client.create_topic()
    sizes = sizes_of(await described(client, everything=True))
    assert set(sizes[first.name]) == {0, 1} and all(sizes[first.name].values())
    assert sizes[second.name] == {0: 0}


async def test_it_is_what_the_view_shows_after_a_checkpoint(broker: Any, client: RawClient) -> None:
    topic: SomeTopic = await filled(client, 3, 4)
    connection = await asyncpg.connect(broker.dsn)
    rows = await connection.fetch(
        "SELECT sum(wire_bytes) AS bytes FROM kafka.log WHERE topic = (SELECT id FROM kafka.topics WHERE name = $1)",
        topic.name,
    )
    await connection.close()
    assert sizes_of(await described(client, (topic.name, [0]))) == {topic.name: {0: rows[0]["bytes"]}}
