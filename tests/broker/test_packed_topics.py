"""Topics that keep compressed batches as they came, over the raw protocol: what is refused, and what consumers get."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, SomeTopic, batch, records_of

from pg_kafka.wire import _records
from pg_kafka.wire.error_codes import ErrorCode

LZ4, ZSTD = 3, 4
DEADLINE_S = 30


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.fixture
async def db(broker: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(broker.dsn)
    yield connection
    await connection.close()


async def packing(client: RawClient, db: asyncpg.Connection, **configs: str) -> SomeTopic:
    """A topic that keeps its batches, with one record."""
    topic = await client.create_topic(**configs)
    stamps = [int(time.time() * 1000)]
    assert (
        await client.produce(topic, batch([b"first"], keys=[b"k"], timestamps=stamps, compression=LZ4))
    ).error_code == 0
    async with asyncio.timeout(DEADLINE_S):
        is_kept = "SELECT keeps_batches FROM kafka.topics WHERE name = $1"
        while not await db.fetchval(is_kept, topic.name):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    return topic


async def packed(db: asyncpg.Connection, topic: SomeTopic) -> int:
    count: int = await db.fetchval(
        "SELECT count(*) FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic WHERE t.name = $1 AND batch IS NOT NULL",
        topic.name,
    )
    return count


async def test_records_to_blame_are_named(client: RawClient, db: asyncpg.Connection) -> None:
    now = int(time.time() * 1000)
    compacted = await client.create_topic(cleanup_policy="compact")
    sent = batch([b"a", b"b", b"c"], keys=[None, b"k", None], timestamps=[now] * 3, compression=LZ4)
    answer = await client.produce(compacted, sent)
    assert answer.error_code == ErrorCode.INVALID_RECORD
    assert [error.batch_index for error in answer.record_errors] == [0, 2]
    bounded = await packing(
        client, db, message_timestamp_before_max_ms="3600000", message_timestamp_after_max_ms="3600000"
    )
    stamps = [now, now - 7_200_000, now + 7_200_000, -1]
    answer = await client.produce(bounded, batch([b"v"] * 4, timestamps=stamps, compression=ZSTD))
    assert answer.error_code == ErrorCode.INVALID_TIMESTAMP
    assert [error.batch_index for error in answer.record_errors] == [1, 2]
    assert await packed(db, compacted) == await packed(db, bounded) == 0
    assert (await client.produce(bounded, batch([b"v"], timestamps=[now], compression=ZSTD))).error_code == 0
    assert await packed(db, bounded) == 1


async def test_damaged_batch_is_refused(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await packing(client, db)
    sent = bytearray(batch([b"value" * 100] * 20, compression=ZSTD))
    sent[80] ^= 255
    assert (await client.produce(topic, bytes(sent))).error_code == ErrorCode.CORRUPT_MESSAGE
    sent[61] ^= 255  # no zstd any more
    sent[17:21] = _records.crc32c(bytes(sent[21:])).to_bytes(4, "big")
    assert (await client.produce(topic, bytes(sent))).error_code == ErrorCode.INVALID_RECORD
    assert (await client.produce(topic, batch([b"x"], compression=LZ4))).base_offset == 1


@pytest.mark.parametrize("version", [4, 9, 10, 12])
async def test_every_version_of_fetch_gets_them(client: RawClient, db: asyncpg.Connection, version: int) -> None:
    topic = await packing(client, db)
    for number in range(4):
        await client.produce(topic, batch([b"%d" % number, b"+"], compression=ZSTD))
    found = await client.fetch(topic, 2, version=version)
    assert [value for _, value in records_of(found)][-7:] == [b"+", b"1", b"+", b"2", b"+", b"3", b"+"]


async def test_large_batch_is_kept_while_sql_asks_for_its_topic(client: RawClient, db: asyncpg.Connection) -> None:
    """It is decoded in a thread, and the topic may have been told to keep none meanwhile."""
    topic = await packing(client, db, max_message_bytes="20000000")
    values = [os.urandom(100_000) for _ in range(100)]
    async with asyncio.timeout(DEADLINE_S):
        view = "SELECT view_name FROM kafka.topics WHERE name = $1"
        while not await db.fetchval(view, topic.name):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    asked = asyncio.create_task(db.fetchval(f'SELECT count(*) FROM topics."{topic.name}"'))
    sent = 1
    while not asked.done():
        assert (await client.produce(topic, batch(values, compression=LZ4))).base_offset == sent
        sent += 100
    assert 1 <= await asked <= sent
    assert (await client.produce(topic, batch(values, compression=LZ4))).base_offset == sent
    shown = await db.fetch(f'SELECT partition_offset, value FROM topics."{topic.name}" ORDER BY 1')
    assert [row["partition_offset"] for row in shown] == list(range(sent + 100))
    assert [row["value"] for row in shown][1:] == values * ((sent + 99) // 100)
    assert await packed(db, topic) == 0
