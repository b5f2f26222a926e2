"""A flight: what a lane writes as one PostgreSQL transaction. Its parts, one for each partition, and their rows as COPY data.

Which batches share a row: those of one partition that arrive together and agree in codec and timestamp type, up to the size of
a row. A batch larger than that spans rows, each of which repeats the whole batch's base offset, sequence and count; these
rows are made when they are sent, one after the other. A packed batch is never cut, and shares its row with such only.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import asyncpg

from pg_kafka.coordinator.producer_state import ProducerWindow, SequencedBatch
from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.endings import MarkerAppend
from pg_kafka.storage.journal import JournalPart, JournalWrite
from pg_kafka.storage.partition import Aborted, Append, Extent, Figures, Partition
from pg_kafka.storage.sessions import Session
from pg_kafka.wire import _records
from pg_kafka.wire._records import Batch

MAX_ROW_BYTES = _records.MAX_SLICE_BYTES
# Packed batches that share a row hold no more than this uncompressed, so that taking them apart is bounded.
MAX_PACKED_RAW_BYTES = 4 * 1024 * 1024
COPY_PIECE_BYTES = 262_144
COPY_ROW_BYTES = 16_384  # a row of this size is a piece by itself
GLOBAL_BLOCK = 1_048_576  # the increment of the sequence kafka.global_offsets
_TRANSACTIONAL, _CONTROL = 0x10, 0x20  # attributes of a batch
_KIND = _TRANSACTIONAL | _CONTROL
_COPY_LINE = re.compile(r"\bCOPY log(?:_\d+_\d+)?, \w+ (\d+)")


class Outcome(enum.Enum):
    """What is known of a transaction."""

    OPEN = "not committed, and will not be by itself"
    COMMITTING = "COMMIT was sent, the answer is not here"
    COMMITTED = "committed"
    FAILED = "rolled back"


class JournalTables(NamedTuple):
    """The table of each journal that is written now."""

    offsets: str
    groups: str
    history: str
    transactions: str
    relay: str


NO_JOURNALS = JournalTables("", "", "", "", "")


class Checkpoint(NamedTuple):
    """What is written of a partition, in the order of the query `write_checkpoints`."""

    next_offset: int
    running_max_timestamp: int
    appended_bytes: int
    producers: str
    open_transactions: str
    extent_bytes: int | None
    extent_records: int | None


@dataclass(slots=True)
class Control:
    """A queue item without records: it takes effect for all transactions after the one that carries it.

    `apply` changes the lane's memory and may run again when its transaction failed, so it must be repeatable.
    """

    apply: Callable[[], None]
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Part:
    """One partition's share of a transaction."""

    partition: Partition
    appends: list[Append] = field(default_factory=list)
    windows: dict[int, ProducerWindow] = field(default_factory=dict)
    open_transactions: dict[int, int | None] = field(default_factory=dict)  # begun; None: ended
    aborted: list[Aborted] = field(default_factory=list)
    has_markers: bool = False
    joined: list[tuple[Append, SequencedBatch]] = field(default_factory=list)
    rows: list[bytes | Callable[[], bytes]] = field(default_factory=list)
    bytes: int = 0
    end: int = 0
    max_timestamp: int = -1
    append_time: int = -1
    extent: Extent | None = None
    epoch_start: int | None = None
    packed_from: int | None = None  # its first packed row, unless the extent says that it has some
    figures: Figures | None = None
    checkpoint: Checkpoint | None = None
    first: tuple[int, int] = (0, 0)  # base offset and global base of its first row
    first_extent: Extent | None = None


@dataclass(slots=True, eq=False)
class Flight:
    """What one PostgreSQL transaction of a lane holds, from its building until its outcome is known."""

    parts: dict[Partition, Part] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)
    checkpoints: list[Part] = field(default_factory=list)
    journal_parts: dict[tuple[str, str], JournalPart] = field(default_factory=dict)
    bundles: list[Bundle] = field(default_factory=list)
    journals: JournalTables = NO_JOURNALS
    bytes: int = 0
    begun_s: float = 0.0  # when it was taken from the queue, by the monotonic clock
    outcome: Outcome = Outcome.OPEN
    is_alone: bool = False  # its COPY, or INSERT, is all of it, without BEGIN and COMMIT
    session: Session | None = None
    commit: asyncio.Task[None] | None = None
    commit_s: float | None = None  # from the COMMIT to its answer, once that is here

    def journal_writes(self) -> Iterator[JournalWrite]:
        return (write for part in self.journal_parts.values() for write in part.writes)

    @property
    def has_statements(self) -> bool:
        """Are there rows for other tables than the log and the journals?"""
        return (
            bool(self.checkpoints)
            or any(bundle.statements for bundle in self.bundles)
            or any(
                p.extent or p.epoch_start is not None or p.checkpoint or p.packed_from is not None
                for p in self.parts.values()
            )
        )


class GlobalOffsets:
    """Blocks of global offsets that were taken from the sequence. A row never spans two blocks."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, int]] = deque()  # (next, end)
        self.left = 0

    def add_block(self, start: int) -> None:
        self._blocks.append((start, start + GLOBAL_BLOCK))
        self.left += GLOBAL_BLOCK

    def take(self, count: int) -> int:
        """The first of `count` consecutive ones; the rest of a block that is too short is given up."""
        while True:
            start, end = self._blocks[0]
            if end - start >= count:
                self._blocks[0] = (start + count, end)
                self.left -= count
                return start
            self._blocks.popleft()
            self.left -= end - start

    def clear(self) -> None:
        self._blocks.clear()
        self.left = 0


def make_rows(part: Part, segment: int, now_ms: int, global_offsets: GlobalOffsets) -> None:
    """Give a part its rows, and its extent and leader epoch where these begin."""
    partition = part.partition
    partition.stage_rows(part, part.appends[0].base_offset, segment)
    part.append_time = now_ms
    group: list[Append] = []
    group_bytes = group_raw_bytes = 0
    for append in part.appends:
        if group and (
            group_bytes + append.bytes > MAX_ROW_BYTES
            or append.batch.is_packed != group[0].batch.is_packed
            or (append.batch.is_packed and group_raw_bytes + append.batch.raw_bytes > MAX_PACKED_RAW_BYTES)
            or append.codec != group[0].codec
            or append.timestamp_type != group[0].timestamp_type
            or not _may_share(append.batch, group[0].batch)
        ):
            _make_group_rows(part, group, segment, global_offsets)
            group, group_bytes, group_raw_bytes = [], 0, 0
        group.append(append)
        group_bytes += append.bytes
        group_raw_bytes += append.batch.raw_bytes
    _make_group_rows(part, group, segment, global_offsets)
    part.end = partition.staged_end
    part.max_timestamp = partition.staged_max_timestamp
    part.figures = partition.stage_figures(
        Figures(
            sum(len(append.batch.wire) for append in part.appends),
            sum(append.batch.count for append in part.appends if not isinstance(append, MarkerAppend)),
        )
    )


def _may_share(batch: Batch, other: Batch) -> bool:
    """A row of a transaction is of one producer, and a marker has one to itself."""
    kind = batch.attributes & _KIND
    if kind != other.attributes & _KIND:
        return False
    return not kind or (
        not kind & _CONTROL and (batch.producer_id, batch.producer_epoch) == (other.producer_id, other.producer_epoch)
    )


def _producers(group: list[Append]) -> list[tuple[int, int, int, int, int]]:
    """Of each idempotent batch: producer id, epoch, base sequence, base offset, count; of a marker its transaction's begin."""
    first = group[0]
    if isinstance(first, MarkerAppend):
        return [(first.batch.producer_id, first.batch.producer_epoch, -1, first.first_offset, 1)]
    return [
        (b.producer_id, b.producer_epoch, b.base_sequence, a.base_offset, b.count)
        for a in group
        if (b := a.batch).producer_id >= 0
    ]


def _make_group_rows(part: Part, group: list[Append], segment: int, global_offsets: GlobalOffsets) -> None:
    """One row for batches that share one, or several rows for a batch too large for one."""
    partition = part.partition
    producers = _producers(group)
    kind = group[0].batch.attributes
    slices = [piece for append in group for piece in append.batch.slices]
    stamped = part.append_time if group[0].timestamp_type == 1 else -1
    packed = _pack(part, group, stamped) if group[0].batch.is_packed else None
    rows = [slices] if len(group) > 1 or len(slices) == 1 else [[piece] for piece in slices]
    base_offset = group[0].base_offset
    for row in rows:
        count = sum(piece.count for piece in row)
        global_base = global_offsets.take(count)
        if not part.rows:
            part.first = (base_offset, global_base)
        columns: dict[str, Any] = {
            "series": partition.series,
            "topic": partition.topic.id,
            "partition": partition.index,
            "segment": segment,
            "base_offset": base_offset,
            "leader_epoch": partition.leader_epoch,
            "global_base": global_base,
            "running_max_timestamp": partition.staged_max_timestamp,
            "append_time": part.append_time,
            "timestamp_type": group[0].timestamp_type,
            "codec": group[0].codec,
            "is_transactional": bool(kind & _TRANSACTIONAL),
            "is_control": bool(kind & _CONTROL),
            "delete_horizon": None,
            "producers": producers,
            "slices": row,
            "log_append_time": stamped,
            "packed": packed,
        }
        part.rows.append(partial(_records.copy_row, **columns) if len(rows) > 1 else _records.copy_row(**columns))
        top = stamped if stamped >= 0 else max(piece.max_timestamp for piece in row)
        partition.stage_timestamp(top)
        base_offset += count


def _pack(part: Part, group: list[Append], stamped: int) -> list[bytes]:
    """The batches of a group as they are stored."""
    part.partition.stage_packed(part, group[0].base_offset)
    for append in group:
        append.wire = _records.restamp(append.batch.wire, append.base_offset, part.partition.leader_epoch, stamped)
    return [append.wire for append in group if append.wire is not None]


def copy_stream(parts: Iterable[Part]) -> Iterator[bytes]:
    """The COPY data of a transaction: small rows in pieces of a useful size, large ones as they are."""
    pieces = [_records.COPY_HEADER]
    size = 0
    for part in parts:
        for made in part.rows:
            row = made if isinstance(made, bytes) else made()
            if len(row) >= COPY_ROW_BYTES:
                if pieces:
                    yield b"".join(pieces)
                    pieces, size = [], 0
                yield row
                continue
            pieces.append(row)
            size += len(row)
            if size >= COPY_PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
    pieces.append(_records.COPY_TRAILER)
    yield b"".join(pieces)


def named_culprit(flight: Flight, error: asyncpg.PostgresError) -> Part | None:
    """The part whose row the error names ("COPY log_0_1, line 7"), in most languages that PostgreSQL speaks."""
    found = _COPY_LINE.search(getattr(error, "context", None) or "")
    if found is None:
        return None
    line = int(found[1])
    for part in flight.parts.values():
        line -= len(part.rows)
        if line <= 0:
            return part
    return None


@dataclass(slots=True, eq=False)
class Share:
    """What fails or is written as a whole: a part, a journal part, or all that a bundle touches."""

    parts: list[Part] = field(default_factory=list)
    journal_parts: list[JournalPart] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)


def shares_of(flight: Flight) -> list[Share]:
    """What a transaction consists of; bundles tie together what they touch."""
    by_part = {part: Share(parts=[part]) for part in flight.parts.values()}
    by_owner = {owner: Share(journal_parts=[part]) for owner, part in flight.journal_parts.items()}
    shares: dict[Share, None] = dict.fromkeys((*by_part.values(), *by_owner.values()))
    for bundle in flight.bundles:
        parts = [flight.parts[p] for p in bundle.partitions() if p in flight.parts]
        touched = dict.fromkeys([by_part[part] for part in parts] + [by_owner[write.owner] for write in bundle.writes])
        tied = Share(bundles=[bundle])
        for share in touched:
            tied.parts += share.parts
            tied.journal_parts += share.journal_parts
            tied.bundles += share.bundles
            shares.pop(share)
        by_part.update(dict.fromkeys(tied.parts, tied))
        by_owner.update(dict.fromkeys([part.owner for part in tied.journal_parts], tied))
        shares[tied] = None
    return list(shares)


def halves(shares: list[Share]) -> list[list[Share]]:
    """Two lists of about the same length, none of them empty."""
    middle = len(shares) // 2
    return [half for half in (shares[:middle], shares[middle:]) if half]


def move(shares: list[Share], source: Flight, target: Flight) -> None:
    """Take shares out of one transaction into another."""
    for share in shares:
        for part in share.parts:
            target.parts[part.partition] = source.parts.pop(part.partition)
        for journal_part in share.journal_parts:
            owner = journal_part.owner
            target.journal_parts[owner] = source.journal_parts.pop(owner)
        for bundle in share.bundles:
            source.bundles.remove(bundle)
            target.bundles.append(bundle)
