"""Requests, for metrics and for the log: what counts them, and what is told of that.

    requests = Requests(is_measured=True, most=lambda: 500)        one for the process
    Server(..., figures=requests.figures)
    requests.follow(settings, server.observe, None, name_of)       says when somebody looks on

Without `is_measured`, requests are looked at only while slow ones are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from prometheus_client.core import Metric

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.observer import Observer, Several
from pg_kafka.broker.request_figures import RequestFigures
from pg_kafka.broker.slow_requests import SlowRequests, error_name
from pg_kafka.config.settings import Settings
from pg_kafka.metrics._requests import MIXED, MOST_SPACING, PART_NAMES, UNSERVED, RequestCounters, Times, Timing
from pg_kafka.metrics.catalogue import requests as families
from pg_kafka.metrics.counters import OTHER, Histogram
from pg_kafka.metrics.families import Labels, histograms, many, one
from pg_kafka.metrics.traffic import TopicTraffic
from pg_kafka.wire.messages import API_NAMES

MAX_KINDS = 1000
"""Combinations of API, version, class of principals and error that are told apart."""

_UNSERVED = "(unserved)"
_TOTAL, *_PARTS = enumerate(PART_NAMES)


class Requests:
    """See the module."""

    def __init__(self, *, is_measured: bool, most: Callable[[], int]) -> None:
        self.figures = RequestFigures()
        self._is_measured = is_measured
        self._counters = RequestCounters(API_NAMES.keys(), MAX_KINDS)
        self._slow = SlowRequests()
        self._slow_ms = -1
        self._slow_count = 0
        self._traffic = TopicTraffic(most)

    @property
    def traffic(self) -> TopicTraffic | None:
        """What partitions count in; None: they do not."""
        return self._traffic if self._is_measured else None

    def observer(self, slow_ms: int, other: Observer | None) -> Observer | None:
        """Who looks on, besides `other`, and calls those requests slow that take longer; -1: none. None: nobody does."""
        self._slow_ms = slow_ms
        self.figures.pace.most = MOST_SPACING if slow_ms < 0 and other is None else 1
        self._counters.watch_slow(slow_ms / 1000, self._on_slow if slow_ms >= 0 else None)
        if not self._is_measured and slow_ms < 0:
            return other
        return self._counters if other is None else Several((self._counters, other))

    def follow(
        self,
        settings: Settings,
        observe: Callable[[Observer | None], None],
        other: Observer | None,
        name_of: Callable[[UUID], str | None],
    ) -> None:
        """Let a server be looked on as its settings say, whenever they change. `name_of` gives a topic's name by its id."""
        self._slow.name_of = name_of

        def renew() -> None:
            if settings.current.slow_request_ms != self._slow_ms:
                observe(self.observer(settings.current.slow_request_ms, other))

        settings.watch(renew)

    def _on_slow(
        self, header: tuple[int, int, int, str | None], who: ConnectionInfo, timing: Timing, code: int
    ) -> None:
        self._slow_count += 1
        self._slow.note(header, who, timing, code)

    def families(self) -> Iterable[Metric]:
        self._counters.settle()
        self.figures.pace.renew(self.figures.commit.now())
        counts = self._counters.counts
        requests: dict[Labels, int] = {}
        request_bytes: dict[Labels, int] = {}
        response_bytes: dict[Labels, int] = {}
        for count in counts:
            api = _api(count.api_key)
            requests[api, _version(count.api_version), count.kind or OTHER, _error(count.error_code)] = count.requests
            request_bytes[api,] = request_bytes.get((api,), 0) + count.request_bytes
            response_bytes[api,] = response_bytes.get((api,), 0) + count.response_bytes
        yield many(families.REQUESTS, requests)
        yield many(families.REQUEST_BYTES, request_bytes)
        yield many(families.RESPONSE_BYTES, response_bytes)
        times = self._counters.times
        yield histograms(families.SECONDS, {(_api(key),): _histogram(each, _TOTAL[0]) for key, each in times.items()})
        parts: dict[Labels, Histogram] = {
            (_api(key), name): _histogram(each, part)
            for key, each in times.items()
            for part, name in _PARTS
            if any(each.counts(part))
        }
        yield histograms(families.PART_SECONDS, parts)
        yield from self._limits()
        if self._slow_ms >= 0 or self._slow_count:
            yield one(families.SLOW, self._slow_count)
        topics = self._traffic.all
        if topics:
            yield many(families.IN_BYTES, {(name,): each.in_bytes for name, each in topics.items()})
            yield many(families.IN_RECORDS, {(name,): each.in_records for name, each in topics.items()})
            yield many(families.OUT_BYTES, {(name,): each.out_bytes for name, each in topics.items()})
            yield many(families.OUT_RECORDS, {(name,): each.out_records for name, each in topics.items()})

    def _limits(self) -> Iterable[Metric]:
        figures = self.figures
        if figures.refused:
            yield many(families.REFUSED, {(setting,): count for setting, count in figures.refused.items()})
        if figures.not_read:
            yield many(families.NOT_READ, {(setting,): count for setting, count in figures.not_read.items()})


def _api(key: int) -> str:
    return OTHER if key == MIXED else API_NAMES.get(key, _UNSERVED)


def _version(version: int) -> str:
    return {MIXED: OTHER, UNSERVED: _UNSERVED}.get(version, str(version))


def _error(code: int) -> str:
    return OTHER if code == MIXED else error_name(code)


def _histogram(times: Times, part: int) -> Histogram:
    histogram = Histogram()
    histogram.counts = times.counts(part)
    histogram.total = times.total(part)
    return histogram
