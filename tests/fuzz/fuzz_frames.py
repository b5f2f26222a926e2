"""Fuzzer of the frame splitter: any stream in any pieces gives the frames that a reader of the whole stream finds."""

from __future__ import annotations

from bisect import bisect_right
from random import Random

from tests.fuzz.target import Target, damage, playing

from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.frames import FrameSplitter

STREAMS = 50
# More address space than all the streams of a round may claim together is not to be had.
CLAIMED_BYTES = 100_000_000


def play(rng: Random) -> int:
    waiting = []  # splitters that wait for the rest of a frame
    for _ in range(STREAMS):
        limit = rng.choice((0, 1, 100, 5000, 70_000, CLAIMED_BYTES))
        data = stream(rng, limit)
        try:
            waiting.append(check(rng, data, limit))
        except Exception as error:
            raise AssertionError(f"limit {limit}: {error!r}: {data.hex()}") from error
    return STREAMS


def stream(rng: Random, limit: int) -> bytes:
    parts = []
    for _ in range(rng.randint(0, 12)):
        size = min(limit, rng.choice((0, 1, 3, 4, 5, 60, 4095, 4096, 4097, rng.randrange(9000))))
        parts.append(size.to_bytes(4) + rng.randbytes(size))
    if rng.random() < 0.3:
        claimed = rng.choice((limit, limit + 1, -1, -(1 << 31), (1 << 31) - 1, rng.randrange(1 << 31)))
        parts.append(claimed.to_bytes(4, signed=True) + rng.randbytes(rng.randrange(50)))
    data = b"".join(parts)
    for _ in range(rng.choice((0, 0, 1, 3))):
        data = damage(rng, data)
    return data


def check(rng: Random, data: bytes, limit: int) -> FrameSplitter:
    splitter = FrameSplitter(limit)
    wanted, ends, refused_at = frames_of(data, limit)
    found = 0
    fed = 0
    longest = max(rng.choice((1, 3, 7, 100, 5000, len(data) + 1)), len(data) // 300)
    while fed < len(data):
        piece = data[fed : fed + rng.randint(1, longest)]
        fed += len(piece)
        try:
            frames = splitter.feed(memoryview(piece) if rng.random() < 0.5 else piece)
        except MalformedRequest:
            assert refused_at is not None and refused_at <= fed, f"refused after {fed} bytes"
            return splitter
        assert refused_at is None or fed < refused_at, f"not refused after {fed} bytes"
        complete = bisect_right(ends, fed)
        assert frames == wanted[found:complete], f"other frames after {fed} bytes"
        found = complete
        rest = fed - (ends[complete - 1] if complete else 0)
        assert splitter.buffered_bytes == (rest if rest < 4 else rest - 4)
    return splitter


def frames_of(data: bytes, limit: int) -> tuple[list[bytes], list[int], int | None]:
    """The whole frames, where each ends, and where a size that is refused ends."""
    frames: list[bytes] = []
    ends: list[int] = []
    at = 0
    while len(data) - at >= 4:
        size = int.from_bytes(data[at : at + 4], signed=True)
        at += 4
        if not 0 <= size <= limit:
            return frames, ends, at
        if size > len(data) - at:
            break
        frames.append(data[at : at + size])
        at += size
        ends.append(at)
    return frames, ends, None


TARGET = Target(opened=playing(play), address_space_bytes=CLAIMED_BYTES // 2)
