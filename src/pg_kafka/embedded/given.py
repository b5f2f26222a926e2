"""PostgreSQL that we are given: any server from version 14, an ordinary role, a UTF8 database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time

import asyncpg

from pg_kafka.database_url import named_files, place, without_password
from pg_kafka.errors import FatalError

OLDEST = 14
_CONNECT_TIMEOUT_S = 10.0
# A server that says that it is starting up gets this long: the two are often started together.
_STARTING_UP_S = 60.0


class GivenPostgres:
    """A server that somebody else runs; `start` checks that it can be used, `stop` leaves it alone."""

    def __init__(self, dsn: str, logger: logging.Logger) -> None:
        self._dsn = dsn
        self._logger = logger
        self._version = ""

    @property
    def dsn(self) -> str:
        return self._dsn

    @property
    def psql_command(self) -> str:
        return shlex.join(["psql", without_password(self._dsn)])

    @property
    def description(self) -> str:
        return f"PostgreSQL {self._version}, {place(self._dsn)}"

    @property
    def log_dir(self) -> str:
        return f"postgresql://{place(self._dsn)}"

    def disk_bytes(self) -> tuple[int, int] | None:
        """None: its disk is another machine's."""
        return None

    def free_disk_bytes(self) -> int | None:
        """None: its disk is another machine's."""
        return None

    async def start(self) -> None:
        """Raises FatalError when the server cannot be reached, is too old, or the database is not UTF8."""
        for option, file in named_files(self._dsn, os.environ):
            if not os.access(file, os.R_OK):
                # The driver would say that some file is missing.
                raise FatalError(
                    f"the database {place(self._dsn)} cannot be used: {option} names {file}, which cannot be read"
                )
        connection = await self._connect()
        try:
            self._version = connection.get_settings().server_version.split()[0]
            if connection.get_server_version().major < OLDEST:
                raise FatalError(
                    f"{place(self._dsn)} is PostgreSQL {self._version}, but pg-kafka needs {OLDEST} or newer"
                )
            encoding = connection.get_settings().server_encoding
            if encoding != "UTF8":
                raise FatalError(f"the database of {place(self._dsn)} has encoding {encoding}, but pg-kafka needs UTF8")
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=2.0)

    async def stop(self, *, immediate: bool = False) -> None:
        """Nothing: it is not ours."""

    def kill(self) -> None:
        """Nothing: it is not ours."""

    async def _connect(self) -> asyncpg.Connection:
        deadline = time.monotonic() + _STARTING_UP_S
        while True:
            try:
                return await asyncpg.connect(
                    self._dsn,
                    timeout=_CONNECT_TIMEOUT_S,
                    server_settings={"application_name": "pg_kafka start"},
                )
            except asyncpg.CannotConnectNowError as error:
                if time.monotonic() > deadline:
                    raise FatalError(f"the database {place(self._dsn)} does not come up: {error}") from error
                self._logger.info("the database is starting up", extra={"reason": str(error)})
                await asyncio.sleep(0.5)
            except TimeoutError as error:
                raise FatalError(
                    f"the database {place(self._dsn)} cannot be reached: no answer within {_CONNECT_TIMEOUT_S:.0f} s"
                ) from error
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
                raise FatalError(f"the database {place(self._dsn)} cannot be used: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
