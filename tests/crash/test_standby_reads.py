"""SQL on a standby: what is replicated can be read there; what is not unpacked is refused with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, batch
from tests.crash.servers import Pair
from tests.postgres import FLAVOURS

pytestmark = pytest.mark.timeout(300)

LZ4 = 3
DEADLINE_S = 60


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    system = Pair(synchronous=False)
    await system.open()
    try:
        yield system
    finally:
        await system.close()


async def follows(pair: Pair) -> None:
    """Return when the standby has all that is committed."""
    await pair.wait_for(
        "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()", timeout_s=DEADLINE_S
    )


async def test_packed_batches_are_refused_on_a_standby_until_the_primary_has_unpacked_them(pair: Pair) -> None:
    place = await pair.serving()
    values = [b"%d" % number for number in range(20)]
    is_kept = "SELECT keeps_batches AND view_name IS NOT NULL FROM kafka.topics WHERE name = $1"
    async with await RawClient.connect(place) as client:
        topic = await client.create_topic(retention_ms="-1")  # the records are old
        assert (await client.produce(topic, batch(values[:10], compression=LZ4))).base_offset == 0
        async with asyncio.timeout(DEADLINE_S):
            while not (await pair.fetch(is_kept, topic.name))[0][0]:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        assert (await client.produce(topic, batch(values[10:], compression=LZ4))).base_offset == 10
    await follows(pair)
    assert pair.standby is not None
    shown = f'SELECT value FROM topics."{topic.name}" ORDER BY partition_offset'
    replica = await asyncpg.connect(pair.standby.dsn(pair.database.name, pair.database.name))
    try:
        for statement in (shown, "SELECT count(*) FROM kafka.messages"):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refused:
                await replica.fetch(statement)
            assert "This server is a standby" in str(refused.value.hint)
        assert f"kafka.unpack('{topic.name}')" in str((await _refusal(replica, shown)).hint)

        assert (await pair.fetch(f"SELECT kafka.unpack('{topic.name}')"))[0][0] is True
        await follows(pair)
        assert [row["value"] for row in await replica.fetch(shown)] == values
        assert await replica.fetchval("SELECT count(*) FROM kafka.messages") == len(values)
    finally:
        await replica.close(timeout=5)


async def _refusal(connection: asyncpg.Connection, statement: str) -> asyncpg.PostgresError:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.fetch(statement)
    return refused.value
