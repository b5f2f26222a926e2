"""Speed of SQL over the log: a scan of a topic's view in records a second, and a read of 100 records in its middle.

    python bench/sql_scan.py [--database URL] [--records 10000000] [--record-bytes 100] [--row-records 1000]

Without a database an embedded PostgreSQL on default settings is started in a temporary folder. Each figure is the best of
three rounds, without and then with parallel workers. A given database keeps the topic "sql_scan" that this makes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import tempfile
import time
from pathlib import Path

import asyncpg

from pg_kafka.embedded.server import EmbeddedPostgres
from pg_kafka.storage.migrate import migrate

TOPIC = "sql_scan"
ROUNDS = 3

FILL = """
INSERT INTO kafka.log (series, segment, topic, partition, base_offset, last_offset, global_base, max_timestamp,
    running_max_timestamp, append_time, first_timestamp, record_count, row_bytes, leader_epoch, timestamp_type, codec,
    is_transactional, is_control, producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count, timestamps, values)
SELECT 0, 0, $1, 0, n * $3::bigint, (n + 1) * $3::bigint - 1, n * $3::bigint, 1700000000250, 1700000000250, 1700000000250,
    1700000000000, $3, $3 * $4, 1, 0, 0, false, false, 7, 0::smallint, 0, n * $3::bigint, $3, v.timestamps, v.values
FROM generate_series(0, $2 - 1) AS n
JOIN (SELECT k, array_agg(substr(noise, 1, $4)) AS values, array_agg(1700000000000 + i / 4) AS timestamps
      FROM generate_series(0, 7) AS k,
           LATERAL (SELECT i, (SELECT string_agg(decode(md5(concat_ws(' ', k, i, j)), 'hex'), '')
                               FROM generate_series(0, $4 / 16) AS j) AS noise
                    FROM generate_series(1, $3) AS i) AS r
      GROUP BY k) AS v ON v.k = n % 8
ORDER BY n
"""

SCANS = {
    "count(*)": "SELECT count(*) FROM topics.sql_scan",
    "sum(length(value))": "SELECT sum(length(value)) FROM topics.sql_scan",
    "max(timestamp)": "SELECT max(timestamp) FROM topics.sql_scan",
}
READ = "SELECT * FROM kafka.read('sql_scan', 0, $1::bigint, $1::bigint + 100)"
READ_PLAN = """
EXPLAIN (ANALYZE, COSTS OFF, SUMMARY ON)
SELECT * FROM topics.sql_scan m
WHERE m.partition_id = 0 AND m.series = ANY ('{0}') AND m.segment = ANY ('{0}')
  AND m.batch_base_offset >= %d AND m.batch_base_offset < %d AND m.partition_offset >= %d AND m.partition_offset < %d
ORDER BY m.partition_offset
"""


async def fill(connection: asyncpg.Connection, records: int, record_bytes: int, row_records: int) -> None:
    """The topic with its rows in series 0, as sealed segments are: vacuumed and analysed."""
    topic = await connection.fetchval("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 1) RETURNING id", TOPIC)
    await connection.execute("INSERT INTO kafka.extents VALUES ($1, 0, 0, 0, 0)", topic)
    await connection.execute("SELECT kafka.create_topic_view($1)", topic)
    start = time.perf_counter()
    await connection.execute(FILL, topic, records // row_records, row_records, record_bytes)
    print(f"filled in {time.perf_counter() - start:.1f} s")
    await connection.execute("VACUUM (FREEZE, ANALYZE, TRUNCATE FALSE) kafka.log_0_0")


async def best_s(connection: asyncpg.Connection, query: str, *arguments: object) -> float:
    """The shortest of some rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await connection.fetch(query, *arguments)
        times.append(time.perf_counter() - start)
    return min(times)


async def measure(dsn: str, records: int, record_bytes: int, row_records: int) -> None:
    """Fill if need be, then print the figures."""
    connection = await asyncpg.connect(dsn)
    await migrate(connection)
    print((await connection.fetchval("SELECT version()")).split(" on ")[0])
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM kafka.topics WHERE name = $1)", TOPIC):
        await fill(connection, records, record_bytes, row_records)
    size = await connection.fetchval("SELECT pg_size_pretty(pg_table_size('kafka.log_0_0'))")
    count = await connection.fetchval(SCANS["count(*)"])
    print(f"{count} records of {record_bytes} bytes, {row_records} a row, {size}")
    for workers in ("0", await connection.fetchval("SHOW max_parallel_workers_per_gather")):
        await connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
        for name, query in SCANS.items():
            seconds = await best_s(connection, query)
            print(f"{name:20} {workers} workers {seconds:6.2f} s {count / seconds / 1e6:6.2f} M records/s")
    middle = count // 2 + row_records // 2
    seconds = await best_s(connection, READ, middle)
    print(f"kafka.read of 100 in the middle: {seconds * 1000:.2f} ms; its inner query:")
    base = middle - middle % row_records
    for row in await connection.fetch(READ_PLAN % (base, middle + 100, middle, middle + 100)):
        print("   ", row[0])
    await connection.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--record-bytes", type=int, default=100)
    parser.add_argument("--row-records", type=int, default=1000)
    options = parser.parse_args()
    if options.database:
        await measure(options.database, options.records, options.record_bytes, options.row_records)
        return
    folder = Path(tempfile.mkdtemp(prefix="pg_kafka_bench_"))
    # As root the server runs as another user, who must be able to come here.
    folder.chmod(0o755)  # noqa: ASYNC240 -- nothing else runs yet
    server = EmbeddedPostgres(folder / "data", logging.getLogger("bench"))
    try:
        await server.start()
        await measure(server.dsn, options.records, options.record_bytes, options.row_records)
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
