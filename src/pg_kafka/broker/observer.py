"""Hears of every request once, when its answer leaves, or when it is sure that none will.

A server may have none, and then nothing is made or called for it.
"""

from __future__ import annotations

from typing import Protocol

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.wire.frames import RequestHeader


class Observer(Protocol):
    """Called on the event loop's thread, in the order of the answers of a connection; it must neither wait nor raise."""

    def on_answer(
        self,
        header: RequestHeader,
        who: ConnectionInfo,
        started_s: float,
        finished_s: float,
        request_bytes: int,
        response_bytes: int,
        error_code: int,
    ) -> None:
        """One request is over.

        Times are the event loop's. `request_bytes` is the frame, `response_bytes` the frame with its size, 0 where
        nothing is answered: for acks=0, and where the connection is closed instead. `error_code` is the answer's own
        (`wire/first_error.py`); for a connection that went first it is NETWORK_EXCEPTION. A version of ApiVersions that
        is not served is answered, and told, as version 0. What is no request at all (no header can be read, or another
        protocol's bytes) is not told.
        """
