"""A transactional producer at full speed that commits every so often: records a second, and how long a commit takes.

What the client has still to send is flushed before the commit's time is taken: that of EndTxn alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.java import LINGER_MS, command, output_of
from bench.measurements import Measurement
from bench.meter import Meter
from bench.turn import Turn
from pg_kafka.bench.latencies import Percentiles

ADD_PARTITIONS_TO_TXN = 24
_RECORD_BYTES = 100


@dataclass(frozen=True)
class Transactions:
    """One producer, transactions of so many milliseconds."""

    records: int
    length_ms: int = 100
    partitions: int = 1
    batch_bytes: int = 65_536

    @property
    def name(self) -> str:
        places = f"{self.partitions} partition{'s' * (self.partitions > 1)}"
        return f"{_RECORD_BYTES} B, {self.batch_bytes >> 10} kB, {places}, {self.length_ms} ms"

    def run(self, turn: Turn) -> Iterator[Measurement]:
        if not turn.serves(ADD_PARTITIONS_TO_TXN):
            return
        topic = turn.topic(self.partitions)
        payload = turn.payloads.file("random", _RECORD_BYTES)
        meter = Meter(turn.system)
        numbers = (self.records, self.batch_bytes, LINGER_MS, self.length_ms)
        output = output_of(command("Transactions", turn.system.bootstrap, topic, str(payload), *map(str, numbers)))
        found = re.search(r"(\d+) records, ([\d.]+) s, commits ([\d. ]+)", output)
        if found is None:
            raise RuntimeError(f"the transactional producer ended with: {output[-800:]}")
        commits = Percentiles.of([float(one) for one in found[3].split()])
        costs = meter.figures(self.records, self.records * _RECORD_BYTES)
        figures = {"records_per_s": int(found[1]) / float(found[2]), **commits.figures(), **costs}
        yield turn.found("transactions", self.name, figures)
