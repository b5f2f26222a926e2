"""Every limit in the table of docs/operations.md acts, and the log says so with the name of the setting."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cramjam
import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.rawclient import FETCH, RawClient, answered, fetching, patched, producing
from tests.broker.rawclient import batch as records
from tests.broker.test_connection import FIND_COORDINATOR, PRODUCE, Handlers, Peer, batch, connected, serving

from pg_kafka.broker import server as server_module
from pg_kafka.broker.budget import RESERVE_BYTES
from pg_kafka.config import Config
from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.topics import TOPIC_KEYS
from pg_kafka.security.quotas import OF_ADDRESSES
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
MIB = 2**20


@dataclass(frozen=True)
class Limit:
    """A row of the table."""

    what: str
    settings: tuple[str, ...]
    line: str
    level: str


def limits() -> dict[str, Limit]:
    section = PAGE.read_text().split("## Limits\n")[1].split("\n## ")[0]
    found = {}
    for row in re.findall(r"^\| (?!what |---)(.+) \|$", section, re.MULTILINE):
        what, settings, _, line, level = (cell.strip() for cell in row.split("|"))
        found[what] = Limit(what, tuple(re.findall(r"`([^`]+)`", settings)), line.strip("`"), level)
    return found


LIMITS = limits()
Act = Callable[[pytest.MonkeyPatch], Awaitable[None]]
# In the order of the table. What acts with a whole broker is below.
ACTS: dict[str, Act] = {}


def acts(what: str) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        ACTS[what] = act
        return act

    return register


@asynccontextmanager
async def peer(handlers: Handlers | None = None, **settings: Any) -> AsyncIterator[Peer]:
    async with serving(handlers or Handlers(), **settings) as (server, _), connected(server) as one:
        try:
            yield one
        finally:
            one.writer.transport.abort()  # what is not read is not to be waited for


def flood(one: Peer, count: int, size: int = 10) -> None:
    for number in range(count):
        one.send(batch(size), PRODUCE, 9, number)


@acts("one request")
async def large_frame(_: pytest.MonkeyPatch) -> None:
    async with peer(socket_request_max_bytes=100) as one:
        one.writer.write(struct.pack(">i", 101))
        assert await one.is_closed()


@acts("connections")
async def many_connections(_: pytest.MonkeyPatch) -> None:
    async with serving(Handlers(), max_connections=1) as (server, _log), connected(server), connected(server) as second:
        assert await second.is_closed()


@acts("connections from one address")
async def many_connections_of_one(_: pytest.MonkeyPatch) -> None:
    async with serving(Handlers(), max_connections_per_ip=1) as (server, _log), connected(server):
        async with connected(server) as second:
            assert await second.is_closed()


@acts("time without traffic, half-sent requests too")
async def silence(_: pytest.MonkeyPatch) -> None:
    async with peer(connections_max_idle_ms=50) as one:
        one.writer.write(b"\0\0")
        assert await one.is_closed()


@acts("bytes of requests in memory, of all connections")
async def budget_used_up(_: pytest.MonkeyPatch) -> None:
    handlers = Handlers()
    size = 4 * RESERVE_BYTES
    async with serving(handlers, queued_max_request_bytes=size) as (server, _log), connected(server) as first:
        async with connected(server) as second:
            first.send(batch(2 * size), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            second.send(batch(2 * size), PRODUCE, 9)
            await handlers.until(lambda: server._budget.is_wanted)


@acts("bytes that wait to be written, decompressed, without large batches")
async def backlog(_: pytest.MonkeyPatch) -> None:
    async with serving(Handlers(), queued_max_request_bytes=1000) as (server, log), connected(server) as one:
        log.backlog.bytes = 1001
        one.send(batch(), PRODUCE, 9)
        async with asyncio.timeout(5):
            while not server._budget.is_wanted:  # noqa: ASYNC110 - it is about another socket's effect
                await asyncio.sleep(0.005)
        log.backlog.bytes = 0


@acts(
    "half-sent requests, and requests of clients that wait for a quota, that hold more than half of it for ten seconds,"
    " when it is used up"
)
async def stalled_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALLED_FRAME_S", 0.05)
    monkeypatch.setattr(server_module, "BUDGET_CHECK_S", 0.02)
    handlers = Handlers()
    size = 8 * RESERVE_BYTES
    async with serving(handlers, queued_max_request_bytes=size) as (server, _log), connected(server) as stalled:
        async with connected(server) as good:
            stalled.writer.write(struct.pack(">i", 100 * size) + bytes(2 * size))
            await handlers.until(lambda: server.request_bytes > size)
            good.send(batch(2 * RESERVE_BYTES), PRODUCE, 9)
            assert await stalled.is_closed()


@acts("bytes of requests of one connection")
async def large_requests(_: pytest.MonkeyPatch) -> None:
    handlers = Handlers()
    async with peer(handlers, connection_request_bytes=MIB) as one:
        flood(one, 20, MIB // 2)
        await handlers.until(lambda: len(handlers.produced) >= 2)
        await asyncio.sleep(0.05)
        assert len(handlers.produced) < 6


@acts("requests of one connection that wait for their turn")
async def many_requests(_: pytest.MonkeyPatch) -> None:
    handlers = Handlers()
    gate = asyncio.Event()

    async def find(_ctx: object, _request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        await gate.wait()
        return FindCoordinatorResponse()

    handlers.find = find
    async with peer(handlers, connection_queued_requests=3) as one:
        for number in range(20):
            one.send(FindCoordinatorRequest(key=str(number)), FIND_COORDINATOR, 3, number)
        await handlers.until(lambda: handlers.found == ["0"])
        gate.set()
        for number in range(20):
            assert (await one.receive(FIND_COORDINATOR, 3))[0] == number


@acts("requests of one connection that are started and not answered")
async def unanswered_requests(_: pytest.MonkeyPatch) -> None:
    handlers = Handlers()
    async with peer(handlers, connection_unanswered_requests=3) as one:
        flood(one, 10)
        await handlers.until(lambda: len(handlers.produced) == 3)
        await asyncio.sleep(0.05)
        assert len(handlers.produced) == 3


@acts("answers that a client does not read")
async def unread_answers(_: pytest.MonkeyPatch) -> None:
    handlers = Handlers()

    async def find(_ctx: object, _request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        return FindCoordinatorResponse(error_message="x" * 30_000)

    handlers.find = find
    async with peer(handlers, connection_unread_bytes=4096) as one:
        for number in range(2000):
            one.send(FindCoordinatorRequest(key=str(number)), FIND_COORDINATOR, 3, number)
        before = -1
        while before != len(handlers.found):
            before = len(handlers.found)
            await asyncio.sleep(0.2)
        assert before < 2000


WHOLE_BROKER = (
    "bytes that large batches become, decompressed, until they are written",
    "a batch as sent",
    "one batch when decompressed",
    "fetch sessions",
)
ORDINARY = ("an answer to a consumer",)
QUOTAS = ("new connections a second", "new connections a second from one address")  # test_quotas.py


def test_every_limit_is_tried() -> None:
    assert set(LIMITS) == {*ACTS, *WHOLE_BROKER, *ORDINARY, *QUOTAS}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_limit_has_a_setting_that_is_read(limit: Limit) -> None:
    assert limit.settings
    assert set(limit.settings) <= BROKER_KEYS.keys() | TOPIC_KEYS.keys() | OF_ADDRESSES.keys()


@pytest.mark.parametrize("what", ACTS)
async def test_limit_acts_and_says_so(
    what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = LIMITS[what]
    caplog.set_level(logging.DEBUG, "pg_kafka")
    await ACTS[what](monkeypatch)
    lines = [
        record
        for record in caplog.records
        if record.getMessage() == limit.line
        and any(limit.settings[0] in str(vars(record).get(name)) for name in ("reason", "limit"))
    ]
    assert lines, [(record.getMessage(), vars(record)) for record in caplog.records]
    assert {record.levelname.lower() for record in lines} == {limit.level}


async def test_limits_of_batches_and_sessions_act_and_say_so(start_broker: Callable[..., RunningBroker]) -> None:
    broker = start_broker(
        LOG_LEVEL="info",
        MESSAGE_MAX_BYTES="5000000",
        DECOMPRESSED_BATCH_BYTES=str(MIB),
        DECODING_BYTES=str(MIB),
        MAX_INCREMENTAL_FETCH_SESSION_CACHE_SLOTS="0",
    )
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic()
        narrow = await client.create_topic(max_message_bytes="1000")
        answer = await client.produce(narrow, records([bytes(2000)]))
        assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
        body = zlib.compressobj(9, zlib.DEFLATED, 31)
        squeezed = body.compress(bytes(2 * MIB)) + body.flush()
        head = records([b"x"])[:61]
        bomb = patched(patched(head + squeezed, 8, struct.pack(">i", 49 + len(squeezed))), 21, struct.pack(">h", 1))
        answer = await client.produce(topic, bomb)
        assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert "pg_kafka.decompressed_batch_bytes" in answer.error_message
        assert (await client.produce(topic, records([bytes(MIB // 2)]))).error_code == 0
        squeezed = cramjam.zstd.compress(records([random.randbytes(MIB // 4)])[61:])
        large = patched(patched(head + bytes(squeezed), 8, struct.pack(">i", 49 + len(squeezed))), 21, b"\0\4")
        pair = await client.create_topic(2)
        response = await client.call(producing(pair, {0: large, 1: large}), PRODUCE, 9)
        assert [one.error_code for one in answered(response).values()] == [0, 0]
        session = await client.call(fetching(topic, {0: 0}, session=(0, 0)), FETCH, 12)
        assert session.session_id == 0
        assert answered(session)[0].error_code == 0
    written = broker.log.read_text()
    for what in WHOLE_BROKER:
        limit = LIMITS[what]
        lines = [line for line in written.splitlines() if f'"{limit.line}"' in line and f"level={limit.level}" in line]
        assert any(f"{limit.settings[-1]})" in line or f"{limit.settings[-1]} =" in line for line in lines), lines


def test_defaults_are_what_one_client_may_take() -> None:
    """One connection may not take the whole budget of all."""
    config = Config()
    assert config.connection_request_bytes * 4 <= config.request_budget_bytes
    assert config.connection_unread_bytes < config.connection_request_bytes
