"""Time to decode and encode the messages of the hot path, best of many runs, in microseconds.

python -m bench.wire_codec
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from pg_kafka.wire.codec import decode_request, encode_request, encode_response
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)

TOPIC_ID = UUID(int=7 << 100)


def microseconds(work: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        kept = work()
        best = min(best, time.perf_counter() - start)
        del kept
    return best * 1e6


def fetch(partitions: int) -> FetchRequest:
    found = [
        FetchPartition(partition=index, fetch_offset=1 << 40, current_leader_epoch=7, partition_max_bytes=1 << 20)
        for index in range(partitions)
    ]
    topic = FetchTopic(topic="orders", topic_id=TOPIC_ID, partitions=found)
    return FetchRequest(max_wait_ms=500, min_bytes=1, session_id=5, session_epoch=9, topics=[topic])


def produce(partitions: int, records: bytes) -> ProduceRequest:
    found = [PartitionProduceData(index=index, records=memoryview(records)) for index in range(partitions)]
    topic = TopicProduceData(name="orders", topic_id=TOPIC_ID, partition_data=found)
    return ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[topic])


def produced(partitions: int) -> ProduceResponse:
    found = [PartitionProduceResponse(index=index, base_offset=1 << 40) for index in range(partitions)]
    topic = TopicProduceResponse(name="orders", topic_id=TOPIC_ID, partition_responses=found)
    return ProduceResponse(responses=[topic])


def fetched(partitions: int, records: bytes) -> FetchResponse:
    found = [
        PartitionData(
            partition_index=index, high_watermark=1 << 40, last_stable_offset=1 << 40, records=memoryview(records)
        )
        for index in range(partitions)
    ]
    topic = FetchableTopicResponse(topic="orders", topic_id=TOPIC_ID, partitions=found)
    return FetchResponse(session_id=5, responses=[topic])


def main() -> None:
    requests = [
        ("Fetch v11, 500 partitions", 1, 11, fetch(500)),
        ("Fetch v12, 500 partitions", 1, 12, fetch(500)),
        ("Fetch v17, 500 partitions", 1, 17, fetch(500)),
        ("Fetch v11, 1 partition", 1, 11, fetch(1)),
        ("Fetch v17, 1 partition", 1, 17, fetch(1)),
        ("Produce v7, 1 x 16 kB", 0, 7, produce(1, bytes(16384))),
        ("Produce v12, 1 x 16 kB", 0, 12, produce(1, bytes(16384))),
        ("Produce v12, 100 x 1 MB", 0, 12, produce(100, bytes(1 << 20))),
        ("ApiVersions v4", 18, 4, ApiVersionsRequest(client_software_name="librdkafka")),
        (
            "Metadata v12, 3 topics",
            3,
            12,
            MetadataRequest(topics=[MetadataRequestTopic(name=f"topic-{index}") for index in range(3)]),
        ),
        ("Heartbeat v4", 12, 4, HeartbeatRequest(group_id="group", member_id="member-" * 5)),
    ]
    for label, key, version, message in requests:
        body = memoryview(b"".join(encode_request(message, key, version)))
        rounds = 300 if len(body) > 10_000 else 3000
        spent = microseconds(lambda: decode_request(key, version, body, 0), rounds)  # noqa: B023
        print(f"decode {label:<28}{spent:8.1f}")
    responses = [
        ("Produce v7, 1 partition", 0, 7, produced(1)),
        ("Produce v12, 1 partition", 0, 12, produced(1)),
        ("Produce v12, 100 partitions", 0, 12, produced(100)),
        ("Fetch v11, 1 x 64 kB", 1, 11, fetched(1, bytes(65536))),
        ("Fetch v17, 1 x 64 kB", 1, 17, fetched(1, bytes(65536))),
        ("Fetch v17, 100 x 1 MB", 1, 17, fetched(100, bytes(1 << 20))),
        ("Fetch v17, 500 x 100 B", 1, 17, fetched(500, bytes(100))),
    ]
    for label, key, version, message in responses:
        spent = microseconds(lambda: encode_response(message, key, version), 1000)  # noqa: B023
        print(f"encode {label:<28}{spent:8.1f}")


if __name__ == "__main__":
    main()
