"""PostgreSQL's roles as users of a broker: they log in by PLAIN, and are cut off when PostgreSQL lets them in no longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.broker.command import Serving
from tests.broker.saslpeer import SaslPeer
from tests.postgres import embedded_dsn

from pg_kafka.storage import sessions
from pg_kafka.wire.error_codes import ErrorCode

WRONG = "Authentication failed: Invalid username or password"


@contextlib.asynccontextmanager
async def peer_of(host: str, port: int) -> AsyncIterator[SaslPeer]:
    reader, writer = await asyncio.open_connection(host, port)
    async with SaslPeer(reader, writer) as peer:
        yield peer


class Embedded:
    """A broker with an embedded PostgreSQL, as a user starts it."""

    def __init__(self, serving: Serving, dsn: str) -> None:
        self.host, self.port = serving.host, serving.port
        self._dsn = dsn

    async def sql(self, statement: str) -> None:
        async with sessions.opened(self._dsn, "test") as connection:
            await connection.execute(statement)


@pytest.fixture
async def embedded(embedded_folder: Path) -> AsyncIterator[Embedded]:
    data = embedded_folder / "data"
    settings = {
        "LISTENERS": "SASL://127.0.0.1:0",
        "LISTENER_SECURITY_PROTOCOL_MAP": "SASL:SASL_PLAINTEXT",
        "SASL_ENABLED_MECHANISMS": "PLAIN",
        "LISTENER_NAME_SASL_PG_KAFKA_USERS": "roles",
    }
    with Serving("--data", str(data), settings=settings) as serving:
        await asyncio.to_thread(serving.ready)
        dsn = embedded_dsn(data)
        assert dsn is not None
        yield Embedded(serving, dsn)


async def test_a_role_of_the_embedded_postgresql(embedded: Embedded) -> None:
    await embedded.sql("CREATE ROLE alice LOGIN PASSWORD 'right'")
    async with peer_of(embedded.host, embedded.port) as peer:
        assert (await peer.plain("alice", "right")).error_code == ErrorCode.NONE
        assert (await peer.metadata()).brokers
        for name, password in [("alice", "wrong"), ("nobody", "right"), ("postgres", "right")]:
            async with peer_of(embedded.host, embedded.port) as stranger:
                answer = await stranger.plain(name, password)
                assert (answer.error_code, answer.error_message) == (ErrorCode.SASL_AUTHENTICATION_FAILED, WRONG)
        await embedded.sql("ALTER ROLE alice PASSWORD 'other'")
        await closed(peer)
    async with peer_of(embedded.host, embedded.port) as peer:
        assert (await peer.plain("alice", "right")).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
    async with peer_of(embedded.host, embedded.port) as peer:
        assert (await peer.plain("alice", "other")).error_code == ErrorCode.NONE
        await embedded.sql("DROP ROLE alice")
        await closed(peer)


async def closed(peer: SaslPeer) -> None:
    async with asyncio.timeout(20):
        assert await peer.reader.read() == b""
