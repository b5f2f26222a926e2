"""What PostgreSQL does without a broker: the rows that a topic has become, copied into a table like the log's.

The rows leave the log as binary COPY files and come back through psql's \\copy into a new table with the same columns,
storage settings and index: once in one piece, and once in transactions of about 1 MB, on one session and on two.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.kafka_reference import ToolMissing

from bench.measurements import Measurement
from bench.meter import Meter
from bench.systems import COPY_OF
from bench.turn import Turn

PIECE_BYTES = 1 << 20
_TABLE = "public.bench_copy"
_TIMEOUT_S = 1800

# COPY's binary format: signature 11, flags 4, header extension 4 | rows: field count 2, each length 4 and bytes | -1
_SIGNATURE_BYTES = 19
_TRAILER = b"\xff\xff"
_FIELD_COUNT = struct.Struct(">h")
_LENGTH = struct.Struct(">i")


def measure(
    turn: Turn, topic: str, workload: str, records: int, payload_bytes: int, settings: Mapping[str, str | int]
) -> Iterator[Measurement]:
    """COPY of the topic's rows in three ways, beside the workload that has produced them."""
    if shutil.which("psql") is None:
        raise ToolMissing("psql is not installed: apt-get install postgresql-client")
    [row] = turn.system.query(
        "SELECT t.id, l.series, (SELECT tableoid::regclass::text FROM kafka.log WHERE topic = t.id LIMIT 1) AS leaf "
        "FROM kafka.topics t JOIN kafka.log l ON l.topic = t.id WHERE t.name = $1 LIMIT 1",
        topic,
    )
    whole = turn.folder / "rows"
    _psql(turn, [f"\\copy (SELECT * FROM kafka.log WHERE topic = {row['id']}) TO '{whole}' (FORMAT binary)"])
    pieces = split(whole, turn.folder / "pieces")
    ways = {
        "": [[whole]],
        ", 1 MB transactions": [pieces],
        ", 1 MB transactions, 2 sessions": [pieces[::2], pieces[1::2]],
    }
    try:
        for way, sessions in ways.items():
            # Without the checks of one segment: a topic may have moved from one to another.
            _psql(turn, [f"CREATE TABLE {_TABLE} (LIKE {row['leaf']} INCLUDING ALL EXCLUDING CONSTRAINTS)"])
            meter = Meter(turn.system)
            seconds = _copy(turn, sessions)
            figures = {"records_per_s": records / seconds, **meter.figures(records, payload_bytes)}
            yield turn.found("produce", workload, figures, settings, system=COPY_OF[turn.system.name] + way)
            _psql(turn, [f"DROP TABLE {_TABLE}"])
    finally:
        whole.unlink()
        shutil.rmtree(turn.folder / "pieces")


def split(whole: Path, folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """A binary COPY file as several, cut between rows."""
    folder.mkdir()
    data = whole.read_bytes()
    pieces: list[Path] = []
    start = at = _SIGNATURE_BYTES
    while True:
        (fields,) = _FIELD_COUNT.unpack_from(data, at)
        if at - start >= piece_bytes or (fields < 0 and at > start):
            pieces.append(folder / f"{len(pieces):06}")
            pieces[-1].write_bytes(data[:_SIGNATURE_BYTES] + data[start:at] + _TRAILER)
            start = at
        if fields < 0:
            return pieces
        at += _FIELD_COUNT.size
        for _ in range(fields):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size + max(0, length)


def _copy(turn: Turn, sessions: Sequence[Sequence[Path]]) -> float:
    """Seconds until all sessions have copied their files, each in a transaction of its own."""
    processes = []
    for number, files in enumerate(sessions):
        script = turn.folder / f"copy-{number}.sql"
        script.write_text("".join(f"\\copy {_TABLE} FROM '{file}' (FORMAT binary)\n" for file in files))
        processes.append([*_command(turn), "--file", str(script)])
    start = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in processes]
    errors = [process.communicate(timeout=_TIMEOUT_S)[1] for process in running]
    seconds = time.monotonic() - start
    for process, error in zip(running, errors, strict=True):
        if process.returncode:
            raise RuntimeError(f"psql failed: {error.decode()[-1000:]}")
    return seconds


def _psql(turn: Turn, statements: Sequence[str]) -> None:
    arguments = [word for statement in statements for word in ("--command", statement)]
    done = subprocess.run(
        [*_command(turn), *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"psql failed: {done.stderr[-1000:]}")


def _command(turn: Turn) -> list[str]:
    dsn = turn.system.dsn()
    assert dsn is not None
    return ["psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", dsn]
