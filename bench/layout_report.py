"""What bench.layout has measured, as a table for the terminal, a page, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.table import Table

PAGE, PICTURE = "layout-results.md", "layout.svg"
# What the picture shows, each as a panel.
_PANELS = {
    "write_us_kb": "writing: microseconds of PostgreSQL's processor time for a kB of records",
    "read_us_kb": "reading back: microseconds of PostgreSQL's processor time for a kB",
    "encode_us_kb": "encoding for consumers: microseconds of the broker's processor time for a kB",
    "view_mb_s": "SQL over the topic's view: MB of records a second",
}
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP = 960, 190, 90, 12, 3
_COLOURS = {"inline": "#e9a17c", "toast": "#336791"}


@dataclass(frozen=True)
class Run:
    """Medians of all layouts for records of one size on one server."""

    server: str
    record_bytes: int
    megabytes: int
    rounds: int
    figures: Mapping[str, Mapping[str, float]]

    @property
    def title(self) -> str:
        return f"{self.server}: records of {self.record_bytes:,} B, {self.megabytes} MB, medians of {self.rounds}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def table(run: Run, columns: Mapping[str, str]) -> Table:
    """For the terminal."""
    made = Table(title=run.title)
    made.add_column("layout")
    for title in columns.values():
        made.add_column(title, justify="right")
    for layout, figures in run.figures.items():
        made.add_row(layout, *(_number(figures[key]) for key in columns))
    return made


def write(folder: Path, runs: Sequence[Run], columns: Mapping[str, str]) -> None:
    """The page and the picture."""
    (folder / PAGE).write_text(_page(runs, columns))
    (folder / PICTURE).write_text(_picture(runs))


def _page(runs: Sequence[Run], columns: Mapping[str, str]) -> str:
    lines = [
        "# Layouts of the log, measured",
        "",
        "`python -m bench.layout --server embedded --server postgresql-15 --write docs` makes this page.",
        "[storage.md](storage.md#how-large-a-row-is) says what follows from it. A layout is where the arrays of a row lie",
        "(in the heap, or in TOAST) and how many kB of records a row has at most.",
        "",
    ]
    for run in runs:
        lines += [
            f"## {run.title}",
            "",
            f"| layout | {' | '.join(columns.values())} |",
            "|---|" + "---:|" * len(columns),
        ]
        lines += [
            f"| {layout} | {' | '.join(_number(figures[key]) for key in columns)} |"
            for layout, figures in run.figures.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _picture(runs: Sequence[Run]) -> str:
    body: list[str] = []
    top = 20
    for key, title in _PANELS.items():
        body.append(f'<text x="16" y="{top}" font-size="13" font-weight="bold">{escape(title)}</text>')
        top += 12
        for run in runs:
            largest = max(figures[key] for figures in run.figures.values())
            label = f"{run.server}, {run.record_bytes:,} B"
            body.append(f'<text x="16" y="{top + 12}" font-size="11" fill="#666">{escape(label)}</text>')
            for layout, figures in run.figures.items():
                width = (_WIDTH - _LEFT - _RIGHT - 90) * figures[key] / largest
                colour = _COLOURS[layout.partition("-")[0]]
                body.append(
                    f'<text x="{_LEFT + 80}" y="{top + 10}" font-size="10" text-anchor="end">{escape(layout)}</text>'
                    f'<rect x="{_LEFT + 86}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
                    f'<text x="{_LEFT + 92 + width:.1f}" y="{top + 10}" font-size="10">{_number(figures[key])}</text>'
                )
                top += _BAR + _GAP
            top += 8
        top += 22
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *body, "</svg>", ""])
