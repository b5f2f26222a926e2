"""The leader's state of one partition: where it begins and ends, who wrote to it, what waits for it.

It changes by its verbs, which only its lane and its loading call:

    follow, begin_at          when it is loaded: one stored row after the other, and where readers may begin
    advance_start             readers may begin later, which is in the database already
    stage_batch, stage_marker a batch gets its offset, when a transaction is built
    stage_rows, stage_packed  its rows get their segment and epoch; one has batches as they came
    commit                    the transaction is committed: what was staged for it is true
    fall_back                 it failed: what is staged is what is committed

`staged_*` run ahead of what is committed: they belong to batches that are on their way to the database.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pg_kafka.coordinator import producer_state
from pg_kafka.coordinator.producer_state import ProducerWindow
from pg_kafka.metrics._requests import Traffic
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


class Figures(NamedTuple):
    """What a partition's last extent holds: bytes in Kafka's format, and records of producers."""

    bytes: int
    records: int


NOTHING = Figures(0, 0)


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
    """What a batch counts while it waits to be written: what it takes in memory, and then in its row."""
    return len(batch.wire) if batch.is_packed else batch.raw_bytes + 16 * batch.count


class Append:
    """A batch on its way: queued, then part of a transaction, then answered through `done` exactly once."""

    __slots__ = (
        "base_offset",
        "batch",
        "begins_at_zero",
        "bytes",
        "codec",
        "done",
        "partition",
        "timestamp_type",
        "wire",
    )

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
        self.wire: bytes | None = None  # as it is stored, once it has its offset; of a packed batch

    def names(self) -> Mapping[str, object]:
        """Fields of a log line."""
        return {"topic": self.partition.topic.name, "partition": self.partition.index}

    @property
    def is_encoded_anew(self) -> bool:
        """Consumers get other bytes than the producer's: the topic asks for another codec, or not all clients read them."""
        return self.codec != self.batch.codec or not self.batch.is_read_by_all


class Aborted(NamedTuple):
    """A transaction that was aborted: where its records begin in the partition, and where its marker is."""

    producer_id: int
    first_offset: int
    marker_offset: int


class Changes(Protocol):
    """What a part of a lane's transaction changes in its partition when it is committed (`transaction.Part`)."""

    windows: dict[int, ProducerWindow]
    open_transactions: dict[int, int | None]  # begun; None: ended
    aborted: list[Aborted]
    extent: Extent | None  # begins with these rows
    first_extent: Extent | None  # where these rows begin to lie
    epoch_start: int | None  # the leader epoch begins with these rows
    packed_from: int | None  # the first of the rows with batches as they came, when the extent has to say so
    bytes: int
    end: int
    max_timestamp: int
    figures: Figures | None  # of the last extent, with these rows


class Waiter(Protocol):
    """Something that waits for a partition, a parked fetch most of all."""

    def on_advance(self, partition: Partition, bytes_added: int) -> None:
        """The high watermark has moved; or the last stable offset, which counts as any number of bytes."""

    def on_start_moved(self, partition: Partition) -> None:
        """The log start has moved forward."""

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
        "compacted",
        "epochs",
        "extents",
        "figures",
        "high_watermark",
        "index",
        "is_closed",
        "is_ringed",
        "leader_epoch",
        "log_start_offset",
        "open_transactions",
        "packed_segments",
        "pending",
        "producers",
        "running_max_timestamp",
        "series",
        "staged_end",
        "staged_epoch",
        "staged_extent",
        "staged_figures",
        "staged_max_timestamp",
        "staged_open",
        "staged_producers",
        "tail",
        "topic",
        "traffic",
        "waiters",
        "wanted_start",
    )

    def __init__(
        self, topic: Topic, index: int, leader_epoch: int, tails: TailCache, traffic: Traffic | None = None
    ) -> None:
        self.topic = topic
        self.index = index
        self.series = topic.series
        self.leader_epoch = leader_epoch
        self.log_start_offset = 0
        self.wanted_start = 0  # as it is in the database; above the other one while the rows below it are not known yet
        self.high_watermark = 0
        self.running_max_timestamp = NO_TIMESTAMP
        self.epochs: list[tuple[int, int]] = []
        self.extents: list[Extent] = []
        self.figures: Figures | None = (
            NOTHING  # of the last extent, what compaction took out of it included; None: not known
        )
        self.compacted: tuple[int, Figures] = (0, NOTHING)  # what it took out of the extent that begins there
        self.packed_segments: set[tuple[int, int]] = set()  # whose extents are known to say that they have packed rows
        self.producers: dict[int, ProducerWindow] = {}
        self.open_transactions: dict[int, int] = {}  # producer id -> where its open transaction begins here
        self.aborted: deque[Aborted] = deque()  # the newest, by their markers
        self.aborted_from = 0  # of markers from here on, all are known
        self.append_bytes_total = 0
        self.bytes_since_checkpoint = 0
        self.is_closed = False
        self.average_row_bytes = 65_536  # a guess for the next read, made by the last one
        self.tail = Tail(tails)
        self.traffic = traffic  # None: nobody counts it
        self.waiters: set[Waiter] = set()
        self.pending: deque[Append] = deque()  # its lane's queue
        self.is_ringed = False  # it stands in its lane's ring
        self.staged_end = 0
        self.staged_max_timestamp = NO_TIMESTAMP
        self.staged_producers: dict[int, ProducerWindow] = {}
        self.staged_open: dict[int, int | None] = {}  # over open_transactions; None: ended
        self.staged_extent: Extent | None = None
        self.staged_figures: Figures | None = NOTHING
        self.staged_epoch = False

    def __repr__(self) -> str:
        return f"{self.topic.name}-{self.index}"

    @property
    def last_stable_offset(self) -> int:
        """Where read_committed consumers stop: the oldest open transaction's first record, or the high watermark."""
        if not self.open_transactions:
            return self.high_watermark
        return max(self.log_start_offset, min(self.open_transactions.values()))

    def topic_changed(self, topic: Topic) -> None:
        """The catalogue has another version of its topic. Where rows go changes by `move` only, between two transactions."""
        self.topic = topic

    def move(self, series: int) -> None:
        """Rows that are staged from now on go to another series."""
        self.series = series

    # -- loading -----------------------------------------------------------------------------------------------------

    def begin_at(self, offset: int) -> None:
        """Readers see nothing below `offset`. The end is never below the start."""
        self.wanted_start = self.log_start_offset = offset
        self.high_watermark = max(self.high_watermark, offset)
        self._drop_old_epochs()

    def before_compaction(self, end: int) -> None:
        """Rows below `end` are going to change: their batches and aborted transactions are looked up in the database."""
        self.tail.drop_below(end)
        while self.aborted and self.aborted[0].marker_offset < end:
            self.aborted.popleft()
        self.aborted_from = max(self.aborted_from, end)

    def after_compaction(self, first_offset: int, taken: Figures) -> None:
        """So much is not any more in the last extent, which begins at `first_offset`."""
        before = self.compacted[1] if self.compacted[0] == first_offset else NOTHING
        self.compacted = (first_offset, _sum(before, taken))

    @property
    def held(self) -> Figures | None:
        """What the last extent holds; None while that is not known."""
        return self._without_compacted(self.figures, self.extents[-1] if self.extents else None)

    @property
    def staged_held(self) -> Figures | None:
        """The same, with what is staged."""
        extent = self.staged_extent or (self.extents[-1] if self.extents else None)
        return self._without_compacted(self.staged_figures, extent)

    def _without_compacted(self, figures: Figures | None, extent: Extent | None) -> Figures | None:
        first_offset, taken = self.compacted
        if figures is None or extent is None or extent.first_offset != first_offset:
            return figures
        return Figures(figures.bytes - taken.bytes, figures.records - taken.records)

    def resume(
        self,
        *,
        next_offset: int,
        running_max_timestamp: int,
        appended_bytes: int,
        producers: str,
        opened: str,
        figures: Figures | None,
    ) -> None:
        """Take what a checkpoint says; `producers` and `opened` are JSON (`checkpoint_json`, `open_json`).

        `figures` are those of the extent that it ended in, None when they are not known.
        """
        if self.extents and self.extents[-1].first_offset < next_offset:
            self.figures = figures
        self.high_watermark = max(self.high_watermark, next_offset)
        self.running_max_timestamp = running_max_timestamp
        self.append_bytes_total = appended_bytes
        for pid, *window in json.loads(producers):
            self.producers[pid] = producer_state.load(window)
        self.open_transactions.update(json.loads(opened))

    def follow(
        self,
        *,
        base_offset: int,
        last_offset: int,
        running_max_timestamp: int,
        append_time: int,
        row_bytes: int,
        figures: Figures,
        batches: Sequence[tuple[int, int, int, int, int]],
        is_transactional: bool,
        is_control: bool,
        coordinator_epoch: int | None,
    ) -> None:
        """Take one stored row, as its commit once did. `batches`: producer id, epoch, sequence, base offset and count."""
        self.high_watermark = max(self.high_watermark, last_offset + 1)
        self.running_max_timestamp = max(self.running_max_timestamp, running_max_timestamp)
        self.append_bytes_total += row_bytes
        self.bytes_since_checkpoint += row_bytes
        if self.figures is not None and self.extents and base_offset >= self.extents[-1].first_offset:
            self.figures = _sum(self.figures, figures)
        if not batches:
            return
        producer_id, epoch = batches[0][:2]
        if is_control:
            self.producers[producer_id] = producer_state.mark(
                self.producers.get(producer_id),
                epoch=epoch,
                timestamp_ms=append_time,
                coordinator_epoch=coordinator_epoch or 0,
            )
            self.open_transactions.pop(producer_id, None)
            return
        if is_transactional:
            self.open_transactions.setdefault(producer_id, base_offset)
        for producer_id, epoch, base_sequence, batch_base_offset, count in batches:
            window = self.producers.get(producer_id)
            if window is not None and window.batches and window.batches[-1].base_offset >= batch_base_offset:
                continue  # a further row of a batch that spans rows
            self.producers[producer_id] = producer_state.advance(
                window,
                epoch=epoch,
                base_sequence=base_sequence,
                count=count,
                base_offset=batch_base_offset,
                timestamp_ms=append_time,
            )

    def count(self, figures: Figures) -> None:
        """What the checkpoint left out: what the last extent held then."""
        self.figures = figures

    def is_followed(self) -> None:
        """All stored rows have been taken; nothing is staged."""
        self.fall_back()
        self.aborted_from = self.high_watermark

    def take_extents(self, stored: Sequence[Extent], known: Sequence[Extent] = ()) -> None:
        """Rows have moved: believe what is stored, and the extents that the lane has begun since.

        `known` were here when the database was asked. It would have named them: when it does not, they are gone, as
        several become one.
        """
        newest = stored[-1].first_offset if stored else -1
        begun = [extent for extent in self.extents if extent not in known and extent.first_offset > newest]
        self.extents[:] = [*stored, *begun]

    def take_epochs(self, stored: Sequence[tuple[int, int]]) -> None:
        """The leader epochs that have written here, each with its first offset."""
        self.epochs[:] = stored

    # -- the start ---------------------------------------------------------------------------------------------------

    def advance_start(self, offset: int) -> None:
        """Readers see nothing below `offset`, which is committed in the database.

        Somebody else may have seen the end of the log there before the lane has heard of its commit. Then the start is
        the high watermark until it has.
        """
        self.wanted_start = max(self.wanted_start, offset)
        start = min(self.wanted_start, self.high_watermark)
        if start <= self.log_start_offset:
            return
        self.log_start_offset = start
        self.tail.drop_below(start)
        self._drop_old_epochs()
        while self.aborted and self.aborted[0].marker_offset < start:
            self.aborted.popleft()
        for waiter in list(self.waiters):
            waiter.on_start_moved(self)

    def _drop_old_epochs(self) -> None:
        """Of the epochs that began below the start the last one is kept, and begins there (as in Kafka)."""
        start = self.log_start_offset
        index = bisect_right(self.epochs, start, key=_start_of_epoch) - 1
        if index >= 0:
            self.epochs[: index + 1] = [(self.epochs[index][0], start)]

    # -- a transaction -----------------------------------------------------------------------------------------------

    def stage_batch(
        self, changes: Changes, count: int, producer_id: int, window: ProducerWindow | None, *, is_transactional: bool
    ) -> int:
        """Give a batch its base offset. `window` is the producer's with this batch, None without a producer."""
        base_offset = self.staged_end
        if window is not None:
            if is_transactional and self.staged_transaction(producer_id) is None:
                changes.open_transactions[producer_id] = self.staged_open[producer_id] = base_offset
            changes.windows[producer_id] = self.staged_producers[producer_id] = window
        self.staged_end = base_offset + count
        return base_offset

    def stage_marker(
        self, changes: Changes, offset: int, producer_id: int, window: ProducerWindow, *, is_commit: bool
    ) -> None:
        """The marker at `offset`, which is the next one, ends the producer's transaction here, if there is one."""
        first_offset = self.staged_transaction(producer_id)
        changes.windows[producer_id] = self.staged_producers[producer_id] = window
        if first_offset is not None:
            changes.open_transactions[producer_id] = self.staged_open[producer_id] = None
            if not is_commit:
                changes.aborted.append(Aborted(producer_id, first_offset, offset))
        self.staged_end = offset + 1

    def stage_rows(self, changes: Changes, first_offset: int, segment: int) -> None:
        """Rows from `first_offset` on go to a segment: they may begin an extent and a leader epoch."""
        current = self.staged_extent or (self.extents[-1] if self.extents else None)
        if current is None or (current.series, current.segment) != (self.series, segment):
            current = changes.extent = self.staged_extent = Extent(first_offset, self.series, segment)
            self.staged_figures = NOTHING
        changes.first_extent = current
        if not self.staged_epoch and (not self.epochs or self.epochs[-1][0] != self.leader_epoch):
            self.staged_epoch = True
            changes.epoch_start = first_offset

    def stage_figures(self, added: Figures) -> Figures | None:
        """What the rows of a transaction add to the last extent; what that holds then."""
        if self.staged_figures is not None:
            self.staged_figures = _sum(self.staged_figures, added)
        return self.staged_figures

    def stage_packed(self, changes: Changes, base_offset: int) -> None:
        """A row has batches as they came: its extent has to say that it has such rows, if that is not known."""
        extent = changes.first_extent
        assert extent is not None
        # While batches are unpacked, what extents say is taken back: then it is said with each transaction.
        is_known = (extent.series, extent.segment) in self.packed_segments and self.topic.is_packing
        if changes.packed_from is None and not is_known:
            changes.packed_from = base_offset

    def forget_packed(self) -> None:
        """What the extents say of rows with batches as they came will be taken back."""
        self.packed_segments.clear()

    def stage_timestamp(self, timestamp_ms: int) -> None:
        """The largest timestamp of the next row."""
        if timestamp_ms > self.staged_max_timestamp:
            self.staged_max_timestamp = timestamp_ms

    def staged_window(self, producer_id: int) -> ProducerWindow | None:
        """What is known of a producer, with all that is staged."""
        return self.staged_producers.get(producer_id) or self.producers.get(producer_id)

    def commit(self, changes: Changes) -> None:
        """What was staged for a part of a transaction is committed."""
        self.producers.update(changes.windows)
        for producer_id, first_offset in changes.open_transactions.items():
            if first_offset is None:
                self.open_transactions.pop(producer_id, None)
            else:
                self.open_transactions[producer_id] = first_offset
        for aborted in changes.aborted:
            self._remember(aborted)
        if changes.extent is not None:
            self.extents.append(changes.extent)
        if changes.packed_from is not None and changes.first_extent is not None and self.topic.is_packing:
            self.packed_segments.add((changes.first_extent.series, changes.first_extent.segment))
        if changes.epoch_start is not None:
            self.epochs.append((self.leader_epoch, changes.epoch_start))
        self.figures = changes.figures
        self.running_max_timestamp = changes.max_timestamp
        self.append_bytes_total += changes.bytes
        self.bytes_since_checkpoint += changes.bytes
        self.high_watermark = changes.end
        if self.wanted_start > self.log_start_offset:
            self.advance_start(self.wanted_start)
        if self.staged_end == changes.end:
            self.fall_back()

    def fall_back(self) -> None:
        """What is staged is what is committed."""
        self.staged_end = self.high_watermark
        self.staged_max_timestamp = self.running_max_timestamp
        self.staged_producers.clear()
        self.staged_open.clear()
        self.staged_extent = None
        self.staged_figures = self.figures
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

    def _remember(self, aborted: Aborted) -> None:
        """For read_committed consumers; older ones are found in the database."""
        self.aborted.append(aborted)
        if len(self.aborted) > ABORTED_IN_MEMORY:
            self.aborted_from = self.aborted.popleft().marker_offset + 1

    def checkpoint_due(self) -> None:
        """A checkpoint is going to be written: bytes are counted anew."""
        self.bytes_since_checkpoint = 0

    def checkpoint_written(self, oldest_ms: int) -> None:
        """Forget producers silent since before `oldest_ms` (producer.id.expiration.ms), as the checkpoint did."""
        self.bytes_since_checkpoint = 0
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


def _sum(figures: Figures, more: Figures) -> Figures:
    return Figures(figures.bytes + more.bytes, figures.records + more.records)


def _start_of_epoch(epoch: tuple[int, int]) -> int:
    return epoch[1]
