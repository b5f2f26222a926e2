"""The disk watermark: before the volume of the embedded server is full, nothing more is appended.

PostgreSQL ends when it cannot write its WAL. So a batch is admitted only if it fits above a reserve together with all
that was admitted before it, counted as what PostgreSQL makes of it on the disk. What fills the volume besides shows when it
is looked at, each second, and again when a batch would not fit. The reserve is for what is small and goes on (offsets,
groups, ends of transactions, down to a quarter of it), for checkpoints, and for the deletions that free space.

    disk = DiskWatch(postgres.free_disk_bytes, reserve_bytes, on_room=growth.look)
    disk.look()
    reason = disk.admit(batch_bytes, batch)     # None, or why the batch is refused, retriably
    ...
    disk.written(batch_bytes)           # or refused: it is no longer queued
    await disk.run()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from pg_kafka.clock import Clock
from pg_kafka.storage.counts import DiskCounts

logger = logging.getLogger("pg_kafka.disk")

# Nothing tells when a disk fills. Looking takes microseconds.
CHECK_S = 1.0
# A batch that does not fit by what the last look saw asks for another one, but not more often than this.
RECHECK_S = 0.02
REMIND_S = 60.0
# Room again means a tenth more than the reserve, so that a disk at the mark does not change its mind every second.
ROOM_AGAIN = 1.1
# Bytes on the disk for one in a batch: its table takes 1.1, and WAL 1.3 to 1.8 by what was measured, up to 2.2 if every
# page of it is logged whole because a checkpoint has come between. A WAL file is used again only after the next checkpoint.
WRITE_FACTOR = 3.5
# A batch of one small record is a row with 36 columns, an index entry, and WAL for both.
BATCH_BYTES = 1024
# What is small goes on until this part of the reserve is left.
LAST_PART = 4

NEARLY_FULL = "the disk of the database is nearly full"
NO_ROOM = "the disk of the database has no room for more than is queued"


class Named(Protocol):
    """What may be refused."""

    def names(self) -> Mapping[str, object]:
        """Fields of a log line that say whose it is."""


class DiskWatch:
    """`free_bytes` returns None for a server whose disk cannot be seen; then, and without a reserve, all is admitted."""

    def __init__(
        self,
        free_bytes: Callable[[], int | None],
        reserve_bytes: int,
        *,
        clock: Clock | None = None,
        on_room: Callable[[], None] = lambda: None,
        check_s: float = CHECK_S,
        counts: DiskCounts | None = None,
    ) -> None:
        self._counts = counts or DiskCounts()
        self._clock = clock or Clock()
        self._free_bytes = free_bytes
        self._reserve_bytes = reserve_bytes
        self._last_bytes = reserve_bytes // LAST_PART
        self._on_room = on_room
        self._check_s = check_s
        self._free: int | None = None  # at the last look; None while nothing is known
        self._looked_at = float("-inf")
        self._queued = 0.0  # on the disk, once it is written
        self._unseen = 0.0  # of that, and of what was written since the last look: what the look did not see
        self._told_at: float | None = None  # when the log was last told that the disk is nearly full
        self._told_of_queue_at = float("-inf")
        self._untold = 0  # batches that had no room since the log was last told of one

    @property
    def free_bytes(self) -> int | None:
        """As at the last look; None: the disk cannot be seen, or there is no reserve and nobody looks."""
        return self._free

    @property
    def reserve_bytes(self) -> int:
        return self._reserve_bytes

    @property
    def is_nearly_full(self) -> bool:
        """Records are refused."""
        return self._told_at is not None

    # -- what may be written -----------------------------------------------------------------------------------------

    def admit(self, size: int, item: Named | None = None) -> str | None:
        """May a batch of so many bytes be queued? Then it counts until `written`; else this says why not."""
        wanted = WRITE_FACTOR * size + BATCH_BYTES
        unseen = self._unseen + wanted
        if self._told_at is None and (self._free is None or self._free - self._reserve_bytes >= unseen):
            self._queued += wanted
            self._unseen = unseen
            return None
        return self._take(size, self._reserve_bytes, item)

    def admit_small(self, size: int, item: Named | None = None) -> str | None:
        """As `admit`, for what goes on at the mark: offsets, groups, transactions."""
        return self._take(size, self._last_bytes, item)

    def expect(self, size: int) -> None:
        """Count what is queued whether it fits or not."""
        wanted = WRITE_FACTOR * size + BATCH_BYTES
        self._queued += wanted
        self._unseen += wanted

    def written(self, size: int) -> None:
        """So many bytes are queued no longer."""
        self._queued -= WRITE_FACTOR * size + BATCH_BYTES

    def has_room(self, disk_bytes: float, *, small: bool = False) -> bool:
        """May upkeep write so many bytes to the disk, WAL and all? With `small`, it may take them from the reserve."""
        if self._free is None:
            return True
        if small:
            return self._room(self._last_bytes) >= disk_bytes
        return self._told_at is None and self._room(self._reserve_bytes) >= disk_bytes

    @property
    def must_drop(self) -> bool:
        """Does not even the reserve hold what is queued? Then it must be refused before it is written."""
        return self._told_at is not None and self._free is not None and self._free - self._last_bytes < self._queued

    def _take(self, size: int, mark: int, item: Named | None) -> str | None:
        if self._free is not None:
            wanted = WRITE_FACTOR * size + BATCH_BYTES
            if self._lacks(wanted, mark) and self._clock.steady_s() - self._looked_at >= RECHECK_S:
                self.look()
            if self._lacks(wanted, mark):
                if self._told_at is not None:
                    self._counts.refused[NEARLY_FULL] += 1
                    return NEARLY_FULL
                self._counts.refused[NO_ROOM] += 1
                self._tell_of_queue(wanted, item)
                return NO_ROOM
        self.expect(size)
        return None

    def _lacks(self, wanted: float, mark: int) -> bool:
        is_refused = self._told_at is not None and mark == self._reserve_bytes
        return is_refused or self._room(mark) < wanted

    def _room(self, mark: int) -> float:
        return (self._free or 0) - mark - self._unseen

    # -- looking -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while self.look():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(self._check_s)

    def look(self) -> bool:
        """Compare once; False when there is nothing to watch."""
        if not self._reserve_bytes:
            return False
        try:
            free_bytes = self._free_bytes()
        except OSError as error:
            # A data folder in trouble is PostgreSQL's to report.
            logger.warning("cannot look at the free disk space", extra={"error": str(error)})
            return True
        if free_bytes is None:
            return False
        now = self._looked_at = self._clock.steady_s()
        self._free = free_bytes
        # What is half written is counted by both, so this errs on the safe side.
        self._unseen = self._queued
        if self._told_at is None:
            if free_bytes < self._reserve_bytes:
                self._counts.nearly_full += 1
                self._tell(free_bytes, now)
        elif free_bytes >= self._reserve_bytes * ROOM_AGAIN:
            self._told_at = None
            logger.warning("disk has room again, records are taken", extra={"free_bytes": free_bytes})
            self._on_room()
        elif now - self._told_at >= REMIND_S:
            self._tell(free_bytes, now)
        return True

    def _tell(self, free_bytes: int, now: float) -> None:
        self._told_at = now
        logger.error(
            "disk nearly full, records are refused",
            extra={"free_bytes": free_bytes, "limit": f"pg_kafka.disk_reserve_bytes = {self._reserve_bytes}"},
        )

    def _tell_of_queue(self, wanted: float, item: Named | None) -> None:
        now = self._clock.steady_s()
        self._untold += 1
        if now - self._told_of_queue_at >= REMIND_S:
            self._told_of_queue_at = now
            refused, self._untold = self._untold, 0
            logger.warning(
                "disk has no room for a batch, it is refused",
                extra={
                    **({} if item is None else item.names()),
                    "refused": refused,
                    "free_bytes": self._free,
                    "queued_bytes": round(self._unseen),
                    "batch_bytes": round(wanted),
                    "limit": f"pg_kafka.disk_reserve_bytes = {self._reserve_bytes}",
                },
            )
