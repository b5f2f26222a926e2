"""The work that connections leave to others: tasks, and a thread for messages with very many items.

work.run(coroutine)                     a task that is owned until it ends
await work.beside_loop(decode, frame)   in the thread
work.cancel()                           ends both
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

# Requests with very many items that are read and handled at a time; the others keep the bytes that they came in.
LARGE_REQUESTS_AT_ONCE = 4

T = TypeVar("T")


class Work:
    """Of all connections of one listener."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.large_requests = asyncio.Semaphore(LARGE_REQUESTS_AT_ONCE)
        self._loop = asyncio.get_running_loop()
        self._codec_thread = ThreadPoolExecutor(1, thread_name_prefix="messages")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Own a connection's task until it ends."""
        task = self._loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def beside_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        """Decode or encode a message with very many items in a thread, which shares the processor with the event loop."""
        return await self._loop.run_in_executor(self._codec_thread, work, *arguments)

    async def cancel(self) -> None:
        """End all tasks and the thread."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._codec_thread.shutdown(wait=False, cancel_futures=True)
