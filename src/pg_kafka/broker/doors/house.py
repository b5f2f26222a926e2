"""What is behind the doors of all connections."""

from __future__ import annotations

from collections.abc import Callable

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.broker.member_commits import MemberCommitsWatch
from pg_kafka.broker.permission import DENIED, Authorizer, Everybody, Operation, ResourceType
from pg_kafka.broker.placement import AllHere, Placement
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.transactions import TransactionCoordinator
from pg_kafka.storage.client_metrics import StoredClientMetrics
from pg_kafka.storage.log import Log
from pg_kafka.storage.quotas import StoredQuotas
from pg_kafka.storage.stored_settings import StoredSettings
from pg_kafka.storage.topics import Topics
from pg_kafka.storage.users import StoredUsers


class Generation:
    """A number that grows when what connections have looked up may be wrong."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


class House:
    """Made once, by `app.py`. `on_change` is called when what connections have looked up before may be wrong."""

    def __init__(
        self,
        *,
        topics: Topics,
        log: Log,
        groups: GroupCoordinator,
        transactions: TransactionCoordinator,
        on_change: Callable[[], None],
        stored: StoredSettings | None = None,
        users: StoredUsers | None = None,
        authorizer: Authorizer | None = None,
        placement: Placement | None = None,
        acls: AclBook | None = None,
        quotas: StoredQuotas | None = None,
        client_metrics: StoredClientMetrics | None = None,
        member_commits: MemberCommitsWatch | None = None,
    ) -> None:
        self.topics = topics
        self.log = log
        self.groups = groups
        self.transactions = transactions
        self.stored = stored
        self.users = users
        self.acls = acls
        self.quotas = quotas
        self.client_metrics = client_metrics
        self.member_commits = member_commits
        self.authorizer: Authorizer = Everybody() if authorizer is None else authorizer
        self.placement: Placement = AllHere() if placement is None else placement
        self.allows_everything = self.authorizer.allows_everything
        self.is_open = self.allows_everything and self.placement.has_everything
        """Nothing has to be asked."""
        self.generation = Generation()
        self._on_change = on_change

    def changed(self) -> None:
        """The authorizer decides otherwise, or the placement has changed: parked and remembered requests look again.

        A topic that is deleted needs no call: its partitions are closed, and tell those who wait for them.
        """
        self.generation.number += 1
        self._on_change()

    def may(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        return self.allows_everything or self.authorizer.allows(who, operation, resource, name)

    def describable(self, principal: str, host: str, names: frozenset[str]) -> frozenset[str]:
        """The topics of these that somebody may describe who is not asking at this moment. `host` as groups write it."""
        who = ConnectionInfo(0, (host.removeprefix("/"), 0), ("", 0), principal=principal)
        return frozenset(name for name in names if self.may(who, Operation.DESCRIBE, ResourceType.TOPIC, name))

    def check(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> None:
        """Raises Refused."""
        if not self.allows_everything and not self.authorizer.allows(who, operation, resource, name):
            raise Refused(DENIED[resource], None)
