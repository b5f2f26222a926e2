"""The addresses that a broker listens on, kept while one server takes the place of another.

place = ListeningPlace(listeners)  bound: others cannot have them, and clients are refused until somebody listens
place.listeners                    the same, with the real ports where any free one was asked for
await server.start(place)          several servers may do so, one after the other; between them clients wait
place.close()                      clients are refused again
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Sequence

from pg_kafka.config.address import Address
from pg_kafka.config.listeners import Listener
from pg_kafka.errors import FatalError


class ListeningPlace:
    """Raises FatalError when an address is not to be had."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._sockets: list[tuple[Listener, list[socket.socket]]] = []
        try:
            for listener in listeners:
                sockets = bound(listener.address)
                address = Address(listener.address.host, sockets[0].getsockname()[1])
                self._sockets.append((dataclasses.replace(listener, address=address), sockets))
        except FatalError:
            self.close()
            raise

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(listener for listener, _ in self._sockets)

    def shared(self) -> list[tuple[Listener, socket.socket]]:
        """The same sockets for one server, which closes them without closing the place."""
        return [(listener, socket_.dup()) for listener, sockets in self._sockets for socket_ in sockets]

    def close(self) -> None:
        for _, sockets in self._sockets:
            for socket_ in sockets:
                socket_.close()


def bound(listen: Address) -> list[socket.socket]:
    """A socket for each address of the host. Raises FatalError."""
    sockets: list[socket.socket] = []
    port = listen.port
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            listen.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            socket_ = socket.socket(family, kind, protocol)
            sockets.append(socket_)
            socket_.setblocking(False)
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                socket_.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            socket_.bind((address[0], port, *address[2:]))
            port = socket_.getsockname()[1]  # any port is the same one for all addresses of a name
    except OSError as error:
        for socket_ in sockets:
            socket_.close()
        raise cannot_listen(listen, error) from error
    return sockets


def cannot_listen(listen: Address, error: OSError) -> FatalError:
    """What a person is told."""
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return FatalError(f"cannot listen on {listen}: {reason}")
