"""Consumers that retention overtakes, and tools that ask where a log begins."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.records import Record
from tests.clients.test_java_tools import run
from tests.clients.test_packed_topics import query

SETTINGS = {"log.initial.task.delay.ms": "200", "log.retention.check.interval.ms": "200", "tail_bytes": "0"}
KEPT_BYTES = 100_000
VALUE = bytes(1000)
# Newest first.
ROWS = (
    "SELECT l.last_offset, l.wire_bytes AS bytes FROM kafka.log l JOIN kafka.topics t ON t.id = l.topic"
    " WHERE t.name = '{topic}' ORDER BY l.base_offset DESC"
)


@pytest.fixture
def retaining(broker: Broker, brokers: Callable[..., Broker]) -> Broker:
    if broker.flavour == "apache-kafka":
        pytest.skip("deletes whole segments, and looks first after half a minute")
    return brokers(broker.flavour, "retaining", SETTINGS)


def overtaken(broker: Broker, client: Client, topic: str) -> int:
    """Write more than is kept, and wait until retention has deleted all that it will; where the log begins then."""
    client.produce(broker.bootstrap, topic, [Record(None, VALUE) for _ in range(1000)])
    rows = query(broker.dsn(), ROWS.format(topic=topic))
    behind = 0
    for row in rows:
        if behind >= KEPT_BYTES:
            break
        behind += row["bytes"]
    expected = row["last_offset"] + 1
    assert 0 < expected < 1005
    deadline = time.monotonic() + 30
    while (begins := client.watermarks(broker.bootstrap, topic)[0]) != expected:
        assert time.monotonic() < deadline, (begins, expected)
        time.sleep(0.1)
    return int(expected)


def test_a_consumer_that_is_overtaken_goes_on_where_its_policy_says(
    retaining: Broker, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    confluent.create_topic(retaining.bootstrap, topic, 1, {"retention.bytes": str(KEPT_BYTES), "retention.ms": "-1"})
    confluent.produce(retaining.bootstrap, topic, [Record(None, b"first %d" % n) for n in range(5)])
    consumers = {}
    for policy in ("earliest", "latest", "error"):
        consumer = consumers[policy] = Consumer(
            {
                "bootstrap.servers": retaining.bootstrap,
                "group.id": policy,
                "auto.offset.reset": policy,
                "enable.auto.commit": False,
                "queued.min.messages": 1,
            }
        )
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = [message.value() for message in consumer.consume(5, 20)]
        assert found == [b"first %d" % n for n in range(5)]
        consumer.pause([TopicPartition(topic, 0)])
    start = overtaken(retaining, confluent, topic)
    for policy, consumer in consumers.items():
        consumer.seek(TopicPartition(topic, 0, 5))
        consumer.resume([TopicPartition(topic, 0)])
        if policy == "latest":
            # It asks for the end some time from now: what is written until it hears of it is not for it.
            deadline, message = time.monotonic() + 30, None
            while message is None and time.monotonic() < deadline:
                confluent.produce(retaining.bootstrap, topic, [Record(None, b"news")])
                message = consumer.poll(0.5)
            assert message is not None and message.error() is None and message.value() == b"news"
        else:
            message = consumer.poll(30)
            assert message is not None
            if policy == "earliest":
                assert message.error() is None and message.offset() == start
            else:
                assert message.error() is not None and message.error().name() == "_AUTO_OFFSET_RESET"
        consumer.close()


def test_java_and_its_tools_see_where_the_log_begins(
    retaining: Broker, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    confluent.create_topic(retaining.bootstrap, topic, 1, {"retention.bytes": str(KEPT_BYTES), "retention.ms": "-1"})
    start = overtaken(retaining, confluent, topic)
    for when, offset in (("earliest", start), ("-2", start), ("latest", 1000)):
        output = run(
            "org.apache.kafka.tools.GetOffsetShell",
            *("--bootstrap-server", retaining.bootstrap, "--topic", topic, "--time", when),
        )
        assert output.split() == [f"{topic}:0:{offset}"]
    output = run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", retaining.bootstrap, "--topic", topic, "--partition", "0", "--offset", "0"),
        *("--max-messages", "1", "--timeout-ms", "60000", "--command-property", "auto.offset.reset=earliest"),
        *("--formatter-property", "print.offset=true", "--formatter-property", "print.value=false"),
    )
    assert output.split() == [f"Offset:{start}"]
