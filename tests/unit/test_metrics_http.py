"""The HTTP server of metrics and health, and clients that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping

import pytest
import uvloop

from pg_kafka.broker.metrics.health import Health
from pg_kafka.broker.metrics.http import LIMITS, HttpServer, Limits, Page

LARGE = b"x" * 20_000_000  # more than sockets take


class Served:
    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ended(self) -> None:
        """Returns when the server has no connection any more."""
        await asyncio.wait(self.server.tasks)

    async def send(self, sent: bytes) -> bytes:
        """All that is answered until the server closes, or until this client has told that nothing follows."""
        reader, writer = await self.connect()
        writer.write(sent)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[Served]:
    async def metrics(headers: Mapping[str, str]) -> Page:
        return Page(200, headers.get("accept", "none").encode())

    async def large(_headers: Mapping[str, str]) -> Page:
        return Page(200, LARGE)

    async def broken(_headers: Mapping[str, str]) -> Page:
        raise ValueError("secret detail")

    async def endless(_headers: Mapping[str, str]) -> Page:
        await asyncio.Event().wait()
        raise AssertionError

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    pages = {"/metrics": metrics, "/large": large, "/broken": broken, "/endless": endless}
    server = HttpServer(pages, limits)
    await server.start([listening])
    try:
        yield Served(server, listening.getsockname()[1])
    finally:
        await server.stop()


async def test_page_is_answered_with_its_length() -> None:
    async with serving() as served:
        answer = await served.send(b"GET /metrics?name=x HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"Content-Length: 10" in head
    assert body == b"text/plain"


async def test_head_is_answered_without_the_page() -> None:
    async with serving() as served:
        answer = await served.send(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Content-Length: 4" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_connection_is_kept_for_the_next_request() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"none")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_client_that_does_not_wait_for_answers_gets_one() -> None:
    async with serving() as served:
        answer = await served.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in answer


async def test_connection_of_an_old_client_is_closed() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = await reader.read()  # to its end, without an end of ours
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"none")


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"/metrics"),
        (b"GET /metrics/../etc HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"nothing here"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, b"only GET and HEAD"),
        (b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405, b"Allow: GET, HEAD"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413, b"body"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 413, b"body"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431, b""),
        (b"GET /" + b"a" * 100_000, 431, b""),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, b"Host"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, b""),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b""),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, b""),  # TLS
        (b"\x00\x00\x00\x14\x00\x12\x00\x03\x00\x00\x00\x01\x00\x04kcat\x00", 400, b""),  # Kafka
        (b"GET /\xff\xfe\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, b""),
        (b"\r\n" * 10_000, 400, b""),
    ],
)
async def test_what_is_not_wanted_is_refused_and_the_server_goes_on(
    request_: bytes, status: int, sentence: bytes
) -> None:
    async with serving() as served:
        answer = await served.send(request_)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert sentence in answer
        assert (await served.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_failure_is_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        answer = await served.send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret detail" not in answer
    assert [record.message for record in caplog.records] == ["metrics cannot be served"]


async def test_page_that_takes_too_long_is_given_up() -> None:
    async with serving(Limits(deadline_s=0.05)) as served:
        answer = await served.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"])
async def test_request_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    async with serving(Limits(deadline_s=0.05)) as served:
        reader, writer = await served.connect()
        writer.write(begun)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_request_that_drips_has_one_deadline() -> None:
    async with serving(Limits(deadline_s=0.2)) as served:
        reader, writer = await served.connect()
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):  # ten seconds
                writer.write(b"G")
                await asyncio.sleep(0.01)
                if reader.at_eof():
                    break
        assert reader.at_eof() or writer.transport.is_closing()
        writer.close()


async def test_idle_connection_is_closed() -> None:
    async with serving(Limits(idle_s=0.05)) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.read()).count(b"HTTP/1.1") == 1
        writer.close()


async def test_answer_that_nobody_takes_is_given_up() -> None:
    async with serving(Limits(deadline_s=0.2)) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await served.ended()
        writer.transport.abort()


async def test_new_client_gets_the_place_of_the_one_that_is_quiet_the_longest() -> None:
    async with serving(Limits(connections=3)) as served:
        opened = [await served.connect() for _ in range(3)]
        for reader, writer in opened[1:]:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert (await served.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionResetError):
            assert await opened[0][0].read() == b""
        for _, writer in opened:
            writer.close()


async def test_flood_of_connections_stays_within_the_bound() -> None:
    async with serving(Limits(connections=4)) as served:
        opened = await asyncio.gather(*(served.connect() for _ in range(60)))
        assert (await served.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert len(served.server.tasks) <= 4
        for _, writer in opened:
            writer.transport.abort()


async def flood(port: int, sent: bytes) -> None:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await reader.read(1)
        writer.transport.abort()


def test_flood_of_bad_clients_leaves_no_error_behind(caplog: pytest.LogCaptureFixture) -> None:
    """On the event loop that the broker has: it raises where a connection was cut that somebody still uses."""

    async def attack() -> None:
        async with serving(Limits(connections=4, deadline_s=0.5)) as served:
            junk = (b"G", b"GET", b"\x16\x03\x01", b"x" * 70_000, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
            await asyncio.wait_for(asyncio.gather(*(flood(served.port, sent) for sent in junk * 60)), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(attack())
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_ready_is_who_leads_or_waits_usefully() -> None:
    health = Health()
    assert not health.answer().is_ready
    health.waiting("db1:9092 leads", is_useful=True)
    assert health.answer() == (True, "waiting: db1:9092 leads")
    health.waiting("nobody knows where", is_useful=False)
    assert not health.answer().is_ready
    doubts: list[str] = []
    health.leading("serving", lambda: doubts[0] if doubts else None)
    assert health.answer() == (True, "leading: serving")
    doubts.append("PostgreSQL is gone")
    assert health.answer() == (False, "leading: PostgreSQL is gone")


def test_nothing_follows_the_end() -> None:
    health = Health()
    health.stopping()
    health.leading("serving", lambda: None)
    assert health.answer() == (False, "stopping")
