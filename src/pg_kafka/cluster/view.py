"""The cluster as others describe it to clients: who leads, who waits, which topics there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

# Addresses to listen on, which are no addresses to connect to.
WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class Peer:
    """A broker and where clients reach it."""

    node_id: int
    host: str
    port: int

    @property
    def is_reachable(self) -> bool:
        """Whether that is an address that clients can use: one that listens on all needs --advertise."""
        return self.host not in WILDCARDS


@dataclass(frozen=True, slots=True)
class TopicSeen:
    """A topic as the database has it."""

    name: str
    uuid: UUID
    partitions: int


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What a broker that waits knows, from the database alone."""

    cluster_id: str
    node_id: int
    leader: Peer
    leader_epoch: int
    waiting: tuple[Peer, ...]
    topics: Mapping[str, TopicSeen]
