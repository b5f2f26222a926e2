"""Produce's batches of transactions: they are queued once their partitions belong to the transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pg_kafka.broker.context import Context
from pg_kafka.broker.refusals import Refused
from pg_kafka.coordinator.transaction_steps import PRODUCE_REGISTERS, TopicPartition
from pg_kafka.storage.partition import AppendResult, Partition
from pg_kafka.wire._records import Batch
from pg_kafka.wire.error_codes import ErrorCode

# In a batch: the lower byte of its attributes (wire/_records.pyx).
_ATTRIBUTES, _TRANSACTIONAL = 22, 0x10
# After these errors a producer sends the same batch again.
_ASKED_AGAIN = (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.CONCURRENT_TRANSACTIONS)
_MESSAGES = {
    ErrorCode.INVALID_TXN_STATE: "the partition was not added to the transaction",
    ErrorCode.TRANSACTION_ABORTABLE: "the partition was not added to the transaction",
    ErrorCode.INVALID_PRODUCER_EPOCH: "the producer of the transactional id has another epoch",
    ErrorCode.INVALID_PRODUCER_ID_MAPPING: "the transactional id has another producer id",
    ErrorCode.CONCURRENT_TRANSACTIONS: "the producer's last transaction is not over yet",
    ErrorCode.NOT_ENOUGH_REPLICAS: "the coordinator of the transaction cannot answer now",
}


def is_transactional(records: Any) -> bool:
    """Does the first of these batches say that it belongs to a transaction? What is no batch does not."""
    return records is not None and len(records) > _ATTRIBUTES and bool(records[_ATTRIBUTES] & _TRANSACTIONAL)


def append(
    ctx: Context,
    transactional_id: str | None,
    batches: Sequence[tuple[Partition, Batch, Callable[[AppendResult], None]]],
) -> None:
    """Queue the transactional batches of one request, each with what is called with its result.

    Without a transactional id they are TRANSACTIONAL_ID_AUTHORIZATION_FAILED, with several producers
    INVALID_PRODUCER_ID_MAPPING, with an empty transactional id INVALID_REQUEST; otherwise the transaction says which
    ones it takes. As in Kafka, a producer that begins its transactions by Produce (version 12) has to begin with sequence
    number 0 where the partition does not know it: its epoch is new with each transaction.
    """
    producers = {(batch.producer_id, batch.producer_epoch) for _, batch, _ in batches}
    if transactional_id is None:
        message = "a transactional batch needs a transactional id in the request"
        _refuse_all(batches, AppendResult(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, message=message))
    elif not transactional_id:
        _refuse_all(batches, AppendResult(ErrorCode.INVALID_REQUEST, message="the transactional id is empty"))
    elif len(producers) > 1:
        message = "the transactional batches are of several producers"
        _refuse_all(batches, AppendResult(ErrorCode.INVALID_PRODUCER_ID_MAPPING, message=message))
    else:
        (producer,) = producers
        try:
            ctx.doors.transactions.admit(
                transactional_id,
                producer,
                [partition for partition, _, _ in batches],
                ctx.version,
                lambda refused: _append(ctx, batches, refused),
            )
        except Refused as refused:
            _refuse_all(batches, AppendResult(refused.code, message=refused.message))


def _append(
    ctx: Context, batches: Sequence[tuple[Partition, Batch, Any]], refused: Mapping[TopicPartition, int]
) -> None:
    records = ctx.broker.records
    begins_at_zero = ctx.version >= PRODUCE_REGISTERS
    for partition, batch, done in batches:
        topic = partition.topic
        code = refused.get((topic.id, partition.index))
        if not code:
            timestamp_type = topic.settings.timestamp_type
            records.append(partition, batch, done, timestamp_type=timestamp_type, begins_at_zero=begins_at_zero)
            continue
        if code in _ASKED_AGAIN:
            records.first_batches.await_again(
                topic.id, partition.index, batch.producer_id, batch.producer_epoch, batch.base_sequence
            )
        done(AppendResult(code, message=_MESSAGES.get(ErrorCode(code))))


def _refuse_all(batches: Sequence[tuple[Partition, Batch, Any]], result: AppendResult) -> None:
    for _, _, done in batches:
        done(result)
