"""Consumers of several libraries commit by kafka.commit_offsets(), and what they do is done once whoever takes over."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import asyncpg
import confluent_kafka
import kafka
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import LIBRARIES, Group, Process
from tests.clients.records import numbered
from tests.kafka_reference import ToolMissing

pytestmark = pytest.mark.timeout(240)

RECORDS = 20
WAIT_S = 60.0
COMMIT = "SELECT kafka.commit_offsets($1, $2, $3, $4, 0, $5)"


class Consumer(Protocol):
    """A consumer of one library, on one topic."""

    def read(self) -> list[tuple[int, bytes]]:
        """Offsets and values of what has come."""

    def who(self) -> tuple[str, int]:
        """Member id and generation, as the library tells them."""

    def leave(self) -> None: ...


class Confluent:
    """librdkafka hands out the generation with its metadata of the group: CGMDv2:, a number, group, NUL, member, NUL."""

    def __init__(self, bootstrap: str, group: str, topic: str, protocol: str = "classic") -> None:
        settings = {"bootstrap.servers": bootstrap, "group.id": group, "group.protocol": protocol, "log_level": 0}
        settings |= {"enable.auto.commit": "false", "auto.offset.reset": "earliest"}
        self._consumer = confluent_kafka.Consumer(settings)
        self._consumer.subscribe([topic])

    def read(self) -> list[tuple[int, bytes]]:
        message = self._consumer.poll(0.1)
        if message is None or message.error() is not None:
            return []
        return [(message.offset(), message.value())]

    def who(self) -> tuple[str, int]:
        metadata = self._consumer.consumer_group_metadata()
        head = b"CGMDv2:"
        assert metadata.startswith(head)
        (generation,) = struct.unpack_from("=i", metadata, len(head))
        return self._consumer.memberid(), generation

    def leave(self) -> None:
        self._consumer.close()


class ConfluentNew(Confluent):
    """The same in the consumer protocol (KIP-848)."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        super().__init__(bootstrap, group, topic, "consumer")


class KafkaPython:
    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer = kafka.KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=1,
        )

    def read(self) -> list[tuple[int, bytes]]:
        found = self._consumer.poll(timeout_ms=100)
        return [(record.offset, record.value) for records in found.values() for record in records]

    def who(self) -> tuple[str, int]:
        metadata = self._consumer.group_metadata()
        return metadata.member_id, metadata.generation_id

    def leave(self) -> None:
        self._consumer.close(autocommit=False)


@contextmanager
def consuming(make: Callable[[str, str, str], Consumer], *where: str) -> Iterator[Consumer]:
    consumer = make(*where)
    try:
        yield consumer
    finally:
        with suppress(RuntimeError, AssertionError):
            consumer.leave()


async def some(consumer: Consumer, count: int) -> list[tuple[int, bytes]]:
    """So many records."""
    found: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += await asyncio.to_thread(consumer.read)
    return found


async def handle(
    db: asyncpg.Connection, who: tuple[str, int], group: str, topic: str, records: list[tuple[int, bytes]]
) -> None:
    """What an application does with records, in the transaction that is open: its own table, and the offset."""
    await db.executemany("INSERT INTO handled VALUES ($1, $2)", [(group, value) for _, value in records])
    await db.execute(COMMIT, group, *who, topic, records[-1][0] + 1)


@pytest.mark.parametrize("library", [Confluent, ConfluentNew, KafkaPython])
async def test_each_record_is_handled_once_when_another_consumer_takes_over(
    group_broker: Broker, confluent: Client, new_topic: Callable[..., str], library: Any
) -> None:
    bootstrap, topic = group_broker.bootstrap, new_topic(1)
    confluent.produce(bootstrap, topic, numbered(RECORDS))
    group = f"once-{topic}"
    db, late = await asyncpg.connect(group_broker.dsn()), await asyncpg.connect(group_broker.dsn())
    try:
        await db.execute("CREATE TABLE IF NOT EXISTS handled (consumer_group text, value bytea)")
        with consuming(library, bootstrap, group, topic) as former:
            records = await some(former, 5)
            async with db.transaction():
                await handle(db, former.who(), group, topic, records)
            records = await some(former, 5)
            who = former.who()
            under_way = late.transaction()
            await under_way.start()
            await handle(late, who, group, topic, records)
            await asyncio.to_thread(former.leave)
        with consuming(library, bootstrap, group, topic) as new:
            # It is the owner in a moment, and is not told where to begin.
            first = asyncio.create_task(some(new, 1))
            members = "SELECT count(*) FROM kafka.group_members WHERE group_id = $1 AND member_id <> $2"
            while not await db.fetchval(members, group, who[0]):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
            await under_way.commit()
            records = await first
            assert records[0][0] == 10
            with pytest.raises(asyncpg.PostgresError) as raised:
                async with late.transaction():
                    await handle(late, who, group, topic, [(19, b"what a zombie does")])
            assert raised.value.sqlstate == "KF012"
            records += await some(new, RECORDS - 10 - len(records))
            async with db.transaction():
                await handle(db, new.who(), group, topic, records)
        handled = await db.fetch("SELECT value FROM handled WHERE consumer_group = $1", group)
        values = sorted(row["value"] for row in handled)
        assert values == sorted(record.value for record in numbered(RECORDS))
    finally:
        late.terminate()
        db.terminate()


@pytest.mark.parametrize("library", ["java", "java-consumer"])
async def test_java_s_group_metadata_names_the_member(
    group_broker: Broker, confluent: Client, new_topic: Callable[..., str], library: str
) -> None:
    topic = new_topic(1)
    confluent.produce(group_broker.bootstrap, topic, numbered(RECORDS))
    group = Group(group_broker.bootstrap, f"of-{topic}", topic)
    try:
        process = Process("java")
    except ToolMissing as missing:
        unavailable(missing)
        raise
    db = await asyncpg.connect(group_broker.dsn())
    try:
        member = group.join("a", process, LIBRARIES[library], "range" if library == "java" else "uniform")
        await asyncio.to_thread(group.wait, "commit", lambda: group.commits(0)[-1:] == [RECORDS])
        (*_, last) = (event for event in group.events if event.what == "records")
        await db.execute(COMMIT, group.id, last.member_id, last.generation, topic, 5)
        with pytest.raises(asyncpg.PostgresError, match="may not commit"):
            await db.execute(COMMIT, group.id, last.member_id, (last.generation or 0) + 1, topic, 6)
        await asyncio.to_thread(group.leave, member)
        with consuming(Confluent, group_broker.bootstrap, group.id, topic) as next_one:
            assert (await some(next_one, 1))[0][0] == 5
    finally:
        db.terminate()
        process.kill()
