"""Who may read and write which topic by what is granted on the topics' views in PostgreSQL.

    grants = Grants(roles={"alice": Role(frozenset((1, PUBLIC)))}, topics={"orders": Rights(owner=10, ...)}, ...)
    grants.may(grants.role("alice"), Operation.READ, "orders")

What PostgreSQL says is kept here as it says it: for each role which others' privileges it has, and for each view who
was granted what. So any question is answered at once, for whoever asks for the first time as well.

Operations are numbers of the protocol. A principal that is no role has what is granted to PUBLIC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pg_kafka.security.acls import ALTER, ALTER_CONFIGS, DELETE, DESCRIBE, DESCRIBE_CONFIGS, READ, WRITE

PUBLIC = 0
"""The number that PostgreSQL has for PUBLIC where it keeps what is granted."""

CREATE = 5
_OF_READERS = frozenset((READ, DESCRIBE, DESCRIBE_CONFIGS))
_OF_WRITERS = frozenset((WRITE, DESCRIBE, DESCRIBE_CONFIGS))
_OF_OWNERS = frozenset((READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS, DELETE, ALTER, ALTER_CONFIGS, CREATE))

# As `topics_without_view` of the janitor has it.
_INTERNAL = re.compile(r"__|.*-(changelog|repartition)\Z", re.DOTALL)

_NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Role:
    """Somebody. `has` are the numbers of the roles whose privileges they have: their own, PUBLIC, those inherited."""

    has: frozenset[int]
    is_superuser: bool = False


@dataclass(frozen=True, slots=True)
class Rights:
    """What is granted on a view: who owns it, who may SELECT, who may INSERT."""

    owner: int
    select: frozenset[int] = _NOBODY
    insert: frozenset[int] = _NOBODY


@dataclass(frozen=True, slots=True)
class Grants:
    """All of it. `everywhere` holds for each topic, also for those whose view has not been made yet."""

    roles: Mapping[str, Role] = field(default_factory=dict)
    topics: Mapping[str, Rights] = field(default_factory=dict)
    everywhere: Rights = field(default_factory=lambda: Rights(-1))
    creators: frozenset[int] = _NOBODY  # who may make something in the schema of the views

    def role(self, name: str) -> Role:
        return self.roles.get(name, _ANYBODY)

    def is_owner(self, role: Role) -> bool:
        """Does the role belong to those who own the topics?"""
        return role.is_superuser or self.everywhere.owner in role.has

    def may(self, role: Role, operation: int, topic: str) -> bool:
        """May a role do this to a topic, whether there is one or not?"""
        if self.is_owner(role):
            return True
        if operation == CREATE:
            return not role.has.isdisjoint(self.creators)
        rights = self.topics.get(topic)
        return _gives(self.everywhere, role, operation) or (rights is not None and _gives(rights, role, operation))

    def may_any(self, role: Role, operation: int) -> bool:
        """Is there a topic to which the role may do this?"""
        if self.is_owner(role) or _gives(self.everywhere, role, operation):
            return True
        return any(_gives(rights, role, operation) for rights in self.topics.values())


def gets_no_view(topic: str) -> bool:
    """Is it an internal topic, of Kafka's or of Kafka Streams', on whose view nothing can be granted?"""
    return _INTERNAL.match(topic) is not None


def _gives(rights: Rights, role: Role, operation: int) -> bool:
    return (
        (operation in _OF_READERS and not role.has.isdisjoint(rights.select))
        or (operation in _OF_WRITERS and not role.has.isdisjoint(rights.insert))
        or (operation in _OF_OWNERS and rights.owner in role.has)
    )


_ANYBODY = Role(frozenset((PUBLIC,)))
