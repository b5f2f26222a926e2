"""Fetch: read partitions, or wait until there is something to read."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from pg_kafka.broker.api import Recurrent
from pg_kafka.broker.context import Context
from pg_kafka.broker.doors import Topic
from pg_kafka.broker.fetch_sessions import INITIAL_EPOCH, NO_SESSION, FetchSession, FetchSessionError, SessionPartition
from pg_kafka.broker.partitions import FIRST_VERSION_WITH_TOPIC_IDS, check_leader_epoch
from pg_kafka.broker.permission import Operation
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply, ReplySink
from pg_kafka.broker.subjects import few
from pg_kafka.broker.turns import ITEMS_AT_ONCE
from pg_kafka.broker.waiters import Waiting
from pg_kafka.errors import StorageError
from pg_kafka.metrics import current
from pg_kafka.metrics._requests import count_read
from pg_kafka.storage import aborted
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader
from pg_kafka.wire.messages.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionData,
)

logger = logging.getLogger("pg_kafka.fetch")

READS_AT_ONCE: Final = 8
"""Reads from the database that one Fetch may cause; partitions beyond are served by the next one of the session."""

_FIRST_VERSION_WITH_SESSIONS = 7
_FIRST_VERSION_WITHOUT_REPLICA_ID = 15
_FIRST_VERSION_WITH_NODE_ENDPOINTS = 16
_CORRELATION_ID_AT = 4
_HEADER_START = struct.Struct(">hhi")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_LAST_OFFSET_DELTA_AT = 23
_READ_UNCOMMITTED = 0
_READ: Final = Operation.READ
_NOTHING: tuple[()] = ()


def fetch(ctx: Context, request: FetchRequest, reply: Reply) -> Coroutine[Any, Any, None] | None:
    """Read partitions from given offsets on.

    Versions  4-18. 7 brings sessions (KIP-227), 9 leader epochs, 12 is flexible, 13 has topic ids, 16 node endpoints.
    Rules     - parks until min_bytes are there, at most max_wait_ms; an error of any partition answers at once
              - where many waits would end together some end earlier, by a tenth of max_wait_ms at most
              - bytes that are there and that a limit on their number leaves count for min_bytes as well, as in Kafka
              - whole batches only; the first partition that has data gives one batch even above all limits (KIP-74)
              - nothing at or above the high watermark, for read_committed nothing at or above the last stable offset
              - below the log start or above the high watermark is OFFSET_OUT_OF_RANGE, with both in the answer
              - current_leader_epoch older than ours is FENCED_LEADER_EPOCH, newer UNKNOWN_LEADER_EPOCH;
                last_fetched_epoch that has ended earlier is answered with the diverging epoch (KIP-595)
              - in a session only partitions with news are answered; those that gave records go to the end of the turn
              - a session named by a second request wakes the first, which gets INVALID_FETCH_SESSION_EPOCH
              - a storage error is the partition's error, never an empty answer
              - what the client's quota does not allow is left out of the answer, which names the time to wait (KIP-219)
    Not done  - fetching by replicas: there are none, a replica id is answered with NOT_LEADER_OR_FOLLOWER
              - preferred read replicas (KIP-392)
    """
    if ctx.is_large:
        return _open_in_turns(ctx, request, reply)
    broker = ctx.broker
    try:
        uses_ids = ctx.version >= FIRST_VERSION_WITH_TOPIC_IDS
        session = broker.fetch_sessions.open(request, uses_ids, broker.clock.steady_ms())
    except FetchSessionError as error:
        reply.send(FetchResponse(error_code=error.code))
        return None
    return _Fetch(ctx, request, reply, session).start()


async def _open_in_turns(ctx: Context, request: FetchRequest, reply: Reply) -> None:
    """The same for a request that names very many partitions."""
    broker, turns = ctx.broker, ctx.broker.turns
    sessions = broker.fetch_sessions
    try:
        uses_ids = ctx.version >= FIRST_VERSION_WITH_TOPIC_IDS
        session = sessions.find(request, uses_ids, broker.clock.steady_ms())
        async for topic in turns.each(request.topics):
            async for some in turns.parts(topic.partitions):
                session.add(topic, some)
        async for forgotten in turns.each(request.forgotten_topics_data):
            async for indexes in turns.parts(forgotten.partitions):
                session.forget(forgotten, indexes)
        session = sessions.opened(session)
    except FetchSessionError as error:
        reply.send(FetchResponse(error_code=error.code))
        return
    remaining = _Fetch(ctx, request, reply, session).start()
    if remaining is not None:
        await remaining


def recurrent(ctx: Context, request: FetchRequest, frame: bytes | memoryview, body_at: int) -> Recurrent | None:
    """A poll that names nothing comes again with the session's next epoch, until a partition has news."""
    if request.session_epoch <= INITIAL_EPOCH or request.topics or request.forgotten_topics_data:
        return None
    if min(request.max_wait_ms, request.min_bytes, request.max_bytes) <= 0:
        return None
    return _Poll(ctx, request, frame, body_at)


class _Poll(Waiting):
    """The polls of one connection while its session has no news: each is parked as it comes, and ends with a known answer.

    Whatever else happens, a `_Fetch` takes over.
    """

    __slots__ = (
        "_after",
        "_before",
        "_ctx",
        "_epoch",
        "_epoch_at",
        "_min_bytes",
        "_reply",
        "_request",
        "_session",
        "_start_s",
    )

    def __init__(self, ctx: Context, request: FetchRequest, frame: bytes | memoryview, body_at: int) -> None:
        super().__init__(ctx.broker.deadlines)
        self._ctx = ctx  # of the first poll; the others differ in their correlation ids only
        self._request = request
        self._epoch_at = at = body_at + (21 if ctx.version < _FIRST_VERSION_WITHOUT_REPLICA_ID else 17)
        self._before = bytes(frame[_CORRELATION_ID_AT + 4 : at])
        self._after = bytes(frame[at + 4 :])
        self._min_bytes = min(request.min_bytes, request.max_bytes, ctx.broker.config.fetch_max_bytes)
        self._reply: Reply | None = None
        self._session: FetchSession | None = None
        self._epoch = INITIAL_EPOCH
        self._start_s = 0.0

    def come_again(self, frame: bytes | memoryview, sink: ReplySink) -> Reply | None:
        at = self._epoch_at
        if frame[_CORRELATION_ID_AT + 4 : at] != self._before or frame[at + 4 :] != self._after:
            return None
        (key, version, correlation_id), (epoch,) = _HEADER_START.unpack_from(frame), _INT32.unpack_from(frame, at)
        ctx = self._ctx
        header = ctx.header
        if version != header.api_version or key != header.api_key:
            return None
        broker, doors = ctx.broker, ctx.doors
        session = broker.fetch_sessions.unchanged(
            self._request.session_id,
            epoch,
            version >= FIRST_VERSION_WITH_TOPIC_IDS,
            broker.clock.steady_ms(),
            doors.viewer,
            doors.generation.number,
        )
        if session is None:
            return None
        header = RequestHeader(key, version, correlation_id, header.client_id)
        self._reply = Reply(sink, header, len(frame), 0)
        self._session = session
        self._epoch = session.epoch
        return self._reply

    def start(self) -> None:
        session, reply = self._session, self._reply
        assert session is not None
        assert reply is not None
        if session.parked is not None:
            session.parked.wake()
        session.parked = self
        self._start_s = self._deadlines.loop.time()
        self.is_due = False
        self._deadlines.add(self, self._start_s, self._request.max_wait_ms)
        reply.on_abandon = self._leave
        if reply.timing is not None:
            reply.timing.park()
        self.restart()
        self.wait(self._min_bytes)

    def on_wake(self) -> None:
        session, reply = self._session, self._reply
        assert session is not None
        assert reply is not None
        if reply.timing is not None:
            reply.timing.unpark()
        self._leave()
        ctx = self._ctx
        doors = ctx.doors
        is_seen = session.seen_by is doors.viewer and session.generation == doors.generation.number
        is_current = session.epoch == self._epoch and is_seen
        if self.is_due and is_current and not session.ready and not session.is_closed:
            reply.send_encoded(session.no_news(reply.header.api_version))
        else:
            ctx = Context(ctx.broker, doors, reply.header, ctx.connection)
            _Fetch(ctx, self._request, reply, session).take_over(self._epoch, self._start_s, self.is_due)

    def _leave(self) -> None:
        self.cancel()
        assert self._session is not None
        if self._session.parked is self:
            self._session.parked = None
        self._reply = self._session = None


class _Fetch(Waiting):
    """One request on its way: attempts, between which it may be parked, and one answer."""

    __slots__ = (
        "_answers",
        "_available_bytes",
        "_ctx",
        "_epoch",
        "_is_committed",
        "_is_first",
        "_is_incremental",
        "_is_listening",
        "_is_urgent",
        "_is_waiting",
        "_looks_again",
        "_max_bytes",
        "_min_bytes",
        "_names_leader",
        "_records",
        "_reply",
        "_request",
        "_room",
        "_session",
        "_start_s",
        "_stored",
        "_task",
        "_throttle_ms",
        "_unknown",
        "_unloadable",
    )

    def __init__(self, ctx: Context, request: FetchRequest, reply: Reply, session: FetchSession) -> None:
        super().__init__(ctx.broker.deadlines)
        self._ctx = ctx
        self._records = ctx.broker.records
        self._request = request
        self._reply = reply
        self._session = session
        self._is_incremental = session.id != NO_SESSION
        self._epoch = session.epoch
        self._is_committed = request.isolation_level != _READ_UNCOMMITTED
        self._max_bytes = max(0, min(request.max_bytes, ctx.broker.config.fetch_max_bytes))
        self._throttle_ms = 0
        limits = ctx.limits
        if limits is not None and limits.fetch is not None:
            # More would have to wait even if nothing had been taken.
            self._max_bytes = min(self._max_bytes, ctx.broker.quotas.most_at_once(limits.fetch))
        self._min_bytes = min(request.min_bytes, self._max_bytes)
        self._start_s = self._deadlines.loop.time()
        self._is_listening = False
        self._is_waiting = False
        self._looks_again = False
        self._task: asyncio.Task[None] | None = None
        self._unloadable: dict[SessionPartition, Refused] = {}
        if self._is_incremental and reply.timing is not None and reply.timing.request is not None:
            reply.timing.request = session  # which names the topics
        self._begin_reading()

    def start(self) -> Coroutine[Any, Any, None] | None:
        if self._session.parked is not None:
            self._session.parked.wake()
        return self._attempt()

    def take_over(self, epoch: int, start_s: float, is_due: bool) -> None:
        """Go on with what was parked as a poll that began at `start_s` with the session's `epoch`."""
        self._epoch = epoch
        self._start_s = start_s
        self.is_due = is_due
        self.on_wake()

    # -- one attempt -------------------------------------------------------------------------------------------------

    def _attempt(self) -> Coroutine[Any, Any, None] | None:
        """Look at all partitions that may have news; a coroutine is what remains when the database is needed."""
        self.restart()
        self._unloadable.clear()
        session = self._session
        doors = self._ctx.doors
        generation = doors.generation.number
        self._looks_again = False
        if session.seen_by is None:
            session.seen_by, session.generation = doors.viewer, generation
        elif session.seen_by is not doors.viewer or session.generation != generation:
            self._looks_again = True
            session.look_again(doors.viewer, generation)
        ready = session.ready
        if len(ready) > ITEMS_AT_ONCE:
            return self._attempt_in_turns(list(ready))
        unloaded = self._find_partitions(ready)
        if unloaded:
            return self._load_and_read(unloaded)
        self._begin_reading()
        self._read(ready)
        return self._end_reading()

    async def _attempt_in_turns(self, entries: Sequence[SessionPartition]) -> None:
        """The same for very many partitions. What happens to them meanwhile wakes the next attempt."""
        turns = self._ctx.broker.turns
        with turns.long_work():
            self._listen()
            unloaded: list[tuple[SessionPartition, Topic]] = []
            async for some in turns.parts(entries):
                unloaded += self._find_partitions(some)
            if unloaded:
                await self._load(unloaded)
            self._begin_reading()
            async for some in turns.parts(entries):
                self._read(some)
            remaining = self._end_reading()
            if remaining is not None:
                await remaining

    def _find_partitions(self, entries: Iterable[SessionPartition]) -> list[tuple[SessionPartition, Topic]]:
        """Bind what is loaded; returns what has to be loaded first."""
        door = self._ctx.doors.topics
        unloaded = []
        for entry in entries:
            if entry.partition is not None:
                if not entry.partition.is_closed and not self._looks_again:
                    continue
                entry.unbind()
            try:
                topic = door.with_partition(_READ, entry.topic_key, entry.index)
            except Refused as error:
                self._unloadable[entry] = error
                continue
            partition = door.loaded(topic, entry.index)
            if partition is None:
                unloaded.append((entry, topic))
            else:
                entry.bind(partition)
        return unloaded

    async def _load_and_read(self, unloaded: Sequence[tuple[SessionPartition, Topic]]) -> None:
        self._listen()
        await self._load(unloaded)
        ready = self._session.ready
        self._begin_reading()
        if len(ready) > ITEMS_AT_ONCE:
            async for some in self._ctx.broker.turns.parts(list(ready)):
                self._read(some)
        else:
            self._read(ready)
        remaining = self._end_reading()
        if remaining is not None:
            await remaining

    async def _load(self, unloaded: Sequence[tuple[SessionPartition, Topic]]) -> None:
        loaded = await self._ctx.doors.topics.load([(topic, entry.index) for entry, topic in unloaded])
        async for (entry, _), partition in self._ctx.broker.turns.each(zip(unloaded, loaded, strict=True)):
            if isinstance(partition, StorageError):
                self._unloadable[entry] = Refused(partition.code, partition.message)
            else:
                entry.bind(partition)

    def _begin_reading(self) -> None:
        self._answers: dict[SessionPartition, PartitionData] = {}
        self._available_bytes = 0  # as far as they count for min_bytes
        self._is_urgent = False
        self._names_leader = False
        self._room = self._max_bytes
        self._is_first = True  # the first that has data gives a batch whatever its size
        self._stored: list[tuple[SessionPartition, Partition, int, bool]] = []
        self._unknown: list[tuple[SessionPartition, Partition]] = []

    def _read(self, entries: Iterable[SessionPartition]) -> None:
        """Answer each partition from memory; `_stored` and `_unknown` are those of which the database is asked."""
        answers, stored, unknown = self._answers, self._stored, self._unknown
        room, is_first = self._room, self._is_first
        for entry in entries:
            partition = entry.partition
            if partition is None:
                answers[entry] = self._refusal(entry, self._unloadable.get(entry))
                continue
            answer = answers[entry] = self._state(entry, partition)
            if answer.error_code or answer.diverging_epoch.end_offset >= 0:
                self._is_urgent = True
                continue
            end = partition.last_stable_offset if self._is_committed else partition.high_watermark
            if entry.fetch_offset >= end:
                continue
            if room <= 0 and not is_first:
                self._available_bytes += max(0, entry.max_bytes)
                continue
            budget = max(0, min(entry.max_bytes, room))
            batches = self._records.read_tail(partition, entry.fetch_offset, budget)
            if batches is None:
                if len(stored) < READS_AT_ONCE:
                    stored.append((entry, partition, budget, is_first))
                    room -= budget
                    is_first = False
                else:
                    self._available_bytes += budget
                continue
            size = _fill(answer, batches, budget, is_first, end if end < partition.high_watermark else None)
            self._available_bytes += _available(answer, size, budget, end)
            if size:
                room -= size
                is_first = False
                if self._is_committed:
                    found = aborted.known(partition, entry.fetch_offset, cast(list[bytes], answer.records))
                    if found is None:
                        unknown.append((entry, partition))
                    elif found:
                        answer.aborted_transactions = _aborted(found)
        self._room, self._is_first = room, is_first

    def _end_reading(self) -> Coroutine[Any, Any, None] | None:
        """Conclude, or return the rest of the work: what must be read from the database."""
        if self._stored or self._unknown:
            return self._read_stored(self._stored, self._unknown)
        return self._conclude()

    async def _read_stored(
        self,
        stored: Sequence[tuple[SessionPartition, Partition, int, bool]],
        unknown: list[tuple[SessionPartition, Partition]],
    ) -> None:
        """Read from the database: records, and of the partitions in `unknown` only which transactions were aborted."""
        self._listen()
        reads = (self._records.read(partition, entry.fetch_offset, budget) for entry, partition, budget, _ in stored)
        results = await asyncio.gather(*reads, return_exceptions=True)
        for (entry, partition, budget, is_first), result in zip(stored, results, strict=True):
            answer = self._answers[entry]
            if isinstance(result, StorageError):
                self._fail_partition(entry, partition, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                end = partition.last_stable_offset if self._is_committed else partition.high_watermark
                stop = end if end < partition.high_watermark else None
                size = _fill(answer, result, budget, is_first, stop)
                self._available_bytes += _available(answer, size, budget, end)
                if size and self._is_committed:
                    unknown.append((entry, partition))
        if unknown:
            await self._find_aborted(unknown)
        remaining = self._conclude()
        if remaining is not None:
            await remaining

    async def _find_aborted(self, unknown: Sequence[tuple[SessionPartition, Partition]]) -> None:
        """Without this list a consumer would take records of aborted transactions for committed ones."""
        searches = (
            self._records.aborted(partition, entry.fetch_offset, cast(list[bytes], self._answers[entry].records))
            for entry, partition in unknown
        )
        results = await asyncio.gather(*searches, return_exceptions=True)
        for (entry, partition), found in zip(unknown, results, strict=True):
            if isinstance(found, StorageError):
                self._fail_partition(entry, partition, found)
            elif isinstance(found, BaseException):
                raise found
            elif found:
                self._answers[entry].aborted_transactions = _aborted(found)

    def _fail_partition(self, entry: SessionPartition, partition: Partition, error: StorageError) -> None:
        """A read has failed; when the log start has moved beyond it, the answer says where the log begins."""
        is_below = error.code == ErrorCode.OFFSET_OUT_OF_RANGE
        self._answers[entry] = self._state(entry, partition) if is_below else _error(entry, error.code)
        self._is_urgent = True

    def _state(self, entry: SessionPartition, partition: Partition) -> PartitionData:
        """The answer without records: the partition's offsets, or the error that stands against reading it."""
        request = self._request
        if request.replica_id >= 0 or request.replica_state.replica_id >= 0:
            return _error(entry, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        code = check_leader_epoch(partition, entry.current_leader_epoch)
        if code:
            answer = _error(entry, code)
            if code == ErrorCode.FENCED_LEADER_EPOCH:
                self._names_leader = True
                answer.current_leader = LeaderIdAndEpoch(
                    leader_id=self._ctx.broker.node_id, leader_epoch=partition.leader_epoch
                )
            return answer
        answer = PartitionData(
            partition_index=entry.index,
            high_watermark=partition.high_watermark,
            last_stable_offset=partition.last_stable_offset,
            log_start_offset=partition.log_start_offset,
            aborted_transactions=_NOTHING if self._is_committed else None,
            records=b"",
        )
        if entry.last_fetched_epoch >= 0:
            epoch, end = partition.end_of_epoch(entry.last_fetched_epoch)
            if epoch < 0:
                return _out_of_range(answer)
            if epoch < entry.last_fetched_epoch or end < entry.fetch_offset:
                answer.diverging_epoch = EpochEndOffset(epoch=epoch, end_offset=end)
                return answer
        if not partition.log_start_offset <= entry.fetch_offset <= partition.high_watermark:
            return _out_of_range(answer)
        return answer

    def _refusal(self, entry: SessionPartition, error: Refused | None) -> PartitionData:
        """The answer of a partition that is not here. Without an error it went away while others were loaded."""
        self._is_urgent = True
        answer = _error(entry, ErrorCode.NOT_LEADER_OR_FOLLOWER if error is None else error.code)
        answer.aborted_transactions = _NOTHING  # as Kafka has it: null in the errors of partitions that are here
        return answer

    # -- between attempts --------------------------------------------------------------------------------------------

    def _conclude(self) -> Coroutine[Any, Any, None] | None:
        """Answer, or wait for what is missing; a coroutine is the rest of a long answer."""
        if self._reply.is_abandoned:
            return None
        session = self._session
        missing = self._min_bytes - self._available_bytes
        if (
            missing <= 0
            or self._is_urgent
            or self._request.max_wait_ms <= 0
            or not session.partitions
            or session.is_closed
            or session.epoch != self._epoch
            or self.is_due
            or not self._may_wait()
        ):
            if len(self._answers) > ITEMS_AT_ONCE:
                return self._answer_in_turns()
            self._answer()
            return None
        self._listen()
        if self._reply.timing is not None:
            self._reply.timing.park()
        self.wait(missing)
        return None

    def _may_wait(self) -> bool:
        """Sessions remember so many partitions together, and a request without one that waits is as large."""
        if not self._is_waiting and self._session.id == NO_SESSION:
            self._is_waiting = self._ctx.broker.fetch_sessions.may_wait(self._session)
            return self._is_waiting
        return True

    def _listen(self) -> None:
        """Hear of what happens to the partitions from now on, and of the connection's end."""
        if not self._is_listening:
            self._is_listening = True
            self._deadlines.add(self, self._start_s, self._request.max_wait_ms)
            self._session.arm()
            self._session.parked = self
            self._reply.on_abandon = self._on_abandon

    def on_wake(self) -> None:
        if self._reply.timing is not None:
            self._reply.timing.unpark()
        try:
            remaining = self._attempt()
        except Exception:
            self._fail()
            return
        if remaining is not None:
            self._task = self._deadlines.loop.create_task(self._finish(remaining))

    async def _finish(self, remaining: Coroutine[Any, Any, None]) -> None:
        if self._reply.timing is not None:
            current.TIMING.set(self._reply.timing)
        try:
            await remaining
        except Exception:
            self._fail()

    def _fail(self) -> None:
        who, client_id = self._ctx.connection, self._ctx.header.client_id
        found = dict.fromkeys(entry.partition.topic.name for entry in getattr(self, "_answers", ()) if entry.partition)
        extra = {
            "connection": who.id,
            "peer": who.host,
            "client_id": client_id,
            "principal": who.principal,
            "topics": few(found, len(found)),
        }
        logger.exception("fetch failed", extra=extra)
        self._leave()
        if not self._reply.is_sent:
            self._reply.send(FetchResponse(error_code=ErrorCode.UNKNOWN_SERVER_ERROR))

    def _on_abandon(self) -> None:
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def _leave(self) -> None:
        """Wait for nothing any more; a session that only this request had ends with it."""
        session = self._session
        if self._is_listening:
            self.cancel()
            if session.parked is self:
                session.parked = None
        if self._is_waiting:
            self._is_waiting = False
            self._ctx.broker.fetch_sessions.waited(session)
        if session.id == NO_SESSION:
            session.close()

    # -- the answer --------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        session = self._session
        if self._is_incremental and not self._answers and session.epoch == self._epoch:
            self._leave()
            self._reply.send_encoded(session.no_news(self._ctx.version))
            return
        if not self._may_be_sent():
            return
        self._admit()
        news = self._news_of(self._answers.items())
        if self._is_remembered:
            self._settle(self._answers.items())
        self._send(news)

    async def _answer_in_turns(self) -> None:
        """The same for very many partitions."""
        if not self._may_be_sent():
            return
        self._admit()
        news: dict[str | UUID, list[PartitionData]] = {}
        async for some in self._ctx.broker.turns.parts(list(self._answers.items())):
            for topic_key, answers in self._news_of(some).items():
                news.setdefault(topic_key, []).extend(answers)
            if self._is_remembered:
                self._settle(some)
        if not self._reply.is_abandoned:
            self._send(news)

    def _may_be_sent(self) -> bool:
        """Does the client's quota allow what has been read? If not, the answer has none of it, and the session stays."""
        limits = self._ctx.limits
        if limits is None or limits.fetch is None:
            return True
        size = sum(
            len(batch)
            for answer in self._answers.values()
            if answer.records
            for batch in cast(list[bytes], answer.records)
        )
        if not size:
            return True
        self._throttle_ms, is_sent = self._ctx.broker.quotas.fetched(limits.fetch, size)
        if not is_sent:
            self._send({})
        return is_sent

    def _admit(self) -> None:
        """Make a session of it, if the client wants one and there is room."""
        wants_session = not self._is_incremental and self._request.session_epoch == INITIAL_EPOCH
        if wants_session and self._ctx.version >= _FIRST_VERSION_WITH_SESSIONS:
            broker, session = self._ctx.broker, self._session
            if not broker.fetch_sessions.admit(session, broker.clock.steady_ms()) and session.partitions:
                slots = broker.config.max_incremental_fetch_session_cache_slots
                self._reply.note("no fetch session", f"max.incremental.fetch.session.cache.slots = {slots}")

    @property
    def _is_remembered(self) -> bool:
        """Will the session's next request go on from this answer?"""
        session = self._session
        return session.id != NO_SESSION and (not self._is_incremental or session.epoch == self._epoch)

    def _news_of(
        self, answers: Iterable[tuple[SessionPartition, PartitionData]]
    ) -> dict[str | UUID, list[PartitionData]]:
        """What is to be said, by topic: in an incremental answer not that of which all has been said."""
        news: dict[str | UUID, list[PartitionData]] = {}
        for entry, answer in answers:
            if not self._is_incremental or _is_news(entry, answer):
                news.setdefault(entry.topic_key, []).append(answer)
        return news

    def _send(self, news: Mapping[str | UUID, Sequence[PartitionData]]) -> None:
        if self._is_incremental and self._session.epoch != self._epoch:
            response = FetchResponse(error_code=ErrorCode.INVALID_FETCH_SESSION_EPOCH)
            response.throttle_time_ms = self._throttle_ms
        else:
            if news and self._records.is_counted:
                count_read(self._answers)
            response = self._response(news)
            if not self._is_urgent:
                self._reply.error_code = 0
        self._leave()
        self._reply.send(response)

    def _settle(self, answers: Iterable[tuple[SessionPartition, PartitionData]]) -> None:
        """Remember what is said, and keep as ready what will have news again without anything happening to it."""
        ready = self._session.ready
        for entry, answer in answers:
            if answer.error_code:
                entry.said_high_watermark = -1
                continue
            entry.said_high_watermark = answer.high_watermark
            entry.said_log_start = answer.log_start_offset
            partition = entry.partition
            if partition is None or answer.diverging_epoch.end_offset >= 0:
                continue
            end = partition.last_stable_offset if self._is_committed else partition.high_watermark
            if entry.fetch_offset >= end:
                has_changed = partition.high_watermark != answer.high_watermark
                if partition.log_start_offset == answer.log_start_offset and not has_changed:
                    ready.pop(entry, None)
            elif answer.records and ready.pop(entry, False) is None:
                ready[entry] = None

    def _response(self, news: Mapping[str | UUID, Sequence[PartitionData]]) -> FetchResponse:
        response = FetchResponse(
            throttle_time_ms=self._throttle_ms,
            session_id=self._session.id,
            responses=[
                FetchableTopicResponse(topic=key, partitions=partitions)
                if isinstance(key, str)
                else FetchableTopicResponse(topic_id=key, partitions=partitions)
                for key, partitions in news.items()
            ],
        )
        if self._names_leader and self._ctx.version >= _FIRST_VERSION_WITH_NODE_ENDPOINTS:
            host, port = self._ctx.broker.advertised(self._ctx.connection)
            response.node_endpoints = (NodeEndpoint(node_id=self._ctx.broker.node_id, host=host, port=port),)
        return response


def _aborted(found: Sequence[aborted.AbortedTransaction]) -> tuple[AbortedTransaction, ...]:
    return tuple(AbortedTransaction(producer_id=producer_id, first_offset=first) for producer_id, first in found)


def _is_news(entry: SessionPartition, answer: PartitionData) -> bool:
    """An incremental answer leaves out the partitions of which all has been said."""
    return bool(
        answer.records
        or answer.error_code
        or answer.high_watermark != entry.said_high_watermark
        or answer.log_start_offset != entry.said_log_start
        or answer.diverging_epoch.end_offset >= 0
    )


def _error(entry: SessionPartition, code: int) -> PartitionData:
    return PartitionData(partition_index=entry.index, error_code=code, high_watermark=-1, records=b"")


def _out_of_range(answer: PartitionData) -> PartitionData:
    """The error, in an answer that says where the log is."""
    answer.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
    answer.aborted_transactions = None
    return answer


def _fill(answer: PartitionData, batches: Sequence[bytes], budget: int, is_first: bool, stop: int | None) -> int:
    """Give the answer the batches that fit, all below offset `stop`; returns their size."""
    kept: list[bytes] = []
    size = 0
    for batch in batches:
        if size + len(batch) > budget and (kept or not is_first):
            break
        if stop is not None and int.from_bytes(batch[:8], "big", signed=True) >= stop:
            break
        kept.append(batch)
        size += len(batch)
    if kept:
        answer.records = kept
    return size


def _available(answer: PartitionData, size: int, budget: int, end: int) -> int:
    """How many bytes below offset `end` a partition has for its reader, of whom no more than `budget` count.

    The answer holds `size` of them in whole batches. Where more follow, the next batch did not fit.
    """
    if size >= budget:
        return size
    if size:
        last = cast(list[bytes], answer.records)[-1]
        (base_offset,), (delta,) = _INT64.unpack_from(last), _INT32.unpack_from(last, _LAST_OFFSET_DELTA_AT)
        if base_offset + delta + 1 >= end:
            return size
    return budget
