"""Which topics keep compressed batches as they came, and taking these apart when SQL asks for the topic.

    kafka.topics            what is true                                   what comes next
    keeps_batches  asked
    false          NULL     every batch is taken apart                     a compressed one comes: true, NULL
    true           NULL     compressed batches are kept                    SQL asks: true, a time
    true           a time   every batch is taken apart, old ones are       all are: false, a time
                            unpacked, and SQL waits for that
    false          a time   every batch is taken apart                     `batches`: true, NULL, when nobody has asked for a
                                                                           while and a compressed one comes; `auto`: nothing

Plans that sessions keep for a topic were made without a word to us while it kept no batches. So its view is touched in
the transaction that lets it begin, which makes PostgreSQL plan anew. How SQL asks: features/015_unpacking.sql.

Unpacking replaces packed rows by rows with arrays, some MB in a transaction. A reader sees the ones or the others; offsets,
producers and what consumers get stay the same. A crash at any step is harmless: the tables say what is left.

    layouts = Layouts(topics, open_writer, executor=..., has_room=disk.has_room, on_unfrozen=growth.look, ...)
    await layouts.start(log)
    layouts.compressed(topic)       # a compressed batch was taken apart
    await layouts.stop()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import exchange, sessions, stored_rows
from pg_kafka.storage.disk import WRITE_FACTOR
from pg_kafka.storage.queries import load, render
from pg_kafka.storage.segments import LOCK_TIMEOUT_MS, leaf_table
from pg_kafka.storage.topics import Topic, Topics
from pg_kafka.tasks import supervised
from pg_kafka.wire import _records
from pg_kafka.wire._records import RecordsError
from pg_kafka.wire.error_codes import ErrorCode

logger = logging.getLogger("pg_kafka.layouts")

SQL = load("layouts")
LOG_SQL = load("log")
SEGMENTS_SQL = load("segments")

# How often it is looked who asks, while a topic keeps batches.
LOOK_S = 1.0
# With storage.layout = batches, so long after the last query a topic keeps batches again.
IDLE_S = 600.0
# A topic whose view is in use, or whose step failed, is left alone for so long.
PUT_OFF_S = 10.0
RETRY_S = 0.5
STATEMENT_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
# Unpacked at once, but for a larger row. A batch of 128 MiB takes three times its size in memory while it is unpacked.
PIECE_BYTES = 4 * 1024 * 1024
_OUTSIDE = (asyncpg.LockNotAvailableError, StorageError, sessions.Fenced, *sessions.CONNECTION_ERRORS)


class LogControl(Protocol):
    """What is asked of the log."""

    async def settle_layout(self, topic_id: int) -> None:
        """The topic keeps no batches any more: returns when those on their way are committed or failed."""


class Layouts:
    """One task, with a session of its own while there is something to do."""

    def __init__(
        self,
        topics: Topics,
        open_session: Callable[[str], Awaitable[sessions.Session]],
        *,
        executor: Executor,
        has_room: Callable[[float], bool] = lambda _bytes: True,
        on_unfrozen: Callable[[], None] = lambda: None,
        on_death: Callable[[str], None] = lambda _reason: None,
        look_s: float = LOOK_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._topics = topics
        self._open = open_session
        self._executor = executor
        self._has_room = has_room
        self._on_unfrozen = on_unfrozen
        self._on_death = on_death
        self._look_s = look_s
        self._idle_s = idle_s
        self._session: sessions.Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted: set[int] = set()  # topics that may keep batches from now on
        self._put_off: dict[int, float] = {}  # topic: until when it is left alone
        self._asked_at: dict[int, float] = {}  # topics of layout batches: when somebody was last seen asking
        self._settled: set[int] = set()  # topics of which no packed rows are written any more
        self._has_told_room = False
        self._woken = asyncio.Event()

    async def start(self, log_control: LogControl) -> None:
        """Begin to look who asks."""
        self._log = log_control
        self._woken.set()
        self._task = supervised(self._work(), "layouts", self._on_death)

    async def stop(self) -> None:
        """Stop between two steps or within one: what it has not committed is done again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
        self._drop()

    def compressed(self, topic: Topic) -> None:
        """A compressed batch was taken apart: from now on its topic may keep such."""
        if topic.keeps_batches or topic.id in self._wanted or self._now() < self._put_off.get(topic.id, 0.0):
            return
        if topic.settings.storage_layout == "rows" or (topic.is_asked and not self._is_idle(topic)):
            return
        self._wanted.add(topic.id)
        self._woken.set()

    def _is_idle(self, topic: Topic) -> bool:
        """Has nobody asked for a topic for a while? What was before this broker's time counts as now."""
        return (
            topic.settings.storage_layout == "batches"
            and self._now() - self._asked_at.setdefault(topic.id, self._now()) >= self._idle_s
        )

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause = await self._round()
            except Exception as error:
                is_expected = isinstance(error, (*_OUTSIDE, asyncpg.PostgresError, TimeoutError))
                logger.log(
                    logging.INFO if isinstance(error, _OUTSIDE) else logging.WARNING,
                    "a step of layouts failed and will be tried again",
                    extra={"reason": sessions.describe(error), "retry_s": RETRY_S},
                    exc_info=None if is_expected else error,
                )
                self._drop()  # a transaction may have been left open
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.drop()
            self._session = None

    async def _round(self) -> float | None:
        """What there is to do now; returns how long to wait for the next look, None: until somebody wakes us."""
        wanted, self._wanted = self._wanted, set()
        if self._session is None or self._session.is_closed:
            self._session = await self._open("layouts")
        for topic_id in sorted(wanted):
            await self._begin(topic_id)
        left = {row["id"]: row["is_asked"] for row in await self._fetch("keeping")}
        is_watched = bool(left) or any(
            topic.is_asked and topic.settings.storage_layout == "batches" for topic in self._topics.by_id.values()
        )
        if not is_watched:
            return None
        asked = await self._look(left)
        has_more = False
        for topic_id in [topic_id for topic_id, is_asked in left.items() if is_asked]:
            if self._now() >= self._put_off.get(topic_id, 0.0):
                has_more |= await self._try_step(topic_id)
        if has_more:
            # Somebody waits; else others go first.
            return 0.0 if asked else PIECE_BYTES / 40e6
        return self._look_s

    def _connection(self) -> asyncpg.Connection:
        assert self._session is not None
        return self._session.connection

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection().fetch(SQL[name], *arguments, timeout=STATEMENT_TIMEOUT_S)
        return rows

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> Any:
        """The driver may begin and end it, as COPY goes past the driver."""
        connection = self._connection()
        await connection.execute("BEGIN", timeout=STATEMENT_TIMEOUT_S)
        try:
            await connection.execute(
                render(SEGMENTS_SQL["lock_timeout"], ms=LOCK_TIMEOUT_MS), timeout=STATEMENT_TIMEOUT_S
            )
            yield connection
        except BaseException:
            if not connection.is_closed():
                with contextlib.suppress(*sessions.CONNECTION_ERRORS):
                    await connection.execute("ROLLBACK", timeout=STATEMENT_TIMEOUT_S)
            raise
        await connection.execute("COMMIT", timeout=STATEMENT_TIMEOUT_S)

    # -- keeping batches ---------------------------------------------------------------------------------------------

    async def _begin(self, topic_id: int) -> None:
        """Let a topic keep batches from now on."""
        if topic_id not in self._topics.by_id:
            return
        try:
            async with self._transaction() as connection:
                found = await connection.fetch(SQL["begin_to_keep"], topic_id, timeout=STATEMENT_TIMEOUT_S)
                if found and found[0]["view"] is not None:
                    await connection.execute(SQL["touch_view"], found[0]["view"], timeout=STATEMENT_TIMEOUT_S)
        except asyncpg.PostgresError as error:
            # Its view is being read, most likely: then rows are right anyway.
            self._put_off[topic_id] = self._now() + PUT_OFF_S
            if not isinstance(error, asyncpg.LockNotAvailableError):
                logger.warning(
                    "a topic cannot keep batches",
                    extra=self._named(topic_id) | {"reason": sessions.describe(error)},
                )
            return
        if found:
            self._put_off.pop(topic_id, None)
            self._settled.discard(topic_id)
            self._topics.show_layout(topic_id, keeps_batches=True, is_asked=False)

    def _named(self, topic_id: int) -> dict[str, object]:
        """Fields of a log line."""
        topic = self._topics.by_id.get(topic_id)
        return {"topic_id": topic_id} | ({} if topic is None else {"topic": topic.name})

    # -- unpacking ---------------------------------------------------------------------------------------------------

    async def _look(self, left: dict[int, bool]) -> bool:
        """See who asks. Their topics keep no batches from now on, and are marked in `left`; False: nobody waits."""
        is_waited_for = False
        for row in await self._fetch("asked"):
            topic_id = row["id"]
            self._asked_at[topic_id] = self._now()
            is_waited_for |= row["keeps_batches"]
            if row["keeps_batches"] and not row["is_asked"] and await self._fetch("note_asked", topic_id):
                left[topic_id] = True
                topic = self._topics.by_id.get(topic_id)
                if topic is not None:
                    logger.info("SQL asks for a topic, its batches are unpacked", extra={"topic": topic.name})
        for topic_id, is_asked in left.items():
            topic = self._topics.by_id.get(topic_id)
            if is_asked and topic is not None and not topic.is_asked:
                self._topics.show_layout(topic_id, keeps_batches=True, is_asked=True)
            if is_asked and topic_id not in self._settled:
                await self._log.settle_layout(topic_id)
                self._settled.add(topic_id)
        return is_waited_for

    async def _try_step(self, topic_id: int) -> bool:
        """Unpack a piece of a topic; False when there is nothing more to do now."""
        try:
            return await self._step(topic_id)
        except RecordsError as error:
            # Not a matter of time. Who asks is told so after a minute.
            self._put_off[topic_id] = self._now() + PUT_OFF_S
            extra = self._named(topic_id) | {"reason": error.message}
            logger.error("stored batches cannot be unpacked", extra=extra)
        except asyncpg.LockNotAvailableError:
            return True
        except asyncpg.PostgresError as error:
            self._put_off[topic_id] = self._now() + RETRY_S
            logger.warning(
                "batches of a topic could not be unpacked and will be tried again",
                extra=self._named(topic_id) | {"reason": sessions.describe(error)},
            )
        return False

    async def _step(self, topic_id: int) -> bool:
        found = await self._fetch("packed_extent", topic_id)
        if not found:
            if await self._fetch("end_keeping", topic_id):
                self._topics.show_layout(topic_id, keeps_batches=False, is_asked=True)
                logger.info("a topic is unpacked", extra=self._named(topic_id))
            return False
        extent = found[0]
        place = (topic_id, extent["partition"])
        key = (*place, extent["first_offset"], extent["series"], extent["segment"])
        if not extent["has_leaf"]:
            await self._fetch("advance_packed", *key, None, extent["packed_from"])
            return True
        leaf = leaf_table(extent["series"], extent["segment"])
        is_unfrozen = False
        async with self._transaction() as connection:
            fetch = partial(connection.fetch, timeout=STATEMENT_TIMEOUT_S)
            if not await fetch(SQL["hold_topic"], topic_id):
                return False
            rows = await fetch(render(SQL["packed_rows"], leaf=leaf), *place, extent["packed_from"], PIECE_BYTES)
            following = None
            if rows:
                if not self._may_write(topic_id, sum(row["row_bytes"] for row in rows)):
                    return False
                await self._replace(connection, leaf, place, extent, rows)
                noted = await fetch(SQL["note_change"], extent["series"], extent["segment"])
                is_unfrozen = any(row["was_frozen"] for row in noted)
                following = rows[-1]["last_offset"] + 1
                if not (await fetch(render(SQL["has_packed"], leaf=leaf), *place, following))[0][0]:
                    following = None
            if not await fetch(SQL["advance_packed"], *key, following, extent["packed_from"]):
                raise sessions.unavailable("an extent has changed while its rows were unpacked")
        if is_unfrozen:
            self._on_unfrozen()
        return True

    def _may_write(self, topic_id: int, raw_bytes: int) -> bool:
        has_room = self._has_room(WRITE_FACTOR * raw_bytes)
        if not has_room and not self._has_told_room:
            logger.warning(
                "batches are not unpacked, the disk of the database is nearly full",
                extra=self._named(topic_id) | {"bytes": raw_bytes},
            )
        self._has_told_room = not has_room
        return has_room

    async def _replace(
        self,
        connection: asyncpg.Connection,
        leaf: str,
        place: tuple[int, int],
        extent: asyncpg.Record,
        rows: Sequence[asyncpg.Record],
    ) -> None:
        """Put rows with arrays in the place of packed ones."""
        assert self._session is not None
        loop = asyncio.get_running_loop()
        columns = {
            "topic": place[0],
            "partition": place[1],
            "series": extent["series"],
            "segment": extent["segment"],
        }
        made = await loop.run_in_executor(self._executor, unpacked, rows, columns)
        gone = await connection.execute(
            render(SQL["delete_packed"], leaf=leaf),
            *place,
            [row["base_offset"] for row in rows],
            timeout=STATEMENT_TIMEOUT_S,
        )
        if gone != f"DELETE {len(rows)}":
            raise sessions.unavailable(f"{len(rows)} rows were to be unpacked, and {gone} were there")
        await exchange.run(
            self._session,
            render(LOG_SQL["copy_segment"], leaf=leaf),
            [_stream(made)],
            STATEMENT_TIMEOUT_S,
            on_progress=lambda: None,
        )


def unpacked(rows: Sequence[asyncpg.Record], columns: dict[str, Any]) -> list[Callable[[], bytes]]:
    """COPY tuples, each made when it is called, for what packed rows hold. Raises RecordsError.

    Every row has the running maximum of the packed row. That is never too small, and a search by time that finds a row
    without such a record goes on behind it.
    """
    made: list[Callable[[], bytes]] = []
    for row in rows:
        shared: dict[str, Any] = {
            **columns,
            "is_control": False,
            "delete_horizon": None,
            **{
                name: row[name]
                for name in (
                    "leader_epoch",
                    "running_max_timestamp",
                    "append_time",
                    "timestamp_type",
                    "codec",
                    "is_transactional",
                )
            },
        }
        batches = [
            _records.decode_batch(wire, from_producer=False, max_raw_bytes=stored_rows.MAX_RAW_BYTES)
            for wire in _records.batches_in(row["batch"])
        ]
        offset = row["base_offset"]
        for batch in batches:
            if batch.base_offset != offset:
                raise RecordsError(
                    ErrorCode.CORRUPT_MESSAGE, f"a batch at offset {batch.base_offset} where {offset} comes next"
                )
            offset += batch.last_offset_delta + 1
        if offset != row["last_offset"] + 1:
            raise RecordsError(
                ErrorCode.CORRUPT_MESSAGE, f"the batches of a row end at {offset}, the row at {row['last_offset'] + 1}"
            )
        for group, slices in _grouped(batches):
            base_offset = group[0].base_offset + slices[0].first_delta
            made.append(
                partial(
                    _records.copy_row,
                    **shared,
                    base_offset=base_offset,
                    global_base=row["global_base"] + base_offset - row["base_offset"],
                    producers=[
                        (b.producer_id, b.producer_epoch, b.base_sequence, b.base_offset, b.count)
                        for b in group
                        if b.producer_id >= 0
                    ],
                    slices=slices,
                )
            )
    return made


def _grouped(batches: Sequence[_records.Batch]) -> Iterator[tuple[list[_records.Batch], list[_records.Slice]]]:
    """Batches that share a row, with their slices; a batch of several slices has a row for each."""
    group: list[_records.Batch] = []
    slices: list[_records.Slice] = []
    size = 0
    for batch in batches:
        added = batch.raw_bytes + 16 * batch.count
        if group and (size + added > _records.MAX_SLICE_BYTES or len(batch.slices) > 1):
            yield group, slices
            group, slices, size = [], [], 0
        if len(batch.slices) > 1:
            for part in batch.slices:
                yield [batch], [part]
            continue
        group.append(batch)
        slices += batch.slices
        size += added
    if group:
        yield group, slices


def _stream(made: Sequence[Callable[[], bytes]]) -> Iterator[bytes]:
    yield _records.COPY_HEADER
    for make in made:
        yield make()
    yield _records.COPY_TRAILER
