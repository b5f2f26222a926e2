"""Connections that are not read for a while: when that ends, and when the peer does not wait for it.

A socket that is not read tells nothing of its peer's end. So all of these are looked at once a second: who has closed
his side, and has sent nothing that waits to be done, is let go at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from typing import Protocol

LOOK_S = 1.0
_CLOSED = getattr(select, "POLLRDHUP", 0)  # Linux: the peer has closed its side, whatever is left to be read
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
# What TLS sends at the end, and no request is as short as: an alert, encrypted.
_TLS_ALERT_BYTES = 31


class Mutable(Protocol):
    """A connection that may be muted."""

    descriptor: int

    @property
    def has_waiting(self) -> bool:
        """Are there requests that have been read and not begun?"""

    def unmute(self) -> None:
        """It may go on."""

    def abort(self) -> None:
        """Its peer has gone."""


class Muted:
    """Those of one broker."""

    def __init__(self) -> None:
        self._timers: dict[Mutable, asyncio.TimerHandle] = {}
        self._look_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, connection: Mutable) -> bool:
        return connection in self._timers

    def until(self, connection: Mutable) -> float:
        """When it goes on, by the loop's time; 0 when it is not muted."""
        timer = self._timers.get(connection)
        return 0.0 if timer is None else timer.when()

    def mute(self, connection: Mutable, until_s: float) -> None:
        """Until then, whatever was said before."""
        loop = asyncio.get_running_loop()
        if (timer := self._timers.get(connection)) is not None:
            timer.cancel()
        self._timers[connection] = loop.call_at(until_s, self._end, connection)
        if self._look_timer is None:
            self._look_timer = loop.call_later(LOOK_S, self._look)

    def forget(self, connection: Mutable) -> None:
        """It is gone, or goes on."""
        if (timer := self._timers.pop(connection, None)) is not None:
            timer.cancel()
        if not self._timers and self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def _end(self, connection: Mutable) -> None:
        self.forget(connection)
        connection.unmute()

    def _look(self) -> None:
        self._look_timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        poll = select.poll()
        by_descriptor = {connection.descriptor: connection for connection in self._timers if connection.descriptor >= 0}
        for descriptor in by_descriptor:
            poll.register(descriptor, _CLOSED)
        for descriptor, events in poll.poll(0):
            connection = by_descriptor[descriptor]
            if events & _BROKEN or (not connection.has_waiting and _unread_bytes(descriptor) <= _TLS_ALERT_BYTES):
                connection.abort()


def _unread_bytes(descriptor: int) -> int:
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0])
    except OSError:
        return 0
