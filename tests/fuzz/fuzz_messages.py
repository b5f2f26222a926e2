"""Fuzzer of the decoders of all messages, requests and responses in every version, and of both headers.

Starts from valid messages and damages them further and further. A decoder gives a message or MalformedRequest, a
message that it gave survives being encoded, and memory is in proportion to what was sent.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from random import Random

from tests.fuzz.target import Target, damage, playing
from tests.unit.kio_oracle import random_body
from tests.unit.random_messages import CASES, Case, case_name, decode, encode

from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.frames import (
    RequestHeader,
    decode_request_header,
    decode_response_header,
    encode_request_header,
)

DAMAGES = 50
# An object of a struct takes some 100 bytes and a pointer, whatever its size on the wire; that may be two bytes.
MEMORY_FACTOR = 150
MEMORY_START = 200_000
MEASURED_SHARE = 0.05


def play(rng: Random) -> int:
    case = rng.choice(CASES)
    body = random_body(case, rng, rng.randint(0, 3))
    client_id = rng.choice((None, "", "a client", "é" * 200))
    head = encode_request_header(RequestHeader(case[0], case[1], rng.randrange(1 << 31), client_id))
    check(case, body)
    is_measured = rng.random() < MEASURED_SHARE
    if is_measured:
        tracemalloc.start()  # once a round: it keeps some hundred bytes each time
    try:
        for _ in range(DAMAGES):
            body, head = damage(rng, body), damage(rng, head)
            try:
                check(case, body)
                check_headers(case, head + body[:20])
                if is_measured:
                    check_memory(case, body)
            except Exception as error:
                raise AssertionError(f"{case_name(case)}: {error!r}: head {head.hex()} body {body.hex()}") from error
    finally:
        tracemalloc.stop()
    return DAMAGES


def check(case: Case, body: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        canonical = encode(case, decode(case, body))
        if encode(case, decode(case, canonical)) != canonical:
            raise AssertionError("decoding what was encoded gave another message")
        if encode(case, decode(case, memoryview(canonical))) != canonical:
            raise AssertionError("decoding a view gave another message")


def check_headers(case: Case, frame: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        header, offset = decode_request_header(frame)
        assert 10 <= offset <= len(frame), f"a body at {offset}"
        assert decode_request_header(encode_request_header(header))[0] == header
    with contextlib.suppress(MalformedRequest):
        _, offset = decode_response_header(memoryview(frame), case[0], case[1])
        assert 4 <= offset <= len(frame), f"a body at {offset}"


def check_memory(case: Case, body: bytes) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with contextlib.suppress(MalformedRequest):
        decode(case, body)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < MEMORY_START + MEMORY_FACTOR * len(body), f"{len(body)} bytes took {peak - before}"


# Without a limit of the address space: the oracle's native reader does not survive an allocation that is refused.
TARGET = Target(opened=playing(play))
