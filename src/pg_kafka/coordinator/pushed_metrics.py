"""What clients have pushed, as series for Prometheus: by client and metric, and so many of them at most.

    pushed = PushedMetrics()
    push = pushed.begin(instance_id, "orders-service", Detail(...), now_ms)
    push.add(point)                          of `wire/otlp.py`
    pushed.take(push)                        all of it, once it is known to be sound
    pushed.forget([instance_id])             gauges of a client that is gone
    for family in pushed.families(): ...

Pure. A name becomes one of Prometheus: dots become underscores, as OpenTelemetry's own exporters write it, and what does
not begin with `org.apache.kafka.` gets `application_` in front, so that no client can write a metric of the broker's.

    org.apache.kafka.producer.record.send.total{topic="orders"}       a sum, told as what has been added
    org_apache_kafka_producer_record_send_total{client_id="orders-service",topic="orders"}

Sums of all clients with the same labels are added up here and never go back. Gauges are those of the clients that are
there, put together by what their name says: the greatest of `.max`, the mean of `.avg`, else the sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from pg_kafka.coordinator.client_metrics import shown
from pg_kafka.wire.otlp import Attributes, Kind, Point, Temporality

MAX_FAMILIES: Final = 500
"""Names of metrics. Kafka's clients have some 200, applications may have more of their own."""

MAX_LABELS: Final = 16
MAX_TEXT_CHARACTERS: Final = 200
"""Of a name or a value of a label. Clients choose them."""

MAX_PUSHED: Final = 2_000
"""Series of one push, and values of one client that are remembered to tell what has been added to them."""

SERIES_PER_METRIC: Final = 20
"""All metrics together have so many times the series that one metric may have."""

UNUSED_MS: Final = 3_600_000
"""A sum that nobody has added to for so long is forgotten."""

OTHER: Final = "(other)"

_KAFKAS = "org.apache.kafka."
_ODD = re.compile(r"[^a-zA-Z0-9_]")
# In OpenMetrics they say what a sample is; no other name may end so.
_RESERVED_ENDS = ("_total", "_bucket", "_info", "_created")
_OF_RESOURCE = frozenset(("group_id", "client_rack"))
_OF_INSTANCE = frozenset(("group_member_id", "group_instance_id", "transactional_id"))
_OURS = frozenset(("client_id", "client_instance_id"))

Labels = tuple[tuple[str, str], ...]


class Together(Enum):
    """What several clients' gauges are as one."""

    SUM = ""
    MEAN = "mean"
    GREATEST = "greatest"
    LEAST = "least"


_BY_END = {
    "avg": Together.MEAN,
    "mean": Together.MEAN,
    "ratio": Together.MEAN,
    "percent": Together.MEAN,
    "max": Together.GREATEST,
    "age": Together.GREATEST,
    "ago": Together.GREATEST,
    "min": Together.LEAST,
}


class Detail(NamedTuple):
    """How far series are told apart, and how many there may be of one metric."""

    by_instance: bool = False
    by_partition: bool = False
    most: int = 500


class Name(NamedTuple):
    """A metric as it is called here."""

    name: str  # without the _total of a counter
    is_counter: bool
    together: Together
    original: str


class Figure:
    """A number, or what several are together."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, together: Together, value: float, count: int = 1) -> None:
        if not self.count:
            self.value = value
        elif together is Together.GREATEST:
            self.value = max(self.value, value)
        elif together is Together.LEAST:
            self.value = min(self.value, value)
        else:
            self.value += value
        self.count += count

    def told(self, together: Together) -> float:
        return self.value / self.count if together is Together.MEAN else self.value


_Key = tuple[str, Labels]
_Cumulative = tuple[str, Attributes, Attributes]


class Push:
    """One push while it is read. It changes nothing yet."""

    def __init__(self, known: _Instance, instance_id: UUID, client_id: str, detail: Detail, now_ms: int) -> None:
        self.instance_id = instance_id
        self.detail = detail
        self.now_ms = now_ms
        self.figures: dict[tuple[Name, Labels], Figure] = {}
        self.cumulative: dict[_Cumulative, tuple[int, float]] = {}
        self.points = self.left_out = 0
        self._known = known
        self._labels = [("client_id", _cut(client_id))]
        if detail.by_instance:
            self._labels.append(("client_instance_id", shown(instance_id)))

    def add(self, point: Point) -> None:
        """Take one number."""
        self.points += 1
        name, value = named(point.name, point.kind is Kind.SUM and point.is_monotonic), float(point.value)
        if name is None or not math.isfinite(value):
            self.left_out += 1
            return
        if name.is_counter:
            added = self._added(point, value)
            if added is None or added < 0:
                self.left_out += 1
                return
            value = added
        elif point.kind is Kind.SUM and point.temporality == Temporality.DELTA:
            self.left_out += 1  # it may go back, so what it is now depends on all that was ever pushed
            return
        key = name, self._labels_of(point.resource, point.attributes)
        found = self.figures.get(key)
        if found is None:
            if len(self.figures) >= MAX_PUSHED:
                key = name, _OTHER_LABELS
                found = self.figures.get(key)
                if found is None and len(self.figures) >= MAX_PUSHED + MAX_FAMILIES:
                    self.left_out += 1
                    return
            if found is None:
                found = self.figures[key] = Figure()
        found.add(name.together, value)

    def _added(self, point: Point, value: float) -> float | None:
        """What a sum has grown by; None when that cannot be told."""
        if point.temporality == Temporality.DELTA:
            return value
        key = point.name, point.resource, point.attributes
        if key not in self._known.cumulative and len(self._known.cumulative) + len(self.cumulative) >= MAX_PUSHED:
            return None
        before = self.cumulative.get(key) or self._known.cumulative.get(key)
        self.cumulative[key] = point.start_ns, value
        if before is None:
            return 0.0  # what was before we looked is none of ours
        return value - before[1] if point.start_ns == before[0] and value >= before[1] else value

    def _labels_of(self, resource: Attributes, attributes: Attributes) -> Labels:
        labels = dict(self._labels)
        for key, value in resource:
            if key in _OF_RESOURCE or (self.detail.by_instance and key in _OF_INSTANCE):
                labels[key] = _cut(value)
        for key, value in attributes:
            if key == "partition" and not self.detail.by_partition:
                continue
            label = _label(key)
            if label and label not in _OURS and (label in labels or len(labels) < MAX_LABELS):
                labels[label] = _cut(value)
        return tuple(sorted(labels.items()))


@dataclass(slots=True)
class _Instance:
    """What is remembered of one client."""

    cumulative: dict[_Cumulative, tuple[int, float]] = field(default_factory=dict)
    gauges: set[_Key] = field(default_factory=set)
    left_out: int = 0


@dataclass(slots=True)
class _Series:
    labels: Labels
    total: float = 0.0
    values: dict[UUID, Figure] = field(default_factory=dict)  # of a gauge
    used_ms: int = 0


@dataclass(slots=True)
class _Family:
    name: Name
    series: dict[Labels, _Series] = field(default_factory=dict)


class PushedMetrics:
    """See the module."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._instances: dict[UUID, _Instance] = {}
        self.series = 0

    @property
    def left_out(self) -> int:
        """How many numbers of the latest pushes have no series of their own."""
        return sum(one.left_out for one in self._instances.values())

    def begin(self, instance_id: UUID, client_id: str, detail: Detail, now_ms: int) -> Push:
        """A push of a client begins to be read."""
        return Push(self._instances.get(instance_id) or _Instance(), instance_id, client_id, detail, now_ms)

    def take(self, push: Push) -> None:
        """All of a push that has been read to its end."""
        if not push.points:
            return
        instance = self._instances.setdefault(push.instance_id, _Instance())
        instance.cumulative.update(push.cumulative)
        before, instance.gauges = instance.gauges, set()
        left_out = push.left_out
        together: dict[_Key, tuple[_Series, Figure]] = {}
        for (name, labels), figure in push.figures.items():
            series = self._place(name, labels, push.detail.most)
            if series is None:
                left_out += figure.count
                continue
            if series.labels == _OTHER_LABELS:
                left_out += figure.count
            series.used_ms = push.now_ms
            if name.is_counter:
                total = series.total + figure.value
                series.total = total if math.isfinite(total) else series.total
            else:
                _, sum = together.setdefault((name.name, series.labels), (series, Figure()))
                sum.add(name.together, figure.value, figure.count)
        for key, (series, sum) in together.items():
            series.values[push.instance_id] = sum
            instance.gauges.add(key)
        instance.left_out = left_out
        # A client tells all it has each time: what it tells no more is no more.
        self._drop(push.instance_id, before - instance.gauges)

    def forget(self, instance_ids: Iterable[UUID]) -> None:
        """These clients are gone. What they have added to sums stays."""
        for instance_id in instance_ids:
            instance = self._instances.pop(instance_id, None)
            if instance is not None:
                self._drop(instance_id, instance.gauges)

    def forget_unused(self, now_ms: int) -> None:
        """Sums that nobody has added to for long go."""
        for family in list(self._families.values()):
            if family.name.is_counter:
                for series in [one for one in family.series.values() if now_ms - one.used_ms >= UNUSED_MS]:
                    self._remove(family, series)

    def families(self) -> Iterator[tuple[Name, list[tuple[Labels, float]]]]:
        """Every metric with its series."""
        for family in self._families.values():
            together = family.name.together
            found = []
            for series in family.series.values():
                if family.name.is_counter:
                    found.append((series.labels, series.total))
                    continue
                figure = Figure()
                for one in series.values.values():
                    figure.add(together, one.value, one.count)
                found.append((series.labels, figure.told(together)))
            yield family.name, found

    def _place(self, name: Name, labels: Labels, most: int) -> _Series | None:
        """The series for these labels, or `(other)` of this metric, or None where a metric has no place."""
        family = self._families.get(name.name)
        if family is None:
            if len(self._families) >= MAX_FAMILIES or not most:
                return None
            family = self._families[name.name] = _Family(name)
        elif family.name.is_counter is not name.is_counter:
            return None  # somebody else tells another thing by this name
        series = family.series.get(labels)
        if series is None:
            if len(family.series) >= most or self.series >= most * SERIES_PER_METRIC:
                labels = _OTHER_LABELS
                series = family.series.get(labels)
            if series is None:
                series = family.series[labels] = _Series(labels)
                self.series += 1
        return series

    def _drop(self, instance_id: UUID, keys: Iterable[_Key]) -> None:
        for name, labels in keys:
            family = self._families[name]
            series = family.series[labels]
            del series.values[instance_id]
            if not series.values:
                self._remove(family, series)

    def _remove(self, family: _Family, series: _Series) -> None:
        del family.series[series.labels]
        self.series -= 1
        if not family.series:
            del self._families[family.name.name]


_OTHER_LABELS: Labels = (("client_id", OTHER),)


@lru_cache(maxsize=4 * MAX_FAMILIES)
def named(original: str, is_counter: bool) -> Name | None:
    """The name here of a metric of a client; None when it cannot have one."""
    if not original or len(original) > MAX_TEXT_CHARACTERS:
        return None
    name = _ODD.sub("_", original)
    if not original.startswith(_KAFKAS):
        name = "application_" + name
    if is_counter:
        name = name.removesuffix("_total")
    if name.endswith(_RESERVED_ENDS):
        name += "_all" if is_counter else "_now"
    end = re.split("[._]", original)[-1]
    return Name(name, is_counter, Together.SUM if is_counter else _BY_END.get(end, Together.SUM), original)


@lru_cache(maxsize=1024)
def _label(key: str) -> str:
    """The name of a label; empty when it can have none."""
    label = _ODD.sub("_", key[: MAX_TEXT_CHARACTERS + 1])
    if not label or len(label) > MAX_TEXT_CHARACTERS or label.startswith("__"):
        return ""
    return "_" + label if label[0].isdigit() else label


def _cut(text: str) -> str:
    return text[:MAX_TEXT_CHARACTERS]
