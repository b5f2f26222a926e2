"""What a group has to write, as rows of the journals: commits of offsets, records of its machine, lines of its history.

A journal is append-only: of the entries with one key the one with the highest number counts, and one without a value
deletes. Entry numbers come from blocks of a sequence, so they grow within a group whoever writes it. Each journal has
two tables, of which one is written; `storage/sql/schema/040_groups.sql` tells how they take turns.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.errors import StorageError
from pg_kafka.storage.client_text import to_stored, to_stored_json
from pg_kafka.wire import _records
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.lane")

_FIVE_FIELDS, _EIGHT_FIELDS = b"\0\5", b"\0\10"
_NULL = b"\xff\xff\xff\xff"
_BIGINT, _INTEGER = struct.Struct(">iq").pack, struct.Struct(">ii").pack
_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01
_TABLES = {
    "offsets": "offset_journal",
    "groups": "group_journal",
    "history": "history_journal",
    "transactions": "transaction_journal",
    "relay": "relay_journal",
}
ENTRY_BLOCK = 1_048_576  # the increment of the sequence kafka.journal_entries
# PostgreSQL refuses an index entry above 2,704 bytes, and the journals have indexes that begin with the group's id.
MAX_GROUP_ID_BYTES = 2_000
# A JSON value of PostgreSQL ends at 256 MiB. A record holds what the members of one group have sent.
MAX_WRITE_BYTES = 64 * 1024 * 1024
# Writes that wait in one lane; beyond this they are refused.
MAX_QUEUED_BYTES = 128 * 1024 * 1024
MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999
_ROW_BYTES = 64


class OffsetWrite(NamedTuple):  # not a frozen dataclass: one is made for every partition of every commit
    """A commit of one partition; without an offset the commit there is deleted."""

    topic_id: int
    partition: int
    offset: int | None
    leader_epoch: int = -1
    metadata: str = ""
    committed_at_ms: int = 0


@dataclass(slots=True, eq=False)
class JournalWrite:
    """What one step of a group, of a transactional id, or of the relay, writes; answered through `done` exactly once.

    What belongs to a bundle is answered with that instead.
    """

    owner_id: str  # a group id, or a transactional id; of the relay nothing
    records: Sequence[Record]
    offsets: Sequence[OffsetWrite]
    history: Sequence[HistoryEntry]
    done: Callable[[StorageError | None], None]
    journal: str = "groups"  # of the records: groups or transactions; of the row: relay
    row: Callable[[int], bytes] | None = None  # made of its entry number when it is sent, for it may name offsets
    is_bundled: bool = False
    values: list[str | None] = field(default_factory=list)  # of the records, as JSON
    bytes: int = 0
    first_entry: int = -1

    def names(self) -> Mapping[str, object]:
        """Fields of a log line."""
        if self.row is not None:
            return {"journal": self.journal}
        return {"transactional_id" if self.journal == "transactions" else "group": self.owner_id}

    @property
    def owner(self) -> tuple[str, str]:
        """Whose later writes build on this one."""
        return self.journal, self.owner_id

    @property
    def entries(self) -> int:
        return len(self.offsets) + len(self.records) + len(self.history) + (self.row is not None)

    def prepare(self) -> str | None:
        """Make the values and count the bytes; says what PostgreSQL would refuse, and then nothing is to be written."""
        try:
            if "\0" in self.owner_id:
                return "the group id has a NUL character"
            size = len(self.owner_id.encode())
            if size > MAX_GROUP_ID_BYTES:
                return f"the group id has {size} bytes, {MAX_GROUP_ID_BYTES} are allowed"
            for record in self.records:
                value = None if record.value is None else to_stored_json(json.dumps(record.value, ensure_ascii=False))
                size += len(record.kind) + _size(record.key) + len((value or "").encode())
                self.values.append(value)
            for commit in self.offsets:
                size += _size(commit.metadata)
                if not _fits(commit):
                    return f"the commit for partition {commit.topic_id}-{commit.partition} is out of range"
            for line in self.history:
                if not -(1 << 31) <= line.generation < 1 << 31:
                    return f"generation {line.generation} is out of range"
                size += len(line.event)
                size += sum(map(_size, (line.member_id, line.client_id, line.client_host, line.detail)))
        except ValueError as error:
            return f"there is text that PostgreSQL does not take: {error}"
        self.bytes = size + _ROW_BYTES * self.entries
        if self.bytes > MAX_WRITE_BYTES:
            return f"a write of {self.bytes} bytes is larger than {MAX_WRITE_BYTES}"
        return None


@dataclass(slots=True, eq=False)
class JournalPart:
    """The share of one group, or of one transactional id, in a transaction: all of it is written, or none."""

    owner: tuple[str, str]
    writes: list[JournalWrite] = field(default_factory=list)


class BundleOfWrites(Protocol):
    """What the queue needs of a bundle (storage/bundles.py), which is taken whole."""

    @property
    def writes(self) -> Sequence[JournalWrite]: ...
    @property
    def done(self) -> Callable[[StorageError | None], None]: ...
    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...


JournalItem = JournalWrite | BundleOfWrites


def _owner_of(item: JournalItem) -> str:
    """A group or a transactional id, for a log line."""
    writes = (item,) if isinstance(item, JournalWrite) else item.writes
    return next((write.owner_id for write in writes), "")


class JournalQueue:
    """What a lane has to write to the journals, in order, and how much of what it took has no answer yet."""

    def __init__(self) -> None:
        self.bytes = 0
        self._waiting: deque[JournalItem] = deque()
        self._next_entry = self._end_of_block = 0
        self._unfinished = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[JournalItem]:
        return iter(self._waiting)

    def add(self, write: JournalItem) -> StorageError | None:
        """Queue a write or a bundle; or the error, when it is refused and will have no other answer."""
        if self.bytes + write.bytes > MAX_QUEUED_BYTES:
            return not_written("too much waits to be written")
        self._waiting.append(write)
        self.bytes += write.bytes
        self._unfinished += 1
        self._settled.clear()
        return None

    async def settle(self) -> None:
        """Wait until every write has its answer."""
        await self._settled.wait()

    @property
    def needs_block(self) -> bool:
        """The first write cannot be taken before a block of entry numbers is there."""
        return bool(self._waiting) and self._end_of_block - self._next_entry < self._waiting[0].entries

    def use_block(self, start: int) -> None:
        self._next_entry, self._end_of_block = start, start + ENTRY_BLOCK

    def take(self, max_bytes: int) -> Iterator[JournalItem]:
        """Take writes and number their entries, until that many bytes are taken or a block is needed."""
        while self._waiting and max_bytes > 0 and not self.needs_block:
            item = self._pop()
            for write in writes_of(item):
                write.first_entry = self._next_entry
                self._next_entry += write.entries
            max_bytes -= item.bytes
            yield item

    def take_owned(self, owner: tuple[str, str]) -> list[JournalItem]:
        """Take all that builds on what a group, or a transactional id, could not write."""
        taken = [item for item in self._waiting if any(write.owner == owner for write in writes_of(item))]
        if taken:
            self._waiting = deque(item for item in self._waiting if item not in taken)
            self.bytes -= sum(item.bytes for item in taken)
        return taken

    def fail_all(self, why: str) -> None:
        """Answer what waits; what follows gets numbers of a new block."""
        self._next_entry = self._end_of_block = 0
        while self._waiting:
            self.finish(self._pop(), not_written(why))

    def finish(self, item: JournalItem, error: StorageError | None) -> None:
        """Answer what was taken."""
        self._unfinished -= 1
        if not self._unfinished:
            self._settled.set()
        try:
            item.done(error)
        except Exception:
            logger.exception("what waited for a group's write failed", extra={"of": _owner_of(item)})

    def _pop(self) -> JournalItem:
        item = self._waiting.popleft()
        self.bytes -= item.bytes
        return item


def writes_of(item: JournalItem) -> Sequence[JournalWrite]:
    """The writes to the journals that an item of the queue consists of."""
    return (item,) if isinstance(item, JournalWrite) else item.writes


def not_written(message: str) -> StorageError:
    """For a write that failed for no fault of its own; the code is one on which Kafka's clients try again."""
    return StorageError(True, ErrorCode.COORDINATOR_NOT_AVAILABLE, message)


def journal_table(journal: str, number: int) -> str:
    """Name of one of a journal's two tables in schema kafka."""
    return f"{_TABLES[journal]}_{number}"


def copies(writes: Sequence[JournalWrite]) -> dict[str, bytes]:
    """The rows of each journal that gets some, by the journal's name, as the data of a binary COPY (`sql/queries/groups.sql`)."""
    return {
        journal: b"".join((_records.COPY_HEADER, *those, _records.COPY_TRAILER))
        for journal, those in rows_of(writes).items()
    }


def rows_of(writes: Sequence[JournalWrite]) -> dict[str, list[bytes]]:
    """The rows of each journal that gets some, in the form that a binary COPY has."""
    rows: dict[str, list[bytes]] = {journal: [] for journal in _TABLES}
    for write in writes:
        group = _piece(write.owner_id)
        if write.offsets:
            _add_offsets(rows["offsets"], write, group)
        if write.row is not None:
            rows[write.journal].append(write.row(write.first_entry))
        start = write.first_entry + len(write.offsets)
        for entry, (record, value) in enumerate(zip(write.records, write.values, strict=True), start):
            # The binary form of jsonb is a version, which is 1, before the text.
            json_piece = _NULL if value is None else _piece("\x01" + value)
            rows[write.journal].append(
                b"".join(
                    (_FIVE_FIELDS, _BIGINT(8, entry), group, _piece(record.kind), _text_piece(record.key), json_piece)
                )
            )
        for entry, line in enumerate(write.history, start + len(write.records)):
            fields = (_BIGINT(8, entry), group, _piece(line.event), _INTEGER(4, line.generation))
            texts = (line.member_id, line.client_id, line.client_host, line.detail)
            rows["history"].append(b"".join((_EIGHT_FIELDS, *fields, *map(_text_piece, texts))))
    return {journal: those for journal, those in rows.items() if those}


def first_entry(writes: Iterable[JournalWrite]) -> tuple[str, int] | None:
    """A row that is there if all of the writes' rows are: its journal and its entry number."""
    for write in writes:
        kept = write.records or write.row
        for journal, those in (("offsets", write.offsets), (write.journal, kept), ("history", write.history)):
            if those:
                return journal, write.first_entry
    return None


def _add_offsets(rows: list[bytes], write: JournalWrite, group: bytes) -> None:
    entry = write.first_entry
    for topic_id, partition, offset, leader_epoch, metadata, committed_at_ms in write.offsets:
        text = to_stored(metadata).encode() if metadata else b""
        has_offset, has_epoch = offset is not None, leader_epoch >= 0
        pack = _packer(len(group), has_offset, has_epoch, len(text))
        committed_at_us = (committed_at_ms - _POSTGRES_EPOCH_MS) * 1000
        nullable = ((8, offset) if has_offset else (-1,)) + ((4, leader_epoch) if has_epoch else (-1,))
        rows.append(pack(8, 8, entry, group, 8, topic_id, 4, partition, *nullable, len(text), text, 8, committed_at_us))
        entry += 1


@lru_cache(1024)
def _packer(group_bytes: int, has_offset: bool, has_epoch: bool, text_bytes: int) -> Callable[..., bytes]:
    """Makes a row of the offsets: the number of its fields, then each with its length before it; -1 is NULL."""
    offset, epoch = "iq" if has_offset else "i", "ii" if has_epoch else "i"
    return struct.Struct(f">hiq{group_bytes}siqii{offset}{epoch}i{text_bytes}siq").pack


def _piece(text: str) -> bytes:
    """A field of text with its length before it."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def _text_piece(text: str) -> bytes:
    """The same for text that a client gave."""
    return _piece(to_stored(text))


def _size(text: str) -> int:
    """What text that a client gave takes. Raises ValueError for what has no UTF-8."""
    return len(to_stored(text).encode()) if text else 0


def _fits(commit: OffsetWrite) -> bool:
    return (
        0 <= commit.topic_id < 1 << 63
        and 0 <= commit.partition < 1 << 31
        and (commit.offset is None or -(1 << 63) <= commit.offset < 1 << 63)
        and commit.leader_epoch < 1 << 31
        and 0 <= commit.committed_at_ms <= MAX_TIMESTAMP_MS
    )
