"""The users of a JAAS line: how Kafka's own PLAIN gets its passwords, which many set-ups of Docker have.

    plain_users('org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="secret";')
    {"alice": "secret"}

`username` and `password` are what a broker logs in to other brokers with; brokers do not do that here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
_FLAGS = ("required", "requisite", "sufficient", "optional")
_USER_PREFIX = "user_"
_TOKEN = re.compile(r"""\s*(?:"((?:\\.|[^"\\])*)"|([^\s"=;]+)|(=)|(;))""", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class InvalidJaas(ValueError):
    """The line cannot be read. The message has nothing of it: it holds passwords."""


def plain_users(text: str) -> Mapping[str, str]:
    """Passwords by name. Raises InvalidJaas."""
    name, options = _parsed(text)
    if name != _PLAIN_MODULE:
        raise InvalidJaas(f"wants {_PLAIN_MODULE}")
    return {key.removeprefix(_USER_PREFIX): value for key, value in options.items() if key.startswith(_USER_PREFIX)}


def _parsed(text: str) -> tuple[str, Mapping[str, str]]:
    """The module of a line, and its options."""
    words, signs = _words(text)
    if len(words) < 3 or words[1].lower() not in _FLAGS or signs[-1] != ";" or ";" in signs[:-1]:
        raise InvalidJaas('wants one module, a flag and options: ...PlainLoginModule required user_alice="secret";')
    rest = words[2:-1]
    names, values = rest[::3], rest[2::3]
    # A sign is what stands outside of quotes.
    if len(rest) % 3 or signs[2:-1] != ["", "=", ""] * len(names):
        raise InvalidJaas('has an option that is not written as name="value"')
    if len(set(names)) < len(names):
        raise InvalidJaas("has an option twice")
    return words[0], dict(zip(names, values, strict=True))


def _words(text: str) -> tuple[list[str], list[str]]:
    """The words of a line, and which of them are signs: = or ;, else nothing."""
    words: list[str] = []
    signs: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        found = _TOKEN.match(text, position)
        if found is None:
            raise InvalidJaas("has a quote that does not end")
        if found[1] is not None:
            words.append(re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found[1], flags=re.DOTALL))
        else:
            words.append(found[0].strip())
        signs.append(found[3] or found[4] or "")
        position = found.end()
    return words, signs
