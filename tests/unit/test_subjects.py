"""What log lines say that a request is about."""

from __future__ import annotations

from uuid import UUID

import pytest

from pg_kafka.broker.subjects import MOST_CHARACTERS, subjects_of
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.fetch import FetchRequest, FetchTopic
from pg_kafka.wire.messages.join_group import JoinGroupRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup
from pg_kafka.wire.messages.produce import ProduceRequest, TopicProduceData
from pg_kafka.wire.messages.sync_group import SyncGroupRequest

KNOWN, UNKNOWN = UUID(int=1), UUID(int=2)
NAMES = {KNOWN: "orders"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            ProduceRequest(transactional_id="t-1", topic_data=[TopicProduceData(topic_id=KNOWN)]),
            {"topics": "orders", "transactional_id": "t-1"},
        ),
        (FetchRequest(topics=[FetchTopic(topic="a"), FetchTopic(topic_id=UNKNOWN)]), {"topics": f"a,{UNKNOWN}"}),
        (MetadataRequest(topics=None), {}),
        (
            MetadataRequest(topics=[MetadataRequestTopic(name=f"t{number}") for number in range(100_000)]),
            {"topics": "t0,t1,t2 and 99997 more"},
        ),
        (DeleteTopicsRequest(topic_names=["a", "b"]), {"topics": "a,b"}),
        (DeleteTopicsRequest(topics=[DeleteTopicState(name=None, topic_id=KNOWN)]), {"topics": "orders"}),
        (DeleteGroupsRequest(groups_names=["g"]), {"groups": "g"}),
        (DescribeGroupsRequest(groups=["g", "h"]), {"groups": "g,h"}),
        (OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g")]), {"groups": "g"}),
        (JoinGroupRequest(group_id="g"), {"group": "g"}),
        (SyncGroupRequest(group_id="x" * 10_000), {"group": "x" * MOST_CHARACTERS}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_requests_say_what_they_are_about(request_: Message, expected: dict[str, object]) -> None:
    assert subjects_of(request_, NAMES.get) == expected
