"""Writes the tables of docs/metrics.md from pg_kafka.metrics.catalogue.

A test compares the page with what this makes.

python scripts/document_metrics.py
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from pg_kafka.metrics.catalogue import SUBJECTS

PAGE = Path(__file__).parents[1] / "docs/metrics.md"
START = "<!-- metrics: written by scripts/document_metrics.py -->\n"
END = "<!-- end -->"


def table(subject: ModuleType) -> str:
    """The metrics of one subject."""
    rows = [f"### {subject.TITLE}\n", "| metric | type | labels | |", "|---|---|---|---|"]
    for family in subject.FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        only = f" Only {family.only}." if family.only else ""
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help}{only} |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """The page with its tables as they must be."""
    before, _, rest = page.partition(START)
    return before + START + "\n" + "\n".join(map(table, SUBJECTS)) + "\n" + rest[rest.index(END) :]


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
