"""Who may produce: INSERT on a topic's view, and nothing else, says so."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.test_produce import BOTH, outbox, refused

PRODUCE = "SELECT kafka.produce('orders', 'v', 'k')"


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    await add_topic(connection, "orders")
    yield connection
    await connection.close()


@pytest.fixture
async def superuser(pg_superuser_dsn: str, db: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A session whose role is changed to that of an application, "<database>_app"."""
    connection = await asyncpg.connect(pg_superuser_dsn)
    name = await connection.fetchval("SELECT current_database() || '_app'")
    await connection.execute(f"CREATE ROLE {name}")
    yield connection
    await connection.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")
    await connection.close()


@pytest.fixture
async def app(superuser: asyncpg.Connection) -> str:
    name: str = await superuser.fetchval("SELECT current_database() || '_app'")
    return name


@BOTH
async def test_a_role_produces_to_the_topics_that_it_was_granted(
    db: asyncpg.Connection, superuser: asyncpg.Connection, app: str
) -> None:
    await add_topic(db, "secret")
    await superuser.execute(f"SET ROLE {app}")
    assert (await refused(superuser, PRODUCE)).sqlstate == "42501"
    await db.execute("SELECT kafka.grant_producer($1, 'orders')", app)
    await superuser.execute(PRODUCE)
    await superuser.execute("SELECT kafka.produce_many('orders', ARRAY['w'])")
    await superuser.execute("SELECT kafka.produce_record('orders', 'x', headers => ARRAY[ROW('h', 'v')::kafka.header])")
    await superuser.execute("INSERT INTO topics.orders (value) VALUES ('y')")
    assert [row["values"] for row in await outbox(db)] == [[b"v"], [b"w"], [b"x"], [b"y"]]
    error = await refused(superuser, "SELECT kafka.produce('secret', 'v')")
    assert error.sqlstate == "42501"
    # Its view is not there yet; what the hints say helps.
    assert getattr(error, "hint", None) == f"SELECT kafka.grant_producer('{app}', 'secret')"
    for table in ("outbox_0", "outbox_turn", "deduplication_0", "produce_limits"):
        assert (await refused(superuser, f"SELECT FROM kafka.{table}")).sqlstate == "42501"
    assert (await refused(superuser, "SELECT FROM topics.orders")).sqlstate == "42501"
    for inner in ("store_record('secret', 'v', NULL, NULL, NULL, NULL, NULL, NULL, true)", "rotate_deduplication()"):
        assert (await refused(superuser, f"SELECT kafka.{inner}")).sqlstate == "42501"
    await db.execute(str(getattr(error, "hint", None)))
    await superuser.execute("SELECT kafka.produce('secret', 'v')")
    await db.execute(f"REVOKE INSERT ON topics.secret FROM {app}")
    error = await refused(superuser, "SELECT kafka.produce('secret', 'v')")
    assert getattr(error, "hint", None) == f"GRANT INSERT ON topics.secret TO {app}"
    await db.execute(str(getattr(error, "hint", None)))
    await superuser.execute("SELECT kafka.produce('secret', 'v')")


async def test_all_topics_at_once_and_one_that_is_missing(
    db: asyncpg.Connection, superuser: asyncpg.Connection, app: str
) -> None:
    await add_topic(db, "invoices")
    await db.execute("SELECT kafka.create_topic_view(id) FROM kafka.topics")
    await db.execute("SELECT kafka.grant_producer($1)", app)
    await superuser.execute(f"SET ROLE {app}; {PRODUCE}; SELECT kafka.produce('invoices', 'v')")
    assert (await refused(db, "SELECT kafka.grant_producer($1, 'nothing')", app)).sqlstate == "KF001"
    assert len(await outbox(db)) == 2


async def test_who_may_read_may_not_produce(db: asyncpg.Connection, superuser: asyncpg.Connection, app: str) -> None:
    await db.execute("SELECT kafka.grant_producer($1, 'orders')", app)
    await db.execute(f"REVOKE INSERT ON topics.orders FROM {app}; GRANT SELECT ON topics.orders TO {app}")
    await superuser.execute(f"SET ROLE {app}")
    assert (await refused(superuser, PRODUCE)).sqlstate == "42501"
    assert (await refused(superuser, "INSERT INTO topics.orders (value) VALUES ('v')")).sqlstate == "42501"


async def test_a_new_topic_takes_records_before_its_view_is_there(
    db: asyncpg.Connection, superuser: asyncpg.Connection, app: str
) -> None:
    await db.execute("SELECT kafka.grant_producer($1)", app)
    await db.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA topics GRANT INSERT ON TABLES TO {app}")
    await db.execute(PRODUCE)
    assert await db.fetchval("SELECT view_name FROM kafka.topics") is None  # its owner needs none
    await superuser.execute(f"SET ROLE {app}; {PRODUCE}")
    assert await db.fetchval("SELECT view_name FROM kafka.topics") == "orders"
    await db.execute("DROP VIEW topics.orders")
    await superuser.execute(PRODUCE)
    assert len(await outbox(db)) == 3
    await db.execute("UPDATE kafka.topics SET name = '__internal', view_name = NULL")
    assert (await refused(superuser, "SELECT kafka.produce('__internal', 'v')")).sqlstate == "42501"


async def test_a_function_produces_in_the_name_of_its_owner_by_insert(
    db: asyncpg.Connection, superuser: asyncpg.Connection, app: str
) -> None:
    await db.execute("SELECT kafka.create_topic_view(id) FROM kafka.topics")
    await db.execute("""
        CREATE SCHEMA app;
        CREATE FUNCTION app.note() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
        AS $$ INSERT INTO topics.orders (value) VALUES ('noted') $$
    """)
    await db.execute(f"GRANT USAGE ON SCHEMA app TO {app}")
    with contextlib.suppress(asyncpg.PostgresError):
        await superuser.execute(f"SET ROLE {app}; {PRODUCE}")
    await superuser.execute(f"SET ROLE {app}; SELECT app.note()")
    assert [row["values"] for row in await outbox(db)] == [[b"noted"]]
