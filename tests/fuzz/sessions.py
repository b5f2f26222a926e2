"""What real clients say to a broker: each of them works through a proxy that keeps the frames of every connection.

The broker must tell clients the proxy's address. Recordings are made anew for each run: they hold ids that only the
broker they were made with knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiokafka
import aiokafka.admin
import confluent_kafka
import confluent_kafka.admin
from tests.clients.kcat_client import kcat
from tests.kafka_reference import HOST

from pg_kafka.wire.frames import FrameSplitter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its schemas in an old way
    import kafka
    import kafka.admin
    import kafka.structs

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
RECORDS = 5
MAX_FRAME_BYTES = 1 << 24
CLIENT_TIMEOUT_S = 60
SESSION_TIMEOUT_MS = 6000
_PIECE = 65_536


@dataclass
class Session:
    """What one connection of a client sent."""

    client: str
    frames: list[bytes] = field(default_factory=list)


class RecordingProxy:
    """Listens on 127.0.0.1 and leads to the broker; keeps what clients send while `client` names one."""

    def __init__(self) -> None:
        self.port = 0
        self.client: str | None = None
        self.sessions: list[Session] = []
        self.upstream = (HOST, 0)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        session = None
        if self.client is not None:
            session = Session(self.client)
            self.sessions.append(session)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.upstream, limit=_PIECE)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer, session))
                group.create_task(self._pump(server_reader, writer, None))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            server_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: Session | None) -> None:
        splitter = FrameSplitter(MAX_FRAME_BYTES)
        while data := await reader.read(_PIECE):
            if session is not None and session.client == self.client:
                session.frames += map(bytes, splitter.feed(data))
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # ends the other direction as well


# ---- what the clients do


@dataclass(frozen=True)
class Names:
    """The topics and groups of the recordings."""

    topic: str = "fuzz-topic"
    other_topic: str = "fuzz-other"
    group: str = "fuzz-group"


NAMES = Names()


async def record(proxy: RecordingProxy) -> list[Session]:
    """Have all clients do what they can."""
    bootstrap = f"{HOST}:{proxy.port}"
    for client, work in CLIENTS.items():
        proxy.client = client
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            if asyncio.iscoroutinefunction(work):
                await work(bootstrap)
            else:
                await asyncio.to_thread(work, bootstrap)
    proxy.client = None
    found = [session for session in proxy.sessions if session.frames]
    missing = set(CLIENTS) - {session.client for session in found}
    assert not missing, f"no connection of {missing} was recorded"
    return found


def _confluent_settings(bootstrap: str, **more: Any) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None} | more


def _wait(futures: dict[Any, Any]) -> None:
    """Of an administrator's call; what the broker refuses is a recording too."""
    for future in futures.values():
        with contextlib.suppress(confluent_kafka.KafkaException):
            future.result(20)


def confluent_admin(bootstrap: str) -> None:
    kinds = confluent_kafka.admin
    admin = kinds.AdminClient(_confluent_settings(bootstrap))
    configs = {"max.message.bytes": "200000"}
    _wait(admin.create_topics([kinds.NewTopic(name, 3, config=configs) for name in (NAMES.topic, NAMES.other_topic)]))
    _wait(admin.create_topics([kinds.NewTopic(NAMES.topic, -1), kinds.NewTopic("fuzz bad/name", 1)]))
    _wait(admin.create_partitions([kinds.NewPartitions(NAMES.topic, 4)]))
    _wait(admin.describe_configs([kinds.ConfigResource(kinds.ResourceType.TOPIC, NAMES.topic)]))
    _wait({0: admin.describe_cluster(), 1: admin.list_consumer_groups()})
    admin.list_topics(timeout=20)
    place = confluent_kafka.TopicPartition(NAMES.topic, 0)
    for spec in (kinds.OffsetSpec.earliest(), kinds.OffsetSpec.latest(), kinds.OffsetSpec.max_timestamp()):
        _wait(admin.list_offsets({place: spec}))
    _wait(admin.delete_topics([NAMES.other_topic]))


def confluent_producer(bootstrap: str) -> None:
    for number, codec in enumerate(CODECS):
        settings = {"compression.type": codec, "enable.idempotence": number % 2 == 0, "acks": ("all", "1")[number % 2]}
        producer = confluent_kafka.Producer(_confluent_settings(bootstrap, **settings))
        for record in range(RECORDS):
            headers = [("kind", b"fuzz"), ("none", None)]
            producer.produce(NAMES.topic, b"value" * 30, f"key-{record}".encode(), headers=headers)
        assert producer.flush(20) == 0
    unheard = confluent_kafka.Producer(_confluent_settings(bootstrap, acks="0"))
    unheard.produce(NAMES.topic, b"nobody answers")
    assert unheard.flush(20) == 0


def confluent_consumer(bootstrap: str) -> None:
    """On its own, and as a member of a group of either protocol."""
    settings = _confluent_settings(bootstrap, **{"group.id": NAMES.group, "auto.offset.reset": "earliest"})
    alone = confluent_kafka.Consumer(settings)
    alone.assign([confluent_kafka.TopicPartition(NAMES.topic, index, 0) for index in range(3)])
    _read(alone)
    for protocol in ("classic", "consumer"):
        group = {"group.id": f"{NAMES.group}-{protocol}", "group.protocol": protocol, "enable.auto.commit": False}
        if protocol == "classic":
            group |= {"session.timeout.ms": SESSION_TIMEOUT_MS, "partition.assignment.strategy": "cooperative-sticky"}
        members = [confluent_kafka.Consumer(settings | group) for _ in range(2)]
        for member in members:
            member.subscribe([NAMES.topic])
        for member in members:
            _read(member)
        for member in members:
            with contextlib.suppress(confluent_kafka.KafkaException):
                member.commit(asynchronous=False)
                member.committed([confluent_kafka.TopicPartition(NAMES.topic, 0)], timeout=10)
            member.close()


def _read(consumer: confluent_kafka.Consumer) -> None:
    consumer.consume(RECORDS, timeout=4)


def confluent_groups_admin(bootstrap: str) -> None:
    kinds = confluent_kafka.admin
    admin = kinds.AdminClient(_confluent_settings(bootstrap))
    groups = [f"{NAMES.group}-classic", f"{NAMES.group}-consumer", NAMES.group]
    _wait({0: admin.list_consumer_groups()})
    _wait(admin.describe_consumer_groups(groups))
    _wait(admin.list_consumer_group_offsets([confluent_kafka.ConsumerGroupTopicPartitions(groups[0])]))
    place = confluent_kafka.TopicPartition(NAMES.topic, 0, 1)
    _wait(admin.alter_consumer_group_offsets([confluent_kafka.ConsumerGroupTopicPartitions(groups[0], [place])]))
    resource = kinds.ConfigResource(kinds.ResourceType.GROUP, groups[1])
    resource.add_incremental_config(
        kinds.ConfigEntry("consumer.session.timeout.ms", "45000", incremental_operation=kinds.AlterConfigOpType.SET)
    )
    _wait(admin.incremental_alter_configs([resource]))
    _wait(admin.delete_consumer_groups(groups[:2]))


async def aiokafka_clients(bootstrap: str) -> None:
    admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([aiokafka.admin.NewTopic("fuzz-aiokafka", 2, 1)])
    await admin.describe_cluster()
    for codec in CODECS:
        compression = None if codec == "none" else codec
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=compression, enable_idempotence=codec == "gzip"
        )
        await producer.start()
        for number in range(RECORDS):
            await producer.send(NAMES.topic, b"aiokafka" * 20, b"key", partition=number % 2, headers=[("h", b"v")])
        await producer.stop()
    consumer = aiokafka.AIOKafkaConsumer(
        NAMES.topic,
        bootstrap_servers=bootstrap,
        group_id=f"{NAMES.group}-aiokafka",
        auto_offset_reset="earliest",
        session_timeout_ms=SESSION_TIMEOUT_MS,
    )
    await consumer.start()
    await consumer.getmany(timeout_ms=3000)
    await consumer.commit()
    await consumer.end_offsets([aiokafka.TopicPartition(NAMES.topic, 0)])
    await consumer.stop()
    await admin.describe_consumer_groups([f"{NAMES.group}-aiokafka"])
    await admin.list_consumer_groups()
    await admin.delete_topics(["fuzz-aiokafka"])
    await admin.close()


def kafka_python_clients(bootstrap: str) -> None:
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([kafka.admin.NewTopic("fuzz-kafka-python", 2, 1)])
    admin.describe_cluster()
    admin.describe_topics([NAMES.topic])
    for codec in CODECS:
        compression = None if codec == "none" else codec
        producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, compression_type=compression)
        for _ in range(RECORDS):
            producer.send(NAMES.topic, b"kafka-python" * 20, b"key", headers=[("h", b"v")])
        producer.close(timeout=20)
    consumer = kafka.KafkaConsumer(
        NAMES.topic,
        bootstrap_servers=bootstrap,
        group_id=f"{NAMES.group}-kafka-python",
        session_timeout_ms=SESSION_TIMEOUT_MS,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )
    for _ in zip(range(RECORDS), consumer, strict=False):
        pass
    consumer.commit()
    consumer.offsets_for_times({kafka.TopicPartition(NAMES.topic, 0): 1})
    consumer.close()
    admin.delete_topics(["fuzz-kafka-python"])
    admin.close()


def kcat_runs(bootstrap: str) -> None:
    kcat("-L", "-b", bootstrap)
    for codec in CODECS:
        kcat("-P", "-b", bootstrap, "-t", NAMES.topic, "-z", codec, "-H", "h=v", stdin=b"one\ntwo\nthree\n")
    kcat("-C", "-b", bootstrap, "-t", NAMES.topic, "-p", "0", "-o", "beginning", "-c", "1", "-e")
    kcat("-Q", "-b", bootstrap, "-t", f"{NAMES.topic}:0:1")
    session = f"session.timeout.ms={SESSION_TIMEOUT_MS}"
    group = ("-X", session, "-X", "auto.offset.reset=earliest", "-G", f"{NAMES.group}-kcat", NAMES.topic)
    kcat("-b", bootstrap, "-c", str(RECORDS), *group)


# In this order: the first one makes the topic.
CLIENTS: dict[str, Callable[[str], Any]] = {
    "confluent-kafka, admin": confluent_admin,
    "confluent-kafka, producer": confluent_producer,
    "confluent-kafka, consumer": confluent_consumer,
    "aiokafka": aiokafka_clients,
    "kafka-python": kafka_python_clients,
    "kcat": kcat_runs,
    "confluent-kafka, groups": confluent_groups_admin,
}
