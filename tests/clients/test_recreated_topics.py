"""A topic is deleted and made again under open clients: what they write and read then is the new topic's."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import confluent_kafka
import pytest
from tests.clients.client import Client, ClientError, Producer
from tests.clients.records import numbered

RECORDS = 20
PATIENCE_S = 60.0
TOPIC_ALREADY_EXISTS = 36
UNKNOWN_TOPIC_ID = 100


def is_empty(client: Client, bootstrap: str, topic: str) -> bool:
    try:
        return client.watermarks(bootstrap, topic) == (0, 0)
    except confluent_kafka.KafkaException:  # its leader is not ready
        return False


def make_again(client: Client, bootstrap: str, topic: str) -> None:
    """Unless an open client that asked for it was first; Apache Kafka answers before the old one's log is gone."""
    try:
        client.create_topic(bootstrap, topic)
    except ClientError as failed:
        if failed.code != TOPIC_ALREADY_EXISTS:
            raise
    deadline = time.monotonic() + PATIENCE_S
    while not is_empty(client, bootstrap, topic):
        assert time.monotonic() < deadline, "the old topic is still there"
        time.sleep(0.05)  # nothing tells us that it is gone


def sent_in_the_end(producer: Producer, topic: str, first: int) -> list[int]:
    """The offsets of records that an open producer sends to the new topic; its first tries may hear of the old one."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return producer.send(topic, numbered(RECORDS, first=first))
        except ClientError:
            if time.monotonic() > deadline:
                raise


def test_open_clients_go_on_with_the_new_topic(
    bootstrap: str, open_client: Client, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic)
    with ExitStack() as stack:
        producer = stack.enter_context(closing(open_client.producer(bootstrap)))
        consumer = stack.enter_context(closing(open_client.consumer(bootstrap, topic)))
        assert producer.send(topic, numbered(RECORDS)) == list(range(RECORDS))
        assert len(consumer.read(RECORDS)) == RECORDS
        confluent.delete_topic(bootstrap, topic)
        make_again(confluent, bootstrap, topic)
        if open_client.name == "franz-go":
            # It keeps the id that it knows and fails, with Apache Kafka too, until the application lets the topic go.
            with pytest.raises(ClientError) as refused:
                producer.send(topic, numbered(1))
            assert refused.value.code == UNKNOWN_TOPIC_ID
            producer = stack.enter_context(closing(open_client.producer(bootstrap)))
            consumer = stack.enter_context(closing(open_client.consumer(bootstrap, topic)))
        offsets = sent_in_the_end(producer, topic, first=1000)
        # A try that failed for its producer may still have written.
        assert offsets == list(range(offsets[0], offsets[0] + RECORDS))
        values = [record.value for record in confluent.consume(bootstrap, topic, offsets[-1] + 1)]
        expected = [record.value for record in numbered(RECORDS, first=1000)]
        assert set(values) == set(expected) and values[-RECORDS:] == expected
        consumer.seek(0)
        read = [record.value for record in consumer.read(len(values))]
    assert read[: len(values)] == values
