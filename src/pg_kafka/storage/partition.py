"""The leader's state of one partition: where it begins and ends, who wrote to it, what waits for it.

Only its lane changes what is committed here, after the commit. `staged_*` run ahead of it: they belong to batches that
are on their way to the database, and fall back to the committed values when their transaction fails.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pg_kafka.coordinator import producer_state
from pg_kafka.coordinator.producer_state import ProducerWindow
from pg_kafka.storage.tail import Tail, TailCache

if TYPE_CHECKING:
    from pg_kafka.storage.topics import Topic
    from pg_kafka.wire._records import Batch

NO_TIMESTAMP = -1
ABORTED_IN_MEMORY = 1_000


class Extent(NamedTuple):
    """Offsets from first_offset on, up to the next extent, are in this segment."""

    first_offset: int
    series: int
    segment: int
    generation: int = 0


@dataclass(slots=True)
class AppendResult:
    """What became of one batch. `log_append_time_ms` is -1 for CreateTime."""

    error: int
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    message: str | None = None
    record_errors: Sequence[tuple[int, str]] = ()


def counted_bytes(batch: Batch) -> int:
    """What a batch counts while it waits to be written."""
    return batch.raw_bytes + 16 * batch.count


class Append:
    """A batch on its way: queued, then part of a transaction, then answered through `done` exactly once."""

    __slots__ = ("base_offset", "batch", "begins_at_zero", "bytes", "codec", "done", "partition", "timestamp_type")

    def __init__(
        self,
        partition: Partition,
        batch: Batch,
        done: Callable[[AppendResult], None],
        timestamp_type: int,
        codec: int,
        begins_at_zero: bool = False,
    ) -> None:
        self.partition = partition
        self.batch = batch
        self.begins_at_zero = begins_at_zero
        self.done = done
        self.timestamp_type = timestamp_type
        self.codec = codec
        self.bytes = counted_bytes(batch)
        self.base_offset = -1


class Aborted(NamedTuple):
    """A transaction that was aborted: where its records begin in the partition, and where its marker is."""

    producer_id: int
    first_offset: int
    marker_offset: int


class Waiter(Protocol):
    """Something that waits for a partition, a parked fetch most of all."""

    def on_advance(self, partition: Partition, bytes_added: int) -> None:
        """The high watermark has moved; or the last stable offset, which counts as any number of bytes."""

    def on_closed(self, partition: Partition) -> None:
        """This broker no longer serves the partition, or must load it again."""


class Partition:
    """State of a loaded partition. Made by Log.load, changed by its lane."""

    __slots__ = (
        "aborted",
        "aborted_from",
        "append_bytes_total",
        "average_row_bytes",
        "bytes_since_checkpoint",
        "epochs",
        "extents",
        "high_watermark",
        "index",
        "is_closed",
        "is_dirty",
        "is_ringed",
        "leader_epoch",
        "log_start_offset",
        "open_transactions",
        "pending",
        "pending_records",
        "producers",
        "running_max_timestamp",
        "series",
        "staged_end",
        "staged_epoch",
        "staged_extent",
        "staged_max_timestamp",
        "staged_open",
        "staged_producers",
        "tail",
        "topic",
        "waiters",
    )

    def __init__(self, topic: Topic, index: int, leader_epoch: int, tails: TailCache) -> None:
        self.topic = topic
        self.index = index
        self.series = topic.series
        self.leader_epoch = leader_epoch
        self.log_start_offset = 0
        self.high_watermark = 0
        self.running_max_timestamp = NO_TIMESTAMP
        self.epochs: list[tuple[int, int]] = []
        self.extents: list[Extent] = []
        self.producers: dict[int, ProducerWindow] = {}
        self.open_transactions: dict[int, int] = {}  # producer id -> where its open transaction begins here
        self.aborted: deque[Aborted] = deque()  # the newest, by their markers
        self.aborted_from = 0  # of markers from here on, all are known
        self.append_bytes_total = 0
        self.bytes_since_checkpoint = 0
        self.is_dirty = False
        self.is_closed = False
        self.average_row_bytes = 65_536
        self.tail = Tail(tails)
        self.waiters: set[Waiter] = set()
        self.pending: deque[Append] = deque()
        self.pending_records = 0
        self.is_ringed = False  # it stands in its lane's ring
        self.staged_end = 0
        self.staged_max_timestamp = NO_TIMESTAMP
        self.staged_producers: dict[int, ProducerWindow] = {}
        self.staged_open: dict[int, int | None] = {}  # over open_transactions; None: ended
        self.staged_extent: Extent | None = None
        self.staged_epoch = False

    def __repr__(self) -> str:
        return f"{self.topic.name}-{self.index}"

    @property
    def last_stable_offset(self) -> int:
        """Where read_committed consumers stop: the oldest open transaction's first record, or the high watermark."""
        return min(self.open_transactions.values()) if self.open_transactions else self.high_watermark

    def unstage(self) -> None:
        """Fall back to what is committed."""
        self.staged_end = self.high_watermark
        self.staged_max_timestamp = self.running_max_timestamp
        self.staged_producers.clear()
        self.staged_open.clear()
        self.staged_extent = None
        self.staged_epoch = False

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """The largest known epoch <= `epoch` and the offset after its last record; (-1, -1) when there is none.

        For the current leader epoch that offset is the high watermark (KIP-101, KIP-279).
        """
        if epoch == self.leader_epoch:
            return epoch, self.high_watermark
        if epoch > self.leader_epoch:
            return -1, -1
        index = bisect_right(self.epochs, (epoch, 1 << 62))
        if index == 0:
            # Older than all history: as Kafka, the earliest epoch's start, without an epoch below it.
            return (epoch, self.epochs[0][1]) if self.epochs else (-1, -1)
        end = self.epochs[index][1] if index < len(self.epochs) else self.high_watermark
        return self.epochs[index - 1][0], end

    def epoch_at(self, offset: int) -> int:
        """Leader epoch of the record at an offset; -1 before all history."""
        found = -1
        for epoch, start in self.epochs:
            if start > offset:
                break
            found = epoch
        return found

    def extent_index(self, offset: int) -> int:
        """Index of the extent that holds an offset, 0 when it lies before all; -1 when there is no extent."""
        if not self.extents:
            return -1
        return max(0, bisect_right(self.extents, offset, key=_first_offset) - 1)

    def checkpoint_json(self, oldest_ms: int) -> str:
        """Producer windows, staged ones included, as JSON; those silent since before `oldest_ms` are left out."""
        windows = {**self.producers, **self.staged_producers}
        return json.dumps(
            [
                [pid, *producer_state.dump(window)]
                for pid, window in windows.items()
                if window.last_timestamp_ms >= oldest_ms or self.staged_transaction(pid) is not None
            ],
            separators=(",", ":"),
        )

    def staged_transaction(self, producer_id: int) -> int | None:
        """Where a producer's open transaction begins here, as staged; None when it has none."""
        if producer_id in self.staged_open:
            return self.staged_open[producer_id]
        return self.open_transactions.get(producer_id)

    def open_json(self) -> str:
        """Open transactions, staged ones included, as JSON."""
        if not self.open_transactions and not self.staged_open:
            return "[]"
        opened = {**self.open_transactions, **self.staged_open}
        return json.dumps([[pid, first] for pid, first in opened.items() if first is not None])

    def end_transaction(self, aborted: Aborted) -> None:
        """Remember an aborted transaction for read_committed consumers; older ones are found in the database."""
        self.aborted.append(aborted)
        if len(self.aborted) > ABORTED_IN_MEMORY:
            self.aborted_from = self.aborted.popleft().marker_offset + 1

    def load_open_json(self, stored: str) -> None:
        self.open_transactions.update(json.loads(stored))

    def load_checkpoint_json(self, stored: str) -> None:
        for pid, *window in json.loads(stored):
            self.producers[pid] = producer_state.load(window)

    def expire_producers(self, oldest_ms: int) -> None:
        """Forget producers silent since before `oldest_ms` (producer.id.expiration.ms)."""
        opened = self.open_transactions
        for pid in [p for p, w in self.producers.items() if w.last_timestamp_ms < oldest_ms and p not in opened]:
            del self.producers[pid]

    def close(self) -> None:
        """Stop serving: wake all that wait and drop the tail."""
        self.is_closed = True
        self.tail.clear()
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            waiter.on_closed(self)


def _first_offset(extent: Extent) -> int:
    return extent.first_offset
