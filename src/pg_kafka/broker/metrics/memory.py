"""Memory with a bound, and queues, of one server."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.context import Broker
from pg_kafka.broker.server import Server
from pg_kafka.metrics.catalogue import memory as catalogue
from pg_kafka.metrics.families import one
from pg_kafka.storage.log import Log


class MemorySource:
    """What a broker that waits has as well."""

    def __init__(self, server: Server, broker: Broker) -> None:
        self._server = server
        self._broker = broker

    def families(self) -> Iterable[Metric]:
        budget, decoding = self._server.budget, self._broker.decoding
        yield one(catalogue.REQUESTS, budget.used_bytes)
        yield one(catalogue.REQUESTS_LIMIT, budget.limit_bytes)
        yield one(catalogue.DECODING, decoding.used_bytes)
        yield one(catalogue.DECODING_LIMIT, decoding.limit_bytes)
        yield one(catalogue.DECODING_WAITING, decoding.giants.waiting + decoding.others.waiting)
        yield one(catalogue.TASKS, len(self._server.work.tasks))
        yield one(catalogue.LONG_WORK, self._broker.turns.waiting)


class LeaderMemorySource:
    """What only a broker that leads has."""

    def __init__(self, broker: Broker, log: Log) -> None:
        self._broker = broker
        self._log = log

    def families(self) -> Iterable[Metric]:
        config, sessions = self._broker.config, self._broker.fetch_sessions
        yield one(catalogue.BACKLOG, self._log.backlog.bytes)
        yield one(catalogue.TAIL, self._log.tails.held_bytes)
        yield one(catalogue.TAIL_LIMIT, config.tail_bytes)
        yield one(catalogue.WAITING_FETCHES, len(self._broker.deadlines))
        yield one(catalogue.FETCH_SESSIONS, len(sessions))
        yield one(catalogue.FETCH_SESSIONS_LIMIT, config.max_incremental_fetch_session_cache_slots)
        yield one(catalogue.FETCH_SESSION_PARTITIONS, sessions.partition_count)
