"""Connection mechanics over real sockets: order, bounds, refusals. The handlers and the log are stand-ins."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from cryptography.x509.oid import NameOID
from tests.broker import tls_files

from pg_kafka.broker import server as server_module
from pg_kafka.broker import tls
from pg_kafka.broker.api import Api, advertised
from pg_kafka.broker.budget import RESERVE_BYTES
from pg_kafka.broker.context import Broker, Context, LogDir
from pg_kafka.broker.decoding import Decoding
from pg_kafka.broker.doors import House
from pg_kafka.broker.handlers import api_versions
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.server import Server
from pg_kafka.certs import Made
from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.config.listeners import Endpoints
from pg_kafka.config.settings import Settings
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData

PRODUCE, FIND_COORDINATOR, API_VERSIONS, CREATE_TOPICS = 0, 10, 18, 19


class Handlers:
    """Stand-ins whose answers the tests hold back."""

    def __init__(self) -> None:
        self.produced: list[tuple[ProduceRequest, Reply]] = []
        self.find: Callable[[Context, FindCoordinatorRequest], Awaitable[FindCoordinatorResponse]] = self.find_at_once
        self.found: list[str] = []
        self.arrived = asyncio.Event()

    def produce(self, ctx: Context, request: ProduceRequest, reply: Reply) -> None:
        self.produced.append((request, reply))
        self.arrived.set()

    async def find_coordinator(self, ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        self.found.append(request.key)
        self.arrived.set()
        return await self.find(ctx, request)

    async def find_at_once(self, ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        return FindCoordinatorResponse(node_id=7, host=request.key, port=ctx.connection.local[1])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - it is about other sockets' effects
                await asyncio.sleep(0.005)


# What the tests speak: nothing, or TLS by these files.
_tls: Made | None = None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return tls_files.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True, params=["plain", "TLS"])
def spoken(request: pytest.FixtureRequest, certificates: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is run without and with TLS between client and broker."""
    monkeypatch.setattr(sys.modules[__name__], "_tls", certificates if request.param == "TLS" else None)


def listening() -> dict[str, Any]:
    if _tls is None:
        return {"listen": Address("127.0.0.1", 0)}
    return {"listeners": Endpoints.parse("SSL://127.0.0.1:0"), "ssl_keystore_location": str(_tls.broker)}


@asynccontextmanager
async def serving(handlers: Handlers, **settings: Any) -> AsyncIterator[tuple[Server, Any]]:
    config = Config(**listening(), **settings)
    log = SimpleNamespace(backlog=SimpleNamespace(bytes=0))
    rows = [
        Api(
            key=PRODUCE,
            name="Produce",
            min_version=3,
            max_version=13,
            handler=handlers.produce,
            access=(),
            advertised_min=0,
            is_hot=True,
            adds_to_log=True,
            is_pipelined=True,
        ),
        Api(
            key=FIND_COORDINATOR,
            name="FindCoordinator",
            min_version=0,
            max_version=6,
            handler=handlers.find_coordinator,
            access=(),
        ),
        Api(
            key=API_VERSIONS,
            name="ApiVersions",
            min_version=0,
            max_version=4,
            handler=api_versions.api_versions,
            access=(),
            failure=api_versions.failure,
            unsupported=api_versions.unsupported_version,
        ),
    ]
    nothing = cast(Any, None)
    broker = Broker(
        settings=Settings(config),
        node_id=7,
        epoch=1,
        cluster_id="cluster",
        records=nothing,
        fetch_sessions=nothing,
        versions=advertised(rows),
        clock=Clock(),
        decoding=Decoding(2**20),
        log_dir=LogDir("here", lambda: None),
    )
    house = House(topics=nothing, log=nothing, groups=nothing, transactions=nothing, on_change=nothing)
    server = Server(broker, {row.key: row for row in rows}, house, lambda: log.backlog.bytes)
    await server.start()
    try:
        yield server, log
    finally:
        await server.stop(0.2)


class Peer:
    """A client that sends what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, request: Any, key: int, version: int, correlation_id: int = 1) -> None:
        self.send_frame(frame_of(request, key, version, correlation_id))

    def send_frame(self, frame: bytes) -> None:
        self.writer.write(struct.pack(">i", len(frame)) + frame)

    async def receive_frame(self) -> bytes:
        async with asyncio.timeout(5):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            return await self.reader.readexactly(size)

    async def receive(self, key: int, version: int) -> tuple[int, Any]:
        frame = await self.receive_frame()
        correlation_id, offset = decode_response_header(frame, key, version)
        return correlation_id, codec.decode_response(key, version, frame, offset)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


def frame_of(request: Any, key: int, version: int, correlation_id: int = 1) -> bytes:
    header = encode_request_header(RequestHeader(key, version, correlation_id, "test"))
    return header + b"".join(bytes(part) for part in codec.encode_request(request, key, version))


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Peer]:
    context = None if _tls is None else tls_files.client_context(_tls.ca)
    reader, writer = await asyncio.open_connection(*server.address, ssl=context)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        if _tls is not None:
            writer.transport.abort()  # the broker may not read the end of TLS, as it does not read now
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


def batch(size: int = 10) -> ProduceRequest:
    return ProduceRequest(
        acks=-1,
        timeout_ms=1000,
        topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=bytes(size))])],
    )


async def test_answers_keep_the_order_of_the_requests() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        for correlation_id in (1, 2, 3):
            peer.send(batch(), PRODUCE, 9, correlation_id)
        await handlers.until(lambda: len(handlers.produced) == 3)
        for _, reply in reversed(handlers.produced):
            reply.send(ProduceResponse())
        assert [(await peer.receive(PRODUCE, 9))[0] for _ in range(3)] == [1, 2, 3]


async def test_request_after_a_produce_starts_before_its_answer_but_is_answered_after_it() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9, 1)
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3, 2)
        await handlers.until(lambda: handlers.found == ["g"])
        handlers.produced[0][1].send(ProduceResponse())
        assert (await peer.receive(PRODUCE, 9))[0] == 1
        correlation_id, answer = await peer.receive(FIND_COORDINATOR, 3)
        assert (correlation_id, answer.host) == (2, "g")


async def test_other_requests_wait_for_the_answer_before_them() -> None:
    handlers = Handlers()
    gate = asyncio.Event()

    async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        await gate.wait()
        return FindCoordinatorResponse()

    handlers.find = find
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(FindCoordinatorRequest(key="a"), FIND_COORDINATOR, 3, 1)
        peer.send(FindCoordinatorRequest(key="b"), FIND_COORDINATOR, 3, 2)
        await handlers.until(lambda: handlers.found == ["a"])
        await asyncio.sleep(0.02)
        assert handlers.found == ["a"]
        gate.set()
        assert [(await peer.receive(FIND_COORDINATOR, 3))[0] for _ in range(2)] == [1, 2]


async def test_no_answer_at_all_for_a_reply_of_none() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9, 1)
        await handlers.until(lambda: len(handlers.produced) == 1)
        handlers.produced[0][1].send(None)
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3, 2)
        assert (await peer.receive(FIND_COORDINATOR, 3))[0] == 2
        assert server.request_bytes == 0


async def test_second_reply_is_a_programming_error() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9)
        await handlers.until(lambda: len(handlers.produced) == 1)
        handlers.produced[0][1].send(ProduceResponse())
        with pytest.raises(RuntimeError):
            handlers.produced[0][1].send(ProduceResponse())


async def test_lost_connection_abandons_its_replies() -> None:
    handlers = Handlers()
    abandoned = []
    async with serving(handlers) as (server, _):
        async with connected(server) as peer:
            peer.send(batch(), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            reply = handlers.produced[0][1]
            reply.on_abandon = lambda: abandoned.append(reply)
        await handlers.until(lambda: server.connection_count == 0)
        assert abandoned == [reply]
        assert reply.is_abandoned
        reply.send(ProduceResponse())
        assert server.request_bytes == 0


@pytest.mark.parametrize("version", [5, 99, 32767])
async def test_unsupported_version_of_api_versions_is_answered_in_version_0(version: int) -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send_frame(struct.pack(">hhih", API_VERSIONS, version, 5, 4) + b"test" + b"\x00\x05hello")
        correlation_id, answer = await peer.receive(API_VERSIONS, 0)
        assert (correlation_id, answer.error_code) == (5, ErrorCode.UNSUPPORTED_VERSION)
        served = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}
        assert served == {PRODUCE: (0, 13), FIND_COORDINATOR: (0, 6), API_VERSIONS: (0, 4)}
        peer.send(ApiVersionsRequest(client_software_name="a", client_software_version="1"), API_VERSIONS, 4)
        assert (await peer.receive(API_VERSIONS, 4))[1].error_code == ErrorCode.NONE


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "a/b", "a\n"])
async def test_software_name_that_is_not_allowed_is_refused(name: str) -> None:
    async with serving(Handlers()) as (server, _), connected(server) as peer:
        peer.send(ApiVersionsRequest(client_software_name=name, client_software_version="1"), API_VERSIONS, 3)
        assert (await peer.receive(API_VERSIONS, 3))[1].error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x00\x12\x00\x00\x00\x00\x00",
        struct.pack(">hhih", PRODUCE, 2, 1, 0) + b"\xff\xff\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00",
        struct.pack(">hhih", FIND_COORDINATOR, 99, 1, 0),
        struct.pack(">hhih", FIND_COORDINATOR, -1, 1, 0),
        struct.pack(">hhih", 999, 0, 1, 0),
        struct.pack(">hhih", -5, 0, 1, 0),
        struct.pack(">hhih", FIND_COORDINATOR, 0, 1, 0) + b"\x7f\xff",
    ],
)
async def test_frame_that_cannot_be_understood_closes_the_connection(frame: bytes) -> None:
    async with serving(Handlers()) as (server, _), connected(server) as peer:
        peer.send_frame(frame)
        assert await peer.is_closed()


@pytest.mark.parametrize(
    ("key", "version", "reason"),
    [
        (63, 1, "API BrokerHeartbeat (key 63), version 1, is not served"),
        (999, 0, "API unknown (key 999), version 0, is not served"),
        (FIND_COORDINATOR, 99, "version 99 of FindCoordinator is not served"),
    ],
)
async def test_what_is_not_served_closes_the_connection_and_is_told_once(
    key: int, version: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was asked for, and who asked: the client's own names, cut short."""
    caplog.set_level("INFO")
    async with serving(Handlers()) as (server, _):
        for name in (b"x" * 1000, b"another"):
            async with connected(server) as peer:
                software = ApiVersionsRequest(client_software_name="some-client", client_software_version="1.2")
                peer.send(software, API_VERSIONS, 3, 1)
                await peer.receive(API_VERSIONS, 3)
                peer.send_frame(struct.pack(">hhih", key, version, 1, len(name)) + name + b"\0")
                assert await peer.is_closed()
    (told,) = (record for record in caplog.records if record.getMessage() == "connection closed")
    assert told.levelname == "WARNING"
    assert vars(told)["reason"] == reason
    assert vars(told)["client_id"] == "x" * 200
    assert vars(told)["client_software"] == "some-client 1.2"


async def test_client_that_has_not_said_what_it_is_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Handlers()) as (server, _), connected(server) as peer:
        peer.send_frame(struct.pack(">hhih", 63, 0, 1, -1) + b"\0")
        assert await peer.is_closed()
    assert (vars(caplog.records[-1])["client_id"], vars(caplog.records[-1])["client_software"]) == ("", "unknown")


@pytest.mark.parametrize("start", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n"])
async def test_size_out_of_bounds_closes_the_connection(start: bytes) -> None:
    async with serving(Handlers()) as (server, _), connected(server) as peer:
        peer.writer.write(start)
        assert await peer.is_closed()


async def test_requests_before_a_malformed_one_are_still_answered() -> None:
    async with serving(Handlers()) as (server, _), connected(server) as peer:
        peer.send(ApiVersionsRequest(), API_VERSIONS, 0, 1)
        assert (await peer.receive(API_VERSIONS, 0))[0] == 1
        peer.send_frame(b"junk")
        assert await peer.is_closed()


async def test_failure_without_a_form_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()

    async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        raise ZeroDivisionError

    handlers.find = find
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
        assert await peer.is_closed()
    assert any(record.exc_info for record in caplog.records)


async def test_handler_without_an_answer_closes_the_connection() -> None:
    handlers = Handlers()

    async def find(ctx: Context, request: FindCoordinatorRequest) -> Any:
        return None

    handlers.find = find
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
        assert await peer.is_closed()


async def test_reply_that_cannot_be_encoded_closes_the_connection() -> None:
    handlers = Handlers()

    async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        return FindCoordinatorResponse(port=2**40)

    handlers.find = find
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
        assert await peer.is_closed()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError(), ErrorCode.UNKNOWN_SERVER_ERROR),
        (StorageError(True, ErrorCode.KAFKA_STORAGE_ERROR, "gone"), ErrorCode.KAFKA_STORAGE_ERROR),
    ],
)
async def test_failure_is_answered_in_the_form_of_the_api(error: Exception, code: int) -> None:
    from pg_kafka.broker.handlers.topics import create_topics_failure

    async def create(ctx: Context, request: CreateTopicsRequest) -> Any:
        raise error

    async with serving(Handlers()) as (server, _), connected(server) as peer:
        row = Api(
            key=CREATE_TOPICS,
            name="CreateTopics",
            min_version=2,
            max_version=7,
            handler=create,
            access=(),
            failure=create_topics_failure,
        )
        server._shared.apis[CREATE_TOPICS] = row
        peer.send(CreateTopicsRequest(topics=[CreatableTopic(name="a")]), CREATE_TOPICS, 7)
        topic = (await peer.receive(CREATE_TOPICS, 7))[1].topics[0]
        assert (topic.name, topic.error_code, topic.topic_id) == ("a", code, UUID(int=0))


@pytest.mark.parametrize("spoken", ["plain"], indirect=True)  # with TLS, they are closed before it begins
async def test_connections_above_the_limits_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    for setting in ("max_connections", "max_connections_per_ip"):
        async with serving(Handlers(), **{setting: 1}) as (server, _):
            async with connected(server) as first, connected(server) as second:
                assert await second.is_closed()
                first.send(ApiVersionsRequest(), API_VERSIONS, 0)
                await first.receive(API_VERSIONS, 0)
            handlers = Handlers()
            await handlers.until(lambda server=server: server.connection_count == 0)  # type: ignore[misc]
            async with connected(server) as third:
                third.send(ApiVersionsRequest(), API_VERSIONS, 0)
                await third.receive(API_VERSIONS, 0)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [vars(record)["reason"] for record in warnings] == [
        "more than max.connections = 1",
        "more than max.connections.per.ip = 1",
    ]


@pytest.mark.parametrize("spoken", ["plain"], indirect=True)
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"by_listener": {"listener.name.plaintext.max.connections": 1}},
            "more than max.connections = 1 of listener PLAINTEXT",
        ),
        (
            {"max_connections_per_ip_overrides": "::1:0,127.0.0.1:1"},
            "more than max.connections.per.ip.overrides = 1 for this address",
        ),
        ({"max_connections_per_ip_overrides": "127.0.0.1:9,::1:0", "max_connections_per_ip": 1}, None),
        ({"by_listener": {"listener.name.other.max.connections": 1}}, None),
    ],
)
async def test_limits_of_one_listener_and_of_one_address(
    settings: dict[str, Any], reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Handlers(), **settings) as (server, _), connected(server), connected(server) as second:
        if reason is None:
            second.send(ApiVersionsRequest(), API_VERSIONS, 0)
            await second.receive(API_VERSIONS, 0)
        else:
            assert await second.is_closed()
    found = [vars(record)["reason"] for record in caplog.records if record.levelname == "WARNING"]
    assert found == [reason] * (reason is not None)


@pytest.mark.parametrize("spoken", ["plain"], indirect=True)
async def test_limit_of_connections_holds_as_soon_as_it_is_changed() -> None:
    async with serving(Handlers()) as (server, _):
        settings = server._broker.settings
        async with connected(server) as first:
            first.send(ApiVersionsRequest(), API_VERSIONS, 0)
            await first.receive(API_VERSIONS, 0)
            settings.renew(replace(settings.current, max_connections=1))
            async with connected(server) as second:
                assert await second.is_closed()


async def test_idle_connection_is_closed_and_one_that_waits_for_its_answer_is_not() -> None:
    handlers = Handlers()
    # Long enough that a busy machine does not take the one for idle before its request is here.
    async with serving(handlers, connections_max_idle_ms=1000) as (server, _):
        async with connected(server) as waiting, connected(server) as idle:
            waiting.send(batch(), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            assert await idle.is_closed()
            await asyncio.sleep(1.2)
            handlers.produced[0][1].send(ProduceResponse())
            await waiting.receive(PRODUCE, 9)


async def test_half_sent_frame_counts_as_idle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(Handlers(), connections_max_idle_ms=100) as (server, _), connected(server) as peer:
        peer.writer.write(b"\x00\x00\x10\x00half")
        assert await peer.is_closed()
    assert any("connections.max.idle.ms = 100" in vars(record).get("reason", "") for record in caplog.records)


async def test_reaching_the_budget_is_told(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    size = 4 * RESERVE_BYTES
    async with serving(handlers, queued_max_request_bytes=size) as (server, _), connected(server) as first:
        async with connected(server) as second:
            first.send(batch(2 * size), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            second.send(batch(2 * size), PRODUCE, 9)
            await handlers.until(lambda: bool(caplog.records))
    assert caplog.records[0].getMessage() == "connections wait for memory"
    assert vars(caplog.records[0])["limit"] == f"queued.max.request.bytes = {size}"


async def test_connection_that_is_not_read_is_told_who_looks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pg_kafka")
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        for number in range(3):
            peer.send(batch(8 * 2**20), PRODUCE, 9, number)
        await handlers.until(lambda: any(record.getMessage() == "connection waits" for record in caplog.records))
        peer.writer.transport.abort()  # what is not read is not to be waited for


async def test_large_requests_wait_while_the_budget_is_used_up_and_small_ones_pass() -> None:
    handlers = Handlers()
    size = 4 * RESERVE_BYTES
    async with serving(handlers, queued_max_request_bytes=size) as (server, _):
        async with connected(server) as first, connected(server) as second, connected(server) as small:
            first.send(batch(2 * size), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            second.send(batch(2 * size), PRODUCE, 9)
            await asyncio.sleep(0.1)
            assert len(handlers.produced) == 1
            small.send(batch(100), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 2)
            handlers.produced[0][1].send(ProduceResponse())
            handlers.produced[1][1].send(ProduceResponse())
            await handlers.until(lambda: len(handlers.produced) == 3)
            handlers.produced[2][1].send(ProduceResponse())
            await first.receive(PRODUCE, 9)
            await second.receive(PRODUCE, 9)
            await handlers.until(lambda: server.request_bytes == 0)


async def test_stalled_half_sent_frames_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALLED_FRAME_S", 0.05)
    monkeypatch.setattr(server_module, "BUDGET_CHECK_S", 0.02)
    handlers = Handlers()
    budget = 8 * RESERVE_BYTES
    async with serving(handlers, queued_max_request_bytes=budget) as (server, _):
        async with connected(server) as stalled, connected(server) as good:
            stalled.writer.write(struct.pack(">i", 100 * budget) + bytes(2 * budget))
            await handlers.until(lambda: server.request_bytes > budget)
            good.send(batch(2 * RESERVE_BYTES), PRODUCE, 9)
            await handlers.until(lambda: len(handlers.produced) == 1)
            assert await stalled.is_closed()


async def test_only_produce_waits_while_the_log_has_too_much_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BUDGET_CHECK_S", 0.02)
    handlers = Handlers()
    async with serving(handlers, queued_max_request_bytes=1000) as (server, log):
        async with connected(server) as producer, connected(server) as other:
            log.backlog.bytes = 2000
            other.send(FindCoordinatorRequest(key="before"), FIND_COORDINATOR, 3)
            await other.receive(FIND_COORDINATOR, 3)
            producer.send(ApiVersionsRequest(), API_VERSIONS, 0)
            producer.send(batch(), PRODUCE, 9)
            await producer.receive(API_VERSIONS, 0)
            for number in range(3):
                other.send(FindCoordinatorRequest(key=str(number)), FIND_COORDINATOR, 3)
                await other.receive(FIND_COORDINATOR, 3)
            assert handlers.found == ["before", "0", "1", "2"]
            assert not handlers.produced
            log.backlog.bytes = 0
            await handlers.until(lambda: len(handlers.produced) == 1)


async def test_peer_that_does_not_read_gets_nothing_more_started(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:

        async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
            return FindCoordinatorResponse(error_message="x" * 30_000)

        handlers.find = find
        count = 2000
        for number in range(count):
            peer.send(FindCoordinatorRequest(key=str(number)), FIND_COORDINATOR, 3, number)
        async with asyncio.timeout(10):
            before = -1
            while before != len(handlers.found):
                before = len(handlers.found)
                await asyncio.sleep(0.2)
        assert len(handlers.found) < count
        for number in range(count):
            assert (await peer.receive(FIND_COORDINATOR, 3))[0] == number


async def test_flood_of_pipelined_requests_is_bounded() -> None:
    handlers = Handlers()
    limit = Config().connection_unanswered_requests
    async with serving(handlers) as (server, _), connected(server) as peer:
        for number in range(3 * limit):
            peer.send(batch(), PRODUCE, 9, number)
        await handlers.until(lambda: len(handlers.produced) == limit)
        await asyncio.sleep(0.05)
        assert len(handlers.produced) == limit
        for number in range(3 * limit):
            await handlers.until(lambda number=number: len(handlers.produced) > number)  # type: ignore[misc]
            handlers.produced[number][1].send(ProduceResponse())
            assert (await peer.receive(PRODUCE, 9))[0] == number


async def test_requests_of_two_connections_take_turns() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as greedy, connected(server) as modest:
        for number in range(100):
            greedy.send(batch(), PRODUCE, 9, number)
        modest.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3, 1)
        await modest.receive(FIND_COORDINATOR, 3)
        await handlers.until(lambda: len(handlers.produced) == 100)


async def test_stop_finishes_what_is_in_progress_and_accepts_nothing_new() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer, connected(server) as idle:
        peer.send(batch(), PRODUCE, 9)
        await handlers.until(lambda: len(handlers.produced) == 1)
        address = server.address
        stopping = asyncio.create_task(server.stop(5))
        assert await idle.is_closed()
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)
        handlers.produced[0][1].send(ProduceResponse())
        assert (await peer.receive(PRODUCE, 9))[0] == 1
        assert await peer.is_closed()
        await stopping


async def test_stop_ends_long_polls_at_once() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9)
        await handlers.until(lambda: len(handlers.produced) == 1)
        handlers.produced[0][1].on_abandon = lambda: None
        async with asyncio.timeout(2):
            await server.stop(30)


async def test_stop_cuts_at_its_deadline() -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9)
        await handlers.until(lambda: len(handlers.produced) == 1)
        await server.stop(0.05)
        assert await peer.is_closed()


async def test_stop_at_once_tells_of_requests_and_of_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    handlers = Handlers()
    async with serving(handlers) as (server, _), connected(server):
        await handlers.until(lambda: server.connection_count == 1)
        await server.stop(0)
    assert not caplog.records
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.send(batch(), PRODUCE, 9)
        await handlers.until(lambda: len(handlers.produced) == 1)
        await server.stop(0)
    assert [(record.getMessage(), vars(record)["connections"]) for record in caplog.records] == [
        ("requests in progress cut off", 1)
    ]


async def test_port_that_is_taken_is_one_sentence() -> None:
    async with serving(Handlers()) as (server, _):
        host, port = server.address
        broker = server._broker
        broker.settings = Settings(Config(listen=Address(host, port)))
        with pytest.raises(FatalError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use$"):
            await Server(broker, {}, server._shared.house, lambda: 0).start()


async def test_what_peers_cause_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(Handlers()) as (server, _):
        for size in range(100):
            async with connected(server) as peer:
                peer.writer.write(struct.pack(">i", -1 - size))
                assert await peer.is_closed()
    closings = [record for record in caplog.records if record.getMessage() == "connection closed"]
    assert len(closings) <= 2


@pytest.mark.parametrize(
    ("shows", "rules", "principal"),
    [
        (None, "DEFAULT", "User:ANONYMOUS"),
        ("Sales, Europe", "DEFAULT", "User:CN=alice,OU=Sales\\, Europe"),
        ("Sales", "RULE:^CN=([^,]+),OU=.*$/$1/U,DEFAULT", "User:ALICE"),
        ("Sales", "RULE:^CN=bob$/bob/", None),
    ],
)
@pytest.mark.parametrize("spoken", ["TLS"], indirect=True)
async def test_the_certificate_says_who_the_client_is(
    shows: str | None, rules: str, principal: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _tls is not None
    handlers, found = Handlers(), []

    async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        found.append(ctx.connection.principal)
        return FindCoordinatorResponse()

    handlers.find = find
    client = None
    if shows is not None:
        subject = tls_files.named((NameOID.ORGANIZATIONAL_UNIT_NAME, shows), (NameOID.COMMON_NAME, "alice"))
        client = tls_files.signed(_tls, tmp_path / "client.pem", subject)
    settings = {"ssl_truststore_location": str(_tls.ca), "ssl_client_auth": "requested"}
    async with serving(handlers, **settings, ssl_principal_mapping_rules=rules) as (server, _):
        context = tls_files.client_context(_tls.ca, client)
        reader, writer = await asyncio.open_connection(*server.address, ssl=context)
        peer = Peer(reader, writer)
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
        if principal is None:
            assert await peer.is_closed()
            reasons = [vars(record)["reason"] for record in caplog.records if record.levelname == "WARNING"]
            assert reasons == ["no rule of ssl.principal.mapping.rules fits the client's certificate"]
        else:
            await peer.receive(FIND_COORDINATOR, 3)
            assert found == [principal]
        writer.transport.abort()


@pytest.mark.parametrize("spoken", ["TLS"], indirect=True)
async def test_a_peer_without_a_handshake_counts_and_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.2)
    async with serving(Handlers(), max_connections=1) as (server, _):
        reader, writer = await asyncio.open_connection(*server.address)
        await Handlers().until(lambda: server.connection_count == 1)
        second, second_writer = await asyncio.open_connection(*server.address)
        assert await Peer(second, second_writer).is_closed()
        assert await Peer(reader, writer).is_closed()
        writer.close()
        second_writer.close()


@pytest.mark.parametrize("spoken", ["TLS"], indirect=True)
async def test_what_is_not_read_is_not_enciphered() -> None:
    """A large answer costs its plain bytes once, and what the socket takes soon; it arrives as it was."""
    handlers = Handlers()
    host = "h" * 20_000_000

    async def find(ctx: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
        return FindCoordinatorResponse(error_message=host)

    handlers.find = find
    async with serving(handlers) as (server, _), connected(server) as peer:
        peer.writer.transport.pause_reading()
        peer.send(FindCoordinatorRequest(key="g"), FIND_COORDINATOR, 3)
        [connection] = server._connections
        transport = cast(Any, connection._transport)
        await handlers.until(lambda: transport._pending_bytes > 0)
        raw = transport._raw.get_write_buffer_size()
        assert raw <= tls.RAW_HIGH_BYTES + 2 * tls.JOIN_BYTES
        peer.writer.transport.resume_reading()
        _, answer = await peer.receive(FIND_COORDINATOR, 3)
        assert answer.error_message == host
