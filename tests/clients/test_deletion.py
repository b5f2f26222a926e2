"""Records and topics deleted: by Kafka's tools and the libraries' admin clients, under clients that stay open."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import confluent_kafka
import confluent_kafka.admin
import kafka
import kafka.admin
import pytest
from tests.clients.client import Client, ClientError, Producer
from tests.clients.records import EPOCH_MS, Record, numbered
from tests.clients.test_admin import partitions_in_the_end
from tests.clients.test_java_tools import run

OFFSET_OUT_OF_RANGE, POLICY_VIOLATION, UNKNOWN_TOPIC_ID = 1, 44, 100


def sent_in_the_end(producer: Producer, topic: str) -> list[int]:
    """Offsets of two records; what the library knows of the old topic may have to go first."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return producer.send(topic, numbered(2))
        except ClientError:
            assert time.monotonic() < deadline


def test_kafka_delete_records(bootstrap: str, confluent: Client, topic: str, tmp_path: Path) -> None:
    confluent.produce(bootstrap, topic, numbered(10))
    wanted = tmp_path / "offsets.json"
    for offset, start in ((4, 4), (2, 4), (-1, 10)):
        asked = [{"topic": topic, "partition": 0, "offset": offset}]
        wanted.write_text(json.dumps({"version": 1, "partitions": asked}))
        output = run(
            "org.apache.kafka.tools.DeleteRecordsCommand",
            *("--bootstrap-server", bootstrap, "--offset-json-file", str(wanted)),
        )
        assert f"partition: {topic}-0\tlow_watermark: {start}" in output, output
        assert confluent.watermarks(bootstrap, topic) == (start, 10)
    assert confluent.produce(bootstrap, topic, numbered(1)) == [10]


def test_kafka_log_dirs(bootstrap: str, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, [Record(None, bytes(20_000), (), EPOCH_MS)])
    output = run(
        "org.apache.kafka.tools.LogDirsCommand", *("--bootstrap-server", bootstrap, "--describe", "--topic-list", topic)
    )
    (line,) = [line for line in output.splitlines() if line.startswith("{")]
    (broker,) = json.loads(line)["brokers"]
    (log_dir,) = broker["logDirs"]
    assert log_dir["error"] is None and log_dir["logDir"]
    (partition,) = log_dir["partitions"]
    assert partition["partition"] == f"{topic}-0" and 20_000 < partition["size"] < 21_000
    assert (partition["offsetLag"], partition["isFuture"]) == (0, False)


def test_confluent_deletes_records(bootstrap: str, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, numbered(6))
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    place = confluent_kafka.TopicPartition(topic, 0, 4)
    (deleted,) = admin.delete_records([place]).values()
    assert deleted.result(30).low_watermark == 4
    (beyond,) = admin.delete_records([confluent_kafka.TopicPartition(topic, 0, 7)]).values()
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        beyond.result(30)
    assert refused.value.args[0].code() == OFFSET_OUT_OF_RANGE


def test_compacted_topics_keep_their_records(
    bootstrap: str, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic, 1, {"cleanup.policy": "compact"})
    assert partitions_in_the_end(confluent, bootstrap, topic, 1) == 1
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    (deleted,) = admin.delete_records([confluent_kafka.TopicPartition(topic, 0, 0)]).values()
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        deleted.result(30)
    assert refused.value.args[0].code() == POLICY_VIOLATION


def test_kafka_python_deletes_records_and_describes_log_dirs(bootstrap: str, confluent: Client, topic: str) -> None:
    confluent.produce(bootstrap, topic, numbered(6))
    with closing(kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        place = kafka.TopicPartition(topic, 0)
        assert admin.delete_records({place: 5})[place]["low_watermark"] == 5
        assert topic in str(admin.describe_log_dirs())


def test_a_consumer_before_the_new_start_goes_on_at_it(
    bootstrap: str, open_client: Client, confluent: Client, topic: str
) -> None:
    confluent.produce(bootstrap, topic, numbered(20))
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})
    (deleted,) = admin.delete_records([confluent_kafka.TopicPartition(topic, 0, 12)]).values()
    assert deleted.result(30).low_watermark == 12
    assert open_client.watermarks(bootstrap, topic) == (12, 20)
    read = open_client.consume(bootstrap, topic, 8, offset=12)
    assert [record.offset for record in read] == list(range(12, 20))


def test_a_producer_that_stays_open_writes_to_the_topic_that_is_made_again(
    bootstrap: str, open_client: Client, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    confluent.create_topic(bootstrap, topic)
    assert partitions_in_the_end(confluent, bootstrap, topic, 1) == 1
    with closing(open_client.producer(bootstrap)) as producer:
        assert producer.send(topic, numbered(3)) == [0, 1, 2]
        confluent.delete_topic(bootstrap, topic)
        assert partitions_in_the_end(confluent, bootstrap, topic, 0) == 0
        confluent.create_topic(bootstrap, topic)
        assert partitions_in_the_end(confluent, bootstrap, topic, 1) == 1
        if open_client.name == "franz-go":
            # It leaves this to its application, which has to purge the topic from the client, as with Kafka.
            with pytest.raises(ClientError) as refused:
                producer.send(topic, numbered(2))
            assert refused.value.code == UNKNOWN_TOPIC_ID
            offsets = open_client.produce(bootstrap, topic, numbered(2))
        else:
            offsets = sent_in_the_end(producer, topic)
    assert offsets == [0, 1]
    assert [record.offset for record in confluent.consume(bootstrap, topic, 2)] == [0, 1]
