"""Data folders that are links, mount points and the like, as `pg-kafka serve` meets them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.broker.command import ANY_PORT, Serving, ordinary_user, processes_of, run
from tests.broker.rawclient import RawClient, batch, offsets_of
from tests.postgres import end_embedded

MIB = 2**20
Started = tuple[Callable[..., subprocess.CompletedProcess[str]], Callable[[Path], None]]


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """A file system at a folder; without the right to mount, the test is skipped."""
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def link_to_an_empty_folder(place: Path) -> Path:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    return place / "link"


def link_to_a_link(place: Path) -> Path:
    (place / "outer").symlink_to(link_to_an_empty_folder(place))
    return place / "outer"


def folder_below_a_link(place: Path) -> Path:
    return link_to_an_empty_folder(place) / "a" / "b"


@pytest.mark.parametrize("make", [link_to_an_empty_folder, link_to_a_link, folder_below_a_link])
async def test_link_will_do_from_the_first_start_on(make: object, embedded_folder: Path) -> None:
    data = make(embedded_folder)  # type: ignore[operator]
    await serves_killed_and_again(["--data", str(data)], data)


async def test_relative_path_will_do(embedded_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(embedded_folder)
    await serves_killed_and_again(["--data", "./sub/../data"], embedded_folder / "data")


async def test_mount_point_with_lost_and_found_will_do(embedded_folder: Path) -> None:
    data = embedded_folder / "mount"
    data.mkdir()
    with mounted(data, "-t", "tmpfs", "-o", "size=1g", "pg_kafka-test"):
        (data / "lost+found").mkdir(mode=0o700)
        await serves_killed_and_again(["--data", str(data)], data)
        assert (data / "lost+found").is_dir()


async def test_server_of_a_killed_broker_is_found_by_another_name_of_the_folder(embedded_folder: Path) -> None:
    link = link_to_an_empty_folder(embedded_folder)
    await serves_killed_and_again(["--data", str(link)], link, then=["--data", str(link.resolve())])
    moved = link.resolve().rename(embedded_folder / "moved")
    link.unlink()
    link.symlink_to(moved)
    await serves_killed_and_again(["--data", str(moved)], moved, then=["--data", str(link)])


def servers_in(data: Path) -> list[int]:
    return processes_of(data.resolve())


async def serves_killed_and_again(where: Sequence[str], data: Path, *, then: Sequence[str] = ()) -> None:
    """A start makes it, a broker that was killed leaves its PostgreSQL to the next one, and that stops in order."""
    try:
        with Serving("--listen", ANY_PORT, *where).ready() as broker:
            async with await RawClient.connect(broker) as client:
                topic = await client.create_topic()
                assert (await client.produce(topic, batch([b"a"]))).error_code == 0
            broker.process.kill()
            broker.process.wait()
        with Serving("--listen", ANY_PORT, *(then or where), "--log-level", "info").ready() as broker:
            assert "taking over the PostgreSQL of an earlier pg-kafka" in broker.err
            async with await RawClient.connect(broker) as client:
                assert offsets_of(await client.fetch(topic, 0)) == [0]
            assert broker.stop() == 0
        assert servers_in(data) == []
        with Serving("--listen", ANY_PORT, *where).ready() as broker:
            assert broker.stop() == 0
    finally:
        end_embedded(data)


def dangling_link(place: Path) -> tuple[Path, str]:
    link = place / "link"
    link.symlink_to("nowhere")
    return link, f"{link} is a link to nowhere, which is not there"


def below_a_dangling_link(place: Path) -> tuple[Path, str]:
    link, says = dangling_link(place)
    return link / "data", says


def link_to_itself(place: Path) -> tuple[Path, str]:
    link = place / "link"
    link.symlink_to("link")
    return link, f"{link} is a link to link, which is not there"


def link_to_a_file(place: Path) -> tuple[Path, str]:
    (place / "file").touch()
    (place / "link").symlink_to("file")
    return place / "link", "it is not a folder"


def link_to_a_folder_of_another_owner(place: Path) -> tuple[Path, str]:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (place / "real").mkdir()
    os.chown(place / "real", 12345, 12345)
    (place / "link").symlink_to("real")
    return place / "link", "belongs to user 12345, but pg-kafka runs as root"


def link_to_a_folder_of_something_else(place: Path) -> tuple[Path, str]:
    data = link_to_an_empty_folder(place)
    (data / "mine").touch()
    return data, "is not empty and was not made by pg-kafka"


WRONG = [
    dangling_link,
    below_a_dangling_link,
    link_to_itself,
    link_to_a_file,
    link_to_a_folder_of_another_owner,
    link_to_a_folder_of_something_else,
]


@pytest.mark.parametrize("make", WRONG)
def test_wrong_link_is_refused_with_one_sentence_and_left_alone(make: object, embedded_folder: Path) -> None:
    data, says = make(embedded_folder)  # type: ignore[operator]
    before = sorted(embedded_folder.rglob("*"))
    for command in ("serve", "doctor"):
        done = run(command, "--listen", ANY_PORT, "--data", str(data))
        told = done.err if command == "serve" else done.out
        assert done.code == 1
        assert f"data folder {data} " in told and says in told
        assert "Traceback" not in done.out + done.err
    assert sorted(embedded_folder.rglob("*")) == before


# -- file systems --------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(embedded_folder: Path) -> Iterator[Path]:
    """A file system of its own, which everybody may write."""
    folder = embedded_folder / "volume"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=400m,mode=1777", "pg_kafka-test"):
        yield folder


@pytest.fixture
def user(embedded_folder: Path) -> Iterator[Started]:
    """What starts pg-kafka as a user without rights."""
    with ordinary_user(embedded_folder / "home") as (command, identity):

        def start(data: Path, *command_: str) -> subprocess.CompletedProcess[str]:
            arguments = [*command, *(command_ or ("serve", "--listen", ANY_PORT)), "--data", str(data)]
            return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60, **identity)

        def serves(data: Path) -> None:
            env = {**identity["env"], "PG_KAFKA_DISK_RESERVE_BYTES": str(64 * MIB)}
            with Serving(
                "--listen", ANY_PORT, "--data", str(data), command=command, **{**identity, "env": env}
            ).ready() as broker:
                assert broker.stop() == 0
                assert broker.err == ""

        yield start, serves


def remount(volume: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(volume)], check=True)


def fill(volume: Path, but_for: int = 0) -> Path:
    ballast = volume / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(volume).free - but_for)
    return ballast


def assert_refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"pg-kafka: .*{says}\n", done.stderr), done.stderr


NO_SPACE = "No space left on device: make room on its volume"


@pytest.mark.parametrize("mib", [0, 1, 20, 60])
def test_first_start_on_a_full_disk_is_refused_and_the_next_one_begins_anew(
    volume: Path, user: Started, mib: int
) -> None:
    start, serves = user
    ballast = fill(volume, but_for=mib * MIB)
    for _ in range(2):
        assert_refused(start(volume / "data"), NO_SPACE)
        assert {path.name for path in (volume / "data").glob("*")} <= {"pg_kafka.lock"}
    ballast.unlink()
    serves(volume / "data")


def test_later_start_on_a_full_disk_is_refused_and_harms_nothing(volume: Path, user: Started) -> None:
    start, serves = user
    serves(volume / "data")
    ballast = fill(volume)
    assert_refused(start(volume / "data"), NO_SPACE)
    assert start(volume / "data", "doctor", "--listen", ANY_PORT).stdout.count("make room") == 1
    ballast.unlink()
    serves(volume / "data")


def test_read_only_file_system_is_refused_until_it_may_be_written(volume: Path, user: Started) -> None:
    start, serves = user
    read_only = "Read-only file system: mount its volume for writing, or give --data with another folder"
    for _ in ("first start", "later"):
        remount(volume, "ro")
        assert_refused(start(volume / "data"), read_only)
        assert_refused(start(volume / "data", "migrate"), read_only)
        doctor = start(volume / "data", "doctor", "--listen", ANY_PORT)
        assert doctor.returncode == 1 and "error" in doctor.stdout
        assert read_only in doctor.stdout
        remount(volume, "rw")
        serves(volume / "data")


def test_folder_that_the_user_may_not_write_is_refused(volume: Path, user: Started) -> None:
    start, serves = user
    closed = volume / "closed"
    closed.mkdir(mode=0o755)
    refused = "Permission denied: let the user who runs pg-kafka write there, or give --data with another folder"
    assert_refused(start(closed / "data"), refused)
    assert not list(closed.iterdir())
    serves(volume / "data")
    (volume / "data" / "pg_kafka.lock").chmod(0o000)
    assert_refused(start(volume / "data"), refused)
    (volume / "data" / "pg_kafka.lock").chmod(0o600)
    serves(volume / "data")
