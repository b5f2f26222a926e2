"""Who logged in or failed, and who changed what by Kafka's protocol: each is told here once.

    ctx.broker.audit.note("topic deleted", who=ctx.connection, resource="topic orders")

Each event is a line of the logger `pg_kafka.audit`, and a row of `kafka.audit_log`, written by a task a moment later: no
request waits for it, and none fails by it. What may come by the thousand (`FREQUENT`) is written one by one only for a
while, and is then counted: one line and one row a minute say how many there were.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.clock import Clock
from pg_kafka.config.settings import Settings
from pg_kafka.errors import StorageError
from pg_kafka.storage.audit import AuditStore, Event

logger = logging.getLogger(__name__)
lines = logging.getLogger("pg_kafka.audit")

FREQUENT = frozenset({"login", "login failed", "offsets set"})
"""Events of which each client may cause any number in a second."""
ONE_BY_ONE = 10  # of a frequent event, from one address, in each window
WINDOW_MS = 60_000
# Windows that are open at the same time. What comes from other addresses meanwhile is counted together.
WINDOWS = 1_000
QUEUED = 10_000  # events that wait to be written; what comes when the queue is full is counted
TOGETHER = 500  # rows of one transaction
RETRY_S = 1.0
TRIM_S = 60.0
STOP_S = 2.0
EVENTS_LOST = "events lost"


class Audit(Protocol):
    """Takes what has happened. Called on the event loop's thread; it neither waits nor raises."""

    def note(
        self, event: str, *, who: ConnectionInfo, resource: str = "", detail: str = "", succeeded: bool = True
    ) -> None:
        """One event.

        `event` is a short fixed text ("login", "topic created"), so that few different ones are there to look for.
        `resource` is a type and a name ("topic orders", "user alice"). `detail` never holds a secret.
        """


class NoAudit:
    """Nobody writes it down."""

    def note(
        self, event: str, *, who: ConnectionInfo, resource: str = "", detail: str = "", succeeded: bool = True
    ) -> None:
        return


@dataclass(slots=True)
class _Window:
    """What came of one frequent event, from one address, since the window was opened."""

    first: Event
    count: int = 0
    is_of_many: bool = False  # addresses


class Ration:
    """Decides which events are written one by one. Knows no time but what it is given."""

    def __init__(self, windows: int = WINDOWS) -> None:
        self._limit = windows
        self._windows: OrderedDict[tuple[str, str | None], _Window] = OrderedDict()  # the oldest first

    def takes(self, event: Event) -> bool:
        """Is this one written? Otherwise it is counted."""
        if event.event not in FREQUENT:
            return True
        key = (event.event, event.address)
        window = self._windows.get(key)
        if window is None and len(self._windows) >= self._limit:
            key = (event.event, None)
            window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(event, is_of_many=key[1] is None)
        window.count += 1
        return window.count <= ONE_BY_ONE

    def over(self, now_ms: int, *, all_of_them: bool = False) -> list[Event]:
        """Close the windows whose time is over: for each that has counted, an event that says how many."""
        counted = []
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if not all_of_them and now_ms - window.first.at_ms < WINDOW_MS:
                break
            del self._windows[key]
            if window.count > ONE_BY_ONE:
                counted.append(_counted(window, now_ms))
        return counted

    @property
    def next_over_ms(self) -> int | None:
        """When the next window closes."""
        for window in self._windows.values():
            return window.first.at_ms + WINDOW_MS
        return None


def _counted(window: _Window, now_ms: int) -> Event:
    """Of many events nothing is said that differs between them."""
    return dataclasses.replace(
        window.first,
        at_ms=now_ms,
        principal="",
        address=None if window.is_of_many else window.first.address,
        listener=None,
        application="",
        resource="",
        detail=f"more of the same within a minute, from {'many addresses' if window.is_of_many else 'this address'}",
        times=window.count - ONE_BY_ONE,
    )


@dataclass(slots=True, eq=False)
class AuditCounts:
    """As long as the process lives."""

    events: Counter[str] = field(default_factory=Counter)  # by event, each one that was told
    lost: int = 0  # of these, those without a row of their own or of others


class LoggedAudit:
    """Writes lines of the log and no rows: for a broker that waits, which does not write to the database."""

    def __init__(self, clock: Clock, counts: AuditCounts | None = None) -> None:
        self._clock = clock
        self._counts = counts or AuditCounts()
        self._ration = Ration()

    def note(
        self, event: str, *, who: ConnectionInfo, resource: str = "", detail: str = "", succeeded: bool = True
    ) -> None:
        self._counts.events[event] += 1
        now_ms = self._clock.steady_ms()
        for counted in self._ration.over(now_ms):
            self._take(counted)
        one = Event(
            at_ms=now_ms,
            event=event,
            principal=who.principal,
            address=who.host,
            listener=who.listener.name,
            application=f"{who.client_software_name} {who.client_software_version}".strip(),
            resource=resource,
            detail=detail,
            succeeded=succeeded,
        )
        if self._ration.takes(one):
            self._take(one)

    def _take(self, event: Event) -> None:
        _log(event)


class AuditLog(LoggedAudit):
    """Lines and rows."""

    def __init__(self, store: AuditStore, settings: Settings, clock: Clock, counts: AuditCounts | None = None) -> None:
        super().__init__(clock, counts)
        self._store = store
        self._settings = settings
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._wanted = asyncio.Event()

    def _take(self, event: Event) -> None:
        super()._take(event)
        if len(self._queue) >= QUEUED:
            self._lost += event.times
            self._counts.lost += event.times
        else:
            self._queue.append(event)
        self._wanted.set()

    @property
    def queued(self) -> int:
        """Events that wait to be written."""
        return len(self._queue)

    async def run(self) -> None:
        """Write what is noted, and delete what is old, until it is cancelled."""
        loop = asyncio.get_running_loop()
        trim_at = loop.time()
        while True:
            try:
                if loop.time() >= trim_at:
                    trim_at = loop.time() + TRIM_S
                    config = self._settings.current
                    await self._store.trim(rows=config.audit_rows, retention_ms=config.audit_retention_ms)
                await self._write()
            except StorageError as error:
                logger.warning("audit events have to wait", extra={"events": len(self._queue), "error": str(error)})
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with asyncio.timeout_at(min(trim_at, loop.time() + self._until_next_window_s())):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Write what is left, if that takes no longer than a moment."""
        task.cancel()
        await asyncio.wait([task])
        for counted in self._ration.over(self._clock.steady_ms(), all_of_them=True):
            self._take(counted)
        try:
            async with asyncio.timeout(STOP_S):
                await self._write()
        except (StorageError, TimeoutError) as error:
            self._counts.lost += sum(event.times for event in self._queue)
            if self._queue:
                logger.warning("audit events were not written", extra={"events": len(self._queue), "error": str(error)})

    def _until_next_window_s(self) -> float:
        next_ms = self._ration.next_over_ms
        return TRIM_S if next_ms is None else max(next_ms - self._clock.steady_ms(), 0) / 1000

    async def _write(self) -> None:
        """Raises StorageError; then all that was not written is still there, and comes again."""
        self._wanted.clear()
        for counted in self._ration.over(self._clock.steady_ms()):
            self._take(counted)
        while self._queue or self._lost:
            some = [self._queue[n] for n in range(min(TOGETHER, len(self._queue)))]
            lost = self._lost
            now_ms = self._clock.steady_ms()
            told = [_lost(lost, now_ms)] if lost else []
            await self._store.write(some + told, now_ms)
            for _ in some:
                self._queue.popleft()
            self._lost -= lost


def _lost(times: int, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        event=EVENTS_LOST,
        principal="",
        address=None,
        listener=None,
        application="",
        resource="",
        detail="so many events were not written: too many came at once, or the database did not answer",
        succeeded=False,
        times=times,
    )


def _log(event: Event) -> None:
    said = {
        "principal": event.principal,
        "address": event.address or "",
        "listener": event.listener or "",
        "application": event.application,
        "resource": event.resource,
        "detail": event.detail,
        "times": "" if event.times == 1 else event.times,
    }
    level = logging.INFO if event.succeeded else logging.WARNING
    lines.log(level, event.event, extra={name: value for name, value in said.items() if value != ""})
