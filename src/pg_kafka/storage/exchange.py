"""One round trip for a simple query and the data of the COPYs in it, or for a prepared INSERT of one row (storage/prepared.py).

The driver sends COPY, waits until the server asks for data, sends that, and waits again. The server does not need the
first wait: it reads the messages one after the other, and ignores data that follows a refused COPY. So all of it goes out
at once, through the driver's own transport. From a session's first exchange on that transport has our protocol object, which
hands to the driver whatever comes between two exchanges: to set it anew each time would stop and start reading. Statements of one
query are one transaction (PostgreSQL manual, "Message Flow", 55.2.2.1), so a query of several COPYs is all or nothing.

    Q  query text                          ->
    d  CopyData ...  c CopyDone            ->   for each COPY in the query
                                           <-   G CopyInResponse, C CommandComplete ... or E ErrorResponse
                                           <-   Z ReadyForQuery
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import asyncpg

from pg_kafka.storage import queries
from pg_kafka.storage.prepared import Slot, messages
from pg_kafka.storage.sessions import Session

SQL = queries.load("sessions")

_READY, _COMPLETE, _ERROR, _NOTICE = b"ZCEN"
_COPY_DONE = b"c\x00\x00\x00\x04"
_HEADER_BYTES = 5


async def run(
    session: Session,
    query: str,
    copies: Sequence[Iterable[bytes]],
    timeout_s: float | None,
    on_progress: Callable[[], None] | None = None,
) -> list[str]:
    """Send a query with the data of each COPY ... FROM STDIN in it; the command tags.

    With `on_progress` the data go out piece by piece, each made when the server has read most of those before, and other
    tasks run between two pieces; it is called after each, and the deadline is that of a piece.

    The driver does not see what the server answers, so it does not know of a transaction that the query begins. Raises
    asyncpg.PostgresError as the driver does, ConnectionError when the connection is lost, and TimeoutError; after the last
    two, and when cancelled, the connection is closed.
    """
    return await _send(session, _messages(query, copies), query, timeout_s, on_progress)


async def insert(session: Session, statement: str, slot: Slot, row: bytes) -> None:
    """Run an INSERT of one row, which is its own transaction, without a deadline. Raises as `run` does.

    From the first row on the session plans each of its statements once, and not for each execution. That is right for those of
    a lane: they insert rows, or look for a row of one table by its key, so that all values have the same plan. An INSERT
    without RETURNING has no result whose type a changed table could change.
    """
    await _send(session, [messages(slot, statement, SQL["plan_once"], row)], statement, None, None)
    slot.is_parsed = True


async def _send(
    session: Session,
    pieces: Iterable[Sequence[bytes]],
    query: str,
    timeout_s: float | None,
    on_progress: Callable[[], None] | None,
) -> list[str]:
    """Send messages, each of them whole, and wait until the server is ready; the command tags."""
    connection: Any = session.connection
    if connection.is_closed():
        raise asyncpg.InterfaceError("connection is closed")
    counts = session.counts
    began_s = 0.0 if counts is None else counts.clock.steady_s()
    switch = session.switch
    if switch is None:
        switch = session.switch = _Switch(session)
    if switch.transport.is_closing():  # the driver has not been told yet
        raise ConnectionResetError("the database closed the connection")
    exchange = switch.begin()
    try:
        if on_progress is None:
            switch.transport.writelines(list(itertools.chain.from_iterable(pieces)))
        else:
            for piece in pieces:
                if exchange.ready.done():  # refused: the server ignores the rest
                    break
                switch.transport.writelines(piece)
                async with asyncio.timeout(timeout_s):
                    await switch.drained(exchange)
                on_progress()
        if timeout_s is None:
            await exchange.ready
        else:
            async with asyncio.timeout(timeout_s):
                await exchange.ready
    except BaseException as error:
        switch.exchange = None
        connection.terminate()
        if counts is not None:
            counts.took(counts.clock.steady_s() - began_s, has_failed=True)
        if exchange.error is not None and isinstance(error, ConnectionError):
            raise _postgres_error(exchange.error, query) from error  # the server said why it goes away
        raise
    if counts is not None:
        counts.took(counts.clock.steady_s() - began_s, has_failed=exchange.error is not None)
    if exchange.error is not None:
        raise _postgres_error(exchange.error, query)
    return [tag.decode() for tag in exchange.tags]


def _messages(query: str, copies: Sequence[Iterable[bytes]]) -> Iterator[tuple[bytes, ...]]:
    """Each whole, in parts: what has begun must be sent to its end."""
    text = query.encode()
    yield b"Q", (len(text) + 5).to_bytes(4, "big"), text, b"\x00"
    for pieces in copies:
        for piece in pieces:
            yield b"d" + (len(piece) + 4).to_bytes(4, "big"), piece
        yield (_COPY_DONE,)


class _Switch(asyncio.Protocol):
    """The protocol object of a session's transport: what arrives is an exchange's while there is one, else the driver's."""

    def __init__(self, session: Session) -> None:
        connection: Any = session.connection
        self.transport = connection._transport
        self.exchange: _Exchange | None = None
        self._session = session
        self._driver = connection._protocol
        self._loop = asyncio.get_running_loop()
        self._resumed: asyncio.Future[None] | None = None  # while more has been written than the server has read
        self.transport.set_protocol(self)

    def begin(self) -> _Exchange:
        self.exchange = exchange = _Exchange(self._session, self._loop.create_future())
        return exchange

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            rest = self.exchange.data_received(data)
            if rest is None:
                return
            self.exchange, data = None, rest
        if data:
            self._driver.data_received(data)

    def eof_received(self) -> bool | None:
        ended: bool | None = self._driver.eof_received()
        return ended

    def connection_lost(self, error: Exception | None) -> None:
        if self.exchange is not None:
            self.exchange.fail(error or ConnectionResetError("the database closed the connection"))
        self._driver.connection_lost(error)

    def pause_writing(self) -> None:
        if self.exchange is None:
            self._driver.pause_writing()
        else:
            self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set_result(None)
        self._driver.resume_writing()

    async def drained(self, exchange: _Exchange) -> None:
        """Let others run, until the server has read enough or has answered; a lost connection is an answer."""
        await asyncio.sleep(0)
        if self._resumed is not None and not exchange.ready.done():
            await asyncio.wait((self._resumed, exchange.ready), return_when=asyncio.FIRST_COMPLETED)


class _Exchange:
    """Reads what the server answers until it is ready for the next query."""

    def __init__(self, session: Session, ready: asyncio.Future[None]) -> None:
        self._session = session
        self._rest = b""
        self.ready = ready
        self.error: bytes | None = None  # the first one, which the others follow from
        self.tags: list[bytes] = []

    def fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)

    def data_received(self, data: bytes) -> bytes | None:
        """Take what is of this exchange. When the server is ready, what follows, of which a part may be here; None before."""
        data = self._rest + data if self._rest else data
        position = 0
        while len(data) - position >= _HEADER_BYTES:
            end = position + 1 + int.from_bytes(data[position + 1 : position + _HEADER_BYTES], "big")
            if end > len(data):
                break
            kind = data[position]
            self._take(kind, data[position + _HEADER_BYTES : end])
            position = end
            if kind == _READY:
                return data[position:]
        self._rest = data[position:]
        return None

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _COMPLETE:
            self.tags.append(body[:-1])
        elif kind == _ERROR:
            self.error = self.error or body
        elif kind == _NOTICE:
            notice: Any = asyncpg.PostgresLogMessage.new(_fields(body))
            self._session.take_notice(notice)
        elif kind == _READY and not self.ready.done():
            self.ready.set_result(None)


def _fields(body: bytes) -> dict[str, str]:
    """The fields of ErrorResponse and NoticeResponse: one byte of code and a text, each ended by zero."""
    return {chr(part[0]): part[1:].decode(errors="replace") for part in body.split(b"\x00") if part}


def _postgres_error(body: bytes, query: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(_fields(body), query=query)
    return error
