"""Drives one group of the consumer protocol: topics, clients' requests, the stored records, and a reload after any step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.consumer_protocol import write_assignment
from pg_kafka.coordinator.group_steps import Sender, Step, TopicImage
from pg_kafka.coordinator.group_upgrade import upgrade
from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.wire.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    RequestTopicPartitions,
)
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

# An interval of 0 makes a target with each new epoch.
EAGER = GroupSettings(group_consumer_assignment_interval_ms=0)
ALL_ASSIGNORS = ("uniform", "range", "roundrobin", "sticky")

Parts = Mapping[str, Sequence[int]]
"""Partitions by topic name."""


def uuid_of(topic_id: int) -> UUID:
    return UUID(int=0xABCD << 100 | topic_id)


class Topics:
    """A catalogue that changes."""

    def __init__(self, **partitions: int) -> None:
        self.by_name: dict[str, TopicImage] = {}
        self.by_uuid: dict[UUID, TopicImage] = {}
        self._last_id = 0
        self.permissions = 0
        self.hidden: set[tuple[str, str, str]] = set()  # from a principal at a host, a topic
        for name, count in partitions.items():
            self.create(name, count)

    def seen_by(self, principal: str, host: str, names: frozenset[str]) -> frozenset[str]:
        return frozenset(name for name in names if (principal, host, name) not in self.hidden)

    def create(self, name: str, partitions: int) -> None:
        self._last_id += 1
        self._set(TopicImage(self._last_id, uuid_of(self._last_id), name, partitions))

    def grow(self, name: str, partitions: int) -> None:
        old = self.by_name[name]
        self._set(TopicImage(old.id, old.uuid, name, partitions))

    def delete(self, name: str) -> None:
        del self.by_uuid[self.by_name.pop(name).uuid]

    def _set(self, topic: TopicImage) -> None:
        self.by_name[topic.name] = self.by_uuid[topic.uuid] = topic


def state_of(group: ConsumerGroup) -> dict[str, Any]:
    """All that must be the same after a reload."""
    return {
        "epochs": (group.epoch, group.target_epoch, group.topics_hash, group.is_dead),
        "members": group.members,
        "targets": group.targets,
        "static": group.static,
        "classic": group.classic_members,
        "owners": {topic: owners for topic, owners in group._owners.items() if owners},
        "counts": (group._names, group._patterns, group._assignors, group._protocols),
    }


def subscription(topics: Sequence[str], owned: Parts | None = None, version: int = 1, rack: str | None = None) -> bytes:
    """ConsumerProtocolSubscription's bytes."""
    names = b"".join(len(name).to_bytes(2) + name.encode() for name in topics)
    data = version.to_bytes(2) + len(topics).to_bytes(4) + names + (0xFFFFFFFF).to_bytes(4)
    if version >= 1:
        data += write_assignment(0, (owned or {}).items())[2:-4]
    if version >= 2:
        data += (0xFFFFFFFF).to_bytes(4)
    if version >= 3:
        data += (0xFFFF).to_bytes(2) if rack is None else len(rack).to_bytes(2) + rack.encode()
    return data


@dataclass
class Driver:
    """`group` is the live machine; every step checks that a reload would be the same."""

    topics: Topics
    settings: GroupSettings = EAGER
    steady_ms: int = 1_000_000
    stored: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    timers: dict[tuple[str, ...], int] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)
    written: list[Record] = field(default_factory=list)  # by the last step
    made_ids: int = 0
    answers: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.group: Any = ConsumerGroup("g", self.settings, self.topics)

    def take(self, step: Step) -> Step:
        """What the edge does, and the check of reload."""
        for record in step.records:
            if record.value is None:
                self.stored.pop((record.kind, record.key), None)
            else:
                self.stored[record.kind, record.key] = record.value
        self.written = step.records
        for name, deadline in step.timers.items():
            if deadline is None:
                self.timers.pop(name, None)
            else:
                self.timers[name] = deadline
        self.history += step.history
        self.answers.update(step.replies)
        if step.becomes is not None:
            self.group = step.becomes
        if isinstance(self.group, ConsumerGroup):
            assert state_of(self.reloaded()) == state_of(self.group)
        return step

    def reloaded(self) -> ConsumerGroup:
        group = ConsumerGroup("g", self.settings, self.topics)
        for (kind, key), value in reversed(self.stored.items()):
            group.apply(Record(kind, key, value))
        return group

    def restart(self) -> None:
        """The broker dies and loads the group again."""
        self.group = self.reloaded()
        self.timers.clear()
        self.take(self.group.restart(self.steady_ms))

    def _new_id(self) -> str:
        self.made_ids += 1
        return f"made-{self.made_ids}"

    def owned(self, parts: Parts | None) -> list[RequestTopicPartitions] | None:
        if parts is None:
            return None
        return [
            RequestTopicPartitions(topic_id=self.topics.by_name[name].uuid, partitions=list(ids))
            for name, ids in parts.items()
            if name in self.topics.by_name
        ]

    def beat(
        self,
        member_id: str,
        epoch: int,
        owned: Parts | None = None,
        *,
        topics: Sequence[str] | None = None,
        version: int = 1,
        client_id: str = "client",
        principal: str = "",
        **fields: Any,
    ) -> ConsumerGroupHeartbeatResponse:
        request = ConsumerGroupHeartbeatRequest(
            group_id="g",
            member_id=member_id,
            member_epoch=epoch,
            topic_partitions=self.owned(owned),
            subscribed_topic_names=topics,
            **fields,
        )
        sender = Sender(client_id, "/10.0.0.1", version, principal)
        token = object()
        if isinstance(self.group, ClassicGroup):
            step = upgrade(self.group, request, token, sender, self._new_id(), self.steady_ms, self.topics)
        else:
            step = self.group.consumer_heartbeat(request, token, sender, self._new_id(), self.steady_ms)
        self.take(step)
        answer = self.answers[token]
        assert isinstance(answer, ConsumerGroupHeartbeatResponse)
        return answer

    def join(
        self, member_id: str, *topics: str, rebalance_timeout_ms: int = 60_000, **fields: Any
    ) -> ConsumerGroupHeartbeatResponse:
        return self.beat(member_id, 0, {}, topics=topics, rebalance_timeout_ms=rebalance_timeout_ms, **fields)

    def parts(self, answer: ConsumerGroupHeartbeatResponse) -> dict[str, list[int]] | None:
        """The assignment in an answer, by name."""
        if answer.assignment is None:
            return None
        return {
            self.topics.by_uuid[each.topic_id].name: list(each.partitions)
            for each in answer.assignment.topic_partitions
            if each.topic_id in self.topics.by_uuid
        }

    def has(self, member_id: str) -> dict[str, list[int]]:
        """What a member owns, by name."""
        by_uuid = self.topics.by_uuid
        assigned = self.group.members[member_id].assigned
        return {by_uuid[topic].name: list(ids) for topic, ids in assigned.items() if topic in by_uuid}

    def pass_time(self, ms: int) -> None:
        """Let timers fire on the way."""
        until = self.steady_ms + ms
        while due := [name for name, deadline in self.timers.items() if deadline <= until]:
            name = min(due, key=lambda each: self.timers[each])
            self.steady_ms = max(self.steady_ms, self.timers.pop(name))
            self.take(self.group.on_timer(name, self.steady_ms))
        self.steady_ms = until

    def targets_of(self, member_id: str) -> list[str]:
        """The topics that a member is to have partitions of."""
        targets = self.group.targets.get(member_id, {})
        return [self.topics.by_uuid[topic].name for topic in targets if topic in self.topics.by_uuid]

    def catalogue_changed(self) -> Step:
        return self.take(self.group.on_catalogue(self.steady_ms))

    # -- classic members -----------------------------------------------------------------------------------------

    def join_classic(
        self,
        member_id: str,
        *topics: str,
        owned: Parts | None = None,
        protocols: Sequence[str] = ("range",),
        version: int = 9,
        session_timeout_ms: int = 10_000,
        instance_id: str | None = None,
        metadata: bytes | None = None,
        reason: str | None = None,
    ) -> JoinGroupResponse:
        metadata = subscription(topics, owned) if metadata is None else metadata
        request = JoinGroupRequest(
            group_id="g",
            member_id=member_id,
            group_instance_id=instance_id,
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=60_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name=name, metadata=metadata) for name in protocols],
            reason=reason,
        )
        token = object()
        sender = Sender("classic-client", "/10.0.0.2", version)
        self.take(self.group.join(request, token, sender, self._new_id(), self.steady_ms))
        return self.answers.get(token, None)  # type: ignore[no-any-return]

    def sync_classic(self, member_id: str, generation: int, **fields: Any) -> SyncGroupResponse:
        fields = {"protocol_type": "consumer", "protocol_name": "range"} | fields
        request = SyncGroupRequest(group_id="g", member_id=member_id, generation_id=generation, **fields)
        token = object()
        self.take(self.group.sync(request, token, Sender("classic-client", "/10.0.0.2", 5), self.steady_ms))
        answer = self.answers[token]
        assert isinstance(answer, SyncGroupResponse)
        return answer

    def beat_classic(self, member_id: str, generation: int, instance_id: str | None = None) -> int:
        request = HeartbeatRequest(
            group_id="g", member_id=member_id, generation_id=generation, group_instance_id=instance_id
        )
        token = object()
        self.take(self.group.heartbeat(request, token, Sender("classic-client", "/10.0.0.2", 4), self.steady_ms))
        return int(self.answers[token].error_code)

    def leave_classic(self, *members: MemberIdentity | str, version: int = 5) -> Any:
        identities = [MemberIdentity(member_id=each) if isinstance(each, str) else each for each in members]
        if version < 3:
            request = LeaveGroupRequest(group_id="g", member_id=identities[0].member_id)
        else:
            request = LeaveGroupRequest(group_id="g", members=identities)
        token = object()
        self.take(self.group.leave(request, token, Sender("classic-client", "/10.0.0.2", version), self.steady_ms))
        return self.answers[token]
