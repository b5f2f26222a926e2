"""What the client tests write and expect to read back: the record type that all clients share, and sample records."""

from __future__ import annotations

import hashlib
import random
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace

# Whole milliseconds, an hour or two ago: brokers refuse records far in the future and throw old ones away.
EPOCH_MS = (int(time.time()) // 3600 - 1) * 3_600_000


@dataclass(frozen=True)
class Record:
    """A record as written (`timestamp` None: the client's clock; `offset` -1) or as read."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int | None = None
    offset: int = -1


# Every shape that the format allows. Timestamps repeat and go back.
SHAPES: tuple[Record, ...] = (
    Record(b"key", b"value", (), EPOCH_MS + 5),
    Record(None, b"a null key", (), EPOCH_MS + 5),
    Record(b"a null value", None, (), EPOCH_MS + 9),
    Record(None, None, (), EPOCH_MS + 1),
    Record(b"", b"", (), EPOCH_MS + 2),
    Record(bytes(range(256)), bytes(reversed(range(256))) * 3, (), EPOCH_MS + 1000),
    Record("schlüssel".encode(), "значение 値".encode(), (), EPOCH_MS + 1001),
    Record(b"h1", b"keys repeat, order counts", (("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"1")), EPOCH_MS),
    Record(b"h2", b"header values", (("binary", b"\x00\xff\x80\n"), ("empty", b""), ("", b"empty key")), EPOCH_MS + 7),
    Record(b"h3", b"unicode header key", (("ключ", "値".encode()),), EPOCH_MS + 8),
    Record(b"h4", b"null header value", (("null", None), ("after", b"x")), EPOCH_MS + 8),
    Record(b"h5", None, (("only", b"headers"),), EPOCH_MS + 8),
    *(Record(b"k%d" % n, b"compressible " * n, (("n", b"%d" % n),), EPOCH_MS + 2000 + n) for n in range(100)),
)


def numbered(count: int, *, size: int = 100, first: int = 0, step_ms: int = 1) -> list[Record]:
    """`count` records of `size` characters that name their own place; half of each is random, half compresses."""

    def value(n: int) -> bytes:
        noise = b64encode(hashlib.shake_128(b"%d" % n).digest(size))[: size // 2]
        return (b"%012d " % n + noise).ljust(size, b".")[:size]

    return [Record(b"%d" % n, value(n), (), EPOCH_MS + n * step_ms) for n in range(first, first + count)]


def big(size: int, seed: int = 1) -> Record:
    """A record with a value of `size` characters that hardly compress."""
    return Record(b"big", b64encode(random.Random(seed).randbytes(size * 3 // 4 + 1))[:size], (), EPOCH_MS)


def at_offsets(records: Sequence[Record], offsets: Sequence[int]) -> list[Record]:
    """The records as they should be read back."""
    assert len(records) == len(offsets)
    return [replace(record, offset=offset) for record, offset in zip(records, offsets, strict=True)]
