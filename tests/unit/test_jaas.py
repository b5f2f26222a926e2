"""Users of a JAAS line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.security.jaas import InvalidJaas, plain_users

MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"


def test_users_are_the_options_that_say_so() -> None:
    line = f'{MODULE} required username="admin" password="x" user_admin="admin-secret" user_alice="alice-secret";'
    assert plain_users(line) == {"admin": "admin-secret", "alice": "alice-secret"}


def test_lines_may_be_wrapped_and_quoted() -> None:
    line = f'\n  {MODULE} required\n  user_alice="a \\"b\\" c;=\\\\" user_bob=plain\n;\n'
    assert plain_users(line) == {"alice": 'a "b" c;=\\', "bob": "plain"}


@pytest.mark.parametrize("password", [";", "=", "", '"', "\\"])
def test_signs_in_quotes_are_none(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    assert plain_users(f'{MODULE} required user_alice="{quoted}";') == {"alice": password}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "wants one module"),
        (f'{MODULE} user_alice="x";', "wants one module"),
        (f'{MODULE} required user_alice="x"', "wants one module"),
        (f'{MODULE} required user_alice="x"; {MODULE} required;', "wants one module"),
        (f'{MODULE} required user_alice="x', "a quote that does not end"),
        (f"{MODULE} required user_alice;", "an option that is not written"),
        (f'{MODULE} required user_alice="x" user_alice="y";', "an option twice"),
        ('org.apache.kafka.common.security.scram.ScramLoginModule required user_a="x";', f"wants {MODULE}"),
    ],
)
def test_others_are_refused_without_a_word_of_them(line: str, sentence: str) -> None:
    with pytest.raises(InvalidJaas, match=sentence) as caught:
        plain_users(line)
    assert "alice" not in str(caught.value).replace("user_alice=", "", 1)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        plain_users(f"{MODULE} required {text};")
    except InvalidJaas:
        pass


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_what_is_quoted_comes_back(users: dict[str, str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = f"{MODULE} required {' '.join(f'user_{name}={quoted(password)}' for name, password in users.items())};"
    assert plain_users(line) == users
