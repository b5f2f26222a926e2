"""Takes offsets that members commit by SQL into their groups, and tells when it is safe to say where a group has come.

    commits = MemberCommitsWatch(store, groups)
    task = supervised(commits.run(), ...)
    busy = await commits.settled("billing", [(7, 0)])     where a transaction is still open; raises StorageError

A transaction that calls kafka.commit_offsets() takes a lock of each partition and then looks whether the member may
(features/103_commit_offsets.sql). `settled` first looks whether anybody has such a lock, and then takes in what is
committed. Whoever is told an offset after that begins behind all that a former owner has committed: a former owner that
comes later finds a generation that is not its own.

All who ask at the same time are answered by one look, which begins after they have asked. Nothing tells that a transaction
has ended, so while one is open it is looked at again a few times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping

from pg_kafka.broker.groups import GroupCoordinator
from pg_kafka.coordinator.group_offsets import OffsetKey
from pg_kafka.errors import StorageError
from pg_kafka.storage.member_commits import MemberCommits, Place, Seen
from pg_kafka.storage.sessions import unavailable
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.groups")

# So often commits are taken in when nobody asks, so that views and lag have them.
LOOK_S = 1.0
# Requests of a connection are answered in order: who waits holds up its own heartbeats. Clients ask again by themselves.
WAIT_S = 0.5
ASK_AGAIN_S = 0.02
NOTHING_SEEN = Seen({}, {}, is_quiet=True)
# The heartbeats of who asks wait behind this, however long a statement of a database that hangs takes.
ANSWER_S = 3.0
# Who keeps members from their partitions is named in the log so often.
NAME_EVERY_S = 30.0


class _Look:
    """What is asked for next."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.groups: set[str] = set()
        self.seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()


class MemberCommitsWatch:
    """See the module."""

    def __init__(self, store: MemberCommits, groups: GroupCoordinator) -> None:
        self._store = store
        self._groups = groups
        self._wanted = asyncio.Event()
        self._next: _Look | None = None
        self._snapshot: str | None = None
        self._snapshot_term = -1  # of the groups that have taken in what is visible in it
        self._is_known = True
        self._has_ended = False
        self._named_at: dict[Place, float] = {}

    async def run(self) -> None:
        """Take in what is committed, until it is cancelled."""
        try:
            await self._look_again_and_again()
        finally:
            self._has_ended = True
            self._answer(self._next, unavailable("this broker no longer leads"))

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            look, self._next = self._next, None
            try:
                seen = await self._look(_Look() if look is None else look)
            except StorageError as error:
                if self._is_known:
                    self._is_known = False
                    logger.warning("offsets committed by SQL are not known", extra={"error": str(error)})
                self._answer(look, error)
            except BaseException as error:
                self._answer(look, unavailable("commits by SQL cannot be looked at"))
                if not isinstance(error, Exception):
                    raise
                logger.exception("offsets committed by SQL cannot be taken in")
            else:
                if not self._is_known:
                    self._is_known = True
                    logger.info("offsets committed by SQL are known again")
                self._answer(look, seen)

    @staticmethod
    def _answer(look: _Look | None, answer: Seen | StorageError) -> None:
        if look is None or look.seen.done():
            return
        if isinstance(answer, StorageError):
            look.seen.set_exception(answer)
            look.seen.exception()  # whoever asked may be gone
        else:
            look.seen.set_result(answer)

    async def _look(self, look: _Look) -> Seen:
        seen = NOTHING_SEEN
        if self._groups.refusal is not ErrorCode.NONE:
            if look.places or look.groups:
                raise unavailable("groups are being loaded")
            return seen
        if look.places or look.groups:
            seen = await self._store.look(look.places, look.groups)
        term = self._groups.term
        is_first = term != self._snapshot_term
        commits, snapshot = await self._store.news(None if is_first else self._snapshot)
        if self._groups.term != term:
            raise unavailable("groups are being loaded")
        self._groups.take_commits(commits)
        if is_first:
            self._groups.forget_taken({commit.group_id for commit in commits})
        self._snapshot, self._snapshot_term = snapshot, term
        for group_id, is_driven in seen.driven.items():
            if is_driven:
                self._groups.driven_by_sql(group_id)
        return seen

    async def settled(
        self, group_id: str, keys: Collection[OffsetKey], *, waits: bool = True, wait_s: float = WAIT_S
    ) -> Collection[OffsetKey]:
        """Have all that is committed by now taken in, and where it is about to be, wait for that, within a bound.

        Returns those of the partitions in which transactions are still open. What was taken in is written soon:
        `Group.written()`. If SQL drives the group it does so in memory after this; if it is about to, all are busy. Without
        `waits` nothing is waited for. Raises StorageError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        groups = [group_id] if waits else []
        # Nearly always that is all, however many partitions are asked for.
        seen = await self._ask((), groups)
        if not waits or (seen.is_quiet and seen.driven.get(group_id) is not False):
            return ()
        left: Mapping[Place, int | None] = {(group_id, *key): None for key in keys}
        while True:
            seen = await self._ask(left, groups)
            # A session that has come since the first look knows who may commit: it is not waited for.
            busy = dict.fromkeys(left, 0) if seen.driven.get(group_id) is False else seen.busy
            left = {place: busy[place] for place, pid in left.items() if place in busy and pid in (None, busy[place])}
            if not left or loop.time() >= deadline:
                self._name(busy, left)
                return {(topic_id, index) for _, topic_id, index in left}
            await asyncio.sleep(ASK_AGAIN_S)

    async def _ask(self, places: Iterable[Place], groups: Iterable[str]) -> Seen:
        """What the next look sees, which begins after this. Raises StorageError."""
        if self._has_ended:
            raise unavailable("this broker no longer leads")
        if self._next is None:
            self._next = _Look()
            self._wanted.set()
        look = self._next
        look.places.update(places)
        look.groups.update(groups)
        return await _in_time(look.seen)

    def _name(self, busy: Mapping[Place, int], left: Collection[Place]) -> None:
        """Say in the log who keeps members waiting."""
        now = asyncio.get_running_loop().time()
        self._named_at = {place: at for place, at in self._named_at.items() if now - at < NAME_EVERY_S}
        for place in left:
            if place not in self._named_at:
                self._named_at[place] = now
                topic = self._groups.name_of(place[1])
                extra = {"group": place[0], "topic": topic, "partition": place[2], "pid": busy[place]}
                logger.warning("a partition waits for a transaction that has committed its offset by SQL", extra=extra)


async def _in_time(seen: asyncio.Future[Seen]) -> Seen:
    """What many wait for, each with a deadline. Raises StorageError.

    Without asyncio.timeout: hot handlers begin outside of a task.
    """
    loop = asyncio.get_running_loop()
    own: asyncio.Future[Seen] = loop.create_future()

    def take(done: asyncio.Future[Seen]) -> None:
        if not own.done():
            error = done.exception()
            if error is None:
                own.set_result(done.result())
            else:
                own.set_exception(error)

    def give_up() -> None:
        if not own.done():
            own.set_exception(unavailable("the database did not answer in time"))

    seen.add_done_callback(take)
    timer = loop.call_later(ANSWER_S, give_up)
    try:
        return await own
    finally:
        timer.cancel()
        seen.remove_done_callback(take)
