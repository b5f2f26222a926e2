"""What has configs: Kafka's types of resources, and the names of brokers among them."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from pg_kafka.broker.refusals import Refused
from pg_kafka.wire.error_codes import ErrorCode


class Resource(IntEnum):
    """Kafka's numbers."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


def checked_node(name: str, node_ids: Collection[int]) -> int | None:
    """The node that is named, None for the empty name, which means all. `node_ids` begins with our own. Raises Refused."""
    return _known_node(name, node_ids, " or empty string,") if name else None


def checked_own_node(name: str, node_id: int) -> None:
    """Raises Refused unless our own node is named."""
    if not name:
        raise Refused(ErrorCode.INVALID_REQUEST, "Broker id must not be empty")
    _known_node(name, [node_id], "")


def _known_node(name: str, node_ids: Collection[int], alternative: str) -> int:
    if not name.isascii() or not name.isdigit():
        raise Refused(ErrorCode.INVALID_REQUEST, f"Broker id must be an integer, but it is: {name}")
    known = {str(node_id): node_id for node_id in node_ids}
    if name not in known:
        expected = next(iter(known))
        raise Refused(
            ErrorCode.INVALID_REQUEST, f"Unexpected broker id, expected {expected}{alternative} but received {name}"
        )
    return known[name]
