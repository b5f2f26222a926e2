"""Database sessions that mean what they say.

Every session is a plain connection, never one from a pool (a pool's release drops advisory locks). What durability and
the fence rest on is set at connect and read back: defaults of the role or of the database must not weaken it in silence.
A writing session also takes the lock of its broker's incarnation and one of its own, in this order, and then reads the
incarnation's row; anything but `live` ends the broker's leadership (docs/architecture.md, "One writer").
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import locks, queries
from pg_kafka.storage.counts import SessionCounts
from pg_kafka.storage.prepared import Prepared
from pg_kafka.wire.error_codes import ErrorCode

SQL = queries.load("sessions")

CONNECT_TIMEOUT_S = 10.0
STATEMENTS_TIMEOUT_S = 30.0
# Waits on a lost TCP connection end after this; a Unix socket has no such settings and reports them as 0.
TCP_SETTINGS = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
OWN_TCP_OPTIONS = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
PINNED = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "60000",
    "search_path": "pg_catalog, pg_temp",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "row_security": "off",
    # A backslash in our statements is a backslash.
    "standard_conforming_strings": "on",
    # Above it, nobody would hear that a commit did not wait for its synchronous standby.
    "client_min_messages": "warning",
}
# Not on every server or platform: set when there, never required. What a session has written goes to the disk after
# every 256 pages: else all of it would at the end of a checkpoint, and commits would wait behind it.
OPTIONAL = {"transaction_timeout": "0", "client_connection_check_interval": "2000", "backend_flush_after": "256"}
# Only a superuser may set it, and set it as a default: without triggers the log would lack its markers.
TRIGGERS_FIRE = ("session_replication_role", "origin")
STRONG_COMMITS = ("on", "remote_apply")

DATA_ERROR_CLASSES = ("22", "23", "42", "54")
CONNECTION_ERRORS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncio.TimeoutError,
    ssl_module.SSLError,
)


def unavailable(message: str) -> StorageError:
    """The database cannot serve this now; the same request may succeed later."""
    return StorageError(True, ErrorCode.KAFKA_STORAGE_ERROR, message)


def failed(error: BaseException) -> StorageError:
    """What became of a statement: an answer that did not come is not one that says no."""
    is_refusal = isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError)
    return unavailable(f"the database {'refused a statement' if is_refusal else 'did not answer'}: {describe(error)}")


class Fenced(Exception):
    """Another broker has taken over; this incarnation must write nothing more."""


class OtherHistory(Fenced):
    """The session has found another server, or another history of this one."""


class WentBack(Fenced):
    """The database holds less than was committed: a backup has taken its place."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which server, which history, which run of it a session is connected to."""

    system_identifier: str
    timeline: str
    started_at: datetime
    pid: int


class Session:
    """A pinned connection with the facts that outlive it: backend pid, its own lock, the server's identity."""

    __slots__ = ("commit_in_doubt", "connection", "counts", "identity", "kind", "lock_id", "prepared", "switch")

    def __init__(self, connection: asyncpg.Connection, identity: Identity, kind: str) -> None:
        self.connection = connection
        self.identity = identity
        self.kind = kind
        self.lock_id: int | None = None
        self.switch: Any = None  # storage/exchange.py
        self.counts: SessionCounts | None = None
        self.prepared = Prepared()
        # Set by warning 01000: the wait for a synchronous standby was cancelled, the commit stands only here.
        self.commit_in_doubt = False
        connection.add_log_listener(lambda _connection, message: self.take_notice(message))
        # A COPY that waits until it may write is not told when the connection is lost: the driver would wait for ever.
        protocol: Any = getattr(connection, "_protocol")  # noqa: B009 - of the driver's own
        connection.add_termination_listener(lambda _connection: protocol.resume_writing())

    def count_in(self, counts: SessionCounts) -> None:
        """From now on its round trips are counted; those of the driver here, others by `exchange.py`."""
        self.counts = counts
        counts.opened += 1

        def closed(_connection: object) -> None:
            counts.closed += 1

        def asked(query: Any) -> None:
            counts.took(query.elapsed, has_failed=query.exception is not None)

        self.connection.add_termination_listener(closed)
        self.connection.add_query_logger(asked)

    def take_notice(self, message: asyncpg.PostgresLogMessage) -> None:
        """A notice or warning has come from the server."""
        if message.sqlstate == "01000":
            self.commit_in_doubt = True

    @property
    def is_closed(self) -> bool:
        return bool(self.connection.is_closed())

    def drop(self) -> None:
        """Close at once, without waiting for the server."""
        with contextlib.suppress(Exception):
            self.connection.terminate()

    async def close(self) -> None:
        """Close in order, within a bounded time."""
        try:
            await self.connection.close(timeout=2.0)
        except Exception:
            self.drop()


async def connect(dsn: str, kind: str) -> Session:
    """Open a pinned session.

    `kind` is shown in pg_stat_activity as `pg_kafka <kind>`. Raises StorageError when the server cannot be reached or
    is in recovery, FatalError when a pinned setting does not hold.
    """
    try:
        connection = await dial(dsn, kind)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise unavailable(f"cannot connect to the database: {describe(error)}") from error
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await _pin(connection, kind)
    except BaseException as error:
        connection.terminate()
        if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
            raise unavailable(f"cannot set up a database session: {describe(error)}") from error
        raise


def _watch_network(connection: Any) -> None:
    """Let a connection whose other end is gone without a word break after some ten seconds, as the server's end does."""
    socket_ = connection._transport.get_extra_info("socket")
    if socket_ is None or socket_.family not in (socket.AF_INET, socket.AF_INET6):
        return
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in OWN_TCP_OPTIONS.items():
        option = getattr(socket, name, None)  # not all platforms have all of them
        if option is not None:
            socket_.setsockopt(socket.IPPROTO_TCP, option, value)


async def dial(dsn: str, kind: str, **options: Any) -> asyncpg.Connection:
    """A connection that begins with the pinned settings where nothing between refuses them. Raises as the driver does."""
    name = {"application_name": f"pg_kafka {kind}"}
    try:
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, server_settings=name | PINNED, **options)
    except asyncpg.PostgresError as error:
        # A session-pooling proxy takes few settings with the connection; the others are then pinned one by one.
        if "startup parameter" not in str(error):
            raise
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, server_settings=name, **options)


@contextlib.asynccontextmanager
async def opened(
    dsn: str, kind: str, *, timeout_s: float | None = STATEMENTS_TIMEOUT_S
) -> AsyncIterator[asyncpg.Connection]:
    """A pinned connection for a moment. Raises StorageError, also for what goes wrong on it, and FatalError."""
    session = await connect(dsn, kind)
    try:
        async with asyncio.timeout(timeout_s):
            yield session.connection
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise failed(error) from error
    finally:
        await session.close()


async def _pin(connection: asyncpg.Connection, kind: str) -> Session:
    _watch_network(connection)
    available = {
        row["name"]: (row["setting"], row["is_own"])
        for row in await connection.fetch(
            SQL["current_settings"], [*PINNED, *OPTIONAL, *TCP_SETTINGS, "synchronous_commit", TRIGGERS_FIRE[0]]
        )
    }
    wanted = {**PINNED, **OPTIONAL}
    if available.get("tcp_keepalives_idle", ("0", False))[0] != "0":
        wanted.update(TCP_SETTINGS)
    commit, _ = available["synchronous_commit"]
    wanted["synchronous_commit"] = commit if commit in STRONG_COMMITS else "on"
    if available[TRIGGERS_FIRE[0]][0] != TRIGGERS_FIRE[1]:
        wanted.update([TRIGGERS_FIRE])
    for name, value in wanted.items():
        # A default that is right today is pinned too: a reload of the server's configuration must not change it.
        if name in available and available[name] != (value, True):
            with contextlib.suppress(asyncpg.PostgresError):
                await connection.execute(SQL["pin"], name, value)
    held = {
        row["name"]: row["setting"]
        for row in await connection.fetch(SQL["current_settings"], [*PINNED, "synchronous_commit", TRIGGERS_FIRE[0]])
    }
    for name, value in (*PINNED.items(), TRIGGERS_FIRE):
        if name in held and held[name] != value:
            raise FatalError(f"the database session has {name} = {held[name]}, but pg_kafka needs {value}")
    if held["synchronous_commit"] not in STRONG_COMMITS:
        raise FatalError("the database session refuses synchronous_commit = on, so nothing would be durable")
    where = await only_row(connection, SQL["identity"])
    if where["in_recovery"]:
        raise unavailable("the database is a standby in recovery; pg_kafka needs the primary")
    return Session(
        connection,
        Identity(where["system_identifier"], where["timeline"], where["started_at"], where["pid"]),
        kind,
    )


async def only_row(connection: asyncpg.Connection, statement: str, *arguments: object) -> asyncpg.Record:
    """The row of a statement that always has one."""
    row = await connection.fetchrow(statement, *arguments)
    if row is None:
        raise unavailable("the database gave no row where there is always one")
    return row


async def connect_writer(
    dsn: str, kind: str, incarnation: int, incarnation_lock: int, lock_timeout_s: float, beats: int = 0
) -> Session:
    """Open a session that may write for an incarnation. Raises Fenced when the incarnation is no longer live.

    `beats` is the number of heartbeats that were known to be committed before; with fewer in the database: WentBack.
    """
    session = await connect(dsn, kind)
    try:
        async with asyncio.timeout(lock_timeout_s):
            await session.connection.execute(SQL["lock_shared"], incarnation_lock)
            session.lock_id = await locks.take_number(session.connection)
            check_live(await session.connection.fetchrow(SQL["incarnation_status"], incarnation), incarnation, beats)
    except BaseException as error:
        session.drop()
        if isinstance(error, TimeoutError):
            raise unavailable(f"cannot open a writing session: {await _held_up_by(dsn, incarnation_lock)}") from error
        if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
            raise unavailable(f"cannot open a writing session: {describe(error)}") from error
        raise
    return session


async def _held_up_by(dsn: str, number: int) -> str:
    """Who keeps others from a lock that is to be shared."""
    try:
        async with opened(dsn, "check") as connection:
            found = [user for user in await locks.users(connection, [number]) if user["is_exclusive"]]
    except StorageError as error:
        return error.message
    return f"its lock is held by {locks.told(found)}" if found else "the database did not answer in time"


def check_live(row: asyncpg.Record | None, incarnation: int, beats: int) -> None:
    """Look at an incarnation's row, which has had so many heartbeats when the row is read. Raises Fenced, WentBack.

    Heartbeats beside this are no matter: their number only grows.
    """
    if row is None or row["beats"] < beats:
        has = "is not there" if row is None else f"has {row['beats']} heartbeats and had {beats}"
        raise WentBack(f"the database went back in time: incarnation {incarnation} {has}")
    if row["status"] != "live":
        raise Fenced(f"incarnation {incarnation} is {row['status']}")


def is_data_error(error: BaseException) -> bool:
    """An error that the rows themselves cause (SQLSTATE class 22, 23, 42, 54), not the connection or the server."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in DATA_ERROR_CLASSES


def describe(error: BaseException) -> str:
    """One line for people, without a password (drivers put none there, but an address may hold one)."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
