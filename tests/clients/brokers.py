"""The brokers that the client tests run against: pg_kafka on both kinds of PostgreSQL, Apache Kafka to check the tests.

A broker is a process of the installed command, as a user would start it. It keeps its address over restarts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from tests.kafka_reference import HOST, ApacheKafka, end, free_port, spawn, tail, wait_until_served

COMMAND = Path(sys.executable).parent / "pg-kafka"


class Broker(ABC):
    """A broker under test."""

    flavour: str
    bootstrap: str

    @abstractmethod
    def start(self) -> None:
        """Starts it; returns when it serves."""

    @abstractmethod
    def stop(self) -> None:
        """Stops it in good order."""

    @abstractmethod
    def kill(self) -> None:
        """Kills it at once, as kill -9 does."""

    @abstractmethod
    def is_running(self) -> bool:
        """False after stop or kill; raises AssertionError, once, when it ended by itself."""

    def ensure_started(self) -> None:
        """Starts it unless it runs."""
        if not self.is_running():
            self.start()

    def clean_up(self) -> None:
        """Leaves nothing running, whatever a test did."""
        self.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def dsn(self) -> str | None:
        """Where SQL finds the records; None: nowhere."""
        return None


class PgKafka(Broker):
    """`pg-kafka serve` with its own PostgreSQL in `folder`, or on a database that is given; settings by Kafka's names."""

    def __init__(
        self, flavour: str, folder: Path, database: str | None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.flavour = flavour
        names = {name: f"PG_KAFKA_{name.replace('.', '_').upper()}" for name in settings or {}}
        self._environment = os.environ | {names[name]: value for name, value in (settings or {}).items()}
        port = free_port()
        self.bootstrap = f"{HOST}:{port}"
        self.log = folder / "pg-kafka.log"
        self._port = port
        self._data = folder / "data"
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, leads: bool = True) -> None:
        """Returns when it leads, or, where another one does, when it answers at all."""
        place = ["--database", self._database] if self._database else ["--data", str(self._data)]
        command = [str(COMMAND), "serve", "--listen", self.bootstrap, *place]
        self._process = spawn(command, self.log, self._environment)
        wait_until_served(self._port, self._process, self.log, leads=leads)

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            code = end(process, signal.SIGTERM)
            assert code == 0, f"pg-kafka ended with code {code}:\n{tail(self.log)}"

    def kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            end(process, signal.SIGKILL)

    def is_running(self) -> bool:
        if self._process is None:
            return False
        code = self._process.poll()
        if code is not None:
            self._process = None
            raise AssertionError(f"pg-kafka ended by itself with code {code}:\n{tail(self.log)}")
        return True

    def clean_up(self) -> None:
        try:
            self.stop()
        finally:
            leftover = _postmaster(self._data)  # outlives a broker that was killed
            if leftover:
                with suppress(ProcessLookupError):
                    os.kill(int(leftover[0]), signal.SIGQUIT)

    def dsn(self) -> str | None:
        return self._database or embedded_dsn(self._data)


def _postmaster(data: Path) -> list[str]:
    """The lines of the embedded server's postmaster.pid, none when it does not run."""
    files = list(data.glob("*/postmaster.pid"))
    return files[0].read_text().splitlines() if files else []


def embedded_dsn(data: Path) -> str:
    """The embedded database as the documentation tells other programs of the machine to reach it."""
    port = _postmaster(data)[3]
    return f"postgresql://postgres@{HOST}:{port}/pg_kafka?passfile={quote(str(data / 'pgpass'))}"


class Reference(Broker):
    """Apache Kafka: says whether a test asks for the right thing."""

    flavour = "apache-kafka"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        # KRaft's topic deletion leaves the files for a minute; the tests do not wait for them.
        self._kafka = ApacheKafka(folder, {"auto.create.topics.enable": "true", **(settings or {})}, heap="512m")
        self.bootstrap = self._kafka.bootstrap

    def start(self) -> None:
        self._kafka.start()

    def stop(self) -> None:
        self._kafka.stop()

    def kill(self) -> None:
        self._kafka.kill()

    def is_running(self) -> bool:
        return self._kafka.process is not None and self._kafka.process.poll() is None
