"""The only way from a name or id in a request to a topic, a partition, a group or a transactional id.

A handler has the doors of its connection in `ctx.doors`. Each door goes in Kafka's order: an id is resolved to a name; may
this principal do this; is it there; is it placed here. What cannot be passed raises `Refused`, whose code is the answer:
handlers that answer for each of several catch it, and where the whole request is refused, the connection answers in the
API's own form for failures.

    topic = ctx.doors.topics.with_partition(Operation.WRITE, "orders", 0)
    room = ctx.doors.groups.enter(Operation.READ, "billing")
"""

from __future__ import annotations

from pg_kafka.broker.acl_book import AclBook
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.doors.groups import Group, GroupDoor, GroupRoom
from pg_kafka.broker.doors.house import House
from pg_kafka.broker.doors.ids import can_be_id
from pg_kafka.broker.doors.topics import LOADED_AT_ONCE, NewTopic, Topic, TopicDoor
from pg_kafka.broker.doors.transactions import TransactionDoor, TransactionRoom
from pg_kafka.broker.permission import CLUSTER_NAME, DENIED, OPERATIONS, Operation, ResourceType
from pg_kafka.broker.refusals import Refused
from pg_kafka.storage.client_metrics import StoredClientMetrics
from pg_kafka.storage.quotas import StoredQuotas
from pg_kafka.storage.stored_settings import StoredSettings
from pg_kafka.storage.users import Entry, Removal, StoredUsers
from pg_kafka.wire.error_codes import ErrorCode

__all__ = [
    "LOADED_AT_ONCE",
    "Doors",
    "Entry",
    "Group",
    "GroupDoor",
    "GroupRoom",
    "House",
    "NewTopic",
    "Removal",
    "Topic",
    "TopicDoor",
    "TransactionDoor",
    "TransactionRoom",
    "can_be_id",
]


class Doors:
    """The doors for one connection."""

    __slots__ = ("_house", "_who", "generation", "groups", "topics", "transactions", "viewer")

    def __init__(self, house: House, who: ConnectionInfo) -> None:
        self._house = house
        self._who = who
        self.generation = house.generation
        # Whoever shares it may do the same: everybody where everybody may do everything, else this connection alone.
        self.viewer: object = house if house.allows_everything else self
        self.topics = TopicDoor(house, who)
        self.groups = GroupDoor(house, who)
        self.transactions = TransactionDoor(house, who)

    @property
    def settings(self) -> StoredSettings:
        """What is set for brokers in the database."""
        if self._house.stored is None:
            raise Refused(ErrorCode.NOT_CONTROLLER, None)
        return self._house.stored

    @property
    def principal(self) -> str:
        """Who asks, for those who keep it to ask later; empty where nobody is asked."""
        return "" if self._house.allows_everything else self._who.principal

    @property
    def acls(self) -> AclBook | None:
        """The access control lists; None where the authorizer reads none."""
        return self._house.acls

    @property
    def quotas(self) -> StoredQuotas:
        """What clients may take, as the database has it."""
        if self._house.quotas is None:
            raise Refused(ErrorCode.NOT_CONTROLLER, None)
        return self._house.quotas

    @property
    def client_metrics(self) -> StoredClientMetrics:
        """Subscriptions to metrics of clients, as the database has them."""
        if self._house.client_metrics is None:
            raise Refused(ErrorCode.NOT_CONTROLLER, None)
        return self._house.client_metrics

    @property
    def users(self) -> StoredUsers:
        """Who may log in, as the database has it."""
        if self._house.users is None:
            raise Refused(ErrorCode.NOT_CONTROLLER, None)
        return self._house.users

    def may(self, operation: Operation, resource: ResourceType, name: str = CLUSTER_NAME) -> bool:
        return self._house.may(self._who, operation, resource, name)

    def check(self, operation: Operation, resource: ResourceType, name: str = CLUSTER_NAME) -> None:
        """Raises Refused."""
        self._house.check(self._who, operation, resource, name)

    def check_idempotent_write(self) -> None:
        """May the principal get a producer id? Whoever may write to any topic may. Raises Refused."""
        house, who = self._house, self._who
        if not house.may(who, Operation.IDEMPOTENT_WRITE, ResourceType.CLUSTER, CLUSTER_NAME) and (
            not house.authorizer.allows_any(who, Operation.WRITE, ResourceType.TOPIC)
        ):
            raise Refused(DENIED[ResourceType.CLUSTER], None)

    def check_controller(self) -> None:
        """Raises Refused when another broker creates and deletes topics."""
        placement = self._house.placement
        if not placement.has_everything and not placement.is_controller:
            raise Refused(ErrorCode.NOT_CONTROLLER, None)

    def operations(self, resource: ResourceType, name: str = CLUSTER_NAME) -> int:
        """What the principal may do, as a set of bits: bit n stands for Kafka's operation n."""
        if self._house.allows_everything:
            return _ALL[resource]
        return _bits(tuple(each for each in OPERATIONS[resource] if self.may(each, resource, name)))

    def cluster_operations(self) -> int:
        """The same for the cluster, which only those may know who may describe it."""
        return self.operations(ResourceType.CLUSTER) if self.may(Operation.DESCRIBE, ResourceType.CLUSTER) else 0


def _bits(operations: tuple[Operation, ...]) -> int:
    return sum(1 << operation for operation in operations)


_ALL = {resource: _bits(operations) for resource, operations in OPERATIONS.items()}
