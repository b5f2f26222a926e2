"""One client connection: bytes to requests, requests to handlers, replies back in order.

A request is started when the one before it has been answered, or, after a pipelined one (Produce), when its handler has
returned. Nothing new is started while the peer does not read its answers. What the peer can grow is bounded: the frame,
the bytes of requests in flight here and over all connections, the requests waiting their turn. A frame that cannot be
understood, an API that is not served and a handler's failure that has no answer close the connection with a log line.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from pg_kafka.broker.budget import RESERVE_BYTES, RequestBudget
from pg_kafka.broker.context import Api, Broker, ConnectionInfo, Context, Handler, HotHandler, Recurrent, Reply
from pg_kafka.broker.handlers.api_versions import API_VERSIONS_KEY, unsupported_version
from pg_kafka.broker.turns import ITEMS_AT_ONCE
from pg_kafka.config import SETTINGS
from pg_kafka.errors import StorageError
from pg_kafka.wire import codec, foreign
from pg_kafka.wire.codec import MalformedRequest, TooManyItems
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import FrameSplitter, RequestHeader, decode_request_header, response_frame
from pg_kafka.wire.messages import API_NAMES

if TYPE_CHECKING:
    from pg_kafka.broker.server import Server

logger = logging.getLogger(__name__)

NAMES = {setting.attribute: setting.name for setting in SETTINGS}
# Requests and bytes that one connection may start before the others get their turn.
MAX_STARTS_PER_TURN = 16
MAX_BYTES_PER_TURN = 512 * 1024
# Answers of one turn go out together; one of this many bytes is worth a system call of its own, with those before it.
WRITE_NOW_BYTES = 16 * 1024
# A peer that did not read does again when it has left less than this share of what it may leave.
UNREAD_LOW_SHARE = 4


class Connection(asyncio.Protocol):
    """The protocol object of one socket. All of it runs on the event loop's thread."""

    def __init__(self, server: Server, broker: Broker, budget: RequestBudget, connection_id: int) -> None:
        self._server = server
        self._broker = broker
        self._budget = budget
        self._freed_memory = server.freed_memory
        self._loop = asyncio.get_running_loop()
        config = broker.config
        self._max_request_bytes = config.connection_request_bytes
        self._small_bytes = min(self._max_request_bytes, RESERVE_BYTES)
        self._max_queued_requests = config.connection_queued_requests
        self._max_unanswered_requests = config.connection_unanswered_requests
        self._splitter = FrameSplitter(config.socket_request_max_bytes)
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
        self.info = ConnectionInfo(connection_id, ("", 0), ("", 0))
        self.descriptor = -1  # the number of the open file
        self.last_active = self._loop.time()
        self.frame_begun = 0.0  # when the half-sent frame began

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.info.peer = _address(transport.get_extra_info("peername"))
        self.info.local = _address(transport.get_extra_info("sockname"))
        self.descriptor = transport.get_extra_info("socket").fileno()
        unread_bytes = self._broker.config.connection_unread_bytes
        self._transport.set_write_buffer_limits(high=unread_bytes, low=unread_bytes // UNREAD_LOW_SHARE)
        if (refusal := self._server.admit(self)) is not None:
            self.close(refusal, level=logging.WARNING)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._server.remove(self)
        self._queue.clear()
        replies, self._replies = self._replies, deque()
        for reply in replies:
            reply.abandon()
        self._charge(0, 0)
        self._budget.forget(self)

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
            self.close(f"{error} (socket.request.max.bytes)")
            return
        if len(frames) == 1 and not had_partial and self._comes_again(frames[0]):
            return
        if frames:
            self._queue.extend(frames)
            self._request_bytes += sum(map(len, frames))
            self._budget.frame_ended(self)
        if frames or not had_partial:
            self.frame_begun = self.last_active
        if self._queue:
            self._run()
        self._update_reading()

    def _is_foreign(self, data: bytes) -> bool:
        """Close the connection when it begins like another protocol."""
        beginning = (self._beginning or b"") + data[: foreign.ENOUGH_BYTES]
        if (what := foreign.looks_like(beginning)) is not None:
            self.close(what, level=logging.WARNING)
            return True
        self._beginning = beginning if len(beginning) < foreign.ENOUGH_BYTES else None
        return False

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

    def _update_reading(self) -> None:
        """Charge the budget with what is held now, and read on or not accordingly."""
        if self.is_closed:
            return
        partial_bytes = self._splitter.buffered_bytes
        held_bytes = self._request_bytes + partial_bytes
        if held_bytes != self._held_bytes or partial_bytes != self._partial_bytes:
            self._charge(held_bytes, partial_bytes)
        if held_bytes <= self._small_bytes and self._is_reading and not self._queue and not self._is_draining:
            return
        should_read = (
            not self._is_draining
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
                if self._request_bytes > self._max_request_bytes:
                    self._note_pause("its requests are large", "connection_request_bytes")
                elif len(self._queue) > self._max_queued_requests:
                    self._note_pause("its requests are many", "connection_queued_requests")
                elif not self._is_draining:
                    self._note_pause("requests of all connections are large", "queued_max_request_bytes")

    def _note_pause(self, reason: str, limit: str) -> None:
        """Ordinary under load, so that only who looks for it sees it. `limit` is the attribute of a setting."""
        self._server.note(
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
        api = self._broker.apis.get(int.from_bytes(frame[:2]))
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
        ):
            return False
        reply = self._recurrent.come_again(frame, self)
        if reply is None:
            return False
        self._replies.append(reply)
        self._blocking = reply
        self._recurrent.start()
        return True

    def _start(self, frame: memoryview | bytes) -> None:
        self._recurrent = None
        try:
            header, offset = decode_request_header(frame)
            api = self._broker.apis.get(header.api_key)
            if api is None:
                name = API_NAMES.get(header.api_key, "unknown")
                self.close(f"API {name} (key {header.api_key}) is not served")
                return
            if not api.min_version <= header.api_version <= api.max_version:
                self._refuse_version(api, header, len(frame))
                return
            request = codec.decode_request(header.api_key, header.api_version, frame, offset, ITEMS_AT_ONCE)
        except TooManyItems:
            assert api is not None
            self._start_large(api, header, frame, offset)
            return
        except MalformedRequest as error:
            self.close(str(error))
            return
        context = Context(self._broker, header, self.info)
        reply = Reply(self, context, len(frame))
        self._replies.append(reply)
        if not api.is_pipelined:
            self._blocking = reply
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
        elif api.recurrent is not None:
            self._recurrent = api.recurrent(context, request, frame, offset)

    def _start_large(self, api: Api, header: RequestHeader, frame: memoryview | bytes, offset: int) -> None:
        reply = Reply(self, Context(self._broker, header, self.info, is_large=True), len(frame))
        self._replies.append(reply)
        if not api.is_pipelined:
            self._blocking = reply
        self._await(self._serve_large(api, frame, offset, reply), api, None, reply)

    async def _serve_large(self, api: Api, frame: memoryview | bytes, offset: int, reply: Reply) -> None:
        """Decode beside the event loop, then do what is done for any request."""
        async with self._server.large_requests:
            with self._broker.turns.long_work():
                await self._decode_and_serve(api, frame, offset, reply)

    async def _decode_and_serve(self, api: Api, frame: memoryview | bytes, offset: int, reply: Reply) -> None:
        context = reply.context
        try:
            request = await self._server.beside_loop(codec.decode_request, api.key, context.version, frame, offset)
        except MalformedRequest as error:
            self.close(f"{api.name}: {error}", level=logging.WARNING)
            return
        try:
            if not api.is_hot:
                await self._answer(cast(Handler, api.handler), context, request, reply)
                return
            awaitable = cast(HotHandler, api.handler)(context, request, reply)
            if awaitable is not None:
                await awaitable
        except Exception as error:
            self._answer_failure(api, request, reply, error)

    def _refuse_version(self, api: Api, header: RequestHeader, frame_bytes: int) -> None:
        if api.key != API_VERSIONS_KEY:
            # Kafka closes here as well: there is no form of this answer that the client is sure to read.
            self.close(f"version {header.api_version} of {api.name} is not served")
            return
        # KIP-511: in the form of version 0, which every client can read.
        context = Context(
            self._broker, RequestHeader(header.api_key, 0, header.correlation_id, header.client_id), self.info
        )
        reply = Reply(self, context, frame_bytes)
        self._replies.append(reply)
        reply.send(unsupported_version(context))

    async def _answer(self, handler: Handler, context: Context, request: Any, reply: Reply) -> None:
        message = await handler(context, request)
        if message is None:
            raise TypeError("the handler gave no answer")
        reply.send(message)

    def _await(self, awaitable: Awaitable[None], api: Api, request: Any, reply: Reply) -> None:
        self._task_running = True
        self._server.run(self._finish(awaitable, api, request, reply))

    async def _finish(self, awaitable: Awaitable[None], api: Api, request: Any, reply: Reply) -> None:
        try:
            await awaitable
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
        if isinstance(error, StorageError):
            code = int(error.code)
            self._server.note("request failed in the database", api.name, api=api.name, error=str(error), code=code)
        else:
            code = int(ErrorCode.UNKNOWN_SERVER_ERROR)
            self._server.note("request failed", api.name, exc_info=error, api=api.name, version=reply.context.version)
        if reply.is_sent:
            return
        try:
            answer = None if api.failure is None else api.failure(request, code)
        except Exception as second:
            self._server.note("failure has no form", api.name, exc_info=second, api=api.name)
            answer = None
        if answer is None:
            reply.close(f"{api.name} failed")
        else:
            reply.send(answer)

    # Replies

    def complete(self, reply: Reply, message: Any | None) -> None:
        """Take a reply's message; send it, and those behind it that waited, when it is its turn."""
        if message is not None:
            try:
                reply.parts = _encode(reply.context.header, message, ITEMS_AT_ONCE)
            except TooManyItems:
                reply.is_encoding = True
                self._server.run(self._encode_large(reply, message))
                return
            except Exception as error:
                self._not_encoded(reply, error)
                return
        self._completed(reply)

    async def _encode_large(self, reply: Reply, message: Any) -> None:
        """Encode beside the event loop; the answers behind it wait."""
        try:
            with self._broker.turns.long_work():
                reply.parts = await self._server.beside_loop(_encode, reply.context.header, message, sys.maxsize)
        except Exception as error:
            self._not_encoded(reply, error)
            return
        reply.is_encoding = False
        if not reply.is_abandoned:
            self._completed(reply)

    def _not_encoded(self, reply: Reply, error: Exception) -> None:
        self._server.note("reply cannot be encoded", "", exc_info=error, key=reply.context.header.api_key)
        self.close("a reply could not be encoded")

    def _completed(self, reply: Reply) -> None:
        self._request_bytes -= reply.request_bytes
        if reply is self._blocking:
            self._blocking = None
        replies, unwritten = self._replies, self._unwritten
        is_due = bool(unwritten)
        new_bytes = 0
        while replies and replies[0].is_sent and not replies[0].is_encoding:
            parts = replies.popleft().parts
            unwritten += parts
            new_bytes += sum(map(len, parts))
        if new_bytes:
            self._freed_memory.moved_bytes += new_bytes
            if not is_due:
                self._server.write_soon(self)
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

    def note(self, message: str, reason: str, kind: str, level: int) -> None:
        self._server.note(message, kind, level=level, peer=self.info.peer[0], reason=reason)

    # The server's side

    @property
    def has_requests(self) -> bool:
        """Something is in progress that somebody waits for."""
        return bool(self._replies) and not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Nothing is in progress here, or the peer does not take what there is."""
        return self.is_closed or self._is_writing_paused or not (self._replies or self._queue)

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

    def close(self, reason: str, *, level: int = logging.INFO) -> None:
        """Close with a log line. What has been answered before is still sent."""
        if self.is_closed:
            return
        self.is_closed = True
        self._queue.clear()
        self._server.note("connection closed", reason, level=level, peer=self.info.peer[0], reason=reason)
        self.write()
        self._transport.close()

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
