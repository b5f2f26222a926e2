"""Produce: acks=all, idempotent, as fast as it goes; the topic may be read cold afterwards, and its rows copied.

With `then_consume` the first records are read back from the beginning by a Java consumer without a group: those that are
older than what a broker keeps of a log's end in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import copy_rows, java, librdkafka
from bench.java import ProducerRun
from bench.measurements import Measurement
from bench.meter import Meter
from bench.systems import COPY_OF
from bench.turn import Turn

CLIENTS = {"java": java.produce, "librdkafka": librdkafka.produce}
# The default of pg_kafka.tail_bytes; what Kafka keeps is the page cache.
TAIL_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Produce:
    """One row of the first workload."""

    records: int
    payload: str = "random"  # or "json"
    record_bytes: int = 100
    batch_bytes: int = 65_536
    producers: int = 1
    partitions: int = 1
    codec: str = "none"
    client: str = "java"
    then_consume: bool = False
    then_copy: bool = False

    @property
    def name(self) -> str:
        many = f"{self.producers} producer{'s' * (self.producers > 1)}, {self.partitions} partition{'s' * (self.partitions > 1)}"
        extra = "".join(f", {one}" for one in (self.codec, self.client) if one not in ("none", "java"))
        return f"{self.payload} {size(self.record_bytes)}, {self.batch_bytes >> 10} kB, {many}{extra}"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        topic = turn.topic(self.partitions)
        payload = turn.payloads.file(self.payload, self.record_bytes)
        order = ProducerRun(topic, payload, self.records, self.producers, self.batch_bytes, self.codec)
        records = self.records // self.producers * self.producers
        settings: dict[str, str | int] = {
            "payload": self.payload,
            "record_bytes": self.record_bytes,
            "batch_bytes": self.batch_bytes,
            "producers": self.producers,
            "partitions": self.partitions,
            "codec": self.codec,
            "client": self.client,
        }
        meter = Meter(turn.system)
        rates = CLIENTS[self.client](turn.system.bootstrap, order)
        figures = {**rates, **meter.figures(records, records * self.record_bytes)}
        yield turn.found("produce", self.name, figures, settings)
        if self.then_copy and turn.system.name in COPY_OF:
            yield from copy_rows.measure(turn, topic, self.name, records, records * self.record_bytes, settings)
        if self.then_consume:
            yield self._consume(turn, topic, records, settings)

    def _consume(self, turn: Turn, topic: str, records: int, settings: dict[str, str | int]) -> Measurement:
        cold = records - TAIL_CACHE_BYTES // self.record_bytes
        wanted = cold if cold > 0 and self.partitions == 1 else records
        meter = Meter(turn.system)
        with java.Consumer(turn.system.bootstrap, topic, self.partitions, wanted) as consumer:
            read = consumer.result()
        figures = {"records_per_s": read.records / read.seconds, **meter.figures(read.records)}
        note = "" if wanted < records else "not larger than the tail cache"
        name = f"{self.payload} {size(self.record_bytes)}, {self.partitions} partition{'s' * (self.partitions > 1)}"
        return turn.found("consume cold", name, figures, settings, note=note)


def size(record_bytes: int) -> str:
    return f"{record_bytes // 1000} kB" if record_bytes % 1000 == 0 else f"{record_bytes} B"
