"""A client that says exactly what a test wants said, in any version; its record batches are made by aiokafka's writer."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from pg_kafka.wire import codec
from pg_kafka.wire._records import crc32c
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from pg_kafka.wire.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)

PRODUCE, FETCH, LIST_OFFSETS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID, OFFSET_FOR_LEADER_EPOCH = (
    0,
    1,
    2,
    19,
    20,
    22,
    23,
)
TIMEOUT_S = 10.0
NOW_MS = 1_700_000_000_000


@dataclass
class SomeTopic:
    """A topic made for a test."""

    name: str
    id: UUID


@dataclass
class RawClient:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    correlation_ids: Any = field(default_factory=itertools.count)
    client_id: str = "raw"

    @staticmethod
    async def connect(broker: Any) -> RawClient:
        reader, writer = await asyncio.open_connection(broker.host, broker.port, limit=2**27)
        return RawClient(reader, writer)

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    def send(self, message: Any, api_key: int, version: int) -> int:
        """Send a request; returns its correlation id."""
        correlation_id = next(self.correlation_ids)
        head = encode_request_header(RequestHeader(api_key, version, correlation_id, self.client_id))
        body = b"".join((head, *codec.encode_request(message, api_key, version)))
        self.writer.write(struct.pack(">i", len(body)) + body)
        return correlation_id

    async def receive(self, api_key: int, version: int, correlation_id: int, timeout_s: float = TIMEOUT_S) -> Any:
        async with asyncio.timeout(timeout_s):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            frame = await self.reader.readexactly(size)
        found, offset = decode_response_header(frame, api_key, version)
        assert found == correlation_id
        return codec.decode_response(api_key, version, frame, offset)

    async def call(self, message: Any, api_key: int, version: int, timeout_s: float = TIMEOUT_S) -> Any:
        return await self.receive(api_key, version, self.send(message, api_key, version), timeout_s)

    async def is_closed_by_peer(self) -> bool:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read(1) == b""

    # -- requests by their purpose -----------------------------------------------------------------------------------

    async def create_topic(self, partitions: int = 1, **configs: str) -> SomeTopic:
        """A new topic; dots in configuration names are written as underscores."""
        name = f"topic-{secrets.token_hex(6)}"
        topic = CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=1,
            configs=[CreatableTopicConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()],
        )
        response = await self.call(CreateTopicsRequest(topics=[topic]), CREATE_TOPICS, 7)
        assert response.topics[0].error_code == 0, response
        return SomeTopic(name, response.topics[0].topic_id)

    async def delete_topic(self, topic: SomeTopic) -> None:
        request = DeleteTopicsRequest(topics=[DeleteTopicState(name=topic.name)], timeout_ms=10_000)
        response = await self.call(request, DELETE_TOPICS, 6)
        assert response.responses[0].error_code == 0, response

    async def produce(
        self, topic: SomeTopic, records: bytes | None, partition: int = 0, *, acks: int = -1, version: int = 9
    ) -> PartitionProduceResponse:
        """One batch to one partition."""
        response = await self.call(producing(topic, {partition: records}, acks=acks), PRODUCE, version)
        return only(only(response.responses).partition_responses)

    async def fetch(self, topic: SomeTopic, offset: int, partition: int = 0, **more: Any) -> PartitionData:
        """One partition, without a session."""
        version = more.pop("version", 12)
        response = await self.call(fetching(topic, {partition: offset}, **more), FETCH, version)
        return only(only(response.responses).partitions)

    async def offset_at(
        self, topic: SomeTopic, timestamp: int, partition: int = 0, *, version: int = 9, **more: Any
    ) -> ListOffsetsPartitionResponse:
        one = ListOffsetsPartition(partition_index=partition, timestamp=timestamp, **more)
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic.name, partitions=[one])])
        response = await self.call(request, LIST_OFFSETS, version)
        return only(only(response.topics).partitions)

    async def new_producer_id(self) -> int:
        response = await self.call(InitProducerIdRequest(transactional_id=None), INIT_PRODUCER_ID, 4)
        assert response.error_code == 0
        return response.producer_id


def only(items: Sequence[Any]) -> Any:
    """The one item of a sequence."""
    (item,) = items
    return item


def producing(
    topic: SomeTopic, records: dict[int, bytes | None], *, acks: int = -1, transactional_id: str | None = None
) -> ProduceRequest:
    partitions = [PartitionProduceData(index=index, records=batch) for index, batch in records.items()]
    return ProduceRequest(
        transactional_id=transactional_id,
        acks=acks,
        timeout_ms=10_000,
        topic_data=[TopicProduceData(name=topic.name, topic_id=topic.id, partition_data=partitions)],
    )


def fetching(
    topic: SomeTopic,
    offsets: dict[int, int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 2**26,
    partition_max_bytes: int = 2**20,
    session: tuple[int, int] = (0, -1),
    isolation_level: int = 0,
    replica_id: int = -1,
    **more: Any,
) -> FetchRequest:
    partitions = [
        FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=partition_max_bytes, **more)
        for index, offset in offsets.items()
    ]
    return FetchRequest(
        replica_id=replica_id,
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        isolation_level=isolation_level,
        session_id=session[0],
        session_epoch=session[1],
        topics=[FetchTopic(topic=topic.name, topic_id=topic.id, partitions=partitions)] if partitions else [],
    )


def batch(
    values: Iterable[bytes | None] = (b"value",),
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    compression: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    is_transactional: bool = False,
) -> bytes:
    """A record batch as a producer sends it. `producer` is id, epoch and base sequence."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=is_transactional,
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
        batch_size=2**30,
    )
    for index, value in enumerate(values):
        stamp = timestamps[index] if timestamps is not None else NOW_MS + index
        key = keys[index] if keys is not None else b"key"
        assert builder.append(index, stamp, key, value, []) is not None
    return bytes(builder.build())


def patched(records: bytes, at: int, replacement: bytes) -> bytes:
    """The batch with bytes replaced and its CRC made right again."""
    data = bytearray(records)
    data[at : at + len(replacement)] = replacement
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


def records_of(answer: PartitionData) -> list[tuple[int, bytes | None]]:
    """Offset and value of all records in a partition's answer, from the start of its first batch."""
    data = bytes(answer.records or b"")  # type: ignore[arg-type]
    found: list[tuple[int, bytes | None]] = []
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from(">i", data, position + 8)
        end = position + 12 + length
        assert end <= len(data), "a batch is cut"
        one = DefaultRecordBatch(data[position:end])
        assert one.validate_crc()
        found += [(record.offset, record.value) for record in one]
        position = end
    return found


def offsets_of(answer: PartitionData) -> list[int]:
    return [offset for offset, _ in records_of(answer)]


def answered(response: FetchResponse | ProduceResponse) -> dict[int, Any]:
    """Answers of a response about one topic, by partition."""
    if isinstance(response, FetchResponse):
        return {one.partition_index: one for topic in response.responses for one in topic.partitions}
    return {one.index: one for topic in response.responses for one in topic.partition_responses}
