"""Users by Kafka's requests: who they are is told, and changed by Kafka's rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from tests.broker.rawclient import RawClient
from tests.broker.saslpeer import SaslBroker, SaslPeer, sasl_broker
from tests.postgres import PostgresServer

from pg_kafka.security import scram
from pg_kafka.security.scram import SHA_256, SHA_512, Mechanism
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from pg_kafka.wire.messages.describe_user_scram_credentials import DescribeUserScramCredentialsRequest, UserName

DESCRIBE, ALTER = 50, 51
TWICE = "A user credential cannot be altered twice in the same request"
NOT_THERE = "Attempt to delete a user credential that does not exist"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker(postgres15: PostgresServer) -> AsyncIterator[SaslBroker]:
    async with sasl_broker(postgres15, connection_failed_authentication_delay_ms=0) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(broker: SaslBroker) -> AsyncIterator[RawClient]:
    """By the listener that asks nobody; no users are there."""
    await broker.sql("DELETE FROM kafka.user_keys")
    open_place = type("Place", (), {"host": broker.host, "port": broker.open_port})
    async with await RawClient.connect(open_place) as one:
        yield one


def new(
    name: str, mechanism: Mechanism = SHA_512, password: str = "secret", iterations: int = 4096, **more: Any
) -> ScramCredentialUpsertion:
    salted = scram.salted_password(mechanism, password, b"salt", max(iterations, 1))
    return ScramCredentialUpsertion(
        **{
            "name": name,
            "mechanism": mechanism.number,
            "iterations": iterations,
            "salt": b"salt",
            "salted_password": salted,
            **more,
        }
    )


def gone(name: str, mechanism: Mechanism = SHA_512) -> ScramCredentialDeletion:
    return ScramCredentialDeletion(name=name, mechanism=mechanism.number)


async def alter(
    client: RawClient, *changes: ScramCredentialUpsertion | ScramCredentialDeletion
) -> dict[str, tuple[int, str | None]]:
    request = AlterUserScramCredentialsRequest(
        deletions=[one for one in changes if isinstance(one, ScramCredentialDeletion)],
        upsertions=[one for one in changes if isinstance(one, ScramCredentialUpsertion)],
    )
    response = await client.call(request, ALTER, 0)
    assert len({result.user for result in response.results}) == len(response.results)
    return {result.user: (result.error_code, result.error_message) for result in response.results}


async def describe(client: RawClient, names: Sequence[str] | None = None) -> dict[str, Any]:
    users = None if names is None else [UserName(name=name) for name in names]
    response = await client.call(DescribeUserScramCredentialsRequest(users=users), DESCRIBE, 0)
    assert response.error_code == 0
    return {
        result.user: (result.error_code, result.error_message)
        if result.error_code
        else [(info.mechanism, info.iterations) for info in result.credential_infos]
        for result in response.results
    }


async def test_users_come_and_go(broker: SaslBroker, client: RawClient) -> None:
    assert await describe(client) == {}
    assert await alter(client, new("alice", iterations=8192), new("bob", SHA_256)) == {
        "alice": (0, None),
        "bob": (0, None),
    }
    await alter(client, new("alice", SHA_256))
    assert await describe(client) == {"alice": [(1, 4096), (2, 8192)], "bob": [(1, 4096)]}
    assert await describe(client, []) == await describe(client)
    assert await describe(client, ["alice"]) == {"alice": [(1, 4096), (2, 8192)]}

    await broker.knows("alice")
    async with await SaslPeer.connect(broker) as peer:
        assert (await peer.scram("alice", "secret")).error_code == 0

        assert await alter(client, gone("alice")) == {"alice": (0, None)}
        assert await peer.is_closed_by_peer()
    assert await describe(client) == {"alice": [(1, 4096)], "bob": [(1, 4096)]}


async def test_what_is_described_twice_or_not_there(client: RawClient) -> None:
    await alter(client, new("alice"))
    assert await describe(client, ["alice", "nobody", "alice", "no\0body"]) == {
        "alice": (92, "Cannot describe SCRAM credentials for the same user twice in a single request: alice"),
        "nobody": (91, "Attempt to describe a user credential that does not exist: nobody"),
        "no\0body": (91, "Attempt to describe a user credential that does not exist: no\0body"),
    }


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (new("alice", iterations=4095), 93, "Too few iterations"),
        (new("alice", iterations=16385), 93, "Too many iterations"),
        (new(""), 93, "Username must not be empty"),
        (gone(""), 93, "Username must not be empty"),
        (new("a\0b"), 93, "Username must have at most 255 characters, none NUL"),
        (new("x" * 256), 93, "Username must have at most 255 characters, none NUL"),
        (new("alice", salt=b"x" * 1025), 93, "A salt must have at most 1024 bytes"),
        (ScramCredentialUpsertion(name="alice", mechanism=0, iterations=4096), 33, "Unknown SCRAM mechanism"),
        (ScramCredentialDeletion(name="alice", mechanism=3), 33, "Unknown SCRAM mechanism"),
        (gone("alice"), 91, NOT_THERE),
    ],
)
async def test_each_user_answers_for_itself(
    client: RawClient, change: ScramCredentialUpsertion | ScramCredentialDeletion, code: int, message: str
) -> None:
    assert await alter(client, change, new("bob")) == {change.name: (code, message), "bob": (0, None)}
    assert list(await describe(client)) == ["bob"]


async def test_a_user_named_twice_is_left_as_it_was(client: RawClient) -> None:
    await alter(client, new("alice"), new("bob"), new("carol"))
    answers = await alter(
        client, gone("alice"), new("alice", SHA_256), new("bob", SHA_256), new("bob"), gone("carol"), gone("carol")
    )
    assert answers == dict.fromkeys(("alice", "bob", "carol"), (92, TWICE))
    assert await describe(client) == {key: [(2, 4096)] for key in ("alice", "bob", "carol")}


async def test_nothing_asked_for_is_nothing_answered(client: RawClient) -> None:
    assert await alter(client) == {}
