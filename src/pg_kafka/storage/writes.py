"""The statements of a lane's transaction, and the question whether it committed. No decisions here.

Locks: none but those of the inserted rows, in the order extents, epochs, checkpoints (these sorted by partition),
journals, log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from pg_kafka.errors import StorageError
from pg_kafka.storage import exchange, journal, queries
from pg_kafka.storage.flight import Flight, JournalTables, copy_stream
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import Session
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("log")
CLUSTER_SQL = queries.load("cluster")
GROUPS_SQL = queries.load("groups")

STATEMENT_TIMEOUT_S = 30.0


class StorageLost(StorageError):
    """A session can no longer be trusted; the lane must start over with new ones."""

    def __init__(self, message: str) -> None:
        super().__init__(True, ErrorCode.KAFKA_STORAGE_ERROR, message)


async def copy(
    session: Session,
    flight: Flight,
    timeout_s: float | None,
    *,
    begins: bool = False,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Stream the transaction's rows into journals and log, in one round trip, with BEGIN if it `begins` here.

    One that `is_alone` has no BEGIN before or here, so give it no deadline; if it has one row only, that is inserted.
    `on_progress`: see exchange.run.
    """
    if flight.is_alone and await _insert_only_row(session, flight):
        return
    statements = ["BEGIN"] if begins else []
    streams: list[Iterable[bytes]] = []
    if flight.journal_parts:
        names = flight.journals._asdict()
        for name, data in journal.copies(list(flight.journal_writes())).items():
            statements.append(queries.render(GROUPS_SQL[f"copy_{name}"], **names))
            streams.append((data,))
    if flight.parts:
        statements.append(_copy_log(flight))
        streams.append(copy_stream(flight.parts.values()))
    if statements:
        await exchange.run(session, "; ".join(statements), streams, timeout_s, on_progress)


async def _insert_only_row(session: Session, flight: Flight) -> bool:
    """Insert the row of a transaction that has only one, which costs less than COPY (docs/storage.md); False if it has more."""
    if len(flight.parts) + len(flight.journal_parts) != 1:
        return False
    if flight.parts:
        (part,) = flight.parts.values()
        if len(part.rows) != 1:
            return False
        (row,) = part.rows
        extent = part.first_extent
        assert isinstance(row, bytes) and extent is not None
        statement = _insert_segment(extent.series, extent.segment)
    else:
        writes = list(flight.journal_writes())
        if sum(write.entries for write in writes) != 1:
            return False
        ((name, (row,)),) = journal.rows_of(writes).items()
        statement = _insert_entry(name, flight.journals)
    slot = session.prepared.take(statement)
    if slot is None:
        return False
    await exchange.insert(session, statement, slot, row)
    return True


def _copy_log(flight: Flight) -> str:
    """COPY straight into the segment's table when there is only one: routing through the root costs a sixth more."""
    segments = {(extent.series, extent.segment) for p in flight.parts.values() if (extent := p.first_extent)}
    if len(segments) > 1:
        return SQL["copy_log"]
    return _copy_segment(*segments.pop())


@lru_cache(maxsize=1024)
def _copy_segment(series: int, segment: int) -> str:
    return queries.render(SQL["copy_segment"], leaf=leaf_table(series, segment))


@lru_cache(maxsize=1024)
def _insert_segment(series: int, segment: int) -> str:
    return queries.render(SQL["insert_row"], leaf=leaf_table(series, segment))


@lru_cache(maxsize=64)
def _insert_entry(name: str, tables: JournalTables) -> str:
    return queries.render(GROUPS_SQL[f"insert_{name}"], **tables._asdict())


async def write_statements(session: Session, flight: Flight) -> None:
    """Insert the rows that go with those of the log."""
    connection = session.connection
    parts = flight.parts.values()
    extents = [(p.partition, p.extent) for p in parts if p.extent]
    if extents:
        await connection.execute(
            SQL["insert_extents"],
            [p.topic.id for p, _ in extents],
            [p.index for p, _ in extents],
            [e.first_offset for _, e in extents],
            [e.series for _, e in extents],
            [e.segment for _, e in extents],
            [p.packed_from for p in parts if p.extent],
            timeout=STATEMENT_TIMEOUT_S,
        )
    packed = [
        (p.partition, p.first_extent, p.packed_from)
        for p in parts
        if p.packed_from is not None and p.extent is None and p.first_extent is not None
    ]
    if packed:
        await connection.execute(
            SQL["mark_packed_extents"],
            [p.topic.id for p, _, _ in packed],
            [p.index for p, _, _ in packed],
            [e.first_offset for _, e, _ in packed],
            [e.series for _, e, _ in packed],
            [e.segment for _, e, _ in packed],
            [offset for _, _, offset in packed],
            timeout=STATEMENT_TIMEOUT_S,
        )
    begun = [p for p in parts if p.epoch_start is not None]
    if begun:
        await connection.execute(
            SQL["insert_epochs"],
            [p.partition.topic.id for p in begun],
            [p.partition.index for p in begun],
            [p.partition.leader_epoch for p in begun],
            [p.first[0] for p in begun],
            timeout=STATEMENT_TIMEOUT_S,
        )
    checked = sorted(
        [(p.partition, p.checkpoint) for p in [*parts, *flight.checkpoints] if p.checkpoint],
        key=lambda c: (c[0].topic.id, c[0].index),
    )
    if checked:
        await connection.execute(
            SQL["write_checkpoints"],
            [p.topic.id for p, _ in checked],
            [p.index for p, _ in checked],
            *([c[column] for _, c in checked] for column in range(7)),
            timeout=STATEMENT_TIMEOUT_S,
        )
    for bundle in flight.bundles:
        for statement, arguments in bundle.statements:
            await connection.execute(statement, *arguments, timeout=STATEMENT_TIMEOUT_S)


async def commit(session: Session, *, driver_began: bool) -> None:
    """COMMIT, by the driver if the driver knows of the transaction. Never cancel it (design section 3).

    Raises StorageLost when it was not committed, or on this server only.
    """
    if driver_began:
        tags = [await session.connection.execute("COMMIT")]
    else:
        tags = await exchange.run(session, "COMMIT", (), None)
    if tags != ["COMMIT"]:
        raise StorageLost(f"COMMIT was answered {', '.join(tags)}")
    check_doubt(session)


async def was_committed(session: Session, incarnation: int, flight: Flight) -> bool:
    """Did a transaction whose backend is gone commit? Its rows are there all or not at all."""
    # A write of our own that returns clean is the barrier: under synchronous replication everything before it has
    # reached the standby too.
    session.commit_in_doubt = False
    await session.connection.execute(CLUSTER_SQL["barrier"], incarnation)
    check_doubt(session)
    for partition, part in flight.parts.items():
        assert part.first_extent is not None
        statement = queries.render(
            SQL["row_exists"], leaf=leaf_table(part.first_extent.series, part.first_extent.segment)
        )
        return bool(await session.connection.fetchval(statement, partition.topic.id, partition.index, *part.first))
    entry = journal.first_entry(flight.journal_writes())
    if entry is None:
        return False
    table = flight.journals._asdict()[entry[0]]
    statement = queries.render(GROUPS_SQL["entry_exists"], journal=table)
    return bool(await session.connection.fetchval(statement, entry[1]))


def check_doubt(session: Session) -> None:
    """Raise StorageLost when the last commit stands on this server only."""
    if session.commit_in_doubt:
        raise StorageLost("the wait for a synchronous standby was cancelled")
