"""Topics that a consumer names by a regular expression (KIP-848).

Pure. Kafka takes RE2's syntax, whose matching time is linear, so an expression from a client can not stall the broker;
`google-re2` is RE2 itself (BSD licence). An expression must match the whole name.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import re2

_MEMORY_BYTES: Final = 1 << 20
"""What a compiled expression may take; a larger one is invalid. RE2's default is 8 MiB."""


class InvalidTopicRegex(ValueError):
    """The text is no RE2 expression, or one that compiles to too much."""


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False  # RE2 would write to stderr
    options.max_mem = _MEMORY_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else b""
        raise InvalidTopicRegex(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from None


def check(pattern: str) -> None:
    """Raise InvalidTopicRegex, with RE2's words, when `pattern` can not be used."""
    _compiled(pattern)


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that `pattern` matches from their first to their last character."""
    fullmatch = _compiled(pattern).fullmatch
    return frozenset(name for name in names if fullmatch(name))
