"""Partitions are loaded when they are first used: their checkpoint, and the small columns of the rows after it.

Many at once in a few set queries. What is read counts only if no rows moved between segments meanwhile, and if the lane
has committed nothing that the queries have not seen.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from pg_kafka.metrics._requests import Traffic
from pg_kafka.storage import queries
from pg_kafka.storage.committed_ends import CommittedEnds
from pg_kafka.storage.lane import Lane
from pg_kafka.storage.partition import Extent, Figures, Partition
from pg_kafka.storage.readers import Readers
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import unavailable
from pg_kafka.storage.tail import TailCache
from pg_kafka.storage.topics import Topic, Topics

SQL = queries.load("log")

LOAD_TIMEOUT_S = 30.0
PARTITIONS_PER_LOAD = 2_000
# So often a load begins anew because rows moved between segments.
ATTEMPTS = 3


class Loading:
    """See the module. Loaded partitions are put into `partitions`, which others remove them from."""

    def __init__(
        self,
        partitions: dict[tuple[int, int], Partition],
        topics: Topics,
        lane_of: Callable[[int, int], Lane],
        readers: Readers,
        tails: TailCache,
        ends: CommittedEnds,
        *,
        epoch: int,
        on_loaded: Callable[[Partition], None],
        on_went_back: Callable[[str], None],
        traffic: Callable[[str], Traffic] | None = None,
    ) -> None:
        self._partitions = partitions
        self._topics = topics
        self._lane_of = lane_of
        self._readers = readers
        self._tails = tails
        self._ends = ends
        self._epoch = epoch
        self._on_loaded = on_loaded
        self._on_went_back = on_went_back
        self._traffic = traffic
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._starts: dict[tuple[int, int], int] = {}  # moved while the partition was loaded

    async def load(self, wanted: Sequence[tuple[Topic, int]]) -> list[Partition]:
        """Load partitions, in the order asked for. Raises StorageError."""
        # A request may name a partition any number of times: it is loaded once.
        missing = {
            (topic.id, index): (topic, index)
            for topic, index in wanted
            if (topic.id, index) not in self._partitions and (topic.id, index) not in self._tasks
        }
        asked = list(missing.values())
        for start in range(0, len(asked), PARTITIONS_PER_LOAD):
            chunk = asked[start : start + PARTITIONS_PER_LOAD]
            load = asyncio.create_task(self._load(chunk), name="load partitions")
            for topic, index in chunk:
                self._tasks[topic.id, index] = load
            load.add_done_callback(lambda load, chunk=chunk: self._loaded(load, chunk))  # type: ignore[misc]
        tasks = {t for topic, index in wanted if (t := self._tasks.get((topic.id, index))) is not None}
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
            if self._tasks.get((topic.id, index)) is load:
                del self._tasks[topic.id, index]
                self._starts.pop((topic.id, index), None)
        if not load.cancelled():
            load.exception()  # whoever asked may have given up; then nobody else looks at it

    def advance_start(self, topic_id: int, index: int, offset: int) -> None:
        """The log start of a partition has moved, which a load under way may not have seen."""
        key = (topic_id, index)
        if key in self._tasks:
            self._starts[key] = max(offset, self._starts.get(key, 0))

    def cancel(self) -> None:
        for load in set(self._tasks.values()):
            load.cancel()

    async def _load(self, chunk: list[tuple[Topic, int]]) -> None:
        lanes = {self._lane_of(topic.id, index) for topic, index in chunk}
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
        committed = self._ends.of(*key)
        if partition.high_watermark < committed:
            reason = f"{partition} ends at {partition.high_watermark}, the database had committed {committed}"
            self._on_went_back(reason)
            raise unavailable(reason)
        topic = self._topics.by_id.get(partition.topic.id)
        if topic is not None:
            # The catalogue may have changed while we read.
            partition.topic_changed(topic)
            partition.move(topic.series)
            partition.advance_start(self._starts.get(key, 0))
            self._partitions[key] = partition
            self._on_loaded(partition)

    async def _read_settled(self, connection: asyncpg.Connection, chunk: list[tuple[Topic, int]]) -> list[Partition]:
        """Partitions as they are in the database. Raises StorageError when rows move between segments all the time."""
        for _ in range(ATTEMPTS):
            try:
                partitions = await self._read_partitions(connection, chunk)
            except asyncpg.UndefinedTableError:
                continue  # a segment was dropped, as its rows have moved or are deleted
            rows = await connection.fetch(
                SQL["load_extents_of_many"], [topic.id for topic, _ in chunk], [index for _, index in chunk]
            )
            extents = {(row["topic"], row["partition"]): [Extent(*each) for each in row["extents"]] for row in rows}
            if all(extents.get((p.topic.id, p.index), []) == p.extents for p in partitions):
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
            traffic = None if self._traffic is None else self._traffic(topic.name)
            partition = Partition(topic, index, self._epoch, self._tails, traffic)
            partition.take_extents([Extent(*extent) for extent in row["extents"] or ()])
            partition.take_epochs([(epoch, start) for epoch, start in row["epochs"] or ()])
            partition.begin_at(row["log_start_offset"])
            if row["next_offset"] is not None:
                partition.resume(
                    next_offset=row["next_offset"],
                    running_max_timestamp=row["running_max_timestamp"],
                    appended_bytes=row["appended_bytes"],
                    producers=row["producers"],
                    opened=row["open_transactions"],
                    figures=None
                    if row["extent_bytes"] is None
                    else Figures(row["extent_bytes"], row["extent_records"]),
                )
            checkpoint = row["next_offset"] or 0
            for position, extent in enumerate(partition.extents):
                is_last = position + 1 == len(partition.extents)
                if is_last or partition.extents[position + 1].first_offset > checkpoint:
                    after[extent.series, extent.segment].append((partition, checkpoint))
            partitions.append(partition)
        by_key = {(p.topic.id, p.index): p for p in partitions}
        await _count_unknown(connection, [(p, known[p.topic.id, p.index]["next_offset"]) for p in partitions])
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
            partition.is_followed()
        return partitions


async def _count_unknown(connection: asyncpg.Connection, partitions: Sequence[tuple[Partition, int | None]]) -> None:
    """Find out what last extents hold below a checkpoint that does not say it. Checkpoints come with the partitions."""
    unknown: defaultdict[tuple[int, int], list[tuple[Partition, int]]] = defaultdict(list)
    for partition, checkpoint in partitions:
        if partition.figures is None and checkpoint is not None:
            extent = partition.extents[-1]
            unknown[extent.series, extent.segment].append((partition, checkpoint))
    for (series, segment), members in unknown.items():
        found = await count_last_extents(connection, series, segment, members)
        for partition, _ in members:
            partition.count(found[partition.topic.id, partition.index])


async def count_last_extents(
    connection: asyncpg.Connection, series: int, segment: int, members: Sequence[tuple[Partition, int]]
) -> dict[tuple[int, int], Figures]:
    """What partitions whose last extents are in this segment hold there, each below an offset."""
    rows = await connection.fetch(
        queries.render(SQL["extent_figures"], leaf=leaf_table(series, segment)),
        [p.topic.id for p, _ in members],
        [p.index for p, _ in members],
        [p.extents[-1].first_offset for p, _ in members],
        [below for _, below in members],
    )
    return {(row["topic"], row["partition"]): Figures(row["bytes"], row["records"]) for row in rows}


def _replay(partition: Partition, row: asyncpg.Record) -> None:
    """Take one stored row into a partition's state."""
    columns = ("producer_id", "producer_epoch", "base_sequence", "batch_base_offset", "batch_count")
    batches: list[Any] = []
    if row["producer_id"] is not None:
        batches = [tuple(row[name] for name in columns)]
    elif row["producer_ids"]:
        arrays = ("producer_ids", "producer_epochs", "base_sequences", "batch_base_offsets", "batch_counts")
        batches = list(zip(*(row[name] for name in arrays), strict=True))
    partition.follow(
        base_offset=row["base_offset"],
        last_offset=row["last_offset"],
        running_max_timestamp=row["running_max_timestamp"],
        append_time=row["append_time"],
        row_bytes=row["stored_bytes"],
        figures=Figures(row["wire_bytes"], 0 if row["is_control"] else row["record_count"]),
        batches=batches,
        is_transactional=row["is_transactional"],
        is_control=row["is_control"],
        coordinator_epoch=row["coordinator_epoch"],
    )
