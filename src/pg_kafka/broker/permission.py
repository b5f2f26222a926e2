"""May somebody do something: Kafka's operations and types of resources, and the question to an authorizer.

Each row of the dispatch table names what its API asks for (`Access`); the doors ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.wire.error_codes import ErrorCode

CLUSTER_NAME = "kafka-cluster"
"""The name of the one resource of the type CLUSTER."""


class Operation(IntEnum):
    """By Kafka's numbers (`AclOperation`)."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class ResourceType(IntEnum):
    """By Kafka's numbers (`ResourceType`)."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


DENIED: Mapping[ResourceType, ErrorCode] = MappingProxyType(
    {
        ResourceType.TOPIC: ErrorCode.TOPIC_AUTHORIZATION_FAILED,
        ResourceType.GROUP: ErrorCode.GROUP_AUTHORIZATION_FAILED,
        ResourceType.CLUSTER: ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
        ResourceType.TRANSACTIONAL_ID: ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ResourceType.DELEGATION_TOKEN: ErrorCode.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
    }
)
"""What a request is told that asks for a resource without permission."""

OPERATIONS: Mapping[ResourceType, tuple[Operation, ...]] = MappingProxyType(
    {
        ResourceType.TOPIC: (
            Operation.READ,
            Operation.WRITE,
            Operation.CREATE,
            Operation.DELETE,
            Operation.ALTER,
            Operation.DESCRIBE,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
        ),
        ResourceType.GROUP: (
            Operation.READ,
            Operation.DELETE,
            Operation.DESCRIBE,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
        ),
        ResourceType.CLUSTER: (
            Operation.CREATE,
            Operation.ALTER,
            Operation.DESCRIBE,
            Operation.CLUSTER_ACTION,
            Operation.DESCRIBE_CONFIGS,
            Operation.ALTER_CONFIGS,
            Operation.IDEMPOTENT_WRITE,
        ),
    }
)
"""The operations that an answer with authorized operations tells of."""


class If(IntEnum):
    """What becomes of a request without permission."""

    REFUSED = 0  # the resource, or the whole request, is answered with the error of `DENIED`
    HIDDEN = 1  # what the client may not see is left out, without an error
    INSTEAD = 2  # another access of the same row is enough


class Access(NamedTuple):
    """What an API asks for of one type of resource. `when` says which requests of the API do, where not all do."""

    operation: Operation
    resource: ResourceType
    when: str = ""
    denied: If = If.REFUSED


class Authorizer(Protocol):
    """Decides. Where decisions change, the house has to hear of it (`House.changed`)."""

    @property
    def allows_everything(self) -> bool:
        """True: it is never asked. Fixed for the authorizer's life."""

    def allows(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        """May the principal of this connection do this to the resource with this name?"""

    def allows_any(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> bool:
        """May it do this to any resource of the type at all?"""

    def decided(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> Mapping[str, bool]:
        """What `allows` says of some names to this principal from this host, for who asks about each request.

        It is filled and, where anything may be decided otherwise, emptied by the authorizer. So an answer that stands
        there holds, and where none stands `allows` has to be asked. One that has been emptied may stay so: ask for it
        again after each answer of `allows`.
        """


class Everybody:
    """Everybody may do everything."""

    allows_everything = True

    def allows(self, who: ConnectionInfo, operation: Operation, resource: ResourceType, name: str) -> bool:
        return True

    def allows_any(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> bool:
        return True

    def decided(self, who: ConnectionInfo, operation: Operation, resource: ResourceType) -> Mapping[str, bool]:
        return {}
