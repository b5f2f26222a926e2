"""Batches that are kept as they came, in every codec: each library reads them, before SQL has asked and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import CODECS, Client
from tests.clients.records import Record, at_offsets, numbered

# Nothing is kept in memory but the last batch: readers get what the database has.
SETTINGS = {"tail_bytes": "0"}
WRITERS = ("confluent-kafka", "java")


@pytest.fixture
def cold_broker(broker: Broker, brokers: Callable[..., Broker]) -> Broker:
    if broker.flavour == "apache-kafka":
        pytest.skip("keeps no tables")
    return brokers(broker.flavour, "packed", SETTINGS)


def query(dsn: str | None, statement: str) -> list[asyncpg.Record]:
    async def work() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(work())


def written(broker: Broker, topic: str, clients: Callable[[str], Client]) -> list[Record]:
    """Records of both writers in every codec, the compressed ones kept as they came."""
    writer = clients(WRITERS[0])
    writer.create_topic(broker.bootstrap, topic, 1, {})
    sent = numbered(1)
    expected = at_offsets(sent, writer.produce(broker.bootstrap, topic, sent, codec="lz4"))
    deadline = time.monotonic() + 20
    while not query(broker.dsn(), f"SELECT FROM kafka.topics WHERE name = '{topic}' AND keeps_batches"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for name in WRITERS:
        for codec in CODECS:
            sent = numbered(200)
            offsets = clients(name).produce(broker.bootstrap, topic, sent, codec=codec)
            expected += at_offsets(sent, offsets)
    kept = query(broker.dsn(), "SELECT DISTINCT codec FROM kafka.log WHERE batch IS NOT NULL ORDER BY 1")
    assert [row["codec"] for row in kept] == [1, 2, 3, 4]
    return expected


@pytest.mark.parametrize("layout", ["packed", "unpacked"])
def test_every_library_reads_every_codec(
    cold_broker: Broker, client: Client, clients: Callable[[str], Client], layout: str, once: dict[Any, Any]
) -> None:
    place = (layout, cold_broker.flavour)
    if place not in once:
        topic = f"{layout}-topic"
        expected = written(cold_broker, topic, clients)
        if layout == "unpacked":
            shown = query(cold_broker.dsn(), f'SELECT value FROM topics."{topic}" ORDER BY partition_offset')
            assert [row["value"] for row in shown] == [record.value for record in expected]
            assert not query(
                cold_broker.dsn(),
                f"SELECT FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic WHERE t.name = '{topic}' AND batch IS NOT NULL",
            )
        once[place] = topic, expected
    topic, expected = once[place]
    read = client.consume(cold_broker.bootstrap, topic, len(expected))
    assert [record.offset for record in read] == list(range(len(expected)))
    assert [(record.key, record.value) for record in read] == [(record.key, record.value) for record in expected]
