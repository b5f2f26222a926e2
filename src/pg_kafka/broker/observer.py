"""Hears of every request once, when its answer leaves, or when it is sure that none will.

A server may have none, and then nothing is made or called for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.metrics._requests import Timing
from pg_kafka.wire.frames import RequestHeader


class Observer(Protocol):
    """Called on the event loop's thread, in the order of the answers of a connection; it must neither wait nor raise."""

    @property
    def wants_requests(self) -> bool:
        """Is `timing.request` the request, once it is decoded? It is None otherwise."""

    def on_answer(
        self,
        header: RequestHeader,
        who: ConnectionInfo,
        timing: Timing | None,
        request_bytes: int,
        response_bytes: int,
        error_code: int,
    ) -> None:
        """One request is over.

        `timing` says where the time went (`metrics/_requests.pyx`); it is for this call only, and None where it was not
        looked at: of many requests only some are timed, and none that began before there was an observer. `request_bytes` is
        the frame,
        `response_bytes` the frame with its size, 0 where nothing is answered: for acks=0, and where the connection is
        closed instead. `error_code` is the answer's own (`wire/first_error.py`); for a connection that went first it is
        NETWORK_EXCEPTION. A version of ApiVersions that is not served is answered, and told, as version 0. What is no
        request at all (no header can be read, or another protocol's bytes) is not told.
        """


class Several:
    """Some observers, in the place of one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    @property
    def wants_requests(self) -> bool:
        return any(observer.wants_requests for observer in self._observers)

    def on_answer(
        self,
        header: RequestHeader,
        who: ConnectionInfo,
        timing: Timing | None,
        request_bytes: int,
        response_bytes: int,
        error_code: int,
    ) -> None:
        for observer in self._observers:
            observer.on_answer(header, who, timing, request_bytes, response_bytes, error_code)
