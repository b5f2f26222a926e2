"""DescribeLogDirs: what partitions hold, and how much room there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import Topic
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)


async def describe_log_dirs(ctx: Context, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    """Describe the one log directory: the data folder of the embedded PostgreSQL, or the address of the given one.

    Versions  1-5. 2 is the first flexible one, 3 has an error code for the whole, 4 the room on the disk (KIP-827),
              5 says whether the directory is cordoned (KIP-1066).
    Rules     - null for the topics means all; what is not there is left out, and no error
              - a partition's size is that of its records in Kafka's format, compressed as producers sent them
              - the room on the disk is -1 where the disk is another machine's
              - when the database does not answer: KAFKA_STORAGE_ERROR of the directory
              - without the right to describe the cluster: CLUSTER_AUTHORIZATION_FAILED, and no directory
    Not done  - several directories, offline and cordoned ones, replicas that move from one to another
    """
    ctx.doors.check(Operation.DESCRIBE, ResourceType.CLUSTER)
    turns = ctx.broker.turns
    door = ctx.doors.topics
    wanted: list[tuple[Topic, Sequence[int]]] = []
    if request.topics is None:
        async for topic in turns.each(door.seen(None)):  # the cluster's permission is enough
            wanted.append((topic, door.led(topic)))
    else:
        asked: dict[str, dict[int, None]] = {}
        async for named in turns.each(request.topics):
            asked.setdefault(named.topic, {}).update(dict.fromkeys(named.partitions))
        async for name, named_indexes in turns.each(asked.items()):
            found = door.find(None, name)
            if found is not None:
                led = set(door.led(found))
                wanted.append((found, [index for index in named_indexes if index in led]))
    try:
        sizes = await ctx.broker.records.sizes([topic for topic, _ in wanted])
    except StorageError:
        offline = DescribeLogDirsResult(log_dir=ctx.broker.log_dir.name, error_code=ErrorCode.KAFKA_STORAGE_ERROR)
        return DescribeLogDirsResponse(results=[offline])
    topics = []
    async for topic, indexes in turns.each(wanted):
        if indexes:
            topics.append(_topic(topic, indexes, sizes))
    return DescribeLogDirsResponse(results=[log_dir(ctx, topics)])


def log_dir(ctx: Context, topics: Sequence[DescribeLogDirsTopic] = ()) -> DescribeLogDirsResult:
    """The one directory, with what it holds of this broker's."""
    place = ctx.broker.log_dir
    room = place.room()
    total_bytes, usable_bytes = (-1, -1) if room is None else room
    return DescribeLogDirsResult(
        log_dir=place.name, topics=topics, total_bytes=total_bytes, usable_bytes=usable_bytes, is_cordoned=False
    )


def _topic(topic: Topic, indexes: Sequence[int], sizes: Mapping[tuple[int, int], int]) -> DescribeLogDirsTopic:
    return DescribeLogDirsTopic(
        name=topic.name,
        partitions=[
            DescribeLogDirsPartition(partition_index=index, partition_size=sizes.get((topic.id, index), 0))
            for index in indexes
        ],
    )


def failure(request: DescribeLogDirsRequest, code: int) -> DescribeLogDirsResponse:
    """What concerns the whole has a place since version 3; clients of older ones see a broker without directories."""
    return DescribeLogDirsResponse(error_code=code)
