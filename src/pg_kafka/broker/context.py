"""What a request handler gets and gives: the broker it works for, the request's surroundings, and the reply.

Handlers import this file and nothing else of the edge. An ordinary handler is
`async def handler(ctx, request) -> response`; a hot one (Produce, Fetch) is a plain function
`handler(ctx, request, reply)` that completes `reply` now or later, by callback, on the event loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.turns import Turns
from pg_kafka.broker.waiters import Deadlines
from pg_kafka.wire.frames import response_frame

if TYPE_CHECKING:
    from pg_kafka.broker.fetch_sessions import FetchSessions
    from pg_kafka.broker.groups import GroupCoordinator
    from pg_kafka.broker.transactions import TransactionCoordinator
    from pg_kafka.cluster.view import Peer
    from pg_kafka.config import Config
    from pg_kafka.storage.log import Log
    from pg_kafka.storage.topics import Topics
    from pg_kafka.wire.frames import RequestHeader

Handler = Callable[["Context", Any], Awaitable[Any]]
HotHandler = Callable[["Context", Any, "Reply"], Awaitable[None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One row of the dispatch table (`broker/dispatch.py`)."""

    key: int
    name: str
    min_version: int
    max_version: int
    handler: Handler | HotHandler
    advertised_min: int | None = None  # the lowest version that ApiVersions names, where it is below min_version
    is_hot: bool = False  # the handler takes a Reply and completes it by callback
    adds_to_log: bool = False  # it waits while the log has too much to write; all others pass
    is_pipelined: bool = False  # the next request may start once the handler has returned, before its reply is sent
    failure: Callable[[Any, int], Any] | None = None  # (request, error code) -> response, for an unexpected exception
    # (context, request, frame, where its body begins): what to try on the next frame, if the request may come again
    recurrent: Callable[[Context, Any, bytes | memoryview, int], Recurrent | None] | None = None


@dataclass(slots=True)
class ConnectionInfo:
    """Who is at the other end of a connection."""

    id: int
    peer: tuple[str, int]
    local: tuple[str, int]
    client_software_name: str = ""
    client_software_version: str = ""


@dataclass(slots=True, kw_only=True)
class Broker:
    """Everything a handler may use. Built once, by `app.py`."""

    config: Config
    topics: Topics
    log: Log
    fetch_sessions: FetchSessions
    groups: GroupCoordinator
    transactions: TransactionCoordinator
    apis: Mapping[int, Api]
    now_ms: Callable[[], int]
    decoding: Decoding  # of batches that are too large for the event loop
    files_kept_free: int = 0  # by clients, for sessions with PostgreSQL
    deadlines: Deadlines = field(default_factory=Deadlines)  # of fetches that wait
    turns: Turns = field(default_factory=Turns)  # of handlers that have long work
    warned_configs: set[str] = field(default_factory=set)  # topic configs without effect that a log line has named
    waiting: Callable[[], Sequence[Peer]] = tuple  # brokers that wait for the end of this one

    def advertised(self, connection: ConnectionInfo) -> tuple[str, int]:
        """The address clients are told to use: the configured one, else the one this client connected to."""
        advertise = self.config.advertise
        return connection.local if advertise is None else (advertise.host, advertise.port)

    def others(self) -> list[Peer]:
        """Brokers without partitions, where clients may look for the one that leads when this one is gone."""
        return [peer for peer in self.waiting() if peer.is_reachable]


@dataclass(slots=True)
class Context:
    """The surroundings of one request."""

    broker: Broker
    header: RequestHeader
    connection: ConnectionInfo
    is_large: bool = False  # the request names more than `turns.ITEMS_AT_ONCE` things

    @property
    def version(self) -> int:
        return self.header.api_version


class Recurrent(Protocol):
    """A request of a hot handler that its client sends again and again, changed as little as the handler knows."""

    def come_again(self, frame: bytes | memoryview, sink: ReplySink) -> Reply | None:
        """Take a frame that is the same request and give the reply it will get; None: decode it as any other."""

    def start(self) -> None:
        """Do what the handler would do with the frame."""


class ReplySink(Protocol):
    """The connection, as a reply sees it."""

    def complete(self, reply: Reply, message: Any | None) -> None: ...

    def fail(self, reason: str) -> None: ...

    def note(self, message: str, reason: str, kind: str, level: int) -> None: ...


class Reply:
    """The answer to one request of a hot handler; answers leave in the order of the requests.

    `send` is called exactly once, on the event loop's thread, and never raises because the peer has gone. `send(None)`
    answers nothing on the wire (acks=0); call it when the append is done all the same, since until then the request's
    bytes count against the budgets. If the connection is lost first, `is_abandoned` becomes True and `on_abandon`, when
    set, is called once (to leave the waiters); a later `send` does nothing.
    """

    __slots__ = ("_sink", "context", "is_abandoned", "is_encoding", "is_sent", "on_abandon", "parts", "request_bytes")

    def __init__(self, sink: ReplySink, context: Context, request_bytes: int) -> None:
        self._sink = sink
        self.context = context
        self.request_bytes = request_bytes
        self.parts: list[bytes | memoryview] = []  # encoded by the connection
        self.is_sent = False
        self.is_encoding = False  # sent, and not yet ready for the wire
        self.is_abandoned = False
        self.on_abandon: Callable[[], None] | None = None

    def send(self, message: Any | None) -> None:
        """Answer with `message`, or, with None, let the request end without an answer."""
        if self.is_sent:
            raise RuntimeError(f"second reply to correlation id {self.context.header.correlation_id}")
        self.is_sent = True
        self.on_abandon = None
        if not self.is_abandoned:
            self._sink.complete(self, message)

    def send_encoded(self, body: bytes) -> None:
        """Answer with a message that has been encoded, in the version of the request."""
        header = self.context.header
        self.parts = response_frame(header.correlation_id, header.api_key, header.api_version, (body,))
        self.send(None)

    def send_frame(self, frame: bytes) -> None:
        """Answer with a whole response that has been encoded, its size and header included."""
        self.parts = [frame]
        self.send(None)

    def close(self, reason: str) -> None:
        """Close the connection instead of answering."""
        if not self.is_sent:
            self.is_sent = True
            self.on_abandon = None
            if not self.is_abandoned:
                self._sink.fail(reason)

    def note(self, message: str, reason: str, *, kind: str = "", level: int = logging.INFO) -> None:
        """A log line about what the peer asked for; of each message and kind only some are written."""
        self._sink.note(message, reason, kind, level)

    def abandon(self) -> None:
        """The connection is gone: tell the handler's callback. For the connection only."""
        self.is_abandoned = True
        callback, self.on_abandon = self.on_abandon, None
        if callback is not None:
            callback()
