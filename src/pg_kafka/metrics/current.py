"""Which request is served just now, so that whoever waits for PostgreSQL can say whose time that is.

    current.TIMING.set(timing)       at the beginning of a request's task
    with current.database(): ...     this waits for PostgreSQL, or for a session with it

What a task begins inherits it. Who serves no request, or one that nobody times, finds None.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from pg_kafka.metrics._requests import Timing

TIMING: ContextVar[Timing | None] = ContextVar("timing", default=None)


@contextlib.contextmanager
def database() -> Iterator[None]:
    """Count the time as the database's."""
    timing = TIMING.get()
    if timing is None:
        yield
        return
    timing.ask()
    try:
        yield
    finally:
        timing.answered()
