"""PostgreSQL that we start (EmbeddedPostgres) and PostgreSQL that we are given (GivenPostgres), with one interface.

    postgres: Postgres = GivenPostgres(url, logger) if url else EmbeddedPostgres(folder, logger)
    await postgres.start()
    ...                      # connect to postgres.dsn
    await postgres.stop()

Nobody asks which one it has.
"""

from typing import Protocol

from pg_kafka.embedded.given import GivenPostgres
from pg_kafka.embedded.server import EmbeddedPostgres, dsn_of_running


class Postgres(Protocol):
    """A PostgreSQL server to keep the log in. The properties are there once `start` has returned."""

    @property
    def dsn(self) -> str:
        """For the driver; may hold a password, so it is never shown."""

    @property
    def psql_command(self) -> str:
        """What a person types to reach the database; holds no password."""

    @property
    def description(self) -> str:
        """Version and place, for the banner; holds no password."""

    @property
    def log_dir(self) -> str:
        """What Kafka's clients are told where they ask for log directories; holds no password."""

    def disk_bytes(self) -> tuple[int, int] | None:
        """Size of the disk that the log is on, and what is free there; None when that cannot be seen from here."""

    def free_disk_bytes(self) -> int | None:
        """Free space where the server writes, None when that cannot be seen from here. Raises OSError."""

    async def start(self) -> None:
        """Return when the database can be reached. Raises FatalError."""

    async def stop(self, *, immediate: bool = False) -> None:
        """End what `start` began."""

    def kill(self) -> None:
        """End it without waiting, for a program that is about to exit."""


__all__ = ["EmbeddedPostgres", "GivenPostgres", "Postgres", "dsn_of_running"]
