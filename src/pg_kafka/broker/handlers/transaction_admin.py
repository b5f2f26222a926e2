"""What administrators ask about transactions: ListTransactions, DescribeTransactions, DescribeProducers; and
WriteTxnMarkers, by which they end one that nobody else ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pg_kafka.broker.context import Context
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.coordinator.topic_names import fault_of
from pg_kafka.coordinator.topic_regex import InvalidTopicRegex, matching
from pg_kafka.coordinator.transaction_steps import (
    COMPLETE_ABORT,
    COMPLETE_COMMIT,
    EMPTY,
    ONGOING,
    PREPARE_ABORT,
    PREPARE_COMMIT,
    Description,
)
from pg_kafka.errors import StorageError
from pg_kafka.storage.endings import Marker
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import describe_transactions as described
from pg_kafka.wire.messages import list_transactions as listed
from pg_kafka.wire.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.list_transactions import ListTransactionsRequest
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)

_STATES = frozenset(
    (EMPTY, ONGOING, PREPARE_COMMIT, PREPARE_ABORT, COMPLETE_COMMIT, COMPLETE_ABORT, "PrepareEpochFence", "Dead")
)
_NO_OFFSET = -1
_BUMPS_EPOCH = 2  # the version of transactions whose every end has an epoch of its own


# -- transactional ids ---------------------------------------------------------------------------------------------------


async def list_transactions(ctx: Context, request: ListTransactionsRequest) -> listed.ListTransactionsResponse:
    """Name the transactional ids.

    Versions  0-2. 1 filters by how long a transaction is open, 2 by a regular expression for the whole id (RE2).
    Rules     - several filters hold together; one that is empty lets all through
              - a state that does not exist is named in the answer, and none is in it
              - an expression that cannot be read is INVALID_REGULAR_EXPRESSION
    """
    transactions = ctx.doors.transactions.listed()
    states, producers = set(request.state_filters), set(request.producer_id_filters)
    steady_ms, duration_ms = ctx.doors.transactions.steady_ms(), request.duration_filter
    found = [
        one
        async for one in ctx.broker.turns.each(
            each.machine.describe() for each in transactions if not each.machine.is_blank
        )
        if (not states or one.state in states)
        and (not producers or one.producer_id in producers)
        and (duration_ms < 0 or steady_ms - one.started_ms > duration_ms)
    ]
    if request.transactional_id_pattern:
        try:
            named = matching(request.transactional_id_pattern, (one.transactional_id for one in found))
        except InvalidTopicRegex:
            return list_failure(request, ErrorCode.INVALID_REGULAR_EXPRESSION)
        found = [one for one in found if one.transactional_id in named]
    return listed.ListTransactionsResponse(
        unknown_state_filters=sorted(states - _STATES),
        transaction_states=[
            listed.TransactionState(
                transactional_id=one.transactional_id, producer_id=one.producer_id, transaction_state=one.state
            )
            for one in found
        ],
    )


def list_failure(request: ListTransactionsRequest, code: int) -> listed.ListTransactionsResponse:
    return listed.ListTransactionsResponse(error_code=code)


async def describe_transactions(
    ctx: Context, request: DescribeTransactionsRequest
) -> described.DescribeTransactionsResponse:
    """Describe transactional ids, each for itself.

    Versions  0.
    Rules     - an empty id is INVALID_REQUEST, one that is not there TRANSACTIONAL_ID_NOT_FOUND
              - topics that are gone are left out; what is shown is committed
              - one that is named twice is described once
    Not done  - partitions of `__consumer_offsets`, by which Kafka shows that offsets of some group are part of it
    """
    answers = []
    async for transactional_id in ctx.broker.turns.each(dict.fromkeys(request.transactional_ids)):
        try:
            room = ctx.doors.transactions.enter(Operation.DESCRIBE, transactional_id)
            if room.refusal:
                raise Refused(room.refusal, None)
        except Refused as refused:
            answers.append(_undescribed(transactional_id, refused.code))
            continue
        one = room.one
        if not transactional_id:
            answers.append(_undescribed(transactional_id, ErrorCode.INVALID_REQUEST))
        elif one is None or one.machine.is_blank:
            answers.append(_undescribed(transactional_id, ErrorCode.TRANSACTIONAL_ID_NOT_FOUND))
        else:
            answer = _described(ctx, one.machine.describe())
            code = await one.written()
            answers.append(_undescribed(transactional_id, code) if code else answer)
    return described.DescribeTransactionsResponse(transaction_states=answers)


def _described(ctx: Context, one: Description) -> described.TransactionState:
    by_topic: defaultdict[str, list[int]] = defaultdict(list)
    for topic_id, index in one.partitions:
        topic = ctx.doors.topics.numbered(Operation.DESCRIBE, topic_id)
        if topic is not None:
            by_topic[topic.name].append(index)
    return described.TransactionState(
        transactional_id=one.transactional_id,
        transaction_state=one.state,
        transaction_timeout_ms=one.timeout_ms,
        transaction_start_time_ms=one.started_ms,
        producer_id=one.producer_id,
        producer_epoch=one.producer_epoch,
        topics=[described.TopicData(topic=name, partitions=indexes) for name, indexes in by_topic.items()],
    )


def _undescribed(transactional_id: str, code: int) -> described.TransactionState:
    return described.TransactionState(transactional_id=transactional_id, error_code=code)


def describe_failure(request: DescribeTransactionsRequest, code: int) -> described.DescribeTransactionsResponse:
    return described.DescribeTransactionsResponse(
        transaction_states=[_undescribed(each, code) for each in request.transactional_ids]
    )


# -- producers of partitions ---------------------------------------------------------------------------------------------


async def describe_producers(ctx: Context, request: DescribeProducersRequest) -> DescribeProducersResponse:
    """Name the producers that partitions know, with where their open transactions begin.

    Versions  0.
    Rules     - a name that no topic can have is INVALID_TOPIC_EXCEPTION, an unknown topic or partition
                UNKNOWN_TOPIC_OR_PARTITION; each partition answers for itself
              - the coordinator's epoch is that of the last marker, -1 before the first
              - one that is named twice is answered once
    """
    turns = ctx.broker.turns
    keys = list(
        dict.fromkeys(
            (topic.name, index)
            for topic in request.topics
            if not fault_of(topic.name)
            for index in topic.partition_indexes
        )
    )
    found = dict(zip(keys, await ctx.doors.topics.partitions(Operation.READ, keys, turns), strict=True))
    answers = []
    async for topic in turns.each(request.topics):
        if fault := fault_of(topic.name):
            partitions = [
                PartitionResponse(
                    partition_index=index, error_code=ErrorCode.INVALID_TOPIC_EXCEPTION, error_message=fault
                )
                for index in topic.partition_indexes
            ]
        else:
            partitions = [
                _producers(partition, index)
                async for index in turns.each(topic.partition_indexes)
                if (partition := found.pop((topic.name, index), None)) is not None  # else named before
            ]
        answers.append(TopicResponse(name=topic.name, partitions=partitions))
    return DescribeProducersResponse(topics=answers)


def _producers(partition: Partition | Refused, index: int) -> PartitionResponse:
    if isinstance(partition, Refused):
        return PartitionResponse(partition_index=index, error_code=partition.code, error_message=partition.message)
    return PartitionResponse(
        partition_index=index,
        active_producers=[
            ProducerState(
                producer_id=producer_id,
                producer_epoch=window.epoch,
                last_sequence=window.batches[-1].last_sequence if window.batches else -1,
                last_timestamp=window.last_timestamp_ms,
                coordinator_epoch=window.coordinator_epoch,
                current_txn_start_offset=partition.open_transactions.get(producer_id, _NO_OFFSET),
            )
            for producer_id, window in partition.producers.items()
        ],
    )


def producers_failure(request: DescribeProducersRequest, code: int) -> DescribeProducersResponse:
    return DescribeProducersResponse(
        topics=[
            TopicResponse(
                name=topic.name,
                partitions=[
                    PartitionResponse(partition_index=index, error_code=code) for index in topic.partition_indexes
                ],
            )
            for topic in request.topics
        ]
    )


# -- WriteTxnMarkers -----------------------------------------------------------------------------------------------------


async def write_txn_markers(ctx: Context, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
    """Write markers into partitions, whatever the coordinator knows of their transactions.

    Kafka's brokers say this to each other; here only the administrator does whom `kafka-transactions.sh abort` serves.

    Versions  1-2. 1 is flexible, 2 tells the version of the transaction.
    Rules     - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION
              - an epoch below the producer's in the partition is INVALID_PRODUCER_EPOCH, of transactions of version 2
                also the same epoch; a producer id below 0 is INVALID_REQUEST
              - each partition answers for itself, when its marker is committed
    """
    if not ctx.doors.may(Operation.ALTER, ResourceType.CLUSTER):
        ctx.doors.check(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    return WriteTxnMarkersResponse(markers=[await _write(ctx, marker) for marker in request.markers])


async def _write(ctx: Context, asked: WritableTxnMarker) -> WritableTxnMarkerResult:
    keys = [(topic.name, index) for topic in asked.topics for index in topic.partition_indexes]
    codes: dict[tuple[str, int], int] = {}
    by_lane: defaultdict[int, dict[tuple[str, int], tuple[Partition, Marker]]] = defaultdict(dict)
    turns = ctx.broker.turns
    found = await ctx.doors.topics.partitions(None, keys, turns)
    async for key, partition in turns.each(zip(keys, found, strict=True)):
        if isinstance(partition, Refused):
            codes[key] = partition.code
        elif asked.producer_id < 0:
            codes[key] = int(ErrorCode.INVALID_REQUEST)
        elif _is_old(partition, asked):
            codes[key] = int(ErrorCode.INVALID_PRODUCER_EPOCH)
        else:
            place = (partition.topic.id, partition.index)
            producer = (asked.producer_id, asked.producer_epoch)
            marker = Marker(*place, *producer, asked.transaction_result, asked.coordinator_epoch)
            by_lane[ctx.doors.topics.lane_of(partition)][key] = (partition, marker)
    waiting = [
        (pairs, ctx.doors.transactions.write_markers(lane, list(pairs.values()))) for lane, pairs in by_lane.items()
    ]
    for pairs, written in waiting:
        try:
            await written
        except StorageError as error:
            codes |= dict.fromkeys(pairs, ErrorCode.NOT_LEADER_OR_FOLLOWER if error.retriable else error.code)
        else:
            codes |= dict.fromkeys(pairs, int(ErrorCode.NONE))
            _note(ctx, asked, pairs)
    return WritableTxnMarkerResult(
        producer_id=asked.producer_id,
        topics=[
            WritableTxnMarkerTopicResult(
                name=topic.name,
                partitions=[
                    WritableTxnMarkerPartitionResult(partition_index=index, error_code=codes[topic.name, index])
                    for index in topic.partition_indexes
                ],
            )
            for topic in asked.topics
        ],
    )


def _note(ctx: Context, asked: WritableTxnMarker, keys: Iterable[tuple[str, int]]) -> None:
    places = ", ".join(f"{name}-{index}" for name, index in keys)
    ctx.broker.audit.note(
        "transaction committed" if asked.transaction_result else "transaction aborted",
        who=ctx.connection,
        resource=f"producer id {asked.producer_id}",
        detail=f"epoch {asked.producer_epoch}, markers in {places}",
    )


def _is_old(partition: Partition, asked: WritableTxnMarker) -> bool:
    window = partition.producers.get(asked.producer_id)
    least = 0 if window is None else window.epoch + (asked.transaction_version >= _BUMPS_EPOCH)
    return asked.producer_epoch < least


def markers_failure(request: WriteTxnMarkersRequest, code: int) -> WriteTxnMarkersResponse:
    return WriteTxnMarkersResponse(
        markers=[
            WritableTxnMarkerResult(
                producer_id=asked.producer_id,
                topics=[
                    WritableTxnMarkerTopicResult(
                        name=topic.name,
                        partitions=[
                            WritableTxnMarkerPartitionResult(partition_index=index, error_code=code)
                            for index in topic.partition_indexes
                        ],
                    )
                    for topic in asked.topics
                ],
            )
            for asked in request.markers
        ]
    )
