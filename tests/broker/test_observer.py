"""Every request is told once to whoever looks on, with what it cost and how it ended."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.broker import samples
from tests.broker.inside import Inside, running
from tests.broker.rawclient import CREATE_TOPICS, FETCH, PRODUCE, RawClient, SomeTopic, batch, fetching, producing

from pg_kafka.app import Seams
from pg_kafka.broker.api import Api
from pg_kafka.broker.client import ANONYMOUS
from pg_kafka.broker.dispatch import APIS
from pg_kafka.broker.turns import ITEMS_AT_ONCE
from pg_kafka.metrics._requests import Timing
from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.first_error import first_error
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIND_COORDINATOR, API_VERSIONS = 10, 18
CLIENT = "watched"


@dataclass(frozen=True)
class Told:
    """What was told of a request."""

    key: int
    version: int
    client_id: str | None
    principal: str
    request_bytes: int
    response_bytes: int
    error_code: int


class Watcher:
    """Keeps what it is told of connections whose client is called so."""

    wants_requests = False

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.software: set[tuple[str, str]] = set()

    def on_answer(
        self,
        header: RequestHeader,
        who: Any,
        timing: Timing,
        request_bytes: int,
        response_bytes: int,
        error_code: int,
    ) -> None:
        assert timing.arrived_s <= timing.started_s <= timing.finished_s <= time.monotonic()
        assert type(error_code) is int
        if header.client_id == CLIENT:
            one = Told(
                header.api_key,
                header.api_version,
                header.client_id,
                who.principal,
                request_bytes,
                response_bytes,
                error_code,
            )
            self.told.append(one)
            self.software.add((who.client_software_name, who.client_software_version))

    async def until(self, count: int) -> list[Told]:
        async with asyncio.timeout(10):
            while len(self.told) < count:  # noqa: ASYNC110 - the broker is in this loop
                await asyncio.sleep(0)
        return self.told


class Client:
    """One connection that counts bytes."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(self.inside.host, self.inside.port, limit=2**24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, message: Any, key: int, version: int) -> int:
        """The number of bytes in the frame."""
        return self.send_body(b"".join(codec.encode_request(message, key, version)), key, version)

    def send_body(self, body: bytes, key: int, version: int) -> int:
        frame = encode_request_header(RequestHeader(key, version, 7, CLIENT)) + body
        self.writer.write(struct.pack(">i", len(frame)) + frame)
        return len(frame)

    async def receive(self, key: int, version: int) -> tuple[Any, int]:
        """The answer, and its bytes with the size in front."""
        async with asyncio.timeout(10):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            frame = await self.reader.readexactly(size)
        _, offset = decode_response_header(frame, key, version)
        return codec.decode_response(key, version, frame, offset), size + 4

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read(1) == b""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(postgres15: Any) -> AsyncIterator[tuple[Inside, Watcher]]:
    watcher = Watcher()
    async with running(postgres15, Seams(observer=watcher), group_initial_rebalance_delay_ms=0) as inside:
        yield inside, watcher


@pytest_asyncio.fixture(loop_scope="module")
async def watcher(broker: tuple[Inside, Watcher]) -> Watcher:
    """Who has been told nothing yet."""
    broker[1].told.clear()
    broker[1].software.clear()
    return broker[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def topic(broker: tuple[Inside, Watcher]) -> SomeTopic:
    async with await RawClient.connect(broker[0]) as client:
        return await client.create_topic()


@pytest_asyncio.fixture(loop_scope="module")
async def client(broker: tuple[Inside, Watcher]) -> AsyncIterator[Client]:
    async with Client(broker[0]) as client:
        yield client


def told(key: int, version: int, request_bytes: int, response_bytes: int, error_code: int = 0) -> Told:
    return Told(key, version, CLIENT, ANONYMOUS, request_bytes, response_bytes, int(error_code))


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
async def test_every_api_is_told_once(broker: Any, watcher: Watcher, client: Client, api: Api) -> None:
    async with await RawClient.connect(broker[0]) as other:
        scene = await samples.set_up(other)
    expected = []
    # The second time round many fail: topics are gone, groups exist.
    for when in [*dict.fromkeys(access.when for access in api.access), ""]:
        version = samples.version_of(api, when)
        sent = client.send(samples.of(api.name, when)(scene), api.key, version)
        answer, received = await client.receive(api.key, version)
        expected.append(told(api.key, version, sent, received, first_error(answer)))
    assert watcher.told == expected
    if api.key == API_VERSIONS:
        assert watcher.software == {("raw", "1")}


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
async def test_every_api_is_told_in_its_lowest_version(
    broker: Any, watcher: Watcher, client: Client, topic: SomeTopic, api: Api
) -> None:
    """With what stands there when nothing is said: an empty request."""
    sent = client.send(codec.message_class(api.key, "request")(), api.key, api.min_version)
    if api.key == PRODUCE:  # acks=0 has no answer
        assert await watcher.until(1) == [told(PRODUCE, api.min_version, sent, 0)]
        return
    if api.name == "DescribeAcls":  # a filter of unknown things closes the connection, as in Kafka
        code = int(ErrorCode.INVALID_REQUEST)
        assert await watcher.until(1) == [told(api.key, api.min_version, sent, 0, code)]
        return
    answer, received = await client.receive(api.key, api.min_version)
    assert watcher.told == [told(api.key, api.min_version, sent, received, first_error(answer))]


@pytest.mark.parametrize("version", [3, 8, 9, 12])
async def test_acknowledgement_that_is_encoded_natively(
    watcher: Watcher, client: Client, topic: SomeTopic, version: int
) -> None:
    sent = client.send(producing(topic, {0: batch()}), PRODUCE, version)
    _, received = await client.receive(PRODUCE, version)
    assert watcher.told == [told(PRODUCE, version, sent, received)]


async def test_produce_that_fails_tells_the_partitions_error(
    watcher: Watcher, client: Client, topic: SomeTopic
) -> None:
    sent = client.send(producing(topic, {0: batch(), 7: batch()}), PRODUCE, 9)
    _, received = await client.receive(PRODUCE, 9)
    assert watcher.told == [told(PRODUCE, 9, sent, received, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]


async def test_produce_without_an_answer(watcher: Watcher, client: Client, topic: SomeTopic) -> None:
    good = client.send(producing(topic, {0: batch()}, acks=0), PRODUCE, 9)
    assert await watcher.until(1) == [told(PRODUCE, 9, good, 0)]
    bad = client.send(producing(topic, {7: batch()}, acks=0), PRODUCE, 9)
    assert await client.is_closed()
    assert await watcher.until(2) == [
        told(PRODUCE, 9, good, 0),
        told(PRODUCE, 9, bad, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]


async def test_requests_that_are_sent_together_are_told_in_order(
    watcher: Watcher, client: Client, topic: SomeTopic
) -> None:
    expected = []
    for _ in range(20):
        expected.append((PRODUCE, client.send(producing(topic, {0: batch()}), PRODUCE, 9)))
        expected.append((FETCH, client.send(fetching(topic, {0: 0}), FETCH, 12)))
    sizes = [(await client.receive(key, 9 if key == PRODUCE else 12))[1] for key, _ in expected]
    assert watcher.told == [
        told(key, 9 if key == PRODUCE else 12, sent, received)
        for (key, sent), received in zip(expected, sizes, strict=True)
    ]


async def test_polls_that_come_again_are_told_each(watcher: Watcher, client: Client, topic: SomeTopic) -> None:
    client.send(fetching(topic, {0: 0}, session=(0, 0)), FETCH, 12)
    answer, _ = await client.receive(FETCH, 12)
    session_id, end = answer.session_id, answer.responses[0].partitions[0].high_watermark
    client.send(fetching(topic, {0: end}, session=(session_id, 1), max_wait_ms=10), FETCH, 12)
    await client.receive(FETCH, 12)
    watcher.told.clear()
    expected = []
    for epoch in range(2, 6):
        sent = client.send(fetching(topic, {}, session=(session_id, epoch), max_wait_ms=10), FETCH, 12)
        answer, received = await client.receive(FETCH, 12)
        assert answer.responses == ()
        expected.append(told(FETCH, 12, sent, received))
    assert watcher.told == expected


@pytest.mark.parametrize(
    ("offset", "partition", "code"),
    [
        (0, 0, ErrorCode.NONE),
        (10**9, 0, ErrorCode.OFFSET_OUT_OF_RANGE),
        (0, 7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
async def test_fetch_tells_its_partitions_error(
    watcher: Watcher, client: Client, topic: SomeTopic, offset: int, partition: int, code: ErrorCode
) -> None:
    sent = client.send(fetching(topic, {partition: offset}), FETCH, 12)
    _, received = await client.receive(FETCH, 12)
    assert watcher.told == [told(FETCH, 12, sent, received, code)]


async def test_connection_that_goes_before_the_answer(watcher: Watcher, client: Client, topic: SomeTopic) -> None:
    async with Client(client.inside) as goes:
        sent = goes.send(fetching(topic, {0: 10**6}, max_wait_ms=60_000, min_bytes=0), FETCH, 12)
        await goes.receive(FETCH, 12)
        watcher.told.clear()
        goes.send(producing(topic, {0: batch()}), PRODUCE, 9)
        answer, _ = await goes.receive(PRODUCE, 9)
        end = answer.responses[0].partition_responses[0].base_offset + 1
        watcher.told.clear()
        sent = goes.send(fetching(topic, {0: end}, max_wait_ms=60_000), FETCH, 12)
    assert await watcher.until(1) == [told(FETCH, 12, sent, 0, ErrorCode.NETWORK_EXCEPTION)]


async def test_versions_and_apis_that_are_not_served(watcher: Watcher, client: Client) -> None:
    for key, version in ((PRODUCE, 99), (FETCH, 0), (4, 0)):
        watcher.told.clear()
        async with Client(client.inside) as refused:
            sent = refused.send_body(b"", key, version)
            assert await refused.is_closed()
            assert await watcher.until(1) == [told(key, version, sent, 0, ErrorCode.UNSUPPORTED_VERSION)]


async def test_api_versions_of_the_future_is_told_in_the_form_that_is_answered(
    watcher: Watcher, client: Client
) -> None:
    sent = client.send_body(b"", API_VERSIONS, 99)
    _, received = await client.receive(API_VERSIONS, 0)
    assert watcher.told == [told(API_VERSIONS, 0, sent, received, ErrorCode.UNSUPPORTED_VERSION)]


async def test_request_that_cannot_be_read(watcher: Watcher, client: Client) -> None:
    sent = client.send_body(b"\xff", CREATE_TOPICS, 7)
    assert await client.is_closed()
    assert await watcher.until(1) == [told(CREATE_TOPICS, 7, sent, 0, ErrorCode.INVALID_REQUEST)]


async def test_large_request_and_answer(watcher: Watcher, client: Client) -> None:
    keys = [f"key-{number}" for number in range(ITEMS_AT_ONCE + 1)]
    sent = client.send(FindCoordinatorRequest(coordinator_keys=keys), FIND_COORDINATOR, 4)
    _, received = await client.receive(FIND_COORDINATOR, 4)
    assert watcher.told == [told(FIND_COORDINATOR, 4, sent, received)]


async def test_large_request_that_cannot_be_read(watcher: Watcher, client: Client) -> None:
    keys = [f"key-{number}" for number in range(ITEMS_AT_ONCE + 1)]
    body = b"".join(codec.encode_request(FindCoordinatorRequest(coordinator_keys=keys), FIND_COORDINATOR, 4))
    sent = client.send_body(body[:-4], FIND_COORDINATOR, 4)
    assert await client.is_closed()
    assert await watcher.until(1) == [told(FIND_COORDINATOR, 4, sent, 0, ErrorCode.INVALID_REQUEST)]


async def test_topic_that_cannot_be_made(watcher: Watcher, client: Client, topic: SomeTopic) -> None:

    request = CreateTopicsRequest(topics=[CreatableTopic(name=topic.name, num_partitions=1, replication_factor=1)])
    sent = client.send(request, CREATE_TOPICS, 7)
    _, received = await client.receive(CREATE_TOPICS, 7)
    assert watcher.told == [told(CREATE_TOPICS, 7, sent, received, ErrorCode.TOPIC_ALREADY_EXISTS)]
