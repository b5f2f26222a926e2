"""The few rows that are left of segments go to a new one, so that one idle partition does not keep gigabytes on the disk."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import asyncpg

from pg_kafka.storage.disk import WRITE_FACTOR
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.replacing import PIECE_BYTES, SQL, Filling
from pg_kafka.storage.upkeep.cleaner import Cleaner, CleaningJob
from pg_kafka.storage.upkeep.job import NEVER

RETENTION_SQL = load("retention")

# Checkpoints that were asked for are there after the next transaction.
CHECKPOINT_S = 0.5

# A segment of which less than this is left is carried over, if that gives back enough to be worth a new table.
SPARSE = 0.2
WORTHWHILE_BYTES = 1024 * 1024
# It is watched for so long before, and carried over if it still has more than this share of what it had then.
CALM_S = 300.0
CALM_SHARE = 0.9
# A segment below this share of the size at which segments are sealed is small.
SMALL = 1 / 16
# So many small segments of a series are put together.
MANY_SMALL = 16


async def copy_alive(filling: Filling) -> None:
    """Fill a segment with the rows at or above the log starts, as they are."""
    replacement = filling.replacement
    for source in replacement.source_leaves:
        statement = render(
            SQL["copy_piece"],
            source=source,
            target=replacement.leaf,
            segment=replacement.target,
            columns=filling.columns,
        )
        after: tuple[int, int, int] | None = (-1, -1, -1)
        while after is not None:
            async with filling.piece() as piece:
                last = await piece.connection.fetchrow(statement, *after, PIECE_BYTES)
                after = None if last is None else (last["topic"], last["partition"], last["base_offset"])
                piece.bytes = 0 if last is None else int(last["bytes"])


class Share(NamedTuple):
    """A complete segment: its bytes when it was sealed, and those at or behind the log starts."""

    segment: int
    bytes: int
    alive: int


def choose(shares: Sequence[Share], segment_bytes: int, worthwhile_bytes: int = WORTHWHILE_BYTES) -> list[int]:
    """Segments of one series whose rows should go to a new one together, none when that is not worth it.

    Those of which less than a fifth is left. What is left of them makes small segments, and these would become many: so
    small ones that are no larger than what goes anyway go with it, as digits carry when one counts. Each row moves as
    often as its segment doubles, no more. Small segments that nobody joins are put together when there are many.
    """
    sparse = (s for s in shares if s.alive < s.bytes * SPARSE and s.bytes - s.alive >= worthwhile_bytes)
    chosen = sorted(sparse, key=lambda s: s.alive)
    small = sorted((s for s in shares if s.bytes < segment_bytes * SMALL and s not in chosen), key=lambda s: s.alive)
    if not chosen:
        if len(small) < MANY_SMALL:
            return []
        chosen, small = small[:MANY_SMALL], small[MANY_SMALL:]
    kept: list[int] = []
    total = 0
    for share in chosen:
        if kept and total + share.alive > segment_bytes:
            break
        kept.append(share.segment)
        total += share.alive
    for share in small:
        if share.alive > total or total + share.alive > segment_bytes:
            break
        kept.append(share.segment)
        total += share.alive
    return sorted(kept)


class CarryOver(CleaningJob):
    """Puts together what is left of segments, a series at a time."""

    name = "carry over"

    def __init__(
        self,
        segment_bytes: Callable[[int], int],
        write_checkpoints: Callable[[Sequence[tuple[int, int]]], Awaitable[None]],
        *,
        worthwhile_bytes: int = WORTHWHILE_BYTES,
        calm_s: float = CALM_S,
    ) -> None:
        """`segment_bytes`: of a series, how large its segments become. `write_checkpoints` has them written soon."""
        self._calm_s = calm_s
        self._sparse: dict[tuple[int, int], tuple[float, int]] = {}  # since when, with how much alive
        self._segment_bytes = segment_bytes
        self._write_checkpoints = write_checkpoints
        self._worthwhile_bytes = worthwhile_bytes
        self._looks_at = NEVER

    def wakes_at(self) -> float:
        return self._looks_at

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def step(self, cleaner: Cleaner) -> bool:
        self._looks_at = NEVER
        shares: defaultdict[int, list[Share]] = defaultdict(list)
        known, self._sparse = self._sparse, {}
        uncovered: dict[tuple[int, int], list[list[int]]] = {}
        for row in await cleaner.connection.fetch(RETENTION_SQL["shares"]):
            # What is dead is freed as it is.
            if row["alive"] and not self._is_draining(known, row):
                shares[row["series"]].append(Share(row["segment"], row["bytes"], row["alive"]))
                uncovered[row["series"], row["segment"]] = row["uncovered"] or []
        for series, found in shares.items():
            sources = choose(found, self._segment_bytes(series), self._worthwhile_bytes)
            size = sum(share.alive for share in found if share.segment in sources)
            if not sources or cleaner.is_replacing(series) or not cleaner.has_room(WRITE_FACTOR * size):
                continue
            # What is known of producers is read from the rows until a checkpoint has it.
            places = {(place[0], place[1]) for source in sources for place in uncovered[series, source]}
            if places:
                await self._write_checkpoints(sorted(places))
                self._looks_at = min(self._looks_at, self._now() + CHECKPOINT_S)
                continue
            await cleaner.replace(series, sources, copy_alive)
            return True
        return False

    def _is_draining(self, known: dict[tuple[int, int], tuple[float, int]], row: asyncpg.Record) -> bool:
        """Is a sparse segment going to be empty soon, or not known for long enough to tell?

        That is how the oldest segment of a busy topic looks: to copy what is left of it would be a second write for nothing.
        """
        alive = row["alive"]
        if alive >= row["bytes"] * SPARSE or not self._calm_s:
            return False
        now = self._now()
        key = (row["series"], row["segment"])
        since, before = self._sparse[key] = known.get(key, (now, alive))
        if now - since >= self._calm_s:
            if alive > before * CALM_SHARE:
                return False
            since = now
            self._sparse[key] = (now, alive)
        self._looks_at = min(self._looks_at, since + self._calm_s)
        return True
