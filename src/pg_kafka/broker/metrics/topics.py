"""Brokers, topics and partitions, by topic or by partition, bounded in number."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from pg_kafka.broker.context import Broker
from pg_kafka.broker.metrics.walks import Walk
from pg_kafka.config.address import Address
from pg_kafka.metrics.catalogue import process
from pg_kafka.metrics.catalogue import topics as catalogue
from pg_kafka.metrics.counters import OTHER
from pg_kafka.metrics.families import Labels, many, one
from pg_kafka.metrics.series import Bounds, Chosen, bounded
from pg_kafka.storage.log import Log
from pg_kafka.storage.topic_figures import PartitionFigures, TopicFigures
from pg_kafka.storage.topics import Topics

PARTITIONS_PER_TURN = 500
BY_TOPIC: Labels = ("topic",)
BY_PARTITION: Labels = ("topic", "partition")


@dataclass(slots=True)
class Sums:
    """The figures of all topics, by topic or by topic and partition; in the end no more of them than may be."""

    labels: Labels
    count: int = 0  # of partitions
    partitions: dict[Labels, float] = field(default_factory=dict)  # these two always by topic
    topic_bytes: dict[Labels, float] = field(default_factory=dict)
    ends: dict[Labels, float] = field(default_factory=dict)
    starts: dict[Labels, float] = field(default_factory=dict)
    bytes: dict[Labels, float] = field(default_factory=dict)
    replicas: dict[Labels, float] = field(default_factory=dict)
    left_out: dict[Labels, float] = field(default_factory=dict)


class TopicsSource:
    """Of one incarnation that leads. `walk.run` and `figures.run` go on beside it."""

    def __init__(self, broker: Broker, topics: Topics, log: Log, figures: TopicFigures, bounds: Bounds) -> None:
        self._broker = broker
        self._topics = topics
        self._log = log
        self._figures = figures
        self._bounds = bounds
        self._chosen_topics = Chosen()
        self._chosen_partitions = Chosen()
        self.walk = Walk(self._sums, self._count, Sums(BY_TOPIC))

    def families(self) -> Iterable[Metric]:
        yield from self._brokers()
        yield one(catalogue.TOPICS, len(self._topics.by_id))
        yield one(catalogue.LOADED, self._log.loaded_partitions)
        yield one(catalogue.FIGURES_AGE, self._figures.age_s)
        yield from self._of_topics(self.walk.look())

    def _brokers(self) -> Iterable[Metric]:
        listener = self._broker.listeners[0]
        own = listener.advertised or listener.address
        found: dict[Labels, float] = {(str(self._broker.node_id), str(Address(own.host, own.port))): 1.0}
        for peer in self._broker.waiting():
            found[str(peer.node_id), str(Address(peer.host, peer.port))] = 1.0
        yield one(catalogue.BROKERS, len(found))
        yield many(catalogue.BROKER_INFO, found)

    def _of_topics(self, sums: Sums) -> Iterable[Metric]:
        yield one(catalogue.PARTITIONS_OF_ALL, sums.count)
        yield many(catalogue.PARTITIONS, sums.partitions)
        for family, values in (
            (catalogue.CURRENT_OFFSET, sums.ends),
            (catalogue.OLDEST_OFFSET, sums.starts),
            (catalogue.BYTES, sums.bytes),
            (catalogue.REPLICAS, sums.replicas),
            (catalogue.IN_SYNC, sums.replicas),
            (catalogue.IS_PREFERRED, sums.replicas),
            (catalogue.UNDER_REPLICATED, dict.fromkeys(sums.replicas, 0.0)),
        ):
            yield many(family, values, labels=sums.labels)
        if sums.labels == BY_PARTITION:
            led = [labels for labels in sums.replicas if OTHER not in labels]
            yield many(catalogue.LEADER, dict.fromkeys(led, float(self._broker.node_id)))
        yield many(process.LEFT_OUT, sums.left_out)

    def _count(self) -> int:
        return sum(topic.partitions for topic in self._topics.by_id.values())

    def _sums(self) -> Generator[None, None, Sums]:
        sums = Sums(BY_PARTITION if self._bounds.by_partition else BY_TOPIC)
        for topic in list(self._topics.by_id.values()):
            of_topic = (topic.name,)
            found = [self._figures.of(topic, index) for index in range(topic.partitions)]
            sums.partitions[of_topic] = topic.partitions
            sums.topic_bytes[of_topic] = sum(each.bytes for each in found if each is not None)
            if sums.labels == BY_PARTITION:
                for index, each in enumerate(found):
                    self._add(sums, (topic.name, str(index)), 1, [each])
            else:
                self._add(sums, of_topic, topic.partitions, found)
            if sums.count // PARTITIONS_PER_TURN != (sums.count + topic.partitions) // PARTITIONS_PER_TURN:
                yield
            sums.count += topic.partitions
        yield from self._bound(sums)
        return sums

    def _bound(self, sums: Sums) -> Generator[None, None, None]:
        """Keep the largest topics, and partitions; sum up the others."""
        most = self._bounds.most
        topics = chosen = self._chosen_topics.choose(sums.topic_bytes, most)
        sums.left_out["topics",] = self._chosen_topics.left_out
        if sums.labels == BY_PARTITION:
            chosen = self._chosen_partitions.choose(sums.bytes, most)
            sums.left_out["partitions",] = self._chosen_partitions.left_out
        yield
        sums.partitions = bounded(sums.partitions, topics)
        for name in ("ends", "starts", "bytes", "replicas"):
            yield
            setattr(sums, name, bounded(getattr(sums, name), chosen))

    @staticmethod
    def _add(sums: Sums, labels: Labels, partitions: int, found: Sequence[PartitionFigures | None]) -> None:
        known = [each for each in found if each is not None]
        sums.replicas[labels] = partitions
        sums.bytes[labels] = sum(each.bytes for each in known)
        if len(known) == len(found):  # a sum without one of them would jump when it is known
            sums.ends[labels] = sum(each.end for each in known)
            sums.starts[labels] = sum(each.start for each in known)
