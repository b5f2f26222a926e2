"""What a row of the dispatch table is (`broker/dispatch.py`).

An ordinary handler is `async def handler(ctx, request) -> response`; a hot one (Produce, Fetch) is a plain function
`handler(ctx, request, reply)` that completes `reply` at once or later, by callback, on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pg_kafka.broker.context import Context, Versions
from pg_kafka.broker.permission import Access
from pg_kafka.broker.reply import Reply, ReplySink

Handler = Callable[[Context, Any], Awaitable[Any]]
HotHandler = Callable[[Context, Any, Reply], Awaitable[None] | None]


class Recurrent(Protocol):
    """A request of a hot handler that its client sends again and again, changed as little as the handler knows."""

    def come_again(self, frame: bytes | memoryview, sink: ReplySink) -> Reply | None:
        """Take a frame that is the same request and give the reply it will get; None: decode it as any other."""

    def start(self) -> None:
        """Do what the handler would do with the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One row of the dispatch table (`broker/dispatch.py`)."""

    key: int
    name: str
    min_version: int
    max_version: int
    handler: Handler | HotHandler
    access: tuple[Access, ...]  # what is asked of the authorizer; () is nothing
    advertised_min: int | None = None  # the lowest version that ApiVersions names, where it is below min_version
    is_hot: bool = False  # the handler takes a Reply and completes it by callback
    is_frequent: bool = False  # clients ask again and again, so that with metrics only some are timed
    adds_to_log: bool = False  # it waits while the log has too much to write; all others pass
    is_pipelined: bool = False  # the next request may start once the handler has returned, before its reply is sent
    failure: Callable[[Any, int], Any] | None = None  # (request, error code) -> response, for an unexpected exception
    unsupported: Callable[[Context], Any] | None = None  # the response, in version 0, to a version that is not served
    # (context, request, frame, where its body begins): what to try on the next frame, if the request may come again
    recurrent: Callable[[Context, Any, bytes | memoryview, int], Recurrent | None] | None = None


def advertised(rows: Iterable[Api]) -> Sequence[Versions]:
    """What clients are told to use, in the order of the keys."""
    return tuple(
        Versions(api.key, api.min_version if api.advertised_min is None else api.advertised_min, api.max_version)
        for api in sorted(rows, key=lambda api: api.key)
    )
