"""Advisory locks, and who else may hold them.

Our locks are (1885825894, a number from kafka.lock_ids). PostgreSQL lets everybody who may connect to the database take any
of them, and pg_locks shows which there are. So a number counts as ours only once we hold it, and what a lock proves is read
from pg_locks together with what its holder may do (docs/architecture.md, "Locks that strangers hold").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from pg_kafka.errors import StorageError
from pg_kafka.storage import queries
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("sessions")
CLUSTER_SQL = queries.load("cluster")
logger = logging.getLogger("pg_kafka.locks")

# Numbers tried one after the other; then the sequence goes on at another place, since somebody has taken what comes next.
TRIES, PLACES = 3, 5
# Nothing tells that a backend has ended.
CHECK_S = 0.05


async def take_number(connection: asyncpg.Connection, *, in_transaction: bool = False) -> int:
    """A number that nobody holds; its lock is the session's in exclusive mode, or the transaction's. Raises StorageError."""
    statement = CLUSTER_SQL["try_lock_in_transaction"] if in_transaction else SQL["try_lock_exclusive"]
    for _ in range(PLACES):
        for _ in range(TRIES):
            number: int = await connection.fetchval(SQL["next_lock_id"])
            if await connection.fetchval(statement, number):
                return number
            warn(await users(connection, [number]))
        await connection.fetchval(SQL["skip_lock_ids"])
    raise StorageError(
        True, ErrorCode.KAFKA_STORAGE_ERROR, "somebody else holds the advisory locks that this broker would take"
    )


async def users(connection: asyncpg.Connection, numbers: Sequence[int]) -> list[asyncpg.Record]:
    """Other backends that hold the locks, or wait for them."""
    await connection.execute(SQL["clear_activity"])
    rows: list[asyncpg.Record] = await connection.fetch(SQL["lock_users"], numbers)
    return rows


def told(found: Sequence[asyncpg.Record]) -> str:
    """Who holds a lock, for people."""
    return ", ".join(
        f"process {user['pid']} (role {user['role']}, application {user['application'] or '-'})" for user in found
    )


def warn(found: Sequence[asyncpg.Record]) -> None:
    """Say that others have locks of ours."""
    for user in found:
        logger.warning(
            "somebody else has an advisory lock of pg-kafka's",
            extra={"pid": user["pid"], "role": user["role"], "application": user["application"]},
        )


async def wait_until_ended(
    connection: asyncpg.Connection, number: int, pid: int, *, spares_commits: bool = False
) -> None:
    """End a backend of ours, and return when it is gone: it held its own lock until its end. The caller has a deadline.

    With `spares_commits`, one that waits for a synchronous standby is left to end by itself. To take its lock would prove the
    same, but not while a stranger waits for it too.
    """
    if spares_commits:
        await connection.fetch(SQL["terminate_lost"], number, pid)
    else:
        await connection.fetch(SQL["terminate_holder"], [number], pid)
    while await connection.fetchval(SQL["holds_lock_still"], number, pid):  # noqa: ASYNC110
        await asyncio.sleep(CHECK_S)
