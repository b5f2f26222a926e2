"""What one client library writes, every library reads back: same bytes, headers, timestamps, offsets, order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import confluent_kafka
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import CODECS, LONG_WAIT_MS, Client, ClientError
from tests.clients.conftest import LIBRARIES
from tests.clients.records import EPOCH_MS, SHAPES, Record, at_offsets, big, numbered

MESSAGE_TOO_LARGE = 10
OFFSET_OUT_OF_RANGE = 1


def seen_by(client: Client, records: list[Record]) -> list[Record]:
    """The records without what the library cannot show."""
    return records if client.reads_headers else [replace(record, headers=()) for record in records]


def assert_same(read: list[Record], expected: list[Record], timestamps: bool = True) -> None:
    """Equal, with a short message for long lists."""
    if not timestamps:
        read, expected = ([replace(record, timestamp=None) for record in records] for records in (read, expected))
    for found, wanted in zip(read, expected, strict=False):
        assert found == wanted
    assert len(read) == len(expected)


@pytest.mark.parametrize("reader", list(LIBRARIES))
def test_every_shape_of_record_in_every_codec(
    broker: Broker,
    client: Client,
    reader: str,
    clients: Callable[[str], Client],
    new_topic: Callable[..., str],
    once: dict[Any, Any],
) -> None:
    consumer = clients(reader)
    shapes = [record for record in SHAPES if client.can_send(record)]
    place = ("shapes", broker.flavour, client.name)
    if place not in once:  # written once, read by every library
        topic = new_topic(len(CODECS))
        for partition, codec in enumerate(CODECS):
            idempotent = partition % 2 == 0
            offsets = client.produce(
                broker.bootstrap, topic, shapes, partition=partition, codec=codec, idempotent=idempotent
            )
            assert offsets == list(range(len(shapes)))
        once[place] = topic
    for partition in range(len(CODECS)):
        read = consumer.consume(broker.bootstrap, once[place], len(shapes), partition=partition)
        expected = seen_by(consumer, at_offsets(shapes, range(len(shapes))))
        assert_same(read, expected, timestamps=client.sets_timestamps)


def test_20000_records_stay_in_order(bootstrap: str, client: Client, topic: str) -> None:
    records = numbered(20_000)
    offsets = client.produce(bootstrap, topic, records, codec="lz4")
    assert offsets == list(range(20_000))
    read = client.consume(bootstrap, topic, 20_000)
    assert_same(read, at_offsets(records, offsets), timestamps=client.sets_timestamps)


def test_records_of_megabytes(bootstrap: str, client: Client, new_topic: Callable[..., str]) -> None:
    topic = new_topic(1, {"max.message.bytes": "8388608"})
    small = Record(b"small", b"one", (), EPOCH_MS)
    records = [small, big(1_000_000), big(1 << 20, seed=2), small, big(5_000_000, seed=3), small]
    offsets = client.produce(bootstrap, topic, records, max_bytes=8_000_000)
    read = client.consume(bootstrap, topic, len(records))
    assert_same(read, at_offsets(records, offsets), timestamps=client.sets_timestamps)


def test_record_above_the_topics_limit_is_refused(bootstrap: str, client: Client, topic: str) -> None:
    client.produce(bootstrap, topic, [big(1_000_000)], max_bytes=8_000_000)
    with pytest.raises(ClientError) as refused:
        client.produce(bootstrap, topic, [big(1_100_000)], max_bytes=8_000_000)
    assert refused.value.code == MESSAGE_TOO_LARGE or client.name == "kcat"
    assert client.watermarks(bootstrap, topic) == (0, 1)


def test_seek_reads_again_from_any_offset(bootstrap: str, client: Client, topic: str) -> None:
    records = numbered(1000)
    expected = at_offsets(records, client.produce(bootstrap, topic, records, codec="gzip"))
    with closing(client.consumer(bootstrap, topic, offset=990)) as consumer:
        assert_same(consumer.read(10), expected[990:], timestamps=client.sets_timestamps)
        for offset in (0, 517, 999):
            consumer.seek(offset)
            assert_same(consumer.read(1)[:1], expected[offset : offset + 1], timestamps=client.sets_timestamps)


def test_offset_for_time_is_the_first_record_that_late(
    bootstrap: str, client: Client, confluent: Client, topic: str
) -> None:
    times = [100, 300, 200, 300, 500, 400]
    records = [Record(None, b"%d" % time, (), EPOCH_MS + time) for time in times]
    with closing(confluent.producer(bootstrap)) as producer:
        for record in records:  # a batch each
            producer.send(topic, [record])
    asked = {0: 0, 100: 0, 101: 1, 200: 1, 300: 1, 301: 4, 500: 4, 501: -1}
    found = {time: client.offset_for_time(bootstrap, topic, EPOCH_MS + time) for time in asked}
    assert found == asked


def test_offset_for_time_inside_a_batch(bootstrap: str, client: Client, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, numbered(3000, step_ms=10), codec="zstd")
    for place in (0, 1, 1234, 2999):
        assert client.offset_for_time(bootstrap, topic, EPOCH_MS + place * 10) == place
        assert client.offset_for_time(bootstrap, topic, EPOCH_MS + place * 10 - 9) == place


def test_watermarks_follow_the_log(bootstrap: str, client: Client, confluent: Client, new_topic: Any) -> None:
    topic = new_topic(2)
    assert client.watermarks(bootstrap, topic) == (0, 0)
    confluent.produce(bootstrap, topic, numbered(42))
    assert client.watermarks(bootstrap, topic) == (0, 42)
    assert client.watermarks(bootstrap, topic, 1) == (0, 0)


def test_parked_consumer_gets_a_record_when_it_is_committed(
    bootstrap: str, open_client: Client, confluent: Client, topic: str
) -> None:
    """The long poll lasts longer than the test waits for its end: what arrives was sent by the commit."""
    records = numbered(3)
    producer = confluent.producer(bootstrap)
    producer.send(topic, records[:1])
    with closing(producer), closing(open_client.consumer(bootstrap, topic, max_wait_ms=LONG_WAIT_MS)) as consumer:
        assert_same(consumer.read(1), at_offsets(records[:1], [0]))
        assert consumer.read(1, timeout_s=0.5) == []
        for place in (1, 2):
            producer.send(topic, records[place : place + 1])
            assert_same(consumer.read(1), at_offsets(records[place : place + 1], [place]))


def test_reading_past_the_end_is_out_of_range(bootstrap: str, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, numbered(5))
    with closing(confluent.consumer(bootstrap, topic, offset=6)) as consumer:
        with pytest.raises(ClientError) as refused:
            consumer.read(1)
    # librdkafka reports its own AUTO_OFFSET_RESET error, which names the broker's.
    assert refused.value.code in (OFFSET_OUT_OF_RANGE, confluent_kafka.KafkaError._AUTO_OFFSET_RESET)


def test_log_append_time_is_the_brokers_clock(bootstrap: str, confluent: Client, new_topic: Any) -> None:
    topic = new_topic(1, {"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)
    confluent.produce(bootstrap, topic, numbered(20), codec="snappy")
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False}
    )
    with closing(consumer):
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        messages = consumer.consume(20, timeout=60)
    assert [message.value() for message in messages] == [record.value for record in numbered(20)]
    assert {message.timestamp()[0] for message in messages} == {confluent_kafka.TIMESTAMP_LOG_APPEND_TIME}
    assert len({message.timestamp()[1] for message in messages}) == 1
    assert before <= messages[0].timestamp()[1] <= time.time() * 1000


@pytest.mark.parametrize("configs", [{"compression.type": codec} for codec in ("gzip", "zstd", "uncompressed")])
def test_topic_with_its_own_compression(
    bootstrap: str, configs: Mapping[str, str], clients: Callable[[str], Client], new_topic: Any
) -> None:
    topic = new_topic(1, configs)
    records = numbered(500)
    offsets = clients("confluent-kafka").produce(bootstrap, topic, records, codec="lz4")
    assert_same(clients("aiokafka").consume(bootstrap, topic, 500), at_offsets(records, offsets))
