"""SCRAM and PLAIN, as mechanisms of `authentication.py`: users are those of `kafka.user_keys`.

A name that nobody has goes the same way as a wrong password, with keys that cannot be met.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from pg_kafka.broker.authentication import Authenticated, AuthenticationFailed, Challenge, Factory
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.password_checks import PasswordChecks
from pg_kafka.security import plain, principals, scram
from pg_kafka.security.scram import SHA_256, SHA_512, Keys, Mechanism, ScramError
from pg_kafka.storage.users import Users

_NONCE_BYTES = 24
# How ScramLoginModule says that a delegation token is meant.
_TOKEN_EXTENSION = "tokenauth"
_WRONG_PASSWORD = "Authentication failed: Invalid username or password"


def scram_factory(users: Users, mechanism: Mechanism) -> Factory:
    return lambda _connection: ScramVerifier(users, mechanism, secrets.token_urlsafe(_NONCE_BYTES))


def plain_factory(users: Users, checks: PasswordChecks, fixed: Mapping[str, str]) -> Factory:
    """`fixed` are users of a listener's sasl.jaas.config with their passwords; they come before those of the database."""
    return lambda connection: PlainVerifier(users, checks, fixed, connection)


class ScramVerifier:
    """One dialogue of SCRAM: two tokens."""

    def __init__(self, users: Users, mechanism: Mechanism, nonce: str) -> None:
        self._users = users
        self._mechanism = mechanism
        self._server = scram.ScramServer(mechanism, nonce)
        self._name = ""
        self._keys: Keys | None = None

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        try:
            return self._final(message) if self._name else self._first(message)
        except ScramError as error:
            raise AuthenticationFailed(str(error), claimed=self._name) from None

    def _first(self, message: bytes) -> Challenge:
        name = self._server.first(message)
        self._name = name
        if self._server.extensions.get(_TOKEN_EXTENSION, "").lower() == "true":
            raise ScramError("there are no delegation tokens")
        self._keys = self._users.keys(name, self._mechanism)
        return Challenge(self._server.challenge(self._keys or self._users.like_keys(name, self._mechanism)))

    def _final(self, message: bytes) -> Authenticated:
        signature = self._server.final(message)
        # Somebody may have changed them since the first token: whoever is let in now would not be cut off then.
        if self._keys is None or self._users.keys(self._name, self._mechanism) != self._keys:
            raise ScramError("the keys have changed")
        proof = (self._name, self._mechanism.name)
        return Authenticated(principal=principals.user(self._name), message=signature, proof=proof)


class PlainVerifier:
    """One dialogue of PLAIN: one token."""

    def __init__(
        self, users: Users, checks: PasswordChecks, fixed: Mapping[str, str], connection: ConnectionInfo
    ) -> None:
        self._users = users
        self._checks = checks
        self._fixed = fixed
        self._connection = connection

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        try:
            login = plain.login(message)
        except plain.PlainError as error:
            raise AuthenticationFailed(str(error), shown=str(error)) from None
        principal = principals.user(login.name)
        fixed = self._fixed.get(login.name)
        if fixed is not None and hmac.compare_digest(fixed.encode(), login.password.encode()):
            return Authenticated(principal=principal)
        mechanism, keys = (SHA_512, None) if fixed is not None else self._stored(login.name)
        host = self._connection.host
        tried = keys or self._users.like_keys(login.name, mechanism)
        is_right = await self._checks.is_right(host, mechanism, tried, login.password)
        if not is_right or keys is None or self._users.keys(login.name, mechanism) != keys:
            raise AuthenticationFailed("the password is wrong", shown=_WRONG_PASSWORD, claimed=login.name)
        return Authenticated(principal=principal, proof=(login.name, mechanism.name))

    def _stored(self, name: str) -> tuple[Mechanism, Keys | None]:
        """The keys that a password is checked by: the stronger ones."""
        for mechanism in (SHA_512, SHA_256):
            if (keys := self._users.keys(name, mechanism)) is not None:
                return mechanism, keys
        return self._users.likely_mechanism(name), None
