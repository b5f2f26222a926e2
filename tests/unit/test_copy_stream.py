"""What a transaction sends as COPY data: every row once, in order, small ones together, large ones not copied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pg_kafka.storage.flight import (
    COPY_PIECE_BYTES,
    COPY_ROW_BYTES,
    Flight,
    Part,
    copy_stream,
    named_culprit,
)
from pg_kafka.wire import _records


def parts_of(*sizes: list[int]) -> list[Part]:
    """Parts with rows of these sizes, each of another byte."""
    number = iter(range(1, 1000))
    return [
        cast(Part, cast(Any, SimpleNamespace(rows=[bytes([next(number) % 256]) * n for n in rows]))) for rows in sizes
    ]


SMALL, LARGE = 100, COPY_ROW_BYTES


@pytest.mark.parametrize(
    "sizes",
    [
        [[SMALL]],
        [[LARGE]],
        [[LARGE, LARGE], [LARGE]],
        [[SMALL, LARGE, SMALL], [SMALL], [LARGE, SMALL]],
        [[LARGE - 1] * 40, [SMALL] * 3],
    ],
)
def test_every_row_is_sent_once_and_in_order(sizes: list[list[int]]) -> None:
    parts = parts_of(*sizes)
    pieces = list(copy_stream(parts))
    rows = [row for part in parts for row in part.rows]
    assert b"".join(pieces) == _records.COPY_HEADER + b"".join(rows) + _records.COPY_TRAILER
    assert all(pieces)
    assert all(len(piece) < COPY_PIECE_BYTES + LARGE + len(_records.COPY_HEADER) for piece in pieces)
    assert [row for row in rows if len(row) >= LARGE] == [
        piece for piece in pieces if any(piece is row for row in rows)
    ]


def test_small_rows_share_a_piece() -> None:
    assert len(list(copy_stream(parts_of([SMALL] * 100, [SMALL] * 100)))) == 1


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ("COPY log_0_1, line 3, column values", 1),
        ("COPY log, line 2", 0),
        ("COPY log_17_0, Zeile 3, Spalte values", 1),
        ("COPY log_0_1, línea 3, columna values", 1),
        ("COPY log_0_1, строка 3, столбец values", 1),
        ("log_0_1のCOPY、行 3", None),  # then the culprit is found by halving
        ("COPY group_journal_0, line 3", None),
        ("COPY log_0_1, line 9", None),
        (None, None),
    ],
)
def test_culprit_is_named_in_any_language(context: str | None, named: int | None) -> None:
    flight = Flight()
    parts = [cast(Part, SimpleNamespace(rows=[b"a", b"b"])) for _ in range(2)]
    flight.parts = cast(Any, SimpleNamespace(values=lambda: parts))
    error = cast(Any, SimpleNamespace(context=context))
    assert named_culprit(flight, error) is (None if named is None else parts[named])
