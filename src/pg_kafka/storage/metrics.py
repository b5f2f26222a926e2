"""What the storage side has counted, and how it stands, as families for Prometheus.

registry.add(StorageSource(counts))         for as long as the process lives
registry.add(LogSource(log, disk, ...))     of one incarnation
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric

from pg_kafka.metrics.catalogue import disk as disk_families
from pg_kafka.metrics.catalogue import lanes, postgres, relay, upkeep
from pg_kafka.metrics.counters import LATENCY_S, SIZE_BYTES, Histogram
from pg_kafka.metrics.families import histograms, many, one
from pg_kafka.storage.counts import LaneCounts, StorageCounts
from pg_kafka.storage.disk import NEARLY_FULL, NO_ROOM, DiskWatch
from pg_kafka.storage.log import Log

# As labels; the texts are for clients.
_REFUSALS = {NEARLY_FULL: "nearly full", NO_ROOM: "no room"}
_SEGMENT_CHANGES = ("made", "sealed", "frozen", "replaced", "freed", "dropped")
_CAUSES = ("retention", "request", "sql")


class StorageSource:
    """Counters of all incarnations."""

    def __init__(self, counts: StorageCounts) -> None:
        self._counts = counts

    def families(self) -> Iterable[Metric]:
        yield from self._lanes()
        yield from self._sessions()
        yield from self._upkeep()
        yield from self._relay()
        counts = self._counts
        yield one(postgres.SURVEY_FAILURES, counts.survey.failures)
        yield one(disk_families.BECAME_FULL, counts.disk.nearly_full)
        yield many(disk_families.REFUSED, {(label,): counts.disk.refused[text] for text, label in _REFUSALS.items()})

    def _lanes(self) -> Iterable[Metric]:
        each = {str(number): counts for number, counts in sorted(self._counts.lanes.items())}

        def by_lane(figure: Callable[[LaneCounts], int]) -> dict[tuple[str, ...], float]:
            return {(number,): figure(counts) for number, counts in each.items()}

        def by_outcome(*figures: tuple[str, Callable[[LaneCounts], int]]) -> dict[tuple[str, ...], float]:
            return {(number, name): figure(counts) for number, counts in each.items() for name, figure in figures}

        yield many(
            lanes.TRANSACTIONS, by_outcome(("committed", lambda c: c.transactions), ("failed", lambda c: c.failed))
        )
        yield many(lanes.BYTES, by_lane(lambda c: c.bytes))
        yield many(lanes.RECORDS, by_lane(lambda c: c.records))
        yield many(lanes.ENTRIES, by_lane(lambda c: c.entries))
        yield many(lanes.CHECKPOINTS, by_lane(lambda c: c.checkpoints))
        yield many(lanes.REFUSED, by_lane(lambda c: c.refused))
        yield many(lanes.BROKEN, by_lane(lambda c: c.broken))
        yield many(lanes.RECOVERED, by_lane(lambda c: c.recovered))
        yield many(lanes.UNREACHABLE, by_lane(lambda c: c.unreachable))
        yield many(
            lanes.DOUBTS, by_outcome(("committed", lambda c: c.doubts_committed), ("lost", lambda c: c.doubts_lost))
        )
        yield histograms(lanes.COMMIT_SECONDS, {(): _sum(counts.commit_s for counts in each.values())})
        yield histograms(lanes.TRANSACTION_BYTES, {(): _sum((c.sizes_bytes for c in each.values()), SIZE_BYTES)})
        yield histograms(lanes.TRANSACTION_SECONDS, {(): _sum(counts.whole_s for counts in each.values())})

    def _sessions(self) -> Iterable[Metric]:
        each = {(kind,): counts for kind, counts in sorted(self._counts.sessions.items())}
        yield histograms(postgres.ROUND_TRIPS, {kind: counts.round_trips_s for kind, counts in each.items()})
        yield many(postgres.FAILED, {kind: counts.failed for kind, counts in each.items()})
        yield many(postgres.OPENED, {kind: counts.opened for kind, counts in each.items()})
        yield many(postgres.SESSIONS, {kind: counts.opened - counts.closed for kind, counts in each.items()})
        yield many(postgres.HANGS, {kind: counts.hangs for kind, counts in each.items()})
        yield many(postgres.GIVEN_UP, {kind: counts.given_up for kind, counts in each.items()})

    def _relay(self) -> Iterable[Metric]:
        counts = self._counts.relay
        yield one(relay.RECORDS, counts.records)
        yield one(relay.BYTES, counts.bytes)
        yield one(relay.ERRORS, counts.errors)
        yield one(relay.PASSES, counts.passes)
        yield histograms(relay.PASS_SECONDS, {(): counts.pass_s})
        yield one(relay.RESTARTS, counts.restarts)
        yield one(relay.EMPTIED, counts.emptied)

    def _upkeep(self) -> Iterable[Metric]:
        counts = self._counts.upkeep
        jobs = sorted(counts.jobs.items())
        yield many(upkeep.STEPS, {key: job.steps for key, job in jobs})
        yield many(upkeep.SECONDS, {key: job.seconds for key, job in jobs})
        yield many(upkeep.FAILURES, {key: job.failed for key, job in jobs})
        yield many(upkeep.CLEANED_BYTES, {(job,): found.bytes for (task, job), found in jobs if task == "cleaner"})
        yield many(upkeep.SEGMENT_CHANGES, {(change,): counts.segments[change] for change in _SEGMENT_CHANGES})
        yield one(upkeep.FREED_BYTES, counts.freed_bytes)
        yield many(upkeep.MOVED_STARTS, {(cause,): counts.moved_starts[cause] for cause in _CAUSES})
        yield many(upkeep.PASSED_OFFSETS, {(cause,): counts.passed_offsets[cause] for cause in _CAUSES})
        yield one(upkeep.COMPACTIONS, counts.compactions)
        yield one(upkeep.COMPACTION_SECONDS, counts.compaction_s)
        yield one(upkeep.COMPACTED_RECORDS, counts.compacted_records)
        yield one(upkeep.REMOVED_RECORDS, counts.removed_records)
        yield one(upkeep.TOPICS_FREED, counts.topics_freed)
        yield many(
            upkeep.JOURNAL_ROTATIONS, {(name,): number for name, number in sorted(counts.journals_rotated.items())}
        )


class LogSource:
    """How the log of one incarnation stands. `disk_bytes` gives size and free space of the volume, where that can be seen."""

    def __init__(self, log: Log, disk: DiskWatch, disk_bytes: Callable[[], tuple[int, int] | None]) -> None:
        self._log = log
        self._disk = disk
        self._disk_bytes = disk_bytes

    def families(self) -> Iterable[Metric]:
        log = self._log
        each = {(str(lane.number),): lane for lane in log.lanes}
        yield many(lanes.QUEUED_BYTES, {number: lane.queued_bytes for number, lane in each.items()})
        yield many(lanes.QUEUED_RECORDS, {number: lane.queued_records for number, lane in each.items()})
        yield many(lanes.UNDER_WAY, {number: lane.under_way for number, lane in each.items()})
        yield many(lanes.READY, {number: int(lane.ready.is_set()) for number, lane in each.items()})
        yield one(postgres.HANGING, log.hanging_backends)
        volume = self._disk_bytes()
        seen = self._disk.free_bytes
        if volume is not None:
            total, free = volume
            yield from (
                one(disk_families.TOTAL_BYTES, total),
                one(disk_families.FREE_BYTES, free if seen is None else seen),
                one(disk_families.RESERVE_BYTES, self._disk.reserve_bytes),
                one(disk_families.NEARLY_FULL, int(self._disk.is_nearly_full)),
            )
        else:
            yield from (many(family, {}) for family in disk_families.OF_THE_VOLUME)


def _sum(parts: Iterable[Histogram], bounds: Sequence[float] = LATENCY_S) -> Histogram:
    """All observations of histograms with the same bounds."""
    whole = Histogram(bounds)
    for part in parts:
        whole.counts = [a + b for a, b in zip(whole.counts, part.counts, strict=True)]
        whole.total += part.total
    return whole
