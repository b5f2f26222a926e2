"""What a topic may be called: Kafka's rules, and the sentences that say which one was broken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, product

MAX_LENGTH = 249  # Kafka's: leaves room for "-" and a partition number in a 255 byte file name

# Kafka's internal topics: listed as such, and left out of a client's "all topics" subscriptions.
INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})

# The name of Kafka's own metadata log: nobody may create it.
METADATA_TOPIC = "__cluster_metadata"

_LEGAL = re.compile(r"[a-zA-Z0-9._-]+")
_SEPARATORS = re.compile(r"[._]")


def fault_of(name: str) -> str | None:
    """What is wrong with `name`, or None."""
    if not name:
        return "Topic name is invalid: the empty string is not allowed"
    if name in (".", ".."):
        return f"Topic name is invalid: '{name}' is not allowed"
    if len(name) > MAX_LENGTH:
        return f"Topic name is invalid: the length of '{name}' is longer than the max allowed length {MAX_LENGTH}"
    if _LEGAL.fullmatch(name) is None:
        return (
            f"Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, "
            "'.', '_' and '-'"
        )
    return None


def collision(name: str, existing: Mapping[str, object]) -> str | None:
    """A topic that differs from `name` in '.' and '_' alone. Kafka refuses it: metrics make them one name."""
    pieces = _SEPARATORS.split(name)
    spellings = 2 ** (len(pieces) - 1)
    if spellings > len(existing):
        key = _SEPARATORS.sub("_", name)
        return next((other for other in existing if other != name and _SEPARATORS.sub("_", other) == key), None)
    for separators in product("._", repeat=len(pieces) - 1):
        other = "".join(chain.from_iterable(zip(pieces, (*separators, ""), strict=True)))
        if other != name and other in existing:
            return other
    return None
