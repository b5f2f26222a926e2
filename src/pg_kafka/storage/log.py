"""The log of this broker: its partitions, their lanes, and reading.

Partitions are loaded when first used, many at once in a few set queries, from their checkpoint and the small columns of
the rows after it. Appends go to the partition's lane; reads come from the tail in memory or from one segment's table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

import asyncpg

from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.errors import StorageError
from pg_kafka.metrics import current
from pg_kafka.metrics._requests import Commit
from pg_kafka.metrics.traffic import TopicTraffic
from pg_kafka.storage import log_starts, queries, sizes, stored_rows
from pg_kafka.storage.aborted import AbortedTransaction
from pg_kafka.storage.backends import Backends
from pg_kafka.storage.backlog import Backlog
from pg_kafka.storage.bundles import Bundle
from pg_kafka.storage.committed_ends import CommittedEnds
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.counts import StorageCounts
from pg_kafka.storage.disk import DiskWatch, Named
from pg_kafka.storage.endings import Ending, Marker
from pg_kafka.storage.first_batches import FirstBatches
from pg_kafka.storage.flight import NO_JOURNALS
from pg_kafka.storage.growth import Growth
from pg_kafka.storage.journal import JournalWrite, journal_table, not_written
from pg_kafka.storage.lane import Lane
from pg_kafka.storage.loading import Loading, count_last_extents
from pg_kafka.storage.partition import Append, AppendResult, Figures, Partition
from pg_kafka.storage.producer_ages import ProducerAges
from pg_kafka.storage.readers import Readers
from pg_kafka.storage.reading import Reading
from pg_kafka.storage.segments import adopt
from pg_kafka.storage.sessions import Identity, Session, unavailable
from pg_kafka.storage.staging import OpenTransactions, Shared
from pg_kafka.storage.tail import TailCache
from pg_kafka.storage.topics import Topic, Topics, TopicsWatcher
from pg_kafka.storage.write_places import WritePlaces
from pg_kafka.tasks import supervised
from pg_kafka.wire import _records
from pg_kafka.wire._records import Batch
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
GROUPS_SQL = queries.load("groups")
logger = logging.getLogger("pg_kafka.log")

CONTROL_TIMEOUT_S = 30.0
PRODUCER_BLOCK = 1000
Item = TypeVar("Item", JournalWrite, Bundle)


class Owner(Protocol):
    """Who has made the log, as the log sees it."""

    def end(self, reason: str, *, went_back: bool = False, is_fenced: bool = False) -> None:
        """This incarnation is over: the database holds less than it did, another broker writes, or something failed."""

    def check_identity(self, identity: Identity) -> None:
        """A session for reading is open. Raises StorageError, if that is not the server that is led on."""

    def compressed(self, topic: Topic) -> None:
        """A compressed batch was taken apart."""


class Log(TopicsWatcher):
    """See the module. Everything runs on one event loop."""

    def __init__(
        self,
        owner: Owner,
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
        growth: Growth,
        transactions: OpenTransactions,
        clock: Clock,
        disk: DiskWatch | None = None,
        producer_expiration_ms: Callable[[], int] | None = None,
        commit: Commit | None = None,
        traffic: TopicTraffic | None = None,
        counts: StorageCounts | None = None,
    ) -> None:
        counts = counts or StorageCounts(clock)
        self._owner = owner
        self.incarnation = incarnation
        self.node_id = node_id
        self.epoch = epoch
        self.cluster_id = cluster_id
        self._config = config
        self._topics = topics
        self._control = control
        self._growth = growth
        self._counts = counts
        self._backends = Backends(dsn, config.backend_timeout_ms / 1000, counts)
        self._readers = Readers(dsn, config.readers, owner.check_identity, self._backends, counts)
        self._tails = TailCache(config.tail_bytes)
        self._partitions: dict[tuple[int, int], Partition] = {}
        self._producer_ids = range(0)
        self._producer_lock = asyncio.Lock()
        self._disk = disk or DiskWatch(lambda: None, 0)
        self._places = WritePlaces({}, NO_JOURNALS)
        self.backlog = Backlog(self._disk)
        self.first_batches = FirstBatches()
        self._ends = CommittedEnds()
        shared = Shared(
            self._places,
            self.backlog,
            self.first_batches,
            self._ends,
            ProducerAges(clock, producer_expiration_ms or (lambda: config.producer_id_expiration_ms)),
            clock,
            transactions,
            commit or Commit(),
        )
        self._lanes = [
            Lane(
                number,
                self,
                shared,
                incarnation,
                growth.add_to_journals,
                open_writer,
                self._backends,
                checkpoint_bytes=config.checkpoint_bytes,
                checkpoint_ms=config.checkpoint_ms,
                counts=counts.lane(number),
            )
            for number in range(config.lanes)
        ]
        self._reading = Reading(self._readers, executor)
        self._loading = Loading(
            self._partitions,
            topics,
            self._lane,
            self._readers,
            self._tails,
            self._ends,
            epoch=epoch,
            on_loaded=self._count_loaded,
            on_went_back=self._on_went_back,
            traffic=None if traffic is None else traffic.of,
        )
        self._traffic = traffic
        self.is_counted = traffic is not None  # what is read, and sent
        self._tasks: list[asyncio.Task[None]] = []
        topics.watch(self)

    @property
    def lanes(self) -> Sequence[Lane]:
        """In the order of their numbers."""
        return self._lanes

    @property
    def hanging_backends(self) -> int:
        """Backends of lanes and readers that have not answered for seconds."""
        return self._backends.hanging

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the lanes. Raises StorageError, Fenced."""
        for series, segment in (await adopt(self._control.fetch, self.node_id)).items():
            self._places.use_segment(series, segment)
        active = {row["journal"]: row["active"] for row in await self._control.fetch(GROUPS_SQL["active_journals"])}
        for name, number in active.items():
            self._places.use_journal(name, journal_table(name, number))
        for lane in self._lanes:
            await lane.open()
        self._tasks = [supervised(lane.run(), f"lane {lane.number}", self._failed) for lane in self._lanes]

    async def stop(self, timeout_s: float) -> None:
        """Write what is queued and the checkpoints, then close all sessions."""
        for lane in self._lanes:
            await lane.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                logger.warning("lane did not stop in time", extra={"task": task.get_name()})
                task.cancel()
        for lane in self._lanes:
            await lane.close()
        self._loading.cancel()
        self._forget_all()
        await self._readers.close()
        self._backends.close()

    def abandon(self) -> None:
        """Stop at once, without checkpoints."""
        for lane in self._lanes:
            lane.abandon()
        self._readers.abandon()
        self._backends.close()
        self._loading.cancel()
        for task in self._tasks:
            task.cancel()

    # -- what lanes need ---------------------------------------------------------------------------------------------

    def committed(self, partition: Partition, appended_bytes: int) -> None:
        self._growth.add(partition, appended_bytes)

    def forget(self, partition: Partition) -> None:
        """Stop serving a partition; it is loaded again when next asked for, if its topic still exists."""
        key = (partition.topic.id, partition.index)
        if self._partitions.get(key) is partition:
            del self._partitions[key]
            self._ends.note(partition)
        partition.close()

    def fenced(self, reason: str) -> None:
        self._forget_all()
        self._owner.end(reason, is_fenced=True)

    def _failed(self, reason: str) -> None:
        self._forget_all()
        self._owner.end(reason)

    def _forget_all(self) -> None:
        for partition in list(self._partitions.values()):
            self.forget(partition)

    # -- topics and segments -----------------------------------------------------------------------------------------

    def _lane(self, topic_id: int, index: int) -> Lane:
        return self._lanes[self.lane_of(topic_id, index)]

    async def _on_all_lanes(self, apply: Callable[[Lane], None]) -> None:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(lane.control(lambda lane=lane: apply(lane)) for lane in self._lanes))  # type: ignore[misc]
        except TimeoutError:
            raise unavailable("the log did not take a change in time") from None

    async def before_leaving(self, topics: Sequence[Topic]) -> None:
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
                self._ends.forget(topic.id, index)
            self._growth.forget(topic.id)

    def after_leaving(self, topics: Sequence[Topic]) -> None:
        if self._traffic is not None:
            for topic in topics:
                self._traffic.forget(topic.name)

    def on_listed(self, topic: Topic) -> None:
        for lane in self._lanes:
            lane.reopen_topic(topic.id)
        for index in range(topic.partitions):
            partition = self._partitions.get((topic.id, index))
            if partition is not None:
                partition.topic_changed(topic)

    async def switch_segment(self, series: int, segment: int) -> None:
        """New rows of a series go to another segment; returns when no lane writes to the old one any more."""

        def switch(_lane: Lane) -> None:
            self._places.use_segment(series, segment)

        await self._on_all_lanes(switch)

    async def rows_moved(self, places: Sequence[tuple[int, int]]) -> None:
        """Rows of these partitions (topic id, index) are in other segments: read their extents again. Raises StorageError."""
        loaded = [partition for place in places if (partition := self._partitions.get(place)) is not None]
        await self._reading.reload_extents(loaded)

    async def write_checkpoints(self, places: Sequence[tuple[int, int]]) -> None:
        """Have the lanes write checkpoints of partitions (topic id, index) soon. Raises StorageError."""
        wanted = [
            (topic, index) for topic_id, index in places if (topic := self._topics.by_id.get(topic_id)) is not None
        ]
        for partition in await self.load(wanted):
            self._lane(partition.topic.id, partition.index).write_checkpoint(partition)

    async def settle_layout(self, topic_id: int) -> None:
        """A topic keeps no batches any more: returns when those that were queued packed are committed or failed."""

        def forget(lane: Lane) -> None:
            for partition in self._of_topic(topic_id):
                if self._lane(topic_id, partition.index) is lane:
                    partition.forget_packed()

        # What queued before may be more than one transaction, and a control comes before it.
        while any(append.batch.is_packed for p in self._of_topic(topic_id) for append in p.pending):
            await self._on_all_lanes(forget)
        await self._on_all_lanes(forget)

    def before_compaction(self, topic_id: int, index: int, end: int) -> None:
        """Rows of a partition below `end` are going to change: what is remembered of them is forgotten."""
        partition = self._partitions.get((topic_id, index))
        if partition is not None:
            partition.before_compaction(end)

    async def after_compaction(self, connection: asyncpg.Connection, topic_id: int, index: int) -> None:
        """Rows of a partition's last extent may have changed: count what it holds."""
        partition = self._partitions.get((topic_id, index))
        if partition is None or partition.held is None or not partition.extents:
            return
        # What is appended meanwhile lies above the high watermark, and does not count on either side.
        extent, held = partition.extents[-1], partition.held
        place = (extent.series, extent.segment)
        counted = await count_last_extents(connection, *place, [(partition, partition.high_watermark)])
        left = counted[topic_id, index]
        partition.after_compaction(extent.first_offset, Figures(held.bytes - left.bytes, held.records - left.records))
        await self.write_checkpoints([(topic_id, index)])

    def _of_topic(self, topic_id: int) -> list[Partition]:
        """The partitions of a topic that are loaded."""
        topic = self._topics.by_id.get(topic_id)
        found = (self._partitions.get((topic_id, index)) for index in range(topic.partitions if topic else 0))
        return [partition for partition in found if partition is not None]

    async def move_topic(self, topic_id: int, series: int, segment: int) -> None:
        """A topic's new rows go to a series of its own; what it has in series 0 stays readable there."""
        await self._topics.set_series(topic_id, series)

        def move(_lane: Lane) -> None:
            self._places.use_segment(series, segment)
            topic = self._topics.by_id.get(topic_id)
            for index in range(topic.partitions if topic else 0):
                partition = self._partitions.get((topic_id, index))
                if partition is not None:
                    partition.move(series)

        await self._on_all_lanes(move)

    # -- journals ----------------------------------------------------------------------------------------------------

    def write_journal(self, write: JournalWrite) -> StorageError | None:
        """Queue what a group or transactional id writes; or the error, when it is refused and gets no other answer."""
        return self._counted(write, self._lanes[self.lane_of_journal(write.owner_id)].write_journal)

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
        return self._counted(ending, self._lanes[lane].write_bundle)

    def write_bundle(self, lane: int, bundle: Bundle) -> StorageError | None:
        """Queue records that are written whole for the lane of their partitions; or the error, when it gets no other answer."""
        return self._counted(bundle, self._lanes[lane].write_bundle, self._disk.admit)

    def _counted(
        self,
        item: Item,
        queue: Callable[[Item], StorageError | None],
        admit: Callable[[int, Named], str | None] | None = None,
    ) -> StorageError | None:
        """Queue what is small, or what `admit` lets in, counted until it has its answer; or the error, when it is refused."""
        reason = (admit or self._disk.admit_small)(item.bytes, item)
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
        """Wait until all that groups and transactional ids have written is committed or failed. Raises StorageError."""
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                await asyncio.gather(*(lane.settle_journal() for lane in self._lanes))
        except TimeoutError:
            raise unavailable("the journals did not settle in time") from None

    async def switch_journal(self, journal: str, active: int) -> None:
        """Entries of a journal go to another table; returns when no lane writes to the old one any more."""

        def switch(_lane: Lane) -> None:
            self._places.use_journal(journal, journal_table(journal, active))

        await self._on_all_lanes(switch)

    # -- partitions --------------------------------------------------------------------------------------------------

    def partition(self, topic: Topic, index: int) -> Partition | None:
        """The partition, if it is loaded."""
        return self._partitions.get((topic.id, index))

    async def delete_records(self, wanted: Sequence[tuple[Partition, int]]) -> list[int | StorageError]:
        """Let partitions begin at given offsets, none above its high watermark, if they begin earlier.

        For each where it begins then. Raises StorageError; then the starts may have moved or not.
        """
        asked = [(partition.topic.id, partition.index, offset) for partition, offset in wanted]
        starts = await log_starts.advance(self._control, asked)
        self._count_moved("request", starts)
        self.take_starts(starts)
        busy = unavailable("somebody else moves the log start, or deletes the topic")
        return [starts.get((topic_id, index), busy) for topic_id, index, _ in asked]

    def take_starts(self, starts: Mapping[tuple[int, int], int]) -> None:
        """Let readers begin where the database says that partitions begin: topic and index -> offset.

        Before anything below is freed.
        """
        self._growth.look_for_free()
        for (topic_id, index), offset in starts.items():
            partition = self._partitions.get((topic_id, index))
            if partition is None:
                self._loading.advance_start(topic_id, index, offset)
            else:
                partition.advance_start(offset)

    def follow_starts(self, starts: Mapping[tuple[int, int], int]) -> None:
        """As `take_starts`, for what others have moved by SQL."""
        self._count_moved("sql", starts)
        self.take_starts(starts)

    def _count_moved(self, cause: str, starts: Mapping[tuple[int, int], int]) -> None:
        """Partitions are going to begin there; of those that are not loaded it is not known where they began."""
        loaded = ((self._partitions.get(place), start) for place, start in starts.items())
        self._counts.upkeep.moved(cause, [start - one.log_start_offset for one, start in loaded if one is not None])

    async def load(self, wanted: Sequence[tuple[Topic, int]]) -> list[Partition]:
        """Load partitions, in the order asked for. Raises StorageError."""
        with current.database():
            return await self._loading.load(wanted)

    def _on_went_back(self, reason: str) -> None:
        self._owner.end(reason, went_back=True)

    def _count_loaded(self, partition: Partition) -> None:
        if partition.series == 0 and partition.append_bytes_total:
            # Counted once for each load; a reload counts again, which moves a topic early rather than never.
            self.committed(partition, partition.append_bytes_total)

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
        if batch.codec:
            batch = self._in_layout(partition.topic, batch)
        wanted = partition.topic.settings.codec
        codec = batch.codec if wanted is None else wanted
        append = Append(partition, batch, done, timestamp_type, codec, begins_at_zero)
        refusal = self.backlog.admit(append.bytes, append)
        if refusal is not None:
            if batch.producer_id >= 0:
                self.first_batches.await_again(
                    partition.topic.id, partition.index, batch.producer_id, batch.producer_epoch, batch.base_sequence
                )
            done(AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message=refusal))
            return
        self._lane(partition.topic.id, partition.index).append(partition, append)

    def _in_layout(self, topic: Topic, batch: Batch) -> Batch:
        """A compressed batch as its topic stores it, whatever the topic did when the batch was decoded."""
        if topic.is_packing:
            return batch
        if batch.is_packed:
            return _records.decode_batch(batch.wire, max_raw_bytes=stored_rows.MAX_RAW_BYTES)
        if not topic.is_asked or topic.settings.storage_layout == "batches":
            self._owner.compressed(topic)
        return batch

    async def sizes(self, topics: Sequence[Topic]) -> Mapping[tuple[int, int], int]:
        """Bytes in Kafka's format by topic id and partition; those without records are left out. Raises StorageError."""
        async with self._readers.use(CONTROL_TIMEOUT_S) as connection:
            return await sizes.of_topics(
                connection,
                [topic.id for topic in topics],
                lambda topic_id, index: self._partitions.get((topic_id, index)),
            )

    async def places(self, partitions: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], tuple[int, int]]:
        """Where partitions begin and end as the database has it, by topic id and index. Raises StorageError."""
        async with self._readers.use(CONTROL_TIMEOUT_S) as connection:
            return await sizes.places(connection, partitions)

    async def starts(self) -> Mapping[tuple[int, int], int]:
        """Where partitions begin as the database has it, by topic id and index, if not at 0. Raises StorageError."""
        async with self._readers.use(CONTROL_TIMEOUT_S) as connection:
            return await log_starts.all_starts(connection)

    def committed_end(self, topic_id: int, index: int) -> int:
        """The first offset of a partition that is not known to be committed, 0 when nothing is known."""
        return self._ends.of(topic_id, index)

    @property
    def loaded_partitions(self) -> int:
        return len(self._partitions)

    @property
    def tails(self) -> TailCache:
        """The newest batches, in memory."""
        return self._tails

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
        return await self._reading.read(partition, offset, max_bytes)

    async def aborted(
        self, partition: Partition, offset: int, batches: Sequence[bytes]
    ) -> Sequence[AbortedTransaction]:
        """Aborted transactions in what was read from `offset` on. Raises StorageError."""
        return await self._reading.aborted(partition, offset, batches)

    async def offset_for_timestamp(self, partition: Partition, timestamp_ms: int) -> tuple[int, int, int] | None:
        """First record whose timestamp is at or after the given one: (offset, timestamp, leader epoch), or None."""
        return await self._reading.offset_for_timestamp(partition, timestamp_ms)

    async def offset_of_max_timestamp(self, partition: Partition) -> tuple[int, int, int] | None:
        """The first record with the largest timestamp: (offset, timestamp, leader epoch), or None when empty."""
        return await self._reading.offset_of_max_timestamp(partition)
