"""Quotas by SQL: what kafka.set_client_quota() takes and refuses, and what its table refuses whoever writes to it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.storage.leader import Leader
from tests.storage.log_rows import connect_migrated

from pg_kafka.security.quotas import DEFAULT, Entity, Table
from pg_kafka.storage.quotas import StoredQuotas


async def test_each_kind_of_entity_is_set_and_shown(pg_dsn: str) -> None:
    db = await connect_migrated(pg_dsn)
    await db.execute(
        """SELECT kafka.set_client_quota('producer_byte_rate', 1000, 'alice'),
                  kafka.set_client_quota('producer_byte_rate', 1e18, 'alice', ''),
                  kafka.set_client_quota('request_percentage', 0.5, client_id => 'app'),
                  kafka.set_client_quota('controller_mutation_rate', 1.5, '', ''),
                  kafka.set_client_quota('connection_creation_rate', 7, ip => '::1'),
                  kafka.set_client_quota('connection_creation_rate', 8, ip => '')"""
    )
    rows = await db.fetch("SELECT * FROM kafka.quotas ORDER BY name, user_name, client_id, ip")
    assert [tuple(row) for row in rows] == [
        (None, None, "", "connection_creation_rate", 8),
        (None, None, "::1", "connection_creation_rate", 7),
        ("", "", None, "controller_mutation_rate", 1.5),
        ("alice", "", None, "producer_byte_rate", 1e18),
        ("alice", None, None, "producer_byte_rate", 1000),
        (None, "app", None, "request_percentage", 0.5),
    ]
    await db.execute("SELECT kafka.set_client_quota('producer_byte_rate', 2000, 'alice')")
    await db.execute("SELECT kafka.set_client_quota('producer_byte_rate', NULL, 'alice', '')")
    found = await db.fetch("SELECT client_id, value FROM kafka.quotas WHERE user_name = 'alice'")
    assert [tuple(row) for row in found] == [(None, 2000)]
    changes = await db.fetch(
        "SELECT name, what FROM kafka.catalogue_changes WHERE kind = 'quota' ORDER BY number DESC LIMIT 2"
    )
    assert [tuple(row) for row in changes] == [
        ('{"user": "alice", "client-id": ""}', "deleted"),
        ('{"user": "alice"}', "changed"),
    ]
    await db.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("'producer_byte_rate', 1", "needs a user_name, a client_id, both, or an ip"),
        ("'producer_byte_rate', 1, 'a', NULL, '::1'", "cannot be combined"),
        ("'no_such_rate', 1, 'a'", "there is no quota 'no_such_rate' of a client"),
        ("NULL, 1, 'a'", "there is no quota NULL"),
        ("'producer_byte_rate', 1, ip => '::1'", "there is no quota 'producer_byte_rate' of an ip"),
        ("'producer_byte_rate', 0, 'a'", "whole number above 0"),
        ("'producer_byte_rate', 1.5, 'a'", "whole number above 0"),
        ("'producer_byte_rate', 1e19, 'a'", "no more than 9.2"),
        ("'request_percentage', 'NaN', 'a'", "number above 0"),
        ("'request_percentage', 'Infinity', 'a'", "number above 0"),
        ("'connection_creation_rate', 3e9, ip => '::1'", "no more than 2147483647"),
        ("'connection_creation_rate', 1, ip => 'localhost'", "'localhost' is not an address"),
        ("'connection_creation_rate', 1, ip => '10.0.0.0/8'", "is not an address"),
        ("'producer_byte_rate', 1, repeat('x', 1001)", "no more than 1000 bytes"),
    ],
)
async def test_what_cannot_be_is_refused(pg_dsn: str, arguments: str, message: str) -> None:
    db = await connect_migrated(pg_dsn)
    with pytest.raises(asyncpg.InvalidParameterValueError, match=message):
        await db.execute(f"SELECT kafka.set_client_quota({arguments})")
    await db.close()


@pytest.mark.parametrize(
    "row",
    [
        """'{}', 'producer_byte_rate', 1""",
        """'[]', 'producer_byte_rate', 1""",
        """'{"group": "a"}', 'producer_byte_rate', 1""",
        """'{"user": 1}', 'producer_byte_rate', 1""",
        """'{"user": null}', 'producer_byte_rate', 1""",
        """'{"user": "a", "ip": "::1"}', 'producer_byte_rate', 1""",
        """'{"user": "a"}', 'connection_creation_rate', 1""",
        """'{"ip": "::1"}', 'producer_byte_rate', 1""",
        """'{"user": "a"}', 'producer_byte_rate', 'NaN'""",
        """'{"user": "a"}', 'producer_byte_rate', 0""",
    ],
)
async def test_the_table_refuses_what_cannot_be(pg_dsn: str, row: str) -> None:
    db = await connect_migrated(pg_dsn)
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute(f"INSERT INTO kafka.client_quotas VALUES ({row})")
    await db.close()


async def test_what_cannot_be_used_is_left_out_of_what_holds(pg_dsn: str) -> None:
    leader = Leader(pg_dsn)
    await leader.start()
    db = await asyncpg.connect(pg_dsn)
    tables: list[Table] = []
    stored = StoredQuotas(leader.control, tables.append)
    await db.execute(
        """INSERT INTO kafka.client_quotas VALUES ('{"ip": "ten"}', 'connection_creation_rate', 1),
                  ('{"user": "a"}', 'producer_byte_rate', 1.5),
                  ('{"user": "", "client-id": "b"}', 'producer_byte_rate', 5)"""
    )
    await stored.load()
    assert tables[-1].entries == {Entity(DEFAULT, "b"): {"producer_byte_rate": 5.0}}
    await stored.follow(None)
    assert len(tables) == 1  # nothing has changed
    strange = Entity("é\\\"'")
    both = {(strange, "producer_byte_rate"): 7.0, (Entity(DEFAULT, "b"), "producer_byte_rate"): None}
    await asyncio.gather(stored.change(both), stored.change({(Entity("c"), "request_percentage"): 2.0}))
    assert stored.table.entries == {strange: {"producer_byte_rate": 7.0}, Entity("c"): {"request_percentage": 2.0}}
    await db.close()
    await leader.stop()
