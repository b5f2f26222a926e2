"""Rows of kafka.audit_log: what clients of the broker did.

store = AuditStore(control)
await store.write(events, now_ms)
await store.trim(rows=100_000, retention_ms=-1)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pg_kafka.storage import queries
from pg_kafka.storage.client_text import to_stored
from pg_kafka.storage.control import ControlSession

SQL = queries.load("audit")

# Characters of what a client gives as a name. Kafka's own names are shorter.
LONGEST_TEXT = 1_000
# A trimming ends after so many pieces of a thousand rows; the rest goes the next time.
PIECES = 100
PIECE_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is to be written of one event, or of several that were counted."""

    at_ms: int  # by the steady clock
    event: str
    principal: str
    address: str | None
    listener: str | None
    application: str
    resource: str
    detail: str
    succeeded: bool
    times: int = 1


class AuditStore:
    """See the module."""

    def __init__(self, control: ControlSession) -> None:
        self._control = control

    async def write(self, events: Sequence[Event], now_ms: int) -> None:
        """Write these in one transaction. Raises StorageError; then they may have been written all the same."""
        rows = [
            {
                "n": number,
                "age_ms": max(now_ms - one.at_ms, 0),
                "event": one.event,
                "principal": _short(one.principal),
                "address": one.address,
                "listener": one.listener,
                "application": _short(one.application),
                "resource": _short(one.resource),
                "detail": _short(one.detail),
                "succeeded": one.succeeded,
                "times": one.times,
            }
            for number, one in enumerate(events)
        ]
        await self._control.execute(SQL["insert"], json.dumps(rows))

    async def trim(self, *, rows: int, retention_ms: int) -> None:
        """Delete the oldest rows: those beyond a number, and those beyond an age (-1: none). Raises StorageError."""
        for _ in range(PIECES):
            (gone,) = await self._control.fetch(SQL["trim"], rows, retention_ms)
            if gone[0] < PIECE_ROWS:
                return


def _short(text: str) -> str:
    # A lone surrogate is no UTF-8.
    return to_stored(text[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8"))
