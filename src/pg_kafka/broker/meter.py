"""What the requests of one connection cost: the processor's time on the event loop's thread, for the request quota.

    with meter:                          what is done here counts
        start_requests()
    await meter.metered(handler(...))    and the steps of this, without what happens between them
    meter.take()                         nanoseconds since it was asked last

What other threads and PostgreSQL do for a request is not counted, nor what is done when a commit or new records wake one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any


class Meter:
    """See the module. `now_ns` is the processor's time of the thread."""

    __slots__ = ("_depth", "_now_ns", "_since", "_spent_ns")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._spent_ns = self._since = self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._since = self._now_ns()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._spent_ns += self._now_ns() - self._since

    def take(self) -> int:
        """Nanoseconds since it was asked last."""
        if self._depth:
            now = self._now_ns()
            self._spent_ns += now - self._since
            self._since = now
        spent_ns, self._spent_ns = self._spent_ns, 0
        return spent_ns

    def metered(self, work: Awaitable[None]) -> Awaitable[None]:
        """The same work, with the time of its steps counted."""
        return _steps(self, work.__await__())


@coroutine
def _steps(meter: Meter, work: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    resume: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            with meter:
                waits_for = resume(value)
        except StopIteration:
            return
        try:
            resume, value = work.send, (yield waits_for)
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            resume, value = work.throw, error
