"""Every SQL example of docs/sql-consume.md and docs/exactly-once.md runs, and does what the pages say."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


def blocks(page: str) -> list[str]:
    return re.findall(r"```sql\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
async def superuser(pg_dsn: str, pg_superuser_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    db = await connect_migrated(pg_dsn)
    for name in ("orders", "payments", "reservations", "orders-failed"):
        topic = await add_topic(db, name)
        await db.execute("SELECT kafka.create_topic_view($1)", topic)
    topic = await db.fetchval("SELECT id FROM kafka.topics WHERE name = 'orders'")
    orders = [
        json.dumps({"id": n, "customer": f"c{n % 3}", "amount": n, "item": "book" if n % 2 else "lamp", "pieces": 1})
        for n in range(30)
    ]
    texts = [order.encode() for order in orders] + [b"no json"]
    now = int(time.time() * 1000)
    await add_row(db, topic, 0, texts, keys=[b"%d" % n for n in range(31)], first_timestamp=now)
    await db.close()
    connection = await asyncpg.connect(pg_superuser_dsn)
    try:
        yield connection
    finally:
        await connection.execute(
            "DO $$BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'biller') THEN "
            "DROP OWNED BY biller; DROP ROLE biller; END IF; END$$"
        )
        await connection.close()


async def test_examples_of_consuming_run(superuser: asyncpg.Connection) -> None:
    first, *others = blocks("sql-consume.md")
    assert len(others) >= 5
    # The page's orders are all JSON: the one that is not comes after them.
    await superuser.execute(
        "UPDATE kafka.log SET record_count = 30, last_offset = 29, values = values[1:30], keys = keys[1:30]"
    )
    await superuser.execute(first)
    await superuser.execute(first[first.index("BEGIN;") :])  # nothing is left
    totals = {row["customer"]: int(row["amount"]) for row in await superuser.fetch("SELECT * FROM billing.totals")}
    assert totals == {f"c{n}": sum(range(n, 30, 3)) for n in range(3)}
    for block in others:
        await superuser.execute(block)
    # The second ten of group mail were not consumed, the first ten were.
    shown = await superuser.fetch(
        "SELECT group_id, committed_offset FROM kafka.consumer_lag WHERE topic = 'orders' AND partition = 0 ORDER BY 1"
    )
    assert [tuple(row) for row in shown] == [("audit", 30), ("billing", 5), ("mail", 10)]
    await superuser.execute("SET ROLE biller")
    assert len(await superuser.fetch("SELECT * FROM kafka.poll('billing', 'orders')")) == 25
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await superuser.fetch("SELECT * FROM kafka.poll('billing', 'payments')")
    await superuser.execute("RESET ROLE")


SENT = """
    SELECT topic_name, sum(record_count)::integer AS records, array_agg(v ORDER BY id) AS values
    FROM (SELECT o.topic_name, o.id, o.record_count, encode(v, 'escape') AS v
          FROM (SELECT * FROM kafka.outbox_0 UNION ALL SELECT * FROM kafka.outbox_1 UNION ALL SELECT * FROM kafka.outbox_2
                UNION ALL SELECT * FROM kafka.outbox_3) AS o, unnest(o."values") AS v) AS s
    GROUP BY 1
"""


async def test_examples_of_exactly_once_run(superuser: asyncpg.Connection) -> None:
    first, second = blocks("exactly-once.md")
    definition, call = first.rsplit("SELECT stock.reserve()", 1)
    await superuser.execute(definition)
    for _ in range(2):
        await superuser.execute("BEGIN; SELECT stock.reserve(); ROLLBACK")
    assert await superuser.fetch(SENT) == []
    await superuser.execute("SELECT stock.reserve()" + call)
    await superuser.execute("SELECT stock.reserve()" + call)
    (sent,) = await superuser.fetch(SENT)
    answers = [json.loads(text) for text in sent["values"]]
    assert sent["topic_name"] == "reservations"
    assert [answer["order"] for answer in answers] == [*range(30), None]
    # Three books and all lamps.
    assert [n for n, answer in enumerate(answers) if answer["reserved"]] == sorted([1, 3, 5, *range(0, 30, 2)])
    left = {row["item"]: row["available"] for row in await superuser.fetch("SELECT * FROM stock.items")}
    assert left == {"book": 0, "lamp": 85}

    await superuser.fetch("SELECT * FROM kafka.seek('stock', 'orders', 'earliest')")
    await superuser.execute(second)
    sent = {row["topic_name"]: row["values"] for row in await superuser.fetch(SENT)}
    # No books are left, and one record is no JSON.
    assert [json.loads(text)["item"] for text in sent["orders-failed"][:-1]] == ["book"] * 15
    assert sent["orders-failed"][-1] == "no json"
    left = {row["item"]: row["available"] for row in await superuser.fetch("SELECT * FROM stock.items")}
    assert left == {"book": 0, "lamp": 70}
    assert await superuser.fetch("SELECT * FROM kafka.poll('stock', 'orders')") == []
