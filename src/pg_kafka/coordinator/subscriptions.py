"""What a consumer's own bytes say: the topics that it subscribes to, and the partitions that a leader gave it.

The broker needs neither to run a classic group; SQL users, offset expiry and OffsetDelete do. The bytes come from
clients, in whatever form, so every count is checked against what is left, and bytes that do not parse give None.

    subscription  version int16 | count int32, topics | user data | more in later versions
    assignment    version int16 | count int32, (topic | count int32, partitions int32) | user data | ...
    topic         length int16, UTF-8
    user data     length int32 (-1 is null), bytes

Every version begins as version 0 does, so later ones are read as that (Kafka's broker does the same).
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Final

from pg_kafka.wire.text import AS_KAFKA

PARSED_BYTES: Final = 1 << 20
"""Longer metadata or assignments are kept and passed on, and not looked into."""

_INT16: Final = Struct(">h")
_INT32: Final = Struct(">i")


class _Malformed(Exception):
    """The bytes are not of the form above."""


class _Reader:
    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 2
        if len(data) < 2:
            raise _Malformed

    def int32(self) -> int:
        at = self._at
        if len(self._data) - at < 4:
            raise _Malformed
        self._at = at + 4
        value: int = _INT32.unpack_from(self._data, at)[0]
        return value

    def count(self, least_bytes: int) -> int:
        """The length of an array whose items take at least so many bytes each."""
        count = self.int32()
        if count < 0 or count * least_bytes > len(self._data) - self._at:
            raise _Malformed
        return count

    def topic(self) -> str:
        at = self._at
        if len(self._data) - at < 2:
            raise _Malformed
        length: int = _INT16.unpack_from(self._data, at)[0]
        end = at + 2 + length
        if length < 0 or end > len(self._data):
            raise _Malformed
        self._at = end
        return self._data[at + 2 : end].decode("utf-8", AS_KAFKA)

    def partitions(self) -> list[int]:
        count = self.count(4)
        at = self._at
        self._at = at + 4 * count
        return list(unpack_from(f">{count}i", self._data, at))

    def user_data(self) -> None:
        length = self.int32()
        if length < -1 or length > len(self._data) - self._at:
            raise _Malformed


def subscribed_topics(metadata: bytes) -> list[str] | None:
    """The topics of a ConsumerProtocolSubscription, each once; None when the bytes are something else."""
    if len(metadata) > PARSED_BYTES:
        return None
    try:
        reader = _Reader(metadata)
        topics = dict.fromkeys(reader.topic() for _ in range(reader.count(2)))
        reader.user_data()
    except _Malformed:
        return None
    return list(topics)


def assigned_partitions(assignment: bytes) -> dict[str, list[int]] | None:
    """The partitions of a ConsumerProtocolAssignment by topic; none for no bytes, None when they are something else."""
    if not assignment:
        return {}
    if len(assignment) > PARSED_BYTES:
        return None
    assigned: dict[str, list[int]] = {}
    try:
        reader = _Reader(assignment)
        for _ in range(reader.count(6)):
            topic = reader.topic()
            assigned.setdefault(topic, []).extend(reader.partitions())
        reader.user_data()
    except _Malformed:
        return None
    return assigned
