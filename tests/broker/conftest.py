"""A real broker for tests that speak the protocol: the installed command on the session's PostgreSQL.

`broker` is shared by all tests of a run, so tests use topics of their own; `start_broker(NAME=value)` starts another one
with settings given by environment, for one test.
"""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.clients.brokers import COMMAND
from tests.kafka_reference import HOST, end, free_port, wait_until_served


@dataclass
class RunningBroker:
    """Where it listens, what it stands on, and its process."""

    host: str
    port: int
    dsn: str
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def serving(
    dsn: str, folder: Path, settings: Mapping[str, str | None], files: int | None = None
) -> Iterator[RunningBroker]:
    """With `files`, no more than so many may be open in the broker's process. None for a setting: it is not set."""
    port = free_port()
    log = folder / f"broker-{port}.log"
    # The records of the tests have a date in the past, by which retention would delete them.
    environment = os.environ | {
        f"PG_KAFKA_{name}": value for name, value in {"LOG_RETENTION_MS": "-1", **settings}.items() if value is not None
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(COMMAND), "serve", "--listen", f"{HOST}:{port}", "--database", dsn],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            preexec_fn=None if files is None else partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files)),
        )
    try:
        wait_until_served(port, process, log, leads=True)
        yield RunningBroker(HOST, port, dsn, process, log)
    finally:
        end(process, signal.SIGTERM)
        assert "traceback=" not in log.read_text(), log.read_text()[-4000:]


@pytest.fixture(scope="session")
def broker(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    database = postgres15.create_database()
    try:
        with serving(database.dsn, tmp_path_factory.mktemp("broker"), {}) as running:
            yield running
    finally:
        postgres15.drop_database(database)


@pytest.fixture
def start_broker(pg_dsn: str, tmp_path: Path) -> Iterator[Callable[..., RunningBroker]]:
    with contextlib.ExitStack() as stack:
        yield lambda *, files=None, **settings: stack.enter_context(serving(pg_dsn, tmp_path, settings, files))


@pytest.fixture(scope="session")
def group_broker(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker whose groups begin without waiting for more members."""
    database = postgres15.create_database()
    settings = {"GROUP_INITIAL_REBALANCE_DELAY_MS": "0", "GROUP_MIN_SESSION_TIMEOUT_MS": "100"}
    try:
        with serving(database.dsn, tmp_path_factory.mktemp("groups"), settings) as running:
            yield running
    finally:
        postgres15.drop_database(database)
