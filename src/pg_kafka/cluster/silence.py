"""How long a broker has shown no life, by the clock of whoever watches it.

Time counts between looks that the database answered, and a long pause between two of them counts as a short one. So
neither a step of the server's clock nor a database, a network or a machine that stood still looks like a dead broker.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

# What one pause between two looks counts at most.
MAX_PAUSE_S = 2.0


@dataclass(slots=True)
class _Seen:
    sign: Hashable
    answered_at: float
    silent_s: float = 0.0


class Silence:
    """What one watcher has seen of other brokers. Who has just begun to watch knows nothing: the silence is 0."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def look(self, incarnation: int, sign: Hashable, asked_at: float, answered_at: float) -> float:
        """The seconds that an incarnation has been silent. `sign` is whatever changes with each of its heartbeats.

        `asked_at` and `answered_at` are times of a steady clock: of the question and of the answer that had the sign.
        """
        seen = self._seen.get(incarnation)
        if seen is None or seen.sign != sign:
            self._seen[incarnation] = _Seen(sign, answered_at)
            return 0.0
        seen.silent_s += min(max(asked_at - seen.answered_at, 0.0), MAX_PAUSE_S)
        # The time between a question and its answer counts neither way: nobody knows when the sign was read.
        seen.answered_at = answered_at
        return seen.silent_s

    def forget_others(self, incarnations: set[int]) -> None:
        """Keep what is known of these alone."""
        self._seen = {number: seen for number, seen in self._seen.items() if number in incarnations}
