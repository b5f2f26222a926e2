"""Fuzzer of what strangers may say before it is known who they are: SASL in all its mechanisms, and TLS.

A broker with all kinds of listeners hears bursts of hostile logins (`hostile_logins.py`). After each the right credentials
still let in; the broker holds no file and little memory of the strangers; its log tells of no failure, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
from tests.clients.secure_brokers import LISTENERS, Secrets, SecurePgKafka
from tests.fuzz.hostile_logins import Ground, burst
from tests.fuzz.target import Play, Target
from tests.kafka_reference import HOST, tail
from tests.postgres import FLAVOURS, Database, PostgresServer
from tests.sasl_dialogues import Peer, plain
from tests.tokens import Issuer

MIB = 1 << 20
USER, PASSWORD = "alice", "a-password-that-no-log-shows"
SETTINGS = {"pg_kafka.authentication_timeout_ms": "3000", "log_level": "debug"}
GROWTH_BYTES = 100 * MIB
CONVERSATIONS = 60
QUIET_S = 30.0
FAILURE = re.compile(r"traceback=|Traceback|level=(error|critical)|never retrieved")


class Guarded:
    """A broker that strangers come to, and what must stay so."""

    def __init__(self, broker: SecurePgKafka, secrets: Secrets) -> None:
        self._broker = broker
        self._secrets = secrets
        assert broker.process is not None
        self._process = psutil.Process(broker.process.pid)
        self._ground: Ground | None = None
        self._files = 0
        self._allowed_bytes = 0
        self._log_read = 0

    async def play(self, rng: Random, conversations: int = CONVERSATIONS) -> int:
        if self._ground is None:
            self._ground = await self._measured(rng)
        await burst(rng, self._ground, conversations)
        await self.is_as_before()
        return conversations

    async def _measured(self, rng: Random) -> Ground:
        """After a first burst what is made once is made."""
        cluster_id = await self._log_in()
        ground = Ground(
            host=HOST,
            ports={name: port for name, port in self._broker.ports.items() if name != "PLAINTEXT"},
            with_tls=frozenset(name for name, protocol in LISTENERS.items() if protocol.endswith("SSL")),
            ca=self._secrets.authority.ca,
            user=USER,
            password=PASSWORD,
            issuer=self._secrets.issuer,
            strange=Issuer(self._secrets.folder / "strange", is_published=False),
            cluster_id=cluster_id.encode(),
        )
        self._files = self._process.num_fds()
        await burst(rng, ground, CONVERSATIONS)
        self._allowed_bytes = self._process.memory_info().rss + GROWTH_BYTES
        return ground

    async def _log_in(self) -> str:
        """By the right credentials; the cluster's id."""
        tls = ssl.create_default_context(cafile=str(self._secrets.authority.ca))
        async with await Peer.connect(self._broker.at("SASL_SSL"), tls) as peer:
            await peer.handshake("PLAIN")
            await peer.authenticate(plain(USER, PASSWORD))
            answer = await peer.metadata()
            assert answer is not None, peer.heard
            cluster_id: str = answer.cluster_id
            return cluster_id

    async def is_as_before(self) -> None:
        """The broker serves, holds nothing of those who are gone, and has said nothing that it must not say."""
        assert self._process.is_running(), tail(self._broker.log)
        await self._log_in()
        deadline = time.monotonic() + QUIET_S
        while (files := self._process.num_fds()) > self._files + 5:
            assert time.monotonic() < deadline, f"{files} open files, {self._files} at the beginning"
            await asyncio.sleep(0.1)  # nothing tells that a connection is closed on the other side
        held = self._process.memory_info().rss
        assert held < self._allowed_bytes, f"{held / MIB:.0f} MiB resident"
        with self._broker.log.open("rb") as log:
            log.seek(self._log_read)
            said = log.read().decode(errors="replace")
            self._log_read = log.tell()
        failures = [line[:3000] for line in said.splitlines() if FAILURE.search(line)]
        assert not failures, failures[0]
        assert PASSWORD not in said, "a password in the log"
        assert "eyJ" not in said, "a token in the log"


@contextlib.contextmanager
def guarded(folder: Path, database: Database) -> Iterator[Guarded]:
    """A broker of its own that strangers may come to."""
    secrets = Secrets(folder)
    broker = SecurePgKafka(folder / "broker", secrets, database, SETTINGS)
    broker.start()
    try:
        broker.create_user(USER, PASSWORD)
        yield Guarded(broker, secrets)
    finally:
        broker.stop()


@contextlib.contextmanager
def opened() -> Iterator[Play]:
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried"
    server = PostgresServer("postgresql-15", binaries, fsync=False, settings={})
    folder = Path(tempfile.mkdtemp(prefix="pgk-logins-", dir="/tmp"))
    try:
        server.create()
        with guarded(folder, server.create_database()) as there, asyncio.Runner() as runner:
            yield lambda rng: runner.run(there.play(rng))
    finally:
        server.destroy()
        shutil.rmtree(folder, ignore_errors=True)


TARGET = Target(opened=opened)
