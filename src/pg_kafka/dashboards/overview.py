"""What the dashboard shows: first whether all is well, then groups, topics, requests, PostgreSQL, disk, and the process.

Words in capitals in expressions are those of `grafana.py`. Sums leave `instance` out: when another broker takes over, lines
go on.
"""

from __future__ import annotations

from typing import Any

from pg_kafka.dashboards import grafana
from pg_kafka.dashboards.grafana import BLUE, GREEN, RED, YELLOW, Panel, Query, Row, Variable

UID = "pg-kafka"
TITLE = "pg_kafka"
DESCRIPTION = "Brokers of pg_kafka, their topics and groups, and PostgreSQL behind them."

VARIABLES = (
    Variable("datasource", "Prometheus", "prometheus", is_datasource=True),
    Variable("job", "Job", "label_values(pg_kafka_build_info, job)"),
    Variable("instance", "Broker", 'label_values(pg_kafka_build_info{job=~"$job"}, instance)'),
    Variable("topic", "Topic", 'label_values(kafka_topic_partitions{job=~"$job"}, topic)'),
    Variable("consumergroup", "Group", 'label_values(kafka_consumergroup_members{job=~"$job"}, consumergroup)'),
)


def _quantile(share: float, metric: str, selector: str = "BROKER", by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[RATE])))"


SHARES = ((0.5, "half"), (0.99, "99 of 100"))

HEALTH = Row(
    "Is all well?",
    (
        Panel(
            "Brokers",
            "One leads; the others wait to take over.",
            "none",
            (
                Query(
                    'max by (instance) (2 * pg_kafka_state{BROKER,state="leading"} or pg_kafka_state{BROKER,state="waiting"})',
                    "{{instance}}",
                ),
            ),
            kind="stat",
            height=4,
            steps=((None, RED), (1, BLUE), (2, GREEN)),
            texts={2: ("leads", GREEN), 1: ("waits", BLUE), 0: ("neither", RED)},
        ),
        Panel(
            "Behind",
            "How long ago the oldest record was written that the slowest group has not read.",
            "s",
            (Query('max(pg_kafka_consumergroup_lag_seconds{GROUP,topic=~"$topic"})'),),
            kind="stat",
            width=4,
            height=4,
            steps=((None, GREEN), (60, YELLOW), (300, RED)),
        ),
        Panel(
            "Records in",
            "Written by producers, a second.",
            "short",
            (Query("sum(rate(pg_kafka_topic_in_records_total{BROKER}[RATE]))"),),
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Records out",
            "Read by consumers, a second; a batch that is sent counts whole.",
            "short",
            (Query("sum(rate(pg_kafka_topic_out_records_total{BROKER}[RATE]))"),),
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Free until refused",
            "Space on the volume of the data folder before records are refused (pg_kafka.disk_reserve_bytes). Only an embedded"
            " PostgreSQL's disk is seen.",
            "bytes",
            (Query("min(pg_kafka_disk_free_bytes{BROKER} - pg_kafka_disk_reserve_bytes{BROKER})"),),
            kind="stat",
            width=4,
            height=4,
            steps=((None, RED), (1e9, YELLOW), (10e9, GREEN)),
        ),
    ),
)

GROUPS = Row(
    "Consumer groups",
    (
        Panel(
            "Behind, in time",
            "How long ago the oldest unread record was written, by group and topic. 0 when all is read.",
            "s",
            (
                Query(
                    'max by (consumergroup, topic) (pg_kafka_consumergroup_lag_seconds{GROUP,topic=~"$topic"})',
                    "{{consumergroup}}: {{topic}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Behind, in records",
            "Offsets between what a group has committed and the end of the log.",
            "short",
            (
                Query(
                    'sum by (consumergroup, topic) (kafka_consumergroup_lag_sum{GROUP,topic=~"$topic"})',
                    "{{consumergroup}}: {{topic}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Committed",
            "Offsets that groups have moved on by, a second.",
            "short",
            (
                Query(
                    'sum by (consumergroup, topic) (rate(kafka_consumergroup_current_offset_sum{GROUP,topic=~"$topic"}[RATE]))',
                    "{{consumergroup}}: {{topic}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Members",
            "Consumers that are members of a group now.",
            "short",
            (Query("sum by (consumergroup) (kafka_consumergroup_members{GROUP})", "{{consumergroup}}"),),
            width=6,
        ),
        Panel(
            "Groups by state",
            "Groups of both protocols in Kafka's words; a group that rebalances for minutes has members that do not keep up.",
            "short",
            (Query("sum by (state) (pg_kafka_consumergroups{BROKER})", "{{state}}"),),
            width=6,
            stacked=True,
        ),
    ),
)

TOPICS = Row(
    "Topics",
    (
        Panel(
            "Bytes in",
            "What producers send, as they send it, by topic.",
            "Bps",
            (Query("sum by (topic) (rate(pg_kafka_topic_in_bytes_total{TOPIC}[RATE]))", "{{topic}}"),),
            stacked=True,
        ),
        Panel(
            "Bytes out",
            "What consumers are sent, by topic.",
            "Bps",
            (Query("sum by (topic) (rate(pg_kafka_topic_out_bytes_total{TOPIC}[RATE]))", "{{topic}}"),),
            stacked=True,
        ),
        Panel(
            "Offsets a second",
            "How fast the end of each topic moves on: records, and markers of transactions.",
            "short",
            (Query("sum by (topic) (rate(kafka_topic_partition_current_offset{TOPIC}[RATE]))", "{{topic}}"),),
            stacked=True,
        ),
        Panel(
            "Topics now",
            "Records that can be read are offsets between the oldest and the newest; a compacted topic has fewer.",
            "short",
            (
                Query("sum by (topic) (kafka_topic_partitions{TOPIC})"),
                Query(
                    "sum by (topic) (kafka_topic_partition_current_offset{TOPIC} - kafka_topic_partition_oldest_offset{TOPIC})"
                ),
                Query("sum by (topic) (pg_kafka_topic_partition_bytes{TOPIC})"),
            ),
            kind="table",
            width=16,
            columns={"topic": "Topic", "A": "Partitions", "B": "Offsets", "C": "Stored"},
            units={"Stored": "bytes"},
        ),
        Panel(
            "Stored",
            "What topics hold, in Kafka's format.",
            "bytes",
            (Query("sum by (topic) (pg_kafka_topic_partition_bytes{TOPIC})", "{{topic}}"),),
            stacked=True,
        ),
    ),
)

REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests a second",
            "By API.",
            "reqps",
            (Query("sum by (api) (rate(pg_kafka_requests_total{BROKER}[RATE]))", "{{api}}"),),
            stacked=True,
        ),
        Panel(
            "Errors a second",
            "Requests that were answered with an error, by API and error. Some are ordinary, as when a group rebalances.",
            "reqps",
            (
                Query(
                    'sum by (api, error) (rate(pg_kafka_requests_total{BROKER,error!="NONE"}[RATE]))',
                    "{{api}}: {{error}}",
                ),
            ),
        ),
        Panel(
            "Time of Produce",
            "From the arrival of a request to its answer.",
            "s",
            tuple(
                Query(_quantile(share, "pg_kafka_request_seconds", 'BROKER,api="Produce"'), name)
                for share, name in SHARES
            ),
        ),
        Panel(
            "Where time goes",
            "Seconds of waiting and working in each second, all requests together: until their turn came, in the broker, until"
            " a lane took them up, and in PostgreSQL. What clients wait for on purpose, as new records, is left out.",
            "s",
            (
                Query(
                    'sum by (part) (rate(pg_kafka_request_part_seconds_sum{BROKER,part!~"throttle|waited"}[RATE]))',
                    "{{part}}",
                ),
            ),
            width=12,
            stacked=True,
        ),
        Panel(
            "Slowest APIs",
            "99 of 100 requests of an API are answered within this time; what clients wait for on purpose is left out.",
            "s",
            (Query("topk(5, " + _quantile(0.99, "pg_kafka_request_seconds", by="api") + ")", "{{api}}"),),
            width=12,
        ),
    ),
)

POSTGRES = Row(
    "PostgreSQL",
    (
        Panel(
            "Commits",
            "How long a COMMIT of a lane takes: this is what producers with acks=all wait for.",
            "s",
            tuple(Query(_quantile(share, "pg_kafka_lane_commit_seconds"), name) for share, name in SHARES),
        ),
        Panel(
            "Bytes of a commit",
            "The more wait, the more go into one transaction.",
            "bytes",
            (
                *(Query(_quantile(share, "pg_kafka_lane_transaction_bytes"), name) for share, name in SHARES),
                Query(
                    "sum(rate(pg_kafka_lane_transaction_bytes_sum{BROKER}[RATE]))"
                    " / sum(rate(pg_kafka_lane_transaction_bytes_count{BROKER}[RATE]))",
                    "mean",
                ),
            ),
        ),
        Panel(
            "Queued for lanes",
            "What producers have sent and PostgreSQL does not have yet, by lane.",
            "bytes",
            (Query("sum by (lane) (pg_kafka_lane_queued_bytes{BROKER})", "lane {{lane}}"),),
            stacked=True,
        ),
        Panel(
            "Round trips",
            "99 of 100 statements are answered within this time, by kind of session.",
            "s",
            (Query(_quantile(0.99, "pg_kafka_postgres_round_trip_seconds", by="session"), "{{session}}"),),
        ),
        Panel(
            "Trouble",
            "Lanes that lost their sessions, backends that did not answer for seconds, and failed round trips, in five minutes.",
            "short",
            (
                Query("sum(increase(pg_kafka_lane_breaks_total{BROKER}[5m]))", "lanes broken"),
                Query("sum(increase(pg_kafka_postgres_hangs_total{BROKER}[5m]))", "backends hung"),
                Query("sum(increase(pg_kafka_postgres_failed_round_trips_total{BROKER}[5m]))", "round trips failed"),
            ),
        ),
        Panel(
            "Held",
            "The oldest snapshot, and the oldest open transaction of a producer: deleted rows stay while the first is held, and"
            " consumers with read_committed wait behind the second.",
            "s",
            (
                Query("max by (held_by) (pg_kafka_oldest_snapshot_seconds{BROKER})", "snapshot of a {{held_by}}"),
                Query("max(pg_kafka_oldest_open_transaction_seconds{BROKER})", "transaction of a producer"),
            ),
        ),
        Panel(
            "Connections",
            "Of the whole server, and how many it allows.",
            "short",
            (
                Query("max(pg_kafka_postgres_connections{BROKER})", "open"),
                Query("max(pg_kafka_postgres_max_connections{BROKER})", "allowed"),
                Query("sum by (session) (pg_kafka_postgres_sessions{BROKER})", "{{session}}"),
            ),
        ),
        Panel(
            "Heartbeat",
            "How old the leader's heartbeat is. After pg_kafka.eviction_ms a broker that waits takes over.",
            "s",
            (Query("max by (instance) (pg_kafka_heartbeat_age_seconds{BROKER})", "{{instance}}"),),
        ),
        Panel(
            "Transactions of producers",
            "How they end, a second.",
            "short",
            (Query("sum by (result) (rate(pg_kafka_transactions_ended_total{BROKER}[RATE]))", "{{result}}"),),
            stacked=True,
        ),
    ),
)

DISK = Row(
    "Disk and upkeep",
    (
        Panel(
            "On the disk",
            "Tables with their indexes, and the whole database.",
            "bytes",
            (
                Query("max by (part) (pg_kafka_table_bytes{BROKER})", "{{part}}"),
                Query("max(pg_kafka_database_bytes{BROKER})", "database"),
            ),
        ),
        Panel(
            "Free",
            "Of the volume of the data folder, and below which records are refused.",
            "bytes",
            (
                Query("min(pg_kafka_disk_free_bytes{BROKER})", "free"),
                Query("max(pg_kafka_disk_reserve_bytes{BROKER})", "refused below"),
            ),
        ),
        Panel(
            "Deleted",
            "Offsets that were passed by retention, DeleteRecords and SQL, a second; and disk space given back.",
            "short",
            (
                Query("sum by (cause) (rate(pg_kafka_deleted_offsets_total{BROKER}[RATE]))", "{{cause}}"),
                Query("sum(rate(pg_kafka_freed_bytes_total{BROKER}[RATE]))", "bytes freed"),
            ),
        ),
        Panel(
            "Compaction",
            "What compacted topics hold, and what of it was written since they were compacted.",
            "bytes",
            (
                Query("max(pg_kafka_compacted_topics_bytes{BROKER})", "held"),
                Query("max(pg_kafka_compaction_dirty_bytes{BROKER})", "dirty"),
            ),
        ),
        Panel(
            "Upkeep",
            "Share of the time that each job of the janitor and the cleaner works.",
            "percentunit",
            (Query("sum by (task, work) (rate(pg_kafka_upkeep_seconds_total{BROKER}[RATE]))", "{{task}}: {{work}}"),),
        ),
        Panel(
            "Journals",
            "Size of the tables that groups and transactional ids write.",
            "bytes",
            (Query("max by (journal) (pg_kafka_journal_bytes{BROKER})", "{{journal}}"),),
        ),
    ),
    collapsed=True,
)

PROCESS = Row(
    "Connections and the process",
    (
        Panel(
            "Connections",
            "Of clients, by listener.",
            "short",
            (
                Query("sum by (instance, listener) (pg_kafka_connections{BROKER})", "{{instance}} {{listener}}"),
                Query("max by (instance) (pg_kafka_connections_limit{BROKER})", "{{instance}} at most"),
            ),
        ),
        Panel(
            "Refused and delayed",
            "Connections, by the limit that they met, a second.",
            "short",
            (
                Query("sum by (limit) (rate(pg_kafka_connections_refused_total{BROKER}[RATE]))", "refused: {{limit}}"),
                Query("sum by (limit) (rate(pg_kafka_connections_delayed_total{BROKER}[RATE]))", "delayed: {{limit}}"),
            ),
        ),
        Panel(
            "Waiting for quotas",
            "Seconds that clients were told to wait, in each second, by quota.",
            "s",
            (Query("sum by (quota) (rate(pg_kafka_quota_wait_seconds_total{BROKER}[RATE]))", "{{quota}}"),),
        ),
        Panel(
            "Logins",
            "By SASL, a second, and TLS handshakes that failed.",
            "short",
            (
                Query(
                    "sum by (mechanism, result) (rate(pg_kafka_logins_total{BROKER}[RATE]))",
                    "{{mechanism}}: {{result}}",
                ),
                Query(
                    'sum by (result) (rate(pg_kafka_tls_handshakes_total{BROKER,result!="ok"}[RATE]))',
                    "TLS: {{result}}",
                ),
            ),
        ),
        Panel(
            "Refused requests",
            "Requests and batches larger than a setting allows, and connections that were not read for a while, by the setting.",
            "short",
            (
                Query("sum by (setting) (rate(pg_kafka_requests_refused_total{BROKER}[RATE]))", "refused: {{setting}}"),
                Query("sum by (setting) (rate(pg_kafka_connection_waits_total{BROKER}[RATE]))", "waits: {{setting}}"),
            ),
        ),
        Panel(
            "Processors",
            "Of the broker's process: 1 is one of them at full use, which is as much as the event loop can have.",
            "short",
            (Query("sum by (instance) (rate(process_cpu_seconds_total{BROKER}[RATE]))", "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Of the broker's process, and what its bounded parts hold.",
            "bytes",
            (
                Query("sum by (instance) (process_resident_memory_bytes{BROKER})", "{{instance}}"),
                Query("sum(pg_kafka_request_memory_bytes{BROKER})", "requests"),
                Query("sum(pg_kafka_tail_memory_bytes{BROKER})", "newest records"),
                Query("sum(pg_kafka_decoding_memory_bytes{BROKER})", "decoding"),
            ),
        ),
        Panel(
            "Event loop",
            "How late it was at most, in 15 seconds: nothing is answered meanwhile.",
            "s",
            (Query("max by (instance) (pg_kafka_event_loop_lag_seconds{BROKER})", "{{instance}}"),),
        ),
    ),
    collapsed=True,
)

CLIENTS = Row(
    "Metrics of clients",
    (
        Panel(
            "Clients",
            "Those that have asked which of their metrics to push, and the subscriptions that say so (kafka-client-metrics).",
            "short",
            (
                Query("sum(pg_kafka_telemetry_instances{BROKER})", "clients"),
                Query("sum(pg_kafka_telemetry_subscriptions{BROKER})", "subscriptions"),
            ),
        ),
        Panel(
            "Pushes",
            "A second, by the broker's answer. THROTTLING_QUOTA_EXCEEDED: too soon after the one before.",
            "short",
            (Query("sum by (error) (rate(pg_kafka_telemetry_pushes_total{BROKER}[RATE]))", "{{error}}"),),
        ),
        Panel(
            "Numbers pushed",
            "A second, and those of them that are shown nowhere.",
            "short",
            (
                Query("sum(rate(pg_kafka_telemetry_points_total{BROKER}[RATE]))", "pushed"),
                Query("sum(rate(pg_kafka_telemetry_points_left_out_total{BROKER}[RATE]))", "left out"),
            ),
        ),
        Panel(
            "Series",
            "Of what clients have pushed, and numbers that have none because there are too many.",
            "short",
            (
                Query("sum(pg_kafka_telemetry_series{BROKER})", "series"),
                Query("sum(pg_kafka_telemetry_without_series{BROKER})", "without"),
            ),
        ),
    ),
)

ROWS = (HEALTH, GROUPS, TOPICS, REQUESTS, POSTGRES, DISK, PROCESS, CLIENTS)


def dashboard() -> dict[str, Any]:
    """What `pg-kafka dashboards` writes."""
    return grafana.dashboard(UID, TITLE, DESCRIPTION, ROWS, VARIABLES)
