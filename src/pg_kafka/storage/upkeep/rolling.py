"""Segments that are full: the next one is made, every lane leaves the old one, and that says what is in it."""

from __future__ import annotations

import asyncio
import logging

from pg_kafka.storage.upkeep import compression
from pg_kafka.storage.upkeep.freezing import Grown
from pg_kafka.storage.upkeep.job import LANES_TIMEOUT_S, NEVER, SIZES_INTERVAL_S, SQL, Job, Site

logger = logging.getLogger("pg_kafka.janitor")

# A scan of the small columns of a segment of 1 GiB.
SEGMENTS_PER_STEP = 2


class RollSegments(Job):
    """A new segment for a series whose active one is full; what follows is the part of SealSegments."""

    name = "roll segments"

    def __init__(self, site: Site, grown: Grown) -> None:
        super().__init__(site)
        self._grown = grown
        self._looks_at = float("-inf")  # when the sizes of segments may be looked at next
        self._is_wanted = False  # somebody has poked before that

    async def step(self) -> bool:
        self._is_wanted = self.site.now() < self._looks_at
        if self._is_wanted or not self.has_room():
            return False
        options = self.site.options
        rows = await self.site.connection.fetch(
            SQL["grown_segments"],
            options.segment_bytes,
            options.segment_ms,
            options.freeze_bytes,
            self.site.owner,
            options.compacts,
            options.max_compaction_lag_ms,
        )
        self._grown.note({(row["series"], row["segment"]): row["bytes"] for row in rows if not row["is_full"]})
        full = [(row["series"], row["segment"]) for row in rows if row["is_full"]]
        for series, segment in full:
            method = await compression.choose(self.site, series, segment)
            new = await self.site.segments.roll(series, segment, method)
            if new is not None:
                self.site.counts.segments["made"] += 1
                logger.info("new segment", extra={"series": series, "segment": new, "compression": method})
        self._looks_at = self.site.now() + SIZES_INTERVAL_S
        return bool(full)

    def wakes_at(self) -> float:
        return self._looks_at if self._is_wanted else NEVER


class SealSegments(Job):
    """Every lane leaves superseded segments, which are complete from then on and say what is in them."""

    name = "seal segments"

    async def step(self) -> bool:
        for row in await self.site.connection.fetch(SQL["superseded_segments"], self.site.owner):
            async with asyncio.timeout(LANES_TIMEOUT_S):
                await self.site.lanes.switch_segment(row["series"], row["active_segment"])
            if self.has_room():
                await self.site.segments.seal(row["series"], row["segment"])
                self.site.sealed.add(row["series"])
                self.site.counts.segments["sealed"] += 1
        return False


class FillExtents(Job):
    """What is in segments that an older program has sealed. Those that are sealed from then on say it themselves."""

    name = "fill extents"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._may_lack_figures = True

    async def step(self) -> bool:
        if self._may_lack_figures and self.has_room():
            self._may_lack_figures = await self.site.segments.fill_extents(SEGMENTS_PER_STEP) > 0
            return self._may_lack_figures
        return False


class FillTimes(Job):
    """Smallest timestamps of what is complete: kafka.read_time() leaves out segments that begin after the time asked for.

    Looks when segments were sealed, and now and then for those of which batches have been unpacked.
    """

    name = "fill times"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._looks_at = float("-inf")
        self._sealed = -1

    async def step(self) -> bool:
        sealed = self.site.counts.segments["sealed"]
        if (sealed == self._sealed and self.site.now() < self._looks_at) or not self.has_room():
            return False
        if await self.site.segments.fill_times(SEGMENTS_PER_STEP):
            return True
        self._sealed, self._looks_at = sealed, self.site.now() + self.site.options.interval_s
        return False
