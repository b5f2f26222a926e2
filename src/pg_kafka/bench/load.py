"""Records in and out of a topic as fast as a broker takes and gives them.

Producers are threads, each idempotent with acks=all and up to five requests under way, as Kafka's clients are. The
consumer is one thread that fetches all partitions of a broker at once and counts what the batches' headers say.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pg_kafka.bench.batches import HEADER_BYTES, BatchTemplate, next_sequence
from pg_kafka.bench.cluster import Topic
from pg_kafka.bench.connection import FETCH, INIT_PRODUCER_ID, PRODUCE, BenchError, Connection, check
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

# The newest versions that name topics rather than give their ids.
PRODUCE_VERSION, FETCH_VERSION = 12, 12
IN_FLIGHT = 5  # what an idempotent producer may have
PRODUCE_TIMEOUT_MS = 30_000
FETCH_BYTES = 50 << 20  # fetch.max.bytes of the Java consumer
PARTITION_BYTES = 1 << 20
NOTHING_NEW_S = 30.0

_BATCH_START = struct.Struct(">qi")
_LAST_DELTA = struct.Struct(">i")
_LAST_DELTA_AT = 23


@dataclass(frozen=True)
class Produced:
    """What producers got acknowledged."""

    records: int
    seconds: float
    payload_bytes: int
    latency_ms: Percentiles


@dataclass(frozen=True)
class Consumed:
    """What the consumer got."""

    records: int
    seconds: float


def produce(
    topic: Topic, template: BatchTemplate, producers: int, seconds: float, report: Callable[[int], None]
) -> Produced:
    """Send batches for so long; `report` is told of acknowledged records. Raises BenchError."""
    start = time.monotonic()
    until = start + seconds
    with ThreadPoolExecutor(producers) as threads:
        tasks = [threads.submit(_Producer(topic, template, shift, report).run, until) for shift in range(producers)]
        latencies = [latency for task in tasks for latency in task.result()]
    took = time.monotonic() - start
    if not latencies:
        raise BenchError("no request was acknowledged")
    batches = len(latencies)
    return Produced(batches * template.count, took, batches * template.payload_bytes, Percentiles.of(latencies))


def init_producer(connection: Connection) -> tuple[int, int]:
    """A producer id and its epoch. Raises BenchError."""
    answer = connection.call(INIT_PRODUCER_ID, InitProducerIdRequest(transaction_timeout_ms=60_000))
    check(answer.error_code, "no producer id")
    return answer.producer_id, answer.producer_epoch


def produce_frame(connection: Connection, topic: str, partition: int, batch: bytes) -> bytes:
    request = ProduceRequest(
        acks=-1,
        timeout_ms=PRODUCE_TIMEOUT_MS,
        topic_data=[
            TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)])
        ],
    )
    return connection.frame(PRODUCE, connection.version(PRODUCE, PRODUCE_VERSION), request)


def read_acknowledgement(connection: Connection) -> int:
    """The base offset of the one batch that a produce request carried. Raises BenchError."""
    answer = connection.response(PRODUCE, connection.version(PRODUCE, PRODUCE_VERSION))
    partition = answer.responses[0].partition_responses[0]
    check(partition.error_code, f"partition {partition.index} takes no batch")
    offset: int = partition.base_offset
    return offset


@dataclass
class _Lane:
    """One connection of a producer and when its requests were sent."""

    connection: Connection
    sent_at: deque[float] = field(default_factory=deque)


class _Producer:
    """One producer: batches to all partitions in turn, over one connection to each leader."""

    def __init__(self, topic: Topic, template: BatchTemplate, shift: int, report: Callable[[int], None]) -> None:
        self._topic = topic
        self._template = template
        self._partition = shift % len(topic.leaders)
        self._report = report
        self._sequences = [0] * len(topic.leaders)
        self._latencies_ms: list[float] = []

    def run(self, until: float) -> list[float]:
        """The latency of each batch in ms."""
        lanes: dict[tuple[str, int], _Lane] = {}
        try:
            for partition, place in enumerate(self._topic.leaders):
                if place not in lanes:
                    lanes[place] = _Lane(self._topic.connect(partition))
            first = next(iter(lanes.values()))
            producer = init_producer(first.connection)
            while time.monotonic() < until:
                lane = lanes[self._topic.leaders[self._partition]]
                if len(lane.sent_at) == IN_FLIGHT:
                    self._acknowledged(lane)
                self._send(lane, producer)
            for lane in lanes.values():
                while lane.sent_at:
                    self._acknowledged(lane)
        finally:
            for lane in lanes.values():
                lane.connection.close()
        return self._latencies_ms

    def _send(self, lane: _Lane, producer: tuple[int, int]) -> None:
        partition = self._partition
        sequence = self._sequences[partition]
        batch = self._template.batch(int(time.time() * 1000), *producer, sequence)
        lane.sent_at.append(time.monotonic())
        lane.connection.send(produce_frame(lane.connection, self._topic.name, partition, batch))
        self._sequences[partition] = next_sequence(sequence, self._template.count)
        self._partition = (partition + 1) % len(self._topic.leaders)

    def _acknowledged(self, lane: _Lane) -> None:
        read_acknowledgement(lane.connection)
        self._latencies_ms.append((time.monotonic() - lane.sent_at.popleft()) * 1000)
        self._report(self._template.count)


def consume(topic: Topic, records: int, report: Callable[[int], None]) -> Consumed:
    """Read the topic from the beginning until so many records have come. Raises BenchError."""
    places: dict[tuple[str, int], list[int]] = {}
    for partition, place in enumerate(topic.leaders):
        places.setdefault(place, []).append(partition)
    connections = {place: topic.connect(partitions[0]) for place, partitions in places.items()}
    offsets = dict.fromkeys(range(len(topic.leaders)), 0)
    start = last_news = time.monotonic()
    seen = 0
    try:
        while seen < records:
            for place, connection in connections.items():
                fresh = _fetch(connection, topic.name, {partition: offsets[partition] for partition in places[place]})
                for partition, offset in fresh.items():
                    report(offset - offsets[partition])
                    offsets[partition] = offset
            if sum(offsets.values()) > seen:
                seen, last_news = sum(offsets.values()), time.monotonic()
            elif time.monotonic() - last_news > NOTHING_NEW_S:
                raise BenchError(f"after {seen} of {records} records nothing came for {NOTHING_NEW_S:.0f} s")
    finally:
        for connection in connections.values():
            connection.close()
    return Consumed(seen, time.monotonic() - start)


def fetch_request(topic: str, offsets: Mapping[int, int]) -> FetchRequest:
    """A fetch without a session, from these offsets by partition."""
    partitions = [
        FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=PARTITION_BYTES)
        for partition, offset in offsets.items()
    ]
    return FetchRequest(
        max_wait_ms=500, min_bytes=1, max_bytes=FETCH_BYTES, topics=[FetchTopic(topic=topic, partitions=partitions)]
    )


def _fetch(connection: Connection, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
    """The next offset of each partition that had records."""
    return next_offsets(connection.call(FETCH, fetch_request(topic, offsets), FETCH_VERSION), offsets)


def next_offsets(answer: FetchResponse, offsets: Mapping[int, int]) -> dict[int, int]:
    """Where each partition that had records goes on. Raises BenchError for errors and gaps."""
    check(answer.error_code, "fetch")
    fresh = {}
    for topic in answer.responses:
        for partition in topic.partitions:
            check(partition.error_code, f"partition {partition.partition_index} cannot be read")
            index = partition.partition_index
            records = partition.records or b""
            assert isinstance(records, bytes | memoryview)
            offset = _after(memoryview(records), offsets[index], index)
            if offset > offsets[index]:
                fresh[index] = offset
    return fresh


def _after(records: memoryview, wanted: int, partition: int) -> int:
    """The offset after the last whole batch, whose offsets must go on from `wanted`."""
    at = 0
    while at + HEADER_BYTES <= len(records):
        base, length = _BATCH_START.unpack_from(records, at)
        if at + _BATCH_START.size + length > len(records):
            break  # a batch that was cut at the size limit
        (last_delta,) = _LAST_DELTA.unpack_from(records, at + _LAST_DELTA_AT)
        if base > wanted:
            raise BenchError(f"partition {partition}: offset {base} where {wanted} was due")
        wanted = base + last_delta + 1
        at += _BATCH_START.size + length
    return wanted
