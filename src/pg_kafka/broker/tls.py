"""TLS between a socket and a connection: to the socket it is the protocol, to the connection the transport.

    socket  <->  TlsTransport  <->  Connection

The handshake comes first and has a deadline; the connection is told of the client at once, so that limits count it, and gets
bytes when the handshake is over. Memory is bounded before and after: what has arrived is deciphered in pieces, and of
what is to be sent only as much is enciphered as the socket takes soon. asyncio's own TLS would do neither, knows no
limit of connections before the handshake's end, and cannot say what a client that fails has sent.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Protocol, cast

from pg_kafka.wire import foreign

HANDSHAKE_S = 10.0
# A peer that has sent little is given little room: OpenSSL keeps what a piece needs.
FIRST_PIECE_BYTES = 16 * 1024
PIECE_BYTES = 256 * 1024
TRUSTED_AFTER_BYTES = 1024 * 1024
# Enciphered, and not yet taken by the socket.
RAW_HIGH_BYTES = 256 * 1024
RAW_LOW_BYTES = 64 * 1024
# OpenSSL makes room for a message as soon as it hears of its size. ClientHellos have some kilobytes.
MAX_HELLO_BYTES = 16 * 1024
_HEADS_BYTES = 9  # of the first record, and of the message in it
# Small parts are put together, so that each does not become a record of TLS.
JOIN_BYTES = 64 * 1024
# After the end has been said, the peer has so long to take what is left.
CLOSE_S = 30.0

# What is deciphered in one turn; all connections use it one after the other, on the event loop's thread.
_plain = bytearray(512 * 1024)
_plain_view = memoryview(_plain)


class Handshake(StrEnum):
    """What has become of one."""

    SUCCESS = "success"
    REFUSED = "refused"  # by one side: a certificate, a version, a cipher
    TIMEOUT = "timeout"
    NOT_TLS = "not tls"
    GONE = "gone"  # the peer, before the end


class Served(Protocol):
    """The connection, as its transport sees it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def secured(self, certificate: bytes | None) -> None:
        """The handshake is over; the client's certificate in DER, if it has shown one."""

    def close(self, reason: str, *, level: int = logging.INFO) -> None:
        """Close with a log line."""


class TlsTransport(asyncio.Protocol):
    """See the module. `transport` methods are those that connections use."""

    def __init__(
        self,
        served: Served,
        context: ssl.SSLContext,
        security_protocol: str,
        on_handshake: Callable[[Handshake], None] = lambda _result: None,
    ) -> None:
        """`on_handshake` is told once what has become of it, unless the broker closes before."""
        self._served = served
        self._on_handshake = on_handshake
        self._is_told = False
        self._security_protocol = security_protocol
        self._raw: asyncio.Transport = cast(asyncio.Transport, None)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: Any = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_secured = False
        self._received_bytes = 0
        self._beginning: bytes | None = b""  # what came first, until it is seen what that is
        self._held = b""  # not yet given to OpenSSL
        self._pending: deque[memoryview | bytes] = deque()  # plain, to be sent
        self._pending_bytes = 0
        self._high_bytes, self._low_bytes = RAW_HIGH_BYTES, RAW_LOW_BYTES
        self._is_raw_paused = False
        self._has_paused = False  # the connection
        self._is_closing = False

    # The socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._raw.set_write_buffer_limits(high=RAW_HIGH_BYTES, low=RAW_LOW_BYTES)
        self._timer = self._loop.call_later(HANDSHAKE_S, self._handshake_is_late)
        self._served.connection_made(cast(asyncio.BaseTransport, self))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closing:
            self._tell(Handshake.GONE)
        self._is_closing = True
        self._stop_timer()
        self._pending.clear()
        self._pending_bytes = 0
        self._served.connection_lost(exc)

    def eof_received(self) -> bool:
        # Without the end of TLS before it something may be missing; a request that is cut short is none anyway.
        return False

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._beginning is not None:
            self._beginning += data[: foreign.ENOUGH_BYTES]
            what = foreign.not_tls(self._beginning, self._security_protocol)
            if what is None and len(self._beginning) >= _HEADS_BYTES:
                what = _too_large(self._beginning)
            if what is not None:
                self._tell(Handshake.NOT_TLS)
                self._served.close(what, level=logging.WARNING)
                return
            data = self._held + data
            if len(self._beginning) < _HEADS_BYTES:
                self._held = data
                return
            self._beginning, self._held = None, b""
        self._received_bytes += len(data)
        piece_bytes = FIRST_PIECE_BYTES if self._received_bytes < TRUSTED_AFTER_BYTES else PIECE_BYTES
        for start in range(0, len(data), piece_bytes):
            self._incoming.write(memoryview(data)[start : start + piece_bytes])
            if not self._is_secured:
                self._shake_hands()
            if self._is_secured and not self.is_closing():
                self._decipher()
            if self.is_closing():
                return

    def pause_writing(self) -> None:
        self._is_raw_paused = True

    def resume_writing(self) -> None:
        self._is_raw_paused = False
        self._encipher()
        if self._has_paused and not self._is_raw_paused and self._unsent_bytes <= self._low_bytes:
            self._has_paused = False
            self._served.resume_writing()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._tell(Handshake.REFUSED)
            self._flush()  # the client is told by an alert
            self._served.close(f"TLS handshake failed: {_reason(error)}", level=logging.WARNING)
            return
        self._flush()
        self._stop_timer()
        self._is_secured = True
        self._tell(Handshake.SUCCESS)
        self._served.secured(self._tls.getpeercert(binary_form=True))

    def _tell(self, result: Handshake) -> None:
        if not self._is_told:
            self._is_told = True
            self._on_handshake(result)

    def _decipher(self) -> None:
        """Give the connection all that is complete of what has arrived."""
        size = 0
        ended = False
        try:
            while True:
                if size + FIRST_PIECE_BYTES > len(_plain):
                    self._served.data_received(bytes(_plain_view[:size]))
                    size = 0
                count = self._tls.read(FIRST_PIECE_BYTES, _plain_view[size:])
                if not count:
                    ended = True
                    break
                size += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            self._flush()
            self._served.close(f"TLS failed: {_reason(error)}", level=logging.WARNING)
            return
        if self._outgoing.pending:  # new keys, or what answers a wish for them
            self._flush()
        if size:
            self._served.data_received(bytes(_plain_view[:size]))
        if ended:
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def _handshake_is_late(self) -> None:
        self._timer = None
        self._tell(Handshake.TIMEOUT)
        self._served.close(f"no TLS handshake within {HANDSHAKE_S:.0f} s", level=logging.INFO)
        self._raw.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The connection's side: what it uses of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._raw.is_closing():
            self._raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_bytes = RAW_HIGH_BYTES if high is None else high
        self._low_bytes = self._high_bytes // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    @property
    def _unsent_bytes(self) -> int:
        return self._pending_bytes + self._raw.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines([data])

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._is_closing:
            return
        run: list[bytes | bytearray | memoryview] = []
        run_bytes = 0
        for part in parts:
            if run_bytes + len(part) > JOIN_BYTES:
                self._add(run)
                run, run_bytes = [], 0
            run.append(part)
            run_bytes += len(part)
        self._add(run)
        self._encipher()
        if not self._has_paused and self._unsent_bytes > self._high_bytes:
            self._has_paused = True
            self._served.pause_writing()

    def _add(self, run: list[bytes | bytearray | memoryview]) -> None:
        if run:
            joined = run[0] if len(run) == 1 else b"".join(run)
            self._pending.append(memoryview(joined))
            self._pending_bytes += len(joined)

    def _encipher(self) -> None:
        """Encipher as much as the socket takes soon."""
        try:
            while self._pending and not self._is_raw_paused and not self._raw.is_closing():
                part = self._pending.popleft()
                piece = part[:JOIN_BYTES]
                count = self._tls.write(piece)
                self._pending_bytes -= count
                if count < len(part):
                    self._pending.appendleft(part[count:])
                self._raw.write(self._outgoing.read())
        except ssl.SSLError as error:
            # The peer has ended its half, or sent what is no TLS.
            self._pending.clear()
            self._pending_bytes = 0
            self._served.close(f"TLS failed: {_reason(error)}", level=logging.INFO)
            self.abort()
            return
        if self._is_closing and not self._pending:
            self._end()

    def close(self) -> None:
        """Send what is left, say the end of TLS, and close."""
        if self._is_closing:
            return
        self._is_closing = True
        self._raw.pause_reading()
        self._stop_timer()
        self._timer = self._loop.call_later(CLOSE_S, self._raw.abort)
        self._encipher()

    def _end(self) -> None:
        if self._is_secured:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer has not said its end yet, and nobody waits for that
        self._flush()
        self._raw.close()

    def abort(self) -> None:
        self._is_closing = True
        self._raw.abort()


def _too_large(beginning: bytes) -> str | None:
    """What is wrong with the heads of the first record and of the ClientHello, if something is."""
    record_bytes, hello_bytes = int.from_bytes(beginning[3:5]), int.from_bytes(beginning[6:9])
    if record_bytes < _HEADS_BYTES - 5 or hello_bytes > MAX_HELLO_BYTES:
        return "the TLS handshake begins with a message that is too large, or cut into pieces"
    return None


def _reason(error: Exception) -> str:
    """What OpenSSL says, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is refused: {error.verify_message}"
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
