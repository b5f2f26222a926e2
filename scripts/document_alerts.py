"""Writes the table of alerts in docs/dashboards.md from pg_kafka.dashboards.alerts.

A test compares the page with what this makes.

python scripts/document_alerts.py
"""

from __future__ import annotations

from pathlib import Path

from pg_kafka.dashboards.alerts import RULES
from pg_kafka.dashboards.rules import Rule

PAGE = Path(__file__).parents[1] / "docs/dashboards.md"
START = "<!-- alerts: written by scripts/document_alerts.py -->\n"
END = "<!-- end -->"


def row(rule: Rule) -> str:
    """One line of the table."""
    when = "`" + " ".join(rule.expression.split()) + "`"
    wait = f", for {rule.minutes} min" if rule.minutes else ""
    more = f" [More]({rule.section})"
    return f"| `{rule.name}` | {rule.severity} | {when}{wait} | {rule.action}{more} |"


def with_table(page: str) -> str:
    """The page with its table as it must be."""
    before, _, rest = page.partition(START)
    heading = ["| alert | severity | it fires when | what to do |", "|---|---|---|---|"]
    return before + START + "\n".join([*heading, *map(row, RULES)]) + "\n" + rest[rest.index(END) :]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
