"""The scan for advisories says what is known, and when it could not ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/advisories.py"
GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {
    "name": "bad",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"], "description": "it is bad"}],
}
SKIPPED = {"name": "odd", "skip_reason": "Dependency not found on PyPI"}


def scan(folder: Path, says: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the script with a program that says this in pip-audit's place."""
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nprint({says!r})\nprint('no route', file=sys.stderr)\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    command = [sys.executable, str(SCRIPT), "--program", str(program), "runtime", "lint"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([GOOD], 0, "runtime: 1 packages were looked up"),
        ([GOOD, BAD], 1, "lint: bad 2.0: PYSEC-1 CVE-1 (mended in 2.1)"),
        ([GOOD, SKIPPED], 2, "odd was not looked up"),
    ],
)
def test_what_is_known_is_said(tmp_path: Path, packages: list[object], code: int, said: str) -> None:
    done = scan(tmp_path, json.dumps({"dependencies": packages}), int(code == 1))
    assert done.returncode == code
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("says", ["", "no json", "{}"])
def test_scan_that_could_not_ask_is_no_scan_without_findings(tmp_path: Path, says: str) -> None:
    done = scan(tmp_path, says, 1)
    assert done.returncode == 2
    assert "nothing is known: no route" in done.stderr and "connection" in done.stderr


def test_without_the_program(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--program", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nothing is known" in done.stderr
