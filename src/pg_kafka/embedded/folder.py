"""The data folder of an embedded PostgreSQL.

    pg_kafka.lock               held (flock) by the broker that uses the folder; where it is, the folder is ours
    postgres/                   the cluster; belongs to the user that runs PostgreSQL
    postgres.new-*/             a cluster being made; renamed when complete, removed when found by a later start
    postgresql.pg_kafka.conf    our settings, rewritten at each start
    pg_ident.pg_kafka.conf      which user of the operating system may log in without a password
    pgpass                      the password for 127.0.0.1, in the format of libpq's passfile
    socket/                     the Unix socket, unless its path would be too long or the file system holds no sockets
    startup.log                 what the server said before its own log was open

Everything but postgres/ and socket/ belongs to the broker's user. When that is root, it writes nothing inside folders
that an unprivileged user owns, except while a new cluster is made (`append` refuses links).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import socket
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pg_kafka.embedded.user import ServerUser
from pg_kafka.errors import FatalError

# sun_path holds 108 bytes on Linux and 104 elsewhere, with the final NUL.
_LONGEST_SOCKET_PATH = 103
_LONGEST_SOCKET_NAME = "/.s.PGSQL.65535"
_FLUSHING_THREADS = 16
_SOCKET_PREFIX = "pg_kafka-"
_ADVICE = {
    errno.ENOSPC: "make room on its volume",
    errno.EDQUOT: "make room within the quota, or have it raised",
    errno.EROFS: "mount its volume for writing, or give --data with another folder",
    errno.EACCES: "let the user who runs pg-kafka write there, or give --data with another folder",
    errno.ENOTDIR: "give --data with another folder",
    errno.EIO: "look at its volume",
    errno.ESTALE: "mount its volume again",
}
# A volume's own folder in its root.
_NOT_CONTENT = {"lost+found"}


class FolderInUse(FatalError):
    """Another pg-kafka has the data folder; `holder` is its process id, as far as that is known."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"data folder {path} is in use by another pg-kafka (process {holder})")
        self.holder = holder


class DataFolder:
    """Paths in the folder, and the lock that makes it ours."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 (keeps links, which resolve() would not)
        self.cluster = self.path / "postgres"
        self.settings_file = self.path / "postgresql.pg_kafka.conf"
        self.ident_file = self.path / "pg_ident.pg_kafka.conf"
        self.passfile = self.path / "pgpass"
        self.startup_log = self.path / "startup.log"
        self._lock_file = self.path / "pg_kafka.lock"
        self._lock: int | None = None

    def claim(self) -> None:
        """Create the folder if need be and lock it until `release` or the end of this process. Raises FatalError."""
        try:
            self._create()
            self._check()
            self._take_lock()
        except OSError as error:
            raise self.unusable(error) from error

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def examine(self) -> str | None:
        """What `version` says, without making anything. Raises FatalError when `claim` or `version` would."""
        try:
            self._refuse_dangling_link()
            place = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
            if place == self.path:
                self._check()
                if any(self.path.iterdir()):
                    self.claim()
                    try:
                        return self.version()
                    finally:
                        self.release()
            elif os.statvfs(place).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            elif not os.access(place, os.W_OK | os.X_OK):
                raise FatalError(f"data folder {self.path} cannot be made: {place} may not be written")
        except OSError as error:
            raise self.unusable(error) from error
        return None

    def unusable(self, error: OSError) -> FatalError:
        """What to say when the operating system refuses the folder."""
        return FatalError(f"data folder {self.path} cannot be used: {with_advice(error.strerror or str(error))}")

    def disk_bytes(self) -> tuple[int, int] | None:
        """Size of the volume of the tables, and what is free there; None when it cannot be looked at."""
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(self.cluster)
            return usage.total, usage.free
        return None

    def free_bytes(self) -> int:
        """Free space for the server: the least of the volumes of the folder and of the WAL. Raises OSError."""
        places = (place for place in (self.path, self.cluster, self.cluster / "pg_wal") if place.exists())
        return min(shutil.disk_usage(place).free for place in places)

    def open_to(self, user: ServerUser) -> None:
        """Let the server's user pass through the folder, without letting it list or change it. Raises FatalError."""
        self.path.chmod(0o711 if user.is_other else 0o700)
        if user.is_other and not user.can_enter(self.path):
            closed = next((folder for folder in reversed(self.path.parents) if not user.can_enter(folder)), self.path)
            raise FatalError(
                f"data folder {self.path} cannot be reached by user {user.name}, which runs PostgreSQL when pg-kafka "
                f"runs as root, because {closed} is closed to it: give --data with another folder"
            )

    def version(self) -> str | None:
        """The major version that made the cluster, None if there is no cluster yet."""
        try:
            return (self.cluster / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip()[:10]
        except FileNotFoundError:
            if self.cluster.exists():
                raise FatalError(f"the PostgreSQL data in {self.cluster} is damaged: it has no PG_VERSION") from None
            return None

    def new_cluster(self, user: ServerUser) -> Path:
        """An empty folder for initdb, owned by the server's user."""
        self.remove_unfinished()
        path = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.path))
        user.give(path)
        return path

    def spare_wal(self) -> Path:
        """An empty folder for WAL files of a cluster that is being made."""
        return Path(tempfile.mkdtemp(prefix="postgres.new-wal-", dir=self.path))

    def accept_cluster(self, new: Path) -> None:
        """Make a complete and flushed new cluster the cluster of this folder, durably."""
        new.rename(self.cluster)
        _flush(self.path.resolve())

    def remove_unfinished(self) -> None:
        """Remove what interrupted starts left. An initdb that outlived its broker may still write: then next time."""
        for path in self.path.glob("postgres.new-*"):
            shutil.rmtree(path, ignore_errors=True)

    def socket_folder(self, user: ServerUser) -> Path:
        """A folder for the Unix socket that only the server's user (and root) can enter."""
        path = self.path / "socket"
        if _fits(path):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
            if holds_sockets(path):
                user.give(path)
                return path
        name = f"{_SOCKET_PREFIX}{user.uid}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]}"
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        if not user.is_other and runtime.is_absolute() and runtime.is_dir() and _fits(runtime / name):
            path = runtime / name
        else:
            path = Path("/tmp") / name
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.uid or found.st_mode & 0o077:
                # Somebody else was there first. /tmp is open to all.
                path = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir="/tmp"))
        user.give(path)
        return path

    def remove_socket_folder(self, path: Path) -> None:
        """Remove the socket's folder if it is one that `socket_folder` made outside the data folder."""
        if path.parent != self.path and path.name.startswith(_SOCKET_PREFIX):
            with contextlib.suppress(OSError):
                path.rmdir()

    def _create(self) -> None:
        self._refuse_dangling_link()
        for folder in reversed([self.path, *self.path.parents]):
            if not folder.exists():
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                    if os.geteuid() == 0:
                        # Root's umask must not close a folder that the server's user has to pass.
                        folder.chmod(0o755)

    def _refuse_dangling_link(self) -> None:
        for folder in reversed([self.path, *self.path.parents]):
            if folder.is_symlink() and not folder.exists():
                raise FatalError(
                    f"data folder {self.path} cannot be used: {folder} is a link to {folder.readlink()}, which is not there"
                )

    def _check(self) -> None:
        found = self.path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise FatalError(f"data folder {self.path} cannot be used: it is not a folder")
        if found.st_uid != os.geteuid():
            raise FatalError(
                f"data folder {self.path} belongs to user {_user_name(found.st_uid)}, "
                f"but pg-kafka runs as {_user_name(os.geteuid())}"
            )
        names = {entry.name for entry in self.path.iterdir()} - _NOT_CONTENT
        if names and self._lock_file.name not in names:
            raise FatalError(
                f"data folder {self.path} is not empty and was not made by pg-kafka: give an empty or new one"
            )

    def _take_lock(self) -> None:
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise FolderInUse(self.path, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock = descriptor


def with_advice(reason: str) -> str:
    """What the operating system has said, here or to PostgreSQL, and what to do about it."""
    return next((f"{reason}: {advice}" for number, advice in _ADVICE.items() if os.strerror(number) in reason), reason)


def append(path: Path, text: str) -> None:
    """Append to a file that initdb has just made; not through a link that somebody may have put there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def replace(path: Path, text: str, mode: int) -> None:
    """Write a whole file of the broker's, at once and durably."""
    # A name of its own: what a crash or a full disk leaves there, the next one overwrites.
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    new.rename(path)


def flush_tree(folder: Path) -> None:
    """Make a folder durable with all that is in it. May run in a thread.

    Flushing a thousand small files one after the other, as initdb does, takes ten times as long on a busy disk.
    """
    with ThreadPoolExecutor(_FLUSHING_THREADS) as threads:
        for _ in threads.map(_flush, [folder, *folder.rglob("*")]):
            pass


def _flush(path: Path) -> None:
    """Make a file or folder durable. What is in a new cluster may be given to another user, so no link is followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def holds_sockets(folder: Path) -> bool:
    """Some file systems hold none: of networks, and of the host in virtual machines and containers."""
    path = folder / ".probe"
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(os.fsencode(path))
        path.unlink()
    except OSError:
        return False
    return True


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) + len(_LONGEST_SOCKET_NAME) <= _LONGEST_SOCKET_PATH


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
