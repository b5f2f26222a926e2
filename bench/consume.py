"""Consume live: a Java consumer with a group follows Java producers at full speed, from their first record on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import java
from bench.java import ProducerRun
from bench.measurements import Measurement
from bench.meter import Meter
from bench.produce import size
from bench.turn import JOIN_GROUP, Turn


@dataclass(frozen=True)
class ConsumeLive:
    """The rate counts from the consumer's first record to its last."""

    records: int
    record_bytes: int = 100
    producers: int = 1
    partitions: int = 12

    @property
    def name(self) -> str:
        return f"random {size(self.record_bytes)}, {self.producers} to {self.partitions} partitions, a group"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        topic = turn.topic(self.partitions)
        payload = turn.payloads.file("random", self.record_bytes)
        records = self.records // self.producers * self.producers
        has_groups = turn.serves(JOIN_GROUP)
        meter = Meter(turn.system)
        group = f"group-of-{topic}" if has_groups else ""
        with java.Consumer(turn.system.bootstrap, topic, self.partitions, records, group) as consumer:
            consumer.wait_ready()
            produced = java.produce(turn.system.bootstrap, ProducerRun(topic, payload, records, self.producers))
            read = consumer.result()
        figures = {
            "records_per_s": read.records / read.seconds_from_first,
            "produced_per_s": produced["records_per_s"],
            **meter.figures(records, records * self.record_bytes),
        }
        note = "" if has_groups else "without a group, which this broker does not serve"
        yield turn.found("consume live", self.name, figures, {"record_bytes": self.record_bytes}, note=note)
