"""What the storage side counts: whole numbers, kept as long as the process lives, whichever incarnation adds to them.

    counts = StorageCounts(Clock())             app.py makes it once
    Log(..., counts=counts)
    counts.lane(0).records += 3
    counts.session("reader").took(0.002)

Nothing here decides anything, and nothing reads it but `storage/metrics.py`. All run on the event loop's thread but the
heartbeat's session, which is the only one of its kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pg_kafka.clock import Clock
from pg_kafka.metrics.counters import SIZE_BYTES, Histogram


@dataclass(slots=True, eq=False)
class LaneCounts:
    """Of one lane, found again by its number in the next incarnation."""

    transactions: int = 0  # committed
    failed: int = 0  # transactions of which nothing was written
    bytes: int = 0  # of records and of what groups write, uncompressed, as the lane counts them
    records: int = 0  # markers of transactions included
    entries: int = 0  # of the journals
    checkpoints: int = 0  # of partitions
    refused: int = 0  # partitions' or groups' shares of a transaction that the database refused
    broken: int = 0
    recovered: int = 0
    unreachable: int = 0  # attempts to get new sessions that failed
    doubts_committed: int = 0  # commits whose answer was lost, and that were found in the database
    doubts_lost: int = 0  # and those that were not
    commit_s: Histogram = field(default_factory=Histogram)  # from the COMMIT to its answer
    sizes_bytes: Histogram = field(default_factory=lambda: Histogram(SIZE_BYTES))  # of each transaction, as in `bytes`
    whole_s: Histogram = field(default_factory=Histogram)  # from the building of a transaction until it is committed


@dataclass(slots=True, eq=False)
class SessionCounts:
    """Of all sessions with PostgreSQL of one kind."""

    clock: Clock
    round_trips_s: Histogram = field(default_factory=Histogram)
    failed: int = 0  # of the round trips: an error, a deadline, or a lost connection
    opened: int = 0
    closed: int = 0
    hangs: int = 0  # a backend did not answer for seconds
    given_up: int = 0  # its termination was asked for

    def took(self, seconds: float, *, has_failed: bool = False) -> None:
        """A round trip is over."""
        self.round_trips_s.observe(seconds)
        if has_failed:
            self.failed += 1


@dataclass(slots=True, eq=False)
class WorkCounts:
    """Of one job of the janitor or of the cleaner."""

    steps: int = 0  # those that found nothing to do included
    failed: int = 0
    seconds: float = 0.0
    bytes: int = 0  # of the log that it has read or written, as far as it has a pace


@dataclass(slots=True, eq=False)
class UpkeepCounts:
    """What the janitor and the cleaner have done."""

    jobs: dict[tuple[str, str], WorkCounts] = field(default_factory=dict)  # by task and job
    segments: Counter[str] = field(default_factory=Counter)  # by what became of them: made, sealed, frozen, ...
    freed_bytes: int = 0  # of the tables of freed segments
    moved_starts: Counter[str] = field(default_factory=Counter)  # partitions that begin later, by cause
    passed_offsets: Counter[str] = field(default_factory=Counter)  # offsets that lie below the start since, by cause
    compactions: int = 0  # rounds that came to their end
    compacted_records: int = 0  # looked at
    removed_records: int = 0  # of these
    compaction_s: float = 0.0
    topics_freed: int = 0
    journals_rotated: Counter[str] = field(default_factory=Counter)

    def moved(self, cause: str, passed: Iterable[int]) -> None:
        """Partitions begin by so many offsets later than before."""
        for offsets in passed:
            if offsets > 0:
                self.moved_starts[cause] += 1
                self.passed_offsets[cause] += offsets

    def job(self, task: str, name: str) -> WorkCounts:
        found = self.jobs.get((task, name))
        if found is None:
            found = self.jobs[task, name] = WorkCounts()
        return found


@dataclass(slots=True, eq=False)
class DiskCounts:
    """What the disk watermark has refused."""

    refused: Counter[str] = field(default_factory=Counter)  # batches and journal writes, by reason
    nearly_full: int = 0  # times that it became so


@dataclass(slots=True, eq=False)
class RelayCounts:
    """What the relay has moved from the outbox to the log."""

    records: int = 0
    bytes: int = 0
    errors: int = 0
    passes: int = 0
    restarts: int = 0
    emptied: int = 0  # tables
    pass_s: Histogram = field(default_factory=Histogram)


@dataclass(slots=True, eq=False)
class SurveyCounts:
    """Of `survey.py`."""

    failures: int = 0


class StorageCounts:
    """See the module."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.lanes: dict[int, LaneCounts] = {}
        self.sessions: dict[str, SessionCounts] = {}
        self.upkeep = UpkeepCounts()
        self.disk = DiskCounts()
        self.survey = SurveyCounts()
        self.relay = RelayCounts()

    def lane(self, number: int) -> LaneCounts:
        """Those of the lane with this number."""
        return self.lanes.setdefault(number, LaneCounts())

    def session(self, kind: str) -> SessionCounts:
        """Those of a kind of session; all lanes are one kind."""
        return self.sessions.setdefault(kind.partition(" ")[0], SessionCounts(self.clock))
