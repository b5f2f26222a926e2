"""What a request handler gets: the broker it works for and the request's surroundings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pg_kafka.broker.audit import Audit, NoAudit
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.doors import Doors
from pg_kafka.broker.fetch_sessions import FetchSessions
from pg_kafka.broker.quotas import Limits, Mutations, Quotas, Windows
from pg_kafka.broker.records import Records
from pg_kafka.broker.telemetry import Telemetry
from pg_kafka.broker.turns import Turns
from pg_kafka.broker.waiters import Deadlines
from pg_kafka.clock import Clock
from pg_kafka.cluster.view import WILDCARDS, Peer
from pg_kafka.config import Config
from pg_kafka.config.listeners import Listener
from pg_kafka.config.settings import Settings
from pg_kafka.coordinator.group_steps import Sender
from pg_kafka.storage.sync_standbys import SyncStandbys
from pg_kafka.wire.frames import RequestHeader


class Versions(NamedTuple):
    """Of one API: what clients are told to use."""

    key: int
    first: int
    last: int


class Own(NamedTuple):
    """What a broker that waits says of itself, where it otherwise speaks of the leader."""

    node_id: int
    config: Config


class LogDir(NamedTuple):
    """Where the log is, for clients that ask for log directories."""

    name: str
    room: Callable[
        [], tuple[int, int] | None
    ]  # bytes of the disk, and how many are free; None: it is not seen from here


class Forwards(Protocol):
    """Passes requests on to the leader."""

    async def ask(self, ctx: Context, request: Any) -> Any:
        """The leader's answer. Raises NotForwarded (`forwarding.py`)."""


def _no_quotas() -> Quotas:
    return Quotas(Clock().steady_ms, Windows.of(Config()))


def _no_subscriptions() -> Telemetry:
    return Telemetry(Clock().steady_ms)


@dataclass(slots=True, kw_only=True)
class Broker:
    """What handlers use beside the doors. Built once, by `app.py`."""

    settings: Settings
    node_id: int
    epoch: int  # the leader epoch of all partitions
    cluster_id: str
    records: Records
    fetch_sessions: FetchSessions
    versions: Sequence[Versions]
    clock: Clock
    log_dir: LogDir
    decoding: Decoding  # of batches that are too large for the event loop
    listeners: Sequence[Listener] = ()  # with the ports that they have
    files_kept_free: int = 0  # by clients, for sessions with PostgreSQL
    deadlines: Deadlines = field(default_factory=Deadlines)  # of fetches that wait
    turns: Turns = field(default_factory=Turns)  # of handlers that have long work
    warned_configs: set[str] = field(default_factory=set)  # topic configs without effect that a log line has named
    waiting: Callable[[], Sequence[Peer]] = tuple  # brokers that wait for the end of this one

    audit: Audit = field(default_factory=NoAudit)
    quotas: Quotas = field(default_factory=_no_quotas)
    telemetry: Telemetry = field(default_factory=_no_subscriptions)
    standbys: SyncStandbys | None = None  # whom acks=all wants to be there
    own: Own | None = None  # of one that waits
    forwarder: Forwards | None = None  # of one that waits
    leader: Peer | None = None  # whom one that waits tells clients of

    @property
    def config(self) -> Config:
        """The settings as they are at this moment."""
        return self.settings.current

    @property
    def has_standbys(self) -> bool:
        """Are enough synchronous standbys connected for acks=all?"""
        return self.standbys is None or self.standbys.are_enough

    def advertised(self, connection: ConnectionInfo) -> tuple[str, int]:
        """The address clients of a listener are told to use: the configured one, else the one this client connected to.

        A broker that waits tells that of the leader.
        """
        if self.leader is not None:
            return self.leader.address_for(connection.listener.name) or (self.leader.host, self.leader.port)
        advertised = connection.listener.advertised
        return connection.local if advertised is None else (advertised.host, advertised.port)

    def others(self, connection: ConnectionInfo) -> list[tuple[int, str, int]]:
        """Brokers without partitions, where clients may look for the one that leads when this one is gone.

        Each has a node id, a host and a port, of the listener that the client has come by.
        """
        found = [(peer, peer.address_for(connection.listener.name)) for peer in self.waiting()]
        return [(peer.node_id, *address) for peer, address in found if address and address[0] not in WILDCARDS]


@dataclass(slots=True)
class Context:
    """The surroundings of one request."""

    broker: Broker
    doors: Doors
    header: RequestHeader
    connection: ConnectionInfo
    is_large: bool = False  # the request names more than `turns.ITEMS_AT_ONCE` things

    @property
    def version(self) -> int:
        return self.header.api_version

    @property
    def limits(self) -> Limits | None:
        """The quotas that hold for the client; None where there are no quotas at all."""
        quotas = self.broker.quotas
        return quotas.limits(self.connection.principal, self.header.client_id or "") if quotas.is_active else None

    def mutations(self, strict_since: int = 0) -> Mutations:
        """What the client may create and delete; below this version of the request it is not told that it may not."""
        is_strict = self.version >= strict_since
        return self.broker.quotas.mutations(self.connection.principal, self.header.client_id or "", is_strict=is_strict)

    @property
    def sender(self) -> Sender:
        """Who sent the request, as groups know it."""
        host = "/" + self.connection.peer[0]
        return Sender(self.header.client_id or "", host, self.header.api_version, self.doors.principal)
