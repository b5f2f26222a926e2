"""The disk watermark: before the volume of the embedded server is full, nothing more is appended.

PostgreSQL ends when it cannot write its WAL. A reserve keeps room for what is under way, for checkpoints, and for the
deletions that free space; reads go on. Appends are answered with a retriable error until there is room again.

    watch = DiskWatch(postgres.free_disk_bytes, reserve_bytes, log.refuse)
    await watch.run()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("pg_kafka.disk")

# Nothing tells when a disk fills. Looking takes microseconds; at 500 MB/s the default reserve lasts so long.
CHECK_S = 1.0
REMIND_S = 60.0
# Room again means a tenth more than the reserve, so that a disk at the mark does not change its mind every second.
ROOM_AGAIN = 1.1


class DiskWatch:
    """`free_bytes` returns None for a server whose disk cannot be seen; then there is nothing to watch."""

    def __init__(
        self,
        free_bytes: Callable[[], int | None],
        reserve_bytes: int,
        refuse: Callable[[str | None], None],
        *,
        check_s: float = CHECK_S,
    ) -> None:
        self._free_bytes = free_bytes
        self._reserve_bytes = reserve_bytes
        self._refuse = refuse
        self._check_s = check_s
        self._told_at: float | None = None  # when the log was last told that the disk is nearly full

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while self._reserve_bytes and self.look():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(self._check_s)

    def look(self) -> bool:
        """Compare once; False when there is nothing to watch."""
        try:
            free_bytes = self._free_bytes()
        except OSError as error:
            # A data folder in trouble is PostgreSQL's to report.
            log.warning("cannot look at the free disk space", extra={"error": str(error)})
            return True
        if free_bytes is None:
            return False
        now = asyncio.get_running_loop().time()
        if self._told_at is None:
            if free_bytes < self._reserve_bytes:
                self._tell(free_bytes, now)
                self._refuse("the disk of the database is nearly full")
        elif free_bytes >= self._reserve_bytes * ROOM_AGAIN:
            self._told_at = None
            log.warning("disk has room again, records are taken", extra={"free_bytes": free_bytes})
            self._refuse(None)
        elif now - self._told_at >= REMIND_S:
            self._tell(free_bytes, now)
        return True

    def _tell(self, free_bytes: int, now: float) -> None:
        self._told_at = now
        log.error(
            "disk nearly full, records are refused",
            extra={"free_bytes": free_bytes, "limit": f"pg_kafka.disk_reserve_bytes = {self._reserve_bytes}"},
        )
