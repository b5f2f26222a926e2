"""SaslHandshake and SaslAuthenticate where they are out of place: what belongs to a dialogue is answered by `entrance.py`."""

from __future__ import annotations

import logging

from pg_kafka.broker.context import Context
from pg_kafka.broker.reply import Reply
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse

_WITHOUT = "this listener has no authentication: set security.protocol={} in the client"
# Kafka's sentence.
_ALREADY = "SaslAuthenticate request received after successful authentication"


def sasl_handshake(ctx: Context, request: SaslHandshakeRequest, reply: Reply) -> None:
    """Refuse the mechanism that a client wants to authenticate with, where none is asked for at this moment.

    Versions  0-1.
    Rules     - always ILLEGAL_SASL_STATE without mechanisms: the listener has no authentication, or the client is
                authenticated and its session has no end, or was begun again less than a second ago
              - a log line says what the client should do where there is no authentication
    """
    if (advice := _advice(ctx)) is not None:
        reply.note("client wants to authenticate", f"{request.mechanism[:40]!r}: {advice}", level=logging.WARNING)
    reply.send(SaslHandshakeResponse(error_code=ErrorCode.ILLEGAL_SASL_STATE))


def handshake_failure(request: SaslHandshakeRequest, code: int) -> SaslHandshakeResponse:
    return SaslHandshakeResponse(error_code=code)


def sasl_authenticate(ctx: Context, request: SaslAuthenticateRequest, reply: Reply) -> None:
    """Refuse what a client sends to authenticate itself; it is neither looked at nor logged.

    Versions  0-2. 1 has a lifetime of sessions, 2 is flexible.
    Rules     - always ILLEGAL_SASL_STATE: the listener has no authentication, or the client is authenticated
    """
    advice = _advice(ctx)
    if advice is not None:
        reply.note("client wants to authenticate", advice, level=logging.WARNING)
    reply.send(
        SaslAuthenticateResponse(
            error_code=ErrorCode.ILLEGAL_SASL_STATE, error_message=_ALREADY if advice is None else advice
        )
    )


def authenticate_failure(request: SaslAuthenticateRequest, code: int) -> SaslAuthenticateResponse:
    return SaslAuthenticateResponse(error_code=code)


def _advice(ctx: Context) -> str | None:
    """What a client should do that has come to a listener without authentication."""
    protocol = ctx.connection.listener.protocol
    return None if protocol.has_sasl else _WITHOUT.format("SSL" if protocol.has_tls else "PLAINTEXT")
