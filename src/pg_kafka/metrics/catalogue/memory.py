"""Memory with a bound, and queues."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import gauge

TITLE = "Memory and queues"
_LEADS = "of a broker that leads"

REQUESTS = gauge("pg_kafka_request_memory_bytes", "Requests in memory, over all connections, half-sent ones included.")
REQUESTS_LIMIT = gauge("pg_kafka_request_memory_limit_bytes", "queued.max.request.bytes: with more nothing is read.")
BACKLOG = gauge(
    "pg_kafka_backlog_bytes", "What producers have sent and the lanes have not written yet.", only=_LEADS
)  # fmt: skip
DECODING = gauge(
    "pg_kafka_decoding_memory_bytes", "What large batches may become that are being decoded, or are queued."
)
DECODING_LIMIT = gauge("pg_kafka_decoding_memory_limit_bytes", "pg_kafka.decoding_bytes: with more large batches wait.")
DECODING_WAITING = gauge("pg_kafka_decoding_waiting", "Large batches that wait for memory to be decoded in.")
TAIL = gauge(
    "pg_kafka_tail_memory_bytes", "The newest batches, from which consumers near the end are served.", only=_LEADS
)  # fmt: skip
TAIL_LIMIT = gauge(
    "pg_kafka_tail_memory_limit_bytes", "pg_kafka.tail_bytes: the oldest batches leave beyond it.", only=_LEADS
)
WAITING_FETCHES = gauge(
    "pg_kafka_waiting_fetches", "Fetches that wait for records, as consumers want them to.", only=_LEADS
)
FETCH_SESSIONS = gauge("pg_kafka_fetch_sessions", "Fetch sessions that are kept.", only=_LEADS)
FETCH_SESSIONS_LIMIT = gauge("pg_kafka_fetch_sessions_limit", "max.incremental.fetch.session.cache.slots.", only=_LEADS)
FETCH_SESSION_PARTITIONS = gauge("pg_kafka_fetch_session_partitions", "Partitions in fetch sessions.", only=_LEADS)
TASKS = gauge("pg_kafka_request_tasks", "Requests that wait for something other than a lane, each with a task.")
LONG_WORK = gauge("pg_kafka_long_work_waiting", "Requests with very much to do that wait for their next turn.")
LOOP_LAG = gauge(
    "pg_kafka_event_loop_lag_seconds",
    "How late the event loop was at most, in the last 15 seconds: nothing is answered meanwhile.",
)

FAMILIES = (
    REQUESTS, REQUESTS_LIMIT, BACKLOG, DECODING, DECODING_LIMIT, DECODING_WAITING, TAIL, TAIL_LIMIT, WAITING_FETCHES,
    FETCH_SESSIONS, FETCH_SESSIONS_LIMIT, FETCH_SESSION_PARTITIONS, TASKS, LONG_WORK, LOOP_LAG,
)  # fmt: skip
