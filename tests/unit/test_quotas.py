"""Which quotas there may be, and which one applies."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.security.quotas import (
    CLIENT_ID,
    CONNECTION_CREATION_RATE,
    CONSUMER_BYTE_RATE,
    DEFAULT,
    IP,
    PRODUCER_BYTE_RATE,
    REQUEST_PERCENTAGE,
    USER,
    Applying,
    Entity,
    Match,
    Table,
    Unusable,
    address_of,
    check,
    entity_of,
)

# From the strongest to the weakest, and who shares what it allows.
LEVELS = [
    (Entity("alice", "app"), ("alice", "app")),
    (Entity("alice", DEFAULT), ("alice", "app")),
    (Entity("alice"), ("alice", None)),
    (Entity(DEFAULT, "app"), ("alice", "app")),
    (Entity(DEFAULT, DEFAULT), ("alice", "app")),
    (Entity(DEFAULT), ("alice", None)),
    (Entity(None, "app"), (None, "app")),
    (Entity(None, DEFAULT), (None, "app")),
]


@pytest.mark.parametrize("strongest", range(8))
def test_the_first_of_eight_levels_counts(strongest: int) -> None:
    entries = {entity: {PRODUCER_BYTE_RATE: 100.0 + n} for n, (entity, _) in enumerate(LEVELS) if n >= strongest}
    table = Table(
        entries | {Entity("bob", "app"): {PRODUCER_BYTE_RATE: 1.0}, Entity(None, "other"): {PRODUCER_BYTE_RATE: 2.0}}
    )
    assert table.applying(PRODUCER_BYTE_RATE, "alice", "app") == Applying(LEVELS[strongest][1], 100.0 + strongest)


def test_each_quota_is_looked_for_by_itself() -> None:
    table = Table({Entity("alice", "app"): {PRODUCER_BYTE_RATE: 1.0}, Entity("alice"): {CONSUMER_BYTE_RATE: 2.0}})
    assert table.applying(CONSUMER_BYTE_RATE, "alice", "app") == Applying(("alice", None), 2.0)
    assert table.applying(REQUEST_PERCENTAGE, "alice", "app") is None


def test_a_client_without_id_has_the_default() -> None:
    table = Table({Entity(None, DEFAULT): {PRODUCER_BYTE_RATE: 1.0}})
    assert table.applying(PRODUCER_BYTE_RATE, "alice", "") == Applying((None, ""), 1.0)


def test_addresses_are_one_whatever_their_form() -> None:
    table = Table(
        {
            Entity(ip="2001:DB8:0::1"): {CONNECTION_CREATION_RATE: 5.0},
            Entity(ip="10.0.0.1"): {CONNECTION_CREATION_RATE: 6.0},
            Entity(ip=DEFAULT): {CONNECTION_CREATION_RATE: 7.0},
        }
    )
    assert table.connection_rate("2001:db8::1") == 5.0
    assert table.connection_rate("::ffff:10.0.0.1") == 6.0
    assert table.connection_rate("10.0.0.2") == 7.0
    assert Table({}).connection_rate("10.0.0.2") is None
    assert not table.has_clients


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([], "Invalid empty client quota entity"),
        ([("group", "g")], "Unhandled client quota entity type: group"),
        ([(USER, "")], "Empty user not supported"),
        ([(CLIENT_ID, "")], "Empty client-id not supported"),
        ([(IP, "10.0.0.1"), (USER, "alice")], "Invalid quota entity combination"),
        ([(IP, "ten")], "ten is not a valid IP or resolvable host."),
        ([(USER, "a\0b")], "NUL"),
        ([(CLIENT_ID, "é" * 501)], "more than 1000 bytes"),
    ],
)
def test_entities_that_cannot_be(pairs: list[tuple[str, str | None]], message: str) -> None:
    with pytest.raises(Unusable, match=message):
        entity_of(pairs)


@pytest.mark.parametrize(
    "entity, name, value, message",
    [
        (Entity("a"), "no_such_rate", 1.0, "Invalid configuration key no_such_rate"),
        (Entity("a"), CONNECTION_CREATION_RATE, 1.0, "Invalid configuration key connection_creation_rate"),
        (Entity(ip="::1"), PRODUCER_BYTE_RATE, 1.0, "Invalid configuration key producer_byte_rate"),
        (Entity("a"), PRODUCER_BYTE_RATE, 0.0, "Quota producer_byte_rate must be greater than 0"),
        (Entity("a"), PRODUCER_BYTE_RATE, -1.0, "Quota producer_byte_rate must be greater than 0"),
        (Entity("a"), PRODUCER_BYTE_RATE, 1.5, "producer_byte_rate cannot be a fractional value."),
        (Entity("a"), PRODUCER_BYTE_RATE, 1e19, "Proposed value for producer_byte_rate is too large for a LONG."),
        (Entity("a"), PRODUCER_BYTE_RATE, math.inf, "Quota producer_byte_rate must be a finite number"),
        (Entity("a"), REQUEST_PERCENTAGE, math.nan, "Quota request_percentage must be a finite number"),
        (Entity("a"), REQUEST_PERCENTAGE, -math.inf, "Quota request_percentage must be a finite number"),
        (Entity(ip="::1"), CONNECTION_CREATION_RATE, 2.0**31, "too large for an INT."),
    ],
)
def test_values_that_cannot_be(entity: Entity, name: str, value: float, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        check(entity, name, value)


@pytest.mark.parametrize(
    "entity, name, value",
    [
        (Entity("a"), PRODUCER_BYTE_RATE, 1e18),
        (Entity("a"), REQUEST_PERCENTAGE, 0.5),
        (Entity("a"), REQUEST_PERCENTAGE, 1.7e308),
        (Entity(ip="::1"), CONNECTION_CREATION_RATE, 2.0**31 - 1),
    ],
)
def test_values_that_can_be(entity: Entity, name: str, value: float) -> None:
    check(entity, name, value)


def test_what_a_filter_means() -> None:
    some = [Entity("a"), Entity("a", "b"), Entity(DEFAULT), Entity(None, "b"), Entity(ip="::1")]
    table = Table({entity: {"x": 1.0} for entity in some})

    def found(*matches: Match, strict: bool) -> list[Entity]:
        return list(table.matching(matches, strict=strict))

    assert found(strict=False) == some
    assert found(strict=True) == []
    assert found(Match(USER, None), strict=True) == [Entity("a"), Entity(DEFAULT)]
    assert found(Match(USER, None), strict=False) == [Entity("a"), Entity("a", "b"), Entity(DEFAULT)]
    assert found(Match(USER, "a"), Match(CLIENT_ID, "b"), strict=True) == [Entity("a", "b")]
    assert found(Match(USER, DEFAULT), strict=False) == [Entity(DEFAULT)]
    assert found(Match(IP, "::1"), strict=True) == [Entity(ip="::1")]


NAMES = [None, "alice", DEFAULT]


@given(
    st.dictionaries(
        st.sampled_from(
            [
                Entity(user, client)
                for user, client in product([*NAMES, "bob"], [*NAMES, "app"])
                if (user, client) != (None, None)
            ]
        ),
        st.floats(1, 1e9),
    ),
    st.sampled_from(["alice", "bob", "carol"]),
    st.sampled_from(["app", "alice", "else"]),
)
def test_whatever_applies_matches_and_nothing_stronger_does(
    limits: dict[Entity, float], user: str, client_id: str
) -> None:
    table = Table({entity: {PRODUCER_BYTE_RATE: limit} for entity, limit in limits.items()})
    in_order = [
        Entity(user, client_id),
        Entity(user, DEFAULT),
        Entity(user),
        Entity(DEFAULT, client_id),
        Entity(DEFAULT, DEFAULT),
        Entity(DEFAULT),
        Entity(None, client_id),
        Entity(None, DEFAULT),
    ]
    expected = next((limits[entity] for entity in in_order if entity in limits), None)
    found = table.applying(PRODUCER_BYTE_RATE, user, client_id)
    assert (None if found is None else found.limit) == expected


@given(st.text(max_size=50))
def test_no_text_is_a_strange_address(text: str) -> None:
    found = address_of(text)
    assert found is None or address_of(found) == found
