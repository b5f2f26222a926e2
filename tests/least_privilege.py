"""A database whose broker has a role of its own, with no right but those that it needs (docs/security.md).

A module that imports `role` and `pg_dsn` runs its tests, also those that it imports, as such a role.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
from tests.postgres import Database, PostgresServer

from pg_kafka.storage import sessions
from pg_kafka.storage.migrate import grant_broker, migrate


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[str]:
    """A name, for a role that is gone after its database."""
    name = f"broker_{secrets.token_hex(4)}"
    yield name
    postgres_server.sql(f"DROP ROLE IF EXISTS {name};")


@pytest.fixture
def pg_dsn(role: str, postgres_server: PostgresServer, pg_database: Database) -> str:
    """The address by which a broker with this role, which is made here, uses the database."""
    postgres_server.sql(
        f"CREATE ROLE {role} LOGIN NOINHERIT PASSWORD '{postgres_server.password}'; GRANT {role} TO {pg_database.name};"
    )
    asyncio.run(_prepare(pg_database.dsn, role))
    return postgres_server.dsn(pg_database.name, role)


async def _prepare(owner_dsn: str, role: str) -> None:
    """Migrate as the owner, and give the role the rights of a broker."""
    async with sessions.opened(owner_dsn, "migrate", timeout_s=None) as connection:
        await migrate(connection, compression="none")  # as most tests of storage have it
        await grant_broker(connection, role)
