"""What is measured: pg_kafka on two PostgreSQLs and Apache Kafka in two settings, each on an empty folder.

`running(name, folder)` starts one; afterwards nothing of it is left, in memory or on disk.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing, end, free_port, spawn, wait_until_served
from tests.postgres import FLAVOURS, PostgresServer, embedded_dsn

COMMAND = Path(sys.executable).parent / "pg-kafka"
BROKER, POSTGRESQL = "broker", "PostgreSQL"

_COMPLAINT = re.compile(r"\blevel=(warning|error|critical)\b|\b(WARNING|ERROR|FATAL|PANIC): ")
_SHOWN = 10


def _complaints(text: str) -> list[str]:
    return [line for line in text.splitlines() if _COMPLAINT.search(line)][-_SHOWN:]


# The servers of the tests have settings of their own; these are PostgreSQL's again.
_AS_PACKAGED = {
    "max_connections": "100",
    "max_locks_per_transaction": "64",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "on",
}


class System(ABC):
    """A broker with all that belongs to it."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.host = HOST
        self.port = port

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Returns when it serves."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it in good order; may be called when it does not run."""

    @abstractmethod
    def roles(self) -> dict[str, int]:
        """Its processes by what they are."""

    @abstractmethod
    def data_folders(self) -> Sequence[Path]:
        """Where the records are, without the WAL."""

    def dsn(self) -> str | None:
        """Where SQL finds the records, if anywhere."""
        return None

    def complaints(self) -> list[str]:
        """The last warnings and errors in its logs."""
        return []

    def query(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows from its database."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.dsn())
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())


class PgKafka(System):
    """`pg-kafka serve` on its embedded PostgreSQL, default settings."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(name, free_port())
        self._folder = folder
        self._settings = {f"PG_KAFKA_{key.replace('.', '_').upper()}": value for key, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o711)  # as root, PostgreSQL runs as another user
        log = self._folder / "pg-kafka.log"
        command = [str(COMMAND), "serve", "--listen", self.bootstrap, *self._place()]
        self._process = spawn(command, log, os.environ | self._settings)
        wait_until_served(self.port, self._process, log)

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            end(process)

    def roles(self) -> dict[str, int]:
        assert self._process is not None
        return {BROKER: self._process.pid, POSTGRESQL: _postmaster(self._cluster())}

    def data_folders(self) -> Sequence[Path]:
        return [self._cluster() / "base"]

    def dsn(self) -> str | None:
        return embedded_dsn(self._folder / "data")

    def complaints(self) -> list[str]:
        text = (self._folder / "pg-kafka.log").read_text(errors="replace")
        return [*_complaints(text), *_complaints(self._server_log())]

    def _server_log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted((self._cluster() / "log").glob("*.log")))

    def _cluster(self) -> Path:
        return self._folder / "data" / "postgres"

    def _place(self) -> list[str]:
        return ["--data", str(self._folder / "data")]


class PgKafkaOnGiven(PgKafka):
    """`pg-kafka serve --database` on the system's PostgreSQL as it is packaged."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(name, folder, settings)
        binaries = FLAVOURS["postgresql-15"]()
        if binaries is None:
            raise ToolMissing("PostgreSQL is not installed: apt-get install postgresql")
        self._server = PostgresServer("postgresql-15", binaries, fsync=True, settings=_AS_PACKAGED)
        self._dsn = ""

    def start(self) -> None:
        self._server.create()
        self._dsn = self._server.create_database().dsn
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._server.destroy()

    def dsn(self) -> str | None:
        return self._dsn

    def _server_log(self) -> str:
        return self._server.log

    def _cluster(self) -> Path:
        return self._server.data

    def _place(self) -> list[str]:
        return ["--database", self._dsn]


class Kafka(System):
    """One Apache Kafka node with the JVM options of its own start script."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        self._node = ApacheKafka(folder, settings)
        super().__init__(name, self._node.port)

    def start(self) -> None:
        self._node.start()

    def stop(self) -> None:
        self._node.stop()

    def roles(self) -> dict[str, int]:
        assert self._node.process is not None
        return {BROKER: self._node.process.pid}

    def data_folders(self) -> Sequence[Path]:
        return [self._node.folder / "data"]


EMBEDDED, GIVEN = "pg_kafka, embedded", "pg_kafka, PostgreSQL 15"
FLUSHING, SHIPPED = "Kafka, flush.messages=1", "Kafka as shipped"

SYSTEMS: Mapping[str, tuple[Callable[[str, Path, Mapping[str, str]], System], Mapping[str, str]]] = {
    EMBEDDED: (PgKafka, {}),
    GIVEN: (PgKafkaOnGiven, {}),
    FLUSHING: (Kafka, {"log.flush.interval.messages": "1"}),
    SHIPPED: (Kafka, {}),
}
OURS = (EMBEDDED, GIVEN)

# Plain COPY of the same rows, on the PostgreSQL of each of ours.
COPY_OF = {EMBEDDED: "COPY, embedded", GIVEN: "COPY, PostgreSQL 15"}


@contextmanager
def running(name: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[System]:
    """A system on an empty folder. Raises ToolMissing when it is not installed."""
    make, own = SYSTEMS[name]
    system = make(name, folder, {**own, **(settings or {})})
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)
        # What it has written must not be flushed in the next one's turn.
        os.sync()


def _postmaster(cluster: Path) -> int:
    return int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
