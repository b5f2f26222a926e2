"""Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat, ConsumerGroupDescribe."""

from __future__ import annotations

import base64
import uuid

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.context import Context
from pg_kafka.broker.handlers.groups import retriable
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)
from pg_kafka.wire.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)

_READ = Operation.READ
_LEAVING = 0  # and below
_HIDDEN = "The group has described topic(s) that the client is not authorized to describe."


def consumer_group_heartbeat(ctx: Context, request: ConsumerGroupHeartbeatRequest, reply: Reply) -> None:
    """Take a member in, keep it, change what it subscribes to, reconcile its partitions, or let it go.

    Versions  0-1. All are flexible; 1 has regular expressions, and members choose their ids themselves.
    Rules     - an empty group id is INVALID_REQUEST, one with a NUL or of more than 2,000 bytes INVALID_GROUP_ID
              - a group that is not there is made by a member that joins (epoch 0); for others it is GROUP_ID_NOT_FOUND
              - a classic group becomes one of the consumer protocol when a member joins this way, if
                group.consumer.migration.policy allows it
              - a topic that the client names and may not describe is TOPIC_AUTHORIZATION_FAILED; its expression matches
                no such topic
              - all else is the group's: `coordinator/consumer_group.py`
    """
    asked = Asked(reply, request, heartbeat_failure)
    room = ctx.doors.groups.enter(_READ, request.group_id)
    for name in request.subscribed_topic_names or ():
        ctx.doors.topics.check(Operation.DESCRIBE, name)
    if not room.id.strip():
        asked.answer(_refused(ErrorCode.INVALID_REQUEST, "GroupId can't be empty."))
    elif not room.can_be:
        asked.answer(_refused(ErrorCode.INVALID_GROUP_ID, "The group id has a NUL or is too long."))
    else:
        room.consumer_heartbeat(request, asked, ctx.sender, _new_member_id())


def _new_member_id() -> str:
    """As Kafka writes its ids: 22 characters, of which the first is no dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()).startswith("-"):
        pass
    return text


def _refused(code: int, message: str | None = None) -> ConsumerGroupHeartbeatResponse:
    return ConsumerGroupHeartbeatResponse(error_code=int(code), error_message=message)


def heartbeat_failure(request: ConsumerGroupHeartbeatRequest, code: int) -> ConsumerGroupHeartbeatResponse:
    return _refused(retriable(code))


async def consumer_group_describe(ctx: Context, request: ConsumerGroupDescribeRequest) -> ConsumerGroupDescribeResponse:
    """Describe groups of the consumer protocol, each for itself.

    Versions  0-1. All are flexible; 1 tells by which protocol each member takes part.
    Rules     - an unknown group, or a classic one, is GROUP_ID_NOT_FOUND; an empty id INVALID_GROUP_ID
              - one that is named twice is described once
    """
    described = []
    async for group_id in ctx.broker.turns.each(dict.fromkeys(request.group_ids)):
        try:
            group = ctx.doors.groups.enter(Operation.DESCRIBE, group_id).group
        except Refused as refused:
            described.append(DescribedGroup(error_code=retriable(refused.code), group_id=group_id))
            continue
        if not group_id:
            answer = DescribedGroup(error_code=int(ErrorCode.INVALID_GROUP_ID))
        elif group is None:
            answer = DescribedGroup(
                error_code=int(ErrorCode.GROUP_ID_NOT_FOUND), error_message=f"Group {group_id} not found."
            )
        else:
            answer = group.machine.describe_consumer()
            if code := await group.written():
                answer = DescribedGroup(error_code=code)
            elif not _may_see_topics(ctx, answer):
                answer = DescribedGroup(error_code=int(ErrorCode.TOPIC_AUTHORIZATION_FAILED), error_message=_HIDDEN)
        answer.group_id = group_id
        if request.include_authorized_operations and not answer.error_code:
            answer.authorized_operations = ctx.doors.operations(ResourceType.GROUP, group_id)
        described.append(answer)
    return ConsumerGroupDescribeResponse(groups=described)


def _may_see_topics(ctx: Context, group: DescribedGroup) -> bool:
    """May the client describe all topics that members have, or are to have, partitions of?"""
    named = {
        each.topic_name
        for member in group.members
        for part in (member.assignment, member.target_assignment)
        for each in part.topic_partitions
    }
    return all(ctx.doors.topics.may(Operation.DESCRIBE, name) for name in named)


def describe_failure(request: ConsumerGroupDescribeRequest, code: int) -> ConsumerGroupDescribeResponse:
    return ConsumerGroupDescribeResponse(
        groups=[DescribedGroup(error_code=retriable(code), group_id=group_id) for group_id in request.group_ids]
    )
