"""The task that keeps the tables of the log in order while the lanes write.

It makes the views of new topics and those that somebody has dropped, frees deleted ones, rolls segments and freezes what
they have grown by, gives topics that have grown their own series, and rotates the journals.
On a disk that is nearly full it does only what frees space: upkeep that writes waits until there is room.
All it has to do is read from tables, and every step leaves them so that a janitor that was killed goes on where it
stopped. It works in small steps in turn, so that a long job delays no other. A job that fails is logged, counted and
tried again later, and stops no other job.

    janitor = Janitor(dsn, lanes, segment_bytes=..., segment_ms=..., compression="auto")
    await janitor.start()
    janitor.poke()          # a topic was created or deleted, a segment has grown
    await janitor.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import sessions
from pg_kafka.storage.journal import journal_table
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.segments import SHARED_SERIES, Segments, first_guess, leaf_table, server_compressions
from pg_kafka.tasks import supervised
from pg_kafka.wire import compression as codecs

log = logging.getLogger("pg_kafka.janitor")

SQL = load("janitor")

# The net under lost events, and how often ages and sizes of segments are looked at when nobody pokes.
INTERVAL_S = 30.0
# Looking at the sizes of all active segments costs some 20 us each; pokes come with every topic.
SIZES_INTERVAL_S = 2.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0
LANES_TIMEOUT_S = 60.0
# A view costs about 1 ms and three locks.
VIEWS_PER_STEP = 100
# Rows of up to 1 MB, so that deleting them takes tens of milliseconds.
ROWS_PER_STEP = 100
MARKERS_PER_STEP = 10_000
STOP_TIMEOUT_S = 5.0
# No step takes so long, not even vacuuming a segment on a slow disk: its session is given up.
STEP_TIMEOUT_S = 3600.0
# After this long a job of many small parts lets the others have their turn.
STEP_S = 0.2
# Below this share of its size, compressing a sample is worth its time.
WORTHWHILE_RATIO = 0.8
# A journal is rotated when it is larger than this and than so many times what in it counted the last time.
JOURNAL_BYTES = 16 * 1024 * 1024
JOURNAL_GROWTH = 4
# kafka.partition_checkpoints is rewritten when it is larger than this and than so many times its size after the last time.
CHECKPOINT_TABLE_BYTES = 16 * 1024 * 1024
CHECKPOINT_TABLE_GROWTH = 4
# A transaction whose snapshot is older than the copy finds nothing once the table that it could see is truncated. So
# long such snapshots are waited for; then the journal's size comes first. pg_dump takes its locks well within that.
SNAPSHOT_GRACE_S = 30.0
SNAPSHOT_POLL_S = 1.0
# An active segment is frozen again when it has grown by this, while most of that lies in PostgreSQL's buffers.
FREEZE_BYTES = 32 * 1024 * 1024
# A sealed segment waits so long for snapshots from before to end, under which it cannot be frozen.
FREEZE_GRACE_S = 3600.0
# WAL of freezing for each byte that is not frozen, at worst (docs/storage.md).
FREEZE_WAL_FACTOR = 1.2
# A table that is copied is on the disk once more, and its rows in the WAL, at worst with whole pages.
COPY_FACTOR = 3.2

Step = Callable[[], Awaitable[bool]]


class LaneControl(Protocol):
    """What the janitor asks of the lanes; both return when every lane has done it."""

    async def switch_segment(self, series: int, segment: int) -> None:
        """New rows of a series go to this segment, and none is under way to an older one."""

    async def move_topic(self, topic_id: int, series: int, segment: int) -> None:
        """New rows of a topic go to this series, and kafka.topics says so."""

    async def switch_journal(self, journal: str, active: int) -> None:
        """New entries of a journal go to this one of its tables, and none is under way to the other."""


class Room(Protocol):
    """Whether so many bytes may be written to the disk; with `small`, from the reserve."""

    def __call__(self, disk_bytes: float, /, *, small: bool = False) -> bool: ...


def _always(_disk_bytes: float, *, small: bool = False) -> bool:
    return True


class Janitor:
    """One task with a session of its own. `failures` counts by job what went wrong since the start."""

    def __init__(
        self,
        dsn: str,
        lanes: LaneControl,
        *,
        segment_bytes: int,
        segment_ms: int,
        compression: str,
        interval_s: float = INTERVAL_S,
        journal_bytes: int = JOURNAL_BYTES,
        snapshot_grace_s: float = SNAPSHOT_GRACE_S,
        checkpoint_table_bytes: int = CHECKPOINT_TABLE_BYTES,
        freeze_bytes: int = FREEZE_BYTES,
        freeze_grace_s: float = FREEZE_GRACE_S,
        has_room: Room = _always,
        open_session: Callable[[str], Awaitable[sessions.Session]] | None = None,
        on_death: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """`open_session("janitor")` opens a session that ends with the broker's leadership; without it, a plain one.

        `on_death` is called when the task itself fails, not when a job does.
        """
        self._on_death = on_death
        self._has_room = has_room
        self._open = open_session or (lambda kind: sessions.connect(dsn, kind))
        self._lanes = lanes
        self._segment_bytes = segment_bytes
        self._segment_ms = segment_ms
        self._compression = compression
        self._interval_s = interval_s
        self._journal_bytes = journal_bytes
        self._snapshot_grace_s = snapshot_grace_s
        self._session: sessions.Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._poked = asyncio.Event()
        self._outgrown: set[int] = set()
        # When the sizes of segments may be looked at next, and whether somebody has poked before that.
        self._sizes_at = float("-inf")
        self._sizes_wanted = False
        # Active segments that have grown, with their size; and what was frozen of them last, and when by the server's clock.
        self._grown: dict[tuple[int, int], int] = {}
        self._frozen: dict[tuple[int, int], tuple[int, datetime]] = {}
        self._freeze_bytes = freeze_bytes
        self._freeze_grace_s = freeze_grace_s
        # When a journal that waits for old snapshots is looked at again.
        self._journals_at = float("inf")
        self._views_at = float("-inf")  # when it is looked whether somebody has dropped a view
        # Topics whose step failed or has to wait; looked at again after the interval.
        self._put_off: dict[str, set[int]] = {"make views": set(), "drop views": set(), "free topics": set()}
        self._put_off_until = 0.0
        self._checkpoint_table_bytes = checkpoint_table_bytes
        self._checkpoints_at = float("-inf")
        self._checkpoints_live_bytes = 0
        self._retries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self.failures: Counter[str] = Counter()

    async def start(self) -> None:
        """Start working in the background."""
        self._poked.set()
        self._task = supervised(self._work(), "janitor", self._on_death)

    async def stop(self) -> None:
        """Stop between two steps, or in the middle of one that takes long: it is then done again at the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
        if self._session is not None:
            self._session.drop()
            self._session = None

    def poke(self) -> None:
        """There may be something to do."""
        self._poked.set()

    def outgrown(self, topic_id: int) -> None:
        """A topic is too large for the shared series."""
        self._outgrown.add(topic_id)
        self._poked.set()

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        jobs: dict[str, Step] = {
            "drop views": self._drop_views,
            "make views": self._make_views,
            "move topics": self._move_topics,
            "roll segments": self._roll_segments,
            "seal segments": self._seal_segments,
            "freeze segments": self._freeze_segments,
            "freeze grown segments": self._freeze_grown_segments,
            "rotate journals": self._rotate_journals,
            "rewrite checkpoints": self._rewrite_checkpoints,
            "free topics": self._free_topics,
        }
        while True:
            self._poked.clear()
            has_more = False
            for name, step in {"connect": self._connect, **jobs}.items():
                if self._now() >= self._not_before.get(name, 0.0):
                    has_more |= await self._try(name, step)
                if self._session is None or self._session.is_closed:
                    break
            if not has_more:
                await self._wait()

    async def _try(self, name: str, step: Step) -> bool:
        """Run one step of a job; True when it has more to do now."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                has_more = await step()
        except Exception as error:
            retries = self._retries[name] = self._retries.get(name, 0) + 1
            self.failures[name] += 1
            pause = min(FIRST_RETRY_S * 2 ** (retries - 1), LAST_RETRY_S) * random.uniform(0.75, 1.25)
            self._not_before[name] = self._now() + pause
            # A fenced broker stops its janitor in a moment; until then this one gets no session.
            outside = (asyncpg.LockNotAvailableError, StorageError, sessions.Fenced, *sessions.CONNECTION_ERRORS)
            is_expected = isinstance(error, outside)
            log.log(
                logging.INFO if is_expected and retries < 5 else logging.WARNING,
                "janitor's job failed and will be tried again",
                extra={"job": name, "reason": sessions.describe(error), "retry_s": round(pause, 1)},
                exc_info=None if is_expected or isinstance(error, asyncpg.PostgresError) else error,
            )
            if isinstance(error, sessions.CONNECTION_ERRORS) and self._session is not None:
                self._session.drop()
            return False
        self._retries.pop(name, None)
        self._not_before.pop(name, None)
        return has_more

    async def _wait(self) -> None:
        """Until somebody pokes, a failed job is due again, or the interval has passed."""
        now = self._now()
        if now >= self._put_off_until:
            self._put_off_until = now + self._interval_s
            for topics in self._put_off.values():
                topics.clear()
        wake_at = min([now + self._interval_s, *(at for at in self._not_before.values() if at > now)])
        wake_at = min(wake_at, self._journals_at)
        if self._sizes_wanted:
            wake_at = min(wake_at, self._sizes_at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wake_at - now):
                await self._poked.wait()

    async def _connect(self) -> bool:
        if self._session is None or self._session.is_closed:
            session = await self._open("janitor")
            try:
                self._available = await server_compressions(session.connection)
            except BaseException:
                session.drop()
                raise
            self._segments = Segments(session.connection)
            self._session = session
        return False

    @property
    def _connection(self) -> asyncpg.Connection:
        assert self._session is not None
        return self._session.connection

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # -- views -------------------------------------------------------------------------------------------------------

    async def _make_views(self) -> bool:
        if not self._has_room(0):
            return False
        if self._now() >= self._views_at:
            self._views_at = self._now() + self._interval_s
            await self._connection.execute(SQL["forget_lost_views"])
        rows = await self._connection.fetch(
            SQL["topics_without_view"], list(self._put_off["make views"]), VIEWS_PER_STEP
        )
        return await self._all_or_each("make views", [row["id"] for row in rows], self._create_views)

    async def _create_views(self, ids: list[int]) -> None:
        async with self._segments.giving_way():
            await self._connection.execute(SQL["create_views"], ids)

    async def _drop_views(self) -> bool:
        rows = await self._connection.fetch(
            SQL["views_of_deleted_topics"], list(self._put_off["drop views"]), VIEWS_PER_STEP
        )
        return await self._all_or_each("drop views", [row["id"] for row in rows], self._remove_views)

    async def _remove_views(self, ids: list[int]) -> None:
        async with self._segments.giving_way():
            gone = {row["id"] for row in await self._connection.fetch(SQL["drop_views"], ids) if row["is_gone"]}
            await self._connection.execute(SQL["views_are_gone"], list(gone))
        # A view of a user's stands on the others, which are empty now.
        self._put_off["drop views"].update(set(ids) - gone)

    async def _all_or_each(self, job: str, ids: list[int], act: Callable[[list[int]], Awaitable[None]]) -> bool:
        """Do something for topics in one transaction; when that fails, for each alone, to find out which it cannot be."""
        try:
            if ids:
                await act(ids)
        except asyncpg.PostgresError:
            for topic_id in ids:
                try:
                    await act([topic_id])
                except asyncpg.PostgresError as error:
                    self._put_off[job].add(topic_id)
                    self.failures[job] += 1
                    log.warning(
                        "janitor's job waits for a topic",
                        extra={"job": job, "topic_id": topic_id, "reason": sessions.describe(error)},
                    )
        return bool(ids)

    # -- segments and series -----------------------------------------------------------------------------------------

    async def _roll_segments(self) -> bool:
        """Give a series whose active segment is full a new one; what follows is `_seal_segments`' part."""
        self._sizes_wanted = self._now() < self._sizes_at
        if self._sizes_wanted or not self._has_room(0):
            return False
        rows = await self._connection.fetch(
            SQL["grown_segments"], self._segment_bytes, self._segment_ms, self._freeze_bytes
        )
        sizes = {(row["series"], row["segment"]): row["bytes"] for row in rows if not row["is_full"]}
        self._frozen = {key: frozen for key, frozen in self._frozen.items() if key in sizes}
        self._grown = {
            key: size
            for key, size in sizes.items()
            if key not in self._frozen or size - self._frozen[key][0] >= self._freeze_bytes
        }
        full = [(row["series"], row["segment"]) for row in rows if row["is_full"]]
        for series, segment in full:
            compression = await self._choose_compression(series, segment)
            await self._segments.create_segment(series, segment + 1, compression)
            log.info("new segment", extra={"series": series, "segment": segment + 1, "compression": compression})
        self._sizes_at = self._now() + SIZES_INTERVAL_S
        return bool(full)

    async def _seal_segments(self) -> bool:
        for row in await self._connection.fetch(SQL["superseded_segments"]):
            async with asyncio.timeout(LANES_TIMEOUT_S):
                await self._lanes.switch_segment(row["series"], row["active_segment"])
            await self._segments.seal(row["series"], row["segment"])
        return False

    async def _freeze_segments(self) -> bool:
        rows = await self._connection.fetch(SQL["sealed_segments"], self._freeze_grace_s)
        has_done = False
        for row in rows:
            if self._has_room(FREEZE_WAL_FACTOR * await self._segments.unfrozen_bytes(row["series"], row["segment"])):
                await self._segments.freeze(row["series"], row["segment"])
                has_done = True
        return has_done

    async def _freeze_grown_segments(self) -> bool:
        """Freeze what one active segment has grown by, unless a snapshot is held under which none of that could be."""
        if not self._grown:
            return False
        (series, segment), size = self._grown.popitem()
        if not self._has_room(FREEZE_WAL_FACTOR * await self._segments.unfrozen_bytes(series, segment)):
            return bool(self._grown)
        row = await sessions.only_row(self._connection, SQL["oldest_snapshot"])
        frozen = self._frozen.get((series, segment))
        if frozen is None or row["held_since"] is None or row["held_since"] > frozen[1]:
            await self._segments.freeze_grown(series, segment)
            self._frozen[series, segment] = size, row["now"]
        return bool(self._grown)

    async def _move_topics(self) -> bool:
        """Give topics that have outgrown the shared series their own, and have the lanes write there."""
        if not self._has_room(0):
            return False
        begun = {row["id"] for row in await self._connection.fetch(SQL["unmoved_topics"])}
        for topic_id in sorted(begun | self._outgrown):
            place = await self._connection.fetchrow(SQL["topic_place"], topic_id)
            if place is not None and place["series"] == SHARED_SERIES:
                compression = await self._choose_compression(SHARED_SERIES, place["segment"], topic_id)
                if await self._segments.create_series(topic_id, compression):
                    segment = await self._connection.fetchval(SQL["active_segment"], topic_id)
                    async with asyncio.timeout(LANES_TIMEOUT_S):
                        await self._lanes.move_topic(topic_id, topic_id, segment)
                    log.info("topic has its own series", extra={"topic_id": topic_id, "compression": compression})
            self._outgrown.discard(topic_id)
        return False

    async def _choose_compression(self, series: int, segment: int, topic_id: int | None = None) -> str:
        """For a new segment: what was configured, or what a sample of the last one speaks for."""
        if self._compression in self._available:
            return self._compression
        if self._compression != "auto":
            log.warning("this PostgreSQL lacks a compression", extra={"compression": self._compression})
            return "none"
        guess = first_guess(self._available)
        sample = b"".join(await self._segments.sample(series, segment, topic_id))
        if guess == "none" or not sample:
            return guess
        # PostgreSQL's lz4 and ours find about the same in the same bytes.
        compressed = await asyncio.to_thread(codecs.compress, codecs.LZ4, sample)
        return guess if len(compressed) < WORTHWHILE_RATIO * len(sample) else "none"

    # -- journals ----------------------------------------------------------------------------------------------------

    async def _rotate_journals(self) -> bool:
        """Take each journal that has grown one step on; kafka.journals says which step is next."""
        self._journals_at = float("inf")
        await self._connection.execute(SQL["switch_grown_journals"], self._journal_bytes, JOURNAL_GROWTH)
        has_more = False
        late: Exception | None = None
        for row in await self._connection.fetch(SQL["journals_under_way"], self._snapshot_grace_s):
            journal, active = row["journal"], row["active"]
            try:
                if row["state"] == "switched":
                    async with asyncio.timeout(LANES_TIMEOUT_S):
                        await self._lanes.switch_journal(journal, active)
                    if self._has_room(COPY_FACTOR * row["old_bytes"], small=True):
                        await self._copy_journal(journal, active)
                        has_more = True
                elif row["is_seen_by_all"]:
                    await self._truncate_journal(journal, active)
                    log.info("journal rotated", extra={"journal": journal, "bytes": row["live_bytes"]})
                else:
                    self._journals_at = self._now() + SNAPSHOT_POLL_S
            except asyncpg.LockNotAvailableError as error:
                # Somebody reads it, perhaps for hours. Its writers and the other journals do not wait for that.
                late = error
        if late is not None:
            raise late
        return has_more

    async def _copy_journal(self, journal: str, active: int) -> None:
        """What counts in a journal's old table goes to the new one, whose newer entries go before it by their number."""
        old, new = journal_table(journal, 1 - active), journal_table(journal, active)
        async with self._segments.giving_way():
            # No writer is left there, not even one whose connection broke in its commit.
            await self._connection.execute(render(SQL["lock_journal"], old=old))
            await self._connection.execute(render(SQL[f"copy_{journal}"], old=old, new=new))
            await self._connection.execute(SQL["journal_is_copied"], journal, new)

    async def _truncate_journal(self, journal: str, active: int) -> None:
        async with self._segments.giving_way():
            await self._connection.execute(render(SQL["truncate_journal"], old=journal_table(journal, 1 - active)))
            await self._connection.execute(SQL["journal_is_steady"], journal)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    async def _rewrite_checkpoints(self) -> bool:
        """Drop the old versions of checkpoints that vacuum may not, because somebody has an old snapshot.

        Who has such a snapshot finds the table empty then, a dump that has just begun as well: a checkpoint that is not
        there costs reading more of the log, no more.
        """
        if self._now() < self._checkpoints_at:
            return False
        self._checkpoints_at = self._now() + SIZES_INTERVAL_S
        size = await self._connection.fetchval(SQL["checkpoints_size"])
        is_grown = size > max(self._checkpoint_table_bytes, CHECKPOINT_TABLE_GROWTH * self._checkpoints_live_bytes)
        if is_grown and self._has_room(COPY_FACTOR * size):
            async with self._segments.giving_way():
                await self._connection.execute(SQL["rewrite_checkpoints"])
            self._checkpoints_live_bytes = await self._connection.fetchval(SQL["checkpoints_size"])
            log.info("checkpoints rewritten", extra={"bytes": self._checkpoints_live_bytes, "before": size})
        return False

    # -- deleted topics ----------------------------------------------------------------------------------------------

    async def _free_topics(self) -> bool:
        """Some steps towards nothing left of deleted topics; False when there are none."""
        until = self._now() + STEP_S
        while await self._free_a_topic():
            if self._now() >= until:
                return True
        return False

    async def _free_a_topic(self) -> bool:
        """First a topic's own series, then its rows in the shared one, then what is kept by topic."""
        put_off = self._put_off["free topics"]
        topic = await self._connection.fetchrow(SQL["topic_to_free"], list(put_off))
        if topic is None:
            return False
        topic_id = topic["id"]
        if topic["has_series"]:
            try:
                await self._segments.drop_series(topic_id)
            except asyncpg.LockNotAvailableError as error:
                # Somebody reads it, perhaps for hours. The disk space is back by now, and other topics need not wait.
                put_off.add(topic_id)
                log.info("a deleted topic waits", extra={"topic_id": topic_id, "reason": sessions.describe(error)})
            return True
        shared = await self._connection.fetch(SQL["shared_segments_of_topic"], topic_id)
        if shared and not self._has_room(0):
            # Deleting rows writes WAL and frees nothing before vacuum; the topics behind may have tables of their own.
            put_off.add(topic_id)
            return True
        for row in shared:
            leaf = leaf_table(SHARED_SERIES, row["segment"])
            done = await self._connection.execute(render(SQL["delete_rows"], leaf=leaf), topic_id, ROWS_PER_STEP)
            if done != "DELETE 0":
                return True
        if await self._connection.execute(SQL["delete_markers"], topic_id, MARKERS_PER_STEP) != "DELETE 0":
            return True
        await self._connection.execute(SQL["forget_topic"], topic_id)
        return True
