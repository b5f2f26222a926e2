"""Frames of a connection and the headers at their start.

    frame     size int32 | header | body
    request   api_key int16 | api_version int16 | correlation_id int32 | client_id nullable string | v2: tags
    response  correlation_id int32 | v1: tags

The client id has the two-byte length of old also in header v2, so that any broker can read it. Everything that a peer
sends yields a value or MalformedRequest, and a size that it claims allocates nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from pg_kafka.wire._decoder import MalformedRequest, skip_tags
from pg_kafka.wire._produce import FrameSplitter, HeaderReader
from pg_kafka.wire.codec import request_header_version, response_header_version
from pg_kafka.wire.messages import API_SCHEMAS
from pg_kafka.wire.text import AS_KAFKA

__all__ = [
    "FrameSplitter",
    "RequestHeader",
    "decode_request_header",
    "decode_response_header",
    "encode_request_header",
    "response_frame",
]

_REQUEST_START = struct.Struct(">hhih")
_INT32 = struct.Struct(">i")
_RESPONSE_START = struct.Struct(">ii")
_RESPONSE_START_TAGGED = struct.Struct(">iix")


class RequestHeader(NamedTuple):
    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


_read_header = HeaderReader(
    RequestHeader, {key: (schema.first_flexible, schema.last_version) for key, schema in API_SCHEMAS.items()}
)


def decode_request_header(frame: bytes | memoryview) -> tuple[RequestHeader, int]:
    """The header of a request and the offset of its body. Raises MalformedRequest.

    For an API or version that we have no schema of, the offset is the end of the client id: nothing after it is looked
    at, so that an ApiVersions request from the future can be answered.
    """
    return _read_header(frame) or _decode_request_header(frame)


def _decode_request_header(frame: bytes | memoryview) -> tuple[RequestHeader, int]:
    """The same for headers that are not ordinary: with tags, of an unknown API, or malformed."""
    try:
        api_key, api_version, correlation_id, length = _REQUEST_START.unpack_from(frame)
        offset = _REQUEST_START.size
        client_id = None
        if length >= 0:
            end = offset + length
            if end > len(frame):
                raise MalformedRequest(f"a client id of {length} bytes where {len(frame) - offset} remain")
            client_id = str(frame[offset:end], "utf-8", AS_KAFKA)
            offset = end
        elif length != -1:
            raise MalformedRequest(f"the client id has the length {length}")
        schema = API_SCHEMAS.get(api_key)
        if schema is not None and schema.first_flexible <= api_version <= schema.last_version:
            offset = skip_tags(frame, frame[offset], offset + 1)
    except (struct.error, IndexError):
        raise MalformedRequest(f"a request header cut short in a frame of {len(frame)} bytes") from None
    return RequestHeader(api_key, api_version, correlation_id, client_id), offset


def encode_request_header(header: RequestHeader) -> bytes:
    """The header that `decode_request_header` reads."""
    client_id = b"" if header.client_id is None else header.client_id.encode()
    length = -1 if header.client_id is None else len(client_id)
    start = _REQUEST_START.pack(header.api_key, header.api_version, header.correlation_id, length)
    tags = b"\x00" if request_header_version(header.api_key, header.api_version) == 2 else b""
    return start + client_id + tags


def decode_response_header(frame: bytes | memoryview, api_key: int, version: int) -> tuple[int, int]:
    """The correlation id of a response and the offset of its body. Raises MalformedRequest."""
    try:
        (correlation_id,) = _INT32.unpack_from(frame)
        offset = _INT32.size
        if response_header_version(api_key, version):
            offset = skip_tags(frame, frame[offset], offset + 1)
    except (struct.error, IndexError):
        raise MalformedRequest(f"a response header cut short in a frame of {len(frame)} bytes") from None
    return correlation_id, offset


def response_frame(
    correlation_id: int, api_key: int, version: int, body: Sequence[bytes | memoryview]
) -> list[bytes | memoryview]:
    """A whole response, size and header included, as parts to be sent one after the other."""
    size = sum(map(len, body))
    if response_header_version(api_key, version):
        return [_RESPONSE_START_TAGGED.pack(size + 5, correlation_id), *body]
    return [_RESPONSE_START.pack(size + 4, correlation_id), *body]
