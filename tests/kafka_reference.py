"""Apache Kafka from its published jars: tests are validated against it, and the benchmark compares with it.

`class_path()` fetches the jars named in `tests/clients/java/pom.xml`, or in another folder's, once (Maven keeps them),
`compiled(...)` compiles a source file with them, `java(...)` is the command line of a main class on them, and
`ApacheKafka` is one KRaft node (broker and controller) on 127.0.0.1.
Nothing here is used by the package.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
JAVA_DIR = Path(__file__).resolve().parent / "clients" / "java"
BUILD_DIR = ROOT / "build" / "clients"

# Linux only; looked up here because nothing may be loaded between fork and exec.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
_PR_SET_PDEATHSIG = 1


class ToolMissing(Exception):
    """A program that is not installed here; the message says which and where it comes from."""


class StartFailed(Exception):
    """A broker did not come up; the message carries the end of its log."""


def need(program: str, comes_from: str) -> str:
    """The path of an installed program; raises ToolMissing."""
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(f"{program} is not installed: {comes_from}")
    return path


@cache
def class_path(folder: Path = JAVA_DIR) -> str:
    """The class path of the published clients, tools and broker, or of what the folder's pom.xml names.

    Raises ToolMissing when Java or Maven is not there.
    """
    need("java", "apt-get install openjdk-17-jdk-headless")
    pom = folder / "pom.xml"
    saved = BUILD_DIR / f"classpath-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if saved.exists():
        known = saved.read_text()
        if all(Path(jar).exists() for jar in known.split(":")):
            return known
    maven = need("mvn", "apt-get install maven")
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    fresh = saved.with_suffix(f".{os.getpid()}")
    command = [maven, "-B", "-q", "-f", str(pom), "dependency:build-classpath", "-DincludeScope=runtime"]
    subprocess.run([*command, f"-Dmdep.outputFile={fresh}"], check=True, timeout=600)
    fresh.replace(saved)
    return saved.read_text()


def java(
    main: str,
    *arguments: str,
    options: Sequence[str] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    more_classes: Path | None = None,
    libraries: Path = JAVA_DIR,
) -> list[str]:
    """The command that runs a main class, or a source file, on `class_path(libraries)` and a folder of compiled classes.

    The default options start fast; a benchmark gives its own.
    """
    return [
        need("java", "apt-get install openjdk-17-jdk-headless"),
        f"-Dlog4j2.configurationFile={JAVA_DIR / 'log4j2.properties'}",
        *options,
        "-cp",
        class_path(libraries) if more_classes is None else f"{class_path(libraries)}:{more_classes}",
        main,
        *arguments,
    ]


def compiled(source: Path, libraries: Path = JAVA_DIR) -> Path:
    """The folder with the classes of a source file, compiled when it is newer than they are."""
    target = BUILD_DIR / source.stem
    main = target / f"{source.stem}.class"
    if not main.exists() or main.stat().st_mtime < source.stat().st_mtime:
        compiler = need("javac", "apt-get install openjdk-17-jdk-headless")
        command = [compiler, "-cp", class_path(libraries), "-d", str(target), str(source)]
        subprocess.run(command, check=True, timeout=120)
    return target


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Starts a program that writes to `log` and is told to end when we die, however we die."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=environment,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


_API_VERSIONS = struct.pack(">hhih", 18, 0, 1, -1)
_DESCRIBE_TRANSACTIONS = struct.pack(">hhihB", 65, 0, 1, -1, 0) + b"\x02\x02x\x00"
# In its answer behind the correlation id, tags, throttle time and the length of the array.
_CODE_OF_THE_ONE = slice(10, 12)
_NOT_COORDINATOR = 16


def wait_until_served(
    port: int, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60, *, leads: bool = False
) -> None:
    """Returns when the broker at `port` answers an ApiVersions request; raises StartFailed when it ended or is late.

    With `leads`, when it leads: a pg-kafka that waits for another one answers too, but coordinates nothing.
    """
    request = _DESCRIBE_TRANSACTIONS if leads else _API_VERSIONS
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartFailed(f"the broker ended with code {process.returncode}:\n{tail(log)}")
        try:
            with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
                connection.sendall(struct.pack(">i", len(request)) + request)
                size = connection.recv(4, socket.MSG_WAITALL)
                if len(size) == 4 and not (leads and _waits(connection.recv(int.from_bytes(size), socket.MSG_WAITALL))):
                    return
        except OSError:
            pass
        time.sleep(0.05)  # nothing tells us that the port is bound but trying
    raise StartFailed(f"the broker does not answer on port {port} after {timeout_s:.0f} s:\n{tail(log)}")


def _waits(answer: bytes) -> bool:
    return int.from_bytes(answer[_CODE_OF_THE_ONE]) in (0, _NOT_COORDINATOR)  # cut, or another one leads


def tail(log: Path, size: int = 4000) -> str:
    """The end of a log file, for error messages."""
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no log)"


def end(process: subprocess.Popen[bytes], sig: signal.Signals = signal.SIGTERM, timeout_s: float = 30) -> int:
    """Signals a process that we started and returns its exit code; kills it and raises when it does not end in time."""
    if process.poll() is None:
        process.send_signal(sig)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class ApacheKafka:
    """One Apache Kafka node with its data in `folder`.

    `settings` go on top of the necessary ones of a single node, `options` are those of Java. In a setting, {port} is where
    clients connect and {controller} where the controller listens. `more_classes` is a folder of plug-ins.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        heap: str = "1g",
        options: Sequence[str] = (),
        more_classes: Path | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.bootstrap = f"{HOST}:{self.port}"
        self.log = folder / "kafka.log"
        self.heap = heap
        self._options = options
        self._more_classes = more_classes
        self.process: subprocess.Popen[bytes] | None = None
        controller = free_port()
        self._properties = folder / "server.properties"
        values = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{controller}",
            "log.dirs": str(folder / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **{
                name: value.replace("{port}", str(self.port)).replace("{controller}", str(controller))
                for name, value in (settings or {}).items()
            },
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def start(self) -> None:
        """Starts the node, formatting its storage the first time; returns when it serves."""
        if not (self.folder / "data").exists():
            cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            while cluster.startswith("-"):  # would look like an option on the command line
                cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            arguments = ("format", "-t", cluster, "-c", str(self._properties))
            format_command = java("kafka.tools.StorageTool", *arguments, more_classes=self._more_classes)
            subprocess.run(format_command, check=True, capture_output=True, timeout=120)
        # The collector that Kafka's own start script chooses, for a fair comparison.
        options = ("-server", f"-Xms{self.heap}", f"-Xmx{self.heap}", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
        options = (*options, *self._options)
        command = java("kafka.Kafka", str(self._properties), options=options, more_classes=self._more_classes)
        self.process = spawn(command, self.log)
        wait_until_served(self.port, self.process, self.log)

    def stop(self) -> None:
        """Stops the node in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the node at once."""
        self._end(signal.SIGKILL)

    def _end(self, sig: signal.Signals) -> None:
        if self.process is not None:
            end(self.process, sig)
            self.process = None
