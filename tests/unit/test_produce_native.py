"""The native reader of Produce requests and writer of its answers, against the general codec and kio."""

from __future__ import annotations

import random
import struct
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.kio_oracle import kio_bytes, kio_class, message_of, random_kio

from pg_kafka.storage.partition import AppendResult
from pg_kafka.wire._decoder import compile_decoder, read_uuid
from pg_kafka.wire._produce import HeaderReader, RequestReader, acknowledgement
from pg_kafka.wire.codec import (
    MAX_REQUEST_ITEMS,
    MalformedRequest,
    TooManyItems,
    decode_request,
    encode_request,
    encode_response,
)
from pg_kafka.wire.frames import RequestHeader, response_frame
from pg_kafka.wire.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)

VERSIONS = range(3, 14)
FIRST_FLEXIBLE, FIRST_WITH_IDS = 9, 13
DAMAGE = (b"\xff", b"\x80", b"\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe", b"\xff\xff\xff\xff\x0f", b"\xc3\x28")

every_version = pytest.mark.parametrize("version", VERSIONS)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)


class General:
    """The general decoder, counting how often it is asked."""

    def __init__(self, version: int) -> None:
        flexible = version >= FIRST_FLEXIBLE
        self.decode = compile_decoder(ProduceRequest, version, flexible, fills=False)
        self.calls = 0

    def __call__(self, data: bytes | memoryview, offset: int, max_items: int) -> Any:
        self.calls += 1
        return self.decode(data, offset, max_items)


def outcome(decode: Any, data: bytes | memoryview, offset: int = 0) -> Any:
    try:
        return decode(data, offset, MAX_REQUEST_ITEMS)
    except (MalformedRequest, IndexError, struct.error) as error:
        return type(error), str(error)


def request(*topics: TopicProduceData, transactional_id: str | None = None) -> ProduceRequest:
    return ProduceRequest(transactional_id=transactional_id, acks=-1, timeout_ms=30_000, topic_data=topics)


def topic(name: str, *records: bytes | None) -> TopicProduceData:
    data = [PartitionProduceData(index=index, records=one) for index, one in enumerate(records)]
    return TopicProduceData(name=name, topic_id=UUID(int=len(name) + 7), partition_data=data)


def as_sent(message: ProduceRequest, version: int) -> bytes:
    return b"".join(encode_request(message, 0, version))


@every_version
def test_reads_what_kio_writes(version: int) -> None:
    cls = kio_class((0, version, "request"))
    general = General(version)
    reader = RequestReader(version, general, read_uuid)
    for seed in range(200):
        rng = random.Random(seed)
        theirs = random_kio(cls, rng, rng.randint(0, 3))
        data = b"head" + kio_bytes(theirs) + rng.randbytes(seed % 3)
        for received in (data, memoryview(data)):
            assert reader(received, 4, MAX_REQUEST_ITEMS) == message_of(theirs, ProduceRequest)
    assert not general.calls


@every_version
def test_records_are_views_of_what_was_received(version: int) -> None:
    data = as_sent(request(topic("orders", bytes(9), b"", None, bytes(300)), topic("", b"x")), version)
    message = decode_request(0, version, data)
    for one in (one for topic_data in message.topic_data for one in topic_data.partition_data):
        assert one.records is None or (isinstance(one.records, memoryview) and one.records.obj is data)


@every_version
@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 32), data=st.data())
def test_damaged_requests_are_read_as_by_the_general_decoder(version: int, seed: int, data: Any) -> None:
    rng = random.Random(seed)
    body = bytearray(kio_bytes(random_kio(kio_class((0, version, "request")), rng, rng.randint(0, 2))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        piece = data.draw(st.one_of(st.sampled_from(DAMAGE), st.binary(max_size=5)))
        body[at : at + data.draw(st.sampled_from((0, 1, len(piece))))] = piece
    del body[data.draw(st.integers(0, len(body))) if data.draw(st.booleans()) else len(body) :]
    received = bytes(body)
    general = General(version)
    reader = RequestReader(version, general, read_uuid)
    for one in (received, memoryview(received)):
        assert outcome(reader, one) == outcome(general.decode, one)


@every_version
@given(received=st.binary(max_size=60))
def test_any_bytes_are_read_as_by_the_general_decoder(version: int, received: bytes) -> None:
    general = General(version)
    reader = RequestReader(version, general, read_uuid)
    for offset in (0, 7, len(received), len(received) + 1):
        assert outcome(reader, received, offset) == outcome(general.decode, received, offset)


def test_tagged_fields_are_for_the_general_decoder() -> None:
    general = General(12)
    reader = RequestReader(12, general, read_uuid)
    plain = as_sent(request(topic("orders", b"records")), 12)
    tagged = plain[:-1] + b"\x01\x05\x02hi"
    assert reader(tagged, 0, 10) == reader(plain, 0, 10)
    assert general.calls == 1


@pytest.mark.parametrize("shape", [(2_000,), (3, 999), (999, 2), (2_000, 0)], ids=str)
def test_many_items_are_for_the_general_decoder_which_counts_them_all(shape: tuple[int, ...]) -> None:
    general = General(9)
    reader = RequestReader(9, general, read_uuid)
    first, each = shape if len(shape) > 1 else (1, shape[0])
    message = request(*(topic("t", *[b"x"] * each) for _ in range(first)))
    items = first + first * each
    read = reader(as_sent(message, 9), 0, items)
    assert [[bytes(one.records) for one in topic.partition_data] for topic in read.topic_data] == [
        [b"x"] * each
    ] * first
    assert general.calls == 1
    with pytest.raises(TooManyItems):
        reader(as_sent(message, 9), 0, items - 1)


def test_an_id_is_read_anew_when_another_topic_is_named() -> None:
    reader = RequestReader(13, General(13), read_uuid)
    for names in (("a", "b", "b"), ("bb", "a"), ("",)):
        message = request(*(topic(name, b"x") for name in names))
        assert [one.topic_id for one in reader(as_sent(message, 13), 0, 10).topic_data] == [
            one.topic_id for one in message.topic_data
        ]


@pytest.mark.parametrize("version", [-1, 2, 14])
def test_other_versions_have_no_reader(version: int) -> None:
    with pytest.raises(ValueError, match=str(version)):
        RequestReader(version, lambda data, offset, max_items: ProduceRequest(), read_uuid)


def test_headers_are_made_of_named_tuples_only() -> None:
    with pytest.raises(TypeError):
        HeaderReader(list, {})  # type: ignore[type-var]


def test_headers_that_are_not_ordinary_are_left_alone() -> None:
    read = HeaderReader(RequestHeader, {0: (9, 13)})
    start = struct.Struct(">hhih")
    assert read(start.pack(0, 9, 5, -1) + b"\x00rest") == (RequestHeader(0, 9, 5, None), 11)
    assert read(start.pack(0, 8, 5, 1) + b"crest") == (RequestHeader(0, 8, 5, "c"), 11)
    for frame in (
        start.pack(0, 9, 5, -1),  # tags are missing
        start.pack(0, 9, 5, -1) + b"\x01\x00\x00",
        start.pack(0, 9, 5, -2) + b"\x00",
        start.pack(0, 9, 5, 3) + b"cl",
        start.pack(0, 9, 5, 1) + b"\xff\x00",
        start.pack(999, 9, 5, -1) + b"\x00",
        start.pack(-1, 9, 5, -1) + b"\x00",
        start.pack(0, 9, 5, -1)[:9],
    ):
        assert read(frame) is None


@every_version
@settings(deadline=None)
@given(
    topics=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(("", "orders", "é漢🐘")), st.text(max_size=200)),
            st.integers(0, (1 << 128) - 1),
            st.lists(st.tuples(st.integers(-(1 << 31), (1 << 31) - 1), int64, int64, int64), max_size=3),
        ),
        max_size=4,
    ),
    correlation_id=st.integers(-(1 << 31), (1 << 31) - 1),
    repeated=st.sampled_from((1, 1, 1, 50)),
)
def test_acknowledgement_is_what_the_general_encoder_writes(
    version: int, topics: list[Any], correlation_id: int, repeated: int
) -> None:
    named, results, responses = [], [], []
    for name, id_, answers in topics * repeated:
        named.append(
            TopicProduceData(
                name=name, topic_id=UUID(int=id_), partition_data=[PartitionProduceData(index=a[0]) for a in answers]
            )
        )
        results += [AppendResult(0, *answer[1:]) for answer in answers]
        responses.append(
            TopicProduceResponse(
                name=name,
                topic_id=UUID(int=id_),
                partition_responses=[
                    PartitionProduceResponse(
                        index=index, base_offset=base, log_append_time_ms=stamped, log_start_offset=start
                    )
                    for index, base, stamped, start in answers
                ],
            )
        )
    body = encode_response(ProduceResponse(responses=responses), 0, version)
    wanted = b"".join(response_frame(correlation_id, 0, version, body))
    assert acknowledgement(version, correlation_id, named, results) == wanted


def test_acknowledgement_wants_a_result_for_each_partition() -> None:
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match="2 partitions"):
            acknowledgement(12, 1, [topic("orders", b"", b"")], [AppendResult(0, 1)] * count)
