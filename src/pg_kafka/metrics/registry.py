"""The sources of all metrics of the process.

    registry.add(source)       from now on it is asked at each look
    registry.remove(source)    with the incarnation that it belongs to
    registry.collect()         families, each name once

One registry lives as long as the process. Counters are kept by sources that do so as well; sources of what is true now
come and go with incarnations.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import Metric

from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.families import many, merged

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Somebody who has metrics to tell."""

    def families(self) -> Iterable[Metric]:
        """Called on the event loop's thread for each page of metrics. It must not wait, and should take milliseconds."""


class Registry:
    """See the module."""

    def __init__(self) -> None:
        self._sources: dict[int, Source] = {}  # by identity, in the order in which they came
        self._errors: Counter[str] = Counter()

    def add(self, *sources: Source) -> None:
        for source in sources:
            self._sources[id(source)] = source

    def remove(self, *sources: Source) -> None:
        for source in sources:
            self._sources.pop(id(source), None)

    def collect(self) -> list[Metric]:
        """All families. One source that fails is left out and counted, and a log line says why."""
        found: list[Metric] = []
        for source in list(self._sources.values()):
            try:
                found += list(source.families())
            except Exception as error:
                name = type(source).__name__
                if not self._errors[name]:  # once: the counter tells how often
                    logger.error("metrics cannot be read", exc_info=error, extra={"of": name})
                self._errors[name] += 1
        if self._errors:
            found.append(many(process.SOURCE_ERRORS, {(name,): count for name, count in self._errors.items()}))
        return merged(found)
