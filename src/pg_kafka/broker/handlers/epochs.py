"""OffsetForLeaderEpoch: where an epoch of a partition's log ended."""

from __future__ import annotations

from pg_kafka.broker.context import Context
from pg_kafka.broker.partitions import check_leader_epoch
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

_NO_EPOCH = -1


async def offset_for_leader_epoch(ctx: Context, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse:
    """Tell clients up to where the log that they know is still the log (KIP-320).

    Versions  2-4. 4 is the first flexible one.
    Rules     - the answer is the largest epoch not above the one asked for, and the offset after its last record
              - epoch -1 is none: epoch and offset -1
              - the current epoch ends at the high watermark; a newer one is unknown: epoch and offset -1
              - current_leader_epoch older than ours is FENCED_LEADER_EPOCH, newer UNKNOWN_LEADER_EPOCH
              - each partition answers for itself
    """
    keys = [(topic.topic, one.partition) for topic in request.topics for one in topic.partitions]
    turns = ctx.broker.turns
    may_all = ctx.doors.may(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    found = iter(await ctx.doors.topics.partitions(None if may_all else Operation.DESCRIBE, keys, turns))
    answers = []
    async for topic in turns.each(request.topics):
        partitions = [_end_of_epoch(one, next(found)) async for one in turns.each(topic.partitions)]
        answers.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return OffsetForLeaderEpochResponse(topics=answers)


def _end_of_epoch(asked: OffsetForLeaderPartition, partition: Partition | Refused) -> EpochEndOffset:
    if isinstance(partition, Refused):
        return EpochEndOffset(partition=asked.partition, error_code=partition.code)
    code = check_leader_epoch(partition, asked.current_leader_epoch)
    if code:
        return EpochEndOffset(partition=asked.partition, error_code=code)
    if asked.leader_epoch == _NO_EPOCH:
        return EpochEndOffset(partition=asked.partition)
    epoch, end = partition.end_of_epoch(asked.leader_epoch)
    return EpochEndOffset(partition=asked.partition, leader_epoch=epoch, end_offset=end)
