"""Transactional ids, and transactions that are open or over."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Transactions"

IDS = gauge(
    "pg_kafka_transactional_ids",
    "Transactional ids that are kept, by the state of their transaction.",
    "state",
    only="of a broker that leads",
)
OPEN = gauge("pg_kafka_open_transactions", "Transactions that are open, or being ended.", only="of a broker that leads")
OLDEST = gauge(
    "pg_kafka_oldest_open_transaction_seconds",
    "How long the oldest of them has been open; 0 when there is none. Consumers with read_committed wait behind it.",
    only="of a broker that leads",
)
ENDED = counter(
    "pg_kafka_transactions_ended_total",
    "Transactions whose end was decided: `committed`, `aborted` by its producer or its successor, `timed out`, or aborted"
    " by an `operator`.",
    "result",
)
RELOADS = counter(
    "pg_kafka_transactions_reloads_total",
    "Times that all transactional ids had to be loaded again, after a failed write.",
)

FAMILIES = (IDS, OPEN, OLDEST, ENDED, RELOADS)
