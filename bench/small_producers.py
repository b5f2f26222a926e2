"""Many small producers: each a connection and an idempotent producer of its own that sends one record, waits for its
acknowledgement, and sends the next. A closed loop: the rate is what counts, and the latency follows from it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.measurements import Measurement
from bench.meter import Meter
from bench.raw import INIT_PRODUCER_ID, PRODUCE, RawConnection, check, connect_many, decode, in_process
from bench.turn import Turn
from pg_kafka.bench.batches import BatchTemplate
from pg_kafka.bench.latencies import Percentiles
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

RECORD_BYTES = 100
PARTITIONS = 12
WARM_UP_SHARE = 0.2
# The last version without tagged fields: the error code of the only partition is at a known place.
_PRODUCE_VERSION = 8
_ERROR_CODE = struct.Struct(">h")


@dataclass(frozen=True)
class SmallProducers:
    """All connections at once, for so long."""

    seconds: float
    connections: int = 500

    @property
    def name(self) -> str:
        return f"{self.connections} connections, {RECORD_BYTES} B, {PARTITIONS} partitions"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        topic = turn.topic(PARTITIONS)
        meter = Meter(turn.system)
        found, cpu_s = in_process(measure, turn.system.host, turn.system.port, topic, self)
        sent = int(found.pop("sent"))
        figures = {**found, **meter.figures(sent, sent * RECORD_BYTES, cpu_s)}
        yield turn.found("small producers", self.name, figures)


class _Producer:
    """One connection with one request under way."""

    def __init__(self, connection: RawConnection, topic: str, partition: int, template: BatchTemplate) -> None:
        self._connection = connection
        self._template = template
        self._identity = (-1, -1)
        self._sequence = 0
        self._sent_at = 0.0
        self._error_at = 4 + 4 + 2 + len(topic) + 4 + 4
        batch = template.batch(0)
        partition_data = PartitionProduceData(index=partition, records=batch)
        request = ProduceRequest(
            acks=-1, timeout_ms=30_000, topic_data=[TopicProduceData(name=topic, partition_data=[partition_data])]
        )
        # Only the batch at its end changes from request to request.
        self._frame_start = connection.frame(PRODUCE, _PRODUCE_VERSION, request)[: -len(batch)]
        self.latencies_ms: list[float] = []
        self.is_running = True
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def prepare(self) -> None:
        answer = await self._connection.call(INIT_PRODUCER_ID, 0, InitProducerIdRequest(transaction_timeout_ms=60_000))
        check(answer.error_code, "no producer id")
        self._identity = (answer.producer_id, answer.producer_epoch)

    def send(self) -> None:
        self._sent_at = time.monotonic()
        batch = self._template.batch(int(time.time() * 1000), *self._identity, self._sequence)
        self._sequence += 1
        self._connection.send(self._frame_start + batch, self._acknowledged)

    def _acknowledged(self, frame: bytes | memoryview) -> None:
        if _ERROR_CODE.unpack_from(frame, self._error_at)[0]:
            answer = decode(PRODUCE, _PRODUCE_VERSION, frame)
            self.idle.set_exception(RuntimeError(f"a record was refused: {answer}"))
            return
        self.latencies_ms.append((time.monotonic() - self._sent_at) * 1000)
        if self.is_running:
            self.send()
        else:
            self.idle.set_result(None)


async def measure(host: str, port: int, topic: str, workload: SmallProducers) -> dict[str, float]:
    """In the client's process."""
    template = BatchTemplate([bytes(range(32, 132))[:RECORD_BYTES]])
    connections = await connect_many(host, port, workload.connections)
    producers = [
        _Producer(connection, topic, number % PARTITIONS, template) for number, connection in enumerate(connections)
    ]
    await asyncio.gather(*(producer.prepare() for producer in producers))
    for producer in producers:
        producer.send()
    stopped = [producer.idle for producer in producers] + [connection.lost for connection in connections]
    warm_up_s = workload.seconds * WARM_UP_SHARE
    await _unless_failed(stopped, warm_up_s)
    for producer in producers:
        producer.latencies_ms.clear()
    start = time.monotonic()
    await _unless_failed(stopped, workload.seconds)
    seconds = time.monotonic() - start
    latencies = [latency for producer in producers for latency in producer.latencies_ms]
    for producer in producers:
        producer.is_running = False
    async with asyncio.timeout(60):
        await asyncio.gather(*(producer.idle for producer in producers))
    sent = sum(producer._sequence for producer in producers)
    for connection in connections:
        connection.close()
    return {"requests_per_s": len(latencies) / seconds, "sent": sent, **Percentiles.of(latencies).figures()}


async def _unless_failed(futures: list[asyncio.Future[None]], seconds: float) -> None:
    """Wait; raises what has failed meanwhile."""
    done, _ = await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        future.result()
