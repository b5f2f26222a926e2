"""A TCP proxy between a broker and PostgreSQL that cuts, delays, or interferes with one COMMIT; and an address that moves.

    message = type (1 byte) | length of the rest, itself included (4) | body     the first message of a client: no type

A commit is what makes rows real: the query COMMIT, the end of a COPY that is its own transaction, or an INSERT that is
(`storage/prepared.py`), whose answer is complete with ReadyForQuery.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct

_PIECE = 65_536
_COPY_DONE = b"c"
_LONE_INSERT = b"\0pg_kafka_"  # in Bind: no portal's name, and the name of a statement
_COMMIT_QUERY = b"COMMIT\0"
_COMMIT_TAGS = (b"COMMIT\0", b"COPY ")


class Trap(enum.Enum):
    """What happens to the next commit that passes."""

    ANSWER_LOST = "it reaches the server, its answer does not come back, the connection is cut"
    REQUEST_LOST = "it does not reach the server, the connection is cut"
    REQUEST_LATE = "the broker's side is cut at once; the server gets the commit, and its end, a moment later"


class Messages:
    """Cuts a stream into whole messages; a client's stream begins with one that has no type."""

    def __init__(self, *, is_client: bool) -> None:
        self._data = bytearray()
        self._is_first = is_client

    def feed(self, data: bytes) -> list[bytes]:
        self._data += data
        whole: list[bytes] = []
        while True:
            start = 0 if self._is_first else 1
            if len(self._data) < start + 4:
                return whole
            end = start + struct.unpack_from(">I", self._data, start)[0]
            if len(self._data) < end:
                return whole
            whole.append(bytes(self._data[:end]))
            del self._data[:end]
            self._is_first = False


def is_commit(message: bytes) -> bool:
    """From the client: this message ends a transaction."""
    if message[:1] == b"Q":
        return message[5:].upper().startswith(_COMMIT_QUERY)
    return message[:1] == _COPY_DONE or is_lone_insert(message)


def is_lone_insert(message: bytes) -> bool:
    """From the client: an INSERT that is its own transaction."""
    return message[:1] == b"B" and message[5:].startswith(_LONE_INSERT)


def is_committed(message: bytes) -> bool:
    """From the server: a transaction has ended well (COPY may be in the middle of one)."""
    return message[:1] == b"C" and message[5:].startswith(_COMMIT_TAGS)


class Proxy:
    """Listens on 127.0.0.1; `upstream` may change, for connections made from then on."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.delay_s = 0.0
        self.refuses = False
        self.flows = asyncio.Event()  # cleared: nothing is taken from the broker, so that its buffers fill
        self.flows.set()
        self.sprung = asyncio.Event()
        self.port = 0
        self._trap: Trap | None = None
        self._trap_after = 0
        self._late_s = 0.0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def cut(self) -> None:
        """Break all connections, as a network does: no goodbye on either side."""
        for link in list(self._links):
            link.cut()

    def set_trap(self, trap: Trap, *, after: int = 0, late_s: float = 1.0) -> None:
        """Spring on a commit after so many have passed; `sprung` tells."""
        self.sprung.clear()
        self._trap, self._trap_after, self._late_s = trap, after, late_s

    def springs(self, *traps: Trap) -> Trap | None:
        """A commit passes: the trap, if it is one of these and it is its turn."""
        if self._trap not in traps:
            return None
        if self._trap_after:
            self._trap_after -= 1
            return None
        trap, self._trap = self._trap, None
        self.sprung.set()
        return trap

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refuses:
                writer.transport.abort()
                return
            try:
                server = await asyncio.open_connection(*self.upstream, limit=_PIECE)
            except OSError:
                writer.transport.abort()
                return
            link = _Link(self, (reader, writer), server)
            self._links.add(link)
            try:
                await link.run(self._late_s)
            finally:
                self._links.discard(link)
        finally:
            self._tasks.discard(task)


class _Link:
    """One connection of the broker and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = client
        self._server_reader, self._server_writer = server
        self._inserts = False  # an INSERT that is its own transaction has no answer yet

    def cut(self) -> None:
        self._client_writer.transport.abort()
        self._server_writer.transport.abort()

    async def run(self, late_s: float) -> None:
        up = asyncio.create_task(self._forward_to_server())
        down = asyncio.create_task(self._forward_to_client())
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            late = up.result() if up.done() and not up.cancelled() else None
            if late is not None:
                # The broker is told at once that its connection is gone; the server learns later, after the commit.
                down.cancel()
                self._client_writer.transport.abort()
                await asyncio.sleep(late_s)
                self._server_writer.write(late)
                with contextlib.suppress(OSError):
                    await self._server_writer.drain()
                await asyncio.sleep(0.2)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self.cut()

    async def _forward_to_server(self) -> bytes | None:
        """Returns what is still to be sent, late."""
        messages = Messages(is_client=True)
        with contextlib.suppress(OSError):
            while data := await self._client_reader.read(_PIECE):
                await self._hold_up()
                await self._proxy.flows.wait()
                whole = messages.feed(data)
                for position, message in enumerate(whole):
                    if is_commit(message):
                        trap = self._proxy.springs(Trap.REQUEST_LOST, Trap.REQUEST_LATE)
                        if trap is Trap.REQUEST_LOST:
                            return None
                        if trap is Trap.REQUEST_LATE:
                            return b"".join(whole[position:])
                    self._inserts = self._inserts or is_lone_insert(message)
                    self._server_writer.write(message)
                await self._server_writer.drain()
        return None

    async def _forward_to_client(self) -> None:
        messages = Messages(is_client=False)
        with contextlib.suppress(OSError):
            while data := await self._server_reader.read(_PIECE):
                await self._hold_up()
                for message in messages.feed(data):
                    has_inserted = self._inserts and message[:1] == b"Z"
                    self._inserts = self._inserts and not has_inserted
                    if (has_inserted or is_committed(message)) and self._proxy.springs(Trap.ANSWER_LOST):
                        return
                    self._client_writer.write(message)
                await self._client_writer.drain()

    async def _hold_up(self) -> None:
        if self._proxy.delay_s:
            await asyncio.sleep(self._proxy.delay_s)


class Front:
    """An address that moves between brokers, as a virtual IP or a service does: bytes pass as they are."""

    def __init__(self) -> None:
        self.port = 0
        self._upstream: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, upstream: tuple[str, int]) -> None:
        """Move; what is open on the old place is reset, as a host does that gets packets of somebody else's."""
        self._upstream = upstream
        self.cut()

    def cut(self) -> None:
        for transport in list(self._transports):
            transport.abort()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        transports = {writer.transport}
        try:
            if self._upstream is None:
                return
            with contextlib.suppress(OSError):
                upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream, limit=_PIECE)
                transports.add(upstream_writer.transport)
                self._transports |= transports
                ways = [
                    asyncio.create_task(_pipe(reader, upstream_writer)),
                    asyncio.create_task(_pipe(upstream_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for transport in transports:
                transport.abort()
            self._transports -= transports
            self._tasks.discard(task)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
