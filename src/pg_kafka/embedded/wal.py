"""WAL files that a new cluster has from its start.

PostgreSQL makes a WAL file while whoever commits waits for it: 16 MB of zeros, written and flushed, take 20 to 200 ms. Later it
uses the files of earlier checkpoints again, but a new cluster has none, so that its first gigabyte would stall at every
16 MB. A file of the next number that is there already is taken as it is; those of earlier checkpoints come in that way. So
some are made while initdb runs, before there is a server that could name files in the same place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pg_kafka.embedded.user import ServerUser

# initdb's default, which PostgreSQL reads back from its own files.
FILE_BYTES = 16 << 20
_FILES_OF_A_LOG = (1 << 32) // FILE_BYTES
_PIECE = bytes(1 << 20)
_NAME = re.compile(r"[0-9A-F]{24}")


def write(folder: Path, count: int) -> bool:
    """Files of zeros, flushed; False when that fails, which costs no more than time. May run in a thread.

    It ends soon after the folder has been removed.
    """
    try:
        for number in range(count):
            _write(folder / str(number))
    except OSError:
        return False
    return True


def _write(path: Path) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        for _ in range(FILE_BYTES // len(_PIECE)):
            file.write(_PIECE)
        file.flush()
        os.fsync(file.fileno())


def move(folder: Path, cluster: Path, owner: ServerUser) -> None:
    """Let the files in `folder` follow the last one of a cluster that has not been started yet."""
    target = cluster / "pg_wal"
    last = max((path for path in target.iterdir() if _NAME.fullmatch(path.name)), key=lambda path: path.name)
    if last.stat().st_size != FILE_BYTES:
        return
    timeline, log, file = (int(last.name[start : start + 8], 16) for start in (0, 8, 16))
    for spare in folder.iterdir():
        file += 1
        owner.give(spare)
        more, within = divmod(file, _FILES_OF_A_LOG)
        spare.rename(target / f"{timeline:08X}{log + more:08X}{within:08X}")
