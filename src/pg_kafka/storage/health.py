"""What makes a PostgreSQL slow, and what keeps it from cleaning up; read for `doctor`, and nothing is changed.

The time of a commit is measured with transactions that write a message of a few bytes into the WAL, and no table.
Facts only: what is too much, and what to do about it, is in `database_checks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import asyncpg

from pg_kafka.storage import queries, sessions

SQL = queries.load("health")
SETTINGS_SQL = queries.load("settings")

SETTINGS = (
    "autovacuum",
    "checkpoint_completion_target",
    "checkpoint_timeout",
    "commit_delay",
    "full_page_writes",
    "max_slot_wal_keep_size",
    "max_wal_size",
    "synchronous_commit",
    "synchronous_standby_names",
    "track_counts",
    "wal_buffers",
    "wal_compression",
    "wal_level",
)
# Of sessions, slots, tables and the like: the worst ones. A person mends these first.
MOST = 5
COMMITS = 30
MEASURE_S = 5.0
_TO_BYTES = {"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "GB": 1 << 30}
_SINCE_CHECKPOINTER = 170000

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is a finding."""

    open_s: float = 300.0  # of a transaction
    dead_rows: int = 10_000  # of a table
    held_transactions: int = 1_000_000  # by a standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Facts about a server, by the names of the queries. The figures of a commit are in seconds; None: not measured."""

    server: Row
    settings: Mapping[str, Row]
    own_defaults: Sequence[Row] = ()
    sessions: Sequence[Row] = ()
    prepared: Sequence[Row] = ()
    slots: Sequence[Row] = ()
    standbys: Sequence[Row] = ()
    dead_rows: Sequence[Row] = ()
    tables_without_autovacuum: Sequence[str] = ()
    frozen_age: int = 0
    journals: Sequence[Row] = ()
    lockers: Sequence[Row] = ()
    rights: Row | None = None  # in the schema; None: there is none of ours
    checkpoints: Row = field(default_factory=dict)
    round_trip_s: float | None = None
    commit_s: float | None = None
    longest_commit_s: float | None = None

    def bytes_of(self, setting: str) -> int | None:
        """The value of a size in bytes; None when it is not there, or means "none"."""
        row = self.settings.get(setting)
        if row is None or int(row["value"]) < 0:
            return None
        return int(row["value"]) * _TO_BYTES[row["unit"] or "B"]

    def number(self, setting: str) -> float | None:
        """The value of a number, in the setting's own unit."""
        row = self.settings.get(setting)
        return None if row is None else float(row["value"])

    def text(self, setting: str) -> str | None:
        """The value as PostgreSQL says it."""
        row = self.settings.get(setting)
        return None if row is None else str(row["value"])


async def examine(
    dsn: str,
    services: tuple[Collection[str], Collection[str]],
    limits: Limits,
    now_s: Callable[[], float],
) -> Health:
    """Look at all of it. `services` are settings and roles by which a service is known. Raises StorageError."""
    async with sessions.opened(dsn, "doctor") as connection:
        await connection.execute(SETTINGS_SQL["lock_timeout"])
        server = dict(await sessions.only_row(connection, SQL["server"], *map(list, services)))
        rights = await connection.fetchrow(SQL["rights"])
        of_version = "checkpoints"
        if _version(connection) >= _SINCE_CHECKPOINTER:
            of_version = "checkpoints_since_17"
        frozen = await sessions.only_row(connection, SQL["frozen_age"])
        settings = await connection.fetch(SQL["settings"], list(SETTINGS))
        health = Health(
            server=server,
            settings={row["name"]: dict(row) for row in settings},
            own_defaults=await _rows(connection, "own_defaults", ["synchronous_commit"]),
            sessions=await _rows(connection, "sessions", limits.open_s, MOST),
            prepared=await _rows(connection, "prepared", limits.open_s, MOST),
            slots=await _rows(connection, "slots", MOST),
            standbys=await _rows(connection, "standbys", limits.held_transactions, MOST),
            dead_rows=await _rows(connection, "dead_rows", limits.dead_rows, MOST),
            tables_without_autovacuum=[
                row["name"] for row in await _rows(connection, "tables_without_autovacuum", MOST)
            ],
            frozen_age=frozen["age"],
            journals=await _rows(connection, "journals"),
            lockers=await _rows(connection, "lockers", MOST),
            rights=None if rights is None else dict(rights),
            checkpoints=dict(await sessions.only_row(connection, SQL[of_version])),
        )
        trip_s, commits = await _measure(connection, now_s)
        commit_s = median(commits) if commits else None
        return replace(health, round_trip_s=trip_s, commit_s=commit_s, longest_commit_s=max(commits, default=None))


def _version(connection: asyncpg.Connection) -> int:
    version = connection.get_server_version()
    return int(version.major) * 10_000 + int(version.minor)


async def _rows(connection: asyncpg.Connection, name: str, *arguments: object) -> list[Row]:
    """The rows of a query; none where a service does not let its users look, or there is nothing to look at.

    Nor where somebody holds a lock: that is found by another query.
    """
    try:
        return [dict(row) for row in await connection.fetch(SQL[name], *arguments)]
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError, asyncpg.LockNotAvailableError):
        return []


async def _measure(connection: asyncpg.Connection, now_s: Callable[[], float]) -> tuple[float | None, list[float]]:
    """The median way to the server and back, and how long commits took beside that; fewer where they are slow."""
    trips: list[float] = []
    commits: list[float] = []
    try:
        async with asyncio.timeout(MEASURE_S):
            for _ in range(COMMITS):
                trips.append(await _timed(connection, "nothing", now_s))
            for _ in range(COMMITS):
                commits.append(await _timed(connection, "commit", now_s))
    except TimeoutError:
        commits.append(MEASURE_S)  # the one that had not ended
        if connection.is_closed():
            raise
    except asyncpg.PostgresError:
        return (median(trips) if trips else None), []  # this role may not write the message
    trip = median(trips) if trips else 0.0
    return trip, [max(0.0, commit - trip) for commit in commits]


async def _timed(connection: asyncpg.Connection, name: str, now_s: Callable[[], float]) -> float:
    began_s = now_s()
    await connection.fetchval(SQL[name])
    return now_s() - began_s
