"""The outbox as the relay sees it: what is due, how far the relay has come, and what a chunk writes.

A pass takes rows that are visible in a snapshot and were not in the one before, in the order of their ids, a chunk at a time.
What becomes of a chunk is one bundle for each lane that has partitions in it: the records and a row of the relay's journal.
The journal says which snapshots and ids the chunk is of, so nothing is sent twice, whatever is killed.

    outbox = Outbox(open_writer)
    await outbox.open(on_ring)
    progress = await outbox.progress()
    snapshot, due = await outbox.due_now(progress.previous, 1000)
    rows = await outbox.rows(due)
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.bundles import Statement
from pg_kafka.storage.journal import JournalWrite, journal_table
from pg_kafka.storage.sessions import Session, unavailable
from pg_kafka.wire import _outbox

SQL = queries.load("outbox")
logger = logging.getLogger("pg_kafka.relay")

STATEMENT_TIMEOUT_S = 30.0
# Rows of a restored outbox are written anew, a gigabyte at worst.
ADOPT_TIMEOUT_S = 600.0
TABLES = 4
# Of records that could not be sent, so many and so much are kept.
MOST_ERRORS, MOST_ERROR_BYTES = 100_000, 64 * 1024 * 1024
NO_ID, LAST_ID = -1, (1 << 63) - 1
_NULL = b"\xff\xff\xff\xff"
_INT8, _INT4, _BYTEA = 20, 23, 17
_FIELDS = b"\0\25"
_PIECE_BYTES = 48  # of a place, in a row of the journal

CODES = {
    _outbox.NO_PARTITION: ("KF002", "the topic has no such partition"),
    _outbox.TOO_LARGE: ("KF003", "the record is larger than the topic takes (max.message.bytes)"),
    _outbox.NO_KEY: ("KF004", "the topic is compacted, and the record has no key"),
    _outbox.DAMAGED: ("XX001", "the arrays of the row do not belong together"),
}
NO_TOPIC = ("KF001", "the topic was deleted")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as pg_current_snapshot() gives it."""

    text: str

    @property
    def xmax(self) -> str:
        """Transactions from here on were not visible."""
        return self.text.split(":")[1]

    @property
    def xip(self) -> list[str]:
        """Nor were these."""
        listed = self.text.split(":")[2]
        return listed.split(",") if listed else []

    def sent(self) -> bytes:
        """As a binary COPY has it."""
        xmin, xmax, _ = self.text.split(":")
        xip = [int(xid) for xid in self.xip]
        return struct.pack(f">i{2 + len(xip)}q", len(xip), int(xmin), int(xmax), *xip)


NOTHING_SEEN = Snapshot("1:1:")


class Due(NamedTuple):
    """A row that is to be sent: which table, where in it, its id and size."""

    number: int
    place: str
    id: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are taken together: visible in `snapshot`, not in `previous`, with ids above `after_id`, up to `last_id`.

    `left_over` limits them to what is left of a chunk that was broken off: for each time, the parts that were missing, of
    how many. `partitions` has for each topic how many partitions it had, 0 when it was gone: by that records were spread.
    """

    number: int
    previous: Snapshot
    snapshot: Snapshot
    after_id: int
    last_id: int
    is_last: bool
    left_over: tuple[tuple[int, tuple[int, ...]], ...] = ()
    partitions: Mapping[int, int] = field(default_factory=dict)

    def has(self, topic_id: int, partition: int) -> bool:
        """Are the records of a partition part of it?"""
        return all(share_of(topic_id, partition, shares) in missing for shares, missing in self.left_over)


def share_of(topic_id: int, partition: int, shares: int) -> int:
    """Which part of a chunk has the records of a partition; those of no partition (-1) are of the first part.

    As Log.lane_of, which this must never differ from within a chunk.
    """
    return 0 if partition < 0 else hash((topic_id, partition)) % shares


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the relay has come. `chunk` is the newest, None when there was none; `missing` are those of its parts that are
    not written."""

    chunk: Chunk | None
    system_identifier: str
    shares: int = 1
    missing: tuple[int, ...] = ()


class Piece(NamedTuple):
    """Where records of a row of the outbox are: in a partition, from some record of the chunk on."""

    row_id: int
    topic_id: int
    partition: int
    ordinal: int
    records: int
    map: bytes | None


class Outbox:
    """See the module. Has one session, which also hears when producers ring."""

    def __init__(self, open_session: Callable[[str], Awaitable[Session]]) -> None:
        self._open = open_session
        self._session: Session | None = None

    async def open(self, on_ring: Callable[[], None]) -> None:
        """Open the session. `on_ring` is called when a producer has notified. Raises StorageError, Fenced."""
        session = self._session = await self._open("relay")
        async with asyncio.timeout(STATEMENT_TIMEOUT_S):
            await session.connection.execute(SQL["plan_by_index"])
            await session.connection.add_listener("kafka_outbox", lambda *_: on_ring())
        # A session that is lost while the relay sleeps rings as well, and the next statement says so.
        session.connection.add_termination_listener(lambda _connection: on_ring())

    def drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.drop()

    @property
    def session(self) -> Session:
        if self._session is None or self._session.is_closed:
            raise unavailable("the relay's session is closed")
        return self._session

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.session.connection.fetch(sql, *arguments, timeout=STATEMENT_TIMEOUT_S)
        return rows

    async def progress(self) -> Progress:
        """How far the relay has come."""
        own = self.session.identity.system_identifier
        rows = await self._fetch(SQL["newest_chunk"])
        if not rows:
            return Progress(None, own)
        row = rows[0]
        chunk = Chunk(
            row["chunk"],
            Snapshot(row["previous_snapshot"]),
            Snapshot(row["snapshot"]),
            row["after_id"],
            row["last_id"],
            row["is_last"],
            tuple((shares, tuple(missing)) for shares, missing in json.loads(row["left_over"])),
            {int(topic): count for topic, count in json.loads(row["partitions"]).items()},
        )
        done = {r["share"] for r in rows}
        missing = tuple(share for share in row["parts"] if share not in done)
        return Progress(chunk, row["system_identifier"], row["shares"], missing)

    async def begin_anew(self, progress: Progress) -> None:
        """Make rows that a restored dump has brought rows of this server, without those that are in the log already.

        All parts of the newest chunk must be written. Where nothing was restored, nothing changes. Nobody is waited for:
        what producers write meanwhile is of this server.
        """
        chunk = progress.chunk
        sent = (NOTHING_SEEN.text, NOTHING_SEEN.text, NO_ID)
        if chunk is not None:
            sent = (chunk.previous.text, chunk.snapshot.text, LAST_ID if chunk.is_last else chunk.last_id)
        connection = self.session.connection
        async with connection.transaction():
            for number in range(TABLES):
                adopt = queries.render(SQL["adopt"], number=number)
                await connection.execute(adopt, *sent, timeout=ADOPT_TIMEOUT_S)
            active = await connection.fetchval(SQL["active_journal"], timeout=STATEMENT_TIMEOUT_S)
            begin = queries.render(SQL["begin_anew"], relay=journal_table("relay", active))
            number = 0 if chunk is None else chunk.number
            identity = self.session.identity.system_identifier
            await connection.execute(begin, number + 1, identity, timeout=STATEMENT_TIMEOUT_S)

    async def due_now(self, previous: Snapshot, most: int) -> tuple[Snapshot, list[Due]]:
        """A new snapshot, and what is visible in it and was not in the one before, the first by their ids."""
        rows = await self._fetch(SQL["due_now"], previous.xmax, previous.xip, most)
        due = [Due(row["number"], row["place"], row["id"], row["bytes"]) for row in rows if row["id"] is not None]
        return Snapshot(rows[0]["snapshot"]), due

    async def due_until(
        self, previous: Snapshot, snapshot: Snapshot, most: int, *, after_id: int, last_id: int = LAST_ID
    ) -> list[Due]:
        """The same for a snapshot of before, within ids."""
        rows = await self._fetch(SQL["due_until"], previous.xmax, previous.xip, most, snapshot.text, after_id, last_id)
        return [Due(row["number"], row["place"], row["id"], row["bytes"]) for row in rows]

    async def rows(self, due: Sequence[Due]) -> list[asyncpg.Record]:
        """The rows, in the order of their ids."""
        by_table: dict[int, list[str]] = defaultdict(list)
        for one in due:
            by_table[one.number].append(one.place)
        found: list[asyncpg.Record] = []
        for number, places in by_table.items():
            found += await self._fetch(queries.render(SQL["rows"], number=number), places)
        found.sort(key=lambda row: row["id"])
        if [row["id"] for row in found] != [one.id for one in due]:
            raise unavailable("somebody has moved rows of the outbox")
        return found

    async def forget_errors(self) -> None:
        """Keep the newest records that could not be sent."""
        await self._fetch(SQL["forget_errors"], MOST_ERRORS, MOST_ERROR_BYTES)

    async def topics_there(self, topic_ids: Sequence[int]) -> set[int]:
        """Those of the topics that exist."""
        return {row["id"] for row in await self._fetch(SQL["topics_there"], list(topic_ids))}


def note_errors(due: Iterable[Due], failed: Mapping[int, Mapping[tuple[str, str], Sequence[int]]]) -> list[Statement]:
    """Statements that keep what cannot be sent: by the id of its row, and by SQLSTATE and message, the numbers of records."""
    by_table: dict[int, tuple[list[str], list[str], list[str], list[str]]] = {}
    for one in due:
        for (sqlstate, message), records in failed.get(one.id, {}).items():
            places, numbers, states, messages = by_table.setdefault(one.number, ([], [], [], []))
            places.append(one.place)
            numbers.append("{" + ",".join(map(str, records)) + "}")
            states.append(sqlstate)
            messages.append(message)
    return [
        (queries.render(SQL["note_errors"], number=number), arguments) for number, arguments in sorted(by_table.items())
    ]


class Part(NamedTuple):
    """Which part of a chunk: `share` of `shares`. `parts` are the shares that have something of it."""

    share: int
    shares: int
    parts: Sequence[int]


def journal_write(
    chunk: Chunk, part: Part, system_identifier: str, pieces: Sequence[Piece], base_offset: Callable[[int, int], int]
) -> JournalWrite:
    """The row of one part of a chunk, whose pieces come by their ids. `base_offset` tells, once the records have their offsets,
    where those of a topic's partition begin."""

    def row(entry: int) -> bytes:
        return _row(entry, chunk, part, system_identifier, pieces, base_offset)

    write = JournalWrite("", (), (), (), _no_answer, journal="relay", row=row)
    write.bytes = 512 + _PIECE_BYTES * len(pieces) + sum(len(piece.map) for piece in pieces if piece.map is not None)
    return write


def _row(
    entry: int,
    chunk: Chunk,
    part: Part,
    system_identifier: str,
    pieces: Sequence[Piece],
    base_offset: Callable[[int, int], int],
) -> bytes:
    """As a binary COPY has it (sql/queries/groups.sql)."""
    has_maps = any(piece.map is not None for piece in pieces)
    return b"".join(
        (
            _FIELDS,
            struct.pack(">iqiqiiii", 8, entry, 8, chunk.number, 4, part.share, 4, part.shares),
            _array(_INT4, ">ii", 4, part.parts),
            _field(system_identifier.encode()),
            _field(chunk.previous.sent()),
            _field(chunk.snapshot.sent()),
            struct.pack(">iqiqi?", 8, chunk.after_id, 8, chunk.last_id, 1, chunk.is_last),
            _field(json.dumps(chunk.left_over).encode()),
            _field(json.dumps(chunk.partitions).encode()),
            struct.pack(">iqiq", 8, pieces[0].row_id, 8, pieces[-1].row_id) if pieces else _NULL * 2,
            _array(_INT8, ">iq", 8, [piece.row_id for piece in pieces]),
            _array(_INT8, ">iq", 8, [piece.topic_id for piece in pieces]),
            _array(_INT4, ">ii", 4, [piece.partition for piece in pieces]),
            _array(_INT8, ">iq", 8, [base_offset(p.topic_id, p.partition) + p.ordinal for p in pieces]),
            _array(_INT4, ">ii", 4, [piece.records for piece in pieces]),
            _maps([piece.map for piece in pieces]) if has_maps else _NULL,
        )
    )


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _array(oid: int, form: str, size: int, numbers: Sequence[int]) -> bytes:
    if not numbers:
        return _field(struct.pack(">iii", 0, 0, oid))
    pack = struct.Struct(form).pack
    head = struct.pack(">iiiii", 1, 0, oid, len(numbers), 1)
    return _field(head + b"".join([pack(size, number) for number in numbers]))


def _maps(maps: Sequence[bytes | None]) -> bytes:
    head = struct.pack(">iiiii", 1, 1, _BYTEA, len(maps), 1)
    return _field(head + b"".join([_NULL if one is None else _field(one) for one in maps]))


def _no_answer(_error: object) -> None:
    """The bundle is what is answered."""
