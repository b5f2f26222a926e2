"""Checks of a setup: those that refuse to start, and `pg-kafka doctor`, which says all it finds.

A finding is ("ok" | "warning" | "error", one sentence that says what to do).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from pathlib import Path

import asyncpg

from pg_kafka import __version__
from pg_kafka.config import Address, Config
from pg_kafka.embedded.folder import DataFolder
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.migrate import OLDEST_SERVER, SCHEMA_VERSION
from pg_kafka.storage.sessions import CONNECTION_ERRORS, describe

SQL = queries.load("settings")
log = logging.getLogger("pg_kafka.checks")

Finding = tuple[str, str]
# Of the number of tables (segments) that one unlucky statement over kafka.messages may lock.
WANTED_LOCKS_PER_TRANSACTION = 128


def connections_needed(config: Config) -> int:
    """Two for each lane, the readers, and one each for heartbeat, janitor, control and start-up checks."""
    return 2 * config.lanes + config.readers + 4


async def refuse_pooling_proxy(dsn: str) -> None:
    """Raise FatalError when something between us and PostgreSQL hands one session to several clients.

    Client A takes a session lock; client B opens a transaction, which a transaction-pooling proxy may put on A's backend.
    Then A is asked whether its backend is still the one that holds the lock.
    """
    number = -random.randint(1, 2**31 - 1)  # negative: never a number of kafka.lock_ids
    try:
        async with asyncio.timeout(15):
            a = await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)
            b = await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)
            try:
                pid = await a.fetchval(SQL["backend_pid"])
                await a.fetchval(SQL["try_lock"], number)
                async with b.transaction():
                    shared = await b.fetchval(SQL["backend_pid"]) == pid
                    moved = await a.fetchval(SQL["backend_pid"]) != pid or not await a.fetchval(
                        SQL["holds_lock"], number
                    )
                if shared or moved:
                    raise FatalError(
                        "the database is reached through a transaction-pooling proxy; give pg-kafka the address of"
                        " PostgreSQL itself, or a session-pooling one"
                    )
                await a.fetchval(SQL["unlock"], number)
            finally:
                a.terminate()
                b.terminate()
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise FatalError(f"cannot check the database: {describe(error)}") from error


async def refuse_too_few_connections(dsn: str, config: Config) -> list[str]:
    """Raise FatalError when the server, database or role allows fewer connections than the broker opens.

    Returns what to know about the server otherwise.
    """
    session = await _session(dsn)
    try:
        server = await sessions.only_row(session.connection, SQL["server"])
    finally:
        await session.close()
    problem = _connection_problem(server, config)
    if problem:
        raise FatalError(problem)
    return _durability_advice(server)


def _connection_problem(server: asyncpg.Record, config: Config) -> str | None:
    needed = connections_needed(config)
    limits = [server["max_connections"]]
    limits += [limit for limit in (server["role_limit"], server["database_limit"]) if limit is not None and limit >= 0]
    if min(limits) < needed:
        return (
            f"the database allows {min(limits)} connections and pg-kafka needs {needed}: raise max_connections or the"
            " connection limit of the role or database, or lower pg_kafka.lanes and pg_kafka.readers"
        )
    return None


def _durability_advice(server: asyncpg.Record) -> list[str]:
    advice = []
    if server["fsync"] != "on":
        advice.append("fsync is off: a crash of the machine loses acknowledged records; set fsync = on")
    if server["full_page_writes"] != "on":
        advice.append("full_page_writes is off: a crash of the machine may damage tables; set full_page_writes = on")
    return advice


async def examine(config: Config) -> list[Finding]:
    """Everything that can be said about a setup without changing it."""
    findings: list[Finding] = [("ok", f"pg-kafka {__version__}")]
    findings += _examine_address(config)
    if config.database is None:
        findings += _examine_folder(config)
    else:
        findings += await _examine_database(config, config.database)
    return findings


def _examine_address(config: Config) -> list[Finding]:
    findings: list[Finding] = []
    listen = config.listen
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
            findings.append(("ok", f"{listen} is free to listen on"))
        except OSError as error:
            findings.append(
                ("error", f"cannot listen on {listen}: {error.strerror}; stop what uses it or give --listen")
            )
    findings += [("warning", advice) for advice in address_advice(config)]
    return findings


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_advice(config: Config) -> list[str]:
    """What to know about the addresses before others connect."""
    advice = []
    if not is_loopback(config.listen.host):
        advice.append(
            f"{config.listen} can be reached by others and there is no authentication: whoever connects may read and write"
        )
    if config.advertise is None and _looks_translated(config.listen):
        advice.append(
            "this looks like a container or NAT: clients from outside need --advertise HOST:PORT, the address that they use"
        )
    return advice


def _looks_translated(listen: Address) -> bool:
    """A wildcard address inside a container is reached through a port forward."""
    if listen.host not in ("0.0.0.0", "::", ""):
        return False
    for marker in ("/.dockerenv", "/run/.containerenv"):
        try:
            with Path(marker).open():
                return True
        except OSError:
            continue
    try:
        with Path("/proc/1/cgroup").open() as groups:
            return any(word in groups.read() for word in ("docker", "kubepods", "containerd", "lxc"))
    except OSError:
        return False


def _examine_folder(config: Config) -> list[Finding]:
    folder = DataFolder(config.data)
    try:
        folder.claim()
    except FatalError as error:
        return [("error", str(error))]
    try:
        version = folder.version()
    except FatalError as error:
        return [("error", str(error))]
    finally:
        folder.release()
    if version is None:
        return [("ok", f"a new embedded PostgreSQL will be made in {config.data}")]
    return [("ok", f"{config.data} holds data of an embedded PostgreSQL {version}")]


async def _examine_database(config: Config, dsn: str) -> list[Finding]:
    try:
        session = await _session(dsn)
    except FatalError as error:
        return [("error", str(error))]
    findings: list[Finding] = []
    try:
        server = await sessions.only_row(session.connection, SQL["server"])
        findings.append(
            ("ok", f"PostgreSQL {server['version_text']}, database {server['database']}, role {server['role']}")
        )
        if server["version"] < OLDEST_SERVER:
            findings.append(("error", "PostgreSQL 14 or newer is needed: use a newer server"))
        if server["encoding"] != "UTF8":
            findings.append(
                ("error", f"the database has encoding {server['encoding']}: create one with ENCODING 'UTF8'")
            )
        if server["fsync"] != "on":
            findings.append(
                ("warning", "fsync is off: a crash of the machine loses acknowledged records; set fsync = on")
            )
        if server["full_page_writes"] != "on":
            findings.append(
                ("warning", "full_page_writes is off: a crash may damage tables; set full_page_writes = on")
            )
        if server["max_locks"] < WANTED_LOCKS_PER_TRANSACTION:
            findings.append(
                (
                    "warning",
                    f"max_locks_per_transaction is {server['max_locks']}: an SQL statement over kafka.messages locks every"
                    f" segment; set it to {WANTED_LOCKS_PER_TRANSACTION} or more",
                )
            )
        problem = _connection_problem(server, config)
        findings.append(("error", problem) if problem else ("ok", f"{connections_needed(config)} connections fit"))
        if server["has_schema"]:
            version = await session.connection.fetchval(SQL["schema_version"])
            if version > SCHEMA_VERSION:
                findings.append(
                    ("error", f"the schema has version {version}, newer than this program: use a newer pg-kafka")
                )
            elif version < SCHEMA_VERSION:
                findings.append(("warning", f"the schema has version {version}; pg-kafka migrate or serve upgrades it"))
            else:
                findings.append(("ok", f"schema kafka, version {version}"))
        elif not server["can_create"]:
            findings.append(
                (
                    "error",
                    f"role {server['role']} may not create schemas: GRANT CREATE ON DATABASE {server['database']} TO it",
                )
            )
        else:
            findings.append(("ok", "no schema kafka yet; serve or migrate creates it"))
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        findings.append(("error", f"the database did not answer: {describe(error)}"))
    finally:
        await session.close()
    try:
        await refuse_pooling_proxy(dsn)
    except FatalError as error:
        findings.append(("error", str(error)))
    return findings


async def _session(dsn: str) -> sessions.Session:
    try:
        return await sessions.connect(dsn, "doctor")
    except StorageError as error:
        raise FatalError(error.message) from error
