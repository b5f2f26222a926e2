"""Clients that speak something else, or want to authenticate: one line in the log tells what to do."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import confluent_kafka.admin
import pytest
from tests.broker.rawclient import RawClient

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 17, 18, 36
SECRET = "secret-of-the-client"
PLAIN = "set security.protocol=PLAINTEXT in the client"


def lines_of(broker: Any, words: str) -> list[str]:
    return [line for line in broker.log.read_text().splitlines() if words in line]


def librdkafka(broker: Any, **settings: str) -> list[str]:
    """What a client of librdkafka is told until it gives up."""
    errors: list[str] = []
    client = confluent_kafka.admin.AdminClient(
        {
            "bootstrap.servers": f"{broker.host}:{broker.port}",
            "error_cb": lambda error: errors.append(error.str()),
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
    )
    with pytest.raises(confluent_kafka.KafkaException):
        client.list_topics(timeout=3)
    client.poll(0)
    return errors


def test_tls_client(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    context = ssl.create_default_context()
    with pytest.raises(OSError), _connected(broker) as connection:
        context.wrap_socket(connection, server_hostname="broker")
    librdkafka(broker, security_protocol="SSL")
    (line, *_) = lines_of(broker, "this looks like a TLS handshake")
    assert "level=warning" in line
    assert PLAIN in line
    assert "peer=127.0.0.1" in line


def _connected(broker: Any) -> Any:

    return socket.create_connection((broker.host, broker.port), timeout=10)


def test_http_request(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    for _ in range(3):
        client = http.client.HTTPConnection(broker.host, broker.port, timeout=10)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            client.request("POST", "/topics/orders", body="{}")
            client.getresponse()
    (line, *_) = lines_of(broker, "this looks like an HTTP request")
    assert "level=warning" in line


async def test_postgresql_client(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    for mode in ("disable", "require"):
        with pytest.raises((OSError, asyncpg.PostgresError, asyncio.IncompleteReadError)):
            await asyncpg.connect(
                host=broker.host, port=broker.port, user="somebody", database="orders", ssl=mode, timeout=10
            )
    (line, *_) = lines_of(broker, "this looks like a PostgreSQL client")
    assert "level=warning" in line


def test_librdkafka_that_wants_to_authenticate(start_broker: Callable[..., Any]) -> None:
    broker = start_broker()
    errors = librdkafka(
        broker,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanisms="PLAIN",
        sasl_username="somebody",
        sasl_password=SECRET,
    )
    assert any("SASL" in error for error in errors), errors
    (line, *_) = lines_of(broker, "client wants to authenticate")
    assert "level=warning" in line
    assert "PLAIN" in line
    assert PLAIN in line
    assert SECRET not in broker.log.read_text()


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


async def test_authentication_is_refused_and_the_connection_stays(client: RawClient) -> None:
    for version in (0, 1):
        answer = await client.call(SaslHandshakeRequest(mechanism="PLAIN"), SASL_HANDSHAKE, version)
        assert (answer.error_code, answer.mechanisms) == (ErrorCode.ILLEGAL_SASL_STATE, ())
    for version in (0, 1, 2):
        request = SaslAuthenticateRequest(auth_bytes=b"\0somebody\0" + SECRET.encode())
        answer = await client.call(request, SASL_AUTHENTICATE, version)
        assert (answer.error_code, answer.auth_bytes) == (ErrorCode.ILLEGAL_SASL_STATE, b"")
        assert PLAIN in answer.error_message
    assert (await client.call(ApiVersionsRequest(), API_VERSIONS, 2)).error_code == 0


async def test_a_request_that_arrives_byte_by_byte_is_kafkas(client: RawClient) -> None:
    head = struct.pack(">hhih", API_VERSIONS, 0, 7, -1)
    for byte in struct.pack(">i", len(head)) + head:
        client.writer.write(bytes((byte,)))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.receive(API_VERSIONS, 0, 7)).error_code == 0
