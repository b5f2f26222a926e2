"""The committed offsets of one group, and when they expire.

Pure. A commit or deletion is staged when its write begins and confirmed when that is committed; only then `get` shows
it. What is staged neither expires nor is forgotten by the deletion of the group. When a write fails, the offsets are
thrown away with the group's machine and loaded again.

| group                                                   | an offset expires, after the retention time          |
|---------------------------------------------------------|------------------------------------------------------|
| classic without a protocol type (a simple consumer)     | since its commit                                     |
| classic, Empty                                          | since the group became empty                         |
| classic, Stable, protocol type "consumer"               | since its commit, when no member subscribes its topic|
| classic, otherwise                                      | never                                                |
| consumer                                                | since its commit, when no member subscribes its topic|
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from pg_kafka.wire.error_codes import ErrorCode

OffsetKey = tuple[int, int]
"""Topic id, as in kafka.topics, and partition."""


class Committed(
    NamedTuple
):  # made for every partition of every commit, where a frozen dataclass takes four times as long
    """A group's place in one partition. A leader epoch that the client did not say is -1."""

    offset: int
    leader_epoch: int
    metadata: str
    committed_at_ms: int  # since 1970


class ExpiringGroup(Protocol):
    """What expiry asks a group machine of either kind."""

    def offset_expiry_base_ms(self, committed_at_ms: int) -> int | None:
        """From when the retention time of an offset committed at that time counts; None: it does not expire."""

    def is_subscribed(self, topic_name: str) -> bool: ...


class GroupOffsets:
    """Offsets by topic id and partition."""

    __slots__ = ("_committed", "_newest", "_staged")

    def __init__(self, committed: Mapping[OffsetKey, Committed] | None = None) -> None:
        self._committed: dict[OffsetKey, Committed] = dict(committed or {})
        self._staged: dict[OffsetKey, int] = {}  # writes under way, by key
        self._newest: dict[OffsetKey, Committed | None] = {}  # what the last of them says

    def __len__(self) -> int:
        return len(self._committed)

    @property
    def is_empty(self) -> bool:
        """Nothing is committed, and nothing is about to be."""
        return not self._committed and not self._staged

    def get(self, topic_id: int, partition: int) -> Committed | None:
        return self._committed.get((topic_id, partition))

    def items(self) -> Iterator[tuple[OffsetKey, Committed]]:
        return iter(self._committed.items())

    def keys(self) -> list[OffsetKey]:
        """All that a deletion of the group has to delete: also what is being committed by writes before it."""
        return list(dict.fromkeys((*self._committed, *self._staged)))

    def is_news(self, key: OffsetKey, committed: Committed) -> bool:
        """Is this commit not older than what the group has, or is about to have?

        One that waited for the end of its transaction may be: then what was committed meanwhile stays.
        """
        known_ms = self.newest_ms(key)
        return known_ms is None or known_ms <= committed.committed_at_ms

    def newest_ms(self, key: OffsetKey) -> int | None:
        """When the commit was that the group has, or is about to have; None without one."""
        known = self._newest[key] if key in self._newest else self._committed.get(key)
        return None if known is None else known.committed_at_ms

    def stage(self, changes: Mapping[OffsetKey, Committed | None]) -> None:
        """A write of these begins; None deletes."""
        for key in changes:
            self._staged[key] = self._staged.get(key, 0) + 1
        self._newest.update(changes)

    def confirm(self, changes: Mapping[OffsetKey, Committed | None]) -> None:
        """A staged write is committed; None deletes. Writes are confirmed in the order in which they were staged."""
        for key, committed in changes.items():
            left = self._staged.get(key, 1) - 1
            if left:
                self._staged[key] = left
            else:
                self._staged.pop(key, None)
                self._newest.pop(key, None)
            if committed is None:
                self._committed.pop(key, None)
            else:
                self._committed[key] = committed

    def forget_topic(self, topic_id: int) -> list[OffsetKey]:
        """Drop what is committed for a topic that is deleted; returns the keys."""
        keys = [key for key in self._committed if key[0] == topic_id]
        for key in keys:
            del self._committed[key]
        return keys

    def expired(
        self, group: ExpiringGroup, topic_name: Callable[[int], str | None], wall_ms: int, retention_ms: int
    ) -> list[OffsetKey]:
        """What is to be deleted now. `topic_name` gives None for a topic that is gone; times are since 1970."""
        subscribed: dict[int, bool] = {}
        expired = []
        for key, committed in self._committed.items():
            base_ms = group.offset_expiry_base_ms(committed.committed_at_ms)
            if base_ms is None or wall_ms - base_ms < retention_ms or key in self._staged:
                continue
            topic_id = key[0]
            if topic_id not in subscribed:
                name = topic_name(topic_id)
                subscribed[topic_id] = name is not None and group.is_subscribed(name)
            if not subscribed[topic_id]:
                expired.append(key)
        return expired


def check_metadata(metadata: str | None, limit: int) -> ErrorCode:
    """NONE, or why an offset cannot be committed with this metadata; `limit` is offset.metadata.max.bytes.

    Kafka counts UTF-16 units, whatever the setting's name says.
    """
    if metadata is None:
        return ErrorCode.NONE
    if len(metadata) > limit or (2 * len(metadata) > limit and len(metadata.encode("utf-16-le")) // 2 > limit):
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    return ErrorCode.NONE
