"""Classic groups, by the rules of Apache Kafka's group coordinator."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.classic_driver import REBALANCE_MS, SESSION_MS, SETTINGS, Driver, assignment, subscription

from pg_kafka.coordinator import classic_group
from pg_kafka.coordinator.classic_group import TRANSITIONS, ClassicGroup
from pg_kafka.coordinator.classic_state import COMPLETING, DEAD, EMPTY, PREPARING, STABLE
from pg_kafka.coordinator.records import Record
from pg_kafka.wire.error_codes import ErrorCode

RANGE = ("range", subscription("t"))
STICKY = ("sticky", subscription("t"))
COOPERATIVE = ("cooperative-sticky", subscription("t"))


@pytest.fixture
def driver() -> Driver:
    return Driver()


def events(driver: Driver) -> list[str]:
    return [entry.event for entry in driver.history]


def settled(driver: Driver) -> None:
    """The join phase ends, and the leader and all others sync."""
    while driver.group.state == PREPARING:
        driver.advance(1_000)
    leader = driver.group.leader
    assert leader is not None
    for member_id in [leader, *(each for each in driver.group.members if each != leader)]:
        driver.send_sync(member_id, protocol_name=driver.group.protocol)


# -- joining -----------------------------------------------------------------------------------------------------------


def test_new_group_is_empty_and_blank(driver: Driver) -> None:
    assert (driver.group.state, driver.group.generation, driver.group.is_blank) == (EMPTY, 0, True)
    assert driver.group.records_of_state() == driver.group.tombstones() == []


def test_dynamic_member_is_given_an_id_before_it_joins(driver: Driver) -> None:
    reply = driver.join(client_id="app")
    assert (reply.error_code, reply.member_id) == (ErrorCode.MEMBER_ID_REQUIRED, "app-1")
    assert driver.group.state == EMPTY
    assert not driver.group.is_blank
    assert driver.join(reply.member_id) is None
    assert driver.group.state == PREPARING


@pytest.mark.parametrize(("version", "instance_id"), [(3, None), (0, None), (9, "i")])
def test_old_versions_and_static_members_join_at_once(driver: Driver, version: int, instance_id: str | None) -> None:
    assert driver.join(version=version, instance_id=instance_id) is None
    assert list(driver.group.members)


def test_id_that_nobody_joins_with_expires(driver: Driver) -> None:
    member_id = driver.join().member_id
    driver.advance(SESSION_MS)
    assert driver.group.is_blank
    assert driver.join(member_id).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_pending_members_are_bounded_and_the_oldest_is_forgotten(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classic_group, "MAX_PENDING", 2)
    first, second, third = (driver.join().member_id for _ in range(3))
    assert driver.join(first).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.join(second) is None
    assert driver.join(third) is None
    assert ("session", "g", first) not in driver.timers


def test_unknown_member_id_is_refused(driver: Driver) -> None:
    driver.stable()
    reply = driver.join("nobody")
    assert reply.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert (reply.protocol_name, reply.protocol_type) == (None, None)
    assert driver.join("nobody", version=6).protocol_name == ""


@pytest.mark.parametrize("session_ms", [5_999, 1_800_001, 0, -1])
def test_session_timeout_outside_the_bounds(driver: Driver, session_ms: int) -> None:
    reply = driver.join("m", session_ms=session_ms)
    assert (reply.error_code, reply.member_id) == (ErrorCode.INVALID_SESSION_TIMEOUT, "m")


@pytest.mark.parametrize("how", [{"protocols": ()}, {"protocol_type": ""}])
def test_first_member_needs_a_protocol(driver: Driver, how: dict[str, Any]) -> None:
    assert driver.join(**how).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


@pytest.mark.parametrize("how", [{"protocols": [STICKY]}, {"protocol_type": "connect"}])
def test_member_without_a_common_protocol_is_refused(driver: Driver, how: dict[str, Any]) -> None:
    ids = driver.stable()
    assert driver.join(**how).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert driver.join(ids[1], **how).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert driver.group.state == STABLE


def test_too_many_protocols_are_refused(driver: Driver) -> None:
    many = [(str(number), b"") for number in range(101)]
    assert driver.join(protocols=many).error_code == ErrorCode.INVALID_REQUEST


def test_nul_in_a_name_is_kept(driver: Driver) -> None:
    (member_id,) = driver.stable(1, client_id="a\0b")
    (member,) = driver.group.describe_classic().members
    assert (member.member_id, member.client_id) == (member_id, "a\0b")


def test_protocol_with_most_votes_among_the_common_ones(driver: Driver) -> None:
    driver.new_member(protocols=[RANGE, STICKY, COOPERATIVE])
    driver.new_member(protocols=[STICKY, RANGE])
    driver.new_member(protocols=[COOPERATIVE, STICKY, RANGE])
    driver.advance(6_000)
    assert driver.group.protocol == "sticky"


def test_protocol_that_one_does_not_have_is_not_selected(driver: Driver) -> None:
    for protocols in ([STICKY, RANGE], [STICKY, RANGE], [RANGE]):
        driver.new_member(protocols=protocols)
    driver.advance(6_000)
    assert driver.group.protocol == "range"


def test_protocol_named_twice_counts_once(driver: Driver) -> None:
    driver.new_member(protocols=[RANGE, RANGE])
    driver.new_member(protocols=[RANGE])
    driver.advance(6_000)
    assert (driver.group.state, driver.group.protocol) == (COMPLETING, "range")


def test_leader_gets_all_members_and_followers_none(driver: Driver) -> None:
    first, token1 = driver.new_member(protocols=[("range", b"1")])
    second, token2 = driver.new_member(protocols=[("range", b"2")])
    driver.advance(6_000)
    leader, follower = driver.replies[token1], driver.replies[token2]
    assert leader.leader == follower.leader == first
    assert [(each.member_id, each.metadata) for each in leader.members] == [(first, b"1"), (second, b"2")]
    assert follower.members == []
    for reply in (leader, follower):
        assert (reply.generation_id, reply.protocol_type, reply.protocol_name) == (1, "consumer", "range")
        assert not reply.skip_assignment


def test_old_versions_have_one_timeout(driver: Driver) -> None:
    driver.send_join(version=0, session_ms=7_000, rebalance_ms=-1)
    (member,) = driver.group.members.values()
    assert member.rebalance_timeout_ms == 7_000


# -- the initial delay -------------------------------------------------------------------------------------------------


def test_initial_rebalance_waits_for_the_delay(driver: Driver) -> None:
    _, token = driver.new_member()
    driver.advance(2_999)
    assert token in driver.open
    driver.advance(1)
    assert driver.replies[token].generation_id == 1


def test_each_newcomer_extends_the_initial_delay(driver: Driver) -> None:
    tokens = []
    for _ in range(4):
        tokens.append(driver.new_member()[1])
        driver.advance(2_500)
    # Deadlines at 3, 6 and 9 s were each moved on by who came before them, at 2.5, 5 and 7.5 s.
    assert set(tokens) <= driver.open
    driver.advance(2_000)
    assert not driver.open


def test_initial_delay_ends_with_the_rebalance_timeout(driver: Driver) -> None:
    for _ in range(20):
        driver.new_member(rebalance_ms=7_000)
        driver.advance(1_000)
        if driver.group.state == COMPLETING:
            break
    assert driver.steady_ms - 1_700_000_000_000 == 7_000


def test_no_initial_delay() -> None:
    driver = Driver(replace(SETTINGS, group_initial_rebalance_delay_ms=0))
    _, token = driver.new_member()
    assert token in driver.open
    driver.advance(0)
    assert driver.replies[token].error_code == ErrorCode.NONE


def test_no_delay_for_a_group_that_has_members(driver: Driver) -> None:
    ids = driver.stable(1)
    _, token = driver.new_member()
    driver.send_join(ids[0])
    assert driver.replies[token].generation_id == 2


def test_all_who_came_at_first_leave_again(driver: Driver) -> None:
    member_id, token = driver.new_member()
    assert driver.leave(member_id).members[0].error_code == ErrorCode.NONE
    assert driver.replies[token].error_code == ErrorCode.UNKNOWN_MEMBER_ID
    driver.advance(3_000)
    assert (driver.group.state, driver.group.generation) == (EMPTY, 1)


# -- the join phase ----------------------------------------------------------------------------------------------------


def test_who_does_not_rejoin_is_removed_after_the_longest_rebalance_timeout(driver: Driver) -> None:
    slow = driver.new_member(rebalance_ms=20_000)[0]
    quick = driver.new_member(rebalance_ms=5_000)[0]
    settled(driver)
    _, token = driver.new_member(rebalance_ms=6_000)
    for _ in range(4):
        assert driver.heartbeat(slow) == ErrorCode.REBALANCE_IN_PROGRESS
        driver.send_join(quick, rebalance_ms=5_000)
        driver.advance(4_999)
        assert token in driver.open
    driver.advance(4)
    assert driver.replies[token].leader == quick
    assert slow not in driver.group.members
    assert "member did not rejoin" in events(driver)
    assert driver.heartbeat(slow) == ErrorCode.UNKNOWN_MEMBER_ID


def test_pending_member_holds_up_the_join_phase_until_it_joins_or_expires(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.join()
    token = driver.send_join(first)
    assert token in driver.open
    driver.advance(SESSION_MS)
    assert driver.replies[token].generation_id == 2


def test_pending_member_that_leaves_lets_the_join_phase_end(driver: Driver) -> None:
    (first,) = driver.stable(1)
    pending = driver.join().member_id
    token = driver.send_join(first)
    assert driver.leave(pending).members[0].error_code == ErrorCode.NONE
    assert driver.replies[token].error_code == ErrorCode.NONE


def test_new_member_whose_join_waits_too_long_is_removed(driver: Driver) -> None:
    (first,) = driver.stable(1, rebalance_ms=400_000)
    _, token = driver.new_member(rebalance_ms=400_000)
    while token in driver.open:
        driver.heartbeat(first)
        driver.advance(5_000)
    assert driver.replies[token].error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.replies[token].member_id == ""
    assert list(driver.group.members) == [first]


def test_existing_member_that_waits_does_not_expire(driver: Driver) -> None:
    first, second = driver.stable(2)
    token = driver.send_join(first)
    for _ in range(10):
        driver.advance(5_000)
        driver.heartbeat(second)
    assert token in driver.open
    driver.send_join(second)
    assert driver.replies[token].error_code == ErrorCode.NONE
    assert ("session", "g", first) in driver.timers


def test_join_repeated_while_it_waits_answers_the_first_one(driver: Driver) -> None:
    first, _ = driver.stable(2)
    earlier = driver.send_join(first)
    later = driver.send_join(first)
    assert driver.replies[earlier].error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert later in driver.open


def test_leader_that_does_not_rejoin_is_replaced(driver: Driver) -> None:
    first, second = driver.stable(2)
    token = driver.send_join(second, protocols=[("range", subscription("t", "u"))])
    driver.advance(REBALANCE_MS)
    reply = driver.replies[token]
    assert (reply.leader, [each.member_id for each in reply.members]) == (second, [second])
    assert first not in driver.group.members


# -- rejoining ---------------------------------------------------------------------------------------------------------


def test_leader_that_rejoins_a_stable_group_makes_it_rebalance(driver: Driver) -> None:
    first, second = driver.stable(2)
    assert driver.join(first, reason="partitions were added") is None
    assert driver.heartbeat(second) == ErrorCode.REBALANCE_IN_PROGRESS
    assert (driver.history[-1].event, driver.history[-1].detail) == ("leader rejoined", "partitions were added")


def test_follower_that_rejoins_unchanged_gets_the_current_generation(driver: Driver) -> None:
    first, second = driver.stable(2)
    reply = driver.join(second)
    assert (reply.error_code, reply.generation_id, reply.leader, reply.members) == (0, 1, first, [])
    assert driver.group.state == STABLE


def test_follower_with_other_metadata_makes_the_group_rebalance(driver: Driver) -> None:
    _, second = driver.stable(2)
    assert driver.join(second, protocols=[("range", subscription("u"))]) is None
    assert driver.group.state == PREPARING
    assert driver.history[-1].event == "subscription changed"


def test_members_that_rejoin_unchanged_before_the_assignment_get_it_again(driver: Driver) -> None:
    first, second = driver.completing(2)
    reply = driver.join(first)
    assert [each.member_id for each in reply.members] == [first, second]
    assert driver.join(second).members == []
    assert driver.group.state == COMPLETING


def test_changed_metadata_before_the_assignment_makes_all_rejoin(driver: Driver) -> None:
    first, second = driver.completing(2)
    waiting = driver.send_sync(second)
    assert driver.join(first, protocols=[("range", b"")]) is None
    assert driver.replies[waiting].error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.group.state == PREPARING


# -- sync --------------------------------------------------------------------------------------------------------------


def test_assignments_reach_all_who_sync_before_and_after_the_leader(driver: Driver) -> None:
    first, second, third = driver.completing(3)
    early = driver.send_sync(second)
    assert early in driver.open
    given = {first: b"1", second: b"2", third: b"3", "somebody": b"4"}
    reply = driver.sync(first, assignments=given)
    assert (reply.assignment, reply.protocol_type, reply.protocol_name) == (b"1", "consumer", "range")
    assert driver.replies[early].assignment == b"2"
    assert driver.sync(third).assignment == b"3"
    assert driver.group.state == STABLE
    assert ("sync", "g") not in driver.timers


def test_member_that_the_leader_left_out_gets_nothing(driver: Driver) -> None:
    first, second = driver.completing(2)
    driver.sync(first, assignments={first: b"1"})
    reply = driver.sync(second)
    assert (reply.error_code, reply.assignment) == (ErrorCode.NONE, b"")


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation": 0}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 2}, ErrorCode.ILLEGAL_GENERATION),
        ({"protocol_type": "connect"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_name": "sticky"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_name": None}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": None}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": None, "protocol_name": None, "version": 4}, ErrorCode.NONE),
        ({"instance_id": "i"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_sync_is_checked(driver: Driver, how: dict[str, Any], error: ErrorCode) -> None:
    ids = driver.stable(2)
    assert driver.sync(**{"member_id": ids[1], **how}).error_code == error


def test_sync_while_members_join(driver: Driver) -> None:
    first, second = driver.stable(2)
    driver.send_join(first)
    assert driver.sync(second).error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_sync_to_an_empty_group(driver: Driver) -> None:
    assert driver.sync("m").error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_sync_repeated_while_it_waits_answers_the_first_one(driver: Driver) -> None:
    _, second = driver.completing(2)
    earlier = driver.send_sync(second)
    driver.send_sync(second)
    assert driver.replies[earlier].error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_members_that_do_not_sync_in_time_are_removed(driver: Driver) -> None:
    first, second, third = driver.completing(3)
    driver.sync(first, assignments={})
    driver.sync(second)
    for _ in range(REBALANCE_MS // 5_000):
        for member_id in (first, second, third):
            driver.heartbeat(member_id)
        driver.advance(5_000)
    assert list(driver.group.members) == [first, second]
    assert driver.group.state == PREPARING
    assert "member did not sync" in events(driver)


def test_leader_that_does_not_sync_is_removed(driver: Driver) -> None:
    first, second = driver.completing(2)
    waiting = driver.send_sync(second)
    for _ in range(REBALANCE_MS // 5_000):
        driver.heartbeat(first)
        driver.advance(5_000)
    assert driver.replies[waiting].error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.group.leader == second


def test_nobody_syncs_and_the_group_becomes_empty(driver: Driver) -> None:
    driver.completing(2, session_ms=300_000)
    driver.advance(REBALANCE_MS)
    assert (driver.group.state, driver.group.generation) == (EMPTY, 2)


# -- heartbeat ---------------------------------------------------------------------------------------------------------


def test_heartbeat_in_each_state(driver: Driver) -> None:
    assert driver.heartbeat("m") == ErrorCode.UNKNOWN_MEMBER_ID
    first, second = driver.completing(2)
    assert driver.heartbeat(second) == ErrorCode.NONE
    driver.sync(first)
    driver.sync(second)
    assert driver.heartbeat(second) == ErrorCode.NONE
    assert driver.heartbeat(second, 0) == ErrorCode.ILLEGAL_GENERATION
    assert driver.heartbeat("m") == ErrorCode.UNKNOWN_MEMBER_ID
    driver.send_join(first)
    assert driver.heartbeat(second) == ErrorCode.REBALANCE_IN_PROGRESS
    driver.group.apply(Record("classic", "", None))
    assert driver.heartbeat(second) == ErrorCode.COORDINATOR_NOT_AVAILABLE


def test_heartbeats_keep_a_member_and_silence_removes_it(driver: Driver) -> None:
    first, second = driver.stable(2)
    for _ in range(10):
        driver.advance(SESSION_MS - 1)
        assert driver.heartbeat(first) == driver.heartbeat(second) == ErrorCode.NONE
    driver.advance(SESSION_MS - 1)
    driver.heartbeat(first)
    driver.advance(1)
    assert list(driver.group.members) == [first]
    assert driver.heartbeat(second) == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.heartbeat(first) == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.history[-1].event == "session timed out"


def test_heartbeat_writes_nothing(driver: Driver) -> None:
    ids = driver.stable(2)
    writes = driver.writes
    driver.heartbeat(ids[0])
    assert driver.writes == writes


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_member_that_leaves_makes_the_rest_rebalance(driver: Driver) -> None:
    first, second = driver.stable(2)
    reply = driver.leave(second, reason="shutting down")
    assert [(each.member_id, each.error_code) for each in reply.members] == [(second, ErrorCode.NONE)]
    assert driver.heartbeat(first) == ErrorCode.REBALANCE_IN_PROGRESS
    assert (driver.history[-1].event, driver.history[-1].detail) == ("member left", "shutting down")


def test_last_member_leaves_an_empty_group_with_a_new_generation(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.leave(first)
    assert (driver.group.state, driver.group.generation, driver.group.leader) == (EMPTY, 2, None)
    assert driver.stored[0].value is not None
    assert (driver.stored[0].value["members"], driver.stored[0].value["generation"]) == ([], 2)


def test_generation_grows_on_through_an_empty_group(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.leave(first)
    driver.restart()
    driver.stable(1)
    assert driver.group.generation == 3


def test_leave_before_version_3_answers_for_its_one_member(driver: Driver) -> None:
    first, _ = driver.stable(2)
    assert driver.leave("nobody", version=2).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    reply = driver.leave(first, version=2)
    assert (reply.error_code, reply.members) == (ErrorCode.NONE, ())


def test_each_leaving_member_gets_its_own_answer(driver: Driver) -> None:
    first, second = driver.static_group(2)
    reply = driver.leave("nobody", ("", "i0"), ("wrong", "i1"), (second, "i1"), ("", "i9"), ("", None))
    assert reply.error_code == ErrorCode.NONE
    assert [each.error_code for each in reply.members] == [
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.NONE,
        ErrorCode.FENCED_INSTANCE_ID,
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.UNKNOWN_MEMBER_ID,
    ]
    assert driver.group.state == EMPTY
    assert first not in driver.group.members


def test_leave_that_removes_nobody_changes_nothing(driver: Driver) -> None:
    driver.stable(2)
    driver.leave("nobody")
    assert driver.group.state == STABLE


def test_leave_that_ends_the_join_phase(driver: Driver) -> None:
    first, second = driver.stable(2)
    token = driver.send_join(first)
    driver.leave(second)
    assert driver.replies[token].error_code == ErrorCode.NONE


def test_member_that_leaves_while_it_waits_is_answered(driver: Driver) -> None:
    first, second = driver.completing(2)
    syncing = driver.send_sync(second)
    driver.leave(second)
    assert driver.replies[syncing].error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.group.leader == first


def test_leader_that_leaves_is_replaced(driver: Driver) -> None:
    first, second = driver.stable(2)
    driver.leave(first)
    assert driver.group.leader == second


# -- static members ----------------------------------------------------------------------------------------------------


def test_static_member_restarts_without_a_rebalance(driver: Driver) -> None:
    first, second = driver.static_group(2)
    reply = driver.join(instance_id="i1")
    assert (reply.error_code, reply.generation_id, reply.leader, reply.members) == (0, 1, first, [])
    assert (reply.skip_assignment, driver.group.state) == (False, STABLE)
    assert reply.member_id != second
    assert driver.sync(reply.member_id, instance_id="i1").assignment == assignment(t=[1])
    assert driver.reloaded().members == driver.group.members
    assert driver.history[-1].event == "static member replaced"
    assert ("session", "g", second) not in driver.timers


def test_static_leader_restarts_without_assigning_anew(driver: Driver) -> None:
    _first, second = driver.static_group(2)
    reply = driver.join(instance_id="i0")
    assert (reply.skip_assignment, reply.leader) == (True, reply.member_id)
    assert sorted(each.member_id for each in reply.members) == sorted([reply.member_id, second])
    assert driver.group.leader == reply.member_id


def test_static_leader_before_version_9_is_kept_from_assigning(driver: Driver) -> None:
    first, _ = driver.static_group(2)
    reply = driver.join(instance_id="i0", version=8)
    assert (reply.skip_assignment, reply.leader, reply.members) == (False, first, [])
    assert driver.group.leader == reply.member_id != first


def test_former_self_of_a_static_member_is_fenced(driver: Driver) -> None:
    _, second = driver.static_group(2)
    driver.join(instance_id="i1")
    group = driver.group
    assert driver.heartbeat(second, instance_id="i1") == ErrorCode.FENCED_INSTANCE_ID
    assert driver.sync(second, instance_id="i1").error_code == ErrorCode.FENCED_INSTANCE_ID
    assert driver.join(second, instance_id="i1").error_code == ErrorCode.FENCED_INSTANCE_ID
    assert driver.leave((second, "i1")).members[0].error_code == ErrorCode.FENCED_INSTANCE_ID
    assert group.check_commit(second, "i1", 1, 9) == ErrorCode.FENCED_INSTANCE_ID
    assert driver.heartbeat(second) == ErrorCode.UNKNOWN_MEMBER_ID


def test_static_member_with_other_topics_does_not_rebalance_but_with_another_protocol_it_does(driver: Driver) -> None:
    driver.static_group(2, protocols=[RANGE, STICKY])
    reply = driver.join(instance_id="i1", protocols=[("range", subscription("u")), STICKY])
    assert (reply.error_code, driver.group.state) == (ErrorCode.NONE, STABLE)
    assert driver.group.subscribed_topics == {"t", "u"}
    assert driver.join(instance_id="i1", protocols=[STICKY]) is None
    assert driver.group.state == PREPARING


def test_static_member_that_restarts_while_its_former_self_joins(driver: Driver) -> None:
    first, second = driver.static_group(2)
    former = driver.send_join(first, instance_id="i0")
    assert driver.group.state == PREPARING
    driver.send_join(instance_id="i0")
    assert driver.replies[former].error_code == ErrorCode.FENCED_INSTANCE_ID
    driver.send_join(second, instance_id="i1")
    assert driver.group.state == COMPLETING


def test_static_member_that_restarts_before_the_assignment_makes_all_rejoin(driver: Driver) -> None:
    tokens = [driver.send_join(instance_id=f"i{number}") for number in range(2)]
    driver.advance(6_000)
    _first, second = (driver.replies[token].member_id for token in tokens)
    former = driver.send_sync(second, instance_id="i1")
    assert driver.join(instance_id="i1") is None
    assert driver.replies[former].error_code == ErrorCode.FENCED_INSTANCE_ID
    assert driver.group.state == PREPARING


def test_static_member_that_restarts_before_it_has_synced_still_has_to(driver: Driver) -> None:
    tokens = [driver.send_join(instance_id=f"i{number}") for number in range(2)]
    driver.advance(6_000)
    first = driver.replies[tokens[0]].member_id
    driver.sync(first, instance_id="i0")
    restarted = driver.join(instance_id="i1").member_id
    for _ in range(REBALANCE_MS // 5_000):
        driver.heartbeat(first)
        driver.heartbeat(restarted)
        driver.advance(5_000)
    assert list(driver.group.members) == [first]


def test_static_member_keeps_its_place_until_its_session_ends(driver: Driver) -> None:
    first, second = driver.static_group(2, session_ms=100_000)
    token = driver.send_join(first, instance_id="i0", session_ms=100_000)
    driver.advance(REBALANCE_MS)
    reply = driver.replies[token]
    assert sorted(each.member_id for each in reply.members) == sorted([first, second])


def test_join_phase_goes_on_while_only_static_members_are_left_and_away(driver: Driver) -> None:
    _first, second = driver.static_group(2, session_ms=100_000)
    third, _ = driver.new_member()
    driver.leave(third)
    driver.advance(REBALANCE_MS + 1_000)
    assert driver.group.state == PREPARING
    driver.send_join(second, instance_id="i1", session_ms=100_000)
    driver.advance(REBALANCE_MS)
    assert (driver.group.state, driver.group.leader) == (COMPLETING, second)


# -- size --------------------------------------------------------------------------------------------------------------


def test_group_is_full() -> None:
    driver = Driver(replace(SETTINGS, group_max_size=2))
    _first, second = driver.stable(2)
    reply = driver.join()
    assert (reply.error_code, reply.member_id) == (ErrorCode.GROUP_MAX_SIZE_REACHED, "")
    assert driver.join(second).error_code == ErrorCode.NONE


def test_new_group_is_full_while_it_joins() -> None:
    driver = Driver(replace(SETTINGS, group_max_size=2))
    ids = [driver.join().member_id for _ in range(3)]
    assert driver.join(ids[0]) is None
    assert driver.join(ids[1]) is None
    assert driver.join(ids[2]).error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    driver.advance(6_000)
    assert list(driver.group.members) == ids[:2]


def test_limit_that_was_lowered_holds_after_a_restart(driver: Driver) -> None:
    first, second, third = driver.stable(3)
    driver.settings = replace(SETTINGS, group_max_size=2)
    driver.restart()
    assert driver.group.state == PREPARING
    tokens = [driver.send_join(member_id) for member_id in (third, second, first)]
    assert driver.replies[tokens[2]].error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert list(driver.group.members) == [second, third]
    assert driver.group.state == COMPLETING


# -- restart -----------------------------------------------------------------------------------------------------------


def test_stable_group_goes_on_after_a_restart(driver: Driver) -> None:
    first, second = driver.stable(2)
    driver.advance(SESSION_MS - 1)
    driver.restart()
    driver.advance(SESSION_MS - 1)
    assert driver.heartbeat(first) == driver.heartbeat(second) == ErrorCode.NONE
    assert driver.group.check_commit(second, None, 1, 9) == ErrorCode.NONE
    assert driver.group.check_commit(second, None, 0, 9) == ErrorCode.ILLEGAL_GENERATION
    assert driver.sync(second).assignment == assignment(t=[1])


def test_group_restarted_before_the_assignment_completes_with_its_members(driver: Driver) -> None:
    first, second = driver.completing(2)
    driver.restart()
    assert driver.group.state == COMPLETING
    assert driver.heartbeat(second) == ErrorCode.NONE
    assert driver.group.check_commit(second, None, 1, 9) == ErrorCode.REBALANCE_IN_PROGRESS
    assert driver.group.check_commit(second, None, 0, 9) == ErrorCode.ILLEGAL_GENERATION
    # Those who lost the answer to their JoinGroup ask again.
    assert [each.member_id for each in driver.join(first).members] == [first, second]
    waiting = driver.send_sync(second)
    driver.sync(first, assignments={second: b"2"})
    assert driver.replies[waiting].assignment == b"2"


def test_group_restarted_before_the_assignment_rebalances_without_those_who_are_gone(driver: Driver) -> None:
    _, second = driver.completing(2, session_ms=300_000)
    driver.restart()
    waiting = driver.send_sync(second)
    driver.advance(REBALANCE_MS)
    assert driver.replies[waiting].error_code == ErrorCode.REBALANCE_IN_PROGRESS
    token = driver.send_join(second, session_ms=300_000)
    assert (driver.replies[token].leader, driver.replies[token].generation_id) == (second, 2)


def test_group_restarted_while_members_join_goes_on_in_its_generation(driver: Driver) -> None:
    first, second = driver.stable(2)
    driver.send_join(first)
    driver.restart()
    assert driver.group.state == STABLE
    assert driver.heartbeat(second) == ErrorCode.NONE
    assert driver.join(first) is None
    driver.send_join(second)
    assert driver.group.generation == 2


def test_members_are_loaded_with_all_their_protocols(driver: Driver) -> None:
    driver.stable(2, protocols=[RANGE, STICKY])
    reloaded = driver.reloaded()
    assert reloaded.members == driver.group.members
    assert vars(reloaded)["_supporters"] == {"range": 2, "sticky": 2}
    assert reloaded.describe_classic() == driver.group.describe_classic()
    assert [record.value for record in reloaded.records_of_state()] == [driver.stored[0].value]


def test_waiting_requests_are_given_back_when_the_machine_is_dropped(driver: Driver) -> None:
    _first, second = driver.completing(2)
    sync = driver.send_sync(second)
    assert driver.group.drop() == [sync]
    assert driver.group.drop() == []


def test_dismissed_members_are_answered_and_timers_end(driver: Driver) -> None:
    first, second = driver.stable(2)
    token = driver.send_join(first)
    driver.join()
    driver.perform(driver.group.dismiss(ErrorCode.REBALANCE_IN_PROGRESS))
    reply = driver.replies[token]
    assert (reply.error_code, reply.member_id) == (ErrorCode.REBALANCE_IN_PROGRESS, first)
    assert not driver.timers
    other = Driver()
    _, second = other.completing(2)
    token = other.send_sync(second)
    other.perform(other.group.dismiss(ErrorCode.REBALANCE_IN_PROGRESS))
    assert other.replies[token].error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_group_made_of_members_is_stable_and_can_be_made_to_rebalance(driver: Driver) -> None:
    first, second = driver.stable(2)
    group, record = ClassicGroup.of_members(
        "g",
        SETTINGS,
        driver.group.members.values(),
        generation=7,
        protocol="range",
        leader=first,
        steady_ms=driver.steady_ms,
    )
    assert group.records_of_state() == [record]
    driver.group = group
    driver.perform(group.restart(driver.steady_ms))
    assert driver.heartbeat(second, 7) == ErrorCode.NONE
    driver.perform(group.rebalance("group downgraded", driver.steady_ms))
    assert driver.heartbeat(second, 7) == ErrorCode.REBALANCE_IN_PROGRESS


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_stored_value_reads_well_in_sql(driver: Driver) -> None:
    first, second = driver.stable(2)
    value = driver.stored[0].value
    assert value is not None
    assert {key: each for key, each in value.items() if key != "members"} == {
        "state": "Stable",
        "state_at_ms": driver.steady_ms,
        "generation": 1,
        "protocol_type": "consumer",
        "protocol": "range",
        "leader": first,
    }
    assert value["members"][1] == {
        "member_id": second,
        "group_instance_id": None,
        "client_id": "c",
        "client_host": "/10.0.0.1",
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "protocols": [["range", base64.b64encode(subscription("t")).decode()]],
        "assignment": base64.b64encode(assignment(t=[1])).decode(),
        "topics": ["t"],
        "assigned": {"t": [1]},
    }


def test_bytes_that_the_broker_does_not_know_are_kept_and_passed_on(driver: Driver) -> None:
    (first,) = driver.completing(1, protocols=[("range", b"\xff\x00")])
    assert driver.sync(first, assignments={first: b"\xfe"}).assignment == b"\xfe"
    value = driver.stored[0].value
    assert value is not None
    assert (value["members"][0]["topics"], value["members"][0]["assigned"]) == (None, None)
    assert driver.group.is_subscribed("anything")


def test_nothing_is_written_for_ids_and_waiting_members(driver: Driver) -> None:
    driver.new_member()
    assert driver.writes == 0
    driver.advance(3_000)
    assert driver.writes == 1


def test_generation_is_written_with_its_members_and_without_assignments(driver: Driver) -> None:
    first, second = driver.stable(2)
    driver.send_join(first)
    driver.send_join(second)
    value = driver.stored[0].value
    assert value is not None
    assert (value["state"], value["generation"]) == (COMPLETING, 2)
    assert [member["assignment"] for member in value["members"]] == ["", ""]


# -- offsets -----------------------------------------------------------------------------------------------------------


def test_commits_to_an_empty_group(driver: Driver) -> None:
    check = driver.group.check_commit
    assert check("", None, -1, 9) == ErrorCode.NONE
    assert check("", None, -1, 9, True) == ErrorCode.NONE
    assert check("m", None, 1, 9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert check("m", None, -1, 9) == ErrorCode.NONE


def test_commits_of_members(driver: Driver) -> None:
    first, second = driver.completing(2)
    check = driver.group.check_commit
    assert check(second, None, 1, 9) == ErrorCode.REBALANCE_IN_PROGRESS
    assert check(second, None, 1, 9, True) == ErrorCode.NONE
    driver.sync(first)
    assert check(second, None, 1, 9) == ErrorCode.NONE
    assert check(second, None, 2, 9) == check(second, None, -1, 9) == ErrorCode.ILLEGAL_GENERATION
    assert check("nobody", None, 1, 9) == check(second, "i", 1, 9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert check("", None, -1, 9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert check("", None, -1, 9, True) == ErrorCode.NONE
    driver.send_join(first)
    assert check(second, None, 1, 9) == ErrorCode.NONE
    driver.group.apply(Record("classic", "", None))
    assert check(second, None, 1, 9) == ErrorCode.COORDINATOR_NOT_AVAILABLE


def test_commit_is_a_sign_of_life(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.advance(SESSION_MS - 1)
    driver.perform(driver.group.committed(first, driver.steady_ms))
    driver.perform(driver.group.committed("nobody", driver.steady_ms))
    driver.advance(SESSION_MS - 1)
    assert driver.heartbeat(first) == ErrorCode.NONE


def test_subscriptions(driver: Driver) -> None:
    assert not driver.group.is_subscribed("t")
    assert driver.group.check_offset_delete() == ErrorCode.NONE
    (first,) = driver.stable(1, protocols=[("range", subscription("t", "u"))])
    assert driver.group.is_subscribed("u")
    assert not driver.group.is_subscribed("v")
    assert driver.group.check_offset_delete() == ErrorCode.NONE
    driver.leave(first)
    assert not driver.group.is_subscribed("u")


def test_groups_of_other_kinds_than_consumers_do_not_say_what_they_read(driver: Driver) -> None:
    driver.new_member(protocol_type="connect", protocols=[("default", b"\x00\x01")])
    settled_token = driver.advance(3_000)
    assert settled_token is None
    assert driver.group.is_subscribed("t")
    assert driver.group.check_offset_delete() == ErrorCode.NON_EMPTY_GROUP
    assert driver.group.offset_expiry_base_ms(5) is None


def test_from_when_offsets_expire(driver: Driver) -> None:
    base = driver.group.offset_expiry_base_ms
    assert base(5) == 5
    first, _ = driver.completing(2)
    assert base(5) is None
    driver.sync(first)
    assert base(5) == 5
    for member_id in list(driver.group.members):
        driver.leave(member_id)
    assert driver.group.state == EMPTY
    assert base(5) == driver.steady_ms


# -- administration ----------------------------------------------------------------------------------------------------


def test_only_an_empty_group_can_be_deleted(driver: Driver) -> None:
    (first,) = driver.stable(1)
    assert driver.group.check_delete() == ErrorCode.NON_EMPTY_GROUP
    driver.leave(first)
    assert driver.group.check_delete() == ErrorCode.NONE
    assert driver.group.tombstones() == [Record("classic", "", None)]


def test_dead_group_answers_everybody(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.leave(first)
    for record in driver.group.tombstones():
        driver.group.apply(record)
    assert driver.group.state == DEAD
    assert driver.join().error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert driver.join(first).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert driver.sync(first).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert driver.leave(first).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert driver.group.check_delete() == driver.group.check_fetch(None, -1) == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group.check_offset_delete() == ErrorCode.GROUP_ID_NOT_FOUND
    assert not driver.group.is_subscribed("t")
    assert driver.group.records_of_state() == []


def test_described_group_shows_metadata_when_it_is_stable(driver: Driver) -> None:
    first, _ = driver.completing(2)
    described = driver.group.describe_classic()
    assert (described.group_state, described.protocol_data) == (COMPLETING, "")
    assert described.members[0].member_metadata == b""
    driver.sync(first, assignments={first: b"1"})
    described = driver.group.describe_classic()
    assert (described.group_state, described.protocol_type, described.protocol_data) == (STABLE, "consumer", "range")
    member = described.members[0]
    assert (member.member_id, member.client_id, member.client_host) == (first, "c", "/10.0.0.1")
    assert (member.member_metadata, member.member_assignment) == (subscription("t"), b"1")
    assert driver.group.check_fetch(None, -1) == ErrorCode.NONE


def test_classic_group_is_no_consumer_group(driver: Driver) -> None:
    assert driver.group.describe_consumer().error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_reasons_are_cut(driver: Driver) -> None:
    (first,) = driver.stable(1)
    driver.leave(first, reason="\0" * 1000)
    left = next(entry for entry in driver.history if entry.event == "member left")
    assert left.detail == "\0" * 255
    assert (left.member_id, left.client_id, left.client_host) == (first, "c", "/10.0.0.1")


def test_every_transition_leads_from_and_to_a_state() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == {
        EMPTY,
        PREPARING,
        COMPLETING,
        STABLE,
        DEAD,
    }


# -- a thousand members ------------------------------------------------------------------------------------------------


def test_heartbeat_and_join_touch_one_member_of_a_thousand(driver: Driver) -> None:
    ids = driver.stable(1_000, rebalance_ms=300_000)
    timers: list[int] = []
    perform = driver.perform

    def counted(step: Any) -> Any:
        timers.append(len(step.timers) + len(step.replies) + len(step.records))
        return perform(step)

    driver.perform = counted  # type: ignore[method-assign]
    driver.heartbeat(ids[500])
    driver.send_join(ids[0])  # the rebalance begins
    for member_id in ids[1:-1]:
        driver.send_join(member_id)
    assert max(timers) <= 5
    driver.send_join(ids[-1])
    assert driver.group.state == COMPLETING
