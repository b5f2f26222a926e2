"""ACLs: decisions against the rules written as plain as they can be, and examples of Kafka's documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.security.acls import ALL_OPERATIONS, Acl, AclFilter, Acls, Decision, PatternType, Permission

TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
LITERAL, PREFIXED = PatternType.LITERAL, PatternType.PREFIXED
ALLOW, DENY = Permission.ALLOW, Permission.DENY
ALICE = frozenset(("User:alice",))


def allow(
    name: str, operation: int, *, pattern: PatternType = LITERAL, who: str = "User:alice", host: str = "*"
) -> Acl:
    return Acl(TOPIC, name, pattern, who, host, operation, ALLOW)


def deny(name: str, operation: int, *, pattern: PatternType = LITERAL, who: str = "User:alice", host: str = "*") -> Acl:
    return allow(name, operation, pattern=pattern, who=who, host=host)._replace(permission=DENY)


def decided(acls: list[Acl], operation: int, name: str, host: str = "10.0.0.1") -> Decision:
    return Acls(acls).decide(ALICE, host, operation, TOPIC, name)


@pytest.mark.parametrize(
    ("acls", "operation", "name", "decision"),
    [
        ([], Operation.READ, "a", Decision.UNKNOWN),
        ([allow("a", Operation.READ)], Operation.READ, "a", Decision.ALLOWED),
        ([allow("a", Operation.READ)], Operation.READ, "ab", Decision.UNKNOWN),
        ([allow("a", Operation.READ, who="User:bob")], Operation.READ, "a", Decision.DENIED),
        ([allow("a", Operation.READ, who="User:*")], Operation.READ, "a", Decision.ALLOWED),
        ([allow("a", Operation.READ, host="10.0.0.2")], Operation.READ, "a", Decision.DENIED),
        ([allow("*", Operation.READ)], Operation.READ, "a", Decision.ALLOWED),
        ([allow("a", ALL_OPERATIONS)], Operation.ALTER_CONFIGS, "a", Decision.ALLOWED),
        ([allow("a", Operation.WRITE)], Operation.DESCRIBE, "a", Decision.ALLOWED),
        ([allow("a", Operation.DESCRIBE)], Operation.READ, "a", Decision.DENIED),
        ([allow("a", Operation.ALTER_CONFIGS)], Operation.DESCRIBE_CONFIGS, "a", Decision.ALLOWED),
        ([allow("a", Operation.ALTER_CONFIGS)], Operation.DESCRIBE, "a", Decision.DENIED),
        ([allow("a", Operation.CREATE)], Operation.DESCRIBE, "a", Decision.DENIED),
        ([allow("a", Operation.READ), deny("a", Operation.READ)], Operation.READ, "a", Decision.DENIED),
        ([allow("a", Operation.READ), deny("*", Operation.READ)], Operation.READ, "a", Decision.DENIED),
        ([allow("a", Operation.READ), deny("a", Operation.WRITE)], Operation.DESCRIBE, "a", Decision.ALLOWED),
        ([allow("a", Operation.READ), deny("a", Operation.DESCRIBE)], Operation.READ, "a", Decision.ALLOWED),
        ([allow("a", Operation.READ, pattern=PREFIXED)], Operation.READ, "abc", Decision.ALLOWED),
        ([allow("ab", Operation.READ, pattern=PREFIXED)], Operation.READ, "a", Decision.UNKNOWN),
        (
            [allow("abc", Operation.READ), deny("a", ALL_OPERATIONS, pattern=PREFIXED)],
            Operation.READ,
            "abc",
            Decision.DENIED,
        ),
    ],
)
def test_decisions(acls: list[Acl], operation: int, name: str, decision: Decision) -> None:
    assert decided(acls, operation, name) is decision


names = st.text("ab", max_size=4)
some_acls = st.lists(
    st.builds(
        Acl,
        resource=st.sampled_from([TOPIC, GROUP]),
        name=names | st.just("*"),
        pattern=st.sampled_from([LITERAL, PREFIXED]),
        principal=st.sampled_from(["User:alice", "User:bob", "User:*"]),
        host=st.sampled_from(["*", "1", "2"]),
        operation=st.sampled_from([*Operation, ALL_OPERATIONS]),
        permission=st.sampled_from([ALLOW, DENY]),
    ),
    max_size=12,
)


def _names(acl: Acl, resource: int, name: str) -> bool:
    if acl.resource != resource:
        return False
    return name.startswith(acl.name) if acl.pattern is PREFIXED else acl.name in (name, "*")


def _grants(acl: Acl, operation: int) -> bool:
    implied = {
        Operation.DESCRIBE: {Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER},
        Operation.DESCRIBE_CONFIGS: {Operation.ALTER_CONFIGS},
    }
    return acl.operation in {operation, ALL_OPERATIONS} | implied.get(Operation(operation), set())


def plainly(acls: list[Acl], host: str, operation: int, resource: int, name: str) -> Decision:
    about = [acl for acl in acls if _names(acl, resource, name)]
    mine = [acl for acl in about if acl.principal in ("User:alice", "User:*") and acl.host in (host, "*")]
    if any(acl.permission is DENY and acl.operation in (operation, ALL_OPERATIONS) for acl in mine):
        return Decision.DENIED
    if any(acl.permission is ALLOW and _grants(acl, operation) for acl in mine):
        return Decision.ALLOWED
    return Decision.DENIED if about else Decision.UNKNOWN


@given(acls=some_acls, host=st.sampled_from(["1", "2"]), operation=st.sampled_from(list(Operation)), name=names)
def test_decisions_are_those_of_the_plain_rules(acls: list[Acl], host: str, operation: Operation, name: str) -> None:
    assert Acls(acls).decide(ALICE, host, operation, TOPIC, name) is plainly(acls, host, operation, TOPIC, name)


@given(acls=some_acls, operation=st.sampled_from(list(Operation)))
def test_any_resource_is_allowed_when_there_is_a_name_that_is(acls: list[Acl], operation: Operation) -> None:
    """A name that no other pattern speaks of stands for what `*` and prefixes allow beyond the names in the lists."""
    tried = {acl.name + ending for acl in acls for ending in ("", "~")} | {"~"}
    is_allowed = any(plainly(acls, "1", operation, TOPIC, name) is Decision.ALLOWED for name in tried)
    decision = Acls(acls).decide_any(ALICE, "1", operation, TOPIC)
    if is_allowed:
        assert decision is Decision.ALLOWED
    elif decision is Decision.ALLOWED:
        # Kafka does not look whether what `*` allows is denied by prefixes one by one.
        assert any(acl.name == "*" and acl.permission is ALLOW for acl in acls)


def test_filters() -> None:
    literal, prefixed, everything = allow("orders", 3), allow("ord", 3, pattern=PREFIXED), allow("*", 3)
    assert all(AclFilter().matches(acl) for acl in (literal, prefixed, everything))
    match = AclFilter(TOPIC, "orders", PatternType.MATCH)
    assert [match.matches(acl) for acl in (literal, prefixed, everything, allow("order", 3))] == [
        True,
        True,
        True,
        False,
    ]
    named = AclFilter(TOPIC, "orders", PatternType.ANY)
    assert [named.matches(acl) for acl in (literal, prefixed, everything)] == [True, False, False]
    assert not AclFilter(TOPIC, "ord", LITERAL).matches(prefixed)
    assert AclFilter(TOPIC, "ord", PREFIXED).matches(prefixed)
    assert not AclFilter(GROUP).matches(literal)
    assert not AclFilter(host="10.0.0.1").matches(literal)
    assert AclFilter(*literal).is_exact
    assert not match.is_exact
