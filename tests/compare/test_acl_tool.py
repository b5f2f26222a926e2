"""kafka-acls says the same of pg_kafka as of Apache Kafka where both have an authorizer."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from tests.broker.saslpeer import sasl_broker
from tests.clients.agents import Agent
from tests.clients.conftest import unavailable
from tests.clients.groups import java_classes
from tests.compare.conftest import KAFKA_SETTINGS
from tests.compare.lines import comparable
from tests.compare.secured import ADMIN, PASSWORD, jaas, kafka_settings
from tests.kafka_reference import HOST, ApacheKafka, ToolMissing, java

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

STEP_TIMEOUT_S = 120.0
SETTLE_S = 0.3
MAIN = "org.apache.kafka.tools.AclCommand"
# A step depends on those before it.
STEPS = """
--list
--add --allow-principal User:alice --operation Read --topic orders
--add --allow-principal User:alice --allow-principal User:bob --allow-host 10.0.0.1 --operation All --topic orders
--add --deny-principal User:mallory --deny-host 10.6.6.6 --operation Write --topic *
--add --allow-principal User:alice --producer --topic payments --transactional-id pay --idempotent
--add --allow-principal User:carol --consumer --topic payments --group billing
--add --allow-principal User:carol --consumer --topic pay --group bill --resource-pattern-type prefixed
--add --allow-principal User:dave --operation Describe --operation AlterConfigs --cluster
--add --allow-principal User:dave --operation Describe --delegation-token token
--add --allow-principal User:dave --operation CreateTokens --user-principal User:erin
--list
--list --topic orders
--list --topic payments --resource-pattern-type match
--list --topic pay --resource-pattern-type any
--list --principal User:carol
--list --cluster
--list --group nobody
--remove --force --allow-principal User:alice --operation Read --topic orders
--remove --force --topic payments --resource-pattern-type match
--remove --force --topic nowhere
--list
--add --allow-principal User:alice --operation Create --group billing
--add --allow-principal User:alice --operation Read
--add --allow-principal alice --operation Read --topic orders
--add --operation Read --topic orders
--add --allow-principal User:alice --operation Read --topic orders --resource-pattern-type any
--remove --force --allow-principal User:dave --operation Describe --operation AlterConfigs --cluster
--remove --force --group * --resource-pattern-type any
--list
""".strip().splitlines()


def play(bootstrap: str, folder: Path) -> list[Counter[str]]:
    """What each step said on one broker."""
    folder.mkdir()
    client = folder / "client.properties"
    login = (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required username="{ADMIN}" password="{PASSWORD}";'
    )
    client.write_text(f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={login}\n")
    agent = Agent(java("ToolRunner", more_classes=java_classes()))
    try:
        said = []
        for step in STEPS:
            arguments = ["--bootstrap-server", bootstrap, "--command-config", str(client), *shlex.split(step)]
            answer = agent.ask("run", STEP_TIMEOUT_S, main=MAIN, arguments=arguments, input="")
            lines = [f"exit {answer['code']}", *f"{answer['output']}\n{answer['errors']}".splitlines()]
            if not step.startswith("--list"):
                time.sleep(SETTLE_S)  # Apache Kafka answers before a change counts; nothing says when it does
                # The tool lists what counts at this moment. The next --list tells.
                current = next((n for n, line in enumerate(lines) if line.startswith("Current ACLs")), len(lines))
                lines = lines[:current]
            said.append(comparable(lines))
        return said
    finally:
        agent.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(
    postgres15: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[list[Counter[str]], list[Counter[str]]]]:
    """What the tool said of Apache Kafka and of pg_kafka."""
    folder = tmp_path_factory.mktemp("acls")
    try:
        kafka = ApacheKafka(folder / "kafka", {**KAFKA_SETTINGS, **kafka_settings(())}, heap="512m")
        await asyncio.to_thread(kafka.start)
    except ToolMissing as missing:
        unavailable(missing)
        raise
    try:
        settings = {"authorizer": "acl", "super_users": f"User:{ADMIN}", "sasl_jaas_config": jaas(())}
        async with sasl_broker(postgres15, **settings) as inside:
            ours = SimpleNamespace(bootstrap=f"{inside.host}:{inside.port}")
            yield tuple(  # type: ignore[misc]
                await asyncio.gather(
                    asyncio.to_thread(play, f"{HOST}:{kafka.port}", folder / "for-kafka"),
                    asyncio.to_thread(play, ours.bootstrap, folder / "for-pg_kafka"),
                )
            )
    finally:
        kafka.kill()


@pytest.mark.parametrize("number", range(len(STEPS)), ids=lambda number: f"{number} {STEPS[number]}")
async def test_kafka_acls_says_the_same(played: tuple[list[Counter[str]], list[Counter[str]]], number: int) -> None:
    kafka, ours = (said[number] for said in played)
    assert (kafka - ours, ours - kafka) == (Counter(), Counter())


async def test_the_lists_are_not_empty(played: tuple[list[Counter[str]], list[Counter[str]]]) -> None:
    lists = [said for step, said in zip(STEPS, played[1], strict=True) if step == "--list"]
    assert len(lists[0]) == 1
    assert len(lists[1]) > 15
    assert len(lists[2]) < len(lists[1])
