"""The broker's sessions with PostgreSQL, and what the server is asked now and then."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge, histogram

TITLE = "PostgreSQL"

LEADING = "of a broker that leads"

ROUND_TRIPS = histogram(
    "pg_kafka_postgres_round_trip_seconds",
    "From a statement, or several that go out together, to the server's answer, by kind of session.",
    "session",
)
FAILED = counter(
    "pg_kafka_postgres_failed_round_trips_total",
    "Of these, those that ended in an error, after a deadline, or with the connection.",
    "session",
)
OPENED = counter("pg_kafka_postgres_sessions_opened_total", "Sessions that were opened, by kind.", "session")
SESSIONS = gauge("pg_kafka_postgres_sessions", "Sessions that are open, by kind.", "session")
HANGS = counter(
    "pg_kafka_postgres_hangs_total",
    "Times that a backend has not answered for five seconds. What it waited for is in the log.",
    "session",
)
GIVEN_UP = counter(
    "pg_kafka_postgres_backends_given_up_total",
    "Backends whose end was asked for since they did not answer for pg_kafka.backend_timeout_ms.",
    "session",
)
HANGING = gauge(
    "pg_kafka_postgres_hanging_backends", "Backends that have not answered for five seconds or more.", only=LEADING
)

SURVEY_AGE = gauge(
    "pg_kafka_survey_age_seconds",
    "How old the figures are that the server is asked for: those below, and sizes.",
    only=LEADING,
)
SURVEY_SECONDS = gauge("pg_kafka_survey_seconds", "How long it took to ask for them, the last time.", only=LEADING)
SURVEY_FAILURES = counter("pg_kafka_survey_failures_total", "Times that they could not be had; a log line says why.")
CONNECTIONS = gauge(
    "pg_kafka_postgres_connections", "Connections that the server has, those of others included.", only=LEADING
)
MAX_CONNECTIONS = gauge("pg_kafka_postgres_max_connections", "The server's `max_connections`.", only=LEADING)
XID_AGE = gauge(
    "pg_kafka_postgres_xid_age",
    "Transactions since the oldest one that is not frozen in this database. The server stops writing at 2.1 billion.",
    only=LEADING,
)
SNAPSHOT_SECONDS = gauge(
    "pg_kafka_oldest_snapshot_seconds",
    "How long the oldest snapshot has been held, by a `session` that the broker's role may see or by a"
    " `prepared transaction`. While one is held, vacuum and the freeing of segments wait.",
    "held_by",
    only=LEADING,
)
SLOT_XID_AGE = gauge(
    "pg_kafka_replication_slot_xid_age",
    "Transactions since the oldest snapshot that a replication slot holds.",
    only=LEADING,
)
SLOT_BYTES = gauge(
    "pg_kafka_replication_slot_bytes", "WAL that the replication slot that is furthest behind keeps.", only=LEADING
)

FAMILIES = (
    ROUND_TRIPS,
    FAILED,
    OPENED,
    SESSIONS,
    HANGS,
    GIVEN_UP,
    HANGING,
    SURVEY_AGE,
    SURVEY_SECONDS,
    SURVEY_FAILURES,
    CONNECTIONS,
    MAX_CONNECTIONS,
    XID_AGE,
    SNAPSHOT_SECONDS,
    SLOT_XID_AGE,
    SLOT_BYTES,
)
