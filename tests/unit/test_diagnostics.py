"""docs/diagnostics.md has every line that the log may show, and every sentence that a start or `doctor` may end with."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pg_kafka.broker.handlers import alter_configs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/pg_kafka"
PAGE = (ROOT / "docs/diagnostics.md").read_text()
# Clients, rules that log nothing, and generated files.
LEFT_OUT = ("bench", "coordinator", "wire/messages")
DOCTOR = {"checks.py": ("warning", "error", "advice.append"), "database_checks.py": ("warning", "error")}
LOGGERS = {"log", "logger", "_logger"}
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        if not any(file.is_relative_to(PACKAGE / folder) for folder in LEFT_OUT):
            for node in ast.walk(ast.parse(file.read_text())):
                yield file, node


def template(node: ast.AST | None) -> str | None:
    """A text with … for what varies; None when it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        return re.sub("…+", "…", text)
    return None


def log_lines() -> dict[str, set[str]]:
    """Messages of all calls of loggers, and their levels as far as they are written there."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for _, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, receiver = node.func.attr, ast.unparse(node.func.value).rpartition(".")[2]
        levels: set[str] = set()
        if receiver in LOGGERS and method in LEVELS:
            message, levels = template(node.args[0]), {LEVELS[method]}
        elif receiver in LOGGERS and method == "log":
            message = template(node.args[1])
            levels = {name.lower() for name in re.findall(r"logging\.([A-Z]+)", ast.unparse(node.args[0]))}
        elif method == "note" and "audit" not in receiver:  # whose events are in docs/security.md
            message = template(node.args[0])
            given = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "level"]
            if given:
                levels = {name.lower() for name in re.findall(r"logging\.([A-Z]+)", given[0])}
            else:
                levels = {"info" if "reply" in receiver else "error"}
        else:
            continue
        if message is not None:
            found[message] |= levels
    return found


def rows(heading: str, page: str = PAGE) -> list[list[str]]:
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_log_line_is_explained_and_no_other() -> None:
    listed = {cells[0].strip("`") for cells in rows("Log lines")}
    assert {name for name in listed if not name.startswith("source=")} == set(log_lines())


def test_levels_are_those_of_the_calls() -> None:
    known = log_lines()
    for line, levels, meaning, advice in rows("Log lines"):
        if not line.startswith("`source="):
            assert known[line.strip("`")] <= set(levels.split(", ")), line
        assert meaning and advice


def sentences() -> set[str]:
    """What errors that end a start, and findings of doctor, are made of."""
    found = set()
    for file, node in nodes():
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in ("FatalError", "ConfigError", *DOCTOR.get(file.name, ())):
            assert isinstance(node, ast.Call)
            found.add(template(node.args[0]))
        elif file.name == "checks.py" and isinstance(node, ast.Tuple) and len(node.elts) == 2:
            level, text = map(template, node.elts)
            found.add(text if level in ("warning", "error") else None)
    return {text for text in found if text is not None}


def test_every_sentence_of_a_start_and_of_doctor_is_explained() -> None:
    listed = [cells[0].strip("`") for cells in rows("Sentences of a start, and of doctor")]
    known = sentences()
    assert known <= set(listed), known - set(listed)
    everything = {template(node) for _, node in nodes()}
    assert set(listed) <= everything, set(listed) - everything
    assert len(listed) == len(set(listed))


def test_every_sentence_says_what_to_do() -> None:
    for cells in rows("Sentences of a start, and of doctor"):
        assert len(cells) == 3 and all(cells), cells


def test_every_event_of_the_audit_is_explained() -> None:
    noted = {
        template(node.args[0])
        for _, node in nodes()
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("audit.note") and node.args
    }
    listed = {cells[0].strip("`") for cells in rows("Audit", (ROOT / "docs/security.md").read_text())}
    assert noted - {None} <= listed
    assert {event for event, _ in alter_configs._EVENTS.values()} <= listed


def test_no_key_of_a_line_hides_one_that_every_line_has() -> None:
    taken = {"time", "level", "source", "message", "traceback", "advice"}
    for file, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        receiver = ast.unparse(node.func.value).rpartition(".")[2]
        if receiver not in LOGGERS and node.func.attr != "note":
            continue
        keys = {keyword.arg for keyword in node.keywords} - {"level"}  # of note(): the line's own
        for keyword in node.keywords:
            if keyword.arg == "extra":
                for part in ast.walk(keyword.value):
                    if isinstance(part, ast.Dict):
                        keys |= {key.value for key in part.keys if isinstance(key, ast.Constant)}
        assert not keys & taken, (file, node.lineno, keys & taken)
