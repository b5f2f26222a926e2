"""What a partition remembers of one idempotent producer: its epoch and its last five batches.

Pure. `check` decides about an incoming batch and changes nothing; `advance` is the only way to a new window, used when
a batch is taken and again when a window is rebuilt from the log, so live and reload cannot differ. `dump` and `load`
turn a window into a JSON list for a checkpoint and back.

| batch, against the window                       | answer                        |
|-------------------------------------------------|-------------------------------|
| same epoch, exactly one of the last five ranges | Duplicate of that batch       |
| older epoch                                     | INVALID_PRODUCER_EPOCH        |
| newer epoch, sequence 0 / other                 | Accepted / OUT_OF_ORDER_...   |
| same epoch, next sequence / other               | Accepted / OUT_OF_ORDER_...   |
| producer unknown                                | Accepted, at any sequence (1) |

(1) a batch of a transaction by Produce 12 and above must have sequence 0 then: the lane sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pg_kafka.wire.error_codes import ErrorCode

WINDOW_BATCHES: Final = 5
"""Batches under way at once: the limit of max.in.flight.requests.per.connection for idempotent producers."""

_SEQUENCES: Final = 1 << 31


class SequencedBatch(NamedTuple):
    """A batch in the log: its sequence range, its offsets, and the timestamp that a duplicate's answer repeats."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int


class ProducerWindow(NamedTuple):
    """`batches` are the last five, oldest first; none when the epoch is known only from a transaction marker.

    `coordinator_epoch` is what the last marker says of the coordinator that wrote it, -1 before the first.
    """

    epoch: int
    batches: tuple[SequencedBatch, ...]
    last_timestamp_ms: int
    coordinator_epoch: int = -1


@dataclass(frozen=True, slots=True)
class Accepted:
    """The batch is the next one of its producer."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is in the log already, as `batch`."""

    batch: SequencedBatch


@dataclass(frozen=True, slots=True)
class BatchRefused:
    """The batch must not be appended."""

    error: ErrorCode
    message: str


_ACCEPTED: Final = Accepted()


def sequence_after(sequence: int, count: int) -> int:
    """The sequence number `count` after `sequence`: after 2^31 - 1 comes 0."""
    return (sequence + count) % _SEQUENCES


def check(
    window: ProducerWindow | None, *, epoch: int, base_sequence: int, count: int
) -> Accepted | Duplicate | BatchRefused:
    """What becomes of a batch of `count` records with this epoch and first sequence number."""
    if window is None:
        # The state may be gone because retention or DeleteRecords took the producer's last records (KIP-360).
        return _ACCEPTED
    if epoch == window.epoch:
        batches = window.batches
        expected = sequence_after(batches[-1].last_sequence, 1) if batches else 0
        last_sequence = sequence_after(base_sequence, count - 1)
        for batch in batches:
            if batch.first_sequence == base_sequence and batch.last_sequence == last_sequence:
                return Duplicate(batch)
        if base_sequence == expected:
            return _ACCEPTED
        return BatchRefused(
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"sequence number {base_sequence} where {expected} comes next in epoch {epoch}",
        )
    if epoch < window.epoch:
        return BatchRefused(ErrorCode.INVALID_PRODUCER_EPOCH, f"producer epoch {epoch} is older than {window.epoch}")
    if base_sequence != 0:
        return BatchRefused(
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"sequence number {base_sequence} where 0 begins the new epoch {epoch} (after epoch {window.epoch})",
        )
    return _ACCEPTED


def advance(
    window: ProducerWindow | None, *, epoch: int, base_sequence: int, count: int, base_offset: int, timestamp_ms: int
) -> ProducerWindow:
    """The window after a batch that `check` accepted, or that the log holds; a new epoch forgets what was before."""
    batch = SequencedBatch(
        base_sequence, sequence_after(base_sequence, count - 1), base_offset, base_offset + count - 1, timestamp_ms
    )
    if window is None:
        return ProducerWindow(epoch, (batch,), timestamp_ms)
    batches = (*window.batches[1 - WINDOW_BATCHES :], batch) if window.epoch == epoch else (batch,)
    return ProducerWindow(epoch, batches, timestamp_ms, window.coordinator_epoch)


def mark(window: ProducerWindow | None, *, epoch: int, timestamp_ms: int, coordinator_epoch: int) -> ProducerWindow:
    """The window after a transaction marker; one with a newer epoch fences what was before (KIP-890)."""
    if window is None or window.epoch < epoch:
        return ProducerWindow(epoch, (), timestamp_ms, coordinator_epoch)
    return ProducerWindow(window.epoch, window.batches, timestamp_ms, coordinator_epoch)


def dump(window: ProducerWindow) -> list[Any]:
    """The window as a JSON list."""
    return [
        window.epoch,
        window.last_timestamp_ms,
        [[b.first_sequence, b.last_sequence, b.base_offset, b.last_offset, b.timestamp_ms] for b in window.batches],
        window.coordinator_epoch,
    ]


def load(stored: Sequence[Any]) -> ProducerWindow:
    """The window that `dump` stored. Checkpoints before schema version 4 have no epoch of a coordinator."""
    epoch, last_timestamp_ms, batches, *coordinator_epoch = stored
    return ProducerWindow(
        epoch, tuple(SequencedBatch(*batch) for batch in batches), last_timestamp_ms, *coordinator_epoch
    )
