"""PostgreSQL servers of the test run, and what tests need to know about embedded ones.

A server lives as long as the test run and never longer, even when the run is killed. When the tests run as root, it
runs as an unprivileged user.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from pg_kafka.embedded import binaries, user
from pg_kafka.embedded.postmaster import Postmaster, read_status

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_SUPERUSER = "postgres"

_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    "jit": "off",
}
_WITHOUT_FSYNC: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


def unprivileged_user() -> str | None:
    """Who runs the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("the tests run as root, and there is no user postgres or nobody to run PostgreSQL as")


def _end_with_parent() -> None:
    """In the child: an immediate shutdown when the test run dies, however it dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Database:
    """A database made for one test, and the ordinary role that owns it (both have the same name)."""

    name: str
    dsn: str
    superuser_dsn: str


class PostgresServer:
    """A PostgreSQL server of the test run on a temporary data folder."""

    def __init__(self, flavour: str, binaries: Path, *, fsync: bool, settings: Mapping[str, str]) -> None:
        self.flavour = flavour
        self.binaries = binaries
        # Short and directly in /tmp: the path of a Unix socket must fit in 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
        self.data = self.folder / "data"
        self.socket_folder = self.folder
        self.port = 0
        self.password = secrets.token_urlsafe(12)
        self._settings = {**_SETTINGS, **({} if fsync else _WITHOUT_FSYNC), **settings}
        self._user = unprivileged_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def create(self) -> None:
        """initdb and start."""
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        password_file = self.folder / "password"
        password_file.write_text(self.password + "\n")
        password_file.chmod(0o644)  # inside a folder of mode 0700
        self._run(
            "initdb",
            f"--pgdata={self.data}",
            f"--username={_SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
        )
        self.start()

    def start(self) -> None:
        """Start the server; returns when it accepts connections."""
        for attempt in range(5):
            if attempt or not self.port:
                self.port = _free_port()
            if self._try_start():
                return
            if "could not create any TCP/IP sockets" not in self.log:
                break
        raise RuntimeError(f"PostgreSQL ({self.flavour}) did not start:\n{self.log[-4000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast shutdown; SIGQUIT: immediate, as in a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def destroy(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str = "postgres", role: str = _SUPERUSER, *, tcp: bool = False) -> str:
        """Over the Unix socket without a password, or over TCP with one."""
        if tcp:
            return f"postgresql://{role}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_folder), safe='')}&port={self.port}"

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Run statements as superuser, each in a transaction of its own; returns psql's unaligned output."""
        return self._run(
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            f"--dbname={self.dsn(database)}",
            statements=statements,
        )

    def create_database(self, template: str = "template0") -> Database:
        """An empty UTF8 database (or a copy of `template`) and an ordinary role that owns it."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.sql(
            f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{self.password}';\n"
            f"CREATE DATABASE {name} OWNER {name} TEMPLATE {template} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';\n"
        )
        return Database(name, self.dsn(name, name), self.dsn(name))

    def drop_database(self, database: Database) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE);\nDROP ROLE IF EXISTS {database.name};\n")

    def _try_start(self) -> bool:
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.socket_folder)}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self.binaries / "postgres"),
                    "-D",
                    str(self.data),
                    *itertools.chain.from_iterable(("-c", f"{key}={value}") for key, value in settings.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                preexec_fn=_end_with_parent,  # runs after the change of user, which would clear the signal
                **self._as_user(),
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(0.01)
        self.stop(signal.SIGQUIT)
        return False

    def _run(self, program: str, *arguments: str, statements: str = "") -> str:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            input=statements,
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": "/"},
            check=False,
            **self._as_user(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} ({self.flavour}) failed: {done.stderr}{done.stdout}\n{self.log[-2000:]}")
        return done.stdout

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        owner = pwd.getpwnam(self._user)
        return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _system_binaries() -> Path | None:
    """The folder of the system's PostgreSQL: 15 if there is one, else the newest."""
    found = {
        int(path.parent.parent.name): path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.parent.parent.name.isdigit()
    }
    if found:
        return found.get(15) or found[max(found)]
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        folder = Path(
            subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        )
        if (folder / "postgres").exists():
            return folder
    return None


def _embedded_binaries() -> Path | None:
    return binaries.find(user.choose(Path("/nonexistent"))).folder


FLAVOURS: Mapping[str, Callable[[], Path | None]] = {
    "postgresql-15": _system_binaries,
    "embedded": _embedded_binaries,
}


@contextmanager
def reachable_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """A temporary folder that the user who runs PostgreSQL can pass, unlike pytest's own when root runs the tests.

    `in_memory`: where the machine has a file system for that; new clusters are made and copied much faster.
    An embedded server that a killed broker has left in the folder ends with it.
    """
    memory = Path("/dev/shm")
    use_memory = in_memory and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    folder = Path(tempfile.mkdtemp(prefix="pgk-", dir=memory if use_memory else "/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield folder
    finally:
        for cluster in folder.glob("**/postgres/PG_VERSION"):
            end_embedded(cluster.parent.parent)
        shutil.rmtree(folder, ignore_errors=True)


def embedded_dsn(data: Path) -> str | None:
    """Where the embedded server of a data folder listens, None if it does not run."""
    status = read_status(data / "postgres")
    if status is None or not status.is_ready:
        return None
    return f"postgresql://postgres@/pg_kafka?host={quote(str(status.socket_folder), safe='')}&port={status.port}"


def end_embedded(data: Path) -> None:
    """End the server of a data folder at once, if it runs."""
    found = Postmaster.find(data / "postgres")
    if found is not None:
        found.signal(signal.SIGQUIT)
        deadline = time.monotonic() + 10
        while found.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
