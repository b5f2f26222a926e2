"""SQL finds what clients wrote by time and from the end, and has columns of its own for their JSON."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable
from decimal import Decimal

import asyncpg
import pytest
from tests.clients.brokers import Broker
from tests.clients.client import Client
from tests.clients.records import Record, at_offsets
from tests.clients.test_sql import dsn, from_row, query, wait_for_view

__all__ = ["dsn"]

MINUTE = 60_000


def orders(count: int, first_ms: int, every_ms: int) -> list[Record]:
    """Orders as JSON, each with a time of its own; every tenth is none."""
    values = (
        json.dumps({"customer": f"c{n % 3}", "amount": n / 4, "at": first_ms + every_ms * n}) for n in range(count)
    )
    return [
        Record(b"k%d" % (n % 7), b"no JSON" if n % 10 == 9 else value.encode(), (), first_ms + every_ms * n)
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize("writer", ["confluent-kafka", "java"])
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_what_clients_wrote_is_found_by_time_and_from_the_end(
    broker: Broker, dsn: str, writer: str, codec: str, clients: Callable[[str], Client], new_topic: Callable[..., str]
) -> None:
    topic = new_topic(2)
    since = int(time.time() * 1000) - 600 * MINUTE
    written = {partition: orders(500, since + partition, MINUTE // 10) for partition in range(2)}
    late = Record(b"late", b"{}", (), since + 20 * MINUTE + 7)
    for partition, records in written.items():
        clients(writer).produce(broker.bootstrap, topic, records, partition=partition, codec=codec)
    clients(writer).produce(broker.bootstrap, topic, [late], partition=1, codec=codec)
    written = {0: at_offsets(written[0], range(500)), 1: at_offsets([*written[1], late], range(501))}
    at = [datetime.datetime.fromtimestamp((since + minutes * MINUTE) / 1000, datetime.UTC) for minutes in (10, 20, 21)]

    found = query(dsn, "SELECT * FROM kafka.read_time($1, $2, $3)", topic, at[0], at[1])
    assert [(row["partition_id"], from_row(row)) for row in found] == [
        (partition, record)
        for partition, records in written.items()
        for record in records
        if since + 10 * MINUTE <= (record.timestamp or 0) < since + 20 * MINUTE
    ]
    found = query(dsn, "SELECT * FROM kafka.read_time($1, $2, $3, partition => 1)", topic, at[1], at[2])
    assert len(found) == 11 and from_row(found[-1]) == written[1][500]
    found = query(dsn, "SELECT * FROM kafka.tail($1, 3, 1)", topic)
    assert [(row["partition_offset"], row["value"]) for row in found] == [
        (offset, written[1][offset].value) for offset in (498, 499, 500)
    ]
    found = query(dsn, "SELECT * FROM kafka.tail($1, 2)", topic)
    assert [(row["partition_id"], row["partition_offset"]) for row in found] == [(0, 499), (1, 499)]


def test_json_of_a_producer_has_columns(broker: Broker, dsn: str, confluent: Client, topic: str) -> None:
    since = int(time.time() * 1000) - 600 * MINUTE
    confluent.produce(broker.bootstrap, topic, orders(1000, since, 5), codec="zstd")
    view = wait_for_view(dsn, topic)
    defined = query(dsn, "SELECT name, type, path FROM kafka.define_columns_from_sample($1)", topic)
    assert sorted(tuple(row) for row in defined) == [
        ("amount", "numeric", "$.amount"),
        ("at", "bigint", "$.at"),
        ("customer", "text", "$.customer"),
    ]
    query(dsn, "SELECT kafka.define_columns($1, $2)", topic, '{"time": {"type": "timestamptz", "path": "$.at"}}')
    (row,) = query(
        dsn,
        f"SELECT count(*) AS n, count(customer) AS json, sum(amount) AS amount, bool_and(time = timestamp) AS same FROM {view}",
    )
    amounts = (Decimal(n) / 4 for n in range(1000) if n % 10 != 9)
    assert dict(row) == {"n": 1000, "json": 900, "amount": sum(amounts), "same": True}
    # What comes later has them as well, and the broker goes on by itself.
    confluent.produce(broker.bootstrap, topic, [Record(None, b'{"customer": "new", "amount": "7.50"}', (), since)])
    (row,) = query(dsn, f"SELECT customer, amount FROM {view} WHERE partition_offset = 1000")
    assert tuple(row) == ("new", Decimal("7.50"))


def test_columns_are_defined_and_read_in_one_transaction(
    broker: Broker, dsn: str, confluent: Client, topic: str
) -> None:
    """The broker unpacks compressed batches for it meanwhile, and must not have to wait for it."""
    since = int(time.time() * 1000) - 600 * MINUTE
    confluent.produce(broker.bootstrap, topic, orders(100, since, 5), codec="zstd")
    view = wait_for_view(dsn, topic)

    async def work() -> int:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                await connection.execute("SELECT kafka.define_columns($1, $2)", topic, '{"customer": "text"}')
                return int(await connection.fetchval(f"SELECT count(customer) FROM {view}"))
        finally:
            await connection.close()

    assert asyncio.run(work()) == 90
