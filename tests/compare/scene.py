"""What a case does its asking with: one connection to one of the two brokers, and topics of its own on it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from tests.broker.rawclient import CREATE_TOPICS, LIST_OFFSETS, PRODUCE, RawClient, SomeTopic, producing

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire import codec
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.message import Message
from pg_kafka.wire.messages import API_SCHEMAS
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic

CLOSED, SILENT = "closed", "silent"
# How long a broker that has nothing to say is listened to.
SILENCE_S = 0.4
# How long until an answer counts as one that never comes, and how long Kafka may take to make a topic.
ANSWER_S = 5.0
READY_S = 30.0
API_VERSIONS = 18


class Address(Protocol):
    host: str
    port: int


@dataclass
class Side:
    """One of the two brokers, and what the cases have made there."""

    name: str
    address: Address
    topics: dict[str, SomeTopic] = field(default_factory=dict)

    @property
    def names(self) -> Mapping[UUID, str]:
        return {topic.id: topic.name for topic in self.topics.values()}


@dataclass
class Scene:
    """One case in one version on one broker."""

    side: Side
    case: str
    api_key: int
    version: int
    client: RawClient

    async def topic(self, label: str = "t", partitions: int = 1, **configs: str) -> SomeTopic:
        """A topic of this case, made when its first version asks; dots in configs are written as underscores."""
        name = f"{self.case}-{label}"
        if name not in self.side.topics:
            entries = [CreatableTopicConfig(name=key.replace("_", "."), value=text) for key, text in configs.items()]
            wanted = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, configs=entries)
            response = await self.client.call(CreateTopicsRequest(topics=[wanted]), CREATE_TOPICS, 7, READY_S)
            assert response.topics[0].error_code == 0, response
            await self.wait_until_led(name, partitions)
            self.side.topics[name] = SomeTopic(name, response.topics[0].topic_id)
        return self.side.topics[name]

    async def filled(self, records: bytes, label: str = "t", **configs: str) -> SomeTopic:
        """A topic of this case that has had this batch once."""
        is_new = f"{self.case}-{label}" not in self.side.topics
        topic = await self.topic(label, **configs)
        if is_new:
            response = await self.client.call(producing(topic, {0: records}), PRODUCE, 9)
            assert response.responses[0].partition_responses[0].error_code == 0, response
        return topic

    def fresh(self, label: str = "t") -> str:
        """A topic name of this case and version that no topic has yet."""
        return f"{self.case}-v{self.version}-{label}"

    async def wait_until_led(self, name: str, partitions: int = 1) -> None:
        """Apache Kafka answers before the partitions' leaders are ready."""
        asked = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(partitions)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=name, partitions=asked)])
        async with asyncio.timeout(READY_S):
            while True:
                response = await self.client.call(request, LIST_OFFSETS, 4)
                if not any(one.error_code for one in response.topics[0].partitions):
                    return
                await asyncio.sleep(0.01)  # nothing tells us that it is ready but asking

    async def until_gone(self, name: str) -> None:
        """Apache Kafka answers before the deletion has reached all of it."""
        wanted = [ListOffsetsPartition(partition_index=0, timestamp=-1)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=name, partitions=wanted)])
        async with asyncio.timeout(READY_S):
            while not (await self.client.call(request, LIST_OFFSETS, 4)).topics[0].partitions[0].error_code:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)

    async def ask(self, request: Message, version: int | None = None, api_key: int | None = None) -> Any:
        """The answer in the version of the scene, or that the connection was closed."""
        key = self.api_key if api_key is None else api_key
        try:
            return await self.client.call(request, key, self.version if version is None else version, ANSWER_S)
        except TimeoutError:
            return SILENT
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSED

    async def ask_until(self, is_ready: Callable[[Any], bool], request: Message, **more: Any) -> Any:
        """The first answer for which Kafka, which makes its internal topics only now, was ready."""
        async with asyncio.timeout(READY_S):
            while not is_ready(answer := await self.ask(request, **more)):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.05)
        return answer

    async def ask_unanswered(self, request: Message) -> Any:
        """What comes after a request with acks=0: silence when another request is answered next."""
        self.client.send(request, self.api_key, self.version)
        ping = self.client.send(codec.message_class(API_VERSIONS, "request")(), API_VERSIONS, 0)
        try:
            await self.client.receive(API_VERSIONS, 0, ping, ANSWER_S)
        except TimeoutError:
            return "nothing, for what comes after it either"
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSED
        return SILENT

    async def tell(self, data: bytes, read_as: tuple[int, int] | None = None) -> Any:
        """What a broker does with these bytes: closes, is silent, or answers (decoded in that API and version)."""
        self.client.writer.write(data)
        try:
            async with asyncio.timeout(SILENCE_S):
                (size,) = struct.unpack(">i", await self.client.reader.readexactly(4))
            frame = await self.client.reader.readexactly(size)
        except TimeoutError:
            return SILENT
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSED
        if read_as is None:
            return "answered"
        return codec.decode_response(*read_as, frame, decode_response_header(frame, *read_as)[1])

    async def tell_text(self, text: bytes, make: Callable[[str], Message]) -> Any:
        """The answer to a request with this text, which need not be UTF-8, where `make` puts what it is given."""
        stand_in = "@" * len(text)
        frame = self.frame(make(stand_in))
        assert stand_in.encode() in frame
        return await self.tell(sized(frame.replace(stand_in.encode(), text)), (self.api_key, self.version))

    def frame(self, message: Message | bytes = b"", *, key: int | None = None, version: int | None = None) -> bytes:
        """A request as bytes, header included, without its size."""
        key = self.api_key if key is None else key
        version = self.version if version is None else version
        body = message if isinstance(message, bytes) else b"".join(codec.encode_request(message, key, version))
        return encode_request_header(RequestHeader(key, version, 7, "raw")) + body


def sized(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame


Ask = Callable[[Scene], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    """Something to ask both brokers."""

    name: str
    api_key: int
    versions: tuple[int, ...]
    ask: Ask


CASES: dict[str, Case] = {}


def case(
    name: str, api_key: int, versions: tuple[int, ...] = (), *, since: int = 0, until: int = 99
) -> Callable[[Ask], Ask]:
    """Adds a case to the table; by default in every version in which a message of the API changes its shape."""

    def add(ask: Ask) -> Ask:
        assert name not in CASES, name
        chosen = versions or tuple(version for version in shapes(api_key) if since <= version <= until)
        CASES[name] = Case(name, api_key, chosen, ask)
        return ask

    return add


def shapes(api_key: int) -> tuple[int, ...]:
    """The lowest and the highest version that is served, and those in between that change a message."""
    api = APIS[api_key]
    found = {api.min_version, api.max_version, API_SCHEMAS[api_key].first_flexible}
    for kind in ("request", "response"):
        _collect(codec.message_class(api_key, kind), found)
    return tuple(sorted(version for version in found if api.min_version <= version <= api.max_version))


def _collect(message: type[Message], found: set[int]) -> None:
    for entry in message.FIELDS.values():
        found.add(entry.versions[0])
        found.add(entry.versions[1] + 1)
        if entry.nullable is not None:
            found.add(entry.nullable[0])
        if isinstance(entry.kind, type):
            _collect(entry.kind, found)
