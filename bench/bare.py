"""PostgreSQL without a broker and without a driver: what is sent is in memory before the clock starts.

wire = Wire(server, database.name)
wire.ask(copied(COPY, [stamped(log_row(1_000))]))
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import struct
from pathlib import Path

import asyncpg
from tests.batches import Record, batch_bytes
from tests.postgres import PostgresServer

from pg_kafka.storage.migrate import migrate
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import PINNED
from pg_kafka.wire import _records

NOW_MS = 1_700_000_000_000
LEAF = leaf_table(0, 0)
_SYNC = b"S\x00\x00\x00\x04"
_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
_OFFSETS = (slice(30, 38), slice(42, 50))  # of a row: the third column and the fourth, each behind its length
_offsets = itertools.count()


class Wire:
    """A connection, with the settings of a lane's sessions."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"{server.socket_folder}/.s.PGSQL.{server.port}")
        settings = {"user": "postgres", "database": database, **PINNED}
        body = b"\x00\x03\x00\x00" + b"".join(f"{k}\0{v}\0".encode() for k, v in settings.items()) + b"\0"
        answer = self.ask(len(body + b"1234").to_bytes(4, "big") + body)
        self.pid = next(int.from_bytes(part[:4], "big") for kind, part in answer if kind == b"K")

    def ask(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Send, and read until the server is ready."""
        self._socket.sendall(data)
        rest, answer = b"", []
        while True:
            rest += self._socket.recv(65536)
            while len(rest) >= 5 and len(rest) > (end := int.from_bytes(rest[1:5], "big")):
                answer.append((rest[:1], rest[5 : end + 1]))
                if rest[:1] == b"E":
                    raise RuntimeError(rest[5:end].decode(errors="replace"))
                rest = rest[end + 1 :]
                if answer[-1][0] == b"Z":
                    return answer

    def query(self, text: str) -> None:
        self.ask(message(b"Q", text.encode() + b"\0"))

    def prepare(self, name: str, text: str) -> None:
        self.ask(message(b"P", f"{name}\0{text}\0".encode() + bytes(2)) + _SYNC)

    def close(self) -> None:
        self._socket.close()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def copied(statement: str, rows: list[bytes]) -> bytes:
    data = b"".join([_records.COPY_HEADER, *rows, _records.COPY_TRAILER])
    return message(b"Q", statement.encode() + b"\0") + message(b"d", data) + message(b"c", b"")


def inserted(name: str, rows: list[bytes]) -> bytes:
    head = b"\0" + name.encode() + b"\0\x00\x01\x00\x01"
    return b"".join([part for row in rows for part in (message(b"B", head + row + b"\0\0"), _EXECUTE)]) + _SYNC


def stamped(row: bytes, places: tuple[slice, ...] = _OFFSETS) -> bytes:
    """A row with the next offset, or entry number."""
    copy, number = bytearray(row), struct.pack(">q", next(_offsets) * 2_000)
    for place in places:
        copy[place] = number
    return bytes(copy)


def wire_batch(size: int) -> bytes:
    """Records of 100 B."""
    return batch_bytes(
        [Record(index, NOW_MS + index % 7, None, secrets.token_bytes(100)) for index in range(size // 100)]
    )


def log_row(size: int) -> bytes:
    return _records.copy_row(
        series=0, topic=1, partition=0, segment=0, base_offset=0, leader_epoch=1, global_base=0,
        running_max_timestamp=NOW_MS + 6, append_time=NOW_MS, timestamp_type=0, codec=0, is_transactional=False,
        is_control=False, delete_horizon=None, producers=[(7, 0, 0, 0, size // 100)],
        slices=_records.decode_batch(memoryview(wire_batch(size))).slices,
    )  # fmt: skip


def busy_s(pid: int) -> float:
    """Processor time of a process, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def prepare(dsn: str) -> None:
    """Make our schema in a database, without compression."""
    asyncio.run(_prepare(dsn))


async def _prepare(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await migrate(connection, compression="none")
    await connection.execute("INSERT INTO kafka.topics (name, partitions) VALUES ('t', 1)")
    await connection.close()
