"""SCRAM against the example of RFC 7677, and against the clients of aiokafka and scramp."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from aiokafka.conn import ScramAuthenticator
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism

from pg_kafka.security import scram
from pg_kafka.security.scram import SHA_256, SHA_512, Keys, Mechanism, ScramError, ScramServer

SALT = b"salt of twenty bytes"
NONCE = "3rfcNHYJY1ZVvWVs7j"


def client_of(name: str, password: str, mechanism: Mechanism = SHA_256) -> ScramAuthenticator:
    return ScramAuthenticator(
        loop=None, sasl_plain_username=name, sasl_plain_password=password, sasl_mechanism=mechanism.name
    )


def begun(first: bytes, keys: Keys | None = None, mechanism: Mechanism = SHA_256) -> ScramServer:
    server = ScramServer(mechanism, NONCE)
    server.first(first)
    server.challenge(keys or scram.make_keys(mechanism, "pencil", SALT, 4096))
    return server


def test_example_of_rfc_7677() -> None:
    keys = scram.make_keys(SHA_256, "pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    server = ScramServer(SHA_256, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert server.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == "user"
    assert server.challenge(keys) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    proof = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    final = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=" + proof
    assert server.final(final) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@given(
    mechanism=st.sampled_from([SHA_256, SHA_512]),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
    password=st.text(st.characters(codec="utf-8"), max_size=30),
    other=st.text(st.characters(codec="utf-8"), max_size=30),
    salt=st.binary(min_size=1, max_size=40),
)
@settings(deadline=None)
def test_client_of_aiokafka_comes_in_with_its_password_only(
    mechanism: Mechanism, name: str, password: str, other: str, salt: bytes
) -> None:
    for tried in (password, other):
        client = client_of(name, tried, mechanism)
        server = ScramServer(mechanism, NONCE)
        assert server.first(client.first_message().encode()) == name
        challenge = server.challenge(scram.make_keys(mechanism, password, salt, 4096))
        client.process_server_first_message(challenge.decode())
        final = client.final_message().encode()
        if tried == password:
            client.process_server_final_message(server.final(final).decode())
        else:
            with pytest.raises(ScramError, match="proof is wrong"):
                server.final(final)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"", "header"),
        (b"n,", "header"),
        (b"p=tls-unique,,n=user,r=12345678", "channel binding"),
        (b"x,,n=user,r=12345678", "channel binding"),
        (b"n,a=other,n=user,r=12345678", "somebody else"),
        (b"n,b=user,n=user,r=12345678", "somebody else"),
        (b"n,,m=ext,n=user,r=12345678", "extension"),
        (b"n,,r=12345678,n=user", "name and nonce"),
        (b"n,,n=user", "name and nonce"),
        (b"n,,n=,r=12345678", "name is empty"),
        (b"n,,n=us=er,r=12345678", "not escaped"),
        (b"n,,n=us=2cer,r=12345678", "not escaped"),
        (b"n,,n=user,r=1234567", "nonce"),
        (b"n,,n=user,r=1234567\x7f", "nonce"),
        ("n,,n=user,r=1234567ä".encode(), "nonce"),
        (b"n,,n=us\0er,r=12345678", "NUL"),
        (b"n,,n=us\xffer,r=12345678", "UTF-8"),
        (b"n,,n=user,r=12345678,,", "no attribute"),
        (b"n,,n=user,r=" + b"1" * 9000, "too long"),
    ],
)
def test_first_message_that_is_refused(first: bytes, reason: str) -> None:
    with pytest.raises(ScramError, match=reason):
        ScramServer(SHA_256, NONCE).first(first)


def test_names_are_unescaped_once_and_extensions_are_kept() -> None:
    server = ScramServer(SHA_256, NONCE)
    assert server.first(b"n,a=a=2C=3D2C,n=a=2C=3D2C,r=12345678,tokenauth=true") == "a,=2C"
    assert server.extensions == {"tokenauth": "true"}


@pytest.mark.parametrize(
    ("final", "reason"),
    [
        (b"", "channel, nonce and proof"),
        (b"c=biws,r=12345678{nonce}", "channel, nonce and proof"),
        (b"c=biws,r=12345678{nonce},p=!!", "base64"),
        (b"c=eSws,r=12345678{nonce},p=AAAA", "header has changed"),
        (b"c=biws,r=12345678,p=AAAA", "nonce has changed"),
        (b"c=biws,r=12345678{nonce}x,p=AAAA", "nonce has changed"),
        (b"c=biws,r=1234567812345678,p=AAAA", "nonce has changed"),
        (b"c=biws,r=123456781234567812345678{nonce},p=AAAA", "nonce has changed"),
        (b"c=biws,r=x12345678{nonce},p=AAAA", "nonce has changed"),
        (b"c=biws,r=12345678{nonce},p=AAAA", "proof is wrong"),
        (b"c=biws,r=12345678{nonce},p=", "proof is wrong"),
        (b"r=12345678{nonce},c=biws,p=AAAA", "channel, nonce and proof"),
    ],
)
def test_final_message_that_is_refused(final: bytes, reason: str) -> None:
    server = begun(b"n,,n=user,r=12345678")
    with pytest.raises(ScramError, match=reason):
        server.final(final.replace(b"{nonce}", NONCE.encode()))


@given(
    mechanism=st.sampled_from([SHA_256, SHA_512]),
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    salt=st.binary(min_size=16, max_size=40),
)
@settings(deadline=None)
def test_scramp_makes_the_same_keys_and_believes_the_signature(
    mechanism: Mechanism, name: str, password: str, salt: bytes
) -> None:
    keys = scram.make_keys(mechanism, password, salt, 4096)
    made = ScramMechanism(mechanism.name).make_auth_info(password, iteration_count=4096, salt=salt)
    assert made == (keys.salt, keys.stored_key, keys.server_key, keys.iterations)
    client = ScramClient([mechanism.name], name, password)
    server = ScramServer(mechanism, NONCE)
    assert server.first(client.get_client_first().encode()) == name
    client.set_server_first(server.challenge(keys).decode())
    client.set_server_final(server.final(client.get_client_final().encode()).decode())


def test_client_may_say_its_nonce_once_more() -> None:
    """As librdkafka before 2.6.1 does, and kcat of distributions with it. The proof is over what it says."""
    keys = scram.make_keys(SHA_256, "pencil", SALT, 4096)
    server = ScramServer(SHA_256, NONCE)
    server.first(b"n,,n=user,r=12345678")
    challenge = server.challenge(keys).decode()
    without_proof = f"c=biws,r=1234567812345678{NONCE}"
    signed = f"n=user,r=12345678,{challenge},{without_proof}".encode()

    def final(password: str) -> bytes:
        salted = scram.salted_password(SHA_256, password, SALT, 4096)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    assert server.final(final("pencil")).startswith(b"v=")
    other = ScramServer(SHA_256, NONCE)
    other.first(b"n,,n=user,r=12345678")
    other.challenge(keys)
    with pytest.raises(ScramError):
        other.final(final("pen"))


def test_proof_of_another_dialogue_is_refused() -> None:
    keys = scram.make_keys(SHA_256, "pencil", SALT, 4096)
    client = client_of("user", "pencil")
    server = begun(client.first_message().encode(), keys)
    client.process_server_first_message(server._challenge)
    final = client.final_message().encode()
    server.final(final)
    again = ScramServer(SHA_256, "another nonce")
    again.first(client.first_message().encode())
    again.challenge(keys)
    with pytest.raises(ScramError, match="nonce has changed"):
        again.final(final)


def test_proof_with_the_right_beginning_and_more_is_refused() -> None:
    client = client_of("user", "pencil")
    server = begun(client.first_message().encode())
    client.process_server_first_message(server._challenge)
    head, _, proof = client.final_message().rpartition(",p=")
    longer = base64.b64encode(base64.b64decode(proof) + b"x").decode()
    with pytest.raises(ScramError, match="proof is wrong"):
        server.final(f"{head},p={longer}".encode())


def test_nobody_has_the_same_salt_each_time_and_none_that_tells() -> None:
    one = scram.keys_of_nobody(SHA_256, "alice", b"secret")
    assert one == scram.keys_of_nobody(SHA_256, "alice", b"secret")
    assert one.salt != scram.keys_of_nobody(SHA_256, "bob", b"secret").salt
    assert one.salt != scram.keys_of_nobody(SHA_256, "alice", b"other").salt
    assert one.salt != scram.keys_of_nobody(SHA_512, "alice", b"secret").salt
    assert len(one.stored_key) == SHA_256.key_bytes


def test_keys_of_nobody_look_like_those_of_some_user() -> None:
    users = [scram.Keys(b"x" * length, b"", b"", iterations) for length, iterations in ((26, 8192), (50, 4096))]

    made = [scram.keys_of_nobody(SHA_256, f"name {n}", b"secret", users) for n in range(40)]

    assert {(len(keys.salt), keys.iterations) for keys in made} == {(26, 8192), (50, 4096)}
    assert all(keys.salt[:20] != keys.salt[20:40] for keys in made)
