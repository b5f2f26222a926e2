"""What the documentation says exists: commands, make targets, files, settings, SQL names, dependencies."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from pg_kafka import cli
from pg_kafka.config.groups import GROUP_KEYS, GroupSettings
from pg_kafka.config.keys import Effect, Key
from pg_kafka.config.settings import ALL_KEYS
from pg_kafka.config.topics import TOPIC_KEYS
from pg_kafka.users_cli import PASSWORD_VARIABLE

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/pg_kafka"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_SETTINGS = {"config", "cli", "lock", "conf", "audit"}  # modules and files, written pg_kafka.lock
OF_TESTS = {
    name
    for file in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"environ\.get\(\"(PG_KAFKA_[A-Z_]+)\"", file.read_text())
}
page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_settings_table_is_the_program_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import document_settings

    for name in document_settings.PAGES:
        text = (document_settings.DOCS / name).read_text()
        assert document_settings.with_tables(text) == text, "run: .venv/bin/python scripts/document_settings.py"
    pages = "".join((document_settings.DOCS / name).read_text() for name in document_settings.PAGES)
    assert all(document_settings.START.format(table) in pages for table in document_settings.TABLES)


@page
def test_commands_exist(page: Path) -> None:
    known = {command.name or command.callback.__name__ for command in cli.commands.registered_commands}
    known |= {group.name for group in cli.commands.registered_groups}
    named = set(re.findall(r"(?:^|`|bin/|&& )pg-kafka ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= known


@page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


@page
def test_linked_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|pyx|sql))`", text):
        in_package = any((ROOT / folder / name).exists() for folder in ("", "src/pg_kafka", "src/pg_kafka/storage"))
        assert in_package or any((ROOT / "tests").rglob(name)), name


@page
def test_settings_and_variables_exist(page: Path) -> None:
    text = page.read_text()
    assert (
        set(re.findall(r"PG_KAFKA_[A-Z_]+", text))
        <= {key.environment for key in ALL_KEYS.values()} | {"PG_KAFKA_CONFIG", PASSWORD_VARIABLE} | OF_TESTS
    )
    assert (
        set(re.findall(r"\bpg_kafka\.([a-z_]+)\b(?!\.py)", text))
        <= {key.attribute for key in ALL_KEYS.values()} | NOT_SETTINGS
    )


@page
def test_sql_names_exist(page: Path) -> None:
    sql = "\n".join(file.read_text() for file in (ROOT / "src/pg_kafka/storage/sql").rglob("*.sql"))
    for name in set(re.findall(r"(?<!org\.apache\.)\bkafka\.[a-z_]+", page.read_text())):
        assert re.search(rf"{re.escape(name)}\b|{re.escape(name)}<", sql), name


@pytest.mark.parametrize(
    "key", [key for key in ALL_KEYS.values() if key.effect is Effect.WORKS], ids=lambda key: key.name
)
def test_every_setting_is_read_somewhere(key: Key) -> None:
    if any(key.name in of_topic.synonyms and of_topic.effect is Effect.WORKS for of_topic in TOPIC_KEYS.values()):
        return
    if any(key.name in (*of_group.synonyms, *(of_group.bounds or ())) for of_group in GROUP_KEYS.values()):
        return
    if key.attribute in GroupSettings.__dataclass_fields__:
        return
    if any(f"'{key.name}'" in file.read_text() for file in (PACKAGE / "storage/sql/schema").glob("*.sql")):
        return  # by a function in the database
    readers = {"queued_max_request_bytes": "request_budget_bytes"}
    attribute = readers.get(key.attribute, key.attribute)
    sources = [file.read_text() for file in PACKAGE.rglob("*.py") if file != PACKAGE / "config/broker.py"]
    if key.by_listener and any(
        re.search(rf'\b(of_listener\(\w+, |value_of\(|value\()"{key.name}"', text) for text in sources
    ):
        return
    assert any(re.search(rf"\b\w*(?:config|current|loaded|settled)\.{attribute}\b", text) for text in sources)


def test_pinned_requirements_are_the_package_s_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]}
    lines = (ROOT / "requirements/runtime.in").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == wanted


@pytest.mark.parametrize("name", ["runtime", "build", "test", "lint"])
def test_requirements_name_no_registry(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text and "--find-links" not in text
    assert all(
        "--hash=sha256:" in text[match.end() :][:40] for match in re.finditer(r"^\S+==\S+ \\$", text, re.MULTILINE)
    )
    assert not re.search(r"^\S+==\S+$", text, re.MULTILINE)


def test_python_of_the_tests_is_one_that_is_supported() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11" and sys.version_info >= (3, 11)
