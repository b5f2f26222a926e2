"""Durable state of transactional ids: their machines' records, and the ends of transactions.

Writes go through the lane of the transactional id, in order. The end of a transaction is written whole: markers, records
and offsets of one lane in one PostgreSQL transaction.

    store = TransactionStore(log, control)
    stored = await store.load()
    store.write("id", records, done)
    await store.end(lane, writes, markers)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pg_kafka.coordinator.records import Record
from pg_kafka.errors import StorageError
from pg_kafka.storage import queries
from pg_kafka.storage.client_text import from_stored, from_stored_json
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.endings import Ending, Marker
from pg_kafka.storage.journal import MAX_GROUP_ID_BYTES, JournalWrite, OffsetWrite
from pg_kafka.storage.partition import Partition
from pg_kafka.wire.error_codes import ErrorCode

__all__ = ["MAX_GROUP_ID_BYTES", "Marker", "StoredTransaction", "TransactionStore", "group_write", "transaction_write"]

SQL = queries.load("transactions")


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A transactional id's latest records, none of them deleted, in the order in which they were written."""

    transactional_id: str
    records: tuple[Record, ...]


class Lanes(Protocol):
    """What this needs of the log."""

    incarnation: int

    def write_journal(self, write: JournalWrite) -> StorageError | None: ...
    async def settle_journals(self) -> None: ...
    async def load_for_markers(self, markers: Sequence[Marker]) -> list[tuple[Partition, Marker]]: ...
    def end_transaction(self, lane: int, ending: Ending) -> StorageError | None: ...


def transaction_write(transactional_id: str, records: Sequence[Record]) -> JournalWrite:
    """For `end`: what the transactional id's machine writes."""
    return JournalWrite(transactional_id, records, (), (), _no_answer, journal="transactions")


def group_write(group_id: str, offsets: Sequence[OffsetWrite]) -> JournalWrite:
    """For `end`: offsets that the transaction commits for a group."""
    return JournalWrite(group_id, (), offsets, (), _no_answer)


class TransactionStore:
    """See the module. Everything runs on one event loop."""

    def __init__(self, lanes: Lanes, control: ControlSession) -> None:
        self._lanes = lanes
        self._control = control

    async def load(self) -> list[StoredTransaction]:
        """All transactional ids. Raises StorageError.

        Waits until everything queued before is committed or failed, and nothing is in doubt.
        """
        await self._lanes.settle_journals()
        found: dict[str, list[Record]] = {}
        for row in await self._control.fetch(SQL["load_transactions"]):
            record = Record(row["kind"], from_stored(row["key"]), json.loads(from_stored_json(row["value"])))
            found.setdefault(row["transactional_id"], []).append(record)
        # What was read may stand on this server only; a write of our own that returns clean is the barrier.
        await self._control.execute(queries.load("cluster")["barrier"], self._lanes.incarnation)
        return [StoredTransaction(transactional_id, tuple(records)) for transactional_id, records in found.items()]

    def write(
        self, transactional_id: str, records: Sequence[Record], done: Callable[[StorageError | None], None]
    ) -> None:
        """Queue one step of a machine; all of it is written, or nothing.

        `done` is called exactly once: with None after the commit, else with an error; at once when the write is refused,
        so that nothing can be queued that builds on it. A broker that is stopped at once calls it no more.
        """
        write = JournalWrite(transactional_id, records, (), (), done, journal="transactions")
        reason = write.prepare()
        error = _refused(reason) if reason else self._lanes.write_journal(write)
        if error is not None:
            done(error)

    async def end(self, lane: int, writes: Sequence[JournalWrite], markers: Sequence[Marker]) -> None:
        """Write one lane's part of the end of a transaction, whole; returns after the commit. Raises StorageError.

        What was written before for the same owners is committed no later. Markers of topics that are gone are left out.
        """
        pairs = await self._lanes.load_for_markers(markers)
        await asyncio.shield(self.end_loaded(lane, writes, pairs))

    def end_loaded(
        self, lane: int, writes: Sequence[JournalWrite], markers: Sequence[tuple[Partition, Marker]]
    ) -> asyncio.Future[None]:
        """The same at once, for partitions that are loaded: what is queued later comes after it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(error: StorageError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        reason = next((reason for write in writes if (reason := write.prepare())), None)
        refusal = (
            _refused(reason) if reason else self._lanes.end_transaction(lane, Ending(writes, finish, markers=markers))
        )
        if refusal is not None:
            finish(refusal)
        return done


def _refused(reason: str) -> StorageError:
    return StorageError(False, ErrorCode.UNKNOWN_SERVER_ERROR, reason)


def _no_answer(_error: StorageError | None) -> None:
    """The end of the transaction is what is answered."""
