"""The lag of consumer groups. Names and labels are those of kafka_exporter, as far as it has them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.lag import Figures, GroupLag
from pg_kafka.clock import Clock
from pg_kafka.metrics.catalogue import lag as catalogue
from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.counters import OTHER
from pg_kafka.metrics.families import Labels, many, one
from pg_kafka.metrics.series import Bounds, Chosen

_OTHERS = (OTHER, OTHER)
_BY_TOPIC = ("consumergroup", "topic")


class LagSource:
    """Belongs to one incarnation. A group has a series for each of its topics; those furthest behind come first."""

    def __init__(self, lag: GroupLag, bounds: Bounds, clock: Clock) -> None:
        self._lag = lag
        self._bounds = bounds
        self._clock = clock
        self._chosen = Chosen()

    def families(self) -> Iterable[Metric]:
        lag = self._lag
        if lag.looked_at_ms is None:
            return
        yield one(catalogue.AGE_SECONDS, max(self._clock.steady_ms() - lag.looked_at_ms, 0) / 1000)
        yield one(catalogue.LOOK_SECONDS, lag.look_s)
        own, others = self._split()
        offsets: dict[Labels, float] = {names: found.offsets for names, found in own.items()}
        lags: dict[Labels, float] = {names: found.lag for names, found in own.items()}
        seconds: dict[Labels, float] = {
            names: lag.seconds(found.oldest_ms, found.seen_ms) for names, found in own.items()
        }
        if others:
            offsets[_OTHERS] = sum(found.offsets for found in others)
            lags[_OTHERS] = sum(found.lag for found in others)
            seconds[_OTHERS] = max(lag.seconds(found.oldest_ms, found.seen_ms) for found in others)
        yield many(catalogue.OFFSET_SUM, offsets)
        yield many(catalogue.LAG_SUM, lags)
        families = (catalogue.OFFSET, catalogue.LAG, catalogue.SECONDS)
        if self._bounds.by_partition:
            for family, values in zip(families, self._by_partition(own, others), strict=True):
                yield many(family, values)
        else:
            for family, values in zip(families, (offsets, lags, seconds), strict=True):
                yield many(family, values, labels=_BY_TOPIC)
        yield many(process.LEFT_OUT, {("lag",): self._chosen.left_out})

    def _split(self) -> tuple[dict[tuple[str, str], Figures], list[Figures]]:
        """Those that have series of their own, and the others."""
        by_partition = self._bounds.by_partition
        weights: dict[Labels, float] = {names: found.lag for names, found in self._lag.figures.items()}
        chosen = self._chosen.choose(weights, self._bounds.most)
        own: dict[tuple[str, str], Figures] = {}
        others: list[Figures] = []
        series = 0
        for names, found in self._lag.figures.items():
            series += len(found.places) if by_partition and names in chosen else 0
            if names in chosen and series <= self._bounds.most:
                own[names] = found
            else:
                others.append(found)
        self._chosen.left_out = len(others)
        return own, others

    def _by_partition(
        self, own: dict[tuple[str, str], Figures], others: list[Figures]
    ) -> tuple[dict[Labels, float], dict[Labels, float], dict[Labels, float]]:
        offsets: dict[Labels, float] = {}
        lags: dict[Labels, float] = {}
        seconds: dict[Labels, float] = {}
        for names, found in own.items():
            for partition, offset, lag, unread in found.places:
                labels = (*names, str(partition))
                offsets[labels] = offset
                lags[labels] = lag
                seconds[labels] = 0.0 if unread is None else self._lag.seconds(unread.append_ms, unread.seen_ms)
        if others:
            labels = (*_OTHERS, OTHER)
            offsets[labels] = sum(found.offsets for found in others)
            lags[labels] = sum(found.lag for found in others)
            seconds[labels] = max(self._lag.seconds(found.oldest_ms, found.seen_ms) for found in others)
        return offsets, lags, seconds
