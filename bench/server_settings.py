"""What a setting of the embedded server is worth: two servers, one with it and one without, in turns A B B A.

    python -m bench.server_settings [--turns 2] [--megabytes 48] [VARIANT ...]      --list shows the variants

Both have the settings of pg_kafka/embedded/settings.py; a variant changes some of them, or the environment that the postmaster
starts in. Each turn is, on one session with the settings of a lane's:

- bulk-64, bulk-128: COPY of rows of 64 and of 128 kB, in transactions of 1 MB
- lone-64, lone-1: COPY of a single row of 64 kB, or of one record of 1 kB, that is its own transaction
- checkpoint: bulk-64 while another session runs CHECKPOINT, whose end it waits for

`cpu` is the backend's processor time, `server cpu` that of all processes of the server in the whole turn. Shown are ratios,
variant to base, medians of the turns and their range: below 1 the variant is better.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.postgres import FLAVOURS, Database, PostgresServer

from bench.bare import LEAF, Wire, busy_s, copied, log_row, prepare, stamped
from pg_kafka.embedded import settings
from pg_kafka.storage import queries
from pg_kafka.storage.sessions import OPTIONAL

COPY = queries.render(queries.load("log")["copy_segment"], leaf=LEAF)
_OWN = ("listen_addresses", "port", "unix_socket", "log", "cluster_name")  # what a server of the tests sets by itself


@dataclass(frozen=True)
class Variant:
    """What differs from today's server."""

    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def malloc(**kilobytes: int) -> Variant:
    return Variant(environment={f"MALLOC_{name.upper()}_": str(size << 10) for name, size in kilobytes.items()})


VARIANTS = {
    "nothing": Variant(),
    "malloc-1M": malloc(mmap_threshold=1024, trim_threshold=2048, top_pad=512),
    "malloc-4M": malloc(mmap_threshold=4096, trim_threshold=16384, top_pad=1024),
    "malloc-4M-no-pad": malloc(mmap_threshold=4096, trim_threshold=16384),
    "malloc-32M": malloc(mmap_threshold=32768, trim_threshold=65536, top_pad=4096),
    "malloc-arena": Variant(environment={"MALLOC_ARENA_MAX": "1"}),
    "wal_init_zero=off": Variant({"wal_init_zero": "off"}),
    "wal_recycle=off": Variant({"wal_recycle": "off"}),
    "wal_compression=pglz": Variant({"wal_compression": "pglz"}),
    "wal_sync_method=open_datasync": Variant({"wal_sync_method": "open_datasync"}),
    "wal_writer_flush_after=0": Variant({"wal_writer_flush_after": "0"}),
    "wal_writer_delay=10s": Variant({"wal_writer_delay": "10s"}),
    "wal_buffers=64MB": Variant({"wal_buffers": "64MB"}),
    "bgwriter=eager": Variant(
        {"bgwriter_delay": "20ms", "bgwriter_lru_maxpages": "1000", "bgwriter_lru_multiplier": "4"}
    ),
    "bgwriter=off": Variant({"bgwriter_lru_maxpages": "0"}),
    "bgwriter_flush_after=0": Variant({"bgwriter_flush_after": "0"}),
    "checkpoint_flush_after=0": Variant({"checkpoint_flush_after": "0"}),
    "checkpoint_flush_after=2MB": Variant({"checkpoint_flush_after": "2MB"}),
    "backend_flush_after=0": Variant({"backend_flush_after": "0"}),
    "backend_flush_after=512kB": Variant({"backend_flush_after": "512kB"}),
    "io_method=sync": Variant({"io_method": "sync"}),
    "io_method=io_uring": Variant({"io_method": "io_uring"}),
    "shared_buffers=512MB": Variant({"shared_buffers": "512MB"}),
    "shared_buffers=128MB": Variant({"shared_buffers": "128MB"}),
}


def base_settings() -> dict[str, str]:
    text = settings.server(1, Path("/tmp"), settings.memory_bytes(), 64 << 30)
    pairs = (line.partition(" = ") for line in text.splitlines() if " = " in line)
    return {name: value.strip("'") for name, _, value in pairs if not name.startswith(_OWN)}


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """For processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Side:
    """One server, with its database."""

    def __init__(self, variant: Variant) -> None:
        binaries = FLAVOURS["embedded"]()
        assert binaries is not None, "there is no embedded server here"
        self.flush_after = variant.settings.get("backend_flush_after", OPTIONAL["backend_flush_after"])
        self.server = PostgresServer("embedded", binaries, fsync=True, settings={**base_settings(), **variant.settings})
        self.database: Database | None = None
        try:
            with environment(variant.environment):
                self.server.create()
            self.database = self.server.create_database()
            prepare(self.database.superuser_dsn)
        except BaseException:
            self.server.destroy()
            raise

    def open(self) -> Wire:
        assert self.database is not None
        wire = Wire(self.server, self.database.name)
        wire.query(f"SET backend_flush_after = '{self.flush_after}'")
        return wire

    def busy(self) -> dict[int, float]:
        """Processor time of each process of the server."""
        postmaster = int((self.server.data / "postmaster.pid").read_text().split()[0])
        processes = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return {int(pid): busy_s(int(pid)) for pid in processes}


ROWS = {size: log_row(size) for size in (1_000, 60_000, 120_000)}


def transactions(size: int, rows: int, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield copied(COPY, [stamped(ROWS[size]) for _ in range(rows)])


def turn(side: Side, megabytes: int) -> dict[str, float]:
    found: dict[str, float] = {}
    wire, other = side.open(), side.open()
    before = side.busy()
    try:
        for name, size, rows, count in (
            ("bulk-64", 60_000, 17, megabytes),
            ("bulk-128", 120_000, 8, megabytes),
            ("lone-64", 60_000, 1, 150),
            ("lone-1", 1_000, 1, 150),
        ):
            took, busy = [], busy_s(wire.pid)
            for data in transactions(size, rows, count):
                start = time.perf_counter()
                wire.ask(data)
                took.append(time.perf_counter() - start)
            found[f"{name} cpu"] = busy_s(wire.pid) - busy
            found[name] = statistics.median(took) if name.startswith("lone") else sum(took)
        start = time.perf_counter()
        checkpoint = threading.Thread(target=other.query, args=("CHECKPOINT",))
        checkpoint.start()
        worst = []
        for data in itertools.islice(transactions(60_000, 17, 1_000), megabytes):
            begun = time.perf_counter()
            wire.ask(data)
            worst.append(time.perf_counter() - begun)
        checkpoint.join()
        found["checkpoint"] = time.perf_counter() - start
        found["checkpoint p95"] = statistics.quantiles(worst, n=20)[-1]
        found["server cpu"] = sum(busy - before.get(pid, 0.0) for pid, busy in side.busy().items())
        wire.query(f"TRUNCATE kafka.{LEAF}")
    finally:
        wire.close()
        other.close()
    return found


def compare(variant: Variant, turns: int, megabytes: int) -> dict[str, list[float]]:
    """Of each figure the ratio, variant to base, of each pair of turns."""
    ratios: dict[str, list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        base = Side(Variant())
        stack.callback(base.server.destroy)
        changed = Side(variant)
        stack.callback(changed.server.destroy)
        for side in (base, changed):
            turn(side, megabytes)
        for number in range(turns):
            order = (base, changed) if number % 2 == 0 else (changed, base)
            found = {side: turn(side, megabytes) for side in order}
            for name, value in found[base].items():
                ratios[name].append(found[changed][name] / value)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=48)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    console = Console(width=230)
    if options.list:
        console.print(
            "\n".join(
                f"{name:32} {variant.settings or ''}{variant.environment or ''}" for name, variant in VARIANTS.items()
            )
        )
        return
    table = Table(title=f"embedded: ratio to today's server, median (range) of {options.turns} pairs of turns")
    names: list[str] = []
    rows = []
    for name in options.variants:
        try:
            ratios = compare(VARIANTS[name], options.turns, options.megabytes)
        except RuntimeError as error:
            rows.append((name, str(error).strip().splitlines()[-1][:80]))
            continue
        names = list(ratios)
        cells = (f"{statistics.median(one):.2f} ({min(one):.2f}-{max(one):.2f})" for one in ratios.values())
        rows.append((name, *cells))
        console.print(" | ".join(rows[-1]), highlight=False)
    for title in ("variant", *names):
        table.add_column(title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
