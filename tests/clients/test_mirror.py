"""MirrorMaker 2 copies topics, their configs and the offsets of groups from one broker to another, and is killed."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import CLEANING, SETTINGS
from tests.clients.records import Record, numbered
from tests.clients.test_connect import CONNECT_DIR
from tests.kafka_reference import ToolMissing, end, java, spawn, tail

pytestmark = pytest.mark.timeout(600)

PARTITIONS = 2
RECORDS = 150
WAIT_S = 150.0
_numbers = itertools.count(1)


class Mirror:
    """MirrorMaker's process, from the broker `a` to the broker `b`."""

    def __init__(self, folder: Path, a: str, b: str, topic: str, group: str) -> None:
        self.log = folder / "mirror.log"
        self._properties = folder / "mirror.properties"
        every_second = (
            "refresh.topics",
            "refresh.groups",
            "sync.topic.configs",
            "sync.group.offsets",
            "emit.checkpoints",
        )
        ones = ("checkpoints.topic", "heartbeats.topic", "offset-syncs.topic")
        storages = ("offset.storage", "status.storage", "config.storage")
        values = {
            "clusters": "a,b",
            "a.bootstrap.servers": a,
            "b.bootstrap.servers": b,
            "a->b.enabled": "true",
            "a->b.topics": topic,
            "a->b.groups": group,
            "b->a.enabled": "false",
            "replication.factor": "1",
            "sync.group.offsets.enabled": "true",
            "offset.lag.max": "0",
            "b.exactly.once.source.support": "enabled",
            "offset.flush.interval.ms": "500",
            "b.session.timeout.ms": "4000",
            "b.heartbeat.interval.ms": "500",
            "b.scheduled.rebalance.max.delay.ms": "0",
            **{f"{name}.interval.seconds": "1" for name in every_second},
            **{f"{name}.replication.factor": "1" for name in (*ones, *storages)},
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx300m")
        main = "org.apache.kafka.connect.mirror.MirrorMaker"
        self._process = spawn(java(main, str(self._properties), options=options, libraries=CONNECT_DIR), self.log)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            process, self._process = self._process, None
            end(process, signal.SIGKILL)

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert self._process is not None and self._process.poll() is None, tail(self.log)
            assert time.monotonic() < deadline, f"not after {WAIT_S:.0f} s: {what}\n{tail(self.log)}"
            time.sleep(0.1)


@pytest.fixture
def ends(group_flavour: str, brokers: Callable[..., Broker]) -> tuple[Broker, Broker]:
    """The broker that is copied from, and the one that is copied to."""
    try:
        return brokers(group_flavour, "groups", SETTINGS), brokers(group_flavour, "streams", CLEANING)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture
def begin(ends: tuple[Broker, Broker], tmp_path: Path) -> Iterator[Callable[[str, str], Mirror]]:
    begun: list[Mirror] = []

    def make(topic: str, group: str) -> Mirror:
        try:
            begun.append(Mirror(tmp_path, ends[0].bootstrap, ends[1].bootstrap, topic, group))
            begun[-1].start()
        except ToolMissing as missing:
            unavailable(missing)
        return begun[-1]

    yield make
    for mirror in begun:
        mirror.kill()


def content(records: list[Record]) -> list[tuple[object, ...]]:
    return [(record.key, record.value, record.headers, record.timestamp) for record in records]


def test_topics_and_groups_are_mirrored(
    ends: tuple[Broker, Broker], confluent: Client, begin: Callable[[str, str], Mirror]
) -> None:
    a, b = (broker.bootstrap for broker in ends)
    topic, group = f"mirrored-{next(_numbers)}", f"mirrored-readers-{next(_numbers)}"
    copy = f"a.{topic}"
    confluent.create_topic(a, topic, PARTITIONS, {"retention.ms": "123456789", "cleanup.policy": "compact"})
    sent = numbered(3 * RECORDS)
    for partition in range(PARTITIONS):
        confluent.produce(a, topic, sent[:RECORDS], partition=partition)
    admin = {bootstrap: AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}) for bootstrap in (a, b)}
    read = [confluent_kafka.TopicPartition(topic, index, RECORDS) for index in range(PARTITIONS)]
    of_group = confluent_kafka.ConsumerGroupTopicPartitions(group, read)
    admin[a].alter_consumer_group_offsets([of_group])[group].result(30)

    mirror = begin(topic, group)
    mirror.wait("the copy is there", lambda: copy in admin[b].list_topics(timeout=30).topics)
    for partition in range(PARTITIONS):
        assert content(confluent.consume(b, copy, RECORDS, partition=partition)) == content(sent[:RECORDS])
    configs = confluent.configs(b, copy)
    assert (configs["retention.ms"], configs["cleanup.policy"]) == ("123456789", "compact")

    def translated() -> list[int]:
        """Where the group goes on in the copy."""
        asked = confluent_kafka.ConsumerGroupTopicPartitions(
            group, [confluent_kafka.TopicPartition(copy, index) for index in range(PARTITIONS)]
        )
        answer = admin[b].list_consumer_group_offsets([asked])[group].result(30)
        return [place.offset for place in answer.topic_partitions]

    mirror.wait("the group has offsets in the copy", lambda: min(translated()) > 0)

    mirror.kill()
    for partition in range(PARTITIONS):
        confluent.produce(a, topic, sent[RECORDS:], partition=partition)
    confluent.create_partitions(a, topic, PARTITIONS + 1)
    mirror.start()
    for partition in range(PARTITIONS):
        assert content(confluent.consume(b, copy, 3 * RECORDS, partition=partition)) == content(sent)
    mirror.wait("the copy has the new partition", lambda: confluent.partitions(b, copy) == PARTITIONS + 1)

    for partition, offset in enumerate(translated()):
        (first,) = confluent.consume(b, copy, 1, partition=partition, offset=offset)
        assert 0 < [record.value for record in sent].index(first.value) <= RECORDS, "the group skips no record"
