"""Kafka's transactions tool, run by its main class as `bin/kafka-transactions.sh` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from tests.broker.rawclient import RawClient, SomeTopic, batch
from tests.broker.transactor import OLDER, Transactor, committed
from tests.clients.agents import Agent
from tests.clients.brokers import Broker
from tests.clients.conftest import unavailable
from tests.clients.groups import java_classes
from tests.kafka_reference import ToolMissing, java

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.find_coordinator import FindCoordinatorRequest

pytestmark = pytest.mark.timeout(240)

MAIN = "org.apache.kafka.tools.TransactionsCommand"
FIND_COORDINATOR = 10
BROKER = "1"
# Apache Kafka takes batches of a transaction that nobody knows of only when it does not ask.
REFERENCE_SETTINGS = {
    "transaction.partition.verification.enable": "false",
    "transaction.state.log.num.partitions": "1",
}
# The tool counts from the last batch; with 0 minutes every transaction is old enough.
AT_ONCE = ("--max-transaction-timeout", "0")
_NOT_YET = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)


@dataclass
class Tool:
    """The tool on a broker."""

    agent: Agent
    bootstrap: str

    async def table(self, command: str, *arguments: Any) -> list[dict[str, str]]:
        """What it prints, as rows; fails the test when the tool does."""
        lines = [
            [cell.strip() for cell in line.split("\t")]
            for line in (await self.run(command, *arguments)).splitlines()
            if line.strip()
        ]
        return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]

    async def run(self, command: str, *arguments: Any) -> str:
        answer = await self._ask(command, arguments)
        assert answer["code"] == 0, answer
        return str(answer["output"])

    async def refusal(self, command: str, *arguments: Any) -> str:
        """Why it does not do it."""
        answer = await self._ask(command, arguments)
        assert answer["code"] != 0, answer
        return str(answer["output"] + answer["errors"])

    async def _ask(self, command: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        told = ["--bootstrap-server", self.bootstrap, command, *(str(argument) for argument in arguments)]
        return await asyncio.to_thread(lambda: self.agent.ask("run", main=MAIN, arguments=told))


@pytest.fixture(scope="module")
def runner() -> Iterator[Agent]:
    """One JVM for all runs of the tool."""
    try:
        agent = Agent(java("ToolRunner", more_classes=java_classes()))
    except ToolMissing as missing:
        unavailable(missing)
        raise
    yield agent
    agent.stop()


@pytest.fixture
def tool_broker(group_flavour: str, brokers: Callable[..., Broker]) -> Broker:
    """A broker whose transactions are those of these tests alone."""
    settings = REFERENCE_SETTINGS if group_flavour == "apache-kafka" else {}
    try:
        return brokers(group_flavour, "transaction-tool", settings)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture
def tool(runner: Agent, tool_broker: Broker) -> Tool:
    return Tool(runner, tool_broker.bootstrap)


@pytest.fixture
async def client(tool_broker: Broker) -> AsyncIterator[RawClient]:
    async with await connected(tool_broker) as client:
        yield client


async def connected(broker: Broker) -> RawClient:
    host, port = broker.bootstrap.split(":")
    return await RawClient.connect(SimpleNamespace(host=host, port=int(port)))


async def topic_of(client: RawClient, partitions: int = 1) -> SomeTopic:
    """A new topic whose partitions have a leader: Apache Kafka answers before."""
    topic = await client.create_topic(partitions, retention_ms="-1")  # the records are old
    async with asyncio.timeout(30):
        for partition in range(partitions):
            while (await client.offset_at(topic, -1, partition)).error_code:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.02)
    return topic


async def begun(client: RawClient, **more: Any) -> Transactor:
    """A producer, once Apache Kafka has made the topic of its transactions."""
    one = Transactor(client, **more)
    async with asyncio.timeout(30):
        while code := await one.init():
            assert code in _NOT_YET, code
            await client.call(FindCoordinatorRequest(key=one.id, key_type=1), FIND_COORDINATOR, 3)
            await asyncio.sleep(0.02)
    return one


async def test_transactions_are_listed_and_described(tool: Tool, client: RawClient) -> None:
    topic = await topic_of(client, 2)
    open_one, idle = await begun(client, timeout_ms=54_321), await begun(client)
    done, undone = await begun(client), await begun(client, style=OLDER)
    for one in (done, undone):
        assert await one.send(topic, b"x") == 0
        assert await one.end(commit=one is done) == 0
        await one.until("CompleteCommit" if one is done else "CompleteAbort")
    assert await open_one.produce_many(topic, {0: [b"a", b"b"], 1: [b"c"]}) == {0: 0, 1: 0}

    states = {open_one.id: "Ongoing", idle.id: "Empty", done.id: "CompleteCommit", undone.id: "CompleteAbort"}
    rows = {row["TransactionalId"]: row for row in await tool.table("list")}
    for one in (open_one, idle, done, undone):
        row = rows[one.id]
        assert (row["Coordinator"], row["ProducerId"]) == (BROKER, str(one.producer_id))
        assert row["TransactionState"] == states[one.id]
    (row,) = await tool.table("list", "--transactional-id-pattern", f"{idle.id[:-1]}.")
    assert row["TransactionalId"] == idle.id
    assert "Failed to list" in await tool.refusal("list", "--transactional-id-pattern", "(")
    old = {row["TransactionalId"] for row in await tool.table("list", "--duration-filter", 3_600_000)}
    assert open_one.id not in old

    (row,) = await tool.table("describe", "--transactional-id", open_one.id)
    assert (row["CoordinatorId"], row["TransactionalId"], row["TransactionState"]) == (BROKER, open_one.id, "Ongoing")
    assert (row["ProducerId"], row["ProducerEpoch"]) == (str(open_one.producer_id), str(open_one.epoch))
    assert row["TransactionTimeoutMs"] == "54321"
    assert sorted(row["TopicPartitions"].split(",")) == [f"{topic.name}-0", f"{topic.name}-1"]
    assert int(row["CurrentTransactionStartTimeMs"]) > 1_700_000_000_000
    assert 0 <= int(row["TransactionDurationMs"]) < 54_321
    (row,) = await tool.table("describe", "--transactional-id", idle.id)
    assert (row["TransactionState"], row["CurrentTransactionStartTimeMs"], row["TopicPartitions"]) == (
        "Empty",
        "None",
        "",
    )
    assert "could not be found" in await tool.refusal("describe", "--transactional-id", "nobody")

    rows = {
        row["ProducerId"]: row
        for row in await tool.table("describe-producers", "--topic", topic.name, "--partition", 0)
    }
    assert set(rows) == {str(one.producer_id) for one in (open_one, done, undone)}
    row = rows[str(open_one.producer_id)]
    assert (row["ProducerEpoch"], row["LastSequence"]) == (str(open_one.epoch), "1")
    assert row["CurrentTransactionStartOffset"] == "4", "two records and two markers come before"
    assert rows[str(done.producer_id)]["CurrentTransactionStartOffset"] == "None"
    assert row["LatestCoordinatorEpoch"] == "-1", "it has no marker yet"
    assert int(rows[str(done.producer_id)]["LatestCoordinatorEpoch"]) >= 0
    assert await tool.table("find-hanging", "--broker-id", BROKER, *AT_ONCE) == [], "the coordinator knows of all"

    await tool.run("forceTerminateTransaction", "--transactionalId", open_one.id)
    await open_one.until("Empty")
    assert await open_one.commit() == ErrorCode.PRODUCER_FENCED
    assert await committed(client, topic, 1) == []
    end = (await client.offset_at(topic, -1, 1)).offset
    assert (await client.fetch(topic, 0, 1)).last_stable_offset == end == 2


async def test_hanging_transactions_are_found_and_aborted(tool: Tool, tool_broker: Broker) -> None:
    """Transactions in the log that no coordinator knows of, so that nobody would ever end them."""
    async with await connected(tool_broker) as client:
        topics = [await topic_of(client, 2) for _ in range(2)]
        hanging = await hang(client, tool_broker, topics)
    async with await connected(tool_broker) as client:
        for topic in topics:
            await client.produce(topic, batch([b"after"]), 1)
            assert await committed(client, topic, 1) == [b"before"], "the transaction holds it back"
        if tool_broker.dsn() is not None:  # Apache Kafka goes by the timestamps of records, and these are old
            assert await tool.table("find-hanging", "--broker-id", BROKER) == [], "not for fifteen minutes"
        rows = {row["Topic"]: row for row in await tool.table("find-hanging", "--broker-id", BROKER, *AT_ONCE)}
        assert set(rows) == {topic.name for topic in topics}
        for topic, one in zip(topics, hanging, strict=True):
            row = rows[topic.name]
            assert (row["Partition"], row["StartOffset"]) == ("1", "1")
            assert (row["ProducerId"], row["ProducerEpoch"]) == (str(one.producer_id), str(one.epoch))
        (row,) = await tool.table("find-hanging", "--topic", topics[0].name, *AT_ONCE)
        assert row["Topic"] == topics[0].name
        (row,) = await tool.table("find-hanging", "--topic", topics[1].name, "--partition", 1, *AT_ONCE)
        assert row["Topic"] == topics[1].name
        assert await tool.table("find-hanging", "--topic", topics[1].name, "--partition", 0, *AT_ONCE) == []

        first, second = (("--topic", topic.name, "--partition", 1) for topic in topics)
        assert "Could not find any open transactions" in await tool.refusal("abort", *first, "--start-offset", 0)
        await tool.run("abort", *first, "--start-offset", 1)
        assert await committed(client, topics[0], 1) == [b"before", b"after"]
        assert await committed(client, topics[1], 1) == [b"before"]
        row = rows[topics[1].name]
        told = ("--producer-id", row["ProducerId"], "--producer-epoch", row["ProducerEpoch"])
        epoch = max(0, int(row["CoordinatorEpoch"]))
        await tool.run("abort", *second, *told, "--coordinator-epoch", epoch)
        assert await committed(client, topics[1], 1) == [b"before", b"after"]
        assert await tool.table("find-hanging", "--broker-id", BROKER, *AT_ONCE) == []


async def hang(client: RawClient, broker: Broker, topics: list[SomeTopic]) -> list[Transactor]:
    """A transaction in partition 1 of each topic, after one record there. The broker may have been restarted."""
    found = []
    for topic in topics:
        await client.produce(topic, batch([b"before"]), 1)
        one = await begun(client, style=OLDER)
        if broker.dsn() is None:  # Apache Kafka, which does not look whether the partition was added
            assert await one.produce(topic, b"hangs", partition=1) == 0
        else:
            assert await one.send(topic, b"hangs", partition=1) == 0
        found.append(one)
    dsn = broker.dsn()
    if dsn is not None:
        broker.stop()
        connection = await asyncpg.connect(dsn)
        try:
            for table in ("kafka.transaction_journal_0", "kafka.transaction_journal_1"):
                ids = [one.id for one in found]
                await connection.execute(f"DELETE FROM {table} WHERE transactional_id = ANY($1)", ids)
        finally:
            await connection.close()
        broker.start()  # from this thread: a broker ends with the thread that started it
    return found
