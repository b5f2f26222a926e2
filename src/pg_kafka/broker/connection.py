"""One client connection: bytes to requests, requests to handlers, replies back in order.

A request is started when the one before it has been answered, or, after a pipelined one (Produce), when its handler has
returned. Nothing new is started while the peer does not read its answers, or is muted for its quotas. What the peer can
grow is bounded: the frame, the bytes of requests in flight here and over all connections, the requests waiting their
turn. A frame that cannot be understood, an API that is not served and a handler's failure that has no answer close the
connection with a log line.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol, cast
from uuid import UUID

from pg_kafka.broker import throttling
from pg_kafka.broker.api import Api, Handler, HotHandler, Recurrent
from pg_kafka.broker.authentication import SaslRules
from pg_kafka.broker.budget import RESERVE_BYTES, RequestBudget
from pg_kafka.broker.client import ConnectionInfo, Kind
from pg_kafka.broker.context import Broker, Context
from pg_kafka.broker.doors import Doors, House
from pg_kafka.broker.entrance import Entrance
from pg_kafka.broker.freed_memory import FreedMemory
from pg_kafka.broker.meter import Meter
from pg_kafka.broker.notes import Notes
from pg_kafka.broker.observer import Observer
from pg_kafka.broker.quotas import Limits
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.request_figures import RequestFigures
from pg_kafka.broker.subjects import subjects_of
from pg_kafka.broker.turns import ITEMS_AT_ONCE
from pg_kafka.broker.work import Work
from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.listeners import Listener
from pg_kafka.errors import StorageError
from pg_kafka.metrics import current
from pg_kafka.metrics._requests import Timing, Watch
from pg_kafka.metrics.clients import ConnectionCounters
from pg_kafka.security.quotas import MAX_NAME_BYTES
from pg_kafka.security.sasl import HANDSHAKE
from pg_kafka.wire import codec, foreign
from pg_kafka.wire.codec import MalformedRequest, TooManyItems
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.first_error import first_error
from pg_kafka.wire.frames import FrameSplitter, RequestHeader, decode_request_header, response_frame
from pg_kafka.wire.messages import API_NAMES

logger = logging.getLogger(__name__)

NAMES = {key.attribute: key.name for key in BROKER_KEYS.values()}
# Requests and bytes that one connection may start before the others get their turn.
MAX_STARTS_PER_TURN = 16
MAX_BYTES_PER_TURN = 512 * 1024
# Answers of one turn go out together; one of this many bytes is worth a system call of its own, with those before it.
WRITE_NOW_BYTES = 16 * 1024
# A peer that did not read does again when it has left less than this share of what it may leave.
UNREAD_LOW_SHARE = 4
# In a request of somebody who has not said who it is.
STRANGERS_ITEMS = 1000
# Of a client's name in a log line.
MAX_SHOWN_CHARACTERS = 200
_NONE, _GONE = int(ErrorCode.NONE), int(ErrorCode.NETWORK_EXCEPTION)


class Owner(Protocol):
    """The server, as a connection sees it."""

    def admit(self, connection: Connection) -> str | None:
        """Take a new connection in, or say why not."""

    def remove(self, connection: Connection) -> None:
        """It is gone."""

    def principal_of(self, listener: Listener, certificate: bytes) -> str | None:
        """Who a client with this certificate is; None: nobody."""

    def write_soon(self, connection: Connection) -> None:
        """Call its `write_due` once everything has run that is due in this turn of the event loop."""


@dataclass(slots=True, kw_only=True)
class Shared:
    """What all connections of one server use together."""

    broker: Broker
    apis: Mapping[int, Api]
    house: House
    budget: RequestBudget
    freed_memory: FreedMemory
    notes: Notes
    work: Work
    observer: Observer | None
    figures: RequestFigures
    sasl: Mapping[str, SaslRules]  # by listener, of those with SASL
    counters: ConnectionCounters


class Connection(asyncio.Protocol):
    """The protocol object of one socket. All of it runs on the event loop's thread."""

    def __init__(self, owner: Owner, shared: Shared, connection_id: int, listener: Listener) -> None:
        self._owner = owner
        self._broker = broker = shared.broker
        self._apis = shared.apis
        self._budget = shared.budget
        self._topics = shared.house.topics
        self._freed_memory = shared.freed_memory
        self._notes = shared.notes
        self._work = shared.work
        self._figures = shared.figures
        self._answers = shared.figures.answers
        self._observer: Observer | None = None
        self._keeps_requests = False
        self._watch: Watch | None = None  # with an observer
        self._has_arrivals = False  # the watch was told when requests arrived
        self._until_timed = 0  # requests, until a frequent one is timed; 0: not known, below: each is
        self._timing: Timing | None = None  # of the frame that has been taken last, if it is timed
        self._loop = asyncio.get_running_loop()
        config = broker.config
        self._max_request_bytes = config.connection_request_bytes
        self._small_bytes = min(self._max_request_bytes, RESERVE_BYTES)
        self._max_queued_requests = config.connection_queued_requests
        self._max_unanswered_requests = config.connection_unanswered_requests
        self._splitter = FrameSplitter(config.socket_request_max_bytes)
        self._size_setting = "socket.request.max.bytes"
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._beginning: bytes | None = b""  # what came first, until it is seen to be Kafka's
        self._queue: deque[memoryview | bytes] = deque()  # frames not yet started
        self._replies: deque[Reply] = deque()  # of started requests, in order
        self._request_bytes = 0  # in _queue and _replies
        self._held_bytes = self._partial_bytes = 0  # as the budget counts them
        self._blocking: Reply | None = None  # the request that the next one waits for
        self._recurrent: Recurrent | None = None  # what the last request may come again as
        self._task_running = False  # a handler's awaitable that the next request waits for
        self._unwritten: list[bytes | memoryview] = []  # of replies whose turn has come
        self._is_starting = False  # inside _run: it goes on by itself
        self._turn_scheduled = False
        self._is_reading = True
        self._is_writing_paused = False
        self._is_draining = False
        self.is_closed = False
        self._quotas = broker.quotas
        self._is_muted = False  # nothing is read or started until a throttle time is over
        self._is_limited = False  # it has quotas: as little as may be is read ahead
        self._limited_as = ""  # the client id that has them
        self._refusal: str | None = None  # why it is closed when it is muted no more
        self._meter: Meter | None = None  # with a quota of the processor's time
        self.info = ConnectionInfo(connection_id, ("", 0), ("", 0), listener=listener)
        self._doors = Doors(shared.house, self.info)
        self._entrance: Entrance | None = None  # where it has to be said who comes
        self._open_until_s = inf  # frames that come later, and those that choose a mechanism, are the entrance's
        if (rules := shared.sasl.get(listener.name)) is not None:
            self._entrance = Entrance(rules, self, broker.audit, shared.work, shared.counters)
            self._open_until_s = -inf
            self._splitter.max_frame_bytes = rules.max_receive_bytes
            self._size_setting = "sasl.server.max.receive.size"
        self.descriptor = -1  # the number of the open file
        self.last_active = self._loop.time()
        self.frame_begun = 0.0  # when the half-sent frame began
        self.observe(shared.observer)

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.info.peer = _address(transport.get_extra_info("peername"))
        self.info.local = _address(transport.get_extra_info("sockname"))
        self.descriptor = transport.get_extra_info("socket").fileno()
        unread_bytes = self._broker.config.connection_unread_bytes
        self._transport.set_write_buffer_limits(high=unread_bytes, low=unread_bytes // UNREAD_LOW_SHARE)
        if (refusal := self._owner.admit(self)) is not None:
            self.close(refusal, level=logging.WARNING)
        elif self._entrance is not None and not self._is_muted:
            self._entrance.begin()

    def secured(self, certificate: bytes | None) -> None:
        """The handshake of TLS is over; the client's certificate in DER, if it has shown one."""
        if certificate is None or self.info.listener.protocol.has_sasl:
            return  # who it is will be said by SASL, or never
        principal = self._owner.principal_of(self.info.listener, certificate)
        if principal is None:
            self.close("no rule of ssl.principal.mapping.rules fits the client's certificate", level=logging.WARNING)
        else:
            self.info.principal, self.info.kind = principal, Kind.CERTIFICATE

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = self.info.is_closed = True
        self._owner.remove(self)
        if self._entrance is not None:
            self._entrance.end()
        self._queue.clear()
        replies, self._replies = self._replies, deque()
        for reply in replies:
            reply.abandon()
            if self._observer is not None:
                self._tell(self._observer, reply, 0, _GONE)
        self._timing = None
        self._charge(0, 0)
        self._budget.forget(self)
        if self._is_muted:
            self._quotas.muted.forget(self)
        if self._is_limited:
            self._quotas.limited.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self.last_active = self._loop.time()
        self._freed_memory.moved_bytes += len(data)
        if self._beginning is not None and self._is_foreign(data):
            return
        had_partial = self._splitter.buffered_bytes > 0
        try:
            frames = self._splitter.feed(data)
        except MalformedRequest as error:
            self._figures.refused[self._size_setting] += 1
            self.close(f"{error} ({self._size_setting})")
            return
        if len(frames) == 1 and not had_partial and self._comes_again(frames[0]):
            return
        is_alone = len(frames) == 1 and not self._queue  # most are, and start at once
        if frames:
            if self._watch is not None:
                if not is_alone:
                    self._arrive(self._watch, len(frames), len(self._queue))
                elif self._has_arrivals:
                    self._watch.forget()
                    self._has_arrivals = False
            self._queue.extend(frames)
            self._request_bytes += sum(map(len, frames))
            self._budget.frame_ended(self)
        if frames or not had_partial:
            self.frame_begun = self.last_active
        if self._entrance is not None and self._entrance.is_stranger and self._is_crowded(self._entrance):
            return
        if self._queue:
            self._run()
            if is_alone and self._queue and self._watch is not None:
                self._arrive(self._watch, 1, 0)
        self._update_reading()

    def _arrive(self, watch: Watch, frames: int, waiting: int) -> None:
        """Requests have come that do not start at once; so many have waited before."""
        watch.arrived(self.last_active, frames, waiting)
        self._has_arrivals = True

    def _is_foreign(self, data: bytes) -> bool:
        """Close the connection when it begins like another protocol."""
        beginning = (self._beginning or b"") + data[: foreign.ENOUGH_BYTES]
        if (what := foreign.looks_like(beginning)) is not None:
            self.close(what, level=logging.WARNING)
            return True
        self._beginning = beginning if len(beginning) < foreign.ENOUGH_BYTES else None
        return False

    def _is_crowded(self, entrance: Entrance) -> bool:
        """Close the connection of a stranger that sends more than it may, whatever it is."""
        held_bytes = self._request_bytes + self._splitter.buffered_bytes
        if held_bytes <= entrance.max_receive_bytes:
            return False
        self._figures.refused[self._size_setting] += 1
        self.close(
            f"{held_bytes} bytes before authentication; at most {entrance.max_receive_bytes} are allowed"
            f" ({self._size_setting})",
            level=logging.WARNING,
            by=self.info.host,
        )
        return True

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._note_pause("its answers are not read", "connection_unread_bytes")

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self.last_active = self._loop.time()
        self._run()
        self._update_reading()

    # The budget's side

    def resume(self) -> None:
        self._run()
        self._update_reading()

    @property
    def partial_bytes(self) -> int:
        """What has arrived of a frame that is not complete."""
        return self._splitter.buffered_bytes

    @property
    def stalled_bytes(self) -> int:
        """What is held of requests of which none is under way: a half-sent one, or those of a client that is muted."""
        return self._request_bytes + self.partial_bytes if self._is_muted else self.partial_bytes

    def _update_reading(self) -> None:
        """Charge the budget with what is held now, and read on or not accordingly."""
        if self.is_closed:
            return
        partial_bytes = self._splitter.buffered_bytes
        held_bytes = self._request_bytes + partial_bytes
        if held_bytes != self._held_bytes or partial_bytes != self._partial_bytes:
            self._charge(held_bytes, partial_bytes)
        if (
            held_bytes <= self._small_bytes
            and self._is_reading
            and not self._queue
            and not self._is_draining
            and not self._is_muted
        ):
            return
        should_read = (
            not self._is_draining
            and not self._is_muted
            and not (self._is_limited and self._queue)
            and self._request_bytes <= self._max_request_bytes
            and len(self._queue) <= self._max_queued_requests
            and self._budget.may_read(self, held_bytes, partial_bytes)
        )
        if should_read != self._is_reading and not self._transport.is_closing():
            self._is_reading = should_read
            if should_read:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
                if self._is_muted or self._is_limited:
                    return
                if self._request_bytes > self._max_request_bytes:
                    self._note_pause("its requests are large", "connection_request_bytes")
                elif len(self._queue) > self._max_queued_requests:
                    self._note_pause("its requests are many", "connection_queued_requests")
                elif not self._is_draining:
                    self._note_pause("requests of all connections are large", "queued_max_request_bytes")

    def _note_pause(self, reason: str, limit: str) -> None:
        """Ordinary under load, so that only who looks for it sees it. `limit` is the attribute of a setting."""
        self._figures.not_read[NAMES[limit]] += 1
        self._notes.note(
            "connection waits",
            reason,
            level=logging.DEBUG,
            peer=self.info.peer[0],
            reason=reason,
            limit=f"{NAMES[limit]} = {getattr(self._broker.config, limit)}",
        )

    def _charge(self, held_bytes: int, partial_bytes: int) -> None:
        held_difference, partial_difference = held_bytes - self._held_bytes, partial_bytes - self._partial_bytes
        self._held_bytes, self._partial_bytes = held_bytes, partial_bytes
        self._budget.change(held_difference, partial_difference)

    # Requests

    def _run(self) -> None:
        """Start what may be started now, and no more than a turn's worth of it."""
        if self._is_starting:
            return
        self._is_starting = True
        try:
            if self._meter is None:
                self._start_some()
            else:
                with self._meter:
                    self._start_some()
        finally:
            self._is_starting = False

    def _start_some(self) -> None:
        starts = 0
        bytes_started = 0
        while (
            self._queue
            and self._blocking is None
            and not self._task_running
            and not self._is_writing_paused
            and not self._is_draining
            and not self._is_muted
            and not self.is_closed
        ):
            if len(self._replies) >= self._max_unanswered_requests:
                self._note_pause("many of its requests are unanswered", "connection_unanswered_requests")
                return
            if self._budget.is_backlogged and self._adds_to_log(self._queue[0]):
                self._budget.wait(self)
                return
            if starts >= MAX_STARTS_PER_TURN or bytes_started >= MAX_BYTES_PER_TURN:
                if not self._turn_scheduled:
                    self._turn_scheduled = True
                    self._loop.call_soon(self._next_turn)
                return
            frame = self._queue.popleft()
            starts += 1
            bytes_started += len(frame)
            self._start(frame)

    def _adds_to_log(self, frame: memoryview | bytes) -> bool:
        api = self._apis.get(int.from_bytes(frame[:2]))
        return api is not None and api.adds_to_log

    def _next_turn(self) -> None:
        self._turn_scheduled = False
        self._run()
        self._update_reading()

    def _comes_again(self, frame: memoryview | bytes) -> bool:
        """Start a frame that is the last request again. Nothing of it is kept, so that no limit is touched."""
        if (
            self._recurrent is None
            or self._replies
            or self._queue
            or self._task_running
            or self._is_writing_paused
            or self._is_draining
            or self._is_muted
            or self.last_active > self._open_until_s
        ):
            return False
        reply = self._recurrent.come_again(frame, self)
        if reply is None:
            return False
        if self._until_timed:
            if self._has_arrivals and self._watch is not None:
                self._watch.forget()
                self._has_arrivals = False
            reply.timing = self._next_timing()
        self._replies.append(reply)
        self._blocking = reply
        self._recurrent.start()
        return True

    def _start(self, frame: memoryview | bytes) -> None:
        self._recurrent = None
        timing = self._timing = None
        if self.last_active > self._open_until_s and self._is_for_entrance(frame):
            return
        header: RequestHeader | None = None
        try:
            header, offset = decode_request_header(frame)
            api = self._apis.get(header.api_key)
            if api is None:
                self._close_unserved(header, frame)
                return
            if not api.min_version <= header.api_version <= api.max_version:
                self._refuse_version(api, header, frame)
                return
            if not api.is_frequent:
                timing = self._timed()
            elif self._until_timed:
                timing = self._timing = self._next_timing()
            request = codec.decode_request(header.api_key, header.api_version, frame, offset, ITEMS_AT_ONCE)
        except TooManyItems:
            assert api is not None
            assert header is not None
            self._start_large(api, header, frame, offset)
            return
        except MalformedRequest as error:
            self.close(str(error))
            if header is not None:
                self._unanswered(header, frame, ErrorCode.INVALID_REQUEST)
            return
        if api.key == HANDSHAKE and self._is_for_entrance(frame):
            return
        context = Context(self._broker, self._doors, header, self.info)
        frame_bytes = len(frame)
        reply = Reply(self, header, frame_bytes, frame_bytes, timing)
        if self._keeps_requests and timing is not None:
            timing.request = request
        self._replies.append(reply)
        if not api.is_pipelined:
            self._blocking = reply
        elif self._quotas.is_active:
            self._count_produced(header, frame_bytes)
        if not api.is_hot:
            self._await(self._answer(cast(Handler, api.handler), context, request, reply), api, request, reply)
            return
        handler: Any = api.handler  # a HotHandler; a cast is a call
        try:
            awaitable: Awaitable[None] | None = handler(context, request, reply)
        except Exception as error:
            self._answer_failure(api, request, reply, error)
            return
        if awaitable is not None:
            self._await(awaitable, api, request, reply)
        elif api.is_pipelined:
            if timing is not None and not reply.is_sent:
                timing.hand_over()
        elif api.recurrent is not None:
            self._recurrent = api.recurrent(context, request, frame, offset)

    def _start_large(self, api: Api, header: RequestHeader, frame: memoryview | bytes, offset: int) -> None:
        context = Context(self._broker, self._doors, header, self.info, is_large=True)
        reply = Reply(self, header, len(frame), len(frame), self._timing)
        self._replies.append(reply)
        if not api.is_pipelined:
            self._blocking = reply
        elif self._quotas.is_active:
            self._count_produced(header, len(frame))
        self._await(self._serve_large(context, api, frame, offset, reply), api, None, reply)

    async def _serve_large(
        self, context: Context, api: Api, frame: memoryview | bytes, offset: int, reply: Reply
    ) -> None:
        """Decode beside the event loop, then do what is done for any request."""
        async with self._work.large_requests:
            with self._broker.turns.long_work():
                await self._decode_and_serve(context, api, frame, offset, reply)

    async def _decode_and_serve(
        self, context: Context, api: Api, frame: memoryview | bytes, offset: int, reply: Reply
    ) -> None:
        try:
            request = await self._work.beside_loop(codec.decode_request, api.key, context.version, frame, offset)
        except MalformedRequest as error:
            reply.error_code = int(ErrorCode.INVALID_REQUEST)
            self.close(f"{api.name}: {error}", level=logging.WARNING)
            return
        if self._keeps_requests and reply.timing is not None:
            reply.timing.request = request
        try:
            if not api.is_hot:
                await self._answer(cast(Handler, api.handler), context, request, reply)
                return
            awaitable = cast(HotHandler, api.handler)(context, request, reply)
            if awaitable is not None:
                await awaitable
        except Exception as error:
            self._answer_failure(api, request, reply, error)

    def _refuse_version(self, api: Api, header: RequestHeader, frame: memoryview | bytes) -> None:
        if api.unsupported is None:
            # Kafka closes here as well: there is no form of this answer that the client is sure to read.
            self._close_unserved(header, frame)
            return
        # KIP-511: in the form of version 0, which every client can read.
        header = RequestHeader(header.api_key, 0, header.correlation_id, header.client_id)
        reply = Reply(self, header, len(frame), len(frame), self._timed())
        self._replies.append(reply)
        reply.send(api.unsupported(Context(self._broker, self._doors, header, self.info)))

    def _close_unserved(self, header: RequestHeader, frame: memoryview | bytes) -> None:
        """A client asks for an API or a version that ApiVersions does not name: tell which client, and close."""
        key, version = header.api_key, header.api_version
        name = API_NAMES.get(key, "unknown")
        what = f"version {version} of {name}" if key in self._apis else f"API {name} (key {key}), version {version},"
        client = (header.client_id or "")[:MAX_SHOWN_CHARACTERS]
        software = f"{self.info.client_software_name} {self.info.client_software_version}"[:MAX_SHOWN_CHARACTERS]
        self.close(
            f"{what} is not served",
            level=logging.WARNING,
            client_id=client,
            client_software=software.strip() or "unknown",
        )
        self._unanswered(header, frame, ErrorCode.UNSUPPORTED_VERSION)

    def _unanswered(self, header: RequestHeader, frame: memoryview | bytes, code: int) -> None:
        """Tell of a request that gets neither a handler nor an answer."""
        if self._observer is not None:
            self._tell(self._observer, Reply(self, header, len(frame), 0, self._timed()), 0, int(code))

    def _timed(self) -> Timing | None:
        """The timing of the frame that has been taken last, whichever ones are timed."""
        if self._timing is None and self._watch is not None:
            self._timing = self._watch.started(self.last_active, len(self._queue))
        return self._timing

    def _next_timing(self) -> Timing | None:
        """The timing of the frame that has been taken last, if it is the one to be timed."""
        if self._until_timed > 0:
            self._until_timed -= 1
            if self._until_timed:
                return None
        return None if self._watch is None else self._watch.started(self.last_active, len(self._queue))

    def observe(self, observer: Observer | None) -> None:
        """Tell it of the requests that begin from now on."""
        self._observer = observer
        self._keeps_requests = observer is not None and observer.wants_requests
        if observer is None:
            self._watch = None
            self._until_timed = 0
        elif self._watch is None:
            self._watch = Watch(self._figures.clock, self._figures.commit, self._figures.pace)
            self._has_arrivals = False
            if self._queue:
                self._arrive(self._watch, len(self._queue), 0)
        if self._watch is not None:
            self._until_timed = self._watch.until_timed

    def _tell(self, observer: Observer, reply: Reply, response_bytes: int, code: int) -> None:
        """The only place where the observer hears of a request; `code` is for a reply that has no error code."""
        timing = reply.timing
        if reply.error_code is not None:
            code = reply.error_code
        elif reply.message is not None:
            code = first_error(reply.message)
        observer.on_answer(reply.header, self.info, timing, reply.request_bytes, response_bytes, code)
        if timing is not None:
            timing.request = None

    async def _answer(self, handler: Handler, context: Context, request: Any, reply: Reply) -> None:
        message = await handler(context, request)
        if message is None:
            raise TypeError("the handler gave no answer")
        reply.send(message)

    def _client(self, header: RequestHeader) -> dict[str, Any]:
        """Who asked, for a log line."""
        return {
            "version": header.api_version,
            "peer": self.info.host,
            "client_id": (header.client_id or "")[:MAX_SHOWN_CHARACTERS],
            "principal": self.info.principal,
        }

    def _about(self, request: Any, header: RequestHeader) -> dict[str, Any]:
        """What was asked, and by whom, for a log line."""
        topics: Mapping[UUID, Any] = getattr(self._topics, "by_uuid", {})  # none where no topics are served

        def name_of(topic_id: UUID) -> str | None:
            topic = topics.get(topic_id)
            return None if topic is None else topic.name

        return subjects_of(request, name_of) | self._client(header)

    def _await(self, awaitable: Awaitable[None], api: Api, request: Any, reply: Reply) -> None:
        self._task_running = True
        if self._meter is not None:
            awaitable = self._meter.metered(awaitable)
        self._work.run(self._finish(awaitable, api, request, reply))

    async def _finish(self, awaitable: Awaitable[None], api: Api, request: Any, reply: Reply) -> None:
        timing = reply.timing
        if self._watch is not None:
            current.TIMING.set(timing)  # None as well: the request before may have begun this task
        try:
            await awaitable
            if timing is not None and api.is_pipelined and not reply.is_sent:
                timing.hand_over()
        except Exception as error:
            self._answer_failure(api, request, reply, error)
        finally:
            self._task_running = False
            if self._is_draining:
                self.drain()
            elif not self.is_closed:
                self._run()
                self._update_reading()

    def _answer_failure(self, api: Api, request: Any, reply: Reply, error: Exception) -> None:
        """A handler raised: answer with an error code in the API's own form, or close."""
        if isinstance(error, Refused):
            code = error.code
        elif isinstance(error, StorageError):
            code = int(error.code)
            about = self._about(request, reply.header)
            self._notes.note(
                "request failed in the database", api.name, api=api.name, error=str(error), code=code, **about
            )
        else:
            code = int(ErrorCode.UNKNOWN_SERVER_ERROR)
            about = self._about(request, reply.header)
            self._notes.note("request failed", api.name, exc_info=error, api=api.name, **about)
        if reply.is_sent:
            return
        try:
            answer = None if api.failure is None else api.failure(request, code)
        except Exception as second:
            about = self._about(request, reply.header)
            self._notes.note("failure has no form", api.name, exc_info=second, api=api.name, **about)
            answer = None
        if answer is None:
            reply.close(f"{api.name} failed", code)
        else:
            reply.send(answer)

    # The entrance's side

    def _is_for_entrance(self, frame: memoryview | bytes) -> bool:
        """May the frame not be served, or not yet?"""
        return self._entrance is not None and self._entrance.takes(frame, self.last_active)

    def hold(self, header: RequestHeader, frame: memoryview | bytes) -> Reply:
        """Take a frame; no other one is started until it is answered."""
        reply = Reply(self, header, len(frame), len(frame), self._timed())
        self._replies.append(reply)
        self._blocking = reply
        return reply

    def failed_form(
        self, header: RequestHeader, frame: memoryview | bytes, offset: int, code: int
    ) -> list[bytes | memoryview]:
        """A failure in the form of the API that is asked for; nothing where there is none, or the request is a large one."""
        api = self._apis.get(header.api_key)
        if api is None or api.failure is None or not api.min_version <= header.api_version <= api.max_version:
            return []
        try:
            request = codec.decode_request(header.api_key, header.api_version, frame, offset, STRANGERS_ITEMS)
            message = api.failure(request, code)
            return [] if message is None else _encode(header, message, STRANGERS_ITEMS)
        except (MalformedRequest, TooManyItems):
            return []

    def be_shut(self) -> None:
        """The peer has to say once more who it is."""
        self._open_until_s = -inf

    def be_open(self, until_s: float) -> None:
        """It is known who the peer is: the limits of strangers end."""
        self._open_until_s = until_s
        self._splitter.max_frame_bytes = self._broker.config.socket_request_max_bytes
        self._size_setting = "socket.request.max.bytes"

    # Replies

    def complete(self, reply: Reply, message: Any | None) -> None:
        """Take a reply's message; send it, and those behind it that waited, when it is its turn."""
        if self._quotas.is_active:
            message = self._throttled(reply, message)
        if message is not None:
            try:
                reply.parts = _encode(reply.header, message, ITEMS_AT_ONCE)
                reply.message = message
            except TooManyItems:
                reply.is_encoding = True
                self._work.run(self._encode_large(reply, message))
                return
            except Exception as error:
                self._not_encoded(reply, error)
                return
        self._completed(reply)

    # Quotas

    def _throttled(self, reply: Reply, message: Any | None) -> Any | None:
        """The message, and what it says of the time that the client has to wait; that time begins."""
        if self._entrance is not None and not self._entrance.is_open:
            return message  # strangers are nobody yet: one would have another wait who is about to say who he is
        client_id = reply.header.client_id or ""
        limits = self._quotas.limits(self.info.principal, client_id)
        if not limits.is_any:
            if self._is_limited:
                self._limit(limits)
            return message
        self._limited_as = client_id[: MAX_NAME_BYTES + 1]
        wait_ms = throttling.wait_ms(self._quotas, limits, reply, message, self._meter)
        self._limit(limits)
        if wait_ms:
            message = throttling.told(reply, message, wait_ms)
            self.mute(wait_ms)
        return message

    def _count_produced(self, header: RequestHeader, size: int) -> None:
        """A Produce request begins: when it is too much, those behind it do not begin before the wait is over."""
        client_id = header.client_id or ""
        limits = self._quotas.limits(self.info.principal, client_id)
        if limits.produce is not None:
            wait_ms = self._quotas.produced(limits.produce, size)
            self._limited_as = client_id[: MAX_NAME_BYTES + 1]
            self._limit(limits)
            if wait_ms:
                self.mute(wait_ms)

    def _limit(self, limits: Limits | None) -> None:
        """These quotas hold for what comes over this connection."""
        self._is_limited = limits is not None and limits.is_any
        if self._is_limited:
            self._quotas.limited.add(self)
        else:
            self._quotas.limited.discard(self)
        if limits is None or limits.request is None:
            self._meter = None
        elif self._meter is None:
            self._meter = Meter(self._broker.clock.processor_ns)

    def mute(self, wait_ms: int, refusal: str | None = None) -> None:
        """Read and start nothing for so long; with a refusal the connection is closed then."""
        if self.is_closed or self._is_draining:
            return
        until_s = self._loop.time() + wait_ms / 1000
        muted = self._quotas.muted
        if until_s > muted.until(self):
            muted.mute(self, until_s)
        self._refusal = refusal
        self._is_muted = True
        if self._watch is not None:
            self._watch.mute()
        self._update_reading()

    def unmute(self) -> None:
        self._is_muted = False
        if self._watch is not None:
            self._watch.unmute()
        if self._refusal is not None:
            self.close(self._refusal, level=logging.WARNING)
            return
        if self._entrance is not None and self._entrance.is_stranger:
            self._entrance.begin()  # the time that it was made to wait does not count
        self._run()
        self._update_reading()

    def reconsider(self) -> None:
        """Other quotas hold: whoever waits has to wait no longer than by these."""
        quotas = self._quotas
        limits = quotas.limits(self.info.principal, self._limited_as) if quotas.is_active else None
        self._limit(limits)
        if not self._is_muted or self._refusal is not None:
            return
        owed_ms = quotas.owed_ms(limits) if limits is not None else 0
        until_s = self._loop.time() + owed_ms / 1000
        if not owed_ms:
            quotas.muted.forget(self)
            self.unmute()
        elif until_s < quotas.muted.until(self):
            quotas.muted.mute(self, until_s)

    @property
    def has_waiting(self) -> bool:
        """Requests that have been read wait for their turn."""
        return bool(self._queue)

    async def _encode_large(self, reply: Reply, message: Any) -> None:
        """Encode beside the event loop; the answers behind it wait."""
        try:
            with self._broker.turns.long_work():
                reply.parts = await self._work.beside_loop(_encode, reply.header, message, sys.maxsize)
                if self._observer is not None and reply.error_code is None:
                    reply.error_code = await self._work.beside_loop(first_error, message)
        except Exception as error:
            self._not_encoded(reply, error)
            return
        reply.is_encoding = False
        if not reply.is_abandoned:
            self._completed(reply)

    def _not_encoded(self, reply: Reply, error: Exception) -> None:
        reply.error_code = int(ErrorCode.UNKNOWN_SERVER_ERROR)
        name = API_NAMES.get(reply.header.api_key, str(reply.header.api_key))
        self._notes.note("reply cannot be encoded", "", exc_info=error, api=name, **self._client(reply.header))
        self.close("a reply could not be encoded")

    def _completed(self, reply: Reply) -> None:
        self._request_bytes -= reply.held_bytes
        if reply is self._blocking:
            self._blocking = None
        replies, unwritten = self._replies, self._unwritten
        is_due = bool(unwritten)
        if reply.timing is not None and replies[0] is not reply:
            reply.timing.settle()  # those before it are not answered
        new_bytes = self._answers.take(replies, unwritten, self._observer, self.info, self._watch)
        if new_bytes < 0:
            new_bytes = -1 - new_bytes
            self._until_timed = 0 if self._watch is None else self._watch.until_timed
        if new_bytes:
            self._freed_memory.moved_bytes += new_bytes
            if not is_due:
                self._owner.write_soon(self)
            if new_bytes >= WRITE_NOW_BYTES:
                self.write()
        if self._is_draining:
            self.drain()
        elif not self._is_starting:
            if self._queue and not self._turn_scheduled:
                # Not at once: replies are completed by callbacks of the lane, which must stay short.
                self._turn_scheduled = True
                self._loop.call_soon(self._next_turn)
            if not self._unwritten:  # else once for all answers of the turn
                self._update_reading()

    def write_due(self) -> None:
        """Send what has been answered in this turn of the event loop, and count what that gives back."""
        self.write()
        self._update_reading()

    def write(self) -> None:
        """Send what has been answered, with one system call."""
        parts, self._unwritten = self._unwritten, []
        if parts and not self._transport.is_closing():
            self._transport.writelines(parts)
            self.last_active = self._loop.time()

    def fail(self, reason: str) -> None:
        self.close(reason)

    def refused_by(self, setting: str) -> None:
        self._figures.refused[setting] += 1

    def note(self, message: str, reason: str, kind: str, level: int) -> None:
        peer, principal = self.info.host, self.info.principal
        self._notes.note(message, kind, level=level, peer=peer, principal=principal, reason=reason)

    # The server's side

    @property
    def has_requests(self) -> bool:
        """Something is in progress that somebody waits for."""
        return bool(self._replies) and not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Nothing is in progress here, or the peer does not take what there is."""
        return self.is_closed or self._is_writing_paused or self._is_muted or not (self._replies or self._queue)

    def drain(self) -> None:
        """Take no more requests and close when those in progress are answered; long polls end now."""
        self._is_draining = True
        self._queue.clear()
        may_end = not self._task_running and all(reply.on_abandon is not None for reply in self._replies)
        if not self.is_closed and may_end:
            self.write()
            self._transport.close()
        else:
            self._update_reading()

    def close(self, reason: str, *, level: int = logging.INFO, by: str = "", **extra: Any) -> None:
        """Close with a log line, one of a reason every few seconds. What has been answered before is still sent.

        `by` is an address for lines of its own.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._queue.clear()
        extra = {"peer": self.info.host, "principal": self.info.principal, "reason": reason} | extra
        self._notes.note("connection closed", reason, level=level, by=by, **extra)
        self.write()
        self._transport.close()

    @property
    def proof(self) -> object:
        """What the peer has proved by who it is; None: nothing that may be revoked."""
        return None if self._entrance is None else self._entrance.proof

    def cut_off(self, reason: str) -> None:
        """Close at once with a log line: the peer may do nothing more, and is owed nothing."""
        if not self.is_closed:
            self._notes.note(
                "connection closed",
                reason,
                level=logging.WARNING,
                by=self.info.host,
                peer=self.info.host,
                principal=self.info.principal,
                reason=reason,
            )
            self.abort()

    def abort(self) -> None:
        """Close at once; what has not been sent is lost."""
        self.is_closed = True
        self._queue.clear()
        self._unwritten.clear()
        self._transport.abort()


def _encode(header: RequestHeader, message: Any, max_items: int) -> list[bytes | memoryview]:
    body = codec.encode_response(message, header.api_key, header.api_version, max_items)
    return response_frame(header.correlation_id, header.api_key, header.api_version, body)


def _address(name: Any) -> tuple[str, int]:
    """Host and port of a socket's name, which for IPv6 has more parts."""
    return (name[0], name[1]) if name else ("", 0)
