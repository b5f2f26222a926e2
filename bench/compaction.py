"""What compaction costs: time, bytes written, and what a producer of another topic notices; and what kafka.latest() takes.

python -m bench.compaction [GIGABYTES [RECORD_BYTES]]

A tenth of the records have distinct keys. The topic is filled while it is not compacted, and then becomes so. A producer
writes to another topic for a while before, and once more while a second topic of half the size is compacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import confluent_kafka
import confluent_kafka.admin
from tests.broker.conftest import RunningBroker, serving
from tests.postgres import FLAVOURS, PostgresServer

from bench.held_snapshot import processor_s

SETTINGS = {
    "TAIL_BYTES": "0",
    "LOG_CLEANER_BACKOFF_MS": "500",
    "CHECKPOINT_MS": "1000",
    "CHECKPOINT_BYTES": str(1 << 20),
}
SEGMENT_BYTES = 256 * 1024 * 1024
BASELINE_S = 15.0
# Larger than a row, so that values cannot be compressed.
NOISE_BYTES = 8 * 1024 * 1024


class Producer:
    """Keyed records at full speed, in a thread."""

    def __init__(self, broker: RunningBroker, topic: str, size: int, keys: int) -> None:
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": f"{broker.host}:{broker.port}",
                "linger.ms": 5,
                "batch.size": 64 * 1024,
                "log_level": 0,
            }
        )
        self._topic, self._keys = topic, keys
        self._noise = os.urandom(NOISE_BYTES)
        self._size = size
        self.acknowledged = 0
        self._is_wanted = True

    def _delivered(self, error: confluent_kafka.KafkaError | None, _message: confluent_kafka.Message) -> None:
        assert error is None, error
        self.acknowledged += 1

    def run(self, count: int | None = None) -> None:
        for number in itertools.count():
            if number == count or not self._is_wanted:
                break
            start = number * self._size % (NOISE_BYTES - self._size)
            key = b"customer-%d" % (number * 7919 % self._keys)
            while True:
                try:
                    self._producer.produce(
                        self._topic,
                        self._noise[start : start + self._size],
                        key,
                        partition=0,
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
            if number % 500 == 0:
                self._producer.poll(0)
        assert self._producer.flush(120) == 0

    @contextlib.contextmanager
    def alongside(self):  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._is_wanted = False
            thread.join()


def consumed(broker: RunningBroker, topic: str, wanted: int) -> float:
    """Seconds to read a topic from its start."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": f"{broker.host}:{broker.port}", "group.id": "bench", "log_level": 0}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    try:
        found = len(consumer.consume(1, 30))
        begun = time.monotonic()
        while found < wanted:
            found += len(consumer.consume(10_000, 1))
        return time.monotonic() - begun
    finally:
        consumer.close()


async def wal_bytes(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"))


async def disk_bytes(connection: asyncpg.Connection, topic: str) -> int:
    return int(
        await connection.fetchval(
            """SELECT coalesce(sum(pg_total_relation_size(
                   to_regclass(format('kafka.log_%s_%s', g.series, g.segment)))), 0)::bigint
               FROM kafka.segments g JOIN kafka.topics t ON t.id = g.series WHERE t.name = $1""",
            topic,
        )
    )


async def configure(connection: asyncpg.Connection, topic: str, configs: str) -> None:
    await connection.execute("UPDATE kafka.topics SET configs = configs || $2::jsonb WHERE name = $1", topic, configs)


async def fill(broker: RunningBroker, connection: asyncpg.Connection, topic: str, size: int, count: int) -> None:
    client = confluent_kafka.admin.AdminClient({"bootstrap.servers": f"{broker.host}:{broker.port}", "log_level": 0})
    configs = {"segment.bytes": str(SEGMENT_BYTES), "min.cleanable.dirty.ratio": "0.01", "retention.ms": "-1"}
    client.create_topics([confluent_kafka.admin.NewTopic(topic, 1, config=configs)])[topic].result(30)
    begun = time.monotonic()
    await asyncio.to_thread(Producer(broker, topic, size, count // 10).run, count)
    print(f"{topic}: {count} records of {size} B in {time.monotonic() - begun:.0f} s", flush=True)
    # What is in the active segment stays as it is.
    await connection.execute(
        'UPDATE kafka.topics SET configs = configs || \'{"segment.ms": "1000"}\' WHERE name = $1', topic
    )
    while await connection.fetchval(  # noqa: ASYNC110 (nothing tells)
        """SELECT count(*) FROM kafka.segments g JOIN kafka.topics t ON t.id = g.series
           WHERE t.name = $1 AND (g.state = 'superseded' OR (g.state = 'active' AND EXISTS (
               SELECT FROM kafka.extents x WHERE (x.series, x.segment) = (g.series, g.segment))))""",
        topic,
    ):
        await asyncio.sleep(0.5)


async def compacted(connection: asyncpg.Connection, topic: str) -> tuple[float, asyncpg.Record]:
    """Let a topic be compacted: how long that took from its first piece on, and what is known of it."""
    begun = time.monotonic()
    await connection.execute(
        'UPDATE kafka.topics SET configs = configs || \'{"cleanup.policy": "compact"}\' WHERE name = $1', topic
    )
    while True:
        row = await connection.fetchrow(
            "SELECT c.* FROM kafka.compactions c JOIN kafka.topics t ON t.id = c.topic WHERE t.name = $1", topic
        )
        if row is not None:
            return time.monotonic() - begun, row
        await asyncio.sleep(0.1)


async def measure(server: PostgresServer, gigabytes: float, size: int) -> None:
    database = server.create_database()
    with tempfile.TemporaryDirectory() as folder, serving(database.dsn, Path(folder), SETTINGS) as broker:
        admin = await asyncpg.connect(database.superuser_dsn, command_timeout=600)
        count = int(gigabytes * 1e9 / size)
        await fill(broker, admin, "orders", size, count)
        await fill(broker, admin, "more", size, count // 2)
        assert server._process is not None
        processes = (broker.process.pid, server._process.pid)
        for _ in range(2):
            begun = time.monotonic()
            found = await admin.fetchrow("SELECT count(*), sum(length(value)) FROM kafka.latest('orders')")
            print(f"kafka.latest: {found[0]} keys of {count} records in {time.monotonic() - begun:.2f} s", flush=True)
        before = await disk_bytes(admin, "orders")
        await admin.execute("CHECKPOINT")
        wal, processor = await wal_bytes(admin), processor_s(*processes)
        seconds, row = await compacted(admin, "orders")
        written, used = await wal_bytes(admin) - wal, processor_s(*processes) - processor
        await asyncio.sleep(10)  # replaced segments are freed
        print(
            f"compaction: {row['records_before']} records to {row['records_after']} in {seconds:.1f} s, "
            f"{used:.1f} s of processor time, {written / 1e6:.0f} MB of WAL; on the disk {before / 1e6:.0f} MB before, "
            f"{await disk_bytes(admin, 'orders') / 1e6:.0f} MB after",
            flush=True,
        )
        begun = time.monotonic()
        found = await admin.fetchrow("SELECT count(*), sum(length(value)) FROM kafka.latest('orders')")
        print(f"kafka.latest: {found[0]} keys of the compacted topic in {time.monotonic() - begun:.2f} s", flush=True)
        client = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": f"{broker.host}:{broker.port}", "log_level": 0}
        )
        client.create_topics([confluent_kafka.admin.NewTopic("fresh", 1)])["fresh"].result(30)
        await asyncio.to_thread(Producer(broker, "fresh", size, count).run, row["records_after"])
        for topic in ("orders", "fresh"):
            times = [await asyncio.to_thread(consumed, broker, topic, row["records_after"]) for _ in range(3)]
            rows = await admin.fetchval(
                "SELECT count(*) FROM kafka.log l WHERE record_count > 0"
                " AND l.topic = (SELECT id FROM kafka.topics WHERE name = $1)",
                topic,
            )
            print(
                f"a consumer reads {row['records_after']} records of {topic}, in {rows} rows: {min(times):.2f} s",
                flush=True,
            )
        client.create_topics([confluent_kafka.admin.NewTopic("other", 1)])["other"].result(30)
        alone, beside = Producer(broker, "other", size, 1000), Producer(broker, "other", size, 1000)
        with alone.alongside():
            await asyncio.sleep(5)
            first = alone.acknowledged
            await asyncio.sleep(BASELINE_S)
            rate = (alone.acknowledged - first) / BASELINE_S
        with beside.alongside():
            await asyncio.sleep(5)
            first = beside.acknowledged
            seconds, row = await compacted(admin, "more")
            other = (beside.acknowledged - first) / seconds
        print(
            f"a producer of another topic: {rate * size / 1e6:.1f} MB/s alone, {other * size / 1e6:.1f} MB/s beside a compaction "
            f"of {count // 2} records that took {seconds:.1f} s",
            flush=True,
        )
        await admin.close()
    server.drop_database(database)


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    for flavour in os.environ.get("FLAVOURS", "postgresql-15").split(","):
        binaries = FLAVOURS[flavour]()
        assert binaries is not None, "no PostgreSQL server found"
        server = PostgresServer("bench", binaries, fsync=True, settings={"max_wal_size": "4GB"})
        try:
            server.create()
            print(flavour, flush=True)
            asyncio.run(measure(server, gigabytes, size))
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
