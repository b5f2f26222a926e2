"""The password of the database: where a process could show it, and that it does not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.broker.command import ANY_PORT, Serving, run, wait_until
from tests.postgres import Database, PostgresServer

UNREACHABLE = "postgresql://me:{}@127.0.0.1:1/db"


@pytest.fixture
def url(postgres15: PostgresServer, pg_database: Database) -> Iterator[str]:
    """An address with a password that works."""
    url = postgres15.dsn(pg_database.name, pg_database.name, tcp=True)
    assert f":{postgres15.password}@" in url
    yield url


@pytest.mark.parametrize("form", ["--database {}", "--database={}", "--log-level info --database {} --data /nowhere"])
def test_arguments_of_the_process_do_not_show_it(form: str, url: str, postgres15: PostgresServer) -> None:
    with Serving("--listen", ANY_PORT, *form.format(url).split()) as broker:
        # From soon after its start, and it is the same process.
        command_line = Path(f"/proc/{broker.process.pid}/cmdline")
        wait_until(
            lambda: b"serve" in (shown := command_line.read_bytes()) and url.encode() not in shown, "it is hidden"
        )
        broker.ready()
        listed = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(broker.process.pid)], capture_output=True, text=True
        )
        assert "serve" in listed.stdout and ANY_PORT in listed.stdout
        for shown in (listed.stdout, command_line.read_text(), broker.out, broker.err):
            assert postgres15.password not in shown
        assert broker.line("SQL").startswith("psql postgresql://")


def test_flag_is_still_stronger_than_the_variable(url: str) -> None:
    assert run("migrate", "--database", url, settings={"DATABASE": UNREACHABLE.format("x")}).code == 0


@pytest.mark.parametrize("command", ["serve", "migrate", "doctor"])
@pytest.mark.parametrize(
    "url",
    [
        UNREACHABLE.format("hidden"),
        UNREACHABLE.format("hidden%2Fhidden"),
        UNREACHABLE.format("hidden/hidden"),
        UNREACHABLE.format("1/hidden"),
        UNREACHABLE.format("hidden@hidden"),
        UNREACHABLE.format("hidden?hidden"),
        UNREACHABLE.format("hidden#hidden"),
        UNREACHABLE.format("hidden%hidden"),
        UNREACHABLE.format("hidden]hidden"),
        UNREACHABLE.format("hidden hidden"),
        "host=127.0.0.1 port=1 user=me password=hidden",
        "postgresql://127.0.0.1:1/db?user=me&password=hidden",
        "me:hidden@127.0.0.1:1/db",
    ],
)
def test_no_command_shows_it_when_it_fails(command: str, url: str) -> None:
    where = [] if command == "migrate" else ["--listen", ANY_PORT]
    by_flag = run(command, *where, "--database", url)
    by_variable = run(command, *where, settings={"DATABASE": url})
    for done in (by_flag, by_variable):
        assert done.code == 1
        assert "hidden" not in done.out + done.err
        assert "127.0.0.1:1/db cannot be used" in done.out + done.err or " wants a URL" in done.err


def test_url_that_a_shell_has_cut_is_not_shown() -> None:
    done = run("serve", *"--database postgresql://me:hid hidden@host/db".split())
    assert (done.code, done.out) == (1, "")
    assert "put the URL in quotes" in done.err
    assert "hid" not in done.err


def test_usage_errors_are_still_told() -> None:
    for arguments in (["serve", "--database"], ["--database", "postgresql://a:b@c/d", "serve"]):
        done = run(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "--database" in done.err
