"""Requests: how many, how long, and what they carry."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, histogram

TITLE = "Requests"

REQUESTS = counter(
    "pg_kafka_requests_total",
    "Requests that are over. `principal` is by what the client is known: `anonymous`, `certificate`, `user`, `role` or"
    " `token`. `error` is the answer's first error, `NETWORK_EXCEPTION` where the client went before it. APIs and versions"
    " that are not served are `(unserved)`, and beyond 1000 series all labels are `(other)`.",
    "api", "version", "principal", "error",
)  # fmt: skip
REQUEST_BYTES = counter("pg_kafka_request_bytes_total", "Bytes of requests that are over, without their sizes.", "api")
RESPONSE_BYTES = counter("pg_kafka_response_bytes_total", "Bytes of answers.", "api")
SECONDS = histogram(
    "pg_kafka_request_seconds",
    "From the arrival of the whole request to its answer, without what the client asked to wait for and what it had to wait"
    " because of a quota. Its count is of all requests. Of Produce, Fetch, OffsetCommit and heartbeats, once there are more"
    " than 100 of them in a second, some are timed, drawn by lot, and each of those stands for the ones since the last; with"
    " pg_kafka.slow_request_ms all are timed.",
    "api",
)
PART_SECONDS = histogram(
    "pg_kafka_request_part_seconds",
    "Where that time went: `queue` until its turn came, `lane` until the transaction began that holds it, `database` in that"
    " transaction and other statements, `work` in the broker. Beside it, `waited` is what the client asked to wait for (records,"
    " members of its group), `throttle` what a quota kept it waiting. Parts that a request did not have are not counted. Of"
    " many requests some are timed, as in pg_kafka_request_seconds.",
    "api", "part",
)  # fmt: skip
REFUSED = counter(
    "pg_kafka_requests_refused_total",
    "Requests, or batches in them, that were larger than a setting allows, or came too late because of it.",
    "setting",
    only="once there are some",
)
NOT_READ = counter(
    "pg_kafka_connection_waits_total",
    "Times that a connection was not read for a while, or nothing more was started for it, because of a setting.",
    "setting",
    only="once there are some",
)
SLOW = counter(
    "pg_kafka_slow_requests_total",
    "Requests that took longer than pg_kafka.slow_request_ms.",
    only="with pg_kafka.slow_request_ms",
)
IN_BYTES = counter(
    "pg_kafka_topic_in_bytes_total", "Bytes of batches that were written, as producers sent them.", "topic",
    only="for topics that are used",
)  # fmt: skip
IN_RECORDS = counter(
    "pg_kafka_topic_in_records_total", "Records that were written.", "topic", only="for topics that are used"
)
OUT_BYTES = counter(
    "pg_kafka_topic_out_bytes_total", "Bytes of batches that were sent to consumers.", "topic",
    only="for topics that are used",
)  # fmt: skip
OUT_RECORDS = counter(
    "pg_kafka_topic_out_records_total",
    "Records in these batches, those included that consumers leave out themselves: markers of transactions, what was aborted,"
    " and what lies before the offset asked for.",
    "topic",
    only="for topics that are used",
)

FAMILIES = (
    REQUESTS, REQUEST_BYTES, RESPONSE_BYTES, SECONDS, PART_SECONDS, REFUSED, NOT_READ, SLOW,
    IN_BYTES, IN_RECORDS, OUT_BYTES, OUT_RECORDS,
)  # fmt: skip
