"""Kafka's own command line tools, run by their main classes as `bin/kafka-*.sh` do."""

from __future__ import annotations

import re
import subprocess

import pytest
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.records import Record
from tests.kafka_reference import ToolMissing, java

TIMEOUT_S = 90


def run(main: str, *arguments: str, stdin: str = "") -> str:
    """What a tool prints; fails the test when the tool does."""
    try:
        command = java(main, *arguments)
    except ToolMissing as missing:
        unavailable(missing)
        raise
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout


def test_console_producer_and_consumer(bootstrap: str, confluent: Client, topic: str) -> None:
    lines = "".join(f"h1:v{n},h2:x;key-{n};value {n}\n" for n in range(200))
    run(
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--compression-codec", "gzip"),
        *("--reader-property", "parse.key=true", "--reader-property", "key.separator=;"),
        *("--reader-property", "parse.headers=true", "--reader-property", "headers.delimiter=;"),
        stdin=lines,
    )
    read = confluent.consume(bootstrap, topic, 200)
    assert [(record.key, record.value, record.headers) for record in read] == [
        (b"key-%d" % n, b"value %d" % n, (("h1", b"v%d" % n), ("h2", b"x"))) for n in range(200)
    ]
    output = run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--partition", "0", "--offset", "150"),
        *("--max-messages", "50", "--timeout-ms", "60000"),
        *(part for name in ("key", "headers", "offset") for part in ("--formatter-property", f"print.{name}=true")),
    )
    assert output.splitlines() == [f"Offset:{n}\th1:v{n},h2:x\tkey-{n}\tvalue {n}" for n in range(150, 200)]


def test_console_consumer_reads_from_the_earliest(bootstrap: str, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, [Record(None, b"line %d" % n) for n in range(30)], codec="zstd")
    output = run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--partition", "0", "--offset", "earliest"),
        *("--max-messages", "30", "--timeout-ms", "60000"),
    )
    assert output.splitlines() == [f"line {n}" for n in range(30)]


@pytest.mark.parametrize("acks", ["all", "1"])
def test_producer_performance(bootstrap: str, confluent: Client, topic: str, acks: str) -> None:
    output = run(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", "50000", "--record-size", "100", "--throughput", "-1"),
        *("--bootstrap-server", bootstrap, "--command-property", f"acks={acks}", "batch.size=65536"),
    )
    assert re.search(r"^50000 records sent, [\d.]+ records/sec", output, re.MULTILINE), output
    assert confluent.watermarks(bootstrap, topic) == (0, 50_000)
    read = confluent.consume(bootstrap, topic, 50_000)
    assert {len(record.value or b"") for record in read} == {100}
    assert [record.offset for record in read] == list(range(50_000))
