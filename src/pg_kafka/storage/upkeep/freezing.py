"""Freezing rows soon after they were written: a page that was written before the last checkpoint goes into the WAL as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pg_kafka.storage import sessions
from pg_kafka.storage.upkeep.job import SQL, Job, Site

# WAL of freezing for each byte that is not frozen, at worst (docs/storage.md).
FREEZE_WAL_FACTOR = 1.2


class Grown:
    """Active segments that have grown since they were frozen last. Sizes in bytes; times by the server's clock."""

    def __init__(self, freeze_bytes: int) -> None:
        self._freeze_bytes = freeze_bytes
        self._waiting: dict[tuple[int, int], int] = {}
        self._frozen: dict[tuple[int, int], tuple[int, datetime]] = {}

    def note(self, sizes: Mapping[tuple[int, int], int]) -> None:
        """How large active segments are now; others are forgotten."""
        self._frozen = {key: frozen for key, frozen in self._frozen.items() if key in sizes}
        self._waiting = {
            key: size
            for key, size in sizes.items()
            if key not in self._frozen or size - self._frozen[key][0] >= self._freeze_bytes
        }

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> tuple[tuple[int, int], int]:
        """One of them, with its size."""
        return self._waiting.popitem()

    def frozen_at(self, key: tuple[int, int]) -> datetime | None:
        """When it was frozen last."""
        frozen = self._frozen.get(key)
        return None if frozen is None else frozen[1]

    def is_frozen(self, key: tuple[int, int], size: int, at: datetime) -> None:
        self._frozen[key] = size, at


class _Freezing(Job):
    async def _may_freeze(self, series: int, segment: int) -> bool:
        return self.has_room(FREEZE_WAL_FACTOR * await self.site.segments.unfrozen_bytes(series, segment))


class FreezeSegments(_Freezing):
    """Vacuums and analyses sealed segments, once and for all."""

    name = "freeze segments"

    async def step(self) -> bool:
        rows = await self.site.connection.fetch(SQL["sealed_segments"], self.site.options.freeze_grace_s)
        has_done = False
        for row in rows:
            if await self._may_freeze(row["series"], row["segment"]):
                await self.site.segments.freeze(row["series"], row["segment"])
                self.site.counts.segments["frozen"] += 1
                has_done = True
        return has_done


class FreezeGrownSegments(_Freezing):
    """What one active segment has grown by, unless a snapshot is held under which none of that could be frozen."""

    name = "freeze grown segments"

    def __init__(self, site: Site, grown: Grown) -> None:
        super().__init__(site)
        self._grown = grown

    async def step(self) -> bool:
        if not self._grown:
            return False
        key, size = self._grown.take()
        if not await self._may_freeze(*key):
            return bool(self._grown)
        row = await sessions.only_row(self.site.connection, SQL["oldest_snapshot"])
        before = self._grown.frozen_at(key)
        if before is None or row["held_since"] is None or row["held_since"] > before:
            await self.site.segments.freeze_grown(*key)
            self._grown.is_frozen(key, size, row["now"])
        return bool(self._grown)
