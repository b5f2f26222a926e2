"""The statements of a lane's transaction, and the question whether it committed. No decisions here.

Locks: none but those of the inserted rows, in the order extents, epochs, checkpoints (these sorted by partition),
journals, log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from pg_kafka.errors import StorageError
from pg_kafka.storage import exchange, journal, queries
from pg_kafka.storage.segments import leaf_table
from pg_kafka.storage.sessions import Session
from pg_kafka.storage.transaction import Transaction, copy_stream
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
    transaction: Transaction,
    timeout_s: float | None,
    *,
    begins: bool = False,
    on_progress: Callable[[], None] | None = None,
) -> None:
    """Stream the transaction's rows into journals and log, in one round trip, with BEGIN if it `begins` here.

    Without BEGIN before or here it is its own transaction: then give no deadline. `on_progress`: see exchange.run.
    """
    statements = ["BEGIN"] if begins else []
    streams: list[Iterable[bytes]] = []
    if transaction.groups:
        names = transaction.journals._asdict()
        for name, data in journal.copies(list(transaction.journal_writes())).items():
            statements.append(queries.render(GROUPS_SQL[f"copy_{name}"], **names))
            streams.append((data,))
    if transaction.parts:
        statements.append(_copy_log(transaction))
        streams.append(copy_stream(transaction.parts.values()))
    if statements:
        await exchange.run(session, "; ".join(statements), streams, timeout_s, on_progress)


def _copy_log(transaction: Transaction) -> str:
    """COPY straight into the segment's table when there is only one: routing through the root costs a sixth more."""
    segments = {(extent.series, extent.segment) for p in transaction.parts.values() if (extent := p.first_extent)}
    if len(segments) > 1:
        return SQL["copy_log"]
    return _copy_segment(*segments.pop())


@lru_cache(maxsize=1024)
def _copy_segment(series: int, segment: int) -> str:
    return queries.render(SQL["copy_segment"], leaf=leaf_table(series, segment))


async def write_statements(session: Session, transaction: Transaction) -> None:
    """Insert the rows that go with those of the log."""
    connection = session.connection
    parts = transaction.parts.values()
    extents = [(p.partition, p.extent) for p in parts if p.extent]
    if extents:
        await connection.execute(
            SQL["insert_extents"],
            [p.topic.id for p, _ in extents],
            [p.index for p, _ in extents],
            [e.first_offset for _, e in extents],
            [e.series for _, e in extents],
            [e.segment for _, e in extents],
            timeout=STATEMENT_TIMEOUT_S,
        )
    begun = [p for p in parts if p.begins_epoch]
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
        [(p.partition, p.checkpoint) for p in [*parts, *transaction.checkpoints] if p.checkpoint],
        key=lambda c: (c[0].topic.id, c[0].index),
    )
    if checked:
        await connection.execute(
            SQL["write_checkpoints"],
            [p.topic.id for p, _ in checked],
            [p.index for p, _ in checked],
            *([c[column] for _, c in checked] for column in range(5)),
            timeout=STATEMENT_TIMEOUT_S,
        )


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


async def was_committed(session: Session, incarnation: int, transaction: Transaction) -> bool:
    """Did a transaction whose backend is gone commit? Its rows are there all or not at all."""
    # A write of our own that returns clean is the barrier: under synchronous replication everything before it has
    # reached the standby too.
    session.commit_in_doubt = False
    await session.connection.execute(CLUSTER_SQL["barrier"], incarnation)
    check_doubt(session)
    for partition, part in transaction.parts.items():
        assert part.first_extent is not None
        statement = queries.render(
            SQL["row_exists"], leaf=leaf_table(part.first_extent.series, part.first_extent.segment)
        )
        return bool(await session.connection.fetchval(statement, partition.topic.id, partition.index, *part.first))
    entry = journal.first_entry(transaction.journal_writes())
    if entry is None:
        return False
    table = transaction.journals._asdict()[entry[0]]
    statement = queries.render(GROUPS_SQL["entry_exists"], journal=table)
    return bool(await session.connection.fetchval(statement, entry[1]))


def check_doubt(session: Session) -> None:
    """Raise StorageLost when the last commit stands on this server only."""
    if session.commit_in_doubt:
        raise StorageLost("the wait for a synchronous standby was cancelled")
