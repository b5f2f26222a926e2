"""The catalogue of topics: in memory for every request, written before it is believed.

The broker that leads is the only writer of `kafka.topics`; the copy here is read at take-over and changes only after the
database has committed. Creating a topic is one INSERT, without DDL; its view is made by the janitor moments later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from pg_kafka.config import Config
from pg_kafka.coordinator import topic_configs
from pg_kafka.coordinator.topic_configs import TopicSettings
from pg_kafka.storage import queries
from pg_kafka.storage.control import ControlSession
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("topics")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. `configs` are those that were set; `settings` are the values in force. `series` is where it began."""

    id: int
    name: str
    uuid: UUID
    partitions: int
    configs: Mapping[str, str]
    settings: TopicSettings
    series: int


@dataclass(frozen=True, slots=True)
class NewTopic:
    """What CreateTopics or auto-creation asks for; checked by the handler."""

    name: str
    partitions: int
    configs: Mapping[str, str]


class Topics:
    """All topics by name, uuid and id."""

    def __init__(self, config: Config, control: ControlSession) -> None:
        self._config = config
        self._control = control
        self.by_name: dict[str, Topic] = {}
        self.by_uuid: dict[UUID, Topic] = {}
        self.by_id: dict[int, Topic] = {}
        # Set by the log, the janitor and the coordinator of groups, which come after the catalogue.
        self.close_partitions: Callable[[Sequence[Topic]], Awaitable[None]] = _nothing
        self.reopen_partitions: Callable[[Sequence[Topic]], None] = _ignore
        self.on_change: Callable[[Topic], None] = _ignore
        self.on_views_wanted: Callable[[], None] = _no_one
        self.on_listed: Callable[[Topic], None] = _ignore
        self.on_unlisted: Callable[[Topic], None] = _ignore
        self.leaving: set[int] = set()  # being deleted: out of the catalogue, and back in it when that fails
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read the catalogue afresh; raises StorageError."""
        rows = await self._control.fetch(SQL["all"])
        self.by_name.clear()
        self.by_uuid.clear()
        self.by_id.clear()
        for row in rows:
            self._put(self._topic(row))

    def _topic(self, row: asyncpg.Record) -> Topic:
        configs: dict[str, str] = json.loads(row["configs"])
        return Topic(
            row["id"],
            row["name"],
            row["uuid"],
            row["partitions"],
            configs,
            topic_configs.effective(configs, self._config),
            row["series"],
        )

    def _put(self, topic: Topic) -> None:
        self.by_name[topic.name] = topic
        self.by_uuid[topic.uuid] = topic
        self.by_id[topic.id] = topic
        self.on_listed(topic)

    def _drop(self, topic: Topic) -> None:
        self.by_name.pop(topic.name, None)
        self.by_uuid.pop(topic.uuid, None)
        self.by_id.pop(topic.id, None)
        self.on_unlisted(topic)

    async def create(self, specs: Sequence[NewTopic]) -> list[Topic | int]:
        """Create topics in one transaction: for each a Topic, or the error code TOPIC_ALREADY_EXISTS.

        Raises StorageError when the database does not answer; what was asked may then exist or not.
        """
        rows = await self._control.fetch(
            SQL["create"],
            [spec.name for spec in specs],
            [spec.partitions for spec in specs],
            [json.dumps(dict(spec.configs)) for spec in specs],
        )
        made = {row["name"]: self._topic(row) for row in rows}
        for topic in made.values():
            self._put(topic)
        if made:
            self.on_views_wanted()
        return [made.pop(spec.name, int(ErrorCode.TOPIC_ALREADY_EXISTS)) for spec in specs]

    async def delete(self, topics: Sequence[Topic]) -> None:
        """Hide topics at once; their lanes finish what is under way first. Raises StorageError."""
        async with self._changing:
            alive = [topic for topic in topics if topic.id in self.by_id]
            self.leaving.update(topic.id for topic in alive)
            for topic in alive:
                self._drop(topic)
            try:
                await self.close_partitions(alive)
                await self._control.execute(SQL["delete"], [topic.id for topic in alive])
            except BaseException:
                # Not known to be gone: serve it again; its partitions are loaded afresh when next used.
                for topic in alive:
                    self._put(topic)
                self.reopen_partitions(alive)
                raise
            finally:
                self.leaving.clear()
        self.on_views_wanted()

    async def grow(self, topic: Topic, partitions: int) -> Topic:
        """Add partitions up to the number given. Raises StorageError."""
        async with self._changing:
            await self._control.fetch(SQL["grow"], topic.id, partitions)
            return self._replace(topic, partitions=partitions)

    async def set_series(self, topic_id: int, series: int) -> None:
        """Record that a topic's rows go to its own series from now on. Raises StorageError."""
        async with self._changing:
            await self._control.execute(SQL["set_series"], topic_id, series)
            topic = self.by_id.get(topic_id)
            if topic is not None:
                self._replace(topic, series=series)

    def _replace(self, topic: Topic, **changes: Any) -> Topic:
        current = self.by_id.get(topic.id, topic)
        changed = Topic(
            current.id,
            current.name,
            current.uuid,
            changes.get("partitions", current.partitions),
            current.configs,
            current.settings,
            changes.get("series", current.series),
        )
        self._put(changed)
        self.on_change(changed)
        return changed


async def _nothing(_topics: Sequence[Topic]) -> None:
    return None


def _ignore(_topic: object) -> None:
    return None


def _no_one() -> None:
    return None
