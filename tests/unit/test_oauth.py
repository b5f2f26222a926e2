"""OAUTHBEARER: what is read of the client's first message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.security.oauth import MAX_MESSAGE_BYTES, MAX_TOKEN_CHARACTERS, ClientFirst, OauthError, client_first


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"n,,\x01auth=Bearer a.b.c\x01\x01", ClientFirst("a.b.c", "", {})),
        (b"n,,\x01auth=bearer  a.b-_9\x01\x01", ClientFirst("a.b-_9", "", {})),
        (b"y,,\x01auth=Bearer a\x01\x01", ClientFirst("a", "", {})),
        (b"n,a=al=2Cice=3D,\x01auth=Bearer a\x01\x01", ClientFirst("a", "al,ice=", {})),
        (
            b"n,,\x01host=h.example\x01port=143\x01auth=Bearer a\x01traceId=7 8\x01\x01",
            ClientFirst("a", "", {"host": "h.example", "port": "143", "traceId": "7 8"}),
        ),
    ],
)
def test_what_clients_send(message: bytes, expected: ClientFirst) -> None:
    assert client_first(message) == expected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "client first message"),
        (b"\x01", "client first message"),
        (b"n,,", "client first message"),
        (b"n,,\x01\x01", "'auth' not specified"),
        (b"n,,\x01traceId=1\x01\x01", "'auth' not specified"),
        (b"n,,\x01auth=Bearer a\x01", "client first message"),
        (b"n,,\x01auth=Bearer a", "client first message"),
        (b"n,\x01auth=Bearer a\x01\x01", "client first message"),
        (b"p=tls-unique,,\x01auth=Bearer a\x01\x01", "client first message"),
        (b"n,alice,\x01auth=Bearer a\x01\x01", "client first message"),
        (b"n,a=al=ice,\x01auth=Bearer a\x01\x01", "client first message"),
        (b"n,a=,\x01auth=Bearer a\x01\x01", "client first message"),
        (b"n,,\x01auth=Bearer \x01\x01", "invalid 'auth' format"),
        (b"n,,\x01auth=Bearer a b\x01\x01", "invalid 'auth' format"),
        (b"n,,\x01auth=Bearer a+b\x01\x01", "invalid 'auth' format"),
        (b"n,,\x01auth=Basic a\x01\x01", "Invalid scheme"),
        (b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01", "client first message"),
        (b"n,,\x01auth=Bearer a\x01k1=v\x01\x01", "client first message"),
        (b"n,,\x01auth=Bearer a\x01k=\x01\x01", "client first message"),
        (b"n,,\x01auth=Bearer \xff\x01\x01", "not UTF-8"),
        (b"n,,\x01auth=Bearer " + b"a" * (MAX_TOKEN_CHARACTERS + 1) + b"\x01\x01", "the token is too long"),
        (b"n,,\x01auth=Bearer " + b"a" * MAX_MESSAGE_BYTES + b"\x01\x01", "too long"),
    ],
)
def test_what_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(OauthError, match=reason):
        client_first(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    _read(message)


@given(
    st.lists(
        st.sampled_from(
            [b"n,", b"y,", b"a=b", b",", b"\x01", b"auth=", b"Bearer ", b"x.y.z", b"k=", b"=", b"\0", b"\xc3"]
        ),
        max_size=12,
    )
)
def test_pieces_in_any_order_are_read_or_refused(pieces: list[bytes]) -> None:
    _read(b"".join(pieces))


def _read(message: bytes) -> None:
    try:
        first = client_first(message)
    except OauthError as error:
        assert len(str(error)) < 100
    else:
        assert first.token and first.token.encode() in message


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(client_first(b"n,,\x01auth=Bearer secret\x01\x01"))
    with pytest.raises(OauthError) as refused:
        client_first(b"n,,\x01auth=Bearer secret secret\x01\x01")
    assert "secret" not in str(refused.value)
