"""Where partitions begin and end and what they hold, loaded or not, as metrics tell it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.storage.leader import Leader, leading
from tests.wire_batches import batch, values

from pg_kafka.errors import StorageError
from pg_kafka.storage.topic_figures import PartitionFigures, TopicFigures
from pg_kafka.storage.topics import Topic


def places(figures: TopicFigures, topic: Topic) -> list[tuple[int, int] | None]:
    found = [figures.of(topic, index) for index in range(topic.partitions)]
    return [None if each is None else (each.start, each.end) for each in found]


def figures_of(leader: Leader) -> TopicFigures:
    return TopicFigures(leader.topics, leader.log, leader.clock)


async def running(figures: TopicFigures, condition: Any) -> None:
    """Have it go on until this holds."""
    task = asyncio.create_task(figures.run())
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_partitions_that_are_not_loaded_are_known_after_a_take_over(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 3)
        for index in (0, 1):
            partition = await leader.partition(topic, index)
            await leader.append(partition, batch(values(*[b"v"] * (5 + index))))
        await leader.log.delete_records([(await leader.partition(topic, 1), 2)])
        held = await leader.log.sizes([topic])
    async with leading(pg_dsn) as leader:
        topic = leader.topics.by_name["t"]
        figures = figures_of(leader)
        assert places(figures, topic) == [None, None, None]
        await running(figures, lambda: figures.of(topic, 0) is not None and figures.of(topic, 0).bytes)
        assert places(figures, topic) == [(0, 5), (2, 6), (0, 0)]
        assert figures.of(topic, 1) == PartitionFigures(2, 6, held[topic.id, 1])
        assert leader.log.loaded_partitions == 0
        assert figures.age_s < 20


async def test_figures_of_a_loaded_partition_are_those_of_this_moment(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 1)
        figures = figures_of(leader)
        await running(figures, lambda: figures.of(topic, 0) is not None)
        partition = await leader.partition(topic, 0)
        await leader.append(partition, batch(values(b"a", b"b")))
        assert places(figures, topic) == [(0, 2)]
        # What it had committed is known when it is not loaded any more.
        leader.log.forget(partition)
        assert places(figures, topic) == [(0, 2)]


async def test_start_that_moves_while_the_partition_is_not_loaded_is_seen(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 1)
        await leader.append(await leader.partition(topic, 0), batch(values(b"a", b"b", b"c")))
    async with leading(pg_dsn) as leader:
        topic = leader.topics.by_name["t"]
        figures = figures_of(leader)
        await running(figures, lambda: figures.of(topic, 0) is not None)
        await leader.control.fetch("SELECT kafka.delete_records('t', 0, 2)")
        await figures.refresh()
        assert places(figures, topic) == [(2, 3)]


async def test_new_topic_is_looked_up_soon_and_a_deleted_one_forgotten(pg_dsn: str) -> None:
    async with leading(pg_dsn) as leader:
        figures = figures_of(leader)
        made: list[Topic] = []

        async def make() -> None:
            made.append(await leader.topic("new", 2))

        task = asyncio.create_task(figures.run())
        await make()
        await running(figures, lambda: None not in places(figures, made[0]))
        task.cancel()
        await leader.topics.delete(made)
        assert places(figures, made[0]) == [None, None]


async def test_failure_is_told_once_and_tried_again(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pg_kafka.storage.topic_figures.SOON_S", 0.01)
    async with leading(pg_dsn) as leader:
        topic = await leader.topic("t", 1)
        figures = figures_of(leader)
        failures = []
        right = leader.log.places

        async def places_fail(partitions: Any) -> Any:
            failures.append(partitions)
            if len(failures) < 3:
                raise StorageError(True, -1, "away")
            return await right(partitions)

        monkeypatch.setattr(leader.log, "places", places_fail)
        await running(figures, lambda: figures.of(topic, 0) is not None)
        assert [r.message for r in caplog.records if "figures" in r.message] == ["figures of topics cannot be read"]
