"""How far consumer groups are behind."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import gauge

TITLE = "Lag of consumer groups"

_ONLY = "for groups that have committed offsets"
_LABELS = ("consumergroup", "topic")
_BY_PARTITION = (*_LABELS, "partition")
_SUM = " without a label for them, or with pg_kafka.metrics_per_partition one for each."

OFFSET = gauge(
    "kafka_consumergroup_current_offset",
    f"Offset that the group has committed: the sum over the topic's partitions,{_SUM}",
    *_BY_PARTITION,
    only=_ONLY,
)
OFFSET_SUM = gauge(
    "kafka_consumergroup_current_offset_sum", "Offsets that the group has committed, summed up.", *_LABELS, only=_ONLY
)
LAG = gauge(
    "kafka_consumergroup_lag",
    f"Records between the commit and the end of the log: the sum over the topic's partitions,{_SUM}",
    *_BY_PARTITION,
    only=_ONLY,
)
LAG_SUM = gauge(
    "kafka_consumergroup_lag_sum",
    "Records between the commits and the ends of the log, summed up.",
    *_LABELS,
    only=_ONLY,
)
SECONDS = gauge(
    "pg_kafka_consumergroup_lag_seconds",
    "For how long the oldest unread record has been in the log, by its append time; 0 when all is read. Of the partition"
    " that is furthest behind, without a label for it, or with pg_kafka.metrics_per_partition of each.",
    *_BY_PARTITION,
    only=_ONLY,
)
AGE_SECONDS = gauge(
    "pg_kafka_consumergroup_lag_age_seconds",
    "How long ago these figures were found out. They are renewed every ten seconds, less often with very many groups.",
    only="while leading",
)
LOOK_SECONDS = gauge(
    "pg_kafka_consumergroup_lag_look_seconds", "How long it took to find them out.", only="while leading"
)

FAMILIES = (OFFSET, OFFSET_SUM, LAG, LAG_SUM, SECONDS, AGE_SECONDS, LOOK_SECONDS)
