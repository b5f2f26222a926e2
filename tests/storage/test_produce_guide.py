"""Every SQL block of docs/sql-produce.md runs; docs/sql-errors.md has every SQLSTATE that functions raise."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated
from tests.storage.test_produce import BOTH, outbox

DOCS = Path(__file__).parents[2] / "docs"


@BOTH
async def test_examples_of_the_guide_run(pg_dsn: str, pg_superuser_dsn: str) -> None:
    db = await connect_migrated(pg_dsn)
    superuser = await asyncpg.connect(pg_superuser_dsn)
    try:
        topic = await add_topic(db, "orders", 3)
        await add_row(db, topic, 0, [b"v"], keys=[b"k"], headers=[[(b"h", b"x")]])
        await db.execute("SELECT kafka.create_topic_view($1)", topic)
        blocks = re.findall(r"```sql\n(.*?)```", (DOCS / "sql-produce.md").read_text(), re.DOTALL)
        assert len(blocks) >= 8
        for block in blocks:
            await superuser.execute(block)
        rows = await outbox(db)
        values = [value for row in rows for value in row["values"]]
        assert values.count(b"payment 4711") == 1
        assert values[0] == b'{"customer": "ann", "amount": 12.50}'
        assert b'{"id": 2, "amount": 3, "customer": "bob"}' in values
        assert await db.fetchval("SELECT has_table_privilege('shop_app', 'topics.orders', 'INSERT')")
    finally:
        await superuser.execute("DROP OWNED BY shop_app; DROP ROLE shop_app")
        await superuser.close()
        await db.close()


def raised() -> set[str]:
    """SQLSTATEs of the class KF in the functions that users may call."""
    folder = files("pg_kafka.storage") / "sql" / "features"
    texts = [entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return {code for text in texts for code in re.findall(r"ERRCODE = '(KF\w{3})'", text)}


@pytest.mark.parametrize("code", sorted(raised()))
def test_the_list_of_errors_has_each_sqlstate(code: str) -> None:
    assert f"| {code} |" in (DOCS / "sql-errors.md").read_text()
