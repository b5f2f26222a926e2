"""JSON of strangers: small, flat, and with one meaning only.

    strict_json.loads(b'{"sub":"alice"}')     {"sub": "alice"}

A name that comes twice in an object is an error: two readers could take a different one of both. So are NaN and
Infinity, which JSON does not have, and anything nested more deeply than tokens and keys are.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 16
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


class StrictJsonError(ValueError):
    """The text is no JSON, or more than is read. The message holds nothing of the text."""


def loads(text: bytes) -> Any:
    """The value that UTF-8 `text` stands for. Raises StrictJsonError."""
    if _depth(text) > MAX_DEPTH:
        raise StrictJsonError(f"nested more than {MAX_DEPTH} deep")
    try:
        return json.loads(text.decode(), object_pairs_hook=_only_once, parse_constant=_no_constant)
    except StrictJsonError:
        raise
    except ValueError:  # also for UTF-8 that is none, and for numbers of thousands of digits
        raise StrictJsonError("no JSON") from None


def _depth(text: bytes) -> int:
    """How deep lists and objects are nested; brackets within strings count, which only makes it more."""
    depth = deepest = 0
    for byte in text.translate(None, _NO_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("a name comes twice in one object")
    return found


def _no_constant(_name: str) -> Any:
    raise StrictJsonError("a number that JSON does not have")
