"""The schema is made once, refuses what it cannot live on, and grants nothing to PUBLIC."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import connect_migrated
from tests.storage.test_strangers import EVERYBODY_S

from pg_kafka.errors import FatalError
from pg_kafka.storage import migrate as migrate_module
from pg_kafka.storage import queries
from pg_kafka.storage.migrate import SCHEMA_VERSION, check_server, migrate
from pg_kafka.wire._records import COLUMNS

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
USABLE = {
    "version_number": 150000,
    "version": "15.0",
    "is_in_recovery": False,
    "database": "d",
    "role": "r",
    "encoding": "UTF8",
}


async def connected(stack: contextlib.AsyncExitStack, dsn: str) -> asyncpg.Connection:
    """A connection that is closed with the stack, whatever fails."""
    connection = await asyncpg.connect(dsn)
    stack.push_async_callback(connection.close)
    return connection


@BOTH_SERVERS
async def test_an_ordinary_role_creates_everything_once(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    first = await connection.fetchrow("SELECT * FROM kafka.cluster")
    assert re.fullmatch(r"[\w-]{22}", first["cluster_id"])
    assert first["schema_version"] == SCHEMA_VERSION
    assert first["timeline"] == "00000001"
    assert await connection.fetchval("SELECT tableoid::regclass::text FROM kafka.log") is None
    assert await connection.fetchval("SELECT state FROM kafka.segments WHERE series = 0 AND segment = 0") == "active"

    await migrate(connection)

    assert await connection.fetchrow("SELECT * FROM kafka.cluster") == first
    await connection.close()


async def test_programs_that_start_together_create_it_once(pg_dsn: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        connections = [await connected(stack, pg_dsn) for _ in range(5)]
        await asyncio.gather(*(migrate(connection) for connection in connections))
        assert await connections[0].fetchval("SELECT count(*) FROM kafka.cluster") == 1


async def test_who_waited_for_another_sees_what_it_made(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session remembers that a schema is not there, until a transaction begins or a table is locked."""
    monkeypatch.setattr(migrate_module, "LOCK_CHECK_S", 0.001)
    look, tries = migrate_module._lock, 0

    async def counted(connection: asyncpg.Connection) -> bool:
        nonlocal tries
        tries += 1
        return await look(connection)

    async with contextlib.AsyncExitStack() as stack:
        first, second = await connected(stack, pg_dsn), await connected(stack, pg_dsn)
        async with first.transaction():
            assert await first.fetchval(migrate_module._QUERIES["try_lock"])
            monkeypatch.setattr(migrate_module, "_lock", counted)
            waiting = asyncio.create_task(migrate(second))
            async with asyncio.timeout(20):
                while tries < 50:  # noqa: ASYNC110 - until all that it asks is in its cache
                    await asyncio.sleep(0.001)
            await migrate_module._migrate_locked(first, None, "auto")
        await waiting
        assert await second.fetchval("SELECT count(*) FROM kafka.cluster") == 1


async def test_a_crash_leaves_nothing_half_made(pg_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionResetError

    connection = await asyncpg.connect(pg_dsn)
    with monkeypatch.context() as patch:
        patch.setattr(migrate_module.segments, "create_shared_series", fail)
        with pytest.raises(ConnectionResetError):
            await migrate(connection)
    assert not await connection.fetchval("SELECT to_regnamespace('kafka') IS NOT NULL")
    await migrate(connection)
    await connection.close()


async def test_a_newer_schema_is_refused(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    await connection.execute("UPDATE kafka.cluster SET schema_version = schema_version + 1")
    with pytest.raises(FatalError, match="use a newer pg-kafka"):
        await migrate(connection)
    await connection.close()


async def test_an_older_schema_is_led_here_by_migrations(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = await connect_migrated(pg_dsn)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "features").symlink_to(str(queries.SQL / "features"))
    (tmp_path / "migrations" / f"{SCHEMA_VERSION}_done.sql").write_text("CREATE TABLE kafka.done_before ()")
    (tmp_path / "migrations" / f"{SCHEMA_VERSION + 1}_next.sql").write_text("CREATE TABLE kafka.next ()")
    monkeypatch.setattr(migrate_module, "SQL", tmp_path)
    monkeypatch.setattr(migrate_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)

    await migrate(connection)

    assert await connection.fetchval("SELECT schema_version FROM kafka.cluster") == SCHEMA_VERSION + 1
    assert await connection.fetchval("SELECT to_regclass('kafka.next') IS NOT NULL")
    assert await connection.fetchval("SELECT to_regclass('kafka.done_before') IS NULL")
    await connection.close()


async def test_somebody_elses_schema_is_left_alone(pg_dsn: str) -> None:
    connection = await asyncpg.connect(pg_dsn)
    await connection.execute("CREATE SCHEMA kafka CREATE TABLE mine (id int)")
    with pytest.raises(FatalError, match="is not pg_kafka's"):
        await migrate(connection)
    await connection.close()


async def test_a_role_that_may_not_create_schemas_gets_one_sentence(
    pg_database: Any, pg_dsn: str, pg_superuser_dsn: str
) -> None:
    superuser = await asyncpg.connect(pg_superuser_dsn)
    await superuser.execute(f"ALTER DATABASE {pg_database.name} OWNER TO postgres")
    await superuser.close()
    connection = await asyncpg.connect(pg_dsn)
    with pytest.raises(FatalError) as error:
        await migrate(connection)
    assert "GRANT CREATE ON DATABASE" in str(error.value)
    assert "\n" not in str(error.value)
    await connection.close()


async def test_a_role_without_rights_in_the_schema_gets_one_sentence(
    pg_dsn: str, pg_superuser_dsn: str, postgres_server: Any
) -> None:
    await (await connect_migrated(pg_dsn)).close()
    other = postgres_server.create_database()
    superuser = await asyncpg.connect(pg_superuser_dsn)
    await superuser.execute(f"SET ROLE {other.name}")
    with pytest.raises(FatalError, match="lacks a privilege"):
        await migrate(superuser)
    await superuser.close()
    postgres_server.drop_database(other)


async def test_only_utf8_databases_are_taken(pg_database: Any, postgres_server: Any) -> None:
    name = f"{pg_database.name}_latin1"
    postgres_server.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    connection = await asyncpg.connect(postgres_server.dsn(name))
    with pytest.raises(FatalError, match="encoding LATIN1"):
        await migrate(connection)
    await connection.close()
    postgres_server.sql(f"DROP DATABASE {name}")


def test_old_servers_and_standbys_are_refused() -> None:
    check_server(USABLE)
    with pytest.raises(FatalError, match="needs 14"):
        check_server({**USABLE, "version_number": 130012, "version": "13.12"})
    with pytest.raises(FatalError, match="standby"):
        check_server({**USABLE, "is_in_recovery": True})


@pytest.mark.parametrize("postgres_server", ["embedded"], indirect=True)
async def test_a_compression_that_the_server_lacks_is_refused(pg_dsn: str) -> None:
    connection = await asyncpg.connect(pg_dsn)
    if "lz4" in await connection.fetchval("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"):
        pytest.skip("this embedded PostgreSQL has lz4")
    with pytest.raises(FatalError, match="built without lz4"):
        await migrate(connection, compression="lz4")
    await connection.close()


async def test_known_settings_follow_the_program(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn, settings={"a": "first", "b": "second"})
    await migrate(connection, settings={"b": "changed", "c": "third"})
    rows = await connection.fetch("SELECT name, description FROM kafka.setting_names ORDER BY name")
    assert [tuple(row) for row in rows] == [("b", "changed"), ("c", "third")]
    await connection.close()


@BOTH_SERVERS
async def test_nothing_is_granted_to_public(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    granted = await connection.fetch(
        """
        WITH acls (kind, name, acl) AS (
            SELECT 'schema', nspname::text, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
            WHERE nspname IN ('kafka', 'topics')
            UNION ALL
            SELECT 'relation', oid::regclass::text,
                   coalesce(relacl, acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", relowner))
            FROM pg_class WHERE relnamespace = 'kafka'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
            UNION ALL
            SELECT 'function', oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
            WHERE pronamespace = 'kafka'::regnamespace
            UNION ALL
            SELECT 'type', t.oid::regtype::text, coalesce(typacl, acldefault('T', typowner))
            FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE typnamespace = 'kafka'::regnamespace AND typelem = 0 AND coalesce(c.relkind, 'c') = 'c')
        SELECT kind, name, a.privilege_type FROM acls, aclexplode(acl) AS a WHERE a.grantee = 0 ORDER BY 2
        """
    )
    # Which views contain: whoever reads these has to be allowed to execute them. They return no record.
    assert [tuple(row) for row in granted] == [("function", name, "EXECUTE") for name in sorted(EVERYBODY_S)]
    await connection.close()


async def test_everything_says_what_it_is_for(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    silent = await connection.fetch(
        """
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace = 'kafka'::regnamespace AND relkind IN ('r', 'p', 'v', 'S') AND NOT relispartition
          AND obj_description(oid, 'pg_class') IS NULL AND relname !~ '_(id|entry|incarnation|number)_seq$'
        UNION ALL
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'kafka'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT nspname FROM pg_namespace WHERE nspname IN ('kafka', 'topics') AND obj_description(oid, 'pg_namespace') IS NULL
        """
    )
    assert silent == []
    await connection.close()


@BOTH_SERVERS
async def test_every_statement_can_be_prepared(pg_dsn: str) -> None:
    connection = await connect_migrated(pg_dsn)
    names: dict[str, Any] = {"leaf": "log_0_0", "name": "log_0", "parent": "log", "child": "log_0", "ms": 1, "turn": 1}
    journals = {"offsets": "offset_journal_0", "groups": "group_journal_0", "history": "history_journal_0"}
    journals |= {"transactions": "transaction_journal_0", "relay": "relay_journal_0"}
    names |= journals | {"journal": "group_journal_0"}
    compaction = queries.load("compaction")
    await connection.execute(compaction["make_tables"])
    names |= {"topic": 1, "series": 0, "segment": 0, "source": "log_0_0", "target": "log_0_0", "number": 0}
    names["columns"] = tuple(name for name in COLUMNS if name != "segment")
    server = connection.get_server_version().major
    for entry in (queries.SQL / "queries").iterdir():
        statements = queries.load(entry.name.removesuffix(".sql"))
        for name, template in statements.items():
            since = int(name.partition("_since_")[2] or 0)
            is_replaced = f"{name}_since_17" in statements and server >= 17
            is_for_this_server = since <= server and not is_replaced
            if is_for_this_server and re.match(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b", template):
                template = template.replace("{keys}", compaction["keys_of_leaf"])
                copied = journals.get(name.removeprefix("copy_"), "")
                try:
                    await connection.prepare(queries.render(template, **names, old=copied, new=copied))
                except asyncpg.PostgresError as error:
                    pytest.fail(f"{entry.name}: {name}: {error}")
    await connection.close()


def test_statements_are_split_by_their_names() -> None:
    text = "-- A file.\n\n-- name: one\n-- Why.\nSELECT 1;\n\n-- name: two\nSELECT {leaf}, '{}', {n};\n"
    statements = queries.parse(text)
    assert statements == {"one": "SELECT 1", "two": "SELECT {leaf}, '{}', {n}"}
    assert queries.render(statements["two"], leaf='a"b', n=3) == 'SELECT "a""b", \'{}\', 3'
    with pytest.raises(ValueError, match="twice"):
        queries.parse("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n")
