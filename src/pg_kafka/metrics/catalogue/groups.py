"""Consumer groups: members and states. The names that begin with `kafka_` are those of kafka_exporter."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import gauge

TITLE = "Consumer groups"
_LEADS = "of a broker that leads"

MEMBERS = gauge("kafka_consumergroup_members", "Members of a group.", "consumergroup", only=_LEADS)
STATES = gauge(
    "pg_kafka_consumergroups",
    "Groups by their protocol, `classic` or `consumer`, and their state, in Kafka's words.",
    "protocol",
    "state",
    only=_LEADS,
)

FAMILIES = (MEMBERS, STATES)
