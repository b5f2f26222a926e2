"""Background tasks that nobody awaits: an end that was not asked for is logged and told, never silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("pg_kafka.tasks")


def supervised(work: Coroutine[Any, Any, None], name: str, on_death: Callable[[str], None]) -> asyncio.Task[None]:
    """Start `work` as a task. When it fails, a log line says so and `on_death(reason)` is called; it is not started again.

    Work that returns or is cancelled has come to its end in order.
    """

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("background task failed", exc_info=error, extra={"task": name})
            on_death(f"the task {name} failed")

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    return task
