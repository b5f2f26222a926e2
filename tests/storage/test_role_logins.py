"""Logins of PostgreSQL's roles, and what the broker's own session sees of roles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres import Database, PostgresServer

from pg_kafka.errors import StorageError
from pg_kafka.storage.role_logins import Outcome, Role, Roles, log_in


@pytest.fixture
def tcp_dsn(postgres_server: PostgresServer, pg_database: Database) -> str:
    """As the database's owner, by the way on which passwords are asked for."""
    return postgres_server.dsn(pg_database.name, pg_database.name, tcp=True)


@pytest.fixture
def role(postgres_server: PostgresServer, pg_database: Database) -> Iterator[str]:
    name = f"{pg_database.name}_alice"
    postgres_server.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
    yield name
    postgres_server.sql(f"DROP ROLE IF EXISTS {name}")


async def test_outcomes_of_logins(postgres_server: PostgresServer, tcp_dsn: str, role: str) -> None:
    assert await log_in(tcp_dsn, role, "right") is Outcome.PROVEN
    assert await log_in(tcp_dsn, role, "wrong") is Outcome.REFUSED
    assert await log_in(tcp_dsn, "pg_kafka_nobody", "right") is Outcome.REFUSED
    postgres_server.sql(f"ALTER ROLE {role} NOLOGIN")
    assert await log_in(tcp_dsn, role, "right") is Outcome.UNUSABLE
    assert await log_in(tcp_dsn, role, "wrong") is Outcome.REFUSED
    postgres_server.sql(f"ALTER ROLE {role} LOGIN VALID UNTIL '2000-01-01'")
    assert await log_in(tcp_dsn, role, "right") is Outcome.REFUSED


async def test_a_role_that_may_not_connect(
    postgres_server: PostgresServer, pg_database: Database, tcp_dsn: str, role: str
) -> None:
    postgres_server.sql(f"REVOKE CONNECT ON DATABASE {pg_database.name} FROM PUBLIC")
    assert await log_in(tcp_dsn, role, "right") is Outcome.REFUSED


async def test_where_no_password_is_asked_for(pg_dsn: str, role: str) -> None:
    """The test servers trust whoever comes by their socket."""
    assert await log_in(pg_dsn, role, "wrong") is Outcome.PROVEN
    assert await log_in(pg_dsn, "pg_kafka_nobody", "wrong") is Outcome.UNUSABLE


async def test_a_database_that_does_not_answer_is_no_refusal(postgres_server: PostgresServer, role: str) -> None:
    with pytest.raises(StorageError, match="does not say"):
        await log_in("postgresql://x@127.0.0.1:1/x", role, "right")
    postgres_server.sql(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    with pytest.raises(StorageError, match="too many connections"):
        await log_in(postgres_server.dsn("postgres", tcp=True), role, "right")


async def test_an_ordinary_role_sees_no_passwords(
    postgres_server: PostgresServer, pg_database: Database, role: str
) -> None:
    roles = Roles(pg_database.dsn)
    try:
        found = await roles.described([role, pg_database.name, "postgres", "pg_kafka_nobody"])
        assert sorted(found) == sorted([role, pg_database.name, "postgres"])
        one = found[role]
        assert one == Role(role, one.oid, True, False, False, False, None)
        assert one.is_usable
        assert found[pg_database.name].is_own and not found[pg_database.name].is_usable
        assert found["postgres"].is_superuser and not found["postgres"].is_usable
        postgres_server.sql(f"ALTER ROLE {role} PASSWORD 'other'")
        assert (await roles.described([role]))[role] == one
        postgres_server.sql(f"ALTER ROLE {role} VALID UNTIL '2000-01-01'")
        assert not (await roles.described([role]))[role].is_usable
        postgres_server.sql(f"ALTER ROLE {role} NOLOGIN VALID UNTIL 'infinity'")
        assert not (await roles.described([role]))[role].is_usable
    finally:
        await roles.close()


async def test_a_superuser_sees_that_a_password_has_changed(
    postgres_server: PostgresServer, pg_database: Database, role: str
) -> None:
    roles = Roles(pg_database.superuser_dsn)
    try:
        before = (await roles.described([role]))[role]
        assert before.password is not None and b"right" not in before.password
        postgres_server.sql(f"ALTER ROLE {role} PASSWORD 'other'")
        assert (await roles.described([role]))[role].password != before.password
    finally:
        await roles.close()


async def test_a_role_may_be_granted_to_see_that(
    postgres_server: PostgresServer, pg_database: Database, role: str
) -> None:
    postgres_server.sql(f"GRANT SELECT ON pg_authid TO {pg_database.name}", pg_database.name)
    roles = Roles(pg_database.dsn)
    try:
        assert (await roles.described([role]))[role].password is not None
    finally:
        await roles.close()
        postgres_server.sql(f"REVOKE SELECT ON pg_authid FROM {pg_database.name}", pg_database.name)


async def test_samples_are_roles_that_may_log_in(pg_database: Database, role: str) -> None:
    roles = Roles(pg_database.dsn)
    try:
        found = await roles.samples()
        assert 1 <= len(found) <= 3 and "postgres" not in found and pg_database.name not in found
    finally:
        await roles.close()


async def test_a_lost_session_is_opened_again(
    postgres_server: PostgresServer, pg_database: Database, role: str
) -> None:
    roles = Roles(pg_database.dsn)
    try:
        assert role in await roles.described([role])
        postgres_server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{pg_database.name}' AND application_name = 'pg_kafka roles'"
        )
        try:
            await roles.described([role])
        except StorageError:
            assert role in await roles.described([role])
    finally:
        await roles.close()
