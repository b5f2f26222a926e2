"""Fuzzer of the native reader of Produce requests, built anew with sanitizers.

Valid frames are damaged further and further. The native reader finds what the general decoder finds: the same header and
message, or MalformedRequest. What it reads lies in memory of exactly its size. Streams of such frames are cut anywhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from random import Random

from tests.fuzz import sanitized

sanitized.load("_produce")

from tests.fuzz.fuzz_frames import CLAIMED_BYTES, check, stream  # noqa: E402
from tests.fuzz.target import Target, damage, playing  # noqa: E402
from tests.unit.kio_oracle import kio_bytes, kio_class, random_kio  # noqa: E402

from pg_kafka.wire import frames  # noqa: E402
from pg_kafka.wire._decoder import compile_decoder  # noqa: E402
from pg_kafka.wire.codec import MAX_REQUEST_ITEMS, MalformedRequest, decode_request  # noqa: E402
from pg_kafka.wire.messages.produce import ProduceRequest  # noqa: E402

REQUESTS, DAMAGES = 10, 30
FIRST, FIRST_FLEXIBLE, LAST = 3, 9, 13
GENERAL = {
    version: compile_decoder(ProduceRequest, version, version >= FIRST_FLEXIBLE, MAX_REQUEST_ITEMS, fills=False)
    for version in range(FIRST, LAST + 1)
}


def play(rng: Random) -> int:
    for _ in range(REQUESTS):
        version = rng.randint(FIRST, LAST)
        client_id = rng.choice((None, "", "a client", "é" * 200))
        head = frames.encode_request_header(frames.RequestHeader(0, version, rng.randrange(1 << 31), client_id))
        body = kio_bytes(random_kio(kio_class((0, version, "request")), rng, rng.randint(0, 3)))
        for _ in range(DAMAGES):
            try:
                check_request(version, body)
                check_header(head + body[:20])
            except Exception as error:
                raise AssertionError(f"version {version}: {error!r}: head {head.hex()} body {body.hex()}") from error
            body, head = damage(rng, body), damage(rng, head)
        limit = rng.choice((0, 100, 5000, CLAIMED_BYTES))
        data = stream(rng, limit)
        try:
            check(rng, data, limit)
        except Exception as error:
            raise AssertionError(f"limit {limit}: {error!r}: {data.hex()}") from error
    return REQUESTS * (DAMAGES + 1)


def exactly(data: bytes) -> memoryview:
    """The data in memory of their size and not a byte more."""
    view = memoryview(array("B", b"\0") * len(data))
    view[:] = data
    return view


def found(read: Callable[[], object]) -> object:
    try:
        return read()
    except (MalformedRequest, IndexError):
        return None
    except Exception as error:
        if type(error).__name__ == "error":  # struct's
            return None
        raise


def check_request(version: int, body: bytes) -> None:
    wanted = found(lambda: GENERAL[version](body, 0))
    assert found(lambda: decode_request(0, version, exactly(body))) == wanted, f"other than {wanted!r}"


def check_header(frame: bytes) -> None:
    wanted = found(lambda: frames._decode_request_header(frame))
    assert found(lambda: frames.decode_request_header(exactly(frame))) == wanted, f"other than {wanted!r}"


# Without a limit of the address space: the oracle's native reader does not survive an allocation that is refused.
TARGET = Target(opened=playing(play), environment=partial(sanitized.environment, "_produce"))
