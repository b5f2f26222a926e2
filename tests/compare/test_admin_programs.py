"""Programs that administer Kafka get the same from pg_kafka as from Apache Kafka, or the difference is documented.

Each asks what such a program asks, through its library and in its order; Kafka's own clients, of two releases, for the
consoles and the operator. What they print of each step is compared; the documented differences are in the table of
programs in docs/deviations.md, and a row that no longer differs fails.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.broker.conftest import serving
from tests.clients.agents import go_agent
from tests.clients.conftest import unavailable
from tests.compare.conftest import KAFKA_SETTINGS, SETTINGS
from tests.compare.deviations import PAGE, PROGRAMS_START, LineRow, line_rows
from tests.compare.lines import Said, comparable, stale, undocumented
from tests.kafka_reference import HOST, JAVA_DIR, ApacheKafka, ToolMissing, compiled, java

pytestmark = pytest.mark.timeout(300)

ROWS = line_rows(PAGE.read_text(encoding="utf-8"), PROGRAMS_START)
# Both brokers have the id that pg_kafka's first one gets.
BROKER_ID = 1
TIMEOUT_S = 120
OLDER_JAVA_DIR = JAVA_DIR.parent / "java-3.9"


def _in_java(main: str, folder: Path) -> Callable[[str, str], list[str]]:
    def command(program: str, bootstrap: str) -> list[str]:
        classes = compiled(folder / f"{main}.java", folder)
        return java(main, program, bootstrap, more_classes=classes, libraries=folder)

    return command


def _in_go(program: str, bootstrap: str) -> list[str]:
    return [str(go_agent()), program, "admin", bootstrap]


PROGRAMS = {
    "akhq": _in_java("AdminConsoles", OLDER_JAVA_DIR),
    "kafbat": _in_java("AdminConsoles", OLDER_JAVA_DIR),
    "redpanda-console": _in_go,
    "strimzi": _in_java("TopicOperator", JAVA_DIR),
    "terraform": _in_go,
    "topicctl": _in_go,
}


@pytest.fixture(scope="module")
def addresses(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where Apache Kafka is, and pg_kafka."""
    folder = tmp_path_factory.mktemp("programs")
    try:
        kafka = ApacheKafka(folder / "kafka", {**KAFKA_SETTINGS, "node.id": str(BROKER_ID)}, heap="512m")
        kafka.start()
    except ToolMissing as missing:
        unavailable(missing)
        raise
    database = postgres15.create_database()
    try:
        with serving(database.dsn, folder, SETTINGS) as broker:
            yield kafka.bootstrap, f"{HOST}:{broker.port}"
    finally:
        kafka.kill()
        postgres15.drop_database(database)


@pytest.fixture(scope="module")
def played(addresses: tuple[str, str]) -> Callable[[str], tuple[Said, Said]]:
    """What a program said of Apache Kafka and of pg_kafka; it is run once on each."""
    known: dict[str, tuple[Said, Said]] = {}

    def get(program: str) -> tuple[Said, Said]:
        if program not in known:
            try:
                commands = [PROGRAMS[program](program, bootstrap) for bootstrap in addresses]
            except ToolMissing as missing:
                unavailable(missing)
                raise
            with ThreadPoolExecutor(2) as pool:
                kafka, ours = pool.map(partial(run, program), commands)
            steps = {**kafka, **ours}
            known[program] = fill(kafka, steps), fill(ours, steps)
        return known[program]

    return get


def fill(said: Said, steps: Iterable[str]) -> Said:
    """With the steps of which the program said nothing."""
    return {step: said.get(step, Counter()) for step in steps}


def run(program: str, command: list[str]) -> Said:
    """What a program says in each of its steps."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    steps: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        step, _, said = line.partition("\t")
        steps.setdefault(f"{program}: {step}", []).append(said)
    assert steps, done.stderr
    return {step: comparable(lines) for step, lines in steps.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_get_the_same(program: str, played: Callable[[str], tuple[Said, Said]]) -> None:
    kafka, ours = played(program)
    unknown = [f"{step}: {what}" for step in sorted(kafka) for what in undocumented(step, kafka, ours, ROWS)]
    assert not unknown, "not in the table of programs in docs/deviations.md:\n" + "\n".join(unknown)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_documented_difference_of_programs_is_there(row: LineRow, played: Callable[[str], tuple[Said, Said]]) -> None:
    sides = [played(program) for program in PROGRAMS]
    kafka, ours = [{step: lines for side in sides for step, lines in side[which].items()} for which in (0, 1)]
    gone = stale(row, kafka, ours)
    assert not gone, f"row {row.id} of docs/deviations.md says of {sorted(gone)} what is no longer so"
