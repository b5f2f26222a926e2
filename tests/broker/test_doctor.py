"""`pg-kafka doctor` and `pg-kafka migrate`: what they find, say and leave behind."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.broker.broken_setups import SETUPS, Surroundings
from tests.broker.command import ANY_PORT, Done, Serving, environment, processes_of, run, wait_until
from tests.broker.pgbouncer import pgbouncer
from tests.postgres import Database, PostgresServer

from pg_kafka import checks, cli, managed
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.storage.migrate import SCHEMA_VERSION

Doctor = Callable[..., Done]


@pytest.fixture
def place(postgres15: PostgresServer, pg_database: Database, embedded_folder: Path) -> Surroundings:
    return Surroundings(postgres15, pg_database, embedded_folder)


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """The command within this process, which saves starting one for each setup."""
    root, own = logging.getLogger(), logging.getLogger("pg_kafka")
    before = root.handlers[:], root.level, own.level

    def call(*arguments: str, settings: Mapping[str, str] | None = None) -> Done:
        settings = settings or {}
        wanted = environment(settings)
        for name in set(os.environ) - set(wanted):
            monkeypatch.delenv(name)
        for name in settings:
            monkeypatch.setenv(f"PG_KAFKA_{name}", settings[name])
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", *arguments])
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    yield call
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.mark.parametrize("name", SETUPS)
def test_doctor_finds_what_keeps_a_broker_from_starting(name: str, place: Surroundings, doctor: Doctor) -> None:
    with SETUPS[name](place) as broken:
        done = doctor(*broken.arguments, settings=broken.settings)
    assert done.code == 1
    errors = re.findall(r"^(?:error   |pg-kafka: )(.*)$", done.out + done.err, re.MULTILINE)
    assert any(re.search(broken.sentence, error) for error in errors), done
    assert "hidden" not in done.out + done.err


def test_doctor_is_content_with_a_new_database_and_changes_nothing(place: Surroundings, doctor: Doctor) -> None:
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert (done.code, done.err) == (0, "")
    assert "no schema kafka yet" in done.out
    assert "12 connections fit" in done.out
    # The servers of the tests run without fsync.
    assert "warning fsync is off" in done.out
    assert place.server.sql("SELECT to_regnamespace('kafka') IS NULL", place.database.name) == "t\n"


def test_doctor_says_when_strangers_may_connect(place: Surroundings, doctor: Doctor) -> None:
    role, name = f"stranger_{place.database.name}", place.database.name
    advice = f'warning every role of the server may connect to database "{name}", and so take locks that delay brokers'
    place.server.sql(f"CREATE ROLE {role} LOGIN")
    try:
        assert advice in doctor("--listen", ANY_PORT, "--database", place.database.dsn).out
        place.server.sql(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
        assert (done.code, "locks that delay" in done.out) == (0, False)
    finally:
        place.server.sql(f"DROP ROLE {role}")


def test_doctor_makes_no_data_folder(embedded_folder: Path, doctor: Doctor) -> None:
    for data in (embedded_folder / "below" / "data", embedded_folder):
        done = doctor("--listen", ANY_PORT, "--data", str(data))
        assert (done.code, done.err) == (0, "")
        assert re.search(rf"a new embedded PostgreSQL \d+ will be made in {data}\n", done.out)
        assert list(embedded_folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_doctor_finds_a_folder_that_cannot_be_made(tmp_path: Path, doctor: Doctor) -> None:
    tmp_path.chmod(0o500)
    done = doctor("--listen", ANY_PORT, "--data", str(tmp_path / "data"))
    assert done.code == 1
    assert f"{tmp_path} may not be written" in done.out


def test_migrate_makes_the_schema_once_and_nothing_else(place: Surroundings, doctor: Doctor) -> None:
    listing = "SELECT relname, c.xmin FROM pg_class c WHERE relnamespace = 'kafka'::regnamespace ORDER BY 1"
    seen = []
    for _ in range(2):
        done = run("migrate", "--database", place.database.dsn)
        assert done.code == 0
        assert (done.out, done.err) == ("", "")
        seen.append(place.server.sql(listing, place.database.name))
    assert "cluster" in seen[0]
    assert seen[0] == seen[1]
    assert place.server.sql("SELECT count(*) FROM kafka.brokers", place.database.name) == "0\n"
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert f"schema kafka, version {SCHEMA_VERSION}" in done.out


def test_migrate_of_an_embedded_database_leaves_nothing_running(embedded_folder: Path, doctor: Doctor) -> None:
    data = embedded_folder / "data"
    done = run("migrate", "--data", str(data))
    assert (done.code, done.out, done.err) == (0, "", "")
    assert processes_of(data) == []
    assert doctor("--listen", ANY_PORT, "--data", str(data)).code == 0


def test_session_pooling_proxy_will_do(place: Surroundings) -> None:
    with pgbouncer(place.server, place.database, "session") as dsn:
        with Serving("--listen", ANY_PORT, "--database", dsn) as broker:
            broker.ready()
            assert broker.stop() == 0
        assert run("doctor", "--listen", ANY_PORT, "--database", dsn).code == 0


@pytest.mark.parametrize(
    ("listen", "advertise", "container", "own", "expected"),
    [
        ("127.0.0.1", None, True, "10.0.0.7", []),
        ("0.0.0.0", None, True, None, ["no authentication", "looks like a container"]),
        ("0.0.0.0", None, False, "10.0.0.7", ["no authentication", "own address 10.0.0.7 is a private one"]),
        ("0.0.0.0", None, False, None, ["no authentication"]),
        ("0.0.0.0", "kafka.example", True, "10.0.0.7", ["no authentication"]),
    ],
)
def test_advice_on_addresses(
    listen: str,
    advertise: str | None,
    container: bool,
    own: str | None,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_is_container", lambda: container)
    monkeypatch.setattr(checks, "_private_address", lambda _host: own)
    config = Config(listen=Address(listen, 9092), advertise=Address(advertise, 9092) if advertise else None)
    advice = checks.address_advice(config)
    assert len(advice) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, advice, strict=True))


@pytest.mark.parametrize(
    ("host", "own"), [("192.168.1.5", "192.168.1.5"), ("93.184.215.14", None), ("kafka.example", None)]
)
def test_private_address_is_told_from_a_public_one(host: str, own: str | None) -> None:
    assert checks._private_address(host) == own


def test_doctor_prints_what_to_change(place: Surroundings, doctor: Doctor) -> None:
    name = place.database.name
    place.server.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert done.code == 0
    lines = done.out.splitlines()
    at = next(number for number, line in enumerate(lines) if "synchronous_commit is off" in line)
    assert lines[at].startswith("warning ")
    assert lines[at + 1] == f'          ALTER DATABASE "{name}" RESET synchronous_commit;'
    place.server.sql(lines[at + 1])
    assert "synchronous_commit" not in doctor("--listen", ANY_PORT, "--database", place.database.dsn).out


def test_doctor_says_how_long_a_commit_takes(place: Surroundings, doctor: Doctor) -> None:
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert re.search(r"^(ok     |warning) a commit takes \d+\.\d ms, \d+\.\d ms at most", done.out, re.MULTILINE)
    assert f'GRANT pg_read_all_stats TO "{place.database.name}";' in done.out


def test_doctor_shows_the_settings_of_a_service_as_that_has_them_set(place: Surroundings, doctor: Doctor) -> None:
    name = place.database.name
    place.server.sql(f"ALTER DATABASE {name} SET cloudsql.iam_authentication = 'on'")
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert "ok      the server is one of Google Cloud SQL" in done.out
    assert "          gcloud sql instances patch INSTANCE --database-flags=fsync=on" in done.out
    assert "ALTER SYSTEM" not in done.out


def test_doctor_knows_a_role_without_rights_and_how_to_give_them(place: Surroundings, doctor: Doctor) -> None:
    assert run("migrate", "--database", place.database.dsn).code == 0
    role = f"{place.database.name}_broker"
    place.server.sql(f"CREATE ROLE {role} LOGIN NOINHERIT; GRANT {role} TO {place.database.name}")
    dsn = place.server.dsn(place.database.name, role)
    try:
        done = doctor("--listen", ANY_PORT, "--database", dsn)
        assert done.code == 1
        assert f'error   role "{role}" lacks rights in the schema of role "{place.database.name}"' in done.out
        assert f"          pg-kafka migrate --grant-broker {role} --database URL" in done.out
        assert run("migrate", "--grant-broker", role, "--database", place.database.dsn).code == 0
        done = doctor("--listen", ANY_PORT, "--database", dsn)
        assert (done.code, f"schema kafka, version {SCHEMA_VERSION}" in done.out) == (0, True)
    finally:
        place.server.sql(f"DROP OWNED BY {role} CASCADE", place.database.name)
        place.server.sql(f"REVOKE {role} FROM {place.database.name}; DROP DATABASE {place.database.name} WITH (FORCE)")
        place.server.sql(f"DROP ROLE {role}")


def test_doctor_says_which_limit_of_connections_to_raise(place: Surroundings, doctor: Doctor) -> None:
    name = place.database.name
    place.server.sql(f"ALTER ROLE {name} CONNECTION LIMIT 5")
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
    assert done.code == 1
    line = f'          ALTER ROLE "{name}" CONNECTION LIMIT 12;'
    assert line in done.out.splitlines()
    place.server.sql(line)
    assert doctor("--listen", ANY_PORT, "--database", place.database.dsn).code == 0


def test_doctor_wants_the_right_to_see_standbys(place: Surroundings, doctor: Doctor) -> None:
    settings = {"MIN_SYNC_STANDBYS": "1"}
    done = doctor("--listen", ANY_PORT, "--database", place.database.dsn, settings=settings)
    assert done.code == 1
    assert "error   pg_kafka.min_sync_standbys needs to see the standbys" in done.out
    place.server.sql(f"GRANT pg_read_all_stats TO {place.database.name}")
    assert doctor("--listen", ANY_PORT, "--database", place.database.dsn, settings=settings).code == 0


def test_doctor_says_which_address_to_use_behind_a_pooler_of_a_service(
    place: Surroundings, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = "postgresql://me@ep-a-1.us-east-2.aws.neon.tech/db"
    seen = managed.Seen("Neon", managed.Way.POOLER, "the pooler (-pooler in the host's name)", better)
    monkeypatch.setattr(managed, "seen_in", lambda _url: seen)  # no such name leads here
    with pgbouncer(place.server, place.database, "transaction") as dsn:
        done = doctor("--listen", ANY_PORT, "--database", dsn)
    assert done.code == 1
    assert "warning the address leads to Neon through the pooler" in done.out
    assert f"          --database {better}" in done.out.splitlines()
    assert f"session-pooling proxy; at Neon that is {better}\n" in done.out


def test_doctor_tells_the_service_of_a_database_that_it_cannot_reach(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = managed.Seen("Crunchy Bridge", managed.Way.POOLER, "PgBouncer (port 5431)", "postgresql://me@p.x/db")
    monkeypatch.setattr(managed, "seen_in", lambda _url: seen)
    done = doctor("--listen", ANY_PORT, "--database", "postgresql://me:hidden@127.0.0.1:1/db")
    assert done.code == 1
    assert "          --database postgresql://me@p.x/db" in done.out.splitlines()
    assert "error   the database 127.0.0.1:1/db cannot be used" in done.out
    assert "hidden" not in done.out + done.err


def test_doctor_looks_into_an_embedded_server_that_runs(embedded_folder: Path, doctor: Doctor) -> None:
    data = embedded_folder / "data"
    with Serving("--listen", ANY_PORT, "--data", str(data)) as broker:
        broker.ready()
        done = doctor("--listen", broker.bootstrap, "--data", str(data))
        assert done.code == 0, done
        assert (
            f"ok      a broker runs on data folder {data} (process {broker.process.pid}): this looks in beside it"
            in done.out
        )
        assert f"ok      {broker.bootstrap} is taken, as it is when the broker that runs has it" in done.out
        assert "\nerror " not in done.out
        assert f"ok      schema kafka, version {SCHEMA_VERSION}" in done.out
        assert re.search(r"^\w+ +a commit takes \d+\.\d ms", done.out, re.MULTILINE)
        assert broker.stop() == 0


def test_doctor_says_who_locks_the_tables_it_wants_to_read(place: Surroundings, doctor: Doctor) -> None:
    assert run("migrate", "--database", place.database.dsn).code == 0
    with subprocess.Popen(
        ["psql", "--quiet", "--no-psqlrc", f"--dbname={place.database.dsn}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("BEGIN;\nLOCK TABLE kafka.cluster IN ACCESS EXCLUSIVE MODE;\n\\echo locked\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        held = r"^warning process \d+ \(role .*, psql\) has locked kafka.cluster against everybody"
        refused = "error   the database refused a statement: canceling statement due to lock timeout"

        def is_told() -> bool:
            done = doctor("--listen", ANY_PORT, "--database", place.database.dsn)
            assert done.code == 1 and refused in done.out
            return re.search(held, done.out, re.MULTILINE) is not None

        try:
            wait_until(is_told, "the lock to be held for some seconds")
        finally:
            holder.kill()
