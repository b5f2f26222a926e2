"""Sources of metrics: what clients have done, figures over very many things, how late the event loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

import pytest

from pg_kafka.broker.metrics import walks
from pg_kafka.broker.metrics.connections import ClientCountersSource
from pg_kafka.broker.metrics.loop import LoopSource
from pg_kafka.broker.metrics.walks import AT_ONCE, Walk
from pg_kafka.broker.quotas import Quotas, Windows
from pg_kafka.config import Config
from pg_kafka.metrics.clients import ConnectionCounters, QuotaCounters
from pg_kafka.security.quotas import (
    CONSUMER_BYTE_RATE,
    CONTROLLER_MUTATION_RATE,
    PRODUCER_BYTE_RATE,
    REQUEST_PERCENTAGE,
    Entity,
    Table,
)


def told(source: ClientCountersSource | LoopSource) -> dict[tuple[str, str], float]:
    """By name and the values of labels."""
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in source.families()
        for sample in family.samples
    }


def test_waits_for_quotas_are_counted_by_the_quota() -> None:
    counters = QuotaCounters()
    now = [1_000_000]
    quotas = Quotas(lambda: now[0], Windows.of(Config()), counters)
    each = {
        PRODUCER_BYTE_RATE: 1000.0,
        CONSUMER_BYTE_RATE: 1000.0,
        REQUEST_PERCENTAGE: 1.0,
        CONTROLLER_MUTATION_RATE: 1.0,
    }
    quotas.renew(Table({Entity("alice"): each}))
    limits = quotas.limits("User:alice", "app")
    assert limits.produce and limits.fetch and limits.request and limits.mutation
    waits = {
        PRODUCER_BYTE_RATE: quotas.produced(limits.produce, 20_000),
        CONSUMER_BYTE_RATE: quotas.fetched(limits.fetch, 20_000)[0],
        REQUEST_PERCENTAGE: quotas.spent(limits.request, 10**9),
        CONTROLLER_MUTATION_RATE: quotas.mutated(limits.mutation, 1000, is_strict=False),
    }
    assert all(waits.values())
    assert quotas.fetched(limits.fetch, 1)[1] is False  # it waits once more
    found = told(ClientCountersSource(ConnectionCounters(), counters))
    for name, wait_ms in waits.items():
        assert found["pg_kafka_quota_waits_total", name] == 1 + (name == CONSUMER_BYTE_RATE)
        if name != CONSUMER_BYTE_RATE:
            assert found["pg_kafka_quota_wait_seconds_total", name] == wait_ms / 1000


def test_who_does_not_wait_is_not_counted() -> None:
    counters = QuotaCounters()
    quotas = Quotas(lambda: 1_000_000, Windows.of(Config()), counters)
    quotas.renew(Table({Entity("alice"): {PRODUCER_BYTE_RATE: 1e9}}))
    limits = quotas.limits("User:alice", "app")
    assert limits.produce is not None
    assert quotas.produced(limits.produce, 1000) == 0
    assert not counters.waits


def walk_over(count: int) -> tuple[Walk[int], list[int]]:
    """A walk over so many things, each a step; and what it has come to."""
    seen: list[int] = []

    def make() -> Generator[None, None, int]:
        for number in range(3):
            seen.append(number)
            yield
        return len(seen)

    return Walk(make, lambda: count, 0), seen


def test_few_things_are_gone_through_at_each_look() -> None:
    walk, _ = walk_over(AT_ONCE)
    assert [walk.look(), walk.look()] == [3, 6]


async def test_many_things_are_gone_through_beside_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "INTERVAL_S", 3600.0)
    walk, seen = walk_over(AT_ONCE + 1)
    assert walk.look() == 0
    task = asyncio.create_task(walk.run())
    turns = 0
    while walk.look() == 0:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 100
    assert (walk.look(), len(seen)) == (3, 3)
    assert turns > 3  # others had theirs in between
    task.cancel()


async def test_loop_that_was_held_up_is_late() -> None:
    loop = LoopSource()
    loop.start()
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - that is what is measured
    assert told(loop)["pg_kafka_event_loop_lag_seconds", ""] >= 0.3  # while it goes on
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told(loop)["pg_kafka_event_loop_lag_seconds", ""] >= 0.3  # and for a while
    loop.stop()
