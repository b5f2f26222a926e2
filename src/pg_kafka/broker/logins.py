"""Which mechanisms the listeners with SASL have, and the users behind them. One for each term of a broker.

logins = Logins(config, listeners, dsn, on_death)
await logins.start()            the users are known, and followed
Server(..., sasl=logins.rules)
logins.watched = [server]       whoever is revoked is cut off there
await logins.stop()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol

from pg_kafka.broker.authentication import Factory, SaslRules
from pg_kafka.broker.oauth import TokenLogins
from pg_kafka.broker.password_checks import PasswordChecks
from pg_kafka.broker.role_logins import RoleLogins
from pg_kafka.broker.stored_logins import plain_factory, scram_factory
from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.config.listeners import LISTENER_PREFIX, Listener, in_keys
from pg_kafka.config.listening import tokens_of
from pg_kafka.config.oauth import OAUTHBEARER, OauthSettings
from pg_kafka.errors import ConfigError
from pg_kafka.security import jaas, scram
from pg_kafka.storage.role_logins import Role
from pg_kafka.storage.security_changes import SecurityChanges
from pg_kafka.storage.users import UserKeys, Users

logger = logging.getLogger("pg_kafka.security")

PLAIN = "PLAIN"
Maker = Callable[[Config, Listener], Factory]
"""Makes a mechanism for a listener. Raises ConfigError."""


class Watched(Protocol):
    """A server, as seen from here."""

    def cut_off(self, proofs: Collection[Hashable], reason: str) -> None: ...


class Logins:
    """See the module."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        dsn: str,
        on_death: Callable[[str], None],
        makers: Mapping[str, Maker] | None = None,
    ) -> None:
        """`makers` are further mechanisms, by their names. Raises ConfigError."""
        self.users = Users()
        self.users.on_revoked = self._cut_off
        self.watched: Sequence[Watched] = ()
        self._dsn = dsn
        self._on_death = on_death
        self._checks = PasswordChecks()
        self._roles: RoleLogins | None = None
        self._tokens: dict[OauthSettings, TokenLogins] = {}
        self._makers: Mapping[str, Maker] = {
            **{name: self._scram(mechanism) for name, mechanism in scram.MECHANISMS.items()},
            PLAIN: self._plain,
            OAUTHBEARER: self._oauth,
            **(makers or {}),
        }
        self.rules = {one.name: self._rules(config, one) for one in listeners if one.protocol.has_sasl}
        self._following = SecurityChanges(dsn, [self.users.follow], on_death) if self.rules else None

    async def start(self) -> None:
        """Raises FatalError, StorageError."""
        if self._following is not None:
            await self._following.start()
        if self._roles is not None:
            await self._roles.start()
        for tokens in self._tokens.values():
            await tokens.start()

    @property
    def following(self) -> SecurityChanges | None:
        """What is told of changes in the catalogue at once; None where nobody logs in."""
        return self._following

    def look_soon(self) -> None:
        """Users have been changed here."""
        if self._following is not None:
            self._following.look_soon()

    async def stop(self) -> None:
        if self._following is not None:
            await self._following.stop()
        if self._roles is not None:
            await self._roles.stop()
        for tokens in self._tokens.values():
            await tokens.stop()
        self._checks.stop()

    def _rules(self, config: Config, listener: Listener) -> SaslRules:
        name = listener.name
        factories = {}
        for mechanism in listener.mechanisms:
            maker = self._makers.get(mechanism)
            if maker is None:
                raise ConfigError(f"listener {listener.name}: the mechanism {mechanism} is not served")
            factories[mechanism] = maker(config, listener)
        return SaslRules(
            factories=factories,
            max_reauth_ms={
                mechanism: config.of_listener(name, "connections.max.reauth.ms", mechanism) for mechanism in factories
            },
            max_receive_bytes=config.sasl_server_max_receive_size,
            failed_delay_s=config.connection_failed_authentication_delay_ms / 1000,
            deadline_s=config.authentication_timeout_ms / 1000,
        )

    def _scram(self, mechanism: scram.Mechanism) -> Maker:
        def make(config: Config, listener: Listener) -> Factory:
            name = f"{LISTENER_PREFIX}{in_keys(listener.name)}.{mechanism.name.lower()}.sasl.jaas.config"
            if name in config.by_listener:
                logger.warning("sasl.jaas.config has no effect on SCRAM", extra={"listener": listener.name})
            return scram_factory(self.users, mechanism)

        return make

    def _oauth(self, config: Config, listener: Listener) -> Factory:
        settings = tokens_of(config, listener)
        if settings not in self._tokens:
            self._tokens[settings] = TokenLogins(settings, Clock(), self._on_death)
        return self._tokens[settings].verifier

    def _plain(self, config: Config, listener: Listener) -> Factory:
        if listener.takes_roles:
            return self._role(config, listener)
        name = listener.name
        line = config.of_listener(name, "sasl.jaas.config", PLAIN)
        try:
            fixed = {} if line is None else jaas.plain_users(line)
        except jaas.InvalidJaas as error:
            raise ConfigError(f"listener {name}: sasl.jaas.config {error}") from None
        if not listener.protocol.has_tls:
            logger.warning("passwords of PLAIN cross the network unencrypted", extra={"listener": listener.name})
        return plain_factory(self.users, self._checks, fixed)

    def _role(self, config: Config, listener: Listener) -> Factory:
        if config.of_listener(listener.name, "sasl.jaas.config", PLAIN) is not None:
            raise ConfigError(
                f"listener {listener.name}: sasl.jaas.config names users, and pg_kafka.users = roles takes no others than roles"
            )
        if self._roles is None:
            self._roles = RoleLogins(self._dsn, Clock(), self._on_death)
            self._roles.on_revoked = self._cut_off_roles
        return self._roles.verifier

    def _cut_off(self, revoked: Collection[UserKeys]) -> None:
        for server in self.watched:
            server.cut_off(revoked, "the user was removed, or has another password")

    def _cut_off_roles(self, revoked: Collection[Role]) -> None:
        for server in self.watched:
            server.cut_off(revoked, "the role was removed or changed")
