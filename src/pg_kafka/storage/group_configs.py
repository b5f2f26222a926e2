"""Configs of consumer groups (IncrementalAlterConfigs on GROUP resources): rows in `kafka.group_configs`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pg_kafka.storage import queries
from pg_kafka.storage.config_texts import as_texts
from pg_kafka.storage.control import ControlSession

SQL = queries.load("groups")


class GroupConfigs:
    """What was set for groups, by Kafka's names. A group may have configs before it exists."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def load(self) -> dict[str, dict[str, str]]:
        """All configs by group. Raises StorageError."""
        rows = await self._control.fetch(SQL["load_configs"])
        return {row["group_id"]: as_texts(json.loads(row["configs"])) for row in rows}

    async def set(self, group_id: str, configs: Mapping[str, str]) -> None:
        """Replace the configs of a group; none removes them. Raises StorageError."""
        if configs:
            await self._control.execute(SQL["set_configs"], group_id, json.dumps(dict(configs)))
        else:
            await self._control.execute(SQL["remove_configs"], group_id)
