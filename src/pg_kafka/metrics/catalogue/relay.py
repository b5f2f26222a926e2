"""The relay, which moves what is produced by SQL from the outbox to the log."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge, histogram

TITLE = "Records produced by SQL"

RECORDS = counter("pg_kafka_relay_records_total", "Records that were moved from the outbox to the log.")
BYTES = counter("pg_kafka_relay_bytes_total", "Bytes of keys, values and headers of the rows that were moved.")
ERRORS = counter(
    "pg_kafka_relay_errors_total",
    "Records that could not be sent and are in kafka.outbox_errors: their topic is gone, or takes less than it did.",
)
PASSES = counter("pg_kafka_relay_passes_total", "Passes that have found something.")
PASS_SECONDS = histogram(
    "pg_kafka_relay_pass_seconds", "From the look that finds something until all of it is committed to the log."
)
RESTARTS = counter(
    "pg_kafka_relay_restarts_total", "Times that the relay began anew, as a session was lost or a lane could not write."
)
EMPTIED = counter("pg_kafka_outbox_tables_emptied_total", "Tables of the outbox that were emptied.")
WAITING_ROWS = gauge(
    "pg_kafka_outbox_waiting_rows",
    "Rows of the outbox that the pass under way has found and not yet sent, up to 20000. A call of kafka.produce() makes one.",
    only="of a broker that leads",
)
WAITING_BYTES = gauge(
    "pg_kafka_outbox_waiting_bytes", "Bytes of keys, values and headers in these rows.", only="of a broker that leads"
)
BEHIND_SECONDS = gauge(
    "pg_kafka_relay_behind_seconds",
    "How long ago the pass under way has begun, 0 when nothing waits. It grows while the relay cannot write.",
    only="of a broker that leads",
)
OUTBOX_BYTES = gauge(
    "pg_kafka_outbox_bytes",
    "Size of the outbox's tables at the last look, with what is sent already. pg_kafka.outbox_max_bytes is its bound.",
    only="of a broker that leads",
)

FAMILIES = (
    RECORDS,
    BYTES,
    ERRORS,
    PASSES,
    PASS_SECONDS,
    RESTARTS,
    EMPTIED,
    WAITING_ROWS,
    WAITING_BYTES,
    BEHIND_SECONDS,
    OUTBOX_BYTES,
)
