"""Classic members in a group of the consumer protocol, and groups that turn into one of the other kind and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pg_kafka.coordinator.classic_group import ClassicGroup
from pg_kafka.coordinator.classic_member import ClassicMember
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.consumer_protocol import (
    MalformedConsumerProtocol,
    read_assignment,
    read_subscription,
    version_of,
    write_assignment,
)
from pg_kafka.coordinator.records import Record
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.join_group import JoinGroupResponse
from pg_kafka.wire.messages.leave_group import MemberIdentity
from pg_kafka.wire.messages.sync_group import SyncGroupRequestAssignment, SyncGroupResponse

from .consumer_groups import EAGER, Driver, Topics, subscription


@pytest.fixture
def driver() -> Driver:
    return Driver(Topics(a=4, b=2))


def bytes_of(answer: SyncGroupResponse) -> dict[str, tuple[int, ...]]:
    assert answer.error_code == 0
    return dict(read_assignment(bytes(answer.assignment)).partitions)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(5))
def test_subscription_is_read(version: int) -> None:
    read = read_subscription(subscription(["b", "a", "b"], {"a": [1, 2]}, version, rack="r1"))
    assert (read.version, read.topics) == (min(version, 3), ("b", "a"))
    assert read.owned == ({"a": (1, 2)} if version else {})
    assert read.rack_id == ("r1" if version >= 3 else None)


def test_subscription_that_is_cut_off_is_malformed() -> None:
    whole = subscription(["topic"], {"topic": [1, 2]}, 3, rack="r1")
    for length in range(len(whole)):
        with pytest.raises(MalformedConsumerProtocol):
            read_subscription(whole[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff" + bytes(8),  # a version below 0
        b"\x00\x00\x7f\xff\xff\xff",  # more topics than bytes
        b"\x00\x00\x00\x00\x00\x01\xff\xff" + bytes(8),  # no name
    ],
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedConsumerProtocol):
        read_subscription(data)


def test_assignment_is_written_and_read() -> None:
    data = write_assignment(2, [("a", [0, 3]), ("b", [1])])
    assert version_of(data) == 2
    assert read_assignment(data).partitions == {"a": (0, 3), "b": (1,)}
    assert not read_assignment(data).has_user_data
    assert read_assignment(data[:-4] + b"\x00\x00\x00\x01x").has_user_data
    assert read_assignment(b"").partitions == {}
    assert version_of(b"") == 0


# -- classic members in a consumer group -------------------------------------------------------------------------------


def test_classic_member_joins_and_syncs(driver: Driver) -> None:
    driver.join("m1", "a")
    joined = driver.join_classic("c1", "a")
    assert joined == JoinGroupResponse(member_id="c1", generation_id=2, protocol_type="consumer", protocol_name="range")
    assert bytes_of(driver.sync_classic("c1", 2)) == {}
    assert driver.beat_classic("c1", 2) == 0, "it waits for what the other still has"
    driver.beat("m1", 1)
    driver.beat("m1", 1, {"a": [0, 1]})
    assert driver.beat_classic("c1", 2) == ErrorCode.REBALANCE_IN_PROGRESS
    again = driver.join_classic("c1", "a")
    assert again.generation_id == 2
    assert bytes_of(driver.sync_classic("c1", 2)) == {"a": (2, 3)}
    assert driver.group.state == "Stable"
    assert driver.group.describe_consumer().members[1].member_type == 0
    assert set(driver.timers) == {("session", "g", "m1"), ("session", "g", "c1")}


def test_classic_member_revokes_by_joining_again(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.beat("m1", 1, {})
    driver.beat("m1", -1)
    driver.join("m1", "a")
    driver.join_classic("c1", "a")
    driver.beat("m1", 3)
    driver.beat("m1", 3, {"a": [0, 1]})
    driver.join_classic("c1", "a")
    driver.sync_classic("c1", 4)
    driver.join("m2", "a")
    assert driver.beat_classic("c1", 4) == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.sync_classic("c1", 4).error_code == ErrorCode.REBALANCE_IN_PROGRESS
    asked = driver.join_classic("c1", "a", owned={"a": [2, 3]})
    if driver.group.members["c1"].state.value == "unrevoked_partitions":
        assert asked.generation_id == 4
        kept = bytes_of(driver.sync_classic("c1", 4))
        asked = driver.join_classic("c1", "a", owned=kept)
    assert asked.generation_id == 5


def test_classic_member_that_does_not_rejoin_is_removed(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.join_classic("c1", "a", session_timeout_ms=100_000)
    driver.sync_classic("c1", 2)
    driver.join("m2", "a")
    for _ in range(6):
        for member_id in ("m1", "m2"):
            member = driver.group.members[member_id]
            driver.beat(member_id, member.epoch, driver.has(member_id))
        driver.beat_classic("c1", 2)
        driver.pass_time(10_000)
    assert "c1" not in driver.group.members
    assert driver.history[-1].event == "member did not rejoin"


def test_classic_member_that_does_not_sync_is_removed(driver: Driver) -> None:
    driver.join("m1", "a", "b", rebalance_timeout_ms=100_000)
    driver.join_classic("c1", "b", session_timeout_ms=100_000)
    driver.pass_time(30_000)
    driver.beat("m1", 1, {"a": [0, 1, 2, 3]})
    driver.pass_time(30_000)
    assert "c1" not in driver.group.members
    assert driver.history[-1].event == "member did not sync"


def test_classic_member_has_its_own_session_timeout(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.join_classic("c1", "a", session_timeout_ms=7_000)
    driver.pass_time(7_000)
    assert set(driver.group.members) == {"m1"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"protocols": ()}, "INCONSISTENT_GROUP_PROTOCOL"),
        ({"protocols": ("other",)}, "INCONSISTENT_GROUP_PROTOCOL"),
        ({"session_timeout_ms": 1}, "INVALID_SESSION_TIMEOUT"),
        ({"metadata": b"\x00"}, "UNKNOWN_SERVER_ERROR"),
        ({"member_id": ""}, "MEMBER_ID_REQUIRED"),
        ({"instance_id": "i"}, "UNKNOWN_MEMBER_ID"),
        ({"instance_id": "s"}, "FENCED_INSTANCE_ID"),
        ({"protocols": tuple(map(str, range(101)))}, "INVALID_REQUEST"),
    ],
)
def test_join_is_refused(driver: Driver, fields: dict[str, object], error: str) -> None:
    driver.join("m1", "a", instance_id="s")
    driver.join_classic("c1", "a")
    before = driver.group.records_of_state()
    fields = {"member_id": "c2"} | fields
    answer = driver.join_classic(str(fields.pop("member_id")), "a", **fields)  # type: ignore[arg-type]
    assert answer.error_code == ErrorCode[error]
    assert answer.member_id == ("made-3" if error == "MEMBER_ID_REQUIRED" else "")
    assert driver.group.records_of_state() == before


def test_full_group_takes_no_classic_member(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.group.set_settings(replace(EAGER, group_consumer_max_size=1))
    assert driver.join_classic("c1", "a").error_code == ErrorCode.GROUP_MAX_SIZE_REACHED


def test_member_of_another_protocol_type_is_refused(driver: Driver) -> None:
    driver.join("m1", "a")
    assert not driver.group.supports_classic("connect", ["range"])


def test_member_named_twice_leaves_once(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.join("m2", "a")
    assert [each.error_code for each in driver.leave_classic("m1", "m1").members] == [0, 0]
    assert [entry.event for entry in driver.history].count("member left") == 1


def test_old_client_joins_without_a_member_id(driver: Driver) -> None:
    driver.join("m1", "a")
    assert driver.join_classic("", "a", version=3).member_id == "made-2"
    assert "made-2" in driver.group.members


def test_migration_may_be_disabled(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.group.set_settings(replace(EAGER, group_consumer_migration_policy="disabled"))
    assert driver.join_classic("c1", "a").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_classic_requests_of_others_are_refused(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.join_classic("c1", "a")
    assert driver.sync_classic("m1", 1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.beat_classic("m1", 1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.beat_classic("c2", 2) == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.beat_classic("c1", 2, instance_id="i") == ErrorCode.FENCED_INSTANCE_ID
    assert driver.beat_classic("c1", 1) == ErrorCode.ILLEGAL_GENERATION
    assert driver.sync_classic("c1", 1).error_code == ErrorCode.ILLEGAL_GENERATION
    assert driver.sync_classic("c1", 2, protocol_name="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert driver.sync_classic("c1", 2, protocol_type="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert driver.sync_classic("c1", 2, protocol_name=None).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert driver.group.check_commit("c1", None, 1, 8) == ErrorCode.ILLEGAL_GENERATION
    assert driver.group.check_commit("c1", None, 2, 8) == ErrorCode.NONE
    assert driver.group.check_fetch("c1", 1) == ErrorCode.ILLEGAL_GENERATION


def test_members_of_both_protocols_are_removed_by_leave_group(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.join("m2", "a")
    driver.join("m3", "a")
    driver.join_classic("c1", "a")
    answer = driver.leave_classic(
        "c1",
        MemberIdentity(member_id="", group_instance_id="i"),
        "nobody",
        MemberIdentity(member_id="m2", group_instance_id="none"),
    )
    assert [each.error_code for each in answer.members] == [
        0,
        0,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
    ]
    assert set(driver.group.members) == {"m2", "m3"}
    assert driver.leave_classic("nobody", version=2).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.leave_classic("m2", version=2).error_code == ErrorCode.NONE
    assert set(driver.group.members) == {"m3"}


# -- a classic group is upgraded ---------------------------------------------------------------------------------------


def classic_of(driver: Driver, assigned: dict[str, dict[str, list[int]]]) -> ClassicGroup:
    """A stable classic group with these members and assignments, as if loaded."""
    members = [
        ClassicMember(
            member_id,
            None,
            "classic-client",
            "/10.0.0.2",
            10_000,
            60_000,
            (("range", subscription(sorted(parts) or ["a"], parts)),),
            write_assignment(1, parts.items()),
        )
        for member_id, parts in assigned.items()
    ]
    group, record = ClassicGroup.of_members(
        "g", driver.settings, members, generation=7, protocol="range", leader=members[0].member_id, steady_ms=0
    )
    driver.stored = {(record.kind, record.key): record.value or {}}
    driver.group = group
    driver.take(group.restart(driver.steady_ms))
    return group


def test_upgrade_keeps_members_generation_and_assignments(driver: Driver) -> None:
    classic_of(driver, {"c1": {"a": [0, 1]}, "c2": {"a": [2, 3]}})
    joined = driver.join("m1", "a")
    assert isinstance(driver.group, ConsumerGroup)
    assert (joined.error_code, joined.member_epoch, driver.parts(joined)) == (0, 8, {})
    assert driver.has("c1") == {"a": [0, 1]}
    assert {kind for kind, _ in driver.stored} == {"consumer", "member", "target", "current"}
    assert [entry.event for entry in driver.history] == ["upgraded to consumer protocol", "member joined"]
    assert driver.beat_classic("c1", 7) == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.group.check_commit("c1", None, 7, 8) == ErrorCode.NONE
    assert set(driver.timers) >= {("session", "g", name) for name in ("c1", "c2", "m1")}


def test_upgrade_reaches_a_stable_group(driver: Driver) -> None:
    classic_of(driver, {"c1": {"a": [0, 1]}, "c2": {"a": [2, 3]}})
    driver.join("m1", "a")
    for _ in range(3):
        for member_id in ("c1", "c2"):
            generation = driver.join_classic(member_id, "a", owned=driver.has(member_id)).generation_id
            driver.sync_classic(member_id, generation)
        driver.beat("m1", driver.group.members["m1"].epoch, driver.has("m1"))
    assert driver.group.state == "Stable"
    assert sorted(len(driver.has(name)["a"]) for name in ("c1", "c2", "m1")) == [1, 1, 2]


def test_upgrade_while_members_wait_for_a_rebalance(driver: Driver) -> None:
    group = classic_of(driver, {"c1": {"a": [0, 1]}, "c2": {"a": [2, 3]}})
    driver.take(group.rebalance("test", driver.steady_ms))
    assert driver.join_classic("c1", "a") is None
    before = dict(driver.answers)
    driver.join("m1", "a")
    (waiting,) = [
        answer for token, answer in driver.answers.items() if token not in before and hasattr(answer, "leader")
    ]
    assert waiting.error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert set(driver.group.members) == {"c1", "c2", "m1"}


def test_upgrade_gives_a_partition_that_a_leader_gave_twice_to_one(driver: Driver) -> None:
    classic_of(driver, {"c1": {"a": [0, 1, 9]}, "c2": {"a": [1, 2, 3], "gone": [0]}})
    driver.join("m1", "a")
    assert (driver.has("c1"), driver.has("c2")) == ({"a": [0, 1]}, {"a": [2, 3]})


@pytest.mark.parametrize("epoch", [1, -1])
def test_only_a_join_upgrades(driver: Driver, epoch: int) -> None:
    group = classic_of(driver, {"c1": {"a": [0, 1]}})
    answer = driver.beat("m1", epoch)
    assert (answer.error_code, answer.error_message) == (
        ErrorCode.GROUP_ID_NOT_FOUND,
        "Group g is not a consumer group.",
    )
    assert driver.group is group


@pytest.mark.parametrize("change", [{"group_consumer_migration_policy": "downgrade"}, {"group_consumer_max_size": 1}])
def test_upgrade_is_refused_by_settings(driver: Driver, change: dict[str, object]) -> None:
    driver.settings = replace(EAGER, **change)  # type: ignore[arg-type]
    group = classic_of(driver, {"c1": {"a": [0, 1]}, "c2": {}})
    assert driver.join("m1", "a").error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group is group
    assert driver.stored
    assert driver.written == []


def test_groups_of_other_protocol_types_are_not_upgraded(driver: Driver) -> None:
    group = classic_of(driver, {"c1": {"a": [0, 1]}})
    group.protocol_type = "connect"
    assert driver.join("m1", "a").error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group is group


def test_refused_join_upgrades_nothing(driver: Driver) -> None:
    group = classic_of(driver, {"c1": {"a": [0, 1]}})
    assert driver.join("m1", subscribed_topic_regex="(").error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert driver.join("m1", "a", server_assignor="none").error_code == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert driver.group is group
    assert group.state == "Stable"


@pytest.mark.parametrize("assignment", [b"\x00", write_assignment(1, [])[:-4] + b"\x00\x00\x00\x01x"])
def test_custom_assignments_are_not_upgraded(driver: Driver, assignment: bytes) -> None:
    group = classic_of(driver, {"c1": {"a": [0, 1]}})
    group.members["c1"] = replace(group.members["c1"], assignment=assignment)
    assert driver.join("m1", "a").error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group is group


def test_empty_classic_group_is_replaced(driver: Driver) -> None:
    classic_of(driver, {"c1": {"a": [0, 1]}})
    driver.leave_classic("c1")
    assert driver.group.state == "Empty"
    assert driver.join("m1", "a").member_epoch == 1
    assert isinstance(driver.group, ConsumerGroup)
    assert ("classic", "") not in driver.stored


# -- a consumer group is downgraded ------------------------------------------------------------------------------------


def mixed(driver: Driver, **fields: object) -> None:
    """m1 of the consumer protocol has a 0 and 1, c1 of the classic one 2 and 3; epoch 2."""
    driver.join("m1", "a", **fields)
    driver.join_classic("c1", "a")
    identity = {"instance_id": fields["instance_id"]} if fields else {}
    driver.beat("m1", 1, **identity)
    driver.beat("m1", 1, {"a": [0, 1]}, **identity)
    driver.join_classic("c1", "a")
    driver.sync_classic("c1", 2)
    assert driver.group.state == "Stable"


def test_last_consumer_member_leaves_a_classic_group(driver: Driver) -> None:
    mixed(driver)
    driver.beat("m1", -1)
    group = driver.group
    assert isinstance(group, ClassicGroup)
    assert (group.state, group.generation, group.leader, set(group.members)) == ("PreparingRebalance", 2, "c1", {"c1"})
    assert set(driver.stored) == {("classic", "")}
    assert driver.beat_classic("c1", 2) == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.history[-1].event == "downgraded to classic protocol"
    joined = driver.join_classic("c1", "a")
    assert (joined.generation_id, joined.leader) == (3, "c1")
    assert ("session", "g", "m1") not in driver.timers
    assert ("session", "g", "c1") in driver.timers


def test_classic_members_go_on_with_what_they_had_when_the_broker_restarts_after_a_downgrade(driver: Driver) -> None:
    mixed(driver)
    driver.beat("m1", -1)
    group = ClassicGroup("g", EAGER)
    for (kind, key), value in driver.stored.items():
        group.apply(Record(kind, key, value))
    driver.group = group
    driver.take(group.restart(driver.steady_ms))
    assert driver.beat_classic("c1", 2) == 0
    assert bytes_of(driver.sync_classic("c1", 2)) == {"a": (2, 3)}


def test_session_timeout_downgrades_too(driver: Driver) -> None:
    mixed(driver)
    for _ in range(9):
        driver.beat_classic("c1", 2)
        driver.pass_time(5_000)
    assert isinstance(driver.group, ClassicGroup)


def test_no_downgrade_when_the_policy_forbids_it(driver: Driver) -> None:
    mixed(driver)
    driver.group.set_settings(replace(EAGER, group_consumer_migration_policy="upgrade"))
    driver.beat("m1", -1)
    assert isinstance(driver.group, ConsumerGroup)
    assert set(driver.group.members) == {"c1"}


def test_static_member_that_comes_back_as_a_classic_one_downgrades(driver: Driver) -> None:
    mixed(driver, instance_id="i")
    joined = driver.join_classic("", "a", instance_id="i")
    group = driver.group
    assert isinstance(group, ClassicGroup)
    assert (joined.error_code, joined.generation_id, group.state) == (0, 2, "Stable")
    assert set(group.members) == {"c1", joined.member_id}
    assert bytes_of(driver.sync_classic(joined.member_id, 2)) == {"a": (0, 1)}
    assert driver.beat_classic("c1", 2) == 0


def test_static_member_that_comes_back_with_another_subscription_rebalances(driver: Driver) -> None:
    mixed(driver, instance_id="i")
    driver.join_classic("", "b", instance_id="i")
    assert driver.group.state == "PreparingRebalance"


def test_static_classic_member_takes_the_place_of_one_of_the_consumer_protocol(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.join("m2", "a")
    joined = driver.join_classic("", "a", instance_id="i")
    assert (joined.error_code, joined.generation_id) == (0, 2)
    assert set(driver.group.members) == {"m2", joined.member_id}
    back = driver.join("m3", "a", instance_id="i")
    assert (back.error_code, driver.group.classic_members) == (0, 0)
    assert set(driver.group.members) == {"m2", "m3"}


def test_empty_consumer_group_becomes_classic_when_a_classic_member_joins(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.beat("m1", -1)
    assert driver.join_classic("", "a").error_code == ErrorCode.MEMBER_ID_REQUIRED
    assert isinstance(driver.group, ClassicGroup)
    assert driver.stored == {}


def test_join_that_a_classic_group_refuses_leaves_the_empty_group(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.beat("m1", -1)
    assert driver.join_classic("c1", "a", session_timeout_ms=1).error_code == ErrorCode.INVALID_SESSION_TIMEOUT
    assert isinstance(driver.group, ConsumerGroup)


def test_there_and_back_again(driver: Driver) -> None:
    classic_of(driver, {"c1": {"a": [0, 1, 2, 3]}})
    driver.join("m1", "a")
    assert isinstance(driver.group, ConsumerGroup)
    driver.beat("m1", -1)
    assert isinstance(driver.group, ClassicGroup)
    assert driver.group.generation == 8
    first = driver.join_classic("c1", "a", owned={"a": [0, 1, 2, 3]})
    driver.sync_classic(
        "c1",
        first.generation_id,
        assignments=[SyncGroupRequestAssignment(member_id="c1", assignment=write_assignment(1, [("a", [0, 1, 2, 3])]))],
    )
    assert driver.group.state == "Stable"
    assert driver.join("m2", "a").member_epoch == 10
