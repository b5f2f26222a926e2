"""What TLS costs: megabytes a second with and without it, through pg_kafka and through Apache Kafka.

    python -m bench.tls                     five rounds of 100 MB
    python -m bench.tls --rounds 3 --megabytes 50

Each broker has two listeners, one with TLS 1.3, and the same certificates; both run all the time, and only one has work.
Producer and consumer are librdkafka's, in this process, with records of 1 kB that do not compress. A round goes through
all four ways, in an order that turns. Shown are medians, and the shares that matter: they say more than the megabytes,
which are the machine's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from tests.clients.brokers import COMMAND
from tests.kafka_reference import HOST, ApacheKafka, end, free_port, spawn, wait_until_served

from pg_kafka import certs

RECORD_BYTES = 1000
PAYLOADS = 1000
TIMEOUT_S = 120.0

Way = tuple[str, str]
"""A system and a protocol."""


def _listeners(plain: int, secure: int) -> str:
    return f"PLAINTEXT://{HOST}:{plain},SSL://{HOST}:{secure}"


@contextmanager
def pg_kafka(folder: Path, made: certs.Made) -> Iterator[Mapping[str, int]]:
    """The ports of both listeners, by protocol."""
    plain, secure = free_port(), free_port()
    log = folder / "pg-kafka.log"
    command = [str(COMMAND), "serve", "--listeners", _listeners(plain, secure), "--data", str(folder / "data")]
    environment = os.environ | {"PG_KAFKA_SSL_KEYSTORE_LOCATION": str(made.broker)}
    process = spawn(command, log, environment)
    try:
        wait_until_served(plain, process, log, leads=True)
        yield {"PLAINTEXT": plain, "SSL": secure}
    finally:
        end(process)


@contextmanager
def kafka(folder: Path, made: certs.Made) -> Iterator[Mapping[str, int]]:
    """As above."""
    secure = free_port()
    listeners = f"PLAINTEXT://{HOST}:{{port}},SSL://{HOST}:{secure}"
    node = ApacheKafka(
        folder,
        {
            "listeners": f"{listeners},CONTROLLER://{HOST}:{{controller}}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(made.broker),
        },
    )
    node.start()
    try:
        yield {"PLAINTEXT": node.port, "SSL": secure}
    finally:
        node.stop()


def settings(port: int, protocol: str, made: certs.Made) -> dict[str, Any]:
    common = {"bootstrap.servers": f"{HOST}:{port}", "security.protocol": protocol}
    return common | ({"ssl.ca.location": str(made.ca)} if protocol == "SSL" else {})


def produced(client: dict[str, Any], topic: str, records: int, payloads: list[bytes]) -> float:
    """Megabytes a second until all are acknowledged."""
    producer = Producer(client | {"linger.ms": 5, "batch.size": 1_000_000, "queue.buffering.max.kbytes": 1_000_000})
    producer.list_topics(topic, timeout=TIMEOUT_S)  # connected, and the topic is there
    begin = time.perf_counter()
    for number in range(records):
        while True:
            try:
                producer.produce(topic, payloads[number % PAYLOADS], partition=0)
                break
            except BufferError:
                producer.poll(0.05)
    left = producer.flush(TIMEOUT_S)
    if left:
        raise RuntimeError(f"{left} records were not acknowledged")
    return records * RECORD_BYTES / 1e6 / (time.perf_counter() - begin)


def consumed(client: dict[str, Any], topic: str, records: int) -> float:
    """Megabytes a second from the first record on."""
    consumer = Consumer(client | {"group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    count, begin = 0, 0.0
    while count < records:
        messages = consumer.consume(10_000, TIMEOUT_S)
        if not messages or messages[0].error() is not None:
            raise RuntimeError(f"{count} of {records} records came")
        begin = begin or time.perf_counter()
        count += len(messages)
    took = time.perf_counter() - begin
    consumer.close()
    return records * RECORD_BYTES / 1e6 / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args()
    records = options.megabytes * 1_000_000 // RECORD_BYTES
    payloads = [os.urandom(RECORD_BYTES) for _ in range(PAYLOADS)]
    figures: dict[tuple[str, Way], list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-kafka-tls-")))
        folder.chmod(0o711)  # as root, PostgreSQL runs as another user
        made = certs.make(folder / "certificates")
        systems = {}
        for name, system in (("pg_kafka", pg_kafka), ("Kafka", kafka)):
            (folder / name).mkdir(mode=0o711)
            systems[name] = stack.enter_context(system(folder / name, made))
        ways: list[Way] = [(name, protocol) for name in systems for protocol in ("PLAINTEXT", "SSL")]
        for number in range(options.rounds + 1):
            for way in ways[number % 4 :] + ways[: number % 4]:
                name, protocol = way
                client = settings(systems[name][protocol], protocol, made)
                topic = f"tls-{uuid.uuid4().hex[:8]}"
                found = {"produce": produced(client, topic, records, payloads)}
                found["consume"] = consumed(client, topic, records)
                for what, figure in found.items():
                    if number:  # the first round warms up
                        figures.setdefault((what, way), []).append(figure)
    print(
        "|  | pg_kafka, plain | pg_kafka, TLS | share | Kafka, plain | Kafka, TLS | share | pg_kafka / Kafka with TLS |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for what in ("produce", "consume"):
        ours, ours_tls, theirs, theirs_tls = (statistics.median(figures[what, way]) for way in ways)
        cells = [f"{ours:.0f} MB/s", f"{ours_tls:.0f} MB/s", f"{ours_tls / ours:.2f}"]
        cells += [f"{theirs:.0f} MB/s", f"{theirs_tls:.0f} MB/s", f"{theirs_tls / theirs:.2f}"]
        print(f"| {what} | {' | '.join(cells)} | {ours_tls / theirs_tls:.2f} |")


if __name__ == "__main__":
    main()
