"""One blocking connection to a broker: requests out, responses in, versions agreed.

    with Connection("127.0.0.1", 9092) as connection:
        response = connection.call(METADATA, MetadataRequest(topics=None))

Whatever goes wrong is a BenchError with a sentence that names the broker.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pg_kafka.errors import FatalError
from pg_kafka.wire import codec
from pg_kafka.wire._decoder import MalformedRequest
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages import API_SCHEMAS
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = (
    0,
    1,
    2,
    3,
    18,
    19,
    20,
    22,
)

CLIENT_ID = "pg-kafka-bench"
# Larger than any answer that is asked for here; a broker that speaks another protocol claims more.
MAX_FRAME_BYTES = 256 << 20
_SIZE = struct.Struct(">i")


class BenchError(FatalError):
    """The benchmark cannot go on; one sentence."""


class Connection:
    """One TCP connection without TLS or SASL."""

    def __init__(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        """Connects and asks for the broker's versions. Raises BenchError."""
        self.place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise BenchError(f"no broker can be reached at {self.place}: {reason}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb", buffering=1 << 18)
        self._correlation_ids = itertools.count(1)
        self._versions: Mapping[int, tuple[int, int]] = {API_VERSIONS: (0, 0)}
        try:
            answer = self.call(API_VERSIONS, ApiVersionsRequest())
        except BenchError as error:
            self.close()
            raise BenchError(
                f"what listens at {self.place} does not answer like a Kafka broker without TLS and SASL: {error}"
            ) from error
        self._versions = {row.api_key: (row.min_version, row.max_version) for row in answer.api_keys}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def abort(self) -> None:
        """Ends what another thread does with this connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def serves(self, api_key: int) -> bool:
        """Whether the broker says that it serves an API."""
        return api_key in self._versions

    def version(self, api_key: int, newest: int = 32767) -> int:
        """The newest version up to `newest` that the broker and we know. Raises BenchError when there is none."""
        schema = API_SCHEMAS[api_key]
        lowest, highest = self._versions.get(api_key, (0, -1))
        version = min(highest, schema.last_version, newest)
        if version < max(lowest, schema.first_version):
            raise BenchError(f"the broker at {self.place} serves no version of {schema.name} that is known here")
        return version

    def call(self, api_key: int, message: Message, newest: int = 32767) -> Any:
        """The response to a request while no other is under way. Raises BenchError."""
        version = self.version(api_key, newest)
        self.send(self.frame(api_key, version, message))
        return self.response(api_key, version)

    def frame(self, api_key: int, version: int, message: Message) -> bytes:
        """A whole request, size included."""
        head = encode_request_header(RequestHeader(api_key, version, next(self._correlation_ids), CLIENT_ID))
        parts = (head, *codec.encode_request(message, api_key, version))
        return b"".join((_SIZE.pack(sum(map(len, parts))), *parts))

    def send(self, frame: bytes | bytearray) -> None:
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise self._lost(error) from error

    def response(self, api_key: int, version: int) -> Any:
        """The next response, which must be to a request of this kind."""
        frame = self.receive()
        try:
            _, offset = decode_response_header(frame, api_key, version)
            return codec.decode_response(api_key, version, frame, offset)
        except MalformedRequest as error:
            raise BenchError(f"the broker at {self.place} sent what is no response: {error}") from error

    def receive(self) -> bytes:
        """The next response as bytes, from its correlation id on."""
        try:
            head = self._reader.read(_SIZE.size)
            if len(head) < _SIZE.size:
                raise self._lost(None)
            (size,) = _SIZE.unpack(head)
            if not 4 <= size <= MAX_FRAME_BYTES:
                raise BenchError(f"the broker at {self.place} announces a response of {size} bytes")
            frame: bytes = self._reader.read(size)
        except OSError as error:
            raise self._lost(error) from error
        if len(frame) < size:
            raise self._lost(None)
        return frame

    def _lost(self, error: OSError | None) -> BenchError:
        if isinstance(error, TimeoutError):
            return BenchError(f"the broker at {self.place} has not answered for {self._socket.gettimeout():.0f} s")
        reason = f": {error.strerror or error}" if error else ""
        return BenchError(f"the broker at {self.place} closed the connection{reason}")


def error_name(code: int) -> str:
    """Kafka's name of an error code."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"


def check(code: int, what: str) -> None:
    """Raises BenchError when a broker has answered with an error."""
    if code:
        raise BenchError(f"{what}: the broker answers {error_name(code)}")
