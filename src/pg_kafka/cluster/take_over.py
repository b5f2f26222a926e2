"""Take-over: mark the dead as fenced, end their sessions, and join.

The mark is committed before the last look at who holds their locks. A writing session takes the lock of its incarnation first
and reads the mark afterwards. So one that got the lock before that look is found and ended, and one that gets it later reads
the mark and writes nothing. A backend keeps its locks until its last transaction has come to its end: when none holds the lock
that may write the log, all that the dead have committed can be read, and nothing more will come.

Who may not write the log cannot be a session of a broker, and is ignored, whatever it holds: pg_locks shows the numbers of our
locks to everybody, and everybody who may connect can take them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from pg_kafka.cluster.incarnation import History, Incarnation
from pg_kafka.cluster.view import Reachable
from pg_kafka.storage import locks, queries
from pg_kafka.storage.sessions import SQL as SESSION_SQL
from pg_kafka.storage.sessions import Session, describe, only_row, unavailable

SQL = queries.load("cluster")
logger = logging.getLogger("pg_kafka.membership")

# Each of the two transactions, and the time that the backends of the dead have for their end.
TIMEOUT_S = 10.0
HISTORY_EPOCHS = 1000


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who joins: the number that its heartbeat's session holds, where it can be reached, and its row while it waited."""

    heartbeat_lock_id: int
    here: Reachable
    waiting: int = 0


def sign(broker: asyncpg.Record) -> tuple[object, ...]:
    """What a broker changes with each heartbeat. One of schema version 3 does not count, but its time changes."""
    return broker["beats"], broker["seen_at"]


async def writers(connection: asyncpg.Connection, lock_ids: Sequence[int]) -> list[asyncpg.Record]:
    """Backends that hold one of the locks of incarnations and may write the log."""
    return [user for user in await locks.users(connection, lock_ids) if user["granted"] and user["may_write"]]


async def fence(session: Session, dead: Sequence[asyncpg.Record]) -> bool:
    """Mark the dead, in one transaction; False when one of them has shown life, or another broker was faster.

    Locks, in this order: the row of kafka.cluster, the rows of the dead.
    """
    connection = session.connection
    async with asyncio.timeout(TIMEOUT_S):
        await connection.execute("BEGIN")
        await only_row(connection, SQL["cluster_row"])
        signs = {row["incarnation"]: sign(row) for row in await connection.fetch(SQL["signs_of_life"])}
        known = {other["incarnation"]: sign(other) for other in dead}
        if any(known.get(incarnation) != sign for incarnation, sign in signs.items()):
            await connection.execute("ROLLBACK")
            return False
        for other in dead:
            if await connection.fetchval(SQL["fence"], other["incarnation"]):
                logger.warning(
                    "fenced a dead broker", extra={"incarnation": other["incarnation"], "host": other["host"]}
                )
    await _commit(session)
    return True


async def join(session: Session, newcomer: Newcomer, history: History) -> Incarnation | None:
    """Become the broker of this database once all that led before are gone; None when another one has come first.

    Locks: the row of kafka.cluster. What is read after its commit is what the others left; the commit is also synchronous
    replication's barrier. Raises StorageError.
    """
    connection = session.connection
    await _end_writers(connection)
    where = session.identity
    here = (where.system_identifier, where.timeline)
    async with asyncio.timeout(TIMEOUT_S):
        await connection.execute("BEGIN")
        cluster = await only_row(connection, SQL["cluster_row"])
        if (
            await connection.fetch(SQL["signs_of_life"])
            # Another broker may have come and gone since the last look.
            or await writers(connection, await connection.fetchval(SQL["ended_locks"]))
        ):
            await connection.execute("ROLLBACK")
            return None
        changed = history.went_back or here != (cluster["system_identifier"], cluster["timeline"])
        if changed:
            was, now = (f"{c[0]}/{c[1]}" for c in (cluster[3:5], here))
            logger.warning(
                "the server's history changed", extra={"was": was, "now": now, "went_back": history.went_back}
            )
            await connection.fetchval(SQL["skip_producer_ids"])
        epoch = await connection.fetchval(
            SQL["advance_epoch"], HISTORY_EPOCHS if changed else 1, where.system_identifier, where.timeline
        )
        node_id = await connection.fetchval(SQL["drop_waiting"], [newcomer.waiting])
        row = await only_row(
            connection,
            SQL["join"],
            epoch,
            await locks.take_number(connection, in_transaction=True),
            newcomer.heartbeat_lock_id,
            *newcomer.here,
            node_id,
        )
        await connection.execute(SQL["forget_old_incarnations"])
    await _commit(session)
    history.beat(row["incarnation"], row["beats"])
    return Incarnation(
        row["incarnation"],
        row["node_id"],
        epoch,
        row["lock_id"],
        row["heartbeat_lock_id"],
        cluster["cluster_id"],
        where.system_identifier,
        where.timeline,
    )


async def _end_writers(connection: asyncpg.Connection) -> None:
    """End the sessions of all incarnations that are over. Raises StorageError, naming those that stay."""
    ended = await connection.fetchval(SQL["ended_locks"])
    try:
        async with asyncio.timeout(TIMEOUT_S):
            locks.warn([user for user in await locks.users(connection, ended) if not user["may_write"]])
            while holders := await writers(connection, ended):
                for holder in holders:
                    await connection.execute(SESSION_SQL["terminate_holder"], ended, holder["pid"])
                await asyncio.sleep(locks.CHECK_S)
    except TimeoutError:
        raise unavailable(f"a fenced broker's lock is still held by {locks.told(holders)}") from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise unavailable(f"a fenced broker's lock is held by {locks.told(holders)}: {describe(error)}") from error


async def _commit(session: Session) -> None:
    """COMMIT without a deadline: its outcome must be known. Raises StorageError when it stands on this server only."""
    session.commit_in_doubt = False  # a warning about a backend that was gone already is none about this
    await session.connection.execute("COMMIT")
    if session.commit_in_doubt:
        raise unavailable("the wait for a synchronous standby was cancelled")
