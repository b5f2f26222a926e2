"""Metrics that clients have pushed, and how that goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.telemetry import Telemetry
from pg_kafka.metrics.catalogue import Family, telemetry
from pg_kafka.metrics.families import many, one
from pg_kafka.wire.error_codes import ErrorCode


class TelemetrySource:
    """Lives as long as the process."""

    def __init__(self, of: Telemetry) -> None:
        self._telemetry = of

    def families(self) -> Iterable[Metric]:
        found = self._telemetry
        found.forget()
        yield one(telemetry.SUBSCRIPTIONS, len(found.instances.subscriptions))
        yield one(telemetry.INSTANCES, len(found.instances))
        yield _by_error(telemetry.ASKED, found.asked)
        yield _by_error(telemetry.PUSHES, found.pushes)
        yield one(telemetry.BYTES, found.pushed_bytes)
        yield one(telemetry.POINTS, found.points)
        yield one(telemetry.POINTS_LEFT_OUT, found.points_left_out)
        yield one(telemetry.SERIES, found.pushed.series)
        yield one(telemetry.WITHOUT_SERIES, found.pushed.left_out)
        for name, series in found.pushed.families():
            metric = Metric(
                name.name, f"Pushed by clients as {name.original}.", "counter" if name.is_counter else "gauge"
            )
            end = "_total" if name.is_counter else ""
            for labels, value in series:
                metric.add_sample(name.name + end, dict(labels), value)
            yield metric


def _by_error(family: Family, counts: Counter[int]) -> Metric:
    return many(family, {(ErrorCode(code).name,): count for code, count in counts.items()})
