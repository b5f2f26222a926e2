"""Imports point down only: runs the contracts of [tool.importlinter] in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_layers_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    outcome = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
