"""Text with NULs goes through the journals' form and comes back, in strings and in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.storage.client_text import from_stored, from_stored_json, to_stored, to_stored_json

TEXTS = st.text(st.one_of(st.sampled_from('\0␀␛\\u0"\n'), st.characters(exclude_categories=["Cs"])))
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10
)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("plain", "plain"),
        ("noted\0", "noted␀"),
        ("\0\0", "␀␀"),
        ("␀", "␛␀"),
        ("␛", "␛␛"),
        ("␛\0␛␀", "␛␛␀␛␛␛␀"),
        ("\\u0000", "\\u0000"),
    ],
)
def test_text_as_it_is_stored(text: str, stored: str) -> None:
    assert to_stored(text) == stored
    assert from_stored(stored) == text


@given(TEXTS)
def test_any_text_comes_back(text: str) -> None:
    assert "\0" not in to_stored(text)
    assert from_stored(to_stored(text)) == text


@given(VALUES)
def test_any_json_comes_back(value: Any) -> None:
    stored = to_stored_json(json.dumps(value, ensure_ascii=False))
    assert "\0" not in repr(json.loads(stored)).replace("\\x00", "\0")
    assert json.loads(from_stored_json(stored)) == value
    # As PostgreSQL's jsonb gives it back: spaces and escapes are its own.
    assert json.loads(from_stored_json(json.dumps(json.loads(stored), indent=1, ensure_ascii=False))) == value
