"""Processor time and memory of the processes of a system, by role, from /proc.

A role is a process with all below it, those that have ended included, without the roles that are below it in turn: an
embedded PostgreSQL is a child of its broker.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STAT_AFTER_NAME = re.compile(r".*\) (.*)", re.DOTALL)


def cpu_s(roles: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds since each role's process began."""
    times, children = _process_table()
    return {role: sum(times[pid] for pid in _family(roles, role, children)) for role in roles}


def memory_mb(roles: Mapping[str, int]) -> dict[str, float]:
    """Resident memory in MB; what processes of a role share counts once."""
    _, children = _process_table()
    return {role: sum(_proportional_bytes(pid) for pid in _family(roles, role, children)) / 1e6 for role in roles}


def rss_mb(pid: int) -> float:
    """Resident set of one process."""
    return _field(Path(f"/proc/{pid}/status").read_text(), "VmRSS") / 1e6


def client_cpu_s() -> float:
    """Of this process and of all its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _process_table() -> tuple[dict[int, float], dict[int, list[int]]]:
    """Processor seconds of each process with its ended children, and the children of each that live."""
    times: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found = _STAT_AFTER_NAME.match((entry / "stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found is None:
            continue
        fields = found[1].split()
        pid = int(entry.name)
        # After the name: 0 state, 1 parent, ... 11 utime, 12 stime, 13 and 14 those of children that were waited for.
        times[pid] = sum(map(int, fields[11:15])) / _TICKS
        children.setdefault(int(fields[1]), []).append(pid)
    return times, children


def _family(roles: Mapping[str, int], role: str, children: Mapping[int, list[int]]) -> list[int]:
    others = {pid for name, pid in roles.items() if name != role}
    family, waiting = [], [roles[role]]
    while waiting:
        pid = waiting.pop()
        family.append(pid)
        waiting += (child for child in children.get(pid, ()) if child not in others)
    return family


def _proportional_bytes(pid: int) -> int:
    try:
        return _field(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    except OSError:
        return 0


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
