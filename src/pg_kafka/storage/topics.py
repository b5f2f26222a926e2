"""The catalogue of topics: in memory for every request, written before it is believed.

The copy here is read at take-over and changes only after the database has committed. What others change in
`kafka.topics`, by SQL, comes to `follow` within seconds. Creating a topic is one INSERT, without DDL; its view is made by
the janitor moments later.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg

from pg_kafka.config import topics as topic_configs
from pg_kafka.config.settings import Settings
from pg_kafka.config.topics import TopicSettings
from pg_kafka.storage import queries
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.config_texts import as_texts
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.sessions import unavailable
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("topics")
logger = logging.getLogger("pg_kafka.topics")

# Each is lost to somebody who changed the same topic meanwhile.
ALTER_ATTEMPTS = 10

# Other work of the event loop waits for so many at most, some milliseconds.
TOPICS_PER_TURN = 1_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. `configs` are those that were set; `settings` are the values in force. `series` is where it began.

    `keeps_batches` and `is_asked`: see `layouts.py`.
    """

    id: int
    name: str
    uuid: UUID
    partitions: int
    configs: Mapping[str, str]
    settings: TopicSettings
    series: int
    keeps_batches: bool = False
    is_asked: bool = False

    @property
    def is_packing(self) -> bool:
        """Are compressed batches stored as they come?"""
        return self.keeps_batches and not self.is_asked and self.settings.storage_layout != "rows"

    def keeps_packed(self, codec: int) -> bool:
        """Is a batch with this codec stored as it came? Not if consumers would get it compressed anew."""
        return codec != 0 and self.is_packing and self.settings.codec in (None, codec)


@dataclass(frozen=True, slots=True)
class NewTopic:
    """What CreateTopics or auto-creation asks for; checked by the handler."""

    name: str
    partitions: int
    configs: Mapping[str, str]


class TopicsWatcher:
    """Somebody who is told of changes of the catalogue; a subclass overrides what it needs."""

    def on_listed(self, topic: Topic) -> None:
        """It is there from now on, as it is here: it is new, or has changed, or is not deleted after all."""

    def on_unlisted(self, topic: Topic) -> None:
        """It is not there from now on; it may come back when its deletion fails."""

    async def before_leaving(self, topics: Sequence[Topic]) -> None:
        """They are going to be deleted: finish what is under way for them. Raises StorageError, which stops that."""

    def after_leaving(self, topics: Sequence[Topic]) -> None:
        """They are deleted, and will not come back."""


class Topics:
    """All topics by name, uuid and id."""

    def __init__(self, settings: Settings, control: ControlSession) -> None:
        self._settings = settings
        settings.watch(self._renew_settings)
        self._control = control
        self.by_name: dict[str, Topic] = {}
        self.by_uuid: dict[UUID, Topic] = {}
        self.by_id: dict[int, Topic] = {}
        self._watchers: list[TopicsWatcher] = []
        self.leaving: set[int] = set()  # being deleted: out of the catalogue, and back in it when that fails
        self._changing = asyncio.Lock()

    def name_of(self, uuid: UUID) -> str | None:
        topic = self.by_uuid.get(uuid)
        return None if topic is None else topic.name

    def watch(self, watcher: TopicsWatcher) -> None:
        """Tell it of every change from now on."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Read the catalogue afresh; raises StorageError."""
        rows = await self._control.fetch(SQL["all"])
        self.by_name.clear()
        self.by_uuid.clear()
        self.by_id.clear()
        for row in rows:
            self._put(self._topic(row))

    def _topic(self, row: asyncpg.Record) -> Topic:
        configs = as_texts(json.loads(row["configs"]))
        return Topic(
            row["id"],
            row["name"],
            row["uuid"],
            row["partitions"],
            configs,
            topic_configs.effective(configs, self._settings.current),
            row["series"],
            row["keeps_batches"],
            row["is_asked"],
        )

    def _put(self, topic: Topic) -> None:
        self.by_name[topic.name] = topic
        self.by_uuid[topic.uuid] = topic
        self.by_id[topic.id] = topic
        for watcher in self._watchers:
            watcher.on_listed(topic)

    def _drop(self, topic: Topic) -> None:
        self.by_name.pop(topic.name, None)
        self.by_uuid.pop(topic.uuid, None)
        self.by_id.pop(topic.id, None)
        for watcher in self._watchers:
            watcher.on_unlisted(topic)

    async def newest_change(self) -> int:
        """The number of the newest change of the catalogue, whoever has made it. Raises StorageError."""
        rows = await self._control.fetch(SQL["newest_change"])
        return int(rows[0]["number"])

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
        return [made.pop(spec.name, int(ErrorCode.TOPIC_ALREADY_EXISTS)) for spec in specs]

    async def delete(self, topics: Sequence[Topic]) -> None:
        """Hide topics at once; their lanes finish what is under way first. Raises StorageError."""
        async with self._changing:
            alive = [topic for topic in topics if topic.id in self.by_id]
            await self._take_out(alive, lambda: self._control.execute(SQL["delete"], [topic.id for topic in alive]))

    async def _take_out(self, topics: Sequence[Topic], delete: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve topics no more, and delete them unless they are deleted. Within `_changing`."""
        self.leaving.update(topic.id for topic in topics)
        for topic in topics:
            self._drop(topic)
        try:
            for watcher in self._watchers:
                await watcher.before_leaving(topics)
            if delete is not None:
                await delete()
        except BaseException:
            # Not known to be gone: serve it again; its partitions are loaded afresh when next used.
            for topic in topics:
                self._put(topic)
            raise
        finally:
            self.leaving.clear()
        for watcher in self._watchers:
            watcher.after_leaving(topics)

    async def grow(self, topic: Topic, partitions: int) -> Topic:
        """Add partitions up to the number given. Raises StorageError."""
        async with self._changing:
            await self._control.fetch(SQL["grow"], topic.id, partitions)
            return self._replace(topic, partitions=partitions)

    async def alter(
        self, topic: Topic, change: Callable[[Mapping[str, str]], dict[str, str]], *, validate_only: bool = False
    ) -> Topic | None:
        """Set what `change` makes of what is set for a topic; the topic afterwards, None when it is gone.

        What somebody else sets at the same moment by SQL is not lost: then `change` is asked again. Raises StorageError,
        and what `change` raises.
        """
        async with self._changing:
            for _ in range(ALTER_ATTEMPTS):
                rows = await self._control.fetch(SQL["some"], [topic.id])
                if not rows or topic.id not in self.by_id:
                    return None
                before = as_texts(json.loads(rows[0]["configs"]))
                configs = change(before)
                if validate_only:
                    return topic
                if configs != before:
                    text = json.dumps(configs)
                    if not await self._control.fetch(SQL["set_configs"], topic.id, text, rows[0]["configs"]):
                        continue
                settings = topic_configs.effective(configs, self._settings.current)
                return self._replace(topic, configs=configs, settings=settings)
        raise unavailable(f"the configs of topic {topic.name} are changed by others all the time")

    async def set_series(self, topic_id: int, series: int) -> None:
        """Record that a topic's rows go to its own series from now on. Raises StorageError."""
        async with self._changing:
            await self._control.execute(SQL["set_series"], topic_id, series)
            topic = self.by_id.get(topic_id)
            if topic is not None:
                self._replace(topic, series=series)

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed in the database; None: whatever it was. Raises StorageError.

        What this broker has changed itself is in memory already, or will be when its own statement returns.
        """
        async with self._changing:
            known = set(self.by_id)
            if changes is None:
                asked = known
                rows = await self._control.fetch(SQL["all"])
            else:
                # The last one counts: what is known may be created, and what is not known may be deleted.
                last = {change.object_id: change.what for change in changes if change.kind == "topic"}
                asked = {
                    id_
                    for id_, what in last.items()
                    if id_ is not None and (what == "changed" or (id_ in known) is (what == "deleted"))
                }
                if not asked:
                    return
                rows = await self._control.fetch(SQL["some"], sorted(asked))
            vanished = asked - {row["id"] for row in rows}
            gone = [self.by_id[id_] for id_ in vanished if id_ in self.by_id]
            if gone:  # first, as another one of the same name may be there
                await self._take_out(gone)
            changed = []
            for number, row in enumerate(rows, 1):
                changed += self._take_in(row)
                if number % TOPICS_PER_TURN == 0:
                    await asyncio.sleep(0)
        if gone or changed:
            names = sorted(topic.name for topic in (*gone, *changed))
            logger.info("topics were changed in the database", extra={"topics": names[:10], "count": len(names)})

    def _take_in(self, row: asyncpg.Record) -> list[Topic]:
        """Believe what the database says about a topic; empty when that is known."""
        current = self.by_id.get(row["id"])
        if current is None:
            stored = self._topic(row)
            self._put(stored)
            return [stored]
        configs = as_texts(json.loads(row["configs"]))
        # Partitions that are served do not vanish.
        partitions = max(row["partitions"], current.partitions)
        if (configs, partitions) == (current.configs, current.partitions):
            return []
        settings = topic_configs.effective(configs, self._settings.current)
        return [self._replace(current, configs=configs, settings=settings, partitions=partitions)]

    def _renew_settings(self) -> None:
        """The broker's settings have changed: what topics do not set themselves follows."""
        for topic in list(self.by_id.values()):
            settings = topic_configs.effective(topic.configs, self._settings.current)
            if settings != topic.settings:
                self._replace(topic, settings=settings)

    def show_layout(self, topic_id: int, *, keeps_batches: bool, is_asked: bool) -> None:
        """What the database says of a topic has changed."""
        topic = self.by_id.get(topic_id)
        if topic is not None:
            self._replace(topic, keeps_batches=keeps_batches, is_asked=is_asked)

    def _replace(self, topic: Topic, **changes: Any) -> Topic:
        changed = replace(self.by_id.get(topic.id, topic), **changes)
        self._put(changed)
        return changed
