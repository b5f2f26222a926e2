"""Endurance: minutes at 70 % of the maximum, with and without a transaction that holds an old snapshot.

Each slice of a minute writes to a topic of its own, and the topic of the slice before last is deleted, so that old data are
freed all the time and the disk does not fill. What counts: the rate of the last slices against that of the first, latency
over time, and how large the small tables have grown.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from bench import java
from bench.java import ProducerRun
from bench.measurements import Measurement
from bench.meter import Meter
from bench.systems import System
from bench.turn import Turn

RECORD_BYTES = 100
SHARE_OF_MAXIMUM = 0.7
# Slices at each end whose median stands for start and end; the first of all warms up.
_ENDS = 3
_KEPT_TOPICS = 2
# Rows, their copies in the WAL, and what has been deleted but not freed.
_DISK_FACTOR = 3

_SMALL_TABLES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes, coalesce(sum(s.n_dead_tup), 0)::bigint AS dead
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind = 'r' AND c.relname !~ '^log(_|$)'
"""


@dataclass(frozen=True)
class Endurance:
    """So many slices of so many seconds."""

    slices: int
    slice_s: float
    holds_snapshot: bool
    maximum_records: int = 2_000_000

    @property
    def name(self) -> str:
        held = "an old snapshot held" if self.holds_snapshot else "no old snapshot"
        return f"{self.slices * self.slice_s / 60:g} minutes at {SHARE_OF_MAXIMUM:.0%} of the maximum, {held}"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        if self.holds_snapshot and turn.system.dsn() is None:
            return
        payload = turn.payloads.file("random", RECORD_BYTES)
        topics = [turn.topic(1)]
        maximum = java.produce(turn.system.bootstrap, ProducerRun(topics[0], payload, self.maximum_records))
        rate = int(maximum["steady_per_s"] * SHARE_OF_MAXIMUM)
        records = int(rate * self.slice_s)
        self._need_disk(turn, records)
        total = 0
        runs = []
        before = small_tables(turn.system)
        meter = Meter(turn.system)
        with held_snapshot(turn.system) if self.holds_snapshot else nothing():
            for number in range(self.slices):
                topics.append(turn.topic(1))
                runs.append(
                    java.produce(turn.system.bootstrap, ProducerRun(topics[-1], payload, records, records_per_s=rate))
                )
                total += records
                rate_k = runs[-1]["steady_per_s"] / 1000
                turn.say(f"slice {number + 1} of {self.slices}: {rate_k:.0f} k/s, p99 {runs[-1]['p99_ms']:.0f} ms")
                while len(topics) > _KEPT_TOPICS:
                    turn.drop(topics.pop(0))
            after = small_tables(turn.system)
        edge = min(_ENDS, max(1, len(runs) // 2))
        first = runs[1 : 1 + edge] or runs
        start, end = (statistics.median(run["steady_per_s"] for run in part) for part in (first, runs[-edge:]))
        figures = {
            "end_per_start": end / start,
            "asked_per_s": rate,
            "start_per_s": start,
            "end_per_s": end,
            "start_p99_ms": statistics.median(run["p99_ms"] for run in first),
            "end_p99_ms": statistics.median(run["p99_ms"] for run in runs[-edge:]),
            **{f"slice_{number:02}_per_s": run["steady_per_s"] for number, run in enumerate(runs)},
            **{f"small_tables_{name}_start": value for name, value in before.items()},
            **{f"small_tables_{name}_end": value for name, value in after.items()},
            **meter.figures(total, total * RECORD_BYTES),
        }
        yield turn.found("endurance", self.name, figures, {"records_per_s": rate})

    def _need_disk(self, turn: Turn, records: int) -> None:
        wanted = records * RECORD_BYTES * (_KEPT_TOPICS + 1) * _DISK_FACTOR
        free = shutil.disk_usage(turn.folder).free
        if free < wanted:
            raise RuntimeError(f"slices need {wanted >> 20} MB of disk, {free >> 20} MB are free")


def small_tables(system: System) -> dict[str, float]:
    """Bytes and dead rows of all tables but the log's; nothing without SQL."""
    if system.dsn() is None:
        return {}
    [row] = system.query(_SMALL_TABLES)
    return {"bytes": float(row["bytes"]), "dead": float(row["dead"])}


@contextmanager
def held_snapshot(system: System) -> Iterator[None]:
    """A transaction that sees the database as it is now, and locks nothing. Raises RuntimeError when it was lost."""
    ready, done = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def hold() -> None:
        connection = await asyncpg.connect(system.dsn())
        async with connection.transaction(isolation="repeatable_read"):
            snapshot = await connection.fetchval("SELECT pg_current_snapshot()::text")
            ready.set()
            await asyncio.to_thread(done.wait)
            if await connection.fetchval("SELECT pg_current_snapshot()::text") != snapshot:
                raise RuntimeError("the snapshot has changed")
        await connection.close()

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise RuntimeError(f"the old snapshot was not held: {failures[0]}") from failures[0]


@contextmanager
def nothing() -> Iterator[None]:
    yield
