"""Batches that become a thousand times larger when decompressed: bounded in memory over all connections, and nobody waits."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import cramjam
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.groupclient import Member, fresh_group
from tests.broker.rawclient import PRODUCE, RawClient, answered, batch, offsets_of, patched, producing
from tests.broker.test_pitfalls import MIB, memory_grows_below, works
from tests.compressed_streams import zstd_frame

from pg_kafka.wire.compression import compress
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
API_VERSIONS, METADATA = 18, 3
PATIENCE_S = 120.0


def with_content(content: bytes, codec: int) -> bytes:
    """A batch of one record before these bytes."""
    head = batch([b"x"])[:61]
    return patched(patched(head + content, 8, struct.pack(">i", 49 + len(content))), 21, struct.pack(">h", codec))


def shrunk(size: int, codec: int = ZSTD) -> bytes:
    """A batch of a record of `size` zeros."""
    content = batch([bytes(size)])[61:]
    if codec == GZIP:
        return with_content(gzip.compress(content, 1), codec)
    return with_content(bytes(cramjam.zstd.compress(content, 1)) if codec == ZSTD else compress(codec, content), codec)


@asynccontextmanager
async def lanes_stand_still(broker: RunningBroker) -> AsyncIterator[None]:
    """Nothing can be written meanwhile, so that whatever is decoded stays in memory."""
    admin = await asyncpg.connect(broker.dsn)
    try:
        async with admin.transaction():
            for row in await admin.fetch(
                "SELECT format('kafka.log_%s_%s', series, segment) AS leaf FROM kafka.segments WHERE state = 'active'"
            ):
                await admin.execute(f"LOCK TABLE {row['leaf']} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await admin.close()


async def until_logged(broker: RunningBroker, message: str) -> None:
    async with asyncio.timeout(30):
        while message not in broker.log.read_text():  # noqa: ASYNC110 - the broker is another process
            await asyncio.sleep(0.02)


@pytest.fixture
def small_broker(start_broker: Callable[..., RunningBroker]) -> RunningBroker:
    """Three quarters of these bytes are for giant batches: one of them at a time."""
    return start_broker(
        DECODING_BYTES=str(32 * MIB),
        DECOMPRESSED_BATCH_BYTES=str(32 * MIB),
        LOG_LEVEL="info",
        GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        SERIES_BYTES=str(2**40),
    )


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
async def test_bombs_of_one_request_take_the_memory_of_one(small_broker: RunningBroker, codec: int) -> None:
    records = shrunk(20 * MIB, codec)
    async with await RawClient.connect(small_broker) as client:
        topic = await client.create_topic(12, max_message_bytes="10000000")
        request = producing(topic, dict.fromkeys(range(12), records))
        with memory_grows_below(small_broker, 200 * MIB):
            response = await client.call(request, PRODUCE, 9, PATIENCE_S)
        answers = answered(response)
        assert {index: (one.error_code, one.base_offset) for index, one in answers.items()} == dict.fromkeys(
            range(12), (0, 0)
        )
        found = await client.fetch(topic, 0, 11)
        assert offsets_of(found) == [0]


async def test_bombs_of_many_connections_take_the_memory_of_one(small_broker: RunningBroker) -> None:
    records = shrunk(20 * MIB, GZIP)
    clients = [await RawClient.connect(small_broker) for _ in range(12)]
    topic = await clients[0].create_topic()
    try:
        with memory_grows_below(small_broker, 200 * MIB):
            calls = [client.call(producing(topic, {0: records}), PRODUCE, 9, PATIENCE_S) for client in clients]
            answers = [answered(response)[0] for response in await asyncio.gather(*calls)]
    finally:
        for client in clients:
            await client.close()
    assert [one.error_code for one in answers] == [0] * 12
    assert sorted(one.base_offset for one in answers) == list(range(12))


async def test_everything_but_produce_goes_on_while_bombs_wait_to_be_written(small_broker: RunningBroker) -> None:
    clients = [await RawClient.connect(small_broker) for _ in range(4)]
    bomber, good, other, producer = clients
    try:
        member = Member(good, fresh_group())
        assert (await member.join()).error_code == 0
        assert (await member.sync({member.member_id: b""})).error_code == 0
        topic, small = await bomber.create_topic(12), await good.create_topic()
        assert (await good.produce(small, batch([b"before"]))).error_code == 0
        async with lanes_stand_still(small_broker):
            bombs = bomber.send(producing(topic, dict.fromkeys(range(12), shrunk(20 * MIB))), PRODUCE, 9)
            await until_logged(small_broker, "large batches wait")
            one_record = producer.send(producing(small, {0: batch([b"after"])}), PRODUCE, 9)
            for _ in range(3):
                assert (await other.call(ApiVersionsRequest(), API_VERSIONS, 0)).error_code == 0
                assert (await other.call(MetadataRequest(topics=None), METADATA, 9)).topics
                assert await member.heartbeat() == 0
                assert offsets_of(await other.fetch(small, 0)) == [0]
        answer = answered(await producer.receive(PRODUCE, 9, one_record, PATIENCE_S))[0]
        assert (answer.error_code, answer.base_offset) == (0, 1)
        response = await bomber.receive(PRODUCE, 9, bombs, PATIENCE_S)
        assert [one.error_code for one in answered(response).values()] == [0] * 12
    finally:
        for client in clients:
            await client.close()


async def test_produce_alone_waits_while_the_log_has_too_much_to_write(
    start_broker: Callable[..., RunningBroker],
) -> None:
    broker = start_broker(QUEUED_MAX_REQUEST_BYTES="1000000", SERIES_BYTES=str(2**40))
    clients = [await RawClient.connect(broker) for _ in range(3)]
    first, second, other = clients
    try:
        topic = await other.create_topic()
        assert (await other.produce(topic, batch([b"before"]))).error_code == 0
        large = batch([bytes(700_000)])
        async with lanes_stand_still(broker):
            asked = [first.send(producing(topic, {0: large}), PRODUCE, 9) for _ in range(3)]
            behind = second.send(producing(topic, {0: batch([b"behind"])}), PRODUCE, 9)
            await until_logged(broker, "connections wait for memory")
            for _ in range(3):
                assert (await other.call(ApiVersionsRequest(), API_VERSIONS, 0)).error_code == 0
                assert offsets_of(await other.fetch(topic, 0)) == [0]
        for correlation_id in asked:
            assert answered(await first.receive(PRODUCE, 9, correlation_id, PATIENCE_S))[0].error_code == 0
        assert answered(await second.receive(PRODUCE, 9, behind, PATIENCE_S))[0].error_code == 0
    finally:
        for client in clients:
            await client.close()


async def test_each_batch_of_a_request_with_bombs_gets_its_own_answer(small_broker: RunningBroker) -> None:
    fits, small = shrunk(20 * MIB), batch([b"small"])
    too_large = shrunk(40 * MIB)
    undeclared = with_content(gzip.compress(batch([bytes(40 * MIB)])[61:], 1)[:-4] + bytes(4), GZIP)
    damaged = with_content(zstd_frame(checksum=1)(bytes(2 * MIB)), ZSTD)
    wrong_records = with_content(bytes(cramjam.zstd.compress(bytes(20 * MIB))), ZSTD)
    records = [fits, too_large, small, damaged, fits, undeclared, wrong_records, small]
    async with await RawClient.connect(small_broker) as client:
        topic = await client.create_topic(len(records), max_message_bytes="10000000")
        response = await client.call(producing(topic, dict(enumerate(records))), PRODUCE, 9, PATIENCE_S)
        codes = [one.error_code for one in answered(response).values()]
        large, wrong = ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.INVALID_RECORD
        assert codes == [0, large, 0, wrong, 0, large, wrong, 0]
        # Twice the same partition in one request: both, in their order.
        again = producing(topic, {0: fits})
        again.topic_data[0].partition_data += producing(topic, {0: small}).topic_data[0].partition_data
        response = await client.call(again, PRODUCE, 9, PATIENCE_S)
        assert [one.base_offset for one in response.responses[0].partition_responses] == [1, 2]


async def test_bombs_of_connections_that_go_away_are_not_waited_for(small_broker: RunningBroker) -> None:
    async with await RawClient.connect(small_broker) as good:
        topic = await good.create_topic(2)
        assert (await good.produce(topic, batch([b"first"]))).error_code == 0
        async with lanes_stand_still(small_broker):
            bombers = [await RawClient.connect(small_broker) for _ in range(10)]
            for bomber in bombers:
                bomber.send(producing(topic, {0: shrunk(20 * MIB)}), PRODUCE, 9)
            await until_logged(small_broker, "large batches wait")
            mine = good.send(producing(topic, {1: shrunk(20 * MIB)}), PRODUCE, 9)
            for bomber in bombers:
                bomber.writer.transport.abort()
                await bomber.close()
        response = await good.receive(PRODUCE, 9, mine, PATIENCE_S)
        assert answered(response)[1].error_code == 0
        assert (await good.produce(topic, batch([b"last"]))).base_offset < 10


async def test_thousands_of_small_bombs_in_one_request_take_bounded_memory(small_broker: RunningBroker) -> None:
    """Each of them is small enough to be decoded on the event loop."""
    count = 400
    records = shrunk(MIB - 1000)
    async with await RawClient.connect(small_broker) as client, await RawClient.connect(small_broker) as good:
        topic = await client.create_topic(count)
        assert (await client.produce(topic, batch([b"first"]))).error_code == 0
        with memory_grows_below(small_broker, 200 * MIB):
            asked = client.send(producing(topic, dict.fromkeys(range(count), records)), PRODUCE, 9)
            await works(good, within_s=60)
            response = await client.receive(PRODUCE, 9, asked, PATIENCE_S)
        assert [one.error_code for one in answered(response).values()] == [0] * count
