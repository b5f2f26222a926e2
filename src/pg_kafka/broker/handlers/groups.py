"""Groups of the classic protocol, and what is asked about groups of both: JoinGroup, SyncGroup, Heartbeat, LeaveGroup,
ListGroups, DescribeGroups, DeleteGroups.

A group's rules are in its machine (`coordinator/classic_group.py`, `coordinator/consumer_group.py`); here is what comes
before them: names that cannot be, groups that are not there, and errors in each API's own form.
"""

from __future__ import annotations

import uuid

from pg_kafka.broker.answers import Asked
from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import GroupRoom
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.errors import StorageError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from pg_kafka.wire.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupResponse
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberResponse
from pg_kafka.wire.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

_READ = Operation.READ

# What one member may send as metadata of all its protocols together, and a leader as assignments: as much as a record
# of Kafka's own journal of groups may hold.
MAX_METADATA_BYTES = 1_048_576
MAX_ASSIGNMENT_BYTES = 16 * 1_048_576

# Of a client's name in a member id: with all of the longest name the id would be no string of the protocol.
_MEMBER_NAME_CHARACTERS = 1000
_SINCE_NULL_PROTOCOLS = 7
_SINCE_LEAVING_TOGETHER = 3
_SINCE_PROTOCOLS_IN_SYNC = 5
_SINCE_NOT_FOUND = 6


def retriable(code: int) -> int:
    """A storage error in the words that group members understand."""
    return int(ErrorCode.COORDINATOR_NOT_AVAILABLE if code == ErrorCode.KAFKA_STORAGE_ERROR else code)


# -- members -------------------------------------------------------------------------------------------------------------


def join_group(ctx: Context, request: JoinGroupRequest, reply: Reply) -> None:
    """Take a member into a classic group; the answer comes when all members have joined.

    Versions  0-9. 1 has a rebalance timeout of its own, 4 member ids before joining (KIP-394), 5 static members
              (KIP-345), 6 is flexible, 8 has reasons (KIP-800), 9 answers a static leader that is back without a
              rebalance.
    Rules     - an empty group id, one with a NUL or of more than 2,000 bytes is INVALID_GROUP_ID
              - a member id that the group does not know is UNKNOWN_MEMBER_ID; without one a new member is made
              - more than 1 MiB of metadata is INVALID_REQUEST
              - all else is the group's: `coordinator/classic_group.py`
    """
    room = ctx.doors.groups.enter(_READ, request.group_id)
    asked = Asked(reply, request, join_failure)
    if not request.group_id or not room.can_be:
        asked.answer(_join_refused(request, ErrorCode.INVALID_GROUP_ID, ctx.version))
    elif sum(len(protocol.metadata) for protocol in request.protocols) > MAX_METADATA_BYTES:
        asked.answer(_join_refused(request, ErrorCode.INVALID_REQUEST, ctx.version))
    else:
        code = _code_of_timeouts(ctx, request)
        group = None if code else room.joined(is_new_member=not request.member_id)
        if group is None:
            asked.answer(_join_refused(request, code or ErrorCode.UNKNOWN_MEMBER_ID, ctx.version))
            return
        sender = ctx.sender
        name = (request.group_instance_id or sender.client_id)[:_MEMBER_NAME_CHARACTERS]
        new_member_id = f"{name}-{uuid.uuid4()}"
        room.step(group, asked, group.machine.join, request, asked, sender, new_member_id, room.steady_ms())


def _code_of_timeouts(ctx: Context, request: JoinGroupRequest) -> int:
    """A session timeout that no group takes must not make one."""
    config = ctx.broker.config
    if not (config.group_min_session_timeout_ms <= request.session_timeout_ms <= config.group_max_session_timeout_ms):
        return ErrorCode.INVALID_SESSION_TIMEOUT
    return ErrorCode.NONE


def _join_refused(request: JoinGroupRequest, code: int, version: int) -> JoinGroupResponse:
    protocol_name = None if version >= _SINCE_NULL_PROTOCOLS else ""
    return JoinGroupResponse(error_code=code, protocol_name=protocol_name, member_id=request.member_id)


def join_failure(request: JoinGroupRequest, code: int) -> JoinGroupResponse:
    return JoinGroupResponse(error_code=retriable(code), member_id=request.member_id)


def sync_group(ctx: Context, request: SyncGroupRequest, reply: Reply) -> None:
    """Give a member its assignment; the answer comes when the leader has sent all of them.

    Versions  0-5. 3 has static members, 4 is flexible, 5 names the protocol (KIP-559).
    Rules     - from version 5 on without protocol type or name: INCONSISTENT_GROUP_PROTOCOL
              - while groups are loaded REBALANCE_IN_PROGRESS, which makes members join again
              - more than 16 MiB of assignments are INVALID_REQUEST
              - all else is the group's: `coordinator/classic_group.py`
    """
    asked = Asked(reply, request, sync_failure)
    has_protocol = request.protocol_type is not None and request.protocol_name is not None
    if ctx.version >= _SINCE_PROTOCOLS_IN_SYNC and not has_protocol:
        asked.answer(SyncGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
        return
    room = ctx.doors.groups.enter(_READ, request.group_id)
    if not request.group_id:
        asked.answer(SyncGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID))
    elif sum(len(each.assignment) for each in request.assignments) > MAX_ASSIGNMENT_BYTES:
        asked.answer(SyncGroupResponse(error_code=ErrorCode.INVALID_REQUEST))
    elif (group := room.group) is None:
        asked.answer(SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
    else:
        room.step(group, asked, group.machine.sync, request, asked, ctx.sender, room.steady_ms())


def sync_failure(request: SyncGroupRequest, code: int) -> SyncGroupResponse:
    if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
        # The rebalance under way is forgotten: the members have to start it anew.
        code = ErrorCode.REBALANCE_IN_PROGRESS
    return SyncGroupResponse(error_code=retriable(code))


def heartbeat(ctx: Context, request: HeartbeatRequest, reply: Reply) -> None:
    """Keep a member of a classic group, and tell it when to join again.

    Versions  0-4. 3 has static members, 4 is flexible.
    Rules     - an unknown group or member is UNKNOWN_MEMBER_ID
              - while groups are loaded all is well: sessions begin anew after that
              - REBALANCE_IN_PROGRESS and the other errors are the group's: `coordinator/classic_group.py`
    """
    room = ctx.doors.groups.enter(_READ, request.group_id)
    asked = Asked(reply, request, heartbeat_failure)
    if not request.group_id:
        asked.answer(HeartbeatResponse(error_code=ErrorCode.INVALID_GROUP_ID))
    elif (group := room.group) is None:
        asked.answer(HeartbeatResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))
    else:
        room.step(group, asked, group.machine.heartbeat, request, asked, ctx.sender, room.steady_ms())


def heartbeat_failure(request: HeartbeatRequest, code: int) -> HeartbeatResponse:
    code = ErrorCode.NONE if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS else code
    return HeartbeatResponse(error_code=retriable(code))


def leave_group(ctx: Context, request: LeaveGroupRequest, reply: Reply) -> None:
    """Remove members of a classic group.

    Versions  0-5. From 3 on many at a time, static ones also by their instance id alone; 4 is flexible, 5 has reasons.
    Rules     - each member answers for itself: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID
              - an unknown group: UNKNOWN_MEMBER_ID for each
    """
    room = ctx.doors.groups.enter(_READ, request.group_id)
    asked = Asked(reply, request, leave_failure)
    if not request.group_id:
        asked.answer(LeaveGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID))
    elif (group := room.group) is None:
        asked.answer(_nobody_left(request, ctx.version))
    else:
        room.step(group, asked, group.machine.leave, request, asked, ctx.sender, room.steady_ms())


def _nobody_left(request: LeaveGroupRequest, version: int) -> LeaveGroupResponse:
    if version < _SINCE_LEAVING_TOGETHER:
        return LeaveGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
    return LeaveGroupResponse(
        members=[
            MemberResponse(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=ErrorCode.UNKNOWN_MEMBER_ID,
            )
            for member in request.members
        ]
    )


def leave_failure(request: LeaveGroupRequest, code: int) -> LeaveGroupResponse:
    return LeaveGroupResponse(error_code=retriable(code))


# -- administration ------------------------------------------------------------------------------------------------------


async def list_groups(ctx: Context, request: ListGroupsRequest) -> ListGroupsResponse:
    """Name all groups.

    Versions  0-5. 3 is flexible, 4 filters by state, 5 by type.
    Rules     - filters take any case; no filter takes all; a state or type that does not exist takes none
              - the states of both protocols: Empty, PreparingRebalance, CompletingRebalance, Stable, Dead; Assigning,
                Reconciling
    """
    groups = ctx.doors.groups.listed()
    states = {state.strip().lower() for state in request.states_filter}
    types = {type_.lower() for type_ in request.types_filter}
    return ListGroupsResponse(
        groups=[
            ListedGroup(
                group_id=group.id,
                protocol_type=group.machine.protocol_type,
                group_state=group.machine.state,
                group_type=group.machine.kind,
            )
            async for group in ctx.broker.turns.each(groups)
            if (not states or group.machine.state.lower() in states) and (not types or group.machine.kind in types)
        ]
    )


def list_failure(request: ListGroupsRequest, code: int) -> ListGroupsResponse:
    return ListGroupsResponse(error_code=retriable(code))


async def describe_groups(ctx: Context, request: DescribeGroupsRequest) -> DescribeGroupsResponse:
    """Describe classic groups, each for itself.

    Versions  0-6. 3 has authorized operations, 4 static members, 5 is flexible, 6 messages.
    Rules     - an unknown group is Dead, from version 6 on also GROUP_ID_NOT_FOUND (KIP-1043); so is one of the
                consumer protocol, which ConsumerGroupDescribe describes
              - one that is named twice is described once
    """
    described = []
    async for group_id in ctx.broker.turns.each(dict.fromkeys(request.groups)):
        try:
            group = ctx.doors.groups.enter(Operation.DESCRIBE, group_id).group
        except Refused as refused:
            described.append(DescribedGroup(error_code=retriable(refused.code), group_id=group_id))
            continue
        if group is None:
            answer = DescribedGroup(
                error_code=ErrorCode.GROUP_ID_NOT_FOUND, error_message=f"Group {group_id} not found."
            )
        else:
            answer = group.machine.describe_classic()
            if code := await group.written():
                answer = DescribedGroup(error_code=code)
        answer.group_id = group_id
        if answer.error_code == ErrorCode.GROUP_ID_NOT_FOUND:
            answer.group_state = "Dead"
            if ctx.version < _SINCE_NOT_FOUND:
                answer.error_code = ErrorCode.NONE
        if request.include_authorized_operations and not answer.error_code:
            answer.authorized_operations = ctx.doors.operations(ResourceType.GROUP, group_id)
        described.append(answer)
    return DescribeGroupsResponse(groups=described)


def describe_failure(request: DescribeGroupsRequest, code: int) -> DescribeGroupsResponse:
    return DescribeGroupsResponse(
        groups=[DescribedGroup(error_code=retriable(code), group_id=group_id) for group_id in request.groups]
    )


async def delete_groups(ctx: Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
    """Delete groups and their offsets, each for itself.

    Versions  0-3. 2 is flexible, 3 has messages.
    Rules     - a group with members is NON_EMPTY_GROUP, an unknown one GROUP_ID_NOT_FOUND
              - one that is named twice is deleted and answered once
              - commits that wait for the end of a transaction are forgotten with the group; one of SQL that is open is
                waited for a little, and then NON_EMPTY_GROUP
    """
    results = []
    for group_id in dict.fromkeys(request.groups_names):
        try:
            room = ctx.doors.groups.enter(Operation.DELETE, group_id)
        except Refused as refused:
            results.append(DeletableGroupResult(group_id=group_id, error_code=retriable(refused.code)))
            continue
        code = await _settle_commits(room)
        group = room.group
        if not code:
            code = int(ErrorCode.GROUP_ID_NOT_FOUND if group is None else group.machine.check_delete())
        if not code and room.is_pending:
            code = await room.forget_pending()
            group = room.group
        if not code and group is not None:
            code = await room.delete(group)
        if not code:
            ctx.broker.audit.note("group deleted", who=ctx.connection, resource=f"group {group_id}")
        results.append(DeletableGroupResult(group_id=group_id, error_code=code))
    return DeleteGroupsResponse(results=results)


async def _settle_commits(room: GroupRoom) -> int:
    """Have what members have committed by SQL be the group's, so that it goes with the group. An error code."""
    keys = [] if room.group is None else room.group.offsets.keys()
    try:
        if await room.settle_commits(keys):
            return int(ErrorCode.NON_EMPTY_GROUP)
    except StorageError:
        return int(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return retriable(room.refusal)


def delete_failure(request: DeleteGroupsRequest, code: int) -> DeleteGroupsResponse:
    return DeleteGroupsResponse(
        results=[
            DeletableGroupResult(group_id=group_id, error_code=retriable(code)) for group_id in request.groups_names
        ]
    )
