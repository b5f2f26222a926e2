"""What follows when it is known what became of a lane's transaction: partitions change, batches and writes get their answers.

What must never happen here: an answer before it is known. Only what is answered early gets one, which says so.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.metrics._requests import Commit
from pg_kafka.storage.counts import LaneCounts
from pg_kafka.storage.flight import Control, Flight, Outcome, Part, Share
from pg_kafka.storage.journal import JournalPart, not_written
from pg_kafka.storage.partition import AppendResult
from pg_kafka.storage.sessions import describe
from pg_kafka.storage.staging import Staging
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.lane")


class UnderWay:
    """The transactions of a lane whose outcome is not settled."""

    def __init__(self) -> None:
        self.queue: deque[Flight] = deque()  # in the order of their commits, two at most
        self.giant: Flight | None = None  # beside those
        self.building: Flight | None = None  # taken from the staging, not yet one of those

    @property
    def written(self) -> list[Flight]:
        """All for which a session is in use."""
        return [*self.queue, *((self.giant,) if self.giant is not None else ())]

    @property
    def is_full(self) -> bool:
        """No session is free."""
        return len(self.written) >= 2


# What a journal's owners are called in a log line.
_OWNERS = {"groups": "group", "transactions": "transactional_id"}


class Outcomes:
    """See the module. `on_journal_growth` is told how many bytes were added to the journals."""

    def __init__(
        self,
        number: int,
        staging: Staging,
        on_journal_growth: Callable[[int], None],
        commit: Commit,
        counts: LaneCounts,
    ) -> None:
        self._number = number
        self._staging = staging
        self._on_journal_growth = on_journal_growth
        self._commit = commit
        self._counts = counts
        self._broken_controls: list[Control] = []  # of failed transactions; done when nothing is in doubt any more

    def apply(self, flight: Flight) -> None:
        """Make a committed transaction real, then answer and wake."""
        if flight.outcome is Outcome.COMMITTED:
            self._count(flight)
        self._commit.enter(flight.begun_s)
        try:
            self._make_real(flight)
        finally:
            self._commit.leave()

    def _make_real(self, flight: Flight) -> None:
        for part in flight.parts.values():
            self._staging.make_real(part)
        for part in flight.checkpoints:
            self._staging.checkpoint_written(part.partition)
        if flight.journal_parts:
            for write in flight.journal_writes():
                self._on_journal_growth(write.bytes)
        self._answer_writes(flight, None)
        finish_controls(flight.controls)

    def _count(self, flight: Flight) -> None:
        counts = self._counts
        counts.transactions += 1
        bytes_before = counts.bytes
        for part in flight.parts.values():
            counts.bytes += part.bytes
            counts.records += part.end - part.appends[0].base_offset
            counts.checkpoints += part.checkpoint is not None
        counts.checkpoints += len(flight.checkpoints)
        if flight.journal_parts:
            for write in flight.journal_writes():
                counts.bytes += write.bytes
                counts.entries += write.entries
        counts.sizes_bytes.observe(counts.bytes - bytes_before)
        if flight.commit_s is not None:
            counts.commit_s.observe(flight.commit_s)
        counts.whole_s.observe(self._commit.now() - flight.begun_s)

    def fail(self, flight: Flight, result: AppendResult) -> None:
        """Nothing of a transaction was written: answer all of it."""
        flight.outcome = Outcome.FAILED
        self._counts.failed += 1
        self._commit.enter(flight.begun_s)
        try:
            self._answer_failed(flight, result)
        finally:
            self._commit.leave()
        # Their effect on memory is there already. They promise that nothing older is under way, so they wait for that.
        self._broken_controls.extend(flight.controls)

    def _answer_failed(self, flight: Flight, result: AppendResult) -> None:
        for part in flight.parts.values():
            for append in part.appends:
                self._staging.answer(append, result)
            for append, _ in part.joined:
                self._staging.answer(append, result)
        self._answer_writes(flight, not_written(result.message or "the lane was broken"))

    def answer_early(self, flights: Iterable[Flight], result: AppendResult) -> None:
        """Answer the batches of transactions whose outcome may not be known for long."""
        for flight in flights:
            for part in flight.parts.values():
                for append in part.appends:
                    self._staging.answer_early(append, result)
                for append, _ in part.joined:
                    self._staging.answer_early(append, result)

    def _answer_writes(self, flight: Flight, error: StorageError | None) -> None:
        """Answer what wrote to the journals, and the bundles."""
        for write in flight.journal_writes():
            if not write.is_bundled:
                self._staging.journal.finish(write, error)
        for bundle in flight.bundles:
            self._staging.journal.finish(bundle, error)

    # -- what the database refuses -------------------------------------------------------------------------------------

    def fail_share(self, share: Share, error: asyncpg.PostgresError) -> None:
        """The database refuses what is written as a whole."""
        for part in share.parts:
            self.fail_part(part, error)
        for journal_part in share.journal_parts:
            self._fail_journal_part(journal_part, error)
        for bundle in share.bundles:
            message = f"the database refused what is written whole: {describe(error)}"
            self._staging.journal.finish(bundle, StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, message))

    def _fail_journal_part(self, part: JournalPart, error: asyncpg.PostgresError) -> None:
        """The database refuses what a group or transactional id writes. Its later writes build on that, so they fail as well."""
        self._counts.refused += 1
        journal, owner = part.owner
        extra = self._extra(error) | {_OWNERS.get(journal, journal): owner}
        logger.error("the database refused what is written to the journals", extra=extra)
        message = f"the database refused what is written: {describe(error)}"
        later = self._staging.journal.take_owned(part.owner)
        for item in (*(write for write in part.writes if not write.is_bundled), *later):
            self._staging.journal.finish(item, StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, message))

    def fail_part(self, part: Part, error: asyncpg.PostgresError) -> None:
        """The database refuses these rows: answer so, and give the offsets to what comes next."""
        self._counts.refused += 1
        partition = part.partition
        where = {"topic": partition.topic.name, "partition": partition.index}
        logger.error("the database refused records", extra=self._extra(error) | where)
        partition.fall_back()
        result = AppendResult(
            ErrorCode.UNKNOWN_SERVER_ERROR, message=f"the database refused the records: {describe(error)}"
        )
        for append in part.appends:
            self._staging.answer(append, result)
        for append, _ in part.joined:
            self._staging.answer(append, result)

    def _extra(self, error: asyncpg.PostgresError) -> dict[str, object]:
        """Fields of a log line."""
        return {"lane": self._number, "error": describe(error), "sqlstate": error.sqlstate}

    # -- changes between transactions -----------------------------------------------------------------------------------

    def finish_broken_controls(self) -> None:
        """Nothing is in doubt any more."""
        finish_controls(self._broken_controls)
        self._broken_controls.clear()

    def end_controls(self, why: str) -> None:
        """The lane ends: nobody can know what became of the transactions before these."""
        for control in (*self._broken_controls, *self._staging.controls):
            if not control.done.done():
                control.done.set_exception(not_written(why))
        self._broken_controls.clear()
        self._staging.controls.clear()


def finish_controls(controls: Iterable[Control]) -> None:
    """Tell who waits that what they asked for has taken effect."""
    for control in controls:
        if not control.done.done():
            control.done.set_result(None)
