"""Where a lane's rows go: straight into a segment's table when all are of one, else through the root."""

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.wire_batches import batch, records, values

from pg_kafka.storage import exchange
from pg_kafka.storage.segments import Segments
from pg_kafka.wire.error_codes import ErrorCode


@pytest.mark.parametrize("is_moved", [False, True])
async def test_one_transaction_of_one_or_two_segments(
    pg_dsn: str, monkeypatch: pytest.MonkeyPatch, is_moved: bool
) -> None:
    """A topic with a series of its own beside one without; the batches that the database refuses fail alone."""
    queries: list[str] = []
    run = exchange.run

    async def watched(session: Any, query: str, *arguments: Any) -> list[str]:
        queries.append(query)
        return await run(session, query, *arguments)

    monkeypatch.setattr(exchange, "run", watched)
    async with leading(pg_dsn) as leader:
        topics = [await leader.topic("small", 2), await leader.topic("large", 2)]
        connection = await asyncpg.connect(pg_dsn)
        if is_moved:
            assert await Segments(connection).create_series(topics[1].id, "none")
            await leader.log.move_topic(topics[1].id, topics[1].id, 0)
        for row in await connection.fetch("SELECT format('kafka.log_%s_%s', series, segment) AS t FROM kafka.segments"):
            await connection.execute(f"ALTER TABLE {row['t']} ADD CHECK (partition <> 1) NOT VALID")
        await connection.close()
        partitions = [await leader.partition(topic, index) for topic in topics for index in range(2)]
        for base_offset in (0, 2):
            queries.clear()
            answers = [leader.send(partition, batch(values(b"a", b"b"))) for partition in partitions]
            results = await asyncio.wait_for(asyncio.gather(*answers), 10)
            assert [r.error for r in results] == [0, ErrorCode.UNKNOWN_SERVER_ERROR] * 2
            assert [r.base_offset for r in results[::2]] == [base_offset] * 2
            assert any("COPY kafka.log " in query for query in queries) is is_moved
        for partition in partitions:
            found = records(await leader.log.read(partition, 0, 1 << 20))
            assert [value for _, _, value in found] == ([] if partition.index else [b"a", b"b"] * 2)
