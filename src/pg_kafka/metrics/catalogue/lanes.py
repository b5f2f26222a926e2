"""Lanes: the only writers of partitions, groups and transactional ids."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge, histogram

TITLE = "Lanes"

TRANSACTIONS = counter(
    "pg_kafka_lane_transactions_total",
    "PostgreSQL transactions of a lane: `committed`, or `failed` when nothing of one was written.",
    "lane",
    "outcome",
)
BYTES = counter(
    "pg_kafka_lane_bytes_total",
    "Bytes that were committed, of records and of what groups and transactional ids write, uncompressed.",
    "lane",
)
RECORDS = counter(
    "pg_kafka_lane_records_total", "Records that were committed, markers of transactions included.", "lane"
)
ENTRIES = counter("pg_kafka_lane_journal_entries_total", "Journal entries that were committed.", "lane")
CHECKPOINTS = counter("pg_kafka_lane_checkpoints_total", "Checkpoints of partitions that were committed.", "lane")
REFUSED = counter(
    "pg_kafka_lane_refused_total",
    "Writes of one partition or group that the database has refused as such, by a constraint or a trigger.",
    "lane",
)
COMMIT_SECONDS = histogram(
    "pg_kafka_lane_commit_seconds",
    "From a COMMIT to its answer, of all lanes. A transaction that is one statement counts from that statement on.",
)
TRANSACTION_BYTES = histogram(
    "pg_kafka_lane_transaction_bytes",
    "Bytes that a transaction has committed, counted as in pg_kafka_lane_bytes_total, of all lanes. Checkpoints alone are 0.",
)
TRANSACTION_SECONDS = histogram(
    "pg_kafka_lane_transaction_seconds",
    "From the building of a transaction until it is known to be committed, of all lanes.",
)
QUEUED_BYTES = gauge(
    "pg_kafka_lane_queued_bytes", "Bytes that wait for the next transaction.", "lane", only="of a broker that leads"
)
QUEUED_RECORDS = gauge(
    "pg_kafka_lane_queued_records", "Records that wait for the next transaction.", "lane", only="of a broker that leads"
)
UNDER_WAY = gauge(
    "pg_kafka_lane_transactions_under_way",
    "Transactions that are written and not yet settled.",
    "lane",
    only="of a broker that leads",
)
READY = gauge(
    "pg_kafka_lane_ready",
    "1 while the lane takes records, 0 while it has no sessions or a commit is in doubt.",
    "lane",
    only="of a broker that leads",
)
BROKEN = counter("pg_kafka_lane_breaks_total", "Times that a lane has lost its sessions and started over.", "lane")
RECOVERED = counter("pg_kafka_lane_recoveries_total", "Times that a lane has got new sessions after that.", "lane")
UNREACHABLE = counter(
    "pg_kafka_lane_failed_reconnects_total", "Attempts of a lane to get new sessions that failed.", "lane"
)
DOUBTS = counter(
    "pg_kafka_lane_doubtful_commits_total",
    "Commits whose answer was lost with the connection, by what was found in the database: `committed`, or `lost`.",
    "lane",
    "outcome",
)

FAMILIES = (
    TRANSACTIONS,
    BYTES,
    RECORDS,
    ENTRIES,
    CHECKPOINTS,
    REFUSED,
    COMMIT_SECONDS,
    TRANSACTION_BYTES,
    TRANSACTION_SECONDS,
    QUEUED_BYTES,
    QUEUED_RECORDS,
    UNDER_WAY,
    READY,
    BROKEN,
    RECOVERED,
    UNREACHABLE,
    DOUBTS,
)
