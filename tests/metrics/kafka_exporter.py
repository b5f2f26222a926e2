"""What is published for kafka_exporter, and should go on working when its metrics come from pg_kafka.

Names and labels are those of github.com/danielqsj/kafka_exporter. The expressions are what the panels and rules that
people have ask for: its own dashboard (7589 of grafana.com), those of Strimzi, of Grafana's kafka mixin and of Google
Cloud, and the alert rules of Strimzi, of the mixin and of awesome-prometheus-alerts. Variables of dashboards stand as
the values that Grafana puts in; `namespace` and the like are labels that scraping adds, and match where they are not there.
"""

from __future__ import annotations

from dataclasses import dataclass

# Metric: its labels, beside those that scraping adds.
METRICS: dict[str, tuple[str, ...]] = {
    "kafka_brokers": (),
    "kafka_broker_info": ("id", "address"),
    "kafka_topic_partitions": ("topic",),
    "kafka_topic_partition_current_offset": ("topic", "partition"),
    "kafka_topic_partition_oldest_offset": ("topic", "partition"),
    "kafka_topic_partition_leader": ("topic", "partition"),
    "kafka_topic_partition_replicas": ("topic", "partition"),
    "kafka_topic_partition_in_sync_replica": ("topic", "partition"),
    "kafka_topic_partition_leader_is_preferred": ("topic", "partition"),
    "kafka_topic_partition_under_replicated_partition": ("topic", "partition"),
    "kafka_consumergroup_current_offset": ("consumergroup", "topic", "partition"),
    "kafka_consumergroup_current_offset_sum": ("consumergroup", "topic"),
    "kafka_consumergroup_lag": ("consumergroup", "topic", "partition"),
    "kafka_consumergroup_lag_sum": ("consumergroup", "topic"),
    "kafka_consumergroup_members": ("consumergroup",),
}


@dataclass(frozen=True)
class Asked:
    """An expression, and the labels that its answer must have."""

    by: str
    expression: str
    labels: frozenset[str] = frozenset()


def _asked(by: str, expression: str, *labels: str) -> Asked:
    return Asked(by, expression, frozenset(labels))


OWN, STRIMZI, MIXIN, GOOGLE = "dashboard 7589", "Strimzi's dashboard", "Grafana's mixin", "Google Cloud's dashboard"
_STRIMZI = 'topic=~".*",namespace=~""'
_STRIMZI_GROUP = f'consumergroup=~".*",{_STRIMZI}'
_MIXIN = 'topic!="__consumer_offsets",job=~".*",kafka_cluster=~".*",topic=~".*"'
_MIXIN_GROUP = f'{_MIXIN},consumergroup!="",consumergroup=~".*"'

QUERIES = (
    _asked(
        OWN, 'sum(rate(kafka_topic_partition_current_offset{instance="$instance",topic=~".*"}[1m])) by (topic)', "topic"
    ),
    _asked(
        OWN,
        'sum(kafka_consumergroup_lag{instance="$instance",topic=~".*"}) by (consumergroup, topic)',
        "consumergroup",
        "topic",
    ),
    _asked(
        OWN,
        'sum(delta(kafka_topic_partition_current_offset{instance=~"$instance",topic=~".*"}[5m])/5) by (topic)',
        "topic",
    ),
    _asked(
        OWN,
        'sum(delta(kafka_consumergroup_current_offset{instance=~"$instance",topic=~".*"}[5m])/5) by (consumergroup, topic)',
        "consumergroup",
        "topic",
    ),
    _asked(OWN, 'sum by(topic) (kafka_topic_partitions{instance="$instance",topic=~".*"})', "topic"),
    _asked(STRIMZI, f"count(kafka_topic_partitions{{{_STRIMZI}}})"),
    _asked(STRIMZI, f"sum(kafka_topic_partitions{{{_STRIMZI}}})"),
    _asked(STRIMZI, f"sum(kafka_topic_partitions{{{_STRIMZI}}}) by (topic)", "topic"),
    _asked(STRIMZI, f"sum(kafka_topic_partition_replicas{{{_STRIMZI}}})"),
    _asked(STRIMZI, f"sum(kafka_topic_partition_in_sync_replica{{{_STRIMZI}}})"),
    _asked(STRIMZI, f"sum(kafka_topic_partition_under_replicated_partition{{{_STRIMZI}}})"),
    _asked(STRIMZI, f"sum(kafka_topic_partition_leader_is_preferred{{{_STRIMZI}}} < bool 1)"),
    _asked(STRIMZI, f"sum(rate(kafka_topic_partition_current_offset{{{_STRIMZI}}}[5m])) by (topic)", "topic"),
    _asked(
        STRIMZI,
        f"sum(delta(kafka_consumergroup_current_offset{{{_STRIMZI_GROUP}}}[5m])/300) by (consumergroup, topic)",
        "consumergroup",
        "topic",
    ),
    _asked(
        STRIMZI, f"sum(kafka_consumergroup_lag{{{_STRIMZI_GROUP}}}) by (consumergroup, topic)", "consumergroup", "topic"
    ),
    _asked(
        STRIMZI,
        f"sum(kafka_consumergroup_lag{{{_STRIMZI_GROUP}}}) by (consumergroup,partition,topic)",
        "consumergroup",
        "topic",
        "partition",
    ),
    _asked(
        STRIMZI,
        f"sum(kafka_consumergroup_current_offset{{{_STRIMZI_GROUP}}}) by (consumergroup,partition,topic)",
        "consumergroup",
        "topic",
        "partition",
    ),
    _asked(
        STRIMZI, f"sum(kafka_topic_partition_current_offset{{{_STRIMZI}}}) by (partition,topic)", "topic", "partition"
    ),
    _asked(
        STRIMZI, f"sum(kafka_topic_partition_oldest_offset{{{_STRIMZI}}}) by (partition,topic)", "topic", "partition"
    ),
    _asked(
        MIXIN,
        f"sum by (job,kafka_cluster,consumergroup,topic) (kafka_consumergroup_lag{{{_MIXIN_GROUP}}})",
        "consumergroup",
        "topic",
    ),
    _asked(
        MIXIN,
        f"avg by (job,kafka_cluster,consumergroup,topic) (rate(kafka_consumergroup_current_offset{{{_MIXIN_GROUP}}}[1m]))",
        "consumergroup",
        "topic",
    ),
    _asked(
        MIXIN,
        f"sum by (job,kafka_cluster,topic) (rate(kafka_topic_partition_current_offset{{{_MIXIN}}}[1m]))",
        "topic",
    ),
    _asked(
        MIXIN,
        f"sum by (job,kafka_cluster,topic,partition) (rate(kafka_topic_partition_current_offset{{{_MIXIN}}}[1m]))",
        "topic",
        "partition",
    ),
    _asked(GOOGLE, 'kafka_brokers{cluster=~""}'),
    _asked(GOOGLE, 'kafka_topic_partitions{cluster=~""}', "topic"),
    *(
        _asked(GOOGLE, f'{name}{{cluster=~""}}', "topic", "partition")
        for name in METRICS
        if name.startswith("kafka_topic_partition_")
    ),
    _asked("alert TooLargeConsumerGroupLag", "kafka_consumergroup_lag >= 0", "consumergroup", "topic", "partition"),
    _asked("alert KafkaConsumersGroup", "sum(kafka_consumergroup_lag) by (consumergroup) >= bool 50", "consumergroup"),
    _asked("alert KafkaTopicsReplicas", "min(kafka_topic_partition_in_sync_replica) by (topic) < bool 3", "topic"),
    _asked(
        "alert UnderReplicatedPartition",
        "kafka_topic_partition_under_replicated_partition > bool 0",
        "topic",
        "partition",
    ),
    _asked(
        "alert NoMessageForTooLong",
        "changes(kafka_topic_partition_current_offset[10m]) == bool 0",
        "topic",
        "partition",
    ),
    _asked(
        "alert KafkaLagKeepsIncreasing",
        'sum by (topic, consumergroup) (delta(kafka_consumergroup_lag{topic!="__consumer_offsets",consumergroup!=""}[5m]))',
        "consumergroup",
        "topic",
    ),
    _asked("a panel of members", "sum(kafka_consumergroup_members) by (consumergroup)", "consumergroup"),
    _asked("a scaler", "sum(kafka_consumergroup_lag_sum) by (consumergroup)", "consumergroup"),
    _asked(
        "a panel of progress",
        "sum(rate(kafka_consumergroup_current_offset_sum[1m])) by (consumergroup, topic)",
        "consumergroup",
        "topic",
    ),
)

# What the variables of these dashboards offer: (label, of the series of this selector).
VARIABLES = (
    ("job", "kafka_consumergroup_current_offset"),
    ("instance", 'kafka_consumergroup_current_offset{job=~".*"}'),
    ("topic", "kafka_topic_partition_current_offset{topic!='__consumer_offsets',topic!='--kafka'}"),
    ("consumergroup", "kafka_consumergroup_current_offset"),
    ("id", "kafka_broker_info"),
)
