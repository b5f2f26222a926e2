"""Numbers as families of `prometheus_client`, with the name, the type and the help of the catalogue.

one(process.SCRAPES, 12)
many(topics.PARTITIONS, {("orders",): 3})
many(topics.OFFSET, {("orders", "0"): 17}, labels=("topic", "partition"))     where labels differ from the catalogue's
histograms(requests.SECONDS, {("Produce",): histogram})
as_seconds, `bounded` and more: `series.py`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from prometheus_client.core import Metric

from pg_kafka.metrics.catalogue.family import Family, Kind
from pg_kafka.metrics.counters import Histogram
from pg_kafka.metrics.counters import Labels as Labels


def one(family: Family, value: float) -> Metric:
    """A family without labels."""
    return many(family, {(): value})


def many(family: Family, values: Mapping[Labels, float], *, labels: Labels | None = None) -> Metric:
    """A family with a series for each of these, labels in the order of the catalogue or of `labels`."""
    names = family.labels if labels is None else labels
    metric = _empty(family)
    for given, value in values.items():
        metric.add_sample(family.name, dict(zip(names, given, strict=True)), value)
    return metric


def histograms(family: Family, values: Mapping[Labels, Histogram]) -> Metric:
    """A family of histograms."""
    metric = _empty(family)
    for given, histogram in values.items():
        labels = dict(zip(family.labels, given, strict=True))
        reached = 0
        for bound, count in zip((*histogram.bounds, inf), histogram.counts, strict=True):
            reached += count
            upper = "+Inf" if bound == inf else str(float(bound))
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": upper}, reached)
        metric.add_sample(f"{family.name}_count", labels, reached)
        metric.add_sample(f"{family.name}_sum", labels, histogram.total)
    return metric


def merged(parts: Iterable[Metric]) -> list[Metric]:
    """Families of several sources, each name once: what a second source says of one is added to it."""
    by_name: dict[str, Metric] = {}
    for part in parts:
        known = by_name.setdefault(part.name, part)
        if known is not part:
            known.samples.extend(part.samples)
    return list(by_name.values())


def _empty(family: Family) -> Metric:
    # The library writes `_total` itself.
    name = family.name.removesuffix("_total") if family.kind is Kind.COUNTER else family.name
    return Metric(name, family.help, family.kind.value)
