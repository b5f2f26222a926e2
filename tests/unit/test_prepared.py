"""Which rows are inserted by a prepared statement, and what is sent for one."""

from __future__ import annotations

import itertools
import re
import struct

import pytest

from pg_kafka.storage import queries
from pg_kafka.storage.prepared import SLOTS, Prepared, messages
from pg_kafka.wire import _records


def test_statement_that_comes_again_gets_a_slot_and_keeps_it() -> None:
    prepared = Prepared()
    assert prepared.take("a") is None
    assert prepared.take("b") is None
    a, b = prepared.take("a"), prepared.take("b")
    assert a is not None and b is not None and a.name != b.name
    assert (prepared.take("a"), prepared.take("b")) == (a, b)


def test_no_more_names_than_slots_and_the_oldest_gives_way() -> None:
    prepared = Prepared()
    for number in range(SLOTS):
        prepared.take(str(number))
    slots = [prepared.take(str(number)) for number in range(SLOTS)]
    assert all(slots)
    prepared.take("0")
    assert prepared.take("new") is None
    new = prepared.take("new")
    assert new is not None and not new.is_parsed
    assert slots[1] is not None and new.name == slots[1].name
    assert prepared.take("0") is slots[0]
    assert prepared.take("1") is None
    for number in range(5 * SLOTS):
        prepared.take(f"once-{number}")
    found = [prepared.take(f"once-{number}") for number in range(4 * SLOTS, 5 * SLOTS)]
    assert len({slot.name for slot in found if slot is not None}) == SLOTS


def test_more_tables_in_turn_than_slots_are_never_prepared() -> None:
    prepared = Prepared()
    turns = itertools.islice(itertools.cycle(range(SLOTS + 1)), 10 * SLOTS)
    assert not any(prepared.take(str(number)) for number in turns)


@pytest.mark.parametrize("is_parsed", [False, True])
def test_row_of_a_copy_is_the_parameters(is_parsed: bool) -> None:
    prepared = Prepared()
    prepared.take("INSERT")
    slot = prepared.take("INSERT")
    assert slot is not None
    slot.is_parsed = is_parsed
    row = struct.pack(">hiqi", 2, 8, 17, -1)
    sent = split(b"".join(messages(slot, "INSERT", "SET", row)))
    first = [
        (b"P", b"\0SET\0\0\0"),
        (b"B", bytes(8)),
        (b"E", bytes(5)),
        (b"C", b"Spg_kafka_0\0"),
        (b"P", b"pg_kafka_0\0INSERT\0\0\0"),
    ]
    bind = b"\0pg_kafka_0\0" + struct.pack(">hh", 1, 1) + row + struct.pack(">h", 0)
    assert sent == ([] if is_parsed else first) + [(b"B", bind), (b"E", bytes(5)), (b"S", b"")]


def test_rows_of_the_log_have_a_parameter_for_each_column() -> None:
    statement = queries.load("log")["insert_row"]
    assert [int(number) for number in re.findall(r"\$(\d+)", statement)] == [
        number + 1 for number in range(len(_records.COLUMNS))
    ]


@pytest.mark.parametrize("journal", ["offsets", "groups", "history", "transactions"])
def test_journals_are_inserted_with_the_columns_that_are_copied(journal: str) -> None:
    statements = queries.load("groups")
    copied, inserted = statements[f"copy_{journal}"], statements[f"insert_{journal}"]
    columns = re.search(r"\(([a-z_, ]+)\)", copied)
    assert columns is not None
    count = columns[1].count(",") + 1
    parameters = ", ".join(f"${number + 1}" for number in range(count))
    assert " ".join(inserted.split()) == f"INSERT INTO kafka.{{{journal}}} ({columns[1]}) VALUES ({parameters})"


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        end = 1 + int.from_bytes(data[1:5], "big")
        found.append((data[:1], data[5:end]))
        data = data[end:]
    return found
