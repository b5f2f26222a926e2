"""A classic group that gets its first member of the consumer protocol (KIP-848's online upgrade).

Pure. The classic members stay, with their generation as epoch and what they were assigned; whoever waits for a
rebalance is told to join again, and finds a group of the consumer protocol then.
"""

from __future__ import annotations

from collections.abc import Hashable
from uuid import UUID

from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE, ClassicMember
from pg_kafka.coordinator.consumer_classic import UPGRADE_POLICIES
from pg_kafka.coordinator.consumer_group import ConsumerGroup, check_heartbeat
from pg_kafka.coordinator.consumer_member import ClassicProtocols, ConsumerMember
from pg_kafka.coordinator.consumer_protocol import (
    Assignment,
    MalformedConsumerProtocol,
    Subscription,
    read_assignment,
    read_subscription,
)
from pg_kafka.coordinator.consumer_rebalance import RequestRefused
from pg_kafka.coordinator.group_steps import Catalogue, Sender, Step
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)


def upgrade(
    classic: ClassicGroup,
    request: ConsumerGroupHeartbeatRequest,
    token: Hashable,
    sender: Sender,
    new_member_id: str,
    steady_ms: int,
    catalogue: Catalogue,
) -> Step:
    """A ConsumerGroupHeartbeat to a classic group: it becomes a ConsumerGroup, or the request is refused.

    When the request is refused, the classic group stays as it is.
    """
    try:
        check_heartbeat(request, sender.version, classic.settings)
        if request.member_epoch != 0:
            raise RequestRefused(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {classic.group_id} is not a consumer group.")
        group = ConsumerGroup(classic.group_id, classic.settings, catalogue)
        converted = _converted(classic, group, steady_ms) if classic.members else Step()
    except RequestRefused as refused:
        out = Step()
        out.replies.append(
            (token, ConsumerGroupHeartbeatResponse(error_code=refused.error, error_message=refused.message))
        )
        return out
    joined = group.consumer_heartbeat(request, token, sender, new_member_id, steady_ms)
    if joined.replies[-1][1].error_code:
        return joined
    out = classic.dismiss(ErrorCode.REBALANCE_IN_PROGRESS)
    for record in classic.tombstones():
        classic.apply(record)
        out.records.append(record)
    out.add(converted)
    out.add(joined)
    out.becomes = group
    return out


def _converted(classic: ClassicGroup, group: ConsumerGroup, steady_ms: int) -> Step:
    settings = classic.settings

    def refuse(why: str) -> RequestRefused:
        message = f"Cannot upgrade classic group {classic.group_id} to consumer group because {why}."
        return RequestRefused(ErrorCode.GROUP_ID_NOT_FOUND, message)

    if settings.group_consumer_migration_policy not in UPGRADE_POLICIES:
        raise refuse("online upgrade is disabled")
    if classic.protocol_type != CONSUMER_PROTOCOL_TYPE:
        raise refuse("the group does not use the consumer embedded protocol")
    if len(classic.members) > settings.group_consumer_max_size:
        raise refuse("the group size exceeds the consumer group maximum size")
    taken: set[tuple[UUID, int]] = set()
    members = []
    for each in classic.members.values():
        try:
            subscription = read_subscription(each.metadata(classic.protocol) or each.protocols[0][1])
            assignment = read_assignment(each.assignment)
        except MalformedConsumerProtocol:
            raise refuse("the embedded consumer protocol is malformed") from None
        if assignment.has_user_data:
            raise RequestRefused(
                ErrorCode.GROUP_ID_NOT_FOUND,
                f"Cannot upgrade classic group {classic.group_id} to consumer group because an unsupported custom"
                " assignor is in use. Please refer to the documentation or switch to a default assignor before"
                " re-attempting the upgrade.",
            )
        members.append(_member(each, subscription, assignment, classic.generation, group.catalogue, taken))
    return group.take_over(members, classic.generation, steady_ms)


def _member(
    member: ClassicMember,
    subscription: Subscription,
    assignment: Assignment,
    generation: int,
    catalogue: Catalogue,
    taken: set[tuple[UUID, int]],
) -> ConsumerMember:
    """Stable, with what the leader gave it. A leader may have given a partition twice; here it has one owner."""
    assigned: dict[UUID, dict[int, int]] = {}
    for name, partitions in assignment.partitions.items():
        topic = catalogue.by_name.get(name)
        for partition in sorted(set(partitions)) if topic else ():
            if topic and 0 <= partition < topic.partitions and (topic.uuid, partition) not in taken:
                taken.add((topic.uuid, partition))
                assigned.setdefault(topic.uuid, {})[partition] = generation
    return ConsumerMember(
        member_id=member.member_id,
        instance_id=member.group_instance_id,
        rack_id=subscription.rack_id,
        client_id=member.client_id,
        client_host=member.client_host,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
        topics=tuple(sorted(subscription.topics)),
        classic=ClassicProtocols(member.session_timeout_ms, member.protocols),
        epoch=generation,
        previous_epoch=generation,
        assigned=assigned,
    )
