"""Large batches, decoded beside the event loop; what they become is bounded over all connections.

A batch of 40 kB may hold 127 MB. Before it is decoded it gets a claim to so many bytes as it may become, in the order of
asking; the surplus is given back as soon as its real size is known, the rest when its lane has answered. Nobody waits for
a claim while holding one: a batch that turns out to be larger gives up its claim, asks for a larger one, and is decoded
again. So there is always somebody who goes on.

Giant batches have a quarter less than all bytes and a thread of their own, one after the other. The others have the rest,
and other threads, so that they never wait for giant ones.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

GIANT_BYTES: Final = 8 * 1024 * 1024
"""A batch that may become more than this is a giant one: decoding it takes tens of milliseconds and more."""

LEAST_CLAIM_BYTES: Final = 64 * 1024
GROWTH: Final = 4
GIANT_SHARE: Final = 0.75
THREADS: Final = 2
WAIT_S: Final = 300.0
"""A batch that waits longer than this is answered with an error: its client has given up, or will send it again."""


class Waiter(Protocol):
    """The reply to a request, as far as waiting goes."""

    is_abandoned: bool
    on_abandon: Callable[[], None] | None


class Abandoned(Exception):
    """The connection is gone: nobody wants the batch to be decoded."""


class Claim:
    """Bytes that belong to one batch until they are given back."""

    __slots__ = ("_allowance", "bytes")

    def __init__(self, allowance: Allowance, count_bytes: int) -> None:
        self._allowance = allowance
        self.bytes = count_bytes

    def resize(self, count_bytes: int) -> None:
        """The real size is known. It may be more than was asked for, and is counted all the same."""
        difference = count_bytes - self.bytes
        self.bytes = count_bytes
        self._allowance.change(difference)

    def give_back(self) -> None:
        """May be called again."""
        self.resize(0)


class Allowance:
    """Counts bytes and gives claims to them, first come, first served; one above the limit gets it alone."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many ask for a claim."""
        return len(self._waiting)

    def change(self, difference: int) -> None:
        self.used_bytes += difference
        while self._waiting:
            future, count_bytes = next(iter(self._waiting.items()))
            if future.done():  # its request has given up
                del self._waiting[future]
                continue
            if not self._fits(count_bytes):
                return
            del self._waiting[future]
            self.used_bytes += count_bytes
            future.set_result(None)

    def _fits(self, count_bytes: int) -> bool:
        return not self.used_bytes or self.used_bytes + count_bytes <= self.limit_bytes

    async def claim(self, count_bytes: int, waiter: Waiter, on_wait: Callable[[], None]) -> Claim:
        """A claim to so many bytes. Raises Abandoned when the waiter's connection is lost first, or TimeoutError."""
        if waiter.is_abandoned:
            raise Abandoned
        if not self._waiting and self._fits(count_bytes):
            self.used_bytes += count_bytes
            return Claim(self, count_bytes)
        on_wait()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = count_bytes
        waiter.on_abandon = partial(self._abandon, future)
        try:
            async with asyncio.timeout(WAIT_S):
                await future
        except BaseException:
            self._waiting.pop(future, None)
            was_granted = future.done() and not future.cancelled() and future.exception() is None
            self.change(-count_bytes if was_granted else 0)
            raise
        finally:
            waiter.on_abandon = None
        return Claim(self, count_bytes)

    def _abandon(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_exception(Abandoned())
            self.change(0)


class Decoding:
    """See the module. All but `decode` itself runs on the event loop's thread."""

    def __init__(self, limit_bytes: int) -> None:
        giant_bytes = int(limit_bytes * GIANT_SHARE)
        self.limit_bytes = limit_bytes
        self.giants = Allowance(giant_bytes)
        self.others = Allowance(limit_bytes - giant_bytes)
        self.queued_bytes = 0  # of claims whose batches wait for their lanes
        self._giants_pool = ThreadPoolExecutor(1, thread_name_prefix="giants")
        self._others_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="codec")

    @property
    def pool(self) -> Executor:
        """For other work of some milliseconds that must not hold up the event loop."""
        return self._others_pool

    @property
    def used_bytes(self) -> int:
        return self.giants.used_bytes + self.others.used_bytes

    def stop(self) -> None:
        for pool in (self._giants_pool, self._others_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def decode(
        self,
        decode: Callable[[int], bool],
        expected_bytes: int,
        limit_bytes: int,
        waiter: Waiter,
        on_wait: Callable[[], None],
    ) -> Claim:
        """Run `decode(bytes it may make)` in a thread until it returns True, with more bytes each time.

        The claim to the bytes of the last time. Raises Abandoned when the waiter's connection is lost before it begins,
        TimeoutError when its turn does not come.
        """
        wanted = min(limit_bytes, max(expected_bytes, LEAST_CLAIM_BYTES))
        loop = asyncio.get_running_loop()
        while True:
            is_giant = wanted > GIANT_BYTES
            claim = await (self.giants if is_giant else self.others).claim(wanted, waiter, on_wait)
            try:
                pool = self._giants_pool if is_giant else self._others_pool
                if await loop.run_in_executor(pool, decode, wanted):
                    return claim
            except BaseException:
                claim.give_back()
                raise
            claim.give_back()
            # Nobody knows how large it is: a giant one may be as large as any.
            wanted = wanted * GROWTH if wanted * GROWTH <= GIANT_BYTES else limit_bytes

    def queued(self, claim: Claim, count_bytes: int) -> Callable[[], None]:
        """A claim's batch goes to its lane, where it counts so many bytes; what to call when it has been answered."""
        claim.resize(count_bytes)
        self.queued_bytes += count_bytes

        def answered() -> None:
            self.queued_bytes -= count_bytes
            claim.give_back()

        return answered
