"""An answer to a client with quotas: how long the client has to wait, and how the answer tells that.

As in Kafka (KIP-219) the answer is sent at once and names the wait, and the connection is not read until that is over.
"""

from __future__ import annotations

import copy
import struct
from typing import Any, Final

from pg_kafka.broker.meter import Meter
from pg_kafka.broker.quotas import Limits, Quotas
from pg_kafka.broker.reply import Reply

_PRODUCE: Final = 0
_FETCH: Final = 1
_FIRST_FLEXIBLE_PRODUCE: Final = 9
_INT32 = struct.Struct(">i")


def wait_ms(quotas: Quotas, limits: Limits, reply: Reply, message: Any | None, meter: Meter | None) -> int:
    """How long the client has to wait after this answer, of which its handler may have named a part already."""
    waits: int = 0 if message is None else getattr(message, "throttle_time_ms", 0)
    if limits.produce is not None and reply.header.api_key == _PRODUCE:
        waits = max(waits, quotas.owed_for_production(limits.produce))  # it was counted when it began
    if limits.request is not None and meter is not None:
        waits = max(waits, quotas.spent(limits.request, meter.take()))
    return waits


def told(reply: Reply, message: Any | None, throttle_ms: int) -> Any | None:
    """The message with the wait in it, where it has a place for it; what is encoded already is changed in the reply."""
    if message is not None:
        if hasattr(message, "throttle_time_ms"):
            message = copy.copy(message)  # others may be told the same message
            message.throttle_time_ms = throttle_ms
        return message
    if reply.parts:
        *start, body = reply.parts
        if reply.header.api_key == _FETCH:
            at = 0  # of the body, which is a part of its own
        else:
            # The end of a ProduceResponse; no tags follow but their number.
            at = len(body) - 4 - (reply.header.api_version >= _FIRST_FLEXIBLE_PRODUCE)
        reply.parts = [*start, b"".join((body[:at], _INT32.pack(throttle_ms), body[at + 4 :]))]
    return message
