"""What any broker may be asked and only the leader can do: a broker that waits passes it on through the database.

    forwarder = Forwarder(ForwardedRequests(control))       the broker that waits
    await forwarder.start()
    message = await forwarder.ask(ctx, request)

    served = ForwardedServing(ForwardedRequests(control), broker, house, dispatch.APIS)     the leader
    await served.start()

The leader decides by the client's own principal and address, as if it had come there. Kafka's brokers do the same with an
Envelope (KIP-590), by connections on which brokers prove who they are; here PostgreSQL has done that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pg_kafka.broker.api import Api
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.context import Broker, Context
from pg_kafka.broker.doors import Doors, House
from pg_kafka.broker.refusals import Refused
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.subjects import subjects_of
from pg_kafka.config.listeners import NOWHERE
from pg_kafka.errors import StorageError
from pg_kafka.storage.forwarding import Forwarded, ForwardedRequests
from pg_kafka.wire import codec
from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader
from pg_kafka.wire.messages import API_NAMES

logger = logging.getLogger("pg_kafka.forwarding")

DEADLINE_S = 10.0
"""From the question to the answer."""
MAX_REQUEST_BYTES = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
MOST_AT_ONCE = 16
"""Questions of one broker, and answers of the leader, that are under way."""
# Notifications are lost with their session.
LOOK_S = 1.0
LEADER_LOOK_S = 5.0
RETRY_S = 0.5
FORGOTTEN_S = 60.0


@dataclass(slots=True, eq=False)
class ForwardingCounts:
    """As long as the process lives. `answered` and `failed` of each role: `waiting` asks, `leader` answers."""

    results: Counter[tuple[str, str]] = field(default_factory=Counter)
    under_way: Counter[str] = field(default_factory=Counter)  # by role


class NotForwarded(Exception):
    """There is no answer of the leader."""


class Forwarder:
    """Asks, and waits for answers."""

    def __init__(self, requests: ForwardedRequests, counts: ForwardingCounts | None = None) -> None:
        self._requests = requests
        self._counts = counts or ForwardingCounts()
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._waiting: dict[UUID, asyncio.Future[bytes | None]] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StorageError."""
        await self._requests.listen_for_answers(self._wanted.set)
        self._task = asyncio.create_task(self._run(), name="answers of the leader")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for future in self._waiting.values():
            future.cancel()

    async def ask(self, ctx: Context, request: Any) -> Any:
        """The leader's answer to a client's request. Raises NotForwarded."""
        result = "failed"
        self._counts.under_way["waiting"] += 1
        try:
            answer = await self._ask(ctx, request)
            result = "answered"
            return answer
        finally:
            self._counts.under_way["waiting"] -= 1
            self._counts.results["waiting", result] += 1

    async def _ask(self, ctx: Context, request: Any) -> Any:
        key, version, who = ctx.header.api_key, ctx.header.api_version, ctx.connection
        body = b"".join(codec.encode_request(request, key, version))
        if len(body) > MAX_REQUEST_BYTES:
            raise NotForwarded(f"{len(body)} bytes are too many to pass on")
        node_id = 0 if ctx.broker.own is None else ctx.broker.own.node_id
        asked = Forwarded(who.principal, *who.peer, ctx.header.client_id, who.listener.name, key, version, body)
        try:
            async with asyncio.timeout(DEADLINE_S), self._room:
                answer = await self._answer(asked, node_id)
        except TimeoutError:
            raise NotForwarded("the leader did not answer in time") from None
        except StorageError as error:
            raise NotForwarded(error.message) from error
        if answer is None:
            raise NotForwarded("the leader has no answer")
        return codec.decode_response(key, version, answer, 0)

    async def _answer(self, asked: Forwarded, node_id: int) -> bytes | None:
        number = await self._requests.ask(asked, node_id)
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._wanted.set()
        try:
            return await future
        finally:
            del self._waiting[number]  # an answer that comes later is forgotten with its request

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                await self._wanted.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                found = await self._requests.answered(list(self._waiting)) if self._waiting else {}
            except StorageError as error:
                logger.debug("cannot look for answers of the leader", extra={"reason": error.message})
                await asyncio.sleep(RETRY_S)
                self._wanted.set()
                continue
            for number, answer in found.items():
                if (future := self._waiting.get(number)) is not None and not future.done():
                    future.set_result(answer)


def _about(asked: Forwarded) -> dict[str, object]:
    """What was asked, and by whom, for a log line."""
    return {
        "api": API_NAMES.get(asked.api_key, str(asked.api_key)),
        "peer": asked.client_host,
        "client_id": asked.client_id,
        "principal": asked.principal,
        "listener": asked.listener,
    }


class _Answer:
    """Takes what a handler answers, in the place of a connection."""

    def __init__(self, who: ConnectionInfo) -> None:
        self._who = who
        self.answered: asyncio.Future[Any | None] = asyncio.get_running_loop().create_future()

    def complete(self, reply: Reply, message: Any | None) -> None:
        if not self.answered.done():
            self.answered.set_result(message)

    def fail(self, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def note(self, message: str, reason: str, kind: str, level: int) -> None:
        extra = {"reason": reason, "peer": self._who.host, "principal": self._who.principal}
        logger.log(level, message, extra=extra)

    def refused_by(self, setting: str) -> None:
        """Whom the client has asked counts."""


class ForwardedServing:
    """The leader answers what others pass on. One task between `start` and `stop`, and one for each request."""

    def __init__(
        self,
        requests: ForwardedRequests,
        broker: Broker,
        house: House,
        apis: Mapping[int, Api],
        counts: ForwardingCounts | None = None,
    ) -> None:
        self._requests = requests
        self._counts = counts or ForwardingCounts()
        self._broker = broker
        self._house = house
        self._apis = apis
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises StorageError."""
        self._wanted.set()
        await self._requests.listen_for_requests(self._wanted.set)
        self._task = asyncio.create_task(self._run(), name="forwarded requests")

    async def stop(self) -> None:
        tasks = [*self._serving] if self._task is None else [self._task, *self._serving]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEADER_LOOK_S):
                    await self._wanted.wait()
            is_idle = not self._wanted.is_set()
            self._wanted.clear()
            try:
                if is_idle:
                    await self._requests.forget(FORGOTTEN_S)
                room = MOST_AT_ONCE - len(self._serving)
                for number, asked in await self._requests.take(room) if room else ():
                    task = asyncio.create_task(self._serve(number, asked), name="a forwarded request")
                    self._serving.add(task)
                    self._counts.under_way["leader"] += 1
                    task.add_done_callback(self._served)
            except StorageError as error:
                logger.warning("forwarded requests have to wait", extra={"reason": error.message})
                await asyncio.sleep(RETRY_S)
                self._wanted.set()
            except Exception:
                logger.exception("forwarded requests failed")
                await asyncio.sleep(RETRY_S)
                self._wanted.set()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._counts.under_way["leader"] -= 1
        self._wanted.set()  # there is room again

    async def _serve(self, number: UUID, asked: Forwarded) -> None:
        answer: bytes | None = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await self._answer(asked)
        except TimeoutError:
            logger.warning("a forwarded request took too long", extra=_about(asked))
        except Exception:
            logger.exception("a forwarded request failed", extra=_about(asked))
        try:
            await self._requests.answer(number, answer)
            self._counts.results["leader", "failed" if answer is None else "answered"] += 1
        except StorageError as error:
            self._counts.results["leader", "failed"] += 1
            logger.warning("a forwarded request cannot be answered", extra={"reason": error.message} | _about(asked))

    async def _answer(self, asked: Forwarded) -> bytes | None:
        """The encoded answer; None: there is none."""
        api = self._apis.get(asked.api_key)
        if api is None or not api.min_version <= asked.api_version <= api.max_version:
            return None  # the other broker has another version of pg_kafka
        try:
            request = codec.decode_request(asked.api_key, asked.api_version, asked.request, 0, sys.maxsize)
        except MalformedRequest:
            return None
        listener = next((one for one in self._broker.listeners if one.name == asked.listener), NOWHERE)
        peer = asked.client_host, asked.client_port
        local = (listener.address.host, listener.address.port)
        who = ConnectionInfo(0, peer, local, principal=asked.principal, listener=listener)
        header = RequestHeader(asked.api_key, asked.api_version, 0, asked.client_id)
        context = Context(self._broker, Doors(self._house, who), header, who)
        message = await self._message(api, context, request)
        if message is None:
            return None
        parts = codec.encode_response(message, asked.api_key, asked.api_version, sys.maxsize)
        size = sum(map(len, parts))
        return b"".join(parts) if size <= MAX_ANSWER_BYTES else None

    def _name_of(self, topic_id: UUID) -> str | None:
        topic = self._house.topics.by_uuid.get(topic_id)
        return None if topic is None else topic.name

    async def _message(self, api: Api, context: Context, request: Any) -> Any | None:
        handler: Any = api.handler
        sink = _Answer(context.connection)
        try:
            if not api.is_hot:
                return await handler(context, request)
            awaitable = handler(context, request, Reply(sink, context.header, 0, 0))
            if awaitable is not None:
                await awaitable
            return await sink.answered
        except Refused as refused:
            code = int(refused.code)
        except StorageError as error:
            code = int(error.code)
        except Exception:
            who, client_id = context.connection, context.header.client_id
            extra = {"api": api.name, "peer": who.host, "client_id": client_id, "principal": who.principal}
            about = subjects_of(request, self._name_of)
            logger.exception("a forwarded request failed", extra=about | extra)
            code = int(ErrorCode.UNKNOWN_SERVER_ERROR)
        return None if api.failure is None else api.failure(request, code)
