"""Every SQL example of docs/sql.md, docs/sql-query.md and README.md runs, and what they grant is enough for their own queries."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.config.broker import BROKER_KEYS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "sql.md"
PAGE_ON_QUERIES = ROOT / "docs" / "sql-query.md"
README = ROOT / "README.md"

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


def statements(page: Path, language: str = "sql") -> list[str]:
    """The statements of a page's SQL blocks, without their comments."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(line for block in blocks for line in block.splitlines() if not line.startswith("--"))
    return [statement.strip() for statement in lines.split(";") if statement.strip()]


def is_grant(statement: str) -> bool:
    return statement.startswith(("CREATE ROLE", "GRANT"))


@pytest.fixture
async def superuser(pg_dsn: str, pg_superuser_dsn: str, postgres_server: Any) -> AsyncIterator[asyncpg.Connection]:
    """A session on a database with a topic `orders`; the role `analyst` is dropped behind it."""
    db = await connect_migrated(pg_dsn, settings={key.parameter: key.doc for key in BROKER_KEYS.values()})
    topic = await add_topic(db, "orders")
    now = int(time.time() * 1000)
    for base in (0, 500, 1000):
        records = [json.dumps({"customer": f"c{n % 3}", "amount": n}).encode() for n in range(base, base + 500)]
        headers = [[(b"trace-id", b"%d" % n)] for n in range(500)]
        keys = [b"c%d" % (n % 3) for n in range(base, base + 500)]
        await add_row(db, topic, base, records, first_timestamp=now, headers=headers, keys=keys)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    await db.close()
    superuser = await asyncpg.connect(pg_superuser_dsn)
    try:
        yield superuser
    finally:
        await superuser.execute("RESET ROLE; DROP OWNED BY analyst; DROP ROLE analyst")
        await superuser.close()


async def test_examples_of_the_guide_run(superuser: asyncpg.Connection) -> None:
    answers = [await superuser.fetch(statement) for statement in statements(GUIDE)]
    assert len(answers) > 15
    assert answers[0][0]["customer"] == "c0"
    # What an analyst is given does for all that asks a topic's own view.
    await superuser.execute("SET ROLE analyst")
    asked = [s for s in statements(GUIDE) if s.startswith("SELECT") and re.search(r"topics\.orders|kafka\.read\(", s)]
    assert len(asked) >= 6
    for statement in asked:
        assert await superuser.fetch(statement), statement


async def test_examples_of_the_page_on_queries_run(superuser: asyncpg.Connection) -> None:
    answers = {statement: await superuser.fetch(statement) for statement in statements(PAGE_ON_QUERIES)}
    assert [len(answers[statement]) for statement in answers if "FROM kafka.read_time" in statement] == [1500, 1, 1]
    assert [len(answers[statement]) for statement in answers if "FROM kafka.tail" in statement] == [10, 3]
    sampled, defined = (rows for statement, rows in answers.items() if "FROM kafka.define_columns" in statement)
    assert [tuple(row) for row in sampled] == [("amount", "bigint", "$.amount"), ("customer", "text", "$.customer")]
    assert [row["type"] for row in defined] == ["numeric", "text", "text", "bigint"]
    (found,) = (rows for statement, rows in answers.items() if "WHERE amount > 995" in statement)
    assert [row["amount"] for row in found] == list(range(996, 1500))
    (counted,) = (rows for statement, rows in answers.items() if "segment = ANY" in statement)
    assert counted[0]["count"] == 1500


async def test_queries_of_the_readme_run_with_what_it_grants(superuser: asyncpg.Connection) -> None:
    all_of_them = statements(README)
    for statement in filter(is_grant, all_of_them):
        await superuser.execute(statement)
    await superuser.execute("SET ROLE analyst")
    queries = [statement for statement in all_of_them if not is_grant(statement)]
    assert len(queries) >= 4
    for query in queries:
        assert await superuser.fetch(query), query


async def test_transactions_of_the_readme_produce_and_consume(superuser: asyncpg.Connection) -> None:
    """They are marked `postgresql`, so that the tests above, of reading, leave them out."""
    await superuser.execute(
        "CREATE ROLE analyst;"
        "CREATE TABLE public.shop_orders (customer text NOT NULL, total numeric NOT NULL);"
        "CREATE TABLE public.shipments (customer text NOT NULL)"
    )
    for statement in statements(README, "postgresql"):
        await superuser.execute(statement)
    assert await superuser.fetchval("SELECT customer FROM public.shop_orders") == "alice"
    sent = await superuser.fetch("SELECT topic_name, keys, values FROM kafka.outbox_0")
    assert [(row["topic_name"], row["keys"], json.loads(row["values"][0])) for row in sent] == [
        ("orders", [b"alice"], {"customer": "alice", "total": 42.50})
    ]
    shipped = await superuser.fetch("SELECT customer FROM public.shipments")
    assert [row["customer"] for row in shipped] == [f"c{n % 3}" for n in range(100)]
    (committed,) = await superuser.fetch("SELECT group_id, committed_offset FROM kafka.consumer_offsets")
    assert tuple(committed) == ("warehouse", 100)
