"""The relay: moves what transactions have produced by SQL from the outbox to the log, each record once.

    relay = Relay(outbox, doorbell, tables, log, topics, clock, counts)
    task = supervised(relay.run(), "relay", on_death)

It makes passes as long as they find something, and then sleeps until a producer rings (storage/doorbell.py). A pass takes what
is visible and was not before (storage/outbox.py), chunk by chunk; a chunk is spread over the partitions natively and
written as one bundle for each lane. When anything fails, it asks the database how far it has come, and goes on from there.

What must never happen here: a record that is written twice, or left out, or out of the order of its transaction; and a wait
for anybody's open transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.errors import StorageError
from pg_kafka.storage import outbox as stored
from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.counts import RelayCounts
from pg_kafka.storage.doorbell import Doorbell
from pg_kafka.storage.log import Log
from pg_kafka.storage.outbox import (
    CODES,
    NO_ID,
    NO_TOPIC,
    NOTHING_SEEN,
    Chunk,
    Due,
    Outbox,
    Part,
    Piece,
    Progress,
    Snapshot,
    share_of,
)
from pg_kafka.storage.outbox_tables import GRACE_S, OutboxTables
from pg_kafka.storage.partition import Append, AppendResult, Partition
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Fenced, describe, unavailable
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.wire import _outbox, _records

logger = logging.getLogger("pg_kafka.relay")

# Rows that one look names. More are looked for when these are sent.
ROWS_PER_LOOK = 20_000
# Records of a chunk, so that ordinary batches have their share of a transaction.
CHUNK_BYTES = 1024 * 1024
CHUNK_ROWS = 5_000
BATCH_BYTES = _records.MAX_SLICE_BYTES
# After so many records that could not be sent, the oldest are forgotten.
FORGET_EVERY = 1_000
# SQLSTATE of a record that the database has refused (internal_error).
REFUSED = "XX000"
# Between looks at the sizes of the tables.
TABLES_S = 1.0
# Several transactions that have produced are open: nobody tells when one of them ends.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.001, 0.1
# The relay looks after this even if nobody rings: the net under a NOTIFY that was lost.
LOOK_AGAIN_S = 60.0
# More rows in one pass, or more passes with rows one after the other, end a sleep.
FEW_ROWS, FEW_PASSES = 8, 4
RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# A topic that the database has and this broker does not know yet will be known after a moment.
UNKNOWN_TOPIC_S = 0.05


@dataclass(slots=True, eq=False)
class _Share:
    """What one lane writes of a chunk."""

    appends: dict[Partition, list[Append]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    failed: dict[int, dict[tuple[str, str], list[int]]] = field(default_factory=dict)

    def fail(self, row_id: int, record: int, why: tuple[str, str]) -> None:
        self.failed.setdefault(row_id, {}).setdefault(why, []).append(record)


class Relay:
    """See the module. One task."""

    def __init__(
        self,
        outbox: Outbox,
        doorbell: Doorbell,
        tables: OutboxTables,
        log: Log,
        topics: Topics,
        clock: Clock,
        counts: RelayCounts,
    ) -> None:
        self._counts = counts
        self.waiting_rows = self.waiting_bytes = 0  # of the pass under way, found and not sent
        self._found_s: float | None = None  # when the pass under way has found something
        self._outbox = outbox
        self._tables = tables
        self._doorbell = doorbell
        self._log = log
        self._topics = topics
        self._clock = clock
        self.is_stopping = False
        self._unforgotten = FORGET_EVERY  # errors since the oldest were forgotten, or nobody knows
        self._looks_at_s = 0.0  # at the sizes of the tables
        self._most_rows = (
            CHUNK_ROWS  # one after a chunk that the database has refused, until it is known which row it was
        )
        self._refused: dict[int, str] = {}  # by the ids of rows that the database refuses: why
        # How far it has come.
        self._system_identifier = ""
        self._number = 0
        self._previous = NOTHING_SEEN

    @property
    def behind_s(self) -> float:
        """How long ago the pass under way has found something; 0 when nothing waits."""
        return 0.0 if self._found_s is None else self._clock.steady_s() - self._found_s

    @property
    def outbox_bytes(self) -> int:
        """Size of all tables at the last look."""
        return self._tables.bytes

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until stopped. What fails is logged and begun anew; returns when the broker leads no longer."""
        failures = 0
        while not self.is_stopping:
            began_s = self._clock.steady_s()
            try:
                await self._begin()
                await self._work()
            except Fenced:
                return  # whoever has opened the session knows
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, StorageError) as error:
                failures = 0 if self._clock.steady_s() - began_s > 60 else failures + 1
                self._counts.restarts += 1
                logger.warning("relay begins anew", extra={"error": describe(error)})
            finally:
                self._outbox.drop()
                self._doorbell.drop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_DELAYS_S[min(max(failures, 1), len(RETRY_DELAYS_S)) - 1]):
                    await self._stopped()

    async def _stopped(self) -> None:
        while not self.is_stopping:
            self._doorbell.rung.clear()
            await self._doorbell.rung.wait()

    def stop(self) -> None:
        """Let run() end after the chunk that it is at."""
        self.is_stopping = True
        self._doorbell.rung.set()

    async def _begin(self) -> None:
        """Open the sessions, and finish what was broken off."""
        await self._outbox.open(self._doorbell.rung.set)
        await self._doorbell.open()
        progress = await self._outbox.progress()
        chunk = progress.chunk
        if chunk is not None:
            self._number = chunk.number
            self._system_identifier = progress.system_identifier
            if progress.missing:
                await self._finish(progress, chunk)
                progress = replace(progress, chunk=replace(chunk, number=self._number), missing=())
        own = self._outbox.session.identity.system_identifier
        if chunk is None or progress.system_identifier != own:
            await self._outbox.begin_anew(progress)
            logger.info("relay begins with this server", extra={"after_chunk": self._number})
            self._number += 1
            self._system_identifier = own
            self._previous = NOTHING_SEEN
        elif chunk.is_last:
            self._previous = chunk.snapshot
        else:
            await self._go_on(chunk.previous, chunk.snapshot, chunk.last_id)

    async def _work(self) -> None:
        while not self.is_stopping:
            found = await self._pass()
            await self._look_at_tables()
            if not found:
                await self._sleep()

    async def _look_at_tables(self) -> None:
        if self._clock.steady_s() >= self._looks_at_s:
            await self._tables.look(self._previous)
            self._looks_at_s = self._clock.steady_s() + TABLES_S

    async def _sleep(self) -> None:
        """Until so much comes that producers need not ring for each of it.

        Whoever rings while the bell hangs is served at once. To take the bell down and hang it again for a single record would
        cost as much as sending it.
        """
        doorbell = self._doorbell
        await doorbell.hang()
        pause_s = FIRST_PAUSE_S
        passes = 0  # without a wait between them
        while not self.is_stopping:
            # Who commits from here on rings, and who has committed is seen by the pass.
            doorbell.rung.clear()
            producers = await doorbell.producers()
            found = await self._pass()
            await self._look_at_tables()
            passes = passes + 1 if found else 0
            if found > FEW_ROWS or passes > FEW_PASSES:
                break
            if doorbell.rung.is_set():
                continue
            timeout_s = LOOK_AGAIN_S
            if producers > 1:
                timeout_s = pause_s
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            elif self._tables.has_sent:
                timeout_s = GRACE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await doorbell.rung.wait()
                passes = 0
        await doorbell.take_down()

    # -- a pass ------------------------------------------------------------------------------------------------------

    async def _pass(self) -> int:
        """Send what is due now; how many rows that was, or more than one look names."""
        snapshot, due = await self._outbox.due_now(self._previous, ROWS_PER_LOOK)
        if due:
            await self._send(self._previous, snapshot, due, NO_ID, is_all=len(due) < ROWS_PER_LOOK)
        else:
            self._previous = snapshot
        return len(due)

    async def _go_on(self, previous: Snapshot, snapshot: Snapshot, after_id: int) -> None:
        """Send the rest of a pass."""
        due = await self._outbox.due_until(previous, snapshot, ROWS_PER_LOOK, after_id=after_id)
        if due:
            await self._send(previous, snapshot, due, after_id, is_all=len(due) < ROWS_PER_LOOK)
        else:
            self._previous = snapshot

    async def _send(
        self, previous: Snapshot, snapshot: Snapshot, due: Sequence[Due], after_id: int, *, is_all: bool
    ) -> None:
        left = list(due)
        began_s = self._clock.steady_s()
        self._found_s = self._found_s or began_s
        while True:
            self.waiting_rows, self.waiting_bytes = len(left), sum(one.bytes for one in left)
            while left:
                taken = self._take(left)
                is_last = is_all and not left
                self._number += 1
                chunk = Chunk(self._number, previous, snapshot, after_id, taken[-1].id, is_last)
                await self._relay(chunk, taken)
                self._counts.bytes += (size := sum(one.bytes for one in taken))
                self.waiting_rows -= len(taken)
                self.waiting_bytes -= size
                after_id = chunk.last_id
            if is_all:
                break
            left = await self._outbox.due_until(previous, snapshot, ROWS_PER_LOOK, after_id=after_id)
            is_all = len(left) < ROWS_PER_LOOK
        self._previous = snapshot
        self._most_rows = CHUNK_ROWS
        self._refused.clear()
        self._found_s = None
        self._counts.passes += 1
        self._counts.pass_s.observe(self._clock.steady_s() - began_s)

    def _take(self, due: list[Due]) -> list[Due]:
        """The next rows that make a chunk."""
        size = count = 0
        for one in due:
            if count and (size + one.bytes > CHUNK_BYTES or count >= self._most_rows):
                break
            size += one.bytes
            count += 1
        taken = due[:count]
        del due[:count]
        return taken

    async def _finish(self, progress: Progress, chunk: Chunk) -> None:
        """Send the parts of a chunk that are not written, as it was broken off between two lanes."""
        due = await self._outbox.due_until(
            chunk.previous, chunk.snapshot, stored.LAST_ID, after_id=chunk.after_id, last_id=chunk.last_id
        )
        self._number += 1
        left_over = (*chunk.left_over, (progress.shares, progress.missing))
        await self._relay(replace(chunk, number=self._number, left_over=left_over), due)

    # -- a chunk -----------------------------------------------------------------------------------------------------

    async def _relay(self, chunk: Chunk, due: Sequence[Due]) -> None:
        """Write a chunk. Raises StorageError, after which it may be written, or parts of it."""
        rows = await self._outbox.rows(due)
        by_topic: dict[int, list[asyncpg.Record]] = defaultdict(list)
        for row in rows:
            by_topic[row["topic"]].append(row)
        topics = await self._known(by_topic)
        if not chunk.partitions:
            counts = {id_: topic.partitions if (topic := topics.get(id_)) else 0 for id_ in by_topic}
            chunk = replace(chunk, partitions=counts)
        shares = len(self._log.lanes)
        parts: dict[int, _Share] = defaultdict(_Share)
        for topic_id, those in by_topic.items():
            await self._spread(chunk, topics.get(topic_id), topic_id, those, shares, parts)
        if not parts:
            parts[0] = _Share()  # nothing is left of it, which is to be known
        try:
            await self._write(chunk, due, shares, parts)
        except StorageError as error:
            if not error.retriable:
                self._refuse(chunk, due, error)
            raise

    def _refuse(self, chunk: Chunk, due: Sequence[Due], error: StorageError) -> None:
        """The database refuses these rows, for a fault of theirs: find out which it is, and send the others."""
        if len(due) == 1 or chunk.left_over:
            self._refused.update({one.id: error.message for one in due})
        else:
            self._most_rows = 1

    async def _known(self, topic_ids: Iterable[int]) -> dict[int, Topic]:
        """The topics that exist, by their ids. Waits for one that this broker has not heard of yet."""
        by_id = self._topics.by_id
        unknown = [id_ for id_ in topic_ids if id_ not in by_id]
        if unknown:
            there = await self._outbox.topics_there(unknown)
            if any(id_ not in by_id for id_ in there):
                await asyncio.sleep(UNKNOWN_TOPIC_S)
                raise unavailable("a topic is not known yet, or is being deleted")
        return {id_: by_id[id_] for id_ in topic_ids if id_ in by_id}

    async def _spread(
        self,
        chunk: Chunk,
        topic: Topic | None,
        topic_id: int,
        rows: Sequence[asyncpg.Record],
        shares: int,
        parts: dict[int, _Share],
    ) -> None:
        """Give the records of a topic to the parts of the chunk."""
        partitions = chunk.partitions.get(topic_id, 0)
        if not partitions:
            if all(0 in missing for _, missing in chunk.left_over):
                for row in rows:
                    for record in range(max(1, row["record_count"])):
                        parts[0].fail(row["id"], record, NO_TOPIC)
            return
        most_bytes = topic.settings.max_message_bytes if topic is not None else 0
        # A record that the database refuses belongs to the part of its partition all the same.
        refused = _outbox.spread(
            [tuple(row)[:10] for row in rows if row["id"] in self._refused], partitions, batch_bytes=1, most_bytes=0
        ).failed
        spread = _outbox.spread(
            [tuple(row)[:10] for row in rows if row["id"] not in self._refused],
            partitions,
            batch_bytes=min(BATCH_BYTES, most_bytes),
            most_bytes=most_bytes,
            needs_key=topic is not None and topic.settings.is_compacted,
        )
        for row_id, record, reason, partition in (*refused, *spread.failed):
            if chunk.has(topic_id, partition):
                why = CODES[reason] if topic is not None or partition < 0 else NO_TOPIC
                if row_id in self._refused:
                    why = (REFUSED, self._refused[row_id])
                parts[share_of(topic_id, partition, shares)].fail(row_id, record, why)
        if topic is None:
            return
        wires: dict[int, list[bytes]] = defaultdict(list)
        for partition, wire in spread.batches:
            if chunk.has(topic_id, partition):
                wires[partition].append(wire)
        loaded = {index: self._log.partition(topic, index) for index in wires}
        missing = [index for index, partition in loaded.items() if partition is None]
        if missing:
            found = await self._log.load([(topic, index) for index in missing])
            loaded |= dict(zip(missing, found, strict=True))
        for index, batches in wires.items():
            target = loaded[index]
            assert target is not None
            appends = [self._append(target, wire) for wire in batches]
            parts[share_of(topic_id, index, shares)].appends[target] = appends
        for (row_id, index, ordinal, count), where in zip(spread.pieces, spread.maps, strict=True):
            if index in wires:
                piece = Piece(row_id, topic_id, index, ordinal, count, where)
                parts[share_of(topic_id, index, shares)].pieces.append(piece)

    @staticmethod
    def _append(partition: Partition, wire: bytes) -> Append:
        settings = partition.topic.settings
        batch = _records.decode_batch(wire)
        codec = batch.codec if settings.codec is None else settings.codec
        return Append(partition, batch, _no_answer, settings.timestamp_type, codec)

    async def _write(self, chunk: Chunk, due: Sequence[Due], shares: int, parts: dict[int, _Share]) -> None:
        """One bundle for each part. Raises StorageError when one of them is not written."""
        answers: list[asyncio.Future[None]] = []
        for share, part in sorted(parts.items()):
            part.pieces.sort(key=lambda piece: piece.row_id)
            first = {(p.topic.id, p.index): appends[0] for p, appends in part.appends.items()}

            def base_offset(topic_id: int, index: int, first: dict[tuple[int, int], Append] = first) -> int:
                return first[topic_id, index].base_offset

            place = Part(share, shares, sorted(parts))
            write = stored.journal_write(chunk, place, self._system_identifier, part.pieces, base_offset)
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            bundle = Bundle(
                [write], partial(_finish, answer), list(part.appends.items()), stored.note_errors(due, part.failed)
            )
            refusal = self._log.write_bundle(share, bundle)
            if refusal is not None:
                _finish(answer, refusal)
            answers.append(answer)
        await asyncio.wait(answers)
        for answer in answers:
            answer.result()
        for part in parts.values():
            self._counts.records += sum(piece.records for piece in part.pieces)
        failed = [
            (why, len(records)) for part in parts.values() for of in part.failed.values() for why, records in of.items()
        ]
        if failed:
            await self._tell(failed)

    async def _tell(self, failed: Sequence[tuple[tuple[str, str], int]]) -> None:
        """Records could not be sent and are kept. Now and then the oldest of these are forgotten."""
        records = sum(count for _, count in failed)
        (sqlstate, message), _ = failed[0]
        extra = {"records": records, "sqlstate": sqlstate, "reason": message, "kept_in": "kafka.outbox_errors"}
        logger.warning("records from the outbox cannot be sent", extra=extra)
        self._counts.errors += records
        self._unforgotten += records
        if self._unforgotten >= FORGET_EVERY:
            await self._outbox.forget_errors()
            self._unforgotten = 0


def _finish(answer: asyncio.Future[None], error: StorageError | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(error)


def _no_answer(_result: AppendResult) -> None:
    """The bundle is what is answered."""
