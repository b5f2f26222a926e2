"""The command line: what reaches `app`, and how errors leave."""

import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import pg_kafka
from pg_kafka import cli, logs
from pg_kafka.config import Config
from pg_kafka.config.address import Address
from pg_kafka.errors import FatalError


class FakeApp(ModuleType):
    """Stands in for pg_kafka.app, so that nothing is started."""

    def __init__(self) -> None:
        super().__init__("pg_kafka.app")
        self.seen: list[tuple[str, Config]] = []
        self.findings = [("ok", "PostgreSQL 18.6"), ("warning", "fsync is [off]")]
        self.failure: Exception | None = None

    def serve(self, config: Config) -> int:
        self.seen.append(("serve", config))
        if self.failure:
            raise self.failure
        return 0

    def migrate(self, config: Config, grant_broker: str | None = None) -> None:
        self.seen.append(("migrate", config))

    def doctor(self, config: Config) -> list[tuple[str, str]]:
        return self.findings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("pg_kafka")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    fake = FakeApp()
    monkeypatch.setitem(sys.modules, "pg_kafka.app", fake)
    monkeypatch.setattr(pg_kafka, "app", fake, raising=False)
    for name in list(cli.os.environ):
        if name.startswith("PG_KAFKA_"):
            monkeypatch.delenv(name)
    return fake


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert capsys.readouterr().out == f"pg-kafka {pg_kafka.__version__}\n"


def test_flags_reach_the_broker(app: FakeApp) -> None:
    assert (
        run("serve", "--listen", "[::1]:1234", "--advertise", "a:1", "--database", "postgresql://h/d", "--data", "/d")
        == 0
    )
    [(command, config)] = app.seen
    assert command == "serve"
    assert (config.listen, config.advertise) == (Address("::1", 1234), Address("a", 1))
    assert (config.database, str(config.data)) == ("postgresql://h/d", "/d")


def test_migrate_takes_a_database(app: FakeApp) -> None:
    assert run("migrate", "--database", "postgresql://h/d") == 0
    assert app.seen[0][0] == "migrate"


def test_fatal_error_is_one_sentence_and_exit_code_1(app: FakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    app.failure = FatalError("port 9092 is taken")
    assert run("serve") == 1
    assert capsys.readouterr().err == "pg-kafka: port 9092 is taken\n"


def test_bad_setting_is_one_sentence_and_exit_code_1(app: FakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--listen", "nowhere") == 1
    assert capsys.readouterr().err == "pg-kafka: --listen wants HOST:PORT, as in 127.0.0.1:9092, not 'nowhere'\n"
    assert app.seen == []


def test_doctor_fails_only_on_errors(app: FakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "warning fsync is [off]" in capsys.readouterr().out
    app.findings.append(("error", "too few connections"))
    assert run("doctor") == 1


@pytest.mark.parametrize("command", ["serve", "migrate", "doctor", "bench", "version"])
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help") == 0


def test_log_record_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logger = logging.getLogger("pg_kafka.storage.lane")
    logger.debug("not shown")
    try:
        raise ValueError('two\nlines "quoted"')
    except ValueError:
        logger.exception("lane %d stopped", 3, extra={"topic": "a b", "partition": 0, "empty": "", "odd": "\x1b[1m"})
    [line] = capsys.readouterr().err.splitlines()
    assert ' level=error source=storage.lane message="lane 3 stopped" topic="a b" partition=0 empty="" ' in line
    assert 'odd="\\x1b[1m"' in line
    assert 'error="ValueError: two\\nlines \\"quoted\\""' in line
