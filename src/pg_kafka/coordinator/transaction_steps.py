"""What the machine of a transactional id takes and gives.

A machine never awaits and knows no clock. Its methods take `steady_ms` (`pg_kafka.clock`) and return a `Step`; the
records in it are applied to the machine already, through `apply`, which is also what rebuilds it after a restart.
Whoever runs the machine writes the records in their order, and replies only after these and all earlier records of the
transactional id are committed. When a write fails, the machine is thrown away and built again from what is stored.

| kind, key                                     | value                                                                |
|-----------------------------------------------|----------------------------------------------------------------------|
| "transaction", ""                             | all that is known of the transactional id, but for pending offsets   |
| "offset", "<group>\n<topic id>\n<partition>"  | an offset that is committed with the open transaction; None deletes  |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pg_kafka.coordinator.records import Record

# Kafka's names, as ListTransactions and DescribeTransactions show them.
EMPTY: Final = "Empty"
ONGOING: Final = "Ongoing"
PREPARE_COMMIT: Final = "PrepareCommit"
PREPARE_ABORT: Final = "PrepareAbort"
COMPLETE_COMMIT: Final = "CompleteCommit"
COMPLETE_ABORT: Final = "CompleteAbort"
DEAD: Final = "Dead"

NO_PRODUCER: Final = (-1, -1)
"""Producer id and epoch where there are none."""

PRODUCE_REGISTERS: Final = 12
"""Produce from this version on registers partitions by itself (KIP-890)."""

TopicPartition = tuple[int, int]
"""Topic id, as in kafka.topics, and partition."""

Registration = tuple[int, int, int]
"""Topic id, partition, and an offset below which nothing of the transaction lies there; -1: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionSettings:
    """The broker's settings for transactions, by Kafka's names with `_` for `.`; times in milliseconds."""

    transaction_max_timeout_ms: int = 900_000
    transactional_id_expiration_ms: int = 604_800_000


class PendingOffset(NamedTuple):
    """An offset that becomes a group's committed one when the transaction commits.

    It counts as committed at `committed_at_ms`: when the group has a later commit by then, that one stays. So it does
    no harm either when an ending that was interrupted is carried out again.
    """

    group: str
    topic_id: int
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    committed_at_ms: int

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.group}\n{self.topic_id}\n{self.partition}"

    def record(self) -> Record:
        value = {
            "group": self.group,
            "topic_id": self.topic_id,
            "partition": self.partition,
            "offset": self.offset,
            "leader_epoch": self.leader_epoch,
            "metadata": self.metadata,
            "committed_at_ms": self.committed_at_ms,
        }
        return Record("offset", self.key, value)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> PendingOffset:
        return cls(
            value["group"],
            value["topic_id"],
            value["partition"],
            value["offset"],
            value["leader_epoch"],
            value["metadata"],
            value["committed_at_ms"],
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """How a transaction ends, to be carried out: a marker in each partition, and the offsets committed or dropped.

    Markers bear this producer id and epoch. Carried out twice, it does no harm.
    """

    commit: bool
    producer_id: int
    producer_epoch: int
    partitions: tuple[TopicPartition, ...]
    offsets: tuple[PendingOffset, ...]
    is_timeout: bool = False
    by_operator: bool = False


@dataclass(slots=True)
class Step:
    """What has to be done after an event, in this order: write, then reply; timers at once.

    With a `decision`, the records say what was decided. Whoever runs the machine writes the markers and offsets, and
    calls `ended` for the records that say so. When all goes into one commit, `ended` is called at once, and of each
    record only the last value need be written.

    Timers are "timeout" and "expire": a deadline, or None to cancel; one that is not mentioned keeps its deadline.
    When `is_dead`, nothing is left of the transactional id.
    """

    error: int = 0
    records: list[Record] = field(default_factory=list)
    decision: Decision | None = None
    reply: Any = None
    timers: dict[str, int | None] = field(default_factory=dict)
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What DescribeTransactions and ListTransactions show. `started_ms` is -1 before the first transaction."""

    transactional_id: str
    state: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    started_ms: int
    partitions: tuple[TopicPartition, ...]
    groups: tuple[str, ...]
