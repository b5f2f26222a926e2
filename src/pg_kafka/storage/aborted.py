"""Which transactions of what a read_committed consumer reads were aborted (KIP-98, "Fetch Request").

The newest are known in memory. Others are found by the index on markers: of each producer in what was read, the markers
in its range and the first one above. So neither the memory nor the search grows with the history of the partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.segments import leaf_table

SQL = queries.load("log")

_ATTRIBUTES_LOW_BYTE, _LAST_OFFSET_DELTA, _PRODUCER_ID = 22, slice(23, 27), slice(43, 51)
_TRANSACTIONAL, _CONTROL = 0x10, 0x20

AbortedTransaction = tuple[int, int]
"""Producer id and where its transaction begins in the partition."""


def transactional_producers(batches: Iterable[bytes]) -> set[int]:
    """Producers of the transactional records in batches as they are on the wire."""
    return {
        int.from_bytes(batch[_PRODUCER_ID], "big", signed=True)
        for batch in batches
        if batch[_ATTRIBUTES_LOW_BYTE] & (_TRANSACTIONAL | _CONTROL) == _TRANSACTIONAL
    }


def known(partition: Partition, offset: int, batches: Sequence[bytes]) -> list[AbortedTransaction] | None:
    """Aborted transactions in batches that were read from `offset` on; None when the database has to be asked."""
    producers = transactional_producers(batches)
    if not producers:
        return []
    if offset < partition.aborted_from:
        return None
    end = end_of(batches)
    return sorted(
        (
            (one.producer_id, one.first_offset)
            for one in partition.aborted
            if one.marker_offset >= offset and one.first_offset < end and one.producer_id in producers
        ),
        key=_first_offset,
    )


async def find(
    connection: asyncpg.Connection, partition: Partition, offset: int, batches: Sequence[bytes]
) -> list[AbortedTransaction]:
    """The same from the database."""
    unresolved = transactional_producers(batches)
    end = end_of(batches)
    found: list[AbortedTransaction] = []
    for extent in partition.extents[max(0, partition.extent_index(offset)) :]:
        if not unresolved:
            break
        statement = queries.render(SQL["aborted"], leaf=leaf_table(extent.series, extent.segment))
        for row in await connection.fetch(
            statement, partition.topic.id, partition.index, list(unresolved), offset, end
        ):
            if row["base_offset"] >= end:
                unresolved.discard(row["producer_id"])
            if row["is_abort"] and row["batch_base_offset"] < end:
                found.append((row["producer_id"], row["batch_base_offset"]))
    return sorted(found, key=_first_offset)


def end_of(batches: Sequence[bytes]) -> int:
    """The offset after the last of some batches."""
    last = batches[-1]
    return int.from_bytes(last[:8], "big") + int.from_bytes(last[_LAST_OFFSET_DELTA], "big") + 1


def _first_offset(one: AbortedTransaction) -> int:
    return one[1]
