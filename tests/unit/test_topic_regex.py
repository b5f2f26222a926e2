"""Subscriptions by regular expression: RE2's syntax, whole names, no expression that can stall the broker."""

from __future__ import annotations

import pytest

from pg_kafka.coordinator.topic_regex import InvalidTopicRegex, check, matching


def test_expression_matches_whole_names() -> None:
    names = ["orders", "orders-eu", "eu-orders", "payments"]
    assert matching("orders", names) == {"orders"}
    assert matching("orders.*", names) == {"orders", "orders-eu"}
    assert matching("orders|orders-eu", names) == {"orders", "orders-eu"}
    assert matching("(?i)ORDERS", names) == {"orders"}
    assert matching("nothing", names) == frozenset()


@pytest.mark.parametrize(
    "pattern", ["(a", "a**", "[", r"(a)\1", "(?=a)", "a{1001}", "(((a{100}){100}){100})", "a" * 10**6]
)
def test_what_re2_does_not_take_is_invalid(pattern: str) -> None:
    with pytest.raises(InvalidTopicRegex, match=r".+"):
        check(pattern)


def test_matching_time_is_linear() -> None:
    assert matching("(a*)*b|(a|aa)+c", ["a" * 249]) == frozenset()
