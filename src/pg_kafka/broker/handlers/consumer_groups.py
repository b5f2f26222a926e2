"""Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat, ConsumerGroupDescribe."""

from __future__ import annotations

import base64
import uuid

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.context import Context, Reply
from pg_kafka.broker.handlers.authorized import GROUP_OPERATIONS
from pg_kafka.broker.handlers.groups import retriable
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

_LEAVING = 0  # and below


def consumer_group_heartbeat(ctx: Context, request: ConsumerGroupHeartbeatRequest, reply: Reply) -> None:
    """Take a member in, keep it, change what it subscribes to, reconcile its partitions, or let it go.

    Versions  0-1. All are flexible; 1 has regular expressions, and members choose their ids themselves.
    Rules     - an empty group id is INVALID_REQUEST, one with a NUL or of more than 2,000 bytes INVALID_GROUP_ID
              - a group that is not there is made by a member that joins (epoch 0); for others it is GROUP_ID_NOT_FOUND
              - a classic group becomes one of the consumer protocol when a member joins this way, if
                group.consumer.migration.policy allows it
              - all else is the group's: `coordinator/consumer_group.py`
    """
    groups = ctx.broker.groups
    asked = Asked(reply, request, heartbeat_failure)
    group_id = request.group_id
    if groups.refusal:
        asked.refuse(groups.refusal)
    elif not group_id.strip():
        asked.answer(_refused(ErrorCode.INVALID_REQUEST, "GroupId can't be empty."))
    elif not groups.can_be_id(group_id):
        asked.answer(_refused(ErrorCode.INVALID_GROUP_ID, "The group id has a NUL or is too long."))
    else:
        sender = groups.sender(ctx.header.client_id, ctx.connection.peer[0], ctx.version)
        groups.consumer_heartbeat(request, asked, sender, _new_member_id())


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
    groups = ctx.broker.groups
    if groups.refusal:
        return describe_failure(request, groups.refusal)
    described = []
    async for group_id in ctx.broker.turns.each(dict.fromkeys(request.group_ids)):
        if groups.refusal:  # since the groups before this one
            return describe_failure(request, groups.refusal)
        group = groups.get(group_id)
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
        answer.group_id = group_id
        if request.include_authorized_operations and not answer.error_code:
            answer.authorized_operations = GROUP_OPERATIONS
        described.append(answer)
    return ConsumerGroupDescribeResponse(groups=described)


def describe_failure(request: ConsumerGroupDescribeRequest, code: int) -> ConsumerGroupDescribeResponse:
    return ConsumerGroupDescribeResponse(
        groups=[DescribedGroup(error_code=retriable(code), group_id=group_id) for group_id in request.group_ids]
    )
