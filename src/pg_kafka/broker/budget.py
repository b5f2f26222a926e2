"""How many bytes of requests the broker holds over all connections, and who waits while that is too many.

Every connection may hold RESERVE_BYTES without asking, so that small requests pass while large ones compete. Above
that, when the budget is used up, the connection is not read until bytes are given back. Where half-sent frames alone
have used it up nothing would ever be given back: then one connection at a time may read its frame to the end.
Bytes that the log has accepted and not yet written (decompressed ones, more than were sent perhaps) stop requests that add
to them from starting. Large batches are not among them: `decoding.py` bounds those.
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
        self._log_queued_bytes = log_queued_bytes
        self._on_wanted = on_wanted
        self._waiting: dict[Holder, None] = {}  # in the order of arrival
        self._favoured: Holder | None = None  # may read its frame to the end though the budget is used up
        self._is_waking = False
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.partial_bytes = 0  # of them, in half-sent frames

    @property
    def is_full(self) -> bool:
        return self.used_bytes > self.limit_bytes

    @property
    def is_backlogged(self) -> bool:
        """The log has more to write than it should: nothing that adds to it is started."""
        return self._log_queued_bytes() > self.limit_bytes

    @property
    def is_wanted(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many connections wait."""
        return len(self._waiting)

    def change(self, used_difference: int, partial_difference: int) -> None:
        """Count what a connection holds more, or less, than before."""
        self.used_bytes += used_difference
        self.partial_bytes += partial_difference
        if used_difference < 0 and self._waiting:
            self.wake()

    def may_read(self, holder: Holder, held_bytes: int, partial_bytes: int) -> bool:
        """Whether a connection may read on; when not, it will be resumed."""
        if held_bytes <= RESERVE_BYTES or not self.is_full or self._favoured is holder:
            return True
        if partial_bytes and self._may_favour:
            self._favoured = holder
            return True
        self.wait(holder)
        return False

    def wait(self, holder: Holder) -> None:
        if not self._waiting:
            self._on_wanted()
        self._waiting[holder] = None

    def frame_ended(self, holder: Holder) -> None:
        """The connection has read its frame to the end, or has gone."""
        if self._favoured is holder:
            self._favoured = None
            self.wake()

    def forget(self, holder: Holder) -> None:
        self._waiting.pop(holder, None)
        self.frame_ended(holder)

    def wake(self) -> None:
        """Let those who wait go on, in their order, as far as there is room."""
        if self._is_waking:  # a holder that goes on may give bytes back; the loop below sees them
            return
        self._is_waking = True
        try:
            for holder in list(self._waiting):
                if self.is_backlogged or (self.is_full and not self._may_favour):
                    break
                if holder in self._waiting:
                    del self._waiting[holder]
                    holder.resume()
        finally:
            self._is_waking = False

    @property
    def _may_favour(self) -> bool:
        return self._favoured is None and self.used_bytes - self.partial_bytes <= self.limit_bytes
