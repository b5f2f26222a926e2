"""Fuzzer of what is native about compressed streams, built anew with sanitizers: the walk over lz4 frames, and the search.

Frames are written by hand, joined, cut and damaged, and compared with a slow walk.
"""

from __future__ import annotations

from functools import partial
from random import Random

from tests.fuzz import sanitized

sanitized.load("_streams")

from tests.compressed_streams import lz4_frame  # noqa: E402
from tests.fuzz.target import TOKENS, Target, damage, playing  # noqa: E402

from pg_kafka.wire import _streams  # noqa: E402

STREAMS = 100


def play(rng: Random) -> int:
    for _ in range(STREAMS):
        data = stream(rng)
        try:
            assert (_streams.lz4_flaw(exactly(data)) is None) == is_one_frame(data)
            wanted, start = rng.choice((data[-3:], b"\x1f\x8b\x08", *TOKENS)) or b"x", rng.randrange(len(data) + 1)
            assert _streams.contains(exactly(data), wanted, start) == (data.find(wanted, start) >= 0)
        except Exception as error:
            raise AssertionError(f"{error!r}: {data[:20_000].hex()}") from error
    return STREAMS


def exactly(data: bytes) -> memoryview:
    """A view of memory that ends with the last byte, so that a read one byte too far is seen."""
    view = memoryview(bytearray(len(data)))
    view[:] = data
    return view


def stream(rng: Random) -> bytes:
    frame = lz4_frame(
        is_independent=rng.random() < 0.9,
        has_block_checksums=rng.random() < 0.3,
        content_checksum=rng.choice((None, 0)),
        content_size=rng.choice((None, 0, 1 << 40)),
        dictionary=rng.choice((None, None, None, 7)),
        block_bytes=rng.choice((20, 300, 1000)),
    )
    parts = [frame(rng.randbytes(rng.choice((0, 1, 100, 3000)))) for _ in range(rng.choice((1, 1, 1, 2)))]
    data = b"".join(parts)
    for _ in range(rng.choice((0, 0, 1, 2))):
        data = damage(rng, data)
    return data


def is_one_frame(data: bytes) -> bool:
    """The walk, by slices."""
    if len(data) < 7 or data[:4] != b"\x04\x22\x4d\x18" or not data[4] & 0x20 or data[4] & 0x01:
        return False
    at = 7 + (8 if data[4] & 0x08 else 0)
    while True:
        if len(data) - at < 4:
            return False
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if size == 0:
            return at + (4 if data[4] & 0x04 else 0) == len(data)
        if size in (1, 1 << 31):
            return False
        at += (size & 0x7FFF_FFFF) + (4 if data[4] & 0x10 else 0)


TARGET = Target(opened=playing(play), environment=partial(sanitized.environment, "_streams"))
