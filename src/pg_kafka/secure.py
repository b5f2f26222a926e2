"""`pg-kafka serve --secure`: makes what a broker with TLS, logins and an authorizer needs, where it is not there yet.

    secured = Secured.prepare(config)       a CA, the broker's certificate
    await secured.make_admin(dsn)           the user, and files with which clients log in as this user
    secured.lines(address)                  how to use them

All is in one folder beside the data folder. A second start uses what is there.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from pg_kafka import certs, checks
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.listening import listeners_of
from pg_kafka.config.secure import ADMIN, folder_of
from pg_kafka.errors import FatalError
from pg_kafka.security import scram
from pg_kafka.storage import user_accounts

_PASSWORD_BYTES = 24
_PASSWORD = re.compile(r'password="([A-Za-z0-9_-]+)"')
_JAVA = """\
# Kafka's tools and Java clients: --command-config, --consumer.config, --producer.config
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="{admin}" password="{password}";
ssl.truststore.type=PEM
ssl.truststore.location={ca}
"""
_KCAT = """\
# kcat -F, and the settings of other clients on librdkafka
security.protocol=SASL_SSL
sasl.mechanisms=SCRAM-SHA-512
sasl.username={admin}
sasl.password={password}
ssl.ca.location={ca}
"""


@dataclass(slots=True)
class Secured:
    """See the module."""

    made: certs.Made

    @classmethod
    def of(cls, config: Config) -> Secured:
        """What is there."""
        return cls(certs.Made(folder_of(config.data.absolute())))

    @classmethod
    def prepare(cls, config: Config) -> Secured:
        """Make certificates for the names by which clients will call. Raises FatalError."""
        made = cls.of(config).made
        hosts = [host for listener in listeners_of(config) for host in _names(listener.address, listener.advertised)]
        return cls(certs.make(made.folder, () if made.broker.exists() else hosts))

    @property
    def java(self) -> Path:
        return self.made.folder / "client.properties"

    @property
    def kcat(self) -> Path:
        return self.made.folder / "kcat.conf"

    async def make_admin(self, dsn: str) -> None:
        """Raises FatalError, StorageError."""
        is_known = any(account.name == ADMIN for account in await user_accounts.accounts(dsn))
        password = self._password()
        if password is None and is_known:
            raise FatalError(
                f"there is a user {ADMIN}, and {self.java} with its password is not there: put it back,"
                f" or make the user anew after pg-kafka users drop {ADMIN}"
            )
        if password is None:
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            for path, form in ((self.kcat, _KCAT), (self.java, _JAVA)):
                self._write(path, form.format(admin=ADMIN, password=password, ca=self.made.ca))
        if not is_known:
            mechanism = scram.SHA_512
            salt = secrets.token_bytes(scram.DEFAULT_SALT_BYTES)
            keys = scram.make_keys(mechanism, password, salt, scram.MIN_ITERATIONS)
            await user_accounts.create(dsn, ADMIN, [(mechanism, keys)])

    def _password(self) -> str | None:
        try:
            found = _PASSWORD.search(self.java.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FatalError(f"cannot read {self.java}: {error.strerror}") from error
        if found is None:
            raise FatalError(
                f"{self.java} has no password of {ADMIN}: remove it, and the user with pg-kafka users drop"
            )
        return found[1]

    def _write(self, path: Path, text: str) -> None:
        try:
            path.unlink(missing_ok=True)  # of a first start that came to nothing: without the other it is of no use
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(text)
        except OSError as error:
            raise FatalError(f"cannot write {path}: {error.strerror}") from error

    def lines(self, address: Address) -> list[str]:
        """How to use it, for a person."""
        return [
            f"  kcat            echo hello | kcat -b {address} -F {self.kcat} -t greetings -P",
            f"                  kcat -b {address} -F {self.kcat} -t greetings -C -e",
            f"  Kafka's tools   kafka-topics.sh --bootstrap-server {address} --command-config {self.java} --list",
            f"  users           pg-kafka users create NAME; clients trust {self.made.ca}",
        ]


def _names(listen: Address, advertised: Address | None) -> list[str]:
    names = [] if advertised is None else [advertised.host]
    if listen.host not in checks.WILDCARDS:
        names.append(listen.host)
    elif (own := own_address()) is not None:
        names.append(own)
    return names


def own_address() -> str | None:
    """The address by which others reach this machine."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(checks.FAR_AWAY)  # looks up the route and sends nothing
            host: str = probe.getsockname()[0]
            return host
    except OSError:
        return None
