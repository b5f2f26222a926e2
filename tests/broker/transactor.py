"""A transactional producer over the raw protocol, by what it does, in any version."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch
from tests.broker.rawclient import PRODUCE, RawClient, SomeTopic, answered, batch, only, producing

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.add_offsets_to_txn import AddOffsetsToTxnRequest
from pg_kafka.wire.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from pg_kafka.wire.messages.describe_producers import DescribeProducersRequest, TopicRequest
from pg_kafka.wire.messages.describe_transactions import DescribeTransactionsRequest
from pg_kafka.wire.messages.end_txn import EndTxnRequest
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.list_transactions import ListTransactionsRequest
from pg_kafka.wire.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from pg_kafka.wire.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
)

INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END, WRITE_MARKERS, COMMIT_OFFSETS = 22, 24, 25, 26, 27, 28
DESCRIBE_PRODUCERS, DESCRIBE_TRANSACTIONS, LIST_TRANSACTIONS = 61, 65, 66
READ_COMMITTED = 1
# The versions with which a client works before KIP-890 and after it.
OLDER, NEWER = 1, 2
_PRODUCE = {OLDER: 9, NEWER: 12}
_END = {OLDER: 3, NEWER: 5}
_COMMIT_OFFSETS = {OLDER: 3, NEWER: 5}


def fresh_id() -> str:
    return f"transactional-{secrets.token_hex(6)}"


@dataclass
class Transactor:
    """One producer. `style` says how it begins and ends transactions; sequences are counted by partition."""

    client: RawClient
    id: str = field(default_factory=fresh_id)
    style: int = NEWER
    timeout_ms: int = 60_000
    producer_id: int = -1
    epoch: int = -1
    sequences: dict[tuple[str, int], int] = field(default_factory=dict)

    async def init(self, version: int = 5, **more: Any) -> int:
        """Become the id's producer; asks again while the one before is being ended."""
        while True:
            code = await self.try_init(version, **more)
            if code != ErrorCode.CONCURRENT_TRANSACTIONS:
                return code
            await asyncio.sleep(0.01)

    async def try_init(self, version: int = 5, **more: Any) -> int:
        request = InitProducerIdRequest(transactional_id=self.id, **{"transaction_timeout_ms": self.timeout_ms} | more)
        answer = await self.client.call(request, INIT_PRODUCER_ID, version)
        if not answer.error_code:
            self._become(answer.producer_id, answer.producer_epoch)
        return int(answer.error_code)

    def _become(self, producer_id: int, epoch: int) -> None:
        if (producer_id, epoch) != (self.producer_id, self.epoch):
            self.sequences.clear()
        self.producer_id, self.epoch = producer_id, epoch

    async def add(self, topic: SomeTopic, partitions: Sequence[int] = (0,), version: int = 3) -> dict[int, int]:
        """Error codes by partition."""
        topics = [AddPartitionsToTxnTopic(name=topic.name, partitions=partitions)]
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=self.id,
            v3_and_below_producer_id=self.producer_id,
            v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=topics,
            transactions=[self.adding(topics)],
        )
        answer = await self.client.call(request, ADD_PARTITIONS, version)
        if version >= 4:
            assert answer.error_code == 0
            results = only(answer.results_by_transaction).topic_results
        else:
            results = answer.results_by_topic_v3_and_below
        return {one.partition_index: one.partition_error_code for one in only(results).results_by_partition}

    def adding(
        self, topics: Sequence[AddPartitionsToTxnTopic], *, verify_only: bool = False
    ) -> AddPartitionsToTxnTransaction:
        return AddPartitionsToTxnTransaction(
            transactional_id=self.id,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            verify_only=verify_only,
            topics=topics,
        )

    async def verify(self, topic: SomeTopic, partitions: Sequence[int] = (0,), version: int = 4) -> dict[int, int]:
        topics = [AddPartitionsToTxnTopic(name=topic.name, partitions=partitions)]
        request = AddPartitionsToTxnRequest(transactions=[self.adding(topics, verify_only=True)])
        answer = await self.client.call(request, ADD_PARTITIONS, version)
        results = only(only(answer.results_by_transaction).topic_results).results_by_partition
        return {one.partition_index: one.partition_error_code for one in results}

    async def send(self, topic: SomeTopic, *values: bytes, partition: int = 0, version: int | None = None) -> int:
        """Produce one batch, as part of the transaction; the error code. An older one adds the partition first."""
        if self.style == OLDER and version is None:
            code = (await self.add(topic, [partition]))[partition]
            if code:
                return code
        return await self.produce(topic, *values, partition=partition, version=version)

    async def produce(self, topic: SomeTopic, *values: bytes, partition: int = 0, version: int | None = None) -> int:
        return (await self.produce_many(topic, {partition: values or (b"value",)}, version=version))[partition]

    async def produce_many(
        self, topic: SomeTopic, values: Mapping[int, Sequence[bytes]], version: int | None = None
    ) -> dict[int, int]:
        """Error codes by partition."""
        batches: dict[int, bytes | None] = {
            index: batch(
                some, producer=(self.producer_id, self.epoch, self.sequence(topic, index)), is_transactional=True
            )
            for index, some in values.items()
        }
        request = producing(topic, batches, transactional_id=self.id)
        answer = await self.client.call(request, PRODUCE, _PRODUCE[self.style] if version is None else version)
        codes = {index: one.error_code for index, one in answered(answer).items()}
        for index, some in values.items():
            if not codes[index]:
                self.sequences[topic.name, index] = self.sequence(topic, index) + len(some)
        return codes

    def sequence(self, topic: SomeTopic, partition: int) -> int:
        return self.sequences.get((topic.name, partition), 0)

    async def add_offsets(self, group: str, version: int = 3) -> int:
        request = AddOffsetsToTxnRequest(
            transactional_id=self.id, producer_id=self.producer_id, producer_epoch=self.epoch, group_id=group
        )
        code: int = (await self.client.call(request, ADD_OFFSETS, version)).error_code
        return code

    async def commit_offsets(
        self, group: str, topic: SomeTopic, offsets: Mapping[int, int], version: int | None = None, **more: Any
    ) -> dict[int, int]:
        """Error codes by partition. An older one adds the group first."""
        if self.style == OLDER and version is None:
            code = await self.add_offsets(group)
            assert code == ErrorCode.NONE, code
        version = _COMMIT_OFFSETS[self.style] if version is None else version
        answer = await self.client.call(self.committing(group, topic, offsets, **more), COMMIT_OFFSETS, version)
        return {one.partition_index: one.error_code for one in only(answer.topics).partitions}

    def committing(
        self, group: str, topic: SomeTopic, offsets: Mapping[int, int], *, metadata: str = "m", **more: Any
    ) -> TxnOffsetCommitRequest:
        partitions = [
            TxnOffsetCommitRequestPartition(
                partition_index=index, committed_offset=offset, committed_leader_epoch=2, committed_metadata=metadata
            )
            for index, offset in offsets.items()
        ]
        return TxnOffsetCommitRequest(
            transactional_id=self.id,
            group_id=group,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            topics=[TxnOffsetCommitRequestTopic(name=topic.name, topic_id=topic.id, partitions=partitions)],
            **more,
        )

    async def end(self, *, commit: bool, version: int | None = None) -> int:
        version = _END[self.style] if version is None else version
        request = EndTxnRequest(
            transactional_id=self.id, producer_id=self.producer_id, producer_epoch=self.epoch, committed=commit
        )
        answer = await self.client.call(request, END, version)
        if not answer.error_code and answer.producer_id >= 0:
            self._become(answer.producer_id, answer.producer_epoch)
        return int(answer.error_code)

    async def commit(self, version: int | None = None) -> int:
        return await self.end(commit=True, version=version)

    async def abort(self, version: int | None = None) -> int:
        return await self.end(commit=False, version=version)

    async def describe(self) -> Any:
        return await described(self.client, self.id)

    async def until(self, state: str) -> None:
        """Wait until the transaction is in this state."""
        async with asyncio.timeout(10):
            while True:
                if (await self.describe()).transaction_state == state:
                    return
                await asyncio.sleep(0.02)


async def described(client: RawClient, transactional_id: str) -> Any:
    request = DescribeTransactionsRequest(transactional_ids=[transactional_id])
    return only((await client.call(request, DESCRIBE_TRANSACTIONS, 0)).transaction_states)


async def listed(client: RawClient, version: int = 2, **filters: Any) -> dict[str, tuple[int, str]]:
    """Producer id and state by transactional id."""
    answer = await client.call(ListTransactionsRequest(**filters), LIST_TRANSACTIONS, version)
    assert answer.error_code == ErrorCode.NONE
    return {one.transactional_id: (one.producer_id, one.transaction_state) for one in answer.transaction_states}


async def producers_of(client: RawClient, topic: SomeTopic, partition: int = 0) -> dict[int, Any]:
    request = DescribeProducersRequest(topics=[TopicRequest(name=topic.name, partition_indexes=[partition])])
    answer = only(only((await client.call(request, DESCRIBE_PRODUCERS, 0)).topics).partitions)
    assert answer.error_code == ErrorCode.NONE
    return {one.producer_id: one for one in answer.active_producers}


async def write_marker(
    client: RawClient,
    topic: SomeTopic,
    partition: int,
    producer: tuple[int, int],
    *,
    commit: bool = False,
    version: int = 1,
    transaction_version: int = 0,
) -> int:
    marker = WritableTxnMarker(
        producer_id=producer[0],
        producer_epoch=producer[1],
        transaction_result=commit,
        topics=[WritableTxnMarkerTopic(name=topic.name, partition_indexes=[partition])],
        transaction_version=transaction_version,
    )
    answer = await client.call(WriteTxnMarkersRequest(markers=[marker]), WRITE_MARKERS, version)
    code: int = only(only(only(answer.markers).topics).partitions).error_code
    return code


async def committed(client: RawClient, topic: SomeTopic, partition: int = 0) -> list[bytes | None]:
    """What a consumer with read_committed sees: it leaves out aborted transactions and markers by itself."""
    found: list[bytes | None] = []
    position = 0
    inside: set[int] = set()
    while True:
        answer = await client.fetch(topic, position, partition, isolation_level=READ_COMMITTED)
        assert answer.error_code == ErrorCode.NONE, answer
        aborted = sorted((one.first_offset, one.producer_id) for one in answer.aborted_transactions or ())
        for one in _batches(answer):
            while aborted and aborted[0][0] < one.next_offset:
                inside.add(aborted.pop(0)[1])
            if one.is_control_batch:
                inside.discard(one.producer_id)
            elif not (one.is_transactional and one.producer_id in inside):
                found += [record.value for record in one if record.offset >= position]
            position = one.next_offset
        if position >= answer.last_stable_offset:
            return found


def _batches(answer: Any) -> Iterator[DefaultRecordBatch]:
    data = bytes(answer.records or b"")
    position = 0
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        yield DefaultRecordBatch(data[position:end])
        position = end


async def everything(client: RawClient, topic: SomeTopic, partition: int = 0) -> list[bytes | None]:
    """Values of all records, markers left out."""
    found: list[bytes | None] = []
    position = 0
    while True:
        answer = await client.fetch(topic, position, partition)
        for one in _batches(answer):
            if not one.is_control_batch:
                found += [record.value for record in one]
            position = one.next_offset
        if position >= answer.high_watermark:
            return found
