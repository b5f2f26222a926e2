"""OAUTHBEARER: the dialogue with a client, token by token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.token_issuer import AUDIENCE, ISSUER, Issuer, published

from pg_kafka.broker import published_keys
from pg_kafka.broker.authentication import Authenticated, AuthenticationFailed, CannotVerify, Challenge
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.oauth import TokenLogins
from pg_kafka.clock import Clock
from pg_kafka.config.oauth import OauthSettings
from pg_kafka.security.oauth import INVALID_TOKEN

CONNECTION = ConnectionInfo(1, ("127.0.0.1", 1), ("127.0.0.1", 2))


def settings(url: str) -> OauthSettings:
    return OauthSettings(url=url, issuer=ISSUER, audiences=(AUDIENCE,))


def message(token: str, name: str = "") -> bytes:
    return f"n,{'a=' + name if name else ''},\x01auth=Bearer {token}\x01\x01".encode()


def now_s() -> float:
    return Clock().wall_ms() / 1000


@pytest.fixture
def issuer() -> Issuer:
    return Issuer("rsa", "ec")


@pytest.fixture
async def logins(issuer: Issuer, tmp_path: Path) -> AsyncIterator[TokenLogins]:
    file = tmp_path / "keys.json"
    file.write_bytes(issuer.keys)
    made = TokenLogins(settings(file.as_uri()), Clock(), pytest.fail)
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("name", ["", "alice"])
async def test_a_good_token(logins: TokenLogins, issuer: Issuer, name: str) -> None:
    said = await logins.verifier(CONNECTION).respond(message(issuer.token("alice", now_s()), name))
    assert isinstance(said, Authenticated)
    assert (said.principal, said.message) == ("User:alice", b"")
    assert said.lifetime_ms is not None and 3_590_000 < said.lifetime_ms <= 3_600_000


@pytest.mark.parametrize("changed", [{"exp": 1, "iat": 0}, {"key": "unpublished"}, {"aud": "mail"}, {"sub": ""}])
async def test_a_bad_token_is_answered_the_same_and_then_with_an_error(
    logins: TokenLogins, issuer: Issuer, changed: dict[str, Any]
) -> None:
    verifier = logins.verifier(CONNECTION)
    assert await verifier.respond(message(issuer.token("alice", now_s(), **changed))) == Challenge(INVALID_TOKEN)
    with pytest.raises(AuthenticationFailed) as failed:
        await verifier.respond(b"\x01")
    assert failed.value.shown == '{"status":"invalid_token"}'
    assert "the token is not good" in str(failed.value)


async def test_there_is_no_second_try_after_a_bad_token(logins: TokenLogins, issuer: Issuer) -> None:
    verifier = logins.verifier(CONNECTION)
    assert await verifier.respond(message("a.b.c")) == Challenge(INVALID_TOKEN)
    with pytest.raises(AuthenticationFailed):
        await verifier.respond(message(issuer.token("alice", now_s())))


async def test_nobody_acts_for_somebody_else(logins: TokenLogins, issuer: Issuer) -> None:
    with pytest.raises(AuthenticationFailed) as failed:
        await logins.verifier(CONNECTION).respond(message(issuer.token("alice", now_s()), "bob"))
    assert "different from the token's principal name (alice)" in failed.value.shown


async def test_what_is_no_message_fails_at_once(logins: TokenLogins) -> None:
    for text in (b"", b"\x01", b"\0alice\0secret"):
        with pytest.raises(AuthenticationFailed) as failed:
            await logins.verifier(CONNECTION).respond(text)
        assert failed.value.shown == ""


async def test_a_token_with_a_new_key_has_the_keys_read_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_keys, "MIN_BETWEEN_S", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with published(Issuer("ec")) as place:
        logins = TokenLogins(settings(place.url), Clock(), pytest.fail)
        await logins.start()
        try:
            place.body = issuer.keys
            said = await logins.verifier(CONNECTION).respond(message(issuer.token("alice", now_s())))
            assert isinstance(said, Authenticated)
            assert place.requests == 2
        finally:
            await logins.stop()


async def test_without_keys_nobody_is_told_that_a_token_is_wrong(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with published(issuer) as place:
        place.status = 500
        logins = TokenLogins(settings(place.url), Clock(), pytest.fail)
        await logins.start()
        try:
            with pytest.raises(CannotVerify):
                await logins.verifier(CONNECTION).respond(message(issuer.token("alice", now_s())))
        finally:
            await logins.stop()
