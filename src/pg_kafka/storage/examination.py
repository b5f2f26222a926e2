"""What a database says of itself before a broker uses it; nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from pg_kafka.config.load import Stored
from pg_kafka.errors import StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.migrate import SCHEMA_VERSION
from pg_kafka.storage.sessions import CONNECTION_ERRORS, describe
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("settings")
MIGRATE_SQL = queries.load("migrate")

PROXY_TIMEOUT_S = 15.0


class TooManyConnections(StorageError):
    """The database has no room for another session."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A database: facts about its server, and what there is of the schema."""

    server: Mapping[str, Any]  # empty when the schema is somebody else's, which we may have no rights in
    has_schema: bool  # a schema "kafka"
    has_cluster: bool  # it is ours
    schema_version: int | None = None
    settings: tuple[Stored, ...] = ()  # stored ones, when the schema is of this program's version


async def is_pooled(dsn: str) -> bool:
    """Does something between us and PostgreSQL hand one session to several clients?

    Client A takes a session lock; client B opens a transaction, which a transaction-pooling proxy may put on A's backend.
    Then A is asked whether its backend is still the one that holds the lock. Raises StorageError.
    """
    number = -random.randint(1, 2**31 - 1)  # negative: never a number of kafka.lock_ids
    try:
        async with asyncio.timeout(PROXY_TIMEOUT_S), contextlib.AsyncExitStack() as clients:
            a = await sessions.dial(dsn, "check", statement_cache_size=0)
            clients.callback(a.terminate)
            b = await sessions.dial(dsn, "check", statement_cache_size=0)
            clients.callback(b.terminate)
            pid = await a.fetchval(SQL["backend_pid"])
            await a.fetchval(SQL["try_lock"], number)
            async with b.transaction():
                is_shared: bool = await b.fetchval(SQL["backend_pid"]) == pid
                if is_shared:
                    # The proxy may have no second backend for A while B's transaction is open: ask A nothing more.
                    await b.fetchval(SQL["unlock"], number)
                else:
                    is_shared = await a.fetchval(SQL["backend_pid"]) != pid
                    is_shared = is_shared or not await a.fetchval(SQL["holds_lock"], number)
            if not is_shared:
                await a.fetchval(SQL["unlock"], number)
            return is_shared
    except asyncpg.TooManyConnectionsError as error:
        raise TooManyConnections(True, ErrorCode.KAFKA_STORAGE_ERROR, describe(error)) from error
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise StorageError(True, ErrorCode.KAFKA_STORAGE_ERROR, describe(error)) from error


async def server_facts(dsn: str) -> Mapping[str, Any]:
    """Limits of connections, durability settings and rights, by the names of the query. Raises StorageError."""
    async with sessions.opened(dsn, "check") as connection:
        return dict(await sessions.only_row(connection, SQL["server"]))


async def stored_settings(dsn: str) -> list[Stored]:
    """The settings that kafka.set_config() has stored. Raises StorageError."""
    async with sessions.opened(dsn, "settings") as connection:
        return await _settings(connection)


async def examine(dsn: str) -> Examined:
    """All of it, also when there is no schema. Raises StorageError."""
    async with sessions.opened(dsn, "doctor") as connection:
        await connection.execute(SQL["lock_timeout"])
        state = await sessions.only_row(connection, MIGRATE_SQL["schema_state"])
        if state["has_schema"] and not state["has_cluster"]:
            return Examined({}, True, False)
        server = dict(await sessions.only_row(connection, SQL["server"]))
        if not state["has_schema"]:
            return Examined(server, False, False)
        version = await connection.fetchval(SQL["schema_version"])
        settings = await _settings(connection) if version == SCHEMA_VERSION else []
        return Examined(server, True, True, version, tuple(settings))


async def _settings(connection: asyncpg.Connection) -> list[Stored]:
    return [Stored(row["name"], row["value"], row["node_id"]) for row in await connection.fetch(SQL["stored"])]
