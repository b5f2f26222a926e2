"""Frames cut from any chunks, and headers of every API and version compared with kio."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.request_header.v1.header import RequestHeader as KioHeaderV1
from tests.unit.kio_oracle import KIO_CASES, kio_bytes, kio_class
from tests.unit.random_messages import Case, case_name

from pg_kafka.wire.codec import MalformedRequest, request_header_version, response_header_version
from pg_kafka.wire.frames import (
    FrameSplitter,
    RequestHeader,
    decode_request_header,
    decode_response_header,
    encode_request_header,
    response_frame,
)

REQUESTS = [case for case in KIO_CASES if case[2] == "request"]
RESPONSES = [case for case in KIO_CASES if case[2] == "response"]
API_VERSIONS, BROKER_HEARTBEAT = 18, 63  # the latter is not served and has no classes


def framed(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


class TestSplitter:
    @given(
        frames=st.lists(st.one_of(st.binary(max_size=40), st.integers(4000, 5000).map(bytes)), max_size=6),
        cuts=st.lists(st.integers(0, 20_000), max_size=12),
        as_view=st.booleans(),
    )
    @settings(deadline=None)
    def test_any_chunks_give_the_frames(self, frames: list[bytes], cuts: list[int], as_view: bool) -> None:
        stream = framed(frames)
        splitter = FrameSplitter(10_000)
        found: list[bytes] = []
        places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        for start, stop in itertools.pairwise(places):
            chunk = stream[start:stop]
            found += map(bytes, splitter.feed(memoryview(chunk) if as_view else chunk))
            consumed = len(framed(found))
            held = stop - consumed
            assert splitter.buffered_bytes == (held if held < 4 else held - 4)
        assert found == frames

    def test_single_bytes_give_the_frames(self) -> None:
        frames = [b"", b"a", b"bcd" * 2000, b"", b"e"]
        splitter = FrameSplitter(10_000)
        assert [bytes(frame) for byte in framed(frames) for frame in splitter.feed(bytes((byte,)))] == frames

    def test_nothing_gives_nothing(self) -> None:
        splitter = FrameSplitter(100)
        assert splitter.feed(b"") == []
        assert splitter.feed(b"\x00") == []
        assert splitter.feed(b"") == []
        assert splitter.buffered_bytes == 1

    @pytest.mark.parametrize("size", [-1, -(1 << 31), 101, (1 << 31) - 1])
    @pytest.mark.parametrize("cut", [0, 1, 3])
    def test_size_out_of_bounds_is_malformed(self, size: int, cut: int) -> None:
        splitter = FrameSplitter(100)
        data = struct.pack(">i", size)
        splitter.feed(data[:cut])
        with pytest.raises(MalformedRequest, match=str(size)):
            splitter.feed(data[cut:])

    def test_largest_frame_is_accepted(self) -> None:
        assert FrameSplitter(100).feed(framed([bytes(100)])) == [bytes(100)]

    def test_large_frame_in_one_chunk_is_not_copied(self) -> None:
        chunk = framed([bytes(100_000)])
        (frame,) = FrameSplitter(1 << 20).feed(chunk)
        assert isinstance(frame, memoryview)
        assert frame.obj is chunk

    def test_claimed_size_allocates_nothing(self) -> None:
        splitter = FrameSplitter(100 << 20)
        tracemalloc.start()
        try:
            splitter.feed(struct.pack(">i", 100 << 20))
            splitter.feed(b"x" * 1000)
            assert tracemalloc.get_traced_memory()[1] < 10_000
        finally:
            tracemalloc.stop()
        assert splitter.buffered_bytes == 1000

    def test_large_frame_in_small_pieces_takes_about_its_size(self) -> None:
        size = 4 << 20
        splitter = FrameSplitter(size)
        piece = bytes(4096)
        tracemalloc.start()
        try:
            splitter.feed(struct.pack(">i", size))
            frames = [frame for _ in range(size // len(piece)) for frame in splitter.feed(piece)]
            # The block that grows and its larger successor exist together for a moment.
            assert tracemalloc.get_traced_memory()[1] < 2.5 * size
        finally:
            tracemalloc.stop()
        assert [len(frame) for frame in frames] == [size]
        assert splitter.buffered_bytes == 0


class TestRequestHeader:
    @pytest.mark.parametrize("case", REQUESTS, ids=case_name)
    def test_agrees_with_kio(self, case: Case) -> None:
        key, version, _ = case
        schema = kio_class(case).__header_schema__
        assert request_header_version(key, version) == schema.__version__
        for client_id in (None, "", "rdkafka-é"):
            data = kio_bytes(
                schema(request_api_key=key, request_api_version=version, correlation_id=-5, client_id=client_id)
            )
            header = RequestHeader(key, version, -5, client_id)
            assert decode_request_header(data + b"body") == (header, len(data))
            assert decode_request_header(memoryview(data)) == (header, len(data))
            assert encode_request_header(header) == data

    def test_every_truncation_is_malformed(self) -> None:
        for key, version in ((0, 3), (API_VERSIONS, 3)):
            data = encode_request_header(RequestHeader(key, version, 1, "client"))
            for length in range(len(data)):
                with pytest.raises(MalformedRequest):
                    decode_request_header(data[:length])

    @pytest.mark.parametrize(
        ("key", "version"), [(999, 0), (-1, 5), (API_VERSIONS, 99), (API_VERSIONS, -1), (0, 0), (BROKER_HEARTBEAT, 2)]
    )
    def test_unknown_api_or_version_is_read_up_to_the_client_id(self, key: int, version: int) -> None:
        data = kio_bytes(KioHeaderV1(request_api_key=key, request_api_version=version, correlation_id=7, client_id="c"))
        assert decode_request_header(data + b"\xff\xff\xff") == (RequestHeader(key, version, 7, "c"), len(data))
        assert decode_request_header(data) == (RequestHeader(key, version, 7, "c"), len(data))

    def test_tags_are_skipped(self) -> None:
        data = encode_request_header(RequestHeader(API_VERSIONS, 3, 1, "c"))[:-1] + b"\x01\x05\x02ab"
        assert decode_request_header(data + b"body")[1] == len(data)

    @pytest.mark.parametrize(("client_id", "reason"), [(b"\xff\xfe", "-2"), (b"\x7f\xff", "32767 bytes")])
    def test_bad_client_id_is_malformed(self, client_id: bytes, reason: str) -> None:
        with pytest.raises(MalformedRequest, match=reason):
            decode_request_header(struct.pack(">hhi", 3, 1, 1) + client_id)

    @given(st.binary(max_size=40))
    def test_any_bytes_give_a_header_or_are_malformed(self, data: bytes) -> None:
        try:
            _, offset = decode_request_header(data)
        except MalformedRequest:
            return
        assert 10 <= offset <= len(data)


class TestResponseHeader:
    @pytest.mark.parametrize("case", RESPONSES, ids=case_name)
    def test_agrees_with_kio(self, case: Case) -> None:
        key, version, _ = case
        schema = kio_class(case).__header_schema__
        data = kio_bytes(schema(correlation_id=7))
        assert response_header_version(key, version) == schema.__version__
        assert decode_response_header(data, key, version) == (7, len(data))
        body = [b"abc", memoryview(b"de")]
        assert b"".join(response_frame(7, key, version, body)) == framed([data + b"abcde"])

    def test_unknown_apis_have_the_first_header(self) -> None:
        assert response_header_version(999, 0) == 0
        assert request_header_version(999, 0) == 1

    def test_truncation_is_malformed(self) -> None:
        data = b"".join(response_frame(7, 3, 12, []))[4:]
        for length in range(len(data)):
            with pytest.raises(MalformedRequest):
                decode_response_header(data[:length], 3, 12)


def test_large_frame_in_many_pieces_is_not_quadratic() -> None:
    rng = random.Random(1)
    stream = framed([rng.randbytes(1 << 20)])
    splitter = FrameSplitter(1 << 20)
    frames = [frame for at in range(0, len(stream), 64) for frame in splitter.feed(stream[at : at + 64])]
    assert [bytes(frame) for frame in frames] == [stream[4:]]
