"""The account of the tests with many SQL sessions finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.clients.records import Record
from tests.crash.sql_account import PARTITIONS, Note, Shape, check, note_of

Logs = dict[int, list[Record]]

NOTES = [
    Note("k1", 1, 4 + Shape.PLAIN),
    Note("k1", 2, 8 + Shape.WITH_HEADERS),
    Note("k1", 3, 12 + Shape.TOMBSTONE),
    Note("at2-1", 1, 16 + Shape.LARGE),
    Note("none-1", 1, 20 + Shape.PLAIN),
    Note("none-1", 2, 24 + Shape.WITH_HEADERS),
]
OF_K1 = next(note.partition for note in NOTES if note.name == "k1") or 0


def record_of(note: Note, offset: int) -> Record:
    return Record(note.key, note.value, note.headers, 1_700_000_000_000, offset)


def log_of(notes: list[Note]) -> Logs:
    log: Logs = {partition: [] for partition in range(PARTITIONS)}
    for note in notes:
        records = log[note.partition or 0]
        records.append(record_of(note, len(records)))
    return log


def test_a_good_log_has_no_faults() -> None:
    assert check(NOTES, log_of(NOTES), {"another": log_of(NOTES)}) == []


@pytest.mark.parametrize("note", NOTES, ids=str)
def test_notes_are_read_from_their_records(note: Note) -> None:
    assert note_of(record_of(note, 7)) == note


@pytest.mark.parametrize(
    ("committed", "logged", "said"),
    [
        (NOTES, NOTES[:2] + NOTES[3:], "1 committed, and not in the log"),
        (NOTES[1:], NOTES, "1 in the log, and not committed"),
        (NOTES, [*NOTES, NOTES[3]], "1 in the log more than once"),
        (NOTES, [NOTES[1], NOTES[0], *NOTES[2:]], "1 out of order"),
        ([*NOTES, Note("k1", 4, 28)], [*NOTES, Note("k1", 4, 32)], "1 committed, and not in the log"),
    ],
    ids=["lost", "rolled back", "doubled", "order", "another attempt"],
)
def test_it_finds(committed: list[Note], logged: list[Note], said: str) -> None:
    assert any(fault.startswith(said) for fault in check(committed, log_of(logged), {}))


def _damaged(log: Logs) -> None:
    log[OF_K1][0] = replace(log[OF_K1][0], value=b"k1/1/4/something else")


def _without_headers(log: Logs) -> None:
    log[OF_K1][1] = replace(log[OF_K1][1], headers=())


def _gap(log: Logs) -> None:
    log[OF_K1][-1] = replace(log[OF_K1][-1], offset=17)


def _elsewhere(log: Logs) -> None:
    other = (OF_K1 + 1) % PARTITIONS
    log[other].append(replace(log[OF_K1].pop(), offset=len(log[other])))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_damaged, "is not what was produced"),
        (_without_headers, "is not what was produced"),
        (_gap, "offset 17 where"),
        (_elsewhere, "in another partition"),
    ],
)
def test_it_finds_in_the_log(harm: Callable[[Logs], None], said: str) -> None:
    log = log_of(NOTES)
    harm(log)
    assert any(said in fault for fault in check(NOTES, log, {}))


def test_it_finds_a_reader_that_saw_something_else() -> None:
    seen = log_of(NOTES)
    seen[2].append(record_of(Note("at2-1", 2, 40), 1))
    (fault,) = check(NOTES, log_of(NOTES), {"java": seen})
    assert fault.startswith("java: 2: 2 records of 1")
