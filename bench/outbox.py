"""SQL as a client, against pgmq and a polling outbox: python -m bench.outbox, or make bench BENCH=outbox.

--system NAME     the PostgreSQL: "PostgreSQL 15" (as packaged, the default) or "embedded"
--part NAME       latency | single | many | poll | held; repeatable, all by default
--way NAME        ways whose name contains NAME; repeatable
--seconds N       of each measurement
--held SECONDS    how long one snapshot is held, all ways in turns under it; 600 for ten minutes

One database with fsync, one broker on it, and on the same two cores everything else: pgbench as the clients that send, the
consumers, the worker of the polling outbox. ways.py says what is compared. An event is a JSON object of 120 bytes, and goes
with a row of an order in one transaction, unless something else is said.

latency   an order and its event, fifty a second: from when its COMMIT has returned until a consumer has the event
single    one event a call, sixteen sessions at full speed, everything that comes is consumed meanwhile
many      calls of 10,000 events each, one session, everything consumed meanwhile
poll      a topic or queue that is full already is consumed by SQL, the values go to the client
held      a REPEATABLE READ transaction is open all the time; each way in its turn has 300 events a second if it can
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import psycopg
from confluent_kafka.admin import AdminClient, NewTopic
from tests.kafka_reference import ToolMissing
from tests.postgres import FLAVOURS

from bench import processes
from bench.systems import GIVEN, OURS, System, running
from bench.ways import Pgmq, PgmqListening, Place, PollingOutbox, Produce, ProduceAndListen, ProduceAndPoll, Way

PARTITIONS = 4
SESSIONS = 16
MANY = 10_000
LATENCY_PER_S, HELD_PER_S = 50, 300
TURN_S = 10.0  # of a way under the held snapshot
DEADLINE_S = 120.0
VALUE = "jsonb_build_object('order', 1234567, 'customer', 'somebody', 'total', 42.50, 'items', repeat('x', 48))"
ORDER = "INSERT INTO shop_orders (customer, total) VALUES ('somebody', 42.50)"
PREPARE = f"""
CREATE TABLE shop_orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL);
CREATE TABLE many_events AS SELECT array_agg({VALUE}) AS events FROM generate_series(1, {MANY});
"""
POLL_LIMITS, POLL_SESSIONS = (100, 1000), (1, 4)
PARTS = ("latency", "single", "many", "poll", "held")


class Sheet:
    """A table that is printed row by row, as Markdown."""

    def __init__(self, title: str, *columns: str) -> None:
        print(f"\n{title}\n\n| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}", flush=True)

    def row(self, *cells: object) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


class Consumed:
    """Counts what has come, and keeps when."""

    def __init__(self, keep: bool = False) -> None:
        self.count = 0
        self.seen: dict[int, float] = {}
        self._keep = keep
        self._news = threading.Condition()

    def take(self, values: Sequence[str | bytes]) -> None:
        at = time.perf_counter()
        if self._keep:
            for value in values:
                self.seen.setdefault(json.loads(value)["order"], at)
        with self._news:
            self.count += len(values)
            self._news.notify_all()

    def wait_for(self, count: int) -> None:
        """Raises TimeoutError when they do not come, and ValueError when more do."""
        with self._news:
            if not self._news.wait_for(lambda: self.count >= count, DEADLINE_S):
                raise TimeoutError(f"{self.count} of {count} events came")
        if self.count > count:
            raise ValueError(f"{self.count} events came, and {count} were sent")


class Sent(NamedTuple):
    """What pgbench says: transactions, and of them a second; and how long it took with starting and ending."""

    transactions: int
    per_s: float
    seconds: float


def pgbench(dsn: str, script: str, *arguments: str) -> Sent:
    """Runs a script in many sessions. Raises RuntimeError."""
    folder = FLAVOURS["postgresql-15"]()
    if folder is None or not (folder / "pgbench").exists():
        raise ToolMissing("pgbench is not installed: apt-get install postgresql")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        begun = time.perf_counter()
        command = [
            str(folder / "pgbench"),
            "--no-vacuum",
            "--protocol=prepared",
            f"--file={file.name}",
            *arguments,
            dsn,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S * 10, check=False)
        seconds = time.perf_counter() - begun
    count = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    if done.returncode or count is None or rate is None:
        raise RuntimeError(f"pgbench failed: {done.stderr[-500:]}{done.stdout[-500:]}")
    return Sent(int(count[1]), float(rate[1]), seconds)


class Bench:
    """One system, prepared for all ways."""

    def __init__(self, system: System, wanted: Sequence[str], seconds: float) -> None:
        self.system = system
        self.seconds = seconds
        dsn = system.dsn()
        assert dsn is not None
        self.dsn = dsn
        self._wanted = wanted
        self._topics = 0
        with self.connected() as connection:
            connection.execute(PREPARE)

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            yield connection

    def ways(self, *classes: Callable[[Place], Way]) -> Iterator[tuple[Way, Place]]:
        """Each way with a topic or queue of its own. One that cannot be had here is told of and left out."""
        for make in classes:
            if not self._is_wanted(make(Place(self.dsn, self.system.bootstrap, "", 0)).name):
                continue
            self._topics += 1
            place = Place(self.dsn, self.system.bootstrap, f"bench_{self._topics}", PARTITIONS)
            way = make(place)
            try:
                if not isinstance(way, Pgmq):
                    self._create_topic(place.topic)
                with self.connected() as connection:
                    way.prepare(connection)
            except (ToolMissing, psycopg.errors.UndefinedFunction) as missing:
                print(f"| {way.name} | not measured: {str(missing).splitlines()[0]} |", flush=True)
                continue
            yield way, place

    def _is_wanted(self, name: str) -> bool:
        return not self._wanted or any(part.lower() in name.lower() for part in self._wanted)

    def _create_topic(self, name: str) -> None:
        client = AdminClient({"bootstrap.servers": self.system.bootstrap, "log_level": 0})
        client.create_topics([NewTopic(name, PARTITIONS)])[name].result(30)

    def fill(self, way: Way, place: Place, count: int) -> None:
        """Sends so many events with calls of many; returns when a consumer could have them all."""
        with self.connected() as connection:
            for _ in range(count // MANY):
                connection.execute(many(way, place))
            if isinstance(way, Produce):
                read = "SELECT coalesce(sum(end_offset), 0) FROM (SELECT kafka.end_offset(t.id, p) FROM kafka.topics t,"
                read += " generate_series(0, t.partitions - 1) p WHERE t.name = %s) e (end_offset)"
                deadline = time.monotonic() + DEADLINE_S
                while (connection.execute(read, [place.topic]).fetchone() or [0])[0] < count:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{way.name}: the events did not come into the topic")
                    time.sleep(0.05)


def single(way: Way, place: Place, value: str = VALUE) -> str:
    return way.statement.format(topic=place.topic, value=value)


def many(way: Way, place: Place) -> str:
    return way.many.format(topic=place.topic, values="(SELECT events FROM many_events)")


class Timed(NamedTuple):
    """How long after the return of its COMMIT a consumer had an event, of each in ms; what was sent a second; processor time."""

    ms: list[float]
    per_s: float
    processor_ms: float


def timed(bench: Bench, way: Way, place: Place, per_s: float, seconds: float) -> Timed:
    """One session sends events at a steady rate, or as fast as it can where the machine does not keep that up."""
    consumed = Consumed(keep=True)
    committed: dict[int, float] = {}
    statement = single(way, place, "%s::jsonb")
    with psycopg.connect(place.dsn) as connection, way.consuming(consumed.take) as beside:
        before, begun = spent_s(bench.system, beside), time.perf_counter()
        for number in range(int(per_s * seconds)):
            now = time.perf_counter()
            if now - begun > seconds:
                break
            time.sleep(max(0.0, begun + number / per_s - now))
            value = json.dumps({"order": number, "customer": "somebody", "total": 42.50, "items": "x" * 48})
            connection.execute(ORDER)
            connection.execute(statement, [value])
            connection.commit()
            committed[number] = time.perf_counter()
        elapsed = time.perf_counter() - begun
        consumed.wait_for(len(committed))
        cpu_ms = (spent_s(bench.system, beside) - before) / len(committed) * 1000
    times = sorted(1000 * (consumed.seen[number] - at) for number, at in committed.items())
    return Timed(times, len(committed) / elapsed, cpu_ms)


def percentiles(values: Sequence[float]) -> tuple[str, str, str]:
    cuts = quantiles(values, n=100)
    return f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", f"{max(values):.1f}"


def latency(bench: Bench) -> None:
    sheet = Sheet(
        f"From the COMMIT of an order and its event, {LATENCY_PER_S} a second, until a consumer has the event, ms",
        "way", "p50", "p99", "most", "ms of processor an event",
    )  # fmt: skip
    for way, place in bench.ways(
        Produce,
        ProduceAndListen,
        ProduceAndPoll,
        PgmqListening,
        Pgmq,
        PollingOutbox,
        lambda place: PollingOutbox(place, 1.0),
    ):
        timed(bench, way, place, LATENCY_PER_S, 1)  # warms up
        found = timed(bench, way, place, LATENCY_PER_S, bench.seconds)
        sheet.row(way.name, *percentiles(found.ms), f"{found.processor_ms:.2f}")


def spent_s(system: System, beside: Mapping[str, int]) -> float:
    """Processor time of broker, PostgreSQL and what else belongs to a way; not of those that send and consume."""
    return sum(processes.cpu_s(system.roles()).values()) + sum(processes.cpu_s(beside).values())


def measured(
    bench: Bench, way: Way, script: str, per_transaction: int, arguments: Sequence[str]
) -> tuple[Sent, float, float]:
    """What pgbench did, how long the consumer took from the first to the last event, and processor time for each, in us."""
    consumed = Consumed()
    with way.consuming(consumed.take) as beside:
        before, begun = spent_s(bench.system, beside), time.perf_counter()
        sent = pgbench(bench.dsn, script, *arguments)
        consumed.wait_for(sent.transactions * per_transaction)
        seconds = time.perf_counter() - begun
        spent = spent_s(bench.system, beside) - before
    return sent, seconds, spent / (sent.transactions * per_transaction) * 1e6


def singles(bench: Bench) -> None:
    arguments = (f"--client={SESSIONS}", "--jobs=2", f"--time={bench.seconds:.0f}")
    sheet = Sheet(
        f"One event a call, {SESSIONS} sessions",
        "way", "transactions/s with an order", "until all were consumed, /s", "us of processor each",
        "transactions/s of the event alone",
    )  # fmt: skip
    bare = pgbench(bench.dsn, f"BEGIN;\n{ORDER};\nCOMMIT;\n", *arguments)
    sheet.row("an order without an event", f"{bare.per_s:,.0f}", "", "", "")
    for way, place in bench.ways(Produce, Pgmq, PgmqListening, PollingOutbox):
        script = f"BEGIN;\n{ORDER};\n{single(way, place)};\nCOMMIT;\n"
        sent, seconds, us = measured(bench, way, script, 1, arguments)
        alone, _, _ = measured(bench, way, f"{single(way, place)};\n", 1, arguments)
        sheet.row(
            way.name, f"{sent.per_s:,.0f}", f"{sent.transactions / seconds:,.0f}", f"{us:.0f}", f"{alone.per_s:,.0f}"
        )


def manies(bench: Bench) -> None:
    arguments = ("--client=1", f"--time={bench.seconds:.0f}")
    sheet = Sheet(
        f"Calls of {MANY:,} events, one session",
        "way", "events/s committed", "until all were consumed, /s", "us of processor each",
    )  # fmt: skip
    for way, place in bench.ways(Produce, Pgmq, PollingOutbox):
        sent, seconds, us = measured(bench, way, f"{many(way, place)};\n", MANY, arguments)
        sheet.row(way.name, f"{sent.per_s * MANY:,.0f}", f"{sent.transactions * MANY / seconds:,.0f}", f"{us:.1f}")


POLL = "SELECT value FROM kafka.poll(%s, %s, max_records => %s)"
POP = "SELECT message::text FROM pgmq.pop(%s, %s)"
READ = "SELECT msg_id, message::text FROM pgmq.read(%s, 30, %s)"
DELETE = "SELECT pgmq.delete(%s, %s)"


def taken_per_s(bench: Bench, sessions: int, total: int, take: Callable[[psycopg.Connection[Any]], int]) -> float:
    """Events a second that sessions take, until there is none or the time is over. Raises ValueError for one too many."""
    counts = [0] * sessions
    failed: list[BaseException] = []
    barrier = threading.Barrier(sessions + 1)
    stop = threading.Event()

    def run(place: int) -> None:
        try:
            with psycopg.connect(bench.dsn) as connection:
                barrier.wait(DEADLINE_S)
                while not stop.is_set() and sum(counts) < total:
                    counts[place] += take(connection)
                    connection.commit()
        except BaseException as error:  # raised below
            failed.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(sessions)]
    for thread in threads:
        thread.start()
    barrier.wait(DEADLINE_S)
    begun = time.perf_counter()
    timer = threading.Timer(bench.seconds, stop.set)
    timer.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    timer.cancel()
    if failed:
        raise failed[0]
    if sum(counts) > total:
        raise ValueError(f"{sum(counts)} of {total} events were taken")
    return sum(counts) / elapsed


Taking = Callable[[psycopg.Connection[Any], int], int]


def rates(bench: Bench, fresh: Callable[[], Taking], total: int) -> list[str]:
    """For each limit and number of sessions; `fresh` fills anew, and says how a session takes so many at most."""
    found = []
    for limit in POLL_LIMITS:
        for sessions in POLL_SESSIONS:
            take = fresh()
            found.append(f"{taken_per_s(bench, sessions, total, partial(take, limit=limit)):,.0f}")
    return found


def polls(bench: Bench) -> None:
    total = 40 * MANY
    columns = (
        f"{limit} a call, {sessions} session{'s' * (sessions > 1)}"
        for limit in POLL_LIMITS
        for sessions in POLL_SESSIONS
    )
    sheet = Sheet(f"SQL consumers of {total:,} events that wait, {PARTITIONS} partitions; events/s", "way", *columns)
    for way, place in bench.ways(Produce):
        bench.fill(way, place, total)
        groups = itertools.count(1)
        sheet.row(
            "kafka.poll",
            *rates(bench, lambda topic=place.topic, n=groups: partial(polled, f"{topic}-{next(n)}", topic), total),
        )
    for way, place in bench.ways(Pgmq):
        for name, take in (("pgmq.pop", popped), ("pgmq.read and pgmq.delete", read_and_deleted)):
            sheet.row(name, *rates(bench, partial(filled_queue, bench, way, place, total, take), total))


def filled_queue(bench: Bench, way: Way, place: Place, total: int, take: Callable[..., int]) -> Taking:
    with bench.connected() as connection:
        connection.execute("SELECT pgmq.purge_queue(%s)", [place.topic])
    bench.fill(way, place, total)
    return partial(take, place.topic)


def polled(group: str, topic: str, connection: psycopg.Connection[Any], limit: int) -> int:
    return len(connection.execute(POLL, [group, topic, limit]).fetchall())


def popped(queue: str, connection: psycopg.Connection[Any], limit: int) -> int:
    return len(connection.execute(POP, [queue, limit]).fetchall())


def read_and_deleted(queue: str, connection: psycopg.Connection[Any], limit: int) -> int:
    rows = connection.execute(READ, [queue, limit]).fetchall()
    if rows:
        connection.execute(DELETE, [queue, [row[0] for row in rows]])
    return len(rows)


def held(bench: Bench, seconds: float) -> None:
    """Ways in turns under one snapshot; what is told of are the first turn of each and its last."""
    found: dict[str, list[Timed]] = {}
    with psycopg.connect(bench.dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM pg_class")
        begun = time.monotonic()
        compared = list(bench.ways(Produce, ProduceAndPoll, Pgmq, PollingOutbox))
        while True:
            for way, place in compared:
                found.setdefault(way.name, []).append(timed(bench, way, place, HELD_PER_S, TURN_S))
            if time.monotonic() - begun > seconds and all(len(turns) > 1 for turns in found.values()):
                break
        age = time.monotonic() - begun
    sheet = Sheet(
        f"Under one snapshot, held for {age:.0f} s, in turns of {TURN_S:.0f} s: the first turn and the last of "
        f"{min(map(len, found.values()))}, {HELD_PER_S} events a second or as many as one session can send",
        "way", "first: p50, p99 in ms", "last: the same", "first: events/s", "last", "first: ms of processor an event", "last",
    )  # fmt: skip
    for name, (first, *_, last) in found.items():
        told = (", ".join(percentiles(one.ms)[:2]) for one in (first, last))
        rates = (f"{one.per_s:.0f}" for one in (first, last))
        sheet.row(name, *told, *rates, f"{first.processor_ms:.2f}", f"{last.processor_ms:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--system", choices=[name.removeprefix("pg_kafka, ") for name in OURS], default=GIVEN.removeprefix("pg_kafka, ")
    )
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--way", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--held", type=float, default=60)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(f"pg_kafka, {options.system}", Path(folder) / "system") as system,
    ):
        print(f"{options.system}, {os.cpu_count()} cores; load average before: {os.getloadavg()[0]:.1f}", flush=True)
        bench = Bench(system, options.way, options.seconds)
        parts: dict[str, Callable[[], None]] = {
            "latency": lambda: latency(bench),
            "single": lambda: singles(bench),
            "many": lambda: manies(bench),
            "poll": lambda: polls(bench),
            "held": lambda: held(bench, options.held),
        }
        for name in options.part or PARTS:
            parts[name]()
        for line in system.complaints():
            print(line)
        print(f"\nload average after: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
