"""How much somebody has taken, and how long it takes until that is within a limit again. Time is given, in milliseconds.

    rate = Rate(Window(number=11, size_ms=1000))
    rate.record(50_000, limit=1_000, now=now)
    rate.throttle_ms(limit=1_000, now=now)      50,000: what is taken may be taken in fifty seconds

As with Kafka's quotas, so much may be taken at once as the limit allows in the whole samples of the window: number - 1 of
`size_ms`. Then it takes until the end of that time before anything more may be taken. So whoever begins has taken no more
after t seconds than the limit times t, or times the window where that is longer.

Kafka adds up what was taken in the last samples, and forgets what has left them: the burst of the beginning, so that
another one follows eleven seconds later, and all that a client has taken beyond the window. Here nothing is forgotten that
has not been waited for.

Nothing here raises for a time that goes back: then no time has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_MS = 2**31 - 1
"""The longest throttle time that an answer can name."""


@dataclass(frozen=True, slots=True)
class Window:
    """`quota.window.num` samples of `quota.window.size.seconds`. The last one is not complete."""

    number: int
    size_ms: int

    @property
    def whole_ms(self) -> int:
        """Of the whole samples; one millisecond where there is but one, that is not."""
        return max((self.number - 1) * self.size_ms, 1)

    @property
    def kept_ms(self) -> int:
        return self.number * self.size_ms


class TokenBucket:
    """What may be taken at once: `limit` comes in each second, up to `limit` times `burst_ms`. Below 0 it is owed.

    It begins full.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0

    def level(self, limit: float, burst_ms: int, now: int) -> float:
        """How much may be taken now. A limit that has become lower counts for what was saved, not for what is owed."""
        burst = limit * burst_ms / 1000
        if self._tokens is None:
            self._tokens = burst
            self._at = now
        elif now > self._at:
            self._tokens += limit * (now - self._at) / 1000
            self._at = now
        self._tokens = min(burst, self._tokens)
        return self._tokens

    def take(self, value: float, limit: float, burst_ms: int, now: int) -> None:
        self._tokens = min(limit * burst_ms / 1000, self.level(limit, burst_ms, now) - value)

    def throttle_ms(self, limit: float, burst_ms: int, now: int, more: float = 0.0) -> int:
        """How long until nothing is owed, or so much more may be taken."""
        return milliseconds((more - self.level(limit, burst_ms, now)) / limit * 1000)


class Rate:
    """See the module: a bucket of `whole_ms`, into which nothing comes for that long after it has been full."""

    __slots__ = ("_at", "_fills_from", "_limit", "_tokens", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._tokens: float | None = None  # full
        self._at = 0
        self._fills_from = 0
        self._limit = 0.0

    def record(self, value: float, limit: float, now: int) -> None:
        """So much has been taken."""
        level = self._level(limit, now)
        if value > 0 and level >= self._full(limit):
            self._fills_from = self._at + self._window.whole_ms
        self._tokens = level - value

    def throttle_ms(self, limit: float, now: int, more: float = 0.0) -> int:
        """How long until no more than the limit has been taken, with `more` besides.

        What is more than a window allows may be taken when nothing is owed: it would never be within the limit before.
        """
        missing = (more if more <= self._full(limit) else 0.0) - self._level(limit, now)
        if missing <= 0:
            return 0
        return milliseconds(missing * 1000 / limit + max(0, self._fills_from - self._at))

    def _full(self, limit: float) -> float:
        return limit * self._window.whole_ms / 1000

    def _level(self, limit: float, now: int) -> float:
        """How much may be taken now; below 0 it is owed."""
        now = max(now, self._at)
        level = self._full(limit)
        if self._tokens is not None:
            if limit > self._limit and now < self._fills_from:
                self._tokens += level - self._full(
                    self._limit
                )  # as if the higher one had been there from the beginning
            level = min(level, self._tokens + limit * max(0, now - max(self._at, self._fills_from)) / 1000)
        self._tokens, self._at, self._limit = level, now, limit
        return level


def milliseconds(value: float) -> int:
    """A throttle time as an answer can have it: rounded, and at least 1 where there is any."""
    return min(MOST_MS, max(1, round(min(value, float(MOST_MS))))) if value > 0 else 0
