"""The program, its process, what the broker does, and the metrics themselves."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from pg_kafka import __version__
from pg_kafka.broker.metrics.health import Health, State
from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.families import many, one


class ProcessSource:
    """Lives as long as the process."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._system = ProcessCollector(registry=None)
        self.scrapes = 0
        self.scrape_s = 0.0  # of the last one

    def families(self) -> Iterable[Metric]:
        yield many(process.BUILD_INFO, {(__version__, platform.python_version()): 1})
        yield many(process.STATE, {(state.value,): state is self._health.state for state in State})
        yield one(process.SCRAPES, self.scrapes)
        yield one(process.SCRAPE_SECONDS, self.scrape_s)
        yield from self._system.collect()
