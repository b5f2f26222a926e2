"""What the broker reads in consumers' own bytes."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.classic_driver import assignment, subscription, text

from pg_kafka.coordinator.subscriptions import PARSED_BYTES, assigned_partitions, subscribed_topics

TOPICS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TOPICS, max_size=5), st.integers(-1, 9), st.binary(max_size=20))
def test_topics_of_every_version(topics: list[str], version: int, more: bytes) -> None:
    assert subscribed_topics(subscription(*topics, version=version, more=more)) == list(dict.fromkeys(topics))


@given(st.dictionaries(TOPICS, st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=5))
def test_assigned_partitions(partitions: dict[str, list[int]]) -> None:
    assert assigned_partitions(assignment(**partitions)) == partitions


def test_topic_assigned_in_two_parts() -> None:
    part = text("t") + pack(">ii", 1, 0)
    assert assigned_partitions(pack(">hi", 0, 2) + part + part + pack(">i", -1)) == {"t": [0, 0]}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0",
        pack(">h", 0),
        pack(">hi", 0, -1),
        pack(">hi", 0, 2**31 - 1),
        pack(">hi", 0, 1) + b"\0",
        pack(">hi", 0, 1) + pack(">h", -1) + b"\0\0\0\0",
        pack(">hi", 0, 1) + pack(">h", 9) + b"t",
        subscription("t")[:-1],
        subscription("t")[:-4] + pack(">i", 1),
        subscription("t")[:-4] + pack(">i", -2),
        subscription("t") + b"\0" * PARSED_BYTES,
    ],
)
def test_damaged_subscriptions_are_not_known(damaged: bytes) -> None:
    assert subscribed_topics(damaged) is None


def test_bytes_that_are_no_text_are_replaced_as_kafka_does() -> None:
    assert subscribed_topics(pack(">hi", 0, 1) + b"\0\4a\xff\0b" + pack(">i", -1)) == ["a\ufffd\0b"]


def test_damaged_assignments_are_not_known_and_none_is_none() -> None:
    assert assigned_partitions(b"") == {}
    whole = assignment(t=[1, 2])
    for length in range(1, len(whole)):
        assert assigned_partitions(whole[:length]) is None
    assert assigned_partitions(pack(">hi", 0, 1) + text("t") + pack(">i", 2**31 - 1) + b"\0" * 8) is None
    assert assigned_partitions(whole + b"\0" * PARSED_BYTES) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    subscribed_topics(data)
    assigned_partitions(data)
