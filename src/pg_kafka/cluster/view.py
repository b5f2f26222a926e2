"""The cluster as others describe it to clients: who leads, who waits, which topics there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

# Addresses to listen on, which are no addresses to connect to.
WILDCARDS = ("0.0.0.0", "::", "")


class Reachable(NamedTuple):
    """What a broker tells the others of itself."""

    host: str
    port: int
    version: str
    endpoints: Sequence[str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A broker and where clients reach it."""

    node_id: int
    host: str
    port: int  # of the first listener
    endpoints: tuple[str, ...] = ()  # SECURE://host:port, of each listener; none of a broker of an older version

    @classmethod
    def of(cls, row: asyncpg.Record) -> Peer:
        """A row of `kafka.brokers`."""
        return cls(row["node_id"], row["host"], row["port"], tuple(row["endpoints"]))

    @property
    def is_reachable(self) -> bool:
        """Whether that is an address that clients can use: one that listens on all needs --advertise."""
        return self.host not in WILDCARDS

    def address_for(self, listener: str) -> tuple[str, int] | None:
        """Where clients of a listener reach it, or None when it has no listener with that name."""
        if not self.endpoints:
            return self.host, self.port
        for endpoint in self.endpoints:
            name, _, place = endpoint.partition("://")
            if name == listener:
                host, _, port = place.rpartition(":")
                return host.removeprefix("[").removesuffix("]"), int(port)
        return None


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
