"""Fetch sessions (KIP-227): what a consumer fetches, remembered between its requests.

A session knows for each of its partitions where to read and what was last said about it. Beyond Kafka's it also keeps
`ready`, the partitions that may have news: those a request has just named, those that have grown, those that still have
data or an error. So an incremental fetch costs what has happened, not what it subscribes to. Partitions tell their
sessions by `on_advance`, which only marks; whoever is parked on the session is told through `parked`.

No clock, no tasks, no sockets: times and ids arrive as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.fetch import FetchResponse

if TYPE_CHECKING:
    from pg_kafka.storage.partition import Partition
    from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic

FETCH_KEY = 1
NO_SESSION = 0
INITIAL_EPOCH = 0
FINAL_EPOCH = -1
_LAST_EPOCH = 2**31 - 1

EVICTION_MS = 120_000
"""Kafka's min.incremental.fetch.session.eviction.ms: unused for longer, a session may be evicted by any other."""

MAX_PARTITIONS = 1_000_000
"""Partitions in all sessions together; what would go beyond is answered without a session, and at once."""

PartitionKey = tuple[str | UUID, int]


class Parked(Protocol):
    """A fetch that waits on a session."""

    def on_news(self, bytes_added: int) -> None:
        """A partition has grown by this many bytes."""

    def wake(self) -> None:
        """Something else than growth: a partition or the session has gone."""


class FetchSessionError(Exception):
    """The request does not fit its session; `code` answers the whole request."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class SessionPartition:
    """One partition of a session; it is the `Waiter` that the partition's lane calls."""

    __slots__ = (
        "current_leader_epoch",
        "fetch_offset",
        "index",
        "last_fetched_epoch",
        "max_bytes",
        "partition",
        "said_high_watermark",
        "said_log_start",
        "session",
        "topic_key",
    )

    def __init__(self, session: FetchSession, topic_key: str | UUID, index: int) -> None:
        self.session = session
        self.topic_key = topic_key
        self.index = index
        self.partition: Partition | None = None
        self.said_high_watermark = -1
        self.said_log_start = -1

    def update(self, asked: FetchPartition) -> None:
        """Take over what a request asks of the partition."""
        self.fetch_offset = asked.fetch_offset
        self.max_bytes = asked.partition_max_bytes
        self.current_leader_epoch = asked.current_leader_epoch
        self.last_fetched_epoch = asked.last_fetched_epoch

    def bind(self, partition: Partition) -> None:
        """The partition has been found and loaded."""
        self.partition = partition
        if self.session.is_armed:
            partition.waiters.add(self)

    def unbind(self) -> None:
        """Forget the partition; it is looked up again when needed."""
        if self.partition is not None:
            self.partition.waiters.discard(self)
            self.partition = None

    def on_advance(self, partition: Partition, bytes_added: int) -> None:
        session = self.session
        session.ready[self] = None
        if session.parked is not None:
            session.parked.on_news(bytes_added)

    def on_start_moved(self, partition: Partition) -> None:
        session = self.session
        session.ready[self] = None
        # Where the log begins is told with the next answer; that the reader stands before it is told at once.
        if session.parked is not None and self.fetch_offset < partition.log_start_offset:
            session.parked.wake()

    def on_closed(self, partition: Partition) -> None:
        self.partition = None
        session = self.session
        session.ready[self] = None
        if session.parked is not None:
            session.parked.wake()


class FetchSession:
    """The partitions of one consumer. `id` is 0 until the cache takes it; without an id it lives for one request."""

    __slots__ = (
        "_no_news",
        "created_ms",
        "epoch",
        "generation",
        "id",
        "is_armed",
        "is_closed",
        "last_used_ms",
        "parked",
        "partitions",
        "ready",
        "seen_by",
        "uses_topic_ids",
    )

    def __init__(self, uses_topic_ids: bool) -> None:
        self.seen_by: object = None  # for whom its partitions were found (`Doors.viewer`): others look again
        self.generation = 0  # of the doors then
        self.id = NO_SESSION
        self.epoch = INITIAL_EPOCH
        self.uses_topic_ids = uses_topic_ids
        self.partitions: dict[PartitionKey, SessionPartition] = {}
        self.ready: dict[SessionPartition, None] = {}
        self.parked: Parked | None = None
        self.is_armed = False
        self.is_closed = False
        self.created_ms = 0
        self.last_used_ms = 0
        self._no_news: tuple[int, bytes] = (-1, b"")

    def no_news(self, version: int) -> bytes:
        """The body of an answer that says nothing about any partition: always the same."""
        if self._no_news[0] != version:
            parts = codec.encode_response(FetchResponse(session_id=self.id), FETCH_KEY, version)
            self._no_news = (version, b"".join(parts))
        return self._no_news[1]

    def update(self, request: FetchRequest) -> None:
        """Add or change the partitions that the request names, then drop those it forgets."""
        for topic in request.topics:
            self.add(topic, topic.partitions)
        for forgotten in request.forgotten_topics_data:
            self.forget(forgotten, forgotten.partitions)

    def add(self, topic: FetchTopic, some: Iterable[FetchPartition]) -> None:
        """Add or change some of the partitions that a request names of a topic; the last one counts that is named twice."""
        partitions, ready = self.partitions, self.ready
        topic_key: str | UUID = topic.topic_id if self.uses_topic_ids else topic.topic
        for asked in some:
            key = (topic_key, asked.partition)
            entry = partitions.get(key)
            if entry is None:
                entry = partitions[key] = SessionPartition(self, topic_key, asked.partition)
            entry.update(asked)
            ready[entry] = None

    def forget(self, topic: ForgottenTopic, some: Iterable[int]) -> None:
        """Drop some of the partitions that a request forgets of a topic."""
        topic_key: str | UUID = topic.topic_id if self.uses_topic_ids else topic.topic
        for index in some:
            gone = self.partitions.pop((topic_key, index), None)
            if gone is not None:
                self.ready.pop(gone, None)
                gone.unbind()

    def look_again(self, seen_by: object, generation: int) -> None:
        """What partitions were found may be wrong, or not for this client: all of them may have news."""
        self.seen_by = seen_by
        self.generation = generation
        self.ready = dict.fromkeys(self.partitions.values())

    def arm(self) -> None:
        """From now on hear of all that happens to the partitions."""
        if not self.is_armed:
            self.is_armed = True
            for entry in self.partitions.values():
                if entry.partition is not None:
                    entry.partition.waiters.add(entry)

    def close(self) -> None:
        """Leave all partitions, and wake who is parked here: nobody else would."""
        self.is_armed = False
        self.is_closed = True
        for entry in self.partitions.values():
            entry.unbind()
        # They lead back here: let them go without a garbage collection.
        self.partitions = {}
        self.ready = {}
        if self.parked is not None:
            self.parked.wake()


class FetchSessions:
    """The cache of sessions, bounded like Kafka's.

    A new session may take the place of one that has been idle for two minutes, or of a smaller one that has had its
    place for two minutes. Else it gets none, and its client goes on with full requests.
    """

    def __init__(self, slots: int, new_id: Callable[[], int]) -> None:
        self._slots = slots
        self._new_id = new_id  # a positive random int32
        self._sessions: dict[int, FetchSession] = {}  # least recently used first
        self._sizes: dict[int, int] = {}  # partitions, as counted in _total
        self._total = 0
        self._waiting = 0  # partitions of sessions without an id whose one request waits

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def partition_count(self) -> int:
        """Partitions in all sessions."""
        return self._total

    def open(self, request: FetchRequest, uses_topic_ids: bool, steady_ms: int) -> FetchSession:
        """The session in which this request is to be answered, brought up to date. Raises FetchSessionError.

        One whose id is 0 is not in the cache: offer it to `admit` if the client wants a session, else close it.
        """
        session = self.find(request, uses_topic_ids, steady_ms)
        session.update(request)
        return self.opened(session)

    def find(self, request: FetchRequest, uses_topic_ids: bool, steady_ms: int) -> FetchSession:
        """`open` begins so: the session, to be brought up to date with what the request names. Raises FetchSessionError."""
        if request.session_epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            if request.session_id != NO_SESSION:
                self.remove(request.session_id)
            return FetchSession(uses_topic_ids)
        session = self._sessions.get(request.session_id)
        if session is None:
            raise FetchSessionError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != request.session_epoch:
            raise FetchSessionError(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if session.uses_topic_ids != uses_topic_ids:
            raise FetchSessionError(ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        session.epoch = 1 if session.epoch == _LAST_EPOCH else session.epoch + 1
        self._touch(session, steady_ms)
        return session

    def opened(self, session: FetchSession) -> FetchSession:
        """`open` ends so: what `find` gave is up to date. Raises FetchSessionError."""
        if session.id == NO_SESSION or session.is_closed:  # the latter by another request, while this one was read
            return session
        self._count(session)
        if not session.partitions:
            self.remove(session.id)
            return FetchSession(session.uses_topic_ids)
        if self._total > MAX_PARTITIONS:
            self.remove(session.id)
            raise FetchSessionError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        return session

    def unchanged(
        self, session_id: int, epoch: int, uses_topic_ids: bool, steady_ms: int, seen_by: object, generation: int
    ) -> FetchSession | None:
        """The session for a request that names nothing, if that is in order and no partition may have news."""
        session = self._sessions.get(session_id)
        if (
            session is None
            or session.epoch != epoch
            or epoch == _LAST_EPOCH
            or session.uses_topic_ids != uses_topic_ids
            or session.ready
            or session.seen_by is not seen_by
            or session.generation != generation
            or self._total > MAX_PARTITIONS
        ):
            return None
        session.epoch = epoch + 1
        self._touch(session, steady_ms)
        return session

    def admit(self, session: FetchSession, steady_ms: int) -> bool:
        """Give the session an id and a place, if there is one."""
        size = len(session.partitions)
        if not size or self._total + size > MAX_PARTITIONS:
            return False
        if len(self._sessions) >= self._slots and not self._evict(size, steady_ms):
            return False
        session_id = self._new_id()
        while session_id in self._sessions or session_id == NO_SESSION:
            session_id = self._new_id()
        session.id = session_id
        session.epoch = INITIAL_EPOCH + 1
        session.created_ms = session.last_used_ms = steady_ms
        session.arm()
        self._sessions[session_id] = session
        self._count(session)
        return True

    def may_wait(self, session: FetchSession) -> bool:
        """May the request wait that a session without an id is for? Then `waited` is called when it has."""
        size = len(session.partitions)
        if self._total + self._waiting + size > MAX_PARTITIONS:
            return False
        self._waiting += size
        return True

    def waited(self, session: FetchSession) -> None:
        self._waiting -= len(session.partitions)

    def remove(self, session_id: int) -> None:
        """Close a session, if there is one with this id."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._total -= self._sizes.pop(session_id)
            session.close()

    def clear(self) -> None:
        """Close all sessions."""
        for session_id in list(self._sessions):
            self.remove(session_id)

    def _count(self, session: FetchSession) -> None:
        size = len(session.partitions)
        self._total += size - self._sizes.get(session.id, 0)
        self._sizes[session.id] = size

    def _touch(self, session: FetchSession, steady_ms: int) -> None:
        session.last_used_ms = steady_ms
        del self._sessions[session.id]
        self._sessions[session.id] = session

    def _evict(self, new_size: int, steady_ms: int) -> bool:
        """Make room for a session of `new_size` partitions, if the rules allow it."""
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None:
            return False
        if steady_ms - oldest.last_used_ms > EVICTION_MS:
            self.remove(oldest.id)
            return True
        smallest = self._smallest(s for s in self._sessions.values() if steady_ms - s.created_ms > EVICTION_MS)
        if smallest is None or len(smallest.partitions) >= new_size:
            return False
        self.remove(smallest.id)
        return True

    @staticmethod
    def _smallest(sessions: Iterable[FetchSession]) -> FetchSession | None:
        return min(sessions, key=lambda session: len(session.partitions), default=None)
