"""Users as a person manages them (`pg-kafka users`): by the functions that SQL has for it, with keys instead of passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg

from pg_kafka.errors import FatalError
from pg_kafka.security.scram import Keys, Mechanism, verifier
from pg_kafka.storage import queries, sessions

SQL = queries.load("users")


class Account(NamedTuple):
    """A row of kafka.users."""

    name: str
    mechanism: str
    iterations: int
    changed_at: datetime


async def accounts(dsn: str) -> list[Account]:
    """All of them. Raises FatalError, StorageError."""
    async with _opened(dsn) as connection:
        return [Account(*row) for row in await connection.fetch(SQL["listed"])]


async def create(dsn: str, name: str, keys: Sequence[tuple[Mechanism, Keys]]) -> None:
    """Raises FatalError, StorageError."""
    await _set(dsn, "create_user", name, keys)


async def alter(dsn: str, name: str, keys: Sequence[tuple[Mechanism, Keys]]) -> None:
    """These are the only keys of the user afterwards. Raises FatalError, StorageError."""
    await _set(dsn, "alter_user", name, keys)


async def drop(dsn: str, name: str, mechanism: Mechanism | None) -> None:
    """A user, or one mechanism of it. Raises FatalError, StorageError."""
    async with _opened(dsn) as connection:
        await connection.execute(SQL["drop_user"], name, None if mechanism is None else mechanism.name)


async def _set(dsn: str, statement: str, name: str, keys: Sequence[tuple[Mechanism, Keys]]) -> None:
    (first, first_keys), *others = keys
    async with _opened(dsn) as connection, connection.transaction():
        await connection.execute(SQL[statement], name, verifier(first, first_keys), None)
        for mechanism, more in others:
            await connection.execute(SQL["alter_user"], name, verifier(mechanism, more), mechanism.name)


@asynccontextmanager
async def _opened(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with sessions.opened(dsn, "users") as connection:
        try:
            yield connection
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError) as error:
            raise FatalError(
                "the database has no users of pg_kafka yet: pg-kafka migrate makes room for them"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise FatalError(f"this role of the database may not do that: {error}") from error
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.PostgresConnectionError):
                raise
            raise FatalError(str(error)) from error
