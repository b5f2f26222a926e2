"""What a group has to write, as rows of the journals: commits of offsets, records of its machine, lines of its history.

A journal is append-only: of the entries with one key the one with the highest number counts, and one without a value
deletes. Entry numbers come from blocks of a sequence, so they grow within a group whoever writes it. Each journal has
two tables, of which one is written; `storage/sql/schema/040_groups.sql` tells how they take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pg_kafka.coordinator.group_steps import HistoryEntry, Record
from pg_kafka.errors import StorageError

OFFSETS, GROUPS, HISTORY = "offsets", "groups", "history"
ENTRY_BLOCK = 1_048_576  # the increment of the sequence kafka.journal_entries
# PostgreSQL refuses an index entry above 2,704 bytes, and the journals have indexes that begin with the group's id.
MAX_GROUP_ID_BYTES = 2_000
# A JSON value of PostgreSQL ends at 256 MiB. A record holds what the members of one group have sent.
MAX_WRITE_BYTES = 64 * 1024 * 1024
MAX_TIMESTAMP_MS = 253_402_300_799_999  # the end of the year 9999
_ROW_BYTES = 64


@dataclass(frozen=True, slots=True)
class OffsetWrite:
    """A commit of one partition; without an offset the commit there is deleted."""

    topic_id: int
    partition: int
    offset: int | None
    leader_epoch: int = -1
    metadata: str = ""
    committed_at_ms: int = 0


@dataclass(slots=True, eq=False)
class JournalWrite:
    """What one step of a group writes, answered through `done` exactly once."""

    group_id: str
    records: Sequence[Record]
    offsets: Sequence[OffsetWrite]
    history: Sequence[HistoryEntry]
    done: Callable[[StorageError | None], None]
    values: list[str | None] = field(default_factory=list)  # of the records, as JSON
    bytes: int = 0
    first_entry: int = -1

    @property
    def entries(self) -> int:
        return len(self.offsets) + len(self.records) + len(self.history)

    def prepare(self) -> str | None:
        """Make the values and count the bytes; says what PostgreSQL would refuse, and then nothing is to be written."""
        try:
            size = len(_checked(self.group_id))
            if size > MAX_GROUP_ID_BYTES:
                return f"the group id has {size} bytes, {MAX_GROUP_ID_BYTES} are allowed"
            for record in self.records:
                value = None if record.value is None else json.dumps(record.value, ensure_ascii=False)
                if value is not None and "\\u0000" in value.replace("\\\\", ""):
                    return f"record {record.kind!r} has a NUL character"
                size += len(_checked(record.kind)) + len(_checked(record.key)) + len((value or "").encode())
                self.values.append(value)
            for commit in self.offsets:
                size += len(_checked(commit.metadata))
                if not _fits(commit):
                    return f"the commit for partition {commit.topic_id}-{commit.partition} is out of range"
            for line in self.history:
                size += sum(
                    len(_checked(text))
                    for text in (line.event, line.member_id, line.client_id, line.client_host, line.detail)
                )
        except ValueError as error:
            return f"there is text that PostgreSQL does not take: {error}"
        self.bytes = size + _ROW_BYTES * self.entries
        if self.bytes > MAX_WRITE_BYTES:
            return f"a write of {self.bytes} bytes is larger than {MAX_WRITE_BYTES}"
        return None


@dataclass(slots=True, eq=False)
class GroupPart:
    """One group's share of a transaction: all of it is written, or none."""

    group_id: str
    writes: list[JournalWrite] = field(default_factory=list)


class Entries:
    """Numbers for journal entries, taken from blocks of the sequence."""

    def __init__(self) -> None:
        self._next = self._end = 0

    @property
    def left(self) -> int:
        return self._end - self._next

    def add_block(self, start: int) -> None:
        self._next, self._end = start, start + ENTRY_BLOCK

    def take(self, count: int) -> int:
        """The first of `count` consecutive ones."""
        self._next += count
        return self._next - count

    def clear(self) -> None:
        self._next = self._end = 0


def offset_rows(writes: Iterator[JournalWrite]) -> list[tuple[object, ...]]:
    """Rows (entry, group, topic, partition, offset, leader epoch, metadata, committed at)."""
    return [
        (
            entry,
            write.group_id,
            commit.topic_id,
            commit.partition,
            commit.offset,
            commit.leader_epoch if commit.leader_epoch >= 0 else None,
            commit.metadata,
            commit.committed_at_ms,
        )
        for write in writes
        for entry, commit in enumerate(write.offsets, write.first_entry)
    ]


def record_rows(writes: Iterator[JournalWrite]) -> list[tuple[object, ...]]:
    """Rows (entry, group, kind, key, value)."""
    return [
        (entry, write.group_id, record.kind, record.key, value)
        for write in writes
        for entry, (record, value) in enumerate(
            zip(write.records, write.values, strict=True), write.first_entry + len(write.offsets)
        )
    ]


def history_rows(writes: Iterator[JournalWrite]) -> list[tuple[object, ...]]:
    """Rows (entry, group, event, generation, member, client, host, detail)."""
    return [
        (
            entry,
            write.group_id,
            line.event,
            line.generation,
            line.member_id,
            line.client_id,
            line.client_host,
            line.detail,
        )
        for write in writes
        for entry, line in enumerate(write.history, write.first_entry + len(write.offsets) + len(write.records))
    ]


def _checked(text: str) -> bytes:
    """The text in UTF-8. Raises ValueError for what is no text in PostgreSQL."""
    if "\x00" in text:
        raise ValueError("a NUL character")
    return text.encode()


def _fits(commit: OffsetWrite) -> bool:
    return (
        0 <= commit.topic_id < 1 << 63
        and 0 <= commit.partition < 1 << 31
        and (commit.offset is None or -(1 << 63) <= commit.offset < 1 << 63)
        and commit.leader_epoch < 1 << 31
        and 0 <= commit.committed_at_ms <= MAX_TIMESTAMP_MS
    )
