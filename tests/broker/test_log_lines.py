"""Log lines of a broker that runs: whose request, which topic, and what to do."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from tests.broker.command import ANY_PORT, Serving
from tests.broker.rawclient import CREATE_TOPICS, RawClient, batch
from tests.broker.transactor import Transactor
from tests.postgres import Database, PostgresServer

from pg_kafka import advice
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

SETTLE_S = 30.0


def lines_of(broker: Serving) -> list[dict[str, Any]]:
    """All that it has said; each line must be an object."""
    return [json.loads(line) for line in broker.err.splitlines(keepends=True) if line.endswith("\n")]


async def line_with(broker: Serving, message: str) -> dict[str, Any]:
    async with asyncio.timeout(SETTLE_S):
        while True:
            for line in lines_of(broker):
                if line["message"] == message:
                    return line
            await asyncio.sleep(0.05)  # nothing tells


@pytest.fixture
def database(postgres15: PostgresServer, pg_database: Database) -> Database:
    return pg_database


async def test_warnings_name_the_client_and_the_topic_and_say_what_to_do(
    postgres15: PostgresServer, database: Database
) -> None:
    where = ("--listen", ANY_PORT, "--database", database.dsn)
    with Serving(*where, "--log-format", "json", "--log-level", "debug") as broker:
        broker.ready()
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic(min_insync_replicas="2")
            line = await line_with(broker, "this topic config is stored and reported, but has no effect")
            assert (line["topic"], line["config"]) == (topic.name, "min.insync.replicas")

            transactor = Transactor(client, timeout_ms=300)
            assert await transactor.init() == 0
            assert await transactor.send(topic, b"never ended") == 0
            line = await line_with(broker, "a transaction timed out")
            assert (line["transactional_id"], line["topics"], line["partitions"]) == (transactor.id, topic.name, 1)
            assert line["timeout_ms"] == 300 and line["producer_id"] == transactor.producer_id

            refuse_rows(postgres15, database)
            assert (await client.produce(topic, batch())).error_code == ErrorCode.UNKNOWN_SERVER_ERROR
            line = await line_with(broker, "the database refused records")
            assert (line["topic"], line["partition"], line["sqlstate"]) == (topic.name, 0, "23514")

            postgres15.sql("ALTER TABLE kafka.topics RENAME TO topics_elsewhere;", database.name)
            request = CreateTopicsRequest(
                topics=[CreatableTopic(name="wanted", num_partitions=1, replication_factor=1)]
            )
            await client.call(request, CREATE_TOPICS, 7)
            line = await line_with(broker, "request failed in the database")
            assert (line["api"], line["topics"], line["peer"]) == ("CreateTopics", "wanted", "127.0.0.1")
            assert line["principal"] == "User:ANONYMOUS" and isinstance(line["client_id"], str)
            postgres15.sql("ALTER TABLE kafka.topics_elsewhere RENAME TO topics;", database.name)
        with socket.create_connection((broker.host, broker.port)) as stranger:
            stranger.sendall(b"GET /a\r\n\x1b[2J HTTP/1.1\r\n\r\n")
            assert stranger.recv(1) == b""
        line = await line_with(broker, "connection closed")
        assert line["peer"] == "127.0.0.1" and "HTTP" in line["reason"]
        assert broker.stop() == 0
        lines = lines_of(broker)
    told = [line for line in lines if line["level"] in ("warning", "error")]
    assert told and all(line["advice"] for line in told)
    assert {line["message"] for line in told} <= advice.ADVICE.keys()
    assert all("advice" not in line for line in lines if line["level"] in ("debug", "info"))


def refuse_rows(server: PostgresServer, database: Database) -> None:
    """Somebody's own constraint on the log, which no row fulfils."""
    server.sql("ALTER TABLE kafka.log ADD CONSTRAINT refuse CHECK (false) NOT VALID;", database.name)
