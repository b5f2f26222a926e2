"""Text that clients give, in the form in which the journals hold it.

Kafka's strings may have a NUL, and librdkafka puts one at the end of each commit's metadata. PostgreSQL has no text and no
JSON with a NUL, so it is stored as its symbol:

    NUL     stored as ␀   (U+2400)
    ␀       stored as ␛␀
    ␛       stored as ␛␛  (U+241B)

All other text is stored as it is. The views of `sql/features/` undo it where the bytes matter.
"""

from __future__ import annotations

import re
from typing import Final

NUL: Final = "\N{SYMBOL FOR NULL}"
ESCAPE: Final = "\N{SYMBOL FOR ESCAPE}"

_STORED_PARTS: Final = re.compile(f"{ESCAPE}(.)|{NUL}", re.DOTALL)
_JSON_ESCAPES: Final = re.compile(r"\\(u0000|.)")


def to_stored(text: str) -> str:
    """The text without a NUL."""
    text = _with_symbols_escaped(text)
    return text.replace("\0", NUL) if "\0" in text else text


def from_stored(text: str) -> str:
    """The text that `to_stored` was given."""
    return _from_stored(text, "\0")


def to_stored_json(value: str) -> str:
    """The same for all strings of a JSON text, in which a NUL is written as \\u0000."""
    value = _with_symbols_escaped(value)
    if "\\u0000" not in value:
        return value
    return _JSON_ESCAPES.sub(lambda found: NUL if found[1] == "u0000" else found[0], value)


def from_stored_json(value: str) -> str:
    """The JSON text that `to_stored_json` was given."""
    return _from_stored(value, "\\u0000")


def _with_symbols_escaped(text: str) -> str:
    if ESCAPE in text:
        text = text.replace(ESCAPE, ESCAPE + ESCAPE)
    return text.replace(NUL, ESCAPE + NUL) if NUL in text else text


def _from_stored(text: str, nul: str) -> str:
    if NUL not in text and ESCAPE not in text:
        return text
    return _STORED_PARTS.sub(lambda found: found[1] or nul, text)
