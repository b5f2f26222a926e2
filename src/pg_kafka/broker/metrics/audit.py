"""The audit log, and what passes from a broker that waits to the one that leads."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.audit import AuditCounts, AuditLog
from pg_kafka.broker.forwarding import ForwardingCounts
from pg_kafka.metrics.catalogue import audit
from pg_kafka.metrics.families import many, one

_ROLES = ("leader", "waiting")


class AuditSource:
    """Counters of all incarnations."""

    def __init__(self, counts: AuditCounts) -> None:
        self._counts = counts

    def families(self) -> Iterable[Metric]:
        yield many(audit.EVENTS, {(event,): count for event, count in sorted(self._counts.events.items())})
        yield one(audit.LOST, self._counts.lost)


class AuditQueueSource:
    """Of the incarnation that leads."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def families(self) -> Iterable[Metric]:
        yield one(audit.QUEUED, self._log.queued)


class ForwardingSource:
    """Counters of all incarnations, and what is under way."""

    def __init__(self, counts: ForwardingCounts) -> None:
        self._counts = counts

    def families(self) -> Iterable[Metric]:
        results = self._counts.results
        yield many(
            audit.FORWARDED,
            {(role, result): results[role, result] for role in _ROLES for result in ("answered", "failed")},
        )
        yield many(audit.FORWARDING, {(role,): self._counts.under_way[role] for role in _ROLES})
