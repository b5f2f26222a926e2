"""What somebody changes by SQL in kafka.topics, a running broker knows within seconds, and clients with it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from tests.broker.rawclient import RawClient, SomeTopic, batch, only

from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource

DESCRIBE_CONFIGS = 32


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await is_so():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)


async def test_clients_see_what_was_changed_by_sql(broker: Any) -> None:
    db = await asyncpg.connect(broker.dsn, server_settings={"application_name": "deployment"})
    async with await RawClient.connect(broker) as client:
        topic = await client.create_topic(retention_ms="5000")
        assert (await client.produce(topic, batch([b"x" * 500]))).error_code == 0
        await db.execute(
            'UPDATE kafka.topics SET configs = configs || \'{"max.message.bytes": "300"}\' WHERE name = $1', topic.name
        )

        async def is_refused() -> bool:
            return bool((await client.produce(topic, batch([b"x" * 500]))).error_code == ErrorCode.MESSAGE_TOO_LARGE)

        await until(is_refused)
        assert (await client.produce(topic, batch([b"x"]))).error_code == 0
        resource = DescribeConfigsResource(resource_type=2, resource_name=topic.name, configuration_keys=None)
        answer = only((await client.call(DescribeConfigsRequest(resources=[resource]), DESCRIBE_CONFIGS, 4)).results)
        described = {entry.name: entry.value for entry in answer.configs if entry.config_source == 1}
        assert described == {"max.message.bytes": "300", "retention.ms": "5000"}

        name = f"by-sql-{secrets.token_hex(6)}"
        made = SomeTopic(
            name, await db.fetchval("INSERT INTO kafka.topics (name, partitions) VALUES ($1, 2) RETURNING uuid", name)
        )

        async def is_served() -> bool:
            return bool((await client.produce(made, batch([b"a"]), 1)).error_code == 0)

        await until(is_served)
        rows = await db.fetch(
            "SELECT what, application, changed_by = current_user AS is_ours FROM kafka.catalogue_changes"
            " WHERE name = ANY ($1) ORDER BY number",
            [topic.name, name],
        )
        assert [tuple(row) for row in rows] == [
            ("created", "pg_kafka control", True),
            ("changed", "deployment", True),
            ("created", "deployment", True),
        ]
    await db.close()
