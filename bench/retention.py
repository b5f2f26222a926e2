"""Full speed into a topic with retention.bytes: does the disk stay flat, and the rate?

python -m bench.retention [--minutes 30] [--query-minutes 10] [--retention-mb 2048] [--segment-mb 256] [--system NAME]

One producer (or --producers) sends batches of 64 kB as fast as they are acknowledged. Every few seconds: how many records
were acknowledged, what the data folder takes without the WAL, and what the log's tables take. With --query-minutes a query
that reads the topic begins after a fifth of the time and goes on for so long: it holds TRUNCATE back, and what came
meanwhile has to be gone after it. The last tenth of the time is compared with the first one after a warm-up; the floor is
what retention keeps, and one segment that is written to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
from confluent_kafka.admin import AdminClient, NewTopic

from bench import processes
from bench.results import FOLDER
from bench.systems import OURS, System, running
from pg_kafka.bench.batches import BatchTemplate, values_for
from pg_kafka.bench.cluster import find
from pg_kafka.bench.connection import Connection
from pg_kafka.bench.load import produce

TOPIC = "retained"
RECORD_BYTES, BATCH_BYTES = 100, 65_536
SAMPLE_S = 5.0
MB = 1 << 20
LOG_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes, count(*) AS segments FROM pg_class c
WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^log_[0-9]+_[0-9]+$'
"""


def folder_bytes(system: System) -> int:
    """What the records take on the disk, without the WAL."""
    return sum(
        path.stat().st_blocks * 512
        for folder in system.data_folders()
        for path in folder.rglob("*")
        if path.exists() and path.is_file()
    )


class Samples:
    """Looks every few seconds, in a thread."""

    def __init__(self, system: System) -> None:
        self.rows: list[dict[str, float]] = []
        self.acknowledged = 0
        self.is_queried = False
        self._system = system
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def report(self, records: int) -> None:
        self.acknowledged += records

    def __enter__(self) -> Samples:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        begun = at = time.monotonic()
        records = 0
        spent = processes.cpu_s(self._system.roles())
        while not self._done.wait(SAMPLE_S):
            now, acknowledged = time.monotonic(), self.acknowledged
            [log] = self._system.query(LOG_BYTES)
            used, added = processes.cpu_s(self._system.roles()), max(1, acknowledged - records)
            row = {
                "at_s": round(now - begun, 1),
                "records_per_s": round((acknowledged - records) / (now - at)),
                "folder_mb": round(folder_bytes(self._system) / MB),
                "log_mb": round(int(log["bytes"]) / MB),
                "segments": int(log["segments"]),
                "query": float(self.is_queried),
                "cpu_s_per_million": round(sum(used[role] - spent[role] for role in used) / added * 1e6, 2),
            }
            self.rows.append(row)
            at, records, spent = now, acknowledged, used
            print(json.dumps(row), flush=True)


def query_for(system: System, samples: Samples, seconds: float) -> None:
    """A query that reads the topic, and takes so long."""

    async def ask() -> None:
        connection = await asyncpg.connect(system.dsn())
        try:
            samples.is_queried = True
            await connection.fetchval(f"SELECT count(value) FROM topics.{TOPIC}, pg_sleep($1)", seconds)
        finally:
            samples.is_queried = False
            await connection.close()

    asyncio.run(ask())


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """The first tenth after a tenth of warm-up, the last tenth, and how the disk went."""
    tenth = max(1, len(rows) // 10)
    first, last = rows[tenth : 2 * tenth], rows[-tenth:]
    rates = [statistics.mean(row["records_per_s"] for row in part) for part in (first, last)]
    calm = [row for row in rows[tenth:] if not row["query"]]
    return {
        "first_per_s": round(rates[0]),
        "last_per_s": round(rates[1]),
        "last_per_first": round(rates[1] / rates[0], 3),
        **{
            f"{name}_cpu_s_per_million": round(statistics.median(row["cpu_s_per_million"] for row in part), 2)
            for name, part in (("first", first), ("last", last))
        },
        "log_mb_median": statistics.median(row["log_mb"] for row in calm),
        "log_mb_most_without_query": max(row["log_mb"] for row in calm),
        "log_mb_most": max(row["log_mb"] for row in rows),
        "log_mb_end": rows[-1]["log_mb"],
        "folder_mb_first": first[0]["folder_mb"],
        "folder_mb_end": rows[-1]["folder_mb"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--query-minutes", type=float, default=0)
    parser.add_argument("--retention-mb", type=int, default=2048)
    parser.add_argument("--segment-mb", type=int, default=256)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--producers", type=int, default=1)
    parser.add_argument("--system", choices=OURS, default=OURS[1])
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(options.system, Path(folder) / "system", {"log.segment.bytes": str(options.segment_mb * MB)}) as system,
    ):
        configs = {
            "retention.bytes": str(options.retention_mb * MB // options.partitions),
            "retention.ms": "-1",
            "segment.bytes": str(options.segment_mb * MB),
        }
        admin = AdminClient({"bootstrap.servers": system.bootstrap})
        admin.create_topics([NewTopic(TOPIC, options.partitions, 1, config=configs)])[TOPIC].result(30)
        del admin  # it would go on asking when the broker has gone
        with Connection(system.host, system.port) as connection:
            topic = find(connection, TOPIC, options.partitions)
        template = BatchTemplate(values_for(BATCH_BYTES, RECORD_BYTES, os.urandom(MB)))
        spent = processes.cpu_s(system.roles())
        with Samples(system) as samples:
            query = threading.Timer(options.minutes * 60 / 5, query_for, (system, samples, options.query_minutes * 60))
            if options.query_minutes:
                query.start()
            produced = produce(topic, template, options.producers, options.minutes * 60, samples.report)
            query.cancel()
            if options.query_minutes:
                query.join()
            time.sleep(4 * SAMPLE_S)
        used = {role: seconds - spent[role] for role, seconds in processes.cpu_s(system.roles()).items()}
        found = {
            **summary(samples.rows[: -4 if len(samples.rows) > 8 else None]),
            "log_mb_after": samples.rows[-1]["log_mb"],
            "records": produced.records,
            **{f"cpu_s_per_million_{role}": round(s / produced.records * 1e6, 3) for role, s in used.items()},
        }
        print(json.dumps(found, indent=1))
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"retention-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path.write_text(json.dumps({"options": vars(options), "figures": found, "samples": samples.rows}, indent=1))
        for line in system.complaints():
            print(line)


if __name__ == "__main__":
    main()
