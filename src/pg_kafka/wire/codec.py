"""Messages from bytes and to bytes.

Decoders and encoders are compiled from the tables of the message classes when a version is first used, and kept.
Decoding raises nothing but MalformedRequest and allocates in proportion to the bytes it was given, whatever they claim.
Fields that a version lacks have their defaults after decoding and are left out by encoding.

    request = decode_request(header.api_key, header.api_version, frame, offset)
    parts = encode_response(response, header.api_key, header.api_version)
"""

from __future__ import annotations

import struct
import sys
from importlib import import_module
from typing import Any, Final

from pg_kafka.wire._decoder import Decoder, MalformedRequest, compile_decoder, read_uuid
from pg_kafka.wire._encoder import Encoder, Parts, compile_encoder
from pg_kafka.wire._produce import RequestReader
from pg_kafka.wire._source import TooManyItems
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages import API_SCHEMAS, ApiSchema

__all__ = [
    "MalformedRequest",
    "TooManyItems",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "message_class",
    "request_header_version",
    "response_header_version",
]

PRODUCE_KEY: Final = 0
API_VERSIONS_KEY: Final = 18

# What a request may name in all its arrays together: topics, partitions, groups, keys. Each becomes an object or several,
# and an answer. Responses that we read come from servers of our own choice, and those that we write are as long as they are.
MAX_REQUEST_ITEMS: Final = 100_000
MAX_RESPONSE_ITEMS: Final = 20_000_000

_request_decoders: dict[tuple[int, int], Decoder] = {}
_response_decoders: dict[tuple[int, int], Decoder] = {}
_request_encoders: dict[tuple[int, int], Encoder] = {}
_response_encoders: dict[tuple[int, int], Encoder] = {}


def decode_request(
    api_key: int, version: int, body: bytes | memoryview, offset: int = 0, max_items: int = MAX_REQUEST_ITEMS
) -> Any:
    """The request in `body` from `offset` on, the end of its header. Raises MalformedRequest.

    Raises TooManyItems when its arrays have more than `max_items`, though no more than MAX_REQUEST_ITEMS. As in Kafka,
    bytes after it are of no account: librdkafka sends some after a Metadata request for all topics.
    """
    decoder = _request_decoders.get((api_key, version))
    if decoder is None:
        decoder = _make_decoder(_request_decoders, api_key, version, "request")
    try:
        return _decode(decoder, body, offset, max_items)
    except TooManyItems:
        if max_items < MAX_REQUEST_ITEMS:
            raise
        raise MalformedRequest(f"arrays of more than {MAX_REQUEST_ITEMS} items in one request") from None


def decode_response(api_key: int, version: int, body: bytes | memoryview, offset: int = 0) -> Any:
    """The response that fills `body` from `offset`, the end of its header. Raises MalformedRequest."""
    decoder = _response_decoders.get((api_key, version))
    if decoder is None:
        decoder = _make_decoder(_response_decoders, api_key, version, "response")
    try:
        return _decode(decoder, body, offset, MAX_RESPONSE_ITEMS)
    except TooManyItems:
        raise MalformedRequest(f"arrays of more than {MAX_RESPONSE_ITEMS} items in one response") from None


def encode_request(message: Message, api_key: int, version: int) -> Parts:
    """Parts to be sent one after the other. A value that does not fit its type is a ValueError or struct.error."""
    encoder = _request_encoders.get((api_key, version))
    if encoder is None:
        encoder = _make_encoder(_request_encoders, api_key, version, "request")
    return encoder(message, sys.maxsize)


def encode_response(message: Message, api_key: int, version: int, max_items: int = sys.maxsize) -> Parts:
    """Parts to be sent one after the other; records in it are passed on as they are, not copied.

    Raises TooManyItems when its arrays have more than `max_items`.
    """
    encoder = _response_encoders.get((api_key, version))
    if encoder is None:
        encoder = _make_encoder(_response_encoders, api_key, version, "response")
    return encoder(message, max_items)


def request_header_version(api_key: int, version: int) -> int:
    """2 for flexible versions, else 1; also 1 for APIs that we have no schema of."""
    schema = API_SCHEMAS.get(api_key)
    return 2 if schema is not None and version >= schema.first_flexible else 1


def response_header_version(api_key: int, version: int) -> int:
    """1 for flexible versions, else 0; always 0 for ApiVersions, read before the client knows our versions."""
    schema = API_SCHEMAS.get(api_key)
    if schema is None or api_key == API_VERSIONS_KEY:
        return 0
    return 1 if version >= schema.first_flexible else 0


def message_class(api_key: int, kind: str) -> type[Message]:
    """The class of an API's "request" or "response". Raises KeyError for an unknown key."""
    name = API_SCHEMAS[api_key].name
    module = import_module(f"pg_kafka.wire.messages.{name}")
    camel = "".join(part.capitalize() for part in name.split("_"))
    cls: type[Message] = getattr(module, camel + kind.capitalize())
    return cls


def _decode(decoder: Decoder, body: bytes | memoryview, offset: int, max_items: int) -> Any:
    try:
        return decoder(body, offset, max_items)
    except (IndexError, struct.error):
        raise MalformedRequest("the message ends too early") from None


def _schema(api_key: int, version: int) -> ApiSchema | None:
    schema = API_SCHEMAS.get(api_key)
    if schema is None or not schema.first_version <= version <= schema.last_version:
        return None
    return schema


def _make_decoder(known: dict[tuple[int, int], Decoder], api_key: int, version: int, kind: str) -> Decoder:
    schema = _schema(api_key, version)
    if schema is None:
        raise MalformedRequest(f"no schema for version {version} of API {api_key}")
    is_flexible = version >= schema.first_flexible
    fills = kind == "response"
    decoder = compile_decoder(message_class(api_key, kind), version, is_flexible, fills=fills)
    if api_key == PRODUCE_KEY and kind == "request":
        decoder = RequestReader(version, decoder, read_uuid)
    return known.setdefault((api_key, version), decoder)


def _make_encoder(known: dict[tuple[int, int], Encoder], api_key: int, version: int, kind: str) -> Encoder:
    schema = _schema(api_key, version)
    if schema is None:
        raise ValueError(f"no schema for version {version} of API {api_key}")
    encoder = compile_encoder(message_class(api_key, kind), version, version >= schema.first_flexible)
    return known.setdefault((api_key, version), encoder)
