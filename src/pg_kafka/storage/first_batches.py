"""First batches of producers that were answered with a retriable error, and have to come again before any later one.

Batches behind such a one may be on the wire already. Where a partition knows the producer, its sequence refuses those; a
producer that it does not know may begin at any sequence (KIP-360), so the sequence that failed has to be remembered.
"""

from __future__ import annotations

from pg_kafka.storage.partition import Partition
from pg_kafka.wire._records import Batch

# The oldest are forgotten, which costs their order at worst.
MAX_AWAITED = 100_000


class FirstBatches:
    """See the module. Shared by all lanes."""

    def __init__(self) -> None:
        self._awaited: dict[tuple[int, int, int], tuple[int, int]] = {}  # topic, partition, producer: epoch, sequence

    def await_again(self, topic_id: int, index: int, producer_id: int, epoch: int, base_sequence: int) -> None:
        """A batch failed: its producer sends it again before any later one. The first that failed is the one to wait for."""
        key = (topic_id, index, producer_id)
        awaited = self._awaited.get(key)
        if awaited is None or awaited[0] < epoch:
            self._awaited[key] = (epoch, base_sequence)
            if len(self._awaited) > MAX_AWAITED:
                del self._awaited[next(iter(self._awaited))]

    def take(self, partition: Partition, batch: Batch) -> bool:
        """May a producer that the partition does not know begin with this batch? Then nothing is awaited any more."""
        key = (partition.topic.id, partition.index, batch.producer_id)
        awaited = self._awaited.get(key)
        if awaited is not None and awaited[0] == batch.producer_epoch and awaited[1] != batch.base_sequence:
            return False
        self._awaited.pop(key, None)
        return True
