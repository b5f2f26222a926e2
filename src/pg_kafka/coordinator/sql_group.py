"""A group that SQL drives (kafka.poll): Kafka's clients may look at it, and take no part in it.

Pure. It has neither members nor timers, and writes nothing: what it is, and its offsets, are in tables of its own
(`storage/sql/schema/102_sql_groups.sql`). So every request of a member is refused.

| request                          | answer                                                                                |
|----------------------------------|---------------------------------------------------------------------------------------|
| JoinGroup                        | INCONSISTENT_GROUP_PROTOCOL: the group speaks another protocol; clients give up       |
| ConsumerGroupHeartbeat           | the same, with a sentence that Java shows                                             |
| SyncGroup, Heartbeat, LeaveGroup | UNKNOWN_MEMBER_ID, so that who was a member joins again and gets the first of these   |
| OffsetCommit                     | NON_EMPTY_GROUP, what Kafka's tools say of a group that is in use                     |
| TxnOffsetCommit                  | UNKNOWN_MEMBER_ID, on which producers abort                                           |
| DescribeGroups, ListGroups       | Stable, without members; its assignor is "sql"                                        |
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from pg_kafka.coordinator.classic_member import CONSUMER_PROTOCOL_TYPE
from pg_kafka.coordinator.classic_state import STABLE
from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.records import Record
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import consumer_group_describe as consumer_describe
from pg_kafka.wire.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from pg_kafka.wire.messages.describe_groups import DescribedGroup
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from pg_kafka.wire.messages.join_group import JoinGroupRequest, JoinGroupResponse
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberResponse
from pg_kafka.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

PROTOCOL: Final = "sql"
"""What tools show as the group's assignor."""

_SINCE_LEAVING_TOGETHER: Final = 3
_SINCE_NULL_PROTOCOLS: Final = 7


class SqlGroup:
    """See the module."""

    kind: Final = "classic"
    state: Final = STABLE
    protocol_type: Final = CONSUMER_PROTOCOL_TYPE
    generation: Final = 0
    is_blank: Final = False
    members: Final[Mapping[str, Any]] = {}

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id

    @property
    def refusal(self) -> str:
        """For people."""
        return f"Group {self.group_id} is driven by SQL (kafka.poll). Use a group id of your own."

    # -- members -------------------------------------------------------------------------------------------------

    def join(
        self, request: JoinGroupRequest, token: Hashable, sender: Sender, new_member_id: str, steady_ms: int
    ) -> Step:
        return _answer(
            token,
            JoinGroupResponse(
                error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
                protocol_name=None if sender.version >= _SINCE_NULL_PROTOCOLS else "",
                member_id=request.member_id,
            ),
        )

    def consumer_heartbeat(
        self,
        request: ConsumerGroupHeartbeatRequest,
        token: Hashable,
        sender: Sender,
        new_member_id: str,
        steady_ms: int,
    ) -> Step:
        response = ConsumerGroupHeartbeatResponse(
            error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL, error_message=self.refusal
        )
        return _answer(token, response)

    def sync(self, request: SyncGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        return _answer(token, SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))

    def heartbeat(self, request: HeartbeatRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        return _answer(token, HeartbeatResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID))

    def leave(self, request: LeaveGroupRequest, token: Hashable, sender: Sender, steady_ms: int) -> Step:
        unknown = int(ErrorCode.UNKNOWN_MEMBER_ID)
        if sender.version < _SINCE_LEAVING_TOGETHER:
            return _answer(token, LeaveGroupResponse(error_code=unknown))
        members = [
            MemberResponse(member_id=each.member_id, group_instance_id=each.group_instance_id, error_code=unknown)
            for each in request.members
        ]
        return _answer(token, LeaveGroupResponse(members=members))

    def committed(self, member_id: str, steady_ms: int) -> Step:
        return Step()

    def restart(self, steady_ms: int) -> Step:
        return Step()

    def on_timer(self, name: object, steady_ms: int) -> Step:
        return Step()

    def drop(self) -> list[Hashable]:
        return []

    def apply(self, record: Record) -> None:
        """It has no records."""

    # -- offsets -------------------------------------------------------------------------------------------------

    def check_commit(
        self,
        member_id: str,
        group_instance_id: str | None,
        generation_or_epoch: int,
        version: int,
        is_transactional: bool = False,
    ) -> ErrorCode:
        return ErrorCode.UNKNOWN_MEMBER_ID if is_transactional else ErrorCode.NON_EMPTY_GROUP

    def check_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """Offsets are shown to everybody but those who believe that they are members."""
        is_outside = member_id is None and member_epoch < 0
        return ErrorCode.NONE if is_outside else ErrorCode.UNKNOWN_MEMBER_ID

    def check_offset_delete(self) -> ErrorCode:
        return ErrorCode.NONE

    def is_subscribed(self, topic_name: str) -> bool:
        """The group reads all that it has offsets of; kafka.seek() changes them."""
        return True

    def offset_expiry_base_ms(self, committed_at_ms: int) -> int | None:
        """The janitor expires such groups."""
        return None

    # -- administration ------------------------------------------------------------------------------------------

    def check_delete(self) -> ErrorCode:
        """The database says whether it is polled at the moment."""
        return ErrorCode.NONE

    def tombstones(self) -> list[Record]:
        return []

    def describe_classic(self) -> DescribedGroup:
        return DescribedGroup(
            group_id=self.group_id,
            group_state=self.state,
            protocol_type=self.protocol_type,
            protocol_data=PROTOCOL,
        )

    def describe_consumer(self) -> consumer_describe.DescribedGroup:
        """The answer to ConsumerGroupDescribe, on which tools ask by DescribeGroups."""
        return consumer_describe.DescribedGroup(
            error_code=ErrorCode.GROUP_ID_NOT_FOUND,
            error_message=f"Group {self.group_id} is not a consumer group: it is driven by SQL.",
            group_id=self.group_id,
        )


def _answer(token: Hashable, response: object) -> Step:
    return Step(replies=[(token, response)])
