"""The broker's settings in `kafka.settings`: read at the start, followed while it runs, changed for clients.

What is in force is written to `kafka.broker_configs`, where SQL sees it. Settings that cannot be changed while the broker
runs count when it starts.

    stored = StoredSettings(control, node_id)
    settings = await stored.start(config)
    await stored.follow(changes)                                    somebody has changed something
    await stored.alter(node_id, [(SET, "log.retention.ms", "1")])   a client wants to
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pg_kafka.config import Config
from pg_kafka.config import broker as broker_configs
from pg_kafka.config.broker import BROKER_KEYS, key_named
from pg_kafka.config.changes import Change
from pg_kafka.config.keys import InvalidChange, Key
from pg_kafka.config.load import ALL_NODES, Stored, with_database_settings, with_usable_settings
from pg_kafka.config.settings import Settings
from pg_kafka.errors import ConfigError
from pg_kafka.storage import catalogue_changes, queries
from pg_kafka.storage.control import ControlSession

SQL = queries.load("settings")
logger = logging.getLogger("pg_kafka.settings")


class StoredSettings:
    """See the module."""

    def __init__(self, control: ControlSession, node_id: int, check: Callable[[Config], None] | None = None) -> None:
        """`check` raises ConfigError for what a client may not set because this broker could not use it."""
        self._control = control
        self._check = check
        self._node_id = node_id
        self._settings: Settings | None = None
        self._changing = asyncio.Lock()

    async def start(self, config: Config) -> Settings:
        """The settings of this broker, which this object renews. Raises ConfigError, StorageError."""
        self._settings = Settings(with_database_settings(config, await self._rows(), self._node_id))
        await self._publish()
        return self._settings

    @property
    def settings(self) -> Settings:
        assert self._settings is not None
        return self._settings

    async def _rows(self) -> list[Stored]:
        rows = await self._control.fetch(SQL["stored"])
        return [Stored(row["name"], row["value"], row["node_id"]) for row in rows]

    async def follow(self, changes: Sequence[catalogue_changes.Change] | None) -> None:
        """Take over what others have changed; None: whatever it was. Raises StorageError.

        What cannot be is said in the log and left as it was: nobody is there to whom it could be said.
        """
        if changes is not None and not any(change.kind == "setting" for change in changes):
            return
        async with self._changing:
            rows = await self._rows()
            try:
                config = with_usable_settings(self.settings.current, rows, self._node_id)
            except ConfigError as error:
                logger.warning("settings in the database do not fit together", extra={"reason": str(error)})
                return
            await self._renew(config)

    async def alter(
        self, node_id: int, operations: Sequence[Change], *, replaces: bool = False, validate_only: bool = False
    ) -> None:
        """Change what is set for a node, or for all with ALL_NODES; with `replaces`, what is not named is removed.

        Only of what can be changed while brokers run. Raises InvalidChange, StorageError.
        """
        async with self._changing:
            rows = await self._rows()
            ours = [(_dynamic(row), row) for row in rows if row.node_id == node_id]
            before = {key.name: row.text for key, row in ours if key is not None and row.text is not None}
            config = self.settings.current
            after = broker_configs.altered({} if replaces else before, operations, config)
            others = [row for row in rows if row.node_id != node_id or _dynamic(row) is None]
            wanted = [Stored(name, text, node_id) for name, text in after.items()]
            try:
                config = with_usable_settings(config, [*others, *wanted], self._node_id)
            except ConfigError as error:
                raise InvalidChange(str(error)) from None
            if after == before:
                return
            gone = [row.name for key, row in ours if key is not None and key.name not in after]
            changed = {_parameter(name): text for name, text in after.items() if before.get(name) != text}
            if self._check is not None and node_id in (ALL_NODES, self._node_id):
                try:
                    await asyncio.to_thread(self._check, config)
                except ConfigError as error:
                    raise InvalidChange(str(error)) from None
            if validate_only:
                return
            await self._control.execute(SQL["change_for"], node_id, gone, list(changed), list(changed.values()))
            await self._renew(config)

    async def _renew(self, config: Config) -> None:
        self.settings.renew(config)
        await self._publish()

    async def _publish(self) -> None:
        config = self.settings.current
        keys = [*BROKER_KEYS.values(), *filter(None, map(key_named, config.by_listener))]
        names = [key.name for key in keys]
        texts = [None if key.is_sensitive else key.text(config.value(key)) for key in keys]
        sources = [config.source(name).value for name in names]
        await self._control.execute(SQL["publish"], self._node_id, names, texts, sources)


def _parameter(name: str) -> str:
    key = key_named(name)
    assert key is not None
    return key.parameter


def _dynamic(row: Stored) -> Key | None:
    """The key of a row that may be changed while the broker runs."""
    key = key_named(row.name)
    return key if key is not None and key.is_dynamic else None
