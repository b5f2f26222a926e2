"""kafka.produce() in a process that is no client's: the one that applies what logical replication brings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from tests.postgres import PostgresServer
from tests.storage.log_rows import add_topic, connect_migrated
from tests.storage.test_produce import outbox


@pytest.mark.parametrize("flavour", ["postgresql-15", "embedded"])
async def test_a_trigger_on_a_replicated_table_produces(
    make_postgres: Callable[..., PostgresServer], flavour: str
) -> None:
    server = make_postgres(flavour, settings={"wal_level": "logical"})
    databases = [server.create_database() for _ in range(2)]
    source, target = [await asyncpg.connect(database.superuser_dsn) for database in databases]
    db = await connect_migrated(databases[1].dsn)
    try:
        await add_topic(db, "orders")
        await source.execute("CREATE TABLE t (n integer PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        await source.execute("SELECT pg_create_logical_replication_slot('produce', 'pgoutput')")
        await db.execute("""
            CREATE SCHEMA app;
            CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM kafka.produce('orders', NEW.n::text); RETURN NULL; END $$
        """)
        await target.execute("CREATE TABLE t (n integer PRIMARY KEY)")
        await target.execute(f"ALTER TABLE t OWNER TO {databases[1].name}")
        await target.execute("CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION app.note()")
        await target.execute("ALTER TABLE t ENABLE ALWAYS TRIGGER note")
        place = f"host={server.socket_folder} port={server.port} user=postgres dbname={databases[0].name}"
        await target.execute(f"""
            CREATE SUBSCRIPTION s CONNECTION '{place}'
            PUBLICATION p WITH (create_slot = false, slot_name = 'produce', copy_data = false)
        """)
        await source.execute("INSERT INTO t VALUES (1), (2)")
        await source.execute("INSERT INTO t VALUES (3)")
        async with asyncio.timeout(60):
            while len(await outbox(db)) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [row["values"] for row in await outbox(db)] == [[b"1"], [b"2"], [b"3"]]
    finally:
        if await target.fetchval("SELECT count(*) FROM pg_subscription"):
            await target.execute("ALTER SUBSCRIPTION s DISABLE")
            await target.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            await target.execute("DROP SUBSCRIPTION s")
        for connection in (source, target, db):
            await connection.close()
