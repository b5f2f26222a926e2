"""Fuzzer of the message decoders and the frame headers.

    PYTHONPATH=src:. python tests/fuzz/fuzz_messages.py --seconds 60 --seed 1

Starts from valid messages of every API and version and damages them further and further. Anything but a message or
MalformedRequest ends the run with the seed and the bytes. `one_input` is the entry for a coverage-guided fuzzer.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time

from tests.unit.kio_oracle import CASES, Case, case_name, decode, encode, kio_bytes, kio_class, random_kio

from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.frames import FrameSplitter, decode_request_header

TOKENS = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\x00\x00\x00\x01",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\xc3\x28",
]


def one_input(data: bytes) -> None:
    """The first two bytes choose the message, the rest is its body."""
    case = CASES[int.from_bytes(data[:2]) % len(CASES)]
    check(case, data[2:])


def check(case: Case, body: bytes) -> None:
    """Raises whatever the decoder raises apart from MalformedRequest, and when encoding does not give the same again."""
    with contextlib.suppress(MalformedRequest):
        canonical = encode(case, decode(case, body))
        if encode(case, decode(case, canonical)) != canonical:
            raise AssertionError("decoding what was encoded gave another message")
    with contextlib.suppress(MalformedRequest):
        decode_request_header(body)
    with contextlib.suppress(MalformedRequest):
        for frame in FrameSplitter(1 << 16).feed(body):
            decode_request_header(frame)


def damage(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 1:
            return data[:at] + data[at + rng.randint(1, 8) :]
        case 2:
            token = rng.choice(TOKENS)
            return data[:at] + token + data[at + len(token) :]
        case 3:
            return data[:at] + rng.choice(TOKENS) + data[at:]
        case _:
            start = rng.randrange(len(data) + 1)
            return data[:at] + data[start : start + rng.randint(1, 40)] + data[at:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the message decoders.")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    stop = time.monotonic() + arguments.seconds
    tried = 0
    while time.monotonic() < stop:
        case = rng.choice(CASES)
        body = kio_bytes(random_kio(kio_class(case), rng, rng.randint(0, 2)))
        for _ in range(50):
            body = damage(rng, body)
            tried += 1
            try:
                check(case, body)
            except Exception:
                print(f"seed {arguments.seed}: {case_name(case)} {body.hex()}", file=sys.stderr)
                raise
    print(f"{tried} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
