"""Systems for the tests of SQL sessions: brokers on a PostgreSQL that flushes and may be killed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.clients.agents import JavaClient
from tests.crash.servers import Given, Server, WithStandby
from tests.kafka_reference import ToolMissing
from tests.postgres import FLAVOURS


def _server() -> Server:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    return Server(deadlock_timeout="100ms")


@pytest.fixture
async def one_broker() -> AsyncIterator[Given]:
    """A broker that serves."""
    async with _serving(Given(server=_server())) as system:
        yield system


@pytest.fixture
async def proxied_broker() -> AsyncIterator[Given]:
    """A broker that serves, and reaches its database through a proxy."""
    async with _serving(Given(through_proxy=True, server=_server())) as system:
        yield system


@contextlib.asynccontextmanager
async def _serving(system: Given) -> AsyncIterator[Given]:
    await system.open()
    try:
        await system.serving()
        yield system
    finally:
        await system.close()


@pytest.fixture
async def two_brokers() -> AsyncIterator[WithStandby]:
    """A broker that serves and one that waits, behind one address."""
    system = WithStandby(server=_server())
    await system.open()
    try:
        await system.serving()
        system.brokers[1].start()
        await system.brokers[1].waits(60)
        yield system
    finally:
        await system.close()


@pytest.fixture
def java() -> Iterator[JavaClient | None]:
    """None where there is no Java."""
    try:
        client = JavaClient()
    except ToolMissing:
        yield None
        return
    yield client
    client.stop()
