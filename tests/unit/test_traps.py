"""The table of traps in docs/testing.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "testing.md"
START = "<!-- traps: read by tests/unit/test_traps.py -->"


def rows() -> list[tuple[str, list[str]]]:
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition("<!-- end -->")[0]
    cells = [line.strip("| ").split("|") for line in table.strip().splitlines()[2:] if not line.startswith("| **")]
    return [(trap.strip(), re.findall(r"`([^`]+)`", tests)) for trap, tests in cells]


@pytest.mark.parametrize(("trap", "tests"), rows(), ids=lambda value: value if isinstance(value, str) else "")
def test_trap_has_tests_that_exist(trap: str, tests: list[str]) -> None:
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        assert re.search(rf"def {name}\b", (TESTS / file).read_text(encoding="utf-8")), test


def test_the_table_is_found() -> None:
    assert len(rows()) >= 40
