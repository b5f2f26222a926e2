"""What transactional producers ask of the coordinator: AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn.

A transaction's rules are in its machine (`coordinator/transactions.py`); here is what comes before them: ids that cannot
be, topics that are not there, and errors in each API's own form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pg_kafka.broker.context import Context
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.group_offsets import check_metadata
from pg_kafka.coordinator.transaction_steps import PendingOffset, Registration
from pg_kafka.storage.topics import Topic
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
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

_NONE = int(ErrorCode.NONE)
_SINCE_TRANSACTIONS = 4  # in AddPartitionsToTxn
_SINCE_LOADING = 2  # in TxnOffsetCommit


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
    async for topic_asked in turns.each(asked.topics):
        topic = ctx.broker.topics.by_name.get(topic_asked.name)
        async for index in turns.each(topic_asked.partitions):
            if topic is None or not 0 <= index < topic.partitions:
                codes[topic_asked.name, index] = int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            else:
                places[topic_asked.name, index] = (topic.id, index, _high_watermark(ctx, topic, index))
    if codes:
        codes |= dict.fromkeys(places, int(ErrorCode.OPERATION_NOT_ATTEMPTED))
    elif not asked.transactional_id:
        codes = dict.fromkeys(places, int(ErrorCode.INVALID_REQUEST))
    elif asked.verify_only:
        codes = _verify(ctx, asked, places)
    else:
        step = await ctx.broker.transactions.step(
            asked.transactional_id,
            lambda machine, _fresh: machine.add_partitions(
                asked.producer_id,
                asked.producer_epoch,
                list(places.values()),
                version=ctx.version,
                now_ms=ctx.broker.transactions.now_ms(),
            ),
        )
        codes = dict.fromkeys(places, int(step.error))
    return [_added(topic, codes) async for topic in turns.each(asked.topics)]


def _high_watermark(ctx: Context, topic: Topic, index: int) -> int:
    partition = ctx.broker.log.partition(topic, index)
    return -1 if partition is None else partition.high_watermark


def _verify(
    ctx: Context, asked: AddPartitionsToTxnTransaction, places: Mapping[tuple[str, int], Registration]
) -> dict[tuple[str, int], int]:
    transactions = ctx.broker.transactions
    one = transactions.get(asked.transactional_id)
    if transactions.refusal or one is None:
        return dict.fromkeys(places, int(transactions.refusal or ErrorCode.INVALID_PRODUCER_ID_MAPPING))
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
    """In the form of all versions."""

    def of(topics: Sequence[AddPartitionsToTxnTopic]) -> list[AddPartitionsToTxnTopicResult]:
        return [_added(topic, {(topic.name, index): int(code) for index in topic.partitions}) for topic in topics]

    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=of(request.v3_and_below_topics),
        error_code=code,
        results_by_transaction=[
            AddPartitionsToTxnResult(transactional_id=each.transactional_id, topic_results=of(each.topics))
            for each in request.transactions
        ],
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
    if not request.transactional_id:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    if not ctx.broker.groups.can_be_id(request.group_id):
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    transactions = ctx.broker.transactions
    step = await transactions.step(
        request.transactional_id,
        lambda machine, _fresh: machine.add_offsets(
            request.producer_id,
            request.producer_epoch,
            request.group_id,
            version=ctx.version,
            now_ms=transactions.now_ms(),
        ),
    )
    return AddOffsetsToTxnResponse(error_code=step.error)


def offsets_failure(request: AddOffsetsToTxnRequest, code: int) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(error_code=code)


# -- TxnOffsetCommit -----------------------------------------------------------------------------------------------------


async def txn_offset_commit(ctx: Context, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse:
    """Commit offsets of a group with a transaction: they are the group's when it commits.

    Versions  0-5. 2 has leader epochs, 3 members and generations (KIP-447) and is flexible, 4 knows
              TRANSACTION_ABORTABLE, 5 makes the group part of the transaction by itself (KIP-890).
    Rules     - an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION
              - an empty group id, or one that cannot be, is INVALID_GROUP_ID
              - the transaction comes first, then the group checks member and generation or epoch, where that is named:
                UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION (also for an epoch that is stale); its error
                is that of all other partitions
              - a group that is not there is made, as one without members; with a generation it is ILLEGAL_GENERATION
              - metadata longer than offset.metadata.max.bytes is OFFSET_METADATA_TOO_LARGE
              - while something is loaded COORDINATOR_LOAD_IN_PROGRESS, below version 2 COORDINATOR_NOT_AVAILABLE
    """
    broker = ctx.broker
    codes: dict[tuple[str, int], int] = {}
    found: list[tuple[Topic, TxnOffsetCommitRequestPartition]] = []
    async for asked in broker.turns.each(request.topics):
        topic = broker.topics.by_name.get(asked.name)
        async for one in broker.turns.each(asked.partitions):
            if topic is None or not 0 <= one.partition_index < topic.partitions:
                codes[asked.name, one.partition_index] = int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            else:
                found.append((topic, one))
    if found:
        for (topic, one), code in zip(found, await _commit(ctx, request, found), strict=True):
            codes[topic.name, one.partition_index] = code
    return _committed(request, codes)


async def _commit(
    ctx: Context, request: TxnOffsetCommitRequest, found: Sequence[tuple[Topic, TxnOffsetCommitRequestPartition]]
) -> list[int]:
    """Error codes of partitions that there are."""
    transactions, groups, now_ms = ctx.broker.transactions, ctx.broker.groups, ctx.broker.now_ms()
    code = _check_commit(ctx, request, found)
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
            groups.pending_commit_ms(request.group_id, (topic.id, one.partition_index), now_ms),
        )
        for (topic, one), code in zip(found, codes, strict=True)
        if not code
    ]
    groups.expect(request.group_id)
    step = await transactions.step(
        request.transactional_id,
        lambda machine, _fresh: machine.commit_offsets(
            request.producer_id,
            request.producer_epoch,
            request.group_id,
            offsets,
            version=ctx.version,
            now_ms=transactions.now_ms(),
        ),
    )
    return [code or _known(int(step.error), ctx.version) for code in codes]


def _check_commit(
    ctx: Context, request: TxnOffsetCommitRequest, found: Sequence[tuple[Topic, TxnOffsetCommitRequestPartition]]
) -> int:
    """The error for all partitions."""
    groups, transactions = ctx.broker.groups, ctx.broker.transactions
    if not request.group_id or not groups.can_be_id(request.group_id):
        return int(ErrorCode.INVALID_GROUP_ID)
    if refusal := groups.refusal or transactions.refusal:
        return _known(int(refusal), ctx.version)
    if not request.transactional_id:
        return int(ErrorCode.INVALID_REQUEST)
    one = transactions.get(request.transactional_id)
    if one is None:
        return int(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
    code = one.machine.check_offsets(request.producer_id, request.producer_epoch, request.group_id, version=ctx.version)
    if code:
        return int(code)
    group = groups.get(request.group_id)
    if group is None:
        return int(ErrorCode.NONE if request.generation_id_or_member_epoch < 0 else ErrorCode.ILLEGAL_GENERATION)
    who = (request.member_id, request.group_instance_id, request.generation_id_or_member_epoch, ctx.version, True)
    code = group.machine.check_commit(*who)
    if code and isinstance(group.machine, ConsumerGroup):
        partitions = [(topic.uuid, partition.partition_index) for topic, partition in found]
        code = group.machine.check_commit(*who, partitions=partitions)
    return int(ErrorCode.ILLEGAL_GENERATION if code == ErrorCode.STALE_MEMBER_EPOCH else code)


def _known(code: int, version: int) -> int:
    """Clients of versions 0 and 1 take COORDINATOR_LOAD_IN_PROGRESS for fatal."""
    is_unknown = code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS and version < _SINCE_LOADING
    return int(ErrorCode.COORDINATOR_NOT_AVAILABLE) if is_unknown else code


def _committed(request: TxnOffsetCommitRequest, codes: Mapping[tuple[str, int], int]) -> TxnOffsetCommitResponse:
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    TxnOffsetCommitResponsePartition(
                        partition_index=one.partition_index, error_code=codes[topic.name, one.partition_index]
                    )
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def commit_failure(request: TxnOffsetCommitRequest, code: int) -> TxnOffsetCommitResponse:
    return _committed(
        request, {(topic.name, one.partition_index): code for topic in request.topics for one in topic.partitions}
    )


# -- EndTxn --------------------------------------------------------------------------------------------------------------


async def end_txn(ctx: Context, request: EndTxnRequest) -> EndTxnResponse:
    """Commit or abort a transaction; the answer comes when that is committed, with all that follows from it.

    Versions  0-5. 2 knows PRODUCER_FENCED (KIP-588), 3 is flexible, 4 knows TRANSACTION_ABORTABLE, 5 gives the producer
              a new epoch at each end (KIP-890).
    Rules     - an empty transactional id is INVALID_REQUEST, one that is not known INVALID_PRODUCER_ID_MAPPING
              - all else is the transaction's: `coordinator/transactions.py`
    """
    if not request.transactional_id:
        return end_failure(request, ErrorCode.INVALID_REQUEST)
    transactions = ctx.broker.transactions
    step = await transactions.step(
        request.transactional_id,
        lambda machine, fresh: machine.end(
            request.producer_id,
            request.producer_epoch,
            request.committed,
            version=ctx.version,
            fresh_producer_id=fresh,
            now_ms=transactions.now_ms(),
        ),
        may_need_producer_id=True,
    )
    if step.error:
        return end_failure(request, step.error)
    producer_id, epoch = step.reply
    return EndTxnResponse(producer_id=producer_id, producer_epoch=epoch)


def end_failure(request: EndTxnRequest, code: int) -> EndTxnResponse:
    return EndTxnResponse(error_code=code)
