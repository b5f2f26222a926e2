"""A bundle: what a lane writes whole, in one PostgreSQL transaction, or not at all.

Rows of journals, batches for partitions of the lane, and statements. The end of a transaction is one (endings.py), and what
the relay moves from the outbox to the log (outbox.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pg_kafka.errors import StorageError
from pg_kafka.storage.journal import JournalWrite
from pg_kafka.storage.partition import Append, Partition

Statement = tuple[str, Sequence[Any]]
"""SQL and its arguments."""


@dataclass(slots=True, eq=False)
class Bundle:
    """See the module. Answered through `done` exactly once; its batches and writes have no answers of their own.

    The batches of a partition get offsets that follow one another. They belong to no producer.
    """

    writes: Sequence[JournalWrite]
    done: Callable[[StorageError | None], None]
    appends: Sequence[tuple[Partition, Sequence[Append]]] = ()
    statements: Sequence[Statement] = ()
    entries: int = field(init=False)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.entries = sum(write.entries for write in self.writes)
        self.bytes = sum(write.bytes for write in self.writes)
        self.bytes += sum(append.bytes for _, appends in self.appends for append in appends)
        for write in self.writes:
            write.is_bundled = True

    def partitions(self) -> Iterator[Partition]:
        """Those that get something."""
        return (partition for partition, _ in self.appends)

    def names(self) -> Mapping[str, object]:
        """Fields of a log line."""
        return self.writes[0].names() if self.writes else {}
