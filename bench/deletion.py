"""What deleting a large topic takes, and what others notice of it.

python -m bench.deletion [GIGABYTES]

A topic with a series of its own is filled and deleted, while a producer sends one record after the other to another topic
and waits for each. With a server that flushes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import confluent_kafka
import confluent_kafka.admin
from tests.broker.conftest import serving
from tests.postgres import FLAVOURS, PostgresServer

VALUE_BYTES = 10_000
RANDOM = os.urandom(1 << 24)  # nothing makes it smaller
QUIET_S = 10.0
DEADLINE_S = 120.0
POLL_S = 0.002


def producer(bootstrap: str, **settings: object) -> confluent_kafka.Producer:
    return confluent_kafka.Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0, **settings})


def fill(bootstrap: str, topic: str, size: int) -> None:
    """Send so many bytes."""
    sending = producer(bootstrap, **{"linger.ms": 20, "batch.size": 1_000_000, "queue.buffering.max.kbytes": 65_536})
    sent = 0
    while sent < size:
        begin = sent % (len(RANDOM) - VALUE_BYTES)
        try:
            sending.produce(topic, RANDOM[begin : begin + VALUE_BYTES])
            sent += VALUE_BYTES
        except BufferError:
            sending.poll(0.1)
    assert not sending.flush(DEADLINE_S)


class Neighbour:
    """Somebody else's producer: when each record was sent, and how long its acknowledgement took."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.waits: list[tuple[float, float]] = []
        self._producer = producer(bootstrap, **{"linger.ms": 0})
        self._topic = topic
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._has_ended.is_set():
            begun = time.monotonic()
            self._producer.produce(self._topic, b"x" * 100)
            self._producer.flush(DEADLINE_S)
            self.waits.append((begun, (time.monotonic() - begun) * 1e3))

    def end(self) -> None:
        self._has_ended.set()
        self._thread.join()

    def told(self, since: float, until: float) -> str:
        waits = sorted(ms for begun, ms in self.waits if since <= begun < until)
        return (
            f"{len(waits)} records, median {waits[len(waits) // 2]:.1f} ms, 99 % {waits[len(waits) * 99 // 100]:.1f} ms, "
            f"longest {waits[-1]:.0f} ms"
        )


async def until(connection: asyncpg.Connection, question: str, since: float) -> float:
    """Seconds until a query says true."""
    while not await connection.fetchval(question):
        assert time.monotonic() < since + DEADLINE_S, question
        await asyncio.sleep(POLL_S)
    return time.monotonic() - since


async def measure(server: PostgresServer, size: int) -> None:
    database = server.create_database()
    with tempfile.TemporaryDirectory() as folder, serving(database.dsn, Path(folder), {}) as broker:
        connection = await asyncpg.connect(database.dsn)
        bootstrap = f"{broker.host}:{broker.port}"
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        for made in admin.create_topics(
            [confluent_kafka.admin.NewTopic(name, 1) for name in ("large", "other")]
        ).values():
            made.result(30)
        await asyncio.to_thread(fill, bootstrap, "large", size)
        topic_id = await connection.fetchval("SELECT id FROM kafka.topics WHERE name = 'large'")
        await until(
            connection, "SELECT NOT EXISTS (SELECT FROM kafka.segments WHERE state = 'sealed')", time.monotonic()
        )
        tables = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
            f" WHERE c.relname ~ '^log_{topic_id}_' AND c.relkind = 'r'"
        )
        stored = await connection.fetchval(tables)
        neighbour = Neighbour(bootstrap, "other")
        await asyncio.sleep(QUIET_S)
        begun = time.monotonic()
        await asyncio.to_thread(admin.delete_topics(["large"], operation_timeout=30)["large"].result, 30)
        answered = time.monotonic() - begun
        freed = await until(connection, f"SELECT ({tables}) < 1000000", begun)
        gone = await until(connection, "SELECT NOT EXISTS (SELECT FROM kafka.deleted_topics)", begun)
        await asyncio.sleep(max(0.0, QUIET_S - gone))
        neighbour.end()
        await connection.close()
    print(
        f"{stored / 1e9:.2f} GB: answered after {answered * 1e3:.0f} ms, space back after {freed * 1e3:.0f} ms, "
        f"all gone after {gone:.1f} s"
    )
    print(f"another topic's producer before:  {neighbour.told(begun - QUIET_S, begun)}")
    print(f"another topic's producer after:   {neighbour.told(begun, begun + QUIET_S)}")
    server.drop_database(database)


def main() -> None:
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else "3") * 1e9)
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found"
    server = PostgresServer("postgresql-15", binaries, fsync=True, settings={"max_wal_size": "4GB"})
    server.create()
    try:
        asyncio.run(measure(server, size))
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
