"""Kafka Connect in distributed mode: a worker is stopped and killed in the middle, and its connectors go on.

What a worker knows is in three compacted topics: connectors, how far they have come, how they are. The source has
Connect's exactly-once support, so each line of its file is in the topic once, whatever happened.
"""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client, Consumer
from tests.clients.conftest import unavailable
from tests.clients.groups import CLEANING
from tests.clients.records import Record
from tests.kafka_reference import HOST, ToolMissing, end, free_port, java, spawn, tail

pytestmark = pytest.mark.timeout(600)

CONNECT_DIR = Path(__file__).resolve().parent / "connect"
LINES = 200
TOTAL = 4 * LINES
WAIT_S = 150.0
STRING = "org.apache.kafka.connect.storage.StringConverter"
_numbers = itertools.count(1)


class Worker:
    """A worker of a cluster of one; a new process each time it is started."""

    def __init__(self, folder: Path, bootstrap: str, name: str) -> None:
        self.log = folder / "connect.log"
        self.topics = {kind: f"{name}-{kind}" for kind in ("config", "offset", "status")}
        self._port = free_port()
        self._properties = folder / "connect.properties"
        values = {
            "bootstrap.servers": bootstrap,
            "group.id": name,
            "listeners": f"http://{HOST}:{self._port}",
            "key.converter": STRING,
            "value.converter": STRING,
            "exactly.once.source.support": "enabled",
            "offset.storage.partitions": "3",
            "status.storage.partitions": "2",
            "offset.flush.interval.ms": "100",
            "session.timeout.ms": "4000",
            "heartbeat.interval.ms": "500",
            "scheduled.rebalance.max.delay.ms": "0",
            **{f"{kind}.storage.topic": topic for kind, topic in self.topics.items()},
            **{f"{kind}.storage.replication.factor": "1" for kind in self.topics},
            **{f"{kind}.storage.segment.ms": "500" for kind in self.topics},
            **{f"{kind}.storage.min.cleanable.dirty.ratio": "0.01" for kind in self.topics},
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m")
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        self._process = spawn(java(main, str(self._properties), options=options, libraries=CONNECT_DIR), self.log)

    def stop(self) -> None:
        """Ends it in good order."""
        if self._process is not None:
            process, self._process = self._process, None
            end(process, timeout_s=60)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        process, self._process = self._process, None
        end(process, signal.SIGKILL)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer of its REST API, as soon as it has a good one: it refuses while it starts and rebalances."""
        deadline = time.monotonic() + WAIT_S
        while True:
            failed = "did not answer"
            with closing(http.client.HTTPConnection(HOST, self._port, timeout=WAIT_S)) as connection:
                try:
                    text = None if body is None else json.dumps(body)
                    connection.request(method, path, text, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    answer = response.read()
                    if response.status in (200, 201):
                        return json.loads(answer)
                    failed = f"{response.status} {answer.decode()}"
                except (OSError, http.client.HTTPException) as error:
                    failed = repr(error)
            assert self._process is not None and self._process.poll() is None, tail(self.log)
            assert time.monotonic() < deadline, f"{method} {path}: {failed}\n{tail(self.log)}"
            time.sleep(0.1)  # nothing tells us that the worker is ready but asking

    def wait_for(self, what: str, path: str, is_so: Callable[[Any], bool]) -> Any:
        """The first answer that is so; raises AssertionError after a while."""
        deadline = time.monotonic() + WAIT_S
        while not is_so(answer := self.ask("GET", path)):
            assert time.monotonic() < deadline, f"not {what}: {answer}\n{tail(self.log)}"
            time.sleep(0.1)
        return answer


@pytest.fixture
def connect_broker(group_flavour: str, brokers: Callable[..., Broker]) -> Broker:
    try:
        return brokers(group_flavour, "streams", CLEANING)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture
def worker(connect_broker: Broker, tmp_path: Path) -> Iterator[Worker]:
    try:
        running = Worker(tmp_path, connect_broker.bootstrap, f"connect-{connect_broker.flavour}-{next(_numbers)}")
        running.start()
    except ToolMissing as missing:
        unavailable(missing)
        raise
    yield running
    running.stop()


def append(file: Path, first: int) -> None:
    with file.open("a") as output:
        output.writelines(f"line {number}\n" for number in range(first, first + LINES))


def read_on(reader: Consumer, records: list[Record], total: int) -> list[Record]:
    """The records with those that come next, until there are so many; a worker takes a while to start."""
    deadline = time.monotonic() + WAIT_S
    while len(records) < total and time.monotonic() < deadline:
        records = records + reader.read(total - len(records), timeout_s=1)
    assert [record.value for record in records] == [b"line %d" % number for number in range(total)]
    return records


def test_connectors_go_on_where_they_were(
    worker: Worker, connect_broker: Broker, confluent: Client, tmp_path: Path
) -> None:
    source, sink, topic = tmp_path / "source.txt", tmp_path / "sink.txt", f"{worker.topics['config']}-lines"
    bootstrap = connect_broker.bootstrap
    confluent.create_topic(bootstrap, topic)
    connectors = {
        "lines": {
            "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
            "file": str(source),
            "topic": topic,
            "exactly.once.support": "required",
        },
        "written": {
            "connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector",
            "file": str(sink),
            "topics": topic,
            "consumer.override.auto.offset.reset": "earliest",
        },
    }
    append(source, 0)
    for name, config in connectors.items():
        worker.ask("PUT", f"/connectors/{name}/config", config)

    with closing(confluent.consumer(bootstrap, topic)) as reader:
        records = read_on(reader, [], LINES)
        append(source, LINES)
        worker.kill()
        append(source, 2 * LINES)
        worker.start()
        records = read_on(reader, records, 3 * LINES)

        worker.stop()
        append(source, 3 * LINES)
        worker.start()
        records = read_on(reader, records, TOTAL)

    assert sorted(worker.ask("GET", "/connectors")) == sorted(connectors)
    assert worker.ask("GET", "/connectors/lines")["config"] == {**connectors["lines"], "name": "lines"}
    for name in connectors:
        worker.wait_for(
            "running",
            f"/connectors/{name}/status",
            lambda status: [task["state"] for task in status["tasks"]] == ["RUNNING"],
        )
    worker.wait_for(
        "at the end of its file",
        "/connectors/lines/offsets",
        lambda known: [one["offset"] for one in known["offsets"]] == [{"position": source.stat().st_size}],
    )
    worker.wait_for(
        "behind the last record",
        "/connectors/written/offsets",
        lambda known: (
            # The marker of the last transaction lies behind it.
            [one["offset"]["kafka_offset"] for one in known["offsets"]] == [records[-1].offset + 1]
        ),
    )
    # A sink may write again what it wrote just before it was killed.
    assert set(sink.read_text().splitlines()) == {f"line {number}" for number in range(TOTAL)}
    for kind, made in worker.topics.items():
        assert confluent.configs(bootstrap, made)["cleanup.policy"] == "compact", kind
