"""Writes the dashboard and the alert rules into a folder. What somebody has changed there is left as it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pg_kafka.dashboards import alerts, overview
from pg_kafka.dashboards.rules import as_yaml
from pg_kafka.errors import FatalError

DASHBOARD = "pg-kafka-dashboard.json"
ALERTS = "pg-kafka-alerts.yml"


@dataclass(frozen=True)
class Written:
    """A file, and what was done: `made`, `replaced`, `kept` (it has something else) or `same`."""

    path: Path
    what: str


def contents() -> dict[str, str]:
    """The files by their names."""
    return {
        DASHBOARD: json.dumps(overview.dashboard(), indent=2, ensure_ascii=False) + "\n",
        ALERTS: as_yaml(alerts.RULES, alerts.HEADING),
    }


def write(folder: Path, *, replace: bool = False) -> list[Written]:
    """Write both files; one that is there with another content is kept unless `replace`. Raises FatalError."""
    done = []
    for name, text in contents().items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = path.read_bytes() if path.exists() else None
            if found == text.encode():
                done.append(Written(path, "same"))
                continue
            if found is not None and not replace:
                done.append(Written(path, "kept"))
                continue
            _put(path.resolve(), text)
        except OSError as error:
            raise FatalError(f"cannot write {path}: {error.strerror or error}") from None
        done.append(Written(path, "made" if found is None else "replaced"))
    return done


def _put(path: Path, text: str) -> None:
    """The whole file or nothing: half a one would look like one that somebody has changed."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
