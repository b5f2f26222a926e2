"""What modules may import: the contracts of [tool.importlinter] in pyproject.toml, and who reads the time."""

import ast
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


# All others are given a `pg_kafka.clock.Clock`, or count by the event loop.
READ_THE_TIME = {
    "clock.py",
    "logs.py",  # when a line is written
    "certs.py",  # from when certificates are valid
    "bench/cluster.py",  # what a benchmark takes
    "bench/load.py",
    "bench/open_loop.py",
    "embedded/given.py",  # how long to wait for a PostgreSQL that starts
    "embedded/postmaster.py",
}


def test_time_comes_from_the_clock() -> None:
    package = ROOT / "src/pg_kafka"
    assert {str(file.relative_to(package)) for file in package.rglob("*.py") if reads_the_time(file)} == READ_THE_TIME


def reads_the_time(file: Path) -> bool:
    """Does the module use `time`, or ask `datetime` for anything? A type of values from the database is another matter."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import) and any(alias.name in ("time", "datetime") for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if isinstance(of, ast.Name) and of.id in ("datetime", "date"):
                return True
    return False
