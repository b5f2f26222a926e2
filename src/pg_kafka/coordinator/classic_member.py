"""A member of a classic group, and the JSON that stores it.

Pure and immutable: whoever changes a member makes a new one. `to_value` and `from_value` are inverse; "topics" and
"assigned" are extra, for those who read the tables with SQL.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pg_kafka.coordinator.subscriptions import assigned_partitions, subscribed_topics

CONSUMER_PROTOCOL_TYPE: Final = "consumer"
"""Members of this protocol type describe subscriptions and assignments in a form that the broker knows, too."""


@dataclass(frozen=True, slots=True)
class ClassicMember:
    """What a member said when it joined, and what the leader gave it; `protocols` are in its order of preference."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes = b""

    @property
    def is_static(self) -> bool:
        return self.group_instance_id is not None

    @property
    def protocol_names(self) -> list[str]:
        """Each name once, most wanted first."""
        return list(dict.fromkeys(name for name, _ in self.protocols))

    def metadata(self, protocol: str | None) -> bytes:
        """What the member sent with this protocol; nothing when it does not have it."""
        for name, metadata in self.protocols:
            if name == protocol:
                return metadata
        return b""

    def vote(self, candidates: Collection[str]) -> str:
        """The first of the member's protocols that is a candidate. One is: candidates are those that all have."""
        return next(name for name, _ in self.protocols if name in candidates)


def to_value(member: ClassicMember, protocol_type: str, protocol: str | None) -> dict[str, Any]:
    """The member as JSON. "topics" and "assigned" are null when they are not known."""
    is_consumer = protocol_type == CONSUMER_PROTOCOL_TYPE
    return {
        "member_id": member.member_id,
        "group_instance_id": member.group_instance_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "session_timeout_ms": member.session_timeout_ms,
        "rebalance_timeout_ms": member.rebalance_timeout_ms,
        "protocols": [[name, b64encode(metadata).decode()] for name, metadata in member.protocols],
        "assignment": b64encode(member.assignment).decode(),
        "topics": subscribed_topics(member.metadata(protocol)) if is_consumer else None,
        "assigned": assigned_partitions(member.assignment) if is_consumer else None,
    }


def from_value(value: Mapping[str, Any]) -> ClassicMember:
    """The member that `to_value` stored."""
    return ClassicMember(
        value["member_id"],
        value["group_instance_id"],
        value["client_id"],
        value["client_host"],
        value["session_timeout_ms"],
        value["rebalance_timeout_ms"],
        tuple((name, b64decode(metadata)) for name, metadata in value["protocols"]),
        b64decode(value["assignment"]),
    )
