"""Writes src/pg_kafka/advice.py, which log lines take their key `advice` from, out of docs/diagnostics.md.

A test compares the module with what this makes.

python scripts/write_advice.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/diagnostics.md"
MODULE = ROOT / "src/pg_kafka/advice.py"
HEAD = '''"""What to do about each warning and error of the log, and about lines of other sources.

Written by scripts/write_advice.py from docs/diagnostics.md: change it there.
"""

from collections.abc import Mapping

'''


def plain(cell: str, page: str = "diagnostics.md") -> str:
    """Markdown as it is read in a log line: `[text](page#part)` becomes `text (docs/page#part)`."""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        place = target if "://" in target else f"docs/{page}{target}" if target.startswith("#") else f"docs/{target}"
        return f"{text} ({place})"

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, cell).replace("`", "")


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of all tables below a heading of the second level, without the tables' own headings."""
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def module(page: str) -> str:
    """The module's text."""
    by_message, by_source = {}, {}
    for first, *middle, advice in rows(page, "Log lines"):
        name = first.strip("`")
        if name.startswith("source="):
            by_source[name.removeprefix("source=")] = plain(advice)
        elif "warning" in middle[0] or "error" in middle[0]:
            by_message[name] = plain(advice)
    text = HEAD
    for name, table in (("ADVICE", by_message), ("ADVICE_BY_SOURCE", by_source)):
        text += f"{name}: Mapping[str, str] = {{\n"
        text += "".join(f"    {key!r}: {value!r},\n" for key, value in sorted(table.items()))
        text += "}\n\n"
    return text.rstrip("\n") + "\n"


def formatted(text: str) -> str:
    """As `make lint` wants it."""
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "advice.py", "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


if __name__ == "__main__":
    MODULE.write_text(formatted(module(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
