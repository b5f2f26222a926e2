"""Checks of a setup: those that refuse to start, and `pg-kafka doctor`, which says all it finds and changes nothing.

A finding is ("ok" | "warning" | "error", one sentence). Lines below the sentence are what changes it: SQL, a command or a
setting, to be used as they are.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pg_kafka import __version__, database_checks, database_url, managed
from pg_kafka.broker import open_files
from pg_kafka.broker.metrics.http import LIMITS
from pg_kafka.broker.published_keys import PublishedKeys
from pg_kafka.broker.role_logins import RoleLogins
from pg_kafka.clock import Clock
from pg_kafka.config import Config
from pg_kafka.config.address import Address, is_loopback
from pg_kafka.config.keys import INT_MAX
from pg_kafka.config.listeners import Listener, SecurityProtocol
from pg_kafka.config.listening import listeners_of, tokens_of
from pg_kafka.config.load import with_database_settings
from pg_kafka.config.oauth import OAUTHBEARER
from pg_kafka.database_checks import Finding, error, ok, warning
from pg_kafka.embedded import GivenPostgres, binaries, dsn_of_running
from pg_kafka.embedded.folder import DataFolder, FolderInUse
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.storage import examination, health
from pg_kafka.storage.migrate import SCHEMA_VERSION
from pg_kafka.storage.queries import quote

logger = logging.getLogger("pg_kafka.checks")

# What is expected of a broker whose max.connections is not set.
ORDINARY_CONNECTIONS = 1_000
# Of the number of tables (segments) that one unlucky statement over kafka.messages may lock.
WANTED_LOCKS_PER_TRANSACTION = 128
WILDCARDS = ("0.0.0.0", "::", "")
# Reserved for documentation (RFC 5737), so beyond every network of our own.
FAR_AWAY = ("192.0.2.1", 9)


def connections_needed(config: Config) -> int:
    """Two for each lane, the readers, and one each for heartbeat, janitor, cleaner, layouts, control and start,
    and two for the relay of the outbox.

    One more when standbys are watched, and one when there are users to follow. Three for roles as users: two log in, and
    one looks at them.
    """
    listeners = listeners_of(config)
    for_users = any(one.protocol.has_sasl for one in listeners) + 3 * any(one.takes_roles for one in listeners)
    return 2 * config.lanes + config.readers + 8 + bool(config.min_sync_standbys) + for_users


def files_needed(config: Config) -> int:
    """Open files that are kept free of clients: one for each connection to PostgreSQL, and to `--metrics`."""
    return connections_needed(config) + (LIMITS.connections + 1 if config.metrics is not None else 0)


def refuse_taken_address(listen: Address, flag: str = "--listen") -> None:
    """Raise FatalError when nobody could listen there, before anything is started or made for it."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        advice = f"; stop what uses it, or give {flag}" if error.errno == errno.EADDRINUSE else ""
        raise FatalError(f"cannot listen on {listen}: {error.strerror}{advice}") from error


async def refuse_pooling_proxy(dsn: str, config: Config) -> None:
    """Raise FatalError when something between us and PostgreSQL hands one session to several clients."""
    try:
        if await examination.is_pooled(dsn):
            raise FatalError(
                "the database is reached through a transaction-pooling proxy, and pg-kafka holds locks in its sessions:"
                f" give it the address of PostgreSQL itself, or of a session-pooling proxy{_instead_of(dsn)}"
            )
    except examination.TooManyConnections as error:
        raise FatalError(
            f"the database has no room for the {connections_needed(config)} connections that pg-kafka needs:"
            f" {error.message}"
        ) from error
    except StorageError as error:
        raise FatalError(f"cannot check the database: {error.message}") from error


def _instead_of(dsn: str) -> str:
    """The address to use, where the service is known."""
    seen = managed.seen_in(dsn)
    return f"; at {seen.service} that is {seen.instead}" if seen is not None and seen.instead else ""


async def refuse_too_few_connections(dsn: str, config: Config) -> list[str]:
    """Raise FatalError when the server, database or role allows fewer connections than the broker opens.

    Returns what to know about the server otherwise. Raises StorageError.
    """
    server = await examination.server_facts(dsn)
    problem = _connection_problem(server, config)
    if problem:
        raise FatalError(problem)
    seen = managed.seen_in(dsn)
    return _durability_advice(server, seen.service if seen is not None else None)


def _connection_problem(server: Mapping[str, Any], config: Config) -> str | None:
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
    room = open_files.room_for_clients(allowed, files_needed(config))
    if room < wanted:
        advice.append(
            f"the limit of open files, {allowed}, leaves room for {room} connections of clients: raise the hard limit"
            " (ulimit -Hn, LimitNOFILE= of systemd), or set max.connections to no more"
        )
    return advice


def _durability_advice(server: Mapping[str, Any], service: str | None) -> list[str]:
    advice: list[str] = []
    if service in database_checks.OWN_STORAGE:
        return advice  # what these settings are for is done by another layer there
    if server["fsync"] != "on":
        advice.append("fsync is off: a crash of the machine loses acknowledged records; set fsync = on")
    if server["full_page_writes"] != "on":
        advice.append("full_page_writes is off: a crash of the machine may damage tables; set full_page_writes = on")
    return advice


async def examine(config: Config) -> list[Finding]:
    """Everything that can be said about a setup without changing it."""
    findings: list[Finding] = [("ok", f"pg-kafka {__version__}")]
    running = dsn_of_running(config.data) if config.database is None else None
    holder = None if running is None else _holder(config)
    if holder is not None:
        findings.append(
            ("ok", f"a broker runs on data folder {config.data} (process {holder}): this looks in beside it")
        )
    findings += _examine_address(config, is_running=holder is not None)
    findings += await _examine_keys(config)
    if config.database is None:
        findings += _examine_folder(config) if holder is None else _examine_disk(config)
        findings += _examine_files(config) if running is None else await _examine_running(config, running)
    else:
        findings += await _examine_database(config, config.database)
    return findings


def _holder(config: Config) -> str | None:
    """The process of the broker that has the data folder; None when there is none, or the folder will not do at all."""
    try:
        DataFolder(config.data).examine()
    except FolderInUse as found:
        return found.holder
    except FatalError:
        return None
    return None


def _examine_address(config: Config, *, is_running: bool) -> list[Finding]:
    """Can clients be listened for? Where a broker runs, an address that is taken is most likely its own."""
    wanted = [(listener.address, "--listen", "to listen on") for listener in listeners_of(config)]
    if config.metrics is not None:
        wanted.append((config.metrics, "--metrics", "for metrics"))
    findings: list[Finding] = []
    for address, flag, what in wanted:
        try:
            refuse_taken_address(address, flag)
        except FatalError as error:
            if not (is_running and isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE):
                findings.append(("error", str(error)))
                break
            findings.append(("ok", f"{address} is taken, as it is when the broker that runs has it"))
        else:
            findings.append(("ok", f"{address} is free {what}"))
    try:
        refuse_open_listeners(config)
    except FatalError as error:
        return [*findings, ("error", str(error))]
    findings += [("warning", advice) for advice in address_advice(config)]
    return findings


def address_advice(config: Config) -> list[str]:
    """What to know about the addresses before others connect."""
    advice = []
    for listener in listeners_of(config):
        if not is_loopback(listener.address.host):
            advice += _advice_beyond_loopback(listener)
    if config.metrics is not None and not is_loopback(config.metrics.host):
        advice.append(
            f"metrics on {config.metrics} can be read by everybody who reaches that address: they name topics, groups and"
            " clients"
        )
    return advice


def refuse_open_listeners(config: Config) -> None:
    """Raise FatalError when others could connect and nobody would ask who they are."""
    if config.allow_anonymous:
        return
    for listener in listeners_of(config):
        if not is_loopback(listener.address.host) and not listener.authenticates:
            raise FatalError(
                f"listener {listener.name} on {listener.address} can be reached by others and asks nobody who they are:"
                " give --secure, or a listener with SASL_SSL; or --allow-anonymous to let everybody read and write"
            )


def _advice_beyond_loopback(listener: Listener) -> list[str]:
    advice = []
    if not listener.authenticates:
        advice.append(
            f"{listener.address} can be reached by others and there is no authentication: whoever connects may read"
            " and write"
        )
    elif listener.protocol is SecurityProtocol.SASL_PLAINTEXT:
        advice.append(f"{listener.address} can be reached by others and is not enciphered: SASL_SSL is")
    if listener.advertised is None:
        if _is_container():
            advice.append(
                "this looks like a container: clients from outside need --advertise HOST:PORT, the address that they use"
            )
        elif (own := _private_address(listener.address.host)) is not None:
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
    seen = managed.seen_in(dsn)
    findings = database_checks.way_to(seen, connections_needed(config))
    if seen is not None and seen.way is managed.Way.OTHER:
        return findings
    given = GivenPostgres(dsn, logger)
    try:
        await given.start()
    except FatalError as problem:
        return [*findings, ("error", str(problem))]
    findings.append(("ok", given.description))
    if not database_url.is_proven(dsn, os.environ):
        findings.append(
            (
                "warning",
                "nothing proves that this is the database's server, and somebody between could read along: put"
                " sslmode=verify-full and sslrootcert=FILE into its address",
            )
        )
    try:
        await refuse_pooling_proxy(dsn, config)
        findings += await _examine_server(config, dsn, seen)
        findings += await _examine_roles(config, dsn)
    except FatalError as problem:
        findings.append(("error", str(problem)))
    except StorageError as problem:
        findings.append(("error", problem.message))
    return findings


async def _examine_running(config: Config, dsn: str) -> list[Finding]:
    """An embedded server that somebody's broker runs."""
    try:
        return await _examine_server(config, dsn, None)
    except FatalError as problem:
        return [("error", str(problem))]
    except StorageError as problem:
        return [("error", problem.message)]


async def _examine_server(config: Config, dsn: str, seen: managed.Seen | None) -> list[Finding]:
    """The schema, what the role may do there, and the server's health. Raises FatalError, StorageError."""
    by = tuple(managed.SETTINGS), tuple(managed.ROLES)
    facts = await health.examine(dsn, by, health.Limits(), Clock().steady_s)
    service, findings = database_checks.service_of(facts, seen)
    lacking = [] if facts.rights is None else database_checks.lacking_rights(facts.rights)
    findings += lacking
    try:
        found = None if lacking else await examination.examine(dsn)
    except StorageError as problem:
        # Somebody may hold a lock on its tables: who, is among what follows.
        findings.append(("error", problem.message))
        found = None
    if found is not None:
        if found.schema_version == SCHEMA_VERSION:
            config = with_database_settings(config, list(found.settings))
        findings += _examine_schema(found, config, service)
    if config.min_sync_standbys and not facts.server["may_see_sessions"]:
        findings.append(
            error(
                "pg_kafka.min_sync_standbys needs to see the standbys: GRANT pg_read_all_stats to the role of the broker, or"
                " set it to 0",
                f"GRANT pg_read_all_stats TO {quote(facts.server['role'])};",
            )
        )
    return findings + database_checks.examine_health(facts, service, health.Limits())


async def _examine_keys(config: Config) -> list[Finding]:
    """Can tokens be checked?"""
    findings: list[Finding] = []
    for listener in listeners_of(config):
        if OAUTHBEARER not in listener.mechanisms:
            continue
        url = tokens_of(config, listener).url
        keys = PublishedKeys(tokens_of(config, listener), Clock().steady_s, lambda _reason: None)
        try:
            await keys.start()
        except FatalError as error:
            findings.append(("error", str(error)))
        else:
            findings.append(
                ("warning", f"the keys for tokens cannot be read from {url}: nobody can log in by one")
                if keys.current is None
                else ("ok", f"{len(keys.current.keys)} keys for tokens in {url}")
            )
        finally:
            await keys.stop()
    return findings


async def _examine_roles(config: Config, dsn: str) -> list[Finding]:
    """Does a login to PostgreSQL prove anything, where roles are users? Raises StorageError."""
    if not any(listener.takes_roles for listener in listeners_of(config)):
        return []
    logins = RoleLogins(dsn, Clock(), lambda _reason: None)
    try:
        trap = await logins.find_trap()
    finally:
        await logins.stop()
    return [("error", trap) if trap is not None else ("ok", "PostgreSQL asks roles for their passwords")]


def _examine_schema(found: examination.Examined, config: Config, service: str | None) -> list[Finding]:
    findings: list[Finding] = []
    if found.has_schema and not found.has_cluster:
        return [error('there is a schema "kafka" that is not pg_kafka\'s: rename it, or use another database')]
    server = found.server
    role, database = server["role"], server["database"]
    if found.schema_version is not None:
        version = found.schema_version
        if version > SCHEMA_VERSION:
            return [error(f"the schema has version {version}, newer than this program: use a newer pg-kafka")]
        if version < SCHEMA_VERSION:
            findings.append(warning(f"the schema has version {version}; pg-kafka migrate or serve upgrades it"))
        else:
            findings.append(ok(f"schema kafka, version {version}"))
    elif not server["can_create"]:
        findings.append(
            error(
                f'role "{role}" may not create schemas here: GRANT CREATE ON DATABASE "{database}" TO "{role}"',
                f"GRANT CREATE ON DATABASE {quote(database)} TO {quote(role)};",
            )
        )
    else:
        findings.append(ok("no schema kafka yet; serve or migrate creates it"))
    problem = _connection_problem(server, config)
    if problem:
        findings.append(error(problem, *_more_connections(server, config, service)))
    else:
        findings.append(ok(f"{connections_needed(config)} connections fit"))
    findings += _examine_files(config)
    for advice in _durability_advice(server, service):
        name = advice.partition(" ")[0]
        findings.append(warning(advice, *managed.how_to_set(service, [(name, "on")])))
    if server["is_open_to_strangers"]:
        findings.append(
            warning(
                f'every role of the server may connect to database "{database}", and so take locks that delay brokers:'
                f' REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC',
                f"REVOKE CONNECT ON DATABASE {quote(database)} FROM PUBLIC;",
            )
        )
    if server["max_locks"] < WANTED_LOCKS_PER_TRANSACTION:
        wanted = [("max_locks_per_transaction", str(WANTED_LOCKS_PER_TRANSACTION))]
        findings.append(
            warning(
                f"max_locks_per_transaction is {server['max_locks']}: an SQL statement over kafka.messages locks every"
                f" segment; set it to {WANTED_LOCKS_PER_TRANSACTION} or more",
                *managed.how_to_set(service, wanted, restart=True),
            )
        )
    return findings


def _more_connections(server: Mapping[str, Any], config: Config, service: str | None) -> list[str]:
    """What raises each limit that is too low."""
    needed, fix = connections_needed(config), []
    if 0 <= _limit(server["role_limit"]) < needed:
        fix.append(f"ALTER ROLE {quote(server['role'])} CONNECTION LIMIT {needed};")
    if 0 <= _limit(server["database_limit"]) < needed:
        fix.append(f"ALTER DATABASE {quote(server['database'])} CONNECTION LIMIT {needed};")
    if server["max_connections"] < needed:
        fix += managed.how_to_set(service, [("max_connections", str(max(100, 2 * needed)))], restart=True)
    return fix


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit
