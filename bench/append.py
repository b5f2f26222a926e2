"""INSERT or COPY: what a small transaction of a lane costs in each form, and which one the lane should take.

    python -m bench.append [--server both] [--rounds 5] [--each 40] [--cases 1x100,20x4000,offsets-1] [--only bare|lane]

`2x4000` is a transaction of two rows with 4,000 B of records each, `offsets-10` one commit of ten partitions by a consumer
group. The server flushes. `bare` sends each transaction as one message on a socket of its own:

- COPY       `COPY kafka.log_0_0 FROM STDIN (FORMAT binary)` and its data, which commits by itself
- custom     Bind and Execute of a prepared INSERT for each row, then one Sync; planned for each row
- generic    the same, planned once

`lane` is the same through a lane, from Log.append, or GroupStore.write, to the answer, with nothing else under way: the lane as
it is, and one that takes COPY always.

The forms take turns in blocks, A B C C B A. Shown are the median time of a transaction; its ratio to COPY, with the range over
pairs of blocks; processor time of the backends; WAL; and beside them a write and fdatasync of 8 kB on the same disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.postgres import FLAVOURS, PostgresServer
from tests.storage.leader import Leader, leading

from bench.bare import LEAF, NOW_MS, Wire, busy_s, copied, inserted, log_row, message, prepare, stamped, wire_batch
from pg_kafka.storage import journal, queries
from pg_kafka.storage.groups import GroupStore
from pg_kafka.storage.journal import JournalWrite, OffsetWrite
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.prepared import Prepared
from pg_kafka.wire import _records

LOG_SQL, GROUPS_SQL = queries.load("log"), queries.load("groups")
CASES = (
    "1x100", "1x1000", "1x4000", "1x16000", "1x64000", "1x110000",
    "2x100", "5x100", "20x100", "100x100", "2x4000", "5x4000", "20x4000", "2x16000", "5x16000", "2x64000",
    "offsets-1", "offsets-10", "offsets-100",
)  # fmt: skip
BARE, LANE = ("COPY", "custom", "generic"), ("COPY", "INSERT")
SERVER = {"shared_buffers": "256MB", "wal_buffers": "16MB", "max_wal_size": "4GB", "min_wal_size": "1GB"}
_WARM_UP = 20
_ENTRY = (slice(6, 14),)  # of a row of a journal: its number


class Figures:
    """What one case took in each form."""

    def __init__(self, forms: Sequence[str]) -> None:
        self.forms = forms
        self.seconds: dict[str, list[list[float]]] = defaultdict(list)  # of each transaction, in blocks
        self._busy: dict[str, float] = defaultdict(float)
        self._wal: dict[str, int] = defaultdict(int)

    def turns(self, rounds: int) -> Iterator[str]:
        for _ in range(rounds):
            yield from (*self.forms, *reversed(self.forms))

    @contextmanager
    def counted(self, form: str, pids: Sequence[int], watcher: Wire) -> Iterator[list[float]]:
        """A block: the list takes what each transaction took."""
        block: list[float] = []
        wal, busy = wal_bytes(watcher), sum(map(busy_s, pids))
        yield block
        self._busy[form] += sum(map(busy_s, pids)) - busy
        self._wal[form] += wal_bytes(watcher) - wal
        self.seconds[form].append(block)

    def cells(self) -> list[str]:
        count = sum(map(len, self.seconds["COPY"]))
        medians = {form: statistics.median(one for block in self.seconds[form] for one in block) for form in self.forms}
        last = self.forms[-1]
        blocks = [
            statistics.median(other) / statistics.median(copy)
            for other, copy in zip(self.seconds[last], self.seconds["COPY"], strict=True)
        ]
        return [
            *(f"{medians[form] * 1e3:.3f}" for form in self.forms),
            f"{medians[last] / medians['COPY']:.2f} ({min(blocks):.2f}-{max(blocks):.2f})",
            *(f"{self._busy[form] * 1e6 / count:.0f}" for form in self.forms),
            *(f"{self._wal[form] / count:.0f}" for form in ("COPY", last)),
        ]

    @staticmethod
    def titles(forms: Sequence[str]) -> list[str]:
        return [
            *(f"{form} ms" for form in forms),
            f"{forms[-1]} / COPY",
            *(f"{form} us of backend" for form in forms),
            *(f"{form} WAL" for form in ("COPY", forms[-1])),
        ]


class Rows:
    """Rows for one case, each with the next offset, or entry number."""

    def __init__(self, case: str) -> None:
        self._is_log = not case.startswith("offsets-")
        if self._is_log:
            self._count, size = (int(part) for part in case.split("x"))
            self._row = log_row(size)
            self._copy = queries.render(LOG_SQL["copy_segment"], leaf=LEAF)
            self.insert = queries.render(LOG_SQL["insert_row"], leaf=LEAF)
        else:
            self._count = int(case.partition("-")[2])
            self._row = journal_row()
            self._copy, self.insert = (
                queries.render(GROUPS_SQL[f"{form}_offsets"], offsets="offset_journal_0") for form in ("copy", "insert")
            )

    def transaction(self, form: str) -> bytes:
        rows = [stamped(self._row) if self._is_log else stamped(self._row, _ENTRY) for _ in range(self._count)]
        return copied(self._copy, rows) if form == "COPY" else inserted("insert", rows)


def journal_row() -> bytes:
    write = JournalWrite("group-1", (), [OffsetWrite(1, 0, 17, 1, "", NOW_MS)], (), lambda error: None)
    write.first_entry = 0
    (row,) = journal.rows_of([write])["offsets"]
    return row


class Disk:
    """A write and a flush, as a commit does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "flushed"
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR)
        os.pwrite(self._file, bytes(1 << 24), 0)
        os.fsync(self._file)
        self._at = 0

    def flush_s(self) -> float:
        self._at = (self._at + 8192) % (1 << 24)
        start = time.perf_counter()
        os.pwrite(self._file, b"\x01" * 8192, self._at)
        os.fdatasync(self._file)
        return time.perf_counter() - start

    def close(self) -> None:
        os.close(self._file)
        self._path.unlink()


def wal_bytes(watcher: Wire) -> int:
    answer = watcher.ask(message(b"Q", b"SELECT pg_current_wal_insert_lsn() - '0/0'\0"))
    return next(int(part[6:]) for kind, part in answer if kind == b"D")


def bare(server: PostgresServer, cases: list[str], rounds: int, each: int) -> Table:
    database = server.create_database()
    prepare(database.superuser_dsn)
    disk, watcher = Disk(server.folder), Wire(server, database.name)
    table = table_of(server, "on a bare socket", ["case", *Figures.titles(BARE), "fdatasync ms"], 2 * rounds * each)
    for case in cases:
        rows, figures, flushes = Rows(case), Figures(BARE), []
        wires = {form: Wire(server, database.name) for form in BARE}
        for form, wire in wires.items():
            wire.query(f"SET plan_cache_mode = force_{'custom' if form == 'COPY' else form}_plan")
            wire.prepare("insert", rows.insert)
            for _ in range(_WARM_UP):
                wire.ask(rows.transaction(form))
        for form in figures.turns(rounds):
            messages = [rows.transaction(form) for _ in range(each)]
            with figures.counted(form, [wires[form].pid], watcher) as block:
                for data in messages:
                    start = time.perf_counter()
                    wires[form].ask(data)
                    block.append(time.perf_counter() - start)
            flushes += [disk.flush_s() for _ in range(5)]
        table.add_row(case, *figures.cells(), f"{statistics.median(flushes) * 1e3:.3f}")
        for wire in wires.values():
            wire.close()
    disk.close()
    watcher.close()
    server.drop_database(database)
    return table


async def through_a_lane(server: PostgresServer, cases: list[str], rounds: int, each: int) -> Table:
    take = Prepared.take
    database = server.create_database()
    table = table_of(server, "through a lane", ["case", *Figures.titles(LANE)], 2 * rounds * each)
    async with leading(database.superuser_dsn, heartbeat_ms=2_000, eviction_ms=60_000) as leader:
        partition = await leader.partition(await leader.topic("t"))
        pids = [session.identity.pid for lane in leader.log._lanes for session in lane._sessions]
        watcher = Wire(server, database.name)
        for case in cases:
            if not case.startswith(("1x", "offsets-")):
                continue
            figures, write = Figures(LANE), writer(leader, partition, case)
            for _ in range(_WARM_UP):
                await write()
            for form in figures.turns(rounds):
                Prepared.take = take if form == "INSERT" else lambda self, statement: None
                with figures.counted(form, pids, watcher) as block:
                    for _ in range(each):
                        start = time.perf_counter()
                        await write()
                        block.append(time.perf_counter() - start)
            Prepared.take = take
            table.add_row(case, *figures.cells())
        watcher.close()
    server.drop_database(database)
    return table


def writer(leader: Leader, partition: Partition, case: str) -> Callable[[], Awaitable[None]]:
    """Writes one transaction, and returns when it has its answer."""
    if case.startswith("1x"):
        wire = wire_batch(int(case[2:]))

        async def append() -> None:
            result = await leader.append(partition, wire)
            assert result.error == 0, result

        return append
    store = GroupStore(leader.log, leader.control)
    offsets = [OffsetWrite(1, index, 17, 1, "", NOW_MS) for index in range(int(case.partition("-")[2]))]

    async def commit() -> None:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store.write("group-1", (), offsets, (), answer.set_result)
        assert await answer is None

    return commit


def table_of(server: PostgresServer, how: str, titles: list[str], count: int) -> Table:
    table = Table(title=f"{server.flavour}: a transaction {how}, medians of {count}")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=(*FLAVOURS, "both"), default="both")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--only", choices=("bare", "lane"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=40)
    options = parser.parse_args()
    console, cases = Console(width=200), options.cases.split(",")
    # Row and batch have the same records, so that a row is what the lane makes of the batch.
    assert max(int(case[2:]) for case in [*cases, "1x0"] if case.startswith("1x")) < _records.MAX_SLICE_BYTES
    for flavour in FLAVOURS if options.server == "both" else (options.server,):
        binaries = FLAVOURS[flavour]()
        if binaries is None:
            console.print(f"there is no server {flavour} here")
            continue
        server = PostgresServer(flavour, binaries, fsync=True, settings=SERVER)
        try:
            server.create()
            if options.only != "lane":
                console.print(bare(server, cases, options.rounds, options.each))
            if options.only != "bare":
                console.print(asyncio.run(through_a_lane(server, cases, options.rounds, options.each)))
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
