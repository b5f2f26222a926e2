"""What connections tell of their requests besides what an observer hears: by which settings they are held up or refused.

One for the process, over all servers that there are in it one after the other.
"""

from __future__ import annotations

from collections import Counter

from pg_kafka.metrics._requests import Answers, Clock, Commit, Pace
from pg_kafka.wire.first_error import FINDERS, first_error


class RequestFigures:
    """Counters that only grow, all bounded by the number of settings or APIs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.commit = Commit(self.clock)  # what lanes are committing, of which answers are a part
        self.pace = Pace()  # which requests are timed: all, unless somebody says otherwise
        self.answers = Answers(FINDERS, first_error)
        self.not_read: Counter[str] = Counter()  # by setting: times that a connection was not read because of it
        self.refused: Counter[str] = Counter()  # by setting: requests, or batches, that it does not allow
