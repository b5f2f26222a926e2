"""Who is at the other end of a connection."""

from __future__ import annotations

from dataclasses import dataclass

from pg_kafka.config.listeners import NOWHERE, Listener

ANONYMOUS = "User:ANONYMOUS"


class Kind:
    """By what a principal is known, for metrics: few words, whoever comes."""

    ANONYMOUS = "anonymous"
    CERTIFICATE = "certificate"
    USER = "user"  # of the broker's own list
    ROLE = "role"  # of PostgreSQL
    TOKEN = "token"


@dataclass(slots=True)
class ConnectionInfo:
    """What is known of a connection. `principal` is Kafka's name of who speaks, once that is known."""

    id: int
    peer: tuple[str, int]
    local: tuple[str, int]
    client_software_name: str = ""
    client_software_version: str = ""
    principal: str = ANONYMOUS
    kind: str = Kind.ANONYMOUS
    listener: Listener = NOWHERE
    is_closed: bool = False  # it has ended

    @property
    def host(self) -> str:
        """The client's address, as ACLs and quotas name it."""
        return self.peer[0]
