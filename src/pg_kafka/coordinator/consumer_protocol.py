"""What a classic consumer's embedded bytes say, where a group of the consumer protocol has to read and write them.

    subscription  version int16 | count, topics | user data | 1+: count, owned (topic | count, partitions)
                  | 2+: generation int32 | 3+: rack, nullable string
    assignment    version int16 | count, (topic | count, partitions) | user data
    topic         length int16, UTF-8
    user data     length int32 (-1 is null), bytes

The bytes come from clients: every count is checked against what is left. A version above 3 is read as 3 (Kafka does so).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import pack, unpack_from
from typing import Final

from pg_kafka.wire.text import AS_KAFKA

NEWEST_VERSION: Final = 3


class MalformedConsumerProtocol(ValueError):
    """The bytes are not of the form above."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """`owned` is what the member believes to own; version 0 does not say."""

    version: int
    topics: tuple[str, ...]
    owned: Mapping[str, tuple[int, ...]]
    rack_id: str | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a member was given. User data is an assignor's own."""

    partitions: Mapping[str, tuple[int, ...]]
    has_user_data: bool


class _Reader:
    __slots__ = ("_at", "_data", "version")

    def __init__(self, data: bytes) -> None:
        self._at = 0
        self._data = data
        version: int = self._number("h", 2)
        if version < 0:
            raise MalformedConsumerProtocol("negative version")
        self.version = min(version, NEWEST_VERSION)

    def _number(self, form: str, size: int) -> int:
        at = self._at
        if len(self._data) - at < size:
            raise MalformedConsumerProtocol("too short")
        self._at = at + size
        value: int = unpack_from(">" + form, self._data, at)[0]
        return value

    def int32(self) -> int:
        return self._number("i", 4)

    def count(self, least_bytes: int) -> int:
        count = self.int32()
        if count < 0 or count * least_bytes > len(self._data) - self._at:
            raise MalformedConsumerProtocol("wrong count")
        return count

    def nullable_string(self) -> str | None:
        length = self._number("h", 2)
        if length < 0:
            return None
        at = self._at
        if length > len(self._data) - at:
            raise MalformedConsumerProtocol("too short")
        self._at = at + length
        return self._data[at : at + length].decode("utf-8", AS_KAFKA)

    def string(self) -> str:
        text = self.nullable_string()
        if text is None:
            raise MalformedConsumerProtocol("a name is missing")
        return text

    def topic_partitions(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for _ in range(self.count(6)):
            topic = self.string()
            count = self.count(4)
            partitions = unpack_from(f">{count}i", self._data, self._at)
            self._at += 4 * count
            found[topic] = (*found.get(topic, ()), *partitions)
        return found

    def has_user_data(self) -> bool:
        length = self.int32()
        if length > len(self._data) - self._at:
            raise MalformedConsumerProtocol("too short")
        self._at += max(length, 0)
        return length > 0


def read_subscription(metadata: bytes) -> Subscription:
    """Raises MalformedConsumerProtocol."""
    reader = _Reader(metadata)
    topics = tuple(dict.fromkeys(reader.string() for _ in range(reader.count(2))))
    reader.has_user_data()
    owned = reader.topic_partitions() if reader.version >= 1 else {}
    if reader.version >= 2:
        reader.int32()
    rack_id = reader.nullable_string() if reader.version >= 3 else None
    return Subscription(reader.version, topics, owned, rack_id)


def version_of(metadata: bytes) -> int:
    """The version of a subscription, as far as we know versions."""
    return min(max(unpack_from(">h", metadata)[0], 0), NEWEST_VERSION) if len(metadata) >= 2 else 0


def read_assignment(data: bytes) -> Assignment:
    """No bytes are no partitions. Raises MalformedConsumerProtocol."""
    if not data:
        return Assignment({}, False)
    reader = _Reader(data)
    partitions = reader.topic_partitions()
    return Assignment(partitions, reader.has_user_data())


def write_assignment(version: int, partitions: Iterable[tuple[str, Iterable[int]]]) -> bytes:
    """An assignment without user data; all versions look the same."""
    pieces = []
    for topic, ids in partitions:
        name = topic.encode()
        numbers = list(ids)
        pieces.append(pack(f">h{len(name)}si{len(numbers)}i", len(name), name, len(numbers), *numbers))
    return pack(">hi", version, len(pieces)) + b"".join(pieces) + pack(">i", -1)
