"""Real PostgreSQL servers and a fresh database for each test.

`pg_dsn` is an empty UTF8 database owned by an ordinary role; `pg_superuser_dsn` is the same database as superuser.
Both are on the system's PostgreSQL unless the test asks for others:

    @pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)

These servers run without fsync; a test of durability starts its own with `make_postgres("postgresql-15", fsync=True)`.
`embedded_folder` is a place for the data folders of embedded servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.postgres import FLAVOURS, Database, PostgresServer, reachable_folder

# How long an example takes says more about what else the machine does.
_SLOW = (*settings.default.suppress_health_check, HealthCheck.too_slow)
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=_SLOW)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def make_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Factory: `make_postgres(flavour, fsync=False, settings={...})` starts a server of its own for the session."""
    servers: list[PostgresServer] = []

    def make(flavour: str, *, fsync: bool = False, settings: Mapping[str, str] | None = None) -> PostgresServer:
        binaries = FLAVOURS[flavour]()
        if binaries is None:
            pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
        server = PostgresServer(flavour, binaries, fsync=fsync, settings=settings or {})
        servers.append(server)
        server.create()
        return server

    try:
        yield make
    finally:
        for server in servers:
            server.destroy()


@pytest.fixture(scope="session")
def shared_postgres(make_postgres: Callable[..., PostgresServer]) -> Callable[[str], PostgresServer]:
    """The session's server of a flavour, started when first asked for."""
    servers: dict[str, PostgresServer] = {}

    def get(flavour: str) -> PostgresServer:
        if flavour not in servers:
            servers[flavour] = make_postgres(flavour)
        return servers[flavour]

    return get


@pytest.fixture(scope="session")
def postgres15(shared_postgres: Callable[[str], PostgresServer]) -> PostgresServer:
    """The system's PostgreSQL."""
    return shared_postgres("postgresql-15")


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest, shared_postgres: Callable[[str], PostgresServer]) -> PostgresServer:
    """The server that `pg_dsn` is on; the system's, unless parametrised with `indirect=True`."""
    return shared_postgres(getattr(request, "param", "postgresql-15"))


@pytest.fixture
def pg_database(postgres_server: PostgresServer) -> Iterator[Database]:
    database = postgres_server.create_database()
    try:
        yield database
    finally:
        postgres_server.drop_database(database)


@pytest.fixture
def pg_dsn(pg_database: Database) -> str:
    """A fresh, empty UTF8 database as an ordinary role that owns it."""
    return pg_database.dsn


@pytest.fixture
def pg_superuser_dsn(pg_database: Database) -> str:
    """The database of `pg_dsn` as superuser."""
    return pg_database.superuser_dsn


@pytest.fixture
def embedded_folder() -> Iterator[Path]:
    """A folder whose subfolders may be data folders of embedded servers; what still runs in it ends with the test.

    It is in memory if the machine allows: good against killed processes, no proof against a loss of power.
    """
    with reachable_folder(in_memory=True) as folder:
        yield folder
