"""DeleteRecords: let partitions begin later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation
from pg_kafka.broker.refusals import Refused
from pg_kafka.coordinator import topic_names
from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)

HIGH_WATERMARK = -1
_NO_LOW_WATERMARK = -1

_Key = tuple[str, int]


async def delete_records(ctx: Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    """Move the log start of partitions forward: records below the given offsets are gone.

    Versions  0-2. 2 is the first flexible one.
    Rules     - offset -1 means the high watermark; other negative ones, and one above it, are OFFSET_OUT_OF_RANGE
              - one at or below the log start changes nothing; the answer is where the partition begins afterwards
              - records of a topic that is compacted and not deleted from (cleanup.policy) are kept: POLICY_VIOLATION
              - Kafka's internal topics, if somebody has made topics of these names: INVALID_TOPIC_EXCEPTION
              - each partition answers for itself; of one that is named twice the last offset counts
              - the answer comes when the new starts are committed; readers that stand before them get OFFSET_OUT_OF_RANGE
    Not done  - the timeout: the answer comes when PostgreSQL has committed
    """
    broker, turns = ctx.broker, ctx.broker.turns
    asked: dict[_Key, int] = {}
    async for topic in turns.each(request.topics):
        async for one in turns.each(topic.partitions):
            asked[topic.name, one.partition_index] = one.offset
    found = await ctx.doors.topics.partitions(Operation.DELETE, list(asked), turns)
    results: dict[_Key, int | Refused] = {}
    wanted: list[tuple[_Key, Partition, int]] = []
    async for (key, offset), partition in turns.each(zip(asked.items(), found, strict=True)):
        try:
            if isinstance(partition, Refused):
                raise partition
            wanted.append((key, partition, _checked(partition, offset)))
        except Refused as refused:
            results[key] = refused
    if wanted:
        try:
            starts = await broker.records.delete_records([(partition, offset) for _, partition, offset in wanted])
        except StorageError as error:
            starts = [error] * len(wanted)
        for (key, _, _), start in zip(wanted, starts, strict=True):
            results[key] = Refused(start.code, start.message) if isinstance(start, StorageError) else start
        _note(ctx, results)
    topics: dict[str, list[DeleteRecordsPartitionResult]] = {}
    async for (name, index), result in turns.each((key, results[key]) for key in asked):
        topics.setdefault(name, []).append(_answer(index, result))
    return DeleteRecordsResponse(
        topics=[DeleteRecordsTopicResult(name=name, partitions=partitions) for name, partitions in topics.items()]
    )


def _note(ctx: Context, results: Mapping[_Key, int | Refused]) -> None:
    by_topic: defaultdict[str, list[str]] = defaultdict(list)
    for (name, index), result in results.items():
        if not isinstance(result, Refused):
            by_topic[name].append(f"{index} begins at {result}")
    for name, said in by_topic.items():
        ctx.broker.audit.note(
            "records deleted", who=ctx.connection, resource=f"topic {name}", detail="partitions: " + ", ".join(said)
        )


def _checked(partition: Partition, offset: int) -> int:
    """Where the partition is to begin. Raises Refused."""
    topic = partition.topic
    if topic.name in topic_names.INTERNAL_TOPICS:
        raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"records of internal topic {topic.name} cannot be deleted")
    if not topic.settings.allows_delete_records:
        raise Refused(ErrorCode.POLICY_VIOLATION, f"cleanup.policy of {topic.name} keeps the latest of each key")
    start = partition.high_watermark if offset == HIGH_WATERMARK else offset
    if not 0 <= start <= partition.high_watermark:
        message = f"{offset} was asked for, {partition} ends at {partition.high_watermark}"
        raise Refused(ErrorCode.OFFSET_OUT_OF_RANGE, message)
    return start


def _answer(index: int, result: int | Refused) -> DeleteRecordsPartitionResult:
    if isinstance(result, Refused):
        return DeleteRecordsPartitionResult(
            partition_index=index, low_watermark=_NO_LOW_WATERMARK, error_code=result.code
        )
    return DeleteRecordsPartitionResult(partition_index=index, low_watermark=result)


def failure(request: DeleteRecordsRequest, code: int) -> DeleteRecordsResponse:
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(
                name=topic.name,
                partitions=[_answer(one.partition_index, Refused(code, None)) for one in topic.partitions],
            )
            for topic in request.topics
        ]
    )
