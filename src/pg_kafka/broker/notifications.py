"""Notifies the channels of topics when records have come, for topics that somebody has asked for (kafka.notify_on).

    notifications = Notifications(store, topics.by_id, log)
    task = supervised(notifications.run(), ...)
    await notifications.follow(changes)         somebody has asked, or asks no more

NOTIFY takes a lock of the whole server at its commit, so it is never part of a commit of records: partitions of these topics
tell this task, which notifies once for all that has come since its last time. Of other topics nobody hears anything here.
Where something may have been missed (a new wish, a partition that is loaded again) the channel is notified as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from pg_kafka.errors import StorageError
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.notifications import TopicNotifications
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.topics import Topic

logger = logging.getLogger("pg_kafka.notifications")

# Topics of which partitions could not be loaded are tried again, and new partitions are found, so often.
LOOK_S = 5.0
RETRY_S = 1.0
KIND = "notification"


class Partitions(Protocol):
    """What this needs of the log."""

    async def load(self, wanted: Sequence[tuple[Topic, int]]) -> list[Partition]: ...


class _Ear:
    """Waits for a partition as parked fetches do."""

    __slots__ = ("_notifications", "key")

    def __init__(self, notifications: Notifications, key: tuple[int, int]) -> None:
        self._notifications = notifications
        self.key = key

    def on_advance(self, partition: Partition, bytes_added: int) -> None:
        self._notifications.heard(self.key[0])

    def on_start_moved(self, partition: Partition) -> None:
        """Nothing has come."""

    def on_closed(self, partition: Partition) -> None:
        self._notifications.lost(self.key)


class Notifications:
    """See the module. Everything runs on one event loop."""

    def __init__(self, store: TopicNotifications, topics: Mapping[int, Topic], log: Partitions) -> None:
        self._store = store
        self._topics = topics
        self._log = log
        self._wanted: frozenset[int] = frozenset()
        self._ears: dict[tuple[int, int], tuple[_Ear, Partition]] = {}
        self._news: set[int] = set()
        self._something = asyncio.Event()
        self._is_attached = False

    async def load(self) -> None:
        """Read which topics are wanted. Raises StorageError."""
        self._wanted = await self._store.wanted()
        self._is_attached = False
        self._something.set()

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what somebody has changed; None: whatever it was. Raises StorageError."""
        if changes is None or any(change.kind == KIND for change in changes):
            await self.load()

    def heard(self, topic_id: int) -> None:
        """Something has come."""
        self._news.add(topic_id)
        self._something.set()

    def lost(self, key: tuple[int, int]) -> None:
        """The partition serves no more, or is loaded again."""
        self._ears.pop(key, None)
        self._is_attached = False
        self.heard(key[0])

    async def run(self) -> None:
        """Notify until cancelled."""
        is_failing = False
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._something.wait()
            except TimeoutError:
                self._is_attached = False
            self._something.clear()
            try:
                if not self._is_attached:
                    await self._attach()
                await self._notify()
            except StorageError as error:
                if not is_failing:
                    logger.warning("channels of topics cannot be notified", extra={"error": str(error)})
                is_failing = True
                self._something.set()
                await asyncio.sleep(RETRY_S)
            else:
                is_failing = False

    async def _notify(self) -> None:
        news = self._news & self._wanted
        self._news.clear()
        if news:
            try:
                await self._store.notify(news)
            except StorageError:
                self._news |= news
                raise

    async def _attach(self) -> None:
        """Have an ear at each partition of the topics that are wanted, and at no other."""
        self._is_attached = True
        for key, (ear, partition) in list(self._ears.items()):
            if key[0] not in self._wanted:
                partition.waiters.discard(ear)
                del self._ears[key]
        topics = [self._topics[topic_id] for topic_id in self._wanted if topic_id in self._topics]
        missing = [
            (topic, index)
            for topic in topics
            for index in range(topic.partitions)
            if (topic.id, index) not in self._ears
        ]
        try:
            partitions = await self._log.load(missing) if missing else []
        except StorageError:
            self._is_attached = False
            raise
        for (topic, index), partition in zip(missing, partitions, strict=True):
            if partition.is_closed:
                self._is_attached = False
                continue
            ear = _Ear(self, (topic.id, index))
            partition.waiters.add(ear)
            self._ears[topic.id, index] = (ear, partition)
            self._news.add(topic.id)
