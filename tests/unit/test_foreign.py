"""Other protocols are recognised by their first bytes, and Kafka's is never taken for one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.foreign import ENOUGH_BYTES, looks_like
from pg_kafka.wire.frames import RequestHeader, encode_request_header

OTHERS = {
    "TLS": bytes.fromhex("1603010200010001fc0303"),
    "TLS 1.0 record": bytes.fromhex("16030000f5010000f10301"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: broker",
    "HTTP POST": b"POST /topics HTTP/1.1",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM",
    "SSH": b"SSH-2.0-OpenSSH_9.2",
    "PostgreSQL SSLRequest": struct.pack(">ii", 8, 80877103),
    "PostgreSQL GSSENCRequest": struct.pack(">ii", 8, 80877104),
    "PostgreSQL CancelRequest": struct.pack(">iiii", 16, 80877102, 1, 2),
    "PostgreSQL start-up": struct.pack(">ii", 40, 3 << 16) + b"user\0somebody\0database\0d\0\0",
    "PostgreSQL 18 start-up": struct.pack(">ii", 40, (3 << 16) + 2) + b"database\0d\0user\0somebody\0\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_protocols(name: str) -> None:
    found = looks_like(OTHERS[name][:ENOUGH_BYTES])
    assert found is not None
    assert f" {name.split()[0].split('/')[0]} " in found


@pytest.mark.parametrize("name", OTHERS)
def test_what_arrives_in_pieces_is_recognised_once_there_is_enough(name: str) -> None:
    answers = [looks_like(OTHERS[name][:length]) for length in range(ENOUGH_BYTES + 1)]
    known = [answer for answer in answers if answer is not None]
    assert known
    assert answers == [None] * (len(answers) - len(known)) + [known[0]] * len(known)


@given(
    key=st.sampled_from(sorted(APIS)),
    version=st.integers(0, 20),
    correlation_id=st.integers(0, 1_000_000),
    client_id=st.one_of(st.none(), st.text(max_size=30)),
    size=st.integers(0, 100 << 20),
)
def test_kafka_is_not_another(key: int, version: int, correlation_id: int, client_id: str | None, size: int) -> None:
    head = encode_request_header(RequestHeader(key, version, correlation_id, client_id))
    start = struct.pack(">i", len(head) + size) + head
    for length in range(ENOUGH_BYTES + 1):
        assert looks_like(start[:length]) is None
