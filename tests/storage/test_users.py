"""Users in the database: made by SQL and by Kafka's requests, followed by brokers, their keys for the owner alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.storage.leader import leading
from tests.storage.log_rows import connect_migrated

from pg_kafka.security import scram
from pg_kafka.security.scram import SHA_256, SHA_512, Keys
from pg_kafka.storage.security_changes import SecurityChanges
from pg_kafka.storage.users import Entry, Removal, StoredUsers, Users

BOTH_SERVERS = pytest.mark.parametrize("postgres_server", ["postgresql-15", "embedded"], indirect=True)
BOTH = [SHA_256, SHA_512]


@pytest.fixture
async def db(pg_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_migrated(pg_dsn)
    yield connection
    await connection.close()


async def read(db: asyncpg.Connection) -> Users:
    users = Users()
    await users.follow(db, None)
    return users


def is_password(keys: Keys | None, mechanism: scram.Mechanism, password: str) -> bool:
    return keys is not None and keys == scram.make_keys(mechanism, password, keys.salt, keys.iterations)


def verifier(mechanism: scram.Mechanism, password: str, salt: bytes = b"0123456789abcdef") -> str:
    return scram.verifier(mechanism, scram.make_keys(mechanism, password, salt, 4096))


@BOTH_SERVERS
@pytest.mark.parametrize("password", ["secret", "p" * 200, "пароль,=ß"])
async def test_keys_made_by_sql_are_those_of_scram(db: asyncpg.Connection, password: str) -> None:
    await db.execute("SELECT kafka.create_user('alice', $1, iterations => 4097)", password)

    users = await read(db)

    for mechanism in BOTH:
        keys = users.keys("alice", mechanism)
        assert is_password(keys, mechanism, password)
        assert keys is not None
        assert (len(keys.salt), keys.iterations) == (20, 4097)
    assert users.keys("alice", SHA_256).salt != users.keys("alice", SHA_512).salt  # type: ignore[union-attr]


async def test_a_user_may_have_one_mechanism(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret', 'SCRAM-SHA-512')")

    users = await read(db)

    assert users.keys("alice", SHA_256) is None
    assert is_password(users.keys("alice", SHA_512), SHA_512, "secret")


async def test_keys_are_taken_in_the_form_of_postgresql(db: asyncpg.Connection, pg_superuser_dsn: str) -> None:
    superuser = await asyncpg.connect(pg_superuser_dsn)
    try:
        await superuser.execute("SET password_encryption = 'scram-sha-256'")
        role = await superuser.fetchval("SELECT 'role_' || pg_backend_pid()")
        await superuser.execute(f"CREATE ROLE {role} PASSWORD 'secret'")
        stored = await superuser.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
        await superuser.execute(f"DROP ROLE {role}")
    finally:
        await superuser.close()
    await db.execute("SELECT kafka.create_user('alice', $1)", stored)
    await db.execute("SELECT kafka.alter_user('alice', $1, 'SCRAM-SHA-512')", verifier(SHA_512, "other"))

    users = await read(db)

    assert is_password(users.keys("alice", SHA_256), SHA_256, "secret")
    assert is_password(users.keys("alice", SHA_512), SHA_512, "other")


@pytest.mark.parametrize("new", ["another", verifier(SHA_256, "another")])
async def test_after_a_new_password_the_old_one_is_good_for_nothing(db: asyncpg.Connection, new: str) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret')")

    await db.execute("SELECT kafka.alter_user('alice', $1)", new)

    users = await read(db)
    assert is_password(users.keys("alice", SHA_256), SHA_256, "another")
    assert not is_password(users.keys("alice", SHA_512), SHA_512, "secret")


async def test_one_mechanism_may_be_changed_or_dropped_alone(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret')")

    await db.execute("SELECT kafka.alter_user('alice', 'another', 'SCRAM-SHA-256')")
    users = await read(db)
    assert is_password(users.keys("alice", SHA_256), SHA_256, "another")
    assert is_password(users.keys("alice", SHA_512), SHA_512, "secret")

    await db.execute("SELECT kafka.drop_user('alice', 'SCRAM-SHA-512')")
    assert [tuple(row)[:2] for row in await db.fetch("SELECT * FROM kafka.users")] == [("alice", "SCRAM-SHA-256")]


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("kafka.create_user('bob', 'secret')", 'there is a user "bob" already'),
        ("kafka.create_user('', 'secret')", "a user has a name of 1 to 255 characters"),
        ("kafka.create_user(NULL, 'secret')", "a user has a name of 1 to 255 characters"),
        ("kafka.create_user(repeat('x', 256), 'secret')", "a user has a name of 1 to 255 characters"),
        ("kafka.create_user('alice', '')", 'user "alice" needs a password'),
        ("kafka.create_user('alice', NULL)", 'user "alice" needs a password'),
        ("kafka.create_user('alice', 'secret', 'PLAIN')", 'there is no mechanism "PLAIN"'),
        ("kafka.create_user('alice', 'secret', iterations => 4095)", "iterations must be from 4096 to 16384, not 4095"),
        ("kafka.create_user('alice', 'secret', iterations => 16385)", "iterations must be from 4096 to 16384"),
        ("kafka.create_user('alice', 'secret', iterations => NULL)", "iterations must be from 4096 to 16384"),
        (
            "kafka.create_user('alice', 'SCRAM-SHA-256$9:AA==$AA==:AA==')",
            "iterations must be from 4096 to 16384, not 9",
        ),
        (
            f"kafka.create_user('alice', '{verifier(SHA_256, 'x')}', 'SCRAM-SHA-512')",
            "these are keys of SCRAM-SHA-256, not of SCRAM-SHA-512",
        ),
        ("kafka.create_user('alice', 'SCRAM-SHA-256$4096:AA==$AA==:AA==')", "violates check constraint"),
        ("kafka.alter_user('alice', 'secret')", 'there is no user "alice"'),
        ("kafka.drop_user('alice')", 'there is no user "alice"'),
        ("kafka.drop_user('bob', 'SCRAM-SHA-512')", 'there is no user "bob" with SCRAM-SHA-512'),
    ],
)
async def test_what_cannot_be_is_refused_in_a_sentence(db: asyncpg.Connection, statement: str, sentence: str) -> None:
    await db.execute("SELECT kafka.create_user('bob', 'secret', 'SCRAM-SHA-256')")
    before = await db.fetch("SELECT * FROM kafka.user_keys")

    with pytest.raises(asyncpg.PostgresError) as caught:
        await db.execute(f"SELECT {statement}")

    assert sentence in str(caught.value)
    assert await db.fetch("SELECT * FROM kafka.user_keys") == before


async def test_nobody_else_may_read_keys_or_make_users(db: asyncpg.Connection, pg_superuser_dsn: str) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret')")
    superuser = await asyncpg.connect(pg_superuser_dsn)
    role = await superuser.fetchval("SELECT 'role_' || pg_backend_pid()")
    try:
        await superuser.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA kafka TO {role}; SET ROLE {role}")
        for statement in (
            "SELECT * FROM kafka.user_keys",
            "SELECT * FROM kafka.user_secret",
            "SELECT * FROM kafka.users",
            "SELECT kafka.create_user('bob', 'secret')",
            "SELECT kafka.alter_user('alice', 'secret')",
            "SELECT kafka.drop_user('alice')",
            "SELECT kafka.set_keys('alice', 'secret', NULL, 4096)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await superuser.execute(statement)
        await superuser.execute(f"RESET ROLE; GRANT EXECUTE ON FUNCTION kafka.create_user TO {role}; SET ROLE {role}")
        # That right is enough, and gives none to read keys.
        await superuser.execute("SELECT kafka.create_user('bob', 'secret')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute("SELECT * FROM kafka.user_keys")
    finally:
        await superuser.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        await superuser.close()


async def test_nobodys_keys_are_stable_and_like_those_of_users(db: asyncpg.Connection) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret', 'SCRAM-SHA-512', 5000)")

    one, other = await read(db), await read(db)

    nobody = one.like_keys("nobody", SHA_512)
    assert nobody == other.like_keys("nobody", SHA_512)
    assert (nobody.iterations, len(nobody.salt)) == (5000, 20)
    assert one.like_keys("nobody", SHA_256).iterations == 4096


@asynccontextmanager
async def followed(dsn: str) -> AsyncIterator[tuple[Users, SecurityChanges, asyncio.Queue[frozenset[tuple[str, str]]]]]:
    """Users that follow, and what they say to be revoked."""
    users = Users()
    revoked: asyncio.Queue[frozenset[tuple[str, str]]] = asyncio.Queue()
    deaths: list[str] = []
    following = SecurityChanges(dsn, [users.follow], deaths.append)
    await following.start()
    users.on_revoked = revoked.put_nowait
    try:
        yield users, following, revoked
    finally:
        await following.stop()
    assert not deaths


async def test_what_proves_nothing_any_more_is_told(db: asyncpg.Connection, pg_dsn: str) -> None:
    for name in ("alice", "bob", "carol"):
        await db.execute("SELECT kafka.create_user($1, 'secret')", name)
    async with followed(pg_dsn) as (users, _, revoked), asyncio.timeout(20):
        assert len(users) == 3
        await db.execute("SELECT kafka.drop_user('alice')")
        assert await revoked.get() == {("alice", "SCRAM-SHA-256"), ("alice", "SCRAM-SHA-512")}
        assert users.keys("alice", SHA_256) is None

        await db.execute("SELECT kafka.alter_user('bob', 'another', 'SCRAM-SHA-512')")
        assert await revoked.get() == {("bob", "SCRAM-SHA-512")}
        assert is_password(users.keys("bob", SHA_512), SHA_512, "another")

        # What is new takes nothing from anybody.
        await db.execute("SELECT kafka.create_user('dave', 'secret'); SELECT kafka.drop_user('carol', 'SCRAM-SHA-256')")
        assert await revoked.get() == {("carol", "SCRAM-SHA-256")}
        assert users.keys("dave", SHA_256) is not None


async def test_a_lost_session_misses_nothing(db: asyncpg.Connection, pg_dsn: str, pg_superuser_dsn: str) -> None:
    await db.execute("SELECT kafka.create_user('alice', 'secret', 'SCRAM-SHA-256')")
    superuser = await asyncpg.connect(pg_superuser_dsn)
    try:
        async with followed(pg_dsn) as (_, following, revoked), asyncio.timeout(20):
            await superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'pg_kafka security'"
            )
            await db.execute("SELECT kafka.drop_user('alice')")
            following.look_soon()
            assert await revoked.get() == {("alice", "SCRAM-SHA-256")}
    finally:
        await superuser.close()


async def test_requests_change_several_users_at_once(pg_dsn: str) -> None:
    changed = asyncio.Event()
    keys = scram.make_keys(SHA_512, "secret", b"salt", 8192)
    async with leading(pg_dsn) as leader:
        stored = StoredUsers(leader.control, changed.set)
        assert await stored.alter([], [Entry("alice", SHA_512, keys), Entry("bob", SHA_512, keys)]) == set()
        assert changed.is_set()
        assert await stored.describe(None) == {"alice": {SHA_512: 8192}, "bob": {SHA_512: 8192}}

        other = scram.make_keys(SHA_512, "another", b"pepper", 4096)
        gone = await stored.alter(
            [Removal("alice", SHA_512), Removal("carol", SHA_256)], [Entry("bob", SHA_512, other)]
        )

        assert gone == {"alice"}
        assert await stored.describe(["alice", "bob"]) == {"bob": {SHA_512: 4096}}
