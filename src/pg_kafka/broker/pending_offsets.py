"""Which commits of groups' offsets wait for the end of a transaction, and for whose.

The coordinator of transactions keeps it; groups look at it before they show, expire or delete an offset.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pg_kafka.coordinator.group_offsets import OffsetKey


class PendingOffsets:
    """Transactional ids by group and partition, each with when it committed, in milliseconds since 1970."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[str, dict[OffsetKey, dict[str, int]]] = {}

    def __contains__(self, group_id: str) -> bool:
        """Does any commit of the group wait?"""
        return group_id in self._groups

    def of(self, group_id: str) -> Collection[OffsetKey]:
        """The partitions whose offsets wait."""
        return self._groups.get(group_id, {}).keys()

    def ids(self, group_id: str, keys: Iterable[OffsetKey] | None) -> set[str]:
        """Whose transactions they wait for; without keys, all of the group."""
        of_group = self._groups.get(group_id, {})
        return {each for key in (of_group if keys is None else keys) for each in of_group.get(key, ())}

    def newest_ms(self, group_id: str, key: OffsetKey) -> int | None:
        """When the newest commit was that waits; None: none does."""
        ids = self._groups.get(group_id, {}).get(key)
        return max(ids.values()) if ids else None

    def time_of(self, transactional_id: str, group_id: str, key: OffsetKey) -> int | None:
        """When the commit was that waits for this transaction; None: none does."""
        return self._groups.get(group_id, {}).get(key, {}).get(transactional_id)

    def add(self, transactional_id: str, group_id: str, key: OffsetKey, committed_at_ms: int) -> None:
        self._groups.setdefault(group_id, {}).setdefault(key, {})[transactional_id] = committed_at_ms

    def remove(self, transactional_id: str, group_id: str, key: OffsetKey, committed_at_ms: int) -> None:
        """The commit of that time waits no more. One of the next transaction, which is newer, stays."""
        of_group = self._groups.get(group_id, {})
        ids = of_group.get(key)
        if ids is None or ids.get(transactional_id) != committed_at_ms:
            return
        del ids[transactional_id]
        if not ids:
            del of_group[key]
        if not of_group:
            del self._groups[group_id]

    def clear(self) -> None:
        self._groups.clear()
