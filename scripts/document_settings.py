"""Writes the tables of docs/configs.md, that of the flags in docs/operations.md and that of subscriptions to metrics of
clients in docs/telemetry.md, from pg_kafka.config.

A test compares the pages with what this makes.

python scripts/document_settings.py
"""

from __future__ import annotations

from pathlib import Path

from pg_kafka.config import Config
from pg_kafka.config.broker import BROKER_KEYS
from pg_kafka.config.client_metrics import CLIENT_METRICS_KEYS
from pg_kafka.config.groups import GROUP_KEYS
from pg_kafka.config.keys import Key
from pg_kafka.config.settings import START_KEYS
from pg_kafka.config.topics import TOPIC_KEYS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("operations.md", "configs.md", "telemetry.md")
START = "<!-- {} configs: written by scripts/document_settings.py -->\n"
END = "<!-- end -->"


def _default(key: Key) -> str:
    if key.attribute == "data":
        return "`~/.local/share/pg-kafka`"
    text = key.text(getattr(Config(), key.attribute))
    return "unset" if text is None else f"`{text}`"


def program_table() -> str:
    """The settings that a start needs before it has a database."""
    rows = ["| flag | variable | default | |", "|---|---|---|---|"]
    for key in START_KEYS.values():
        flag = "--" + key.attribute.replace("_", "-")
        doc = key.doc + (f" One of {key.range_text}." if key.choices else "")
        rows.append(f"| `{flag}` | `{key.environment}` | {_default(key)} | {doc} |")
    return "\n".join(rows) + "\n"


def topic_table() -> str:
    """What a topic may set."""
    rows = ["| config | default | values | here | |", "|---|---|---|---|---|"]
    for key in TOPIC_KEYS.values():
        rows.append(
            f"| `{key.name}` | {_shown(key.text(key.default))} | {key.range_text} | {key.effect.value} | {key.doc} |"
        )
    return "\n".join(rows) + "\n"


def broker_table() -> str:
    """What is set for brokers."""
    rows = ["| setting | default | values | here | changes hold | |", "|---|---|---|---|---|---|"]
    for key in BROKER_KEYS.values():
        when = "at once" if key.is_dynamic else "at the next start"
        rows.append(
            f"| `{key.name}` | {_shown(key.text(key.default))} | {key.range_text} | {key.effect.value} | {when} |"
            f" {key.doc} |"
        )
    return "\n".join(rows) + "\n"


def group_table() -> str:
    """What a consumer group may set."""
    rows = ["| config | default | values | |", "|---|---|---|---|"]
    for key in GROUP_KEYS.values():
        assert key.bounds is not None
        values = f"from `{key.bounds[0]}` to `{key.bounds[1]}`"
        rows.append(f"| `{key.name}` | `{key.synonyms[0]}` | {values} | {key.doc} |")
    return "\n".join(rows) + "\n"


def client_metrics_table() -> str:
    """What a subscription to metrics of clients may set."""
    rows = ["| config | default | values | |", "|---|---|---|---|"]
    for key in CLIENT_METRICS_KEYS.values():
        rows.append(f"| `{key.name}` | {_shown(key.text(key.default))} | {key.range_text or key.form} | {key.doc} |")
    return "\n".join(rows) + "\n"


def _shown(text: str | None) -> str:
    return "unset" if text is None else "empty" if text == "" else f"`{text}`"


TABLES = {
    "program": program_table,
    "topic": topic_table,
    "broker": broker_table,
    "group": group_table,
    "client metrics": client_metrics_table,
}


def with_tables(page: str) -> str:
    """The page with its tables as they must be."""
    for name, table in TABLES.items():
        start = START.format(name)
        if start in page:
            before, _, rest = page.partition(start)
            page = before + start + table() + rest[rest.index(END) :]
    return page


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(with_tables((DOCS / page).read_text(encoding="utf-8")), encoding="utf-8")
