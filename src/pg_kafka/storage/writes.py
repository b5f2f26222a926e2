"""The statements of a lane's transaction, and the question whether it committed. No decisions here.

Locks: none but those of the inserted rows, in the order extents, epochs, checkpoints (these sorted by partition),
journals, log.
"""

from __future__ import annotations

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


async def copy(session: Session, transaction: Transaction, timeout_s: float | None) -> None:
    """Stream the transaction's rows into the log. Without BEGIN it is its own transaction: then give no deadline."""
    await exchange.run(session, SQL["copy_log"], [copy_stream(transaction.parts.values())], timeout_s)


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
            *([c[column] for _, c in checked] for column in range(4)),
            timeout=STATEMENT_TIMEOUT_S,
        )


def journal_statements(transaction: Transaction) -> list[tuple[str, list[list[object]]]]:
    """Statements that write the journals, with their arguments: none, one, or two when there is more than commits."""
    if not transaction.groups:
        return []
    names = transaction.journals._asdict()
    offsets = journal.offset_rows(transaction.journal_writes())
    records = journal.record_rows(transaction.journal_writes())
    history = journal.history_rows(transaction.journal_writes())
    statements = []
    if offsets:
        statements.append((queries.render(GROUPS_SQL["insert_offsets"], **names), _columns(offsets, 8)))
    if records or history:
        arguments = _columns(records, 5) + _columns(history, 8)
        statements.append((queries.render(GROUPS_SQL["insert_state"], **names), arguments))
    return statements


def _columns(rows: list[tuple[object, ...]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


async def write_journals(
    session: Session, statements: list[tuple[str, list[list[object]]]], timeout_s: float | None
) -> None:
    """Append to the journals. A statement without BEGIN is its own transaction: then give no deadline."""
    for statement, arguments in statements:
        await session.connection.execute(statement, *arguments, timeout=timeout_s)


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
    tables = transaction.journals
    for rows, table in (
        (journal.offset_rows, tables.offsets),
        (journal.record_rows, tables.groups),
        (journal.history_rows, tables.history),
    ):
        for row in rows(transaction.journal_writes()):
            statement = queries.render(GROUPS_SQL["entry_exists"], journal=table)
            return bool(await session.connection.fetchval(statement, row[0]))
    return False


def check_doubt(session: Session) -> None:
    """Raise StorageLost when the last commit stands on this server only."""
    if session.commit_in_doubt:
        raise StorageLost("the wait for a synchronous standby was cancelled")
