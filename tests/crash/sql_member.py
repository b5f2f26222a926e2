"""A member of a consumer group that books what it reads and commits its offsets in the same transaction, until killed.

    python -m tests.crash.sql_member '{"bootstrap": ..., "dsn": ..., "group": ..., "topic": ..., "seed": ...}'

It ends by itself when its connection to the database breaks, and says on stdout why; whoever started it starts it again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections import Counter
from typing import Any

import aiokafka
import asyncpg
from tests.crash.sql_sessions import is_expected

APPLICATION = "proof member"
SESSION_TIMEOUT_MS = 3000
_FENCED = "KF012"


class Membership(aiokafka.ConsumerRebalanceListener):
    """As whom the member has the partitions that it has now; None while it has none."""

    def __init__(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.now: tuple[str, int] | None = None

    def on_partitions_revoked(self, revoked: object) -> None:
        self.now = None

    def on_partitions_assigned(self, assigned: object) -> None:
        coordinator = self._consumer._coordinator  # aiokafka shows it nowhere else; Java's is consumer.groupMetadata()
        self.now = coordinator.member_id, coordinator.generation


async def run(settings: dict[str, Any]) -> None:
    chance = random.Random(settings["seed"])
    connection = await asyncpg.connect(
        settings["dsn"], timeout=10, command_timeout=60, server_settings={"application_name": APPLICATION}
    )
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=settings["bootstrap"],
        group_id=settings["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=300,
        max_poll_records=50,
        fetch_max_wait_ms=200,
        isolation_level="read_committed",
        retry_backoff_ms=50,
    )
    membership = Membership(consumer)
    consumer.subscribe([settings["topic"]], listener=membership)
    await consumer.start()
    try:
        while True:
            before = membership.now
            batch = await consumer.getmany(timeout_ms=200)
            if not batch:
                continue
            # What was read under one generation must not be committed under another one.
            if (
                before is None
                or membership.now != before
                or not await _book(connection, batch, before, settings, chance)
            ):
                await _go_back(consumer)
    finally:
        await consumer.stop()
        await connection.close(timeout=5)


async def _go_back(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Read again from what is committed. seek_to_committed() leaves partitions without a commit where they are."""
    for place in consumer.assignment():
        consumer.seek(place, await consumer.committed(place) or 0)


async def _book(
    connection: asyncpg.Connection,
    batch: dict[Any, list[Any]],
    member: tuple[str, int],
    settings: dict[str, Any],
    chance: random.Random,
) -> bool:
    """Whether it is committed. Raises what breaks the connection."""
    offsets = {settings["topic"]: {str(place.partition): records[-1].offset + 1 for place, records in batch.items()}}
    sums: Counter[str] = Counter()
    commits_first = chance.random() < 0.5
    await connection.execute("BEGIN")
    try:
        if commits_first:
            await _commit_offsets(connection, settings["group"], member, offsets)
        for place, records in batch.items():
            await connection.executemany(
                "INSERT INTO proof.handled (worker, partition_id, partition_offset, value) VALUES (0, $1, $2, $3)",
                [(place.partition, record.offset, record.value) for record in records],
            )
            for record in records:
                sums[record.value.split()[0].decode()] += int(record.value.split()[1])
        for account in sorted(sums):
            await connection.execute(
                "UPDATE proof.balances SET balance = balance + $2 WHERE account = $1", account, sums[account]
            )
        if not commits_first:
            await _commit_offsets(connection, settings["group"], member, offsets)
        if chance.random() < 0.1:
            await asyncio.sleep(chance.uniform(0, 0.5))
        if chance.random() < 0.15:
            await connection.execute("ROLLBACK")
            print("rolled back", flush=True)
            return False
        await connection.execute("COMMIT")
        print("committed", flush=True)
        return True
    except asyncpg.PostgresError as error:
        if connection.is_closed() or not (error.sqlstate == _FENCED or is_expected(error)):
            raise
        await connection.execute("ROLLBACK")
        print("fenced" if error.sqlstate == _FENCED else "rolled back", flush=True)
        return False


async def _commit_offsets(
    connection: asyncpg.Connection, group: str, member: tuple[str, int], offsets: dict[str, dict[str, int]]
) -> None:
    await connection.execute(
        "SELECT kafka.commit_offsets($1, $2, $3, $4::text::jsonb)", group, *member, json.dumps(offsets)
    )


def main() -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(run(json.loads(sys.argv[1])))
    except Exception as error:
        kind = "broken" if is_expected(error) or isinstance(error, aiokafka.errors.KafkaError) else "unexpected"
        print(kind, repr(error), flush=True)


if __name__ == "__main__":
    main()
