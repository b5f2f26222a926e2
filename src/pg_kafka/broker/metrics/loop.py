"""How late the event loop is: what takes long on it holds up everything else.

A timer that is due each 100 ms tells by how much it came too late. It costs a hundred-thousandth of the processor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from prometheus_client.core import Metric

from pg_kafka.metrics.catalogue import memory as catalogue
from pg_kafka.metrics.families import one

TICK_S = 0.1
# As long as Prometheus' usual interval, so that each delay is in one look or two.
WINDOW_S = 15


class LoopSource:
    """Lives as long as the process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst: deque[float] = deque([0.0], maxlen=WINDOW_S)  # of each second
        self._due_s = 0.0
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due_s = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._worst[-1] = max(self._worst[-1], self._loop.time() - self._due_s)
        self._ticks += 1
        if self._ticks * TICK_S >= 1:
            self._ticks = 0
            self._worst.append(0.0)
        self.start()

    def families(self) -> Iterable[Metric]:
        late_s = max(0.0, self._loop.time() - self._due_s)  # what goes on at this moment
        yield one(catalogue.LOOP_LAG, max(late_s, *self._worst))
