"""The table of differences in docs/deviations.md, which the comparison is held against.

A row allows what it says and nothing else: in those cases (patterns of `fnmatch`), in those fields (likewise; what
names the elements of lists is left out), this value of Kafka and this one of pg_kafka. `*` is any value.
"""

from __future__ import annotations

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
    _, _, rest = page.partition(START)
    header, _, *lines = rest[: rest.index(END)].strip().splitlines()
    found = []
    for line in (header, *lines):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != len(HEADER) or not all(cells):
            raise ValueError(f"not a row of the table: {line}")
        if line is header:
            if cells != HEADER:
                raise ValueError(f"not the header of the table: {line}")
            continue
        id, cases, fields, kafka, ours, reason = cells
        found.append(Row(id, _patterns(cases), _patterns(fields), kafka.strip("`"), ours.strip("`"), reason))
    return found


def _patterns(cell: str) -> tuple[str, ...]:
    return tuple(part.strip(" `") for part in cell.split(","))
