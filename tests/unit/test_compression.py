"""The codecs: what comes out is what went in, is readable by others, and is bounded."""

from __future__ import annotations

import gzip
import random

import cramjam
import pytest
from aiokafka import codec as published
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compressed_streams import STREAMS, Fate, Stream, lz4_frame

from pg_kafka.wire import _streams
from pg_kafka.wire.compression import (
    CORRUPT_MESSAGE,
    GZIP,
    INVALID_RECORD,
    LZ4,
    MESSAGE_TOO_LARGE,
    SNAPPY,
    UNSUPPORTED_COMPRESSION_TYPE,
    ZSTD,
    RecordsError,
    compress,
    decompress,
    is_read_by_all,
    size_hint,
)
from pg_kafka.wire.error_codes import ErrorCode

CODECS = range(5)
LIMIT = 1 << 20
TEXT = b'{"id": 17, "name": "someone", "active": true}' * 3000

repetitive = st.builds(lambda seed, n: seed * n, st.binary(min_size=1, max_size=8), st.integers(0, 30_000))
contents = st.binary(max_size=300) | repetitive


@settings(max_examples=200)
@given(st.sampled_from(CODECS), contents)
def test_round_trip(codec: int, data: bytes) -> None:
    compressed = compress(codec, data)
    assert isinstance(compressed, bytes)
    assert bytes(decompress(codec, memoryview(compressed), LIMIT)) == data
    assert bytes(decompress(codec, compressed, len(data))) == data


@pytest.mark.parametrize(
    ("codec", "read"),
    [
        (GZIP, published.gzip_decode),
        (SNAPPY, published.snappy_decode),
        (LZ4, published.lz4_decode),
        (ZSTD, published.zstd_decode),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 65_536, 65_537, len(TEXT)])
def test_others_read_what_is_written(codec: int, read: object, size: int) -> None:
    assert callable(read)
    assert bytes(read(compress(codec, TEXT[:size]))) == TEXT[:size]


@pytest.mark.parametrize(
    ("codec", "compressed"),
    [
        pytest.param(GZIP, gzip.compress(TEXT), id="gzip"),
        pytest.param(GZIP, gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]), id="gzip of two members"),
        pytest.param(SNAPPY, published.snappy_encode(TEXT), id="xerial in blocks of 32 kB"),
        pytest.param(SNAPPY, published.snappy_encode(TEXT, xerial_compatible=False), id="raw snappy"),
        pytest.param(
            SNAPPY, published.snappy_encode(TEXT[:50_000]) + published.snappy_encode(TEXT[50_000:]), id="joined xerial"
        ),
        pytest.param(LZ4, published.lz4_encode(TEXT), id="lz4 without its size"),
        pytest.param(ZSTD, published.zstd_encode(TEXT), id="zstd"),
        pytest.param(
            ZSTD, bytes(cramjam.zstd.compress(TEXT[:9])) + bytes(cramjam.zstd.compress(TEXT[9:])), id="2 frames"
        ),
    ],
)
def test_what_others_write_is_read(codec: int, compressed: bytes) -> None:
    assert bytes(decompress(codec, compressed, LIMIT)) == TEXT


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize(
    "data", [TEXT, random.Random(1).randbytes(70_000) + TEXT[:70_000]], ids=["text", "noise and text"]
)
def test_streams_of_every_shape_have_their_fate(stream: Stream, data: bytes) -> None:
    compressed = stream.make(data)
    if stream.fate is Fate.REFUSED:
        with pytest.raises(RecordsError) as raised:
            decompress(stream.codec, compressed, LIMIT)
        assert raised.value.code == INVALID_RECORD
        return
    found = bytes(decompress(stream.codec, memoryview(compressed), LIMIT))
    assert found == data
    assert is_read_by_all(stream.codec, memoryview(compressed), len(found)) == (stream.fate is Fate.KEPT)


@pytest.mark.parametrize("codec", range(1, 5))
def test_what_is_written_is_read_by_all(codec: int) -> None:
    for size in (0, 1, 70_000, len(TEXT)):
        assert is_read_by_all(codec, compress(codec, TEXT[:size]), size)


def test_gzip_that_looks_like_two_members_is_one() -> None:
    inner = random.Random(2).randbytes(200) + gzip.compress(b"inner")
    compressed = gzip.compress(inner, 0)  # stored, so that the beginning of a member stands in it
    assert compressed.count(b"\x1f\x8b\x08") == 2
    assert is_read_by_all(GZIP, compressed, len(inner))


def test_gzip_before_zeros_is_bounded() -> None:
    compressed = gzip.compress(bytes(1 << 20)) + bytes(100)
    assert bytes(decompress(GZIP, compressed, 1 << 20)) == bytes(1 << 20)
    with pytest.raises(RecordsError) as raised:
        decompress(GZIP, compressed, (1 << 20) - 1)
    assert raised.value.code == MESSAGE_TOO_LARGE


@pytest.mark.parametrize("codec", [GZIP, ZSTD])
def test_size_that_a_stream_declares_is_the_hint(codec: int) -> None:
    assert size_hint(codec, compress(codec, bytes(5 << 20))) == 5 << 20


@pytest.mark.parametrize("codec", [LZ4, ZSTD])
def test_declared_size_above_the_limit_is_refused_unread(codec: int) -> None:
    """The damage behind the header is not reached."""
    whole = (
        bytes(cramjam.zstd.compress(bytes(LIMIT + 1))) if codec == ZSTD else lz4_frame(content_size=0)(bytes(LIMIT + 1))
    )
    damaged = whole if codec == LZ4 else whole[:-1] + b"\xff"
    with pytest.raises(RecordsError) as raised:
        decompress(codec, damaged, LIMIT)
    assert raised.value.code == MESSAGE_TOO_LARGE


def test_zstd_that_does_not_tell_its_size_is_read() -> None:
    compressor = cramjam.zstd.Compressor()
    compressor.compress(TEXT)
    assert bytes(decompress(ZSTD, bytes(compressor.finish()), LIMIT)) == TEXT


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 257, 65_535, 65_536, 65_791, 65_792, 70_000, 500_000])
def test_zstd_of_every_size_of_its_size_field(size: int) -> None:
    assert bytes(decompress(ZSTD, bytes(cramjam.zstd.compress(bytes(size))), size)) == bytes(size)


@pytest.mark.parametrize("codec", CODECS)
def test_limit_is_exact(codec: int) -> None:
    compressed = compress(codec, TEXT)
    assert bytes(decompress(codec, compressed, len(TEXT))) == TEXT
    with pytest.raises(RecordsError) as raised:
        decompress(codec, compressed, len(TEXT) - 1)
    assert raised.value.code == MESSAGE_TOO_LARGE


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_data_that_shrink_much_are_read_in_several_attempts(codec: int) -> None:
    data = bytes(5 << 20)
    assert bytes(decompress(codec, compress(codec, data), 8 << 20)) == data


@pytest.mark.parametrize("codec", range(1, 5))
@pytest.mark.parametrize("damage", ["empty", "one byte", "cut", "noise"])
def test_damaged_data_are_invalid(codec: int, damage: str) -> None:
    compressed = compress(codec, TEXT)
    data = {"empty": b"", "one byte": compressed[:1], "cut": compressed[:-30], "noise": b"\x99" * 100}[damage]
    with pytest.raises(RecordsError) as raised:
        decompress(codec, data, LIMIT)
    assert raised.value.code == INVALID_RECORD


@pytest.mark.parametrize("tail", ["00", "000000", "00000009", "7fffffff", "ffffffff", "00000000"])
def test_xerial_blocks_that_lie(tail: str) -> None:
    with pytest.raises(RecordsError) as raised:
        decompress(SNAPPY, compress(SNAPPY, TEXT) + bytes.fromhex(tail), LIMIT)
    assert raised.value.code == INVALID_RECORD


def test_xerial_blocks_are_bounded_by_the_limit_too() -> None:
    """Five bytes for an empty block, and some microseconds."""
    with pytest.raises(RecordsError) as raised:
        decompress(SNAPPY, compress(SNAPPY, b"") + b"\x00\x00\x00\x01\x00" * 2000, LIMIT)
    assert raised.value.code == MESSAGE_TOO_LARGE
    many = compress(SNAPPY, b"") + b"\x00\x00\x00\x01\x00" * 1000 + compress(SNAPPY, TEXT)
    assert bytes(decompress(SNAPPY, many, LIMIT)) == TEXT


def test_xerial_header_without_blocks_holds_nothing() -> None:
    assert bytes(decompress(SNAPPY, compress(SNAPPY, b""), 0)) == b""


@settings(max_examples=300)
@given(st.integers(1, 4), st.integers(0, 1 << 20), st.integers(0, 255), st.integers(0, 3000))
def test_a_changed_byte_raises_only_records_error(codec: int, at: int, value: int, limit: int) -> None:
    data = bytearray(compress(codec, TEXT[:2000]))
    data[at % len(data)] = value
    try:
        assert len(decompress(codec, bytes(data), limit)) <= limit
    except RecordsError:
        pass


@settings(max_examples=300)
@given(st.integers(-1, 8), st.binary(max_size=60))
def test_chance_bytes_raise_only_records_error(codec: int, data: bytes) -> None:
    for noise in (
        data,
        b"\x82SNAPPY\x00" + data,
        b"\x28\xb5\x2f\xfd" + data,
        b"\x04\x22\x4d\x18" + data,
        b"\x1f\x8b\x08" + data,
    ):
        try:
            assert len(decompress(codec, noise, 1000)) <= 1000
        except RecordsError:
            pass


@pytest.mark.parametrize("codec", [-1, 5, 7, 99])
def test_unknown_codec(codec: int) -> None:
    for call in (lambda: compress(codec, b""), lambda: decompress(codec, b"", 10)):
        with pytest.raises(RecordsError) as raised:
            call()
        assert raised.value.code == UNSUPPORTED_COMPRESSION_TYPE


@settings(max_examples=300)
@given(st.binary(max_size=200), st.binary(min_size=1, max_size=4), st.integers(0, 250))
def test_bytes_are_found_as_python_finds_them(data: bytes, wanted: bytes, start: int) -> None:
    data, start = data + wanted[:-1] + data, min(start, len(data))
    assert _streams.contains(data, wanted, start) == (data.find(wanted, start) >= 0)


@pytest.mark.parametrize("start", [-1, 4])
def test_bytes_are_looked_for_inside_only(start: int) -> None:
    with pytest.raises(ValueError, match="from"):
        _streams.contains(b"abc", b"b", start)


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_walk_over_chance_lz4_blocks_ends(data: bytes) -> None:
    for flags in (0x60, 0x64, 0x68, 0x70):
        frame = b"\x04\x22\x4d\x18" + bytes([flags]) + data
        assert _streams.lz4_flaw(frame) is None or isinstance(_streams.lz4_flaw(memoryview(frame)), str)


def test_lz4_frames_have_independent_blocks() -> None:
    """Java's reader refuses linked ones; bit 5 of the third field says which they are."""
    assert compress(LZ4, TEXT)[4] & 0x20
    assert compress(LZ4, TEXT, 12)[4] & 0x20


def test_levels() -> None:
    for codec, low, high in ((GZIP, 1, 9), (LZ4, 1, 12), (ZSTD, 1, 19)):
        assert len(compress(codec, TEXT, high)) <= len(compress(codec, TEXT, low))
    assert compress(GZIP, TEXT) == compress(GZIP, TEXT, -1) == compress(GZIP, TEXT, 6)
    assert compress(LZ4, TEXT) == compress(LZ4, TEXT, 9)
    assert compress(ZSTD, TEXT) == compress(ZSTD, TEXT, 3)
    assert compress(SNAPPY, TEXT) == compress(SNAPPY, TEXT, 3)


def test_error_codes_are_kafkas() -> None:
    assert ErrorCode(CORRUPT_MESSAGE) is ErrorCode.CORRUPT_MESSAGE
    assert ErrorCode(MESSAGE_TOO_LARGE) is ErrorCode.MESSAGE_TOO_LARGE
    assert ErrorCode(UNSUPPORTED_COMPRESSION_TYPE) is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert ErrorCode(INVALID_RECORD) is ErrorCode.INVALID_RECORD
