"""PLAIN: what is read of its message, and what is refused."""

from __future__ import annotations

import pytest

from pg_kafka.security.plain import Login, PlainError, login


@pytest.mark.parametrize(
    ("message", "name", "password"),
    [(b"\0alice\0secret", "alice", "secret"), (b"alice\0alice\0s", "alice", "s"), ("\0ä\0ö".encode(), "ä", "ö")],
)
def test_name_and_password(message: bytes, name: str, password: str) -> None:
    assert login(message) == Login(name, password)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "expected 3 tokens, got 1"),
        (b"\0alice", "expected 3 tokens, got 2"),
        (b"\0alice\0a\0b", "expected 3 tokens, got 4"),
        (b"\0\0secret", "username not specified"),
        (b"\0alice\0", "password not specified"),
        (b"bob\0alice\0secret", "different from username"),
        (b"\0al\xffice\0secret", "not UTF-8"),
        (b"\0alice\0" + b"x" * 9000, "too long"),
    ],
)
def test_message_that_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(PlainError, match=reason) as refused:
        login(message)
    assert "secret" not in str(refused.value)


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(login(b"\0alice\0secret"))
