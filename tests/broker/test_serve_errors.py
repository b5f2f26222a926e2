"""What `pg-kafka serve` says when it cannot start: one sentence on stderr, exit code 1, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.broker.broken_setups import SETUPS, Surroundings
from tests.broker.command import ANY_PORT, processes_of, run
from tests.postgres import Database, PostgresServer


@pytest.fixture
def place(postgres15: PostgresServer, pg_database: Database, embedded_folder: Path) -> Surroundings:
    return Surroundings(postgres15, pg_database, embedded_folder)


@pytest.mark.parametrize("name", SETUPS)
def test_start_is_refused_with_one_sentence(name: str, place: Surroundings) -> None:
    with SETUPS[name](place) as broken:
        done = run("serve", *broken.arguments, settings=broken.settings)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"pg-kafka: .*{broken.sentence}.*\n", done.err), done.err
    assert "hidden" not in done.err
    assert processes_of(place.folder / "data") == []


def test_refused_migration_is_one_sentence(place: Surroundings) -> None:
    with SETUPS["transactions pooled"](place) as broken:
        done = run("migrate", *broken.arguments[2:])
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"pg-kafka: .*{broken.sentence}.*\n", done.err), done.err


def test_unknown_flag_is_a_usage_error() -> None:
    done = run("serve", "--listen", ANY_PORT, "--partitions", "3")
    assert (done.code, done.out) == (2, "")
    assert "--partitions" in done.err
