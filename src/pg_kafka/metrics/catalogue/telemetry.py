"""What clients push of their own metrics (docs/telemetry.md). The pushed ones are called as the clients call them."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Metrics of clients"

SUBSCRIPTIONS = gauge("pg_kafka_telemetry_subscriptions", "Subscriptions to metrics of clients that are in force.")
INSTANCES = gauge(
    "pg_kafka_telemetry_instances", "Clients that have asked which metrics to push, or pushed some, and are not silent."
)
ASKED = counter(
    "pg_kafka_telemetry_questions_total", "Answers to clients that asked which metrics to push.", "error"
)  # fmt: skip
PUSHES = counter("pg_kafka_telemetry_pushes_total", "Answers to clients that pushed their metrics.", "error")
BYTES = counter("pg_kafka_telemetry_pushed_bytes_total", "Bytes of metrics that were taken, as they were sent.")
POINTS = counter("pg_kafka_telemetry_points_total", "Numbers in what clients have pushed.")
POINTS_LEFT_OUT = counter(
    "pg_kafka_telemetry_points_left_out_total",
    "Those that are shown nowhere: of a name or kind that cannot be told, and what is no finite number.",
)
SERIES = gauge("pg_kafka_telemetry_series", "Series of metrics that clients have pushed.")
WITHOUT_SERIES = gauge(
    "pg_kafka_telemetry_without_series",
    "Numbers of the latest pushes that have no series of their own, because there are too many, or that are left out.",
)

FAMILIES = (SUBSCRIPTIONS, INSTANCES, ASKED, PUSHES, BYTES, POINTS, POINTS_LEFT_OUT, SERIES, WITHOUT_SERIES)
