"""What a round needs: PostgreSQL servers that can be killed and frozen, standbys of them, and brokers.

Servers flush (fsync on), listen on TCP too, and keep their port over restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from tests.broker.rawclient import RawClient, only
from tests.clients.brokers import COMMAND
from tests.crash.load import Place
from tests.crash.proxy import Front, Proxy
from tests.kafka_reference import HOST, end, free_port, spawn, tail, wait_until_served
from tests.postgres import FLAVOURS, Database, PostgresServer, embedded_dsn

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest

FLAVOUR = "postgresql-15"
DESCRIBE_TRANSACTIONS = 65


def process_tree(pid: int) -> list[int]:
    """A process and its children and theirs."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Server(PostgresServer):
    """A PostgreSQL 15 for crash tests."""

    def __init__(self, folder: Path | None = None, **settings: str) -> None:
        binaries = FLAVOURS[FLAVOUR]()
        if binaries is None:
            raise RuntimeError("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
        super().__init__(FLAVOUR, binaries, fsync=True, settings={"shared_buffers": "64MB", **settings})
        if folder is not None:
            shutil.rmtree(self.folder)
            self.folder = self.socket_folder = folder
            self.data = folder / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of the postmaster; its children find out by themselves."""
        self.stop(signal.SIGKILL)

    def start_again(self, deadline_s: float = 30.0) -> None:
        """Start after a crash: children of the old one may still hold the shared memory."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                self.start()
                return
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)  # nothing tells when the last of them is gone

    def freeze(self) -> list[int]:
        pids = process_tree(self.pid)
        signal_all(pids, signal.SIGSTOP)
        return pids

    def tcp_dsn(self, database: Database, port: int) -> str:
        return f"postgresql://{database.name}:{self.password}@{HOST}:{port}/{database.name}?sslmode=disable"

    def copy(self, *arguments: str, **settings: str) -> Server:
        """A base backup of this server as it runs, not started."""
        other = Server(**settings)
        other.password = self.password
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(other.folder, owner.pw_uid, owner.pw_gid)
        other._run(
            "pg_basebackup",
            f"--pgdata={other.data}",
            f"--dbname={self.dsn()}",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--no-sync",
            *arguments,
        )
        return other

    def write(self, name: str, content: str) -> None:
        """A file in the data folder."""
        path = self.data / name
        path.write_text(content)
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def promote(self) -> None:
        self.sql("SELECT pg_promote(true, 30)")


async def is_leader(place: Any) -> bool:
    """Whether that broker leads: the others coordinate nothing."""
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with await RawClient.connect(place) as client:
            request = DescribeTransactionsRequest(transactional_ids=["nobody's"])
            answer = await client.call(request, DESCRIBE_TRANSACTIONS, 0)
            return bool(only(answer.transaction_states).error_code != ErrorCode.NOT_COORDINATOR)
    return False


class BrokerProcess:
    """`pg-kafka serve` on a port of its own."""

    def __init__(self, folder: Path, *place: str) -> None:
        self.port = free_port()
        self.host = HOST
        self.log = folder / f"broker-{self.port}.log"
        self.place = place
        self.environment: dict[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; a standby does not serve before its time."""
        command = [str(COMMAND), "serve", "--listen", f"{HOST}:{self.port}", *self.place]
        self._process = spawn(command, self.log, self.environment)

    async def leads(self, timeout_s: float = 60) -> None:
        """Return when it leads: one that waits answers too."""
        deadline = time.monotonic() + timeout_s
        while not await is_leader(self):
            assert time.monotonic() < deadline, f"it does not take over:\n{tail(self.log)}"
            await asyncio.sleep(0.02)

    async def serves(self, timeout_s: float = 60) -> None:
        """Return when it answers requests."""
        assert self._process is not None
        await asyncio.to_thread(wait_until_served, self.port, self._process, self.log, timeout_s)

    async def waits(self, timeout_s: float = 20) -> None:
        """Return when it says that it waits for another broker."""
        start = self.log.stat().st_size if self.log.exists() else 0
        deadline = time.monotonic() + timeout_s
        while "waiting" not in self.log.read_text()[start:].lower():
            assert time.monotonic() < deadline, f"it does not say that it waits:\n{tail(self.log)}"
            await asyncio.sleep(0.05)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, number)

    def complaints(self) -> list[str]:
        """Lines of its log that no fault outside excuses."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line[:2000] for line in text.splitlines() if "traceback=" in line or "Traceback" in line]


class System:
    """A database and its brokers, used for some rounds."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgk-crash-"))
        self.folder.chmod(0o711)
        self.brokers: list[BrokerProcess] = []
        self.proxy: Proxy | None = None
        self.front: Front | None = None

    @property
    def bootstrap(self) -> Place:
        """What clients are told."""
        return self.places[0] if self.front is None else Place(HOST, self.front.port)

    @property
    def places(self) -> list[Place]:
        return [Place(broker.host, broker.port) for broker in self.brokers]

    @property
    def sql_dsn(self) -> str:
        """The database as its owner, past any proxy."""
        raise NotImplementedError

    async def open(self) -> None:
        raise NotImplementedError

    async def serving(self) -> Place:
        """Have one broker that serves, none that waits."""
        for broker in self.brokers[1:]:
            broker.stop()
        first = self.brokers[0]
        if not first.is_running():
            first.start()
        await first.serves()
        await first.leads()
        if self.front is not None:
            self.front.lead_to((first.host, first.port))
        return Place(first.host, first.port)

    async def close(self) -> None:
        try:
            for broker in self.brokers:
                if broker.is_running():
                    with contextlib.suppress(ProcessLookupError):
                        broker.signal(signal.SIGCONT)
                    # Not in the loop: the proxy that the broker reaches its database by runs there.
                    await asyncio.to_thread(broker.stop)
        finally:
            for between in (self.proxy, self.front):
                if between is not None:
                    await between.stop()
            self.destroy()
            shutil.rmtree(self.folder, ignore_errors=True)

    def destroy(self) -> None:
        """End the servers."""

    @contextlib.asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.sql_dsn, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.sql() as connection:
            return list(await connection.fetch(statement, *arguments))


class Given(System):
    """A broker on a PostgreSQL that is given, through a proxy if wanted."""

    def __init__(self, *, through_proxy: bool = False, server: Server | None = None, settings: str = "") -> None:
        super().__init__()
        self.server = server or Server()
        self._through_proxy = through_proxy
        self._settings = settings  # TOML

    @property
    def sql_dsn(self) -> str:
        return self.server.dsn(self.database.name, self.database.name)

    async def open(self) -> None:
        await asyncio.to_thread(self.server.create)
        self.database = self.server.create_database()
        place = self.sql_dsn
        if self._through_proxy:
            self.proxy = Proxy((HOST, self.server.port))
            await self.proxy.start()
            place = self.server.tcp_dsn(self.database, self.proxy.port)
        file = self.folder / "pg-kafka.toml"
        file.write_text(self._settings)
        self.brokers = [BrokerProcess(self.folder, "--database", place, "--config", str(file))]

    async def superuser(self, statement: str) -> str:
        return await asyncio.to_thread(self.server.sql, statement, self.database.name)

    async def backends(self, kind: str) -> list[int]:
        """Process ids of the broker's sessions of a kind."""
        found = await self.superuser(f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_kafka {kind}%'")
        return [int(pid) for pid in found.split()]

    def destroy(self) -> None:
        self.server.destroy()


class WithStandby(Given):
    """Two brokers behind an address that moves; the second is to be started when wanted."""

    async def open(self) -> None:
        await super().open()
        self.front = Front()
        await self.front.start()
        place = ("--database", self.sql_dsn, "--advertise", f"{HOST}:{self.front.port}")
        self.brokers = [BrokerProcess(self.folder, *place) for _ in range(2)]


class Embedded(System):
    """One broker with the PostgreSQL that it brings."""

    async def open(self) -> None:
        self.brokers = [BrokerProcess(self.folder, "--data", str(self.folder / "data"))]

    @property
    def sql_dsn(self) -> str:
        found = embedded_dsn(self.folder / "data")
        assert found is not None, "the embedded PostgreSQL does not run"
        return found

    def postmaster(self) -> int:
        return int((self.folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])


class Pair(Given):
    """A primary and a standby behind a proxy that can lead to either."""

    def __init__(self, *, synchronous: bool) -> None:
        super().__init__(
            through_proxy=True,
            server=Server(max_wal_senders="10", wal_level="replica", hot_standby="on"),
        )
        self._synchronous = synchronous
        self.standby: Server | None = None

    async def open(self) -> None:
        await super().open()
        self.standby = await asyncio.to_thread(self.server.copy, "--write-recovery-conf")
        await asyncio.to_thread(self.standby.start)
        if self._synchronous:
            await self._be_synchronous()

    async def wait_for(self, question: str, timeout_s: float = 20) -> None:
        """Return when a count is above zero."""
        deadline = time.monotonic() + timeout_s
        while (await self.superuser(question)).strip() == "0":
            assert time.monotonic() < deadline, question
            await asyncio.sleep(0.05)

    async def renew_standby(self) -> None:
        """Make a standby of the server that is the primary now, in place of the one that is lost; return when it follows."""
        if self.standby is not None:
            self.standby.destroy()
        if self._synchronous:
            await self.superuser("ALTER SYSTEM RESET synchronous_standby_names")
            await self.superuser("SELECT pg_reload_conf()")
        self.standby = await asyncio.to_thread(self.server.copy, "--write-recovery-conf")
        await asyncio.to_thread(self.standby.start)
        if self._synchronous:
            await self._be_synchronous()

    async def _be_synchronous(self) -> None:
        await self.superuser("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self.superuser("SELECT pg_reload_conf()")
        await self.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")

    async def fail_over(self) -> None:
        """The primary is killed, the standby takes its place, and the proxy leads there."""
        assert self.standby is not None
        self.server.kill()
        await asyncio.to_thread(self.standby.promote)
        await self.lead_to(self.standby)

    async def lead_to(self, server: Server) -> None:
        """The proxy leads to another server from now on; what is open is cut."""
        assert self.proxy is not None
        old, self.server = self.server, server
        self.standby = old
        self.proxy.upstream = (HOST, server.port)
        self.proxy.cut()

    def destroy(self) -> None:
        super().destroy()
        if self.standby is not None:
            self.standby.destroy()
