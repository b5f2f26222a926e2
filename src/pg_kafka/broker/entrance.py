"""What stands before the handlers of a connection that has to say who it is: the dialogue's place on the wire.

    entrance = Entrance(rules, guarded)
    entrance.begin()                        the peer has so long to prove who it is
    if entrance.takes(frame, now): ...      the frame is dealt with; else it is served as on any listener
                                            (it need not be asked of each frame: `Guarded.be_open`)
    entrance.end()                          the connection is gone

A failure is answered, and the connection closed, `connection.failed.authentication.delay.ms` after the token came: at the
same moment whatever was wrong, and however long it took to find out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from pg_kafka.broker.audit import Audit
from pg_kafka.broker.authentication import Answer, Login, SaslRules, Step
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.reply import Reply
from pg_kafka.broker.work import Work
from pg_kafka.metrics.clients import ConnectionCounters
from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader
from pg_kafka.wire.messages import API_NAMES

logger = logging.getLogger(__name__)


class Guarded(Protocol):
    """The connection, as its entrance sees it."""

    info: ConnectionInfo

    def hold(self, header: RequestHeader, frame: bytes | memoryview) -> Reply:
        """Take a frame; no other one is started until it is answered."""

    def failed_form(
        self, header: RequestHeader, frame: bytes | memoryview, offset: int, code: int
    ) -> list[bytes | memoryview]:
        """A failure in the form of the API that is asked for; nothing where there is none."""

    def be_shut(self) -> None:
        """Every frame is for the entrance again."""

    def be_open(self, until_s: float) -> None:
        """It is known who the peer is, and holds until then: the limits of strangers end.

        Until then only frames are for the entrance that choose a mechanism.
        """

    def close(self, reason: str, *, level: int = logging.INFO, by: str = "", **extra: Any) -> None:
        """Send what has been answered, and close."""


class Entrance:
    """Of one connection."""

    __slots__ = (
        "_audit",
        "_counters",
        "_deadline",
        "_guarded",
        "_login",
        "_loop",
        "_rules",
        "_work",
        "is_open",
        "is_stranger",
    )

    def __init__(
        self, rules: SaslRules, guarded: Guarded, audit: Audit, work: Work, counters: ConnectionCounters
    ) -> None:
        self._rules = rules
        self._guarded = guarded
        self._audit = audit
        self._work = work
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._login = Login(rules, guarded.info, self._loop.time, guarded.failed_form)
        self._deadline: asyncio.TimerHandle | None = None
        self.is_open = False
        self.is_stranger = True  # until it is open for the first time

    @property
    def max_receive_bytes(self) -> int:
        return self._rules.max_receive_bytes

    @property
    def proof(self) -> object:
        """What the peer has proved by who it is; None: nothing that may be revoked."""
        return self._login.proof

    def begin(self) -> None:
        self.end()
        self._deadline = self._loop.call_later(self._rules.deadline_s, self._too_late)

    def end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def takes(self, frame: bytes | memoryview, now_s: float) -> bool:
        """Deal with a frame; False: it is to be served as any other."""
        step = self._login.step(frame, now_s)
        if step is Step.SERVE:
            return False
        if step is Step.UNEXPECTED:
            self._count("failure")
            key = int.from_bytes(frame[:2])
            self._close(f"API {API_NAMES.get(key, 'unknown')} (key {key}) before {self._login.name}")
        elif step is Step.EXPIRED:
            self._close("its session has expired (connections.max.reauth.ms, or the end of its credentials)")
        elif step is not Step.IGNORED:
            self._converse(step, frame)
        return True

    def _converse(self, step: Step, frame: bytes | memoryview) -> None:
        try:
            header, offset = self._login.read(frame)
        except MalformedRequest as error:
            self._count("failure")
            self._close(str(error))
            return
        if self.is_open:  # it begins again
            self.is_open = False
            self._guarded.be_shut()
            self.begin()
        reply = self._guarded.hold(header, frame)
        self._work.run(self._respond(step, header, frame, offset, reply))

    async def _respond(
        self, step: Step, header: RequestHeader, frame: bytes | memoryview, offset: int, reply: Reply
    ) -> None:
        began_s = self._loop.time()
        was_again = self._login.is_again
        try:
            answer = await self._login.respond(step, header, frame, offset)
        except MalformedRequest as error:
            self._count("failure")
            self._close(str(error))
            return
        except Exception as error:
            self._count("unverified")
            info = self._guarded.info
            logger.error(
                "authentication broke",
                exc_info=error,
                extra={"mechanism": self._login.mechanism, "peer": info.host, "listener": info.listener.name},
            )
            self._close("authentication broke")
            return
        if answer.failure:
            await self._fail(answer, began_s, reply)
            return
        if answer.has_opened and not reply.is_abandoned:
            self.is_open, self.is_stranger = True, False
            self.end()
            self._guarded.be_open(self._login.session_end_s)
            self._count("success")
            if not was_again:
                user = self._guarded.info.principal.partition(":")[2]
                self._audit.note("login", who=self._guarded.info, resource=f"user {user}", detail=self._login.mechanism)
        self._send(reply, answer)

    async def _fail(self, answer: Answer, began_s: float, reply: Reply) -> None:
        # Not the client's fault: it could not be found out who that is.
        self._count("unverified" if answer.code == ErrorCode.NETWORK_EXCEPTION else "failure")
        self._audit.note(
            "login failed",
            who=self._guarded.info,
            resource=f"user {answer.claimed}" if answer.claimed else "",
            detail=f"{self._login.mechanism}: {answer.failure}" if self._login.mechanism else answer.failure,
            succeeded=False,
        )
        if answer.is_delayed:
            if reply.timing is not None:
                reply.timing.park()
            await asyncio.sleep(began_s + self._rules.failed_delay_s - self._loop.time())
        self._send(reply, answer)
        extra = {"mechanism": self._login.mechanism} if self._login.mechanism else {}
        if answer.claimed:
            extra["user"] = answer.claimed
        self._close(f"{self._login.name} failed: {answer.failure}", **extra)

    def _send(self, reply: Reply, answer: Answer) -> None:
        reply.error_code = int(answer.code)
        reply.parts = answer.parts
        reply.send(None)

    def _too_late(self) -> None:
        self._deadline = None
        self._count("timeout")
        self._close(f"{self._login.name} took longer than pg_kafka.authentication_timeout_ms allows")

    def _count(self, result: str) -> None:
        self._counters.logins[self._guarded.info.listener.name, self._login.mechanism or "none", result] += 1

    def _close(self, reason: str, **extra: str) -> None:
        info = self._guarded.info
        self._guarded.close(reason, level=logging.WARNING, by=info.host, listener=info.listener.name, **extra)
