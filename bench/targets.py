"""What pg_kafka wants to reach, and whether a run did.

Each target looks at medians of one of our systems; what a run has not measured is no row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.measurements import Key, Summary
from bench.systems import COPY_OF, FLUSHING, OURS, SHIPPED
from bench.tables import number, ratio

Summaries = dict[Key, Summary]


@dataclass(frozen=True)
class Row:
    """One target, as one of our systems has met it or not."""

    what: str
    system: str
    workload: str
    bound: str
    found: float
    is_met: bool


@dataclass(frozen=True)
class Target:
    """`value` gives the figure to compare with `bound` for a summary of ours, None where the target is not about it."""

    what: str
    kind: str
    bound: Callable[[Summary, float], float]  # of a summary and the disk's flush in ms
    value: Callable[[Summaries, Summary], float | None]
    is_least: bool = True


def _against(system: str) -> Callable[[Summaries, Summary], float | None]:
    return lambda summaries, ours: ratio(summaries, ours.key, system)


def _figure(name: str, **only: str | int) -> Callable[[Summaries, Summary], float | None]:
    def value(summaries: Summaries, ours: Summary) -> float | None:
        return ours.median(name) if all(ours.settings.get(key) == wanted for key, wanted in only.items()) else None

    return value


def _copy(summaries: Summaries, ours: Summary) -> float | None:
    return ratio(summaries, ours.key, COPY_OF[ours.key[2]]) if ours.settings["producers"] == 4 else None


def _p99_against_flushing(summaries: Summaries, ours: Summary) -> float | None:
    return ratio(summaries, ours.key, FLUSHING) if ours.settings["records_per_s"] == 1000 else None


def _always(bound: float) -> Callable[[Summary, float], float]:
    return lambda ours, flush_ms: bound


TARGETS: Sequence[Target] = (
    Target(
        "produce, against Kafka with flush.messages=1",
        "produce",
        lambda ours, flush_ms: 1.5 if ours.settings["batch_bytes"] == 65_536 else 2.0,
        _against(FLUSHING),
    ),
    Target("produce, against Kafka as shipped", "produce", _always(0.75), _against(SHIPPED)),
    Target("produce with 4 producers, against plain COPY of the rows", "produce", _always(0.7), _copy),
    Target("consume live, against Kafka as shipped", "consume live", _always(0.9), _against(SHIPPED)),
    Target("consume cold, against Kafka as shipped", "consume cold", _always(0.6), _against(SHIPPED)),
    Target(
        "p50 at 1k records/s in ms: two flushes and 1 ms",
        "latency",
        lambda ours, flush_ms: 2 * flush_ms + 1,
        _figure("p50_ms", records_per_s=1000),
        is_least=False,
    ),
    Target(
        "p99 at 1k records/s, against Kafka with flush.messages=1", "latency", _always(3), _p99_against_flushing, False
    ),
    Target(
        "transactions of 100 ms, against Kafka with flush.messages=1", "transactions", _always(0.8), _against(FLUSHING)
    ),
    Target("transactions of 100 ms, against Kafka as shipped", "transactions", _always(0.8), _against(SHIPPED)),
    Target("small producers, against Kafka with flush.messages=1", "small producers", _always(1), _against(FLUSHING)),
    Target(
        "broker CPU for a 100 B record in, 64 kB batches, in us",
        "produce",
        _always(0.35),
        _figure("cpu_s_per_million_broker", record_bytes=100, batch_bytes=65_536, codec="none"),
        is_least=False,
    ),
    Target(
        "broker CPU for a 100 B record out, in us",
        "consume cold",
        _always(0.15),
        _figure("cpu_s_per_million_broker", record_bytes=100),
        is_least=False,
    ),
    Target("idle with parked consumers, % of a core", "width", _always(1), _figure("idle_cpu_percent"), False),
    Target("RSS with parked consumers, MB", "width", _always(150), _figure("rss_mb_broker"), False),
    Target("SQL scan of 100 B records a second", "sql", _always(2e6), _figure("scan_per_s")),
    Target(
        "WAL for each payload byte, 100 B records",
        "produce",
        _always(1.3),
        _figure("wal_per_byte", record_bytes=100, codec="none"),
        is_least=False,
    ),
)


def rows(summaries: Summaries, flush_ms: Sequence[float]) -> Iterator[Row]:
    """What the run says about each target."""
    flush = statistics.median(flush_ms) if flush_ms else 0.0
    for target in TARGETS:
        for key, ours in summaries.items():
            if key[0] != target.kind or key[2] not in OURS:
                continue
            value = target.value(summaries, ours)
            if value is None:
                continue
            bound = target.bound(ours, flush)
            is_met = value >= bound if target.is_least else value <= bound
            word = "at least" if target.is_least else "at most"
            yield Row(target.what, key[2], key[1], f"{word} {number(bound)}", value, is_met)


def table(found: Sequence[Row]) -> Table:
    """For the terminal."""
    shown = Table(title="Targets", title_justify="left", header_style="bold", pad_edge=False)
    for title in ("target", "bound", "system", "workload"):
        shown.add_column(title, overflow="fold")
    shown.add_column("found", justify="right")
    shown.add_column("")
    for what, *cells, is_met in _cells(found):
        shown.add_row(what, *cells, "[green]met[/]" if is_met else "[red]missed[/]")
    return shown


def markdown(found: Sequence[Row]) -> str:
    """For a page."""
    lines = ["### Targets", "", "| target | bound | system | workload | found | |", "|---|---|---|---|---:|---|"]
    lines += (f"| {' | '.join(cells)} | {'met' if is_met else '**missed**'} |" for *cells, is_met in _cells(found))
    return "\n".join([*lines, ""])


def _cells(found: Sequence[Row]) -> Iterator[tuple[str, str, str, str, str, bool]]:
    """The rows; a target that goes on is not named again."""
    last = ""
    for row in found:
        yield "" if row.what == last else row.what, row.bound, row.system, row.workload, number(row.found), row.is_met
        last = row.what
