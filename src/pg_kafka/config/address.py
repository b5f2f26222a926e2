"""A place on the network, as people write it."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

WANTED = "HOST:PORT, as in 127.0.0.1:9092"


class Address(NamedTuple):
    """A host and a port; IPv6 hosts are kept without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, wanted: str = WANTED) -> Address:
        """HOST:PORT or [IPV6]:PORT. Raises ValueError with what was wanted."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host or host.startswith("["):
            raise ValueError("an IPv6 address in brackets, as in [::1]:9092")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(wanted)
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Can only this machine reach the host? Of names that is believed of localhost alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
