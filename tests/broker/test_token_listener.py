"""OAUTHBEARER on a listener: what a client hears, and until when it may stay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.broker.saslpeer import SaslBroker, SaslPeer, sasl_broker
from tests.postgres import PostgresServer
from tests.token_issuer import AUDIENCE, ISSUER, Issuer

from pg_kafka.clock import Clock
from pg_kafka.security.oauth import MAX_TOKEN_CHARACTERS
from pg_kafka.wire.error_codes import ErrorCode

pytestmark = pytest.mark.asyncio(loop_scope="module")
MECHANISM = "OAUTHBEARER"
ISSUED = Issuer("rsa", "ed25519")


def now_s() -> float:
    return Clock().wall_ms() / 1000


def message(token: str) -> bytes:
    return f"n,,\x01auth=Bearer {token}\x01\x01".encode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker(postgres15: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SaslBroker]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_bytes(ISSUED.keys)
    async with sasl_broker(
        postgres15,
        sasl_enabled_mechanisms=(MECHANISM,),
        sasl_oauthbearer_jwks_endpoint_url=keys.as_uri(),
        sasl_oauthbearer_expected_issuer=ISSUER,
        sasl_oauthbearer_expected_audience=(AUDIENCE,),
        sasl_oauthbearer_clock_skew_seconds=0,
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def peer_of(broker: SaslBroker) -> AsyncIterator[SaslPeer]:
    async with await SaslPeer.connect(broker) as peer:
        yield peer


async def test_a_session_lasts_as_long_as_its_token(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        assert (await peer.handshake(MECHANISM)).error_code == ErrorCode.NONE
        answer = await peer.token(message(ISSUED.token("alice", now_s(), exp=now_s() + 100)))
        assert (answer.error_code, answer.auth_bytes) == (ErrorCode.NONE, b"")
        assert 60_000 < answer.session_lifetime_ms <= 100_000
        assert (await peer.metadata()).brokers


async def test_whoever_does_not_come_again_has_to_go(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        answer = await peer.token(message(ISSUED.token("alice", now_s(), exp=now_s() + 3)))
        assert 0 < answer.session_lifetime_ms <= 3000
        await asyncio.sleep(answer.session_lifetime_ms / 1000)
        with pytest.raises(asyncio.IncompleteReadError):
            await peer.metadata()


async def test_a_newer_token_prolongs_the_session_and_is_for_the_same_name(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        await peer.token(message(ISSUED.token("alice", now_s(), exp=now_s() + 20)))
        await peer.handshake(MECHANISM)
        answer = await peer.token(message(ISSUED.token("alice", now_s(), key="ed25519")))
        assert answer.error_code == ErrorCode.NONE and answer.session_lifetime_ms > 3_000_000
        assert (await peer.metadata()).brokers
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        await peer.token(message(ISSUED.token("alice", now_s())))
        await peer.handshake(MECHANISM)
        answer = await peer.token(message(ISSUED.token("bob", now_s())))
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED


async def test_a_bad_token_is_told_as_rfc_7628_says(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        answer = await peer.token(message(ISSUED.token("alice", now_s(), exp=now_s() - 1, iat=0)))
        assert (answer.error_code, answer.auth_bytes) == (ErrorCode.NONE, b'{"status":"invalid_token"}')
        answer = await peer.token(b"\x01")
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert answer.error_message == '{"status":"invalid_token"}'
        assert await peer.reader.read() == b""


async def test_tokens_may_come_without_requests(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM, 0)
        assert await peer.raw_token(message(ISSUED.token("alice", now_s()))) == b""
        assert (await peer.metadata()).brokers
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM, 0)
        assert await peer.raw_token(message("a.b.c")) == b'{"status":"invalid_token"}'


async def test_a_huge_token_fails_before_it_is_looked_at(broker: SaslBroker) -> None:
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        answer = await peer.token(message("a" * (MAX_TOKEN_CHARACTERS + 1)))
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert answer.error_message is not None and "invalid credentials" in answer.error_message
    async with peer_of(broker) as peer:
        await peer.handshake(MECHANISM)
        peer.send_token(message("a" * 100_000))
        with contextlib.suppress(ConnectionError):
            assert await peer.reader.read() == b""
