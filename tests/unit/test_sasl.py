"""The dialogue of a connection that has to say who it is."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pg_kafka.security.sasl import API_VERSIONS, AUTHENTICATE, HANDSHAKE, Dialogue, Rejected, State, Step

MECHANISMS = ("SCRAM-SHA-512", "PLAIN")
PRODUCE, METADATA = 0, 3


def opened(*, max_reauth_ms: int = 0, lifetime_ms: int | None = None, now_s: float = 0.0) -> Dialogue:
    dialogue = Dialogue(MECHANISMS, {"PLAIN": max_reauth_ms})
    assert dialogue.handshake("PLAIN", 1, now_s)
    dialogue.authenticate("User:alice", lifetime_ms, now_s)
    return dialogue


def test_only_versions_and_a_mechanism_may_be_asked_for_at_first() -> None:
    dialogue = Dialogue(MECHANISMS, {})

    steps = {key: dialogue.step(key, 0.0) for key in range(100)}

    assert steps.pop(API_VERSIONS) is Step.SERVE
    assert steps.pop(HANDSHAKE) is Step.HANDSHAKE
    assert set(steps.values()) == {Step.UNEXPECTED}


def test_a_mechanism_that_is_not_enabled_ends_the_dialogue() -> None:
    dialogue = Dialogue(MECHANISMS, {})

    assert not dialogue.handshake("GSSAPI", 1, 0.0)

    assert dialogue.state is State.FAILED
    assert {dialogue.step(key, 0.0) for key in range(100)} == {Step.IGNORED}


def test_after_handshake_version_0_whatever_comes_is_a_token() -> None:
    dialogue = Dialogue(MECHANISMS, {})

    assert dialogue.handshake("PLAIN", 0, 0.0)

    assert {dialogue.step(key, 0.0) for key in range(100)} == {Step.TOKEN}


def test_after_handshake_version_1_tokens_are_in_requests() -> None:
    dialogue = Dialogue(MECHANISMS, {})

    assert dialogue.handshake("PLAIN", 1, 0.0)

    steps = {key: dialogue.step(key, 0.0) for key in range(100)}
    assert steps.pop(AUTHENTICATE) is Step.TOKEN
    assert set(steps.values()) == {Step.MISPLACED}


def test_a_session_without_end_serves_everything_for_ever() -> None:
    dialogue = opened()

    assert dialogue.session_end_s == inf
    assert {dialogue.step(key, 1e9) for key in range(100)} == {Step.SERVE}


@pytest.mark.parametrize(
    ("max_reauth_ms", "lifetime_ms", "expected"),
    [(0, None, 0), (5000, None, 5000), (0, 3000, 3000), (5000, 3000, 3000), (5000, 9000, 5000), (0, -1, 0)],
)
def test_a_session_ends_with_the_credentials_or_with_the_setting(
    max_reauth_ms: int, lifetime_ms: int | None, expected: int
) -> None:
    dialogue = Dialogue(MECHANISMS, {"PLAIN": max_reauth_ms})
    dialogue.handshake("PLAIN", 1, 0.0)

    assert dialogue.authenticate("User:alice", lifetime_ms, 10.0) == expected

    has_end = bool(max_reauth_ms) or lifetime_ms is not None
    assert dialogue.session_end_s == (10.0 + expected / 1000 if has_end else inf)
    assert dialogue.step(PRODUCE, 10.0 + expected / 1000) is Step.SERVE
    assert dialogue.step(PRODUCE, 10.1 + expected / 1000) is (Step.EXPIRED if has_end else Step.SERVE)


def test_a_handshake_begins_the_dialogue_again_also_after_the_end() -> None:
    dialogue = opened(max_reauth_ms=5000)

    assert dialogue.step(HANDSHAKE, 60.0) is Step.HANDSHAKE
    assert dialogue.handshake("PLAIN", 1, 60.0)
    assert dialogue.step(METADATA, 60.0) is Step.MISPLACED
    dialogue.check_mechanism()
    assert dialogue.name == "re-authentication"
    assert dialogue.authenticate("User:alice", None, 60.5) == 5000

    assert dialogue.session_end_s == 65.5
    assert not dialogue.is_again
    assert dialogue.step(METADATA, 65.0) is Step.SERVE


def test_a_second_begin_within_a_second_is_an_ordinary_request() -> None:
    dialogue = opened(max_reauth_ms=5000)
    dialogue.handshake("PLAIN", 1, 1.0)
    dialogue.authenticate("User:alice", None, 1.1)

    assert dialogue.step(HANDSHAKE, 1.9) is Step.SERVE
    assert dialogue.step(HANDSHAKE, 2.0) is Step.HANDSHAKE


def test_the_mechanism_may_not_change() -> None:
    dialogue = opened(max_reauth_ms=5000)
    assert dialogue.handshake("SCRAM-SHA-512", 1, 1.0)

    with pytest.raises(Rejected) as caught:
        dialogue.check_mechanism()

    assert str(caught.value) == (
        "SASL mechanism 'SCRAM-SHA-512' requested by client is not supported for re-authentication of mechanism 'PLAIN'"
    )
    assert dialogue.state is State.FAILED


def test_the_principal_may_not_change() -> None:
    dialogue = opened(max_reauth_ms=5000)
    dialogue.handshake("PLAIN", 1, 1.0)

    with pytest.raises(Rejected) as caught:
        dialogue.authenticate("User:bob", None, 1.0)

    assert str(caught.value) == "Cannot change principals during re-authentication from User.alice: User.bob"
    assert dialogue.state is State.FAILED


@given(st.text(max_size=30))
def test_no_other_name_is_taken_for_a_mechanism(name: str) -> None:
    assert Dialogue(MECHANISMS, {}).handshake(name, 1, 0.0) is (name in MECHANISMS)


class Dialogues(RuleBasedStateMachine):
    """Whatever a peer sends in whatever order: it is served only after a proof, and only until the session's end."""

    def __init__(self) -> None:
        super().__init__()
        self.dialogue = Dialogue(MECHANISMS, {"PLAIN": 2000})
        self.now_s = 0.0
        self.proved_until = -1.0
        self.principal = ""

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(mechanism=st.sampled_from((*MECHANISMS, "NONE")), version=st.integers(0, 1))
    def handshake(self, mechanism: str, version: int) -> None:
        if self.dialogue.step(HANDSHAKE, self.now_s) is Step.HANDSHAKE:
            self.proved_until = -1.0
            self.dialogue.handshake(mechanism, version, self.now_s)

    @precondition(lambda self: self.dialogue.state in (State.RAW, State.REQUESTS))
    @rule(principal=st.sampled_from(("User:alice", "User:bob")), lifetime_ms=st.none() | st.integers(-10, 4000))
    def prove(self, principal: str, lifetime_ms: int | None) -> None:
        assert self.dialogue.step(AUTHENTICATE, self.now_s) is Step.TOKEN
        was_again = self.dialogue.is_again
        try:
            self.dialogue.check_mechanism()
            ms = self.dialogue.authenticate(principal, lifetime_ms, self.now_s)
        except Rejected:
            assert was_again
            return
        assert not was_again or principal == self.principal
        self.principal = principal
        has_end = lifetime_ms is not None or self.dialogue.mechanism == "PLAIN"
        self.proved_until = self.now_s + ms / 1000 if has_end else inf

    @precondition(lambda self: self.dialogue.state in (State.RAW, State.REQUESTS))
    @rule()
    def fail(self) -> None:
        self.dialogue.fail()

    @invariant()
    def nobody_is_served_without_a_proof(self) -> None:
        if self.dialogue.step(PRODUCE, self.now_s) is Step.SERVE:
            assert self.now_s <= self.proved_until
            assert self.dialogue.principal == self.principal


TestDialogues = Dialogues.TestCase
