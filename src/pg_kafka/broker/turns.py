"""Long work in slices: what one request asks for must not hold up the others.

A handler that goes through a list from the wire, or through all there is of something, takes its items from `each` (or in
`parts`). When it has worked for a slice, the event loop turns before the next item: other requests are read and answered,
and so is the next one of those that have long work, since of all of these one goes on in a turn. In between anything may
have changed: topics and groups may be gone. A few items cost no turn.

    async for topic in ctx.broker.turns.each(request.topics): ...
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

SLICE_S: Final = 0.02
"""How long work goes on before the event loop turns. Loops within loops have a slice each."""

ITEMS_AT_ONCE: Final = 2_000
"""As many as are read, handled and written within a slice. Messages with more are read and written beside the event loop."""

PART_ITEMS: Final = 200

LONGEST_WITHOUT_COLLECTION_S: Final = 10.0
"""Long work that goes on for longer, or one after the other without an end, must not be memory without an end."""

T = TypeVar("T")


class Turns:
    """Whose turn it is, of all that have long work."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_giving = False
        self._long_works = 0
        self._collection_timer: asyncio.TimerHandle | None = None
        self.given = 0  # grows with each turn: what was looked at before may have changed since

    @property
    def waiting(self) -> int:
        """How many wait for their next turn."""
        return len(self._waiting)

    async def each(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items, with turns of the event loop between them. What they are taken from must not change meanwhile."""
        now = asyncio.get_running_loop().time
        until = now() + SLICE_S
        is_long = False
        try:
            for item in items:
                if now() >= until:
                    if not is_long:
                        is_long = True
                        self._begin_long()
                    await self._next()
                    until = now() + SLICE_S
                yield item
        finally:
            if is_long:
                self._end_long()

    async def parts(self, items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
        """The same, some items at a time."""
        async for start in self.each(range(0, len(items), PART_ITEMS)):
            yield items[start : start + PART_ITEMS]

    @contextlib.contextmanager
    def long_work(self) -> Iterator[None]:
        """Keep the garbage collector from going through all of memory because of the many objects that are made meanwhile.

        It would hold up the event loop for half a second, and they go by themselves when their request is answered.
        """
        self._begin_long()
        try:
            yield
        finally:
            self._end_long()

    def _begin_long(self) -> None:
        if not self._long_works:
            gc.disable()
            loop = asyncio.get_running_loop()
            self._collection_timer = loop.call_later(LONGEST_WITHOUT_COLLECTION_S, gc.enable)
        self._long_works += 1

    def _end_long(self) -> None:
        self._long_works -= 1
        if not self._long_works:
            if self._collection_timer is not None:
                self._collection_timer.cancel()
            gc.enable()

    async def _next(self) -> None:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if not self._is_giving:
            self._is_giving = True
            loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        """Let one go on, and the next in the next turn of the event loop."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited was cancelled
                self.given += 1
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._give)
                return
        self._is_giving = False


def begun(work: Coroutine[Any, Any, None]) -> Rest | None:
    """Do `work` up to where it has to wait: None when it is done by then, else the rest of it, to be awaited.

    So a hot handler that is a coroutine for the sake of long requests answers short ones at once, without a task.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return Rest(work, waits_for)


class Rest:
    """Work that has begun and waits for something."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        work, waits_for = self._work, self._waits_for
        try:
            while True:
                try:
                    got = yield waits_for
                except BaseException as error:
                    waits_for = work.throw(error)
                else:
                    waits_for = work.send(got)
        except StopIteration:
            return
