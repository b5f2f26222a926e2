"""Transactional producers of a case: how they begin on both brokers, and requests of theirs with anything wrong in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tests.broker.rawclient import SomeTopic
from tests.broker.transactor import DESCRIBE_TRANSACTIONS, END, INIT_PRODUCER_ID, NEWER, OLDER, Transactor
from tests.compare.scene import READY_S, Scene

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.add_offsets_to_txn import AddOffsetsToTxnRequest
from pg_kafka.wire.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.end_txn import EndTxnRequest
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)

NOT_YET = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
_ENDING = (ErrorCode.CONCURRENT_TRANSACTIONS,)
_AT_REST = ("Empty", "CompleteCommit", "CompleteAbort")
STYLES = {"older": OLDER, "newer": NEWER}


def initialising(transactional_id: str | None, **fields: Any) -> InitProducerIdRequest:
    return InitProducerIdRequest(**{"transactional_id": transactional_id, "transaction_timeout_ms": 60_000} | fields)


async def initialised(scene: Scene, transactional_id: str, *, version: int | None = None, **fields: Any) -> Any:
    """The answer to InitProducerId, once Kafka's coordinator is ready and the transaction before has ended."""
    return await scene.ask_until(
        lambda answer: isinstance(answer, str) or answer.error_code not in NOT_YET + _ENDING,
        initialising(transactional_id, **fields),
        version=version,
        api_key=INIT_PRODUCER_ID,
    )


async def begun(
    scene: Scene, label: str = "p", style: int = NEWER, *, timeout_ms: int = 60_000, epoch: int = 0
) -> Transactor:
    """A producer that has its id and epoch; its transactional id is of this case and version."""
    one = Transactor(scene.client, scene.fresh(label), style, timeout_ms)
    for _ in range(epoch + 1):
        answer = await initialised(scene, one.id, version=5, transaction_timeout_ms=timeout_ms)
        assert answer.error_code == 0, answer
    one.producer_id, one.epoch = answer.producer_id, answer.producer_epoch
    assert one.epoch == epoch
    return one


async def at_rest(scene: Scene, *producers: Transactor) -> None:
    """Wait until nothing of their transactions is left to be done: Kafka answers EndTxn before the markers are there."""
    asked = DescribeTransactionsRequest(transactional_ids=[one.id for one in producers])
    async with asyncio.timeout(READY_S):
        while True:
            answer = await scene.ask(asked, 0, DESCRIBE_TRANSACTIONS)
            if all(one.transaction_state in _AT_REST for one in answer.transaction_states):
                return
            await asyncio.sleep(0.005)  # nothing tells us that it has ended but asking


async def ended(scene: Scene, producer: Transactor, *, commit: bool) -> None:
    """The open transaction is over, markers included."""
    assert await producer.end(commit=commit) == 0
    await at_rest(scene, producer)


async def once_over(scene: Scene, request: Any, version: int | None = None, api_key: int = END) -> Any:
    """The first answer that is not about a transaction still being ended."""
    return await scene.ask_until(
        lambda answer: isinstance(answer, str) or answer.error_code not in _ENDING,
        request,
        version=version,
        api_key=api_key,
    )


def adding(
    who: Transactor, topics: Mapping[str, Sequence[int]], *, verify_only: bool = False, **fields: Any
) -> AddPartitionsToTxnRequest:
    """AddPartitionsToTxn of one transaction, in the form of all versions."""
    one = of_one(who, topics, verify_only=verify_only, **fields)
    return AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=one.transactional_id,
        v3_and_below_producer_id=one.producer_id,
        v3_and_below_producer_epoch=one.producer_epoch,
        v3_and_below_topics=one.topics,
        transactions=[one],
    )


def of_one(who: Transactor, topics: Mapping[str, Sequence[int]], **fields: Any) -> AddPartitionsToTxnTransaction:
    named = [AddPartitionsToTxnTopic(name=name, partitions=indexes) for name, indexes in topics.items()]
    return AddPartitionsToTxnTransaction(**{**identity(who), "topics": named, **fields})


def adding_offsets(who: Transactor, group: str, **fields: Any) -> AddOffsetsToTxnRequest:
    return AddOffsetsToTxnRequest(**{**identity(who), "group_id": group, **fields})


def ending(who: Transactor, *, commit: bool, **fields: Any) -> EndTxnRequest:
    return EndTxnRequest(**{**identity(who), "committed": commit, **fields})


def committing(
    who: Transactor, group: str, topic: SomeTopic, *offsets: int, metadata: str | None = "said", **fields: Any
) -> TxnOffsetCommitRequest:
    """TxnOffsetCommit of these offsets for the topic's partitions 0, 1, ..."""
    partitions = [
        TxnOffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=metadata
        )
        for index, offset in enumerate(offsets or (5,))
    ]
    topics = [TxnOffsetCommitRequestTopic(name=topic.name, topic_id=topic.id, partitions=partitions)]
    return TxnOffsetCommitRequest(**{**identity(who), "group_id": group, "topics": topics, **fields})


def identity(who: Transactor) -> dict[str, Any]:
    return {"transactional_id": who.id, "producer_id": who.producer_id, "producer_epoch": who.epoch}


def wrong_identities(who: Transactor) -> dict[str, dict[str, Any]]:
    """What may be wrong with how a producer names itself."""
    return {
        "older epoch": {"producer_epoch": who.epoch - 1},
        "newer epoch": {"producer_epoch": who.epoch + 1},
        "no epoch": {"producer_epoch": -1},
        "another producer": {"producer_id": who.producer_id + 1_000},
        "no producer": {"producer_id": -1, "producer_epoch": -1},
        "unknown transactional id": {"transactional_id": f"{who.id}-unknown"},
        "empty transactional id": {"transactional_id": ""},
    }
