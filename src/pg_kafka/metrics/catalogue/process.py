"""The process, the program, and the metrics themselves."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "The process"

BUILD_INFO = gauge("pg_kafka_build_info", "Always 1; the labels say what runs.", "version", "python")
STATE = gauge(
    "pg_kafka_state",
    "1 for what the broker does now: `starting`, `waiting` for the end of another one, `leading`, or `stopping`.",
    "state",
)
LEFT_OUT = gauge(
    "pg_kafka_metrics_left_out",
    "How many topics, groups and so on are summed up under `(other)`, because there are more than"
    " pg_kafka.metrics_max_series.",
    "what",
    only="of a broker that leads",
)
SOURCE_ERRORS = counter(
    "pg_kafka_metrics_source_errors_total", "Failures of a source to tell its metrics; a log line says why.", "source",
    only="after a failure",
)  # fmt: skip
SCRAPES = counter("pg_kafka_metrics_scrapes_total", "Pages of metrics that were made.")
SCRAPE_SECONDS = gauge("pg_kafka_metrics_scrape_seconds", "How long the page of metrics before this one took to make.")

# Written by prometheus_client itself, from /proc.
_ONLY = "on Linux"
OF_THE_SYSTEM = (
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", only=_ONLY),
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", only=_ONLY),
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", only=_ONLY),
    counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", only=_ONLY),
    gauge("process_open_fds", "Number of open file descriptors.", only=_ONLY),
    gauge("process_max_fds", "Maximum number of open file descriptors.", only=_ONLY),
)

FAMILIES = (BUILD_INFO, STATE, LEFT_OUT, SOURCE_ERRORS, SCRAPES, SCRAPE_SECONDS, *OF_THE_SYSTEM)
