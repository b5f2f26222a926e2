"""Brokers, topics and partitions. The names that begin with `kafka_` are those of kafka_exporter."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import gauge

TITLE = "Brokers, topics and partitions"
_LEADS = "of a broker that leads"
_SUM = " The sum over the topic's partitions, without a label for them, unless pg_kafka.metrics_per_partition is set."

BROKERS = gauge("kafka_brokers", "Number of brokers: the one that leads, and those that wait.", only=_LEADS)
BROKER_INFO = gauge(
    "kafka_broker_info", "Always 1; the labels say which brokers there are.", "id", "address", only=_LEADS
)
TOPICS = gauge("pg_kafka_topics", "Number of topics.", only=_LEADS)
PARTITIONS_OF_ALL = gauge("pg_kafka_partitions", "Number of partitions of all topics.", only=_LEADS)
LOADED = gauge("pg_kafka_partitions_loaded", "Partitions in memory: those that have been used.", only=_LEADS)
FIGURES_AGE = gauge(
    "pg_kafka_topic_figures_age_seconds",
    "How old the figures of topics are that only the database knows: their sizes, and offsets of partitions that are not"
    " in use.",
    only=_LEADS,
)
PARTITIONS = gauge("kafka_topic_partitions", "Number of partitions of a topic.", "topic", only=_LEADS)
CURRENT_OFFSET = gauge(
    "kafka_topic_partition_current_offset", f"The offset of the next record.{_SUM}", "topic", "partition", only=_LEADS
)
OLDEST_OFFSET = gauge(
    "kafka_topic_partition_oldest_offset", f"The offset of the first record.{_SUM}", "topic", "partition", only=_LEADS
)
BYTES = gauge(
    "pg_kafka_topic_partition_bytes", f"What is stored, in Kafka's format.{_SUM}", "topic", "partition", only=_LEADS
)
REPLICAS = gauge(
    "kafka_topic_partition_replicas",
    f"Number of replicas, 1 for each partition: PostgreSQL replicates.{_SUM}", "topic", "partition", only=_LEADS,
)  # fmt: skip
IN_SYNC = gauge(
    "kafka_topic_partition_in_sync_replica",
    f"Number of replicas in sync, as many.{_SUM}",
    "topic",
    "partition",
    only=_LEADS,
)
IS_PREFERRED = gauge(
    "kafka_topic_partition_leader_is_preferred", f"1 for each partition.{_SUM}", "topic", "partition", only=_LEADS
)
UNDER_REPLICATED = gauge(
    "kafka_topic_partition_under_replicated_partition",
    f"0 for each partition.{_SUM}",
    "topic",
    "partition",
    only=_LEADS,
)
LEADER = gauge(
    "kafka_topic_partition_leader", "Node id of the leader.", "topic", "partition",
    only="with pg_kafka.metrics_per_partition",
)  # fmt: skip

FAMILIES = (
    BROKERS, BROKER_INFO, TOPICS, PARTITIONS_OF_ALL, LOADED, FIGURES_AGE, PARTITIONS, CURRENT_OFFSET, OLDEST_OFFSET, BYTES,
    REPLICAS, IN_SYNC, IS_PREFERRED, UNDER_REPLICATED, LEADER,
)  # fmt: skip
