"""A pgbouncer between a broker and PostgreSQL, in a pool mode of choice."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.broker.command import wait_until
from tests.kafka_reference import free_port
from tests.postgres import Database, PostgresServer, unprivileged_user


@contextlib.contextmanager
def pgbouncer(server: PostgresServer, database: Database, pool_mode: str, **settings: str) -> Iterator[str]:
    """The DSN of the database through the proxy."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="pgk-bouncer-", dir="/tmp"))
    port = free_port()
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": pool_mode,
        "logfile": str(folder / "log"),
        **settings,
    }
    text = f"[databases]\n* = host={server.socket_folder} port={server.port} user={database.name}\n[pgbouncer]\n"
    (folder / "pgbouncer.ini").write_text(text + "".join(f"{name} = {value}\n" for name, value in lines.items()))
    user = unprivileged_user()  # it refuses to run as root
    identity: dict[str, Any] = {}
    if user is not None:
        owner = pwd.getpwnam(user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    process = subprocess.Popen(
        [program, "-q", str(folder / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **identity,
    )
    try:
        log = folder / "log"
        wait_until(
            lambda: process.poll() is not None or (log.exists() and "process up" in log.read_text()), "pgbouncer"
        )
        assert process.poll() is None, log.read_text() if log.exists() else "pgbouncer ended"
        yield f"postgresql://{database.name}@127.0.0.1:{port}/{database.name}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
