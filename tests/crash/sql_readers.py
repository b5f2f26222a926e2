"""Consumers that read a whole topic while it is written: librdkafka and Java, a thread each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import closing

import confluent_kafka
from tests.clients.agents import JavaClient
from tests.clients.client import Client
from tests.clients.records import Record
from tests.crash.sql_account import PARTITIONS, Log, Note, note_of

CAUGHT_UP_S = 90.0
_LIBRDKAFKA = {
    "group.id": "unused",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 100,
    "socket.timeout.ms": 10_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "topic.metadata.refresh.interval.ms": 1000,
    "log_level": 0,
    "error_cb": lambda error: None,
}


class Reader(ABC):
    """Reads from offset 0 on until it is closed; `log` is what it has seen."""

    def __init__(self, name: str, bootstrap: str, topic: str) -> None:
        self.name = name
        self.log: dict[int, list[Record]] = {index: [] for index in range(PARTITIONS)}
        self.faults: list[str] = []
        self._bootstrap, self._topic = bootstrap, topic
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def has_seen(self, notes: Collection[Note], timeout_s: float = CAUGHT_UP_S) -> None:
        """Return when each of these is the last or one of the last that it has read of a partition."""
        left = set(notes)
        deadline = time.monotonic() + timeout_s
        while left:
            left -= {note_of(record) for records in self.log.values() for record in records[-500:]}
            if self.faults or (left and time.monotonic() > deadline):
                lengths = {partition: len(records) for partition, records in self.log.items()}
                raise TimeoutError(f"{self.name} has not seen {sorted(left)}, of {lengths} records; {self.faults}")
            await asyncio.sleep(0.01)

    def _run(self) -> None:
        try:
            for partition, record in self._records():
                self.log[partition].append(record)
        except Exception as error:
            self.faults.append(f"{self.name} failed: {error!r}")

    @abstractmethod
    def _records(self) -> Iterator[tuple[int, Record]]:
        """By partition, until it is to close."""


class LibrdkafkaReader(Reader):
    def __init__(self, bootstrap: str, topic: str, isolation: str) -> None:
        super().__init__(f"librdkafka, {isolation}", bootstrap, topic)
        self._isolation = isolation

    def _records(self) -> Iterator[tuple[int, Record]]:
        settings = {"bootstrap.servers": self._bootstrap, "isolation.level": self._isolation, **_LIBRDKAFKA}
        with closing(confluent_kafka.Consumer(settings)) as consumer:
            consumer.assign([confluent_kafka.TopicPartition(self._topic, index, 0) for index in self.log])
            while not self._closing.is_set():
                for message in consumer.consume(5000, 0.1):
                    error = message.error()
                    if error is None:
                        yield message.partition(), _record(message)
                    elif not error.retriable() and error.code() != confluent_kafka.KafkaError._ALL_BROKERS_DOWN:
                        self.faults.append(f"{self.name}: {error.str()}")


def _record(message: confluent_kafka.Message) -> Record:
    headers = tuple((key, value) for key, value in message.headers() or ())
    return Record(message.key(), message.value(), headers, message.timestamp()[1], message.offset())


class JavaReader(Reader):
    """A consumer for each partition, in one JVM; Java's default is read_uncommitted."""

    def __init__(self, bootstrap: str, topic: str, client: Client) -> None:
        super().__init__("java, read_uncommitted", bootstrap, topic)
        self._client = client

    def _records(self) -> Iterator[tuple[int, Record]]:
        with contextlib.ExitStack() as stack:
            consumers = [
                stack.enter_context(closing(self._client.consumer(self._bootstrap, self._topic, partition=index)))
                for index in self.log
            ]
            while not self._closing.is_set():
                for partition, consumer in enumerate(consumers):
                    for record in consumer.read(1, timeout_s=0.05):
                        yield partition, record


def read_whole(bootstrap: str, topic: str, isolation: str) -> Log:
    """What there is of the topic now."""
    log: dict[int, list[Record]] = {index: [] for index in range(PARTITIONS)}
    settings = {"bootstrap.servers": bootstrap, "isolation.level": isolation, "enable.partition.eof": True}
    left = set(log)
    deadline = time.monotonic() + CAUGHT_UP_S
    with closing(confluent_kafka.Consumer({**settings, **_LIBRDKAFKA})) as consumer:
        consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in log])
        while left:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the ends of {topic} are not reached, of partitions {sorted(left)}")
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                if error is None:
                    log[message.partition()].append(_record(message))
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
    return log


@contextlib.asynccontextmanager
async def reading(bootstrap: str, topic: str, java: JavaClient | None) -> AsyncIterator[list[Reader]]:
    """Readers of a topic: librdkafka at both isolation levels, and Java where it is installed."""
    readers: list[Reader] = [
        LibrdkafkaReader(bootstrap, topic, "read_uncommitted"),
        LibrdkafkaReader(bootstrap, topic, "read_committed"),
    ]
    if java is not None:
        readers.append(JavaReader(bootstrap, topic, java))
    for reader in readers:
        reader.start()
    try:
        yield readers
    finally:
        for reader in readers:
            await asyncio.to_thread(reader.close)


async def read_to(bootstrap: str, topic: str, marks: Collection[Note]) -> Log:
    """The topic as a consumer reads it that begins now, up to records that are the last."""
    reader = LibrdkafkaReader(bootstrap, topic, "read_uncommitted")
    reader.start()
    try:
        await reader.has_seen(marks)
    finally:
        await asyncio.to_thread(reader.close)
    return reader.log
