"""The program's log: a line a record on stderr, as `key=value` pairs or as JSON.

What a line is about goes into `extra`: `logger.warning("lane stopped", extra={"lane": 0})`. Whatever a value holds,
a record stays one line. Warnings and errors get a key `advice`, what to do, from docs/diagnostics.md.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from pg_kafka.advice import ADVICE, ADVICE_BY_SOURCE

PROGRAM = "pg_kafka"
TEXT, JSON = "text", "json"

_OTHER_SOURCES = "…"
_MOST_KEPT = 1000
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


class _LineFormatter(logging.Formatter):
    """A record's fields, as one line."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self.is_json = log_format == JSON

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, whatever is in it."""
        moment = datetime.fromtimestamp(record.created, UTC)
        message, source = record.getMessage(), record.name.removeprefix(f"{PROGRAM}.")
        fields: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "source": source,
            "message": message,
        }
        fields.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[0]:
            fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
            fields["traceback"] = self.formatException(record.exc_info)
        if record.levelno >= logging.WARNING and (advice := _advice(record.name, source, message)):
            fields["advice"] = advice
        return _as_json(fields) if self.is_json else _as_text(fields)


def _advice(name: str, source: str, message: str) -> str | None:
    """What to do about a line; None for one of ours that is nowhere explained."""
    advice = ADVICE.get(message) or ADVICE_BY_SOURCE.get(source)
    if advice is None and name.partition(".")[0] != PROGRAM:
        return ADVICE_BY_SOURCE[_OTHER_SOURCES]
    return advice


def _as_text(fields: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _as_json(fields: Mapping[str, object]) -> str:
    """An object with the same keys. Numbers, booleans and null keep their type, all else is a string.

    It is ASCII: what is no valid Unicode, as in a name from the wire, can be written as well.
    """
    return json.dumps({key: _typed(value) for key, value in fields.items()}, separators=(",", ":"))


def _typed(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)  # an enum's number, as text shows its name in some versions of Python only
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return str(value)


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'


def configure(level: str, log_format: str = TEXT) -> None:
    """Send the program's log lines of `level` and above to stderr; those of libraries from warning on.

    Lines that `hold` has kept are written first.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(log_format))
    for before in logging.root.handlers:
        if isinstance(before, logging.handlers.MemoryHandler):
            before.setTarget(handler)  # which gets what was kept when `before` is closed below
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(PROGRAM).setLevel(level.upper())


def hold() -> None:
    """Keep warnings and errors until `configure` is called: how they are to be written is one of the settings."""
    keeper = logging.handlers.MemoryHandler(_MOST_KEPT, flushLevel=logging.CRITICAL + 1)
    logging.basicConfig(level=logging.WARNING, handlers=[keeper], force=True)
    logging.getLogger(PROGRAM).setLevel(logging.WARNING)


def say_last(sentence: str) -> None:
    """Why the program ends: as `pg-kafka: sentence`, or as a line of a log that is JSON."""
    formatter = next((handler.formatter for handler in logging.root.handlers), None)
    if isinstance(formatter, _LineFormatter) and formatter.is_json:
        logging.getLogger(f"{PROGRAM}.cli").error("%s", sentence)
    else:
        print(f"pg-kafka: {sentence}", file=sys.stderr)
