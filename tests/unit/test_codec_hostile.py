"""What strangers may send: any damage gives a message or MalformedRequest, and memory in proportion to its size."""

from __future__ import annotations

import contextlib
import os
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.kio_oracle import random_body
from tests.unit.random_messages import CASES, OUTER_CASES, Case, case_name, decode, encode

from pg_kafka.wire.codec import (
    MAX_REQUEST_ITEMS,
    MalformedRequest,
    TooManyItems,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from pg_kafka.wire.frames import decode_request_header
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ReplicaState
from pg_kafka.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from pg_kafka.wire.messages.sync_group import SyncGroupRequest

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "4"))

METADATA, FETCH, SYNC_GROUP, API_VERSIONS = 3, 1, 14, 18

# An object of a struct takes some 100 bytes and a pointer, whatever its size on the wire; that may be two bytes.
MEMORY_FACTOR = 150
MEMORY_START = 200_000

HUGE_NUMBERS = (
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x7f",
    b"\xff" * 10,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xfe",
    b"\x7f\xff",
    b"\x80\x00",
)


def message_bytes(case: Case, seed: int, size: int) -> bytes:
    return random_body(case, random.Random(seed), size)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_every_truncation_is_malformed_and_so_is_an_extended_response(case: Case) -> None:
    data = message_bytes(case, 1, 2)
    lengths = range(len(data)) if len(data) < 2000 else sorted(random.Random(2).sample(range(len(data)), 400))
    for length in lengths:
        with pytest.raises(MalformedRequest):
            decode(case, data[:length])
    if case[2] == "request":
        assert decode(case, data + b"\x00") == decode(case, data)
    else:
        with pytest.raises(MalformedRequest, match="1 bytes too many"):
            decode(case, data + b"\x00")


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_damaged_messages_are_decoded_or_malformed(case: Case) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(size=st.integers(0, 2), seed=st.integers(0, 2**32))
    def check(size: int, seed: int) -> None:
        rng = random.Random(seed)
        original = message_bytes(case, seed, size)
        for _ in range(10):
            data = bytearray(original)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(data) + 1)
                match rng.randrange(4):
                    case 0:
                        data[at : at + 1] = rng.randbytes(1)
                    case 1:
                        data[at : at + rng.randint(1, 8)] = b""
                    case 2:
                        data[at:at] = rng.randbytes(rng.randint(1, 8))
                    case 3:
                        number = rng.choice(HUGE_NUMBERS)
                        data[at : at + len(number)] = number
            with contextlib.suppress(MalformedRequest):
                canonical = encode(case, decode(case, bytes(data)))
                assert encode(case, decode(case, canonical)) == canonical

    check()


@pytest.mark.parametrize("case", OUTER_CASES, ids=case_name)
def test_counts_that_lie_allocate_nothing(case: Case) -> None:
    data = message_bytes(case, 3, 1)[:150]
    decode_or_refuse(case, data)
    tracemalloc.start()
    try:
        for at in range(len(data)):
            for number in HUGE_NUMBERS[:6:2]:
                decode_or_refuse(case, data[:at] + number + data[at + len(number) :])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_START


@pytest.mark.parametrize("case", OUTER_CASES, ids=case_name)
def test_memory_is_in_proportion_to_what_was_sent(case: Case) -> None:
    size = 4000
    decode_or_refuse(case, b"\x00" * 8)
    tracemalloc.start()
    try:
        # Counts that are just true, in both notations and at any of the first places, with the smallest items after it.
        for filling in (b"\x00", b"\x01", b"\x02"):
            for count in (size.to_bytes(4), (size // 2).to_bytes(4), bytes((size & 0x7F | 0x80, size >> 7))):
                for at in range(24):
                    decode_or_refuse(case, filling * at + count + filling * size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_START + MEMORY_FACTOR * size


def decode_or_refuse(case: Case, data: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        decode(case, data)


def test_five_bytes_that_claim_four_billion_topics() -> None:
    tracemalloc.start()
    try:
        for version in range(9, 14):
            with pytest.raises(MalformedRequest):
                decode_request(METADATA, version, b"\xff\xff\xff\xff\x0f", 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # The decoders themselves, compiled here.


def test_array_of_the_smallest_structs_is_bounded_by_their_size() -> None:
    name_only = b"\x00\x00\x03\xe8" + b"\x00\x01a" * 999
    with pytest.raises(MalformedRequest, match="1000 topics"):
        decode_request(METADATA, 0, name_only[: 4 + 2 * 999], 0)


def test_items_of_all_arrays_of_a_request_are_bounded() -> None:
    half = MAX_REQUEST_ITEMS // 2
    partitions = half.to_bytes(4) + bytes(16 * half)
    start = b"".join(encode_request(FetchRequest(), FETCH, 4))[:-4]
    topics = b"\x00\x00" + partitions, b"\x00\x00" + (half - 1).to_bytes(4) + bytes(16 * (half - 1))
    with pytest.raises(MalformedRequest, match=f"more than {MAX_REQUEST_ITEMS} items"):
        decode_request(FETCH, 4, start + b"\x00\x00\x00\x02" + b"".join(topics), 0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\x00b\x00", "a\x00b\x00"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xc3\x28", "\ufffd("),
        (b"a\x80", "a\ufffd"),
        (b"\xc0\x80", "\ufffd\ufffd"),
        (b"\xed\xa0\x80x", "\ufffdx"),  # one for the surrogate, as in Java
        (b"\xed\xa0\xbd\xed\xb8\x80", "\ufffd\ufffd"),
        (b"\xed\xa0", "\ufffd"),
        (b"\xed\xa0a", "\ufffda"),
        (b"\xe2\x82", "\ufffd"),
        (b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"),
        (b"\xef\xbf\xbf", "\uffff"),
    ],
)
def test_text_is_what_kafka_makes_of_it(data: bytes, text: str) -> None:
    size = len(data).to_bytes(2)
    request = decode_request(METADATA, 0, b"\x00\x00\x00\x01" + size + data, 0)
    assert [topic.name for topic in request.topics] == [text]
    header, _ = decode_request_header(b"\x00\x03\x00\x00\x00\x00\x00\x07" + size + data)
    assert header.client_id == text


def test_caller_may_allow_fewer_items() -> None:
    topics = [FetchTopic(topic="t", partitions=[FetchPartition()] * 3), FetchTopic(topic="u", partitions=[])]
    for version in (4, 12):
        data = b"".join(encode_request(FetchRequest(topics=topics), FETCH, version))
        assert len(decode_request(FETCH, version, data, max_items=5).topics[0].partitions) == 3
        with pytest.raises(TooManyItems):
            decode_request(FETCH, version, data, max_items=4)


def test_items_of_a_response_are_counted_for_the_caller() -> None:
    answer = MetadataResponse(
        brokers=[MetadataResponseBroker(node_id=1, host="h", port=1)],
        topics=[MetadataResponseTopic(name="t", partitions=[MetadataResponsePartition(replica_nodes=(1, 2))])],
    )
    for version in (1, 12):  # a broker, a topic, a partition, two replicas; in-sync and offline ones are none
        assert encode_response(answer, METADATA, version, 5) == encode_response(answer, METADATA, version)
        with pytest.raises(TooManyItems):
            encode_response(answer, METADATA, version, 4)


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (0, b"\xff\xff\xff\xff"),  # topics, nullable from version 1
        (0, b"\x00\x00\x00\x01\xff\xff"),  # the name of a topic, nullable from version 10
        (9, b"\x02\x00\x00\x01\x00\x00\x00"),
    ],
)
def test_null_where_a_version_has_none_is_malformed(version: int, data: bytes) -> None:
    with pytest.raises(MalformedRequest, match="null"):
        decode_request(METADATA, version, data, 0)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xfe", b"\x80\x00\x00\x00", b"\x00\x00\x00\x01\xff\xfe"])
def test_negative_length_other_than_null_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequest, match="length"):
        decode_request(METADATA, 1, data, 0)


def test_request_for_all_topics_as_librdkafka_writes_it() -> None:
    """Four bytes for a count of which one is read: null. What was meant after it lies behind the end."""
    request = decode_request(METADATA, 13, b"\x00\x00\x00\x00" + b"\x01\x00" + b"\x00", 0)
    assert request == MetadataRequest(topics=None, allow_auto_topic_creation=False)


def test_null_and_empty_topic_lists_differ() -> None:
    assert decode_request(METADATA, 1, b"\xff\xff\xff\xff", 0).topics is None
    assert decode_request(METADATA, 1, b"\x00\x00\x00\x00", 0).topics == ()


def test_varint_of_more_than_five_bytes_is_malformed() -> None:
    with pytest.raises(MalformedRequest, match="varint"):
        decode_request(METADATA, 9, b"\x80\x80\x80\x80\x80\x01", 0)


def test_varint_may_have_superfluous_bytes() -> None:
    assert decode_request(API_VERSIONS, 3, b"\x82\x80\x00a\x01\x00", 0).client_software_name == "a"


class TestTags:
    """Fetch v15 knows tag 0 (cluster id) and 1 (replica state) at the end of the message."""

    message = FetchRequest(cluster_id="c", replica_state=ReplicaState(replica_id=3, replica_epoch=9))
    body = b"".join(encode_request(FetchRequest(), FETCH, 15))[:-1]
    cluster_id = b"\x00\x02\x02c"
    replica_state = b"\x01\x0d\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x09\x00"

    def test_known_tags_are_read(self) -> None:
        assert decode_request(FETCH, 15, self.body + b"\x02" + self.cluster_id + self.replica_state, 0) == self.message

    def test_unknown_tags_are_skipped(self) -> None:
        unknown = b"\x07\x03abc" + b"\x80\x01\x00"
        data = self.body + b"\x04" + self.cluster_id + self.replica_state + unknown
        assert decode_request(FETCH, 15, data, 0) == self.message

    def test_unknown_tags_in_the_elements_of_an_array_are_skipped(self) -> None:
        partitions = [FetchPartition(partition=index, fetch_offset=index << 33) for index in range(3)]
        request = FetchRequest(topics=[FetchTopic(topic="t", partitions=partitions)])
        data = b"".join(encode_request(request, FETCH, 12))
        element = b"".join(
            encode_request(FetchRequest(topics=[FetchTopic(topic="t", partitions=partitions[2:])]), 1, 12)
        )
        last = element[element.index(b"\x02t\x02") + 3 :][:32]
        assert data.count(last) == 1
        damaged = data.replace(last + b"\x00", last + b"\x01\x05\x02zz")
        assert decode_request(FETCH, 12, damaged, 0) == request

    def test_tag_of_a_later_version_is_skipped(self) -> None:
        assert decode_request(FETCH, 12, b"".join(encode_request(FetchRequest(), 1, 12))[:-1] + b"\x01\x01\x00", 0)

    @pytest.mark.parametrize(
        "tags",
        [
            b"\x02" + cluster_id + cluster_id,
            b"\x02" + replica_state + cluster_id,
            b"\x02\x07\x00\x07\x00",
            b"\x02\x07\x00\x06\x00",
        ],
        ids=["repeated", "descending", "unknown-repeated", "unknown-descending"],
    )
    def test_tags_must_ascend(self, tags: bytes) -> None:
        with pytest.raises(MalformedRequest, match="after tag"):
            decode_request(FETCH, 15, self.body + tags, 0)

    @pytest.mark.parametrize("size", [1, 3])
    def test_tagged_value_must_fill_its_size(self, size: int) -> None:
        with pytest.raises(MalformedRequest, match="does not fill its size"):
            decode_request(FETCH, 15, self.body + bytes((1, 0, size)) + b"\x02c\x00", 0)

    @pytest.mark.parametrize("tags", [b"\x01\x07\x05abc", b"\x01\x00\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x0f"])
    def test_sizes_and_counts_of_tags_are_bounded(self, tags: bytes) -> None:
        with pytest.raises(MalformedRequest):
            decode_request(FETCH, 15, self.body + tags, 0)


def test_unknown_api_or_version_is_malformed() -> None:
    for key, version in ((999, 0), (FETCH, 99), (FETCH, 3), (FETCH, -1), (-1, 0)):
        with pytest.raises(MalformedRequest, match="no schema"):
            decode_request(key, version, b"", 0)
        with pytest.raises(MalformedRequest, match="no schema"):
            decode_response(key, version, b"", 0)


def test_offset_beyond_the_end_is_malformed() -> None:
    with pytest.raises(MalformedRequest):
        decode_request(API_VERSIONS, 0, b"abc", 5)


def test_body_begins_at_the_offset() -> None:
    body = b"".join(encode_request(ApiVersionsRequest(client_software_name="x"), API_VERSIONS, 3))
    assert decode_request(API_VERSIONS, 3, b"head" + body, 4).client_software_name == "x"


def test_values_do_not_keep_the_frame() -> None:
    body = bytearray(b"".join(encode_request(SyncGroupRequest(group_id="g"), SYNC_GROUP, 5)))
    request = decode_request(SYNC_GROUP, 5, memoryview(body), 0)
    body.clear()  # BufferError if a view of it were alive
    assert request.group_id == "g"


def test_many_topics_decode_to_as_many() -> None:
    request = MetadataRequest(topics=[MetadataRequestTopic(name=f"t{index}") for index in range(3000)])
    assert decode_request(METADATA, 12, b"".join(encode_request(request, METADATA, 12)), 0) == request
