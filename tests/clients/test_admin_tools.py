"""Kafka's tools for brokers, replicas, features, the quorum and access control lists, as `bin/kafka-*.sh` run them.

What differs from Apache Kafka is asked of pg_kafka alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clients.agents import Agent
from tests.clients.brokers import Broker
from tests.clients.conftest import unavailable
from tests.clients.groups import java_classes
from tests.kafka_reference import ToolMissing, java

TOOLS = "org.apache.kafka.tools."
REASSIGN = "reassign.ReassignPartitionsCommand"

Run = Callable[..., str]


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
def bootstrap(group_flavour: str, brokers: Callable[..., Broker]) -> str:
    return brokers(group_flavour).bootstrap


@pytest.fixture
def is_reference(group_flavour: str) -> bool:
    """It is Apache Kafka that is asked."""
    return group_flavour == "apache-kafka"


@pytest.fixture
def run(runner: Agent, bootstrap: str) -> Run:
    """What a tool prints when it succeeds, or, with fails=True, when it does not."""

    def ask(tool: str, *arguments: str, fails: bool = False) -> str:
        # This one wants the address behind its command, the others in front of it.
        first = arguments[:1] if tool == "ClusterTool" else ()
        told = [*first, "--bootstrap-server", bootstrap, *arguments[len(first) :]]
        answer: dict[str, Any] = runner.ask("run", main=TOOLS + tool, arguments=told)
        assert (answer["code"] != 0) == fails, answer
        return str(answer["output"] + answer["errors"])

    return ask


def plan(folder: Path, *parts: dict[str, Any]) -> str:
    path = folder / "plan.json"
    path.write_text(json.dumps({"version": 1, "partitions": parts}))
    return str(path)


def test_features_are_described_and_kept(run: Run, *, is_reference: bool) -> None:
    text = run("FeatureCommand", "describe")
    levels = dict(re.findall(r"Feature: (\S+)\s.*FinalizedVersionLevel: (\S+)", text))
    assert {"group.version": "1", "transaction.version": "2"}.items() <= levels.items()
    assert "metadata.version" in levels
    assert "was upgraded to 1" in run("FeatureCommand", "upgrade", "--feature", "group.version=1")
    unknown = run("FeatureCommand", "upgrade", "--feature", "no.such.version=1", fails=True)
    assert "Local controller 1 does not support this feature." in unknown
    if is_reference:
        return
    assert levels == {"group.version": "1", "metadata.version": "4.3-IV0", "transaction.version": "2"}
    refused = run("FeatureCommand", "downgrade", "--feature", "transaction.version=1", fails=True)
    assert "Local controller 1 only supports versions 2-2" in refused
    assert run("FeatureCommand", "describe") == text


def test_quorum_is_described(run: Run, topic: str, *, is_reference: bool) -> None:
    assert topic
    status = dict(re.findall(r"^(\w+):\s+(.*)$", run("MetadataQuorumCommand", "describe", "--status"), re.MULTILINE))
    assert (status["LeaderId"], status["MaxFollowerLag"], status["CurrentObservers"]) == ("1", "0", "[]")
    assert int(status["HighWatermark"]) > 0
    assert json.loads(status["CurrentVoters"])[0]["id"] == 1
    for more in ((), ("--human-readable",)):
        _, row = run("MetadataQuorumCommand", "describe", "--replication", *more).strip().splitlines()
        node, _, end, lag, *_, state = [cell.strip() for cell in row.strip().split("\t")]
        assert (node, lag, state) == ("1", "0", "Leader")
        assert int(end) >= int(status["HighWatermark"])


def test_cluster_is_told_and_brokers_stay(run: Run, bootstrap: str, *, is_reference: bool) -> None:
    assert re.match(r"Cluster ID: \S{22}\s", run("ClusterTool", "cluster-id"))
    host, port = bootstrap.split(":")
    for more in ((), ("--include-fenced-brokers",)):
        (row,) = run("ClusterTool", "list-endpoints", *more).strip().splitlines()[1:]
        assert row.split() == ["1", host, port, "null", "unfenced", "broker"]
    unknown = run("ClusterTool", "unregister", "--id", "99", fails=True)
    assert "BrokerIdNotRegisteredException: Broker ID 99 is not currently registered" in unknown
    if not is_reference:  # which would unregister itself
        refused = run("ClusterTool", "unregister", "--id", "1", fails=True)
        assert "InvalidRequestException: Broker 1 is running" in refused


def test_there_are_no_access_control_lists(run: Run) -> None:
    none = "SecurityDisabledException: No Authorizer is configured"
    of_topic = ("--allow-principal", "User:a", "--operation", "read", "--topic", "t")
    assert none in run("AclCommand", "--list", fails=True)
    assert none in run("AclCommand", "--add", *of_topic, fails=True)
    assert none in run("AclCommand", "--remove", "--force", *of_topic, fails=True)


def test_leaders_are_elected_already(run: Run, topic: str, tmp_path: Path) -> None:
    of_topic = ("--topic", topic, "--partition", "0")
    for kind in ("preferred", "unclean"):
        told = run("LeaderElectionCommand", "--election-type", kind, *of_topic)
        assert f"Valid replica already elected for partitions {topic}-0" in told
        run("LeaderElectionCommand", "--election-type", kind, "--all-topic-partitions")
    both = plan(tmp_path, {"topic": topic, "partition": 0}, {"topic": topic, "partition": 7})
    told = run("LeaderElectionCommand", "--election-type", "preferred", "--path-to-json-file", both, fails=True)
    assert f"Valid replica already elected for partitions {topic}-0" in told
    assert f"No such partition as {topic}-7" in told


def test_partitions_stay_where_they_are(run: Run, topic: str, tmp_path: Path) -> None:
    stay = ("--reassignment-json-file", plan(tmp_path, {"topic": topic, "partition": 0, "replicas": [1]}))
    assert "No partition reassignments found." in run(REASSIGN, "--list")
    verified = run(REASSIGN, "--verify", *stay, "--preserve-throttles")
    assert f"Reassignment of partition {topic}-0 is completed." in verified
    cancelled = run(REASSIGN, "--cancel", *stay, "--preserve-throttles")
    assert "None of the specified partition reassignments are active." in cancelled
    move = ("--reassignment-json-file", plan(tmp_path, {"topic": topic, "partition": 0, "replicas": [7]}))
    assert "Unknown broker id 7" in run(REASSIGN, "--execute", *move, fails=True)
    verified = run(REASSIGN, "--verify", *move, "--preserve-throttles")
    assert "replica set is 1 rather than 7" in verified


def test_a_plan_to_stay_succeeds(run: Run, topic: str, tmp_path: Path) -> None:
    wanted = tmp_path / "topics.json"
    wanted.write_text(json.dumps({"version": 1, "topics": [{"topic": topic}]}))
    proposed = run(REASSIGN, "--generate", "--topics-to-move-json-file", str(wanted), "--broker-list", "1")
    (path := tmp_path / "proposed.json").write_text(proposed.strip().splitlines()[-1])
    moves = json.loads(path.read_text())["partitions"]
    assert [(one["topic"], one["partition"], one["replicas"]) for one in moves] == [(topic, 0, [1])]
    executed = run(REASSIGN, "--execute", "--reassignment-json-file", str(path))
    assert f"Successfully started partition reassignment for {topic}-0" in executed
