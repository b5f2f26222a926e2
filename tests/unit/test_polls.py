"""Polls of a fetch session without news: those that come again are answered as the first one was, whatever happens."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from tests.unit.event_loop import StillLoop

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.context import Broker, Context, LogDir
from pg_kafka.broker.doors import Doors, House
from pg_kafka.broker.fetch_sessions import FetchSessions
from pg_kafka.broker.handlers.fetch import fetch, recurrent
from pg_kafka.broker.permission import Authorizer
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.waiters import Deadlines
from pg_kafka.config import Config
from pg_kafka.config.settings import Settings
from pg_kafka.storage.partition import Partition
from pg_kafka.storage.tail import TailCache
from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader, decode_request_header, encode_request_header, response_frame
from pg_kafka.wire.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic

FETCH = 1
WAIT_MS = 500
TOPIC_ID = UUID(int=7)
VERSIONS_WITH_SESSIONS = range(7, 19)
RECORDS = struct.pack(">qi", 0, 88) + bytes(88)


class World:
    """A broker with a topic of two partitions, and connections that know what they were asked last."""

    def __init__(self, version: int = 12, authorizer: Authorizer | None = None) -> None:
        self.version = version
        self.loop = StillLoop()
        topic = SimpleNamespace(id=1, name="t", partitions=2, series=0)
        tails = TailCache(1 << 20)
        self.partitions = [Partition(cast(Any, topic), index, 0, tails) for index in range(2)]
        log = SimpleNamespace(
            partition=lambda _, index: self.partitions[index],
            read_tail=lambda partition, offset, most: partition.tail.read(offset, most),
            is_counted=False,
        )
        ids = iter(range(1, 100))
        self.sessions = FetchSessions(10, lambda: next(ids))
        deadlines = Deadlines(cast(Any, self.loop))
        self.topics: Any = SimpleNamespace(by_name={"t": topic}, by_uuid={TOPIC_ID: topic})
        self.house = House(
            topics=self.topics,
            log=cast(Any, log),
            groups=cast(Any, None),
            transactions=cast(Any, None),
            on_change=deadlines.wake_all,
            authorizer=authorizer,
        )
        self.broker = Broker(
            settings=Settings(Config()),
            node_id=1,
            epoch=0,
            cluster_id="cluster",
            records=cast(Any, log),
            fetch_sessions=self.sessions,
            versions=(),
            clock=cast(Any, SimpleNamespace(steady_ms=lambda: int(self.loop.time() * 1000))),
            log_dir=LogDir("here", lambda: None),
            decoding=cast(Any, None),
            deadlines=deadlines,
        )

    def append(self, index: int) -> None:
        partition = self.partitions[index]
        offset = partition.high_watermark
        partition.tail.append(offset, offset, struct.pack(">q", offset) + RECORDS[8:])
        partition.high_watermark += 1
        for waiter in list(partition.waiters):
            waiter.on_advance(partition, len(RECORDS))

    def sleep(self, seconds: float) -> None:
        self.loop.run_until(self.loop.time() + seconds)

    def request(self, *offsets: int, session: tuple[int, int] = (0, 0), **fields: Any) -> FetchRequest:
        rows = [
            FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=1000)
            for index, offset in enumerate(offsets)
        ]
        return FetchRequest(
            **{"max_wait_ms": WAIT_MS, "min_bytes": 1, "max_bytes": 10_000, "isolation_level": 1} | fields,
            session_id=session[0],
            session_epoch=session[1],
            topics=[FetchTopic(topic="t", topic_id=TOPIC_ID, partitions=rows)] if rows else [],
        )


class Peer:
    """A connection: it tries what the last request left behind, then decodes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.info = ConnectionInfo(1, ("", 0), ("", 0))
        self.doors = Doors(world.house, self.info)
        self.recurrent: Any = None
        self.was_recurrent = False
        self.frames: list[bytes] = []
        self.reply: Any = None
        self.correlation_id = 0

    def complete(self, reply: Reply, message: Any | None) -> None:
        header = reply.header
        if message is not None:
            body = codec.encode_response(message, FETCH, header.api_version)
            reply.parts = response_frame(header.correlation_id, FETCH, header.api_version, body)
        self.frames.append(b"".join(reply.parts))

    def fail(self, reason: str) -> None:
        raise AssertionError(reason)

    def note(self, message: str, reason: str, kind: str, level: int) -> None:
        raise AssertionError(message)

    def refused_by(self, setting: str) -> None:
        raise AssertionError(setting)

    def ask(self, request: FetchRequest) -> None:
        self.correlation_id += 1
        version = self.world.version
        head = encode_request_header(RequestHeader(FETCH, version, self.correlation_id, "peer"))
        frame = head + b"".join(codec.encode_request(request, FETCH, version))
        again = self.recurrent and self.recurrent.come_again(frame, self)
        self.was_recurrent = bool(again)
        if again:
            self.reply = again
            self.recurrent.start()
            return
        header, offset = decode_request_header(frame)
        context = Context(self.world.broker, self.doors, header, self.info)
        decoded = codec.decode_request(FETCH, version, frame, offset)
        self.reply = Reply(self, header, len(frame), len(frame))
        assert fetch(context, decoded, self.reply) is None
        self.recurrent = recurrent(context, decoded, frame, offset)

    @property
    def answer(self) -> FetchResponse:
        """The only one that has come since the last."""
        [frame] = self.frames
        self.frames.clear()
        flexible = self.world.version >= 12
        assert struct.unpack_from(">ii", frame) == (len(frame) - 4, self.correlation_id)
        return cast(FetchResponse, codec.decode_response(FETCH, self.world.version, frame, 9 if flexible else 8))

    def open(self, **fields: Any) -> int:
        """A session of both partitions in which two polls have ended without news: further ones are recurrent."""
        self.ask(self.world.request(0, 0, **fields | {"max_wait_ms": 0}))
        session_id = self.answer.session_id
        for epoch in (1, 2):
            self.ask(self.world.request(session=(session_id, epoch), **fields))
            assert self.was_recurrent == (epoch == 2)
            self.world.sleep(1)
            assert self.answer == FetchResponse(session_id=session_id)
        return session_id


@pytest.mark.parametrize("version", VERSIONS_WITH_SESSIONS)
def test_a_poll_that_comes_again_gets_the_same_bytes(version: int) -> None:
    world = World(version)
    peer = Peer(world)
    session_id = peer.open()
    frames = []
    for epoch, is_ordinary in ((3, True), (4, False)):
        if is_ordinary:
            peer.recurrent = None
        peer.ask(world.request(session=(session_id, epoch)))
        assert peer.was_recurrent != is_ordinary
        assert peer.frames == []
        world.sleep(0.999 * WAIT_MS / 1000)
        assert peer.frames == []
        world.sleep(0.01)
        frames.append(peer.frames[0])
        assert peer.answer == FetchResponse(session_id=session_id)
    assert [frame[4:8] for frame in frames] == [struct.pack(">i", number) for number in (4, 5)]
    assert frames[0][:4] + frames[0][8:] == frames[1][:4] + frames[1][8:]


@pytest.mark.parametrize("version", VERSIONS_WITH_SESSIONS)
def test_a_record_ends_a_poll_that_came_again(version: int) -> None:
    world = World(version)
    peer = Peer(world)
    session_id = peer.open()
    peer.ask(world.request(session=(session_id, 3)))
    assert peer.was_recurrent
    world.append(1)
    world.loop.turn()
    [topic] = peer.answer.responses
    [partition] = topic.partitions
    assert (partition.partition_index, partition.high_watermark, bytes(partition.records)) == (1, 1, RECORDS)
    # Its client has not moved on: the records are there at once, which is not for a recurrent poll to say.
    peer.ask(world.request(session=(session_id, 4)))
    assert not peer.was_recurrent
    assert len(peer.answer.responses) == 1


def test_a_record_between_two_polls_is_told_at_once() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    world.append(0)
    peer.ask(world.request(session=(session_id, 3)))
    assert not peer.was_recurrent
    assert len(peer.answer.responses) == 1


def test_less_than_min_bytes_is_told_at_the_end_of_the_wait() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open(min_bytes=2 * len(RECORDS))
    peer.ask(world.request(session=(session_id, 3), min_bytes=2 * len(RECORDS)))
    assert peer.was_recurrent
    world.append(0)
    world.sleep(0.9 * WAIT_MS / 1000)
    assert peer.frames == []
    world.sleep(0.11 * WAIT_MS / 1000)
    assert len(peer.answer.responses) == 1


def test_min_bytes_may_come_in_two_partitions() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open(min_bytes=2 * len(RECORDS))
    peer.ask(world.request(session=(session_id, 3), min_bytes=2 * len(RECORDS)))
    world.append(0)
    world.append(1)
    world.loop.turn()
    assert len(peer.answer.responses[0].partitions) == 2


def test_a_partition_that_goes_wakes_the_poll() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    peer.ask(world.request(session=(session_id, 3)))
    world.topics.by_name.clear()
    world.partitions[0].close()
    world.loop.turn()
    assert peer.answer.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("by", ["recurrent", "ordinary"])
def test_a_second_request_of_the_session_ends_the_first(by: str) -> None:
    world = World()
    first, second = Peer(world), Peer(world)
    session_id = first.open()
    second.recurrent = recurrent_of(second, session_id) if by == "recurrent" else None
    first.ask(world.request(session=(session_id, 3)))
    assert first.was_recurrent
    second.ask(world.request(session=(session_id, 4)))
    assert second.was_recurrent == (by == "recurrent")
    world.loop.turn()
    assert first.answer.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert second.frames == []
    world.append(0)
    world.loop.turn()
    assert len(second.answer.responses) == 1


def recurrent_of(peer: Peer, session_id: int) -> Any:
    """What another connection's poll of the session would have left there."""
    request = peer.world.request(session=(session_id, 1))
    head = encode_request_header(RequestHeader(FETCH, peer.world.version, 1, "peer"))
    frame = head + b"".join(codec.encode_request(request, FETCH, peer.world.version))
    header, offset = decode_request_header(frame)
    return recurrent(Context(peer.world.broker, peer.doors, header, peer.info), request, frame, offset)


def test_another_epoch_or_session_is_refused() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    polls = peer.recurrent
    for session, code in (
        ((session_id, 2), ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        ((session_id, 5), ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        ((session_id + 1, 3), ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
    ):
        peer.recurrent = polls
        peer.ask(world.request(session=session))
        assert not peer.was_recurrent
        assert peer.answer.error_code == code
    peer.recurrent = polls
    world.sessions.remove(session_id)
    peer.ask(world.request(session=(session_id, 3)))
    assert peer.answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_a_session_that_is_evicted_ends_its_poll() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    peer.ask(world.request(session=(session_id, 3)))
    world.sessions.remove(session_id)
    world.loop.turn()
    assert peer.answer.session_id == session_id
    assert len(world.broker.deadlines) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"max_wait_ms": WAIT_MS + 1},
        {"min_bytes": 2},
        {"max_bytes": 9_999},
        {"isolation_level": 0},
        {"rack_id": "elsewhere"},
        {"forgotten_topics_data": [ForgottenTopic(topic="t", partitions=[1])]},
        {"topics": [FetchTopic(topic="t", partitions=[FetchPartition(partition=0, partition_max_bytes=10)])]},
    ],
)
def test_a_poll_that_asks_for_anything_else_is_not_the_same(change: dict[str, Any]) -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    request = world.request(session=(session_id, 3))
    for name, value in change.items():
        setattr(request, name, value)
    peer.ask(request)
    assert not peer.was_recurrent
    world.sleep(1)
    assert peer.answer.error_code == 0


@pytest.mark.parametrize("fields", [{"max_wait_ms": 0}, {"min_bytes": 0}, {"max_bytes": 0}])
def test_a_poll_that_does_not_wait_is_answered_at_once(fields: dict[str, int]) -> None:
    world = World()
    peer = Peer(world)
    peer.ask(world.request(0, 0))
    world.sleep(1)
    session_id = peer.answer.session_id
    for epoch in (1, 2, 3):
        peer.ask(world.request(session=(session_id, epoch), **fields))
        assert not peer.was_recurrent
        assert peer.answer.error_code == 0


def test_a_connection_that_goes_leaves_nothing_behind() -> None:
    world = World()
    peer = Peer(world)
    session_id = peer.open()
    peer.ask(world.request(session=(session_id, 3)))
    assert len(world.broker.deadlines) == 1
    peer.reply.abandon()
    assert len(world.broker.deadlines) == 0
    world.append(0)
    world.sleep(1)
    assert peer.frames == []
    assert world.loop.is_idle
    # The session is another connection's to take up.
    other = Peer(world)
    other.ask(world.request(session=(session_id, 4)))
    assert len(other.answer.responses) == 1


class Switch:
    """An authorizer that allows everything until it does not."""

    allows_everything = False

    def __init__(self) -> None:
        self.is_allowing = True

    def allows(self, who: ConnectionInfo, *_: object) -> bool:
        return self.is_allowing and who.principal != "User:stranger"

    def allows_any(self, *_: object) -> bool:
        return self.is_allowing

    def decided(self, *_: object) -> dict[str, bool]:
        return {}


def codes(answer: FetchResponse) -> list[int]:
    return [one.error_code for topic in answer.responses for one in topic.partitions]


@pytest.mark.parametrize("kind", ["without a session", "first of a session", "of a session", "that comes again"])
def test_a_parked_poll_hears_that_it_may_not_read_any_more(kind: str) -> None:
    authorizer = Switch()
    world = World(authorizer=authorizer)
    peer = Peer(world)
    if kind == "without a session":
        peer.ask(world.request(0, 0, session=(0, -1)))
    elif kind == "first of a session":
        peer.ask(world.request(0, 0))
    else:
        session_id = peer.open()
        if kind == "of a session":
            peer.recurrent = None
        peer.ask(world.request(session=(session_id, 3)))
        assert peer.was_recurrent == (kind == "that comes again")
    assert peer.frames == []
    authorizer.is_allowing = False
    world.house.changed()
    world.loop.turn()
    assert codes(peer.answer) == [ErrorCode.TOPIC_AUTHORIZATION_FAILED] * 2


def test_a_poll_that_comes_again_is_asked_for_its_permission_when_that_has_changed() -> None:
    authorizer = Switch()
    world = World(authorizer=authorizer)
    peer = Peer(world)
    session_id = peer.open()
    authorizer.is_allowing = False
    world.house.changed()
    peer.ask(world.request(session=(session_id, 3)))
    assert not peer.was_recurrent
    assert codes(peer.answer) == [ErrorCode.TOPIC_AUTHORIZATION_FAILED] * 2
    # It goes on as soon as it may.
    authorizer.is_allowing = True
    world.house.changed()
    world.append(1)
    peer.ask(world.request(session=(session_id, 4)))
    assert codes(peer.answer) == [0, 0]


def test_a_change_that_leaves_a_poll_as_it_is_leaves_it_parked() -> None:
    world = World(authorizer=Switch())
    peer = Peer(world)
    session_id = peer.open()
    peer.ask(world.request(session=(session_id, 3)))
    assert peer.was_recurrent
    world.house.changed()
    world.loop.turn()
    assert peer.frames == []
    world.sleep(1)
    assert peer.answer == FetchResponse(session_id=session_id)


@pytest.mark.parametrize("by", ["recurrent", "ordinary"])
def test_a_session_gives_a_stranger_nothing(by: str) -> None:
    world = World(authorizer=Switch())
    first, stranger = Peer(world), Peer(world)
    stranger.info.principal = "User:stranger"
    session_id = first.open()
    stranger.recurrent = recurrent_of(stranger, session_id) if by == "recurrent" else None
    world.append(0)
    stranger.ask(world.request(session=(session_id, 3)))
    assert not stranger.was_recurrent
    assert codes(stranger.answer) == [ErrorCode.TOPIC_AUTHORIZATION_FAILED] * 2
    # Whose session it is goes on with it.
    first.ask(world.request(session=(session_id, 4)))
    assert codes(first.answer) == [0, 0]
