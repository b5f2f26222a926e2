"""pg_kafka.min_sync_standbys on a primary whose standby comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.broker.rawclient import RawClient, batch
from tests.crash.servers import Pair
from tests.postgres import FLAVOURS

from pg_kafka.wire.error_codes import ErrorCode

pytestmark = pytest.mark.timeout(300)

TOO_FEW, ENOUGH = "too few synchronous standbys", "enough synchronous standbys"


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    system = Pair(synchronous=True)
    await system.open()
    try:
        yield system
    finally:
        await system.close()


async def told(pair: Pair, sentence: str, times: int) -> None:
    """Return when the broker has said it so often."""
    async with asyncio.timeout(30):
        while pair.brokers[0].log.read_text().count(f'"{sentence}') < times:  # noqa: ASYNC110 - it tells its log alone
            await asyncio.sleep(0.05)


async def test_acks_all_wants_synchronous_standbys(pair: Pair) -> None:
    place = await pair.serving()
    await pair.superuser(f"GRANT pg_read_all_stats TO {pair.database.name}")
    await pair.fetch("SELECT kafka.set_config('pg_kafka.min_sync_standbys', '2')")
    async with await RawClient.connect(place) as client:
        topic = await client.create_topic(retention_ms="-1")  # the records are old
        # One is connected, two are wanted.
        await told(pair, TOO_FEW, 1)
        refused = await client.produce(topic, batch())
        assert refused.error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert "pg_kafka.min_sync_standbys" in (refused.error_message or "")
        assert (await client.produce(topic, batch(), acks=1)).error_code == ErrorCode.NONE
        await pair.fetch("SELECT kafka.set_config('pg_kafka.min_sync_standbys', '1')")
        await told(pair, ENOUGH, 1)
        assert (await client.produce(topic, batch())).error_code == ErrorCode.NONE

        # It is there, and no COMMIT waits for it.
        await pair.superuser("ALTER SYSTEM RESET synchronous_standby_names")
        await pair.superuser("SELECT pg_reload_conf()")
        await told(pair, TOO_FEW, 2)
        assert (await client.produce(topic, batch())).error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert (await client.produce(topic, batch(), acks=1)).error_code == ErrorCode.NONE
        await pair.superuser("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await pair.superuser("SELECT pg_reload_conf()")
        await told(pair, ENOUGH, 2)
        assert (await client.produce(topic, batch())).error_code == ErrorCode.NONE

        # It is gone, and every COMMIT would wait: the refusal comes all the same.
        assert pair.standby is not None
        await asyncio.to_thread(pair.standby.stop)
        await told(pair, TOO_FEW, 3)
        assert (await client.produce(topic, batch())).error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        await asyncio.to_thread(pair.standby.start)
        await told(pair, ENOUGH, 3)
        assert (await client.produce(topic, batch())).error_code == ErrorCode.NONE
