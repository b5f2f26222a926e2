"""The address that a broker listens on, kept while one listener takes the place of another.

place = ListeningPlace(address)    bound: others cannot have it, and clients are refused until somebody listens
await server.start(place)          several listeners may do so, one after the other; between them clients wait
place.close()                      clients are refused again
"""

from __future__ import annotations

import os
import socket

from pg_kafka.config import Address
from pg_kafka.errors import FatalError


class ListeningPlace:
    """Raises FatalError when the address is not to be had."""

    def __init__(self, listen: Address) -> None:
        self._sockets = bound(listen)

    @property
    def port(self) -> int:
        """The real one when 0 was asked for."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    def shared(self) -> list[socket.socket]:
        """The same sockets for one listener, which closes them without closing the place."""
        return [socket_.dup() for socket_ in self._sockets]

    def close(self) -> None:
        for socket_ in self._sockets:
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
