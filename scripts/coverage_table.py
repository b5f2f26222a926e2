"""Writes the tables of docs/protocol.md and docs/deviations.md from the code; a test compares the two.

    protocol.md     the dispatch table
    deviations.md   the "Not done" blocks of the handlers

python scripts/coverage_table.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path

from pg_kafka.broker.api import Api
from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.messages import API_SCHEMAS

DOCS = Path(__file__).parents[1] / "docs"
END = "<!-- end -->"


def coverage_table() -> str:
    """A row for each API that is served."""
    rows = ["| key | API | versions | advertised from | first flexible |", "|---|---|---|---|---|"]
    for api in APIS.values():
        advertised = api.min_version if api.advertised_min is None else api.advertised_min
        rows.append(
            f"| {api.key} | {api.name} | {_span(api.min_version, api.max_version)} | {advertised} | {_flexible(api)} |"
        )
    return "\n".join(rows) + "\n"


def not_done_list() -> str:
    """What each handler says it does not do."""
    lines = []
    for api in APIS.values():
        lines += [f"- {api.name}: {item}" for item in not_done(api)]
    return "\n".join(lines) + "\n"


def not_done(api: Api) -> list[str]:
    """The items of the `Not done` block of a handler's docstring."""
    doc = cleandoc(api.handler.__doc__ or "")
    _, found, block = doc.partition("\nNot done")
    if not found:
        return []
    block = re.split(r"\n\S", block, maxsplit=1)[0]
    return [" ".join(item.split()) for item in re.split(r"(?:^|\n)\s*- ", block)[1:]]


PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("protocol.md", "<!-- apis: written by scripts/coverage_table.py -->\n", coverage_table),
    ("deviations.md", "<!-- not done: written by scripts/coverage_table.py -->\n", not_done_list),
)


def with_parts(name: str, page: str) -> str:
    """The page with its parts as they must be."""
    for page_name, start, part in PARTS:
        if page_name == name:
            before, _, rest = page.partition(start)
            page = before + start + part() + rest[rest.index(END) :]
    return page


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _flexible(api: Api) -> str:
    first = API_SCHEMAS[api.key].first_flexible
    return str(max(first, api.min_version)) if first <= api.max_version else ""


if __name__ == "__main__":
    for name in sorted({part[0] for part in PARTS}):
        path = DOCS / name
        path.write_text(with_parts(name, path.read_text(encoding="utf-8")), encoding="utf-8")
