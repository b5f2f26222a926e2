"""Prepared INSERTs of one session, and the messages that run one of them with one row.

A row of a binary COPY is the number of its fields, then each field with its length before it. The parameters in a Bind message
look the same, so a row that was made for COPY goes into it as it is.

    P B E  SET plan_cache_mode     ->   only with a statement's first row
    C P    Close slot, Parse slot  ->   the same
    B E S  Bind slot, Execute, Sync  ->
                                   <-   1 2 3 for Parse, Bind, Close; C CommandComplete; or E ErrorResponse
                                   <-   Z ReadyForQuery

Without BEGIN, what comes before Sync is a transaction that commits at Sync (PostgreSQL manual, "Message Flow", "Pipelining"). So
CommandComplete does not mean that the row is committed; ReadyForQuery does.
"""

from __future__ import annotations

from dataclasses import dataclass

# A statement and its plan take some 40 kB of the backend. A lane writes to few tables at a time.
SLOTS = 32

_SYNC = b"S\x00\x00\x00\x04"
_BIND, _EXECUTE = b"B", b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
_ALL_BINARY = b"\x00\x01\x00\x01"  # one format for all parameters, and it is binary
_NO_RESULT = b"\x00\x00"


@dataclass(slots=True, eq=False)
class Slot:
    """A name that the server knows a statement by. The driver's own names begin with `__asyncpg`."""

    name: bytes
    is_parsed: bool = False


class Prepared:
    """Which statement has which slot; the one that was used longest ago gives its slot to a new one.

    Names are used again, and Parse always comes after Close of its name. So the server never has more than SLOTS of these
    statements, whatever has failed before, and a failed Parse leaves nothing behind that could be in the way.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}  # the one used last is the last

    def take(self, statement: str) -> Slot | None:
        """The slot of a statement that was asked for not long ago, None for another one.

        Parse and a first plan cost more than COPY. A lane that writes to hundreds of tables in turn would prepare a statement
        for each row; this way it prepares none.
        """
        slot = self._slots.pop(statement, None)
        if slot is not None:
            self._slots[statement] = slot
            return slot
        name = b"pg_kafka_%d" % len(self._slots)
        if len(self._slots) >= SLOTS:
            name = self._slots.pop(next(iter(self._slots))).name
        self._slots[statement] = Slot(name)
        return None


def messages(slot: Slot, statement: str, setting: str, row: bytes) -> tuple[bytes, ...]:
    """What runs a statement with a row; the setting is made before a statement is planned for the first time.

    When the first row fails, the setting is undone with it, and all of this has to come again. So the caller sets `is_parsed`
    afterwards.
    """
    head = b"\x00" + slot.name + b"\x00" + _ALL_BINARY
    size = 4 + len(head) + len(row) + len(_NO_RESULT)
    bind = (_BIND + size.to_bytes(4, "big") + head, row, _NO_RESULT + _EXECUTE + _SYNC)
    if slot.is_parsed:
        return bind
    unnamed = _message(b"B", b"\x00\x00\x00\x00\x00\x00\x00\x00") + _EXECUTE
    close = _message(b"C", b"S" + slot.name + b"\x00")
    return (_parse(b"", setting) + unnamed + close + _parse(slot.name, statement), *bind)


def _parse(name: bytes, text: str) -> bytes:
    return _message(b"P", name + b"\x00" + text.encode() + b"\x00\x00\x00")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body
