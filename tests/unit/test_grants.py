"""What is granted on topics' views, as PostgreSQL says it: examples of each rule."""

from __future__ import annotations

import pytest

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.authorizer import GrantAuthorizer, java_host, super_users_of
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.security.acls import Acl, PatternType, Permission
from pg_kafka.security.grants import PUBLIC, Grants, Rights, Role

OWNER, ALICE, TEAM, READ_ALL, WRITE_ALL = 10, 20, 30, 40, 50
TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = (
    ResourceType.TOPIC,
    ResourceType.GROUP,
    ResourceType.CLUSTER,
    ResourceType.TRANSACTIONAL_ID,
)
OF_READERS = {Operation.READ, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS}
OF_WRITERS = {Operation.WRITE, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS}
OF_OWNERS = {*OF_READERS, *OF_WRITERS, Operation.CREATE, Operation.DELETE, Operation.ALTER, Operation.ALTER_CONFIGS}

GRANTS = Grants(
    roles={
        "broker": Role(frozenset((PUBLIC, OWNER))),
        "root": Role(frozenset((PUBLIC,)), is_superuser=True),
        "alice": Role(frozenset((PUBLIC, ALICE, TEAM))),
        "auditor": Role(frozenset((PUBLIC, READ_ALL))),
        "loader": Role(frozenset((PUBLIC, WRITE_ALL))),
        "maker": Role(frozenset((PUBLIC, 60))),
    },
    topics={
        "orders": Rights(OWNER, select=frozenset((TEAM,))),
        "events": Rights(OWNER, insert=frozenset((ALICE,))),
        "news": Rights(OWNER, select=frozenset((PUBLIC,))),
        "hers": Rights(ALICE),
    },
    everywhere=Rights(OWNER, frozenset((READ_ALL,)), frozenset((WRITE_ALL,))),
    creators=frozenset((OWNER, 60)),
)


@pytest.mark.parametrize(
    ("role", "topic", "expected"),
    [
        ("alice", "orders", OF_READERS),
        ("alice", "events", OF_WRITERS),
        ("alice", "news", OF_READERS),
        ("alice", "hers", OF_OWNERS - {Operation.CREATE}),
        ("alice", "nowhere", set()),
        ("stranger", "orders", set()),
        ("stranger", "news", OF_READERS),
        ("auditor", "orders", OF_READERS),
        ("auditor", "without-a-view-yet", OF_READERS),
        ("loader", "orders", OF_WRITERS),
        ("maker", "orders", {Operation.CREATE}),
        ("broker", "orders", OF_OWNERS),
        ("root", "nowhere", OF_OWNERS),
    ],
)
def test_operations_follow_what_is_granted(role: str, topic: str, expected: set[Operation]) -> None:
    assert {one for one in OF_OWNERS if GRANTS.may(GRANTS.role(role), one, topic)} == expected


def connection(name: str) -> ConnectionInfo:
    return ConnectionInfo(1, ("127.0.0.1", 1), ("127.0.0.1", 9092), principal=f"User:{name}")


def authorizer(*acls: Acl, allow_if_no_acl: bool = False) -> GrantAuthorizer:
    book = AclBook()
    made = GrantAuthorizer(book, super_users_of("User:admin"), allow_if_no_acl=allow_if_no_acl)
    made.show(GRANTS)
    book.show(acls)
    return made


def test_acls_say_nothing_about_topics() -> None:
    every = [Acl(TOPIC, "*", PatternType.LITERAL, "User:*", "*", 2, permission) for permission in (Permission.ALLOW,)]
    assert not authorizer(*every).allows(connection("stranger"), Operation.READ, TOPIC, "orders")
    denied = Acl(TOPIC, "*", PatternType.LITERAL, "User:*", "*", 2, Permission.DENY)
    assert authorizer(denied).allows(connection("alice"), Operation.READ, TOPIC, "orders")


@pytest.mark.parametrize(
    ("topic", "by_acl"),
    [
        ("app-store-changelog", True),
        ("app-by-key-repartition", True),
        ("__internal", True),
        ("app-changelog-of-mine", False),
        ("app", False),
        ("a__", False),
    ],
)
def test_topics_that_get_no_view_go_by_acls(topic: str, by_acl: bool) -> None:
    allowed = Acl(TOPIC, "*", PatternType.LITERAL, "User:stranger", "*", Operation.READ, Permission.ALLOW)
    some = authorizer(allowed)
    assert some.allows(connection("stranger"), Operation.READ, TOPIC, topic) is by_acl
    assert not some.allows(connection("stranger"), Operation.WRITE, TOPIC, topic)
    assert not authorizer().allows(connection("stranger"), Operation.READ, TOPIC, topic)


def test_groups_are_for_readers_where_no_acl_names_them() -> None:
    free = authorizer()
    assert free.allows(connection("alice"), Operation.READ, GROUP, "any")
    assert free.allows(connection("alice"), Operation.WRITE, TRANSACTIONAL_ID, "any")
    assert not free.allows(connection("alice"), Operation.DELETE, GROUP, "any")
    assert not free.allows(connection("maker"), Operation.WRITE, TRANSACTIONAL_ID, "any")
    billing = Acl(GROUP, "billing", PatternType.PREFIXED, "User:bob", "*", Operation.READ, Permission.ALLOW)
    kept = authorizer(billing)
    assert not kept.allows(connection("alice"), Operation.READ, GROUP, "billing-1")
    assert kept.allows(connection("bob"), Operation.READ, GROUP, "billing-1")
    assert kept.allows(connection("alice"), Operation.READ, GROUP, "other")


def test_the_cluster_is_for_owners_and_whom_an_acl_allows() -> None:
    allowed = Acl(
        CLUSTER, "kafka-cluster", PatternType.LITERAL, "User:alice", "*", Operation.DESCRIBE, Permission.ALLOW
    )
    some = authorizer(allowed)
    assert some.allows(connection("alice"), Operation.DESCRIBE, CLUSTER, "kafka-cluster")
    assert not some.allows(connection("alice"), Operation.ALTER, CLUSTER, "kafka-cluster")
    for owner in ("broker", "root", "admin"):
        assert some.allows(connection(owner), Operation.ALTER, CLUSTER, "kafka-cluster")


def test_any_topic_is_asked_for_as_a_whole() -> None:
    free = authorizer()
    assert free.allows_any(connection("alice"), Operation.WRITE, TOPIC)
    assert not free.allows_any(connection("stranger"), Operation.WRITE, TOPIC)
    assert free.allows_any(connection("admin"), Operation.WRITE, TOPIC)


def test_decisions_are_forgotten_when_they_are_too_many_and_when_something_changes() -> None:
    made = GrantAuthorizer(AclBook(), (), allow_if_no_acl=False, kept=10)
    for number in range(25):
        assert not made.allows(connection("alice"), Operation.READ, TOPIC, f"topic-{number}")
    assert sum(map(len, made._sheets.values())) <= 10
    told: list[bool] = []
    made.watch(lambda: told.append(True))
    assert not made.allows(connection("alice"), Operation.READ, TOPIC, "orders")
    made.show(GRANTS)
    assert told == [True]
    assert made.allows(connection("alice"), Operation.READ, TOPIC, "orders")


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("fe80::a0%eth0", "fe80:0:0:0:0:0:0:a0"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("", ""),
    ],
)
def test_hosts_are_written_as_kafka_writes_them(host: str, written: str) -> None:
    assert java_host(host) == written
