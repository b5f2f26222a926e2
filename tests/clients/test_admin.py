"""Topics made, described, grown and deleted by every library's admin client; topics that make themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.clients.client import Client, ClientError
from tests.clients.records import EPOCH_MS, Record, at_offsets, numbered

UNKNOWN_TOPIC_OR_PARTITION = 3
INVALID_TOPIC_EXCEPTION = 17
TOPIC_ALREADY_EXISTS = 36
INVALID_PARTITIONS = 37
INVALID_CONFIG = 40


def partitions_in_the_end(client: Client, bootstrap: str, topic: str, wanted: int) -> int:
    """How many partitions a topic has; a cluster may need a moment to tell all its nodes.

    Asking for a topic that may be gone is left to librdkafka: aiokafka's question would make it.
    """
    deadline = time.monotonic() + 10
    while True:
        try:
            found = client.partitions(bootstrap, topic)
        except ClientError as failed:
            if failed.code != UNKNOWN_TOPIC_OR_PARTITION:
                raise
            found = 0
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_topic_is_created_grown_and_deleted(
    bootstrap: str, admin: Client, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    admin.create_topic(bootstrap, topic, 3)
    assert partitions_in_the_end(admin, bootstrap, topic, 3) == 3
    with pytest.raises(ClientError) as refused:
        admin.create_topic(bootstrap, topic, 1)
    assert refused.value.code == TOPIC_ALREADY_EXISTS
    with pytest.raises(ClientError) as refused:
        admin.create_partitions(bootstrap, topic, 2)
    assert refused.value.code == INVALID_PARTITIONS
    admin.create_partitions(bootstrap, topic, 5)
    assert partitions_in_the_end(admin, bootstrap, topic, 5) == 5
    records = numbered(10)
    offsets = admin.produce(bootstrap, topic, records, partition=4)
    assert admin.consume(bootstrap, topic, 10, partition=4) == at_offsets(records, offsets)
    admin.delete_topic(bootstrap, topic)
    assert partitions_in_the_end(confluent, bootstrap, topic, 0) == 0
    with pytest.raises(ClientError) as refused:
        admin.delete_topic(bootstrap, topic)
    assert refused.value.code == UNKNOWN_TOPIC_OR_PARTITION


def test_deleted_topic_comes_back_empty(
    bootstrap: str, admin: Client, confluent: Client, unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    for value in (b"first", b"second"):
        admin.create_topic(bootstrap, topic)
        assert partitions_in_the_end(admin, bootstrap, topic, 1) == 1
        assert admin.watermarks(bootstrap, topic) == (0, 0)
        record = Record(None, value, (), EPOCH_MS)
        assert admin.produce(bootstrap, topic, [record]) == [0]
        assert [read.value for read in admin.consume(bootstrap, topic, 1)] == [value]
        admin.delete_topic(bootstrap, topic)
        assert partitions_in_the_end(confluent, bootstrap, topic, 0) == 0


def test_configs_are_checked_kept_and_described(bootstrap: str, admin: Client, unused_topic: Callable[[], str]) -> None:
    topic = unused_topic()
    chosen = {"retention.ms": "86400000", "cleanup.policy": "compact,delete", "max.message.bytes": "2097152"}
    admin.create_topic(bootstrap, topic, 1, chosen)
    assert partitions_in_the_end(admin, bootstrap, topic, 1) == 1
    described = admin.configs(bootstrap, topic)
    expected = {**chosen, "compression.type": "producer", "message.timestamp.type": "CreateTime"}
    assert {name: described[name] for name in expected} == expected


@pytest.mark.parametrize(
    "configs", [{"retention.ms": "soon"}, {"no.such.config": "1"}, {"cleanup.policy": "shred"}, {"segment.bytes": "-1"}]
)
def test_invalid_config_is_refused(
    bootstrap: str, admin: Client, confluent: Client, configs: dict[str, str], unused_topic: Callable[[], str]
) -> None:
    topic = unused_topic()
    with pytest.raises(ClientError) as refused:
        admin.create_topic(bootstrap, topic, 1, configs)
    assert refused.value.code == INVALID_CONFIG
    with pytest.raises(ClientError) as refused:
        confluent.partitions(bootstrap, topic)
    assert refused.value.code == UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("name", ["with space", "ümlaut", "x" * 250, ".."])
def test_invalid_name_is_refused(bootstrap: str, confluent: Client, name: str) -> None:
    with pytest.raises(ClientError) as refused:
        confluent.create_topic(bootstrap, name)
    assert refused.value.code == INVALID_TOPIC_EXCEPTION


@pytest.mark.parametrize("count", [0, -2])
def test_invalid_number_of_partitions_is_refused(
    bootstrap: str, clients: Callable[[str], Client], count: int, unused_topic: Callable[[], str]
) -> None:
    with pytest.raises(ClientError) as refused:
        clients("franz-go").create_topic(bootstrap, unused_topic(), count)
    assert refused.value.code == INVALID_PARTITIONS


def test_producing_makes_the_topic(bootstrap: str, client: Client, unused_topic: Callable[[], str]) -> None:
    topic = unused_topic()
    records = numbered(10)
    offsets = client.produce(bootstrap, topic, records)
    read = client.consume(bootstrap, topic, 10)
    assert [(record.value, record.offset) for record in read] == list(
        zip([record.value for record in records], offsets, strict=True)
    )
