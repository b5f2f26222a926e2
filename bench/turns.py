"""Runs a profile: in each round every system has a turn, in an order that rotates, on an empty folder, alone.

In a turn a broker is started, warmed up, given all workloads, and stopped; its data are removed and the disk is synced before
the next one starts, so that no system pays for another's dirty pages. A workload that fails is told and left out; the run
goes on, and ends with exit code 1.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import java
from bench.java import ProducerRun, ToolMissing
from bench.measurements import KINDS, Measurement
from bench.payloads import Payloads
from bench.profiles import Profile
from bench.systems import running
from bench.turn import Turn, Workload

# What a broker gets before it is measured: Apache Kafka's JVM is slow at first.
WARM_UP_RECORDS = 300_000
_FLUSHES = 50
_FLUSHED_BYTES = 8192


@dataclass
class Outcome:
    """Of a whole run."""

    measurements: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    flush_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0


def run(
    profile: Profile,
    systems: Sequence[str],
    console: Console,
    outcome: Outcome,
    *,
    rounds: int,
    warm_up_records: int = WARM_UP_RECORDS,
) -> None:
    """All rounds. `outcome` has what was found so far, also when the run is interrupted."""
    start = time.monotonic()
    steps = sum(len(profile.of_round(number)) for number in range(rounds)) * len(systems)
    with _folder() as root, _progress(console) as progress:
        task = progress.add_task("", total=steps)
        payloads = Payloads(root)
        for number in range(rounds):
            outcome.flush_ms.append(flush_ms(root))
            shift = number % len(systems)
            for name in (*systems[shift:], *systems[:shift]):
                where = f"round {number + 1}/{rounds}  {name}"
                progress.update(task, description=f"{where}  start")
                folder = root / f"turn-{number}-{systems.index(name)}"
                folder.mkdir()
                folder.chmod(0o711)
                workloads = profile.of_round(number)
                begun = 0
                try:
                    with running(name, folder) as system:
                        turn = Turn(system, number, payloads, folder, lambda text: progress.console.print(f"  {text}"))
                        _warm_up(turn, warm_up_records)
                        for workload in workloads:
                            begun += 1
                            progress.update(task, description=f"{where}  {workload.name}")
                            for one in _attempt(turn, workload, outcome):
                                progress.console.print(line(one), highlight=False)
                            progress.advance(task)
                except ToolMissing as missing:
                    outcome.missing.add(f"{name}: {missing}")
                except Exception as error:  # a system that does not start or stop must not lose the others' figures
                    outcome.failures.append(f"{name}: {error}")
                    progress.console.print(f"[red]failed[/] {outcome.failures[-1]}")
                progress.advance(task, len(workloads) - begun)
                outcome.seconds = time.monotonic() - start


def line(one: Measurement) -> str:
    """A measurement as it is told while the run goes on."""
    kind = KINDS[one.kind]
    value = one.figures[kind.headline] * kind.scale
    note = f"  ({one.note})" if one.note else ""
    return f"{one.kind:15} {one.workload:58} {one.system:36} {value:10.2f} {kind.unit}{note}"


def flush_ms(folder: Path) -> float:
    """How long the disk takes to flush 8 kB: median of some writes."""
    path = folder / "flush"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FLUSHES):
            file.write(bytes(_FLUSHED_BYTES))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(times) * 1000


def _attempt(turn: Turn, workload: Workload, outcome: Outcome) -> Iterator[Measurement]:
    try:
        for one in workload.run(turn):
            outcome.measurements.append(one)
            yield one
    except ToolMissing as missing:
        outcome.missing.add(str(missing))
    except Exception as error:  # the other workloads are worth having
        outcome.failures.append(f"{turn.system.name}, {workload.name}: {type(error).__name__}: {error}")
        turn.say(f"failed: {outcome.failures[-1]}")
        for complaint in turn.system.complaints():
            turn.say(complaint)


def _warm_up(turn: Turn, records: int) -> None:
    if records:
        payload = turn.payloads.file("random", 100)
        java.produce(turn.system.bootstrap, ProducerRun(turn.topic(1), payload, records))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # PostgreSQL, which does not run as root, must pass
        yield Path(root)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    # Once a second: drawing must not take the processor from what is measured.
    with Progress(*columns, console=console, refresh_per_second=1, transient=True) as progress:
        yield progress
