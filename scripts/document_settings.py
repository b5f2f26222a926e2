"""Writes the table of settings in docs/operations.md from pg_kafka.config; a test compares the two.

python scripts/document_settings.py
"""

from __future__ import annotations

from pathlib import Path

from pg_kafka.config import SETTINGS, Config, Setting

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
START_PROGRAM = "<!-- program settings: written by scripts/document_settings.py -->\n"
START_BROKER = "<!-- broker settings: written by scripts/document_settings.py -->\n"
END = "<!-- end -->"


def _default(setting: Setting) -> str:
    if setting.attribute == "data":
        return "`~/.local/share/pg-kafka`"
    text = setting.text(getattr(Config(), setting.attribute))
    return "unset" if text is None else f"`{text}`"


def program_table() -> str:
    """The settings that a start needs before it has a database."""
    rows = ["| flag | variable | default | |", "|---|---|---|---|"]
    for setting in SETTINGS:
        if setting.start_only:
            flag = "--" + setting.attribute.replace("_", "-")
            doc = setting.doc + (f" One of {setting.range_text}." if setting.choices else "")
            rows.append(f"| `{flag}` | `{setting.environment}` | {_default(setting)} | {doc} |")
    return "\n".join(rows) + "\n"


def broker_table() -> str:
    """All other settings."""
    rows = ["| setting | default | values | |", "|---|---|---|---|"]
    for setting in SETTINGS:
        if not setting.start_only:
            rows.append(f"| `{setting.name}` | {_default(setting)} | {setting.range_text} | {setting.doc} |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """The page with both tables as they must be."""
    for start, table in ((START_PROGRAM, program_table()), (START_BROKER, broker_table())):
        before, _, rest = page.partition(start)
        page = before + start + table + rest[rest.index(END) :]
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
