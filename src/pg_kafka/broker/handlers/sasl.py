"""SaslHandshake and SaslAuthenticate, which a listener without authentication answers with an error."""

from __future__ import annotations

import logging

from pg_kafka.broker.context import Context, Reply
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse

_ADVICE = "this listener has no authentication: set security.protocol=PLAINTEXT in the client"


def sasl_handshake(ctx: Context, request: SaslHandshakeRequest, reply: Reply) -> None:
    """Refuse the mechanism that a client wants to authenticate with.

    Versions  0-1.
    Rules     - always ILLEGAL_SASL_STATE without mechanisms, as Kafka answers on a listener without authentication
              - a log line says what the client should do
    """
    reply.note("client wants to authenticate", f"{request.mechanism[:40]!r}: {_ADVICE}", level=logging.WARNING)
    reply.send(SaslHandshakeResponse(error_code=ErrorCode.ILLEGAL_SASL_STATE))


def handshake_failure(request: SaslHandshakeRequest, code: int) -> SaslHandshakeResponse:
    return SaslHandshakeResponse(error_code=code)


def sasl_authenticate(ctx: Context, request: SaslAuthenticateRequest, reply: Reply) -> None:
    """Refuse what a client sends to authenticate itself; it is neither looked at nor logged.

    Versions  0-2. 1 has a lifetime of sessions, 2 is flexible.
    Rules     - always ILLEGAL_SASL_STATE, as Kafka answers on a listener without authentication
    """
    reply.note("client wants to authenticate", _ADVICE, level=logging.WARNING)
    reply.send(SaslAuthenticateResponse(error_code=ErrorCode.ILLEGAL_SASL_STATE, error_message=_ADVICE))


def authenticate_failure(request: SaslAuthenticateRequest, code: int) -> SaslAuthenticateResponse:
    return SaslAuthenticateResponse(error_code=code)
