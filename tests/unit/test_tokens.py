"""Tokens: which are believed, and which are not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.token_issuer import AUDIENCE, ISSUER, MISSING, Issuer, part

from pg_kafka.security.jwks import ALGORITHMS, InvalidKeys, KeySet
from pg_kafka.security.oauth import MAX_TOKEN_CHARACTERS
from pg_kafka.security.tokens import Expected, Token, TokenError, UnknownKey, check

NOW = 1_800_000_000.0
EXPECTED = Expected(issuer=ISSUER, audiences=(AUDIENCE,))


@pytest.fixture(scope="module", autouse=True)
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def keys(issuer: Issuer) -> KeySet:
    return KeySet.read(issuer.keys)


@pytest.mark.parametrize("key", ["rsa", "rsa-pss", "ec", "ec384", "ec521", "ed25519"])
def test_each_kind_of_key(issuer: Issuer, keys: KeySet, key: str) -> None:
    assert check(issuer.token("alice", NOW, key=key), keys, EXPECTED, NOW) == Token("alice", 3_600_000)


@pytest.mark.parametrize(
    ("key", "algorithm"), [("rsa", "RS384"), ("rsa", "RS512"), ("ed25519", "Ed25519"), ("rsa-pss", "PS256")]
)
def test_each_algorithm_of_a_key(issuer: Issuer, keys: KeySet, key: str, algorithm: str) -> None:
    assert check(issuer.token("alice", NOW, key=key, header={"alg": algorithm}), keys, EXPECTED, NOW).name == "alice"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": MISSING}, "exp or iat is missing"),
        ({"exp": "soon"}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"exp": -1}, "exp is no time"),
        ({"exp": 10**400}, "exp is no time"),
        ({"iat": MISSING}, "exp or iat is missing"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"iat": NOW + 20, "exp": NOW + 10}, "expires before it begins"),
        ({"iss": "https://other.example"}, "iss is"),
        ({"iss": MISSING}, "iss is"),
        ({"iss": [ISSUER]}, "iss is"),
        ({"aud": "mail"}, "aud is"),
        ({"aud": MISSING}, "aud is"),
        ({"aud": {"kafka": 1}}, "neither a text nor a list"),
        ({"aud": [AUDIENCE, 1]}, "neither a text nor a list"),
        ({"sub": MISSING}, "sub is missing"),
        ({"sub": ""}, "sub is missing"),
        ({"sub": 7}, "sub is missing"),
        ({"sub": " alice"}, "spaces around"),
        ({"sub": "ali\nce"}, "characters that nobody sees"),
        ({"sub": "ali\u202ece"}, "characters that nobody sees"),
        ({"sub": "a" * 513}, "too long"),
        ({"scope": ["a", "a"]}, "empty or comes twice"),
        ({"scope": [""]}, "empty or comes twice"),
        ({"scope": [1]}, "empty or comes twice"),
    ],
)
def test_what_a_payload_must_say(issuer: Issuer, keys: KeySet, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        check(issuer.token("alice", NOW, **changed), keys, EXPECTED, NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": NOW - 29, "iat": NOW - 60},
        {"iat": NOW + 29},
        {"nbf": NOW + 29},
        {"aud": ["mail", AUDIENCE]},
        {"scope": "a b"},
    ],
)
def test_clocks_may_differ(issuer: Issuer, keys: KeySet, changed: dict[str, Any]) -> None:
    assert check(issuer.token("alice", NOW, **changed), keys, EXPECTED, NOW).name == "alice"


def test_lifetime_is_what_is_left_of_the_token(issuer: Issuer, keys: KeySet) -> None:
    assert check(issuer.token("alice", NOW, exp=NOW + 2.5), keys, EXPECTED, NOW).lifetime_ms == 2500
    assert check(issuer.token("alice", NOW, iat=NOW - 60, exp=NOW - 10), keys, EXPECTED, NOW).lifetime_ms == 20_000


def test_other_claims_may_hold_the_name(issuer: Issuer, keys: KeySet) -> None:
    expected = Expected(issuer=ISSUER, audiences=(AUDIENCE,), subject_claim="azp", scope_claim="scp")
    assert check(issuer.token("alice", NOW, azp="billing", scp=["a"]), keys, expected, NOW).name == "billing"
    with pytest.raises(TokenError, match="azp is missing"):
        check(issuer.token("alice", NOW), keys, expected, NOW)
    with pytest.raises(TokenError, match="scp has a scope"):
        check(issuer.token("alice", NOW, azp="billing", scp=[""]), keys, expected, NOW)


def test_a_token_for_somebody_is_not_for_a_broker_without_audience(issuer: Issuer, keys: KeySet) -> None:
    open_to_all = Expected()
    assert check(issuer.token("alice", NOW, aud=MISSING, iss=MISSING), keys, open_to_all, NOW).name == "alice"
    with pytest.raises(TokenError, match=r"expected\.audience is not set"):
        check(issuer.token("alice", NOW), keys, open_to_all, NOW)


def test_algorithm_none(issuer: Issuer, keys: KeySet) -> None:
    for name in ("none", "None", "NONE"):
        header, payload = part({"alg": name, "kid": "rsa"}), part(issuer.claims("alice", NOW))
        for token in (f"{header}.{payload}.", f"{header}.{payload}", f"{header}.{payload}.AAAA"):
            with pytest.raises(TokenError, match=r"no JSON Web Token|which is not accepted"):
                check(token, keys, EXPECTED, NOW)


def test_a_public_key_is_no_secret(issuer: Issuer, keys: KeySet) -> None:
    """Key confusion: an HMAC with the public key as its secret."""
    secrets = [issuer.pem("rsa"), issuer.pem("rsa").strip(), json.dumps(issuer.public("rsa")).encode(), b"", b"\0"]
    for secret in secrets:
        with pytest.raises(TokenError, match="'HS256', which is not accepted"):
            check(issuer.hmac_token(secret, "alice", NOW), keys, EXPECTED, NOW)


def test_symmetric_keys_are_never_taken(issuer: Issuer) -> None:
    secret = {"kty": "oct", "k": part(b"secret of 32 bytes, which is long"), "kid": "rsa"}
    with pytest.raises(InvalidKeys, match="neither RSA"):
        KeySet.read(json.dumps({"keys": [secret]}).encode())
    both = KeySet.read(json.dumps({"keys": [secret, issuer.public("rsa")]}).encode())
    assert [key.kid for key in both.keys] == ["rsa"] and len(both.left_out) == 1
    with pytest.raises(TokenError):
        check(issuer.hmac_token(b"secret of 32 bytes, which is long", "alice", NOW), both, EXPECTED, NOW)


@pytest.mark.parametrize(
    ("key", "header", "reason"),
    [
        ("rsa", {"alg": "ES256"}, "is not for it"),
        ("ec", {"alg": "RS256"}, "is not for it"),
        ("ec", {"alg": "ES384"}, "is not for it"),
        ("rsa", {"alg": "PS256", "kid": "rsa-pss"}, "the signature is wrong"),
        ("rsa-pss", {"alg": "RS256"}, "is not for it"),
        ("unpublished", {"kid": "rsa"}, "the signature is wrong"),
        ("unpublished", {"kid": MISSING}, "the signature is wrong"),
        ("rsa", {"alg": MISSING}, "which is not accepted"),
        ("rsa", {"alg": ["RS256"]}, "which is not accepted"),
        ("rsa", {"kid": 7}, "kid is no text"),
        ("rsa", {"kid": "k" * 1025}, "kid is no text, or too long"),
        ("rsa", {"crit": ["exp"]}, "must be understood"),
        ("rsa", {"b64": False}, "must be understood"),
        ("rsa", {"x5c": ["A" * 4096]}, "the header is too long"),
    ],
)
def test_what_a_header_must_say(issuer: Issuer, keys: KeySet, key: str, header: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        check(issuer.token("alice", NOW, key=key, header=header), keys, EXPECTED, NOW)


def test_keys_that_a_token_brings_along_are_not_used(issuer: Issuer, keys: KeySet) -> None:
    header = {"kid": "rsa", "jwk": {"kty": "RSA"}, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}
    with pytest.raises(TokenError, match="the signature is wrong"):
        check(issuer.token("alice", NOW, key="unpublished", header=header), keys, EXPECTED, NOW)


def test_an_unknown_key_may_be_a_new_one(issuer: Issuer, keys: KeySet) -> None:
    with pytest.raises(UnknownKey, match="unpublished"):
        check(issuer.token("alice", NOW, key="unpublished"), keys, EXPECTED, NOW)


def test_a_token_without_kid_is_tried_with_few_keys(issuer: Issuer) -> None:
    token = issuer.token("alice", NOW, header={"kid": MISSING})
    members = [{**issuer.public(name), "kid": f"{name}{n}"} for n in range(2) for name in ("rsa-pss", "rsa")]
    few = KeySet.read(json.dumps({"keys": members}).encode())
    assert check(token, few, EXPECTED, NOW).name == "alice"
    many = KeySet.read(json.dumps({"keys": [{**issuer.public("rsa"), "kid": str(n)} for n in range(5)]}).encode())
    with pytest.raises(TokenError, match="has to name one"):
        check(token, many, EXPECTED, NOW)


def test_each_changed_character_is_noticed(issuer: Issuer, keys: KeySet) -> None:
    token = issuer.token("alice", NOW, key="ec")
    for position in range(0, len(token), 7):
        other = "A" if token[position] != "A" else "B"
        with pytest.raises(TokenError):
            check(token[:position] + other + token[position + 1 :], keys, EXPECTED, NOW)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"sub":"alice","sub":"root"}', "comes twice"),
        (b'{"exp":NaN}', "JSON does not have"),
        (b'{"exp":Infinity}', "JSON does not have"),
        (b"[" * 100 + b"]" * 100, "nested more than"),
        (b"[]", "the payload is no object"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"exp":' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"exp":1e999,"iat":0}', "exp is no time"),
    ],
)
def test_payloads_that_are_no_plain_json(issuer: Issuer, keys: KeySet, payload: bytes, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        check(issuer.signed("ec", payload), keys, EXPECTED, NOW)


def test_a_deep_header_is_refused_before_it_is_read(keys: KeySet) -> None:
    depth = 2900
    with pytest.raises(TokenError, match="nested more than"):
        check(f"{part(b'[' * depth)}.e30.AAAA", keys, EXPECTED, NOW)


def test_a_huge_token(issuer: Issuer, keys: KeySet) -> None:
    with pytest.raises(TokenError, match="characters"):
        check(issuer.token("alice", NOW, padding="x" * MAX_TOKEN_CHARACTERS), keys, EXPECTED, NOW)


@given(st.text(max_size=100) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        check(text, KeySet(), EXPECTED, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ"]), JSON | st.sampled_from(sorted(ALGORITHMS))),
)
def test_any_header_is_refused_with_another_signature(header: dict[str, Any]) -> None:
    issuer = Issuer()
    with pytest.raises(TokenError):
        check(f"{part(header)}.{part(issuer.claims('a', NOW))}.AAAA", KeySet.read(issuer.keys), EXPECTED, NOW)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "iss", "aud", "sub", "scope"]), JSON),
)
def test_any_signed_payload_is_believed_or_refused(changed: dict[str, Any]) -> None:
    issuer = Issuer()
    try:
        token = check(issuer.token("alice", NOW, key="ed25519", **changed), KeySet.read(issuer.keys), EXPECTED, NOW)
    except TokenError:
        return
    assert token.name and token.lifetime_ms > 0


# Sets of keys


def _read(*members: object) -> KeySet:
    return KeySet.read(json.dumps({"keys": list(members)}).encode())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"use": "enc"}, "not for signatures"),
        ({"key_ops": ["encrypt"]}, "not for verifying"),
        ({"key_ops": "verify"}, "not for verifying"),
        ({"kid": 1}, "its kid is no text"),
        ({"kty": "oct", "k": "AAAA"}, "neither RSA"),
        ({"kty": ["RSA"]}, "neither RSA"),
        ({"alg": "HS256"}, "does not fit"),
        ({"alg": "ES256"}, "does not fit"),
        ({"n": part(b"\xff" * 255)}, "2048 to 8192 bits"),
        ({"n": part(b"\xff" * 1025)}, "its n is zero or too long"),
        ({"n": "A" * 1_000_000}, "its n is missing or too long|at most"),
        ({"n": ""}, "its n is missing"),
        ({"n": "é" * 300}, "its n is no base64url"),
        ({"e": part(b"\xff" * 5)}, "its e is zero or too long"),
        ({"e": "AA"}, "its e is zero"),
        ({"e": "AQ"}, "no key"),
    ],
)
def test_keys_that_are_left_out(issuer: Issuer, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidKeys, match=reason):
        _read({**issuer.public("rsa"), **changed})


def test_points_that_are_not_on_the_curve(issuer: Issuer) -> None:
    point = issuer.public("ec")
    with pytest.raises(InvalidKeys, match="no key"):
        _read({**point, "x": point["y"], "y": point["x"]})
    with pytest.raises(InvalidKeys, match="neither RSA"):
        _read({**point, "crv": "secp256k1"})


def test_private_parts_are_not_kept(issuer: Issuer) -> None:
    held = _read({**issuer.public("rsa"), "d": "AAAA", "p": "AAAA"})
    assert not held.keys[0].key.is_private


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1]}', b"[" * 1000])
def test_texts_that_are_no_keys(text: bytes) -> None:
    with pytest.raises(InvalidKeys):
        KeySet.read(text)


def test_a_set_has_a_bound(issuer: Issuer) -> None:
    with pytest.raises(InvalidKeys, match="at most 200 keys"):
        _read(*[issuer.public("ed25519")] * 201)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "use", "key_ops", "kid", "alg"]), JSON))
def test_any_member_is_a_key_or_left_out(member: dict[str, Any]) -> None:
    try:
        found = _read(member)
    except InvalidKeys:
        return
    assert len(found.keys) == 1
