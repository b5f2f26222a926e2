"""Background tasks: none ends unnoticed."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import pytest

from pg_kafka.tasks import supervised

ROOT = Path(__file__).parents[2]


async def fail() -> None:
    raise ZeroDivisionError


async def test_failure_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    task = supervised(fail(), "digging", told.append)
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert told == ["the task digging failed"]
    (record,) = caplog.records
    assert (record.levelname, vars(record)["task"]) == ("ERROR", "digging")
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_end_in_order_is_told_to_nobody(is_cancelled: bool, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    task = supervised(asyncio.sleep(60 if is_cancelled else 0), "digging", told.append)
    await asyncio.sleep(0)
    if is_cancelled:
        task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (told, caplog.records) == ([], [])


def started() -> set[str]:
    """Names of the tasks and threads that the package starts, numbers as N; "" for one without a name."""
    found = set()
    for file in (ROOT / "src/pg_kafka").rglob("*.py"):
        if file.is_relative_to(ROOT / "src/pg_kafka/bench"):
            continue  # a client
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "supervised":
                found.add(_text(node.args[1]))
            elif name == "Thread" or (name == "create_task" and file.name != "tasks.py"):
                named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
                found.add(_text(named[0]) if named else "")
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "N" for part in node.values)
    assert isinstance(node, ast.Constant)
    return str(node.value)


def test_every_task_is_in_the_page_s_table() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## Tasks, waits and queues\n")[1].split("\n## ")[0]
    table = section.split("\n\n")[1]
    listed = {re.sub(r"`", "", row) for row in re.findall(r"^\| ((?:`[^`]+`|a request's)) \|", table, re.MULTILINE)}
    assert {name or "a request's" for name in started()} == listed
