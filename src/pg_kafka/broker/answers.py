"""Answers that wait for writes: who is told, and when.

What a group or a transactional id writes is numbered, and committed in that order. Who asks for something is answered
after the commit of all that was queued by then, at once when nothing is; after a failed write, with an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pg_kafka.broker.reply import Reply
from pg_kafka.metrics import current
from pg_kafka.wire.error_codes import ErrorCode


class Answerable(Protocol):
    """Somebody who waits for writes."""

    def answer(self, message: Any) -> None: ...

    def refuse(self, code: int) -> None: ...


class Asked:
    """A request on its way, and how to answer it with an error; machines know it as the request's token."""

    __slots__ = ("_failure", "_reply", "_request", "is_answered", "is_decided")

    def __init__(self, reply: Reply, request: Any, failure: Callable[[Any, int], Any]) -> None:
        self._reply = reply
        self._request = request
        self._failure = failure
        self.is_decided = False  # the machine has said what the answer will be
        self.is_answered = False

    def answer(self, message: Any) -> None:
        self.is_decided = self.is_answered = True
        self._reply.send(message)

    def refuse(self, code: int) -> None:
        self.answer(self._failure(self._request, code))

    def park(self) -> None:
        """The machine keeps it, for long perhaps: closing the connection need not wait for it."""
        if not self.is_decided:
            self._reply.on_abandon = _nothing
            if self._reply.timing is not None:
                self._reply.timing.park()

    def decide(self) -> None:
        """The machine has let it go: what is left to wait for is a commit."""
        self.is_decided = True
        self._reply.on_abandon = None
        if self._reply.timing is not None:
            self._reply.timing.unpark()


class Settling:
    """Wait for writes in a coroutine: awaiting it gives NONE when they are committed, else why not."""

    def __init__(self) -> None:
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._timing = current.TIMING.get()
        if self._timing is not None:
            self._timing.hand_over()

    def answer(self, message: Any) -> None:
        self._settle(int(ErrorCode.NONE))

    def refuse(self, code: int) -> None:
        self._settle(int(code))

    def _settle(self, code: int) -> None:
        if self._timing is not None:
            self._timing.settle()
        if not self._code.done():
            self._code.set_result(code)

    def __await__(self) -> Any:
        return self._code.__await__()


class OrderedWrites:
    """The writes of one group or transactional id; `waiting` holds who is answered after which."""

    __slots__ = ("is_broken", "issued", "settled", "waiting")

    def __init__(self) -> None:
        self.issued = 0
        self.settled = 0
        self.is_broken = False
        self.waiting: deque[tuple[int, Answerable, Any]] = deque()

    def after_writes(self, asked: Answerable, message: Any) -> None:
        """Answer when all that has been queued by now is committed."""
        if self.is_broken:
            asked.refuse(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        elif self.settled == self.issued:
            asked.answer(message)
        else:
            self.waiting.append((self.issued, asked, message))

    def written(self) -> Awaitable[int]:
        """Waits until all that has been queued by now is committed; an error code."""
        settling = Settling()
        self.after_writes(settling, None)
        return settling

    def settle(self, *, failed: bool) -> None:
        """The oldest write that was not settled is committed, or has failed: answer who waits for it."""
        self.settled += 1
        if failed:
            self.is_broken = True
        waiting = self.waiting
        while waiting and (waiting[0][0] <= self.settled or self.is_broken):
            _, asked, message = waiting.popleft()
            if self.is_broken:
                asked.refuse(ErrorCode.COORDINATOR_NOT_AVAILABLE)
            else:
                asked.answer(message)


def _nothing() -> None:
    return None
