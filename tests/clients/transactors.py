"""Transactional producers, and readers of what they wrote, in one process, driven over stdin and stdout.

    python transactors.py confluent-kafka

One JSON object a line: a request with `id` and `op`, and at any later time its answer with the same `id`, or with `error`
(the library's name of it) and `text`; requests are worked on side by side. Programs in other languages
(`java/Transactors.java`, `go/transactors.go`, `node/transactors.js`) understand the same:

open     a `producer` of that name with a `transactional_id` and `timeout_ms`, which has its producer id
begin, commit, abort, close; send: `records` as [topic, partition, value], answered when all are acknowledged
read     `topic` from its start until the value `until` was seen in each of its `partitions`: `records` as [partition,
         offset, value], without the last ones; `is_committed` asks for read_committed
process  the records of a `topic` in a `group`, `batch` of them in a transaction with its offsets, into the same partition
         of `output` with a + behind; each `abort_every`th transaction is aborted and its records put through again; ends
         after `until`, or leaves transaction `hold_after` open with everything sent (`is_held`)
commit_when_gone   a member of `group` reads, leaves, and its offsets are sent in a transaction of `producer` all the same
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine
from contextlib import closing
from typing import Any

_writing = threading.Lock()
POLL_S = 0.1
CALL_S = 30.0
Request = dict[str, Any]
Answer = dict[str, Any]


def write(request: Request, answer: Answer) -> None:
    with _writing:
        sys.stdout.write(json.dumps({"id": request["id"], **answer}) + "\n")
        sys.stdout.flush()


def failure_of(failed: BaseException) -> Answer:
    """Kafka's name of an error, or that of the exception."""
    first = failed.args[0] if failed.args else None
    name = first.name() if hasattr(first, "name") else type(failed).__name__
    return {"error": name, "text": repr(failed)}


class Home(ABC):
    """The producers of one library."""

    def __init__(self) -> None:
        self.producers: dict[str, Any] = {}

    def work(self, request: Request) -> None:
        try:
            write(request, self.answer(request))
        except Exception as failed:
            write(request, failure_of(failed))

    def answer(self, request: Request) -> Answer:
        name = request.get("producer", "")
        producer = self.producers.get(name)
        match request["op"]:
            case "open":
                self.producers[name] = self.done(self.open(request))
            case "begin" | "commit" | "abort" as op:
                self.done(getattr(producer, f"{op}_transaction")())
            case "send":
                self.done(self.send(producer, request["records"]))
            case "close":
                self.done(self.close(self.producers.pop(name)))
            case "read":
                return {"records": self.done(self.read(request))}
            case "process":
                return {"is_held": self.done(self.process(request))}
            case "commit_when_gone":
                self.done(self.commit_when_gone(producer, request))
        return {}

    def done(self, result: Any) -> Any:
        """A result, waited for where the library has coroutines."""
        return result

    @abstractmethod
    def open(self, request: Request) -> Any: ...

    @abstractmethod
    def send(self, producer: Any, records: list[list[Any]]) -> Any: ...

    @abstractmethod
    def close(self, producer: Any) -> Any: ...

    @abstractmethod
    def read(self, request: Request) -> Any: ...

    @abstractmethod
    def process(self, request: Request) -> Any:
        """Whether the last transaction is held."""

    def commit_when_gone(self, producer: Any, request: Request) -> None:
        raise AssertionError("the library does not hand on which member its offsets are from")


_PURGED = ("_PURGE_QUEUE", "_PURGE_INFLIGHT")  # librdkafka's words for records that it has dropped by itself


class Confluent(Home):
    def open(self, request: Request) -> Any:
        import confluent_kafka

        settings = {
            "bootstrap.servers": request["bootstrap"],
            "transactional.id": request["transactional_id"],
            "transaction.timeout.ms": request["timeout_ms"],
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        producer = confluent_kafka.Producer(settings)
        producer.init_transactions(CALL_S)
        return producer

    def send(self, producer: Any, records: list[list[Any]]) -> None:
        import confluent_kafka

        errors = []
        for topic, partition, value in records:
            producer.produce(
                topic, value, partition=partition, on_delivery=lambda error, _: errors.append(error) if error else None
            )
        try:
            assert producer.flush(CALL_S) == 0
        except SystemError:  # it calls back with the exception of a fatal error already set
            if not errors:
                raise
        if any(error.name() in _PURGED for error in errors):
            # It drops records when it learns that it is fenced, or for another reason, which its transaction has. That
            # cannot commit without them.
            producer.commit_transaction(CALL_S)
            raise AssertionError(f"committed without records that were dropped: {errors}")
        if errors:
            raise confluent_kafka.KafkaException(errors[0])

    def close(self, producer: Any) -> None:
        """It has no such call."""

    def consumer(self, request: Request) -> Any:
        import confluent_kafka

        settings = {
            "bootstrap.servers": request["bootstrap"],
            "group.id": request.get("group", "unused, but librdkafka wants a name"),
            "isolation.level": "read_committed" if request["is_committed"] else "read_uncommitted",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        if "group" in request:
            settings["group.protocol"] = request["protocol"]
            if request["protocol"] == "classic":
                settings["session.timeout.ms"] = request["session_timeout_ms"]
                settings["heartbeat.interval.ms"] = 300
        return confluent_kafka.Consumer(settings)

    def read(self, request: Request) -> list[Any]:
        import confluent_kafka

        topic, unfinished, records = request["topic"], set(range(request["partitions"])), []
        with closing(self.consumer(request)) as consumer:
            start = confluent_kafka.OFFSET_BEGINNING
            consumer.assign([confluent_kafka.TopicPartition(topic, partition, start) for partition in unfinished])
            while unfinished:
                for message in consumer.consume(500, POLL_S):
                    if message.error():
                        raise confluent_kafka.KafkaException(message.error())
                    value = message.value().decode()
                    if value == request["until"]:
                        unfinished.discard(message.partition())
                    else:
                        records.append([message.partition(), message.offset(), value])
        return records

    def process(self, request: Request) -> bool:
        import confluent_kafka

        producer, consumer = self.open(request), self.consumer(request)
        consumer.subscribe([request["topic"]])
        finished: set[int] = set()
        number = 0
        while len(finished) < request["partitions"]:
            polled = [one for one in consumer.consume(request["batch"], POLL_S) if one.error() is None]
            if not polled:
                continue
            number += 1
            producer.begin_transaction()
            values = [(one.partition(), one.value().decode()) for one in polled]
            self.send(producer, [[request["output"], partition, value + "+"] for partition, value in values])
            ends = {one.partition(): one.offset() + 1 for one in polled}
            places = [confluent_kafka.TopicPartition(request["topic"], *end) for end in ends.items()]
            producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), CALL_S)
            if number == request["hold_after"]:
                self.producers["held"] = producer, consumer
                return True
            if request["abort_every"] and number % request["abort_every"] == 0:
                producer.abort_transaction()
                starts = {one.partition(): one.offset() for one in reversed(polled)}
                for start in starts.items():
                    consumer.seek(confluent_kafka.TopicPartition(request["topic"], *start))
            else:
                producer.commit_transaction()
                finished |= {partition for partition, value in values if value == request["until"]}
        consumer.close()
        return False

    def commit_when_gone(self, producer: Any, request: Request) -> None:
        import confluent_kafka

        consumer = self.consumer(request)
        consumer.subscribe([request["topic"]])
        polled: list[Any] = []
        while not polled:
            polled = [one for one in consumer.consume(1, POLL_S) if one.error() is None]
        metadata = consumer.consumer_group_metadata()
        consumer.close()
        place = confluent_kafka.TopicPartition(request["topic"], polled[0].partition(), polled[0].offset() + 1)
        producer.begin_transaction()
        producer.send_offsets_to_transaction([place], metadata, CALL_S)


class KafkaPython(Home):
    def open(self, request: Request) -> Any:
        import kafka

        producer = kafka.KafkaProducer(
            bootstrap_servers=request["bootstrap"],
            transactional_id=request["transactional_id"],
            transaction_timeout_ms=request["timeout_ms"],
            max_block_ms=int(CALL_S * 1000),
        )
        producer.init_transactions()
        return producer

    def send(self, producer: Any, records: list[list[Any]]) -> None:
        sent = [producer.send(topic, value.encode(), partition=partition) for topic, partition, value in records]
        producer.flush(CALL_S)
        for one in sent:
            one.get(CALL_S)

    def close(self, producer: Any) -> None:
        producer.close(timeout=0)

    def consumer(self, request: Request) -> Any:
        import kafka

        more = {}
        if "group" in request:
            more = {"session_timeout_ms": request["session_timeout_ms"], "heartbeat_interval_ms": 300}
            more |= {"max_poll_records": request["batch"], "max_poll_interval_ms": 10_000}
        return kafka.KafkaConsumer(
            bootstrap_servers=request["bootstrap"],
            group_id=request.get("group"),
            isolation_level="read_committed" if request["is_committed"] else "read_uncommitted",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            **more,
        )

    def read(self, request: Request) -> list[Any]:
        import kafka

        unfinished, records = set(range(request["partitions"])), []
        with closing(self.consumer(request)) as consumer:
            consumer.assign([kafka.TopicPartition(request["topic"], partition) for partition in unfinished])
            while unfinished:
                for messages in consumer.poll(timeout_ms=int(POLL_S * 1000)).values():
                    for message in messages:
                        value = message.value.decode()
                        if value == request["until"]:
                            unfinished.discard(message.partition)
                        else:
                            records.append([message.partition, message.offset, value])
        return records

    def process(self, request: Request) -> bool:
        import kafka

        producer, consumer = self.open(request), self.consumer(request)
        consumer.partitions_for_topic(request["topic"])
        consumer.subscribe([request["topic"]])
        finished: set[int] = set()
        number = 0
        while len(finished) < request["partitions"]:
            polled = consumer.poll(timeout_ms=int(POLL_S * 1000))
            if not polled:
                continue
            number += 1
            producer.begin_transaction()
            values = [(one.partition, one.value.decode()) for messages in polled.values() for one in messages]
            self.send(producer, [[request["output"], partition, value + "+"] for partition, value in values])
            ends = {place: kafka.OffsetAndMetadata(them[-1].offset + 1, "", -1) for place, them in polled.items()}
            producer.send_offsets_to_transaction(ends, consumer.group_metadata())
            if number == request["hold_after"]:
                self.producers["held"] = producer, consumer
                return True
            if request["abort_every"] and number % request["abort_every"] == 0:
                producer.abort_transaction()
                for place, messages in polled.items():
                    consumer.seek(place, messages[0].offset)
            else:
                producer.commit_transaction()
                finished |= {partition for partition, value in values if value == request["until"]}
        consumer.close(autocommit=False)
        producer.close()
        return False

    def commit_when_gone(self, producer: Any, request: Request) -> None:
        import kafka

        consumer = self.consumer(request)
        consumer.partitions_for_topic(request["topic"])
        consumer.subscribe([request["topic"]])
        polled: Any = {}
        while not polled:
            polled = consumer.poll(timeout_ms=int(POLL_S * 1000))
        metadata = consumer.group_metadata()
        consumer.close(autocommit=False)
        ends = {place: kafka.OffsetAndMetadata(them[-1].offset + 1, "", -1) for place, them in polled.items()}
        producer.begin_transaction()
        producer.send_offsets_to_transaction(ends, metadata)


class Aiokafka(Home):
    """All in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def done(self, result: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(result, self.loop).result()

    async def open(self, request: Request) -> Any:
        import aiokafka

        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=request["bootstrap"],
            transactional_id=request["transactional_id"],
            transaction_timeout_ms=request["timeout_ms"],
        )
        await producer.start()
        return producer

    async def send(self, producer: Any, records: list[list[Any]]) -> None:
        sent: list[Awaitable[Any]] = [
            await producer.send(topic, value.encode(), partition=partition) for topic, partition, value in records
        ]
        for one in sent:
            await one

    async def close(self, producer: Any) -> None:
        await producer.stop()

    async def consumer(self, request: Request) -> Any:
        import aiokafka

        more = {}
        if "group" in request:
            more = {"session_timeout_ms": request["session_timeout_ms"], "heartbeat_interval_ms": 300}
            more |= {"rebalance_timeout_ms": 10_000}
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=request["bootstrap"],
            group_id=request.get("group"),
            isolation_level="read_committed" if request["is_committed"] else "read_uncommitted",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            **more,
        )
        if "group" in request:
            consumer.subscribe([request["topic"]])
        await consumer.start()
        return consumer

    async def read(self, request: Request) -> list[Any]:
        import aiokafka

        unfinished, records = set(range(request["partitions"])), []
        consumer = await self.consumer(request)
        places = [aiokafka.TopicPartition(request["topic"], partition) for partition in unfinished]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while unfinished:
            for messages in (await consumer.getmany(timeout_ms=int(POLL_S * 1000))).values():
                for message in messages:
                    value = message.value.decode()
                    if value == request["until"]:
                        unfinished.discard(message.partition)
                    else:
                        records.append([message.partition, message.offset, value])
        await consumer.stop()
        return records

    async def process(self, request: Request) -> bool:
        producer, consumer = await self.open(request), await self.consumer(request)
        finished: set[int] = set()
        number = 0
        while len(finished) < request["partitions"]:
            polled = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=request["batch"])
            polled = {place: messages for place, messages in polled.items() if messages}
            if not polled:
                continue
            number += 1
            await producer.begin_transaction()
            values = [(one.partition, one.value.decode()) for messages in polled.values() for one in messages]
            await self.send(producer, [[request["output"], partition, value + "+"] for partition, value in values])
            ends = {place: messages[-1].offset + 1 for place, messages in polled.items()}
            await producer.send_offsets_to_transaction(ends, request["group"])
            if number == request["hold_after"]:
                self.producers["held"] = producer, consumer
                return True
            if request["abort_every"] and number % request["abort_every"] == 0:
                await producer.abort_transaction()
                for place, messages in polled.items():
                    consumer.seek(place, messages[0].offset)
            else:
                await producer.commit_transaction()
                finished |= {partition for partition, value in values if value == request["until"]}
        await consumer.stop()
        await producer.stop()
        return False


LIBRARIES: dict[str, type[Home]] = {"confluent-kafka": Confluent, "kafka-python": KafkaPython, "aiokafka": Aiokafka}


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    home = LIBRARIES[sys.argv[1]]()

    for line in sys.stdin:
        threading.Thread(target=home.work, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
