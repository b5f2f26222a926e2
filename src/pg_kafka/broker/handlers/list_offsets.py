"""ListOffsets: the offset that belongs to a time, or to one end of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pg_kafka.broker.context import Context
from pg_kafka.broker.partitions import check_leader_epoch
from pg_kafka.broker.permission import Operation
from pg_kafka.broker.refusals import Refused
from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5
EARLIEST_PENDING_UPLOAD: Final = -6

FIRST_VERSIONS: Mapping[int, int] = MappingProxyType(
    {LATEST: 1, EARLIEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
)

_READ_UNCOMMITTED = 0


async def list_offsets(ctx: Context, request: ListOffsetsRequest) -> ListOffsetsResponse:
    """Find offsets by time.

    Versions  1-11. 2 brings the isolation level, 4 leader epochs, 6 is flexible; special times: see FIRST_VERSIONS.
    Rules     - -1 is the high watermark, for read_committed the last stable offset; -2 the log start
              - a time gives the first record at or after it, -3 the first record with the largest timestamp;
                offset, timestamp and epoch are -1 when there is none (for read_committed below the last stable offset)
              - -4 is the log start and -5, -6 are -1: all of the log is local, as in Kafka without tiered storage
              - a special time in a version that does not have it, or an unknown one, is UNSUPPORTED_VERSION
              - a partition named twice is INVALID_REQUEST, each time
              - current_leader_epoch older than ours is FENCED_LEADER_EPOCH, newer UNKNOWN_LEADER_EPOCH
    """
    turns = ctx.broker.turns
    times = Counter((topic.name, one.partition_index) for topic in request.topics for one in topic.partitions)
    wanted = []
    async for topic in turns.each(request.topics):
        async for one in turns.each(topic.partitions):
            if times[topic.name, one.partition_index] == 1 and _is_known(ctx, one):
                wanted.append((topic.name, one.partition_index))
    found = dict(zip(wanted, await ctx.doors.topics.partitions(Operation.DESCRIBE, wanted, turns), strict=True))
    answers: list[ListOffsetsTopicResponse] = []
    async for topic in turns.each(request.topics):
        partitions = []
        async for one in turns.each(topic.partitions):
            key = (topic.name, one.partition_index)
            if times[key] > 1:
                answer = _answer(one, ErrorCode.INVALID_REQUEST)
            elif key not in found:
                answer = _answer(one, ErrorCode.UNSUPPORTED_VERSION)
            else:
                answer = await _find(ctx, one, found[key], request.isolation_level != _READ_UNCOMMITTED)
            partitions.append(answer)
        answers.append(ListOffsetsTopicResponse(name=topic.name, partitions=partitions))
    return ListOffsetsResponse(topics=answers)


def _is_known(ctx: Context, asked: ListOffsetsPartition) -> bool:
    """Negative times are names; each belongs to the versions from some one on."""
    return asked.timestamp >= 0 or ctx.version >= FIRST_VERSIONS.get(asked.timestamp, ctx.version + 1)


async def _find(
    ctx: Context, asked: ListOffsetsPartition, partition: Partition | Refused, is_committed: bool
) -> ListOffsetsPartitionResponse:
    if isinstance(partition, Refused):
        return _answer(asked, partition.code)
    code = check_leader_epoch(partition, asked.current_leader_epoch)
    if code:
        return _answer(asked, code)
    end = partition.last_stable_offset if is_committed else partition.high_watermark
    if asked.timestamp == LATEST:
        return _answer(asked, offset=end, leader_epoch=partition.leader_epoch)
    if asked.timestamp in (EARLIEST, EARLIEST_LOCAL):
        start = partition.log_start_offset
        is_empty = start >= partition.high_watermark  # then the epoch of the record that may come
        epoch = partition.leader_epoch if is_empty else partition.epoch_at(start)
        return _answer(asked, offset=start, leader_epoch=epoch)
    if asked.timestamp in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        return _answer(asked)
    records = ctx.broker.records
    try:
        if asked.timestamp == MAX_TIMESTAMP:
            record = await records.offset_of_max_timestamp(partition)
        else:
            record = await records.offset_for_timestamp(partition, asked.timestamp)
    except StorageError as error:
        return _answer(asked, error.code)
    if record is None or record[0] >= end:
        return _answer(asked)
    offset, timestamp, epoch = record
    return _answer(asked, offset=offset, timestamp=timestamp, leader_epoch=epoch)


def _answer(
    asked: ListOffsetsPartition, error_code: int = 0, *, offset: int = -1, timestamp: int = -1, leader_epoch: int = -1
) -> ListOffsetsPartitionResponse:
    return ListOffsetsPartitionResponse(
        partition_index=asked.partition_index,
        error_code=error_code,
        offset=offset,
        timestamp=timestamp,
        leader_epoch=leader_epoch,
    )
