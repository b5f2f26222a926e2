"""What a system spends on a piece of work: processor time, memory, WAL and disk."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes
from bench.systems import BROKER, POSTGRESQL, System

CLIENT = "client"


@dataclass(frozen=True)
class _Moment:
    at: float
    cpu_s: dict[str, float]
    client_cpu_s: float
    wal_bytes: int | None
    disk_bytes: int


@dataclass
class Meter:
    """Made before the work; `figures` after it."""

    system: System
    _before: _Moment = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._now()

    def figures(self, records: int, payload_bytes: int = 0, clients: float | None = None) -> dict[str, float]:
        """By name. `clients`: their processor seconds, where not all of the children that have ended counts."""
        before, after = self._before, self._now()
        found = {}
        for role, spent in after.cpu_s.items():
            found[f"cpu_s_per_million_{role}"] = (spent - before.cpu_s[role]) / records * 1e6
        spent_by_clients = after.client_cpu_s - before.client_cpu_s if clients is None else clients
        found[f"cpu_s_per_million_{CLIENT}"] = spent_by_clients / records * 1e6
        found |= memory(self.system)
        if payload_bytes:
            found["disk_per_byte"] = (after.disk_bytes - before.disk_bytes) / payload_bytes
            if before.wal_bytes is not None and after.wal_bytes is not None:
                found["wal_per_byte"] = (after.wal_bytes - before.wal_bytes) / payload_bytes
        return found

    def cores(self) -> dict[str, float]:
        """How many cores each role has used since then, in percent of one."""
        seconds = time.monotonic() - self._before.at
        spent = processes.cpu_s(self.system.roles())
        return {role: (spent[role] - self._before.cpu_s[role]) / seconds * 100 for role in spent}

    def _now(self) -> _Moment:
        return _Moment(
            time.monotonic(),
            processes.cpu_s(self.system.roles()),
            processes.client_cpu_s(),
            wal_bytes(self.system),
            allocated_bytes(self.system.data_folders()),
        )


def memory(system: System) -> dict[str, float]:
    """MB: the broker's resident set, and what PostgreSQL's processes have together; nothing of processes not ours."""
    roles = system.roles()
    found = {f"rss_mb_{BROKER}": processes.rss_mb(roles[BROKER])} if BROKER in roles else {}
    if POSTGRESQL in roles:
        found[f"rss_mb_{POSTGRESQL}"] = processes.memory_mb(roles)[POSTGRESQL]
    return found


def wal_bytes(system: System) -> int | None:
    """All WAL written so far; None without a PostgreSQL."""
    if system.dsn() is None:
        return None
    [row] = system.query("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS bytes")
    return int(row["bytes"])


def allocated_bytes(folders: Sequence[Path]) -> int:
    """What files take on disk; holes and preallocated sizes do not count."""
    total = 0
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.stat(os.path.join(where, name)).st_blocks * 512  # noqa: PTH116, PTH118 -- many files
                except FileNotFoundError:
                    pass
    return total
