"""One answer: completed once, by its handler or a callback, and sent by the connection in the order of the requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from pg_kafka.metrics._requests import Timing
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader, response_frame


class ReplySink(Protocol):
    """The connection, as a reply sees it."""

    def complete(self, reply: Reply, message: Any | None) -> None: ...

    def fail(self, reason: str) -> None: ...

    def note(self, message: str, reason: str, kind: str, level: int) -> None: ...

    def refused_by(self, setting: str) -> None: ...


class Reply:
    """The answer to one request of a hot handler; answers leave in the order of the requests.

    `send` is called exactly once, on the event loop's thread, and never raises because the peer has gone. `send(None)`
    answers nothing on the wire (acks=0); call it when the append is done all the same, since until then the request's
    bytes count against the budgets. If the connection is lost first, `is_abandoned` becomes True and `on_abandon`, when
    set, is called once (to leave the waiters); a later `send` does nothing.
    """

    __slots__ = (
        "_sink",
        "error_code",
        "header",
        "held_bytes",
        "is_abandoned",
        "is_encoding",
        "is_sent",
        "message",
        "on_abandon",
        "parts",
        "request_bytes",
        "timing",
    )

    def __init__(
        self,
        sink: ReplySink,
        header: RequestHeader,
        request_bytes: int,
        held_bytes: int,
        timing: Timing | None = None,
    ) -> None:
        self._sink = sink
        self.header = header
        self.request_bytes = request_bytes
        self.held_bytes = held_bytes  # of them, as long as it is not answered
        self.timing = timing  # None: nobody asks where the time goes
        self.error_code: int | None = None  # None: it is the message's
        self.message: Any | None = None  # what was encoded, where the error code is its own
        self.parts: list[bytes | memoryview] = []  # encoded by the connection
        self.is_sent = False
        self.is_encoding = False  # sent, and not yet ready for the wire
        self.is_abandoned = False
        self.on_abandon: Callable[[], None] | None = None

    def send(self, message: Any | None) -> None:
        """Answer with `message`, or, with None, let the request end without an answer."""
        if self.is_sent:
            raise RuntimeError(f"second reply to correlation id {self.header.correlation_id}")
        self.is_sent = True
        self.on_abandon = None
        if not self.is_abandoned:
            self._sink.complete(self, message)

    def send_encoded(self, body: bytes) -> None:
        """Answer with a message that has been encoded, in the version of the request."""
        header = self.header
        self.parts = response_frame(header.correlation_id, header.api_key, header.api_version, (body,))
        self.send(None)

    def send_frame(self, frame: bytes) -> None:
        """Answer with a whole response that has been encoded, its size and header included."""
        self.parts = [frame]
        self.send(None)

    def close(self, reason: str, error_code: int = ErrorCode.UNKNOWN_SERVER_ERROR) -> None:
        """Close the connection instead of answering."""
        if not self.is_sent:
            self.is_sent = True
            self.error_code = int(error_code)
            self.on_abandon = None
            if not self.is_abandoned:
                self._sink.fail(reason)

    def note(self, message: str, reason: str, *, kind: str = "", level: int = logging.INFO) -> None:
        """A log line about what the peer asked for; of each message and kind only some are written."""
        self._sink.note(message, reason, kind, level)

    def refused_by(self, setting: str) -> None:
        """Count that the request, or a part of it, is not allowed by this setting."""
        self._sink.refused_by(setting)

    def abandon(self) -> None:
        """The connection is gone: tell the handler's callback. For the connection only."""
        self.is_abandoned = True
        callback, self.on_abandon = self.on_abandon, None
        if callback is not None:
            callback()
