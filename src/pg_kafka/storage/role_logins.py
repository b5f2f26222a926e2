"""PostgreSQL's roles, as users of Kafka: proven by a login to the database, looked up in pg_roles.

    await log_in(dsn, "alice", "secret")     Outcome.PROVEN or another one; raises StorageError
    roles = Roles(dsn)
    await roles.described(["alice"])         {"alice": Role(...)}; raises StorageError
    await roles.close()

A login is a connection that is closed at once. Nothing is asked on it, since its session may be set up by the role itself;
what is known of a role comes from the broker's own session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from enum import Enum

import asyncpg

from pg_kafka.errors import FatalError
from pg_kafka.storage import queries, sessions
from pg_kafka.storage.sessions import CONNECTION_ERRORS, Session, describe, failed, unavailable

SQL = queries.load("roles")

LOGIN_TIMEOUT_S = 5.0
LOOK_TIMEOUT_S = 5.0
MAX_NAME_BYTES = 63
"""PostgreSQL takes longer names for what they begin with: somebody could come as a role and be called otherwise."""
SAMPLES = 3
# PostgreSQL's function that looks a role up. It is reached once no password is asked for any more.
_BEHIND_THE_PASSWORD = "InitializeSessionUserId"


class Outcome(Enum):
    """What became of a login."""

    PROVEN = "the role has this password"
    REFUSED = "no such role, another password, or the role may not connect to the database"
    UNUSABLE = "the password, if one was asked for, was right, and the role is not there or may not log in"


@dataclass(frozen=True, slots=True)
class Role:
    """What is known of a role. Where two of them differ, a login as the one proves nothing of the other."""

    name: str
    oid: int
    may_log_in: bool
    is_superuser: bool
    is_over: bool  # VALID UNTIL
    is_own: bool  # the broker's
    password: bytes | None  # a hash of what PostgreSQL keeps of it, where the broker's role may see that

    @property
    def is_usable(self) -> bool:
        """Superusers could do everything to the database; whoever has the broker's role could be the broker."""
        return self.may_log_in and not self.is_superuser and not self.is_over and not self.is_own


async def log_in(dsn: str, name: str, password: str) -> Outcome:
    """Does PostgreSQL let somebody in with this name and password? Raises StorageError when it does not say."""
    try:
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            connection = await sessions.dial(dsn, "login", user=name, password=password)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        is_behind = getattr(error, "server_source_function", None) == _BEHIND_THE_PASSWORD
        return Outcome.UNUSABLE if is_behind else Outcome.REFUSED
    except asyncpg.InsufficientPrivilegeError:
        return Outcome.REFUSED
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        raise unavailable(f"the database does not say whether a login is right: {describe(error)}") from error
    try:
        await connection.close(timeout=2.0)
    except Exception:
        with contextlib.suppress(Exception):
            connection.terminate()
    return Outcome.PROVEN


class Roles:
    """What the broker's own session sees of roles. It is opened when first needed, and again when it is lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._session: Session | None = None
        self._statement = ""
        self._turn = asyncio.Lock()

    async def described(self, names: Collection[str]) -> dict[str, Role]:
        """The roles with these names, as far as they are there. Raises StorageError."""
        async with self._asking() as connection:
            return {row["name"]: Role(*row) for row in await connection.fetch(self._statement, list(names))}

    async def samples(self) -> list[str]:
        """A few roles that may log in to the database. Raises StorageError."""
        async with self._asking() as connection:
            return [row["name"] for row in await connection.fetch(SQL["samples"], SAMPLES)]

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[asyncpg.Connection]:
        """The session, for one at a time. Raises StorageError."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S), self._turn:
                try:
                    if self._session is None or self._session.is_closed:
                        self._session = await sessions.connect(self._dsn, "roles")
                        sees = await self._session.connection.fetchval(SQL["may_see_passwords"])
                        self._statement = SQL["described_with_passwords" if sees else "described"]
                    yield self._session.connection
                except BaseException:
                    session, self._session = self._session, None
                    if session is not None:
                        session.drop()
                    raise
        except FatalError as error:
            raise unavailable(str(error)) from error
        except (TimeoutError, asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
            raise failed(error) from error
