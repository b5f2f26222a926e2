"""Transactional ids and their transactions: what was counted, and how those of one incarnation stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.broker.transactions import TransactionCoordinator, TransactionCounts
from pg_kafka.coordinator.transaction_steps import (
    COMPLETE_ABORT,
    COMPLETE_COMMIT,
    DEAD,
    EMPTY,
    ONGOING,
    PREPARE_ABORT,
    PREPARE_COMMIT,
)
from pg_kafka.metrics.catalogue import transactions
from pg_kafka.metrics.families import many, one

RESULTS = ("committed", "aborted", "timed out", "operator")
_OPEN = (ONGOING, PREPARE_COMMIT, PREPARE_ABORT)
_STATES = (EMPTY, *_OPEN, COMPLETE_COMMIT, COMPLETE_ABORT, DEAD)


class TransactionsSource:
    """Counters of all incarnations."""

    def __init__(self, counts: TransactionCounts) -> None:
        self._counts = counts

    def families(self) -> Iterable[Metric]:
        yield many(transactions.ENDED, {(result,): self._counts.ended[result] for result in RESULTS})
        yield one(transactions.RELOADS, self._counts.reloads)


class OpenTransactionsSource:
    """Of the incarnation that leads."""

    def __init__(self, coordinator: TransactionCoordinator) -> None:
        self._coordinator = coordinator

    def families(self) -> Iterable[Metric]:
        states: Counter[str] = Counter()
        begun_ms: int | None = None
        for one_id in self._coordinator:
            machine = one_id.machine
            states[machine.state] += 1
            started_ms = machine.started_ms
            if machine.state in _OPEN and started_ms >= 0 and (begun_ms is None or started_ms < begun_ms):
                begun_ms = started_ms
        age_ms = 0 if begun_ms is None else max(0, self._coordinator.steady_ms() - begun_ms)
        yield many(transactions.IDS, {(state,): states[state] for state in _STATES})
        yield one(transactions.OPEN, sum(states[state] for state in _OPEN))
        yield one(transactions.OLDEST, age_ms / 1000)
