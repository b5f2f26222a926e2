"""End-to-end latency of an open loop: records are due at a fixed rate, whatever the broker does.

The client is that of `pg-kafka bench` (pg_kafka/bench/open_loop.py): linger 0, five requests under way, one partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.measurements import Measurement
from bench.meter import Meter
from bench.raw import in_process
from bench.turn import Turn
from pg_kafka.bench.batches import BatchTemplate, values_for
from pg_kafka.bench.cluster import temporary_topic
from pg_kafka.bench.open_loop import OpenLoop

RECORD_BYTES = 100
_BATCH_BYTES = 64 << 10


@dataclass(frozen=True)
class Latency:
    """One rate."""

    records_per_s: int
    seconds: float
    warm_up_s: float = 2.0

    @property
    def name(self) -> str:
        return f"{self.records_per_s // 1000}k records/s of {RECORD_BYTES} B"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        source = turn.payloads.file("random", RECORD_BYTES).read_bytes()
        meter = Meter(turn.system)
        found, cpu_s = in_process(measure, turn.system.host, turn.system.port, self, source)
        records = int(self.records_per_s * (self.seconds + self.warm_up_s))
        figures = {**found, **meter.figures(records, records * RECORD_BYTES, cpu_s)}
        yield turn.found("latency", self.name, figures, {"records_per_s": self.records_per_s})


async def measure(host: str, port: int, workload: Latency, source: bytes) -> dict[str, float]:
    """In the client's process; blocking, and nothing else runs there."""
    template = BatchTemplate(values_for(_BATCH_BYTES, RECORD_BYTES, source))
    with temporary_topic(host, port, 1, "bench") as topic:
        found = OpenLoop(
            topic, template, workload.records_per_s, workload.seconds, workload.warm_up_s, lambda _: None
        ).run()
    records = workload.records_per_s * (workload.seconds + workload.warm_up_s)
    acknowledged = {f"acknowledged_{name}": value for name, value in found.acknowledged_ms.figures().items()}
    return {**found.end_to_end_ms.figures(), **acknowledged, "records_per_batch": records / found.batches}
