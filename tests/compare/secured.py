"""Apache Kafka with its StandardAuthorizer, and pg_kafka with access control lists: users log in to both by PLAIN."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.broker.rawclient import RawClient

from pg_kafka.config.authorization import STANDARD_AUTHORIZER
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

ADMIN = "admin"
PASSWORD = "secret"
HANDSHAKE, AUTHENTICATE = 17, 36


def jaas(users: Collection[str]) -> str:
    """The line that lets these users and ADMIN log in by PLAIN, on both brokers."""
    known = " ".join(f'user_{user}="{PASSWORD}"' for user in (ADMIN, *users))
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return f'{module} required username="{ADMIN}" password="{PASSWORD}" {known};'


def kafka_settings(users: Collection[str]) -> dict[str, str]:
    """Of an Apache Kafka that these users may log in to, and whose super user is ADMIN."""
    return {
        "listeners": "SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas(users),
        "authorizer.class.name": STANDARD_AUTHORIZER,
        # The controller's listener has no users.
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
    }


async def logged_in(address: Any, user: str, password: str = PASSWORD) -> RawClient:
    """A connection of a user."""
    client = await RawClient.connect(address)
    try:
        answer = await client.call(SaslHandshakeRequest(mechanism="PLAIN"), HANDSHAKE, 1)
        assert answer.error_code == 0, answer
        token = f"\0{user}\0{password}".encode()
        answer = await client.call(SaslAuthenticateRequest(auth_bytes=token), AUTHENTICATE, 2)
        assert answer.error_code == 0, answer
    except BaseException:
        await client.close()
        raise
    return client
