"""What a role that was granted nothing can do in the database, and how functions with the owner's rights protect themselves."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from tests.postgres import Database, PostgresServer
from tests.storage.log_rows import add_topic, connect_migrated

# Those that views contain: whoever reads a view is asked for them. They return no record and change nothing.
EVERYBODY_S = {
    "kafka.are_unpacked()",
    "kafka.as_json(bytea)",
    "kafka.broker_value(kafka.config_keys)",
    "kafka.config_fault(text,text,text)",
    "kafka.is_unpacked(bigint)",
    "kafka.json_as_bigint(jsonb)",
    "kafka.json_as_boolean(jsonb)",
    "kafka.json_as_date(jsonb)",
    "kafka.json_as_double(jsonb)",
    "kafka.json_as_integer(jsonb)",
    "kafka.json_as_numeric(jsonb)",
    "kafka.json_as_timestamptz(jsonb)",
    "kafka.json_as_uuid(jsonb)",
    "kafka.refuse_packed(bigint)",
}


@dataclass
class Two:
    owner: asyncpg.Connection
    stranger: asyncpg.Connection
    role: str


@pytest.fixture
async def two(postgres_server: PostgresServer, pg_database: Database) -> AsyncIterator[Two]:
    role = f"stranger_{secrets.token_hex(4)}"
    owner = await connect_migrated(pg_database.dsn)
    await add_topic(owner, "t")
    await owner.execute("SELECT kafka.create_topic_view(id) FROM kafka.topics")
    postgres_server.sql(f"CREATE ROLE {role} LOGIN;")
    stranger = await asyncpg.connect(postgres_server.dsn(pg_database.name, role))
    yield Two(owner, stranger, role)
    await stranger.close()
    await owner.close()
    postgres_server.sql(f"DROP OWNED BY {role}; DROP ROLE {role};", pg_database.name)


async def privileges(two: Two) -> dict[str, list[str]]:
    """What the stranger may do, by kind."""
    tables = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    return {
        "functions": sorted(
            row[0]
            for row in await two.owner.fetch(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'kafka'::regnamespace "
                "AND has_function_privilege($1::text, oid, 'EXECUTE')",
                two.role,
            )
        ),
        "relations": [
            row[0]
            for row in await two.owner.fetch(
                "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') "
                "AND relnamespace IN ('kafka'::regnamespace, 'topics'::regnamespace) "
                f"AND (has_table_privilege($1::text, oid, '{tables}') "
                "OR has_any_column_privilege($1::text, oid, 'SELECT, INSERT, UPDATE'))",
                two.role,
            )
        ],
        "sequences": [
            row[0]
            for row in await two.owner.fetch(
                "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND relnamespace = 'kafka'::regnamespace "
                "AND CASE relkind WHEN 'S' THEN has_sequence_privilege($1::text, oid, 'USAGE, SELECT, UPDATE') END",
                two.role,
            )
        ],
        "schemas": [
            row[0]
            for row in await two.owner.fetch(
                "SELECT nspname::text FROM pg_namespace WHERE nspname IN ('kafka', 'topics') "
                "AND has_schema_privilege($1::text, oid, 'USAGE, CREATE')",
                two.role,
            )
        ],
    }


async def test_stranger_has_the_functions_of_views_and_no_schema_to_find_them_in(two: Two) -> None:
    nothing: list[str] = []
    assert await privileges(two) == {
        "functions": sorted(EVERYBODY_S),
        "relations": nothing,
        "sequences": nothing,
        "schemas": nothing,
    }
    for statement in (
        "SELECT * FROM kafka.topics",
        'SELECT * FROM topics."t"',
        "SELECT kafka.is_unpacked(1)",
        "SELECT kafka.set_config('num.partitions', '3')",
        "SELECT nextval('kafka.lock_ids')",
        "CREATE TABLE kafka.mine (a int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await two.stranger.execute(statement)


async def test_functions_of_everybody_change_nothing(two: Two) -> None:
    """With USAGE on the schema, as every reader has it."""
    await two.owner.execute(f"GRANT USAGE ON SCHEMA kafka TO {two.role}")
    before = await snapshot(two.owner)
    assert await two.stranger.fetchval("SELECT kafka.is_unpacked(1) AND kafka.are_unpacked()")
    assert "unknown topic config" in await two.stranger.fetchval("SELECT kafka.config_fault('topic', 'x', 'y')")
    with pytest.raises(asyncpg.SerializationError):
        await two.stranger.execute("SELECT kafka.refuse_packed(1)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await two.stranger.execute("SELECT kafka.broker_value(k) FROM kafka.config_keys k")
    assert await snapshot(two.owner) == before


async def snapshot(db: asyncpg.Connection) -> dict[str, Any]:
    """The contents of all tables."""
    names = await db.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'kafka'::regnamespace"
    )
    return {row[0]: await db.fetchval(f"SELECT array_agg(t::text ORDER BY t::text) FROM {row[0]} t") for row in names}


async def test_functions_with_the_owner_s_rights_go_by_no_search_path_of_the_caller(two: Two) -> None:
    loose = await two.owner.fetch(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'kafka'::regnamespace AND prosecdef "
        "AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"
    )
    assert [row[0] for row in loose] == []


async def test_names_cannot_become_statements(two: Two) -> None:
    name = 't"; DROP TABLE kafka.topics; --'
    topic_id = await two.owner.fetchval("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 1) RETURNING id", name)
    view = await two.owner.fetchval("SELECT kafka.create_topic_view($1)", topic_id)
    assert view == name
    await two.owner.execute("SELECT kafka.touch_topic_view($1)", view)
    await two.owner.execute("SELECT kafka.grant_reader($1, $2)", two.role, name)
    await two.owner.execute("DELETE FROM kafka.topics WHERE id = $1", topic_id)
    assert await two.owner.fetchval("SELECT kafka.drop_topic_view($1)", view)
    for bad in ("log_0 SET SCHEMA topics; --", 'log_0"', "../log_0", "log_0_0_0"):
        with pytest.raises(asyncpg.UndefinedTableError):
            await two.owner.execute("SELECT kafka.adopt_table($1)", bad)
    assert await two.owner.fetchval("SELECT count(*) FROM kafka.topics") == 1
