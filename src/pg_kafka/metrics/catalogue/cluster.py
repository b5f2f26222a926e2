"""Who leads: incarnations, heartbeats, take-overs."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Leadership"

LEADS = gauge("pg_kafka_leader", "1 while this process leads, 0 while it waits for another one or starts.")
EPOCH = gauge("pg_kafka_leader_epoch", "The epoch of the incarnation that leads here, or last did. 0: none did.")
INCARNATIONS = counter("pg_kafka_incarnations_total", "Times that this process began to lead.")
TAKE_OVERS = counter(
    "pg_kafka_take_overs_total",
    "Of these, those after another broker: this one has waited for it, or marked it as dead.",
)
FENCED = counter("pg_kafka_fenced_brokers_total", "Dead brokers that this one has marked.")
TAKE_OVER_SECONDS = gauge(
    "pg_kafka_take_over_seconds",
    "From the moment when this broker saw that nobody leads until clients were served, the last time.",
    only="once it has led",
)
ENDED = counter(
    "pg_kafka_incarnations_ended_total",
    "Incarnations of this process that are over: `fenced` by another broker; another `history` of the database, as after"
    " a restore or a failover; a heartbeat that was `late` while another broker waited; `failed`, as something in here was;"
    " `stopped` in order.",
    "cause",
)
FAILED_JOINS = counter("pg_kafka_failed_joins_total", "Attempts to lead or to wait that failed; a log line says why.")
HEARTBEATS = counter("pg_kafka_heartbeats_total", "Heartbeats that are committed.")
HEARTBEATS_FAILED = counter("pg_kafka_failed_heartbeats_total", "Heartbeats that were late, or whose session was lost.")
HEARTBEAT_AGE = gauge(
    "pg_kafka_heartbeat_age_seconds",
    "Time since the last heartbeat. After pg_kafka.eviction_ms another broker may take over.",
    only="of a broker that leads",
)
WAITING = gauge("pg_kafka_waiting_brokers", "Brokers that wait for the end of this one.", only="of a broker that leads")

FAMILIES = (
    LEADS,
    EPOCH,
    INCARNATIONS,
    TAKE_OVERS,
    FENCED,
    TAKE_OVER_SECONDS,
    ENDED,
    FAILED_JOINS,
    HEARTBEATS,
    HEARTBEATS_FAILED,
    HEARTBEAT_AGE,
    WAITING,
)
