"""Checks of a setup: those that refuse to start, and `pg-kafka doctor`, which says all it finds and changes nothing.

A finding is ("ok" | "warning" | "error", one sentence that says what to do).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import random
import shutil
import socket
from pathlib import Path

import asyncpg

from pg_kafka import __version__
from pg_kafka.broker import open_files
from pg_kafka.config import INT_MAX, Address, Config, with_database_settings
from pg_kafka.embedded import GivenPostgres, binaries
from pg_kafka.embedded.folder import DataFolder
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.migrate import SCHEMA_VERSION
from pg_kafka.storage.sessions import CONNECTION_ERRORS, describe

SQL = queries.load("settings")
MIGRATE_SQL = queries.load("migrate")
log = logging.getLogger("pg_kafka.checks")

Finding = tuple[str, str]
# What is expected of a broker whose max.connections is not set.
ORDINARY_CONNECTIONS = 1_000
# Of the number of tables (segments) that one unlucky statement over kafka.messages may lock.
WANTED_LOCKS_PER_TRANSACTION = 128
WILDCARDS = ("0.0.0.0", "::")
# Reserved for documentation (RFC 5737), so beyond every network of our own.
FAR_AWAY = ("192.0.2.1", 9)


def connections_needed(config: Config) -> int:
    """Two for each lane, the readers, and one each for heartbeat, janitor, control and start-up checks."""
    return 2 * config.lanes + config.readers + 4


def refuse_taken_address(listen: Address) -> None:
    """Raise FatalError when nobody could listen there, before anything is started or made for it."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        advice = "; stop what uses it, or give --listen" if error.errno == errno.EADDRINUSE else ""
        raise FatalError(f"cannot listen on {listen}: {error.strerror}{advice}") from error


async def refuse_pooling_proxy(dsn: str, config: Config) -> None:
    """Raise FatalError when something between us and PostgreSQL hands one session to several clients.

    Client A takes a session lock; client B opens a transaction, which a transaction-pooling proxy may put on A's backend.
    Then A is asked whether its backend is still the one that holds the lock.
    """
    number = -random.randint(1, 2**31 - 1)  # negative: never a number of kafka.lock_ids
    try:
        async with asyncio.timeout(15), contextlib.AsyncExitStack() as clients:
            a = await sessions.dial(dsn, "check", statement_cache_size=0)
            clients.callback(a.terminate)
            b = await sessions.dial(dsn, "check", statement_cache_size=0)
            clients.callback(b.terminate)
            pid = await a.fetchval(SQL["backend_pid"])
            await a.fetchval(SQL["try_lock"], number)
            async with b.transaction():
                is_shared = await b.fetchval(SQL["backend_pid"]) == pid
                if is_shared:
                    # The proxy may have no second backend for A while B's transaction is open: ask A nothing more.
                    await b.fetchval(SQL["unlock"], number)
                else:
                    is_shared = await a.fetchval(SQL["backend_pid"]) != pid
                    is_shared = is_shared or not await a.fetchval(SQL["holds_lock"], number)
            if is_shared:
                raise FatalError(
                    "the database is reached through a transaction-pooling proxy, and pg-kafka holds locks in its sessions:"
                    " give it the address of PostgreSQL itself, or of a session-pooling proxy"
                )
            await a.fetchval(SQL["unlock"], number)
    except asyncpg.TooManyConnectionsError as error:
        raise FatalError(
            f"the database has no room for the {connections_needed(config)} connections that pg-kafka needs:"
            f" {describe(error)}"
        ) from error
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise FatalError(f"cannot check the database: {describe(error)}") from error


async def refuse_too_few_connections(dsn: str, config: Config) -> list[str]:
    """Raise FatalError when the server, database or role allows fewer connections than the broker opens.

    Returns what to know about the server otherwise. Raises StorageError.
    """
    async with sessions.opened(dsn, "check") as connection:
        server = await sessions.only_row(connection, SQL["server"])
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


def file_advice(config: Config, allowed: int) -> list[str]:
    """What to know when so many open files are too few for the connections of clients."""
    advice = []
    wanted = ORDINARY_CONNECTIONS if config.max_connections == INT_MAX else config.max_connections
    room = open_files.room_for_clients(allowed, connections_needed(config))
    if room < wanted:
        advice.append(
            f"the limit of open files, {allowed}, leaves room for {room} connections of clients: raise the hard limit"
            " (ulimit -Hn, LimitNOFILE= of systemd), or set max.connections to no more"
        )
    return advice


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
        findings += _examine_files(config)
    else:
        findings += await _examine_database(config, config.database)
    return findings


def _examine_address(config: Config) -> list[Finding]:
    findings: list[Finding] = []
    try:
        refuse_taken_address(config.listen)
        findings.append(("ok", f"{config.listen} is free to listen on"))
    except FatalError as error:
        findings.append(("error", str(error)))
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
    if is_loopback(config.listen.host):
        return []
    advice = [
        f"{config.listen} can be reached by others and there is no authentication: whoever connects may read and write"
    ]
    if config.advertise is None:
        if _is_container():
            advice.append(
                "this looks like a container: clients from outside need --advertise HOST:PORT, the address that they use"
            )
        elif (own := _private_address(config.listen.host)) is not None:
            advice.append(
                f"this machine's own address {own} is a private one: clients beyond a NAT or port forward need"
                " --advertise HOST:PORT, the address that they use"
            )
    return advice


def _is_container() -> bool:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return True
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


def _private_address(listen_host: str) -> str | None:
    """The address that others see here, if only a private network can reach it."""
    try:
        if listen_host in WILDCARDS:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(FAR_AWAY)  # looks up the route and sends nothing
                listen_host = probe.getsockname()[0]
        address = ipaddress.ip_address(listen_host)
    except (OSError, ValueError):
        return None
    return str(address) if address.is_private and not address.is_loopback else None


def _examine_folder(config: Config) -> list[Finding]:
    try:
        version = DataFolder(config.data).examine()
        brought = binaries.wheel_major()
    except FatalError as error:
        return [("error", str(error))]
    findings = _examine_disk(config)
    if version is None:
        return [*findings, ("ok", f"a new embedded PostgreSQL {brought} will be made in {config.data}")]
    if version != brought:
        return [("error", binaries.wrong_version(config.data, version, brought))]
    return [*findings, ("ok", f"{config.data} holds data of an embedded PostgreSQL {version}")]


def _examine_files(config: Config) -> list[Finding]:
    return [("warning", advice) for advice in file_advice(config, open_files.highest_limit())]


def _examine_disk(config: Config) -> list[Finding]:
    place = next(folder for folder in (config.data, *config.data.parents) if folder.exists())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes >= config.disk_reserve_bytes:
        return []
    return [
        (
            "warning",
            f"the disk of {config.data} has {free_bytes >> 20} MiB free and records are refused below"
            f" pg_kafka.disk_reserve_bytes ({config.disk_reserve_bytes >> 20} MiB): make room, or lower it",
        )
    ]


async def _examine_database(config: Config, dsn: str) -> list[Finding]:
    given = GivenPostgres(dsn, log)
    try:
        await given.start()
    except FatalError as error:
        return [("error", str(error))]
    findings: list[Finding] = [("ok", given.description)]
    try:
        await refuse_pooling_proxy(dsn, config)
        async with sessions.opened(dsn, "doctor") as connection:
            findings += await _examine_schema(connection, config)
    except FatalError as error:
        findings.append(("error", str(error)))
    except StorageError as error:
        findings.append(("error", error.message))
    return findings


async def _examine_schema(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    findings: list[Finding] = []
    state = await sessions.only_row(connection, MIGRATE_SQL["schema_state"])
    if state["has_schema"] and not state["has_cluster"]:
        return [("error", 'there is a schema "kafka" that is not pg_kafka\'s: rename it, or use another database')]
    server = await sessions.only_row(connection, SQL["server"])
    role, database = server["role"], server["database"]
    if state["has_cluster"]:
        version = await connection.fetchval(SQL["schema_version"])
        if version > SCHEMA_VERSION:
            return [("error", f"the schema has version {version}, newer than this program: use a newer pg-kafka")]
        if version < SCHEMA_VERSION:
            findings.append(("warning", f"the schema has version {version}; pg-kafka migrate or serve upgrades it"))
        else:
            findings.append(("ok", f"schema kafka, version {version}"))
            stored = await connection.fetch(SQL["stored"])
            config = with_database_settings(config, [(row["name"], row["value"]) for row in stored])
    elif state["has_schema"]:
        findings.append(
            ("error", 'there is a schema "kafka" that is not pg_kafka\'s: rename it, or use another database')
        )
    elif not server["can_create"]:
        findings.append(
            ("error", f'role "{role}" may not create schemas here: GRANT CREATE ON DATABASE "{database}" TO "{role}"')
        )
    else:
        findings.append(("ok", "no schema kafka yet; serve or migrate creates it"))
    problem = _connection_problem(server, config)
    findings.append(("error", problem) if problem else ("ok", f"{connections_needed(config)} connections fit"))
    findings += _examine_files(config)
    findings += [("warning", advice) for advice in _durability_advice(server)]
    if server["is_open_to_strangers"]:
        findings.append(
            (
                "warning",
                f'every role of the server may connect to database "{database}", and so take locks that delay brokers:'
                f' REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC',
            )
        )
    if server["max_locks"] < WANTED_LOCKS_PER_TRANSACTION:
        findings.append(
            (
                "warning",
                f"max_locks_per_transaction is {server['max_locks']}: an SQL statement over kafka.messages locks every"
                f" segment; set it to {WANTED_LOCKS_PER_TRANSACTION} or more",
            )
        )
    return findings
