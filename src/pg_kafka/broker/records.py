"""The log, as handlers see it: it takes partitions that a door has handed out, and finds none by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pg_kafka.errors import StorageError
from pg_kafka.storage.aborted import AbortedTransaction
from pg_kafka.storage.first_batches import FirstBatches
from pg_kafka.storage.partition import AppendResult, Partition
from pg_kafka.storage.topics import Topic
from pg_kafka.wire._records import Batch


class Records(Protocol):
    """See `storage/log.py` for what each does."""

    @property
    def first_batches(self) -> FirstBatches: ...

    @property
    def is_counted(self) -> bool: ...

    def append(
        self,
        partition: Partition,
        batch: Batch,
        done: Callable[[AppendResult], None],
        *,
        timestamp_type: int,
        begins_at_zero: bool = False,
    ) -> None: ...

    async def delete_records(self, wanted: Sequence[tuple[Partition, int]]) -> Sequence[int | StorageError]: ...

    async def sizes(self, topics: Sequence[Topic]) -> Mapping[tuple[int, int], int]: ...

    def read_tail(self, partition: Partition, offset: int, max_bytes: int) -> list[bytes] | None: ...

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> list[bytes]: ...

    async def aborted(
        self, partition: Partition, offset: int, batches: Sequence[bytes]
    ) -> Sequence[AbortedTransaction]: ...

    async def offset_for_timestamp(self, partition: Partition, timestamp_ms: int) -> tuple[int, int, int] | None: ...

    async def offset_of_max_timestamp(self, partition: Partition) -> tuple[int, int, int] | None: ...
