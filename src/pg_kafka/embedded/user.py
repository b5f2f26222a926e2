"""The user of the operating system that PostgreSQL runs as.

PostgreSQL refuses to run as root. When the broker does, the server runs as `postgres` if there is such a user, else as
`nobody`; a data folder that exists keeps the user that owns it. No user is ever created, and nobody else's folder is
opened up.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pg_kafka.errors import FatalError

_UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Who runs the server; `is_other`: not the user that runs the broker."""

    name: str
    uid: int
    gid: int
    is_other: bool

    def popen_arguments(self, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Arguments for subprocess: the user, a clean environment, a session of its own (Ctrl-C does not reach it)."""
        arguments: dict[str, Any] = {
            # PGOPTIONS, PGDATA, LD_PRELOAD and their like are for other programs.
            "env": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/", **(environment or {})},
            "cwd": "/",
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
        }
        if self.is_other:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can reach a folder. The kernel is asked, so that ACLs and mounts count."""
        if not self.is_other:
            return os.access(folder, os.X_OK)
        check = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
        return subprocess.run(check, stderr=subprocess.DEVNULL, check=False, **self.popen_arguments()).returncode == 0

    def give(self, path: Path) -> None:
        """Make this user the owner of a file or folder that the broker has just made."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def current_user_name() -> str:
    """The name that PostgreSQL's peer authentication sees for this process."""
    return _name_of(os.geteuid())


def choose(cluster: Path) -> ServerUser:
    """The user for the server on this (existing or future) cluster folder. Raises FatalError."""
    if os.geteuid() != 0:
        return ServerUser(current_user_name(), os.geteuid(), os.getegid(), is_other=False)
    try:
        owner = cluster.lstat()
    except FileNotFoundError:
        pass
    else:
        if owner.st_uid != 0:
            return ServerUser(_name_of(owner.st_uid), owner.st_uid, owner.st_gid, is_other=True)
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(name, entry.pw_uid, entry.pw_gid, is_other=True)
    raise FatalError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody here to run it as: "
        "start pg-kafka as an ordinary user, or give --database URL"
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
