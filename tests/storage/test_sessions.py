"""Sessions keep what durability and the fence rest on, whatever the server's defaults are and become."""

import asyncio
import socket
from typing import Any

import asyncpg
import pytest
from tests.postgres import Database, PostgresServer

from pg_kafka import checks
from pg_kafka.config import Config
from pg_kafka.storage import sessions

WEAK = {
    "synchronous_commit": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "50ms",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "search_path": "nowhere",
    "backend_flush_after": "0",
    "client_min_messages": "error",
}
STRONG = {
    "synchronous_commit": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "search_path": "pg_catalog, pg_temp",
    "backend_flush_after": "2MB",
    "client_min_messages": "warning",
}


async def shown(connection: asyncpg.Connection, names: Any) -> dict[str, str]:
    return {name: await connection.fetchval(f"SHOW {name}") for name in names}


async def test_defaults_of_the_role_weaken_nothing(postgres_server: PostgresServer, pg_database: Database) -> None:
    for name, value in WEAK.items():
        postgres_server.sql(f"ALTER ROLE {pg_database.name} SET {name} = '{value}'")
    async with sessions.opened(pg_database.dsn, "test") as connection:
        assert await shown(connection, STRONG) == STRONG
        await asyncio.sleep(0.1)
        assert await connection.fetchval("SELECT 1") == 1
    await checks.refuse_pooling_proxy(pg_database.dsn, Config(database=pg_database.dsn))


@pytest.mark.parametrize("configured", ["on", "remote_apply"])
async def test_a_reload_of_the_configuration_weakens_nothing(make_postgres: Any, configured: str) -> None:
    server: PostgresServer = make_postgres("postgresql-15")
    database = server.create_database()
    server.sql(f"ALTER SYSTEM SET synchronous_commit = '{configured}'; SELECT pg_reload_conf();")
    await asyncio.sleep(0.2)
    async with sessions.opened(database.dsn, "test") as connection:
        server.sql(
            "".join(f"ALTER SYSTEM SET {name} = '{value}';" for name, value in WEAK.items() if name != "search_path")
            + "SELECT pg_reload_conf();"
        )
        await asyncio.sleep(0.3)
        assert await shown(connection, STRONG) == STRONG | {"synchronous_commit": configured}
    server.destroy()


async def test_dead_network_is_noticed_on_our_side_too(postgres_server: PostgresServer, pg_database: Database) -> None:
    name = pg_database.name
    dsn = f"postgresql://{name}:{postgres_server.password}@127.0.0.1:{postgres_server.port}/{name}"
    async with sessions.opened(dsn, "test") as connection:
        mine: socket.socket = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert await connection.fetchval("SHOW tcp_user_timeout") == "10000"
