"""The configuration files of an embedded PostgreSQL, as text.

Our settings are a file of their own, included by postgresql.conf; what a person writes below the include wins. Nothing
here loosens durability: fsync, full_page_writes and synchronous_commit keep PostgreSQL's defaults, which are on.
"""

from __future__ import annotations

import os
from pathlib import Path

ROLE = "postgres"
DATABASE = "pg_kafka"

_MIB = 1 << 20
_GIB = 1 << 30

# Appended to initdb's files. The paths are relative to the including file, so that the data folder can be moved.
INCLUDE_SETTINGS = """
# pg-kafka's settings. That file is rewritten at every start; your own settings go below this line and win.
include '../postgresql.pg_kafka.conf'
"""
INCLUDE_IDENT = """
# The user who runs pg-kafka logs in over the Unix socket without a password. That file is rewritten at every start.
include ../pg_ident.pg_kafka.conf
"""
HBA = f"""\
# Made by pg-kafka with the data folder and never changed again: edit it as you like, but keep the first rule.
# TYPE  DATABASE     USER        ADDRESS        METHOD
local   all          {ROLE}                    peer map=pg_kafka
local   replication  {ROLE}                    peer map=pg_kafka
local   all          all                        scram-sha-256
host    all          all         127.0.0.1/32   scram-sha-256
host    all          all         ::1/128        scram-sha-256
host    replication  all         127.0.0.1/32   scram-sha-256
"""


def ident(user_name: str) -> str:
    """The user of the operating system who may be the database's role."""
    quoted = user_name.replace('"', '""')
    return f'# MAP      USER  ROLE\npg_kafka  "{quoted}"  {ROLE}\n'


def wal_bytes(free_disk_bytes: int) -> int:
    """WAL between two checkpoints.

    Its files are written anew until there are that many, and used again from then on: a new one costs twice its bytes and a
    stall. Log pages are written once, so more saves few full page images.
    """
    return min(max(free_disk_bytes // 8, 256 * _MIB), _GIB)


def kept_wal_bytes(free_disk_bytes: int) -> int:
    """What stays of that when little is written."""
    return wal_bytes(free_disk_bytes) // 4


def server(port: int, socket_folder: Path, memory_bytes: int, free_disk_bytes: int) -> str:
    """postgresql.pg_kafka.conf for a machine with this much memory and free disk."""
    buffers = min(max(memory_bytes // 8, 32 * _MIB), 256 * _MIB)
    quoted_socket_folder = '"' + str(socket_folder).replace('"', '""') + '"'
    values: dict[str, str | int] = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": quoted_socket_folder,
        "unix_socket_permissions": "0700",
        "max_connections": 100,
        # A statement over the whole log locks each of its tables and their TOAST tables and indexes.
        "max_locks_per_transaction": 1024,
        "shared_buffers": f"{buffers // _MIB}MB",
        "huge_pages": "try",
        "wal_level": "replica",
        "wal_buffers": "16MB",
        "max_wal_size": f"{wal_bytes(free_disk_bytes) // _MIB}MB",
        "min_wal_size": f"{kept_wal_bytes(free_disk_bytes) // _MIB}MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        "autovacuum": "on",
        "jit": "off",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "cluster_name": "pg_kafka",
        # One file for each day of the week, in postgres/log.
        "logging_collector": "on",
        "log_directory": "log",
        "log_filename": "postgresql-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
        "log_line_prefix": "%m [%p] %q%u@%d/%a ",
    }
    lines = [f"{name} = {_quote(str(value))}" for name, value in values.items()]
    return "\n".join(["# Written by pg-kafka at every start: changes here are lost.", *lines, ""])


def stored_port(text: str) -> int | None:
    """The port in an earlier postgresql.pg_kafka.conf."""
    for line in text.splitlines():
        name, _, value = line.partition(" = ")
        if name == "port" and value.strip("'").isdigit():
            return int(value.strip("'"))
    return None


def memory_bytes() -> int:
    """Memory of the machine, or of the container if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return total


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
