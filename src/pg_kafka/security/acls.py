"""Access control lists: who may do what to which resource, decided as Kafka's StandardAuthorizer does (KIP-290, KIP-801).

    acls = Acls([Acl(TOPIC, "orders", LITERAL, "User:alice", "*", Operation.READ, Permission.ALLOW)])
    acls.decide({"User:alice"}, "10.0.0.7", Operation.DESCRIBE, TOPIC, "orders")     Decision.ALLOWED

Rules, in this order:
- an ACL that denies wins over all that allow, wherever it comes from: a literal name, a prefix, `*`
- one that allows READ, WRITE, DELETE or ALTER allows DESCRIBE, and ALTER_CONFIGS allows DESCRIBE_CONFIGS; one that denies
  means what it says, and `ALL` means every operation
- where no ACL names the resource in any way, the broker's `allow.everyone.if.no.acl.found` decides (`Decision.UNKNOWN`)

Numbers are those of the protocol. Principals and hosts are compared as they are written; `User:*` and `*` are everybody and
everywhere. An `Acls` never changes: another list is another object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum, IntEnum
from typing import NamedTuple

WILDCARD = "*"
EVERYBODY = "User:*"
EVERYWHERE = "*"
ALL_OPERATIONS = 2
"""The operation of an ACL that is meant for every operation."""


RESOURCE_TYPES = ("UNKNOWN", "ANY", "TOPIC", "GROUP", "CLUSTER", "TRANSACTIONAL_ID", "DELEGATION_TOKEN", "USER")
OPERATIONS = (
    "UNKNOWN",
    "ANY",
    "ALL",
    "READ",
    "WRITE",
    "CREATE",
    "DELETE",
    "ALTER",
    "DESCRIBE",
    "CLUSTER_ACTION",
    "DESCRIBE_CONFIGS",
    "ALTER_CONFIGS",
    "IDEMPOTENT_WRITE",
    "CREATE_TOKENS",
    "DESCRIBE_TOKENS",
    "TWO_PHASE_COMMIT",
)
"""Kafka's words; the place of each is its number in the protocol."""

MOST_BYTES: Mapping[str, int] = {"resource name": 1000, "principal": 500, "host": 255}
"""How long the texts of an ACL may be, so that together they fit into an entry of an index."""


class PatternType(IntEnum):
    """How the name of an ACL, or of a filter, is meant."""

    UNKNOWN = 0
    ANY = 1  # in filters: any of the others
    MATCH = 2  # in filters: all that apply to a resource with this name
    LITERAL = 3
    PREFIXED = 4


class Permission(IntEnum):
    """What an ACL, or a filter, says."""

    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


class Decision(Enum):
    """What the lists say; UNKNOWN: nothing about this resource."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "no ACL names the resource"


class Acl(NamedTuple):
    """One entry. `resource` and `operation` are numbers of the protocol (`broker.permission`)."""

    resource: int
    name: str
    pattern: PatternType
    principal: str
    host: str
    operation: int
    permission: Permission


READ, WRITE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS = 3, 4, 6, 7, 8, 10, 11
_IMPLIED_BY: dict[int, frozenset[int]] = {
    DESCRIBE: frozenset((DESCRIBE, READ, WRITE, DELETE, ALTER, ALL_OPERATIONS)),
    DESCRIBE_CONFIGS: frozenset((DESCRIBE_CONFIGS, ALTER_CONFIGS, ALL_OPERATIONS)),
}
"""What an allowing ACL may say for these to be allowed."""


def _allowing(operation: int) -> frozenset[int]:
    return _IMPLIED_BY.get(operation) or frozenset((operation, ALL_OPERATIONS))


class _OfType:
    """All ACLs of one type of resource."""

    __slots__ = ("literal", "prefixed", "prefixes")

    def __init__(self) -> None:
        self.literal: dict[str, list[Acl]] = {}
        self.prefixed: dict[str, list[Acl]] = {}
        self.prefixes: list[str] = []  # sorted

    def about(self, name: str) -> Iterator[Acl]:
        """Those that name a resource: by its name, by `*`, or by a prefix."""
        yield from self.literal.get(name, ())
        if name != WILDCARD:
            yield from self.literal.get(WILDCARD, ())
        yield from self._by_prefix(name)

    def _by_prefix(self, name: str) -> Iterator[Acl]:
        """Prefixes of a name are sorted before it, each one before the longer ones.

        From the greatest candidate on, each next one has to be a prefix of what both have in common.
        """
        end = bisect_right(self.prefixes, name)
        while end:
            candidate = self.prefixes[end - 1]
            if name.startswith(candidate):
                yield from self.prefixed[candidate]
                end -= 1
                continue
            common = _common(candidate, name)
            if not common:
                yield from self.prefixed.get("", ())
                return
            end = bisect_right(self.prefixes, name[:common], 0, end - 1)


def _common(one: str, other: str) -> int:
    """With how many characters do both begin?"""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


class Acls:
    """A list of ACLs, arranged for questions."""

    __slots__ = ("_all", "_types")

    def __init__(self, acls: Iterable[Acl] = ()) -> None:
        self._all = frozenset(acls)
        self._types: dict[int, _OfType] = {}
        for acl in self._all:
            of_type = self._types.setdefault(acl.resource, _OfType())
            by_name = of_type.prefixed if acl.pattern is PatternType.PREFIXED else of_type.literal
            by_name.setdefault(acl.name, []).append(acl)
        for of_type in self._types.values():
            of_type.prefixes = sorted(of_type.prefixed)

    def __iter__(self) -> Iterator[Acl]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, acl: Acl) -> bool:
        return acl in self._all

    def decide(self, principals: Collection[str], host: str, operation: int, resource: int, name: str) -> Decision:
        """May somebody with these principals do this? `principals` has no wildcard."""
        of_type = self._types.get(resource)
        if of_type is None:
            return Decision.UNKNOWN
        allowing = _allowing(operation)
        is_known = is_allowed = False
        for acl in of_type.about(name):
            is_known = True
            if not _is_for(acl, principals, host):
                continue
            if acl.permission is Permission.DENY:
                if acl.operation in (operation, ALL_OPERATIONS):
                    return Decision.DENIED
            elif acl.operation in allowing:
                is_allowed = True
        if is_allowed:
            return Decision.ALLOWED
        return Decision.DENIED if is_known else Decision.UNKNOWN

    def decide_any(self, principals: Collection[str], host: str, operation: int, resource: int) -> Decision:
        """Is there any resource of the type to which this may be done (KIP-679)?

        An allowing pattern counts unless a denying one covers all that it stands for.
        """
        of_type = self._types.get(resource)
        if of_type is None:
            return Decision.UNKNOWN
        allowing = _allowing(operation)
        allowed: list[Acl] = []
        denied_names: set[str] = set()
        denied_prefixes: list[str] = []
        for by_name in (of_type.literal, of_type.prefixed):
            for acls in by_name.values():
                for acl in acls:
                    if not _is_for(acl, principals, host):
                        continue
                    if acl.permission is Permission.ALLOW:
                        if acl.operation in allowing:
                            allowed.append(acl)
                    elif acl.operation in (operation, ALL_OPERATIONS):
                        if acl.pattern is PatternType.PREFIXED:
                            denied_prefixes.append(acl.name)
                        else:
                            denied_names.add(acl.name)
        if WILDCARD in denied_names:
            return Decision.DENIED
        for acl in allowed:
            if acl.pattern is not PatternType.PREFIXED:
                if acl.name == WILDCARD:
                    return Decision.ALLOWED
                if acl.name in denied_names:
                    continue
            if not any(acl.name.startswith(prefix) for prefix in denied_prefixes):
                return Decision.ALLOWED
        return Decision.DENIED if allowed or denied_names or denied_prefixes else Decision.UNKNOWN


def _is_for(acl: Acl, principals: Collection[str], host: str) -> bool:
    return (acl.principal in principals or acl.principal == EVERYBODY) and acl.host in (host, EVERYWHERE)


class AclFilter(NamedTuple):
    """Which ACLs to describe or delete. None matches everything; numbers 1 (ANY) as well."""

    resource: int = 1
    name: str | None = None
    pattern: PatternType = PatternType.ANY
    principal: str | None = None
    host: str | None = None
    operation: int = 1
    permission: Permission = Permission.ANY

    def matches(self, acl: Acl) -> bool:
        return (
            self.resource in (1, acl.resource)
            and self._names(acl)
            and self.principal in (None, acl.principal)
            and self.host in (None, acl.host)
            and self.operation in (1, acl.operation)
            and self.permission in (Permission.ANY, acl.permission)
        )

    def _names(self, acl: Acl) -> bool:
        if self.pattern in (PatternType.LITERAL, PatternType.PREFIXED) and acl.pattern is not self.pattern:
            return False
        if self.name is None or self.name == acl.name:
            return True
        if self.pattern is not PatternType.MATCH:
            return False
        if acl.pattern is PatternType.PREFIXED:
            return self.name.startswith(acl.name)
        return acl.name == WILDCARD

    @property
    def is_exact(self) -> bool:
        """It can match one ACL only."""
        return (
            self.resource > 1
            and self.name is not None
            and self.pattern in (PatternType.LITERAL, PatternType.PREFIXED)
            and self.principal is not None
            and self.host is not None
            and self.operation > 1
            and self.permission in (Permission.DENY, Permission.ALLOW)
        )
