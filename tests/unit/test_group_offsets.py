"""Committed offsets of one group: what is shown when, and what expires."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.coordinator.group_offsets import Committed, GroupOffsets, OffsetKey, check_metadata
from pg_kafka.wire.error_codes import ErrorCode

KEYS: list[OffsetKey] = [(1, 0), (1, 1), (2, 0)]


def committed(offset: int = 5, at_ms: int = 0) -> Committed:
    return Committed(offset, -1, "", at_ms)


@dataclass
class SomeGroup:
    """Offsets count from their commit unless told otherwise."""

    topics: set[str] = field(default_factory=set)
    base_ms: int | None = None
    is_expiring: bool = True

    def offset_expiry_base_ms(self, committed_at_ms: int) -> int | None:
        if not self.is_expiring:
            return None
        return committed_at_ms if self.base_ms is None else self.base_ms

    def is_subscribed(self, topic_name: str) -> bool:
        return topic_name in self.topics


def name(topic_id: int) -> str | None:
    return {1: "one", 2: "two"}.get(topic_id)


def test_commit_is_shown_when_it_is_confirmed() -> None:
    offsets = GroupOffsets()
    changes = {(1, 0): committed()}
    offsets.stage(changes)
    assert offsets.get(1, 0) is None
    assert not offsets.is_empty
    assert offsets.keys() == [(1, 0)]
    offsets.confirm(changes)
    assert offsets.get(1, 0) == committed()
    assert (len(offsets), list(offsets.items())) == (1, [((1, 0), committed())])


def test_commit_that_has_waited_gives_way_to_a_later_one() -> None:
    offsets = GroupOffsets({(1, 0): committed(at_ms=10)})
    assert offsets.is_news((1, 1), committed(at_ms=5))
    assert [offsets.is_news((1, 0), committed(at_ms=at_ms)) for at_ms in (9, 10, 11)] == [False, True, True]
    later, latest = {(1, 0): committed(at_ms=20)}, {(1, 0): committed(at_ms=30)}
    offsets.stage(later)
    assert not offsets.is_news((1, 0), committed(at_ms=19))
    offsets.stage(latest)
    offsets.confirm(later)
    assert not offsets.is_news((1, 0), committed(at_ms=29))
    offsets.stage({(1, 0): None})
    assert offsets.is_news((1, 0), committed(at_ms=1))  # it was deleted since
    offsets.confirm(latest)
    offsets.confirm({(1, 0): None})
    assert offsets.is_news((1, 0), committed(at_ms=1))


def test_deletion_takes_what_is_committed_meanwhile() -> None:
    offsets = GroupOffsets({(1, 0): committed()})
    later = {(1, 1): committed()}
    offsets.stage(later)
    deletion = dict.fromkeys(offsets.keys())
    offsets.stage(deletion)
    offsets.confirm(later)
    offsets.confirm(deletion)
    assert offsets.is_empty
    assert set(deletion) == {(1, 0), (1, 1)}


def test_loaded_offsets_are_a_copy() -> None:
    loaded = {(1, 0): committed()}
    GroupOffsets(loaded).forget_topic(1)
    assert loaded


def test_deleted_topic_is_forgotten() -> None:
    offsets = GroupOffsets({key: committed() for key in KEYS})
    assert offsets.forget_topic(1) == [(1, 0), (1, 1)]
    assert offsets.get(2, 0) == committed()


def test_offset_expires_when_its_time_is_over() -> None:
    offsets = GroupOffsets({(1, 0): committed(at_ms=100), (1, 1): committed(at_ms=101)})
    assert offsets.expired(SomeGroup(), name, 199, 100) == []
    assert offsets.expired(SomeGroup(), name, 200, 100) == [(1, 0)]
    assert offsets.expired(SomeGroup(base_ms=150), name, 249, 100) == []
    assert offsets.expired(SomeGroup(base_ms=150), name, 250, 100) == [(1, 0), (1, 1)]


def test_offset_of_a_subscribed_topic_stays() -> None:
    offsets = GroupOffsets({key: committed() for key in KEYS})
    assert offsets.expired(SomeGroup({"one"}), name, 1_000, 100) == [(2, 0)]


def test_offset_of_a_topic_that_is_gone_expires() -> None:
    assert GroupOffsets({(9, 0): committed()}).expired(SomeGroup({"one"}), name, 1_000, 100) == [(9, 0)]


def test_group_that_may_need_its_offsets_keeps_them() -> None:
    offsets = GroupOffsets({key: committed() for key in KEYS})
    assert offsets.expired(SomeGroup(is_expiring=False), name, 1_000, 100) == []


def test_offset_that_is_being_committed_does_not_expire() -> None:
    offsets = GroupOffsets({(1, 0): committed()})
    changes = {(1, 0): committed(6, 1_000)}
    offsets.stage(changes)
    assert offsets.expired(SomeGroup(), name, 1_000, 100) == []
    offsets.confirm(changes)
    assert offsets.get(1, 0) == committed(6, 1_000)
    assert offsets.expired(SomeGroup(), name, 1_099, 100) == []


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), st.none() | st.builds(committed, st.integers(0)))))
def test_writes_that_overlap_end_as_they_began(writes: list[dict[OffsetKey, Committed | None]]) -> None:
    offsets, expected = GroupOffsets(), dict[OffsetKey, Committed]()
    for changes in writes:
        offsets.stage(changes)
    for changes in writes:
        offsets.confirm(changes)
        for key, change in changes.items():
            expected.pop(key, None)
            if change is not None:
                expected[key] = change
    assert dict(offsets.items()) == expected
    assert offsets.is_empty == (not expected)
    assert set(offsets.keys()) == set(expected)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (None, ErrorCode.NONE),
        ("", ErrorCode.NONE),
        ("x" * 10, ErrorCode.NONE),
        ("x" * 11, ErrorCode.OFFSET_METADATA_TOO_LARGE),
        ("\N{PILE OF POO}" * 5, ErrorCode.NONE),
        ("\N{PILE OF POO}" * 6, ErrorCode.OFFSET_METADATA_TOO_LARGE),
        ("é" * 10, ErrorCode.NONE),
        ("a\0b", ErrorCode.NONE),
    ],
)
def test_metadata_is_limited(metadata: str | None, error: ErrorCode) -> None:
    assert check_metadata(metadata, 10) == error
