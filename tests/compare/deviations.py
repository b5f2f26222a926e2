"""The tables of differences in docs/deviations.md, which the comparisons are held against.

A row allows what it says and nothing else: in those cases (patterns of `fnmatch`), in those fields (likewise; what
names the elements of lists is left out), this value of Kafka and this one of pg_kafka. `*` is any value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "deviations.md"
START = "<!-- differences: read by tests/compare -->\n"
END = "<!-- end -->"
HEADER = ["id", "requests", "field", "Kafka", "pg_kafka", "why"]


@dataclass(frozen=True)
class Row:
    """One allowed difference."""

    id: str
    cases: tuple[str, ...]
    fields: tuple[str, ...]
    kafka: str
    ours: str
    reason: str

    def names(self, case: str) -> bool:
        return any(fnmatchcase(case, pattern) for pattern in self.cases)

    def allows(self, case: str, field: str, pair: tuple[str, str]) -> bool:
        return (
            self.names(case)
            and any(fnmatchcase(field, pattern) for pattern in self.fields)
            and fnmatchcase(pair[0], self.kafka)
            and fnmatchcase(pair[1], self.ours)
        )


def rows(page: str) -> list[Row]:
    """The rows of the table; raises ValueError for one that has another form."""
    return [
        Row(id, _patterns(cases), _patterns(fields), kafka.strip("`"), ours.strip("`"), reason)
        for id, cases, fields, kafka, ours, reason in _cells(page, START, HEADER)
    ]


def _patterns(cell: str) -> tuple[str, ...]:
    return tuple(part.strip(" `") for part in cell.split(","))


TOOLS_START = "<!-- tools: read by tests/compare -->\n"
PROGRAMS_START = "<!-- programs: read by tests/compare -->\n"
LINES_HEADER = ["id", "what is run", "only of Kafka", "only of pg_kafka", "why"]


@dataclass(frozen=True)
class LineRow:
    """Lines that a program prints of one broker only. In its patterns `*` is any text."""

    id: str
    steps: tuple[str, ...]
    kafka: tuple[str, ...]
    ours: tuple[str, ...]
    reason: str

    def names(self, step: str) -> bool:
        return bool(self.patterns_in([step], self.steps))

    def allows_kafka(self, line: str) -> bool:
        return bool(self.patterns_in([line], self.kafka))

    def allows_ours(self, line: str) -> bool:
        return bool(self.patterns_in([line], self.ours))

    def patterns_in(self, lines: Iterable[str], patterns: tuple[str, ...]) -> set[str]:
        """Those of the patterns that one of the lines follows."""
        return {pattern for pattern in patterns if any(_is_like(line, pattern) for line in lines)}


def line_rows(page: str, start: str) -> list[LineRow]:
    """The rows of a table of lines, which begins there; raises ValueError for one that has another form."""
    return [
        LineRow(id, *(tuple(re.findall("`([^`]*)`", cell)) for cell in (steps, kafka, ours)), reason)
        for id, steps, kafka, ours, reason in _cells(page, start, LINES_HEADER)
    ]


def _is_like(line: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), line) is not None


def _cells(page: str, start: str, wanted: list[str]) -> list[list[str]]:
    _, _, rest = page.partition(start)
    header, _, *lines = rest[: rest.index(END)].strip().splitlines()
    found = []
    for line in (header, *lines):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(wanted) or not all(cells):
            raise ValueError(f"not a row of the table: {line}")
        found.append(cells)
    if found[0] != wanted:
        raise ValueError(f"not the header of the table: {header}")
    return found[1:]
