"""PostgreSQL that we start, on a data folder of ours.

It is the broker's only as long as the broker holds the folder's lock. It outlives a broker that is killed, and the next
one takes it over as it is. It never runs with anything less durable than PostgreSQL's defaults.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import zlib
from pathlib import Path
from urllib.parse import quote

import asyncpg

from pg_kafka.embedded import binaries, settings, user, wal
from pg_kafka.embedded.binaries import Binaries
from pg_kafka.embedded.folder import DataFolder, append, flush_tree, replace, with_advice
from pg_kafka.embedded.postmaster import Postmaster, Status, read_status
from pg_kafka.embedded.user import ServerUser
from pg_kafka.errors import FatalError
from pg_kafka.storage import queries

SQL = queries.load("embedded")

_CONNECT_TIMEOUT_S = 30.0
_STATEMENT_TIMEOUT_S = 60.0
# Making a cluster takes two seconds.
_SLOW_S = 15.0
# PostgreSQL tells nobody when a recovery ends.
_RECOVERY_POLL_S = 0.5
# Backends of a postmaster that was killed notice it within moments; the shared memory is theirs until then.
_LEFTOVER_BACKENDS_S = 10.0
# Below the range from which Linux takes the ports of outgoing connections.
_PORTS = range(20_000, 30_000)


class EmbeddedPostgres:
    """A PostgreSQL server of our own."""

    def __init__(self, data: Path, logger: logging.Logger, *, copies: Path = binaries.COPIES) -> None:
        self._folder = DataFolder(data)
        self._logger = logger
        self._copies = copies
        self._user: ServerUser | None = None
        self._postmaster: Postmaster | None = None
        self._status: Status | None = None
        self._programs: Binaries | None = None
        self._version = ""

    @property
    def dsn(self) -> str:
        """Over the Unix socket, where the server trusts the user of the operating system: no password in it."""
        status = self._started()
        return _dsn(status, settings.DATABASE)

    @property
    def psql_command(self) -> str:
        status = self._started()
        assert self._programs is not None
        program = self._programs.program("psql")
        where = ["-h", str(status.socket_folder), "-p", str(status.port)]
        return shlex.join([program, *where, "-U", settings.ROLE, "-d", settings.DATABASE])

    @property
    def url(self) -> str:
        """For other programs of this machine; the password is in `passfile`."""
        return f"postgresql://{settings.ROLE}@127.0.0.1:{self._started().port}/{settings.DATABASE}"

    @property
    def passfile(self) -> Path:
        return self._folder.passfile

    @property
    def description(self) -> str:
        return f"PostgreSQL {self._version}, embedded, {self._folder.path}"

    @property
    def log_dir(self) -> str:
        return str(self._folder.path)

    def disk_bytes(self) -> tuple[int, int] | None:
        return self._folder.disk_bytes()

    def free_disk_bytes(self) -> int | None:
        """The least of the volumes of the data folder and of the WAL, which may have been moved to another. Raises OSError."""
        return self._folder.free_bytes()

    async def start(self) -> None:
        """Return when the database `pg_kafka` can be used. Raises FatalError."""
        self._folder.claim()
        try:
            await self._bring_up()
        except BaseException as error:
            await asyncio.shield(self.stop(immediate=True))
            if isinstance(error, OSError):
                raise self._folder.unusable(error) from error
            raise

    async def stop(self, *, immediate: bool = False, deadline_s: float = 30.0) -> None:
        """Shut the server down with a checkpoint; at once and without one if `immediate` or when the deadline is over.

        May be called again while it waits, to hurry it up.
        """
        postmaster = self._postmaster
        if postmaster is not None:
            if not immediate:
                postmaster.signal(signal.SIGINT)
                immediate = not await postmaster.wait_ended(deadline_s)
                if immediate:
                    self._logger.warning(
                        "PostgreSQL is slow to shut down, stopping it at once", extra={"after_s": deadline_s}
                    )
            if immediate:
                postmaster.signal(signal.SIGQUIT)
                if not await postmaster.wait_ended(10.0):
                    postmaster.signal(signal.SIGKILL)
                    await postmaster.wait_ended(10.0)
            self._postmaster = None
            if self._status is not None:
                self._folder.remove_socket_folder(self._status.socket_folder)
        self._folder.release()

    async def keep_running(self) -> None:
        """Start the server again whenever it ends by itself. Raises FatalError when it does not come back."""
        while self._postmaster is not None:
            await self._postmaster.ended()
            self._logger.error("PostgreSQL ended, starting it again", extra={"data": str(self._folder.path)})
            self._postmaster = None
            try:
                await self._bring_up()
            except OSError as error:
                raise self._folder.unusable(error) from error

    def kill(self) -> None:
        """Tell the server to end at once, and do not wait. The next start recovers; nothing is lost."""
        if self._postmaster is not None:
            self._postmaster.signal(signal.SIGQUIT)

    async def _bring_up(self) -> None:
        self._user = user.choose(self._folder.cluster)
        self._folder.open_to(self._user)
        self._programs = binaries.find(self._user, self._copies)
        version = self._folder.version()
        if version is None:
            await self._initialise(self._user, self._programs)
        elif version != self._programs.major:
            raise FatalError(binaries.wrong_version(self._folder.path, version, self._programs.version))
        if await self._adopt():
            return
        self._status = await self._launch(self._user, self._programs)
        await self._prepare_database(self._status)

    async def _initialise(self, owner: ServerUser, programs: Binaries) -> None:
        """Make the cluster beside its place and move it there, so that an interrupted start leaves no half of one."""
        new = self._folder.new_cluster(owner)
        spare = self._folder.spare_wal()
        count = settings.kept_wal_bytes(self._folder.free_bytes()) // wal.FILE_BYTES - 1  # initdb makes one
        writing = asyncio.ensure_future(asyncio.to_thread(wal.write, spare, count))
        try:
            await self._initdb(new, owner, programs)
            if await writing:
                wal.move(spare, new, owner)
            append(new / "postgresql.conf", settings.INCLUDE_SETTINGS)
            append(new / "pg_ident.conf", settings.INCLUDE_IDENT)
            os.truncate(new / "pg_hba.conf", 0)
            append(new / "pg_hba.conf", settings.HBA)
            await asyncio.to_thread(flush_tree, new)
            # Not in the thread: a cancelled start removes the new cluster, which must not take its place meanwhile.
            self._folder.accept_cluster(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(spare, ignore_errors=True)
            await asyncio.wait([writing])

    async def _initdb(self, new: Path, owner: ServerUser, programs: Binaries) -> None:
        arguments = [
            programs.program("initdb"),
            f"--pgdata={new}",
            f"--username={settings.ROLE}",
            "--encoding=UTF8",
            # Sorts like C and knows the letters of all scripts, whatever locales the machine has.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            # flush_tree does that.
            "--no-sync",
            # Replaced by our own rules before the server runs.
            "--auth=reject",
            "--no-instructions",
        ]
        process = _spawn(arguments, owner)
        slow = asyncio.get_running_loop().call_later(
            _SLOW_S, lambda: self._logger.warning("making a new PostgreSQL takes long, the disk is slow")
        )
        try:
            output, _ = await asyncio.to_thread(process.communicate)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            slow.cancel()
        if process.returncode != 0:
            reason = _reason(output.decode("utf-8", "replace"))
            raise FatalError(f"PostgreSQL could not be set up in {self._folder.path}: {reason}")

    async def _adopt(self) -> bool:
        """Take over the server that a killed broker has left, if it runs and goes on running."""
        found = Postmaster.find(self._folder.cluster)
        if found is None:
            return False
        if not self._is_stopping():
            self._logger.info("taking over the PostgreSQL of an earlier pg-kafka", extra={"postmaster": found.pid})
            self._postmaster = found
            try:
                self._status = await self._wait_ready(found)
                if self._status is not None:
                    await self._prepare_database(self._status)
                    return True
            except FatalError:
                # It may have been told to stop just before its broker ended.
                if found.is_alive() and not self._is_stopping():
                    raise
            self._postmaster = None
        self._logger.info("waiting for PostgreSQL to finish shutting down", extra={"postmaster": found.pid})
        if not await found.wait_ended(_STATEMENT_TIMEOUT_S):
            raise FatalError(f"PostgreSQL on {self._folder.path} (process {found.pid}) does not finish shutting down")
        return False

    def _is_stopping(self) -> bool:
        status = read_status(self._folder.cluster)
        return status is None or status.state == "stopping"

    async def _launch(self, owner: ServerUser, programs: Binaries) -> Status:
        """Start the server. A port that is taken meanwhile gets two more tries."""
        reason = ""
        waited_s = 0.0
        tries = 3
        while tries:
            self._write_settings(owner)
            logs = self._log_sizes()
            self._postmaster = self._start_process(owner, programs)
            status = await self._wait_ready(self._postmaster)
            if status is not None:
                return status
            self._postmaster = None
            output = self._output(logs)
            reason = _reason(output)
            if "still in use" in reason and waited_s < _LEFTOVER_BACKENDS_S:
                await asyncio.sleep(0.1)
                waited_s += 0.1
                continue
            if "could not create any TCP/IP sockets" not in output:
                break
            tries -= 1
        raise FatalError(f"PostgreSQL did not start on {self._folder.path}: {reason}")

    def _write_settings(self, owner: ServerUser) -> None:
        folder = self._folder
        try:
            port = settings.stored_port(folder.settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            port = None
        text = settings.server(
            _free_port(port, str(folder.path)),
            folder.socket_folder(owner),
            settings.memory_bytes(),
            shutil.disk_usage(folder.path).free,
        )
        # Read by the server's user, who may be another one.
        replace(folder.settings_file, text, 0o644)
        replace(folder.ident_file, settings.ident(user.current_user_name()), 0o644)

    def _start_process(self, owner: ServerUser, programs: Binaries) -> Postmaster:
        cluster = self._folder.cluster
        stale = read_status(cluster)
        # PostgreSQL refuses to start when the process of a stale postmaster.pid is alive; that number now belongs to a
        # process of somebody else (we have looked). It makes an exception for the number in this variable, and goes on
        # to check that the shared memory is unused.
        environment = {} if stale is None else {"PG_GRANDPARENT_PID": str(stale.pid)}
        with self._folder.startup_log.open("wb") as output:
            child = subprocess.Popen(
                [programs.program("postgres"), "-D", str(cluster)],
                stdout=output,
                stderr=output,
                **owner.popen_arguments(environment),
            )
        return Postmaster(child.pid, cluster, child)

    async def _wait_ready(self, postmaster: Postmaster) -> Status | None:
        while True:
            try:
                return await postmaster.wait_ready()
            except TimeoutError:
                self._logger.info("PostgreSQL is still starting or recovering", extra={"postmaster": postmaster.pid})

    def _log_sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in (self._folder.cluster / "log").glob("*.log")}

    def _output(self, logs: dict[Path, int]) -> str:
        """What the server has said since its logs had these sizes."""
        text = self._folder.startup_log.read_text(encoding="utf-8", errors="replace")
        for path in self._log_sizes():
            with path.open("rb") as file:
                file.seek(logs.get(path, 0))
                text += file.read(65_536).decode("utf-8", "replace")
        return text

    async def _prepare_database(self, status: Status) -> None:
        """Create what a new data folder lacks, and read the version."""
        try:
            await self._wait_recovered(status)
            async with asyncio.timeout(_STATEMENT_TIMEOUT_S):
                try:
                    connection = await _connect(status, settings.DATABASE)
                    is_new = False
                except asyncpg.InvalidCatalogNameError:
                    connection = await _connect(status, "postgres")
                    is_new = True
                try:
                    if is_new:
                        await connection.execute(queries.render(SQL["create_database"], database=settings.DATABASE))
                    if not self._folder.passfile.exists():
                        await self._make_password(connection)
                    # "18.6", or "15.18 (Debian 15.18-0+deb12u1)".
                    self._version = connection.get_settings().server_version.split()[0]
                finally:
                    await connection.close(timeout=5.0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = str(error) or type(error).__name__
            raise FatalError(
                f"the embedded PostgreSQL on {self._folder.path} does not take connections: {reason}"
            ) from error

    async def _wait_recovered(self, status: Status) -> None:
        """A server that recovers to a point in time takes connections long before it takes writes. No deadline."""
        told = False
        while True:
            connection = await _connect(status, "postgres")
            try:
                if not await connection.fetchval(SQL["is_in_recovery"], timeout=_STATEMENT_TIMEOUT_S):
                    return
            finally:
                await connection.close(timeout=5.0)
            if (self._folder.cluster / "standby.signal").exists():
                raise FatalError(
                    f"PostgreSQL on {self._folder.path} is a standby: promote it, or remove standby.signal"
                )
            if not told:
                told = True
                self._logger.info("PostgreSQL is recovering to a point in time", extra={"data": str(self._folder.path)})
            await asyncio.sleep(_RECOVERY_POLL_S)

    async def _make_password(self, connection: asyncpg.Connection) -> None:
        """A password for connections over 127.0.0.1; set first and then stored, so that a crash between repeats it."""
        password = secrets.token_urlsafe(32)
        await connection.fetchval(SQL["remember_password"], _scram_verifier(password))
        await connection.execute(SQL["set_password"])
        lines = [f"{host}:*:*:{settings.ROLE}:{password}\n" for host in ("127.0.0.1", "localhost")]
        replace(self._folder.passfile, "".join(lines), 0o600)

    def _started(self) -> Status:
        if self._status is None:
            raise RuntimeError("the embedded PostgreSQL has not been started")
        return self._status


def dsn_of_running(data: Path) -> str | None:
    """How to reach the server of a broker that runs on this folder; None when none does."""
    status = read_status(DataFolder(data).cluster)
    is_running = status is not None and status.is_ready and Postmaster.find(DataFolder(data).cluster) is not None
    return _dsn(status, settings.DATABASE) if status is not None and is_running else None


def _spawn(arguments: list[str], owner: ServerUser) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **owner.popen_arguments())


async def _connect(status: Status, database: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        _dsn(status, database), timeout=_CONNECT_TIMEOUT_S, server_settings={"application_name": "pg_kafka start"}
    )


def _dsn(status: Status, database: str) -> str:
    return (
        f"postgresql://{settings.ROLE}@/{database}?host={quote(str(status.socket_folder), safe='')}&port={status.port}"
    )


def _free_port(stored: int | None, seed: str) -> int:
    """The port of the last time if it is free, else one that depends on the folder: it tends to stay the same."""
    first = zlib.crc32(seed.encode("utf-8", "surrogateescape")) % len(_PORTS)
    candidates: list[int] = [*_PORTS[first:], *_PORTS[:first]]
    if stored is not None:
        candidates.insert(0, stored)
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise FatalError(f"no free port for PostgreSQL between {_PORTS.start} and {_PORTS.stop}")


def _reason(output: str) -> str:
    """The one line of PostgreSQL's output that says why."""
    found = re.findall(r"(?:FATAL|PANIC|error):\s+(.+)", output)
    if found:
        return with_advice(str(found[0]).strip())
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return with_advice(lines[-1]) if lines else "it ended without a word"


def _scram_verifier(password: str) -> str:
    """What PostgreSQL stores for a password (RFC 5803): SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = base64.b64encode(hashlib.sha256(client_key).digest()).decode()
    server_key = base64.b64encode(hmac.digest(salted, b"Server Key", "sha256")).decode()
    return f"SCRAM-SHA-256$4096:{base64.b64encode(salt).decode()}${stored_key}:{server_key}"
