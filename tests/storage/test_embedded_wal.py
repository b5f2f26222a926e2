"""WAL files that are there before a new cluster is started: PostgreSQL takes them, and recovers from them."""

from __future__ import annotations

import logging
from pathlib import Path

import asyncpg
import pytest

from pg_kafka.embedded import EmbeddedPostgres, settings, wal
from pg_kafka.embedded.user import ServerUser

LOG = logging.getLogger("test.embedded")
FREE_BYTES = 4 << 30  # 128 MB of WAL are kept
FILES = 8


@pytest.fixture
def postgres(embedded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedPostgres:
    monkeypatch.setattr("pg_kafka.embedded.folder.DataFolder.free_bytes", lambda _: FREE_BYTES)
    return EmbeddedPostgres(embedded_folder / "data", LOG)


def wal_files(data: Path) -> dict[str, int]:
    """Inodes by name."""
    folder = data / "postgres" / "pg_wal"
    return {path.name: path.stat().st_ino for path in folder.iterdir() if len(path.name) == 24}


async def test_a_new_cluster_writes_into_files_that_are_there(
    postgres: EmbeddedPostgres, embedded_folder: Path
) -> None:
    assert settings.kept_wal_bytes(FREE_BYTES) == FILES * wal.FILE_BYTES
    await postgres.start()
    made = wal_files(embedded_folder / "data")
    assert sorted(made) == [f"{1:08X}{0:08X}{number:08X}" for number in range(1, FILES + 1)]
    assert not list((embedded_folder / "data").glob("postgres.new-*"))
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute("CREATE TABLE t (n int, filler text)")
    while (last := str(await connection.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())"))) < sorted(made)[3]:
        await connection.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n")
    rows = await connection.fetchval("SELECT count(*) FROM t")
    assert wal_files(embedded_folder / "data")[last] == made[last]
    await connection.close()
    await postgres.stop(immediate=True)  # so that the next start reads those files
    await postgres.start()
    connection = await asyncpg.connect(postgres.dsn)
    assert await connection.fetchval("SELECT count(*) FROM t") == rows
    await connection.close()
    await postgres.stop()


async def test_a_disk_that_refuses_them_costs_nothing_but_time(
    postgres: EmbeddedPostgres, embedded_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wal, "_write", refuse)
    await postgres.start()
    assert len(wal_files(embedded_folder / "data")) == 1
    await postgres.stop()
    assert not list((embedded_folder / "data").glob("postgres.new-*"))


def test_names_go_on_in_the_next_log(tmp_path: Path) -> None:
    target = tmp_path / "cluster" / "pg_wal"
    target.mkdir(parents=True)
    with (target / f"{1:08X}{0:08X}{254:08X}").open("wb") as file:
        file.truncate(wal.FILE_BYTES)
    spare = tmp_path / "spare"
    spare.mkdir()
    for number in range(3):
        (spare / str(number)).touch()
    wal.move(spare, tmp_path / "cluster", ServerUser("me", 0, 0, False))
    assert sorted(path.name for path in target.iterdir()) == [
        f"{1:08X}{0:08X}{254:08X}",
        f"{1:08X}{0:08X}{255:08X}",
        f"{1:08X}{1:08X}{0:08X}",
        f"{1:08X}{1:08X}{1:08X}",
    ]
