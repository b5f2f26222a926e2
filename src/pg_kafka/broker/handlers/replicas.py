"""Where replicas are and which of them leads: ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments,
AlterReplicaLogDirs.

Each partition has one replica, on the broker that leads, in the database; PostgreSQL replicates. So nothing can be moved
and there is nobody else to elect: these APIs say so for what is there, and what is wrong for what is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)
from pg_kafka.wire.messages.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)
from pg_kafka.wire.messages.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from pg_kafka.wire.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)

_ELECTION_TYPES = (0, 1)  # preferred, unclean

_Answer = tuple[ErrorCode, str | None]
_NONE: _Answer = (ErrorCode.NONE, None)
_NOT_NEEDED: _Answer = (ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
_NOT_IN_PROGRESS: _Answer = (ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, None)


async def elect_leaders(ctx: Context, request: ElectLeadersRequest) -> ElectLeadersResponse:
    """Elect leaders: of each partition its one replica leads.

    Versions  0-2. 1 has unclean elections too (KIP-460), 2 is flexible.
    Rules     - each partition that is there is ELECTION_NOT_NEEDED, others are UNKNOWN_TOPIC_OR_PARTITION
              - all partitions (null): topics are named, and no partition, as none needs an election
              - another kind of election is INVALID_REQUEST, for the whole and for each partition
    """
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    if request.election_type not in _ELECTION_TYPES:
        return _not_elected(request, ErrorCode.INVALID_REQUEST, f"Unknown election type {request.election_type}")
    turns = ctx.broker.turns
    if request.topic_partitions is None:
        names = [topic.name for topic in ctx.doors.topics.seen(None)]
        return ElectLeadersResponse(
            replica_election_results=[ReplicaElectionResult(topic=name) async for name in turns.each(names)]
        )
    results = []
    async for asked in turns.each(request.topic_partitions):
        topic = ctx.doors.topics.find(None, asked.topic)
        answers = []
        async for index in turns.each(asked.partitions):
            if topic is None:
                answer: _Answer = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such topic as {asked.topic}")
            elif not 0 <= index < topic.partitions:
                answer = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such partition as {asked.topic}-{index}")
            else:
                answer = _NOT_NEEDED
            answers.append(PartitionResult(partition_id=index, error_code=answer[0], error_message=answer[1]))
        results.append(ReplicaElectionResult(topic=asked.topic, partition_result=answers))
    return ElectLeadersResponse(replica_election_results=results)


def elect_failure(request: ElectLeadersRequest, code: int) -> ElectLeadersResponse:
    return _not_elected(request, code)


def _not_elected(request: ElectLeadersRequest, code: int, message: str | None = None) -> ElectLeadersResponse:
    return ElectLeadersResponse(
        error_code=code,
        replica_election_results=[
            ReplicaElectionResult(
                topic=topic.topic,
                partition_result=[
                    PartitionResult(partition_id=index, error_code=code, error_message=message)
                    for index in topic.partitions
                ],
            )
            for topic in request.topic_partitions or ()
        ],
    )


async def alter_partition_reassignments(
    ctx: Context, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    """Move partitions to other brokers, or stop doing so: they can only stay.

    Versions  0-1. Both are flexible; 1 can forbid changes of the replication factor.
    Rules     - the broker that leads, alone, is where a partition is: nothing is done, and that succeeds
              - no replica, a replica twice, and a broker that is not there are INVALID_REPLICA_ASSIGNMENT; so is a broker
                that waits, as it has no partitions
              - to stop a reassignment (null) is NO_REASSIGNMENT_IN_PROGRESS
              - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION
              - each partition answers for itself
    Not done  - moving partitions: each has one replica, on the broker that leads
    """
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    turns = ctx.broker.turns
    responses = []
    async for asked in turns.each(request.topics):
        topic = ctx.doors.topics.find(None, asked.name)
        answers = []
        async for one in turns.each(asked.partitions):
            if topic is None:
                answer: _Answer = (
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                    f"Unable to find a topic named {asked.name}.",
                )
            elif not 0 <= one.partition_index < topic.partitions:
                answer = (
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                    f"Unable to find partition {asked.name}:{one.partition_index}.",
                )
            else:
                answer = _reassigned(ctx, one)
            answers.append(
                ReassignablePartitionResponse(
                    partition_index=one.partition_index, error_code=answer[0], error_message=answer[1]
                )
            )
        responses.append(ReassignableTopicResponse(name=asked.name, partitions=answers))
    return AlterPartitionReassignmentsResponse(
        allow_replication_factor_change=request.allow_replication_factor_change,
        error_message=None if request.topics else "",  # the field's default, which Kafka leaves there
        responses=responses,
    )


def _reassigned(ctx: Context, wanted: ReassignablePartition) -> _Answer:
    """What becomes of moving a partition that is there."""
    if wanted.replicas is None:
        return _NOT_IN_PROGRESS
    if (fault := _fault_of_replicas(ctx, wanted.replicas)) is not None:
        return ErrorCode.INVALID_REPLICA_ASSIGNMENT, fault
    return _NONE


def _fault_of_replicas(ctx: Context, replicas: Sequence[int]) -> str | None:
    """The first fault of those that Kafka's controller finds, in its words, and then of our own."""
    if not replicas:
        return "The manual partition assignment includes an empty replica list."
    leader, others = ctx.broker.node_id, {peer.node_id for peer in ctx.broker.waiting()}
    before = None
    for replica in sorted(replicas):
        if replica != leader and replica not in others:
            return f"The manual partition assignment includes broker {replica}, but no such broker is registered."
        if replica == before:
            return f"The manual partition assignment includes the broker {replica} more than once."
        before = replica
    if list(replicas) != [leader]:
        return (
            f"Each partition has one replica, on the broker that leads ({leader}); PostgreSQL replicates. Brokers that "
            "wait for its end have none."
        )
    return None


def alter_failure(request: AlterPartitionReassignmentsRequest, code: int) -> AlterPartitionReassignmentsResponse:
    return AlterPartitionReassignmentsResponse(
        error_code=code,
        responses=[
            ReassignableTopicResponse(
                name=topic.name,
                partitions=[
                    ReassignablePartitionResponse(partition_index=one.partition_index, error_code=code)
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


async def list_partition_reassignments(
    ctx: Context, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    """List partitions that are being moved: there are none, ever.

    Versions  0.
    Rules     - unknown topics and partitions are no error, as in Kafka
    """
    ctx.doors.check(Operation.DESCRIBE, ResourceType.CLUSTER)
    return ListPartitionReassignmentsResponse()


def list_failure(request: ListPartitionReassignmentsRequest, code: int) -> ListPartitionReassignmentsResponse:
    return ListPartitionReassignmentsResponse(error_code=code)


async def alter_replica_log_dirs(ctx: Context, request: AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse:
    """Move replicas to other directories of a broker: there is one, the database.

    Versions  1-2. 2 is flexible.
    Rules     - the directory that DescribeLogDirs names is where they are: nothing is done, and that succeeds
              - any other directory is LOG_DIR_NOT_FOUND
              - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION
              - a topic that several directories are asked for is answered once, a partition by its last mention
    """
    ctx.doors.check(Operation.ALTER, ResourceType.CLUSTER)
    turns = ctx.broker.turns
    codes: dict[str, dict[int, int]] = {}
    async for dir_ in turns.each(request.dirs):
        async for asked in turns.each(dir_.topics):
            of_topic = codes.setdefault(asked.name, {})
            async for index in turns.each(asked.partitions):
                of_topic[index] = _code_of_move(ctx, dir_.path, asked.name, index)
    return AlterReplicaLogDirsResponse(
        results=[
            AlterReplicaLogDirTopicResult(
                topic_name=name,
                partitions=[
                    AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code)
                    for index, code in of_topic.items()
                ],
            )
            for name, of_topic in codes.items()
        ]
    )


def _code_of_move(ctx: Context, path: str, topic: str, index: int) -> int:
    if path != ctx.broker.log_dir.name:
        return int(ErrorCode.LOG_DIR_NOT_FOUND)
    try:
        ctx.doors.topics.with_partition(None, topic, index)
    except Refused as refused:
        return int(refused.code)
    return int(ErrorCode.NONE)


def dirs_failure(request: AlterReplicaLogDirsRequest, code: int) -> AlterReplicaLogDirsResponse:
    return AlterReplicaLogDirsResponse(
        results=[
            AlterReplicaLogDirTopicResult(
                topic_name=topic.name,
                partitions=[
                    AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code)
                    for index in topic.partitions
                ],
            )
            for dir_ in request.dirs
            for topic in dir_.topics
        ]
    )
