"""What transactional producers ask of the coordinator: AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn.

A transaction's rules are in its machine (`coordinator/transactions.py`); here is what comes before them: ids that cannot
be, topics that are not there, and errors in each API's own form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import GroupRoom, Topic, TransactionRoom, can_be_id
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.coordinator.group_offsets import check_metadata
from pg_kafka.coordinator.transaction_steps import PendingOffset, Registration
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from pg_kafka.wire.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)
from pg_kafka.wire.messages.end_txn import EndTxnRequest, EndTxnResponse
from pg_kafka.wire.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

_NONE = int(ErrorCode.NONE)
_SINCE_TRANSACTIONS = 4  # in AddPartitionsToTxn
_SINCE_LOADING = 2  # in TxnOffsetCommit
_SINCE_TOPIC_IDS = _SINCE_GROUP_ERRORS = 6  # in TxnOffsetCommit


# -- AddPartitionsToTxn --------------------------------------------------------------------------------------------------


async def add_partitions_to_txn(ctx: Context, request: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse:
    """Make partitions part of a transaction, which begins when there is none.

    Versions  0-5. 2 knows PRODUCER_FENCED (KIP-588), 3 is flexible, 4 has many transactions and verify_only (KIP-890).
    Rules     - an empty transactional id is INVALID_REQUEST, one that is not known INVALID_PRODUCER_ID_MAPPING
              - when a topic or partition is not there, that is UNKNOWN_TOPIC_OR_PARTITION, and all others of the
                transaction are OPERATION_NOT_ATTEMPTED
              - all else is the transaction's: `coordinator/transactions.py`
              - the answer comes when it is committed
    """
    if ctx.version >= _SINCE_TRANSACTIONS:
        # Brokers ask so, for clients whom they have asked for their permissions.
        ctx.doors.check(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
        return AddPartitionsToTxnResponse(
            results_by_transaction=[
                AddPartitionsToTxnResult(
                    transactional_id=transaction.transactional_id, topic_results=await _add(ctx, transaction)
                )
                for transaction in request.transactions
            ]
        )
    only = AddPartitionsToTxnTransaction(
        transactional_id=request.v3_and_below_transactional_id,
        producer_id=request.v3_and_below_producer_id,
        producer_epoch=request.v3_and_below_producer_epoch,
        topics=request.v3_and_below_topics,
    )
    return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=await _add(ctx, only))


async def _add(ctx: Context, asked: AddPartitionsToTxnTransaction) -> list[AddPartitionsToTxnTopicResult]:
    places: dict[tuple[str, int], Registration] = {}
    codes: dict[tuple[str, int], int] = {}
    turns = ctx.broker.turns
    is_clients = ctx.version < _SINCE_TRANSACTIONS
    try:
        door = ctx.doors.transactions
        room = (
            door.enter(Operation.WRITE, asked.transactional_id) if is_clients else door.entered(asked.transactional_id)
        )
    except Refused as refused:
        codes = {(topic.name, index): refused.code for topic in asked.topics for index in topic.partitions}
        return [_added(topic, codes) async for topic in turns.each(asked.topics)]
    async for topic_asked in turns.each(asked.topics):
        denied = None
        try:
            topic = ctx.doors.topics.find(Operation.WRITE if is_clients else None, topic_asked.name)
        except Refused as refused:
            topic, denied = None, refused.code
        async for index in turns.each(topic_asked.partitions):
            if denied is not None:
                codes[topic_asked.name, index] = denied
            elif topic is None or not 0 <= index < topic.partitions:
                codes[topic_asked.name, index] = int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            else:
                places[topic_asked.name, index] = (topic.id, index, _high_watermark(ctx, topic, index))
    if codes:
        codes |= dict.fromkeys(places, int(ErrorCode.OPERATION_NOT_ATTEMPTED))
    elif not asked.transactional_id:
        codes = dict.fromkeys(places, int(ErrorCode.INVALID_REQUEST))
    elif asked.verify_only:
        codes = _verify(room, asked, places)
    else:
        step = await room.step(
            lambda machine, _fresh: machine.add_partitions(
                asked.producer_id,
                asked.producer_epoch,
                list(places.values()),
                version=ctx.version,
                steady_ms=room.steady_ms(),
            ),
        )
        codes = dict.fromkeys(places, int(step.error))
    return [_added(topic, codes) async for topic in turns.each(asked.topics)]


def _high_watermark(ctx: Context, topic: Topic, index: int) -> int:
    partition = ctx.doors.topics.loaded(topic, index)
    return -1 if partition is None else partition.high_watermark


def _verify(
    room: TransactionRoom, asked: AddPartitionsToTxnTransaction, places: Mapping[tuple[str, int], Registration]
) -> dict[tuple[str, int], int]:
    one = room.one
    if room.refusal or one is None:
        return dict.fromkeys(places, int(room.refusal or ErrorCode.INVALID_PRODUCER_ID_MAPPING))
    wanted = {place: (topic_id, index) for place, (topic_id, index, _) in places.items()}
    codes = one.machine.verify_partitions(asked.producer_id, asked.producer_epoch, wanted.values())
    return {place: codes[partition] for place, partition in wanted.items()}


def _added(topic: AddPartitionsToTxnTopic, codes: Mapping[tuple[str, int], int]) -> AddPartitionsToTxnTopicResult:
    return AddPartitionsToTxnTopicResult(
        name=topic.name,
        results_by_partition=[
            AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=codes[topic.name, index])
            for index in topic.partitions
        ],
    )


def partitions_failure(request: AddPartitionsToTxnRequest, code: int) -> AddPartitionsToTxnResponse:
    """In the form of all versions: from 4 on there is one code for the whole request."""
    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[
            _added(topic, {(topic.name, index): int(code) for index in topic.partitions})
            for topic in request.v3_and_below_topics
        ],
        error_code=code,
    )


# -- AddOffsetsToTxn -----------------------------------------------------------------------------------------------------


async def add_offsets_to_txn(ctx: Context, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse:
    """Say that offsets of a group will be part of a transaction, which begins when there is none.

    Versions  0-4. 2 knows PRODUCER_FENCED (KIP-588), 3 is flexible.
    Rules     - an empty transactional id is INVALID_REQUEST, one that is not known INVALID_PRODUCER_ID_MAPPING
              - a group id with a NUL or of more than 2,000 bytes is INVALID_GROUP_ID
              - all else is the transaction's: `coordinator/transactions.py`
              - the answer comes when it is committed
    """
    room = ctx.doors.transactions.enter(Operation.WRITE, request.transactional_id)
    ctx.doors.groups.check(Operation.READ, request.group_id)
    if not request.transactional_id:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    if not can_be_id(request.group_id):
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    step = await room.step(
        lambda machine, _fresh: machine.add_offsets(
            request.producer_id,
            request.producer_epoch,
            request.group_id,
            version=ctx.version,
            steady_ms=room.steady_ms(),
        ),
    )
    return AddOffsetsToTxnResponse(error_code=step.error)


def offsets_failure(request: AddOffsetsToTxnRequest, code: int) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(error_code=code)


# -- TxnOffsetCommit -----------------------------------------------------------------------------------------------------


async def txn_offset_commit(ctx: Context, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse:
    """Commit offsets of a group with a transaction: they are the group's when it commits.

    Versions  0-6. 2 has leader epochs, 3 members and generations (KIP-447) and is flexible, 4 knows
              TRANSACTION_ABORTABLE, 5 makes the group part of the transaction by itself (KIP-890), 6 names topics by id
              and tells errors of groups apart (KIP-1319).
    Rules     - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION, an unknown id UNKNOWN_TOPIC_ID
              - an empty group id, or one that cannot be, is INVALID_GROUP_ID
              - the transaction comes first, then the group checks member and generation or epoch, where that is named:
                UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, STALE_MEMBER_EPOCH (before version 6 that is
                ILLEGAL_GENERATION too); its error is that of all other partitions
              - a group that is not there is made, as one without members; with a generation it is GROUP_ID_NOT_FOUND,
                before version 6 ILLEGAL_GENERATION
              - metadata longer than offset.metadata.max.bytes is OFFSET_METADATA_TOO_LARGE
              - while something is loaded COORDINATOR_LOAD_IN_PROGRESS, below version 2 COORDINATOR_NOT_AVAILABLE
    """
    broker = ctx.broker
    by_id = ctx.version >= _SINCE_TOPIC_IDS
    codes: dict[tuple[str | UUID, int], int] = {}
    found: list[tuple[Topic, TxnOffsetCommitRequestPartition]] = []
    room = ctx.doors.transactions.enter(Operation.WRITE, request.transactional_id)
    ctx.doors.groups.check(Operation.READ, request.group_id)
    async for asked in broker.turns.each(request.topics):
        unknown = int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        try:
            topic = ctx.doors.topics.find(Operation.READ, _key(asked))
            if topic is None and by_id:
                unknown = int(ErrorCode.UNKNOWN_TOPIC_ID)
        except Refused as refused:
            topic, unknown = None, refused.code
        async for one in broker.turns.each(asked.partitions):
            if topic is None or not 0 <= one.partition_index < topic.partitions:
                codes[_key(asked), one.partition_index] = unknown
            else:
                found.append((topic, one))
    if found:
        for (topic, one), code in zip(found, await _commit(ctx, room, request, found), strict=True):
            codes[topic.uuid if by_id else topic.name, one.partition_index] = code
    return _committed(request, codes)


def _key(asked: TxnOffsetCommitRequestTopic) -> str | UUID:
    """What the topic is called in the request: one that is called by its id has no name."""
    return asked.name or asked.topic_id


async def _commit(
    ctx: Context,
    room: TransactionRoom,
    request: TxnOffsetCommitRequest,
    found: Sequence[tuple[Topic, TxnOffsetCommitRequestPartition]],
) -> list[int]:
    """Error codes of partitions that there are."""
    wall_ms = ctx.broker.clock.wall_ms()
    if not request.group_id or not can_be_id(request.group_id):
        return [int(ErrorCode.INVALID_GROUP_ID)] * len(found)
    try:
        group_room = ctx.doors.groups.enter(Operation.READ, request.group_id)
        code = _check_commit(ctx, room, group_room, request, found)
    except Refused as refused:
        code = _known(refused.code, ctx.version)
    if code:
        return [code] * len(found)
    limit = ctx.broker.config.offset_metadata_max_bytes
    codes = [int(check_metadata(one.committed_metadata, limit)) for _, one in found]
    offsets = [
        PendingOffset(
            request.group_id,
            topic.id,
            one.partition_index,
            one.committed_offset,
            one.committed_leader_epoch,
            one.committed_metadata or "",
            group_room.pending_commit_ms((topic.id, one.partition_index), wall_ms),
        )
        for (topic, one), code in zip(found, codes, strict=True)
        if not code
    ]
    group_room.expect()
    step = await room.step(
        lambda machine, _fresh: machine.commit_offsets(
            request.producer_id,
            request.producer_epoch,
            request.group_id,
            offsets,
            version=ctx.version,
            steady_ms=room.steady_ms(),
        ),
    )
    return [code or _known(int(step.error), ctx.version) for code in codes]


def _check_commit(
    ctx: Context,
    room: TransactionRoom,
    group_room: GroupRoom,
    request: TxnOffsetCommitRequest,
    found: Sequence[tuple[Topic, TxnOffsetCommitRequestPartition]],
) -> int:
    """The error for all partitions."""
    if room.refusal:
        return _known(int(room.refusal), ctx.version)
    if not request.transactional_id:
        return int(ErrorCode.INVALID_REQUEST)
    one = room.one
    if one is None:
        return int(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
    code = one.machine.check_offsets(request.producer_id, request.producer_epoch, request.group_id, version=ctx.version)
    if code:
        return int(code)
    group = group_room.group
    are_told_apart = ctx.version >= _SINCE_GROUP_ERRORS
    if group is None:
        if request.generation_id_or_member_epoch < 0:
            return _NONE
        return int(ErrorCode.GROUP_ID_NOT_FOUND if are_told_apart else ErrorCode.ILLEGAL_GENERATION)
    refused = group.check_commit(
        (request.member_id, request.group_instance_id, request.generation_id_or_member_epoch, ctx.version, True),
        lambda: [(topic.uuid, partition.partition_index) for topic, partition in found],
    )
    is_known = refused != ErrorCode.STALE_MEMBER_EPOCH or are_told_apart
    return int(refused if is_known else ErrorCode.ILLEGAL_GENERATION)


def _known(code: int, version: int) -> int:
    """Clients of versions 0 and 1 take COORDINATOR_LOAD_IN_PROGRESS for fatal."""
    is_unknown = code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS and version < _SINCE_LOADING
    return int(ErrorCode.COORDINATOR_NOT_AVAILABLE) if is_unknown else code


def _committed(request: TxnOffsetCommitRequest, codes: Mapping[tuple[str | UUID, int], int]) -> TxnOffsetCommitResponse:
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    TxnOffsetCommitResponsePartition(
                        partition_index=one.partition_index, error_code=codes[_key(topic), one.partition_index]
                    )
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def commit_failure(request: TxnOffsetCommitRequest, code: int) -> TxnOffsetCommitResponse:
    return _committed(
        request, {(_key(topic), one.partition_index): code for topic in request.topics for one in topic.partitions}
    )


# -- EndTxn --------------------------------------------------------------------------------------------------------------


async def end_txn(ctx: Context, request: EndTxnRequest) -> EndTxnResponse:
    """Commit or abort a transaction; the answer comes when that is committed, with all that follows from it.

    Versions  0-5. 2 knows PRODUCER_FENCED (KIP-588), 3 is flexible, 4 knows TRANSACTION_ABORTABLE, 5 gives the producer
              a new epoch at each end (KIP-890).
    Rules     - an empty transactional id is INVALID_REQUEST, one that is not known INVALID_PRODUCER_ID_MAPPING
              - all else is the transaction's: `coordinator/transactions.py`
    """
    room = ctx.doors.transactions.enter(Operation.WRITE, request.transactional_id)
    if not request.transactional_id:
        return end_failure(request, ErrorCode.INVALID_REQUEST)
    step = await room.step(
        lambda machine, fresh: machine.end(
            request.producer_id,
            request.producer_epoch,
            request.committed,
            version=ctx.version,
            fresh_producer_id=fresh,
            steady_ms=room.steady_ms(),
        ),
        may_need_producer_id=True,
    )
    if step.error:
        return end_failure(request, step.error)
    producer_id, epoch = step.reply
    return EndTxnResponse(producer_id=producer_id, producer_epoch=epoch)


def end_failure(request: EndTxnRequest, code: int) -> EndTxnResponse:
    return EndTxnResponse(error_code=code)
