"""The log as text and as JSON: one line a record, types kept, and what to do about each warning."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from pg_kafka import advice, cli, logs
from pg_kafka.errors import FatalError

ROOT = Path(__file__).parents[2]
LANE = logging.getLogger("pg_kafka.storage.lane")


class Code(IntEnum):
    BROKEN = 7


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("pg_kafka")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_has_the_keys_of_text_and_the_types_of_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    extra = {
        "lane": 0,
        "seconds": 0.5,
        "nan": float("nan"),
        "kept": True,
        "none": None,
        "code": Code.BROKEN,
        "list": [1],
        "topic": 'a "b"\nc\u2028\x1b',
        "odd": "\udcff",
        "large": 2**63 - 1,
    }
    logs.configure("info", "text")
    LANE.warning("lane broken", extra=extra)
    text = capsys.readouterr().err
    logs.configure("info", "json")
    LANE.warning("lane broken", extra=extra)
    [line] = lines(capsys)
    assert len(text.splitlines()) == 1
    keys = [part.partition("=")[0] for part in text.split() if "=" in part]
    assert [key for key in keys if key in line] == list(line)
    assert line["level"] == "warning" and line["source"] == "storage.lane" and line["message"] == "lane broken"
    assert (line["lane"], line["seconds"], line["kept"], line["none"]) == (0, 0.5, True, None)
    assert (line["nan"], line["code"], line["list"], line["large"]) == ("nan", 7, "[1]", 2**63 - 1)
    assert (line["topic"], line["odd"]) == (extra["topic"], extra["odd"])
    assert line["time"].endswith("Z") and len(line["time"]) == len("2026-01-31T12:00:00.000Z")


def test_traceback_is_within_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        LANE.exception("lane crashed")
    [line] = lines(capsys)
    assert line["error"] == "ValueError: two\nlines"
    assert line["traceback"].startswith("Traceback") and line["advice"] == "report it"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_warnings_say_what_to_do_and_others_do_not(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", log_format)
    LANE.warning("lane cannot reconnect")
    LANE.info("lane cannot reconnect")
    logging.getLogger("pg_kafka.audit").warning("login failed")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("some.library").warning("something odd")
    given = capsys.readouterr().err.splitlines()
    expected = [
        advice.ADVICE["lane cannot reconnect"],
        None,
        advice.ADVICE_BY_SOURCE["audit"],
        "report it",
        advice.ADVICE_BY_SOURCE["…"],
    ]
    for line, wanted in zip(given, expected, strict=True):
        if log_format == "json":
            assert json.loads(line).get("advice") == wanted
        else:
            assert ("advice=" in line) is (wanted is not None)
            assert wanted is None or wanted.partition('"')[0] in line


def test_module_of_advice_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import write_advice

    there: dict[str, Any] = {}
    exec(write_advice.module(write_advice.PAGE.read_text(encoding="utf-8")), there)
    assert there["ADVICE"] == advice.ADVICE, "run: .venv/bin/python scripts/write_advice.py"
    assert there["ADVICE_BY_SOURCE"] == advice.ADVICE_BY_SOURCE, "run: .venv/bin/python scripts/write_advice.py"


def test_advice_stands_alone() -> None:
    for message, text in {**advice.ADVICE, **advice.ADVICE_BY_SOURCE}.items():
        assert not text.startswith(("as above", "as before", "as for")), message
        assert "|" not in text and "`" not in text and "](" not in text, message


def test_links_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import write_advice

    page = "## Log lines\n\n| `a b` | warning | x | set `y`, [here](z.md#w) or [there](#v) |\n| `c` | info | x | no |\n"
    there: dict[str, Any] = {}
    exec(write_advice.module(page), there)
    assert there["ADVICE"] == {"a b": "set y, here (docs/z.md#w) or there (docs/diagnostics.md#v)"}


def test_lines_about_settings_wait_for_the_format(capsys: pytest.CaptureFixture[str]) -> None:
    logs.hold()
    logging.getLogger("pg_kafka.config.load").warning("variables have no effect", extra={"variables": "KAFKA_X"})
    assert capsys.readouterr().err == ""
    logs.configure("error", "json")
    [line] = lines(capsys)
    assert (line["message"], line["variables"]) == ("variables have no effect", "KAFKA_X")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


def test_start_that_fails_says_so_in_the_format_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("serve", "--log-format", "json", "--listen", "nowhere") == 1
    [line] = lines(capsys)
    assert line["message"] == "--listen wants HOST:PORT, as in 127.0.0.1:9092, not 'nowhere'"
    assert (line["level"], line["source"]) == ("error", "cli")
    monkeypatch.setenv("PG_KAFKA_LOG_FORMAT", "json")
    assert run("serve", "--log-format", "text", "--listen", "nowhere") == 1
    assert capsys.readouterr().err.startswith("pg-kafka: --listen wants")
    assert run("serve", "--log-format", "yaml") == 1
    assert "--log-format wants one of" in capsys.readouterr().err


def test_sentence_with_percent_signs_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    logs.say_last(str(FatalError("wants %40 for @, 100% sure")))
    assert lines(capsys)[0]["message"] == "wants %40 for @, 100% sure"


def test_json_by_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('log_format = "json"\nlog_level = "info"\n')
    cli._load(file)
    LANE.info("lane recovered")
    assert lines(capsys)[0]["message"] == "lane recovered"
    monkeypatch.setenv("PG_KAFKA_LOG_FORMAT", "text")
    cli._load(file)
    LANE.info("lane recovered")
    assert capsys.readouterr().err.startswith("time=")
