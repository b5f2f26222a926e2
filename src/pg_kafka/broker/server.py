"""The server: accepts connections of all listeners, owns them and their tasks, and ends them in order.

server = Server(broker, apis, house, log_queued_bytes)
await server.start()      listens on all listeners; raises FatalError when it cannot
await server.stop(5.0)    accepts nothing new, lets requests in progress finish for so many seconds
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import partial
from types import MappingProxyType

from pg_kafka.broker import open_files
from pg_kafka.broker.api import Api
from pg_kafka.broker.arrivals import Arrivals
from pg_kafka.broker.authentication import SaslRules
from pg_kafka.broker.budget import RESERVE_BYTES, RequestBudget
from pg_kafka.broker.certificates import CertificateProblem, Watched
from pg_kafka.broker.connection import Connection, Shared
from pg_kafka.broker.context import Broker
from pg_kafka.broker.doors import House
from pg_kafka.broker.freed_memory import FreedMemory
from pg_kafka.broker.listening import ListeningPlace, cannot_listen
from pg_kafka.broker.notes import Notes
from pg_kafka.broker.observer import Observer
from pg_kafka.broker.quotas import Windows
from pg_kafka.broker.request_figures import RequestFigures
from pg_kafka.broker.tls import Handshake, TlsTransport
from pg_kafka.broker.work import Work
from pg_kafka.clock import Clock
from pg_kafka.config.listeners import Listener, overrides
from pg_kafka.config.listening import listeners_of
from pg_kafka.errors import ConfigError, FatalError
from pg_kafka.metrics.clients import ConnectionCounters
from pg_kafka.tasks import supervised

logger = logging.getLogger(__name__)

LISTEN_BACKLOG = 1024
# While connections wait for the request budget, and a frame older than this holds more than its share: it is given up.
STALLED_FRAME_S = 10.0
BUDGET_CHECK_S = 1.0
CERTIFICATES_CHECK_S = 2.0
# The idle timeout is kept to about a tenth of itself.
IDLE_CHECKS_PER_TIMEOUT = 10
MIN_IDLE_CHECK_S = 0.05
_MAX, _MAX_PER_IP = "max.connections", "max.connections.per.ip"


class Server:
    """All connections of a broker, by whichever listener they came. Limits hold over all of them."""

    def __init__(
        self,
        broker: Broker,
        apis: Mapping[int, Api],
        house: House,
        log_queued_bytes: Callable[[], int],
        observer: Observer | None = None,
        sasl: Mapping[str, SaslRules] = MappingProxyType({}),
        counters: ConnectionCounters | None = None,
        figures: RequestFigures | None = None,
    ) -> None:
        self._counters = counters or ConnectionCounters()
        self._broker = broker
        self._log_queued_bytes = log_queued_bytes
        self._budget = RequestBudget(broker.config.request_budget_bytes, lambda: self._unwritten_bytes, self._on_wanted)
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._per_listener: Counter[str] = Counter()
        self._accepting: list[asyncio.Server] = []
        self._tls: dict[str, Watched] = {}  # by the names of listeners
        self._tls_watch: asyncio.Task[None] | None = None
        self._settings_changed = asyncio.Event()
        self._next_connection_id = 1
        self._idle_timer: asyncio.TimerHandle | None = None
        self._budget_timer: asyncio.TimerHandle | None = None
        self._arrivals = Arrivals(broker.quotas, Windows.of(broker.config).clients)
        self._notes = Notes(logger)
        self._work = Work()
        self._emptied: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[Connection] = []
        self._freed_memory = FreedMemory(broker.decoding.pool)
        self._files_limit = open_files.limit()
        self._shared = Shared(
            broker=broker,
            apis=apis,
            house=house,
            budget=self._budget,
            freed_memory=self._freed_memory,
            notes=self._notes,
            work=self._work,
            observer=observer,
            figures=figures or RequestFigures(),
            sasl=sasl,
            counters=self._counters,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where its first listener is; the port is the real one when 0 was asked for."""
        name = self._accepting[0].sockets[0].getsockname()
        return name[0], name[1]

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    @property
    def connections_by_listener(self) -> Mapping[str, int]:
        return self._per_listener

    @property
    def connection_limit(self) -> int:
        """More connections than this are refused, by max.connections or since there are no files left to be opened."""
        kept = self._files_limit - self._broker.files_kept_free
        return max(0, min(self._broker.config.max_connections, kept))

    @property
    def budget(self) -> RequestBudget:
        """The memory for requests, over all connections."""
        return self._budget

    @property
    def work(self) -> Work:
        """What connections have left to tasks and threads."""
        return self._work

    @property
    def request_bytes(self) -> int:
        """Bytes of requests held in memory over all connections."""
        return self._budget.used_bytes

    @property
    def _unwritten_bytes(self) -> int:
        """What the log has accepted and not written; large batches have a bound of their own."""
        return self._log_queued_bytes() - self._broker.decoding.queued_bytes

    async def start(self, place: ListeningPlace | None = None) -> None:
        """Listen. Raises FatalError when an address is not to be had."""
        if place is None:
            with contextlib.closing(ListeningPlace(listeners_of(self._broker.config))) as own:
                await self.start(own)
            return
        for listener in place.listeners:
            if listener.tls is not None:
                try:
                    self._tls[listener.name] = await asyncio.to_thread(
                        Watched, listener.name, listener.tls, Clock().wall_ms
                    )
                except CertificateProblem as problem:
                    raise FatalError(f"listener {listener.name}: {problem}") from None
        for listener, socket_ in place.shared():
            await self._listen(listener, socket_)
        if self._tls:
            self._broker.settings.watch(self._settings_changed.set)
            self._tls_watch = supervised(self._watch_certificates(), "certificate watch", self._on_watch_end)
        self._schedule_idle_check()
        self._freed_memory.start()

    async def stop(self, deadline_s: float) -> None:
        """Accept nothing new, finish what is in progress within `deadline_s`, then cut what is left."""
        for accepting in self._accepting:
            accepting.close()
        if self._tls_watch is not None:
            self._tls_watch.cancel()
        for timer in (self._idle_timer, self._budget_timer):
            if timer is not None:
                timer.cancel()
        self._freed_memory.stop()
        self._emptied = asyncio.Event()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(deadline_s):
                if self._connections:
                    await self._emptied.wait()
                if self._work.tasks:
                    await asyncio.wait(self._work.tasks)
        except TimeoutError:
            cut = sum(connection.has_requests for connection in self._connections)
            if cut or self._work.tasks:
                logger.warning(
                    "requests in progress cut off", extra={"connections": cut, "tasks": len(self._work.tasks)}
                )
        for connection in list(self._connections):
            connection.abort()
        await self._work.cancel()

    def cut_off(self, proofs: Collection[Hashable], reason: str) -> None:
        """Close the connections of those who have proved by one of these who they are."""
        for connection in list(self._connections):
            if connection.proof is not None and connection.proof in proofs:
                self._counters.closed["credentials changed"] += 1
                connection.cut_off(reason)

    def observe(self, observer: Observer | None) -> None:
        """Tell it of the requests that begin from now on; None: nobody."""
        self._shared.observer = observer
        for connection in self._connections:
            connection.observe(observer)

    # For connections

    def admit(self, connection: Connection) -> str | None:
        """Take a new connection in, or say why not."""
        host, listener = connection.info.peer[0], connection.info.listener.name
        self._connections.add(connection)
        self._per_address[host] += 1
        self._per_listener[listener] += 1
        self._counters.opened[listener] += 1
        refused = self._refused(connection, host, listener)
        if refused is None:
            return None
        limit, sentence = refused
        self._counters.refused[limit] += 1
        return sentence

    def _refused(self, connection: Connection, host: str, listener: str) -> tuple[str, str] | None:
        """The limit that a new connection goes beyond, and a sentence about it."""
        config = self._broker.config
        if self._emptied is not None:
            return "stop", "the broker is stopping"
        if connection.descriptor >= self._files_limit - self._broker.files_kept_free:
            return "open files", (
                f"{self._broker.files_kept_free} files are left to be opened, which are kept for sessions with PostgreSQL;"
                f" the limit of open files (ulimit -n) is {self._files_limit}"
            )
        if len(self._connections) > config.max_connections:
            return _MAX, f"more than {_MAX} = {config.max_connections}"
        if self._per_listener[listener] > (limit := config.of_listener(listener, _MAX)):
            return _MAX, f"more than {_MAX} = {limit} of listener {listener}"
        limit = overrides(config.max_connections_per_ip_overrides).get(host)
        if limit is not None and self._per_address[host] > limit:
            return f"{_MAX_PER_IP}.overrides", f"more than {_MAX_PER_IP}.overrides = {limit} for this address"
        if limit is None and self._per_address[host] > config.max_connections_per_ip:
            return _MAX_PER_IP, f"more than {_MAX_PER_IP} = {config.max_connections_per_ip}"
        arrival = self._arrivals.came(host, listener, config)
        if arrival.wait_ms and arrival.refusal is None:
            self._counters.delayed[arrival.limit] += 1
            connection.mute(arrival.wait_ms)
        elif arrival.wait_ms:
            self._counters.refused[arrival.limit] += 1
            connection.mute(arrival.wait_ms, arrival.refusal)
        elif arrival.refusal is not None:
            return arrival.limit, arrival.refusal
        return None

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        host = connection.info.peer[0]
        self._per_address[host] -= 1
        self._per_listener[connection.info.listener.name] -= 1
        if self._per_address[host] <= 0:
            del self._per_address[host]
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def principal_of(self, listener: Listener, certificate: bytes) -> str | None:
        """Who a client with this certificate is; None: nobody."""
        return self._tls[listener.name].loaded.principal_of(certificate)

    def write_soon(self, connection: Connection) -> None:
        """Let a connection write once everything has run that is due in this turn of the event loop."""
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(connection)

    def _write(self) -> None:
        connections, self._unwritten = self._unwritten, []
        for connection in connections:
            connection.write_due()

    # Its own

    async def _listen(self, listener: Listener, socket_: socket.socket) -> None:
        accept = partial(self._accept, listener)
        try:
            self._accepting.append(await self._loop.create_server(accept, sock=socket_, backlog=LISTEN_BACKLOG))
        except OSError as error:
            socket_.close()
            raise cannot_listen(listener.address, error) from error

    def _accept(self, listener: Listener) -> asyncio.Protocol:
        connection = Connection(self, self._shared, self._next_connection_id, listener)
        self._next_connection_id += 1
        if listener.tls is None:
            return connection
        return TlsTransport(
            connection,
            self._tls[listener.name].loaded.context,
            listener.protocol.value,
            partial(self._count_handshake, listener.name),
        )

    def _count_handshake(self, listener: str, result: Handshake) -> None:
        self._counters.handshakes[listener, result.value] += 1

    async def _watch_certificates(self) -> None:
        """Take over new files, and new settings, for new connections. Nothing tells of files, so they are looked at."""
        while True:
            self._settings_changed.clear()
            try:
                settings = {one.name: one.tls for one in listeners_of(self._broker.config)}
            except ConfigError as error:
                logger.warning("listeners cannot be as they are set", extra={"reason": str(error)})
                settings = {}
            for name, watched in self._tls.items():
                await asyncio.to_thread(watched.look, settings.get(name))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CERTIFICATES_CHECK_S):
                    await self._settings_changed.wait()

    def _on_watch_end(self, reason: str) -> None:
        logger.error("certificates are not read anew any more", extra={"reason": reason})

    def _schedule_idle_check(self) -> None:
        idle_ms = self._broker.config.connections_max_idle_ms
        if idle_ms >= 0:
            delay_s = max(idle_ms / 1000 / IDLE_CHECKS_PER_TIMEOUT, MIN_IDLE_CHECK_S)
            self._idle_timer = asyncio.get_running_loop().call_later(delay_s, self._close_idle)

    def _close_idle(self) -> None:
        """Close connections on which nothing has happened for connections.max.idle.ms."""
        self._schedule_idle_check()
        oldest = asyncio.get_running_loop().time() - self._broker.config.connections_max_idle_ms / 1000
        for connection in list(self._connections):
            if connection.last_active < oldest and connection.is_idle:
                self._notes.note(
                    "connection closed",
                    "idle",
                    level=logging.INFO,
                    peer=connection.info.host,
                    principal=connection.info.principal,
                    reason=f"idle for connections.max.idle.ms = {self._broker.config.connections_max_idle_ms}",
                )
                self._counters.closed["idle"] += 1
                connection.abort()

    def _on_wanted(self) -> None:
        """The first of possibly many connections begins to wait for memory."""
        self._notes.note(
            "connections wait for memory",
            "",
            level=logging.WARNING,
            request_bytes=self._budget.used_bytes,
            unwritten_bytes=self._unwritten_bytes,
            limit=f"queued.max.request.bytes = {self._budget.limit_bytes}",
        )
        self._watch_budget()

    def _watch_budget(self) -> None:
        if self._budget_timer is None:
            self._budget_timer = asyncio.get_running_loop().call_later(BUDGET_CHECK_S, self._relieve_budget)

    def _relieve_budget(self) -> None:
        """Half-sent frames must not keep the budget for ever: the oldest go when they hold more than half of it.

        It is also the safety net for room that appears without a reply: the log's queue may shrink by itself.
        """
        self._budget_timer = None
        try:
            self._close_stalled()
            self._budget.wake()
        finally:
            if self._budget.is_wanted:
                self._watch_budget()

    def _close_stalled(self) -> None:
        if not self._budget.is_full:
            return
        halves = [c for c in self._connections if c.stalled_bytes > RESERVE_BYTES and not c.is_closed]
        held = sum(connection.stalled_bytes for connection in halves)
        oldest = asyncio.get_running_loop().time() - STALLED_FRAME_S
        for connection in sorted(halves, key=lambda c: c.frame_begun):
            if held <= self._budget.limit_bytes // 2 or connection.frame_begun > oldest:
                break
            held -= connection.stalled_bytes
            self._notes.note(
                "connection closed",
                "stalled",
                level=logging.WARNING,
                peer=connection.info.host,
                principal=connection.info.principal,
                reason="a request stalled half-sent, or of a client that has to wait for its quota, while memory was short"
                " (queued.max.request.bytes)",
            )
            self._counters.closed["stalled"] += 1
            connection.abort()
