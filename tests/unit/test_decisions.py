"""What has been decided is kept for those who ask again, and by nobody for longer than it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.authorizer import LONGEST_NAME, AclAuthorizer
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.doors import Doors, House
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.security.acls import Acl, PatternType, Permission
from pg_kafka.wire.error_codes import ErrorCode

TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
READ, WRITE = Operation.READ, Operation.WRITE
ALICE, BOB = "User:alice", "User:bob"
TOPIC_ID = UUID(int=7)


def may(
    principal: str, operation: Operation, name: str, resource: ResourceType = TOPIC, *, denied: bool = False
) -> Acl:
    permission = Permission.DENY if denied else Permission.ALLOW
    return Acl(resource, name, PatternType.LITERAL, principal, "*", operation, permission)


def connection(principal: str = ALICE, host: str = "10.0.0.1") -> ConnectionInfo:
    return ConnectionInfo(1, (host, 999), ("", 0), principal=principal)


class Placement:
    has_everything = True
    is_controller = True

    def __init__(self) -> None:
        self.is_elsewhere = False

    def leads(self, *_: object) -> bool:
        return not self.is_elsewhere

    coordinates_group = coordinates_transactional_id = leads


class World:
    """A house with one topic, and what is allowed in it."""

    def __init__(self, *acls: Acl, kept: int = 1000, placement: Placement | None = None) -> None:
        self.book = AclBook()
        self.authorizer = AclAuthorizer(self.book, (), allow_if_no_acl=False, kept=kept)
        self.book.show(acls)
        topic = SimpleNamespace(id=1, name="t", partitions=1)
        self.house = House(
            topics=cast(Any, SimpleNamespace(by_name={"t": topic}, by_uuid={TOPIC_ID: topic})),
            log=cast(Any, None),
            groups=cast(Any, SimpleNamespace(refusal=ErrorCode.NONE)),
            transactions=cast(Any, None),
            on_change=lambda: None,
            authorizer=self.authorizer,
            placement=placement,
        )
        self.asked = 0
        decide = self.authorizer._decide

        def counted(*question: Any) -> bool:
            self.asked += 1
            return decide(*question)

        self.authorizer._decide = counted  # type: ignore[method-assign]

    def answer(self, doors: Doors, operation: Operation, key: str | UUID = "t") -> int:
        try:
            doors.topics.with_partition(operation, key, 0)
        except Refused as refused:
            return refused.code
        return 0

    def group_answer(self, doors: Doors, operation: Operation = READ, group: str = "g") -> int:
        try:
            doors.groups.enter(operation, group)
        except Refused as refused:
            return refused.code
        return 0


@pytest.mark.parametrize("key", ["t", TOPIC_ID])
def test_a_partition_that_is_asked_for_again_is_decided_by_the_rules_of_that_moment(key: str | UUID) -> None:
    world = World(may(ALICE, WRITE, "t"))
    doors = Doors(world.house, connection())
    for _ in range(3):
        assert world.answer(doors, WRITE, key) == 0
    assert world.asked == 1
    world.book.show([])
    assert world.answer(doors, WRITE, key) == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    world.book.show([may(ALICE, WRITE, "t")])
    assert [world.answer(doors, WRITE, key) for _ in range(2)] == [0, 0]
    world.book.show([may(ALICE, WRITE, "t"), may("User:*", WRITE, "t", denied=True)])
    assert world.answer(doors, WRITE, key) == ErrorCode.TOPIC_AUTHORIZATION_FAILED


def test_a_group_that_is_asked_for_again_is_decided_by_the_rules_of_that_moment() -> None:
    world = World(may(ALICE, READ, "g", GROUP))
    doors = Doors(world.house, connection())
    for _ in range(3):
        assert world.group_answer(doors) == 0
    assert world.asked == 1
    world.book.show([])
    assert world.group_answer(doors) == ErrorCode.GROUP_AUTHORIZATION_FAILED


def test_what_is_decided_for_one_operation_says_nothing_about_another() -> None:
    world = World(may(ALICE, READ, "t"), may(ALICE, READ, "g", GROUP))
    doors = Doors(world.house, connection())
    for _ in range(2):
        assert world.answer(doors, READ) == 0
        assert world.answer(doors, WRITE) == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        assert world.group_answer(doors) == 0
        assert world.group_answer(doors, Operation.DELETE) == ErrorCode.GROUP_AUTHORIZATION_FAILED
        assert world.group_answer(doors, group="t") == ErrorCode.GROUP_AUTHORIZATION_FAILED


def test_whoever_says_that_he_is_somebody_else_is_asked_about_anew() -> None:
    world = World(may(ALICE, WRITE, "t"), may(ALICE, READ, "g", GROUP))
    who = connection()
    doors = Doors(world.house, who)
    assert (world.answer(doors, WRITE), world.group_answer(doors)) == (0, 0)
    who.principal = BOB
    assert world.answer(doors, WRITE) == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert world.group_answer(doors) == ErrorCode.GROUP_AUTHORIZATION_FAILED


def test_connections_of_one_user_from_one_host_share_what_is_decided_and_lose_it_together() -> None:
    world = World(may(ALICE, WRITE, "t"))
    some = [Doors(world.house, connection()) for _ in range(3)]
    elsewhere = Doors(world.house, connection(host="10.0.0.2"))
    assert [world.answer(doors, WRITE) for doors in some] == [0, 0, 0]
    assert world.asked == 1
    assert world.answer(elsewhere, WRITE) == 0
    assert world.asked == 2
    world.book.show([Acl(TOPIC, "t", PatternType.LITERAL, ALICE, "10.0.0.2", WRITE, Permission.ALLOW)])
    assert {world.answer(doors, WRITE) for doors in some} == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}
    assert world.answer(elsewhere, WRITE) == 0


def test_decisions_that_were_forgotten_for_want_of_room_are_made_anew() -> None:
    world = World(may(ALICE, WRITE, "t"), kept=10)
    doors, other = Doors(world.house, connection()), Doors(world.house, connection(BOB))
    for number in range(50):
        assert world.answer(doors, WRITE) == 0
        assert world.answer(other, WRITE, f"t-{number}") == ErrorCode.TOPIC_AUTHORIZATION_FAILED
        sheets = world.authorizer._sheets
        assert len(sheets) + sum(map(len, sheets.values())) <= 14
    world.book.show([])
    assert world.answer(doors, WRITE) == ErrorCode.TOPIC_AUTHORIZATION_FAILED


def test_a_sheet_that_was_given_out_before_a_change_stays_empty() -> None:
    world = World(may(ALICE, WRITE, "t"))
    who = connection()
    assert world.authorizer.allows(who, WRITE, TOPIC, "t")
    sheet = world.authorizer.decided(who, WRITE, TOPIC)
    assert sheet == {"t": True}
    world.book.show([])
    assert not world.authorizer.allows(who, WRITE, TOPIC, "t")
    assert sheet == {}
    assert world.authorizer.decided(who, WRITE, TOPIC) == {"t": False}


def test_names_that_no_topic_can_have_are_not_kept() -> None:
    world = World()
    for number in range(3):
        assert not world.authorizer.allows(connection(), WRITE, TOPIC, f"{number}" * (LONGEST_NAME + 1))
    assert world.authorizer.decided(connection(), WRITE, TOPIC) == {}


def test_a_placement_is_asked_each_time() -> None:
    placement = Placement()
    placement.has_everything = False
    world = World(may(ALICE, WRITE, "t"), may(ALICE, READ, "g", GROUP), placement=placement)
    doors = Doors(world.house, connection())
    assert (world.answer(doors, WRITE), world.group_answer(doors)) == (0, 0)
    placement.is_elsewhere = True
    assert world.answer(doors, WRITE) == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert world.group_answer(doors) == ErrorCode.NOT_COORDINATOR
