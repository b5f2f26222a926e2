"""Quotas in `kafka.client_quotas`: read, followed while the broker runs, changed for clients.

stored = StoredQuotas(control)
table = await stored.load()
await stored.follow(changes)                 somebody has changed something; `on_change` hears of it
await stored.change({(entity, name): 1e6})   a client wants to; None removes
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence

from pg_kafka.security.quotas import CLIENT_ID, DEFAULT, IP, USER, Entity, Table, Unusable, check, entity_of
from pg_kafka.storage import queries
from pg_kafka.storage.catalogue_changes import Change
from pg_kafka.storage.control import ControlSession

SQL = queries.load("quotas")
logger = logging.getLogger("pg_kafka.quotas")

_KIND = "quota"


class StoredQuotas:
    """See the module. `on_change` is called with every new table."""

    def __init__(self, control: ControlSession, on_change: Callable[[Table], None]) -> None:
        self._control = control
        self._on_change = on_change
        self._changing = asyncio.Lock()
        self.table = Table({})

    async def load(self) -> None:
        """Read all. Raises StorageError."""
        async with self._changing:
            await self._load()

    async def follow(self, changes: Sequence[Change] | None) -> None:
        """Take over what others have changed; None: whatever it was. Raises StorageError."""
        if changes is None or any(change.kind == _KIND for change in changes):
            await self.load()

    async def change(self, wanted: Mapping[tuple[Entity, str], float | None]) -> None:
        """Set or, with None, remove quotas: all of them or none. Raises StorageError."""
        gone = [key for key, value in wanted.items() if value is None]
        there = [(*key, value) for key, value in wanted.items() if value is not None]
        async with self._changing:
            if wanted:
                await self._control.execute(
                    SQL["change"],
                    [_text(entity) for entity, _ in gone],
                    [name for _, name in gone],
                    [_text(entity) for entity, _, _ in there],
                    [name for _, name, _ in there],
                    [value for _, _, value in there],
                )
            await self._load()

    async def _load(self) -> None:
        entries: dict[Entity, dict[str, float]] = {}
        for row in await self._control.fetch(SQL["all"]):
            try:
                entity = entity_of((kind, name or None) for kind, name in json.loads(row["entity"]).items())
                check(entity, row["name"], row["value"])
            except Unusable as unusable:
                logger.warning(
                    "a quota in the database is not used", extra={"entity": row["entity"], "reason": str(unusable)}
                )
                continue
            entries.setdefault(entity, {})[row["name"]] = row["value"]
        if entries != self.table.entries:
            self.table = Table(entries)
            self._on_change(self.table)


def _text(entity: Entity) -> str:
    """As the database has it: the default is an empty name."""
    names = zip((USER, CLIENT_ID, IP), entity, strict=True)
    return json.dumps({kind: name or DEFAULT for kind, name in names if name is not None})
