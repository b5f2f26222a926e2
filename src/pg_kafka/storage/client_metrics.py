"""Subscriptions to metrics of clients in `kafka.client_metrics`: read, followed while the broker runs, changed for clients.

stored = StoredClientMetrics(control, on_change)
await stored.load()
await stored.follow(changes)                 somebody has changed something; `on_change` hears of it
await stored.alter("usage", change)          a client wants to
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence

from pg_kafka.coordinator.client_metrics import Subscription, usable
from pg_kafka.storage import queries
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.config_texts import as_texts
from pg_kafka.storage.control import ControlSession

SQL = queries.load("client_metrics")
logger = logging.getLogger("pg_kafka.client_metrics")

_KIND = "client metrics"

Configs = Mapping[str, str]


class StoredClientMetrics:
    """See the module. `on_change` is called with every new list of subscriptions that can be used."""

    def __init__(self, control: ControlSession, on_change: Callable[[Sequence[Subscription]], None]) -> None:
        self._control = control
        self._on_change = on_change
        self._changing = asyncio.Lock()
        self._faults: list[tuple[str, str]] = []
        self.configs: Mapping[str, Configs] = {}
        """What is set, by name of the subscription."""

    async def load(self) -> None:
        """Read all. Raises StorageError."""
        async with self._changing:
            await self._load()

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed; None: whatever it was. Raises StorageError."""
        if changes is None or any(change.kind == _KIND for change in changes):
            await self.load()

    async def alter(
        self, name: str, change: Callable[[Configs], Mapping[str, str]], *, validate_only: bool = False
    ) -> None:
        """Change what is set for a subscription; nothing removes it. Raises what `change` does, and StorageError."""
        async with self._changing:
            before = self.configs.get(name, {})
            configs = change(before)
            if validate_only or configs == before:
                return
            if configs:
                await self._control.execute(SQL["set"], name, json.dumps(dict(configs)))
            else:
                await self._control.execute(SQL["remove"], name)
            await self._load()

    async def _load(self) -> None:
        rows = await self._control.fetch(SQL["all"])
        self.configs = {row["name"]: as_texts(json.loads(row["configs"])) for row in rows}
        found, faults = usable(self.configs)
        for name, reason in faults:
            if (name, reason) not in self._faults:
                logger.warning(
                    "a client metrics subscription in the database is not used",
                    extra={"subscription": name, "reason": reason},
                )
        self._faults = faults
        self._on_change(found)
