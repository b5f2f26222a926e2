"""A broker whose role cannot change the schema does all that one does whose role owns it.

The tests that are imported here run a second time: `pg_dsn` is the address of such a role in a database that its owner
has migrated.
"""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg
import pytest
from tests import least_privilege
from tests.postgres import Database, PostgresServer
from tests.storage.leader import leading
from tests.storage.test_catalogue_changes import (  # noqa: F401
    test_a_broker_follows_what_is_changed_by_sql,
)
from tests.storage.test_cleaner import test_a_query_delays_the_swap_of_its_series_only  # noqa: F401
from tests.storage.test_compaction import (  # noqa: F401
    test_a_series_of_its_own_is_compacted_by_segments_that_replace_others,
    test_consumers_find_rows_of_segments_that_became_one_and_nothing_behind,
)
from tests.storage.test_deleted_topics import (  # noqa: F401
    test_a_reader_of_one_segment_keeps_the_space_of_that_one_only,
)
from tests.storage.test_retention import (  # noqa: F401
    test_a_long_query_holds_up_the_truncate_and_nobody_else,
    test_all_expired_the_end_survives_and_the_active_segment_is_rolled,
    test_by_time_to_the_row_and_a_prefix_only,
)
from tests.storage.test_segments import (  # noqa: F401
    db,
    segments,
    test_a_new_segment_is_where_its_owner_appends,
    test_a_segment_is_emptied_and_dropped,
    test_killed_after_each_statement_it_ends_the_same,
    test_new_tables_under_an_open_select_take_milliseconds_and_delay_no_writer,
    test_records_are_stored_as_asked,
)
from tests.wire_batches import batch, values

from pg_kafka.errors import FatalError
from pg_kafka.storage import migrate as migrate_module
from pg_kafka.storage import sessions
from pg_kafka.storage.migrate import grant_broker, migrate

# Fixtures by their names: ruff takes arguments of the same name for others.
pg_dsn, role = least_privilege.pg_dsn, least_privilege.role

# Each must be refused, one by one.
FORBIDDEN = {
    "a function is replaced": "CREATE OR REPLACE FUNCTION kafka.as_text(bytes bytea) RETURNS text LANGUAGE sql AS 'SELECT NULL'",
    "a function is altered": "ALTER FUNCTION kafka.as_text(bytea) RENAME TO as_txt",
    "a function is dropped": "DROP FUNCTION kafka.as_text(bytea) CASCADE",
    "a function is added": "CREATE FUNCTION kafka.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "rights of brokers are given": "SELECT kafka.grant_broker(current_user)",
    "a table is added": "CREATE TABLE kafka.mine (a int)",
    "a table is dropped": "DROP TABLE kafka.topics CASCADE",
    "the log is dropped": "DROP TABLE kafka.log CASCADE",
    "the log is altered": "ALTER TABLE kafka.log ADD COLUMN a int",
    "the log is given a policy": "CREATE POLICY p ON kafka.log USING (true)",
    "a trigger is added": "CREATE TRIGGER t AFTER INSERT ON kafka.topics FOR EACH ROW EXECUTE FUNCTION kafka.note_marker()",
    "a trigger is disabled": "ALTER TABLE kafka.topics DISABLE TRIGGER USER",
    "a trigger is dropped": "DROP TRIGGER audit ON kafka.catalogue_changes",
    "a view is added": 'CREATE VIEW topics."mine" AS SELECT 1 AS a',
    "a view is replaced": "CREATE OR REPLACE VIEW kafka.messages AS SELECT 1 AS a",
    "the schema is dropped": "DROP SCHEMA kafka CASCADE",
    "the schema of views is dropped": "DROP SCHEMA topics CASCADE",
    "a schema is added": "CREATE SCHEMA mine",
    "the audit is read": "SELECT * FROM kafka.audit_log",
    "the audit is deleted": "DELETE FROM kafka.audit_log",
    "the audit is changed": "UPDATE kafka.audit_log SET principal = 'nobody'",
    "the audit is emptied": "TRUNCATE kafka.audit_log",
    "the audit is switched off": "SET session_replication_role = replica",
    "the shared series is detached": "SELECT kafka.detach_series(0)",
    "something else is taken over": "SELECT kafka.adopt_table('cluster')",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_role_of_a_broker_changes_nothing_of_the_schema(pg_dsn: str, what: str) -> None:
    connection = await asyncpg.connect(pg_dsn)
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectInUseError, asyncpg.UndefinedTableError)):
        await connection.execute(FORBIDDEN[what])
    await connection.close()


async def test_role_of_a_broker_gives_rights_to_nobody(pg_dsn: str) -> None:
    connection = await asyncpg.connect(pg_dsn)
    acls = (
        "SELECT (SELECT nspacl::text FROM pg_namespace WHERE nspname = 'kafka'), (SELECT relacl::text FROM pg_class "
        "WHERE oid = 'kafka.messages'::regclass), (SELECT proacl::text FROM pg_proc WHERE proname = 'as_text')"
    )
    before = await connection.fetchrow(acls)
    # PostgreSQL warns here, and gives nothing.
    await connection.execute("GRANT USAGE ON SCHEMA kafka TO PUBLIC")
    await connection.execute("GRANT SELECT ON kafka.messages TO PUBLIC")
    await connection.execute("GRANT EXECUTE ON FUNCTION kafka.as_text(bytea) TO PUBLIC")
    assert await connection.fetchrow(acls) == before
    await connection.close()


async def test_role_owns_tables_of_segments_and_nothing_else(pg_dsn: str, role: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t")
        await leader.append(await leader.partition(topic), batch(values(b"a")))
    connection = await asyncpg.connect(pg_dsn)
    owned = await connection.fetch(
        """
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relowner = $1::text::regrole AND c.relnamespace <> 'pg_toast'::regnamespace
        UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.proowner = $1::text::regrole
        UNION ALL SELECT n.nspname FROM pg_namespace n WHERE n.nspowner = $1::text::regrole AND n.nspname !~ '^pg_'
        ORDER BY 1
        """,
        role,
    )
    assert [row[0] for row in owned] == [
        "kafka.log_0",
        "kafka.log_0_0",
        "kafka.log_0_0_markers",
        "kafka.log_0_0_topic_partition_base_offset_key",
    ]
    await connection.close()


async def test_old_schema_is_told_with_who_can_upgrade_it(
    pg_dsn: str, pg_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "SCHEMA_VERSION", migrate_module.SCHEMA_VERSION + 1)
    async with sessions.opened(pg_dsn, "migrate") as connection:
        with pytest.raises(FatalError, match=rf'run "pg-kafka migrate" as its owner, role "{pg_database.name}"'):
            await migrate(connection)


async def test_upgrade_by_the_owner_gives_the_role_what_is_new(
    pg_dsn: str, pg_database: Database, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await asyncpg.connect(pg_database.dsn)
    await owner.execute(f"REVOKE ALL ON kafka.topics, kafka.brokers, kafka.log FROM {role}")
    await owner.execute(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA kafka FROM {role}")
    monkeypatch.setattr(migrate_module, "SCHEMA_VERSION", migrate_module.SCHEMA_VERSION + 1)
    await migrate(owner)
    await owner.close()
    async with leading(pg_dsn) as leader:
        assert (await leader.append(await leader.partition(await leader.topic("t")), batch(values(b"a")))).error == 0


async def test_log_with_data_and_series_is_handed_over(
    postgres_server: PostgresServer, role: str, pg_database: Database
) -> None:
    """A broker has served as the owner before."""
    async with leading(pg_database.dsn) as leader:
        topic = await leader.topic("t")
        await leader.append(await leader.partition(topic), batch(values(b"a", b"b")))
    postgres_server.sql(f"CREATE ROLE {role} LOGIN; GRANT {role} TO {pg_database.name};")
    async with sessions.opened(pg_database.dsn, "migrate") as connection:
        await grant_broker(connection, role)
        await grant_broker(connection, role)
    async with leading(postgres_server.dsn(pg_database.name, role)) as leader:
        topic = leader.topics.by_name["t"]
        partition = await leader.partition(topic)
        assert partition.high_watermark == 2
        await leader.append(partition, batch(values(b"c")))
    async with leading(pg_database.dsn) as leader:  # and back
        assert (await leader.partition(leader.topics.by_name["t"])).high_watermark == 3


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ("", 'role "{role}" does not exist: CREATE ROLE {role} LOGIN'),
        ("CREATE ROLE {role} LOGIN", "cannot take over tables .*: GRANT {role} TO {owner}"),
        ("CREATE ROLE {role} LOGIN SUPERUSER", "a superuser"),
        ("CREATE ROLE {role} LOGIN IN ROLE {owner}", "is a member of"),
    ],
)
async def test_why_rights_cannot_be_given_is_said(
    postgres_server: PostgresServer, role: str, pg_database: Database, make: str, told: str
) -> None:
    names: dict[str, Any] = {"role": role, "owner": pg_database.name}
    if make:
        postgres_server.sql(make.format(**names))
    async with sessions.opened(pg_database.dsn, "migrate") as connection:
        await migrate(connection)
        with pytest.raises(FatalError, match=told.format(**names)):
            await grant_broker(connection, role)


async def test_reader_gets_one_topic_or_all_that_there_are(
    postgres_server: PostgresServer, pg_dsn: str, pg_database: Database, role: str
) -> None:
    async with leading(pg_dsn) as leader:
        for name in ("mine", "other"):
            topic = await leader.topic(name)
            await leader.append(await leader.partition(topic), batch(values(b"a")))
    reader = f"reader_{secrets.token_hex(4)}"
    postgres_server.sql(f"CREATE ROLE {reader} LOGIN;")
    owner = await asyncpg.connect(pg_database.dsn)
    stranger = await asyncpg.connect(postgres_server.dsn(pg_database.name, reader))
    try:
        with pytest.raises(asyncpg.UndefinedObjectError):
            await owner.execute(f"SELECT kafka.grant_reader('{reader}', 'nothing')")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await owner.execute(f"SELECT kafka.grant_reader('{reader}', 'mine')")
        await owner.execute("SELECT kafka.create_topic_view(id) FROM kafka.topics")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.fetch("SELECT * FROM topics.mine")
        await owner.execute(f"SELECT kafka.grant_reader('{reader}', 'mine')")
        assert await stranger.fetchval("SELECT kafka.as_text(value) FROM topics.mine") == "a"
        assert len(await stranger.fetch("SELECT * FROM kafka.read('mine', 0, 0, 10)")) == 1
        for refused in ("SELECT * FROM topics.other", "SELECT * FROM kafka.messages", "DELETE FROM kafka.topics"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stranger.execute(refused)
        await owner.execute(f"SELECT kafka.grant_reader('{reader}')")
        assert await stranger.fetchval("SELECT count(*) FROM kafka.messages") == 2
        assert await stranger.fetchval("SELECT count(*) FROM topics.other") == 1
    finally:
        await owner.close()
        await stranger.close()
        postgres_server.sql(f"DROP OWNED BY {reader}; DROP ROLE {reader};", pg_database.name)
