"""Do quotas hold? Several connections of one client id share a quota; what they produce and consume is timed.

    python -m bench.quotas                       20 seconds' worth of a million bytes a second, by each kind of client
    python -m bench.quotas --rate 200000 --seconds 30 --only librdkafka-produce
    python -m bench.quotas --kafka               the same clients of an Apache Kafka

A quota of R bytes a second lets R * 10 bytes pass at once, and makes whoever goes on wait until R bytes a second are kept
since the beginning (docs/security.md). So S seconds' worth of bytes have to take S seconds, whoever sends them and over
however many connections.
The exit code is 1 when the rate that was found differs from the quota by more than five percent.

produce     timed by the broker, which notes when it appends a batch: from the first one to the last
consume     timed by the clients: from the end of their rebalance to the last record. What a client has fetched beyond
            it is not counted, and has been taken from the quota all the same: fetches are small, so that it is little
"""

from __future__ import annotations

import argparse
import asyncio
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from tests.kafka_reference import ApacheKafka, java

from bench.raw import CREATE_TOPICS, RawConnection, check, connect_many
from bench.requests import HERE, HOST, Broker, free_port
from pg_kafka.wire.messages import alter_client_quotas as altering
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from pg_kafka.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)

RECORD_BYTES = 1000
BATCH_BYTES = 16_384
# A record in a batch, and its share of what comes before the first one. Requests and responses add half a percent.
SENT_BYTES = RECORD_BYTES + 14
ALLOWED = 0.05
CLIENTS = 3
FETCH_BYTES = 32_768
LIST_OFFSETS, ALTER_QUOTAS = 2, 49
SINCE_EVER, LATEST, NEWEST = 0, -1, -3
TIMEOUT_S = 300


def set_quota(port: int, client_id: str, name: str, value: float) -> None:
    async def ask() -> None:
        (connection,) = await connect_many(HOST, port, 1)
        request = altering.AlterClientQuotasRequest(
            entries=[
                altering.RequestEntryData(
                    entity=[altering.RequestEntityData(entity_type="client-id", entity_name=client_id)],
                    ops=[altering.OpData(key=name, value=value)],
                )
            ]
        )
        answer = await connection.call(ALTER_QUOTAS, 1, request)
        check(answer.entries[0].error_code, "no quota")
        connection.close()

    asyncio.run(ask())


def make_topic(port: int, partitions: int) -> str:
    name = f"quotas-{secrets.token_hex(4)}"

    async def ask() -> None:
        (connection,) = await connect_many(HOST, port, 1)
        by_broker = CreatableTopicConfig(name="message.timestamp.type", value="LogAppendTime")
        topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, configs=[by_broker])
        answer = await connection.call(CREATE_TOPICS, 7, CreateTopicsRequest(topics=[topic], timeout_ms=30_000))
        check(answer.topics[0].error_code, "no topic")
        connection.close()

    asyncio.run(ask())
    return name


def time_of_production(port: int, topic: str, partitions: int, records: int) -> float:
    """Seconds from the first batch to the last, by the times at which the broker has appended them."""

    async def listed(connection: RawConnection, timestamp: int) -> list[ListOffsetsPartitionResponse]:
        asked = [ListOffsetsPartition(partition_index=index, timestamp=timestamp) for index in range(partitions)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=asked)])
        answer = await connection.call(LIST_OFFSETS, 7, request)
        found: list[ListOffsetsPartitionResponse] = answer.topics[0].partitions
        return found

    async def watch() -> float:
        (connection,) = await connect_many(HOST, port, 1)
        async with asyncio.timeout(TIMEOUT_S):
            while sum(one.offset for one in await listed(connection, LATEST)) < records:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.1)
        first = min(one.timestamp for one in await listed(connection, SINCE_EVER))
        last = max(one.timestamp for one in await listed(connection, NEWEST))
        connection.close()
        return (last - first) / 1000

    return asyncio.run(watch())


def librdkafka_produce(port: int, client_id: str, topic: str, records: int) -> float:
    def run(number: int) -> None:
        settings = {
            "bootstrap.servers": f"{HOST}:{port}",
            "client.id": client_id,
            "batch.size": BATCH_BYTES,
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
            "message.timeout.ms": TIMEOUT_S * 1000,
        }
        producer = Producer(settings)
        value = bytes(RECORD_BYTES)
        for _ in range(records // CLIENTS):
            producer.produce(topic, value, partition=number)
        producer.flush(TIMEOUT_S)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    seconds = time_of_production(port, topic, CLIENTS, records // CLIENTS * CLIENTS)
    for thread in threads:
        thread.join()
    return seconds


def java_produce(port: int, client_id: str, topic: str, records: int) -> float:
    command = java(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", str(records // CLIENTS), "--record-size", str(RECORD_BYTES)),
        *("--throughput", "-1", "--producer-props", f"bootstrap.servers={HOST}:{port}", f"client.id={client_id}"),
        *(f"batch.size={BATCH_BYTES}", f"delivery.timeout.ms={TIMEOUT_S * 1000}"),
    )
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(CLIENTS)]
    try:
        seconds = time_of_production(port, topic, CLIENTS, records // CLIENTS * CLIENTS)
        for process in processes:
            process.wait(TIMEOUT_S)
    finally:
        for process in processes:
            process.kill()
    return seconds


def fill(port: int, topic: str, records: int) -> None:
    librdkafka_produce(port, "filler", topic, records)


def librdkafka_consume(port: int, client_id: str, topic: str, records: int) -> float:
    fill(port, topic, records)
    times: list[tuple[float, float]] = []

    def run(number: int) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": f"{HOST}:{port}",
                "client.id": client_id,
                "group.id": "quotas",
                "fetch.message.max.bytes": FETCH_BYTES,
            }
        )
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING)])
        begun, left = time.monotonic(), records // CLIENTS
        while left > 0 and time.monotonic() - begun < TIMEOUT_S:
            left -= len(consumer.consume(min(left, 100), 1.0))
        times.append((begun, time.monotonic()))
        consumer.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in times) - min(begun for begun, _ in times)


def java_consume(port: int, client_id: str, topic: str, records: int) -> float:
    fill(port, topic, records)
    with tempfile.NamedTemporaryFile("w", suffix=".properties") as settings:
        settings.write(f"client.id={client_id}\nfetch.max.bytes={FETCH_BYTES}\n")
        settings.flush()
        command = java(
            "org.apache.kafka.tools.ConsumerPerformance",
            *("--bootstrap-server", f"{HOST}:{port}", "--topic", topic, "--num-records", str(records // CLIENTS)),
            # Its own default of a megabyte for each partition wins over settings.
            *("--timeout", "120000", "--command-config", settings.name, "--fetch-size", str(FETCH_BYTES)),
        )
        # A group for each, so that none has partitions that others wait for.
        processes = [
            subprocess.Popen([*command, "--group", f"quotas-{number}"], stdout=subprocess.PIPE, text=True)
            for number in range(CLIENTS)
        ]
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    times = [_times(output) for output in outputs]
    return max(end for _, end in times) - min(begun for begun, _ in times)


def _times(output: str) -> tuple[float, float]:
    """Of ConsumerPerformance: when its rebalance ended, and its last record came."""
    line = next(line for line in output.splitlines() if re.match(r"\d{4}-", line))
    begun, end, *_, rebalance_ms, _fetch_ms, _bytes, _records = line.split(", ")
    form = "%Y-%m-%d %H:%M:%S:%f"
    return (
        datetime.strptime(begun, form).astimezone().timestamp() + float(rebalance_ms) / 1000,
        datetime.strptime(end, form).astimezone().timestamp(),
    )


RUNS: dict[str, tuple[str, Callable[[int, str, str, int], float]]] = {
    "librdkafka-produce": ("producer_byte_rate", librdkafka_produce),
    "java-produce": ("producer_byte_rate", java_produce),
    "librdkafka-consume": ("consumer_byte_rate", librdkafka_consume),
    "java-consume": ("consumer_byte_rate", java_consume),
}


def _kafka(folder: Path) -> ApacheKafka:
    node = ApacheKafka(folder / "kafka", heap="512m")
    node.start()
    return node


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.quotas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=1_000_000, help="bytes a second")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--only", action="append", choices=RUNS, default=[])
    parser.add_argument("--kafka", action="store_true", help="of Apache Kafka, whose quotas allow more")
    options = parser.parse_args(arguments)
    records = options.rate * options.seconds // RECORD_BYTES
    has_failed = False
    with tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        broker = _kafka(folder) if options.kafka else Broker(HERE, folder, free_port())
        try:
            print(f"{CLIENTS} connections of one client id, a quota of {options.rate:,} bytes a second")
            for run in options.only or RUNS:
                quota, timed = RUNS[run]
                topic = make_topic(broker.port, CLIENTS)
                set_quota(broker.port, run, quota, options.rate)
                rate = records * SENT_BYTES / timed(broker.port, run, topic, records)
                is_kept = abs(rate / options.rate - 1) <= ALLOWED
                has_failed = has_failed or not is_kept
                print(f"{run:20} {rate:12,.0f} bytes a second, {rate / options.rate:.3f} of the quota", flush=True)
        finally:
            broker.stop()
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
