"""What a transaction that stays open does to producing, and to the small tables that are written again and again.

python -m bench.held_snapshot [SECONDS [ROUNDS]]

A producer at full speed on 20 partitions, in turns with nothing held and with a REPEATABLE READ transaction open from the
turn's start. Heartbeats come ten times as often as by default, and checkpoints sixty times, so that a turn of minutes
stands for hours. Then heartbeats alone, as many as a day has, under one such transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import asyncpg
import confluent_kafka
import confluent_kafka.admin
import psutil
from tests.broker.conftest import serving
from tests.postgres import FLAVOURS, PostgresServer

from pg_kafka.storage import queries
from pg_kafka.storage.migrate import migrate

PARTITIONS, VALUE = 20, bytes(1000)
FASTER = {"HEARTBEAT_MS": "100", "CHECKPOINT_MS": "1000", "CHECKPOINT_BYTES": str(1 << 20)}
HEARTBEATS = (3_600, 8 * 3_600, 24 * 3_600)
CLUSTER_SQL = queries.load("cluster")
SIZES = """
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS bytes FROM pg_class c
WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind = 'r' AND c.relname !~ '^log(_|$)'
  AND pg_total_relation_size(c.oid) > 65536 ORDER BY 2 DESC LIMIT 4
"""
READ_CHECKPOINTS = "SELECT count(next_offset), sum(length(producers::text)) FROM kafka.partition_checkpoints"


@asynccontextmanager
async def held(dsn: str, is_wanted: bool) -> AsyncIterator[None]:
    """A transaction that sees the database as it is now, and locks nothing."""
    if not is_wanted:
        yield
        return
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetchval("SELECT count(*) FROM pg_catalog.pg_class")
        yield
    finally:
        await connection.close()


def produce(bootstrap: str, topic: str, seconds: float) -> tuple[float, int]:
    """Acknowledged records: how many a second, without the first fifth of the time, and how many in all."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "topic.metadata.refresh.interval.ms": -1,
            "log_level": 0,
        }
    )
    acknowledged = 0

    def delivered(error: confluent_kafka.KafkaError | None, _message: confluent_kafka.Message) -> None:
        nonlocal acknowledged
        assert error is None, error
        acknowledged += 1

    begun = counted_from = time.monotonic()
    before = 0
    for number in itertools.count():
        try:
            producer.produce(topic, VALUE, partition=number // 100 % PARTITIONS, on_delivery=delivered)
        except BufferError:
            producer.poll(0.05)
        if number % 100 == 0:
            producer.poll(0)
            now = time.monotonic()
            if not before and now - begun > seconds / 5:
                before, counted_from = acknowledged, now
            if now - begun > seconds:
                break
    rate = (acknowledged - before) / (time.monotonic() - counted_from)
    producer.flush(60)
    return rate, acknowledged


async def timed_ms(connection: asyncpg.Connection, statement: str, *arguments: object) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        await connection.fetch(statement, *arguments)
        times.append(time.perf_counter() - begun)
    return median(times) * 1e3


def processor_s(*roots: int) -> float:
    """Processor time of processes with all below them."""
    found = 0.0
    for root in roots:
        process = psutil.Process(root)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                found += times.user + times.system
    return found


async def turn(server: PostgresServer, seconds: float, is_held: bool) -> tuple[float, float]:
    """Records a second, and processor time of broker and PostgreSQL for each in microseconds."""
    database = server.create_database()
    with tempfile.TemporaryDirectory() as folder, serving(database.dsn, Path(folder), FASTER) as broker:
        admin = await asyncpg.connect(database.superuser_dsn)
        bootstrap = f"{broker.host}:{broker.port}"
        client = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        client.create_topics([confluent_kafka.admin.NewTopic("t", PARTITIONS)])["t"].result(30)
        assert server._process is not None
        processes = (broker.process.pid, server._process.pid)
        async with held(database.dsn, is_held):
            before = processor_s(*processes)
            rate, count = await asyncio.to_thread(produce, bootstrap, "t", seconds)
            cost_us = (processor_s(*processes) - before) / count * 1e6
            sizes = ", ".join(f"{row['name']} {row['bytes'] / 1e6:.1f} MB" for row in await admin.fetch(SIZES))
            beat = await timed_ms(admin, CLUSTER_SQL["live_brokers"])
            checkpoints = await timed_ms(admin, READ_CHECKPOINTS)
        await admin.close()
    server.drop_database(database)
    print(
        f"{'held' if is_held else 'free'}: {rate / 1e3:6.1f} k records/s, {cost_us:5.2f} us of processor time each; "
        f"reading brokers {beat:.2f} ms, checkpoints {checkpoints:.2f} ms; {sizes}",
        flush=True,
    )
    return rate, cost_us


async def turns(server: PostgresServer, seconds: float, rounds: int) -> None:
    """The order changes from round to round, and each round is compared in itself: the machine has other work."""
    await turn(server, seconds / 3, False)  # warms up
    rates, costs = [], []
    for number in range(rounds):
        found = {is_held: await turn(server, seconds, is_held) for is_held in (number % 2 == 1, number % 2 == 0)}
        rates.append(found[True][0] / found[False][0])
        costs.append(found[True][1] / found[False][1])
    for name, ratios in (("records a second", rates), ("processor time", costs)):
        print(f"held / free, {name}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


async def heartbeats(server: PostgresServer) -> None:
    """A day of heartbeats under one snapshot, and each broker's look at them."""
    database = server.create_database()
    connection = await asyncpg.connect(database.dsn)
    await migrate(connection)
    incarnation = await connection.fetchval(
        "INSERT INTO kafka.brokers (node_id, status, epoch, lock_id, heartbeat_lock_id, host, port, version)"
        " VALUES (1, 'live', 1, 1, 2, 'h', 1, 'v') RETURNING incarnation"
    )
    await connection.execute("SET synchronous_commit = off")  # only the rows matter here
    async with held(database.dsn, True):
        done = 0
        for count in HEARTBEATS:
            while done < count:
                await connection.fetchrow(CLUSTER_SQL["heartbeat"], incarnation, 0)
                done += 1
            beat = await timed_ms(connection, CLUSTER_SQL["heartbeat"], incarnation, 0)
            read = await timed_ms(connection, CLUSTER_SQL["live_brokers"])
            size = await connection.fetchval("SELECT pg_total_relation_size('kafka.brokers')")
            print(
                f"{count / 3600:3.0f} h of heartbeats: one takes {beat:.2f} ms, reading {read:.2f} ms, {size / 1e6:.1f} MB",
                flush=True,
            )
    await connection.close()
    server.drop_database(database)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found"
    server = PostgresServer("bench", binaries, fsync=True, settings={})
    try:
        server.create()
        asyncio.run(turns(server, seconds, rounds))
        asyncio.run(heartbeats(server))
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
