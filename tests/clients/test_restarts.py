"""What was acknowledged survives the broker's end, in good order or by kill -9, and open clients go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client, Producer
from tests.clients.records import Record, at_offsets, numbered

pytestmark = pytest.mark.timeout(300)


def comparable(client: Client, records: list[Record]) -> list[Record]:
    return records if client.sets_timestamps else [replace(record, timestamp=None) for record in records]


def test_log_goes_on_after_a_restart(
    broker: Broker, available_clients: list[Client], new_topic: Callable[..., str]
) -> None:
    """Open idempotent producers continue without a duplicate or a gap; the library that wrote it reads it all."""
    topics = {client.name: new_topic() for client in available_clients}
    producers = {
        client.name: client.producer(broker.bootstrap, codec="lz4", idempotent=True) for client in available_clients
    }
    offsets: dict[str, list[int]] = {client.name: [] for client in available_clients}
    for first in (0, 500, 1000):
        for client in available_clients:
            records = numbered(500, first=first)
            offsets[client.name] += producers[client.name].send(topics[client.name], records)
        if first < 1000:
            broker.restart()
    for client in available_clients:
        producers[client.name].close()
        assert offsets[client.name] == list(range(1500)), client.name
        read = client.consume(broker.bootstrap, topics[client.name], 1500)
        expected = at_offsets(numbered(1500), range(1500))
        assert comparable(client, read) == comparable(client, expected), client.name
        assert client.watermarks(broker.bootstrap, topics[client.name]) == (0, 1500), client.name


class Stream(threading.Thread):
    """Sends numbered records, some hundred in each call, until told to end; keeps what was acknowledged."""

    chunk = 300

    def __init__(self, name: str, producer: Producer, topic: str) -> None:
        super().__init__(name=name)
        self.acknowledged: dict[int, Record] = {}
        self.sent = 0
        self.failure: BaseException | None = None
        self.enough = threading.Event()
        self.ending = threading.Event()
        self._producer = producer
        self._topic = topic

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                records = numbered(self.chunk, first=self.sent)
                self.sent += self.chunk
                offsets = self._producer.send(self._topic, records)
                self.acknowledged.update(zip(offsets, records, strict=True))
                self.ending.wait(0.05)  # the broker's starts take seconds: keep the log small
                if len(self.acknowledged) >= 5 * self.chunk:
                    self.enough.set()
        except BaseException as failure:
            self.failure = failure
        self.enough.set()

    def send_more(self) -> None:
        """Returns when some more calls have been acknowledged."""
        self.enough.clear()
        target = len(self.acknowledged) + 2 * self.chunk
        while len(self.acknowledged) < target and self.failure is None and self.is_alive():
            self.enough.wait(0.2)
            self.enough.clear()


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "plain"])
def test_kill_9_loses_nothing_that_was_acknowledged(
    broker: Broker,
    available_clients: list[Client],
    confluent: Client,
    idempotent: bool,
    new_topic: Callable[..., str],
) -> None:
    """All libraries are in the middle of sending when the broker is killed, twice.

    Without idempotence a retry may write a record again (never lose one), so only what was acknowledged is compared.
    """
    # One process serves all producers of an agent's library, one after the other, so each library gets one stream.
    libraries = [client for client in available_clients if client.keeps_open]
    streams = [
        Stream(client.name, client.producer(broker.bootstrap, codec="none", idempotent=idempotent), new_topic())
        for client in libraries
    ]
    for stream in streams:
        stream.start()
    for _ in range(2):
        for stream in streams:
            stream.enough.wait(60)
        broker.kill()
        broker.start()
        for stream in streams:
            stream.send_more()
    for stream in streams:
        stream.ending.set()
    for stream in streams:
        stream.join(120)
        assert not stream.is_alive(), f"{stream.name} hangs"
        assert stream.failure is None, f"{stream.name}: {stream.failure!r}"
        stream._producer.close()
        low, high = confluent.watermarks(broker.bootstrap, stream._topic)
        assert low == 0
        log = confluent.consume(broker.bootstrap, stream._topic, high)
        assert [record.offset for record in log] == list(range(high)), stream.name
        for offset, record in stream.acknowledged.items():
            assert log[offset] == replace(record, offset=offset), stream.name
        if idempotent:
            assert log == at_offsets(numbered(stream.sent), range(stream.sent)), stream.name


def test_topics_and_configs_survive_kill_9(broker: Broker, confluent: Client, new_topic: Callable[..., str]) -> None:
    topic = new_topic(7, {"retention.ms": "1234567"})
    confluent.create_partitions(broker.bootstrap, topic, 9)
    broker.kill()
    broker.start()
    assert confluent.partitions(broker.bootstrap, topic) == 9
    assert confluent.configs(broker.bootstrap, topic)["retention.ms"] == "1234567"


def test_consumer_stays_over_a_restart(broker: Broker, clients: Callable[[str], Client], topic: str) -> None:
    """An open consumer reads on where it was."""
    for name in ("confluent-kafka", "java", "franz-go"):
        client = clients(name)
        producer = client.producer(broker.bootstrap, idempotent=True)
        offsets = producer.send(topic, numbered(10))
        consumer = client.consumer(broker.bootstrap, topic, offset=offsets[0])
        assert consumer.read(10) == at_offsets(numbered(10), offsets)
        broker.restart()
        offsets = producer.send(topic, numbered(10, first=10))
        assert consumer.read(10) == at_offsets(numbered(10, first=10), offsets), name
        consumer.close()
        producer.close()
