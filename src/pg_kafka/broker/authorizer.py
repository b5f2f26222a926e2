"""Who may do what: by access control lists, as Kafka's StandardAuthorizer decides, or by what PostgreSQL grants.

    authorizer = AclAuthorizer(book, super_users_of("User:admin;User:root"), allow_if_no_acl=False)
    authorizer = GrantAuthorizer(book, ...)

Decisions are kept until something changes, so that a request that comes again costs one look into a dictionary.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.security.acls import Decision
from pg_kafka.security.grants import Grants, gets_no_view

KEPT = 100_000
"""Decisions that are kept; with one more all are forgotten. One takes some 300 bytes."""

LONGEST_NAME = 255
"""Of resources whose decisions are kept: a request may name what could never be, by 32 kB each."""

_SHEET = 2
"""What the decisions for a principal, a host and an operation count together, besides each of them."""

_ANY_NAME = "hardcode"
"""Kafka asks about a resource of this name first when it is asked whether somebody may do something to any resource at all."""

# Principal, host, operation and type of resource as one number (an Enum's own hash costs more than all the rest).
_Subject = tuple[str, str, int]
_TYPES = 16

_USER = "User:"
_BY_TOPIC: Mapping[tuple[ResourceType, Operation], Operation] = {
    (ResourceType.GROUP, Operation.READ): Operation.READ,
    (ResourceType.GROUP, Operation.DESCRIBE): Operation.READ,
    (ResourceType.TRANSACTIONAL_ID, Operation.WRITE): Operation.WRITE,
    (ResourceType.TRANSACTIONAL_ID, Operation.DESCRIBE): Operation.WRITE,
}
"""What a role has to be allowed to do to some topic, to use a group or transactional id that no access control list names."""


def super_users_of(text: str) -> frozenset[str]:
    """The principals that `super.users` names, between semicolons."""
    return frozenset(filter(None, (name.strip() for name in text.split(";"))))


class AclAuthorizer:
    """See the module."""

    allows_everything = False

    def __init__(self, book: AclBook, super_users: Collection[str], *, allow_if_no_acl: bool, kept: int = KEPT) -> None:
        self._book = book
        self._super_users = frozenset(super_users)
        self._allow_if_no_acl = allow_if_no_acl
        self._kept = kept
        self._sheets: dict[_Subject, dict[str, bool]] = {}  # decisions by name
        self._decided_any: dict[_Subject, bool] = {}
        self._count = 0  # of decisions, and what sheets count
        self._watchers: list[Callable[[], None]] = []
        book.watch(self.look_again)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have this called when decisions may be others than before."""
        self._watchers.append(on_change)

    def look_again(self) -> None:
        """Forget all decisions, and tell those who remember some."""
        self._forget()
        for on_change in self._watchers:
            on_change()

    def allows(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        sheet = self.decided(who, operation, resource)
        decision = sheet.get(name)
        if decision is None:
            decision = self._decide(who, operation, resource, name)
            if len(name) <= LONGEST_NAME:
                if self._count >= self._kept:
                    self._forget()
                    sheet = self.decided(who, operation, resource)
                sheet[name] = decision
                self._count += 1
        return decision

    def decided(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> dict[str, bool]:
        subject = (who.principal, who.peer[0], operation * _TYPES + resource)
        sheet = self._sheets.get(subject)
        if sheet is None:
            if self._count >= self._kept:
                self._forget()
            sheet = self._sheets[subject] = {}
            self._count += _SHEET
        return sheet

    def allows_any(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> bool:
        subject = (who.principal, who.peer[0], operation * _TYPES + resource)
        decision = self._decided_any.get(subject)
        if decision is None:
            decision = self._decide_any(who, operation, resource)
            if self._count >= self._kept:
                self._forget()
            self._decided_any[subject] = decision
            self._count += 1
        return decision

    def _forget(self) -> None:
        """Those who have been given a sheet look into it: it is emptied, and not filled again."""
        for sheet in self._sheets.values():
            sheet.clear()
        self._sheets.clear()
        self._decided_any.clear()
        self._count = 0

    def _decide(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        if who.principal in self._super_users:
            return True
        decision = self._book.acls.decide((who.principal,), java_host(who.host), operation, resource, name)
        return self._allow_if_no_acl if decision is Decision.UNKNOWN else decision is Decision.ALLOWED

    def _decide_any(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> bool:
        if self._decide(who, operation, resource, _ANY_NAME):
            return True
        acls = self._book.acls
        return acls.decide_any((who.principal,), java_host(who.host), operation, resource) is Decision.ALLOWED


@lru_cache(maxsize=1024)
def java_host(host: str) -> str:
    """An address as Java, and so Kafka, writes it: IPv6 with all its eight parts and without leading zeros."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return ":".join(f"{int(part, 16):x}" for part in address.exploded.split(":"))


class GrantAuthorizer(AclAuthorizer):
    """Topics go by what PostgreSQL grants on their views; all else, and topics that get no view, by access control lists.

    Where no list names a group or a transactional id, whoever may read, or write, some topic may use it.
    """

    def __init__(self, book: AclBook, super_users: Collection[str], *, allow_if_no_acl: bool, kept: int = KEPT) -> None:
        super().__init__(book, super_users, allow_if_no_acl=allow_if_no_acl, kept=kept)
        self._grants = Grants()

    def show(self, grants: Grants) -> None:
        """These are in force from now on."""
        self._grants = grants
        self.look_again()

    def _decide(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        if who.principal in self._super_users:
            return True
        role = self._grants.role(who.principal.removeprefix(_USER))
        if resource is ResourceType.TOPIC:
            if self._grants.may(role, operation, name):
                return True
            return gets_no_view(name) and super()._decide(who, operation, resource, name)
        if self._grants.is_owner(role):
            return True
        decision = self._book.acls.decide((who.principal,), java_host(who.host), operation, resource, name)
        if decision is not Decision.UNKNOWN:
            return decision is Decision.ALLOWED
        by_topic = _BY_TOPIC.get((resource, operation))
        return self._allow_if_no_acl or (by_topic is not None and self._grants.may_any(role, by_topic))

    def _decide_any(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> bool:
        if resource is not ResourceType.TOPIC:
            return super()._decide_any(who, operation, resource)
        role = self._grants.role(who.principal.removeprefix(_USER))
        return who.principal in self._super_users or self._grants.may_any(role, operation)
