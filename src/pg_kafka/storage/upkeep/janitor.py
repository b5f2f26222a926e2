"""The task that keeps the tables of the log in order while the lanes write: a loop over jobs.

All there is to do is read from tables, and every step leaves them so that a janitor that was killed goes on where it
stopped. Jobs work in small steps in turn, so that a long one delays no other. A job that fails is logged, counted and tried
again later, and stops no other job.

    janitor = Janitor(dsn, lanes, Options(segment_bytes=..., segment_ms=..., compression="auto"), owner=1)
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
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import sessions
from pg_kafka.storage.catalogue_changes import Apply
from pg_kafka.storage.counts import UpkeepCounts
from pg_kafka.storage.growth import Growth
from pg_kafka.storage.segments import server_compressions
from pg_kafka.storage.topics import Topic, TopicsWatcher
from pg_kafka.storage.upkeep.catalogue import FollowCatalogue
from pg_kafka.storage.upkeep.checkpoints import RewriteCheckpoints
from pg_kafka.storage.upkeep.deduplication import ForgetDedupIds
from pg_kafka.storage.upkeep.deleted_topics import FreeTopics
from pg_kafka.storage.upkeep.freeing import FreeSegments
from pg_kafka.storage.upkeep.freezing import FreezeGrownSegments, FreezeSegments, Grown
from pg_kafka.storage.upkeep.job import NEVER, Job, LaneControl, Options, Room, Site
from pg_kafka.storage.upkeep.journals import RotateJournals
from pg_kafka.storage.upkeep.lag_history import TurnLagHistory
from pg_kafka.storage.upkeep.member_commits import TurnMemberCommits
from pg_kafka.storage.upkeep.retention import MoveLogStarts, Retention
from pg_kafka.storage.upkeep.rolling import FillExtents, FillTimes, RollSegments, SealSegments
from pg_kafka.storage.upkeep.series import MoveTopics
from pg_kafka.storage.upkeep.sql_commits import ExpireSqlGroups, TurnSqlCommits
from pg_kafka.storage.upkeep.views import DropViews, MakeViews, RenewViews
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.janitor")

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0
STOP_TIMEOUT_S = 5.0
# No step takes so long, not even vacuuming a segment on a slow disk: its session is given up.
STEP_TIMEOUT_S = 3600.0

CONNECT = "connect"


def _always(_disk_bytes: float, *, small: bool = False) -> bool:
    return True


class Janitor(TopicsWatcher):
    """One task with a session of its own. `failures` counts by job what went wrong since the start."""

    def __init__(
        self,
        dsn: str,
        lanes: LaneControl,
        options: Options,
        *,
        owner: int,
        has_room: Room = _always,
        growth: Growth | None = None,
        on_changes: Apply | None = None,
        open_session: Callable[[str], Awaitable[sessions.Session]] | None = None,
        on_death: Callable[[str], None] = lambda _reason: None,
        retention: Retention | None = None,
        on_less: Callable[[], None] = lambda: None,
        counts: UpkeepCounts | None = None,
    ) -> None:
        """`open_session("janitor")` opens a session that ends with the broker's leadership; without it, a plain one.

        `retention` says how long records stay; without it, they stay. `on_less` is called when partitions begin later than
        before, so that there may be segments of which little is left.

        `growth` says what the log has grown by. `on_changes` is called with what anybody has changed in the catalogue,
        within some seconds. `owner` is the node id of this broker. `on_death` is called when the task itself fails, not
        when a job does.
        """
        self._open = open_session or (lambda kind: sessions.connect(dsn, kind))
        self._on_death = on_death
        growth = growth or Growth(series_bytes=1 << 62)
        self._poked = growth.is_wanted
        site = self._site = Site(owner, lanes, growth, has_room, options, counts or UpkeepCounts())
        grown = Grown(options.freeze_bytes)
        self._follow = FollowCatalogue(site, on_changes)
        self._jobs: Sequence[Job] = (
            self._follow,
            DropViews(site),
            MakeViews(site),
            RenewViews(site),
            MoveTopics(site),
            RollSegments(site, grown),
            SealSegments(site),
            FillExtents(site),
            FillTimes(site),
            MoveLogStarts(site, retention),
            FreeSegments(site, on_less),
            FreezeSegments(site),
            FreezeGrownSegments(site, grown),
            RotateJournals(site),
            RewriteCheckpoints(site),
            TurnLagHistory(site),
            ForgetDedupIds(site),
            TurnSqlCommits(site),
            TurnMemberCommits(site),
            ExpireSqlGroups(site),
            FreeTopics(site, self._follow.look),
        )
        self._task: asyncio.Task[None] | None = None
        self._put_off_until = 0.0
        self._retries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    @property
    def failures(self) -> Counter[str]:
        return self._site.failures

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
        self._site.drop()

    def poke(self) -> None:
        """There may be something to do."""
        self._poked.set()

    def renew(self, options: Options) -> None:
        """The settings have changed: jobs look at these from their next step on."""
        self._site.options = options
        self.poke()

    def on_listed(self, topic: Topic) -> None:
        self.poke()

    def after_leaving(self, topics: Sequence[Topic]) -> None:
        self._site.growth.look_for_free()

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._poked.clear()
            has_more = False
            for name, step in [(CONNECT, self._connect), *((job.name, job.step) for job in self._jobs)]:
                if self._site.now() >= self._not_before.get(name, 0.0):
                    has_more |= await self._try(name, step)
                if not self._site.is_connected:
                    break
            if not has_more:
                await self._wait()

    async def _try(self, name: str, step: Callable[[], Awaitable[bool]]) -> bool:
        """Run one step of a job; True when it has more to do now."""
        counts = self._site.counts.job("janitor", name)
        counts.steps += 1
        began_s = self._site.now()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                has_more = await step()
        except Exception as error:
            retries = self._retries[name] = self._retries.get(name, 0) + 1
            self._site.failed(name)
            pause = min(FIRST_RETRY_S * 2 ** (retries - 1), LAST_RETRY_S) * random.uniform(0.75, 1.25)
            self._not_before[name] = self._site.now() + pause
            # A fenced broker stops its janitor in a moment; until then this one gets no session.
            outside = (asyncpg.LockNotAvailableError, StorageError, sessions.Fenced, *sessions.CONNECTION_ERRORS)
            is_expected = isinstance(error, outside)
            logger.log(
                logging.INFO if is_expected and retries < 5 else logging.WARNING,
                "janitor's job failed and will be tried again",
                extra={"job": name, "reason": sessions.describe(error), "retry_s": round(pause, 1)},
                exc_info=None if is_expected or isinstance(error, asyncpg.PostgresError) else error,
            )
            if isinstance(error, sessions.CONNECTION_ERRORS) and self._site.session is not None:
                self._site.session.drop()
            return False
        finally:
            counts.seconds += self._site.now() - began_s
        self._retries.pop(name, None)
        self._not_before.pop(name, None)
        return has_more

    async def _wait(self) -> None:
        """Until somebody pokes, a failed job is due again, a job wants its turn, or the interval has passed.

        The catalogue is followed all the while, without a round of all jobs each time.
        """
        began = self._site.now()
        interval_s = self._site.options.interval_s
        if began >= self._put_off_until:
            self._put_off_until = began + interval_s
            for job in self._jobs:
                job.put_off.clear()
        while not self._poked.is_set():
            round_at = min(
                began + interval_s,
                *(self._due_at(job) for job in self._jobs if job is not self._follow),
                *(at for at in self._not_before.values() if at > began),
            )
            follow_at = self._due_at(self._follow)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(round_at, follow_at) - self._site.now()):
                    await self._poked.wait()
            if self._site.now() >= round_at:
                return
            if self._site.now() >= follow_at and not self._poked.is_set():
                await self._try(self._follow.name, self._follow.step)

    def _due_at(self, job: Job) -> float:
        """When a job wants its turn and can have it. Without a connection none can."""
        return max(job.wakes_at(), self._not_before.get(job.name, 0.0)) if self._site.is_connected else NEVER

    async def _connect(self) -> bool:
        if not self._site.is_connected:
            session = await self._open("janitor")
            try:
                available = await server_compressions(session.connection)
            except BaseException:
                session.drop()
                raise
            self._site.use(session, available)
        return False
