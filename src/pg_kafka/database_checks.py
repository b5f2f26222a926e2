"""What `pg-kafka doctor` finds in a PostgreSQL that works: what is slow, what cannot be cleaned up, and which service it is.

A finding is a level, a sentence, and the lines below it that change what it tells of: SQL, a command, or a setting.
These are rules over facts (`storage/health.py`, `managed.py`), and ask nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pg_kafka import managed
from pg_kafka.managed import Seen, Way
from pg_kafka.storage.health import MEASURE_S, Health, Limits, Row
from pg_kafka.storage.queries import quote

Finding = tuple[str, str]

MIB = 1 << 20
# acks=all waits for a commit: a disk of a server needs 0.1 to 5 ms for a flush.
SLOW_COMMIT_S = 0.02
# Within a data centre it is below 1 ms.
FAR_S = 0.005
LEAST_WAL_BYTES = 1 << 30
LEAST_CHECKPOINT_TIMEOUT_S = 300
# A transaction of a lane is that large at most.
LEAST_WAL_BUFFERS = 4 * MIB
LEAST_COMPLETION_TARGET = 0.7
# Of checkpoints, before their reasons say anything.
ENOUGH_CHECKPOINTS = 10
WAL_SHARE = 0.25
# What an active slot may keep before it is said.
SLOT_BYTES = 4 << 30
# The age at which autovacuum begins to press is 200 million; PostgreSQL stops taking writes at some 2,100 million.
OLD_TRANSACTIONS = 1_000_000_000
JOURNAL_BYTES = 64 * MIB
JOURNAL_GROWTH = 8
# Their storage is not PostgreSQL's own: they flush in another way, and settings of the WAL mean little or are not to be set.
OWN_STORAGE = frozenset({"Neon", "Amazon Aurora", "Google AlloyDB"})


def ok(text: str, *fix: str) -> Finding:
    """Nothing is wrong."""
    return "ok", "\n".join((text, *fix))


def warning(text: str, *fix: str) -> Finding:
    """It works, and could do better or will cost something later."""
    return "warning", "\n".join((text, *fix))


def error(text: str, *fix: str) -> Finding:
    """A broker cannot work."""
    return "error", "\n".join((text, *fix))


def shown(text: str) -> str:
    """A name of somebody's choice, for a sentence: it stays on its line, and does nothing to a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def literal(text: str) -> str:
    """An SQL literal, on one line."""
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "E'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"


def identifier(name: str) -> str:
    """An SQL identifier, on one line."""
    if name.isprintable():
        return quote(name)
    escaped = name.replace("\\", "\\\\").replace('"', '""')
    return 'U&"' + "".join(c if c.isprintable() else f"\\+{ord(c):06x}" for c in escaped) + '"'


# -- which service ---------------------------------------------------------------------------------------------------


def way_to(seen: Seen | None, needed: int) -> list[Finding]:
    """What the address says of the way to the database; `needed` is the number of sessions of a broker."""
    if seen is None:
        return []
    use = [f"--database {shlex.quote(seen.instead)}"] if seen.instead else []
    match seen.way:
        case Way.POOLER:
            return [
                warning(
                    f"the address leads to {seen.service} through {seen.called}, which may give a session to several"
                    " clients: use the one below, with the same password",
                    *use,
                )
            ]
        case Way.READER:
            return [error(f"the address leads to {seen.service} through {seen.called}: a broker writes", *use)]
        case Way.OTHER:
            return [error(f"{seen.service} is no PostgreSQL: pg-kafka needs one, with its locks and its catalogue")]
        case Way.SESSION_POOLER:
            return [
                ok(
                    f"the database is at {seen.service}, through {seen.called}: that will do while its pool has room for"
                    f" {needed} sessions"
                )
            ]
    if seen.service == "Neon":
        return [ok("the database is at Neon, without its pooler; it is never suspended while a broker runs")]
    return [ok(f"the database is at {seen.service}, without a pooler")]


def service_of(health: Health, seen: Seen | None) -> tuple[str | None, list[Finding]]:
    """The service, by the address or else by what the server says of itself."""
    server = health.server
    if (other := managed.no_postgres(server["version"])) is not None:
        return None, [
            error(f"this is {other}, which is no PostgreSQL: pg-kafka needs one, with its locks and its catalogue")
        ]
    said = managed.service_of_server(server["settings"], server["roles"], is_aurora=server["is_aurora"])
    if said is None or (seen is not None and seen.way is not Way.OTHER):
        return (said if seen is None else said if said == "Amazon Aurora" else seen.service), []
    return said, [ok(f"the server is one of {said}")]


# -- what is slow ----------------------------------------------------------------------------------------------------


def examine_health(health: Health, service: str | None, limits: Limits) -> list[Finding]:
    """All that can be said of a server's health."""
    findings = [*_commits(health, service), *_commit_settings(health, service)]
    if service not in OWN_STORAGE:
        findings += _wal(health, service)
    findings += _vacuum(health, service)
    findings += _held(health, service, limits)
    findings += _bloat(health)
    return findings + _rights(health)


def _commits(health: Health, service: str | None) -> list[Finding]:
    findings: list[Finding] = []
    if health.round_trip_s is not None and health.round_trip_s > FAR_S:
        findings.append(
            warning(
                f"the way to the database and back takes {_ms(health.round_trip_s)}, and each acknowledgement several of"
                " them: run the broker near the database",
                "in the same zone or data centre",
            )
        )
    if health.commit_s is None or health.longest_commit_s is None:
        return findings
    waits = " (the flush of a standby included)" if health.text("synchronous_standby_names") else ""
    if health.commit_s <= SLOW_COMMIT_S:
        text = f"a commit takes {_ms(health.commit_s)}, {_ms(health.longest_commit_s)} at most{waits}"
        return [*findings, ok(text)]
    if waits and health.longest_commit_s >= 0.9 * MEASURE_S:
        names = shown(health.text("synchronous_standby_names") or "")
        return [
            *findings,
            warning(
                f"a commit has waited {_ms(health.longest_commit_s)} for a synchronous standby that does not answer:"
                f" synchronous_standby_names is {names}",
                "SELECT application_name, client_addr, state, sync_state FROM pg_stat_replication;  -- who is there",
                *managed.how_to_set(service, [("synchronous_standby_names", "")]),
                "the last one only if you accept that standbys lack records",
            ),
        ]
    if service is None:
        fix = (
            "put pg_wal on a disk that flushes faster (pg_test_fsync measures it), or move away what else writes there"
        )
    else:
        fix = f"take a class of storage with more operations a second at {service}"
    return [
        *findings,
        warning(
            f"a commit takes {_ms(health.commit_s)}, {_ms(health.longest_commit_s)} at most{waits}, and acks=all waits for"
            " it each time: the disk flushes slowly",
            fix,
        ),
    ]


def _commit_settings(health: Health, service: str | None) -> list[Finding]:
    findings = []
    commit = health.text("synchronous_commit")
    if commit in ("off", "local", "remote_write"):
        findings.append(
            warning(
                f"synchronous_commit is {commit} here: the broker sets it to on for itself, but what others change by SQL"
                " may be lost in a crash",
                *_undone(health, service),
            )
        )
    if health.number("commit_delay"):
        findings.append(
            warning(
                "commit_delay makes each commit wait: the broker collects commits itself",
                *managed.how_to_set(service, [("commit_delay", "0")]),
            )
        )
    return findings


def _undone(health: Health, service: str | None) -> list[str]:
    """What takes synchronous_commit back, where it is set: for the role, for the database, or for the server."""
    if not health.own_defaults:
        return managed.how_to_set(service, [("synchronous_commit", "on")])
    first = health.own_defaults[0]
    role, database = identifier(health.server["role"]), identifier(health.server["database"])
    if not first["of_role"]:
        return [f"ALTER DATABASE {database} RESET synchronous_commit;"]
    where = f" IN DATABASE {database}" if first["of_database"] else ""
    return [f"ALTER ROLE {role}{where} RESET synchronous_commit;"]


def _wal(health: Health, service: str | None) -> list[Finding]:
    findings = []
    wal_bytes = health.bytes_of("max_wal_size")
    timeout_s = health.number("checkpoint_timeout")
    if wal_bytes is not None and wal_bytes < LEAST_WAL_BYTES:
        findings.append(
            warning(
                f"max_wal_size is {wal_bytes // MIB} MiB: under load checkpoints come one after the other, and after each of"
                " them pages are logged whole again",
                *managed.how_to_set(service, [("max_wal_size", "2GB")]),
            )
        )
    elif wal_bytes is not None and _are_forced(health.checkpoints, wal_bytes):
        wanted = f"{max(2, 2 * wal_bytes >> 30)}GB"
        findings.append(
            warning(
                f"{health.checkpoints['asked']} checkpoints came because the WAL was full or somebody asked, and"
                f" {health.checkpoints['timed']} by the clock: max_wal_size is too small for the load",
                *managed.how_to_set(service, [("max_wal_size", wanted)]),
            )
        )
    if timeout_s is not None and timeout_s < LEAST_CHECKPOINT_TIMEOUT_S:
        findings.append(
            warning(
                f"checkpoint_timeout is {timeout_s:.0f} s: after each checkpoint pages are logged whole again",
                *managed.how_to_set(service, [("checkpoint_timeout", "15min")]),
            )
        )
    target = health.number("checkpoint_completion_target")
    if target is not None and target < LEAST_COMPLETION_TARGET:
        findings.append(
            warning(
                f"checkpoint_completion_target is {target}: checkpoints write in bursts, and commits wait behind them",
                *managed.how_to_set(service, [("checkpoint_completion_target", "0.9")]),
            )
        )
    buffers = health.bytes_of("wal_buffers")
    if buffers is not None and buffers < LEAST_WAL_BUFFERS:
        findings.append(
            warning(
                f"wal_buffers is {buffers // 1024} KiB: a transaction of the broker has up to 4 MiB, and writes them out in"
                " pieces",
                *managed.how_to_set(service, [("wal_buffers", "16MB")], restart=True),
            )
        )
    if health.text("wal_compression") in ("on", "pglz"):
        findings.append(
            warning(
                "wal_compression is pglz: it costs much of a processor, and compresses no records",
                *managed.how_to_set(service, [("wal_compression", "off")]),
            )
        )
    if health.text("wal_level") == "minimal":
        findings.append(
            warning(
                "wal_level is minimal: no base backup, no standby and no recovery to a point in time",
                *managed.how_to_set(service, [("wal_level", "replica")], restart=True),
            )
        )
    return findings


def _are_forced(checkpoints: Row, max_wal_bytes: int) -> bool:
    """Do they come because the WAL is full? Then about half of what it may be lies between two of them."""
    asked, timed = int(checkpoints.get("asked", 0)), int(checkpoints.get("timed", 0))
    is_often = asked >= ENOUGH_CHECKPOINTS and asked > timed
    return is_often and int(checkpoints.get("wal_bytes", 0)) > asked * max_wal_bytes * WAL_SHARE


# -- what is not cleaned up ------------------------------------------------------------------------------------------


def _vacuum(health: Health, service: str | None) -> list[Finding]:
    findings = []
    for name in ("autovacuum", "track_counts"):
        if health.text(name) == "off":
            findings.append(
                warning(
                    f"{name} is off: small tables grow, and the server stops one day for want of transaction ids",
                    *managed.how_to_set(service, [(name, "on")]),
                )
            )
    if health.tables_without_autovacuum:
        findings.append(
            warning(
                f"autovacuum is off for tables of schema kafka: {', '.join(map(shown, health.tables_without_autovacuum))}",
                *(
                    f"ALTER TABLE kafka.{identifier(name)} RESET (autovacuum_enabled);"
                    for name in health.tables_without_autovacuum
                ),
            )
        )
    if health.frozen_age > OLD_TRANSACTIONS:
        findings.append(
            warning(
                f"the oldest rows are {health.frozen_age:,} transactions old, and at some 2,100,000,000 the server takes no"
                " more writes",
                f"VACUUM (FREEZE);  -- in database {identifier(health.server['database'])}, as its owner",
            )
        )
    return findings


def _held(health: Health, service: str | None, limits: Limits) -> list[Finding]:
    """Old snapshots, and whoever else keeps rows or WAL that nobody needs."""
    findings = []
    for session in health.sessions:
        who = _who(session)
        findings.append(
            warning(
                f"process {session['pid']} ({who}) has had a transaction open for {_time(session['open_s'])}"
                f" ({session['state']}): nothing that was deleted since can be cleaned up",
                f"SELECT pg_terminate_backend({session['pid']});",
                f"ALTER ROLE {identifier(session['role'])} SET idle_in_transaction_session_timeout = '5min';",
            )
        )
    for one in health.prepared:
        findings.append(
            warning(
                f"the prepared transaction {shown(one['gid'])} of role {shown(one['owner'])} has been waiting for"
                f" {_time(one['open_s'])}: nothing that was deleted since can be cleaned up, not even after a restart",
                f"ROLLBACK PREPARED {literal(one['gid'])};  -- or COMMIT PREPARED, if its program says so",
            )
        )
    for locker in health.lockers:
        others = f" and {locker['tables'] - 1} more" if locker["tables"] > 1 else ""
        findings.append(
            warning(
                f"process {locker['pid']} ({_who(locker)}) has locked kafka.{shown(locker['name'])}{others} against everybody",
                f"SELECT pg_terminate_backend({locker['pid']});",
            )
        )
    for slot in health.slots:
        findings += _slot(slot)
    if health.slots and health.bytes_of("max_slot_wal_keep_size") is None:
        findings.append(
            warning(
                "max_slot_wal_keep_size is not set: a slot that nobody reads fills the disk",
                *managed.how_to_set(service, [("max_slot_wal_keep_size", "10GB")]),
            )
        )
    for standby in health.standbys:
        findings.append(
            warning(
                f"a query on the standby {shown(standby['name'])} holds what was deleted in {standby['held_transactions']:,}"
                " transactions (hot_standby_feedback)",
                "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start;  -- on the standby",
                "SELECT pg_terminate_backend(PID);  -- there, of the first of them",
            )
        )
    if not health.server["may_see_sessions"]:
        findings.append(
            ok(
                "transactions of other roles are not seen, and so not whether one is open for long",
                f"GRANT pg_read_all_stats TO {identifier(health.server['role'])};",
            )
        )
    elif not (health.sessions or health.prepared):
        findings.append(ok(f"no transaction has been open for {_time(limits.open_s)}"))
    return findings


def _who(session: Row) -> str:
    application = f", {shown(session['application'])}" if session["application"] else ""
    return f"role {shown(session['role'])}{application}"


def _slot(slot: Row) -> list[Finding]:
    kept = slot["kept_bytes"] or 0
    name, drop = slot["name"], f"SELECT pg_drop_replication_slot({literal(slot['name'])});"
    if slot["wal_status"] == "lost":
        return [
            warning(f"the replication slot {name} has lost WAL that its reader needs: it is of no use any more", drop)
        ]
    if not slot["active"]:
        and_rows = ", and rows that were deleted" if slot["holds_rows"] else ""
        return [
            warning(
                f"nobody reads the replication slot {name}: it keeps {kept // MIB} MiB of WAL{and_rows}, and more from day"
                " to day",
                f"{drop}  -- or start its reader again",
            )
        ]
    if kept > SLOT_BYTES:
        return [
            warning(
                f"the reader of the replication slot {name} is late: the slot keeps {kept // MIB} MiB of WAL",
                f"{drop}  -- if its reader is not needed; else look at that",
            )
        ]
    return []


def _bloat(health: Health) -> list[Finding]:
    findings = []
    for table in health.dead_rows:
        name = f"{table['schema']}.{identifier(table['name'])}"
        findings.append(
            warning(
                f"{name} has {table['dead']:,} dead rows beside {table['live']:,} live ones:"
                " whoever holds them is above, or autovacuum does not come",
                f"VACUUM (VERBOSE) {name};  -- afterwards it says how many could not be removed yet",
            )
        )
    for journal in health.journals:
        if journal["bytes"] > JOURNAL_BYTES and journal["bytes"] > JOURNAL_GROWTH * journal["live_bytes"]:
            findings.append(
                warning(
                    f"the journal of {journal['journal']} has {journal['bytes'] // MIB} MiB, of which"
                    f" {journal['live_bytes'] // MIB} counted when it was last rewritten: a broker that leads rewrites it",
                    "start a broker; when one runs, end the transactions above, and look for janitor's job in its log",
                )
            )
    return findings


def _rights(health: Health) -> list[Finding]:
    role, database = identifier(health.server["role"]), identifier(health.server["database"])
    if health.server["may_make_temporary_tables"]:
        return []
    return [
        warning(
            f"role {role} may not make temporary tables in database {database}: topics are not compacted",
            f"GRANT TEMPORARY ON DATABASE {database} TO {role};",
        )
    ]


def lacking_rights(rights: Row) -> list[Finding]:
    """What keeps a role from being a broker's in a schema that is there."""
    if rights["may_use"] and not rights["lacks"]:
        return []
    role, owner = rights["role"], identifier(rights["owner"])
    lacks: Sequence[str] = rights["lacks"] if rights["may_use"] else ["USAGE on schema kafka"]
    more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
    return [
        error(
            f"role {identifier(role)} lacks rights in the schema of role {owner}: {', '.join(lacks[:3])}{more}",
            f"pg-kafka migrate --grant-broker {shlex.quote(role)} --database URL  # with the URL of role {owner}",
        )
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
