"""Commits of consumer groups under snapshots that are held: latency and size of the journal in windows of ten seconds.

python -m bench.journals [SECONDS]

500 groups commit 10 partitions each, twice a second, open loop; three rounds: nothing held, a REPEATABLE READ transaction
open from the start, and a transaction that has read kafka.consumer_offsets and stays open.
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import quantiles
from typing import Any

import asyncpg
from tests.postgres import FLAVOURS, PostgresServer
from tests.storage.janitors import janitor_of
from tests.storage.leader import leading

from pg_kafka.storage.groups import GroupStore, OffsetWrite

GROUPS, PARTITIONS, INTERVAL_S, WINDOW_S = 500, 10, 0.5, 10
SIZE = (
    "SELECT (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relname ~ '^offset_journal_[01]$'), "
    "(SELECT count(*) FROM kafka.offset_journal_0) + (SELECT count(*) FROM kafka.offset_journal_1), "
    "(SELECT state FROM kafka.journals WHERE journal = 'offsets')"
)


async def measure(dsn: str, hold: str, seconds: int) -> None:
    async with leading(dsn) as leader:
        topic = await leader.topic("t", PARTITIONS)
        store = GroupStore(leader.log, leader.control)
        janitor = janitor_of(
            dsn,
            leader.log,
            owner=leader.log.node_id,
            growth=leader.growth,
            open_session=leader.membership.open_writer,
        )
        await janitor.start()
        holder, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        if hold:
            await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await holder.fetch(
                "SELECT count(*) FROM " + ("pg_class" if hold == "snapshot" else "kafka.consumer_offsets")
            )
        latencies: list[float] = []

        def commit(group: int, number: int) -> None:
            begun = time.perf_counter()

            def done(error: Any) -> None:
                assert error is None, error
                latencies.append(time.perf_counter() - begun)

            now_ms = time.time_ns() // 1_000_000
            offsets = [OffsetWrite(topic.id, index, number, 1, "", now_ms) for index in range(PARTITIONS)]
            store.write(f"group-{group}", (), offsets, (), done)

        print(f"held: {hold or 'nothing'}")
        print(" until   commits/s   p50 ms   p99 ms   MB on disk   entries   state")
        start = time.monotonic()
        for tick in range(int(seconds * GROUPS / INTERVAL_S)):
            commit(tick % GROUPS, tick)
            await asyncio.sleep(max(0.0, start + (tick + 1) * INTERVAL_S / GROUPS - time.monotonic()))
            if (tick + 1) % int(WINDOW_S * GROUPS / INTERVAL_S) == 0:
                taken, latencies = latencies, []
                cuts = quantiles(taken, n=100)
                size, entries, state = (await watcher.fetch(SIZE))[0]
                elapsed = time.monotonic() - start
                print(
                    f"{elapsed:5.0f} s   {len(taken) / WINDOW_S:9.0f}   {cuts[49] * 1e3:6.1f}   {cuts[98] * 1e3:6.1f}   "
                    f"{size / 1e6:10.1f}   {entries:7}   {state}",
                    flush=True,
                )
        await leader.log.settle_journals()
        await holder.close()
        await watcher.close()
        await janitor.stop()


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    binaries = FLAVOURS["postgresql-15"]()
    assert binaries is not None, "no PostgreSQL server found"
    server = PostgresServer("bench", binaries, fsync=True, settings={})
    try:
        server.create()
        for hold in ("", "snapshot", "reader"):
            database = server.create_database()
            asyncio.run(measure(database.dsn, hold, seconds))
            server.drop_database(database)
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
