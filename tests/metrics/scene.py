"""A broker at work: what its metrics look like when all that a dashboard asks for has happened.

with Scene(dsn, folder) as scene:
    scene.play()                      topics, producers, groups, a transaction, errors, a waiting broker
    scene.page()                      what /metrics says
"""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.broker.command import Serving, wait_until
from tests.kafka_reference import HOST, free_port

DEADLINE_S = 30.0
ORDERS, CLICKS = "orders", "clicks"  # three partitions and one
BILLING, REPORTS = "billing", "reports"  # a group with a member, and one that only has offsets


class MeteredBroker(Serving):
    """`pg-kafka serve --metrics`, at ports that are known beforehand."""

    def __init__(
        self, *arguments: str, settings: dict[str, str] | None = None, like: MeteredBroker | None = None
    ) -> None:
        """At the ports of another one, which is over."""
        self.kafka_port, self.metrics_port = (
            (like.kafka_port, like.metrics_port) if like else (free_port(), free_port())
        )
        super().__init__(
            "--listen",
            f"{HOST}:{self.kafka_port}",
            "--metrics",
            self.metrics_address,
            *arguments,
            settings=settings,
        )

    @property
    def metrics_address(self) -> str:
        return f"{HOST}:{self.metrics_port}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.kafka_port}"

    def page(self, path: str = "/metrics", **headers: str) -> str:
        """What an HTTP client gets."""
        request = urllib.request.Request(f"http://{self.metrics_address}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            body: bytes = answer.read()
        return body.decode()


class Clients:
    """librdkafka against one broker; closes what it has opened."""

    def __init__(self, address: str) -> None:
        self._settings = {"bootstrap.servers": address}
        self._consumers: list[Consumer] = []

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        admin = AdminClient(self._settings)
        admin.create_topics([NewTopic(name, partitions, config=settings)])[name].result(DEADLINE_S)

    def produce(self, topic: str, partition: int, count: int, **settings: Any) -> None:
        """So many records of a hundred bytes."""
        refused: list[Any] = []
        producer = Producer({**self._settings, **settings})
        for number in range(count):
            producer.produce(
                topic, b"x" * 100, str(number), partition, on_delivery=lambda error, _: refused.append(error)
            )
            producer.poll(0)
        assert producer.flush(DEADLINE_S) == 0
        assert not any(refused), refused[0]

    def open_transaction(self, topic: str, name: str) -> Producer:
        """A transaction with one record, which nobody ends until the producer that is given back does."""
        producer = Producer({**self._settings, "transactional.id": name})
        producer.init_transactions(DEADLINE_S)
        producer.begin_transaction()
        producer.produce(topic, b"x", "key")
        producer.flush(DEADLINE_S)
        return producer

    def commit(self, group: str, offsets: Sequence[TopicPartition]) -> None:
        """Offsets of a group without members."""
        consumer = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})
        consumer.commit(offsets=list(offsets), asynchronous=False)
        consumer.close()

    def member(self, group: str, topic: str, count: int) -> Consumer:
        """A member that has read so many records, and has committed them. It goes on being one until `close`."""
        consumer = Consumer(
            {
                **self._settings,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "max.poll.interval.ms": 3_600_000,  # it stays a member while it does nothing
            }
        )
        self._consumers.append(consumer)
        consumer.subscribe([topic])
        self.read(consumer, count)
        return consumer

    def read(self, consumer: Consumer, count: int) -> None:
        """Read so many records more, and commit each."""
        deadline, found = time.monotonic() + DEADLINE_S, 0
        while found < count:
            assert time.monotonic() < deadline, f"{found} of {count} records"
            message = consumer.poll(1.0)
            if message is None:
                continue
            assert message.error() is None
            found += 1
            consumer.commit(message=message, asynchronous=False)

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset of the next record."""
        consumer = Consumer({**self._settings, "group.id": "nobody"})
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=DEADLINE_S)
        consumer.close()
        return int(end)

    def offend(self, topic: str) -> None:
        """Something that is refused: a record larger than the topic takes."""
        with contextlib.suppress(KafkaException):
            producer = Producer({**self._settings, "message.max.bytes": 10_000_000})
            producer.produce(topic, bytes(2_000_000), "key")
            producer.flush(DEADLINE_S)

    def close(self) -> None:
        for consumer in self._consumers:
            consumer.close()


class Scene:
    """A leader, a broker that waits, and clients."""

    def __init__(self, dsn: str, **settings: str) -> None:
        self._dsn = dsn
        self._settings = settings
        self._all: list[MeteredBroker] = []
        self.clients: list[Clients] = []
        self.written = 0  # records in each partition of ORDERS
        self.read = 0  # of all of these, by BILLING

    def __enter__(self) -> Scene:
        self.leader = self._start()
        self.leader.ready()
        self.other = self._start()
        self.other.wait_for("waiting to take over")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.clients:
            one.close()
        for broker in reversed(self._all):  # the one that waits does not become the leader
            broker.__exit__(kind, error, trace)

    @property
    def targets(self) -> list[str]:
        return [broker.metrics_address for broker in self._all]

    def connected(self) -> Clients:
        self.clients.append(clients := Clients(self.leader.address))
        return clients

    def play(self) -> None:
        """All that a dashboard has a panel for."""
        clients = self.connected()
        clients.create(ORDERS, 3)
        clients.create(CLICKS, 1, **{"cleanup.policy": "compact"})
        for partition in range(3):
            clients.produce(ORDERS, partition, 300, **{"enable.idempotence": True})
        self.written += 300
        clients.produce(CLICKS, 0, 50, **{"compression.type": "zstd"})
        clients.commit(REPORTS, [TopicPartition(ORDERS, 0, 300), TopicPartition(ORDERS, 1, 10)])
        clients.open_transaction(CLICKS, "cashier").commit_transaction(DEADLINE_S)
        clients.offend(CLICKS)
        self._reader = clients.member(BILLING, ORDERS, 100)
        self.read += 100
        for late in ("kafka_consumergroup_lag_sum{", "pg_kafka_database_bytes "):  # found out every ten seconds or so
            wait_until(lambda name=late: f"\n{name}" in self.leader.page(), late)

    def play_on(self) -> None:
        """A little more of each, for who wants to see it move."""
        clients = self.connected()
        for partition in range(3):
            clients.produce(ORDERS, partition, 20)
        self.written += 20
        clients.produce(CLICKS, 0, 20)
        clients.open_transaction(CLICKS, "cashier").abort_transaction(DEADLINE_S)
        clients.offend(CLICKS)
        clients.read(self._reader, 100)
        self.read += 100

    def _start(self) -> MeteredBroker:
        broker = MeteredBroker("--database", self._dsn, settings=self._settings)
        self._all.append(broker)
        return broker
