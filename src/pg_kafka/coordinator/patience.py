"""When what has been silent for long may be forgotten: not while the clock may have lied about how long.

A window of a producer says by wall time when it was last used. When the clock is set forward by days, all of them look
old, also those whose producer has a batch on its way, which would then be taken a second time. So nothing is forgotten
for a while after the clock was set, and after a start, which does not know what the clock did before.

    patience = Patience(hold_ms=15 * 60_000)
    jump_ms = patience.observe(wall_ms, steady_ms)      # now and then; 0 when the clocks went on together
    oldest_ms = patience.oldest(expiration_ms)          # what was last used before that may be forgotten
"""

from __future__ import annotations

# Between two looks the clocks may drift apart: NTP slews by at most 0.5 ms a second, a minute in 33 hours.
JUMP_MS = 60_000
NOTHING_IS_OLD = -(1 << 62)


class Patience:
    """Compares wall time with steady time. `hold_ms` is how long nothing is forgotten after the two disagreed."""

    def __init__(self, hold_ms: int) -> None:
        self._hold_ms = hold_ms
        self._last: tuple[int, int] | None = None  # wall, steady
        self._held_until_ms = 0  # steady

    def observe(self, wall_ms: int, steady_ms: int) -> int:
        """Take both times; how far the wall clock was set since the last look, 0 when it was not."""
        last, self._last = self._last, (wall_ms, steady_ms)
        if last is None:
            self._held_until_ms = steady_ms + self._hold_ms
            return 0
        jump_ms = (wall_ms - last[0]) - (steady_ms - last[1])
        if abs(jump_ms) < JUMP_MS:
            return 0
        self._held_until_ms = steady_ms + self._hold_ms
        return jump_ms

    def oldest(self, expiration_ms: int) -> int:
        """What was last used before this wall time may be forgotten, as of the last look."""
        if self._last is None or self._last[1] < self._held_until_ms:
            return NOTHING_IS_OLD
        return self._last[0] - expiration_ms
