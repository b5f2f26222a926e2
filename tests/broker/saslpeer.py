"""A raw client that logs in step by step, and a broker in the test's process with a listener that asks for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
from aiokafka.conn import ScramAuthenticator
from tests.broker.inside import Inside, running
from tests.broker.rawclient import TIMEOUT_S, RawClient
from tests.postgres import PostgresServer

from pg_kafka.app import Seams
from pg_kafka.config.listeners import Endpoints, ProtocolMap
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataResponse
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse

METADATA, HANDSHAKE, API_VERSIONS, AUTHENTICATE = 3, 17, 18, 36
ALL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass
class SaslBroker:
    """Where its listeners are: one for everybody, one that asks."""

    inside: Inside
    host: str
    port: int
    open_port: int

    async def sql(self, statement: str, *arguments: Any) -> Any:
        connection = await asyncpg.connect(self.inside.term._dsn)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def knows(self, name: str) -> None:
        """Wait until a user that was just made can log in."""
        users = self.inside.term._logins.users  # type: ignore[union-attr]
        async with asyncio.timeout(TIMEOUT_S):
            while not any(known == name for known, _ in users._keys):
                self.inside.term._logins.look_soon()  # type: ignore[union-attr]
                await asyncio.sleep(0.01)

    async def create_user(self, name: str, password: str) -> None:
        await self.sql("SELECT kafka.create_user($1, $2)", name, password)
        await self.knows(name)


@contextlib.asynccontextmanager
async def sasl_broker(
    postgres: PostgresServer, seams: Seams | None = None, **settings: Any
) -> AsyncIterator[SaslBroker]:
    more = {
        "listeners": Endpoints.parse("PLAINTEXT://127.0.0.1:0,SASL://127.0.0.1:0"),
        "listener_security_protocol_map": ProtocolMap.parse("SASL:SASL_PLAINTEXT"),
        "sasl_enabled_mechanisms": ALL,
        **settings,
    }
    async with running(postgres, seams or Seams(), **more) as inside:
        (_, open_port), (host, port) = (listener.address for listener in inside.term.listeners)
        yield SaslBroker(inside, host, port, open_port)


class SaslPeer(RawClient):
    """One connection."""

    @staticmethod
    async def connect(broker: Any) -> SaslPeer:
        reader, writer = await asyncio.open_connection(broker.host, broker.port, limit=2**27)
        return SaslPeer(reader, writer)

    async def __aenter__(self) -> SaslPeer:
        return self

    async def handshake(self, mechanism: str, version: int = 1) -> SaslHandshakeResponse:
        response: SaslHandshakeResponse = await self.call(SaslHandshakeRequest(mechanism=mechanism), HANDSHAKE, version)
        return response

    def send_token(self, token: bytes, version: int = 2) -> int:
        return self.send(SaslAuthenticateRequest(auth_bytes=token), AUTHENTICATE, version)

    async def token(self, token: bytes, version: int = 2) -> SaslAuthenticateResponse:
        correlation_id = self.send_token(token, version)
        response: SaslAuthenticateResponse = await self.receive(AUTHENTICATE, version, correlation_id)
        return response

    async def raw_token(self, token: bytes) -> bytes:
        """As after SaslHandshake version 0: nothing but a size around it."""
        self.writer.write(len(token).to_bytes(4) + token)
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4)))

    async def plain(self, name: str, password: str) -> SaslAuthenticateResponse:
        await self.handshake("PLAIN")
        return await self.token(f"\0{name}\0{password}".encode())

    async def scram(self, name: str, password: str, mechanism: str = "SCRAM-SHA-512") -> SaslAuthenticateResponse:
        """The last answer; the server's signature is checked."""
        handshake = await self.handshake(mechanism)
        assert handshake.error_code == 0
        client = scram_client(name, password, mechanism)
        first = await self.token(client.first_message().encode())
        if first.error_code:
            return first
        client.process_server_first_message(first.auth_bytes.decode())
        last = await self.token(client.final_message().encode())
        if not last.error_code:
            client.process_server_final_message(last.auth_bytes.decode())
        return last

    async def metadata(self) -> MetadataResponse:
        response: MetadataResponse = await self.call(MetadataRequest(topics=[]), METADATA, 9)
        return response

    async def versions(self) -> Any:
        request = ApiVersionsRequest(client_software_name="raw", client_software_version="1")
        return await self.call(request, API_VERSIONS, 3)


def scram_client(name: str, password: str, mechanism: str = "SCRAM-SHA-512") -> ScramAuthenticator:
    return ScramAuthenticator(
        loop=None, sasl_plain_username=name, sasl_plain_password=password, sasl_mechanism=mechanism
    )
