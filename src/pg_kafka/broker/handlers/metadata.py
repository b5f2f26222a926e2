"""Metadata and DescribeTopicPartitions: brokers, topics, partitions and who leads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import NewTopic, Topic
from pg_kafka.broker.handlers.authorized import NOT_ASKED
from pg_kafka.broker.handlers.topics import note_created
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.coordinator import topic_names
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
    ResponseCursor,
)
from pg_kafka.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

# Topics that one request may create by asking for them; the next request creates the next ones.
MAX_AUTO_CREATED = 1000
# Kafka's max.request.partition.size.limit.
MAX_PARTITIONS_DESCRIBED = 2000

_SINCE_NULL_MEANS_ALL = 1
_SINCE_IDS_ARE_SERVED = 12


async def metadata(ctx: Context, request: MetadataRequest) -> MetadataResponse:
    """Describe the cluster and the topics asked for.

    Versions  0-13. 9 is the first flexible one; topics by id from 12 on.
    Rules     - all topics: null, but in version 0 an empty list; from 1 on an empty list is no topic
              - one id makes ids count and names without an id not; in 10 and 11 ids are INVALID_REQUEST
              - an unknown name is created when both client and broker allow it, and answered at once
              - none is created while the client's controller_mutation_rate is used up
              - an invalid name is INVALID_TOPIC_EXCEPTION, an unknown id UNKNOWN_TOPIC_ID
              - internal topics are never created this way, nor those that collide with another
              - a topic named twice is answered once
              - brokers that wait for the end of this one are named too; they lead nothing
    Not done  - several replicas: each partition has one, PostgreSQL replicates
              - racks
    """
    broker = ctx.broker
    topics: list[MetadataResponseTopic]
    if request.topics is None or (not request.topics and ctx.version < _SINCE_NULL_MEANS_ALL):
        seen = ctx.doors.topics.seen(Operation.DESCRIBE)
        topics = [_described(ctx, topic, request) async for topic in broker.turns.each(seen)]
    elif any(_is_id(wanted) for wanted in request.topics):
        if ctx.version < _SINCE_IDS_ARE_SERVED:
            return metadata_failure(request, ErrorCode.INVALID_REQUEST)
        topics = await _by_id(ctx, request)
    elif any(wanted.name is None for wanted in request.topics):
        return metadata_failure(request, ErrorCode.INVALID_REQUEST)
    else:
        topics = await _by_name(ctx, request)
    host, port = broker.advertised(ctx.connection)
    return MetadataResponse(
        brokers=[
            MetadataResponseBroker(node_id=broker.node_id, host=host, port=port),
            *(
                MetadataResponseBroker(node_id=other, host=host, port=port)
                for other, host, port in broker.others(ctx.connection)
            ),
        ],
        cluster_id=broker.cluster_id,
        controller_id=broker.node_id,
        topics=topics,
        cluster_authorized_operations=ctx.doors.cluster_operations()
        if request.include_cluster_authorized_operations
        else NOT_ASKED,
    )


def metadata_failure(request: MetadataRequest, code: int) -> MetadataResponse:
    """Every topic asked for has the error; version 13 has it for the whole as well."""
    topics = [
        MetadataResponseTopic(error_code=code, name=wanted.name or "", topic_id=wanted.topic_id)
        for wanted in request.topics or ()
    ]
    return MetadataResponse(topics=topics, error_code=code)


def _is_id(wanted: MetadataRequestTopic) -> bool:
    return wanted.topic_id != ZERO_UUID


async def _by_id(ctx: Context, request: MetadataRequest) -> list[MetadataResponseTopic]:
    answers = []
    ids = dict.fromkeys(wanted.topic_id for wanted in request.topics or () if _is_id(wanted))
    async for topic_id in ctx.broker.turns.each(ids):
        try:
            topic = ctx.doors.topics.find(Operation.DESCRIBE, topic_id)
        except Refused as refused:
            answers.append(MetadataResponseTopic(error_code=refused.code, name=None, topic_id=topic_id))
            continue
        if topic is not None:
            answers.append(_described(ctx, topic, request))
        else:
            answers.append(MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_ID, name=None, topic_id=topic_id))
    return answers


async def _by_name(ctx: Context, request: MetadataRequest) -> list[MetadataResponseTopic]:
    broker = ctx.broker
    names = list(dict.fromkeys(wanted.name or "" for wanted in request.topics or ()))
    if request.allow_auto_topic_creation and broker.config.auto_create_topics_enable:
        denied = await _create_missing(ctx, names)
    else:
        denied = frozenset()
    answers = []
    async for name in broker.turns.each(names):
        try:
            topic = ctx.doors.topics.find(Operation.DESCRIBE, name)
            if topic is None and name in denied:
                raise Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, None)
        except Refused as refused:
            answers.append(MetadataResponseTopic(error_code=refused.code, name=name))
            continue
        if topic is not None:
            answers.append(_described(ctx, topic, request))
            continue
        is_valid = topic_names.fault_of(name) is None
        answers.append(
            MetadataResponseTopic(
                error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_valid else ErrorCode.INVALID_TOPIC_EXCEPTION,
                name=name,
                is_internal=name in topic_names.INTERNAL_TOPICS,
                topic_authorized_operations=_operations(ctx, name, request),
            )
        )
    return answers


async def _create_missing(ctx: Context, names: Iterable[str]) -> frozenset[str]:
    """Create those topics that are not there and may be; somebody else may be creating them at the same moment.

    The names of those that the client may not create.
    """
    topics = ctx.doors.topics
    absent = [name for name in names if topics.may(Operation.DESCRIBE, name) and not topics.is_taken(name)]
    denied = frozenset(name for name in absent if not topics.may_create(name))
    missing = [
        NewTopic(name, ctx.broker.config.num_partitions, {})
        async for name in ctx.broker.turns.each([name for name in absent if name not in denied][:MAX_AUTO_CREATED])
        if topic_names.fault_of(name) is None
        and name not in topic_names.INTERNAL_TOPICS
        and name != topic_names.METADATA_TOPIC
        and topics.collision(name) is None
    ]
    mutations = ctx.mutations()
    missing = [topic for topic in missing if mutations.may(topic.partitions)]
    if missing:
        for topic, outcome in zip(missing, await topics.create(missing), strict=True):
            if not isinstance(outcome, int):
                note_created(ctx, topic)
    return denied


def _operations(ctx: Context, name: str, request: MetadataRequest) -> int:
    return ctx.doors.operations(ResourceType.TOPIC, name) if request.include_topic_authorized_operations else NOT_ASKED


def _described(ctx: Context, topic: Topic, request: MetadataRequest) -> MetadataResponseTopic:
    broker = ctx.broker
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.uuid,
        is_internal=topic.name in topic_names.INTERNAL_TOPICS,
        partitions=_partitions(topic.partitions, broker.node_id, broker.epoch),
        topic_authorized_operations=_operations(ctx, topic.name, request),
    )


@lru_cache(maxsize=64)
def _partitions(count: int, node_id: int, epoch: int) -> Sequence[MetadataResponsePartition]:
    """The same for all topics of this many partitions: this broker leads, in the one epoch of its incarnation."""
    nodes = (node_id,)
    return tuple(
        MetadataResponsePartition(
            partition_index=index, leader_id=node_id, leader_epoch=epoch, replica_nodes=nodes, isr_nodes=nodes
        )
        for index in range(count)
    )


async def describe_topic_partitions(
    ctx: Context, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse:
    """Describe topics page by page (KIP-966).

    Versions  0.
    Rules     - no topic named means all; topics are answered in the order of their names, each once
              - the cursor's topic must be among the named ones and its partition not negative: INVALID_REQUEST
              - a page has at most response_partition_limit partitions, 2000 at most and 1 at least
              - an unknown name is UNKNOWN_TOPIC_OR_PARTITION, an invalid one INVALID_TOPIC_EXCEPTION
    Not done  - eligible leader replicas: always empty
    """
    cursor = request.cursor
    wanted = {topic.name for topic in request.topics}
    if cursor is not None and (cursor.partition_index < 0 or (wanted and cursor.topic_name not in wanted)):
        return describe_topic_partitions_failure(request, ErrorCode.INVALID_REQUEST)
    room = min(max(request.response_partition_limit, 1), MAX_PARTITIONS_DESCRIBED)
    response = DescribeTopicPartitionsResponse()
    answers: list[DescribeTopicPartitionsResponseTopic] = []
    topics = ctx.doors.topics
    for name in sorted(wanted or (topic.name for topic in topics.seen(Operation.DESCRIBE))):
        if cursor is not None and name < cursor.topic_name:
            continue
        if room <= 0:
            response.next_cursor = ResponseCursor(topic_name=name, partition_index=0)
            break
        try:
            topic = topics.find(Operation.DESCRIBE, name)
        except Refused as refused:
            answers.append(DescribeTopicPartitionsResponseTopic(error_code=refused.code, name=name))
            continue
        first = cursor.partition_index if cursor is not None and name == cursor.topic_name else 0
        answers.append(_described_page(ctx, name, topic, first, room))
        if topic is None:
            continue
        if topic.partitions - first > room:
            response.next_cursor = ResponseCursor(topic_name=name, partition_index=first + room)
            break
        room -= max(topic.partitions - first, 0)
    response.topics = answers
    return response


def _described_page(
    ctx: Context, name: str, topic: Topic | None, first: int, room: int
) -> DescribeTopicPartitionsResponseTopic:
    answer = DescribeTopicPartitionsResponseTopic(
        name=name,
        is_internal=name in topic_names.INTERNAL_TOPICS,
        topic_authorized_operations=ctx.doors.operations(ResourceType.TOPIC, name),
    )
    if topic is None:
        is_valid = topic_names.fault_of(name) is None
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_valid else ErrorCode.INVALID_TOPIC_EXCEPTION
        return answer
    broker = ctx.broker
    nodes = (broker.node_id,)
    answer.topic_id = topic.uuid
    answer.partitions = [
        DescribeTopicPartitionsResponsePartition(
            partition_index=index,
            leader_id=broker.node_id,
            leader_epoch=broker.epoch,
            replica_nodes=nodes,
            isr_nodes=nodes,
            eligible_leader_replicas=(),
            last_known_elr=(),
        )
        for index in range(first, min(topic.partitions, first + room))
    ]
    return answer


def describe_topic_partitions_failure(
    request: DescribeTopicPartitionsRequest, code: int
) -> DescribeTopicPartitionsResponse:
    return DescribeTopicPartitionsResponse(
        topics=[DescribeTopicPartitionsResponseTopic(error_code=code, name=topic.name) for topic in request.topics]
    )
