"""pg_kafka.authorizer = grants: what PostgreSQL grants on a topic's view is what its role may do with the topic."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.broker.inside import running
from tests.broker.rawclient import SomeTopic, batch, fetching, producing
from tests.broker.samples import codes
from tests.broker.test_authorization import World, until

from pg_kafka.app import Seams
from pg_kafka.broker.permission import Operation
from pg_kafka.storage.control import ControlSession
from pg_kafka.storage.grants import GrantStore
from pg_kafka.storage.sessions import connect
from pg_kafka.wire.error_codes import ErrorCode

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRODUCE, FETCH = 0, 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres15: Any) -> AsyncIterator[World]:
    async with running(postgres15, Seams(), authorizer="grants", super_users="User:admin") as inside:
        yield World(inside, inside.superuser_dsn)


@pytest_asyncio.fixture(loop_scope="module")
async def roles(world: World) -> AsyncIterator[tuple[str, str]]:
    """A role and a group of roles; roles belong to the whole server."""
    names = f"alice_{secrets.token_hex(4)}", f"team_{secrets.token_hex(4)}"
    for name in names:
        await world.sql(f"CREATE ROLE {name}")
    yield names
    for name in names:
        await world.sql(f"DROP OWNED BY {name}")
        await world.sql(f"DROP ROLE {name}")


@pytest_asyncio.fixture(loop_scope="module")
async def topic(world: World) -> SomeTopic:
    async with world.client("User:admin") as admin:
        made = await admin.create_topic()
    await until(lambda: has_view(world, made.name))
    return made


async def has_view(world: World, name: str) -> bool:
    return bool(await world.sql("SELECT FROM kafka.topics WHERE name = $1 AND view_name IS NOT NULL", name))


async def may(world: World, role: str, topic: SomeTopic) -> set[str]:
    """What a role may do with a topic by Kafka's protocol."""
    async with world.client(f"User:{role}") as client:
        written = await client.call(producing(topic, {0: batch()}), PRODUCE, 9)
        read = await client.call(fetching(topic, {0: 0}), FETCH, 12)
    assert codes(written) | codes(read) <= {ErrorCode.TOPIC_AUTHORIZATION_FAILED}
    return {what for what, answer in (("write", written), ("read", read)) if not codes(answer)}


async def test_select_is_read_and_insert_is_write(world: World, roles: tuple[str, str], topic: SomeTopic) -> None:
    alice, team = roles

    async def until_may(*what: str) -> None:
        async def is_so() -> bool:
            return await may(world, alice, topic) == set(what)

        await until(is_so)

    assert await may(world, alice, topic) == set()
    await world.sql(f'GRANT SELECT ON topics."{topic.name}" TO {alice}')
    await until_may("read")
    await world.sql(f'GRANT INSERT ON topics."{topic.name}" TO {team}')
    assert await may(world, alice, topic) == {"read"}
    await world.sql(f"GRANT {team} TO {alice}")
    await until_may("read", "write")
    await world.sql(f'REVOKE SELECT ON topics."{topic.name}" FROM {alice}')
    await until_may("write")
    await world.sql(f"ALTER ROLE {alice} NOINHERIT")
    await world.sql(f"REVOKE {team} FROM {alice}")
    await until_may()
    await world.sql(f'GRANT SELECT ON topics."{topic.name}" TO PUBLIC')
    await until_may("read")
    assert await may(world, "nobody-has-this-role", topic) == {"read"}


async def test_a_parked_fetch_ends_when_select_is_revoked(
    world: World, roles: tuple[str, str], topic: SomeTopic
) -> None:
    alice, _ = roles
    await world.sql(f'GRANT SELECT ON topics."{topic.name}" TO {alice}')

    async def may_read() -> bool:
        return await may(world, alice, topic) == {"read"}

    await until(may_read)
    async with world.client(f"User:{alice}") as client:
        parked = client.send(fetching(topic, {0: 0}, max_wait_ms=60_000), FETCH, 12)
        async with world.client("User:admin") as admin:  # by now the fetch has been read
            await admin.call(fetching(topic, {0: 0}), FETCH, 12)
        await world.sql(f'REVOKE SELECT ON topics."{topic.name}" FROM {alice}')
        assert codes(await client.receive(FETCH, 12, parked)) == {ErrorCode.TOPIC_AUTHORIZATION_FAILED}


async def test_who_may_create_in_the_schema_may_create_topics(world: World, roles: tuple[str, str]) -> None:
    alice, _ = roles
    async with world.client(f"User:{alice}") as client:
        with pytest.raises(AssertionError, match="error_code=29"):
            await client.create_topic()
        await world.sql(f"GRANT CREATE ON SCHEMA topics TO {alice}")

        async def is_made() -> bool:
            try:
                await client.create_topic()
            except AssertionError:
                return False
            return True

        await until(is_made)
        await world.sql(f"REVOKE CREATE ON SCHEMA topics FROM {alice}")


async def test_all_roles_may_what_postgresql_says(world: World, roles: tuple[str, str], topic: SomeTopic) -> None:
    """The oracle is has_table_privilege, for every role of the server and every topic."""
    alice, team = roles
    await world.sql(f'GRANT INSERT ON topics."{topic.name}" TO {team} WITH GRANT OPTION')
    await world.sql(f"GRANT {team}, pg_read_all_data TO {alice}")
    said = await world.sql(
        """
        SELECT r.rolname, t.name, has_table_privilege(r.oid, c.oid, 'SELECT') AS reads,
               has_table_privilege(r.oid, c.oid, 'INSERT') AS writes
        FROM pg_roles r, kafka.topics t
        JOIN pg_class c ON c.relnamespace = 'topics'::regnamespace AND c.relname = t.view_name
        """
    )
    control = ControlSession(lambda kind: connect(world.dsn, kind))
    try:
        grants = await GrantStore(control).load()
    finally:
        await control.close()
    assert {(row["reads"], row["writes"]) for row in said} == {(False, False), (True, True)} | {
        pair for pair in [(True, False), (False, True)] if any((row["reads"], row["writes"]) == pair for row in said)
    }
    for row in said:
        role = grants.role(row["rolname"])
        assert grants.may(role, Operation.READ, row["name"]) == row["reads"], row
        assert grants.may(role, Operation.WRITE, row["name"]) == row["writes"], row
    await world.sql(f"REVOKE pg_read_all_data FROM {alice}")


async def test_nothing_is_read_again_while_nothing_changes(world: World, topic: SomeTopic) -> None:
    control = ControlSession(lambda kind: connect(world.dsn, kind))
    try:
        store = GrantStore(control)
        before = await store.sign()
        assert await store.sign() == before
        await world.sql(f'GRANT SELECT ON topics."{topic.name}" TO PUBLIC')
        assert await store.sign() != before
    finally:
        await control.close()
