"""Traps that other brokers fell into, tried on a whole broker: memory, peers that stall, secrets, lost sessions, idling.

The traps that a smaller test covers are in the table of docs/testing.md.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import cramjam
import psutil
import pytest
from tests.broker.conftest import RunningBroker, serving
from tests.broker.rawclient import FETCH, PRODUCE, RawClient, answered, batch, fetching, offsets_of, patched, producing

from pg_kafka.wire.compression import compress
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

MIB = 2**20


@contextmanager
def memory_grows_below(broker: RunningBroker, limit_bytes: int) -> Iterator[None]:
    """The broker's own peak, which the kernel keeps."""
    peak = Path(f"/proc/{broker.process.pid}/status")
    if not peak.exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    Path(f"/proc/{broker.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    before = psutil.Process(broker.process.pid).memory_info().rss
    yield
    found = re.search(r"VmHWM:\s+(\d+) kB", peak.read_text())
    assert found is not None
    grown = int(found[1]) * 1024 - before
    assert grown < limit_bytes, f"{grown / MIB:.0f} MiB more"


@asynccontextmanager
async def clients(broker: RunningBroker, count: int) -> AsyncIterator[list[RawClient]]:
    found = [await RawClient.connect(broker) for _ in range(count)]
    try:
        yield found
    finally:
        for client in found:
            client.writer.transport.abort()
            await client.close()


async def works(client: RawClient, within_s: float = 5) -> None:
    """A new topic takes a record and gives it back."""
    async with asyncio.timeout(within_s):
        topic = await client.create_topic()
        assert (await client.produce(topic, batch([b"a"]))).error_code == 0
        assert offsets_of(await client.fetch(topic, 0)) == [0]


async def test_half_sent_frames_of_many_connections_take_little_memory_and_hold_up_nobody(
    start_broker: Callable[..., RunningBroker],
) -> None:
    broker = start_broker(QUEUED_MAX_REQUEST_BYTES=str(16 * MIB))
    async with await RawClient.connect(broker) as good, clients(broker, 30) as stalling:
        await works(good)
        with memory_grows_below(broker, 80 * MIB):
            for client in stalling:
                client.writer.write(struct.pack(">i", 100_000_000) + bytes(8 * MIB))
            await asyncio.sleep(1)
            await works(good)
    assert "connections wait for memory" in broker.log.read_text()


async def test_peer_that_writes_byte_by_byte_costs_itself_only(broker: RunningBroker) -> None:
    async with await RawClient.connect(broker) as good, clients(broker, 20) as slow:
        frame = struct.pack(">ihhih", 14, 3, 1, 7, -1) + struct.pack(">i", 0)
        for position in range(4):
            for client in slow:
                client.writer.write(frame[position : position + 1])
            await works(good)
        for client in slow:
            client.writer.write(frame[4:])
            assert await client.reader.readexactly(4)


async def test_peers_that_do_not_read_take_little_memory_and_hold_up_nobody(broker: RunningBroker) -> None:
    async with await RawClient.connect(broker) as good, clients(broker, 10) as greedy:
        topic = await good.create_topic()
        assert (await good.produce(topic, batch([bytes(900_000)]))).error_code == 0
        with memory_grows_below(broker, 100 * MIB):
            for client in greedy:
                for _ in range(50):
                    client.send(fetching(topic, {0: 0}), FETCH, 12)
            await asyncio.sleep(0.5)
            await works(good)


def bomb(codec: int, size: int) -> bytes:
    """A batch of a record that is `size` zeros, sent in a thousandth of that."""
    zeros = bytes(size)
    body = {
        1: lambda: gzip.compress(zeros, 1),
        3: lambda: compress(3, zeros),
        4: lambda: bytes(cramjam.zstd.compress(zeros, 1)),
    }[codec]()
    head = batch([b"x"])[:61]
    return patched(patched(head + body, 8, struct.pack(">i", 49 + len(body))), 21, struct.pack(">h", codec))


@pytest.mark.parametrize("codec", [1, 3, 4])
async def test_decompression_bombs_are_too_large_and_take_bounded_memory(broker: RunningBroker, codec: int) -> None:
    records = bomb(codec, 200 * MIB)
    async with await RawClient.connect(broker) as good, clients(broker, 6) as hostile:
        topic = await good.create_topic(max_message_bytes="10000000")
        with memory_grows_below(broker, 300 * MIB):  # one is decoded at a time, up to 128 MiB
            asked = [client.send(producing(topic, {0: records}), PRODUCE, 9) for client in hostile]
            await works(good, within_s=20)
            for client, correlation_id in zip(hostile, asked, strict=True):
                answer = await client.receive(PRODUCE, 9, correlation_id, timeout_s=30)
                assert answered(answer)[0].error_code == ErrorCode.MESSAGE_TOO_LARGE


async def test_counts_within_counts_take_memory_of_what_was_sent(broker: RunningBroker) -> None:
    """Arrays in arrays, each of which claims as many elements as its bytes could hold."""
    topics = 20_000
    body = struct.pack(">hhiih", -1, -1, 1000, topics, 1) + b"t" + struct.pack(">i", 2**31 - 1)
    body += bytes(4 * topics)
    header = struct.pack(">hhih", 0, 3, 7, -1)
    async with await RawClient.connect(broker) as client, await RawClient.connect(broker) as good:
        with memory_grows_below(broker, 20 * MIB):
            client.writer.write(struct.pack(">i", len(header + body)) + header + body)
            assert await client.is_closed_by_peer()
        await works(good)


async def test_first_request_may_be_any(broker: RunningBroker) -> None:
    """Sarama asks for Metadata version 10 without asking for the versions."""
    async with await RawClient.connect(broker) as client:
        request = MetadataRequest(topics=[MetadataRequestTopic(name="a b")])
        assert (await client.call(request, 3, 10)).brokers[0].port == broker.port


async def test_password_of_the_database_is_in_no_log_line(postgres15: Any, tmp_path: Path) -> None:
    database = postgres15.create_database()
    try:
        dsn = postgres15.dsn(database.name, database.name, tcp=True)
        with serving(dsn, tmp_path, {"LOG_LEVEL": "debug"}) as broker:
            async with await RawClient.connect(broker) as client:
                await works(client)
                postgres15.sql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "
                    f"'{database.name}' AND application_name LIKE '%lane%'"
                )
                await eventually(lambda: works(client))
            written = broker.log.read_text()
        assert written
        assert postgres15.password not in written
        assert dsn not in written
    finally:
        postgres15.drop_database(database)


async def eventually(attempt: Callable[[], Any], within_s: float = 30) -> None:
    """Until it succeeds; the last failure is the test's."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            await attempt()
            return
        except (AssertionError, TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def test_no_background_task_ends_silently(
    start_broker: Callable[..., RunningBroker], pg_superuser_dsn: str
) -> None:
    """Whatever session is lost, what it did goes on: records, heartbeat, views."""
    broker = start_broker()
    admin = await asyncpg.connect(pg_superuser_dsn)
    kinds = await admin.fetch(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert len(kinds) >= 3
    for (kind,) in kinds:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = $1",
            kind,
        )

        async def goes_on() -> None:
            async with await RawClient.connect(broker) as client:
                await works(client)

        await eventually(goes_on)

    async def beats() -> None:
        seen = "SELECT max(seen_at) FROM kafka.brokers"
        before = await admin.fetchval(seen)
        await asyncio.sleep(1.5)
        assert await admin.fetchval(seen) > before

    async def has_views() -> None:
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
        async with asyncio.timeout(5):
            while not await admin.fetchval("SELECT count(*) FROM pg_views WHERE viewname = $1", topic.name):  # noqa: ASYNC110 - made by another process
                await asyncio.sleep(0.1)

    await eventually(beats)
    await eventually(has_views)
    assert broker.process.poll() is None
    await admin.close()


async def test_ids_have_64_bits_and_times_a_zone(broker: RunningBroker) -> None:
    admin = await asyncpg.connect(broker.dsn)
    narrow = await admin.fetch(
        """
        SELECT sequencename::text AS name FROM pg_sequences
        WHERE schemaname = 'kafka' AND data_type <> 'bigint'::regtype
          AND sequencename <> 'outbox_turn' -- the number of one of four tables
          AND sequencename <> 'lock_ids' -- halves of an advisory lock's number, which have 32 bits; it may start anew
        UNION ALL
        SELECT attrelid::regclass || '.' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'kafka'::regnamespace AND relkind IN ('r', 'p', 'v') AND attnum > 0 AND NOT attisdropped
          AND (atttypid = 'timestamp'::regtype OR atttypid <> 'bigint'::regtype AND attidentity <> '')
        """
    )
    assert narrow == []
    await admin.close()


async def test_broker_that_has_nothing_to_do_does_nothing(broker: RunningBroker) -> None:
    """Parked fetches wait for events; nothing looks every few milliseconds whether there is something."""
    async with clients(broker, 20) as parked:
        topic = await parked[0].create_topic()
        for client in parked:
            client.send(fetching(topic, {0: 0}, max_wait_ms=20_000), FETCH, 12)
        await asyncio.sleep(1)
        process = psutil.Process(broker.process.pid)
        before, switches = process.cpu_times(), process.num_ctx_switches().voluntary
        await asyncio.sleep(2)
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.2
        assert process.num_ctx_switches().voluntary - switches < 150
