"""The dispatch table: every API that is served, its versions and its handler.

ApiVersions, the table in `docs/protocol.md` and the tests read these rows. Versions end at Kafka 4.3's stable ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from pg_kafka.broker.context import Api
from pg_kafka.broker.handlers import (
    api_versions,
    cluster,
    configs,
    coordinators,
    epochs,
    fetch,
    list_offsets,
    metadata,
    produce,
    producers,
    topics,
)

_ROWS = (
    Api(
        key=0,
        name="Produce",
        min_version=3,
        max_version=13,
        handler=produce.produce,
        advertised_min=0,  # librdkafka wants to see 0; as in Kafka, below 3 the connection is closed
        is_hot=True,
        is_pipelined=True,
    ),
    Api(key=1, name="Fetch", min_version=4, max_version=18, handler=fetch.fetch, is_hot=True),
    Api(key=2, name="ListOffsets", min_version=1, max_version=11, handler=list_offsets.list_offsets),
    Api(
        key=3,
        name="Metadata",
        min_version=0,
        max_version=13,
        handler=metadata.metadata,
        failure=metadata.metadata_failure,
    ),
    Api(
        key=10,
        name="FindCoordinator",
        min_version=0,
        max_version=6,
        handler=coordinators.find_coordinator,
        failure=coordinators.failure,
    ),
    Api(
        key=api_versions.API_VERSIONS_KEY,
        name="ApiVersions",
        min_version=0,
        max_version=4,
        handler=api_versions.api_versions,
        failure=api_versions.failure,
    ),
    Api(
        key=19,
        name="CreateTopics",
        min_version=2,
        max_version=7,
        handler=topics.create_topics,
        failure=topics.create_topics_failure,
    ),
    Api(
        key=20,
        name="DeleteTopics",
        min_version=1,
        max_version=6,
        handler=topics.delete_topics,
        failure=topics.delete_topics_failure,
    ),
    # Version 6 (two-phase commit, KIP-939) is not stable in Kafka 4.3.
    Api(key=22, name="InitProducerId", min_version=0, max_version=5, handler=producers.init_producer_id),
    Api(
        key=23,
        name="OffsetForLeaderEpoch",
        min_version=2,
        max_version=4,
        handler=epochs.offset_for_leader_epoch,
    ),
    Api(
        key=32,
        name="DescribeConfigs",
        min_version=1,
        max_version=4,
        handler=configs.describe_configs,
        failure=configs.failure,
    ),
    Api(
        key=37,
        name="CreatePartitions",
        min_version=0,
        max_version=3,
        handler=topics.create_partitions,
        failure=topics.create_partitions_failure,
    ),
    Api(
        key=60,
        name="DescribeCluster",
        min_version=0,
        max_version=2,
        handler=cluster.describe_cluster,
        failure=cluster.failure,
    ),
    Api(
        key=75,
        name="DescribeTopicPartitions",
        min_version=0,
        max_version=0,
        handler=metadata.describe_topic_partitions,
        failure=metadata.describe_topic_partitions_failure,
    ),
)

APIS: Mapping[int, Api] = {row.key: row for row in _ROWS}
