"""Whose transaction is open in which partitions: what the coordinator knows, and what a lane asks before it writes.

The coordinator puts each transactional id in by its producer id. A lane asks as it gives a transactional batch its offset,
so the answer is of that moment.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from pg_kafka.coordinator.transaction_steps import ONGOING, TopicPartition
from pg_kafka.coordinator.transactions import Transaction
from pg_kafka.wire.error_codes import ErrorCode


class Holder(Protocol):
    """A transactional id in memory."""

    machine: Transaction


H = TypeVar("H", bound=Holder)


class OpenTransactions(Generic[H]):
    """See the module. `is_complete` is False while transactional ids are not served, or not all of them."""

    def __init__(self) -> None:
        self.by_producer: dict[int, H] = {}
        self.is_complete = False

    def clear(self) -> None:
        """Nothing is known until all is loaded again."""
        self.by_producer = {}
        self.is_complete = False

    def admits(self, place: TopicPartition, producer_id: int, epoch: int) -> int:
        """0 when the producer's transaction is open in the partition; else the error code."""
        holder = self.by_producer.get(producer_id)
        if holder is None:
            return int(ErrorCode.INVALID_PRODUCER_ID_MAPPING if self.is_complete else ErrorCode.NOT_ENOUGH_REPLICAS)
        machine = holder.machine
        if epoch != machine.producer_epoch:
            return int(ErrorCode.INVALID_PRODUCER_EPOCH)
        is_open = machine.state == ONGOING and place in machine.partitions
        return int(ErrorCode.NONE if is_open else ErrorCode.INVALID_TXN_STATE)
