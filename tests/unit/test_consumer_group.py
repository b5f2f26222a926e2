"""Groups of the consumer protocol: who may say what, how epochs and assignments follow, and what survives a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pg_kafka.config.groups import GroupSettings
from pg_kafka.coordinator.consumer_group import ConsumerGroup
from pg_kafka.coordinator.group_steps import Sender
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

from .consumer_groups import ALL_ASSIGNORS, EAGER, Driver, Topics

JOIN: dict[str, Any] = {
    "group_id": "g",
    "member_id": "m",
    "member_epoch": 0,
    "rebalance_timeout_ms": 60_000,
    "subscribed_topic_names": ["a"],
    "topic_partitions": [],
}


@pytest.fixture
def driver() -> Iterator[Driver]:
    yield Driver(Topics(a=4, b=2))


def settled(driver: Driver, **topics: list[str]) -> None:
    """Members join, and reconcile until nothing changes."""
    for member_id, names in topics.items():
        driver.join(member_id, *names)
    for _ in range(2 * len(topics) + 1):
        for member_id in topics:
            driver.beat(member_id, driver.group.members[member_id].epoch, driver.has(member_id))
    assert driver.group.state == "Stable"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "version", "error", "message"),
    [
        ({"member_id": ""}, 1, "INVALID_REQUEST", "MemberId can't be empty."),
        ({"member_id": " "}, 1, "INVALID_REQUEST", "MemberId can't be empty."),
        ({"member_id": "", "member_epoch": 5}, 0, "INVALID_REQUEST", "MemberId can't be empty."),
        ({"member_id": "", "member_epoch": -1}, 0, "INVALID_REQUEST", "MemberId can't be empty."),
        ({"group_id": ""}, 1, "INVALID_REQUEST", "GroupId can't be empty."),
        ({"instance_id": ""}, 1, "INVALID_REQUEST", "InstanceId can't be empty."),
        ({"rack_id": " "}, 1, "INVALID_REQUEST", "RackId can't be empty."),
        ({"rebalance_timeout_ms": -1}, 1, "INVALID_REQUEST", "RebalanceTimeoutMs must be provided in first request."),
        ({"topic_partitions": None}, 1, "INVALID_REQUEST", "TopicPartitions must be empty when (re-)joining."),
        (
            {"subscribed_topic_names": None},
            1,
            "INVALID_REQUEST",
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ),
        ({"member_epoch": -2}, 1, "INVALID_REQUEST", "InstanceId can't be null."),
        ({"member_epoch": -3}, 1, "INVALID_REQUEST", "MemberEpoch is invalid."),
        (
            {"server_assignor": "alphabetical"},
            1,
            "UNSUPPORTED_ASSIGNOR",
            "ServerAssignor alphabetical is not supported. Supported assignors: uniform, range, roundrobin, sticky.",
        ),
        ({"member_epoch": 1}, 1, "GROUP_ID_NOT_FOUND", "Consumer group g not found."),
        ({"member_epoch": -1}, 1, "GROUP_ID_NOT_FOUND", "Group g not found."),
        (
            {"subscribed_topic_regex": "(a"},
            1,
            "INVALID_REGULAR_EXPRESSION",
            "SubscribedTopicRegex `(a` is not a valid regular expression: missing ): (a.",
        ),
    ],
)
def test_request_is_refused(change: dict[str, Any], version: int, error: str, message: str) -> None:
    group = ConsumerGroup("g", EAGER, Topics(a=1))
    request = ConsumerGroupHeartbeatRequest(**(JOIN | change))
    step = group.consumer_heartbeat(request, "token", Sender("c", "/h", version), "new", 0)
    ((_, answer),) = step.replies
    assert (answer.error_code, answer.error_message) == (ErrorCode[error], message)
    assert not (step.records or step.timers or step.history)
    assert group.is_blank


def test_version_0_gets_its_member_id_from_the_broker(driver: Driver) -> None:
    answer = driver.join("", "a", version=0)
    assert (answer.member_id, answer.member_epoch, answer.error_code) == ("made-1", 1, 0)


def test_unknown_member_is_refused(driver: Driver) -> None:
    driver.join("m1", "a")
    assert driver.beat("m2", 1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.beat("m2", -1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert driver.beat("m2", 1, instance_id="i").error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_full_group_takes_only_its_members(driver: Driver) -> None:
    driver.group.set_settings(replace(EAGER, group_consumer_max_size=1))
    driver.join("m1", "a")
    assert driver.join("m2", "a").error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert driver.join("m1", "a").error_code == ErrorCode.NONE


# -- epochs ------------------------------------------------------------------------------------------------------------


def test_first_member_gets_everything(driver: Driver) -> None:
    answer = driver.join("m1", "a", "b")
    assert (answer.member_id, answer.member_epoch, answer.heartbeat_interval_ms) == ("m1", 1, 5_000)
    assert driver.parts(answer) == {"a": [0, 1, 2, 3], "b": [0, 1]}
    assert driver.group.state == "Stable"
    assert driver.timers == {("session", "g", "m1"): driver.steady_ms + 45_000}


def test_who_waits_for_partitions_comes_again_sooner(driver: Driver) -> None:
    driver.join("m1", "a")
    waiting = driver.join("m2", "a")
    assert (driver.parts(waiting), waiting.heartbeat_interval_ms) == ({}, 1_000)
    assert driver.beat("m1", 1).heartbeat_interval_ms == 5_000


def test_assignment_is_sent_when_it_changed_or_all_is_said(driver: Driver) -> None:
    driver.join("m1", "a")
    assert driver.beat("m1", 1).assignment is None
    assert driver.beat("m1", 1, driver.has("m1")).assignment is None
    full = driver.beat("m1", 1, driver.has("m1"), topics=["a"], rebalance_timeout_ms=60_000)
    assert driver.parts(full) == {"a": [0, 1, 2, 3]}
    assert driver.parts(driver.join("m1", "a")) == {"a": [0, 1, 2, 3]}


def test_heartbeat_without_news_writes_nothing(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.beat("m1", 1, driver.has("m1"))
    assert driver.written == []


def test_partition_comes_when_its_owner_gave_it_up(driver: Driver) -> None:
    driver.join("m1", "a")
    joined = driver.join("m2", "a")
    assert (joined.member_epoch, driver.parts(joined), driver.group.state) == (2, {}, "Reconciling")
    asked = driver.beat("m1", 1)
    assert (asked.member_epoch, driver.parts(asked)) == (1, {"a": [0, 1]})
    assert driver.beat("m2", 2).assignment is None
    assert driver.beat("m1", 1, {"a": [0, 1, 2]}).member_epoch == 1
    assert driver.beat("m1", 1).member_epoch == 1, "who does not say what it owns has not given up anything"
    gave_up = driver.beat("m1", 1, {"a": [0, 1]})
    assert (gave_up.member_epoch, gave_up.assignment) == (2, None)
    assert driver.parts(driver.beat("m2", 2)) == {"a": [2, 3]}
    assert driver.group.state == "Stable"


def test_previous_epoch_is_taken_when_the_answer_may_have_been_lost(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    assert (driver.group.members["m1"].previous_epoch, driver.group.members["m1"].epoch) == (1, 2)
    assert driver.beat("m1", 1).error_code == ErrorCode.FENCED_MEMBER_EPOCH
    assert driver.beat("m1", 1, {"a": [0, 1, 2]}).error_code == ErrorCode.FENCED_MEMBER_EPOCH
    assert driver.beat("m1", 1, {"b": [0]}).error_code == ErrorCode.FENCED_MEMBER_EPOCH
    answer = driver.beat("m1", 1, {"a": [0]})
    assert (answer.error_code, answer.member_epoch) == (0, 2)


def test_other_epochs_are_fenced(driver: Driver) -> None:
    driver.join("m1", "a")
    answer = driver.beat("m1", 2)
    assert answer.error_code == ErrorCode.FENCED_MEMBER_EPOCH
    assert answer.error_message == (
        "The consumer group member has a greater member epoch (2) than the one known by the group coordinator (1)."
        " The member must abandon all its partitions and rejoin."
    )


def test_fenced_member_rejoins_with_what_it_had(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    answer = driver.join("m1", "a")
    assert (answer.member_epoch, driver.parts(answer)) == (2, {"a": [0, 1]})


def test_member_leaves_and_the_other_gets_its_partitions(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    answer = driver.beat("m2", -1)
    assert (answer.error_code, answer.member_id, answer.member_epoch, answer.heartbeat_interval_ms) == (0, "m2", -1, 0)
    assert (driver.group.state, driver.group.epoch) == ("Assigning", 3)
    assert driver.parts(driver.beat("m1", 2)) == {"a": [0, 1, 2, 3]}
    assert set(driver.timers) == {("session", "g", "m1")}


def test_last_member_leaves_an_empty_group_whose_epochs_go_on(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.beat("m1", -1)
    assert (driver.group.state, driver.group.epoch) == ("Empty", 2)
    assert set(driver.stored) == {("consumer", "")}
    assert driver.join("m2", "a").member_epoch == 3
    assert [entry.event for entry in driver.history] == ["member joined", "member left", "group empty", "member joined"]


def test_subscription_change_brings_an_epoch(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    driver.beat("m1", 2, driver.has("m1"), topics=["a", "b"])
    assert driver.history[-1].event == "subscription changed"
    answer = driver.beat("m1", 2, {"a": [0]})
    assert (answer.member_epoch, driver.parts(answer)) == (3, {"a": [0], "b": [0, 1]})


def test_topics_that_a_member_leaves_are_revoked_though_no_target_is_made() -> None:
    driver = Driver(Topics(a=4, b=2), GroupSettings(group_consumer_assignment_interval_ms=1_000))
    driver.join("m1", "a", "b")
    answer = driver.beat("m1", 1, driver.has("m1"), topics=["b"])
    assert (answer.member_epoch, driver.parts(answer)) == (1, {"b": [0, 1]})
    assert driver.group.members["m1"].state.value == "unrevoked_partitions"
    driver.pass_time(1_000)
    assert driver.beat("m1", 1, {"b": [0, 1]}).member_epoch == 2
    assert driver.group.state == "Stable"


def test_subscription_changes_while_partitions_are_given_up(driver: Driver) -> None:
    driver.join("m1", "a", "b")
    driver.join("m2", "a", "b")
    driver.beat("m1", 1)
    pending = driver.group.members["m1"].pending
    assert pending
    answer = driver.beat("m1", 1, {"a": [0, 1, 2, 3], "b": [0, 1]}, topics=["c"])
    assert (answer.member_epoch, driver.parts(answer)) == (1, {})
    assert sum(map(len, driver.group.members["m1"].pending.values())) == 6
    assert driver.beat("m1", 1, {}).member_epoch == 3
    driver.beat("m2", 2)
    assert driver.has("m2") == {"a": [0, 1, 2, 3], "b": [0, 1]}


def test_topics_that_the_client_has_left_already_are_not_waited_for(driver: Driver) -> None:
    driver = Driver(Topics(a=4, b=2), GroupSettings())
    driver.join("m1", "a", "b")
    answer = driver.beat("m1", 1, {"b": [0, 1]}, topics=["b"])
    assert (answer.member_epoch, driver.parts(answer)) == (1, {"b": [0, 1]})
    assert driver.group.members["m1"].state.value == "stable"


def test_subscriptions_that_nobody_has_any_more_are_forgotten(driver: Driver) -> None:
    driver.join("m1", "a")
    for number in range(50):
        driver.beat("m1", driver.group.members["m1"].epoch, topics=["a", f"none-{number}"])
    assert len(driver.group._topic_ids) < 25


def test_member_may_subscribe_to_nothing(driver: Driver) -> None:
    driver.join("m1", "a")
    answer = driver.join("m2")
    assert (answer.error_code, answer.member_epoch, driver.parts(answer)) == (0, 1, {})


def test_new_client_host_or_rack_changes_no_epoch(driver: Driver) -> None:
    driver.join("m1", "a")
    answer = driver.beat("m1", 1, rack_id="r2", client_id="other\0name")
    assert answer.member_epoch == 1
    assert [record.kind for record in driver.written] == ["member"]
    assert driver.group.members["m1"].client_id == "other\0name"


# -- targets -----------------------------------------------------------------------------------------------------------


def test_targets_are_made_no_more_often_than_the_interval() -> None:
    driver = Driver(Topics(a=4), GroupSettings(group_consumer_assignment_interval_ms=1_000))
    driver.join("m1", "a")
    late = driver.join("m2", "a")
    assert (late.member_epoch, driver.parts(late), driver.group.state) == (1, {}, "Assigning")
    driver.pass_time(999)
    assert driver.beat("m1", 1).assignment is None
    driver.pass_time(1)
    assert driver.parts(driver.beat("m1", 1)) == {"a": [0, 1]}
    assert (driver.group.epoch, driver.group.target_epoch) == (2, 2)


def test_only_changed_targets_are_written(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"], m3=["a"], m4=["a"])
    driver.join("m5", "a")
    assert [record.key for record in driver.written if record.kind == "target"] == []
    driver.beat("m5", -1)
    driver.join("m6", "b")
    assert [record.key for record in driver.written if record.kind == "target"] == ["m6"]


def test_assignor_that_most_ask_for_is_taken() -> None:
    driver = Driver(Topics(a=4, b=4), replace(EAGER, group_consumer_assignors=ALL_ASSIGNORS))
    driver.join("m1", "a", "b", server_assignor="range")
    driver.join("m2", "a", "b")
    assert driver.group.describe_consumer().assignor_name == "range"
    assert {tuple(ids) for target in driver.group.targets.values() for ids in target.values()} == {(0, 1), (2, 3)}
    driver.join("m3", "a", "b", server_assignor="uniform")
    assert driver.group.preferred_assignor() == "uniform", "at a tie the broker's order counts"
    driver.join("m4", "a", "b", server_assignor="roundrobin")
    driver.beat("m3", 3, server_assignor="roundrobin")
    assert driver.group.preferred_assignor() == "roundrobin"


# -- topics ------------------------------------------------------------------------------------------------------------


def test_new_partitions_are_assigned(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.topics.grow("a", 5)
    driver.catalogue_changed()
    assert (driver.group.state, driver.history[-1].event) == ("Assigning", "topics changed")
    assert driver.parts(driver.beat("m1", 1)) == {"a": [0, 1, 2, 3, 4]}


def test_topic_that_is_created_later_is_assigned(driver: Driver) -> None:
    assert driver.parts(driver.join("m1", "later")) == {}
    driver.topics.create("later", 2)
    driver.catalogue_changed()
    assert driver.parts(driver.beat("m1", 1)) == {"later": [0, 1]}


def test_other_topics_are_no_matter(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.topics.create("later", 2)
    driver.topics.delete("b")
    assert not driver.catalogue_changed().records


def test_deleted_topic_is_revoked(driver: Driver) -> None:
    driver.join("m1", "a", "b")
    driver.topics.delete("b")
    driver.catalogue_changed()
    answer = driver.beat("m1", 1, {"a": [0, 1, 2, 3]})
    assert (answer.member_epoch, driver.parts(answer)) == (2, {"a": [0, 1, 2, 3]})
    assert not driver.group.describe_consumer().members[0].assignment.topic_partitions[1:]


def test_recreated_topic_is_another(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.topics.delete("a")
    driver.topics.create("a", 2)
    driver.catalogue_changed()
    assert driver.beat("m1", 1).member_epoch == 1
    assert driver.parts(driver.beat("m1", 1, {})) == {"a": [0, 1]}


def test_topics_that_changed_while_the_broker_was_away_are_seen(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.topics.grow("a", 6)
    driver.restart()
    assert driver.parts(driver.beat("m1", 1)) == {"a": [0, 1, 2, 3, 4, 5]}


def test_regular_expression_follows_the_topics(driver: Driver) -> None:
    driver.topics.create("events-eu", 1)
    driver.catalogue_changed()
    answer = driver.join("m1", subscribed_topic_regex="events-.*")
    assert driver.parts(answer) == {"events-eu": [0]}
    assert driver.group.is_subscribed("events-eu")
    assert not driver.group.is_subscribed("a")
    driver.topics.create("events-us", 1)
    driver.catalogue_changed()
    assert driver.parts(driver.beat("m1", 1)) == {"events-eu": [0], "events-us": [0]}
    driver.topics.delete("events-eu")
    driver.catalogue_changed()
    assert driver.parts(driver.beat("m1", 2, {"events-us": [0]})) == {"events-us": [0]}
    assert driver.beat("m1", 3, subscribed_topic_regex="").member_epoch == 3
    assert not driver.group.is_subscribed("events-us")


def test_names_and_expression_together(driver: Driver) -> None:
    answer = driver.join("m1", "a", subscribed_topic_regex="b+")
    assert driver.parts(answer) == {"a": [0, 1, 2, 3], "b": [0, 1]}
    member = driver.group.describe_consumer().members[0]
    assert (list(member.subscribed_topic_names), member.subscribed_topic_regex) == (["a"], "b+")


def test_expression_leaves_out_what_its_member_may_not_describe(driver: Driver) -> None:
    """Each member by itself: who may describe a topic gets its partitions, another one with the same expression does not."""
    driver.topics.create("events-eu", 1)
    driver.topics.create("events-secret", 1)
    driver.catalogue_changed()
    driver.topics.hidden = {("User:alice", "/10.0.0.1", "events-secret")}
    answer = driver.join("m1", subscribed_topic_regex="events-.*", principal="User:alice")
    assert driver.parts(answer) == {"events-eu": [0]}
    answer = driver.join("m2", subscribed_topic_regex="events-.*", principal="User:bob")
    assert driver.parts(answer) == {"events-secret": [0]}
    driver.restart()
    driver.topics.create("events-us", 1)
    driver.topics.hidden |= {("User:alice", "/10.0.0.1", "events-us")}
    driver.catalogue_changed()
    assert driver.beat("m1", 1, {"events-eu": [0]}, principal="User:alice").error_code == 0
    assert "events-secret" not in driver.targets_of("m1")
    assert "events-us" not in driver.targets_of("m1")
    assert set(driver.targets_of("m2")) >= {"events-secret", "events-us"}


def test_permission_that_changes_changes_what_an_expression_matches(driver: Driver) -> None:
    driver.topics.create("events-eu", 1)
    driver.catalogue_changed()
    alice = {"subscribed_topic_regex": "events-.*", "principal": "User:alice"}
    assert driver.parts(driver.join("m1", **alice)) == {"events-eu": [0]}
    driver.topics.hidden = {("User:alice", "/10.0.0.1", "events-eu")}
    driver.topics.permissions += 1
    driver.catalogue_changed()
    assert driver.parts(driver.beat("m1", 1, {"events-eu": [0]}, principal="User:alice")) == {}


def test_expression_that_is_invalid_changes_nothing(driver: Driver) -> None:
    driver.join("m1", "a")
    answer = driver.beat("m1", 1, subscribed_topic_regex="[")
    assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert driver.written == []
    assert driver.group.members["m1"].regex == ""


# -- timers ------------------------------------------------------------------------------------------------------------


def test_silent_member_is_removed(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.pass_time(44_999)
    driver.beat("m1", 1)
    driver.pass_time(44_999)
    assert "m1" in driver.group.members
    driver.pass_time(1)
    assert driver.group.state == "Empty"
    assert [entry.event for entry in driver.history[-2:]] == ["session timed out", "group empty"]
    assert driver.beat("m1", 1).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_member_that_does_not_give_up_partitions_in_time_is_removed(driver: Driver) -> None:
    driver.join("m1", "a", rebalance_timeout_ms=10_000)
    driver.join("m2", "a")
    driver.beat("m1", 1)
    driver.pass_time(6_000)
    driver.beat("m1", 1)
    driver.pass_time(4_000)
    assert set(driver.group.members) == {"m2"}
    assert driver.history[-1].event == "member did not revoke"
    assert driver.parts(driver.beat("m2", 2)) == {"a": [0, 1, 2, 3]}


def test_member_that_gave_up_partitions_in_time_stays(driver: Driver) -> None:
    driver.join("m1", "a", rebalance_timeout_ms=10_000)
    driver.join("m2", "a")
    driver.beat("m1", 1)
    driver.pass_time(9_999)
    driver.beat("m1", 1, {"a": [0, 1]})
    assert ("rebalance", "g", "m1") not in driver.timers
    driver.pass_time(10_000)
    assert "m1" in driver.group.members


def test_group_settings_are_taken_over(driver: Driver) -> None:
    driver.join("m1", "a")
    changed = replace(EAGER, group_consumer_session_timeout_ms=50_000, group_consumer_heartbeat_interval_ms=7_000)
    driver.group.set_settings(changed)
    assert driver.beat("m1", 1).heartbeat_interval_ms == 7_000
    assert driver.timers["session", "g", "m1"] == driver.steady_ms + 50_000


def test_restart_is_unnoticed(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    driver.join("m3", "a")
    driver.beat("m1", 2, {"a": [0, 1]})
    before = driver.group.records_of_state()
    driver.pass_time(30_000)
    driver.restart()
    assert sorted(map(str, driver.group.records_of_state())) == sorted(map(str, before))
    assert driver.written == []
    sessions = {("session", "g", name): driver.steady_ms + 45_000 for name in ("m1", "m2", "m3")}
    assert driver.timers.items() >= sessions.items()
    assert driver.beat("m2", 2, {"a": [2, 3]}).error_code == 0
    assert driver.beat("m1", 1, {"a": [0, 1, 2]}).error_code == ErrorCode.FENCED_MEMBER_EPOCH


def test_restart_waits_anew_for_who_has_to_give_up_partitions(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.join("m2", "a")
    driver.beat("m1", 1)
    driver.pass_time(40_000)
    driver.restart()
    assert driver.timers["rebalance", "g", "m1"] == driver.steady_ms + 60_000


# -- static members ----------------------------------------------------------------------------------------------------


def test_static_member_comes_back_to_its_partitions(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.join("m2", "a")
    driver.beat("m1", 1, instance_id="i")
    driver.beat("m1", 1, {"a": [0, 1]}, instance_id="i")
    driver.beat("m2", 2)
    away = driver.beat("m1", -2, instance_id="i")
    assert (away.error_code, away.member_epoch) == (0, -2)
    epoch = driver.group.epoch
    back = driver.join("m3", "a", instance_id="i")
    assert (back.member_epoch, driver.parts(back), driver.group.epoch) == (2, {"a": [0, 1]}, epoch)
    assert set(driver.group.members) == {"m2", "m3"}
    assert ("session", "g", "m1") not in driver.timers
    assert [entry.event for entry in driver.history[-2:]] == ["static member away", "static member replaced"]
    assert driver.beat("m1", 2, instance_id="i").error_code == ErrorCode.FENCED_INSTANCE_ID
    assert driver.beat("m1", -1, instance_id="i").error_code == ErrorCode.FENCED_INSTANCE_ID


def test_static_member_that_stays_away_is_removed(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.beat("m1", -2, instance_id="i")
    driver.pass_time(45_000)
    assert driver.group.state == "Empty"


def test_instance_id_in_use_is_not_given_away(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    assert driver.join("m2", "a", instance_id="i").error_code == ErrorCode.UNRELEASED_INSTANCE_ID


def test_static_member_leaves_for_good(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    assert driver.beat("m1", -1, instance_id="i").error_code == 0
    assert driver.join("m2", "a", instance_id="i").error_code == 0


def test_static_member_comes_back_with_another_subscription(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.beat("m1", -2, instance_id="i")
    back = driver.join("m2", "b", instance_id="i")
    assert (back.member_epoch, driver.parts(back)) == (2, {"b": [0, 1]})


def test_partitions_of_a_static_member_that_is_away_are_given_to_nobody(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.beat("m1", -2, instance_id="i")
    assert driver.parts(driver.join("m2", "a")) == {}
    assert driver.group.state == "Reconciling"


def test_member_that_rejoins_under_an_instance_id_is_the_same_member(driver: Driver) -> None:
    driver.join("m1", "a")
    back = driver.join("m1", "a", instance_id="i")
    assert (back.member_epoch, driver.parts(back)) == (1, {"a": [0, 1, 2, 3]})
    assert driver.join("m1", "a", instance_id="j").error_code == 0
    assert driver.group.static == {"j": "m1"}


def test_static_member_that_returns_by_its_old_member_id_has_its_partitions(driver: Driver) -> None:
    driver.join("m1", "a", instance_id="i")
    driver.beat("m1", -2, instance_id="i")
    back = driver.join("m1", "a", instance_id="i")
    assert (back.member_epoch, driver.parts(back)) == (1, {"a": [0, 1, 2, 3]})


# -- offsets and administration ----------------------------------------------------------------------------------------


def test_commits_are_checked(driver: Driver) -> None:
    group = driver.group
    assert group.check_commit("", None, -1, 9) == ErrorCode.NONE
    settled(driver, m1=["a"], m2=["a"])
    assert group.check_commit("", None, -1, 9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert group.check_commit("m3", None, 2, 9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert group.check_commit("m1", None, 2, 9) == ErrorCode.NONE
    assert group.check_commit("m1", None, 2, 8) == ErrorCode.UNSUPPORTED_VERSION
    assert group.check_commit("m1", None, 3, 9) == ErrorCode.STALE_MEMBER_EPOCH
    assert group.check_commit("m1", None, 1, 9) == ErrorCode.STALE_MEMBER_EPOCH
    assert group.check_commit("", None, -1, 3, is_transactional=True) == ErrorCode.NONE
    assert group.check_commit("m1", None, 2, 3, is_transactional=True) == ErrorCode.NONE


def test_commit_of_an_older_epoch_counts_for_what_the_member_had_then(driver: Driver) -> None:
    settled(driver, m1=["a"], m2=["a"])
    topic = driver.topics.by_name["a"].uuid
    check = driver.group.check_commit
    assert check("m1", None, 1, 9, partitions=[(topic, 0), (topic, 1)]) == ErrorCode.NONE
    assert check("m1", None, 1, 9, partitions=[(topic, 0), (topic, 2)]) == ErrorCode.STALE_MEMBER_EPOCH
    assert check("m2", None, 1, 9, partitions=[(topic, 2)]) == ErrorCode.STALE_MEMBER_EPOCH


def test_commit_of_an_older_epoch_counts_for_what_is_being_given_up(driver: Driver) -> None:
    driver.join("m1", "a")
    driver.join("m2", "a")
    driver.beat("m1", 1)
    driver.beat("m1", 1, {"a": [0, 1, 2, 3]})
    topic = driver.topics.by_name["a"].uuid
    assert driver.group.check_commit("m1", None, 1, 9, partitions=[(topic, 3)]) == ErrorCode.NONE


def test_fetches_are_checked(driver: Driver) -> None:
    driver.join("m1", "a")
    check = driver.group.check_fetch
    assert check(None, -1) == ErrorCode.NONE
    assert check("m1", 1) == ErrorCode.NONE
    assert check("m1", 2) == ErrorCode.STALE_MEMBER_EPOCH
    assert check("m2", 1) == ErrorCode.UNKNOWN_MEMBER_ID


def test_group_with_members_is_not_deleted(driver: Driver) -> None:
    driver.join("m1", "a")
    assert driver.group.check_delete() == ErrorCode.NON_EMPTY_GROUP
    driver.beat("m1", -1)
    assert driver.group.check_delete() == ErrorCode.NONE
    for record in driver.group.tombstones():
        driver.group.apply(record)
        del driver.stored[record.kind, record.key]
    assert (driver.stored, driver.group.state) == ({}, "Dead")
    assert driver.group.check_delete() == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group.check_fetch(None, -1) == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group.check_offset_delete() == ErrorCode.GROUP_ID_NOT_FOUND
    assert driver.group.describe_consumer().error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_described_as_classic_it_does_not_exist(driver: Driver) -> None:
    driver.join("m1", "a")
    described = driver.group.describe_classic()
    assert (described.error_code, described.group_state) == (ErrorCode.GROUP_ID_NOT_FOUND, "Dead")
    assert described.error_message == "Group g is not a classic group."


def test_description_shows_what_members_have_and_will_have(driver: Driver) -> None:
    driver.join("m1", "a", rack_id="r", instance_id="i")
    driver.join("m2", "a")
    described = driver.group.describe_consumer()
    assert (described.group_state, described.group_epoch, described.assignment_epoch) == ("Reconciling", 2, 2)
    first = described.members[0]
    assert (first.member_id, first.member_epoch, first.instance_id, first.rack_id) == ("m1", 1, "i", "r")
    assert (first.client_id, first.client_host, first.member_type) == ("client", "/10.0.0.1", 1)
    assert [(each.topic_name, each.partitions) for each in first.assignment.topic_partitions] == [("a", [0, 1, 2, 3])]
    assert [(each.topic_name, each.partitions) for each in first.target_assignment.topic_partitions] == [("a", [0, 1])]


def test_commit_and_drop_have_nothing_to_do(driver: Driver) -> None:
    driver.join("m1", "a")
    assert not driver.group.committed("m1", 0).timers
    assert driver.group.drop() == []
    assert driver.group.check_offset_delete() == ErrorCode.NONE
    assert driver.group.offset_expiry_base_ms(17) == 17
    assert (driver.group.kind, driver.group.protocol_type) == ("consumer", "consumer")


def test_thousand_members_join_one_group() -> None:
    driver = Driver(Topics(a=1_000, b=1_000), GroupSettings())
    group = driver.group
    for number in range(1_000):
        request = ConsumerGroupHeartbeatRequest(
            **(JOIN | {"member_id": f"m{number}", "subscribed_topic_names": ["a", "b"]})
        )
        group.consumer_heartbeat(request, None, Sender("c", "/h", 1), "", driver.steady_ms + 10 * number)
    assert len(group.members) == 1_000
    for _ in range(6):
        driver.steady_ms += 20_000
        for number in range(1_000):
            member = group.members[f"m{number}"]
            owned = {driver.topics.by_uuid[topic].name: list(ids) for topic, ids in member.assigned.items()}
            request = ConsumerGroupHeartbeatRequest(
                group_id="g",
                member_id=member.member_id,
                member_epoch=member.epoch,
                topic_partitions=driver.owned(owned),
            )
            group.consumer_heartbeat(request, None, Sender("c", "/h", 1), "", driver.steady_ms)
    assert group.state == "Stable"
    assert {sum(len(ids) for ids in target.values()) for target in group.targets.values()} == {2}
