"""Logging in, and what may be done before it, after it, and when it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.broker.rawclient import TIMEOUT_S, batch, fetching
from tests.broker.saslpeer import (
    ALL,
    API_VERSIONS,
    HANDSHAKE,
    METADATA,
    SaslBroker,
    SaslPeer,
    sasl_broker,
    scram_client,
)
from tests.postgres import PostgresServer

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.wire.frames import RequestHeader, encode_request_header
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

GENERIC = "Authentication failed during authentication due to invalid credentials with SASL mechanism {}"
WRONG = "Authentication failed: Invalid username or password"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker(postgres15: PostgresServer) -> AsyncIterator[SaslBroker]:
    async with sasl_broker(postgres15, connection_failed_authentication_delay_ms=0) as running:
        await running.create_user("alice", "secret")
        yield running


@contextlib.asynccontextmanager
async def peer_of(broker: Any) -> AsyncIterator[SaslPeer]:
    async with await SaslPeer.connect(broker) as peer:
        yield peer


@pytest.mark.parametrize("mechanism", ALL)
async def test_who_is_authenticated_is_served(broker: SaslBroker, mechanism: str) -> None:
    async with peer_of(broker) as peer:
        assert (await peer.versions()).error_code == 0
        login = peer.plain("alice", "secret") if mechanism == "PLAIN" else peer.scram("alice", "secret", mechanism)
        response = await login

        assert (response.error_code, response.session_lifetime_ms) == (0, 0)
        assert (await peer.metadata()).brokers[0].port == broker.port


async def test_tokens_may_come_alone(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        assert (await peer.handshake("PLAIN", 0)).error_code == 0
        assert await peer.raw_token(b"\0alice\0secret") == b""
        assert (await peer.metadata()).brokers
    async with peer_of(broker) as peer:
        await peer.handshake("SCRAM-SHA-256", 0)
        client = scram_client("alice", "secret", "SCRAM-SHA-256")
        client.process_server_first_message((await peer.raw_token(client.first_message().encode())).decode())
        client.process_server_final_message((await peer.raw_token(client.final_message().encode())).decode())
        assert (await peer.metadata()).brokers


async def test_the_open_listener_asks_nobody(broker: SaslBroker) -> None:
    reader, writer = await asyncio.open_connection(broker.host, broker.open_port)
    async with SaslPeer(reader, writer) as peer:
        assert (await peer.metadata()).brokers[0].port == broker.open_port
        handshake = await peer.handshake("PLAIN")
        assert (handshake.error_code, list(handshake.mechanisms)) == (34, [])


async def test_a_mechanism_that_is_not_enabled_is_refused_with_those_that_are(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        response = await peer.handshake("GSSAPI")

        assert (response.error_code, tuple(response.mechanisms)) == (33, ALL)
        assert await peer.is_closed_by_peer()


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("nobody", "secret"), ("alice", "SECRET"), ("Alice", "secret")]
)
@pytest.mark.parametrize("mechanism", ALL)
async def test_wrong_credentials_of_any_kind_have_one_answer(
    broker: SaslBroker, mechanism: str, name: str, password: str
) -> None:
    async with peer_of(broker) as peer:
        login = peer.plain(name, password) if mechanism == "PLAIN" else peer.scram(name, password, mechanism)
        response = await login

        assert response.error_code == 58
        assert response.error_message == (WRONG if mechanism == "PLAIN" else GENERIC.format(mechanism))
        assert await peer.is_closed_by_peer()


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_scram_challenges_look_alike(broker: SaslBroker, name: str) -> None:
    challenges = set()
    for _ in range(2):
        async with peer_of(broker) as peer:
            await peer.handshake("SCRAM-SHA-256")
            response = await peer.token(f"n,,n={name},r=fyko+d2lbbFgONRv9qkxdawL".encode())
            nonce, salt, iterations = response.auth_bytes.decode().split(",")
            assert nonce.startswith("r=fyko+d2lbbFgONRv9qkxdawL")
            assert len(base64.b64decode(salt[2:])) == 20
            challenges.add((salt, iterations))
    assert len(challenges) == 1


@pytest.mark.parametrize(
    "first",
    [
        b"p=tls-unique,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL",
        b"y,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL",
        b"n,a=bob,n=alice,r=fyko+d2lbbFgONRv9qkxdawL",
        b"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL,tokenauth=true",
        b"n,,n=alice",
        b"",
        b"\xff\xfe",
    ],
)
async def test_what_scram_does_not_take_fails(broker: SaslBroker, first: bytes) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake("SCRAM-SHA-256")
        response = await peer.token(first)

        assert (response.error_code, response.error_message) == (58, GENERIC.format("SCRAM-SHA-256"))
        assert await peer.is_closed_by_peer()


async def test_a_proof_is_good_for_one_dialogue(broker: SaslBroker) -> None:
    client = scram_client("alice", "secret")
    first = client.first_message().encode()
    async with peer_of(broker) as peer:
        await peer.handshake("SCRAM-SHA-512")
        client.process_server_first_message((await peer.token(first)).auth_bytes.decode())
        final = client.final_message().encode()
        assert (await peer.token(final)).error_code == 0
        # A third token is none of the dialogue.
        again = await peer.token(final)
        assert (again.error_code, again.error_message) == (
            34,
            "SaslAuthenticate request received after successful authentication",
        )
    async with peer_of(broker) as peer:
        await peer.handshake("SCRAM-SHA-512")
        await peer.token(first)
        replayed = await peer.token(final)
        assert (replayed.error_code, replayed.error_message) == (58, GENERIC.format("SCRAM-SHA-512"))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (b"\0alice", "Invalid SASL/PLAIN response: expected 3 tokens, got 2"),
        (b"\0\0secret", "Authentication failed: username not specified"),
        (b"\0alice\0", "Authentication failed: password not specified"),
    ],
)
async def test_what_plain_does_not_take_is_told(broker: SaslBroker, token: bytes, message: str) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake("PLAIN")
        response = await peer.token(token)

        assert (response.error_code, response.error_message) == (58, message)


async def test_requests_before_authentication_close(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        peer.send(MetadataRequest(topics=[]), METADATA, 9)
        assert await peer.is_closed_by_peer()


async def test_requests_in_the_middle_get_their_own_form_and_close(broker: SaslBroker) -> None:
    """kafkajs takes the answer to a refused token for a welcome, and learns by this that it is none."""
    async with peer_of(broker) as peer:
        await peer.handshake("PLAIN")
        named = MetadataRequest(topics=[MetadataRequestTopic(name="orders")])
        correlation_id = peer.send(named, METADATA, 9)
        answer = await peer.receive(METADATA, 9, correlation_id)
        assert [(one.name, one.error_code) for one in answer.topics] == [("orders", 34)]
        assert not answer.brokers
        assert await peer.is_closed_by_peer()
    async with peer_of(broker) as peer:
        await peer.handshake("PLAIN")
        many = MetadataRequest(topics=[MetadataRequestTopic(name=f"t{n}") for n in range(2000)])
        peer.send(many, METADATA, 9)
        assert await peer.is_closed_by_peer()


async def test_a_second_handshake_and_versions_in_the_middle_are_out_of_place(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake("PLAIN")
        assert (await peer.handshake("PLAIN")).error_code == 34
        assert await peer.is_closed_by_peer()
    async with peer_of(broker) as peer:
        await peer.handshake("PLAIN")
        correlation_id = peer.send(MetadataRequest(topics=[]), API_VERSIONS, 0)
        assert (await peer.receive(API_VERSIONS, 0, correlation_id)).error_code == 34
        assert await peer.is_closed_by_peer()


async def test_after_authentication_a_handshake_is_out_of_place_and_nothing_more(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.scram("alice", "secret")
        assert (await peer.handshake("SCRAM-SHA-512")).error_code == 34
        assert (await peer.metadata()).brokers


@pytest.mark.parametrize("size", [32 * 1024 + 1, 2**31 - 1, -1])
async def test_large_frames_before_authentication_close(broker: SaslBroker, size: int) -> None:
    async with peer_of(broker) as peer:
        peer.writer.write(size.to_bytes(4, signed=True) + b"\0\x11\0\1")
        assert await peer.is_closed_by_peer()


async def test_many_frames_before_authentication_close(broker: SaslBroker) -> None:
    head = encode_request_header(RequestHeader(HANDSHAKE, 1, 0, "x" * 200))
    frame = head + b"\0\5PLAIN"
    async with peer_of(broker) as peer:
        peer.writer.write((len(frame).to_bytes(4) + frame) * 300)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(TIMEOUT_S):
                while await peer.reader.read(65536):
                    pass


async def test_afterwards_frames_may_be_large(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.scram("alice", "secret")
        topic = await peer.create_topic()
        assert (await peer.produce(topic, batch([b"x" * 500_000]))).error_code == 0


async def test_a_stranger_has_not_for_ever(postgres15: PostgresServer) -> None:
    async with sasl_broker(postgres15, authentication_timeout_ms=100) as broker:
        async with peer_of(broker) as peer:
            assert await peer.is_closed_by_peer()
        async with peer_of(broker) as peer:
            await peer.handshake("PLAIN")
            assert await peer.is_closed_by_peer()
        await broker.create_user("alice", "secret")
        async with peer_of(broker) as peer:
            await peer.scram("alice", "secret")
            await asyncio.sleep(0.2)  # what must not happen has no event
            assert (await peer.metadata()).brokers


async def test_failures_wait(postgres15: PostgresServer) -> None:
    """The connection stays open meanwhile, and whatever else is sent is not looked at."""
    loop = asyncio.get_running_loop()
    async with sasl_broker(postgres15, connection_failed_authentication_delay_ms=300) as broker:
        async with peer_of(broker) as peer:
            await peer.handshake("PLAIN")
            began = loop.time()
            correlation_id = peer.send_token(b"\0nobody\0secret")
            peer.send(MetadataRequest(topics=[]), METADATA, 9)
            response = await peer.receive(36, 2, correlation_id)
            assert loop.time() - began >= 0.29
            assert response.error_code == 58
            assert await peer.is_closed_by_peer()


async def test_a_session_ends_and_may_be_prolonged(postgres15: PostgresServer) -> None:
    async with sasl_broker(
        postgres15, connections_max_reauth_ms=1500, connection_failed_authentication_delay_ms=0
    ) as broker:
        await broker.create_user("alice", "secret")
        await broker.create_user("bob", "secret")
        async with peer_of(broker) as peer:
            assert (await peer.scram("alice", "secret")).session_lifetime_ms == 1500
            await asyncio.sleep(1.0)
            assert (await peer.scram("alice", "secret")).session_lifetime_ms == 1500
            await asyncio.sleep(1.0)
            assert (await peer.metadata()).brokers  # the first session has ended, the second has not
            await asyncio.sleep(0.6)
            peer.send(MetadataRequest(topics=[]), METADATA, 9)
            assert await peer.is_closed_by_peer()
        async with peer_of(broker) as peer:
            await peer.scram("alice", "secret")
            response = await peer.scram("bob", "secret")
            text = "Cannot change principals during re-authentication from User.alice: User.bob"
            assert (response.error_code, response.error_message) == (58, text)
            assert await peer.is_closed_by_peer()
        async with peer_of(broker) as peer:
            await peer.scram("alice", "secret")
            response = await peer.plain("alice", "secret")
            assert response.error_code == 58
            assert "not supported for re-authentication" in (response.error_message or "")
            assert await peer.is_closed_by_peer()


async def test_nothing_is_served_while_it_is_said_again_who_comes(postgres15: PostgresServer) -> None:
    """Also what comes in one piece with the handshake, and a poll that came again until then."""
    async with sasl_broker(postgres15, connections_max_reauth_ms=60_000) as broker:
        await broker.create_user("alice", "secret")
        async with peer_of(broker) as peer:
            await peer.scram("alice", "secret")
            topic = await peer.create_topic()
            opened = await peer.call(fetching(topic, {0: 0}, session=(0, 0)), 1, 12)
            poll = fetching(topic, {}, session=(opened.session_id, 1))
            for _ in range(3):
                assert (await peer.call(poll, 1, 12)).error_code == 0
                poll.session_epoch += 1
            handshake = peer.send(SaslHandshakeRequest(mechanism="SCRAM-SHA-512"), HANDSHAKE, 1)
            peer.send(poll, 1, 12)
            assert (await peer.receive(HANDSHAKE, 1, handshake)).error_code == 0
            assert await peer.is_closed_by_peer()  # a Fetch has no form for ILLEGAL_SASL_STATE


async def test_the_end_of_a_session_ends_polls_that_come_again(postgres15: PostgresServer) -> None:
    async with sasl_broker(postgres15, connections_max_reauth_ms=1000) as broker:
        await broker.create_user("alice", "secret")
        async with peer_of(broker) as peer:
            await peer.scram("alice", "secret")
            topic = await peer.create_topic()
            opened = await peer.call(fetching(topic, {0: 0}, session=(0, 0)), 1, 12)
            poll = fetching(topic, {}, session=(opened.session_id, 1))
            for _ in range(100):
                try:
                    answer = await peer.call(poll, 1, 12)
                except (asyncio.IncompleteReadError, ConnectionError):
                    break
                assert answer.error_code == 0
                poll.session_epoch += 1
                await asyncio.sleep(0.05)
            else:
                pytest.fail("the session has no end")


async def test_a_user_who_is_changed_is_cut_off(broker: SaslBroker) -> None:
    for name in ("dave", "bob", "carol"):
        await broker.create_user(name, "secret")
    async with (
        peer_of(broker) as by_scram,
        peer_of(broker) as by_plain,
        peer_of(broker) as other,
        peer_of(broker) as dropped,
    ):
        await by_scram.scram("dave", "secret")
        await by_plain.plain("dave", "secret")
        await other.scram("bob", "secret")
        await dropped.scram("carol", "secret", "SCRAM-SHA-256")

        await broker.sql("SELECT kafka.alter_user('dave', 'another')")
        assert await by_scram.is_closed_by_peer()
        assert await by_plain.is_closed_by_peer()
        await broker.sql("SELECT kafka.drop_user('carol')")
        assert await dropped.is_closed_by_peer()

        assert (await other.metadata()).brokers
    async with peer_of(broker) as peer:
        assert (await peer.scram("dave", "secret")).error_code == 58
    async with peer_of(broker) as peer:
        assert (await peer.scram("dave", "another")).error_code == 0


async def test_keys_that_change_in_the_middle_let_nobody_in(broker: SaslBroker) -> None:
    await broker.create_user("erin", "secret")
    client = scram_client("erin", "secret")
    async with peer_of(broker) as peer:
        await peer.handshake("SCRAM-SHA-512")
        challenge = await peer.token(client.first_message().encode())
        client.process_server_first_message(challenge.auth_bytes.decode())
        async with peer_of(broker) as other:
            await other.scram("erin", "secret")
            await broker.sql("SELECT kafka.drop_user('erin')")
            assert await other.is_closed_by_peer()  # the broker knows

        assert (await peer.token(client.final_message().encode())).error_code == 58


async def test_users_of_a_jaas_line_log_in_by_plain(postgres15: PostgresServer) -> None:
    line = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        ' username="admin" password="not used" user_admin="admin-secret" user_alice="jaas";'
    )
    async with sasl_broker(postgres15, sasl_jaas_config=line, connection_failed_authentication_delay_ms=0) as broker:
        await broker.create_user("alice", "stored")
        await broker.create_user("bob", "stored")
        for name, password, code in (
            ("admin", "admin-secret", 0),
            ("admin", "not used", 58),
            ("alice", "jaas", 0),
            ("alice", "stored", 58),
            ("bob", "stored", 0),
        ):
            async with peer_of(broker) as peer:
                assert (await peer.plain(name, password)).error_code == code, name


class Listened:
    """What an audit is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, bool]] = []

    def note(
        self, event: str, *, who: ConnectionInfo, resource: str = "", detail: str = "", succeeded: bool = True
    ) -> None:
        self.events.append((event, who.principal, resource, succeeded))


async def test_logins_are_told_to_the_audit(broker: SaslBroker) -> None:
    audit = Listened()
    broker.inside.term._server._broker.audit = audit  # type: ignore[union-attr]
    async with peer_of(broker) as peer:
        await peer.scram("alice", "secret")
    async with peer_of(broker) as peer:
        await peer.scram("alice", "wrong")
        assert await peer.is_closed_by_peer()

    assert audit.events == [
        ("login", "User:alice", "user alice", True),
        ("login failed", "User:ANONYMOUS", "user alice", False),
    ]
