"""The end of a transaction as a lane writes it, all or nothing: markers, the coordinator's decision, offsets of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.partition import Append, AppendResult, Partition
from pg_kafka.wire import _records


@dataclass(frozen=True, slots=True)
class Marker:
    """The control record that ends a producer's transaction in one partition (KIP-98).

    An epoch above the one that the producer wrote with fences it there.
    """

    topic_id: int
    partition: int
    producer_id: int
    producer_epoch: int
    is_commit: bool
    coordinator_epoch: int


@dataclass(slots=True, eq=False)
class Ending(Bundle):
    """The bundle that ends a transaction. Markers come with their partitions."""

    markers: Sequence[tuple[Partition, Marker]] = ()

    def partitions(self) -> Iterator[Partition]:
        return (partition for partition, _ in self.markers)


class MarkerAppend(Append):
    """A marker on its way into its partition. `first_offset` is where its transaction began there, or its own."""

    __slots__ = ("first_offset", "is_commit")

    def __init__(self, partition: Partition, marker: Marker, first_offset: int | None, now_ms: int) -> None:
        wire = _records.control_batch(
            base_offset=0,
            leader_epoch=partition.leader_epoch,
            timestamp=now_ms,
            producer_id=marker.producer_id,
            producer_epoch=marker.producer_epoch,
            is_commit=marker.is_commit,
            coordinator_epoch=marker.coordinator_epoch,
        )
        super().__init__(partition, _records.decode_batch(wire, from_producer=False), _no_answer, 0, 0)
        self.is_commit = marker.is_commit
        self.base_offset = partition.staged_end
        self.first_offset = self.base_offset if first_offset is None else first_offset


def _no_answer(_result: AppendResult) -> None:
    """The ending answers for its markers."""
