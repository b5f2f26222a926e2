"""A partition's state has one writer: its own verbs. What else may write a field is named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pg_kafka
from pg_kafka.storage.partition import Partition

PACKAGE = Path(pg_kafka.__file__).parent
# The lane's queue stands in the lane's ring; a read leaves a guess for the next one.
OTHERS = {("storage/staging.py", "is_ringed"), ("storage/reading.py", "average_row_bytes")}
CHANGERS = {"append", "extend", "update", "pop", "popleft", "clear", "add", "discard", "setdefault", "__setitem__"}
OF_OTHERS = {"pending", "waiters", "tail"}  # objects with verbs of their own


def written(tree: ast.AST) -> set[tuple[str, int]]:
    """Fields of something called `partition` that are assigned to, or changed by a method, with their lines."""
    found = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = [
                leaf for target in node.targets for leaf in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGERS:
            targets = [node.func.value]
        for target in targets:
            while isinstance(target, ast.Subscript):
                target = target.value
            if isinstance(target, ast.Attribute) and ast.unparse(target.value).rpartition(".")[2] == "partition":
                found.add((target.attr, target.lineno))
    return found


def test_only_partition_py_changes_a_partition() -> None:
    fields = set(Partition.__slots__) - OF_OTHERS
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if name == "storage/partition.py":
            continue
        for field, line in written(ast.parse(path.read_text(encoding="utf-8"))):
            if field in fields and (name, field) not in OTHERS:
                wrong.append(f"{name}:{line} {field}")
    assert not wrong


def test_a_writer_elsewhere_is_found() -> None:
    for text in ("partition.high_watermark = 3", "part.partition.extents[:] = []", "partition.epochs.append(1)"):
        assert written(ast.parse(text)), text
