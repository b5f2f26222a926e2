"""Files that the process may have open: every connection is one, and every session with PostgreSQL.

The system gives the lowest number that is free, so the number of a new one says how many there are at least. Connections
of clients stop short of the limit, so that a session that was lost can always be opened again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import Final

SPARE_FILES: Final = 16
"""For what is open for a moment: a file that is read, a connection that is closed, the pipes of a process."""


def raise_limit() -> None:
    """Allow as many as this process may allow itself. PostgreSQL, when we start it, has its own limit besides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems call it unlimited and take no more than so many
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many files may be open."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def highest_limit() -> int:
    """What `raise_limit` makes of it."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def kept_free(others: int) -> int:
    """How many clients leave free in a process that has so many other connections, to PostgreSQL above all."""
    return others + SPARE_FILES


def room_for_clients(allowed: int, others: int) -> int:
    """How many clients find room, before any other connection is open, where `allowed` files may be open."""
    with open(os.devnull) as lowest:
        return max(0, allowed - lowest.fileno() - others - kept_free(others))


def _number(allowed: int) -> int:
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed
