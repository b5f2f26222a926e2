"""What it costs to know how far many groups are behind: python -m bench.lag [GROUPS] [now | history]

5,000 groups with commits in ten partitions each, of 10,000 partitions with 20 stored rows each, all of them behind. The
view kafka.consumer_lag; a look of the broker: the first one, one when no commit has moved, one when all have; a minute of
kafka.lag_history, and what it costs to read 30 days of them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
from tests.postgres import FLAVOURS, PostgresServer

from pg_kafka.broker.lag import GroupLag
from pg_kafka.broker.metrics.lag import LagSource
from pg_kafka.clock import Clock
from pg_kafka.coordinator.group_offsets import Committed, GroupOffsets
from pg_kafka.metrics.series import Bounds
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.lag import Entry, LagStore
from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.sessions import connect
from pg_kafka.wire.error_codes import ErrorCode

TOPICS, PARTITIONS, ROWS, RECORDS = 100, 100, 20, 10
COMMITS = 10  # of each group
END = ROWS * RECORDS
FILL = """
    INSERT INTO kafka.topics (name, partitions) SELECT 'topic-' || n, {partitions} FROM generate_series(1, {topics}) n;
    INSERT INTO kafka.log (series, segment, topic, partition, base_offset, last_offset, global_base, max_timestamp,
        running_max_timestamp, append_time, first_timestamp, record_count, row_bytes, leader_epoch, timestamp_type, codec,
        is_transactional, is_control, values)
    SELECT 0, 0, t.id, p, r * {records}, r * {records} + {records} - 1, 0, now.ms, now.ms, now.ms - 1000 * r, now.ms, {records},
           1000, 1, 0, 0, false, false, array_fill(repeat('x', 100)::bytea, ARRAY[{records}])
    FROM kafka.topics t, generate_series(0, {partitions} - 1) p, generate_series(0, {rows} - 1) r,
         (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) now
    ORDER BY r, t.id, p;
    INSERT INTO kafka.extents (topic, partition, first_offset, series, segment)
    SELECT t.id, p, 0, 0, 0 FROM kafka.topics t, generate_series(0, {partitions} - 1) p;
    VACUUM ANALYZE;
"""
SIZE = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'kafka.lag_minutes'::regclass"
COMMIT = """
    INSERT INTO kafka.offset_journal_0 (entry, group_id, topic_id, partition_id, committed_offset)
    SELECT row_number() OVER (), * FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::bigint[])
"""


class Many:
    """The groups, and a log of which all partitions are loaded, or none."""

    refusal = ErrorCode.NONE

    def __init__(self, groups: int, topics: list[int]) -> None:
        self.topics = {topic: SimpleNamespace(id=topic, name=f"topic-{topic}") for topic in topics}
        self.is_loaded = False
        places = [(topic, partition) for topic in topics for partition in range(PARTITIONS)]
        self.groups = {
            f"application-{n}.consumers": [places[(n * COMMITS + i) % len(places)] for i in range(COMMITS)]
            for n in range(groups)
        }
        self.loaded = SimpleNamespace(high_watermark=END, log_start_offset=0)
        self.offset = 5

    def __iter__(self) -> Iterator[Any]:
        for group_id, places in self.groups.items():
            offsets = {place: Committed(self.offset, -1, "", 0) for place in places}
            yield SimpleNamespace(id=group_id, offsets=GroupOffsets(offsets))

    def partition(self, _topic: Any, _index: int) -> Any:
        return self.loaded if self.is_loaded else None

    def committed_end(self, _topic_id: int, _index: int) -> int:
        return 0


class Steps(Clock):
    """Time that a minute is added to."""

    __slots__ = ("ms",)

    def __init__(self) -> None:
        super().__init__()
        self.ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ms


def say(what: str, began: float, more: str = "") -> None:
    print(f"{what:64} {1000 * (time.monotonic() - began):9.1f} ms  {more}", flush=True)


async def look(what: str, lag: GroupLag) -> None:
    gaps = [0.0]

    async def others() -> None:
        """What else the event loop does."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    task = asyncio.create_task(others())
    began = time.monotonic()
    await lag.look()
    task.cancel()
    say(what, began, f"the event loop waits {1000 * max(gaps):.1f} ms at most")


async def processor(lag: GroupLag) -> None:
    """The same again, without what looks on."""
    used = time.thread_time()
    await lag.look()
    print(f"{'':64} {1000 * (time.thread_time() - used):9.1f} ms of the broker's processor")


async def measure(dsn: str, groups: int, what: str) -> None:
    db = await asyncpg.connect(dsn)
    await migrate(db, compression="none")
    if what != "history":
        await measure_now(db, dsn, groups)
    if what != "now":
        async with controlled(dsn) as control:
            await history(db, LagStore(control))
    await db.close()


async def measure_now(db: asyncpg.Connection, dsn: str, groups: int) -> None:
    for statement in FILL.format(topics=TOPICS, partitions=PARTITIONS, rows=ROWS, records=RECORDS).split(";\n"):
        if statement.strip():
            await db.execute(statement)
    many = Many(groups, [row[0] for row in await db.fetch("SELECT id FROM kafka.topics ORDER BY id")])
    rows = [(group, *place, many.offset) for group, places in many.groups.items() for place in places]
    await db.execute(COMMIT, *(list(column) for column in zip(*rows, strict=True)))
    await db.execute("ANALYZE")
    print(f"{groups:,} groups, {len(rows):,} commits, {TOPICS * PARTITIONS:,} partitions, {ROWS} rows in each")
    for what, query in (
        ("kafka.consumer_lag without lag_seconds", "SELECT count(*), sum(lag) FROM kafka.consumer_lag"),
        ("kafka.consumer_lag", "SELECT count(*), sum(lag), max(lag_seconds) FROM kafka.consumer_lag"),
        (
            "kafka.consumer_lag of one group",
            "SELECT count(*), max(lag_seconds) FROM kafka.consumer_lag WHERE group_id = 'application-7.consumers'",
        ),
    ):
        await db.fetch(query)
        began = time.monotonic()
        (row,) = await db.fetch(query)
        say(what, began, f"{row[0]} rows")
    async with controlled(dsn) as control:
        store = LagStore(control)
        clock = Steps()
        lag = GroupLag(
            groups=cast(Any, many), topics=cast(Any, many.topics), log=cast(Any, many), store=store, clock=clock,
            history_groups=lambda: 1_000, is_looked_at=True,
        )  # fmt: skip
        await look("first look, no partition loaded", lag)
        many.is_loaded = True
        await look("look, no commit has moved", lag)
        await processor(lag)
        many.offset = 55
        await look("look, all commits have moved", lag)
        many.offset = 105
        await processor(lag)
        source = LagSource(lag, Bounds(500, by_partition=False), clock)
        for what in ("the first page of metrics after a look", "the next one"):
            began = time.monotonic()
            list(source.families())
            say(what, began)
        for _ in range(3):
            clock.ms += 60_000
            began = time.monotonic()
            await lag._note()
            say("a minute is noted and written", began)


async def history(db: asyncpg.Connection, store: LagStore) -> None:
    await db.execute("TRUNCATE kafka.lag_minutes")
    for size in (100, 1_000):
        names = [f"application-{n * 7}.consumers" for n in range(size)]
        for minute in range(1440):
            entries = [
                Entry(name, "orders", (minute * 7919 + n * 104729) % 5000, (minute + n) % 60)
                for n, name in enumerate(names)
            ]
            await store.write_minute(1_790_000_000_000 + minute * 60_000, entries)
        (row,) = await db.fetch(SIZE)
        await db.execute("ANALYZE kafka.lag_minutes")
        print(
            f"{'a day of ' + str(size) + ' groups':64} {int(row[0]) / 1e6:9.1f} MB, 30 days {int(row[0]) * 30 / 1e6:.0f} MB"
        )
        for hours in (1, 24):
            began = time.monotonic()
            found = await db.fetch(
                "SELECT minute, lag FROM kafka.lag_history WHERE group_id = $1 "
                "AND minute > (SELECT max(minute) FROM kafka.lag_minutes) - $2 * interval '1 hour'",
                names[3],
                hours,
            )
            say(f"{hours} h of one group among {size}", began, f"{len(found)} rows")
        await db.execute("TRUNCATE kafka.lag_minutes")


@asynccontextmanager
async def controlled(dsn: str) -> AsyncIterator[ControlSession]:
    control = ControlSession(lambda kind: connect(dsn, kind))
    yield control
    await control.close()


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    what = sys.argv[2] if len(sys.argv) > 2 else ""
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found"
    server = PostgresServer("bench", binaries, fsync=True, settings={})
    try:
        server.create()
        asyncio.run(measure(server.create_database().dsn, groups, what))
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
