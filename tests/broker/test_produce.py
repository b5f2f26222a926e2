"""Produce over the raw protocol: what is taken, what is refused and how, and in which order answers come."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from tests.broker.rawclient import (
    INIT_PRODUCER_ID,
    PRODUCE,
    RawClient,
    SomeTopic,
    answered,
    batch,
    offsets_of,
    only,
    patched,
    producing,
    records_of,
)
from tests.compressed_streams import STREAMS, Fate

from pg_kafka.wire.compression import is_read_by_all
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
VERSIONS = range(3, 14)


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_appends(client: RawClient, version: int) -> None:
    topic = await client.create_topic()
    for expected in (0, 3):
        answer = await client.produce(topic, batch([b"a", b"b", b"c"]), version=version)
        assert (answer.error_code, answer.base_offset, answer.log_append_time_ms) == (0, expected, -1)
    assert await values(client, topic) == [b"a", b"b", b"c"] * 2


async def values(client: RawClient, topic: SomeTopic, partition: int = 0) -> list[bytes | None]:
    return [value for _, value in records_of(await client.fetch(topic, 0, partition))]


@pytest.mark.parametrize("acks", [1, -1])
async def test_acks_one_and_all_are_answered(client: RawClient, acks: int) -> None:
    topic = await client.create_topic()
    assert (await client.produce(topic, batch(), acks=acks)).error_code == ErrorCode.NONE


async def test_acks_zero_gets_no_answer(client: RawClient) -> None:
    topic = await client.create_topic()
    client.send(producing(topic, {0: batch([b"unheard"])}, acks=0), PRODUCE, 9)
    # The next answer is that of the next request: receive() checks its correlation id.
    assert (await client.produce(topic, batch([b"heard"]))).base_offset == 1
    assert await values(client, topic) == [b"unheard", b"heard"]


async def test_failed_acks_zero_closes_the_connection(client: RawClient) -> None:
    topic = await client.create_topic()
    client.send(producing(topic, {7: batch()}, acks=0), PRODUCE, 9)
    assert await client.is_closed_by_peer()


@pytest.mark.parametrize("acks", [2, -2, 32767])
async def test_other_acks_are_refused_for_every_partition(client: RawClient, acks: int) -> None:
    topic = await client.create_topic(partitions=2)
    response = await client.call(producing(topic, {0: batch(), 1: batch()}, acks=acks), PRODUCE, 9)
    assert {one.error_code for one in answered(response).values()} == {ErrorCode.INVALID_REQUIRED_ACKS}
    assert await values(client, topic) == []


@pytest.mark.parametrize("compression", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_every_codec_small_and_large(client: RawClient, compression: int, size: int) -> None:
    topic = await client.create_topic()
    sent = [(struct.pack(">Q", i * 0x9E3779B97F4A7C15 % 2**64) * (size // 80))[: size // 10] for i in range(10)]
    assert (await client.produce(topic, batch(sent, compression=compression))).error_code == ErrorCode.NONE
    assert await values(client, topic) == sent


@pytest.mark.parametrize("compression", [GZIP, SNAPPY, LZ4, ZSTD])
async def test_small_batch_of_many_bytes(client: RawClient, compression: int) -> None:
    topic = await client.create_topic()
    sent = [bytes(3_000_000), b"small"]
    answers = [await client.produce(topic, batch([value], compression=compression)) for value in sent]
    assert [(answer.error_code, answer.base_offset) for answer in answers] == [(0, 0), (0, 1)]
    assert await values(client, topic) == sent


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream.fate is not Fate.REFUSED])
async def test_streams_that_not_all_clients_read_are_given_compressed_anew(client: RawClient, name: str) -> None:
    stream = STREAMS[name]
    values = [b"first", b"0123456789" * 12_000, b"last"]
    plain = batch(values)
    sent = stream.make(plain[61:])
    records = patched(plain[:61] + sent, 8, struct.pack(">i", 49 + len(sent)))
    topic = await client.create_topic()
    answer = await client.produce(topic, patched(records, 21, struct.pack(">h", stream.codec)))
    assert (answer.error_code, answer.base_offset) == (0, 0)
    assert (await client.produce(topic, batch([b"next"]))).base_offset == 3
    found = await client.fetch(topic, 0)
    assert [value for _, value in records_of(found)] == [*values, b"next"][: len(records_of(found))]
    assert len(records_of(found)) >= 3
    got = bytes(found.records or b"")  # type: ignore[arg-type]
    assert int.from_bytes(got[21:23]) == stream.codec
    first = got[61 : 12 + int.from_bytes(got[8:12])]
    assert (first == sent) == (stream.fate is Fate.KEPT)
    assert is_read_by_all(stream.codec, first, len(plain) - 61)


async def test_zstd_needs_version_seven(client: RawClient) -> None:
    topic = await client.create_topic()
    answer = await client.produce(topic, batch([b"x" * 100], compression=ZSTD), version=6)
    assert answer.error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


async def test_unknown_partition_does_not_stop_the_others(client: RawClient) -> None:
    topic = await client.create_topic()
    response = await client.call(producing(topic, {0: batch(), 1: batch(), -1: batch()}), PRODUCE, 9)
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert {index: one.error_code for index, one in answered(response).items()} == {0: 0, 1: unknown, -1: unknown}


async def test_unknown_names_and_ids(client: RawClient) -> None:
    nowhere = SomeTopic("nowhere", UUID(int=5))
    assert (await client.produce(nowhere, batch(), version=12)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert (await client.produce(nowhere, batch(), version=13)).error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_partition_named_twice_takes_both_batches(client: RawClient) -> None:
    topic = await client.create_topic()
    request = producing(topic, {0: batch([b"a"])})
    request.topic_data[0].partition_data += producing(topic, {0: batch([b"b"])}).topic_data[0].partition_data
    response = await client.call(request, PRODUCE, 9)
    assert [one.base_offset for one in only(response.responses).partition_responses] == [0, 1]


async def test_pipelined_requests_keep_their_order(client: RawClient) -> None:
    topic = await client.create_topic()
    # A large compressed batch is decoded in a thread; the small one after it must not overtake it.
    sent = [batch([random.randbytes(100_000 if i % 5 == 0 else 1) + b"%d" % i], compression=GZIP) for i in range(20)]
    ids = [client.send(producing(topic, {0: one}), PRODUCE, 9) for one in sent]
    answers = [answered(await client.receive(PRODUCE, 9, one))[0] for one in ids]
    assert [answer.base_offset for answer in answers] == list(range(20))
    assert all((value or b"").endswith(b"%d" % i) for i, value in enumerate(await values(client, topic)))


async def test_many_partitions_in_one_request(client: RawClient) -> None:
    topic = await client.create_topic(partitions=50)
    response = await client.call(producing(topic, {i: batch([b"%d" % i]) for i in range(50)}), PRODUCE, 9)
    assert {(index, one.error_code) for index, one in answered(response).items()} == {(i, 0) for i in range(50)}
    assert await values(client, topic, 37) == [b"37"]


# -- batches that are wrong ------------------------------------------------------------------------------------------

GOOD = batch([b"a", b"b"])
DAMAGED = {
    "no records": (None, ErrorCode.INVALID_RECORD),
    "two batches": (GOOD + GOOD, ErrorCode.INVALID_RECORD),
    "wrong crc": (GOOD[:17] + b"\0\0\0\0" + GOOD[21:], ErrorCode.CORRUPT_MESSAGE),
    "base offset 1": (patched(GOOD, 0, struct.pack(">q", 1)), ErrorCode.INVALID_RECORD),
    "count too large": (patched(GOOD, 57, struct.pack(">i", 3)), ErrorCode.INVALID_RECORD),
    "last offset too large": (patched(GOOD, 23, struct.pack(">i", 2)), ErrorCode.INVALID_RECORD),
    "control batch": (patched(GOOD, 21, struct.pack(">h", 0x20)), ErrorCode.INVALID_RECORD),
    "says LogAppendTime": (patched(GOOD, 21, struct.pack(">h", 0x08)), ErrorCode.INVALID_TIMESTAMP),
    "producer without sequence": (batch(producer=(1, 0, -1)), ErrorCode.INVALID_RECORD),
    "transactional": (
        batch(producer=(1, 0, 0), is_transactional=True),
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
async def test_wrong_batch_is_refused_with_its_own_code(client: RawClient, case: str) -> None:
    records, code = DAMAGED[case]
    topic = await client.create_topic()
    answer = await client.produce(topic, records)
    assert ErrorCode(answer.error_code) is code
    assert (answer.base_offset, bool(answer.error_message)) == (-1, True)
    assert await values(client, topic) == []


async def test_plain_batch_in_a_request_with_transactional_id_is_taken(client: RawClient) -> None:
    topic = await client.create_topic()
    response = await client.call(producing(topic, {0: batch()}, transactional_id="t"), PRODUCE, 9)
    assert answered(response)[0].error_code == ErrorCode.NONE


async def test_batch_of_exactly_max_message_bytes_fits(client: RawClient) -> None:
    one = batch([b"x" * 500])
    topic = await client.create_topic(max_message_bytes=str(len(one)))
    assert (await client.produce(topic, one)).error_code == ErrorCode.NONE
    assert (await client.produce(topic, batch([b"x" * 501]))).error_code == ErrorCode.MESSAGE_TOO_LARGE


async def test_records_without_key_in_a_compacted_topic_are_named(client: RawClient) -> None:
    topic = await client.create_topic(cleanup_policy="compact")
    answer = await client.produce(topic, batch([b"a", b"b", b"c"], keys=[None, b"k", None]))
    assert answer.error_code == ErrorCode.INVALID_RECORD
    assert [error.batch_index for error in answer.record_errors] == [0, 2]
    assert (await client.produce(topic, batch([b"a", None], keys=[b"j", b"k"]))).error_code == ErrorCode.NONE


async def test_record_errors_are_bounded(client: RawClient) -> None:
    topic = await client.create_topic(cleanup_policy="compact")
    answer = await client.produce(topic, batch([b""] * 5000, keys=[None] * 5000))
    assert [error.batch_index for error in answer.record_errors] == list(range(1000))


async def test_timestamps_out_of_bounds_are_named(client: RawClient) -> None:
    now = int(time.time() * 1000)
    topic = await client.create_topic(
        message_timestamp_before_max_ms="3600000", message_timestamp_after_max_ms="3600000"
    )
    stamps = [now, now - 7_200_000, now + 7_200_000, -1]
    answer = await client.produce(topic, batch([b"v"] * 4, timestamps=stamps))
    assert answer.error_code == ErrorCode.INVALID_TIMESTAMP
    assert [error.batch_index for error in answer.record_errors] == [1, 2]
    assert (await client.produce(topic, batch([b"v"] * 2, timestamps=[now, -1]))).error_code == ErrorCode.NONE


async def test_log_append_time_is_the_brokers(client: RawClient) -> None:
    topic = await client.create_topic(message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    answer = await client.produce(topic, batch([b"v"], timestamps=[1]))
    assert before <= answer.log_append_time_ms <= int(time.time() * 1000)
    assert (await client.offset_at(topic, before)).timestamp == answer.log_append_time_ms


# -- idempotent producers --------------------------------------------------------------------------------------------


async def test_duplicates_are_answered_with_the_first_copy(client: RawClient) -> None:
    topic, producer_id = await client.create_topic(), await client.new_producer_id()
    sent = [batch([b"%d" % i, b"+"], producer=(producer_id, 0, 2 * i)) for i in range(6)]
    assert [(await client.produce(topic, one)).base_offset for one in sent] == [0, 2, 4, 6, 8, 10]
    again = [await client.produce(topic, one) for one in sent[1:]]
    assert [(one.error_code, one.base_offset) for one in again] == [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10)]
    assert (await client.produce(topic, sent[0])).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert len(await values(client, topic)) == 12


async def test_duplicate_of_a_batch_under_way_gets_the_same_offset(client: RawClient) -> None:
    topic, producer_id = await client.create_topic(), await client.new_producer_id()
    one = batch(producer=(producer_id, 0, 0))
    ids = [client.send(producing(topic, {0: one}), PRODUCE, 9) for _ in range(5)]
    answers = [answered(await client.receive(PRODUCE, 9, one))[0] for one in ids]
    assert {(answer.error_code, answer.base_offset) for answer in answers} == {(0, 0)}
    assert len(await values(client, topic)) == 1


async def test_sequence_gap_and_old_epoch(client: RawClient) -> None:
    topic, producer_id = await client.create_topic(), await client.new_producer_id()
    await client.produce(topic, batch(producer=(producer_id, 1, 0)))
    gap = await client.produce(topic, batch(producer=(producer_id, 1, 2)))
    old = await client.produce(topic, batch(producer=(producer_id, 0, 1)))
    future = await client.produce(topic, batch(producer=(producer_id, 2, 1)))
    assert (gap.error_code, old.error_code, future.error_code) == (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    )
    assert (await client.produce(topic, batch(producer=(producer_id, 2, 0)))).base_offset == 1


async def test_refused_batch_does_not_move_the_sequence(client: RawClient) -> None:
    topic, producer_id = await client.create_topic(), await client.new_producer_id()
    await client.produce(topic, batch(producer=(producer_id, 0, 0)))
    torn = batch(producer=(producer_id, 0, 1))
    assert (await client.produce(topic, torn[:-1] + b"\xff")).error_code == ErrorCode.CORRUPT_MESSAGE
    assert (await client.produce(topic, torn)).base_offset == 1


# -- producer ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(6))
async def test_producer_ids_are_new_each_time(client: RawClient, version: int) -> None:
    answers = [await client.call(InitProducerIdRequest(), INIT_PRODUCER_ID, version) for _ in range(3)]
    assert len({one.producer_id for one in answers}) == 3
    assert {(one.error_code, one.producer_epoch) for one in answers} == {(0, 0)}


async def test_producer_that_names_its_old_id_gets_a_new_one(client: RawClient) -> None:
    old = await client.new_producer_id()
    answer = await client.call(InitProducerIdRequest(producer_id=old, producer_epoch=3), INIT_PRODUCER_ID, 4)
    assert (answer.error_code, answer.producer_epoch) == (0, 0)
    assert answer.producer_id != old


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"transactional_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"producer_id": 5}, ErrorCode.INVALID_REQUEST),
        ({"producer_epoch": 5}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": "a\0b"}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": "t" * 2001}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": "t", "transaction_timeout_ms": 0}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        ({"transactional_id": "t", "transaction_timeout_ms": 900_001}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
    ],
)
async def test_refused_producer_ids(client: RawClient, request_fields: dict[str, Any], code: ErrorCode) -> None:
    answer = await client.call(InitProducerIdRequest(**request_fields), INIT_PRODUCER_ID, 4)
    assert (answer.error_code, answer.producer_id, answer.producer_epoch) == (code, -1, -1)


async def test_offsets_of_two_connections_never_meet(broker: Any, client: RawClient) -> None:
    topic = await client.create_topic()

    async def send_twenty() -> list[int]:
        async with await RawClient.connect(broker) as own:
            return [(await own.produce(topic, batch([b"a", b"b"]))).base_offset for _ in range(20)]

    bases = [base for bases in await asyncio.gather(*(send_twenty() for _ in range(4))) for base in bases]
    assert sorted(bases) == list(range(0, 160, 2))
    assert offsets_of(await client.fetch(topic, 0)) == list(range(160))
