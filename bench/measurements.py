"""What the yardstick finds, and the figure that counts for each kind of workload."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measurement:
    """One run of one workload on one system."""

    kind: str  # a key of KINDS
    workload: str
    system: str
    round: int
    figures: Mapping[str, float]
    settings: Mapping[str, str | int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Kind:
    """A family of workloads: which figure counts, in which unit, and whether more of it is better."""

    title: str
    headline: str
    unit: str
    scale: float = 1.0
    is_rate: bool = True


KINDS: Mapping[str, Kind] = {
    "produce": Kind("Produce", "records_per_s", "k records/s", 1e-3),
    "consume cold": Kind("Consume from the beginning", "records_per_s", "k records/s", 1e-3),
    "consume live": Kind("Consume behind a producer at full speed", "records_per_s", "k records/s", 1e-3),
    "latency": Kind("End-to-end latency of an open loop", "p99_ms", "ms, p99", is_rate=False),
    "small producers": Kind("Many producers, one record a request", "requests_per_s", "k requests/s", 1e-3),
    "transactions": Kind("Transactions, one producer", "records_per_s", "k records/s", 1e-3),
    "width": Kind("Parked consumers", "idle_cpu_percent", "% of a core, idle", is_rate=False),
    "sql": Kind("SQL over a topic", "records_per_s", "M records/s", 1e-6),
    "endurance": Kind("Endurance", "end_per_start", "rate at the end against the start"),
    "groups": Kind("Groups", "seconds", "s", is_rate=False),
    "commits": Kind("Offset commits", "offsets_per_s", "k offsets/s", 1e-3),
}


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


# Kind, workload, system.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Summary:
    """The rounds of one workload on one system."""

    key: Key
    figures: Mapping[str, Spread]
    settings: Mapping[str, str | int]
    note: str

    def median(self, figure: str) -> float | None:
        spread = self.figures.get(figure)
        return None if spread is None else spread.median


def summarize(measurements: Sequence[Measurement]) -> dict[Key, Summary]:
    """In the order of their first appearance."""
    rounds: dict[Key, list[Measurement]] = {}
    for one in measurements:
        rounds.setdefault((one.kind, one.workload, one.system), []).append(one)
    found = {}
    for key, runs in rounds.items():
        names = dict.fromkeys(name for run in runs for name in run.figures)
        figures = {name: Spread.of(run.figures[name] for run in runs if name in run.figures) for name in names}
        found[key] = Summary(key, figures, runs[0].settings, runs[0].note)
    return found
