"""What the first bytes of a connection look like when they are not Kafka's.

    Kafka        size int32, api_key int16, version int16, ...        of a small request 00 00 .. ..  00 12 00 03
    TLS          type 22, version 3.x, size int16, type 1             16 03 01 .. .. 01
    HTTP, SSH    text                                                 G E T sp
    PostgreSQL   size int32 with itself, code int32                   00 00 00 08  04 d2 16 2f
                 or size int32, version 3.x, parameters               00 00 00 ..  00 03 00 00  u s e r 00

A size in the first four bytes is all that Kafka says there, so text and TLS are sizes of hundreds of megabytes to it, and
PostgreSQL's client would wait for an answer without end.
"""

from __future__ import annotations

from typing import Final

ENOUGH_BYTES: Final = 16
"""After so many there is nothing more to recognise."""

_TLS = (
    "this looks like a TLS handshake; this listener speaks plain Kafka: set security.protocol=PLAINTEXT in the client"
)
_HTTP = "this looks like an HTTP request; this listener speaks Kafka: use a Kafka client, or another port"
_POSTGRESQL = "this looks like a PostgreSQL client; this listener speaks Kafka: give it the address of the database"
_SSH = "this looks like an SSH client; this listener speaks Kafka: use another port"

_PLAIN = "this is no TLS; this listener speaks TLS: set security.protocol={} in the client"

_METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ", b"PRI * ")
_CLIENT_HELLO = 1
# SSLRequest, GSSENCRequest and CancelRequest, with the sizes that they have.
_POSTGRESQL_CODES = (
    bytes.fromhex("0000000804d2162f"),
    bytes.fromhex("0000000804d21630"),
    bytes.fromhex("0000001004d2162e"),
)
_POSTGRESQL_PARAMETERS = (b"user\0", b"database", b"client_e", b"applicat", b"replicat", b"options\0")


def not_tls(start: bytes, security_protocol: str) -> str | None:
    """What a connection that begins so on a listener with TLS seems to be; None for TLS.

    A client that may still send TLS has sent the first byte of a record of the handshake.
    """
    if start[:1] == b"\x16":
        return None
    return (looks_like(start) or _PLAIN).replace("speaks Kafka", "speaks Kafka over TLS").format(security_protocol)


def looks_like(start: bytes) -> str | None:
    """What a connection that begins so seems to be, and what to do; None for Kafka, and for all that is too short yet."""
    if start[:2] == b"\x16\x03":
        return _TLS if len(start) > 5 and start[5] == _CLIENT_HELLO else None
    if start.startswith(_METHODS):
        return _HTTP
    if start.startswith(b"SSH-"):
        return _SSH
    if start.startswith(_POSTGRESQL_CODES):
        return _POSTGRESQL
    if start[:2] == b"\0\0" and start[4:7] == b"\0\x03\0" and start[8:].startswith(_POSTGRESQL_PARAMETERS):
        return _POSTGRESQL
    return None
