"""Janitors with some options, the others as they are by default."""

from __future__ import annotations

import dataclasses
from typing import Any

from pg_kafka.storage.upkeep.janitor import Janitor
from pg_kafka.storage.upkeep.job import Job, LaneControl, Options

OPTIONS = {field.name for field in dataclasses.fields(Options)}
USUAL = {"segment_bytes": 1 << 40, "segment_ms": 1 << 60, "compression": "none"}


def janitor_of(dsn: str, lanes: LaneControl, **arguments: Any) -> Janitor:
    """One that is not started; `arguments` are those of Janitor and of Options."""
    options = USUAL | {name: value for name, value in arguments.items() if name in OPTIONS}
    others = {name: value for name, value in arguments.items() if name not in OPTIONS}
    return Janitor(dsn, lanes, Options(**options), **others)


def job(janitor: Janitor, name: str) -> Job:
    (found,) = (one for one in janitor._jobs if one.name == name)
    return found
