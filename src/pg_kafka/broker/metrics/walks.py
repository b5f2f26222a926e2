"""Figures over very many things: all topics, all groups.

    walk = Walk(self._sums, lambda: len(topics) > AT_ONCE)
    walk.look()         the figures: made now while there are few things, else what was made last
    await walk.run()    makes them again and again while there are many, with turns of the event loop in between

What `make` goes through must bear that it changes meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Final, Generic, TypeVar

from pg_kafka.clock import Clock

AT_ONCE: Final = 5_000
"""Partitions, or members of groups: gone through within some milliseconds."""

INTERVAL_S: Final = 5.0
SHARE: Final = 200
"""Walks take no more than so small a part of the processor, 1 in 200."""

T = TypeVar("T")


class Walk(Generic[T]):
    """See the module. `make` yields at least every few hundred things, and returns the figures."""

    def __init__(self, make: Callable[[], Generator[None, None, T]], count: Callable[[], int], nothing: T) -> None:
        self._make = make
        self._count = count
        self._made = nothing

    def look(self) -> T:
        """The figures, for one page of metrics."""
        if self._count() <= AT_ONCE:
            self._made = _finished(self._make())
        return self._made

    async def run(self) -> None:
        """Until it is cancelled."""
        processor_ns = Clock().processor_ns
        while True:
            spent_ns = 0
            if self._count() > AT_ONCE:
                walk = self._make()
                while True:
                    begun_ns = processor_ns()
                    try:
                        next(walk)
                    except StopIteration as end:
                        self._made = end.value
                        break
                    spent_ns += processor_ns() - begun_ns
                    await asyncio.sleep(0)
            await asyncio.sleep(max(INTERVAL_S, spent_ns / 1e9 * SHARE))


def _finished(walk: Generator[None, None, T]) -> T:
    while True:
        try:
            next(walk)
        except StopIteration as end:
            made: T = end.value
            return made
