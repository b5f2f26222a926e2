"""The topics as group machines see them: images that change only when something in them has changed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from pg_kafka.coordinator.group_steps import TopicImage
from pg_kafka.storage.topics import Topic, Topics, TopicsWatcher


class TopicCatalogue(TopicsWatcher):
    """Follows `topics`; `on_change` is called after each change."""

    def __init__(self, topics: Topics, on_change: Callable[[], None]) -> None:
        self.by_name: dict[str, TopicImage] = {}
        self.by_uuid: dict[UUID, TopicImage] = {}
        self._topics = topics
        self._on_change = on_change
        self.permissions = 0
        self.see: Callable[[str, str, frozenset[str]], frozenset[str]] | None = None
        for topic in topics.by_id.values():
            self._set(topic)
        topics.watch(self)

    def seen_by(self, principal: str, host: str, names: frozenset[str]) -> frozenset[str]:
        """The topics of these that somebody may describe."""
        return names if self.see is None else self.see(principal, host, names)

    def permissions_changed(self) -> None:
        self.permissions += 1
        self._on_change()

    def name_of(self, topic_id: int) -> str | None:
        """The name of the topic with this number; None when it is gone."""
        topic = self._topics.by_id.get(topic_id)
        return None if topic is None else topic.name

    def _set(self, topic: Topic) -> bool:
        """Take a topic in; False when it is known as it is."""
        image = TopicImage(topic.id, topic.uuid, topic.name, topic.partitions)
        if self.by_uuid.get(topic.uuid) == image:
            return False
        self.by_name[topic.name] = self.by_uuid[topic.uuid] = image
        return True

    def on_listed(self, topic: Topic) -> None:
        if self._set(topic):
            self._on_change()

    def on_unlisted(self, topic: Topic) -> None:
        self.by_uuid.pop(topic.uuid, None)
        self.by_name.pop(topic.name, None)
        self._on_change()
