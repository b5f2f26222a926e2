"""Kafka's own tools on consumer groups, run by their main classes as `bin/kafka-*.sh` do."""

from __future__ import annotations

import asyncio
import datetime
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import confluent_kafka
import pytest
from tests.clients.agents import Agent
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.conftest import unavailable
from tests.clients.groups import LIBRARIES, Group, Process, java_classes
from tests.clients.records import EPOCH_MS, numbered
from tests.kafka_reference import ToolMissing, java

pytestmark = pytest.mark.timeout(240)

GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
PARTITIONS = 3
RECORDS = 20


@dataclass
class Tool:
    """A tool of Kafka's on a broker."""

    agent: Agent
    main: str
    bootstrap: str

    def run(self, *arguments: str) -> str:
        """What it prints; fails the test when the tool does."""
        answer = self._ask("--bootstrap-server", self.bootstrap, *arguments)
        assert answer["code"] == 0 and "Error" not in answer["output"], answer
        return answer["output"]

    def refusal(self, *arguments: str) -> str:
        """Why it does not do it."""
        answer = self._ask("--bootstrap-server", self.bootstrap, *arguments)
        told = answer["output"] + answer["errors"]
        assert "Error" in told or answer["code"] != 0, answer
        return told

    def table(self, *arguments: str) -> list[dict[str, str]]:
        """What it prints, as rows."""
        lines = [line.split() for line in self.run(*arguments).splitlines() if line.strip()]
        start = next(place for place, line in enumerate(lines) if "GROUP" in line)
        return [dict(zip(lines[start], line, strict=False)) for line in lines[start + 1 :]]

    def _ask(self, *arguments: str) -> dict[str, str]:
        return self.agent.ask("run", main=self.main, arguments=arguments)


@pytest.fixture(scope="module")
def runner() -> Iterator[Agent]:
    """One JVM for all runs of tools."""
    try:
        agent = Agent(java("ToolRunner", more_classes=java_classes()))
    except ToolMissing as missing:
        unavailable(missing)
        raise
    yield agent
    agent.stop()


@pytest.fixture
def bootstrap(group_broker: Broker) -> str:
    return group_broker.bootstrap


@pytest.fixture
def tool(runner: Agent, bootstrap: str) -> Tool:
    return Tool(runner, GROUPS, bootstrap)


@pytest.fixture
def topic(new_topic: Callable[..., str], bootstrap: str, confluent: Client) -> str:
    """A topic with 20 records in each of three partitions, a second apart."""
    name = new_topic(PARTITIONS)
    for partition in range(PARTITIONS):
        confluent.produce(bootstrap, name, numbered(RECORDS, step_ms=1000), partition=partition)
    return name


@pytest.fixture
def process() -> Iterator[Process]:
    running = Process("confluent-kafka")
    yield running
    running.kill()


def committed(tool: Tool, group: str) -> dict[int, str]:
    """The committed offsets as the tool tells them."""
    return {int(row["PARTITION"]): row["CURRENT-OFFSET"] for row in tool.table("--describe", "--group", group)}


def state(tool: Tool, group: str, kind: str) -> str:
    """The state in the list of groups, once an assignment is over: members may have their part before it is."""
    deadline = time.monotonic() + 20
    while True:
        row = next(row for row in tool.table("--list", "--state", "--type") if row["GROUP"] == group)
        assert row["TYPE"] == kind
        if row["STATE"] in ("Stable", "Empty", "Dead") or time.monotonic() > deadline:
            return row["STATE"]


def everywhere(offset: int | str) -> dict[int, str]:
    return dict.fromkeys(range(PARTITIONS), str(offset))


@pytest.mark.parametrize("library", ["confluent-kafka", "confluent-kafka-consumer"])
def test_group_with_members(tool: Tool, bootstrap: str, topic: str, process: Process, library: str) -> None:
    group = Group(bootstrap, f"of-{topic}", topic)
    kind = LIBRARIES[library].protocol.capitalize()
    assignor = "range" if kind == "Classic" else "uniform"
    members = [group.join(name, process, LIBRARIES[library], assignor) for name in ("a", "b")]
    group.wait_until_read([RECORDS] * PARTITIONS)
    group.wait("own a part each", lambda: sorted(m for one in members for m in one.owned) == list(range(PARTITIONS)))
    group.wait("commit", lambda: all(group.commits(partition)[-1:] == [RECORDS] for partition in range(PARTITIONS)))

    assert group.id in tool.run("--list").split()
    assert state(tool, group.id, kind) == "Stable"
    assert group.id in tool.run("--list", "--type", kind.lower()).split()
    assert group.id in tool.run("--list", "--state", "stable").split()
    assert group.id not in tool.run("--list", "--state", "empty").split()

    rows = tool.table("--describe", "--group", group.id, "--offsets", "--verbose")
    assert [int(row["PARTITION"]) for row in sorted(rows, key=lambda row: int(row["PARTITION"]))] == list(
        range(PARTITIONS)
    )
    for row in rows:
        assert (row["TOPIC"], row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]) == (topic, "20", "20", "0")
        assert row["HOST"] == "/127.0.0.1"
        owner = next(one for one in members if int(row["PARTITION"]) in one.owned)
        assert row["CLIENT-ID"] == owner.name
    rows = tool.table("--describe", "--group", group.id, "--members", "--verbose")
    assert {row["CLIENT-ID"]: row["#PARTITIONS"] for row in rows} == {one.name: str(len(one.owned)) for one in members}
    (row,) = tool.table("--describe", "--group", group.id, "--state", "--verbose")
    assert (row["STATE"], row["ASSIGNMENT-STRATEGY"]) == ("Stable", assignor)
    assert row["#MEMBERS"] == "2"
    assert group.id in tool.run("--describe", "--all-groups", "--state")

    assert "is inactive" in tool.refusal(
        *("--reset-offsets", "--group", group.id, "--topic", topic, "--to-earliest", "--execute")
    )
    assert "not empty" in tool.refusal("--delete", "--group", group.id)
    assert "subscribed" in tool.refusal("--delete-offsets", "--group", group.id, "--topic", topic)
    group.leave(*members)
    (row,) = tool.table("--describe", "--group", group.id, "--state")
    assert row["STATE"] == "Empty"
    assert committed(tool, group.id) == everywhere(RECORDS)
    assert "successful" in tool.run("--delete", "--group", group.id)


def test_offsets_are_reset(tool: Tool, topic: str, tmp_path: Path) -> None:
    group = f"of-{topic}"
    reset = ("--reset-offsets", "--group", group, "--topic", topic)

    def done(*arguments: str) -> dict[int, str]:
        """The new offsets that it tells, which are those that are there then."""
        told = {int(row["PARTITION"]): row["NEW-OFFSET"] for row in tool.table(*reset, *arguments, "--execute")}
        found = committed(tool, group)
        assert {partition: found[partition] for partition in told} == told
        return found

    assert done("--to-latest") == everywhere(20)
    plan = tool.table(*reset, "--to-earliest", "--dry-run")
    assert {int(row["PARTITION"]): row["NEW-OFFSET"] for row in plan} == everywhere(0)
    assert committed(tool, group) == everywhere(20), "a dry run changes nothing"
    assert done("--to-earliest") == everywhere(0)
    assert done("--to-offset", "4") == everywhere(4)
    assert done("--shift-by", "7") == everywhere(11)
    assert done("--shift-by", "-2") == everywhere(9)
    assert done("--shift-by", "-100") == everywhere(0), "no further than the start"
    assert done("--to-offset", "1000") == everywhere(20), "no further than the end"
    at = datetime.datetime.fromtimestamp((EPOCH_MS + 4500) / 1000, datetime.UTC)
    assert done("--to-datetime", at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z") == everywhere(5)
    assert done("--by-duration", "P1D") == everywhere(0)
    assert done("--by-duration", "PT0S") == everywhere(20)
    assert done("--to-current") == everywhere(20)
    part = ("--reset-offsets", "--group", group, "--topic", f"{topic}:0,2")
    tool.run(*part, "--to-offset", "2", "--execute")
    assert committed(tool, group) == {**everywhere(20), 0: "2", 2: "2"}

    plan_file = tmp_path / "plan.csv"
    plan_file.write_text(tool.run(*reset, "--to-current", "--export", "--dry-run"))
    lines = sorted(line for line in plan_file.read_text().splitlines() if line)
    assert lines == sorted(f"{topic},{n},{offset}" for n, offset in committed(tool, group).items())
    plan_file.write_text("\n".join(f"{topic},{partition},{partition}" for partition in range(PARTITIONS)))
    tool.run("--reset-offsets", "--group", group, "--from-file", str(plan_file), "--execute")
    assert committed(tool, group) == {partition: str(partition) for partition in range(PARTITIONS)}
    tool.run("--reset-offsets", "--group", group, "--all-topics", "--to-offset", "3", "--execute")
    assert committed(tool, group) == everywhere(3)

    tool.run("--delete-offsets", "--group", group, "--topic", f"{topic}:0,1")
    assert committed(tool, group) == dict.fromkeys(range(2, PARTITIONS), "3")
    assert "successful" in tool.run("--delete", "--group", group)
    assert group not in tool.run("--list").split()
    assert "not found" in tool.refusal("--describe", "--group", group)
    assert "could not be deleted" in tool.refusal("--delete", "--group", group)


def test_regular_expressions_are_checked(runner: Agent) -> None:
    answers = [
        runner.ask("run", main=GROUPS, arguments=["--validate-regex", expression]) for expression in ("orders-.*", "(")
    ]
    assert "is valid" in answers[0]["output"] + answers[0]["errors"]
    assert "is invalid" in answers[1]["output"] + answers[1]["errors"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_console_consumer_with_a_group(
    tool: Tool, bootstrap: str, confluent: Client, topic: str, protocol: str
) -> None:
    """It goes on where the one before it ended."""
    group = f"console-{topic}"
    command = java(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--group", group, "--from-beginning"),
        *("--max-messages", "30", "--timeout-ms", "30000", "--command-property", f"group.protocol={protocol}"),
    )
    read: list[str] = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        read += done.stdout.splitlines()
    expected = [(record.value or b"").decode() for record in numbered(RECORDS)] * PARTITIONS
    assert sorted(read) == sorted(expected)
    assert committed(tool, group) == everywhere(RECORDS)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_verifiable_consumer(tool: Tool, bootstrap: str, topic: str, protocol: str) -> None:
    group = f"verifiable-{topic}"
    command = java(
        "org.apache.kafka.tools.VerifiableConsumer",
        *(
            "--bootstrap-server",
            bootstrap,
            "--topic",
            topic,
            "--group-id",
            group,
            "--max-messages",
            str(RECORDS * PARTITIONS),
        ),
        *("--group-protocol", protocol, "--reset-policy", "earliest"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    names = [one["name"] for one in told]
    assert names[0] == "startup_complete" and "shutdown_complete" in names
    assert sum(one["count"] for one in told if one["name"] == "records_consumed") == RECORDS * PARTITIONS
    assert all(one["success"] for one in told if one["name"] == "offsets_committed")
    (assigned,) = [one for one in told if one["name"] == "partitions_assigned"]
    assert sorted(one["partition"] for one in assigned["partitions"]) == list(range(PARTITIONS))
    assert committed(tool, group) == everywhere(RECORDS)


def test_a_group_that_sql_drives(tool: Tool, group_broker: Broker, bootstrap: str, topic: str) -> None:
    group = f"sql-of-{topic}"

    async def poll() -> None:
        db = await asyncpg.connect(group_broker.dsn())
        try:
            assert len(await db.fetch("SELECT FROM kafka.poll($1::text, $2::text, 25)", group, topic)) == 25
        finally:
            await db.close()

    asyncio.run(poll())
    deadline = time.monotonic() + 30
    while group not in tool.run("--list").split():
        assert time.monotonic() < deadline
    assert state(tool, group, "Classic") == "Stable"
    rows = tool.table("--describe", "--group", group)
    assert sum(int(row["CURRENT-OFFSET"]) for row in rows) == 25
    assert sum(int(row["LAG"]) for row in rows) == PARTITIONS * RECORDS - 25
    (row,) = tool.table("--describe", "--group", group, "--state", "--verbose")
    assert (row["STATE"], row["ASSIGNMENT-STRATEGY"], row["#MEMBERS"]) == ("Stable", "sql", "0")
    assert "can only be reset if the group" in tool.refusal(
        *("--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute")
    )
    assert "subscribed" in tool.refusal("--delete-offsets", "--group", group, "--topic", topic)
    assert sum(map(int, committed(tool, group).values())) == 25
    assert "successful" in tool.run("--delete", "--group", group)
    assert group not in tool.run("--list").split()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_client_says_why_it_cannot_join_a_group_that_sql_drives(
    group_broker: Broker, bootstrap: str, topic: str, runner: Agent, protocol: str
) -> None:
    group = f"sql-against-{protocol}-of-{topic}"

    async def poll() -> None:
        db = await asyncpg.connect(group_broker.dsn())
        try:
            await db.fetch("SELECT FROM kafka.poll($1::text, $2::text, 1)", group, topic)
        finally:
            await db.close()

    asyncio.run(poll())
    tool = Tool(runner, GROUPS, bootstrap)
    deadline = time.monotonic() + 30
    while group not in tool.run("--list").split():
        assert time.monotonic() < deadline
    said: list[str] = []
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "group.protocol": protocol, "log_level": 0}
    )
    try:
        consumer.subscribe([topic])
        while not said:
            assert time.monotonic() < deadline + 30
            message = consumer.poll(0.2)
            if message is not None and message.error() is not None:
                said.append(message.error().str())
    except confluent_kafka.KafkaException as error:
        said.append(str(error))
    finally:
        consumer.close()
    assert "Inconsistent group protocol" in said[0]
    java_member = Group(bootstrap, group, topic)
    java_process = Process("java")
    try:
        library, assignor = ("java", "range") if protocol == "classic" else ("java-consumer", "uniform")
        java_member.join("j", java_process, LIBRARIES[library], assignor)
        while not (failed := [event for event in java_member.events if event.what == "failed"]):
            assert time.monotonic() < deadline + 60
            time.sleep(0.05)
    finally:
        java_process.kill()
    wanted = "incompatible with those of existing members" if protocol == "classic" else "is driven by SQL (kafka.poll)"
    assert wanted in failed[0].error
