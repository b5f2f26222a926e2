"""Defaults of a role and its database that people set for reasons of their own: the broker and SQL users get on with them."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.postgres import Database, PostgresServer
from tests.storage.janitors import janitor_of
from tests.storage.leader import leading
from tests.wire_batches import batch

from pg_kafka.errors import FatalError
from pg_kafka.storage import sessions

# By what they change. lc_messages and the like ask for a superuser; languages of errors are a unit test of their own.
DEFAULTS = {
    "strings": {
        "standard_conforming_strings": "off",
        "backslash_quote": "off",
        "escape_string_warning": "on",
        "quote_all_identifiers": "on",
        "bytea_output": "escape",
        "xmloption": "document",
        "array_nulls": "off",
        "client_encoding": "LATIN1",
        "client_min_messages": "error",
    },
    "times and numbers": {
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "sql_standard",
        "TimeZone": "Pacific/Apia",
        "extra_float_digits": "-15",
        "transform_null_equals": "on",
    },
    "tables": {
        "default_toast_compression": "pglz",
        "check_function_bodies": "on",
        "vacuum_freeze_min_age": "1000000",
        "vacuum_cost_delay": "1",
        "work_mem": "64kB",
        "temp_buffers": "800kB",
    },
    "plans": {
        "enable_indexscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_sort": "off",
        "enable_partition_pruning": "off",
        "constraint_exclusion": "off",
        "from_collapse_limit": "1",
        "join_collapse_limit": "1",
        "plan_cache_mode": "force_generic_plan",
        "jit": "on",
        "jit_above_cost": "0",
        "geqo_threshold": "2",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "min_parallel_table_scan_size": "0",
    },
    "sessions": {
        "search_path": "nowhere",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
        "row_security": "off",
    },
}


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
async def test_any_defaults_will_do(postgres_server: PostgresServer, pg_database: Database, kind: str) -> None:
    name = pg_database.name
    for place in (f"ROLE {name}", f"DATABASE {name}"):
        postgres_server.sql("".join(f"ALTER {place} SET {key} = '{value}';" for key, value in DEFAULTS[kind].items()))
    await works(pg_database.dsn)


async def works(dsn: str) -> None:
    """Write and read through the broker's storage, and by SQL with the defaults as they are."""
    async with leading(dsn) as leader:
        topic = await leader.topic("orders", 2)
        janitor = janitor_of(
            dsn,
            leader.log,
            owner=leader.log.node_id,
            segment_bytes=1 << 40,
            segment_ms=1 << 40,
            compression="auto",
            journal_bytes=0,
        )
        await janitor.start()
        partition = await leader.partition(topic)
        records = [(b"k\\", '{"ö": "\\\\\'", "n": null}'.encode(), 1_700_000_000_000, [("h\\'", b"\\x\x00")])]
        assert (await leader.append(partition, batch(records))).base_offset == 0
        assert (await leader.append(partition, batch([(None, None, 1_700_000_000_001, ())]))).base_offset == 1
        assert len(await leader.log.read(partition, 0, 1 << 20)) == 2
        assert await leader.log.offset_for_timestamp(partition, 1_700_000_000_001) == (1, 1_700_000_000_001, 1)
        user = await asyncpg.connect(dsn)
        try:
            async with asyncio.timeout(30):
                while not await user.fetchval("SELECT bool_and(view_name IS NOT NULL) FROM kafka.topics"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert not janitor.failures
            for relation in ("kafka.messages", "topics.orders", "kafka.read('orders', 0, 0, 10)"):
                rows = await user.fetch(
                    "SELECT kafka.as_text(key) AS key, kafka.as_json(value)::text AS json, kafka.as_text(value) AS value,"
                    f" headers, extract(epoch FROM timestamp)::bigint AS at FROM {relation} ORDER BY partition_offset"
                )
                assert [tuple(row) for row in rows] == [
                    (
                        "k\\",
                        '{"n": null, "ö": "\\\\\'"}',
                        records[0][1].decode(),
                        [("h\\'", b"\\x\x00")],
                        1_700_000_000,
                    ),
                    (None, None, None, None, 1_700_000_000),
                ]
            for view in ("consumer_lag", "groups", "transactions", "consumer_offsets", "all_messages", "group_history"):
                await user.fetch(f"SELECT * FROM kafka.{view}")
            with pytest.raises(asyncpg.UndefinedObjectError):
                await user.fetch("SELECT * FROM kafka.read('nope', 0, 0, 1)")
        finally:
            await user.close()
            await janitor.stop()


async def test_role_that_becomes_another_one_will_do(postgres_server: PostgresServer, pg_database: Database) -> None:
    name = pg_database.name
    owner = f"{name}_owner"
    postgres_server.sql(
        f"CREATE ROLE {owner}; GRANT {owner} TO {name}; ALTER ROLE {name} SET role = '{owner}';"
        f"GRANT CREATE ON DATABASE {name} TO {owner};"
    )
    try:
        await works(pg_database.dsn)
    finally:
        postgres_server.sql(f"DROP OWNED BY {owner} CASCADE", name)
        postgres_server.sql(f"DROP ROLE {owner}")


async def test_role_without_triggers_is_refused(postgres_server: PostgresServer, pg_database: Database) -> None:
    postgres_server.sql(f"ALTER ROLE {pg_database.name} SET session_replication_role = 'replica'")
    with pytest.raises(FatalError, match="session_replication_role = replica, but pg_kafka needs origin"):
        async with sessions.opened(pg_database.dsn, "test"):
            pass


async def test_statement_that_is_wrong_is_not_called_a_database_that_does_not_answer(pg_dsn: str) -> None:
    with pytest.raises(sessions.StorageError, match=r"^the database refused a statement: syntax error at or near"):
        async with sessions.opened(pg_dsn, "test") as connection:
            await connection.execute("SELEC 1")
