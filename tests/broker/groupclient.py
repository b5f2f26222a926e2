"""Requests of group members over the raw protocol, by their purpose."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.broker.rawclient import RawClient, SomeTopic, only

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, RequestTopicPartitions
from pg_kafka.wire.messages.delete_groups import DeleteGroupsRequest
from pg_kafka.wire.messages.describe_groups import DescribeGroupsRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.list_groups import ListGroupsRequest
from pg_kafka.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from pg_kafka.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP, DESCRIBE_GROUPS, LIST_GROUPS = 11, 12, 13, 14, 15, 16
DELETE_GROUPS, INCREMENTAL_ALTER_CONFIGS, OFFSET_DELETE = 42, 44, 47
CONSUMER_GROUP_HEARTBEAT, CONSUMER_GROUP_DESCRIBE = 68, 69


def fresh_group() -> str:
    return f"group-{secrets.token_hex(6)}"


def subscription(*topics: str) -> bytes:
    """A consumer's metadata, in the form of version 0."""
    names = b"".join(len(name).to_bytes(2, "big") + name.encode() for name in topics)
    return b"\0\0" + len(topics).to_bytes(4, "big") + names + b"\xff\xff\xff\xff"


def joining(group: str, member: str = "", *, topics: Sequence[str] = (), **more: Any) -> JoinGroupRequest:
    values: dict[str, Any] = {
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "protocol_type": "consumer",
        "protocols": [JoinGroupRequestProtocol(name="range", metadata=subscription(*topics))],
    }
    return JoinGroupRequest(group_id=group, member_id=member, **(values | more))


@dataclass
class Member:
    """A member of a classic group on its own connection."""

    client: RawClient
    group: str
    member_id: str = ""
    generation: int = -1
    is_leader: bool = False
    others: list[str] = field(default_factory=list)  # what the leader is told

    async def join(self, version: int = 9, **more: Any) -> Any:
        """Join, twice where an id has to be asked for first."""
        answer = await self.client.call(joining(self.group, self.member_id, **more), JOIN_GROUP, version, 30.0)
        if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
            answer = await self.client.call(joining(self.group, self.member_id, **more), JOIN_GROUP, version, 30.0)
        if not answer.error_code:
            self.member_id, self.generation = answer.member_id, answer.generation_id
            self.is_leader = answer.leader == answer.member_id
            self.others = [member.member_id for member in answer.members]
        return answer

    async def sync(self, assignments: Mapping[str, bytes] | None = None, version: int = 5) -> Any:
        request = SyncGroupRequest(
            group_id=self.group,
            generation_id=self.generation,
            member_id=self.member_id,
            protocol_type="consumer",
            protocol_name="range",
            assignments=[
                SyncGroupRequestAssignment(member_id=member_id, assignment=assignment)
                for member_id, assignment in (assignments or {}).items()
            ],
        )
        return await self.client.call(request, SYNC_GROUP, version)

    async def heartbeat(self, version: int = 4) -> int:
        request = HeartbeatRequest(group_id=self.group, generation_id=self.generation, member_id=self.member_id)
        code: int = (await self.client.call(request, HEARTBEAT, version)).error_code
        return code

    async def leave(self, version: int = 5) -> Any:
        request = LeaveGroupRequest(
            group_id=self.group, member_id=self.member_id, members=[MemberIdentity(member_id=self.member_id)]
        )
        return await self.client.call(request, LEAVE_GROUP, version)

    async def commit(self, topic: SomeTopic, offsets: Mapping[int, int], version: int = 9) -> dict[int, int]:
        return await commit(
            self.client, self.group, topic, offsets, version=version, member=self.member_id, generation=self.generation
        )

    async def become_stable(self) -> None:
        """Join as the only member, and be assigned something."""
        answer = await self.join()
        assert answer.error_code == ErrorCode.NONE, answer
        synced = await self.sync({self.member_id: b"\0\0\0\0\0\0\xff\xff\xff\xff"})
        assert synced.error_code == ErrorCode.NONE, synced


def committing(
    group: str,
    topic: SomeTopic,
    offsets: Mapping[int, int],
    *,
    member: str = "",
    generation: int = -1,
    metadata: str | None = "m",
) -> OffsetCommitRequest:
    partitions = [
        OffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset, committed_leader_epoch=3, committed_metadata=metadata
        )
        for index, offset in offsets.items()
    ]
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member,
        topics=[OffsetCommitRequestTopic(name=topic.name, topic_id=topic.id, partitions=partitions)],
    )


async def commit(
    client: RawClient, group: str, topic: SomeTopic, offsets: Mapping[int, int], *, version: int = 9, **more: Any
) -> dict[int, int]:
    """Error codes by partition."""
    answer = await client.call(committing(group, topic, offsets, **more), OFFSET_COMMIT, version)
    return {one.partition_index: one.error_code for one in only(answer.topics).partitions}


async def fetch_group(
    client: RawClient, group: str, topic: SomeTopic | None, partitions: Sequence[int] = (0,), version: int = 9
) -> Any:
    """One group's answer; without a topic all that it has."""
    topics = None
    if topic is not None:
        topics = [OffsetFetchRequestTopics(name=topic.name, topic_id=topic.id, partition_indexes=partitions)]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)])
    return only((await client.call(request, OFFSET_FETCH, version)).groups)


async def fetched(
    client: RawClient, group: str, topic: SomeTopic | None, partitions: Sequence[int] = (0,), version: int = 9
) -> dict[int, int]:
    """Committed offsets by partition."""
    answer = await fetch_group(client, group, topic, partitions, version)
    assert answer.error_code == ErrorCode.NONE
    return {one.partition_index: one.committed_offset for topic in answer.topics for one in topic.partitions}


async def described(client: RawClient, group: str, version: int = 6, **more: Any) -> Any:
    answer = await client.call(DescribeGroupsRequest(groups=[group], **more), DESCRIBE_GROUPS, version)
    return only(answer.groups)


async def described_consumers(client: RawClient, group: str, version: int = 1, **more: Any) -> Any:
    request = ConsumerGroupDescribeRequest(group_ids=[group], **more)
    return only((await client.call(request, CONSUMER_GROUP_DESCRIBE, version)).groups)


async def listed(client: RawClient, version: int = 5, **filters: Any) -> dict[str, Any]:
    answer = await client.call(ListGroupsRequest(**filters), LIST_GROUPS, version)
    assert answer.error_code == ErrorCode.NONE
    return {group.group_id: group for group in answer.groups}


async def delete_group(client: RawClient, group: str, version: int = 2) -> int:
    answer = await client.call(DeleteGroupsRequest(groups_names=[group]), DELETE_GROUPS, version)
    code: int = only(answer.results).error_code
    return code


@dataclass
class Consumer:
    """A member of the consumer protocol."""

    client: RawClient
    group: str
    member_id: str = field(default_factory=lambda: str(uuid4()))
    epoch: int = 0
    owned: dict[Any, list[int]] = field(default_factory=dict)

    async def heartbeat(self, topics: Sequence[str] | None = None, version: int = 1, **more: Any) -> Any:
        """Say what has changed; with topics, all that a member says as it joins. Follows the answer."""
        if topics is not None:
            more = {"rebalance_timeout_ms": 10_000, "subscribed_topic_names": topics} | more
        if "topic_partitions" not in more and (topics is not None or self.owned):
            more["topic_partitions"] = [
                RequestTopicPartitions(topic_id=topic, partitions=partitions)
                for topic, partitions in self.owned.items()
            ]
        request = ConsumerGroupHeartbeatRequest(
            group_id=self.group, member_id=self.member_id, member_epoch=self.epoch, **more
        )
        answer = await self.client.call(request, CONSUMER_GROUP_HEARTBEAT, version)
        if answer.error_code == ErrorCode.NONE:
            self.epoch = answer.member_epoch
            if answer.assignment is not None:
                self.owned = {one.topic_id: list(one.partitions) for one in answer.assignment.topic_partitions}
        return answer

    async def leave(self) -> Any:
        self.epoch, self.owned = -1, {}
        return await self.heartbeat()
