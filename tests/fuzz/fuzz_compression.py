"""Fuzzer of decompression: streams of several writers, damaged, joined, cut, and with sizes and windows that lie.

Whatever comes, the output stays within the limit, the memory within some times of it, and only RecordsError is raised.
The limit does not change what comes out.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import cramjam
import lz4.frame
from aiokafka import codec as published
from tests.fuzz.target import Target, damage, playing

from pg_kafka.wire.compression import (
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
)

STREAMS = 30
LIMITS = (0, 1, 100, 10_000, 65_536, 1 << 20, 4 << 20)
# The output, its copy while it grows, the codec's window, the interpreter's own.
MEMORY_BYTES = 40 << 20

LZ4_MAGIC, LZ4_LEGACY, ZSTD_MAGIC, XERIAL = (
    b"\x04\x22\x4d\x18",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
    b"\x82SNAPPY\x00" + (1).to_bytes(4) * 2,
)
STARTS = (b"\x1f\x8b\x08", b"\x1f\x8b\x08\x1c", LZ4_MAGIC, LZ4_LEGACY, ZSTD_MAGIC, XERIAL)


def lz4_with_everything(data: bytes) -> bytes:
    return lz4.frame.compress(data, content_checksum=True, block_checksum=True, block_linked=False, store_size=True)


def zstd_without_size(data: bytes) -> bytes:
    compressor = cramjam.zstd.Compressor()
    compressor.compress(data)
    return bytes(compressor.finish())


WRITERS: dict[int, tuple[Callable[[bytes], bytes], ...]] = {
    GZIP: (gzip.compress, published.gzip_encode),
    SNAPPY: (
        published.snappy_encode,
        lambda data: bytes(cramjam.snappy.compress_raw(data)),
        lambda data: bytes(cramjam.snappy.compress(data)),
    ),
    LZ4: (published.lz4_encode, lz4_with_everything, lambda data: bytes(cramjam.lz4.compress(data))),
    ZSTD: (published.zstd_encode, zstd_without_size),
}


def play(rng: Random) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before = high_water_bytes()
    for _ in range(STREAMS):
        codec = rng.choice((GZIP, SNAPPY, LZ4, ZSTD))
        data = stream(rng, codec)
        limit = rng.choice(LIMITS)
        try:
            check(rng, codec, data, limit)
        except Exception as error:
            raise AssertionError(f"codec {codec}, limit {limit}: {error!r}: {data[:20_000].hex()}") from error
    grown = high_water_bytes() - before
    assert grown < MEMORY_BYTES, f"{grown} bytes of memory"
    return STREAMS


def high_water_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def contents(rng: Random) -> bytes:
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.choice((0, 1, 50, 3000)))
        case 1:
            return bytes(rng.choice((1, 100, 70_000, 5 << 20)))
        case 2:
            return rng.randbytes(rng.randint(1, 9)) * rng.choice((10, 1000, 40_000))
        case _:
            words = [rng.randbytes(rng.randint(1, 12)) for _ in range(20)]
            return b" ".join(rng.choices(words, k=rng.choice((3, 200, 9000))))


def stream(rng: Random, codec: int) -> bytes:
    """A stream of the codec, more or less."""
    if rng.random() < 0.1:
        return rng.choice((b"", *STARTS)) + rng.randbytes(rng.randrange(80))
    parts = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        write = rng.choice((lambda data: compress(codec, data), *WRITERS[codec]))
        parts.append(write(contents(rng)))
    data = b"".join(parts)
    for _ in range(rng.choice((0, 1, 1, 2, 6))):
        data = lie(rng, codec, data) if rng.random() < 0.4 else damage(rng, data)
    return data


def lie(rng: Random, codec: int, data: bytes) -> bytes:
    """The stream with something in a header that costs memory or time when it is believed."""
    number = rng.choice((0, 1, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1))
    match codec:
        case 1 if rng.random() < 0.5:
            return data[:-4] + (number & 0xFFFF_FFFF).to_bytes(4, "little")
        case 1:
            flags = rng.choice((0x02, 0x04, 0x08, 0x10, 0xE0))  # more fields before the data, or reserved bits
            return data[:3] + bytes([flags]) + data[4:10] + rng.randbytes(rng.randrange(4)) + data[10:]
        case 2 if rng.random() < 0.5:
            return XERIAL + (number & 0xFFFF_FFFF).to_bytes(4) + data
        case 2:
            return varint(number & 0xFFFF_FFFF) + data[rng.randint(1, 3) :]
        case 3 if rng.random() < 0.3:
            skippable = b"\x50\x2a\x4d\x18" + (number & 0xFFFF_FFFF).to_bytes(4, "little")
            return skippable + data
        case 3:
            return (
                data[:4]
                + bytes([0x40 | rng.randrange(64), rng.randrange(256)])
                + number.to_bytes(8, "little")
                + data[6:]
            )
        case _ if rng.random() < 0.3:
            skippable = bytes([0x50 + rng.randrange(16)]) + b"\x2a\x4d\x18"
            return skippable + (number & 0xFFFF_FFFF).to_bytes(4, "little") + data
        case _:
            descriptor = rng.randrange(256) & ~0x08  # content size, window, checksum, dictionary; no reserved bit
            window = bytes([rng.choice((0, 0x50, 0x88, 0xA8, 0xFF, rng.randrange(256)))])
            return data[:4] + bytes([descriptor]) + window + number.to_bytes(8, "little") + data[6:]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def check(rng: Random, codec: int, data: bytes, limit: int) -> None:
    found = decompressed(codec, memoryview(data), limit)
    if isinstance(found, RecordsError):
        if found.code == MESSAGE_TOO_LARGE:
            smaller = decompressed(codec, data, limit // 2)
            assert isinstance(smaller, RecordsError), "too large above the limit and not below it"
        return
    again = decompressed(codec, data, max(LIMITS))
    assert found == again, "another limit gave other data"
    assert decompressed(codec, data, len(found)) == found, "the limit is not exact"
    if not is_read_by_all(codec, data, len(found)):
        assert codec in (GZIP, SNAPPY), "only of these some streams are not for everybody"
    if found:
        smaller = decompressed(codec, data, rng.randrange(len(found)))
        assert isinstance(smaller, RecordsError), "more than the limit"
        assert smaller.code in (MESSAGE_TOO_LARGE, INVALID_RECORD), smaller.code
    back = compress(codec, found)
    assert decompressed(codec, back, len(found)) == found, "what was compressed did not come back"


def decompressed(codec: int, data: bytes | memoryview, limit: int) -> bytes | RecordsError:
    try:
        found = bytes(decompress(codec, data, limit))
    except RecordsError as error:
        assert error.code in (MESSAGE_TOO_LARGE, INVALID_RECORD, UNSUPPORTED_COMPRESSION_TYPE)
        return error
    assert len(found) <= limit, f"{len(found)} bytes"
    return found


TARGET = Target(opened=playing(play), address_space_bytes=1 << 29)
