"""Which workloads run, how large, and how many times.

short finishes within five minutes and shows where things stand; full covers the workloads for publication; endurance is
long by nature; tiny is for trying the yardstick itself and says nothing about speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.consume import ConsumeLive
from bench.endurance import Endurance
from bench.latency import Latency
from bench.produce import Produce
from bench.small_producers import SmallProducers
from bench.sql import Sql
from bench.systems import EMBEDDED
from bench.transactions import Transactions
from bench.turn import Workload
from bench.width import Width

KB16, KB64 = 16_384, 65_536


@dataclass(frozen=True)
class Profile:
    """Workloads in the order of a turn, each with the number of rounds that it is in; all systems unless some are named."""

    rows: Sequence[tuple[int, Workload]]
    systems: Sequence[str] = ()

    @property
    def rounds(self) -> int:
        return max(rounds for rounds, _ in self.rows)

    def of_round(self, number: int) -> list[Workload]:
        return [workload for rounds, workload in self.rows if number < rounds]


def tiny() -> Profile:
    return Profile(
        [
            (1, Produce(20_000, then_consume=True, then_copy=True)),
            (1, Produce(20_000, payload="json", record_bytes=150, producers=4, partitions=12, codec="zstd")),
            (1, Produce(20_000, record_bytes=1000, batch_bytes=KB16, producers=2, client="librdkafka")),
            (1, ConsumeLive(20_000)),
            (1, Latency(1_000, 1, 0.5)),
            (1, SmallProducers(1, connections=50)),
            (1, Transactions(20_000, 20)),
            (1, Width(100, 50, 1)),
            (1, Sql(50_000)),
            (1, Endurance(3, 2, True, maximum_records=20_000)),
        ]
    )


def short() -> Profile:
    return Profile(
        [
            (2, Produce(1_000_000, then_consume=True)),
            (2, Produce(400_000, batch_bytes=KB16)),
            (1, Produce(600_000, producers=4, partitions=12, then_copy=True)),
            (1, Produce(100_000, record_bytes=1000)),
            (1, Produce(600_000, "json", 150, codec="lz4")),
            (1, Produce(600_000, "json", 150, codec="zstd")),
            (1, ConsumeLive(500_000)),
            (1, Latency(1_000, 3, 1)),
            (1, SmallProducers(2)),
            (1, Transactions(600_000)),
            (1, Width(400, 200, 2)),
            (1, Sql(500_000)),
        ]
    )


def full() -> Profile:
    rows: list[tuple[int, Workload]] = []
    for batch_bytes, fewer in ((KB64, 1.0), (KB16, 0.4)):
        for payload, record_bytes, records in (
            ("random", 100, 1_500_000),
            ("random", 1000, 180_000),
            ("json", 150, 1_000_000),
            ("json", 1000, 180_000),
        ):
            count = int(records * fewer)
            is_large = batch_bytes == KB64
            rows += [
                (2, Produce(count, payload, record_bytes, batch_bytes, then_consume=is_large and payload == "random")),
                (2, Produce(count, payload, record_bytes, batch_bytes, 4, 12, then_copy=is_large)),
            ]
    for record_bytes, records in ((150, 1_000_000), (1000, 180_000)):
        for codec in ("lz4", "zstd"):
            rows.append((2, Produce(records, "json", record_bytes, KB64, codec=codec)))
    rows += [
        (2, Produce(1_500_000, producers=4, then_copy=True)),
        (2, Produce(1_500_000, partitions=12)),
        (2, Produce(1_000_000, client="librdkafka")),
        (2, Produce(400_000, batch_bytes=KB16, client="librdkafka")),
        (2, Produce(1_000_000, producers=4, partitions=12, client="librdkafka")),
        (2, Produce(200_000, "json", 1000, codec="lz4", client="librdkafka")),
        (2, ConsumeLive(1_500_000)),
        (2, ConsumeLive(180_000, record_bytes=1000)),
        (2, Latency(1_000, 10)),
        (2, Latency(10_000, 10)),
        (2, Latency(50_000, 10)),
        (2, SmallProducers(5)),
        (2, Transactions(900_000)),
        (2, Transactions(900_000, partitions=12)),
        (2, Width(2_000, 1_000, 10)),
        (1, Sql(10_000_000)),
    ]
    return Profile(rows)


def endurance() -> Profile:
    return Profile([(1, Endurance(30, 60, False)), (1, Endurance(30, 60, True))], (EMBEDDED,))


PROFILES: dict[str, Callable[[], Profile]] = {"tiny": tiny, "short": short, "full": full, "endurance": endurance}
