"""Kafka's command line tools say the same of pg_kafka as of Apache Kafka, or the difference is documented.

What they are asked is in `tool_script.py`, the documented differences in the table of tools in docs/deviations.md; a
row that no longer differs fails. A step depends on those before it, so the whole script is played once, on both brokers
at the same time, and the tests look at its parts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.broker.conftest import serving
from tests.clients.agents import Agent
from tests.clients.conftest import unavailable
from tests.clients.groups import java_classes
from tests.compare.conftest import KAFKA_SETTINGS, SETTINGS
from tests.compare.deviations import PAGE, TOOLS_START, LineRow, line_rows
from tests.compare.lines import Said, comparable, stale, undocumented
from tests.compare.tool_script import FILES, STEPS, TOOLS, Step
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing, java

pytestmark = pytest.mark.timeout(600)

ROWS = line_rows(PAGE.read_text(encoding="utf-8"), TOOLS_START)
# Both brokers have the id that pg_kafka's first one gets.
BROKER_ID = 1
STEP_TIMEOUT_S = 120.0
SETTLE_S = 0.3


def play(bootstrap: str, folder: Path) -> Said:
    """What each step said on one broker."""
    folder.mkdir()
    files = {}
    for name, content in FILES.items():
        path = folder / f"{name}{'.json' if content.startswith('{') else '.csv'}"
        path.write_text(content.replace('"%"', str(BROKER_ID)))
        files[name] = str(path)
    agent = Agent(java("ToolRunner", more_classes=java_classes()))
    try:
        said: dict[str, Counter[str]] = {}
        for step in STEPS:
            answer = agent.ask(
                "run",
                STEP_TIMEOUT_S,
                main=TOOLS[step.tool],
                arguments=step.arguments(bootstrap, BROKER_ID, files),
                input=step.stdin,
            )
            if {"--alter", "--create", "--delete", "--execute"} & {*step.line.split()}:
                time.sleep(SETTLE_S)  # Apache Kafka answers before it tells of a change; nothing says when it does
            text = f"{answer['output']}\n{answer['errors']}".replace(str(folder), "<files>")
            said[step.name] = comparable([f"exit {answer['code']}", *text.splitlines()])
        return said
    finally:
        agent.stop()


@pytest.fixture(scope="module")
def played(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Said, Said]]:
    """What the tools said of Apache Kafka and of pg_kafka."""
    folder = tmp_path_factory.mktemp("tools")
    try:
        kafka = ApacheKafka(folder / "kafka", {**KAFKA_SETTINGS, "node.id": str(BROKER_ID)}, heap="512m")
        kafka.start()
    except ToolMissing as missing:
        unavailable(missing)
        raise
    database = postgres15.create_database()
    try:
        with (
            serving(database.dsn, folder, SETTINGS) as broker,
            ThreadPoolExecutor(2) as pool,
        ):
            theirs = pool.submit(play, kafka.bootstrap, folder / "for-kafka")
            ours = pool.submit(play, f"{HOST}:{broker.port}", folder / "for-pg_kafka")
            yield theirs.result(), ours.result()
    finally:
        kafka.kill()
        postgres15.drop_database(database)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_tools_say_the_same(step: Step, played: tuple[Said, Said]) -> None:
    unknown = undocumented(step.name, *played, ROWS)
    assert not unknown, "not in the table of tools in docs/deviations.md:\n" + "\n".join(unknown)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_documented_difference_of_tools_is_there(row: LineRow, played: tuple[Said, Said]) -> None:
    gone = stale(row, *played)
    assert not gone, f"row {row.id} of docs/deviations.md says of {sorted(gone)} what is no longer so"


def test_every_tool_is_run() -> None:
    assert {step.tool for step in STEPS} == set(TOOLS)
