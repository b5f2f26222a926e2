"""What makes the janitor look: segments and journals that grow, and topics that outgrow the shared series."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pg_kafka.storage.growth import GROWN_BYTES, JOURNAL_GROWN_BYTES, Growth


def partition(topic_id: int, series: int = 0) -> Any:
    return SimpleNamespace(series=series, topic=SimpleNamespace(id=topic_id))


def test_a_topic_is_told_once_until_it_is_forgotten() -> None:
    growth = Growth(series_bytes=100)
    growth.add(partition(1), 60)
    assert not growth.outgrown and not growth.is_wanted.is_set()
    growth.add(partition(1), 60)
    assert growth.outgrown == {1} and growth.is_wanted.is_set()
    growth.outgrown.clear()
    growth.add(partition(1), 60)
    assert not growth.outgrown
    # Its deletion may fail, and then it is counted anew.
    growth.forget(1)
    growth.add(partition(1), 160)
    assert growth.outgrown == {1}


def test_a_topic_with_a_series_of_its_own_outgrows_nothing() -> None:
    growth = Growth(series_bytes=100)
    growth.add(partition(1, series=1), 1000)
    assert not growth.outgrown


def test_the_janitor_is_wanted_each_time_that_enough_has_been_written() -> None:
    growth = Growth(series_bytes=1 << 60)
    for add, enough in (
        (lambda count: growth.add(partition(1), count), GROWN_BYTES),
        (growth.add_to_journals, JOURNAL_GROWN_BYTES),
    ):
        for _ in range(2):
            add(enough - 1)
            assert not growth.is_wanted.is_set()
            add(1)
            assert growth.is_wanted.is_set()
            growth.is_wanted.clear()
