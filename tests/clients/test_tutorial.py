"""docs/tutorial.md, word for word: its commands are taken out of the page, run in order, and print what it says.

The first word of a block is its language, the second, which readers do not see, says where it runs: `broker` is the second
terminal, `kcat` the third. A block of text is what the block before it prints, or what the terminal that it names does.
`...` in a line stands for anything, and as a line for any lines. A comment in the page is for this test. Only addresses
differ from what a reader types.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kafka_reference import HOST, end, free_port, need, spawn, tail, wait_until_served
from tests.postgres import PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
ADDRESS, BROKER_URL = "127.0.0.1:9092", "postgresql://broker@/shop"
DEADLINE_S = 30.0
# What may be asked again: the relay has moved an event into the log some milliseconds after its transaction.
READS = re.compile(r"kcat -b \S+ -C |SELECT ")


class Step(NamedTuple):
    """A block of the page, or a comment in it (language ``)."""

    language: str
    terminal: str
    text: str
    line: int
    file: str


def steps(page: str) -> list[Step]:
    found = []
    for match in re.finditer(r"^```(\w+)(?: (\w+))?\n(.*?)^```$|^<!-- (.*?) -->$", page, re.MULTILINE | re.DOTALL):
        language, terminal, text, comment = match.groups()
        named = re.findall(r"\*\*([a-z_]+\.py)\*\*", page[: match.start()])
        line = page.count("\n", 0, match.start()) + 1
        found.append(Step(language or "", terminal or "", text or comment, line, named[-1] if named else ""))
    return found


def is_said(wanted: str, printed: str) -> bool:
    """Whether the lines are those of the page, trailing space and empty lines left out."""
    lines = [line.rstrip() for line in wanted.splitlines() if line.strip()]
    pattern = "\n".join(
        r"[\s\S]*" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") for line in lines
    )
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.splitlines() if line.strip())) is not None


class Reader:
    """Somebody who does what the page says: a folder, the variables that were exported, two more terminals."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self._folder = folder
        port = free_port()
        self._port, self._bootstrap = port, f"{HOST}:{port}"
        self._server = server
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._variables = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGHOST": str(server.socket_folder),
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
        }
        self._terminals: dict[str, subprocess.Popen[bytes]] = {}
        self._again: Callable[[], str] | None = None  # what the last block prints, when it may be asked again
        self._printed = ""
        self._may_fail = False

    def do(self, step: Step, following: Step | None) -> None:
        self._may_fail = following is not None and following.language == "text" and "ERROR" in following.text
        match step.language, step.terminal:
            case "python", _:
                (self._folder / step.file).write_text(step.text)
            case "sh", "broker":
                self._start("broker", f"{step.text.strip()} --listen {self._bootstrap}")
                log = self._folder / "broker"
                wait_until_served(self._port, self._terminals["broker"], log, leads=True)
            case "sh", "kcat":
                self._start("kcat", step.text.replace(" -q ", " "))  # it tells of its partitions, which we wait for
            case "sh", "":
                self._run_shell(step)
            case "sql", "":
                self._run(step, ["psql", "-X", "-q", "-P", "footer=off"], step.text)
            case "text", "":
                self._expect(step, self._printed, self._again)
            case "text", terminal:
                self._expect(step, "", lambda: self._shown(terminal))
            case "", _:
                self._obey(step)
            case _:
                raise AssertionError(f"line {step.line}: nobody knows what to do with {step.language} {step.terminal}")

    def leave(self) -> None:
        for name in list(self._terminals):
            self._stop(name)

    def _run_shell(self, step: Step) -> None:
        if step.text.startswith("pip install"):
            for name in re.findall(r"[a-z]{3,}", step.text.replace("pip install", "").replace("[binary]", "")):
                assert importlib.util.find_spec(name), f"{name} is not installed"
            return
        self._variables |= dict(re.findall(r"(?:^export | )([A-Z]+)=(\S+)", step.text))
        self._run(step, ["bash", "-euo", "pipefail"], step.text.replace(ADDRESS, self._bootstrap))

    def _run(self, step: Step, command: list[str], text: str) -> None:
        is_read = READS.match(step.text) is not None

        def printed() -> str:
            done = subprocess.run(
                command,
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._variables,
                cwd=self._folder,
                timeout=DEADLINE_S,
                check=False,
            )
            is_well = done.returncode == 0 and (self._may_fail or "ERROR:" not in done.stdout)
            is_early = is_read and "Unknown topic" in done.stdout  # one that was made by SQL a second ago
            assert is_well or is_early, f"line {step.line} failed:\n{step.text}\n{done.stdout}"
            return done.stdout

        self._printed = printed()
        self._again = printed if is_read else None

    def _expect(self, step: Step, printed: str, again: Callable[[], str] | None) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_said(step.text, printed):
            is_final = again is None or time.monotonic() > deadline
            assert not is_final, f"line {step.line} promises\n{step.text}\nand there was\n{printed}"
            time.sleep(0.05)
            printed = again()

    def _obey(self, step: Step) -> None:
        if step.text == "the test stops the broker":
            self._stop("broker")
        elif step.text == "the test waits until the group has its partitions":
            deadline = time.monotonic() + DEADLINE_S
            while "assigned" not in (self._folder / "kcat").read_text():
                assert time.monotonic() < deadline, (self._folder / "kcat").read_text()
                time.sleep(0.05)
        else:
            raise AssertionError(f"line {step.line}: {step.text}")

    def _start(self, terminal: str, text: str) -> None:
        place = f"?host={self._server.socket_folder}&port={self._server.port}"
        command = text.replace(ADDRESS, self._bootstrap).replace(BROKER_URL, f"'{BROKER_URL}{place}'")
        log = self._folder / terminal
        self._terminals[terminal] = spawn(["bash", "-c", f"exec {command.strip()}"], log, self._variables)

    def _stop(self, terminal: str) -> None:
        process = self._terminals.pop(terminal)
        code = end(process, signal.SIGINT if terminal == "broker" else signal.SIGTERM)
        assert terminal != "broker" or code == 0, tail(self._folder / terminal)

    def _shown(self, terminal: str) -> str:
        lines = (self._folder / terminal).read_text().splitlines()
        return "\n".join(line for line in lines if not line.startswith("%"))


@pytest.fixture(params=["postgresql-15", "embedded"])
def reader(
    request: pytest.FixtureRequest, tmp_path: Path, make_postgres: Callable[..., PostgresServer]
) -> Iterator[Reader]:
    """On a server of its own, where roles may have the names that the page gives them."""
    need("kcat", "apt-get install kcat")
    reader = Reader(tmp_path, make_postgres(request.param))
    try:
        yield reader
    finally:
        reader.leave()


def test_what_is_on_the_page_works(reader: Reader) -> None:
    todo = steps(PAGE.read_text())
    assert len(todo) > 40
    assert {step.language for step in todo} == {"sh", "sql", "python", "text", ""}
    for step, following in zip(todo, [*todo[1:], None], strict=True):
        reader.do(step, following)


def test_what_is_compared_is_compared() -> None:
    assert is_said(" n\n---\n  1\n", " n \n---\n  1\n\n")
    assert is_said("order ...\n", "order 4\n")
    assert not is_said("order ...\n", "order 4\norder 5\n")
    assert is_said("order ...\n...\n", "order 4\norder 5\nany\n")
    assert not is_said("alice\n", "alice bob\n")
    assert not is_said("alice\n", "")
