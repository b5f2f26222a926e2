"""Load on a topic by published clients, all of it entered in a Ledger: producers, a consumer, and a watcher.

Producers pace themselves; while the broker is away they keep a bounded number of records under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiokafka
import aiokafka.errors
import confluent_kafka
from tests.broker.rawclient import RawClient, SomeTopic, fetching, only, records_of
from tests.crash.account import Ledger, Sample, payload

from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

PARTITIONS = 3
BURST = 10
PAUSE_S = 0.02
MOST_UNDER_WAY = 3000
DELIVERY_TIMEOUT_S = 60
_LIST_OFFSETS, _METADATA = 2, 3
_CALL_TIMEOUT_S = 3.0
_CONSUMER_FAULTS = (
    confluent_kafka.KafkaError._AUTO_OFFSET_RESET,
    confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE,
    confluent_kafka.KafkaError._BAD_MSG,
    confluent_kafka.KafkaError._FATAL,
)


@dataclass(frozen=True)
class Place:
    """A broker's address, as RawClient wants it."""

    host: str
    port: int


class Load:
    """Producers, consumer and watcher on one topic until `stop`."""

    def __init__(
        self, bootstrap: Place, brokers: Sequence[Place], topic: str, ledger: Ledger, *, may_lose: bool
    ) -> None:
        self.ledger = ledger
        self.clients: list[str] = []
        self._brokers = brokers
        self._bootstrap = f"{bootstrap.host}:{bootstrap.port}"
        self._topic = topic
        self._may_lose = may_lose
        self._stopping = threading.Event()
        self._reading = threading.Event()
        self._threads: list[threading.Thread] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for idempotent in (True, False):
            kind = "idempotent" if idempotent else "plain"
            self.clients += [f"confluent-{kind}", f"aiokafka-{kind}"]
            self._thread(self._produce_confluent, f"confluent-{kind}", idempotent)
            self._task(self._produce_aiokafka(f"aiokafka-{kind}", idempotent))
        self._reading.set()
        self._thread(self._consume)
        self._task(self._watch())

    def _thread(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _task(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def served_since(self, at: float, deadline_s: float) -> None:
        """Return when every client has an acknowledgement for a record sent after `at`; raises TimeoutError."""
        end = time.monotonic() + deadline_s
        while late := [name for name in self.clients if self.ledger.newest(name) <= at]:
            for task in self._tasks:
                if task.done():
                    task.result()
            if time.monotonic() > end:
                raise TimeoutError(f"not served again within {deadline_s:.0f} s: {', '.join(late)}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Send nothing new; return when everything sent is acknowledged or refused, and the consumer has caught up."""
        self._stopping.set()
        *producers, watcher = self._tasks
        await asyncio.gather(*producers)
        for thread in self._threads[:-1]:
            await asyncio.to_thread(thread.join)
        await watcher
        await self._caught_up()
        self._reading.clear()
        await asyncio.to_thread(self._threads[-1].join)

    async def _caught_up(self) -> None:
        newest = {ack.partition: ack for ack in self.ledger.acks}
        wanted = [(ack.partition, (ack.offset, payload(ack.producer, ack.number))) for ack in newest.values()]
        end = time.monotonic() + 10
        while not all(record in self.ledger.seen[partition][-5000:] for partition, record in wanted):
            if time.monotonic() > end:
                self.ledger.reader_errors.append("it did not reach the last acknowledged records within 10 s")
                return
            await asyncio.sleep(0.05)

    # -- confluent-kafka: a thread each ------------------------------------------------------------------------------

    def _produce_confluent(self, client: str, idempotent: bool) -> None:
        settings = {
            "bootstrap.servers": self._bootstrap,
            "acks": "all",
            "enable.idempotence": idempotent,
            "compression.type": "lz4" if idempotent else "zstd",  # kept as they came until SQL asks
            "linger.ms": 5,
            "message.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.interval.ms": 1000,
            "log_level": 0,
        }
        attempt = 0
        while not self._stopping.is_set():
            name = f"{client}#{attempt}" if attempt else client
            attempt += 1
            if idempotent:
                self.ledger.idempotent.add(name)
            self._produce_until_fatal(confluent_kafka.Producer(settings | {"error_cb": lambda error: None}), name)

    def _produce_until_fatal(self, producer: confluent_kafka.Producer, name: str) -> None:
        ledger = self.ledger
        fatal = threading.Event()

        def delivered(number: int, error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            if error is None:
                ledger.acknowledge(name, number, message.partition(), message.offset())
            else:
                ledger.refuse(name, number, error.name())
                if error.fatal() or error.code() == confluent_kafka.KafkaError._FATAL:
                    fatal.set()

        number = 0
        while not self._stopping.is_set() and not fatal.is_set():
            for _ in range(BURST if ledger.under_way(name) < MOST_UNDER_WAY else 0):
                ledger.send(name, number)
                try:
                    producer.produce(
                        self._topic,
                        value=payload(name, number),
                        partition=number % PARTITIONS,
                        on_delivery=lambda error, message, number=number: delivered(number, error, message),
                    )
                except (BufferError, confluent_kafka.KafkaException) as error:
                    ledger.refuse(name, number, repr(error))
                    if not isinstance(error, BufferError) and error.args[0].fatal():
                        fatal.set()
                        break
                number += 1
            try:
                producer.poll(PAUSE_S)
            except confluent_kafka.KafkaException:  # raised for fatal errors only
                fatal.set()
        if fatal.is_set():
            producer.purge()
        with contextlib.suppress(confluent_kafka.KafkaException):
            producer.flush(DELIVERY_TIMEOUT_S + 5)

    def _consume(self) -> None:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest" if self._may_lose else "error",
                "socket.timeout.ms": 10_000,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 1000,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
                "error_cb": lambda error: None,
            }
        )
        consumer.assign([confluent_kafka.TopicPartition(self._topic, index, 0) for index in range(PARTITIONS)])
        while self._reading.is_set():
            for message in consumer.consume(500, 0.1):
                error = message.error()
                if error is None:
                    self.ledger.seen[message.partition()].append((message.offset(), message.value()))
                elif not error.retriable() and error.code() in _CONSUMER_FAULTS:
                    self.ledger.reader_errors.append(error.str())
        consumer.close()

    # -- aiokafka: tasks of this loop --------------------------------------------------------------------------------

    async def _produce_aiokafka(self, client: str, idempotent: bool) -> None:
        attempt = 0
        while not self._stopping.is_set():
            name = f"{client}#{attempt}" if attempt else client
            attempt += 1
            if idempotent:
                self.ledger.idempotent.add(name)
            producer = aiokafka.AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                enable_idempotence=idempotent,
                request_timeout_ms=DELIVERY_TIMEOUT_S * 1000,
                retry_backoff_ms=50,
                linger_ms=5,
            )
            try:
                await producer.start()
            except aiokafka.errors.KafkaError:
                with contextlib.suppress(Exception):
                    await producer.stop()
                await asyncio.sleep(0.2)
                continue
            try:
                await self._send_aiokafka(producer, name)
            finally:
                async with asyncio.timeout(DELIVERY_TIMEOUT_S + 5):
                    await producer.stop()

    async def _send_aiokafka(self, producer: aiokafka.AIOKafkaProducer, name: str) -> None:
        ledger = self.ledger
        over = False

        def delivered(number: int, answer: asyncio.Future[Any]) -> None:
            nonlocal over
            if answer.cancelled():
                ledger.refuse(name, number, "cancelled")
            elif (error := answer.exception()) is not None:
                ledger.refuse(name, number, repr(error))
                # The sequence is broken: this producer's next batches would all be refused.
                over = name in ledger.idempotent
            else:
                place = answer.result()
                ledger.acknowledge(name, number, place.partition, place.offset)

        number = 0
        answers: set[asyncio.Future[Any]] = set()
        while not self._stopping.is_set() and not over:
            for _ in range(BURST if ledger.under_way(name) < MOST_UNDER_WAY else 0):
                ledger.send(name, number)
                try:
                    answer = await producer.send(self._topic, payload(name, number), partition=number % PARTITIONS)
                except aiokafka.errors.KafkaError as error:
                    ledger.refuse(name, number, repr(error))
                else:
                    answers.add(answer)
                    answer.add_done_callback(lambda done, number=number: delivered(number, done))
                    answer.add_done_callback(answers.discard)
                number += 1
            await asyncio.sleep(PAUSE_S)
        if answers:
            await asyncio.wait(answers, timeout=DELIVERY_TIMEOUT_S + 5)

    # -- the watcher -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ask each broker for epochs and high watermarks, ten times a second."""
        await asyncio.gather(*(self._watch_one(number, place) for number, place in enumerate(self._brokers)))

    async def _watch_one(self, number: int, place: Place) -> None:
        while not self._stopping.is_set():
            try:
                client = await RawClient.connect(place)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            try:
                while not self._stopping.is_set():
                    await self._sample(client, number)
                    await asyncio.sleep(0.1)
            except (OSError, EOFError, TimeoutError):
                await asyncio.sleep(0.05)
            finally:
                client.writer.transport.abort()

    async def _sample(self, client: RawClient, broker: int) -> None:
        partitions = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(PARTITIONS)]
        request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=self._topic, partitions=partitions)])
        answer = await client.call(request, _LIST_OFFSETS, 7, _CALL_TIMEOUT_S)
        for found in only(answer.topics).partitions:
            if found.error_code == 0:
                self.ledger.samples.append(
                    Sample(time.monotonic(), broker, found.partition_index, found.leader_epoch, found.offset)
                )


async def topic_id(client: RawClient, name: str) -> UUID:
    answer = await client.call(MetadataRequest(topics=[MetadataRequestTopic(name=name)]), _METADATA, 12)
    found: UUID = only(answer.topics).topic_id
    return found


async def read_all(place: Place, name: str) -> dict[int, list[tuple[int, bytes | None]]]:
    """The whole log of a topic, as a consumer gets it: from offset 0 up to the high watermark."""
    found: dict[int, list[tuple[int, bytes | None]]] = {index: [] for index in range(PARTITIONS)}
    async with await RawClient.connect(place) as client:
        topic = SomeTopic(name, await topic_id(client, name))
        for index, records in found.items():
            while True:
                next_offset = records[-1][0] + 1 if records else 0
                answer = await client.call(fetching(topic, {index: next_offset}), 1, 12)
                part = only(only(answer.responses).partitions)
                assert part.error_code == 0, part
                if next_offset >= part.high_watermark:
                    break
                more = [record for record in records_of(part) if record[0] >= next_offset]
                assert more, f"{name}-{index}: nothing at {next_offset}, the high watermark is {part.high_watermark}"
                records += more
    return found
