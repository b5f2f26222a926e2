"""Clients in other languages: one process each, asked over stdin and stdout with one JSON object a line.

Requests carry `op` and its arguments; the answer has the results, or `error` and `code`. Records travel as
`[key, value, [[header key, header value] ...], timestamp, offset]` with bytes in base64, null for None.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.client import (
    CALL_TIMEOUT_S,
    LONG_WAIT_MS,
    USUAL_BYTES,
    USUAL_WAIT_MS,
    Client,
    ClientError,
    Consumer,
    Producer,
)
from tests.clients.logins import Login
from tests.clients.records import Record
from tests.kafka_reference import BUILD_DIR, JAVA_DIR, ToolMissing, java, need

GO_DIR = Path(__file__).resolve().parent / "go"


class Agent:
    """The process behind a client; started with the first request."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = bytearray()

    def ask(self, op: str, timeout_s: float = 2 * CALL_TIMEOUT_S, **arguments: object) -> dict[str, Any]:
        """The answer to a request; raises ClientError when the agent reports one, AssertionError when it is silent."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(timeout_s))
        if "error" in answer:
            raise ClientError(answer["code"], answer["error"])
        return answer

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def _line(self, timeout_s: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(descriptor, 1 << 20) if readable else b""
            if not received:
                what = "ended" if readable else f"does not answer within {timeout_s} s"
                self.stop()
                raise AssertionError(f"the client process {what}: {' '.join(self._command[-2:])}")
            self._unread += received
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line


def _to_wire(record: Record) -> list[object]:
    headers = [[key, _encode(value)] for key, value in record.headers]
    return [_encode(record.key), _encode(record.value), headers, record.timestamp]


def _from_wire(fields: Sequence[Any]) -> Record:
    key, value, headers, timestamp, offset = fields
    pairs = tuple((header_key, _decode(header_value)) for header_key, header_value in headers)
    return Record(_decode(key), _decode(value), pairs, timestamp, offset)


def _encode(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()


def _decode(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


class AgentProducer(Producer):
    def __init__(self, agent: Agent, handle: int) -> None:
        self._agent = agent
        self._handle = handle

    def send(self, topic: str, records: Sequence[Record], partition: int = 0) -> list[int]:
        wire = [_to_wire(record) for record in records]
        answer = self._agent.ask("send", handle=self._handle, topic=topic, partition=partition, records=wire)
        offsets: list[int] = answer["offsets"]
        return offsets

    def close(self) -> None:
        self._agent.ask("close_producer", handle=self._handle)


class AgentConsumer(Consumer):
    def __init__(self, agent: Agent, handle: int) -> None:
        self._agent = agent
        self._handle = handle

    def read(self, count: int, timeout_s: float = CALL_TIMEOUT_S) -> list[Record]:
        answer = self._agent.ask("read", handle=self._handle, count=count, timeout_ms=int(timeout_s * 1000))
        return [_from_wire(fields) for fields in answer["records"]]

    def seek(self, offset: int) -> None:
        self._agent.ask("seek", handle=self._handle, offset=offset)

    def close(self) -> None:
        self._agent.ask("close_consumer", handle=self._handle)


class AgentClient(Client):
    """A library that an agent drives."""

    def __init__(self) -> None:
        self._agent = Agent(self.command())

    def command(self) -> list[str]:
        """The agent's command line, built when necessary; raises ToolMissing."""
        raise AssertionError("every agent has a command")

    def stop(self) -> None:
        self._agent.stop()

    def shown(self, login: Login | None) -> dict[str, Any]:
        """The part of a request that says who the client is."""
        return {} if login is None else {"login": login.for_agent()}

    def producer(
        self,
        bootstrap: str,
        *,
        codec: str = "none",
        idempotent: bool = True,
        max_bytes: int = USUAL_BYTES,
        login: Login | None = None,
    ) -> Producer:
        answer = self._agent.ask(
            "open_producer",
            bootstrap=bootstrap,
            codec=codec,
            idempotent=idempotent,
            max_bytes=max_bytes,
            **self.shown(login),
        )
        return AgentProducer(self._agent, answer["handle"])

    def consumer(
        self,
        bootstrap: str,
        topic: str,
        *,
        partition: int = 0,
        offset: int = 0,
        max_wait_ms: int = USUAL_WAIT_MS,
        login: Login | None = None,
    ) -> Consumer:
        assert max_wait_ms <= LONG_WAIT_MS
        answer = self._agent.ask(
            "open_consumer",
            bootstrap=bootstrap,
            topic=topic,
            partition=partition,
            offset=offset,
            max_wait_ms=max_wait_ms,
            **self.shown(login),
        )
        return AgentConsumer(self._agent, answer["handle"])

    def watermarks(self, bootstrap: str, topic: str, partition: int = 0) -> tuple[int, int]:
        answer = self._agent.ask("watermarks", bootstrap=bootstrap, topic=topic, partition=partition)
        return answer["low"], answer["high"]

    def offset_for_time(self, bootstrap: str, topic: str, timestamp: int, partition: int = 0) -> int:
        answer = self._agent.ask(
            "offset_for_time", bootstrap=bootstrap, topic=topic, partition=partition, timestamp=timestamp
        )
        offset: int = answer["offset"]
        return offset

    def create_topic(
        self, bootstrap: str, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        self._agent.ask(
            "create_topic", bootstrap=bootstrap, topic=topic, partitions=partitions, configs=dict(configs or {})
        )

    def delete_topic(self, bootstrap: str, topic: str) -> None:
        self._agent.ask("delete_topic", bootstrap=bootstrap, topic=topic)

    def create_partitions(self, bootstrap: str, topic: str, total: int) -> None:
        self._agent.ask("create_partitions", bootstrap=bootstrap, topic=topic, partitions=total)

    def partitions(self, bootstrap: str, topic: str) -> int:
        count: int = self._agent.ask("partitions", bootstrap=bootstrap, topic=topic)["partitions"]
        return count

    def configs(self, bootstrap: str, topic: str) -> dict[str, str]:
        configs: dict[str, str] = self._agent.ask("configs", bootstrap=bootstrap, topic=topic)["configs"]
        return configs


class JavaClient(AgentClient):
    name = "java"

    def command(self) -> list[str]:
        need("javac", "apt-get install openjdk-17-jdk-headless")
        return java(str(JAVA_DIR / "ClientAgent.java"))

    def shown(self, login: Login | None) -> dict[str, Any]:
        return {} if login is None else {"settings": login.for_java()}


class _GoClient(AgentClient):
    def command(self) -> list[str]:
        return [str(go_agent()), self.name]


class FranzGo(_GoClient):
    name = "franz-go"


class Sarama(_GoClient):
    name = "sarama"


# The installed Go, not a newer one that it would fetch because go.mod asks for it.
_LOCAL_GO = {**os.environ, "GOTOOLCHAIN": "local"}


def go_wanted() -> str:
    """The oldest Go that the client libraries can be built with."""
    (wanted,) = re.findall(r"^go (\S+)$", (GO_DIR / "go.mod").read_text(), re.MULTILINE)
    return str(wanted)


def refuse_old_go(version: str, wanted: str) -> None:
    """Raise ToolMissing when `go version` says that it is too old, or nothing that can be understood."""
    found = re.search(r"\bgo(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < tuple(map(int, wanted.split(".")[:2])):
        raise ToolMissing(f"Go {wanted} or newer is needed, this is {version.strip() or 'unknown'}: see go.dev")


def go_agent() -> Path:
    """The Go program, built when its sources are newer (Go's build cache knows)."""
    go = need("go", f"Go {go_wanted()} or newer, from go.dev or the distribution")
    found = subprocess.run([go, "version"], capture_output=True, text=True, check=False, cwd="/", env=_LOCAL_GO)
    refuse_old_go(found.stdout, go_wanted())
    program = BUILD_DIR / "go-agent"
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    command = [go, "build", "-buildvcs=false", "-o", str(program), "."]
    built = subprocess.run(command, cwd=GO_DIR, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, f"go build failed:\n{built.stderr}"
    return program
