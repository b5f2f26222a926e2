"""Durable state of consumer groups: what their machines write, and what is there when a broker takes over.

Writes go through the lane of the group's id, in order, and share its next transaction with whatever else has queued.
After a failed write the group's later ones fail too, until the caller knows: what was written never lacks a step.

    store = GroupStore(log, control)
    groups, offsets = await store.load()
    store.write("g", result.records, (), result.history, done)
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pg_kafka.coordinator.records import HistoryEntry, Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import queries
from pg_kafka.storage.client_text import from_stored, from_stored_json
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.journal import MAX_GROUP_ID_BYTES, JournalWrite, OffsetWrite, not_written
from pg_kafka.wire.error_codes import ErrorCode

__all__ = ["MAX_GROUP_ID_BYTES", "GroupStore", "OffsetWrite", "StoredGroup", "StoredOffset"]

SQL = queries.load("groups")


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group's latest records, none of them deleted, in the order in which they were written."""

    group_id: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """A committed offset of a topic that exists. `leader_epoch` is -1 when the client gave none."""

    group_id: str
    topic_id: int
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    committed_at_ms: int


class Journals(Protocol):
    """What this needs of the log, whose lanes write the journals."""

    incarnation: int

    def write_journal(self, write: JournalWrite) -> StorageError | None: ...
    async def settle_journals(self) -> None: ...


class GroupStore:
    """See the module. Everything runs on one event loop."""

    def __init__(self, journals: Journals, control: ControlSession) -> None:
        self._journals = journals
        self._control = control
        self._refused: Counter[str] = Counter()  # by group: refusals that the caller has not been told of yet

    async def load(self) -> tuple[list[StoredGroup], list[StoredOffset]]:
        """All groups with records, and all committed offsets. Raises StorageError.

        Waits until everything queued before is committed or failed, and nothing is in doubt. What it returns is what
        counts as long as nothing is written meanwhile.
        """
        await self._journals.settle_journals()
        groups: dict[str, list[Record]] = {}
        for row in await self._control.fetch(SQL["load_groups"]):
            record = Record(row["kind"], from_stored(row["key"]), json.loads(from_stored_json(row["value"])))
            groups.setdefault(row["group_id"], []).append(record)
        offsets = [
            StoredOffset(
                row["group_id"],
                row["topic_id"],
                row["partition_id"],
                row["committed_offset"],
                row["leader_epoch"],
                row["metadata_bytes"].decode(),
                row["committed_at_ms"],
            )
            for row in await self._control.fetch(SQL["load_offsets"])
        ]
        # What was read may stand on this server only; a write of our own that returns clean is the barrier.
        await self._control.execute(queries.load("cluster")["barrier"], self._journals.incarnation)
        return [StoredGroup(group_id, tuple(records)) for group_id, records in groups.items()], offsets

    def write(
        self,
        group_id: str,
        records: Sequence[Record],
        offsets: Sequence[OffsetWrite],
        history: Sequence[HistoryEntry],
        done: Callable[[StorageError | None], None],
    ) -> None:
        """Queue one step of a group; all of it is written, or nothing.

        `done` is called exactly once, never before this returns: with None after the commit, else with an error.
        Errors are retriable, but for one that the data cause. A broker that is stopped at once calls it no more.
        """
        write = JournalWrite(group_id, records, offsets, history, done)
        error: StorageError | None
        if group_id in self._refused:
            error = not_written("an earlier write of the group was refused")
        elif reason := write.prepare():
            error = StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, reason)
        else:
            error = self._journals.write_journal(write)
        if error is not None:
            self._refused[group_id] += 1
            asyncio.get_running_loop().call_soon(self._tell_refusal, write, error)

    def prepared(
        self, group_id: str, offsets: Sequence[OffsetWrite], done: Callable[[StorageError | None], None]
    ) -> JournalWrite:
        """Offsets that are to be written with the end of a transaction, which answers. Raises StorageError."""
        if group_id in self._refused:
            raise not_written("an earlier write of the group was refused")
        write = JournalWrite(group_id, (), offsets, (), done)
        if reason := write.prepare():
            raise StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, reason)
        return write

    def _tell_refusal(self, write: JournalWrite, error: StorageError) -> None:
        self._refused[write.owner_id] -= 1
        if not self._refused[write.owner_id]:
            del self._refused[write.owner_id]
        write.done(error)
