"""Connections, logins and quotas: counters of the process, and what the server has at this moment."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.quotas import Quotas
from pg_kafka.broker.server import Server
from pg_kafka.metrics.catalogue import connections as catalogue
from pg_kafka.metrics.clients import ConnectionCounters, QuotaCounters
from pg_kafka.metrics.families import Labels, many, one


class ClientCountersSource:
    """Lives as long as the process."""

    def __init__(self, connections: ConnectionCounters, quotas: QuotaCounters) -> None:
        self._connections = connections
        self._quotas = quotas

    def families(self) -> Iterable[Metric]:
        counted = self._connections
        yield many(catalogue.OPENED, {(name,): count for name, count in counted.opened.items()})
        yield many(catalogue.REFUSED, {(limit,): count for limit, count in counted.refused.items()})
        yield many(catalogue.DELAYED, {(limit,): count for limit, count in counted.delayed.items()})
        yield many(catalogue.CLOSED, {(reason,): count for reason, count in counted.closed.items()})
        yield many(catalogue.HANDSHAKES, counted.handshakes)
        yield many(catalogue.LOGINS, counted.logins)
        yield many(catalogue.QUOTA_WAITS, {(quota,): count for quota, count in self._quotas.waits.items()})
        waited: dict[Labels, float] = {(quota,): ms / 1000 for quota, ms in self._quotas.waited_ms.items()}
        yield many(catalogue.QUOTA_WAIT_SECONDS, waited)


class ConnectionsSource:
    """Of one server: that of a broker that leads, or of one that waits."""

    def __init__(self, server: Server, quotas: Quotas, *, leads: bool) -> None:
        self._server = server
        self._quotas = quotas
        self._leads = leads

    def families(self) -> Iterable[Metric]:
        yield many(catalogue.OPEN, {(name,): count for name, count in self._server.connections_by_listener.items()})
        yield one(catalogue.LIMIT, self._server.connection_limit)
        yield one(catalogue.MUTED, len(self._quotas.muted))
        yield one(catalogue.WAITING_FOR_MEMORY, self._server.budget.waiting)
        if self._leads:
            yield one(catalogue.QUOTA_CLIENTS, self._quotas.kept)
