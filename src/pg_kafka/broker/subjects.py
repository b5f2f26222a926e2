"""What a request is about, for log lines: the topics, group and transactional id that it names, cut to a few."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from uuid import UUID

MOST_NAMES = 3
# Names of topics have up to 249 characters; those of groups and transactional ids any number.
MOST_CHARACTERS = 250

_LISTS = {
    "topics": ("topics", "topic_data", "topic_names"),
    "groups": ("groups", "groups_names"),
}
_SINGLE = {"group": "group_id", "transactional_id": "transactional_id"}


def subjects_of(request: Any, name_of: Callable[[UUID], str | None]) -> dict[str, object]:
    """Keys of a log line: `topics`, `groups`, `group`, `transactional_id`, those that the request has.

    `name_of` gives a topic's name by its id, or None. Of many names the first few are shown, and how many more there are.
    """
    found: dict[str, object] = {}
    for key, attributes in _LISTS.items():
        for attribute in attributes:
            if items := getattr(request, attribute, None):
                found[key] = few([_name(item, name_of) for item in items[:MOST_NAMES]], len(items))
    for key, attribute in _SINGLE.items():
        if name := getattr(request, attribute, None):
            found[key] = str(name)[:MOST_CHARACTERS]
    return found


def few(names: Iterable[str], count: int) -> str:
    """The first few of so many names, and how many more there are."""
    shown = ",".join(name[:MOST_CHARACTERS] for name in islice(names, MOST_NAMES))
    return shown + (f" and {count - MOST_NAMES} more" if count > MOST_NAMES else "")


def _name(item: Any, name_of: Callable[[UUID], str | None]) -> str:
    if isinstance(item, str):
        return item
    for attribute in ("name", "topic", "group_id"):
        if name := getattr(item, attribute, None):
            return str(name)
    topic_id: UUID | None = getattr(item, "topic_id", None)
    return "" if topic_id is None else name_of(topic_id) or str(topic_id)
