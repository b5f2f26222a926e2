"""What a broker that waits passes on to the leader, which decides by the client's own principal."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
from tests.broker.command import Serving
from tests.postgres import Database

from pg_kafka.broker import forwarding
from pg_kafka.storage import queries
from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.init_producer_id import InitProducerIdRequest

SQL = queries.load("forwarding")
INIT_PRODUCER_ID, DESCRIBE_CONFIGS = 22, 32
ADMIN, STRANGER = "User:admin", "User:stranger"


async def answered(connection: asyncpg.Connection, principal: str, key: int, version: int, body: bytes) -> bytes | None:
    number: UUID = await connection.fetchval(
        SQL["ask"], 2, principal, "10.0.0.7", 1, "c", "PLAINTEXT", key, version, body
    )
    async with asyncio.timeout(20):
        while True:
            if rows := await connection.fetch(SQL["answered"], [number]):
                answer: bytes | None = rows[0]["answer"]
                return answer
            await asyncio.sleep(0.02)


async def asked(connection: asyncpg.Connection, principal: str, message: Any, key: int, version: int) -> Any:
    """What the leader answers, or None when it closes the client's connection."""
    body = b"".join(codec.encode_request(message, key, version))
    answer = await answered(connection, principal, key, version, body)
    return None if answer is None else codec.decode_response(key, version, answer)


async def test_the_leader_decides_by_the_principal_of_the_client(pg_database: Database) -> None:
    settings = {"AUTHORIZER": "acl", "SUPER_USERS": ADMIN}
    with Serving("--listen", "127.0.0.1:0", "--database", pg_database.dsn, settings=settings) as broker:
        broker.ready()
        connection = await asyncpg.connect(pg_database.dsn)
        try:
            request = InitProducerIdRequest(transaction_timeout_ms=1000)
            ids = [await asked(connection, ADMIN, request, INIT_PRODUCER_ID, 4) for _ in range(2)]
            assert [one.error_code for one in ids] == [0, 0]
            assert ids[0].producer_id != ids[1].producer_id
            refused = await asked(connection, STRANGER, request, INIT_PRODUCER_ID, 4)
            assert refused.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
            configs = DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=4, resource_name="1")])
            (described,) = (await asked(connection, ADMIN, configs, DESCRIBE_CONFIGS, 4)).results
            assert (described.error_code, described.configs[0].name != "") == (0, True)
            (hidden,) = (await asked(connection, STRANGER, configs, DESCRIBE_CONFIGS, 4)).results
            assert hidden.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
            # By address as well: an ACL allows it from another host, which changes nothing, and then from the client's own.
            for host in ("10.0.0.8", "10.0.0.7"):
                await connection.execute(
                    "SELECT kafka.create_acl($1, 'IdempotentWrite', 'cluster', host => $2)", STRANGER, host
                )
            async with asyncio.timeout(20):
                while True:
                    allowed = await asked(connection, STRANGER, request, INIT_PRODUCER_ID, 4)
                    if allowed.error_code == 0:
                        break
                    assert allowed.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
                    await asyncio.sleep(0.05)
            assert await connection.fetchval("SELECT count(*) FROM kafka.forwarded_requests") == 0
        finally:
            await connection.close()


async def test_what_cannot_be_read_has_no_answer(pg_database: Database) -> None:
    """Another version of pg_kafka may ask; its client's connection is closed."""
    with Serving("--listen", "127.0.0.1:0", "--database", pg_database.dsn) as broker:
        broker.ready()
        connection = await asyncpg.connect(pg_database.dsn)
        try:
            for key, version, body in ((INIT_PRODUCER_ID, 4, b"\xff"), (999, 0, b""), (INIT_PRODUCER_ID, 99, b"")):
                assert await answered(connection, ADMIN, key, version, body) is None
        finally:
            await connection.close()
        assert broker.stop() == 0


async def test_many_are_answered_each_once(pg_database: Database) -> None:
    """More than the leader serves at once."""
    with Serving("--listen", "127.0.0.1:0", "--database", pg_database.dsn) as broker:
        broker.ready()
        connection = await asyncpg.connect(pg_database.dsn)
        try:
            body = b"".join(codec.encode_request(InitProducerIdRequest(transaction_timeout_ms=1), INIT_PRODUCER_ID, 4))
            count = 5 * forwarding.MOST_AT_ONCE
            for _ in range(count):
                await connection.fetchval(SQL["ask"], 2, ADMIN, "h", 1, None, "X", INIT_PRODUCER_ID, 4, body)
            found: list[int] = []
            numbers = [row["id"] for row in await connection.fetch("SELECT id FROM kafka.forwarded_requests")]
            async with asyncio.timeout(30):
                while len(found) < count:
                    for row in await connection.fetch(SQL["answered"], numbers):
                        found.append(codec.decode_response(INIT_PRODUCER_ID, 4, row["answer"]).producer_id)
                    await asyncio.sleep(0.02)
            assert len(set(found)) == count
        finally:
            await connection.close()
