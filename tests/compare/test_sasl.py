"""Logging in, right and wrong, on Apache Kafka and pg_kafka: the same bytes get the same codes and sentences.

Left out is what docs/deviations.md names: names that nobody has, and a re-authentication by another mechanism.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from tests.broker.saslpeer import ALL, API_VERSIONS, SaslPeer, sasl_broker, scram_client
from tests.compare.conftest import KAFKA_SETTINGS
from tests.compare.secured import ADMIN, PASSWORD, kafka_settings, logged_in
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing
from tests.postgres import PostgresServer

from pg_kafka.security import scram
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.describe_user_scram_credentials import DescribeUserScramCredentialsRequest, UserName

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSION_MS = 3000
READY_S = 60.0
SETTINGS = {
    "connections.max.reauth.ms": str(SESSION_MS),
    "sasl.enabled.mechanisms": ",".join(ALL),
    **{
        f"listener.name.sasl_plaintext.{mechanism.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        )
        for mechanism in ALL[1:]
    },
}
JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required"
    f' user_{ADMIN}="{PASSWORD}" user_alice="{PASSWORD}";'
)


@dataclass
class Side:
    name: str
    place: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sides(
    postgres15: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("sasl")
    try:
        kafka = ApacheKafka(folder / "kafka", {**KAFKA_SETTINGS, **kafka_settings(["alice"]), **SETTINGS}, heap="512m")
        await asyncio.to_thread(kafka.start)
    except ToolMissing as missing:
        if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    try:
        async with sasl_broker(postgres15, connections_max_reauth_ms=SESSION_MS, sasl_jaas_config=JAAS) as ours:
            both = Side("Kafka", SimpleNamespace(host=HOST, port=kafka.port)), Side("pg_kafka", ours)
            for side in both:
                await _make_alice(side)
            yield both
    finally:
        kafka.kill()


def _new(name: str, mechanism: scram.Mechanism, iterations: int = 4096) -> ScramCredentialUpsertion:
    salted = scram.salted_password(mechanism, PASSWORD, b"salt", max(iterations, 1))
    return ScramCredentialUpsertion(
        name=name, mechanism=mechanism.number, iterations=iterations, salt=b"salt", salted_password=salted
    )


async def _make_alice(side: Side) -> None:
    request = AlterUserScramCredentialsRequest(upsertions=[_new("alice", scram.SHA_256)])
    async with await logged_in(side.place, ADMIN) as admin:
        assert (await admin.call(request, 51, 0)).results[0].error_code == 0
        request = AlterUserScramCredentialsRequest(upsertions=[_new("alice", scram.SHA_512)])
        assert (await admin.call(request, 51, 0)).results[0].error_code == 0
    async with asyncio.timeout(READY_S):
        for mechanism in ALL[1:]:
            while True:
                async with await SaslPeer.connect(side.place) as peer:
                    if not (await peer.scram("alice", PASSWORD, mechanism)).error_code:
                        break


Said = Any
Script = Callable[[SaslPeer], Awaitable[list[Said]]]


async def _heard(asked: Awaitable[Any]) -> Said:
    """What an answer says, without what is random in it."""
    try:
        answer = await asked
    except (asyncio.IncompleteReadError, ConnectionError):
        return "closed"
    if isinstance(answer, bytes):
        return bool(answer)
    said = [answer.error_code]
    if hasattr(answer, "mechanisms"):
        said.append(sorted(answer.mechanisms))
    if hasattr(answer, "error_message"):
        said += [answer.error_message, bool(answer.auth_bytes), answer.session_lifetime_ms]
    return said


async def _served(peer: SaslPeer) -> Said:
    """Is it served now? Apache Kafka may answer with nothing but an error before it closes."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        return bool((await peer.metadata()).brokers)
    return False


def logs_in(mechanism: str, password: str = PASSWORD, name: str = "alice", version: int = 2) -> Script:
    async def script(peer: SaslPeer) -> list[Said]:
        said = [await _heard(peer.handshake(mechanism))]
        if mechanism == "PLAIN":
            said.append(await _heard(peer.token(f"\0{name}\0{password}".encode(), version)))
        else:
            client = scram_client(name, password, mechanism)
            first = await peer.token(client.first_message().encode(), version)
            client.process_server_first_message(first.auth_bytes.decode())
            said.append(await _heard(peer.token(client.final_message().encode(), version)))
        return [*said, await _served(peer)]

    return script


def tokens(mechanism: str, *given: bytes) -> Script:
    async def script(peer: SaslPeer) -> list[Said]:
        said = [await _heard(peer.handshake(mechanism))]
        for token in given:
            said.append(await _heard(peer.token(token)))
        return [*said, await _served(peer)]

    return script


def alone(mechanism: str, token: bytes) -> Script:
    async def script(peer: SaslPeer) -> list[Said]:
        return [
            await _heard(peer.handshake(mechanism, 0)),
            await _heard(peer.raw_token(token)),
            await _served(peer),
        ]

    return script


async def _metadata_first(peer: SaslPeer) -> list[Said]:
    return [await _served(peer)]


async def _metadata_in_the_middle(peer: SaslPeer) -> list[Said]:
    return [await _heard(peer.handshake("PLAIN")), await _served(peer)]


async def _token_first(peer: SaslPeer) -> list[Said]:
    return [await _heard(peer.token(b"\0alice\0secret"))]


async def _versions_first(peer: SaslPeer) -> list[Said]:
    return [(await peer.versions()).error_code, *await logs_in("PLAIN")(peer)]


async def _unknown_versions_first(peer: SaslPeer) -> list[Said]:
    correlation_id = next(peer.correlation_ids)
    frame = b"\0\x12\0\x63" + correlation_id.to_bytes(4) + b"\0\1x\0\0\0"
    peer.writer.write(len(frame).to_bytes(4) + frame)
    answer = await peer.receive(API_VERSIONS, 0, correlation_id)
    return [answer.error_code, (await peer.versions()).error_code, *await logs_in("PLAIN")(peer)]


async def _two_handshakes(peer: SaslPeer) -> list[Said]:
    return [await _heard(peer.handshake("PLAIN")), await _heard(peer.handshake("PLAIN")), await _served(peer)]


async def _versions_in_the_middle(peer: SaslPeer) -> list[Said]:
    said = [await _heard(peer.handshake("PLAIN"))]
    request = ApiVersionsRequest(client_software_name="raw", client_software_version="1")
    said.append(await _heard(peer.call(request, API_VERSIONS, 0)))
    return [*said, await _served(peer)]


async def _token_afterwards(peer: SaslPeer) -> list[Said]:
    return [*await logs_in("PLAIN")(peer), await _heard(peer.token(b"\0alice\0secret")), await _served(peer)]


async def _handshakes_too_often(peer: SaslPeer) -> list[Said]:
    """The first one prolongs, the second one comes too early."""
    said = await logs_in("PLAIN")(peer)
    said += await logs_in("PLAIN")(peer)
    return [*said, await _heard(peer.handshake("PLAIN")), await _served(peer)]


async def _another_principal(peer: SaslPeer) -> list[Said]:
    return [*await logs_in("PLAIN")(peer), *await logs_in("PLAIN", name=ADMIN)(peer)]


async def _another_password(peer: SaslPeer) -> list[Said]:
    return [*await logs_in("SCRAM-SHA-512")(peer), *await logs_in("SCRAM-SHA-512", "wrong")(peer)]


async def _request_while_it_is_asked_again(peer: SaslPeer) -> list[Said]:
    return [*await logs_in("PLAIN")(peer), await _heard(peer.handshake("PLAIN")), await _served(peer)]


async def _session_that_has_ended(peer: SaslPeer) -> list[Said]:
    said = await logs_in("PLAIN")(peer)
    await asyncio.sleep(SESSION_MS / 1000 + 0.2)
    return [*said, await _served(peer)]


async def _begun_again_after_the_end(peer: SaslPeer) -> list[Said]:
    said = await logs_in("PLAIN")(peer)
    await asyncio.sleep(SESSION_MS / 1000 + 0.2)
    return [*said, *await logs_in("PLAIN")(peer)]


NONCE = b"r=fyko+d2lbbFgONRv9qkxdawL"
SCRIPTS: dict[str, Script] = {
    **{f"{mechanism}, right": logs_in(mechanism) for mechanism in ALL},
    **{f"{mechanism}, wrong": logs_in(mechanism, "wrong") for mechanism in ALL},
    **{
        f"{mechanism}, SaslAuthenticate {version}": logs_in(mechanism, version=version)
        for mechanism in ALL
        for version in (0, 1)
    },
    "PLAIN, nobody": logs_in("PLAIN", name="nobody"),
    "PLAIN, one part": tokens("PLAIN", b"alice"),
    "PLAIN, two parts": tokens("PLAIN", b"\0alice"),
    "PLAIN, four parts": tokens("PLAIN", b"\0alice\0secret\0more"),
    "PLAIN, no name": tokens("PLAIN", b"\0\0secret"),
    "PLAIN, no password": tokens("PLAIN", b"\0alice\0"),
    "PLAIN, for itself": tokens("PLAIN", b"alice\0alice\0secret"),
    "PLAIN, for somebody else": tokens("PLAIN", b"bob\0alice\0secret"),
    "PLAIN, nothing": tokens("PLAIN", b""),
    "PLAIN, alone, right": alone("PLAIN", b"\0alice\0secret"),
    "PLAIN, alone, wrong": alone("PLAIN", b"\0alice\0wrong"),
    "SCRAM, nothing": tokens("SCRAM-SHA-256", b""),
    "SCRAM, first": tokens("SCRAM-SHA-256", b"n,,n=alice," + NONCE),
    "SCRAM, first twice": tokens("SCRAM-SHA-256", b"n,,n=alice," + NONCE, b"n,,n=alice," + NONCE),
    "SCRAM, bound to a channel": tokens("SCRAM-SHA-256", b"p=tls-unique,,n=alice," + NONCE),
    "SCRAM, could be bound": tokens("SCRAM-SHA-256", b"y,,n=alice," + NONCE),
    "SCRAM, delegation token": tokens("SCRAM-SHA-256", b"n,,n=alice," + NONCE + b",tokenauth=true"),
    "SCRAM, unknown extension": tokens("SCRAM-SHA-256", b"n,,n=alice," + NONCE + b",other=true"),
    "SCRAM, alone": alone("SCRAM-SHA-512", b"n,,n=alice," + NONCE),
    "GSSAPI": tokens("GSSAPI"),
    "no mechanism": tokens(""),
    "Metadata first": _metadata_first,
    "Metadata in the middle": _metadata_in_the_middle,
    "a token first": _token_first,
    "ApiVersions first": _versions_first,
    "an unknown ApiVersions first": _unknown_versions_first,
    "two handshakes": _two_handshakes,
    "ApiVersions in the middle": _versions_in_the_middle,
    "a token afterwards": _token_afterwards,
    "handshakes too often": _handshakes_too_often,
    "another principal": _another_principal,
    "another password": _another_password,
    "a request while it is asked again": _request_while_it_is_asked_again,
    "a session that has ended": _session_that_has_ended,
    "begun again after the end": _begun_again_after_the_end,
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_same_is_said(sides: tuple[Side, Side], name: str) -> None:
    heard = []
    for side in sides:
        async with await SaslPeer.connect(side.place) as peer, asyncio.timeout(READY_S):
            heard.append(await SCRIPTS[name](peer))
    kafka, ours = heard
    assert ours == kafka


async def test_users_are_changed_by_the_same_rules(sides: tuple[Side, Side]) -> None:
    requests = [
        AlterUserScramCredentialsRequest(
            deletions=[
                ScramCredentialDeletion(name="nobody", mechanism=1),
                ScramCredentialDeletion(name="", mechanism=1),
                ScramCredentialDeletion(name="x", mechanism=7),
            ],
            upsertions=[
                _new("few", scram.SHA_256, 4095),
                _new("many", scram.SHA_256, 16385),
                _new("bob", scram.SHA_512, 8192),
                _new("twice", scram.SHA_256),
                _new("twice", scram.SHA_512),
                ScramCredentialUpsertion(name="y", mechanism=0, iterations=4096),
            ],
        ),
        AlterUserScramCredentialsRequest(
            deletions=[ScramCredentialDeletion(name="bob", mechanism=2)], upsertions=[_new("bob", scram.SHA_512)]
        ),
    ]
    heard = []
    for side in sides:
        said: list[Any] = []
        async with await logged_in(side.place, ADMIN) as admin:
            for request in requests:
                answer = await admin.call(request, 51, 0)
                said.append(sorted((one.user, one.error_code, one.error_message) for one in answer.results))
            names = [UserName(name=name) for name in ("bob", "nobody", "twice", "twice")]
            async with asyncio.timeout(READY_S):
                while True:  # Apache Kafka tells what it has a moment later
                    answer = await admin.call(DescribeUserScramCredentialsRequest(users=names), 50, 0)
                    if any(one.user == "bob" and not one.error_code for one in answer.results):
                        break
            described = [
                (
                    one.user,
                    one.error_code,
                    one.error_message,
                    [(i.mechanism, i.iterations) for i in one.credential_infos],
                )
                for one in answer.results
            ]
        heard.append([*said, sorted(described)])
    assert heard[1] == heard[0]
