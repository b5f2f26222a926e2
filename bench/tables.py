"""Tables of medians with their spread, ratios, and what each process costs: for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from bench.measurements import KINDS, Key, Kind, Summary
from bench.systems import COPY_OF, OURS, SYSTEMS

SPREAD = "low - high"


@dataclass(frozen=True)
class Column:
    """A figure: its name in measurements, its title, and how it is written."""

    figure: str
    title: str
    digits: int = 2
    scale: float = 1.0

    def text(self, summary: Summary) -> str:
        value = summary.median(self.figure)
        return "" if value is None else f"{value * self.scale:,.{self.digits}f}"


_COSTS = (
    Column("cpu_s_per_million_broker", "broker s/M"),
    Column("cpu_s_per_million_PostgreSQL", "PostgreSQL s/M"),
    Column("cpu_s_per_million_client", "client s/M"),
    Column("rss_mb_broker", "broker MB", 0),
    Column("rss_mb_PostgreSQL", "PostgreSQL MB", 0),
)
_BYTES = (Column("wal_per_byte", "WAL/B"), Column("disk_per_byte", "disk/B"))
_PERCENTILES = (Column("p50_ms", "p50 ms"), Column("p99_ms", "p99 ms"), Column("p99.9_ms", "p99.9 ms"))

COLUMNS: dict[str, Sequence[Column]] = {
    "produce": (Column("steady_per_s", "steady k/s", 0, 1e-3), *_PERCENTILES[:2], *_COSTS, *_BYTES),
    "consume cold": _COSTS,
    "consume live": (Column("produced_per_s", "produced k/s", 0, 1e-3), *_COSTS),
    "latency": (
        *_PERCENTILES,
        Column("acknowledged_p50_ms", "ack p50"),
        Column("acknowledged_p99_ms", "ack p99"),
        *_COSTS,
    ),
    "small producers": (*_PERCENTILES, *_COSTS, *_BYTES),
    "transactions": (
        Column("p50_ms", "commit p50 ms"),
        Column("p99_ms", "commit p99 ms"),
        *_COSTS,
        *_BYTES,
    ),
    "width": (
        Column("parked_cpu_percent_broker", "parked: broker %"),
        Column("parked_cpu_percent_PostgreSQL", "PostgreSQL %"),
        Column("polling_cpu_percent_broker", "500 ms polls: broker %"),
        *_PERCENTILES,
        *_COSTS[:2],
        *_COSTS[3:],
        Column("created_s", "created s", 1),
    ),
    "sql": (
        *(Column(f"{name}_per_s", f"{name} M/s", 2, 1e-6) for name in ("count", "scan", "filter")),
        *(Column(f"{name}_per_s_parallel", f"{name}, parallel", 2, 1e-6) for name in ("count", "scan")),
        Column("read_ms", "kafka.read ms"),
    ),
    "endurance": (
        Column("start_per_s", "start k/s", 0, 1e-3),
        Column("end_per_s", "end k/s", 0, 1e-3),
        Column("start_p99_ms", "start p99", 0),
        Column("end_p99_ms", "end p99", 0),
        Column("small_tables_bytes_start", "small tables MB, start", 1, 1e-6),
        Column("small_tables_bytes_end", "end", 1, 1e-6),
        Column("small_tables_dead_end", "dead rows", 0),
        *_COSTS,
        *_BYTES,
    ),
    "groups": (
        Column("generations", "generations", 0),
        Column("cpu_s_broker", "broker s"),
        Column("cpu_s_PostgreSQL", "PostgreSQL s"),
        Column("cpu_s_client", "client s"),
        Column("standing_cpu_percent_broker", "standing: broker %"),
        *_COSTS[3:],
    ),
    "commits": (*_PERCENTILES, *_COSTS),
}


@dataclass(frozen=True)
class Sheet:
    """A table without a form: columns, and rows in groups of one workload."""

    title: str
    columns: Sequence[str]
    groups: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_table(self) -> Table:
        """For the terminal: a workload's name stands above its rows."""
        found = Table(title=self.title, title_justify="left", header_style="bold", pad_edge=False)
        found.add_column("workload, system", no_wrap=True)
        for column in self.columns:
            found.add_column(column, justify="right", no_wrap=column == SPREAD)
        for workload, rows in self.groups.items():
            found.add_row(f"[bold]{workload}[/]")
            for number_of_row, (system, *cells) in enumerate(rows, 1):
                found.add_row(f"  {system}", *cells, end_section=number_of_row == len(rows))
        if self.notes:
            found.caption, found.caption_justify = "\n".join(self.notes), "left"
        return found

    def as_markdown(self) -> str:
        """For a page."""
        lines = [f"### {self.title}", "", "| workload | system | " + " | ".join(self.columns) + " |"]
        lines.append("|---|---|" + "---:|" * len(self.columns))
        for workload, rows in self.groups.items():
            for place, row in enumerate(rows):
                lines.append(f"| {workload if place == 0 else ''} | " + " | ".join(row) + " |")
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes), ""])


def sheets(summaries: dict[Key, Summary]) -> list[Sheet]:
    """One for each kind that was measured."""
    return [_sheet(name, kind, summaries) for name, kind in KINDS.items() if any(key[0] == name for key in summaries)]


def ratio(summaries: dict[Key, Summary], ours: Key, theirs: str) -> float | None:
    """Ours to a system's headline figure; None when one of the two was not measured."""
    headline = KINDS[ours[0]].headline
    mine, other = (summaries.get((*ours[:2], system)) for system in (ours[2], theirs))
    if mine is None or other is None:
        return None
    own, reference = mine.median(headline), other.median(headline)
    return None if own is None or not reference else own / reference


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """By the order of SYSTEMS, then what is beside them."""
    order = {name: place for place, name in enumerate(SYSTEMS)}
    return sorted(summaries, key=lambda summary: order.get(summary.key[2], len(order)))


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _sheet(name: str, kind: Kind, summaries: dict[Key, Summary]) -> Sheet:
    mine = [summary for key, summary in summaries.items() if key[0] == name]
    # A ratio says something where there is somebody else to compare with.
    compared = [ours for ours in OURS if any(_ratio(summaries, one.key, ours) for one in mine)]
    columns = [one for one in COLUMNS[name] if any(one.figure in summary.figures for summary in mine)]
    better = "higher is better" if kind.is_rate else "lower is better"
    ratios = [f"{ours.removeprefix('pg_kafka, ')} is" for ours in compared]
    sheet = Sheet(f"{kind.title} ({better})", [kind.unit, SPREAD, *ratios, *(one.title for one in columns)])
    for summary in in_order(mine):
        headline = summary.figures[kind.headline]
        low, median, high = (one * kind.scale for one in (headline.low, headline.median, headline.high))
        if summary.note:
            sheet.notes.append(f"* {summary.key[2]}, {summary.key[1]}: {summary.note}")
        row = [
            summary.key[2] + " *" * bool(summary.note),
            number(median),
            f"{number(low)} - {number(high)}",
            *(_ratio(summaries, summary.key, ours) for ours in compared),
            *(column.text(summary) for column in columns),
        ]
        sheet.groups.setdefault(summary.key[1], []).append(row)
    return sheet


def _ratio(summaries: dict[Key, Summary], key: Key, ours: str) -> str:
    copied_elsewhere = any(key[2].startswith(copy) for system, copy in COPY_OF.items() if system != ours)
    if key[2] == ours or copied_elsewhere:
        return ""
    found = ratio(summaries, (*key[:2], ours), key[2])
    return "" if found is None else f"{found:.2f} x"
