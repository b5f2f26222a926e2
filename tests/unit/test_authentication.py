"""What a connection of a SASL listener is answered, with mechanisms made for the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pg_kafka.broker.authentication import (
    Answer,
    Authenticated,
    AuthenticationFailed,
    CannotVerify,
    Challenge,
    Login,
    SaslRules,
    Step,
)
from pg_kafka.broker.client import ANONYMOUS, ConnectionInfo, Kind
from pg_kafka.wire import codec
from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36


class Scripted:
    """Says what a token stands for."""

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        word, _, rest = message.decode().partition(" ")
        if word == "challenge":
            return Challenge(rest.encode())
        if word == "fail":
            raise AuthenticationFailed("the reason", shown=rest, claimed="alice")
        if word == "later":
            raise CannotVerify("no database")
        return Authenticated(principal=f"User:{rest}", message=b"bye", lifetime_ms=int(word or 0) or None, proof=rest)


class Peer:
    def __init__(self, **rules: Any) -> None:
        self.now_s = 0.0
        self.info = ConnectionInfo(1, ("10.0.0.1", 1), ("10.0.0.2", 2))
        factory: Callable[[ConnectionInfo], Scripted] = lambda _connection: Scripted()  # noqa: E731
        self.login = Login(
            SaslRules(factories={"ONE": factory, "TWO": factory}, **rules), self.info, lambda: self.now_s
        )

    def send(self, frame: bytes) -> Answer:
        step = self.login.step(frame, self.now_s)
        header, offset = self.login.read(frame)
        return asyncio.run(self.login.respond(step, header, frame, offset))

    def handshake(self, mechanism: str = "ONE", version: int = 1) -> Any:
        request = SaslHandshakeRequest(mechanism=mechanism)
        return self.ask(HANDSHAKE, version, request)

    def token(self, text: str, version: int = 2) -> Any:
        return self.ask(AUTHENTICATE, version, SaslAuthenticateRequest(auth_bytes=text.encode()))

    def ask(self, key: int, version: int, request: Any) -> tuple[Answer, Any]:
        answer = self.send(encoded(key, version, request))
        if not answer.parts:
            return answer, None
        frame = b"".join(answer.parts)
        assert int.from_bytes(frame[:4]) == len(frame) - 4
        _, offset = decode_response_header(frame[4:], key, version)
        return answer, codec.decode_response(key, version, frame[4:], offset)


def encoded(key: int, version: int, request: Any) -> bytes:
    head = encode_request_header(RequestHeader(key, version, 7, "client"))
    return b"".join((head, *codec.encode_request(request, key, version)))


def test_a_handshake_names_the_mechanisms() -> None:
    answer, response = Peer().handshake()

    assert (response.error_code, list(response.mechanisms)) == (0, ["ONE", "TWO"])
    assert not answer.failure


def test_another_mechanism_is_refused_and_named() -> None:
    answer, response = Peer().handshake("GSSAPI")

    assert (response.error_code, list(response.mechanisms)) == (33, ["ONE", "TWO"])
    assert answer.failure == "Unsupported SASL mechanism 'GSSAPI'"
    assert answer.is_delayed


@pytest.mark.parametrize("version", [0, 1, 2])
def test_challenges_lead_to_a_principal(version: int) -> None:
    peer = Peer(max_reauth_ms={"ONE": 9000})
    peer.handshake()

    _, challenge = peer.token("challenge who", version)
    answer, response = peer.token(" alice", version)

    assert (challenge.error_code, challenge.auth_bytes, challenge.session_lifetime_ms) == (0, b"who", 0)
    assert (response.error_code, response.auth_bytes) == (0, b"bye")
    assert response.session_lifetime_ms == (9000 if version else 0)
    assert answer.has_opened
    assert (peer.info.principal, peer.info.kind) == ("User:alice", Kind.USER)
    assert peer.login.proof == "alice"
    assert peer.login.step(b"\0\0", 9.0) is Step.SERVE
    assert peer.login.step(b"\0\0", 9.1) is Step.EXPIRED


def test_tokens_alone_are_answered_with_tokens_alone() -> None:
    peer = Peer()
    peer.handshake(version=0)

    challenge, last = peer.send(b"challenge who"), peer.send(b" alice")

    assert b"".join(challenge.parts) == b"\0\0\0\3who"
    assert b"".join(last.parts) == b"\0\0\0\3bye"
    assert peer.login.is_open


def test_a_failure_has_no_answer_where_tokens_come_alone() -> None:
    peer = Peer()
    peer.handshake(version=0)

    answer = peer.send(b"fail")

    assert (answer.parts, answer.failure, answer.is_delayed) == ([], "the reason", True)
    assert peer.login.step(b"fail", 0.0) is Step.IGNORED


def test_a_failure_tells_the_client_nothing_but_that() -> None:
    peer = Peer()
    peer.handshake()

    answer, response = peer.token("fail")

    text = "Authentication failed during authentication due to invalid credentials with SASL mechanism ONE"
    assert (response.error_code, response.error_message) == (58, text)
    assert (answer.failure, answer.claimed, answer.is_delayed) == ("the reason", "alice", True)
    assert (peer.info.principal, peer.info.kind) == (ANONYMOUS, Kind.ANONYMOUS)
    assert not peer.login.is_open


def test_a_failure_of_a_re_authentication_says_so() -> None:
    peer = Peer(max_reauth_ms={"ONE": 9000})
    peer.handshake()
    peer.token(" alice")
    peer.handshake()

    _, response = peer.token("fail")

    text = "Authentication failed during re-authentication due to invalid credentials with SASL mechanism ONE"
    assert response.error_message == text
    assert peer.login.step(b"\0\0", 0.0) is Step.IGNORED


def test_a_mechanism_may_say_what_was_wrong() -> None:
    peer = Peer()
    peer.handshake()

    _, response = peer.token("fail Authentication failed: Invalid username or password")

    assert response.error_message == "Authentication failed: Invalid username or password"


def test_who_cannot_be_verified_now_gets_no_answer() -> None:
    peer = Peer()
    peer.handshake()

    answer, response = peer.token("later")

    assert (response, answer.failure, answer.is_delayed) == (None, "no database", False)


def test_re_authentication_by_another_mechanism_is_refused_with_kafkas_sentence() -> None:
    peer = Peer(max_reauth_ms={"ONE": 9000})
    peer.handshake()
    peer.token(" alice")
    _, handshake = peer.handshake("TWO")

    _, response = peer.token(" alice")

    assert handshake.error_code == 0
    assert response.error_code == 58
    assert (
        "'TWO' requested by client is not supported for re-authentication of mechanism 'ONE'" in response.error_message
    )
    assert not peer.login.is_open


def test_re_authentication_for_another_principal_is_refused() -> None:
    peer = Peer(max_reauth_ms={"ONE": 9000})
    peer.handshake()
    peer.token(" alice")
    peer.handshake()

    _, response = peer.token(" bob")

    assert response.error_message == "Cannot change principals during re-authentication from User.alice: User.bob"
    assert peer.info.principal == "User:alice"
    assert not peer.login.is_open


def test_a_handshake_in_the_middle_is_out_of_place() -> None:
    peer = Peer()
    peer.handshake()

    answer, response = peer.handshake()

    assert response.error_code == 34
    assert answer.failure
    assert peer.login.step(b"\0\x24", 0.0) is Step.IGNORED


def test_versions_asked_for_in_the_middle_are_out_of_place() -> None:
    peer = Peer()
    peer.handshake()

    answer = peer.send(encode_request_header(RequestHeader(API_VERSIONS, 99, 7, "client")))

    assert b"".join(answer.parts) == b"\0\0\0\x0a\0\0\0\x07\0\x22\0\0\0\0"


@pytest.mark.parametrize(("key", "version"), [(HANDSHAKE, 2), (AUTHENTICATE, 3), (HANDSHAKE, -1)])
def test_versions_that_are_not_served_close(key: int, version: int) -> None:
    peer = Peer()
    if key == AUTHENTICATE:
        peer.handshake()

    with pytest.raises(MalformedRequest):
        peer.send(encode_request_header(RequestHeader(key, version, 7, "client")) + b"\0\0")
