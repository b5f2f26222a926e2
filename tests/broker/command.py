"""The command as a user runs it: `run(...)` goes to its end, `Serving(...)` is a broker that serves meanwhile.

Nothing of the surroundings gets in: PG_KAFKA_* and libpq's variables of the test run are left out.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.clients.brokers import COMMAND

DEADLINE_S = 60.0
ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True)
class Done:
    """How a run of the command ended."""

    code: int
    out: str
    err: str


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of the test run without settings of PostgreSQL and pg_kafka, and with these (PG_KAFKA_<name>)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {f"PG_KAFKA_{name}": value for name, value in settings.items()}


def run(*arguments: str, settings: Mapping[str, str] | None = None, timeout_s: float = DEADLINE_S) -> Done:
    """Run the command to its end."""
    done = subprocess.run(
        [str(COMMAND), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(settings or {}),
        timeout=timeout_s,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Serving:
    """A process of `pg-kafka serve`; its end is the end of the `with` block."""

    def __init__(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = (str(COMMAND),),
        **popen: Any,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*command, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            **{"env": environment(settings or {}), **popen},
        )
        self._lines: list[str] = []
        self._has_ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        err = self.err
        self._errors.close()
        if kind is None:
            assert "traceback" not in err.lower(), err

    @property
    def out(self) -> str:
        with self._news:
            return "".join(self._lines)

    @property
    def err(self) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode()

    def wait_for(self, text: str) -> str:
        """The first line on stdout with this text, once it is there."""
        with self._news:
            self._news.wait_for(lambda: self._has_ended or self._line_with(text) is not None, DEADLINE_S)
            line = self._line_with(text)
        assert line is not None, f"{text!r} was not printed:\n{self.out}{self.err}"
        return line

    def ready(self) -> Serving:
        """Wait for the banner."""
        self.wait_for("kcat -b")
        return self

    def line(self, label: str) -> str:
        """What the banner says behind a label."""
        return self.wait_for(f"  {label} ").strip().removeprefix(label).strip()

    @property
    def host(self) -> str:
        return self._address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self._address.rpartition(":")[2])

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.ended()

    @property
    def _address(self) -> str:
        return self.line("Kafka clients").split(",")[0]

    def _line_with(self, text: str) -> str | None:
        return next((line for line in self._lines if text in line), None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """For what happens in other processes and tells nobody."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s"
        time.sleep(0.01)


def processes_of(data: Path) -> list[int]:
    """Processes of the embedded PostgreSQL of a data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(data / "postgres"):  # noqa: PTH115
                found.append(int(entry.name))
    return found


def copied(source: Path, target: Path) -> Path:
    """A copy of a data folder with its owners."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return target


@contextlib.contextmanager
def ordinary_user(home: Path) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The command as a user without rights, in a new and empty home: (command, arguments for Popen)."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    user = pwd.getpwnam("nobody")
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": str(home)}
    kept = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    # The test run's Python may be below /root: then the system's, with the same packages.
    for command, env in (
        ([str(COMMAND)], kept),
        (
            [f"/usr/bin/python3.{sys.version_info.minor}", "-c", "from pg_kafka.cli import main; main()"],
            kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        ),
    ):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, "version"], env=env, check=True, capture_output=True, **identity)
            yield command, {**identity, "env": env}
            return
    pytest.skip("the user can run no Python of our version with our packages")
