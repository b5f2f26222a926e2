"""What a fuzzer is to the program that runs it: a round of inputs from a seed, and how its process is set up.

A round may raise anything: that is a finding. The same seed gives the same inputs.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

# Plays the inputs of one round and returns how many they were.
Play = Callable[[Random], int]


def own_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True, kw_only=True)
class Target:
    """A fuzzer, as its module's `TARGET`."""

    opened: Callable[[], contextlib.AbstractContextManager[Play]]
    # Variables of the process that plays; what is built for it goes into the folder.
    environment: Callable[[Path], dict[str, str]] = lambda _: {}
    # Address space that inputs may add to what the process has when it begins.
    address_space_bytes: int | None = None
    # What the process's memory may grow by, at its peak and over the whole run.
    memory_bytes: int = 256 << 20
    round_deadline_s: float = 120
    # The memory at its peak that a run is reported with.
    peak_bytes: Callable[[], int] = own_peak_bytes


def playing(play: Play) -> Callable[[], contextlib.AbstractContextManager[Play]]:
    """For a fuzzer that needs nothing opened."""

    @contextlib.contextmanager
    def opened() -> Iterator[Play]:
        yield play

    return opened


# ---- damage that any format can take

TOKENS = (
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\x7f\xff",
    b"\x80\x00",
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x01",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xfe",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x00",
    b"\x7f" + b"\xff" * 7,
    b"\x80" + b"\x00" * 7,
    b"\xc3\x28",
)


def damage(rng: Random, data: bytes) -> bytes:
    """The data with one thing changed: a bit, a byte, a number, a piece lost, doubled or moved."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 0 | 1:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 2:
            return data[:at] + data[at + rng.randint(1, 8) :]
        case 3:
            token = rng.choice(TOKENS)
            return data[:at] + token + data[at + len(token) :]
        case 4:
            return data[:at] + rng.choice(TOKENS) + data[at:]
        case 5:
            return data[:at]
        case 6:
            start = rng.randrange(len(data) + 1)
            return data[:at] + data[start : start + rng.randint(1, 40)] * rng.choice((1, 1, 1, 20)) + data[at:]
        case _:
            piece = rng.randbytes(rng.randint(1, 12))
            return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]
