"""The account of records that SQL sessions produce: what is committed, and whether every reader saw exactly that.

A session takes the next version of a name and produces a record of it, both in one transaction, which also notes the
record in a table. So the table's committed rows are what consumers have to see, whatever became of the sessions; and the
versions of a name are one row's, which orders the transactions. What a record looks like follows from its note:

    k7        keyed by the name: its partition is that of the key
    at2-5     keyed, and sent to partition 2
    none-3    without a key: of any partition

and from its attempt, which no two records share, also when one of them was rolled back.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

from aiokafka.partitioner import murmur2
from tests.clients.records import Record

PARTITIONS = 4
SHOWN = 3
_NOISE = random.Random(19).randbytes(1 << 17)
_LARGE_BYTES = 60_000


class Shape(IntEnum):
    """How a record looks, in the last two bits of its attempt."""

    PLAIN = 0
    WITH_HEADERS = 1
    TOMBSTONE = 2
    LARGE = 3


class Note(NamedTuple):
    """A record that a transaction has produced."""

    name: str
    version: int
    attempt: int

    @property
    def shape(self) -> Shape:
        return Shape(self.attempt & 3)

    @property
    def key(self) -> bytes | None:
        return None if self.name.startswith("none-") else self.name.encode()

    @property
    def asked_partition(self) -> int | None:
        """The partition that the session asks for."""
        return int(self.name[2 : self.name.index("-")]) if self.name.startswith("at") else None

    @property
    def partition(self) -> int | None:
        """Where it has to be; None where it may be anywhere."""
        if self.asked_partition is not None or self.key is None:
            return self.asked_partition
        return int(murmur2(self.key) & 0x7FFFFFFF) % PARTITIONS

    @property
    def text(self) -> bytes:
        return f"{self.name}/{self.version}/{self.attempt}/".encode()

    @property
    def value(self) -> bytes | None:
        if self.shape is Shape.TOMBSTONE:
            return None
        start = self.attempt * 1009 % (len(_NOISE) - _LARGE_BYTES)
        size = _LARGE_BYTES if self.shape is Shape.LARGE else self.attempt * 37 % 300
        return self.text + _NOISE[start : start + size]

    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        if self.shape in (Shape.WITH_HEADERS, Shape.TOMBSTONE):
            return (("note", self.text), ("none", None))
        return ()


# By partition, in the order of the log. Timestamps are not looked at.
Log = Mapping[int, Sequence[Record]]


def note_of(record: Record) -> Note | None:
    """What the record says that it is; None when it is not, to the byte, what that note's record looks like."""
    said = dict(record.headers).get("note") or record.value or b""
    parts = said.split(b"/", 3)
    if len(parts) != 4 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    note = Note(parts[0].decode(errors="replace"), int(parts[1]), int(parts[2]))
    return note if (record.key, record.value, record.headers) == (note.key, note.value, note.headers) else None


def check(committed: Collection[Note], log: Log, readers: Mapping[str, Log]) -> list[str]:
    """What is wrong: with the log, read as a whole when all is quiet, and with what others have read meanwhile."""
    faults = [*_unknown(log), *_misplaced(log), *_disordered(log)]
    found = Counter(note for records in log.values() for note in map(note_of, records) if note is not None)
    faults += _some("committed, and not in the log", [note for note in committed if note not in found])
    told = set(committed)
    faults += _some("in the log, and not committed", [note for note in found if note not in told])
    faults += _some("in the log more than once", [note for note, count in found.items() if count > 1])
    for reader, seen in readers.items():
        faults += [f"{reader}: {fault}" for fault in _differences(log, seen)]
    return faults


def _unknown(log: Log) -> Iterator[str]:
    for partition, records in log.items():
        for place, record in enumerate(records):
            if record.offset != place:
                yield f"{partition}: offset {record.offset} where {place} comes next"
                break
            if note_of(record) is None:
                yield f"{partition}:{record.offset} is not what was produced: {record!s:.300}"


def _misplaced(log: Log) -> list[str]:
    wrong = [
        (partition, note)
        for partition, records in log.items()
        for note in map(note_of, records)
        if note is not None and note.partition not in (None, partition)
    ]
    return _some("in another partition than that of its key, or than it was sent to", wrong)


def _disordered(log: Log) -> list[str]:
    wrong = []
    for partition, records in log.items():
        last: dict[str, Note] = {}
        for record in records:
            note = note_of(record)
            if note is None:
                continue
            before = last.get(note.name)
            if before is not None and note.version <= before.version:
                wrong.append((f"{partition}:{record.offset}", before, note))
            last[note.name] = note
    return _some("out of order", wrong)


def _differences(log: Log, seen: Log) -> Iterator[str]:
    for partition, records in log.items():
        others = [replace(record, timestamp=None) for record in seen.get(partition, ())]
        wanted = [replace(record, timestamp=None) for record in records]
        if others == wanted:
            continue
        pairs = enumerate(zip(wanted, others, strict=False))
        place = next((place for place, (a, b) in pairs if a != b), min(len(wanted), len(others)))
        yield (
            f"{partition}: {len(others)} records of {len(wanted)}, other than in the log from place {place} on: "
            f"{others[place : place + 1]!s:.300} in place of {wanted[place : place + 1]!s:.300}"
        )


def _some(what: str, wrong: Sequence[object]) -> list[str]:
    return [f"{len(wrong)} {what}: {'; '.join(map(str, wrong[:SHOWN]))}"] if wrong else []
