"""Alert rules as Prometheus reads them: YAML from a list of rules.

    as_yaml([Rule("PgKafkaNoLeader", "...", minutes=1, severity="critical", ...)])

The file is made to be read and changed by people: an expression on lines of its own, what may be tuned at its end.
https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

GROUP = "pg_kafka"


@dataclass(frozen=True)
class Rule:
    """One alert.

    `summary` says in a few words what is wrong, `description` what that does to clients, with the value; `action` what to
    do, and `section` where the documentation says more: a file below `docs/` with an anchor.
    """

    name: str
    expression: str
    minutes: int  # how long it must be so
    severity: str  # critical: clients cannot work now; warning: they will not, or it is slow
    summary: str
    description: str
    action: str
    section: str

    @property
    def annotations(self) -> dict[str, str]:
        return {
            "summary": self.summary,
            "description": self.description,
            "action": self.action,
            "documentation": f"docs/{self.section}",
        }


def as_dict(rules: Sequence[Rule]) -> dict[str, Any]:
    """What Prometheus finds in the file."""
    return {
        "groups": [
            {
                "name": GROUP,
                "rules": [
                    {
                        "alert": rule.name,
                        "expr": rule.expression,
                        "for": f"{rule.minutes}m",
                        "labels": {"severity": rule.severity},
                        "annotations": rule.annotations,
                    }
                    for rule in rules
                ],
            }
        ]
    }


def as_yaml(rules: Sequence[Rule], heading: str) -> str:
    """The file, with a comment at its top."""
    return "\n".join(_lines(rules, heading)) + "\n"


def _lines(rules: Sequence[Rule], heading: str) -> Iterator[str]:
    for line in heading.splitlines():
        yield f"# {line}".rstrip()
    yield from ("groups:", f"  - name: {GROUP}", "    rules:")
    for rule in rules:
        yield f"      - alert: {rule.name}"
        yield "        expr: |-"
        for line in rule.expression.splitlines():
            yield f"          {line}"
        yield f"        for: {rule.minutes}m"
        yield "        labels:"
        yield f"          severity: {rule.severity}"
        yield "        annotations:"
        for name, text in rule.annotations.items():
            yield f"          {name}: {json.dumps(text, ensure_ascii=False)}"
        yield ""
