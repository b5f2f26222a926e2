"""The HTTP server of metrics and health: a few answers to GET and HEAD, and nothing that a client sends is kept.

    server = HttpServer(pages)
    await server.start(sockets)         from the start of the process to its end
    await server.stop()

h11 reads the requests, for it is strict, bounded and has no I/O of its own: so the server shares the broker's event loop,
on which sources are read without locks. Servers with more to them bring threads, or have no deadline for a slow request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import h11

logger = logging.getLogger(__name__)

MOST_READ_BYTES = 4096
LISTEN_BACKLOG = 64


class Limits(NamedTuple):
    """What a client may take."""

    connections: int = 32  # at once; the one that is quiet the longest makes room for a new one
    request_bytes: int = 16 * 1024  # of a request's head; there are no bodies
    deadline_s: float = 10.0  # for a request to arrive, for an answer to be made, and for it to be taken
    # Between two requests: Prometheus keeps its connection from one look to the next, a minute by default.
    idle_s: float = 150.0


LIMITS = Limits()


class Page(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def sentence(cls, status: int, sentence: str, *headers: tuple[str, str]) -> Page:
        return cls(status, sentence.encode() + b"\n", headers=headers)


Handler = Callable[[Mapping[str, str]], Awaitable[Page]]


class HttpServer:
    """Serves `pages`, by path; each is given the headers of the request, with names in lower case."""

    def __init__(self, pages: Mapping[str, Handler], limits: Limits = LIMITS) -> None:
        self._pages = pages
        self._limits = limits
        self._accepting: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on these, which are bound and are closed with the server."""
        for one in sockets:
            self._accepting.append(
                await asyncio.start_server(self._accept, sock=one, limit=MOST_READ_BYTES, backlog=LISTEN_BACKLOG)
            )

    async def stop(self) -> None:
        """Accept nothing more and cut what is left."""
        for one in self._accepting:
            one.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """One for each connection."""
        return frozenset(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(reader, writer, self._pages, self._limits)
        if len(self._connections) >= self._limits.connections:
            quietest = min(self._connections, key=lambda one: self._connections[one].quietness)
            self._connections.pop(quietest).cut()
        self._connections[task] = connection
        try:
            await connection.serve()
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            logger.debug("connection for metrics closed", extra={"reason": str(error) or type(error).__name__})
        except asyncio.CancelledError:
            pass  # the server stops
        except RuntimeError:
            if not connection.is_closed:  # uvloop's word for what is done with a connection that was cut meanwhile
                raise
        finally:
            self._connections.pop(task, None)
            connection.cut()


class Connection:
    """One client, request by request."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Mapping[str, Handler], limits: Limits
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._pages = pages
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.request_bytes)
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self.is_answering = False

    @property
    def quietness(self) -> tuple[bool, float]:
        """The least of all is the one to give up first."""
        return self.is_answering, self.heard_at

    @property
    def is_closed(self) -> bool:
        return self._writer.is_closing()

    def cut(self) -> None:
        """Close at once, whatever is under way."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Answer until the client has gone. Raises OSError, TimeoutError, h11.ProtocolError."""
        is_first = True
        while True:
            try:
                request = await self._request(is_first)
            except h11.RemoteProtocolError as error:
                await self._refuse(error)
                return
            if request is None:
                return
            self.is_answering = True
            # Who does not wait for an answer gets one, and no more: else a flood of requests would take the event loop.
            is_last = bool(self._http.trailing_data[0])
            await self._send(await self._answer(request), is_head=request.method == b"HEAD", is_last=is_last)
            self.is_answering = False
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await self._close()
                return
            self._http.start_next_cycle()
            is_first = False

    async def _request(self, is_first: bool) -> h11.Request | None:
        """The next request, None at the end. The first byte of a later one may be waited for longer."""
        request: h11.Request | None = None
        is_begun = is_first
        deadline = self._loop.time() + (self._limits.deadline_s if is_first else self._limits.idle_s)
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout_at(deadline):
                    data = await self._reader.read(MOST_READ_BYTES)
                if not data or self.is_closed:
                    return None
                self.heard_at = self._loop.time()
                if not is_begun:
                    is_begun, deadline = True, self.heard_at + self._limits.deadline_s
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                raise h11.RemoteProtocolError("a body is not wanted", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:  # ConnectionClosed, or PAUSED: it does not go on
                return None

    async def _answer(self, request: h11.Request) -> Page:
        if request.method not in (b"GET", b"HEAD"):
            return Page.sentence(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        handler = self._pages.get(path)
        if handler is None:
            return Page.sentence(404, f"there is nothing here; there is {', '.join(self._pages)}")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                return await handler(headers)
        except TimeoutError:
            return Page.sentence(503, f"the answer took longer than {self._limits.deadline_s:.0f} s to make")
        except Exception as error:
            logger.error("metrics cannot be served", exc_info=error, extra={"path": path})
            return Page.sentence(500, "it cannot be made; the log says why")

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self.is_closed:
            return
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Page.sentence(error.error_status_hint, str(error)), is_head=False, is_last=True)
        await self._close()

    async def _send(self, page: Page, *, is_head: bool, is_last: bool = False) -> None:
        headers = [
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *page.headers,
        ]
        if is_last:
            headers.append(("Connection", "close"))
        if self.is_closed:
            raise ConnectionResetError("the connection was closed meanwhile")
        self._write(h11.Response(status_code=page.status, headers=headers))
        if not is_head:
            self._write(h11.Data(data=page.body))
        self._write(h11.EndOfMessage())
        async with asyncio.timeout(self._limits.deadline_s):
            await self._writer.drain()

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _close(self) -> None:
        """Let the client take what has been written, and close."""
        self._writer.close()
        async with asyncio.timeout(self._limits.deadline_s):
            await self._writer.wait_closed()
