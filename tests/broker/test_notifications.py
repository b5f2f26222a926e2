"""Wake-ups by LISTEN: topics that somebody has asked for notify their channel when records have come, and no others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.rawclient import RawClient, SomeTopic
from tests.broker.test_commit_offsets import connected
from tests.wire_batches import batch, values

from pg_kafka.wire.error_codes import ErrorCode


@pytest.fixture
async def client(broker: Any) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(broker) as client:
        yield client


@pytest.fixture
async def db(broker: Any) -> AsyncIterator[asyncpg.Connection]:
    async with connected(broker) as connection:
        yield connection


class Listener:
    """Counts what comes on a channel."""

    def __init__(self, db: asyncpg.Connection) -> None:
        self._db = db
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, channel: str) -> None:
        await self._db.add_listener(channel, lambda *found: self.heard.put_nowait(str(found[2])))

    async def wait(self) -> str:
        async with asyncio.timeout(30):
            return await self.heard.get()


async def send(client: RawClient, topic: SomeTopic, partition: int = 0) -> None:
    assert (await client.produce(topic, batch(values(b"x")), partition)).error_code == ErrorCode.NONE


async def test_a_channel_is_notified_when_records_have_come(client: RawClient, db: asyncpg.Connection) -> None:
    topic, silent = await client.create_topic(partitions=3), await client.create_topic()
    listener = Listener(db)
    channel = await db.fetchval("SELECT kafka.notify_on($1)", topic.name)
    assert channel == await db.fetchval("SELECT kafka.channel($1)", topic.name)
    await listener.listen(channel)
    await listener.listen(await db.fetchval("SELECT kafka.channel($1)", silent.name))
    assert await listener.wait() == channel, "the broker has learnt of it, and something may have come before"
    for partition in (2, 0, 1, 2):
        await send(client, silent)
        await send(client, topic, partition)
        assert await listener.wait() == channel
    await db.execute("SELECT kafka.notify_on($1, false)", topic.name)
    marker = await client.create_topic()
    other = await db.fetchval("SELECT kafka.notify_on($1)", marker.name)
    await listener.listen(other)
    # When the broker has followed the second change it has followed the first.
    while await listener.wait() != other:
        pass
    await send(client, topic)
    await send(client, marker)
    assert await listener.wait() == other


async def test_it_goes_on_with_another_broker(start_broker: Callable[..., RunningBroker]) -> None:
    first = start_broker()
    async with await RawClient.connect(first) as client, connected(first) as db:
        topic = await client.create_topic()
        channel = await db.fetchval("SELECT kafka.notify_on($1)", topic.name)
    first.process.terminate()
    first.process.wait(30)
    second = start_broker()
    async with await RawClient.connect(second) as client, connected(second) as db:
        listener = Listener(db)
        await listener.listen(channel)
        await send(client, topic)
        assert await listener.wait() == channel


async def test_mistakes_have_their_sqlstate(db: asyncpg.Connection) -> None:
    for call, sqlstate in (
        ("kafka.notify_on('no-such-topic')", "KF001"),
        ("kafka.channel('no-such-topic')", "KF001"),
        ("kafka.notify_on(NULL)", "22004"),
    ):
        with pytest.raises(asyncpg.PostgresError) as raised:
            await db.execute(f"SELECT {call}")
        assert raised.value.sqlstate == sqlstate


async def test_a_deleted_topic_is_forgotten(client: RawClient, db: asyncpg.Connection) -> None:
    topic = await client.create_topic()
    await db.execute("SELECT kafka.notify_on($1)", topic.name)
    number = await db.fetchval("SELECT id FROM kafka.topics WHERE name = $1", topic.name)
    await client.delete_topic(topic)
    again = await client.create_topic()
    await db.execute("SELECT kafka.notify_on($1)", again.name)
    async with asyncio.timeout(30):
        while await db.fetchval("SELECT count(*) FROM kafka.topic_notifications WHERE topic_id = $1", number):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
