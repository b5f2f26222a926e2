"""The task that moves rows of complete segments to new ones: what takes minutes, and must delay no job of the janitor.

    class Compact(CleaningJob):
        name = "compact"

        async def step(self, cleaner: Cleaner) -> bool:
            await cleaner.replace(series, [3, 4], fill)     # returns when the new segment is filled and attached
            return True                                     # there may be more to do now

        def wakes_at(self) -> float: ...

It has a session of its own while there is something to do. The swap comes by itself once nobody has a plan from before the
new segment was there; a long query delays the swap of its series and nothing else. A job that fails is logged, counted in
`failures` and tried again later; what it had begun to fill is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import sessions
from pg_kafka.storage.counts import UpkeepCounts
from pg_kafka.storage.replacing import Attached, Fill, NotNow, Replacing
from pg_kafka.storage.upkeep.job import NEVER
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.cleaner")

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
# How often it is asked whether a swap may come.
POLL_S = 0.25
# A session that was not needed for so long is closed.
IDLE_S = 60.0
STOP_TIMEOUT_S = 5.0
# At a byte rate however low, somebody has to be able to stop the task between two pieces.
LONGEST_PAUSE_S = 600.0
CONNECT, SWAP = "connect", "swap"
_OUTSIDE = (NotNow, asyncpg.LockNotAvailableError, StorageError, sessions.Fenced, *sessions.CONNECTION_ERRORS)


class CleaningJob(ABC):
    """Something that replaces segments. See the module."""

    name: ClassVar[str]

    @abstractmethod
    async def step(self, cleaner: Cleaner) -> bool:
        """Do some of it; True when there is more to do now. Whatever it raises is tried again later."""

    def wakes_at(self) -> float:
        """When it wants to run though nobody pokes, by the event loop's time."""
        return NEVER


class Cleaner:
    """See the module. Only one of its jobs works at a time."""

    def __init__(
        self,
        open_session: Callable[[str], Awaitable[sessions.Session]],
        jobs: Sequence[CleaningJob],
        *,
        has_room: Callable[[float], bool] = lambda _bytes: True,
        bytes_per_second: Callable[[], float] = lambda: float("inf"),
        on_moved: Callable[[Sequence[tuple[int, int]]], Awaitable[None]],
        on_replaced: Callable[[], None],
        on_death: Callable[[str], None] = lambda _reason: None,
        counts: UpkeepCounts | None = None,
    ) -> None:
        """`on_moved` gets the partitions (topic id, index) whose rows are elsewhere. `on_replaced`: segments may be freed."""
        self._open = open_session
        self._jobs = jobs
        self.has_room = has_room
        self._bytes_per_second = bytes_per_second
        self._on_moved = on_moved
        self._on_replaced = on_replaced
        self._on_death = on_death
        self._session: sessions.Session | None = None
        self._attached: dict[int, Attached] = {}  # by series
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._is_poked = True
        self._used_at = 0.0
        self._retries: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self._counts = counts or UpkeepCounts()
        self._working_on = CONNECT

    async def start(self) -> None:
        """Begin; what another process has begun to fill is given up first."""
        self._woken.set()
        self._task = supervised(self._work(), "cleaner", self._on_death)

    async def stop(self) -> None:
        """Stop between two steps or within one: what is not swapped is begun anew at the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
        self.drop()

    def poke(self) -> None:
        """There may be something to do."""
        self._is_poked = True
        self._woken.set()

    # -- what jobs use -----------------------------------------------------------------------------------------------

    @property
    def connection(self) -> asyncpg.Connection:
        """A session that nobody else uses, while a job's step runs."""
        assert self._session is not None
        return self._session.connection

    def is_replacing(self, series: int) -> bool:
        """Does a new segment of a series wait for its swap?"""
        return series in self._attached

    def pace(self, size: int) -> float:
        """Seconds to wait after so many bytes."""
        self._counts.job("cleaner", self._working_on).bytes += size
        rate = self._bytes_per_second()
        return min(size / rate if rate > 0 else LONGEST_PAUSE_S, LONGEST_PAUSE_S) if size else 0.0

    async def replace(
        self,
        series: int,
        sources: Sequence[int],
        fill: Fill,
        within_swap: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    ) -> None:
        """Fill a new segment that takes the place of others. Raises NotNow when that cannot be now."""
        replacing = self._replacing()
        replacement = await replacing.begin(series, sources)
        try:
            await replacing.fill(replacement, fill)
            holders = await replacing.attach(replacement)
        except (NotNow, asyncpg.PostgresError):
            if not self.connection.is_closed():
                await replacing.give_up(series, replacement.target)
            raise
        attached = Attached(replacement, holders)
        if within_swap is not None:
            attached.within_swap = within_swap
        self._attached[series] = attached
        await self._swap_some()

    def _replacing(self) -> Replacing:
        return Replacing(self.connection, has_room=self.has_room, pace=self.pace)

    # -- the loop ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            pause_s = await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()

    async def _round(self) -> float | None:
        """What there is to do now; returns how long to wait for the next look, None: until somebody wakes us."""
        now = self._now()
        held_up = max(self._not_before.get(name, 0.0) for name in (CONNECT, SWAP))
        if now < held_up:
            return held_up - now
        is_poked, self._is_poked = self._is_poked, False
        due = [job for job in self._jobs if is_poked or job.wakes_at() <= now or job.name in self._not_before]
        due = [job for job in due if self._not_before.get(job.name, 0.0) <= now]
        has_more = False
        if due or self._attached or held_up:
            self._used_at = now
            if await self._try(CONNECT, self._connect) and await self._try(SWAP, self._swap_some):
                for job in due:
                    has_more |= await self._try(job.name, lambda job=job: job.step(self))  # type: ignore[misc]
            else:
                self._is_poked = True  # what was due is still
        elif self._session is not None and now - self._used_at >= IDLE_S:
            self.drop()
        if has_more:
            self._is_poked = True
            return 0.0
        at = min(self._not_before.get(name, NEVER) for name in (CONNECT, SWAP))
        for job in self._jobs:
            at = min(at, self._not_before.get(job.name, job.wakes_at()))
        if self._attached:
            at = min(at, now + POLL_S)
        if self._session is not None:
            at = min(at, self._used_at + IDLE_S)
        return None if at == NEVER else max(0.01, at - self._now())

    async def _try(self, name: str, step: Callable[[], Awaitable[bool]]) -> bool:
        self._working_on = name
        counts = self._counts.job("cleaner", name)
        counts.steps += 1
        began_s = self._now()
        try:
            answer = await step()
        except Exception as error:
            retries = self._retries[name] = self._retries[name] + 1
            self.failures[name] += 1
            counts.failed += 1
            pause_s = min(FIRST_RETRY_S * 2 ** (retries - 1), LAST_RETRY_S)
            self._not_before[name] = self._now() + pause_s
            is_outside = isinstance(error, _OUTSIDE)
            logger.log(
                logging.INFO if is_outside and retries < 5 else logging.WARNING,
                "a step of the cleaner failed and will be tried again",
                extra={"job": name, "reason": sessions.describe(error), "retry_s": pause_s},
                exc_info=None if is_outside or isinstance(error, asyncpg.PostgresError) else error,
            )
            if not isinstance(error, (NotNow, asyncpg.LockNotAvailableError)):
                self.drop()  # a transaction may have been left open
                self._is_poked = True  # what waited for its swap is begun anew
            return False
        finally:
            counts.seconds += self._now() - began_s
        self._retries.pop(name, None)
        self._not_before.pop(name, None)
        return answer

    async def _connect(self) -> bool:
        if self._session is None or self._session.is_closed:
            self.drop()
            self._session = await self._open("cleaner")
        await self._replacing().give_up_interrupted(
            [(series, attached.replacement.target) for series, attached in self._attached.items()]
        )
        return True

    def drop(self) -> None:
        """The session is lost, or not needed any more."""
        session, self._session = self._session, None
        self._attached.clear()
        if session is not None:
            session.drop()

    async def _swap_some(self) -> bool:
        """Swap what nobody holds up any more; true."""
        replacing = self._replacing()
        for series, attached in list(self._attached.items()):
            attached.holders = await replacing.running(attached.holders)
            if attached.holders:
                continue
            replacement = attached.replacement
            try:
                moved = await replacing.swap(replacement, attached.within_swap)
            except NotNow:
                del self._attached[series]
                await replacing.give_up(series, replacement.target)
                raise
            del self._attached[series]
            self._counts.segments["made"] += 1
            self._counts.segments["replaced"] += len(replacement.sources)
            logger.info(
                "segments replaced",
                extra={"series": series, "segments": list(replacement.sources), "by": replacement.target},
            )
            self._on_replaced()
            await self._on_moved(moved)
        return True
