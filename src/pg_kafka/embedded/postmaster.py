"""A PostgreSQL server process on a data folder: started by us, or found running because its broker was killed.

The postmaster says how it is in `postmaster.pid`, eight lines:

    pid | data folder | start time | port | socket folder | listen address | shared memory key | status
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Status:
    """What postmaster.pid says. Lines that are not there yet are 0 and ""."""

    pid: int
    port: int
    socket_folder: Path
    state: str

    @property
    def is_ready(self) -> bool:
        return self.state in ("ready", "standby")


def read_status(cluster: Path) -> Status | None:
    """What a server has written about itself; None where there is none, also since the folder is no folder."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None
    lines += [""] * 8
    return Status(_number(lines[0]), _number(lines[3]), Path(lines[4]), lines[7].strip())


class Postmaster:
    """One server process."""

    def __init__(self, pid: int, cluster: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._cluster = cluster
        self._child = child

    @classmethod
    def find(cls, cluster: Path) -> Postmaster | None:
        """The server that runs on this cluster, if one does."""
        status = read_status(cluster)
        if status is None or status.pid <= 0:
            return None
        found = cls(status.pid, cluster)
        return found if found.is_alive() else None

    def is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        # A number alone proves nothing: it may belong to another process by now. The command line can be read even by a
        # root without capabilities (a container's), unlike the working folder, which is right after a move as well.
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return not Path("/proc/self").exists()
        named = [os.fsdecode(after) for flag, after in itertools.pairwise(command) if flag == b"-D"]
        return any(self._is_cluster(Path(place)) for place in (*named, f"/proc/{self.pid}/cwd"))

    def _is_cluster(self, place: Path) -> bool:
        """The folder may be known by another name, through a link."""
        try:
            return place.samefile(self._cluster)
        except OSError:
            return False

    async def wait_ready(self, patience_s: float = 5.0) -> Status | None:
        """Its status once it takes connections, None when it has ended.

        No deadline: recovery after a crash takes the time it takes. Raises TimeoutError every `patience_s`; call again.
        """
        deadline = time.monotonic() + patience_s
        while self.is_alive():
            status = read_status(self._cluster)
            if status is not None and status.pid == self.pid and status.is_ready:
                return status
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(_POLL_S)
        return None

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    async def ended(self) -> None:
        """Return when it has ended, however long that takes."""
        try:
            watched = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except (AttributeError, OSError):
            # No such thing outside Linux: look now and then, a safety net and no more.
            while self.is_alive():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(1.0)
            return
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_reader(watched, event.set)
        try:
            await event.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)
        self.is_alive()  # takes the exit status of a child, so that no zombie stays

    async def wait_ended(self, deadline_s: float) -> bool:
        deadline = time.monotonic() + deadline_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
