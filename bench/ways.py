"""Ways to send an event in a transaction of PostgreSQL, each with the consumer that its makers mean for it.

kafka.produce     the relay of the broker moves it into the topic; a Kafka client reads it, or a session with kafka.poll
polling outbox    a table, and one worker that looks again and again, sends with a Kafka client, and deletes what it sent
pgmq              a queue in SQL; its SQL comes with the Rust crate, is fetched when the benchmark runs, and is not ours

`Way.consuming(take)` runs the consumer, and the worker if there is one, and gives `take` what has come.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, ClassVar, LiteralString, cast

import psycopg
from confluent_kafka import OFFSET_END, Consumer, KafkaError, Producer, TopicPartition
from tests.kafka_reference import ToolMissing, need

Take = Callable[[Sequence[str | bytes]], None]

PGMQ_CRATE = "0.33.7"
PGMQ_LICENCE = "PostgreSQL"
BATCH = 1000  # events that a consumer or a worker takes at once, at most
_LOOK_S = 0.1  # how soon a consumer notices that it is to end


class Way(ABC):
    """One way. `statement` sends one event, `many` an array; {value} and {values} stand for jsonb and jsonb[]."""

    name: str
    statement: ClassVar[str]
    many: ClassVar[str]

    def prepare(self, connection: psycopg.Connection[Any]) -> None:  # noqa: B027 - some need nothing
        """Makes what it needs, beside the topic."""

    @abstractmethod
    def consuming(self, take: Take) -> AbstractContextManager[Mapping[str, int]]:
        """Has consumers of all events from now on run; ready when it gives the processes that belong to the way, by role."""


@dataclass(frozen=True)
class Place:
    """The database, the broker on it, and the topic or queue that the events go to."""

    dsn: str
    bootstrap: str
    topic: str
    partitions: int


@contextmanager
def _thread(work: Callable[[threading.Event, threading.Event], None]) -> Iterator[Mapping[str, int]]:
    """Runs work(ready, stop) beside; an error in it is raised here, at the end at the latest."""
    ready, stop = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(ready, stop)
        except BaseException as error:  # raised where somebody waits
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.wait()
        if not failed:
            yield {}
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def kafka_client(place: Place, take: Take) -> AbstractContextManager[Mapping[str, int]]:
    """A Kafka client with its default settings, from the end of each partition on."""

    def work(ready: threading.Event, stop: threading.Event) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": place.bootstrap,
                "group.id": "bench",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        places = []
        for partition in range(place.partitions):
            end = consumer.get_watermark_offsets(TopicPartition(place.topic, partition), timeout=30)[1]
            places.append(TopicPartition(place.topic, partition, end if end >= 0 else OFFSET_END))
        consumer.assign(places)
        ready.set()
        while not stop.is_set():
            first = consumer.poll(_LOOK_S)
            if first is None:
                continue
            messages = [first, *consumer.consume(BATCH, 0)]
            for message in messages:
                if message.error():
                    raise RuntimeError(str(message.error()))
            take([cast(bytes, message.value()) for message in messages])
        consumer.close()

    return _thread(work)


@dataclass(frozen=True)
class Produce(Way):
    """kafka.produce, and a Kafka client."""

    place: Place
    name: str = "kafka.produce, Kafka client"
    statement = "SELECT kafka.produce('{topic}', {value})"
    many = "SELECT count(*) FROM kafka.produce_many('{topic}', {values})"

    def consuming(self, take: Take) -> AbstractContextManager[Mapping[str, int]]:
        return kafka_client(self.place, take)


@dataclass(frozen=True)
class ProduceAndPoll(Produce):
    """kafka.produce, and a session that polls, and sleeps when there was nothing."""

    name: str = "kafka.produce, kafka.poll every 100 ms"
    group: str = "asking"
    sleep_s: float = 0.1

    def consuming(self, take: Take) -> AbstractContextManager[Mapping[str, int]]:
        poll = "SELECT value FROM kafka.poll(%s, %s, max_records => %s, start => 'latest')"

        def work(ready: threading.Event, stop: threading.Event) -> None:
            with psycopg.connect(self.place.dsn, autocommit=True) as connection:
                self.listen(connection)
                while not stop.is_set():
                    rows = connection.execute(poll, [self.group, self.place.topic, BATCH]).fetchall()
                    ready.set()
                    if rows:
                        take([row[0] for row in rows])
                    else:
                        self.wait(connection)

        return _thread(work)

    def listen(self, connection: psycopg.Connection[Any]) -> None:
        """Before the first poll."""

    def wait(self, connection: psycopg.Connection[Any]) -> None:
        """After a poll that found nothing."""
        time.sleep(self.sleep_s)


@dataclass(frozen=True)
class ProduceAndListen(ProduceAndPoll):
    """The same, woken by the topic's channel."""

    name: str = "kafka.produce, kafka.poll and LISTEN"
    group: str = "listening"

    def prepare(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT kafka.notify_on(%s, true)", [self.place.topic])

    def listen(self, connection: psycopg.Connection[Any]) -> None:
        channel = connection.execute("SELECT kafka.channel(%s)", [self.place.topic]).fetchone()
        assert channel is not None
        connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel[0])))

    def wait(self, connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=_LOOK_S, stop_after=1):
            pass


OUTBOX = """
CREATE TABLE IF NOT EXISTS outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
_NEXT = "SELECT id, topic, key, payload::text FROM outbox ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED"
_SENT = "DELETE FROM outbox WHERE id = ANY (%s)"


def poll_outbox(dsn: str, bootstrap: str, interval_s: float, ready: Event, stop: Event) -> None:
    """The worker of the pattern, in a process of its own."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "log_level": 0})
    producer.list_topics(timeout=30)
    failures: list[str] = []

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(str(error))

    with psycopg.connect(dsn) as connection:
        ready.set()
        while not stop.is_set():
            with connection.transaction():
                rows = connection.execute(_NEXT, [BATCH]).fetchall()
                for _, topic, key, payload in rows:
                    producer.produce(topic, payload, key, on_delivery=delivered)
                    producer.poll(0)
                if producer.flush(30) or failures:
                    raise RuntimeError(f"not sent: {failures}")
                if rows:
                    connection.execute(_SENT, [[row[0] for row in rows]])
            if len(rows) < BATCH:
                stop.wait(interval_s)


@dataclass(frozen=True)
class PollingOutbox(Way):
    """A table of events and one worker that looks every `interval_s` seconds, and at once while it finds full batches."""

    place: Place
    interval_s: float = 0.1
    statement = "INSERT INTO outbox (topic, payload) VALUES ('{topic}', {value})"
    many = "INSERT INTO outbox (topic, payload) SELECT '{topic}', unnest({values})"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"polling outbox every {1000 * self.interval_s:.0f} ms, Kafka client"

    def prepare(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(OUTBOX)

    @contextmanager
    def consuming(self, take: Take) -> Iterator[Mapping[str, int]]:
        processes = multiprocessing.get_context("spawn")
        ready, stop = processes.Event(), processes.Event()
        arguments = (self.place.dsn, self.place.bootstrap, self.interval_s, ready, stop)
        worker = processes.Process(target=poll_outbox, args=arguments, daemon=True)
        with kafka_client(self.place, take):
            worker.start()
            try:
                if not ready.wait(30):
                    raise RuntimeError("the worker of the outbox did not start")
                assert worker.pid is not None
                yield {"worker": worker.pid}
            finally:
                stop.set()
                worker.join(30)
                worker.kill()


def pgmq_sql() -> str:
    """The SQL that installs pgmq, from its crate. Raises ToolMissing."""
    cargo = need("cargo", "apt-get install cargo")
    told = subprocess.run(
        [cargo, "info", f"pgmq@{PGMQ_CRATE}"], capture_output=True, text=True, timeout=300, check=False
    )
    if told.returncode != 0:
        raise ToolMissing(f"cargo does not find the crate pgmq {PGMQ_CRATE}: {told.stderr.strip()[-200:]}")
    licence = re.search(r"^license: (.*)$", told.stdout, re.MULTILINE)
    if licence is None or licence[1] != PGMQ_LICENCE:
        raise ToolMissing(f"pgmq has another licence than {PGMQ_LICENCE}, read it first: {licence and licence[1]}")
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    found = sorted(home.glob(f"registry/src/*/pgmq-{PGMQ_CRATE}/src/install/embedded/sql/pgmq.sql"))
    if not found:
        raise ToolMissing(f"the crate pgmq {PGMQ_CRATE} has no SQL where it was expected")
    return found[-1].read_text()


@dataclass(frozen=True)
class Pgmq(Way):
    """pgmq.send, and read_with_poll with its defaults: it looks every 100 ms in the server. Then what was read is deleted."""

    place: Place
    name: str = "pgmq, read_with_poll"
    statement = "SELECT pgmq.send('{topic}', {value})"
    many = "SELECT count(*) FROM pgmq.send_batch('{topic}', {values})"
    read: ClassVar[LiteralString] = "SELECT msg_id, message::text FROM pgmq.read_with_poll(%s, 30, %s, 1)"

    def prepare(self, connection: psycopg.Connection[Any]) -> None:
        if connection.execute("SELECT to_regnamespace('pgmq') IS NULL").fetchall() == [(True,)]:
            connection.execute(cast(LiteralString, pgmq_sql()))
        connection.execute(
            "SELECT pgmq.drop_queue(queue_name) FROM pgmq.list_queues() WHERE queue_name = %s", [self.place.topic]
        )
        connection.execute("SELECT pgmq.create(%s)", [self.place.topic])

    def consuming(self, take: Take) -> AbstractContextManager[Mapping[str, int]]:
        def work(ready: threading.Event, stop: threading.Event) -> None:
            with psycopg.connect(self.place.dsn, autocommit=True) as connection:
                self.listen(connection)
                ready.set()
                while not stop.is_set():
                    rows = connection.execute(self.read, [self.place.topic, BATCH]).fetchall()
                    if rows:
                        take([row[1] for row in rows])
                        connection.execute("SELECT pgmq.delete(%s, %s)", [self.place.topic, [row[0] for row in rows]])
                    else:
                        self.wait(connection)

        return _thread(work)

    def listen(self, connection: psycopg.Connection[Any]) -> None:
        """Before the first read."""

    def wait(self, connection: psycopg.Connection[Any]) -> None:
        """After a read that found nothing."""


@dataclass(frozen=True)
class PgmqListening(Pgmq):
    """The same with a NOTIFY for each event, without pgmq's limit of one in 250 ms."""

    name: str = "pgmq, NOTIFY for each event"
    read = "SELECT msg_id, message::text FROM pgmq.read(%s, 30, %s)"

    def prepare(self, connection: psycopg.Connection[Any]) -> None:
        super().prepare(connection)
        connection.execute("SELECT pgmq.enable_notify_insert(%s, 0)", [self.place.topic])

    def listen(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(f"pgmq.q_{self.place.topic}.INSERT"))
        )

    def wait(self, connection: psycopg.Connection[Any]) -> None:
        for _ in connection.notifies(timeout=_LOOK_S, stop_after=1):
            pass
