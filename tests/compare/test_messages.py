"""The message classes, error codes and versions against the published jar of Kafka 4.4's clients.

Needs Java and Maven, no broker.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests.kafka_reference import ToolMissing, java
from tests.unit.random_messages import CASES, case_name, encode, random_message

from pg_kafka.wire.codec import request_header_version, response_header_version
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import API_NAMES, API_SCHEMAS

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("KafkaMessages.java")

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "8"))

Kafka = Callable[..., list[str]]
"""(what, input) -> the lines that KafkaMessages.java prints."""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import generate_messages
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return generate_messages


@pytest.fixture(scope="module")
def jar(generator: ModuleType) -> Path:
    try:
        path: Path = generator.published_jar()
    except ToolMissing as missing:
        unavailable(str(missing))
    except subprocess.CalledProcessError as error:
        unavailable(
            f"Maven cannot get the jar that scripts/kafka-schemas/pom.xml names: it ended with {error.returncode}"
        )
    return path


@pytest.fixture(scope="module")
def kafka(generator: ModuleType, jar: Path) -> Kafka:
    def ask(what: str, lines: str = "") -> list[str]:
        command = java(str(PROGRAM), what, libraries=generator.POM_FOLDER)
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return ask


def unavailable(why: str) -> None:
    """Skips the test, or fails it where everything must be there."""
    if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
        pytest.fail(why)
    pytest.skip(why)


def test_generated_files_are_what_the_schemas_say(generator: ModuleType, jar: Path) -> None:
    files: dict[Path, str] = generator.generate(jar)
    there = {path: path.read_text(encoding="utf-8") for path in generator.MESSAGES.glob("*.py")}
    differing = sorted(path.name for path in files.keys() | there.keys() if files.get(path) != there.get(path))
    assert differing == [], "run: .venv/bin/python scripts/generate_messages.py"


def test_kafka_reads_what_we_write_and_writes_the_same(kafka: Kafka) -> None:
    rng = random.Random(44)
    asked = [(case, encode(case, random_message(case, rng, size % 4))) for case in CASES for size in range(EXAMPLES)]
    lines = "".join(f"{key} {version} {kind} {body.hex()}\n" for (key, version, kind), body in asked)
    answers = kafka("messages", lines)
    wrong = [
        f"{case_name(case)}: {body.hex()} gives {answer}"
        for (case, body), answer in zip(asked, answers, strict=True)
        if answer != body.hex()
    ]
    assert wrong == []


def test_error_codes_are_kafkas(kafka: Kafka) -> None:
    theirs = {name: int(code) for name, code in map(str.split, kafka("errors"))}
    assert {code.name: code.value for code in ErrorCode} == theirs


def test_versions_and_headers_are_kafkas(kafka: Kafka) -> None:
    theirs: dict[int, dict[int, tuple[int, int, bool]]] = {}
    names: dict[int, str] = {}
    for line in kafka("apis"):
        name, *numbers, stable = line.split()
        key, version, request_header, response_header = map(int, numbers)
        names[key] = name
        theirs.setdefault(key, {})[version] = (request_header, response_header, stable == "true")
    assert names.items() <= API_NAMES.items()
    for key, schema in API_SCHEMAS.items():
        ours = {
            version: (
                request_header_version(key, version),
                response_header_version(key, version),
                version <= schema.last_stable,
            )
            for version in range(schema.first_version, schema.last_version + 1)
        }
        assert ours == theirs[key], schema.name
