"""Every SQL example of docs/sql-groups.md runs, and does what the page says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.storage.log_rows import add_topic, connect_migrated

PAGE = Path(__file__).parents[2] / "docs/sql-groups.md"

pytestmark = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)


@pytest.fixture
async def superuser(pg_dsn: str, pg_superuser_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    db = await connect_migrated(pg_dsn)
    topic = await add_topic(db, "orders", 2)
    await db.execute("SELECT kafka.create_topic_view($1)", topic)
    await db.close()
    connection = await asyncpg.connect(pg_superuser_dsn)
    try:
        yield connection
    finally:
        await connection.execute("DROP OWNED BY biller; DROP ROLE biller")
        await connection.close()


async def test_examples_run(superuser: asyncpg.Connection) -> None:
    commits, rights, notifications = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    await superuser.execute(commits)
    rows = await superuser.fetch(
        "SELECT partition_id, committed_offset, metadata FROM kafka.member_commits_0 ORDER BY id"
    )
    assert sorted(map(tuple, rows)) == [(0, 42, ""), (0, 43, ""), (1, 7, "v2")]
    await superuser.execute(rights)
    await superuser.execute("SET ROLE biller")
    await superuser.execute("SELECT kafka.commit_offsets('reports', NULL, -1, 'orders', 1, 8)")
    await superuser.execute("RESET ROLE")
    await superuser.execute(notifications)
    assert not await superuser.fetch("SELECT FROM kafka.topic_notifications")
