"""What kafka.latest() takes: 10 million records of 100 bytes with 1 million keys, in rows of 1,000 records.

python -m bench.latest [MILLIONS]
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import asyncpg
from tests.postgres import FLAVOURS, PostgresServer
from tests.storage.log_rows import add_topic

from pg_kafka.storage.migrate import migrate

ROWS_AT_ONCE = 250
FILL = """
INSERT INTO kafka.log (series, segment, topic, partition, base_offset, last_offset, global_base, max_timestamp,
    running_max_timestamp, append_time, first_timestamp, record_count, row_bytes, leader_epoch, timestamp_type, codec,
    is_transactional, is_control, keys, values)
SELECT 0, 0, $1, 0, r * 1000, r * 1000 + 999, r * 1000, 1, 1, 1, 1, 1000, 113000, 1, 0, 0, false, false,
    (SELECT array_agg(convert_to('customer-' || (r * 1000 + n) * 7919 % $4, 'UTF8') ORDER BY n) FROM generate_series(0, 999) n),
    (SELECT array_agg(convert_to(md5((r * 1000 + n)::text) || md5(n::text) || md5((r + n)::text) || 'abcd', 'UTF8') ORDER BY n)
     FROM generate_series(0, 999) n)
FROM generate_series($2::bigint, $3::bigint) r
"""
QUERIES = {
    "kafka.latest": "SELECT count(*), sum(length(value)) FROM kafka.latest('t')",
    "DISTINCT ON of the view": "SELECT count(*), sum(length(value)) FROM "
    "(SELECT DISTINCT ON (key) key, value FROM topics.t ORDER BY key, partition_offset DESC) x",
    "a scan of the view": "SELECT count(*), sum(length(value)) FROM topics.t",
}


async def measure(server: PostgresServer, millions: float) -> None:
    database = server.create_database()
    connection = await asyncpg.connect(database.dsn, command_timeout=600)
    await migrate(connection)
    topic = await add_topic(connection, "t")
    await connection.execute("SELECT kafka.create_topic_view($1)", topic)
    rows = int(millions * 1000)
    for first in range(0, rows, ROWS_AT_ONCE):
        await connection.execute(FILL, topic, first, min(first + ROWS_AT_ONCE, rows) - 1, rows * 100)
    await connection.execute("VACUUM ANALYZE kafka.log_0_0")
    for work_mem in ("4MB", "64MB", "256MB"):
        await connection.execute(f"SET work_mem = '{work_mem}'")
        for name, query in QUERIES.items():
            times = []
            for _ in range(3 if name == "kafka.latest" else 1):
                begun = time.monotonic()
                found = await connection.fetchrow(query)
                times.append(time.monotonic() - begun)
            assert found is not None
            print(f"work_mem {work_mem}, {name}: {found[0]} records in {min(times):.2f} s", flush=True)
    await connection.close()
    server.drop_database(database)


def main() -> None:
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    for flavour in os.environ.get("FLAVOURS", "postgresql-15,embedded").split(","):
        binaries = FLAVOURS[flavour]()
        assert binaries is not None, "no PostgreSQL server found"
        server = PostgresServer("bench", binaries, fsync=True, settings={})
        try:
            server.create()
            print(flavour, flush=True)
            asyncio.run(measure(server, millions))
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
