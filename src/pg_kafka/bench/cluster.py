"""A topic for the length of a benchmark, and connections to the brokers that lead its partitions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pg_kafka.bench.connection import (
    CREATE_TOPICS,
    DELETE_TOPICS,
    LIST_OFFSETS,
    METADATA,
    BenchError,
    Connection,
    check,
)
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from pg_kafka.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseTopic,
)

_CREATE_TIMEOUT_MS = 30_000
_LEADERS_WITHIN_S = 30.0
_ASK_AGAIN_S = 0.05
# The field for names is another one after this version.
_DELETE_BY_NAMES = 5
# In ListOffsets: the end of the log.
_LATEST = -1


@dataclass(frozen=True)
class Topic:
    """A topic and the address of each partition's leader."""

    name: str
    leaders: tuple[tuple[str, int], ...]

    def connect(self, partition: int, timeout_s: float = 30.0) -> Connection:
        """A new connection to the leader of a partition."""
        return Connection(*self.leaders[partition], timeout_s)


@contextmanager
def temporary_topic(host: str, port: int, partitions: int, prefix: str = "pg-kafka-bench") -> Iterator[Topic]:
    """A new topic, deleted afterwards. Raises BenchError."""
    name = f"{prefix}-{secrets.token_hex(4)}"
    with Connection(host, port) as connection:
        create(connection, name, partitions)
        try:
            yield find(connection, name, partitions)
        finally:
            # A connection that has failed must not hide the error that is on its way.
            with Connection(host, port) as last:
                delete(last, name)


def create(connection: Connection, name: str, partitions: int) -> None:
    """Create a topic, replicated as the cluster does by default where it knows that (one copy where it does not)."""
    replication = -1 if connection.version(CREATE_TOPICS) >= 4 else 1
    topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=replication)
    response = connection.call(CREATE_TOPICS, CreateTopicsRequest(topics=[topic], timeout_ms=_CREATE_TIMEOUT_MS))
    check(response.topics[0].error_code, f"topic {name} cannot be created")


def delete(connection: Connection, name: str) -> None:
    request = DeleteTopicsRequest(timeout_ms=_CREATE_TIMEOUT_MS)
    if connection.version(DELETE_TOPICS) > _DELETE_BY_NAMES:
        request.topics = [DeleteTopicState(name=name)]
    else:
        request.topic_names = [name]
    response = connection.call(DELETE_TOPICS, request)
    check(response.responses[0].error_code, f"topic {name} cannot be deleted")


def find(connection: Connection, name: str, partitions: int) -> Topic:
    """A topic once the leaders of all its partitions serve them. Raises BenchError when that takes too long."""
    request = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
    deadline = time.monotonic() + _LEADERS_WITHIN_S
    while True:
        answer: MetadataResponse = connection.call(METADATA, request)
        topic = answer.topics[0]
        if _is_ready(topic, partitions):
            break
        if time.monotonic() > deadline:
            raise BenchError(f"topic {name} has no leaders for all of its {partitions} partitions")
        time.sleep(_ASK_AGAIN_S)  # a broker does not tell when a new topic is ready
    places = {broker.node_id: (broker.host, broker.port) for broker in answer.brokers}
    leaders = {partition.partition_index: places[partition.leader_id] for partition in topic.partitions}
    found = Topic(name, tuple(leaders[partition] for partition in range(partitions)))
    for place in dict.fromkeys(found.leaders):
        with Connection(*place) as leader:
            own = [partition for partition, other in enumerate(found.leaders) if other == place]
            while not _leads(leader, name, own):
                if time.monotonic() > deadline:
                    raise BenchError(f"{leader.place} does not serve all partitions of topic {name} that it leads")
                time.sleep(_ASK_AGAIN_S)
    return found


def _is_ready(topic: MetadataResponseTopic, partitions: int) -> bool:
    return (
        topic.error_code == ErrorCode.NONE
        and len(topic.partitions) == partitions
        and all(partition.error_code == 0 and partition.leader_id >= 0 for partition in topic.partitions)
    )


def _leads(leader: Connection, name: str, partitions: Sequence[int]) -> bool:
    """Whether a broker knows yet that it leads these partitions: metadata may say so before."""
    rows = [ListOffsetsPartition(partition_index=partition, timestamp=_LATEST) for partition in partitions]
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=name, partitions=rows)])
    answer: ListOffsetsResponse = leader.call(LIST_OFFSETS, request)
    codes = {partition.error_code for partition in answer.topics[0].partitions}
    for code in codes - {ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}:
        check(code, f"topic {name} cannot be read")
    return codes == {0}
