"""How many bytes of requests the broker holds over all connections, and who waits while that is too many.

Every connection may hold RESERVE_BYTES without asking, so that small requests pass while large ones compete. Above
that, when the budget is used up, the connection is not read until bytes are given back. Bytes that the log has accepted
and not yet written (decompressed ones, many more than were sent perhaps) also stop new requests from starting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

RESERVE_BYTES = 64 * 1024


class Holder(Protocol):
    """A connection, as the budget sees it."""

    def resume(self) -> None:
        """There is room again: go on. May wait anew."""


class RequestBudget:
    """Counts; `on_wanted` is called when the first holder begins to wait."""

    def __init__(self, limit_bytes: int, log_queued_bytes: Callable[[], int], on_wanted: Callable[[], None]) -> None:
        self._limit_bytes = limit_bytes
        self._log_queued_bytes = log_queued_bytes
        self._on_wanted = on_wanted
        self._waiting: dict[Holder, None] = {}  # in the order of arrival
        self._is_waking = False
        self.used_bytes = 0

    @property
    def limit_bytes(self) -> int:
        return self._limit_bytes

    @property
    def is_full(self) -> bool:
        return self.used_bytes > self._limit_bytes

    @property
    def is_backlogged(self) -> bool:
        """The log has more to write than it should; nothing that may append is started."""
        return self._log_queued_bytes() > self._limit_bytes

    @property
    def is_wanted(self) -> bool:
        return bool(self._waiting)

    def change(self, difference: int) -> None:
        self.used_bytes += difference
        if difference < 0 and self._waiting:
            self.wake()

    def wait(self, holder: Holder) -> None:
        if not self._waiting:
            self._on_wanted()
        self._waiting[holder] = None

    def forget(self, holder: Holder) -> None:
        self._waiting.pop(holder, None)

    def wake(self) -> None:
        """Let those who wait go on, in their order, as far as there is room."""
        if self._is_waking:  # a holder that goes on may give bytes back; the loop below sees them
            return
        self._is_waking = True
        try:
            for holder in list(self._waiting):
                if self.is_full or self.is_backlogged:
                    break
                if holder in self._waiting:
                    del self._waiting[holder]
                    holder.resume()
        finally:
            self._is_waking = False
