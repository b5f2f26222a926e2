"""The lag of consumer groups. Names and labels are those of kafka_exporter, as far as it has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric

from pg_kafka.broker.lag import Figures, GroupLag
from pg_kafka.clock import Clock
from pg_kafka.metrics.catalogue import lag as catalogue
from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.counters import OTHER
from pg_kafka.metrics.families import Labels, many, one
from pg_kafka.metrics.series import Bounds, Chosen

_BY_TOPIC = ("consumergroup", "topic")


class LagSource:
    """Belongs to one incarnation. A group has a series for each of its topics; those furthest behind come first."""

    def __init__(self, lag: GroupLag, bounds: Bounds, clock: Clock) -> None:
        self._lag = lag
        self._bounds = bounds
        self._clock = clock
        self._chosen = Chosen()
        self._split_from: Mapping[tuple[str, str], Figures] | None = None
        self._split_by = (0, False)
        self._own: Mapping[Labels, Figures] = {}
        self._rest: Figures | None = None

    def families(self) -> Iterable[Metric]:
        lag = self._lag
        if lag.looked_at_ms is None:
            return
        yield one(catalogue.AGE_SECONDS, max(self._clock.steady_ms() - lag.looked_at_ms, 0) / 1000)
        yield one(catalogue.LOOK_SECONDS, lag.look_s)
        self._split()
        offsets: dict[Labels, float] = {}
        lags: dict[Labels, float] = {}
        seconds: dict[Labels, float] = {}
        for names, found in self._with_rest(OTHER, OTHER):
            offsets[names] = found.offsets
            lags[names] = found.lag
            seconds[names] = lag.seconds(found.oldest_ms, found.seen_ms)
        yield many(catalogue.OFFSET_SUM, offsets)
        yield many(catalogue.LAG_SUM, lags)
        labels: Labels | None = _BY_TOPIC
        if self._bounds.by_partition:
            labels = None  # those of the catalogue
            offsets, lags, seconds = self._by_partition()
        yield many(catalogue.OFFSET, offsets, labels=labels)
        yield many(catalogue.LAG, lags, labels=labels)
        yield many(catalogue.SECONDS, seconds, labels=labels)
        yield many(process.LEFT_OUT, {("lag",): self._chosen.left_out})

    def _with_rest(self, *other: str) -> Iterator[tuple[Labels, Figures]]:
        yield from self._own.items()
        if self._rest is not None:
            yield other, self._rest

    def _split(self) -> None:
        """Say who has series, once after each look: with very many groups that takes tens of milliseconds."""
        figures, most, by_partition = self._lag.figures, self._bounds.most, self._bounds.by_partition
        if self._split_from is figures and self._split_by == (most, by_partition):
            return
        chosen = self._chosen.choose({names: float(found.lag) for names, found in figures.items()}, most)
        own: dict[Labels, Figures] = {}
        rest = Figures()
        left_out = series = 0
        for names, found in figures.items():
            if names in chosen:
                series += len(found.places) if by_partition else 1
                if series <= most:
                    own[names] = found
                    continue
            left_out += 1
            rest.include(found)
        self._own, self._rest = own, rest if left_out else None
        self._chosen.left_out = left_out
        self._split_from, self._split_by = figures, (most, by_partition)

    def _by_partition(self) -> tuple[dict[Labels, float], dict[Labels, float], dict[Labels, float]]:
        offsets: dict[Labels, float] = {}
        lags: dict[Labels, float] = {}
        seconds: dict[Labels, float] = {}
        for names, found in self._own.items():
            for partition, offset, lag, unread in found.places:
                labels = (*names, str(partition))
                offsets[labels] = offset
                lags[labels] = lag
                seconds[labels] = 0.0 if unread is None else self._lag.seconds(unread.append_ms, unread.seen_ms)
        if (rest := self._rest) is not None:
            labels = (OTHER, OTHER, OTHER)
            offsets[labels] = rest.offsets
            lags[labels] = rest.lag
            seconds[labels] = self._lag.seconds(rest.oldest_ms, rest.seen_ms)
        return offsets, lags, seconds
