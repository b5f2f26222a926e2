"""The error code that stands for a whole response: its own, else the first one of its parts that is not 0.

Where a struct is an element of an array, its own error code comes before those of what it holds. That the configs of a
new topic may not be seen is no error of the topic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter

from pg_kafka.wire.message import Message

FINDERS: dict[type[Message], Callable[[Message], int]] = {}
"""What finds it in a message, of the kinds that have been asked for; as many as there are kinds of messages."""

_OF_SOMETHING_ELSE = frozenset(("topic_config_error_code",))


def first_error(message: Message) -> int:
    """0 when there is none. It costs a look at each part of the response."""
    find = FINDERS.get(type(message))  # `cache` costs a call more
    if find is None:
        find = FINDERS[type(message)] = _finder(type(message))
    return find(message)


@cache
def _finder(cls: type[Message]) -> Callable[[Message], int]:
    own = [name for name in cls.FIELDS if name.endswith("error_code") and name not in _OF_SOMETHING_ELSE]
    parts = [
        (name, _finder(entry.kind))
        for name, entry in cls.FIELDS.items()
        if entry.is_array and isinstance(entry.kind, type) and _has_errors(entry.kind)
    ]

    if not parts and len(own) == 1:
        return attrgetter(own[0])  # most of them, and the frequent ones

    def find(message: Message) -> int:
        for name in own:
            code: int = getattr(message, name)
            if code:
                return code
        for name, find_in in parts:
            for part in getattr(message, name) or ():
                if code := find_in(part):
                    return code
        return 0

    return find


def _has_errors(cls: type[Message]) -> bool:
    return any(
        name.endswith("error_code") or (entry.is_array and isinstance(entry.kind, type) and _has_errors(entry.kind))
        for name, entry in cls.FIELDS.items()
    )
