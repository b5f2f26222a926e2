"""Brokers whose listeners ask who comes, of both kinds: pg_kafka, and Apache Kafka to check the tests.

Each listener is a name in `LISTENERS`. The first one asks nothing: whoever comes by it may do everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka.admin
from tests.certificates import Authority
from tests.clients.brokers import COMMAND, Broker
from tests.clients.logins import Login
from tests.kafka_reference import HOST, ApacheKafka, end, free_port, spawn, tail, wait_until_served
from tests.postgres import Database
from tests.sasl_dialogues import Peer, Place, plain
from tests.tokens import AUDIENCE, NAME, Issuer

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
# Names of listeners and what is spoken there. Sessions of SHORT end after REAUTHENTICATE_MS; SCRAM has no other mechanism.
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "SSL": "SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
    "SHORT": "SASL_SSL",
    "SCRAM": "SASL_PLAINTEXT",
}
REAUTHENTICATE_MS = 1500
ADMIN = confluent_kafka.admin


class Secrets:
    """The authority, the certificates and the issuer of tokens of a run, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self.stranger = Authority(folder / "stranger", "nobody's authority")
        self.server = self.authority.issue("broker")
        self.issuer = Issuer(folder / "tokens")
        self._tokens = 0

    def token_file(self, token: str) -> Path:
        """A file with a token."""
        self._tokens += 1
        path = self.folder / f"token-{self._tokens}"
        path.write_text(token)
        return path

    def login(self, listener: str, mechanism: str, name: str, password: str = "", token: str = "") -> Login:
        """A login by password, or by a token: one that is good for this name when none is given."""
        file = None
        if mechanism == "OAUTHBEARER":
            file = self.token_file(token or self.issuer.token(name))
        ca = self.authority.ca if LISTENERS[listener].endswith("SSL") else None
        return Login(mechanism=mechanism, name=name, password=password, token=file, ca=ca)

    def certified(self, name: str, authority: Authority | None = None) -> Login:
        """A login by certificate."""
        issued = (authority or self.authority).issue(name)
        return Login(ca=self.authority.ca, certificate=issued.chain, key=issued.key, both=issued.both)


class SecureBroker(Broker):
    """A broker with all of `LISTENERS`, ACLs, and users."""

    def __init__(self, secrets: Secrets, settings: Mapping[str, str] | None = None) -> None:
        self.ports = free_ports(LISTENERS)
        self.bootstrap = self.address("PLAINTEXT")
        self.secrets = secrets
        self._settings = common_settings(secrets, self.ports) | (settings or {})
        self._admin: Any = None

    def at(self, listener: str) -> Place:
        return Place(HOST, self.ports[listener])

    def address(self, listener: str) -> str:
        return f"{HOST}:{self.ports[listener]}"

    @property
    def admin(self) -> Any:
        """librdkafka's admin client, of somebody who may do everything."""
        if self._admin is None:
            self._admin = ADMIN.AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    @abstractmethod
    def create_user(self, name: str, password: str) -> None:
        """A user for every mechanism with passwords that this broker can add one to while it runs."""

    @abstractmethod
    def drop_user(self, name: str) -> None: ...

    def allow(self, user: str, topic: str, *operations: str) -> None:
        """Add ACLs."""
        for future in self.admin.create_acls([binding(user, topic, one) for one in operations]).values():
            future.result(20)

    def remove_acls(self, user: str, topic: str) -> int:
        """Remove a user's ACLs for a topic; how many there were."""
        found = ADMIN.AclBindingFilter(
            ADMIN.ResourceType.TOPIC,
            topic,
            ADMIN.ResourcePatternType.LITERAL,
            f"User:{user}",
            None,
            ADMIN.AclOperation.ANY,
            ADMIN.AclPermissionType.ANY,
        )
        (future,) = self.admin.delete_acls([found]).values()
        return len(future.result(20))


def free_ports(names: Iterable[str]) -> dict[str, int]:
    """A port of its own for each name."""
    with contextlib.ExitStack() as held:
        ports = {}
        for name in names:
            probe = held.enter_context(socket.socket())
            probe.bind((HOST, 0))
            ports[name] = int(probe.getsockname()[1])
        return ports


def binding(user: str, topic: str, operation: str) -> Any:
    return ADMIN.AclBinding(
        ADMIN.ResourceType.TOPIC,
        topic,
        ADMIN.ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        ADMIN.AclOperation[operation],
        ADMIN.AclPermissionType.ALLOW,
    )


def common_settings(secrets: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    """What both brokers read, by Kafka's names."""
    return {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items()),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secrets.server.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(secrets.authority.ca),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
        "sasl.oauthbearer.jwks.endpoint.url": secrets.issuer.jwks.as_uri(),
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": NAME,
        "sasl.oauthbearer.clock.skew.seconds": "0",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "allow.everyone.if.no.acl.found": "true",
        "group.initial.rebalance.delay.ms": "0",
        **{
            f"listener.name.short.{name.lower()}.connections.max.reauth.ms": str(REAUTHENTICATE_MS)
            for name in MECHANISMS
        },
    }


class SecureReference(SecureBroker):
    """Apache Kafka. Its users of PLAIN are in its settings; those of SCRAM are made while it runs."""

    flavour = "apache-kafka"

    def __init__(self, folder: Path, secrets: Secrets, plain_users: Mapping[str, str]) -> None:
        super().__init__(secrets)
        users = " ".join(f'user_{name}="{password}"' for name, password in plain_users.items())
        modules = {
            "PLAIN": f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};",
            "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "OAUTHBEARER": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        }
        validator = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
        more = {}
        for listener in LISTENERS:
            if LISTENERS[listener].startswith("SASL"):
                front = f"listener.name.{listener.lower()}"
                for mechanism, module in modules.items():
                    more[f"{front}.{mechanism.lower()}.sasl.jaas.config"] = module
                more[f"{front}.oauthbearer.sasl.server.callback.handler.class"] = validator
        controller = free_port()
        more |= {
            "listeners": f"{self._settings['listeners']},CONTROLLER://{HOST}:{controller}",
            "listener.security.protocol.map": f"{self._settings['listener.security.protocol.map']},CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "inter.broker.listener.name": "PLAINTEXT",
        }
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={secrets.issuer.jwks.as_uri()}"
        self._kafka = ApacheKafka(folder, self._settings | more, heap="512m", options=[allowed])
        self._kafka.port = self.ports["PLAINTEXT"]

    def start(self) -> None:
        self._kafka.start()

    def stop(self) -> None:
        self._kafka.stop()

    def kill(self) -> None:
        self._kafka.kill()

    def is_running(self) -> bool:
        return self._kafka.process is not None and self._kafka.process.poll() is None

    def create_user(self, name: str, password: str) -> None:
        self._alter(
            [
                ADMIN.UserScramCredentialUpsertion(
                    name, ADMIN.ScramCredentialInfo(ADMIN.ScramMechanism[mechanism], 4096), password.encode()
                )
                for mechanism in ("SCRAM_SHA_256", "SCRAM_SHA_512")
            ]
        )

    def drop_user(self, name: str) -> None:
        mechanisms = (ADMIN.ScramMechanism.SCRAM_SHA_256, ADMIN.ScramMechanism.SCRAM_SHA_512)
        self._alter([ADMIN.UserScramCredentialDeletion(name, one) for one in mechanisms])

    def _alter(self, alterations: list[Any]) -> None:
        for one in alterations:  # a request for each: Apache Kafka takes a user once in a request
            for future in self.admin.alter_user_scram_credentials([one]).values():
                future.result(20)


class SecurePgKafka(SecureBroker):
    """`pg-kafka serve` on a database that is given; its users are made by SQL."""

    flavour = "postgresql-15"

    def __init__(
        self, folder: Path, secrets: Secrets, database: Database, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(secrets, settings)
        self.database = database
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"pg-kafka-{self.ports['PLAINTEXT']}.log"
        self._file = folder / f"pg-kafka-{self.ports['PLAINTEXT']}.toml"
        # JSON's strings are TOML's as well.
        self._file.write_text("".join(f'"{name}" = {json.dumps(value)}\n' for name, value in self._settings.items()))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, leads: bool = True) -> None:
        command = [str(COMMAND), "serve", "--config", str(self._file), "--database", self.database.dsn]
        self.process = spawn(command, self.log)
        wait_until_served(self.ports["PLAINTEXT"], self.process, self.log, leads=leads)

    def stop(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            code = end(process, signal.SIGTERM)
            assert code == 0, f"pg-kafka ended with code {code}:\n{tail(self.log)}"

    def kill(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            end(process, signal.SIGKILL)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def create_user(self, name: str, password: str) -> None:
        """The broker knows the user when this returns."""
        self.sql("SELECT kafka.create_user($1, $2)", name, password)
        asyncio.run(self._wait_for(name, password))

    async def _wait_for(self, name: str, password: str) -> None:
        async with asyncio.timeout(30):
            while True:
                async with await Peer.connect(self.at("SASL_PLAINTEXT")) as peer:
                    await peer.handshake("PLAIN")
                    await peer.authenticate(plain(name, password))
                    if peer.heard[-1] == "0":
                        return

    def drop_user(self, name: str) -> None:
        self.sql("SELECT kafka.drop_user($1)", name)

    def sql(self, statement: str, *arguments: str) -> None:
        run_sql(self.database.dsn, statement, *arguments)


def run_sql(dsn: str, statement: str, *arguments: str) -> Any:
    """The rows of one statement."""

    async def work() -> Any:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close(timeout=5)

    return asyncio.run(work())
