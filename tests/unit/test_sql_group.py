"""A group that SQL drives answers every request of a member with an error, in the words of its version."""

from __future__ import annotations

import pytest

from pg_kafka.coordinator.group_steps import Sender, Step
from pg_kafka.coordinator.records import Record
from pg_kafka.coordinator.sql_group import SqlGroup
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from pg_kafka.wire.messages.heartbeat import HeartbeatRequest
from pg_kafka.wire.messages.join_group import JoinGroupRequest
from pg_kafka.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from pg_kafka.wire.messages.sync_group import SyncGroupRequest


def sender(version: int) -> Sender:
    return Sender("client", "/127.0.0.1", version)


def only(step: Step) -> object:
    """The answer, beside which nothing is to be done."""
    assert not (step.records or step.history or step.timers or step.becomes or step.is_dead)
    ((token, answer),) = step.replies
    assert token == "t"
    return answer


@pytest.mark.parametrize(("version", "protocol"), [(6, ""), (7, None)])
def test_nobody_joins(version: int, protocol: str | None) -> None:
    answer = only(SqlGroup("g").join(JoinGroupRequest(group_id="g", member_id="m"), "t", sender(version), "new", 0))
    assert (answer.error_code, answer.member_id, answer.protocol_name) == (23, "m", protocol)  # type: ignore[attr-defined]
    request = ConsumerGroupHeartbeatRequest(group_id="g", member_id="m", member_epoch=0)
    answer = only(SqlGroup("g").consumer_heartbeat(request, "t", sender(0), "new", 0))
    assert answer.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL  # type: ignore[attr-defined]
    assert answer.error_message == "Group g is driven by SQL (kafka.poll). Use a group id of your own."  # type: ignore[attr-defined]


def test_who_was_a_member_is_none() -> None:
    group = SqlGroup("g")
    for step in (
        group.sync(SyncGroupRequest(group_id="g", member_id="m"), "t", sender(5), 0),
        group.heartbeat(HeartbeatRequest(group_id="g", member_id="m"), "t", sender(4), 0),
        group.leave(LeaveGroupRequest(group_id="g", member_id="m"), "t", sender(2), 0),
    ):
        assert only(step).error_code == ErrorCode.UNKNOWN_MEMBER_ID  # type: ignore[attr-defined]
    members = [MemberIdentity(member_id="m"), MemberIdentity(member_id="n", group_instance_id="i")]
    left = only(group.leave(LeaveGroupRequest(group_id="g", members=members), "t", sender(3), 0))
    assert [(one.member_id, one.group_instance_id, one.error_code) for one in left.members] == [  # type: ignore[attr-defined]
        ("m", None, ErrorCode.UNKNOWN_MEMBER_ID),
        ("n", "i", ErrorCode.UNKNOWN_MEMBER_ID),
    ]


def test_offsets_are_shown_and_not_set() -> None:
    group = SqlGroup("g")
    assert group.check_commit("", None, -1, 9) == ErrorCode.NON_EMPTY_GROUP
    assert group.check_commit("m", None, 3, 9, True) == ErrorCode.UNKNOWN_MEMBER_ID
    assert group.check_fetch(None, -1) == ErrorCode.NONE
    assert group.check_fetch("m", 3) == ErrorCode.UNKNOWN_MEMBER_ID
    assert group.check_offset_delete() == ErrorCode.NONE
    assert group.is_subscribed("orders")
    assert group.offset_expiry_base_ms(0) is None


def test_it_is_described_as_a_group_in_use() -> None:
    group = SqlGroup("g")
    answer = group.describe_classic()
    assert (answer.group_state, answer.protocol_type, answer.protocol_data) == ("Stable", "consumer", "sql")
    assert not answer.members
    assert group.describe_consumer().error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_it_neither_waits_nor_writes() -> None:
    group = SqlGroup("g")
    group.apply(Record("classic", "", None))
    for step in (group.restart(0), group.on_timer(("session", "g"), 0), group.committed("m", 0)):
        assert step == Step()
    assert group.drop() == []
    assert group.tombstones() == []
    assert group.check_delete() == ErrorCode.NONE
