"""PLAIN with PostgreSQL's roles: who gets in, who does not, and who has to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.postgres import Database, PostgresServer

from pg_kafka.broker import role_logins
from pg_kafka.broker.authentication import Authenticated, AuthenticationFailed, CannotVerify
from pg_kafka.broker.client import ConnectionInfo, Kind
from pg_kafka.broker.role_logins import RoleLogins
from pg_kafka.clock import Clock
from pg_kafka.errors import FatalError
from pg_kafka.storage.role_logins import Outcome, Role


class MovedClock(Clock):
    """A clock that a test moves forward."""

    __slots__ = ("ahead_s",)

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def steady_s(self) -> float:
        return super().steady_s() + self.ahead_s


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def role(postgres_server: PostgresServer, pg_database: Database) -> Iterator[str]:
    name = f"{pg_database.name}_alice"
    postgres_server.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
    yield name
    postgres_server.sql(f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def tcp_dsn(postgres_server: PostgresServer, pg_database: Database) -> str:
    return postgres_server.dsn(pg_database.name, pg_database.name, tcp=True)


@pytest.fixture
async def logins(tcp_dsn: str, clock: MovedClock) -> AsyncIterator[RoleLogins]:
    made = RoleLogins(tcp_dsn, clock, pytest.fail)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def seeing_logins(postgres_server: PostgresServer, pg_database: Database) -> AsyncIterator[RoleLogins]:
    """Of a broker whose role may read pg_authid."""
    made = RoleLogins(postgres_server.dsn(pg_database.name, tcp=True), Clock(), pytest.fail)
    await made.start()
    yield made
    await made.stop()


async def come(logins: RoleLogins, name: str, password: str = "right", host: str = "127.0.0.1") -> Authenticated:
    said = await logins.verifier(ConnectionInfo(1, (host, 1), ("127.0.0.1", 2))).respond(
        f"\0{name}\0{password}".encode()
    )
    assert isinstance(said, Authenticated)
    return said


async def refusal(logins: RoleLogins, name: str, password: str = "right") -> str:
    with pytest.raises(AuthenticationFailed) as failed:
        await come(logins, name, password)
    assert failed.value.shown == "Authentication failed: Invalid username or password"
    return str(failed.value)


async def test_the_right_password(logins: RoleLogins, role: str) -> None:
    said = await come(logins, role)
    assert (said.principal, said.kind) == (f"User:{role}", Kind.ROLE)
    assert isinstance(said.proof, Role)


async def test_all_who_do_not_get_in_hear_the_same(
    postgres_server: PostgresServer, pg_database: Database, logins: RoleLogins, role: str
) -> None:
    own_password = superuser_password = postgres_server.password
    said = {
        await refusal(logins, role, "wrong"),
        await refusal(logins, "nobody", "right"),
        await refusal(logins, "x" * 64, "right"),
        await refusal(logins, "postgres", superuser_password),
        await refusal(logins, pg_database.name, own_password),
    }
    postgres_server.sql(f"ALTER ROLE {role} NOLOGIN")
    said.add(await refusal(logins, role))
    postgres_server.sql(f"ALTER ROLE {role} LOGIN VALID UNTIL '2000-01-01'")
    said.add(await refusal(logins, role))
    postgres_server.sql(f"ALTER ROLE {role} VALID UNTIL 'infinity'")
    postgres_server.sql(f"REVOKE CONNECT ON DATABASE {pg_database.name} FROM PUBLIC")
    said.add(await refusal(logins, role))
    assert len(said) == 1


async def test_a_name_is_not_cut_off(
    postgres_server: PostgresServer, pg_database: Database, logins: RoleLogins
) -> None:
    name = (pg_database.name + "_" + "a" * 63)[:63]
    postgres_server.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
    try:
        await come(logins, name)
        await refusal(logins, name + "b")
    finally:
        postgres_server.sql(f"DROP ROLE {name}")


async def test_a_login_is_remembered_for_a_while(
    logins: RoleLogins, role: str, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def counted(dsn: str, name: str, password: str) -> Outcome:
        asked.append(password)
        return Outcome.PROVEN if password == "right" else Outcome.REFUSED

    monkeypatch.setattr(role_logins, "log_in", counted)
    for _ in range(5):
        await come(logins, role)
    # Once the right one, and once a wrong one to see whether it is refused.
    assert len(asked) == 2 and asked[0] == "right"
    await refusal(logins, role, "wrong")
    assert len(asked) == 3
    clock.ahead_s += role_logins.REMEMBERED_S + 1
    await come(logins, role)
    assert [password == "right" for password in asked] == [True, False, False, True, False]


async def test_a_role_that_needs_no_password_gets_nowhere(
    logins: RoleLogins, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trusting(dsn: str, name: str, password: str) -> Outcome:
        return Outcome.PROVEN if name == role else Outcome.REFUSED

    monkeypatch.setattr(role_logins, "log_in", trusting)
    await refusal(logins, role)


async def test_a_postgresql_that_trusts_everybody(pg_dsn: str, role: str) -> None:
    logins = RoleLogins(pg_dsn, Clock(), pytest.fail)
    try:
        with pytest.raises(FatalError, match=r"lets everybody in with any.*pg_hba\.conf"):
            await logins.start()
    finally:
        await logins.stop()


async def test_a_postgresql_that_trusts_one_role(
    logins: RoleLogins, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trusting(dsn: str, name: str, password: str) -> Outcome:
        return Outcome.REFUSED if name.startswith("pg_") else Outcome.PROVEN

    monkeypatch.setattr(role_logins, "log_in", trusting)
    with pytest.raises(FatalError, match=r'lets role ".*" in with any'):
        await logins.start()


async def test_trust_that_comes_later(
    logins: RoleLogins, role: str, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusts = True

    async def answered(dsn: str, name: str, password: str) -> Outcome:
        if name.startswith("pg_"):
            return Outcome.UNUSABLE if trusts else Outcome.REFUSED
        return Outcome.PROVEN if password == "right" else Outcome.REFUSED

    monkeypatch.setattr(role_logins, "log_in", answered)
    await come(logins, role)
    clock.ahead_s += role_logins.TRIAL_INTERVAL_S
    await until(lambda: bool(logins.trap))
    with pytest.raises(CannotVerify, match="lets everybody in"):
        await come(logins, role)
    trusts = False
    clock.ahead_s += role_logins.TRIAL_INTERVAL_S
    await until(lambda: not logins.trap)
    await come(logins, role)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "change",
    ["DROP ROLE {}", "ALTER ROLE {} NOLOGIN", "ALTER ROLE {} VALID UNTIL '2000-01-01'", "ALTER ROLE {} SUPERUSER"],
)
async def test_a_role_that_may_no_longer_come_has_to_go(
    postgres_server: PostgresServer, logins: RoleLogins, role: str, change: str
) -> None:
    revoked: asyncio.Future[frozenset[Role]] = asyncio.get_running_loop().create_future()
    logins.on_revoked = revoked.set_result
    proof = (await come(logins, role)).proof
    postgres_server.sql(change.format(role))
    async with asyncio.timeout(20):
        assert await revoked == {proof}
    logins.on_revoked = lambda _revoked: None
    await refusal(logins, role)


async def test_a_role_that_is_made_anew_is_another_one(
    postgres_server: PostgresServer, logins: RoleLogins, role: str
) -> None:
    revoked: asyncio.Future[frozenset[Role]] = asyncio.get_running_loop().create_future()
    logins.on_revoked = revoked.set_result
    proof = (await come(logins, role)).proof
    postgres_server.sql(f"DROP ROLE {role};\nCREATE ROLE {role} LOGIN PASSWORD 'right';\n")
    async with asyncio.timeout(20):
        assert await revoked == {proof}


async def test_a_changed_password_is_seen_by_who_may_read_it(
    postgres_server: PostgresServer, seeing_logins: RoleLogins, role: str
) -> None:
    revoked: asyncio.Future[frozenset[Role]] = asyncio.get_running_loop().create_future()
    seeing_logins.on_revoked = revoked.set_result
    proof = (await come(seeing_logins, role)).proof
    postgres_server.sql(f"ALTER ROLE {role} PASSWORD 'other'")
    async with asyncio.timeout(20):
        assert await revoked == {proof}
    await refusal(seeing_logins, role)
    await come(seeing_logins, role, "other")


async def test_guessers_take_two_connections_and_few_may_wait(
    logins: RoleLogins, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = most = 0

    async def slow(dsn: str, name: str, password: str) -> Outcome:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        return Outcome.REFUSED

    monkeypatch.setattr(role_logins, "log_in", slow)
    addresses = role_logins.MAX_WAITING // role_logins.MAX_WAITING_PER_ADDRESS
    found = await asyncio.gather(
        *(
            come(logins, role, f"guess {n}", f"10.0.0.{address}")
            for address in range(addresses)
            for n in range(role_logins.MAX_WAITING_PER_ADDRESS + 2)
        ),
        come(logins, role, "guess", "10.0.0.99"),
        return_exceptions=True,
    )
    assert most <= role_logins.LOGINS_AT_ONCE
    assert sum(isinstance(one, CannotVerify) for one in found) == 2 * addresses + 1
    assert sum(isinstance(one, AuthenticationFailed) for one in found) == role_logins.MAX_WAITING


async def test_a_database_that_is_gone_refuses_nobody(
    logins: RoleLogins, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "_dsn", "postgresql://x@127.0.0.1:1/x")
    with pytest.raises(CannotVerify, match="does not say"):
        await come(logins, role)
