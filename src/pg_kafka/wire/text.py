"""Text of the protocol, as Kafka reads it.

Strings on the wire are UTF-8. Bytes that are not become U+FFFD, as many of them as Java's decoder makes, so that a
client's text comes back as Kafka would give it back. Python's own replacement differs in one thing: a surrogate that
was written in three bytes becomes three characters, where Java makes one.

    str(data, "utf-8", AS_KAFKA)
"""

from __future__ import annotations

import codecs
from typing import Final

AS_KAFKA: Final = "pg_kafka.as_kafka"
"""The name under which Python knows how to go on at bytes that are no UTF-8."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    end = error.end
    first, second, third, *_ = *error.object[error.start : error.start + 3], 0, 0, 0
    if first == 0xED and 0xA0 <= second <= 0xBF:
        end = error.start + (3 if 0x80 <= third <= 0xBF else 2)
    return "\N{REPLACEMENT CHARACTER}", end


codecs.register_error(AS_KAFKA, _replace)
