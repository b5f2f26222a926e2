"""Published clients push their metrics when Kafka's own tool subscribes to them, and Prometheus sees these."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.broker.command import Serving
from tests.clients.test_java_tools import run
from tests.kafka_reference import HOST, free_port, java
from tests.postgres import Database

TOOL = "org.apache.kafka.tools.ClientMetricsCommand"
DEADLINE_S = 90.0


@dataclass
class Place:
    bootstrap: str
    metrics: int


@pytest.fixture
def place(pg_database: Database) -> Iterator[Place]:
    ports = free_port(), free_port()
    listen, metrics = (f"{HOST}:{port}" for port in ports)
    with Serving("--listen", listen, "--database", pg_database.dsn, "--metrics", metrics) as broker:
        broker.ready()
        yield Place(listen, ports[1])


def pushed_by(place: Place, client_id: str, wanted: str) -> dict[str, float]:
    """Samples by name of what a client has pushed, once one with this name is there."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://{HOST}:{place.metrics}/metrics", timeout=20) as answer:
            page = answer.read().decode()
        found = {
            one.name: one.value
            for family in text_string_to_metric_families(page)
            for one in family.samples
            if one.labels.get("client_id") == client_id
        }
        if wanted in found:
            return found
        time.sleep(0.2)  # a client pushes when it likes
    raise AssertionError(f"{client_id} has not pushed {wanted} within {DEADLINE_S} s, but {sorted(found)}")


def subscribe(place: Place, *more: str) -> None:
    arguments = (
        "--bootstrap-server",
        place.bootstrap,
        "--alter",
        "--name",
        "all",
        "--metrics",
        "*",
        "--interval",
        "500",
    )
    assert "Altered client metrics config for all." in run(TOOL, *arguments, *more)


def test_librdkafka_pushes(place: Place) -> None:
    subscribe(place, "--match", "client_software_name=confluent-kafka-python,client_id=python-.*")
    errors: list[Any] = []
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": place.bootstrap, "client.id": "python-1", "error_cb": errors.append}
    )
    producer.produce("orders", b"x")
    assert producer.flush(30) == 0
    found = pushed_by(place, "python-1", "org_apache_kafka_producer_node_request_latency_max")
    # It tells what has been added since it was asked, which was after its connection.
    assert found["org_apache_kafka_producer_connection_creation_total"] >= 0
    del producer
    assert errors == []


def test_java_pushes(place: Place) -> None:
    subscribe(place)
    command = java(
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", place.bootstrap, "--topic", "orders", "--command-property", "client.id=java-1"),
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(b"one\n")
            process.stdin.flush()
            found = pushed_by(place, "java-1", "org_apache_kafka_producer_record_send_total")
            assert found["org_apache_kafka_producer_connection_count"] >= 1
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_the_tool_describes_lists_and_deletes(place: Place) -> None:
    server = ("--bootstrap-server", place.bootstrap)
    subscribe(place, "--match", "client_id=a.*")
    described = run(TOOL, *server, "--describe", "--name", "all")
    assert all(line in described for line in ("interval.ms=500", "match=client_id=a.*", "metrics=*"))
    assert run(TOOL, *server, "--list").split() == ["all"]
    assert "Deleted client metrics config for all." in run(TOOL, *server, "--delete", "--name", "all")
    assert run(TOOL, *server, "--list").strip() == ""
