"""What the catalogue says of one metric."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Kind(StrEnum):
    """Prometheus' types, as the text format writes them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. Names and units follow Prometheus' conventions: seconds, bytes, `_total` for counters.

    https://prometheus.io/docs/practices/naming/
    """

    name: str
    kind: Kind
    help: str  # one or two sentences, with the unit where the name does not say it
    labels: tuple[str, ...] = ()
    only: str = ""  # when it is there, if it is not always: "with pg_kafka.metrics_per_partition"

    def __post_init__(self) -> None:
        if not all(map(_NAME.fullmatch, (self.name, *self.labels))):
            raise ValueError(f"no name of a metric and its labels: {self.name} {self.labels}")
        if (self.kind is Kind.COUNTER) != self.name.endswith("_total"):
            raise ValueError(f"{self.name}: a counter ends in _total, and nothing else does")


def counter(name: str, help: str, *labels: str, only: str = "") -> Family:
    return Family(name, Kind.COUNTER, help, labels, only)


def gauge(name: str, help: str, *labels: str, only: str = "") -> Family:
    return Family(name, Kind.GAUGE, help, labels, only)


def histogram(name: str, help: str, *labels: str, only: str = "") -> Family:
    return Family(name, Kind.HISTOGRAM, help, labels, only)
