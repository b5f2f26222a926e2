"""Every SQL example of docs/sql.md runs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.storage.log_rows import add_row, add_topic, connect_migrated

from pg_kafka.config import SETTINGS

GUIDE = Path(__file__).parents[2] / "docs" / "sql.md"


@pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
async def test_examples_of_the_guide_run(pg_dsn: str, pg_superuser_dsn: str, postgres_server: Any) -> None:
    db = await connect_migrated(pg_dsn, settings={s.parameter: s.doc for s in SETTINGS if not s.start_only})
    topic = await add_topic(db, "orders")
    now = int(time.time() * 1000)
    for base in (0, 500, 1000):
        records = [json.dumps({"customer": f"c{n % 3}", "amount": n}).encode() for n in range(base, base + 500)]
        headers = [[(b"trace-id", b"%d" % n)] for n in range(500)]
        await add_row(db, topic, base, records, first_timestamp=now, headers=headers)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    await db.close()

    superuser = await asyncpg.connect(pg_superuser_dsn)
    answers: list[list[asyncpg.Record]] = []
    try:
        for block in re.findall(r"```sql\n(.*?)```", GUIDE.read_text(), re.DOTALL):
            for statement in filter(str.strip, block.split(";")):
                answers.append(await superuser.fetch(statement))
        await superuser.execute("SET ROLE analyst")
        assert len(await superuser.fetch("SELECT * FROM kafka.read('orders', 0, 1000, 1100)")) == 100
    finally:
        await superuser.execute("RESET ROLE; DROP OWNED BY analyst; DROP ROLE analyst")
        await superuser.close()
    assert len(answers) > 15
    assert answers[0][0]["customer"] == "c0"
