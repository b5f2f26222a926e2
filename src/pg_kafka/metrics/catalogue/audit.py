"""The audit log, and requests that pass from a broker that waits to the one that leads."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Audit and forwarding"

EVENTS = counter(
    "pg_kafka_audit_events_total", "What was told to the audit log, also when many are written as one.", "event"
)
LOST = counter("pg_kafka_audit_lost_events_total", "Of these, those that are in the log and not in kafka.audit_log.")
QUEUED = gauge(
    "pg_kafka_audit_queued_events", "Events that wait to be written to kafka.audit_log.", only="of a broker that leads"
)
FORWARDED = counter(
    "pg_kafka_forwarded_requests_total",
    "Requests that this broker has passed to the leader while it waited, or has answered as the leader, and that were"
    " `answered` or `failed`.",
    "role",
    "result",
)
FORWARDING = gauge("pg_kafka_forwarded_requests_under_way", "Those that are under way.", "role")

FAMILIES = (EVENTS, LOST, QUEUED, FORWARDED, FORWARDING)
