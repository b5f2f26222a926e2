"""The log of this broker: its partitions, their lanes, and reading.

Partitions are loaded when first used, many at once in a few set queries, from their checkpoint and the small columns of
the rows after it. Appends go to the partition's lane; reads come from the tail in memory or from one segment's table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import asyncpg

from pg_kafka.config import Config
from pg_kafka.coordinator import producer_state
from pg_kafka.coordinator.patience import Patience
from pg_kafka.errors import StorageError
from pg_kafka.storage import aborted, queries
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.disk import DiskWatch
from pg_kafka.storage.endings import Ending, Marker
from pg_kafka.storage.journal import JournalWrite, journal_table, not_written
from pg_kafka.storage.lane import Lane
from pg_kafka.storage.partition import Append, AppendResult, Extent, Partition
from pg_kafka.storage.readers import Readers
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import Fenced, Identity, Session, unavailable
from pg_kafka.storage.tail import TailCache
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.storage.transaction import NO_JOURNALS, JournalTables
from pg_kafka.tasks import supervised
from pg_kafka.wire import _records
from pg_kafka.wire._records import Batch
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
GROUPS_SQL = queries.load("groups")
log = logging.getLogger("pg_kafka.log")

READ_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 30.0
CONTROL_TIMEOUT_S = 30.0
PARTITIONS_PER_LOAD = 2_000
ROWS_PER_READ = (8, 2_000)
# So often a search over segments, or a load, begins anew because rows moved between them.
SEARCHES = 3
# Encoding more than this with a codec goes to a thread: it would hold up all other connections.
THREADED_BYTES = 64 * 1024
PRODUCER_BLOCK = 1000
# What was used so short a time ago is needed for retries (delivery.timeout.ms), whatever the clock says meanwhile.
PRODUCER_HOLD_MS = 15 * 60_000
# Failed first batches that are remembered; the oldest are forgotten, which costs their order at worst.
MAX_AWAITED = 100_000
# Places without records that the log was told of; then it is told of them again.
MAX_TOLD_MISSING = 1_000
# After so many bytes a segment may be full.
GROWN_BYTES = 16 * 1024 * 1024
# After so many bytes a journal may have to be rotated.
JOURNAL_GROWN_BYTES = 2 * 1024 * 1024
T = TypeVar("T")
Item = TypeVar("Item", JournalWrite, Ending)
_READ_FIELDS = (
    "base_offset",
    "last_offset",
    "record_count",
    "leader_epoch",
    "first_timestamp",
    "max_timestamp",
    "timestamp_type",
    "is_transactional",
    "is_control",
    "delete_horizon",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "batch_base_offset",
    "timestamps",
    "offset_deltas",
    "keys",
    "header_ends",
    "header_keys",
    "header_values",
    "values",
    "codec",
)


class Log:
    """See the module. Everything runs on one event loop."""

    def __init__(
        self,
        *,
        config: Config,
        dsn: str,
        topics: Topics,
        control: ControlSession,
        open_writer: Callable[[str], Awaitable[Session]],
        incarnation: int,
        node_id: int,
        epoch: int,
        cluster_id: str,
        executor: Executor,
        on_fenced: Callable[[str], None],
        on_went_back: Callable[[str], None],
        on_identity: Callable[[Identity], None],
        on_outgrown: Callable[[int], None],
        on_grown: Callable[[], None],
        disk: DiskWatch | None = None,
    ) -> None:
        self.incarnation = incarnation
        self.node_id = node_id
        self.epoch = epoch
        self.cluster_id = cluster_id
        self.queued_bytes = 0
        # Whether a producer's transaction is open in a partition; an error code says that it is not.
        self.admits_transactional: Callable[[tuple[int, int], int, int], int] = _admits_all
        self._config = config
        self._topics = topics
        self._control = control
        self._executor = executor
        self._on_fenced = on_fenced
        self._on_went_back = on_went_back
        self._on_outgrown = on_outgrown
        self._on_grown = on_grown
        self._grown_bytes = 0
        self._journal_bytes = 0
        self.journal_tables = NO_JOURNALS
        self._backends = Backends(dsn, config.backend_timeout_ms / 1000)
        self._readers = Readers(dsn, config.readers, on_identity, self._backends)
        self._tails = TailCache(config.tail_bytes)
        self._partitions: dict[tuple[int, int], Partition] = {}
        self._loading: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._awaited: dict[tuple[int, int, int], tuple[int, int]] = {}  # topic, partition, producer: epoch, sequence
        self._patience = Patience(min(PRODUCER_HOLD_MS, config.producer_id_expiration_ms))
        self._ends: dict[tuple[int, int], int] = {}  # how far partitions are committed; kept when they are forgotten
        self._told_missing: set[tuple[int, int, int]] = set()  # topic, partition, offset
        self._active_segments: dict[int, int] = {}
        self._topic_bytes: defaultdict[int, int] = defaultdict(int)
        self._outgrown: set[int] = set()
        self._producer_ids = range(0)
        self._producer_lock = asyncio.Lock()
        self._lanes = [
            Lane(
                number,
                self,
                open_writer,
                self._backends,
                checkpoint_bytes=config.checkpoint_bytes,
                checkpoint_ms=config.checkpoint_ms,
            )
            for number in range(config.lanes)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._disk = disk or DiskWatch(lambda: None, 0)
        topics.close_partitions = self._close_topics
        topics.reopen_partitions = self._reopen_topics
        topics.on_change = self._topic_changed

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the lanes. Raises StorageError, Fenced."""
        for row in await self._control.fetch(SQL["active_segments"]):
            self._active_segments[row["series"]] = row["active_segment"]
        active = {row["journal"]: row["active"] for row in await self._control.fetch(GROUPS_SQL["active_journals"])}
        self.journal_tables = JournalTables(**{name: journal_table(name, active[name]) for name in active})
        for lane in self._lanes:
            await lane.open()
        self._tasks = [supervised(lane.run(), f"lane {lane.number}", self.fenced) for lane in self._lanes]

    async def stop(self, timeout_s: float) -> None:
        """Write what is queued and the checkpoints, then close all sessions."""
        for lane in self._lanes:
            await lane.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                log.warning("lane did not stop in time", extra={"task": task.get_name()})
                task.cancel()
        for lane in self._lanes:
            await lane.close()
        self._cancel_loads()
        for partition in list(self._partitions.values()):
            self.forget(partition)
        await self._readers.close()
        self._backends.close()

    def abandon(self) -> None:
        """Stop at once, without checkpoints."""
        for lane in self._lanes:
            lane.abandon()
        self._readers.abandon()
        self._backends.close()
        self._cancel_loads()
        for task in self._tasks:
            task.cancel()

    # -- what lanes need ---------------------------------------------------------------------------------------------

    def active_segment(self, series: int) -> int:
        return self._active_segments[series]

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def oldest_producer_ms(self) -> int:
        """Producers that were silent since before this time may be forgotten."""
        jump_ms = self._patience.observe(self.now_ms(), time.monotonic_ns() // 1_000_000)
        if jump_ms:
            log.warning("the clock of this machine was set", extra={"by_s": jump_ms // 1000})
        return self._patience.oldest(self._config.producer_id_expiration_ms)

    def expected(self, count_bytes: int) -> None:
        self._disk.expect(count_bytes)
        self.queued_bytes += count_bytes

    def admits(self, partition: Partition, producer_id: int, epoch: int) -> int:
        return self.admits_transactional((partition.topic.id, partition.index), producer_id, epoch)

    def answered(self, count_bytes: int) -> None:
        self._disk.written(count_bytes)
        self.queued_bytes -= count_bytes

    def check_end(self, partition: Partition, base_offset: int) -> None:
        """The last guard against an offset given out twice: no row begins below what is committed. Raises Fenced."""
        committed = self._ends.get((partition.topic.id, partition.index), 0)
        if base_offset < committed:
            raise Fenced(f"{partition} would be written at {base_offset}, and {committed} offsets are committed")

    @property
    def must_drop(self) -> bool:
        return self._disk.must_drop

    def committed(self, partition: Partition, appended_bytes: int) -> None:
        self._ends[partition.topic.id, partition.index] = partition.high_watermark
        self._count_bytes(partition, appended_bytes)

    def _count_bytes(self, partition: Partition, appended_bytes: int) -> None:
        self._grown_bytes += appended_bytes
        if self._grown_bytes >= GROWN_BYTES:
            self._grown_bytes = 0
            self._on_grown()
        if partition.series == 0:
            topic = partition.topic.id
            self._topic_bytes[topic] += appended_bytes
            if self._topic_bytes[topic] > self._config.series_bytes and topic not in self._outgrown:
                self._outgrown.add(topic)
                self._on_outgrown(topic)

    def journal_grown(self, added_bytes: int) -> None:
        self._journal_bytes += added_bytes
        if self._journal_bytes >= JOURNAL_GROWN_BYTES:
            self._journal_bytes = 0
            self._on_grown()

    def forget(self, partition: Partition) -> None:
        """Stop serving a partition; it is loaded again when next asked for, if its topic still exists."""
        key = (partition.topic.id, partition.index)
        if self._partitions.get(key) is partition:
            del self._partitions[key]
            self._ends[key] = max(partition.high_watermark, self._ends.get(key, 0))
        partition.close()

    def fenced(self, reason: str) -> None:
        for partition in list(self._partitions.values()):
            self.forget(partition)
        self._on_fenced(reason)

    def awaits_again(self, topic_id: int, index: int, producer_id: int, epoch: int, base_sequence: int) -> None:
        """A batch was answered with a retriable error: its producer sends it again before any later one.

        Batches behind it may be on the wire already. Where the log knows the producer, its sequence refuses those; a
        producer that the log does not know may begin at any sequence (KIP-360), so this has to be remembered.
        """
        key = (topic_id, index, producer_id)
        awaited = self._awaited.get(key)
        if awaited is None or awaited[0] < epoch:
            self._awaited[key] = (epoch, base_sequence)
            if len(self._awaited) > MAX_AWAITED:
                del self._awaited[next(iter(self._awaited))]

    def takes_unknown(self, partition: Partition, batch: Batch) -> bool:
        """May a producer that the partition does not know begin with this batch?"""
        key = (partition.topic.id, partition.index, batch.producer_id)
        awaited = self._awaited.get(key)
        if awaited is not None and awaited[0] == batch.producer_epoch and awaited[1] != batch.base_sequence:
            return False
        self._awaited.pop(key, None)
        return True

    def is_encoded_anew(self, append: Append) -> bool:
        """Consumers get other bytes than the producer's: the topic asks for another codec, or not all clients read them."""
        return append.codec != append.batch.codec or not append.batch.is_read_by_all

    # -- topics and segments -----------------------------------------------------------------------------------------

    def _lane(self, topic_id: int, index: int) -> Lane:
        return self._lanes[self.lane_of(topic_id, index)]

    async def _on_all_lanes(self, apply: Callable[[Lane], None]) -> None:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(lane.control(lambda lane=lane: apply(lane)) for lane in self._lanes))  # type: ignore[misc]
        except TimeoutError:
            raise unavailable("the log did not take a change in time") from None

    async def _close_topics(self, topics: Sequence[Topic]) -> None:
        """Finish what is under way for topics, then take no more. Raises StorageError."""

        is_wanted = True

        def close(lane: Lane) -> None:
            if is_wanted:  # a lane may come to it long after we have given up
                for topic in topics:
                    lane.close_topic(topic.id)

        try:
            await self._on_all_lanes(close)
        except BaseException:
            is_wanted = False
            raise
        for topic in topics:
            for index in range(topic.partitions):
                partition = self._partitions.get((topic.id, index))
                if partition is not None:
                    self.forget(partition)
                self._ends.pop((topic.id, index), None)
            self._topic_bytes.pop(topic.id, None)

    def _reopen_topics(self, topics: Sequence[Topic]) -> None:
        """They are not deleted after all."""
        for lane in self._lanes:
            for topic in topics:
                lane.reopen_topic(topic.id)

    def _topic_changed(self, topic: Topic) -> None:
        for index in range(topic.partitions):
            partition = self._partitions.get((topic.id, index))
            if partition is not None:
                partition.topic = topic

    async def switch_segment(self, series: int, segment: int) -> None:
        """New rows of a series go to another segment; returns when no lane writes to the old one any more."""

        def switch(_lane: Lane) -> None:
            self._active_segments[series] = segment

        await self._on_all_lanes(switch)

    async def move_topic(self, topic_id: int, series: int, segment: int) -> None:
        """A topic's new rows go to a series of its own; what it has in series 0 stays readable there."""
        await self._topics.set_series(topic_id, series)

        def move(_lane: Lane) -> None:
            self._active_segments[series] = segment
            topic = self._topics.by_id.get(topic_id)
            for index in range(topic.partitions if topic else 0):
                partition = self._partitions.get((topic_id, index))
                if partition is not None:
                    partition.series = series

        await self._on_all_lanes(move)

    # -- journals of groups ------------------------------------------------------------------------------------------

    def write_journal(self, write: JournalWrite) -> StorageError | None:
        """Queue what a group writes for its lane; or the error, when it is refused and gets no other answer."""
        return self._counted(write, self._lanes[self.lane_of_journal(write.group_id)].write_journal)

    def lane_of_journal(self, owner_id: str) -> int:
        """Number of the lane that writes what a group or transactional id has to write."""
        return hash(owner_id) % len(self._lanes)

    def lane_of(self, topic_id: int, index: int) -> int:
        """Number of the lane of a partition."""
        return hash((topic_id, index)) % len(self._lanes)

    async def load_for_markers(self, markers: Sequence[Marker]) -> list[tuple[Partition, Marker]]:
        """Markers with their partitions; those of topics that are gone are left out. Raises StorageError."""
        wanted = [
            (topic, marker)
            for marker in markers
            if (topic := self._topics.by_id.get(marker.topic_id)) is not None and marker.partition < topic.partitions
        ]
        missing = [(topic, m.partition) for topic, m in wanted if self.partition(topic, m.partition) is None]
        if missing:
            await self.load(missing)
        found = [self.partition(topic, marker.partition) for topic, marker in wanted]
        pairs = [(p, marker) for p, (_, marker) in zip(found, wanted, strict=True) if p is not None]
        if len(pairs) < len(wanted):
            raise unavailable("a partition went away while it was loaded")
        return pairs

    def end_transaction(self, lane: int, ending: Ending) -> StorageError | None:
        """Queue the end of a transaction for the lane that it belongs to; or the error, when it gets no other answer."""
        return self._counted(ending, self._lanes[lane].end_transaction)

    def _counted(self, item: Item, queue: Callable[[Item], StorageError | None]) -> StorageError | None:
        """Queue what is small, counted until it has its answer; or the error, when it is refused."""
        reason = self._disk.admit_small(item.bytes)
        if reason is not None:
            return not_written(reason)
        done = item.done

        def answer(error: StorageError | None) -> None:
            self._disk.written(item.bytes)
            done(error)

        item.done = answer
        error = queue(item)
        if error is not None:
            item.done = done
            self._disk.written(item.bytes)
        return error

    async def settle_journals(self) -> None:
        """Wait until all that groups have written is committed or failed. Raises StorageError."""
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(lane.settle_journal() for lane in self._lanes))
        except TimeoutError:
            raise unavailable("the journals did not settle in time") from None

    async def switch_journal(self, journal: str, active: int) -> None:
        """Entries of a journal go to another table; returns when no lane writes to the old one any more."""

        def switch(_lane: Lane) -> None:
            self.journal_tables = self.journal_tables._replace(**{journal: journal_table(journal, active)})

        await self._on_all_lanes(switch)

    # -- partitions --------------------------------------------------------------------------------------------------

    def partition(self, topic: Topic, index: int) -> Partition | None:
        """The partition, if it is loaded."""
        return self._partitions.get((topic.id, index))

    async def load(self, wanted: Sequence[tuple[Topic, int]]) -> list[Partition]:
        """Load partitions, in the order asked for. Raises StorageError."""
        # A request may name a partition any number of times: it is loaded once.
        missing = {
            (topic.id, index): (topic, index)
            for topic, index in wanted
            if (topic.id, index) not in self._partitions and (topic.id, index) not in self._loading
        }
        asked = list(missing.values())
        for start in range(0, len(asked), PARTITIONS_PER_LOAD):
            chunk = asked[start : start + PARTITIONS_PER_LOAD]
            load = asyncio.create_task(self._load(chunk), name="load partitions")
            for topic, index in chunk:
                self._loading[topic.id, index] = load
            load.add_done_callback(lambda load, chunk=chunk: self._loaded(load, chunk))  # type: ignore[misc]
        tasks = {t for topic, index in wanted if (t := self._loading.get((topic.id, index))) is not None}
        if tasks:
            done, late = await asyncio.wait(tasks, timeout=LOAD_TIMEOUT_S)
            if late:
                raise unavailable("partitions could not be loaded in time")
            for task in done:
                error = unavailable("this broker stops") if task.cancelled() else task.exception()
                if error is not None:
                    raise error
        found = [self._partitions.get((topic.id, index)) for topic, index in wanted]
        if any(p is None for p in found):
            raise unavailable("a partition went away while it was loaded")
        return [p for p in found if p is not None]

    def _loaded(self, load: asyncio.Task[None], chunk: list[tuple[Topic, int]]) -> None:
        for topic, index in chunk:
            if self._loading.get((topic.id, index)) is load:
                del self._loading[topic.id, index]
        if not load.cancelled():
            load.exception()  # whoever asked may have given up; then nobody else looks at it

    def _cancel_loads(self) -> None:
        for load in set(self._loading.values()):
            load.cancel()

    async def _load(self, chunk: list[tuple[Topic, int]]) -> None:
        lanes = {self._lane(topic.id, index) for topic, index in chunk}
        while True:
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    for lane in lanes:
                        await lane.ready.wait()
            except TimeoutError:
                raise unavailable("the log is not ready") from None
            terms = {lane: lane.term for lane in lanes}
            async with self._readers.use(LOAD_TIMEOUT_S) as connection:
                partitions = await self._read_settled(connection, chunk)
            # A lane that broke meanwhile may have committed something that this has not seen.
            if all(lane.ready.is_set() and lane.term == terms[lane] for lane in lanes):
                break
        for partition in partitions:
            self._serve(partition)

    def _serve(self, partition: Partition) -> None:
        """Take a partition as it was read into use. Raises StorageError when the database holds less than it did."""
        key = (partition.topic.id, partition.index)
        if key in self._partitions:
            # Two objects would give the same offsets out twice. The one in use knows what was written since.
            return
        if partition.high_watermark < self._ends.get(key, 0):
            reason = f"{partition} ends at {partition.high_watermark}, the database had committed {self._ends[key]}"
            self._on_went_back(reason)
            raise unavailable(reason)
        topic = self._topics.by_id.get(partition.topic.id)
        if topic is not None:
            # The catalogue may have changed while we read.
            partition.topic = topic
            partition.series = topic.series
            self._partitions[key] = partition

    async def _read_settled(self, connection: asyncpg.Connection, chunk: list[tuple[Topic, int]]) -> list[Partition]:
        """Partitions as they are in the database. Raises StorageError when rows move between segments all the time."""
        for _ in range(SEARCHES):
            partitions = await self._read_partitions(connection, chunk)
            rows = await connection.fetch(
                SQL["load_extents_of_many"], [topic.id for topic, _ in chunk], [index for _, index in chunk]
            )
            extents = {(row["topic"], row["partition"]): [Extent(*each) for each in row["extents"]] for row in rows}
            if all(extents.get((p.topic.id, p.index), []) == p.extents for p in partitions):
                for partition in partitions:
                    self._topic_bytes_loaded(partition)
                return partitions
        raise unavailable("segments changed while partitions were loaded")

    async def _read_partitions(self, connection: asyncpg.Connection, chunk: list[tuple[Topic, int]]) -> list[Partition]:
        rows = await connection.fetch(
            SQL["load_partitions"], [topic.id for topic, _ in chunk], [index for _, index in chunk]
        )
        known = {(row["topic"], row["partition"]): row for row in rows}
        partitions = []
        after: defaultdict[tuple[int, int], list[tuple[Partition, int]]] = defaultdict(list)
        for topic, index in chunk:
            row = known[topic.id, index]
            partition = Partition(topic, index, self.epoch, self._tails)
            partition.log_start_offset = row["log_start_offset"]
            partition.extents = [Extent(*extent) for extent in row["extents"] or ()]
            partition.epochs = [(epoch, start) for epoch, start in row["epochs"] or ()]
            partition.high_watermark = partition.log_start_offset
            partition.append_bytes_total = row["appended_bytes"]
            if row["next_offset"] is not None:
                partition.high_watermark = max(row["next_offset"], partition.log_start_offset)
                partition.running_max_timestamp = row["running_max_timestamp"]
                partition.load_checkpoint_json(row["producers"])
                partition.load_open_json(row["open_transactions"])
            checkpoint = row["next_offset"] or 0
            for position, extent in enumerate(partition.extents):
                is_last = position + 1 == len(partition.extents)
                if is_last or partition.extents[position + 1].first_offset > checkpoint:
                    after[extent.series, extent.segment].append((partition, checkpoint))
            partitions.append(partition)
        by_key = {(p.topic.id, p.index): p for p in partitions}
        for (series, segment), members in sorted(after.items()):
            statement = queries.render(SQL["rows_after_checkpoints"], leaf=leaf_table(series, segment))
            for row in await connection.fetch(
                statement,
                [p.topic.id for p, _ in members],
                [p.index for p, _ in members],
                [offset for _, offset in members],
            ):
                _replay(by_key[row["topic"], row["partition"]], row)
        for partition in partitions:
            partition.unstage()
            partition.aborted_from = partition.high_watermark
        return partitions

    def _topic_bytes_loaded(self, partition: Partition) -> None:
        if partition.series == 0 and partition.append_bytes_total:
            # Counted once for each load; a reload counts again, which moves a topic early rather than never.
            self._count_bytes(partition, partition.append_bytes_total)

    # -- appending ---------------------------------------------------------------------------------------------------

    def append(
        self,
        partition: Partition,
        batch: Batch,
        done: Callable[[AppendResult], None],
        *,
        timestamp_type: int,
        begins_at_zero: bool = False,
    ) -> None:
        """Queue a batch for its lane. `done` is called once: after the commit, or with an error.

        With `begins_at_zero`, a producer that the partition does not know has to begin with sequence number 0.
        """
        wanted = partition.topic.settings.codec
        codec = batch.codec if wanted is None else wanted
        append = Append(partition, batch, done, timestamp_type, codec, begins_at_zero)
        refusal = self._disk.admit(append.bytes)
        if refusal is not None:
            if batch.producer_id >= 0:
                self.awaits_again(
                    partition.topic.id, partition.index, batch.producer_id, batch.producer_epoch, batch.base_sequence
                )
            done(AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=refusal))
            return
        self.queued_bytes += append.bytes
        self._lane(partition.topic.id, partition.index).append(partition, append)

    async def allocate_producer_id(self) -> int:
        """A producer id that was never given before. Raises StorageError."""
        async with self._producer_lock:
            if not self._producer_ids:
                (row,) = await self._control.fetch(SQL["next_producer_block"])
                self._producer_ids = range(row[0], row[0] + PRODUCER_BLOCK)
            producer_id = self._producer_ids[0]
            self._producer_ids = self._producer_ids[1:]
            return producer_id

    # -- reading -----------------------------------------------------------------------------------------------------

    def read_tail(self, partition: Partition, offset: int, max_bytes: int) -> list[bytes] | None:
        """Wire batches from memory, at least one; None when the offset is not in the tail."""
        return partition.tail.read(offset, max_bytes)

    async def read(self, partition: Partition, offset: int, max_bytes: int) -> list[bytes]:
        """Wire batches from the database, at least one if there is one below the high watermark. Raises StorageError."""
        if offset >= partition.high_watermark:
            return []
        async with self._readers.use(READ_TIMEOUT_S) as connection:
            rows = await self._read_rows(connection, partition, offset, max_bytes)
            if not rows:
                # They may have moved to another segment.
                await self._reload_extents(connection, partition)
                rows = await self._read_rows(connection, partition, offset, max_bytes)
        if not rows:
            if partition.is_closed:
                raise StorageError(True, ErrorCode.NOT_LEADER_OR_FOLLOWER, f"{partition} went away while it was read")
            self._tell_missing(partition, offset)
            raise unavailable(f"the database has no row with offset {offset} of {partition}")
        partition.average_row_bytes = max(1, sum(row["row_bytes"] for row in rows) // len(rows))
        codec, level = partition.topic.settings.codec, partition.topic.settings.compression_level
        arguments = [[row[name] for name in _READ_FIELDS] for row in rows]
        size = sum(row["row_bytes"] for row in rows)
        if size > THREADED_BYTES and any(codec or row[-1] for row in arguments):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, _encode_rows, arguments, offset, max_bytes, codec, level)
        return _encode_rows(arguments, offset, max_bytes, codec, level)

    async def aborted(
        self, partition: Partition, offset: int, batches: Sequence[bytes]
    ) -> Sequence[aborted.AbortedTransaction]:
        """Aborted transactions in what was read from `offset` on. Raises StorageError."""
        found = aborted.known(partition, offset, batches)
        if found is None:
            async with self._readers.use(READ_TIMEOUT_S) as connection:
                found = await self._in_extents(
                    connection, partition, lambda: aborted.find(connection, partition, offset, batches)
                )
        return found

    async def _read_rows(
        self, connection: asyncpg.Connection, partition: Partition, offset: int, max_bytes: int
    ) -> list[asyncpg.Record]:
        """Rows from the one that holds the offset on; empty when it is not where the extents say.

        The rows of a partition cover its offsets without a gap. So the end of the answer, or of a segment, never tells
        that nothing was there: what follows a gap is left for a read that begins at the gap, and finds that.
        """
        position = partition.extent_index(offset)
        if position < 0:
            return []
        low, high = ROWS_PER_READ
        extent = partition.extents[position]
        rows: list[asyncpg.Record] = await connection.fetch(
            queries.render(SQL["read_rows"], leaf=leaf_table(extent.series, extent.segment)),
            partition.topic.id,
            partition.index,
            offset,
            partition.high_watermark,
            max(1, max_bytes),
            min(high, max(low, 2 * max_bytes // partition.average_row_bytes + 2)),
        )
        expected = offset
        for count, row in enumerate(rows):
            if not row["base_offset"] <= expected <= row["last_offset"]:
                return rows[:count]
            expected = row["last_offset"] + 1
        return rows

    def _tell_missing(self, partition: Partition, offset: int) -> None:
        """A consumer asks again and again, so each place is told once."""
        place = (partition.topic.id, partition.index, offset)
        if place not in self._told_missing:
            if len(self._told_missing) >= MAX_TOLD_MISSING:
                self._told_missing.clear()
            self._told_missing.add(place)
            log.error(
                "records are missing in the database",
                extra={"topic": partition.topic.name, "partition": partition.index, "offset": offset},
            )

    async def _reload_extents(self, connection: asyncpg.Connection, partition: Partition) -> None:
        rows = await connection.fetch(SQL["load_extents"], partition.topic.id, partition.index)
        stored = [Extent(*row) for row in rows]
        newest = stored[-1].first_offset if stored else -1
        # The lane may have begun an extent after these were read.
        partition.extents[:] = stored + [e for e in partition.extents if e.first_offset > newest]

    async def _in_extents(
        self, connection: asyncpg.Connection, partition: Partition, search: Callable[[], Awaitable[T]]
    ) -> T:
        """What a search in several segments finds. Raises StorageError.

        Rows may move to other segments meanwhile, and then it is repeated: it may have seen them in neither place. What
        moves rows changes their extents in the same transaction, so extents that stayed the same vouch for the answer.
        """
        for _ in range(SEARCHES):
            before = list(partition.extents)
            found = await search()
            await self._reload_extents(connection, partition)
            if partition.extents[: len(before)] == before:
                return found
        raise unavailable(f"the segments of {partition} changed while they were searched")

    async def offset_for_timestamp(self, partition: Partition, timestamp_ms: int) -> tuple[int, int, int] | None:
        """First record whose timestamp is at or after the given one: (offset, timestamp, leader epoch), or None."""
        end, start = partition.high_watermark, partition.log_start_offset
        if start >= end or partition.running_max_timestamp < timestamp_ms:
            return None
        async with self._readers.use(READ_TIMEOUT_S) as connection:
            return await self._in_extents(
                connection, partition, lambda: self._find_timestamp(connection, partition, timestamp_ms, start, end)
            )

    async def _find_timestamp(
        self, connection: asyncpg.Connection, partition: Partition, timestamp_ms: int, start: int, end: int
    ) -> tuple[int, int, int] | None:
        key = (partition.topic.id, partition.index)
        extents = list(partition.extents)
        low, high = max(0, partition.extent_index(start)), len(extents) - 1
        # The running maximum only grows, so its value at the end of each extent finds the one extent to look in.
        while low < high:
            middle = (low + high) // 2
            leaf = leaf_table(extents[middle].series, extents[middle].segment)
            limit = extents[middle + 1].first_offset
            reached = await connection.fetchval(queries.render(SQL["last_running_max"], leaf=leaf), *key, limit)
            if reached is not None and reached >= timestamp_ms:
                high = middle
            else:
                low = middle + 1
        from_offset, name = start, "first_row_by_running_max"
        for position in range(low, len(extents)):
            leaf = leaf_table(extents[position].series, extents[position].segment)
            limit = extents[position + 1].first_offset if position + 1 < len(extents) else end
            from_offset = max(from_offset, extents[position].first_offset)
            while True:
                row = await connection.fetchrow(
                    queries.render(SQL[name], leaf=leaf), *key, from_offset, limit, timestamp_ms
                )
                if row is None:
                    break
                found = _first_record_at(row, timestamp_ms, start)
                if found is not None:
                    return (*found, row["leader_epoch"])
                # The record that set the maximum is gone: look for a row that still has such a record.
                name, from_offset = "first_row_by_max", row["last_offset"] + 1
        return None

    async def offset_of_max_timestamp(self, partition: Partition) -> tuple[int, int, int] | None:
        """The first record with the largest timestamp: (offset, timestamp, leader epoch), or None when empty."""
        if partition.log_start_offset >= partition.high_watermark:
            return None
        return await self.offset_for_timestamp(partition, partition.running_max_timestamp)


def _admits_all(_place: tuple[int, int], _producer_id: int, _epoch: int) -> int:
    return 0


def _first_record_at(row: asyncpg.Record, timestamp_ms: int, start: int) -> tuple[int, int] | None:
    base = row["base_offset"]
    stamps = row["timestamps"] or [row["first_timestamp"]] * row["record_count"]
    deltas = row["offset_deltas"] or range(len(stamps))
    for delta, stamp in zip(deltas, stamps, strict=True):
        if stamp >= timestamp_ms and base + delta >= start:
            return base + delta, stamp
    return None


def _replay(partition: Partition, row: asyncpg.Record) -> None:
    """Take one stored row into a partition's state, as its commit once did."""
    partition.high_watermark = max(partition.high_watermark, row["last_offset"] + 1)
    partition.running_max_timestamp = max(partition.running_max_timestamp, row["running_max_timestamp"])
    partition.append_bytes_total += row["row_bytes"]
    partition.bytes_since_checkpoint += row["row_bytes"]
    if row["producer_id"] is not None:
        batches = [
            (
                row["producer_id"],
                row["producer_epoch"],
                row["base_sequence"],
                row["batch_base_offset"],
                row["batch_count"],
            )
        ]
    elif row["producer_ids"]:
        batches = list(
            zip(
                row["producer_ids"],
                row["producer_epochs"],
                row["base_sequences"],
                row["batch_base_offsets"],
                row["batch_counts"],
                strict=True,
            )
        )
    else:
        return
    if row["is_control"]:
        producer_id, epoch = batches[0][:2]
        window = partition.producers.get(producer_id)
        partition.producers[producer_id] = producer_state.mark(
            window, epoch=epoch, timestamp_ms=row["append_time"], coordinator_epoch=row["coordinator_epoch"]
        )
        partition.open_transactions.pop(producer_id, None)
        return
    if row["is_transactional"]:
        partition.open_transactions.setdefault(batches[0][0], row["base_offset"])
    for producer_id, epoch, base_sequence, base_offset, count in batches:
        window = partition.producers.get(producer_id)
        if window is not None and window.batches and window.batches[-1].base_offset >= base_offset:
            continue  # a further row of a batch that spans rows
        partition.producers[producer_id] = producer_state.advance(
            window,
            epoch=epoch,
            base_sequence=base_sequence,
            count=count,
            base_offset=base_offset,
            timestamp_ms=row["append_time"],
        )


def _encode_rows(
    rows: list[list[object]], offset: int, max_bytes: int, codec: int | None, level: int | None
) -> list[bytes]:
    """Wire batches of rows, within max_bytes but for the first; with the topic's codec or else the producer's."""
    batches: list[bytes] = []
    size = 0
    for values in rows:
        arguments: dict[str, Any] = dict(zip(_READ_FIELDS, values, strict=True))
        if codec is not None and not arguments["is_control"]:
            arguments["codec"] = codec
        if not arguments["is_transactional"]:
            # A row may hold batches of several producers; consumers look at producers of transactions only.
            arguments["producer_id"] = None
        left = max_bytes - size
        if batches and left <= 0:
            break
        batch = _records.encode_row(
            **arguments, start_offset=offset, max_bytes=0 if batches else max(1, max_bytes), level=level
        )
        if batches and len(batch) > left:
            break
        batches.append(batch)
        size += len(batch)
    return batches
