"""A run as a picture: an SVG with a panel for each kind of workload, bars of medians with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.measurements import KINDS, Key, Kind, Summary
from bench.systems import EMBEDDED, FLUSHING, GIVEN, SHIPPED
from bench.tables import in_order, number

_COLOURS = {EMBEDDED: "#336791", GIVEN: "#7ba7cc", FLUSHING: "#c1440e", SHIPPED: "#e9a17c"}
_OTHER = "#9aa0a6"
_WIDTH, _LEFT, _RIGHT = 960, 300, 130
_BAR, _GAP, _GROUP_GAP = 14, 3, 14
_TITLE, _LABEL, _LEGEND = 30, 18, 34
_BARS = _WIDTH - _LEFT - _RIGHT


def write(path: Path, summaries: dict[Key, Summary], subtitle: str) -> None:
    """The chart of a run."""
    path.write_text(svg(summaries, subtitle))


def svg(summaries: dict[Key, Summary], subtitle: str) -> str:
    """The picture as text."""
    systems = list(dict.fromkeys(summary.key[2] for summary in in_order(summaries.values())))
    body = [_text(16, 26, "pg_kafka and Apache Kafka on one machine", size=18, weight="bold")]
    body.append(_text(16, 46, subtitle, size=11, colour="#666"))
    top = 62
    at = 16
    for system in systems:
        width = 26 + 6.6 * len(system)
        if at + width > _WIDTH:
            at, top = 16, top + 18
        body.append(f'<rect x="{at}" y="{top}" width="12" height="12" fill="{_colour(system)}"/>')
        body.append(_text(at + 16, top + 10, system, size=11))
        at += int(width)
    top += _LEGEND
    for name, kind in KINDS.items():
        mine = [summary for key, summary in summaries.items() if key[0] == name]
        if mine:
            top = _panel(body, top, kind, mine)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *body, "</svg>", ""])


def _panel(body: list[str], top: int, kind: Kind, mine: Sequence[Summary]) -> int:
    """Draws one kind; returns where the next may begin."""
    better = "higher is better" if kind.is_rate else "lower is better"
    body.append(_text(16, top + 12, f"{kind.title}: {kind.unit}, {better}", size=13, weight="bold"))
    top += _TITLE
    largest = max(summary.figures[kind.headline].high for summary in mine) or 1.0
    for workload in dict.fromkeys(summary.key[1] for summary in mine):
        bars = in_order(summary for summary in mine if summary.key[1] == workload)
        height = len(bars) * (_BAR + _GAP)
        for number_of_line, words in enumerate(_wrapped(workload, 44)):
            body.append(_text(_LEFT - 10, top + 11 + 13 * number_of_line, words, size=11, anchor="end"))
        body.append(f'<line x1="{_LEFT}" y1="{top - 2}" x2="{_LEFT}" y2="{top + height}" stroke="#bbb"/>')
        for summary in bars:
            _bar(body, top, summary, kind, largest)
            top += _BAR + _GAP
        top += _GROUP_GAP
    return top + _LABEL


def _bar(body: list[str], top: int, summary: Summary, kind: Kind, largest: float) -> None:
    spread = summary.figures[kind.headline]
    width, low, high = (_BARS * value / largest for value in (spread.median, spread.low, spread.high))
    tip = escape(f"{summary.key[2]}: {number(spread.median * kind.scale)} {kind.unit}")
    body.append(
        f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_colour(summary.key[2])}">'
        f"<title>{tip}</title></rect>"
    )
    middle = top + _BAR / 2
    if high > low:
        body.append(
            f'<path d="M{_LEFT + low:.1f} {middle}H{_LEFT + high:.1f}M{_LEFT + low:.1f} {middle - 3}v6'
            f'M{_LEFT + high:.1f} {middle - 3}v6" stroke="#222" fill="none"/>'
        )
    body.append(_text(_LEFT + max(width, high) + 6, top + 11, number(spread.median * kind.scale), size=11))


def _text(
    x: float, y: float, text: str, *, size: int, weight: str = "normal", anchor: str = "start", colour: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _wrapped(text: str, width: int) -> list[str]:
    """Lines cut at commas."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > width and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def _colour(system: str) -> str:
    return _COLOURS.get(system, _OTHER)
