"""OAUTHBEARER for the connections of one listener: a `Verifier` that checks tokens with the keys of their issuer.

    tokens = TokenLogins(settings, clock, on_death)
    await tokens.start()
    factories["OAUTHBEARER"] = tokens.verifier

A token that is not good is answered with RFC 7628's JSON, and only what the client sends next is answered with an error, as
Kafka does it. While there are no keys at all, nobody is told that its token is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from pg_kafka.broker.authentication import Authenticated, AuthenticationFailed, CannotVerify, Challenge
from pg_kafka.broker.client import ConnectionInfo, Kind
from pg_kafka.broker.notes import Notes
from pg_kafka.broker.published_keys import PublishedKeys
from pg_kafka.clock import Clock
from pg_kafka.config.address import is_loopback
from pg_kafka.config.oauth import OauthSettings
from pg_kafka.security.oauth import INVALID_TOKEN, OauthError, client_first
from pg_kafka.security.principals import user
from pg_kafka.security.tokens import Expected, Token, TokenError, UnknownKey, check

logger = logging.getLogger("pg_kafka.oauth")


class TokenLogins:
    """What holds for all tokens of one listener, and their issuer's keys."""

    def __init__(self, settings: OauthSettings, clock: Clock, on_death: Callable[[str], None]) -> None:
        self._expected = Expected(
            issuer=settings.issuer,
            audiences=settings.audiences,
            clock_skew_s=settings.clock_skew_s,
            subject_claim=settings.subject_claim,
            scope_claim=settings.scope_claim,
        )
        self._url = settings.url
        self._clock = clock
        self._keys = PublishedKeys(settings, clock.steady_s, on_death)
        self.notes = Notes(logger)

    async def start(self) -> None:
        """Raises FatalError."""
        if self._is_open_on_the_way:
            logger.warning("keys for tokens come by http", extra={"url": self._url})
        await self._keys.start()

    async def stop(self) -> None:
        await self._keys.stop()

    @property
    def _is_open_on_the_way(self) -> bool:
        parts = urlsplit(self._url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    def verifier(self, connection: ConnectionInfo) -> OauthVerifier:
        return OauthVerifier(self, connection)

    async def check(self, token: str) -> Token:
        """Raises TokenError, CannotVerify."""
        try:
            return self._check(token)
        except UnknownKey:
            if not await self._keys.renewed():
                raise
        return self._check(token)

    def _check(self, token: str) -> Token:
        if self._keys.current is None:
            raise CannotVerify("the keys for tokens could not be read yet (sasl.oauthbearer.jwks.endpoint.url)")
        return check(token, self._keys.current, self._expected, self._clock.wall_ms() / 1000)


class OauthVerifier:
    """One dialogue (`broker.authentication.Verifier`)."""

    def __init__(self, logins: TokenLogins, connection: ConnectionInfo) -> None:
        self._logins = logins
        self._connection = connection
        self._refused = ""  # why the token is not good, once that has been told

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        """Raises AuthenticationFailed, CannotVerify."""
        if self._refused:
            raise AuthenticationFailed(self._refused, shown=INVALID_TOKEN.decode())
        try:
            first = client_first(message)
        except OauthError as error:
            raise AuthenticationFailed(str(error)) from None
        try:
            token = await self._logins.check(first.token)
        except TokenError as error:
            self._refused = f"the token is not good: {error}"
            # The client may go away without the last message, after which nothing is logged.
            self._logins.notes.note(
                "token refused", str(error), level=logging.INFO, peer=self._connection.host, reason=str(error)
            )
            return Challenge(INVALID_TOKEN)
        if first.authorization and first.authorization != token.name:
            said = (
                f"Authentication failed: Client requested an authorization id ({first.authorization[:80]}) that is"
                f" different from the token's principal name ({token.name[:80]})"
            )
            raise AuthenticationFailed(said, shown=said, claimed=token.name)
        return Authenticated(principal=user(token.name), kind=Kind.TOKEN, lifetime_ms=token.lifetime_ms)
