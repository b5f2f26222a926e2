"""Connections, logins and quotas."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Connections, logins and quotas"

OPEN = gauge("pg_kafka_connections", "Open connections of clients.", "listener")
LIMIT = gauge(
    "pg_kafka_connections_limit",
    "Connections beyond this are refused: by max.connections, or since no more files may be open.",
)
OPENED = counter("pg_kafka_connections_opened_total", "Connections that clients have opened.", "listener")
REFUSED = counter(
    "pg_kafka_connections_refused_total", "Connections that were closed at once, by the limit they went beyond.", "limit"
)  # fmt: skip
DELAYED = counter(
    "pg_kafka_connections_delayed_total", "Connections that came too fast and had to wait, by the limit.", "limit"
)  # fmt: skip
CLOSED = counter(
    "pg_kafka_connections_closed_total",
    "Connections that the broker has closed later: `idle`, `stalled` with half a request while memory was short,"
    " `credentials changed`.",
    "reason",
)
MUTED = gauge("pg_kafka_connections_muted", "Connections that are not read for a while, because of quotas.")
WAITING_FOR_MEMORY = gauge(
    "pg_kafka_connections_waiting_for_memory", "Connections that are not read until there is memory for their requests."
)
HANDSHAKES = counter(
    "pg_kafka_tls_handshakes_total",
    "Handshakes of TLS: `success`; `refused`, by the broker or by the client, over a certificate, a version or a cipher;"
    " `timeout`; `not tls`, for bytes of another protocol; `gone`, when the client closed before the end.",
    "listener",
    "result",
)
LOGINS = counter(
    "pg_kafka_logins_total",
    "Logins by SASL, those of re-authentication included: `success`; `failure`, of which the log says why; `timeout`;"
    " `unverified`, when it could not be found out. Mechanism `none`: it had none of ours, or asked for something else first.",
    "listener",
    "mechanism",
    "result",
)
QUOTA_WAITS = counter(
    "pg_kafka_quota_waits_total", "Answers that told a client to wait because of a quota, by the quota.", "quota"
)
QUOTA_WAIT_SECONDS = counter(
    "pg_kafka_quota_wait_seconds_total",
    "Time that clients were told to wait because of a quota, by the quota.",
    "quota",
)
QUOTA_CLIENTS = gauge(
    "pg_kafka_quota_clients", "Uses of quotas by clients that are remembered.", only="of a broker that leads"
)

FAMILIES = (
    OPEN, LIMIT, OPENED, REFUSED, DELAYED, CLOSED, MUTED, WAITING_FOR_MEMORY, HANDSHAKES, LOGINS, QUOTA_WAITS, QUOTA_WAIT_SECONDS,
    QUOTA_CLIENTS,
)  # fmt: skip
