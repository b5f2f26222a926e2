"""What `pg-kafka doctor` finds in a server: each finding with the condition made for real, and what it says to do tried.

The servers here are these tests' own, since settings of a whole server are changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from tests.postgres import Database, PostgresServer

from pg_kafka import database_checks, managed
from pg_kafka.clock import Clock
from pg_kafka.database_checks import Finding, examine_health, lacking_rights, service_of
from pg_kafka.storage import health, sessions
from pg_kafka.storage.health import Health, Limits
from pg_kafka.storage.migrate import grant_broker, migrate

SERVICES = tuple(managed.SETTINGS), tuple(managed.ROLES)
AT_ONCE = Limits(open_s=0.0)
SETTLE_S = 20.0
# On the command line they would be stronger than ALTER SYSTEM.
ON_THE_COMMAND_LINE = ("max_wal_size", "max_locks_per_transaction")


@pytest.fixture(scope="module", params=["postgresql-15", "embedded"])
def server(request: pytest.FixtureRequest, make_postgres: Callable[..., PostgresServer]) -> PostgresServer:
    server = make_postgres(request.param, settings={"max_prepared_transactions": "5", "max_replication_slots": "5"})
    server.stop()
    server._settings = {name: value for name, value in server._settings.items() if name not in ON_THE_COMMAND_LINE}
    server.start()
    return server


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    made = server.create_database()
    try:
        yield made
    finally:
        server.sql("ALTER SYSTEM RESET ALL;\nSELECT pg_reload_conf();")
        server.drop_database(made)


async def looked_at(dsn: str, limits: Limits = AT_ONCE) -> Health:
    return await health.examine(dsn, SERVICES, limits, Clock().steady_s)


async def examined(dsn: str, limits: Limits = AT_ONCE) -> list[Finding]:
    facts = await looked_at(dsn, limits)
    return examine_health(facts, None, limits)


async def found(dsn: str, pattern: str) -> Finding | None:
    """The finding that says so, or None. A reload of the configuration takes a moment, and so do statistics."""
    for level, text in await examined(dsn):
        if re.search(pattern, text.split("\n")[0]):
            return level, text
    return None


async def until(dsn: str, pattern: str, *, there: bool) -> Finding:
    async with asyncio.timeout(SETTLE_S):
        while True:
            one = await found(dsn, pattern)
            if (one is not None) == there:
                return one or ("", "")
            await asyncio.sleep(0.05)  # nothing tells


def mended(server: PostgresServer, database: str, finding: Finding) -> None:
    """Do what a finding says, as a superuser; its lines are SQL, but for what is said of a restart."""
    _, *lines = finding[1].split("\n")
    assert lines
    for line in lines:
        if line == "and restart the server":
            server.stop()
            server.start()
        else:
            server.sql(line, database)


@contextlib.asynccontextmanager
async def open_transaction(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody with a snapshot, who does nothing more."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "report"})
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT count(*) FROM pg_class")
        yield connection
    finally:
        connection.terminate()


async def test_server_in_order_has_no_warning(server: PostgresServer, database: Database) -> None:
    findings = await examined(database.dsn, Limits())
    texts = "\n".join(text for _, text in findings)
    assert re.search(r"^a commit takes \d+\.\d ms, \d+\.\d ms at most", texts, re.MULTILINE)
    # Those are slow on a machine that has much else to do.
    rest = [text for level, text in findings if level != "ok" and not text.startswith(("a commit", "the way to"))]
    assert rest == []
    assert f'GRANT pg_read_all_stats TO "{database.name}";' in texts
    facts = await looked_at(database.dsn, Limits())
    assert facts.commit_s is not None and facts.longest_commit_s is not None and facts.round_trip_s is not None
    assert 0 < facts.round_trip_s < 1 and 0 <= facts.commit_s <= facts.longest_commit_s < 5


async def test_looking_changes_nothing(server: PostgresServer, database: Database) -> None:
    listing = "SELECT count(*), max(oid) FROM pg_class"
    before = server.sql(listing, database.name)
    await examined(database.dsn)
    assert server.sql(listing, database.name) == before


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("max_wal_size", "256MB", "max_wal_size is 256 MiB"),
        ("checkpoint_timeout", "30s", "checkpoint_timeout is 30 s"),
        ("checkpoint_completion_target", "0.3", "checkpoint_completion_target is 0.3"),
        ("wal_compression", "on", "wal_compression is pglz"),
        ("commit_delay", "1000", "commit_delay makes each commit wait"),
        ("autovacuum", "off", "autovacuum is off"),
        ("track_counts", "off", "track_counts is off"),
        ("synchronous_commit", "off", "synchronous_commit is off here"),
        ("synchronous_commit", "local", "synchronous_commit is local here"),
    ],
)
async def test_setting_of_the_server(
    setting: str, value: str, sentence: str, server: PostgresServer, database: Database
) -> None:
    server.sql(f"ALTER SYSTEM SET {setting} = '{value}';\nSELECT pg_reload_conf();")
    finding = await until(database.dsn, sentence, there=True)
    assert finding[0] == "warning"
    assert f"ALTER SYSTEM SET {setting} = " in finding[1]
    mended(server, database.name, finding)
    await until(database.dsn, sentence, there=False)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [("wal_buffers", "256kB", "wal_buffers is 256 KiB"), ("wal_level", "minimal", "wal_level is minimal")],
)
async def test_setting_that_needs_a_restart(
    setting: str, value: str, sentence: str, server: PostgresServer, database: Database
) -> None:
    server.sql(f"ALTER SYSTEM SET {setting} = '{value}';\nALTER SYSTEM SET max_wal_senders = 0;")
    server.stop()
    server.start()
    dsn = server.dsn(database.name, database.name)  # the port may be another one
    finding = await found(dsn, sentence)
    assert finding is not None
    server.sql("ALTER SYSTEM RESET max_wal_senders;")
    mended(server, database.name, finding)
    assert await found(server.dsn(database.name, database.name), sentence) is None


@pytest.mark.parametrize("whose", ["ALTER ROLE {0}", "ALTER DATABASE {0}", "ALTER ROLE {0} IN DATABASE {0}"])
async def test_weak_commits_by_default_of_role_or_database(
    whose: str, server: PostgresServer, database: Database
) -> None:
    server.sql(f"{whose.format(database.name)} SET synchronous_commit = off;")
    finding = await found(database.dsn, "synchronous_commit is off here")
    assert finding is not None
    mended(server, database.name, finding)
    assert await found(database.dsn, "synchronous_commit") is None


async def test_slow_flush(server: PostgresServer, database: Database) -> None:
    # Each COMMIT waits so long before it flushes.
    server.sql(
        "ALTER SYSTEM SET commit_delay = 50000;\nALTER SYSTEM SET commit_siblings = 0;\nSELECT pg_reload_conf();"
    )
    # The servers of most tests do not flush, and then nothing waits.
    server.sql("ALTER SYSTEM SET fsync = on;\nSELECT pg_reload_conf();")
    server._settings = {name: value for name, value in server._settings.items() if name != "fsync"}
    server.stop()
    server.start()
    finding = await found(server.dsn(database.name, database.name), "a commit takes")
    assert finding is not None
    level, text = finding
    assert level == "warning" and "the disk flushes slowly" in text and "pg_test_fsync" in text
    assert float(text.split()[3]) >= 20


async def test_synchronous_standby_that_is_away(
    server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MEASURE_S", 1.0)
    monkeypatch.setattr(database_checks, "MEASURE_S", 1.0)
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away';\nSELECT pg_reload_conf();")
    try:
        finding = await until(database.dsn, "a commit has waited .* for a synchronous standby", there=True)
        assert finding[0] == "warning" and "synchronous_standby_names is away" in finding[1]
        assert "ALTER SYSTEM SET synchronous_standby_names = '';" in finding[1]
    finally:
        server.sql("ALTER SYSTEM RESET synchronous_standby_names;\nSELECT pg_reload_conf();")
    await until(database.dsn, "for a synchronous standby", there=False)


async def test_database_that_is_far_away(server: PostgresServer, database: Database) -> None:
    """What comes from the client is passed on late."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(delay_s)
                writer.write(data)
        writer.close()

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pass_on(reader, up_writer, 0.02), pass_on(up_reader, writer, 0.0))

    direct = server.dsn(database.name, database.name, tcp=True)
    proxy = await asyncio.start_server(on_client, "127.0.0.1", 0)
    try:
        port = proxy.sockets[0].getsockname()[1]
        facts = await looked_at(direct.replace(f":{server.port}/", f":{port}/"))
        assert facts.round_trip_s is not None and facts.round_trip_s >= 0.02
        text = "\n".join(text for _, text in examine_health(facts, None, Limits()))
        assert re.search(r"^the way to the database and back takes \d+\.\d ms", text, re.MULTILINE)
    finally:
        proxy.close()


async def test_open_transaction(server: PostgresServer, database: Database) -> None:
    sentence = r"process \d+ .*has had a transaction open for \d+ s \(idle in transaction\)"
    assert await found(database.dsn, sentence) is None
    async with open_transaction(database.dsn) as holder:
        finding = await found(database.dsn, sentence)
        assert finding is not None
        level, text = finding
        assert level == "warning"
        assert f"process {holder.get_server_pid()} (role {database.name}, report)" in text
        assert await found_none(database.dsn, Limits(open_s=3600.0), sentence)
        mended(server, database.name, finding)
        assert "idle_in_transaction_session_timeout" in server.sql(
            f"SELECT setconfig FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE rolname = '{database.name}'"
        )
        await until(database.dsn, sentence, there=False)


async def found_none(dsn: str, limits: Limits, pattern: str) -> bool:
    return not any(re.search(pattern, text) for _, text in await examined(dsn, limits))


async def test_transactions_of_others_are_seen_with_the_right_to(server: PostgresServer, database: Database) -> None:
    sentence = "has had a transaction open"
    async with open_transaction(database.superuser_dsn):
        assert await found(database.dsn, sentence) is None
        hint = await found(database.dsn, "transactions of other roles are not seen")
        assert hint is not None and hint[0] == "ok"
        mended(server, database.name, hint)
        assert await found(database.dsn, sentence) is not None
        assert await found(database.dsn, "are not seen") is None


async def test_transaction_in_another_database_is_no_matter(server: PostgresServer, database: Database) -> None:
    async with open_transaction(server.dsn("postgres")):
        assert await found(database.superuser_dsn, "has had a transaction open") is None


async def test_prepared_transaction(server: PostgresServer, database: Database) -> None:
    server.sql(
        "CREATE TABLE t ();\nBEGIN;\nALTER TABLE t ADD COLUMN a int;\nPREPARE TRANSACTION 'it''s \"odd\"';",
        database.name,
    )
    finding = await found(database.dsn, r"the prepared transaction it's \"odd\" of role postgres has been waiting")
    assert finding is not None and finding[0] == "warning"
    mended(server, database.name, finding)
    assert await found(database.dsn, "prepared transaction") is None


async def test_names_of_others_stay_on_their_line(server: PostgresServer, database: Database) -> None:
    odd = "x'\n          DROP SCHEMA kafka;\x1b[2J\\"
    async with sessions.opened(database.superuser_dsn, "check") as connection:
        (gid,) = await connection.fetchrow("SELECT $1::text", odd)
        assert gid == odd
        await connection.execute(
            f"BEGIN; CREATE TABLE public.odd (); PREPARE TRANSACTION {database_checks.literal(odd)}"
        )
    finding = await found(database.dsn, "the prepared transaction")
    assert finding is not None
    assert len(finding[1].split("\n")) == 2 and finding[1].replace("\n", "").isprintable()
    mended(server, database.name, finding)
    assert await found(database.dsn, "prepared transaction") is None


@pytest.mark.parametrize("name", ["plain", 'a"b', "a\nb", "a\x1b\\b'", "ü\u202e\U0001f600"])
async def test_identifiers_and_literals_are_read_as_they_were(name: str, database: Database) -> None:
    written, said = database_checks.identifier(name), database_checks.literal(name)
    assert written.isprintable() and said.isprintable() and database_checks.shown(name).isprintable()
    async with sessions.opened(database.dsn, "check") as connection:
        row = await connection.fetchrow(f"SELECT 1 AS {written}, {said} AS it")
    assert row is not None
    assert list(row.keys()) == [name, "it"]
    assert row["it"] == name


async def test_table_that_somebody_has_locked(server: PostgresServer, database: Database) -> None:
    async with sessions.opened(database.dsn, "migrate") as connection:
        await migrate(connection, compression="none")
    async with open_transaction(database.dsn) as holder:
        await holder.execute("LOCK TABLE kafka.journals, kafka.log IN ACCESS EXCLUSIVE MODE")
        waiter = await asyncpg.connect(database.dsn)
        waiting = asyncio.create_task(waiter.fetch("SELECT FROM kafka.journals"))
        try:
            sentence = (
                rf"process {holder.get_server_pid()} \(role .*, report\) has locked kafka\.\w+ and \d+ more against"
            )
            finding = await until(database.dsn, sentence, there=True)
            assert finding[0] == "warning"
            mended(server, database.name, finding)
            await waiting
        finally:
            waiter.terminate()


async def test_slot_that_nobody_reads(server: PostgresServer, database: Database) -> None:
    server.sql("SELECT pg_create_physical_replication_slot('standby_of_old', true);")
    sentence = r"nobody reads the replication slot standby_of_old: it keeps \d+ MiB of WAL, and more"
    finding = await found(database.dsn, sentence)
    assert finding is not None and finding[0] == "warning"
    unlimited = await found(database.dsn, "max_slot_wal_keep_size is not set")
    assert unlimited is not None
    mended(server, database.name, unlimited)
    await until(database.dsn, "max_slot_wal_keep_size", there=False)
    mended(server, database.name, finding)
    assert await found(database.dsn, "replication slot") is None


async def test_dead_rows_that_an_open_transaction_holds(server: PostgresServer, database: Database) -> None:
    async with sessions.opened(database.dsn, "migrate") as connection:
        await migrate(connection, compression="none")
    sentence = r'kafka\."setting_names" has 20,000 dead rows beside \d+ live ones'
    add = "INSERT INTO kafka.setting_names (name, description) SELECT 'pg_kafka.x' || n, '' FROM generate_series(1, 20000) n;"
    server.sql(add, database.name)
    async with open_transaction(database.dsn) as holder:
        server.sql("DELETE FROM kafka.setting_names WHERE name LIKE 'pg_kafka.x%';", database.name)
        finding = await until(database.dsn, sentence, there=True)
        assert finding[0] == "warning"
        mended(server, database.name, finding)
        assert await found(database.dsn, sentence) is not None, "they are held"
        await holder.execute("COMMIT")
        mended(server, database.name, finding)
        await until(database.dsn, r"dead rows", there=False)


async def test_table_without_autovacuum(server: PostgresServer, database: Database) -> None:
    async with sessions.opened(database.dsn, "migrate") as connection:
        await migrate(connection, compression="none")
    assert await found(database.dsn, "autovacuum") is None
    server.sql("ALTER TABLE kafka.topics SET (autovacuum_enabled = off);", database.name)
    finding = await found(database.dsn, "autovacuum is off for tables of schema kafka: topics")
    assert finding is not None
    mended(server, database.name, finding)
    assert await found(database.dsn, "autovacuum") is None


async def test_journal_that_nobody_rewrites(
    server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_checks, "JOURNAL_BYTES", 1 << 20)
    async with sessions.opened(database.dsn, "migrate") as connection:
        await migrate(connection, compression="none")
    assert await found(database.dsn, "the journal of") is None
    server.sql(
        "INSERT INTO kafka.offset_journal_0 (entry, group_id, topic_id, partition_id, committed_offset)"
        " SELECT n, 'g', 1, 1, n FROM generate_series(1, 40000) n;",
        database.name,
    )
    finding = await found(database.dsn, r"the journal of offsets has \d+ MiB, of which 0 counted")
    assert finding is not None and "start a broker" in finding[1]


async def test_role_without_temporary_tables(server: PostgresServer, database: Database) -> None:
    server.sql(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC, {database.name};")
    finding = await found(database.dsn, "may not make temporary tables")
    assert finding is not None and finding[0] == "warning"
    mended(server, database.name, finding)
    assert await found(database.dsn, "temporary tables") is None


async def test_role_without_rights(server: PostgresServer, database: Database) -> None:
    assert (await looked_at(database.dsn)).rights is None
    role = f"{database.name}_broker"
    server.sql(f"CREATE ROLE {role} LOGIN NOINHERIT PASSWORD '{server.password}';\nGRANT {role} TO {database.name};")
    dsn = server.dsn(database.name, role)
    try:
        async with sessions.opened(database.dsn, "migrate") as connection:
            await migrate(connection, compression="none")
        rights = (await looked_at(dsn)).rights
        assert rights is not None
        [(level, text)] = lacking_rights(rights)
        assert level == "error"
        assert f'role "{role}" lacks rights in the schema of role "{database.name}": USAGE on schema kafka' in text
        assert f"pg-kafka migrate --grant-broker {role} " in text
        async with sessions.opened(database.dsn, "migrate", timeout_s=None) as connection:
            await grant_broker(connection, role)
        rights = (await looked_at(dsn)).rights
        assert rights is not None and lacking_rights(rights) == []
        server.sql(f"REVOKE INSERT ON kafka.log FROM {role};", database.name)
        rights = (await looked_at(dsn)).rights
        assert rights is not None and "INSERT on kafka.log" in lacking_rights(rights)[0][1]
        own = (await looked_at(database.dsn)).rights
        assert own is not None and lacking_rights(own) == []
    finally:
        server.sql(f"DROP OWNED BY {role};", database.name)
        server.sql(f"DROP DATABASE {database.name} WITH (FORCE);\nDROP ROLE {role};")


async def test_somebody_else_s_schema_is_not_judged(server: PostgresServer, database: Database) -> None:
    server.sql("CREATE SCHEMA kafka;", database.name)
    assert (await looked_at(database.dsn)).rights is None


@pytest.mark.parametrize(
    ("make", "undo", "service"),
    [
        ("CREATE ROLE rds_superuser", "DROP ROLE rds_superuser", "Amazon RDS"),
        ("CREATE ROLE cloudsqlsuperuser", "DROP ROLE cloudsqlsuperuser", "Google Cloud SQL"),
        ("ALTER DATABASE {} SET azure.extensions = 'x'", "SELECT 1", "Azure Database for PostgreSQL"),
        ("ALTER DATABASE {} SET neon.timeline_id = 'x'", "SELECT 1", "Neon"),
    ],
)
async def test_service_is_known_by_the_server(
    make: str, undo: str, service: str, server: PostgresServer, database: Database
) -> None:
    assert service_of(await looked_at(database.dsn), None) == (None, [])
    server.sql(make.format(database.name))
    try:
        facts = await looked_at(database.dsn)
        assert service_of(facts, None) == (service, [("ok", f"the server is one of {service}")])
        assert service_of(facts, managed.Seen(service)) == (service, [])
    finally:
        server.sql(undo)


FACTS = {
    "version": "PostgreSQL 17.0",
    "database": "kafka",
    "role": "broker",
    "settings": [],
    "roles": [],
    "is_aurora": False,
    "may_see_sessions": True,
    "may_make_temporary_tables": True,
}


def sentences(service: str | None = None, **facts: Any) -> list[Finding]:
    """Findings about facts that are hard to make."""
    made = replace(Health(server=FACTS, settings={}), **facts)
    return [finding for finding in examine_health(made, service, Limits()) if finding[0] != "ok"]


def test_forced_checkpoints() -> None:
    wal = {"max_wal_size": {"value": "1024", "unit": "MB"}}
    often = {"asked": 40, "timed": 10, "wal_bytes": 20 << 30}
    [(_, text)] = sentences(settings=wal, checkpoints=often)
    assert "40 checkpoints came because the WAL was full" in text and "max_wal_size = '2GB'" in text
    assert sentences(settings=wal, checkpoints={**often, "asked": 9, "timed": 0}) == []
    assert sentences(settings=wal, checkpoints={**often, "timed": 41}) == []
    assert sentences(settings=wal, checkpoints={**often, "wal_bytes": 1 << 30}) == [], "somebody asked for them"
    assert sentences("Neon", settings=wal, checkpoints=often) == []


def test_far_database() -> None:
    [(_, text)] = sentences(round_trip_s=0.031)
    assert text.startswith("the way to the database and back takes 31.0 ms")


def test_slow_storage_of_a_service() -> None:
    [(_, text)] = sentences("Amazon RDS", commit_s=0.04, longest_commit_s=0.2)
    assert "a class of storage with more operations a second at Amazon RDS" in text


def test_standby_that_holds_rows() -> None:
    [(_, text)] = sentences(standbys=[{"name": "replica1", "held_transactions": 2_000_000}])
    assert "the standby replica1 holds what was deleted in 2,000,000 transactions" in text


def test_late_and_lost_slots() -> None:
    slot = {"name": "s", "kind": "logical", "active": True, "wal_status": "extended", "holds_rows": True}
    keep = {"max_slot_wal_keep_size": {"value": "10240", "unit": "MB"}}
    assert sentences(settings=keep, slots=[{**slot, "kept_bytes": 1 << 20}]) == []
    [(_, text)] = sentences(settings=keep, slots=[{**slot, "kept_bytes": 5 << 30}])
    assert "the slot keeps 5120 MiB of WAL" in text and "pg_drop_replication_slot('s')" in text
    [(_, text)] = sentences(settings=keep, slots=[{**slot, "wal_status": "lost", "kept_bytes": None}])
    assert "has lost WAL" in text


def test_old_transaction_ids() -> None:
    [(_, text)] = sentences(frozen_age=1_500_000_000)
    assert "1,500,000,000 transactions old" in text and "VACUUM (FREEZE);" in text


def test_other_database_is_refused() -> None:
    facts = Health(server={**FACTS, "version": "CockroachDB CCL v23.1.11"}, settings={})
    _, [(level, text)] = service_of(facts, None)
    assert level == "error" and text.startswith("this is CockroachDB")


@pytest.mark.parametrize(
    ("address", "level", "parts"),
    [
        ("me:pw@ep-a-1-pooler.us-east-2.aws.neon.tech/db", "warning", ["Neon", "me@ep-a-1.us-east-2.aws.neon.tech/db"]),
        (
            "me:pw@o.cluster-ro-c1.us-east-1.rds.amazonaws.com/db",
            "error",
            ["a broker writes", "o.cluster-c1.us-east-1"],
        ),
        ("me:pw@x.aws-eu-west-1.cockroachlabs.cloud:26257/db", "error", ["CockroachDB is no PostgreSQL"]),
        ("me:pw@aws-0-eu-west-1.pooler.supabase.com/db", "ok", ["session mode", "room for 10 sessions"]),
        ("me:pw@ep-a-1.us-east-2.aws.neon.tech/db", "ok", ["never suspended"]),
        ("me:pw@orders.c1.eu-west-1.rds.amazonaws.com/db", "ok", ["at Amazon RDS, without a pooler"]),
    ],
)
def test_way_to_a_service(address: str, level: str, parts: list[str]) -> None:
    [(found_level, text)] = database_checks.way_to(managed.seen_in(f"postgresql://{address}"), 10)
    assert found_level == level and "pw" not in text
    assert all(part in text for part in parts), text


def test_server_of_somebody_s_own_has_no_way() -> None:
    assert database_checks.way_to(managed.seen_in("postgresql://me@localhost/db"), 10) == []
