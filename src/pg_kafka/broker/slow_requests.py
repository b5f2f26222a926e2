"""Log lines about requests that took long, which say where their time went (`pg_kafka.slow_request_ms`).

Of each client, one is written every few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any
from uuid import UUID

from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.notes import Notes
from pg_kafka.broker.subjects import few, subjects_of
from pg_kafka.metrics._requests import Timing
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import API_NAMES

logger = logging.getLogger("pg_kafka.requests")

_MAX_CHARACTERS = 200
_MOST_ENTRIES = 100  # of a session, which may have thousands
_NONE = int(ErrorCode.NONE)


class SlowRequests:
    """See the module."""

    def __init__(self) -> None:
        self._notes = Notes(logger)
        self.name_of: Callable[[UUID], str | None] = lambda _: None  # a topic's, by its id

    def note(self, header: tuple[int, int, int, str | None], who: ConnectionInfo, timing: Timing, code: int) -> None:
        """Write of one that is over."""
        client = (header[3] or "")[:_MAX_CHARACTERS]
        about = self._about(timing.request)
        if code != _NONE:
            about["error"] = error_name(code)
        self._notes.note(
            "slow request",
            "",
            level=logging.WARNING,
            by=f"{who.host} {client}",
            api=API_NAMES.get(header[0], str(header[0])),
            version=header[1],
            client_id=client,
            principal=who.principal,
            peer=who.host,
            total_ms=_ms(timing.total_s),
            queue_ms=_ms(timing.queue_s),
            broker_ms=_ms(timing.work_s),
            lane_ms=_ms(timing.lane_s),
            postgres_ms=_ms(timing.database_s),
            throttle_ms=_ms(timing.throttle_s),
            waited_ms=_ms(timing.waited_s),
            **about,
        )

    def _about(self, request: Any) -> dict[str, Any]:
        """The topics, group and transactional id that a request is about, as far as it names them."""
        partitions = getattr(request, "partitions", None)
        if not isinstance(partitions, dict):
            return subjects_of(request, self.name_of)
        names = dict.fromkeys(_names(islice(partitions.values(), _MOST_ENTRIES)))  # of a fetch session
        return {"topics": few(names, len(names))} if names else {}


def error_name(code: int) -> str:
    """As Kafka calls it; the number where there is no name."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _names(entries: Iterable[Any]) -> Iterator[str]:
    """Of the topics of a fetch session: their ids where they are not loaded and the client knows no more."""
    for entry in entries:
        yield str(entry.topic_key) if entry.partition is None else entry.partition.topic.name
