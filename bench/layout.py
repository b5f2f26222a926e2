"""How large a row of the log should be, and where its arrays should lie: one table of figures for each layout.

    python -m bench.layout [--server embedded] [--megabytes 200] [--sizes 100,1000] [--layouts toast-64,inline-7] [--rounds 3]
    python -m bench.layout --server embedded --server postgresql-15 --write docs      # docs/layout-results.md, docs/layout.svg

`toast-64` are rows of at most 64 kB of records whose arrays go to TOAST, `inline-7` rows that stay in the heap whole
(`toast_tuple_target`). Each layout is a segment's table as the broker makes it, on a server that flushes, and gets the
same records by COPY in transactions of 1 MB on one session. Then

- write: MB of records a second, processor time of the backend, WAL and disk a byte of records
- read: what a consumer that is far behind costs: the broker's own query in answers of 1 MB, and encoding them
- scan: MB of records a second through the topic's view, which PostgreSQL runs in one process (its unnest is a LATERAL
  subquery), and of a bare unnest over the segment's table, with no, one and two workers, which the table has to ask
  for (`parallel_workers`)
- load: the small columns of all rows, which a take-over without a checkpoint reads
- freeze: VACUUM (FREEZE) of all of it, in the same checkpoint cycle
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
from rich.console import Console
from tests.batches import Record, batch_bytes
from tests.postgres import FLAVOURS, PostgresServer

from bench import layout_report
from pg_kafka.storage import queries, stored_rows
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.segments import leaf_table
from pg_kafka.wire import _records

NOW_MS = 1_700_000_000_000
TRANSACTION_BYTES = 1 << 20
ANSWER_BYTES = 1 << 20
SERIES, SEGMENT = 0, 0
LEAF = leaf_table(SERIES, SEGMENT)
SQL = queries.load("log")
# A tuple above this is cut up for TOAST: PostgreSQL's own value, and the largest (manual, "TOAST", 65.2).
_TOAST_TARGET, _INLINE_TARGET = 2032, 8160
SERVER = {"shared_buffers": "256MB", "wal_buffers": "16MB", "max_wal_size": "4GB", "min_wal_size": "1GB"}


@dataclass(frozen=True)
class Layout:
    """Rows of at most `row_kb` kB of records, in the heap or in TOAST."""

    name: str
    row_kb: int
    is_inline: bool

    @classmethod
    def named(cls, name: str) -> Layout:
        where, _, size = name.partition("-")
        return cls(name, int(size), where == "inline")

    def records_a_row(self, record_bytes: int) -> int:
        if self.is_inline:
            # Beside a record's own bytes: its length word, its timestamp, and the row's small columns.
            return max(1, (self.row_kb * 1024 - 300) // (record_bytes + 8))
        return max(1, self.row_kb * 1024 // record_bytes)


DEFAULT = ("toast-3", "inline-3", "toast-7", "inline-7", "toast-16", "toast-32", "toast-64", "toast-128", "toast-1024")
SIZES = (100, 1_000, 10_000, 1_000_000)
COLUMNS = {
    "write_mb_s": "write MB/s",
    "write_us_kb": "us a kB",
    "wal": "WAL",
    "disk": "disk",
    "read_mb_s": "read MB/s",
    "read_us_kb": "us a kB",
    "encode_us_kb": "encode us a kB",
    "view_mb_s": "view MB/s",
    "unnest_0_mb_s": "unnest MB/s",
    "unnest_1_mb_s": "1 worker",
    "unnest_2_mb_s": "2 workers",
    "load_ms": "load ms",
    "freeze_ms": "freeze ms",
    "freeze_wal": "WAL",
}


def rows_of(layout: Layout, record_bytes: int, total_bytes: int) -> Iterator[bytes]:
    """COPY rows of random records, one producer batch in each."""
    each = layout.records_a_row(record_bytes)
    pool = secrets.token_bytes(record_bytes + (8 << 20))
    offset = at = 0
    while offset * record_bytes < total_bytes:
        records = []
        for index in range(each):
            at = (at + record_bytes) % (8 << 20)
            records.append(Record(index, NOW_MS + index % 7, None, pool[at : at + record_bytes]))
        batch = _records.decode_batch(memoryview(batch_bytes(records)))
        yield _records.copy_row(
            series=SERIES,
            topic=1,
            partition=0,
            segment=SEGMENT,
            base_offset=offset,
            leader_epoch=1,
            global_base=offset,
            running_max_timestamp=NOW_MS + 6,
            append_time=NOW_MS,
            timestamp_type=0,
            codec=0,
            is_transactional=False,
            is_control=False,
            delete_horizon=None,
            producers=[],
            slices=batch.slices,
        )
        offset += each


class Backend:
    """A session, with the processor time that its server process takes."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self._process = psutil.Process(connection.get_server_pid())

    def seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


async def measure(dsn: str, layout: Layout, record_bytes: int, total_bytes: int) -> dict[str, float]:
    connection = await asyncpg.connect(dsn)
    try:
        await migrate(connection, compression="none")
        await connection.execute("INSERT INTO kafka.topics (name, partitions) VALUES ('t', 1)")
        await connection.execute("SELECT kafka.create_topic_view(1)")
        target = _INLINE_TARGET if layout.is_inline else _TOAST_TARGET
        await connection.execute(f"ALTER TABLE kafka.{LEAF} SET (toast_tuple_target = {target})")
        backend = Backend(connection)
        rows = list(rows_of(layout, record_bytes, total_bytes))
        records = len(rows) * layout.records_a_row(record_bytes)
        size = records * record_bytes
        found = await _write(backend, rows, size)
        del rows
        found |= await _freeze(backend, size)
        found |= await _read(backend, records, size)
        found |= await _scan(backend, records, size)
        return found
    finally:
        await connection.close()


async def _write(backend: Backend, rows: list[bytes], size: int) -> dict[str, float]:
    connection = backend.connection
    await connection.execute("CHECKPOINT")
    wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
    busy, start = backend.seconds(), time.perf_counter()
    pending: list[bytes] = []
    held = 0
    for row in rows:
        pending.append(row)
        held += len(row)
        if held >= TRANSACTION_BYTES:
            await _copy(connection, pending)
            pending, held = [], 0
    if pending:
        await _copy(connection, pending)
    took, busy = time.perf_counter() - start, backend.seconds() - busy
    written = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
    disk = await connection.fetchval(f"SELECT pg_total_relation_size('kafka.{LEAF}')")
    return {
        "write_mb_s": size / took / 1e6,
        "write_us_kb": busy * 1e9 / size,
        "wal": float(written) / size,
        "disk": disk / size,
    }


async def _copy(connection: asyncpg.Connection, rows: list[bytes]) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"".join([_records.COPY_HEADER, *rows, _records.COPY_TRAILER])

    await connection.copy_to_table(LEAF, schema_name="kafka", source=source(), format="binary")


async def _freeze(backend: Backend, size: int) -> dict[str, float]:
    connection = backend.connection
    wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
    start = time.perf_counter()
    await connection.execute(f"VACUUM (FREEZE, ANALYZE) kafka.{LEAF}")
    took = time.perf_counter() - start
    written = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
    return {"freeze_ms": took * 1e3, "freeze_wal": float(written) / size}


async def _read(backend: Backend, records: int, size: int) -> dict[str, float]:
    """From the first record to the last, as the broker answers fetches of 1 MB."""
    connection = backend.connection
    start = time.perf_counter()
    await connection.fetch(queries.render(SQL["rows_after_checkpoints"], leaf=LEAF), [1], [0], [0])
    load_s = time.perf_counter() - start
    statement = await connection.prepare(queries.render(SQL["read_rows"], leaf=LEAF))
    busy, start, encode_s = backend.seconds(), time.perf_counter(), 0.0
    offset, average = 0, 65_536
    while offset < records:
        limit = min(2_000, max(8, 2 * ANSWER_BYTES // average + 2))
        rows = await statement.fetch(1, 0, offset, records, ANSWER_BYTES, limit)
        average = max(1, sum(row["row_bytes"] for row in rows) // len(rows))
        offset = rows[-1]["last_offset"] + 1
        begun = time.perf_counter()
        arguments = [[row[name] for name in stored_rows.FIELDS] for row in rows]
        stored_rows.encode(arguments, rows[0]["base_offset"], 1 << 30, None, None)
        encode_s += time.perf_counter() - begun
    took, busy = time.perf_counter() - start, backend.seconds() - busy
    return {
        "read_mb_s": size / took / 1e6,
        "read_us_kb": busy * 1e9 / size,
        "encode_us_kb": encode_s * 1e9 / size,
        "load_ms": load_s * 1e3,
    }


async def _scan(backend: Backend, records: int, size: int) -> dict[str, float]:
    connection = backend.connection
    found = {"view_mb_s": size / await _scanned_in(connection, "topics.t", records, size) / 1e6}
    # Without a price, so that the planner takes the workers that the table asks for.
    await connection.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
    for workers in range(3):
        await connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
        await connection.execute(f"ALTER TABLE kafka.{LEAF} SET (parallel_workers = {workers})")
        bare = f"(SELECT unnest(l.values) AS value FROM kafka.{LEAF} l) AS bare"
        found[f"unnest_{workers}_mb_s"] = size / await _scanned_in(connection, bare, records, size) / 1e6
    return found


async def _scanned_in(connection: asyncpg.Connection, source: str, records: int, size: int) -> float:
    """Seconds that adding up all values takes, the better of two times."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        row = await connection.fetchrow(f"SELECT count(*), sum(length(value)) FROM {source}")
        times.append(time.perf_counter() - start)
        assert row is not None and tuple(row) == (records, size), row
    return min(times)


async def run(
    server: PostgresServer, layouts: list[Layout], record_bytes: int, total_bytes: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Medians of all figures of each layout."""
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        # In turns, each round in the other direction, so that a drift of the machine touches all alike.
        for layout in layouts if number % 2 == 0 else reversed(layouts):
            database = server.create_database()
            try:
                figures[layout.name].append(await measure(database.superuser_dsn, layout, record_bytes, total_bytes))
            finally:
                server.drop_database(database)
    return {
        layout.name: {key: statistics.median(one[key] for one in figures[layout.name]) for key in COLUMNS}
        for layout in layouts
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=FLAVOURS, action="append")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--layouts", default=",".join(DEFAULT))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    console = Console(width=220)
    runs: list[layout_report.Run] = []
    for flavour in options.server or ["embedded"]:
        binaries = FLAVOURS[flavour]()
        if binaries is None:
            raise SystemExit(f"there is no server {flavour} here")
        server = PostgresServer(flavour, binaries, fsync=True, settings=SERVER)
        try:
            server.create()
            layouts = [Layout.named(name) for name in options.layouts.split(",")]
            for size in map(int, options.sizes.split(",")):
                found = asyncio.run(run(server, layouts, size, options.megabytes * 1_000_000, options.rounds))
                runs.append(layout_report.Run(flavour, size, options.megabytes, options.rounds, found))
                console.print(layout_report.table(runs[-1], COLUMNS))
        finally:
            server.destroy()
    if options.write:
        layout_report.write(options.write, runs, COLUMNS)


if __name__ == "__main__":
    main()
