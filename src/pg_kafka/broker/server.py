"""The listener: accepts connections, owns them and their tasks, and ends them in order.

server = Server(broker)
await server.start()      listens; raises FatalError when it cannot
await server.stop(5.0)    accepts nothing new, lets requests in progress finish for so many seconds
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pg_kafka.broker import open_files
from pg_kafka.broker.budget import RESERVE_BYTES, RequestBudget
from pg_kafka.broker.connection import Connection
from pg_kafka.broker.context import Broker
from pg_kafka.broker.freed_memory import FreedMemory
from pg_kafka.broker.listening import ListeningPlace, bound, cannot_listen

logger = logging.getLogger(__name__)

LISTEN_BACKLOG = 1024
# How often the same kind of line is logged at most: what a peer causes must not fill the log.
NOTE_INTERVAL_S = 5.0
MAX_NOTE_KINDS = 256
# While connections wait for the request budget, and a frame older than this holds more than its share: it is given up.
STALLED_FRAME_S = 10.0
BUDGET_CHECK_S = 1.0
# The idle timeout is kept to about a tenth of itself.
IDLE_CHECKS_PER_TIMEOUT = 10
# Requests with very many items that are read and handled at a time; the others keep the bytes that they came in.
LARGE_REQUESTS_AT_ONCE = 4
MIN_IDLE_CHECK_S = 0.05

T = TypeVar("T")

_DIGITS = re.compile("[0-9]+")


class Server:
    """All connections of one listening address."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._budget = RequestBudget(broker.config.request_budget_bytes, lambda: self._unwritten_bytes, self._on_wanted)
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._next_connection_id = 1
        self._idle_timer: asyncio.TimerHandle | None = None
        self._budget_timer: asyncio.TimerHandle | None = None
        self._notes: dict[tuple[str, str], tuple[float, int]] = {}  # (time of the last line, lines left out since)
        self._emptied: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[Connection] = []
        self.freed_memory = FreedMemory(broker.decoding.pool)
        self._files_limit = open_files.limit()
        self.large_requests = asyncio.Semaphore(LARGE_REQUESTS_AT_ONCE)
        self._codec_thread = ThreadPoolExecutor(1, thread_name_prefix="messages")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one when 0 was asked for."""
        name = self._listeners[0].sockets[0].getsockname()
        return name[0], name[1]

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    @property
    def request_bytes(self) -> int:
        """Bytes of requests held in memory over all connections."""
        return self._budget.used_bytes

    @property
    def _unwritten_bytes(self) -> int:
        """What the log has accepted and not written; large batches have a bound of their own."""
        return self._broker.log.queued_bytes - self._broker.decoding.queued_bytes

    async def start(self, place: ListeningPlace | None = None) -> None:
        """Listen. Raises FatalError when the address is not to be had."""
        listen = self._broker.config.listen
        loop = asyncio.get_running_loop()
        try:
            for socket_ in place.shared() if place is not None else bound(listen):
                self._listeners.append(await loop.create_server(self._accept, sock=socket_, backlog=LISTEN_BACKLOG))
        except OSError as error:
            raise cannot_listen(listen, error) from error
        self._schedule_idle_check()
        self.freed_memory.start()

    async def stop(self, deadline_s: float) -> None:
        """Accept nothing new, finish what is in progress within `deadline_s`, then cut what is left."""
        for listener in self._listeners:
            listener.close()
        for timer in (self._idle_timer, self._budget_timer):
            if timer is not None:
                timer.cancel()
        self.freed_memory.stop()
        self._emptied = asyncio.Event()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(deadline_s):
                if self._connections:
                    await self._emptied.wait()
                if self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            cut = sum(connection.has_requests for connection in self._connections)
            if cut or self._tasks:
                logger.warning("requests in progress cut off", extra={"connections": cut, "tasks": len(self._tasks)})
        for connection in list(self._connections):
            connection.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._codec_thread.shutdown(wait=False, cancel_futures=True)

    # For connections

    def admit(self, connection: Connection) -> str | None:
        """Take a new connection in, or say why not."""
        config = self._broker.config
        host = connection.info.peer[0]
        self._connections.add(connection)
        self._per_address[host] += 1
        if self._emptied is not None:
            return "the broker is stopping"
        if connection.descriptor >= self._files_limit - self._broker.files_kept_free:
            return (
                f"{self._broker.files_kept_free} files are left to be opened, which are kept for sessions with PostgreSQL;"
                f" the limit of open files (ulimit -n) is {self._files_limit}"
            )
        if len(self._connections) > config.max_connections:
            return f"more than max.connections = {config.max_connections}"
        if self._per_address[host] > config.max_connections_per_ip:
            return f"more than max.connections.per.ip = {config.max_connections_per_ip}"
        return None

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        host = connection.info.peer[0]
        self._per_address[host] -= 1
        if self._per_address[host] <= 0:
            del self._per_address[host]
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def write_soon(self, connection: Connection) -> None:
        """Let a connection write once everything has run that is due in this turn of the event loop."""
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(connection)

    def _write(self) -> None:
        connections, self._unwritten = self._unwritten, []
        for connection in connections:
            connection.write_due()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Own a connection's task until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def beside_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        """Decode or encode a message with very many items in a thread, which shares the processor with the event loop."""
        return await self._loop.run_in_executor(self._codec_thread, work, *arguments)

    def note(
        self,
        message: str,
        kind: str,
        *,
        level: int = logging.ERROR,
        exc_info: BaseException | None = None,
        **extra: object,
    ) -> None:
        """Log what a peer has caused: each message and kind at most every few seconds, with the number left out.

        Kinds that differ in numbers only are one.
        """
        if not logger.isEnabledFor(level):
            return
        now = asyncio.get_running_loop().time()
        kind = _DIGITS.sub("", kind)
        if len(self._notes) >= MAX_NOTE_KINDS and (message, kind) not in self._notes:
            self._notes = {key: note for key, note in self._notes.items() if now - note[0] < NOTE_INTERVAL_S}
            if len(self._notes) >= MAX_NOTE_KINDS:
                kind = "other"
        last, left_out = self._notes.get((message, kind), (-NOTE_INTERVAL_S, 0))
        if now - last < NOTE_INTERVAL_S:
            self._notes[message, kind] = (last, left_out + 1)
            return
        self._notes[message, kind] = (now, 0)
        if left_out:
            extra["left_out"] = left_out
        logger.log(level, message, exc_info=exc_info, extra=extra)

    # Its own

    def _accept(self) -> Connection:
        connection = Connection(self, self._broker, self._budget, self._next_connection_id)
        self._next_connection_id += 1
        return connection

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
                self.note(
                    "connection closed",
                    "idle",
                    level=logging.INFO,
                    peer=connection.info.peer[0],
                    reason=f"idle for connections.max.idle.ms = {self._broker.config.connections_max_idle_ms}",
                )
                connection.abort()

    def _on_wanted(self) -> None:
        """The first of possibly many connections begins to wait for memory."""
        self.note(
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
        halves = [c for c in self._connections if c.partial_bytes > RESERVE_BYTES and not c.is_closed]
        held = sum(connection.partial_bytes for connection in halves)
        oldest = asyncio.get_running_loop().time() - STALLED_FRAME_S
        for connection in sorted(halves, key=lambda c: c.frame_begun):
            if held <= self._budget.limit_bytes // 2 or connection.frame_begun > oldest:
                break
            held -= connection.partial_bytes
            self.note(
                "connection closed",
                "stalled",
                level=logging.WARNING,
                peer=connection.info.peer[0],
                reason="a request stalled half-sent while memory was short (queued.max.request.bytes)",
            )
            connection.abort()
