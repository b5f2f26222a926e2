"""Connections by the thousand in one process: an asyncio protocol that sends frames and hands on frames.

A harness runs in a process of its own (`in_process`), so that its processor time is known and progress on the terminal does
not disturb it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import resource
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar, cast

import uvloop

from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import FrameSplitter, RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.message import Message

PRODUCE, FETCH, METADATA, OFFSET_COMMIT, FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, SYNC_GROUP = (
    0,
    1,
    3,
    8,
    10,
    11,
    12,
    14,
)
CREATE_TOPICS, INIT_PRODUCER_ID, CONSUMER_GROUP_HEARTBEAT = 19, 22, 68
CLIENT_ID = "bench"
MAX_FRAME_BYTES = 256 << 20

# Connections that are opened at once: more would overrun the queue of a listening socket.
_AT_ONCE = 64
_SIZE = struct.Struct(">i")

Result = TypeVar("Result")


class RawConnection(asyncio.Protocol):
    """Requests go out in order, and so do their responses."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter(MAX_FRAME_BYTES)
        self._waiting: deque[Callable[[bytes | memoryview], None]] = deque()
        self._correlation_ids = itertools.count(1)
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has no base class in common

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            if self.is_closing:
                self.lost.set_result(None)
            else:
                self.lost.set_exception(error or ConnectionError("the broker closed a connection"))
                self.lost.exception()  # seen: whoever waits for an answer gets it

    def data_received(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            self._waiting.popleft()(frame)

    def send(self, frame: bytes | bytearray, on_response: Callable[[bytes | memoryview], None]) -> None:
        """Send a whole request; `on_response` gets the frame of its response."""
        assert self.transport is not None
        self._waiting.append(on_response)
        self.transport.write(frame)

    def frame(self, api_key: int, version: int, message: Message) -> bytes:
        """A whole request, size included."""
        head = encode_request_header(RequestHeader(api_key, version, next(self._correlation_ids), CLIENT_ID))
        parts = (head, *codec.encode_request(message, api_key, version))
        return b"".join((_SIZE.pack(sum(map(len, parts))), *parts))

    async def call(self, api_key: int, version: int, message: Message) -> Any:
        """The decoded response. Raises ConnectionError when the broker closes the connection."""
        answered: asyncio.Future[bytes | memoryview] = asyncio.get_running_loop().create_future()
        self.send(self.frame(api_key, version, message), lambda frame: _resolve(answered, frame))
        ends: set[asyncio.Future[Any]] = {answered, self.lost}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            answered.cancel()
            self.lost.result()
            raise ConnectionError("the connection was closed while a response was due")
        return decode(api_key, version, answered.result())

    def close(self) -> None:
        self.is_closing = True
        if self.transport is not None:
            self.transport.close()


def decode(api_key: int, version: int, frame: bytes | memoryview) -> Any:
    """The response in a frame."""
    _, offset = decode_response_header(frame, api_key, version)
    return codec.decode_response(api_key, version, frame, offset)


def check(code: int, what: str) -> None:
    """Raises RuntimeError for an error code."""
    if code:
        raise RuntimeError(f"{what}: {ErrorCode(code).name}")


async def connect(host: str, port: int) -> RawConnection:
    _, protocol = await asyncio.get_running_loop().create_connection(RawConnection, host, port)
    return protocol


async def connect_many(host: str, port: int, count: int) -> list[RawConnection]:
    """`count` connections, some at a time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one() -> RawConnection:
        async with places:
            return await connect(host, port)

    return list(await asyncio.gather(*(one() for _ in range(count))))


def in_process(function: Callable[..., Coroutine[Any, Any, Result]], *arguments: object) -> tuple[Result, float]:
    """What a coroutine function of a module returns, run on uvloop in a process of its own, and its processor seconds."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, function, arguments).result()


def _run(function: Callable[..., Coroutine[Any, Any, Result]], arguments: tuple[object, ...]) -> tuple[Result, float]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    start = time.process_time()
    result = uvloop.run(function(*arguments))
    return result, time.process_time() - start


def _resolve(answered: asyncio.Future[bytes | memoryview], frame: bytes | memoryview) -> None:
    if not answered.done():
        answered.set_result(frame)
