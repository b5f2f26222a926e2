"""SQL over a topic: counts, scans and filters through its view, and bounded reads by kafka.read.

The rows are those that the broker has written. Each query runs once before it counts, then three times; a figure is the
median. The headline is the slowest of the scans without parallel workers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from bench import java
from bench.java import ProducerRun
from bench.measurements import Measurement
from bench.raw import in_process
from bench.turn import Turn

RECORD_BYTES = 100
READ_RECORDS = 100
_ROUNDS = 3
_VIEW_WITHIN_S = 60.0
_QUERIES = {
    "count": "SELECT count(*) FROM {view}",
    "scan": "SELECT sum(length(value)) FROM {view}",
    "filter": "SELECT count(*) FROM {view} WHERE value LIKE '\\x41'::bytea || '%'::bytea",
}


@dataclass(frozen=True)
class Sql:
    """So many records in one partition."""

    records: int

    @property
    def name(self) -> str:
        return f"{self.records / 1e6:g} million records of {RECORD_BYTES} B"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        if turn.system.dsn() is None:
            return
        topic = turn.topic(1)
        java.produce(
            turn.system.bootstrap, ProducerRun(topic, turn.payloads.file("random", RECORD_BYTES), self.records)
        )
        found, _ = in_process(measure, turn.system.dsn(), topic, self.records)
        yield turn.found("sql", self.name, found)


async def measure(dsn: str, topic: str, records: int) -> dict[str, float]:
    """In a process of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        view = await _view(connection, topic)
        workers = await connection.fetchval("SHOW max_parallel_workers_per_gather")
        found = {}
        for name, query in _QUERIES.items():
            for suffix, count in (("", "0"), ("_parallel", workers)):
                await connection.execute(f"SET max_parallel_workers_per_gather = {count}")
                found[f"{name}_per_s{suffix}"] = records / await _seconds(connection, query.format(view=view))
        if await connection.fetchval(_QUERIES["count"].format(view=view)) != records:
            raise RuntimeError(f"{view} does not have {records} records")
        middle = records // 2 + READ_RECORDS // 2
        read = f"SELECT * FROM kafka.read('{topic}', 0, {middle}, {middle + READ_RECORDS})"
        found["read_ms"] = await _seconds(connection, read) * 1000
    finally:
        await connection.close()
    return {"records_per_s": min(found[f"{name}_per_s"] for name in _QUERIES), **found}


async def _seconds(connection: asyncpg.Connection, query: str) -> float:
    times = []
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        await connection.fetch(query)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


async def _view(connection: asyncpg.Connection, topic: str) -> str:
    """The topic's view, once the broker has made it."""
    deadline = time.monotonic() + _VIEW_WITHIN_S
    while time.monotonic() < deadline:
        name = await connection.fetchval("SELECT view_name FROM kafka.topics WHERE name = $1", topic)
        if name is not None:
            return f'topics."{name}"'
        time.sleep(0.1)  # noqa: ASYNC251 -- nothing else runs here
    raise RuntimeError(f"topic {topic} has no view after {_VIEW_WITHIN_S:.0f} s")
