"""What a process counts of its incarnations, over all of them and while it waits.

counts = ClusterCounts()                        app.py makes it once
membership = Membership(..., counts=counts)
counts.ended[Cause.FENCED]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from pg_kafka.storage.sessions import Fenced, OtherHistory, WentBack


class Cause(StrEnum):
    """Why an incarnation is over."""

    FENCED = "fenced"  # another broker has taken over, or somebody has written at our offsets
    HISTORY = "history"  # the database went back in time, has another history, or is another one
    LATE = "late"  # the heartbeat is late, and another broker waits
    FAILED = "failed"  # a task of ours failed
    STOPPED = "stopped"  # the process was told to stop


def cause_of(error: Fenced) -> Cause:
    """Why the incarnation of whoever got this error is over."""
    return Cause.HISTORY if isinstance(error, (WentBack, OtherHistory)) else Cause.FENCED


@dataclass(slots=True, eq=False)
class ClusterCounts:
    """See the module. Times are of a steady clock, in seconds."""

    incarnations: int = 0  # that began to lead here
    take_overs: int = 0  # of these, after another broker: it was waited for, or marked as dead
    fenced: int = 0  # dead brokers that were marked
    failed_joins: int = 0
    ended: Counter[Cause] = field(default_factory=Counter)
    epoch: int = 0  # of the last incarnation here; 0: there was none
    leads: bool = False  # between the join and the end of the incarnation
    leader_gone_s: float | None = None  # when it was seen that nobody leads
    take_over_s: float | None = None  # from then until clients were served, the last time
    heartbeats: int = 0  # that are committed
    heartbeats_failed: int = 0

    def joined(self, epoch: int, *, after_another: bool) -> None:
        """An incarnation has begun."""
        self.incarnations += 1
        self.take_overs += after_another
        self.epoch = epoch
        self.leads = True

    def served(self, now_s: float) -> None:
        """Clients can connect to the incarnation that has begun."""
        if self.leader_gone_s is not None:
            self.take_over_s, self.leader_gone_s = now_s - self.leader_gone_s, None

    def over(self, cause: Cause) -> None:
        """The incarnation that has begun is over."""
        if self.leads:
            self.leads = False
            self.ended[cause] += 1
