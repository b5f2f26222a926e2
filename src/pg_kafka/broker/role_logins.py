"""PLAIN with PostgreSQL's roles as users (`pg_kafka.users = roles`): whoever can log in to the database is who it says.

    logins = RoleLogins(dsn, clock, on_death)
    await logins.start()                          raises FatalError when PostgreSQL lets everybody in
    factories["PLAIN"] = logins.verifier
    logins.on_revoked = ...                       called with proofs that hold no longer

PostgreSQL says whether a password is right, and only where it asks for one. So a wrong one is tried too: behind each right
one, at the start with a role that cannot be there and with some that are, and every five minutes with the former. Never
are two wrong ones tried for a role in a row, as a directory behind PostgreSQL may lock it then.

Logins take connections of PostgreSQL and its time, so there are at most two at once, few wait, each has a deadline, and one
that was right is remembered for a minute. They run in threads: the keys of SCRAM are some work. Each second the roles that
have come in are looked up again; one that is gone, has changed, or may no longer log in is revoked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pg_kafka.broker.authentication import Authenticated, AuthenticationFailed, CannotVerify, Challenge
from pg_kafka.broker.client import ConnectionInfo, Kind
from pg_kafka.broker.notes import Notes
from pg_kafka.clock import Clock
from pg_kafka.errors import FatalError, StorageError
from pg_kafka.security import plain
from pg_kafka.security.principals import user
from pg_kafka.storage.role_logins import MAX_NAME_BYTES, Outcome, Role, Roles, log_in
from pg_kafka.tasks import supervised

logger = logging.getLogger("pg_kafka.roles")

LOGINS_AT_ONCE = 2
MAX_WAITING = 64
MAX_WAITING_PER_ADDRESS = 16
WAIT_TIMEOUT_S = 10.0
REMEMBERED_S = 60.0
MAX_REMEMBERED = 1000
LOOK_INTERVAL_S = 1.0
TRIAL_INTERVAL_S = 300.0
_REFUSED = "the role and password are not right, or the role may not be used"
_SHOWN = "Authentication failed: Invalid username or password"


@dataclass(frozen=True, slots=True)
class _Proven:
    role: Role
    until_s: float


class RoleLogins:
    """See the module. All of it runs on the event loop's thread but the logins themselves."""

    def __init__(self, dsn: str, clock: Clock, on_death: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._clock = clock
        self._on_death = on_death
        self._roles = Roles(dsn)
        self._secret = secrets.token_bytes(32)  # what is remembered of passwords is of no use elsewhere
        self._pool = ThreadPoolExecutor(LOGINS_AT_ONCE, thread_name_prefix="role login")
        self._room = asyncio.Semaphore(LOGINS_AT_ONCE)
        self._waiting: Counter[str] = Counter()  # by address
        self._remembered: dict[bytes, _Proven] = {}
        self._known: dict[str, Role] = {}  # all that have come in, as they were then
        self._notes = Notes(logger)
        self.trap = ""  # why nobody is believed at the moment
        self._task: asyncio.Task[None] | None = None
        self.on_revoked: Callable[[frozenset[Role]], None] = lambda _revoked: None

    async def start(self) -> None:
        """Raises FatalError, StorageError."""
        if (trap := await self.find_trap()) is not None:
            raise FatalError(trap)
        self._task = supervised(self._run(), "roles", self._on_death)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
        await self._roles.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def verifier(self, connection: ConnectionInfo) -> RoleVerifier:
        return RoleVerifier(self, connection.host)

    async def prove(self, login: plain.Login, host: str) -> Role:
        """Who that is. Raises AuthenticationFailed, always with the same words, and CannotVerify."""
        if self.trap:
            raise CannotVerify(self.trap)
        name, password = login
        if len(name.encode()) > MAX_NAME_BYTES:
            raise AuthenticationFailed(_REFUSED, shown=_SHOWN, claimed=name)
        key = hmac.digest(self._secret, f"{len(name)} {name}{password}".encode(), "sha256")
        if (role := self._recalled(key)) is not None:
            return role
        if self._waiting.total() >= MAX_WAITING or self._waiting[host] >= MAX_WAITING_PER_ADDRESS:
            raise CannotVerify("too many clients wait for the database to say who they are")
        self._waiting[host] += 1
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S), self._room:
                role = await self._asked(name, password)
        except TimeoutError:
            raise CannotVerify(
                f"the database did not say within {WAIT_TIMEOUT_S:.0f} s whether a login is right"
            ) from None
        except StorageError as error:
            raise CannotVerify(error.message) from error
        finally:
            self._waiting[host] -= 1
            if not self._waiting[host]:
                del self._waiting[host]
        self._remember(key, role)
        return role

    async def _asked(self, name: str, password: str) -> Role:
        """Ask PostgreSQL. It is asked in any case, so that the time tells nothing of a role."""
        outcome = await self._log_in(name, password)
        role = (await self._roles.described([name])).get(name)
        if outcome is not Outcome.PROVEN or role is None or not role.is_usable:
            raise AuthenticationFailed(_REFUSED, shown=_SHOWN, claimed=name)
        if await self._log_in(name, secrets.token_urlsafe()) is Outcome.PROVEN:
            self._notes.note("PostgreSQL asks a role for no password", name, role=name, reason=_trap(name))
            raise AuthenticationFailed(_REFUSED, shown=_SHOWN, claimed=name)
        return role

    async def _log_in(self, name: str, password: str) -> Outcome:
        """Raises StorageError."""
        work = self._pool.submit(lambda: asyncio.run(log_in(self._dsn, name, password)))
        return await asyncio.wrap_future(work)

    # What is known

    def _recalled(self, key: bytes) -> Role | None:
        proven = self._remembered.get(key)
        if (
            proven is None
            or proven.until_s < self._clock.steady_s()
            or self._known.get(proven.role.name) != proven.role
        ):
            self._remembered.pop(key, None)
            return None
        return proven.role

    def _remember(self, key: bytes, role: Role) -> None:
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = _Proven(role, self._clock.steady_s() + REMEMBERED_S)
        last = self._known.get(role.name)
        self._known[role.name] = role
        if last is not None and last != role:
            self._revoke([last])

    def _revoke(self, roles: list[Role]) -> None:
        """These are not what they were: logins of before hold no longer."""
        for role in roles:
            if self._known.get(role.name) == role:
                del self._known[role.name]
        logger.info("logins of roles revoked", extra={"roles": sorted(role.name for role in roles)[:20]})
        self.on_revoked(frozenset(roles))

    async def _run(self) -> None:
        """Look at the roles each second, and now and then at what PostgreSQL asks for, until cancelled."""
        next_trial_s = self._clock.steady_s() + TRIAL_INTERVAL_S
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                if self._known:
                    await self._look()
                if self._clock.steady_s() >= next_trial_s:
                    next_trial_s = self._clock.steady_s() + TRIAL_INTERVAL_S
                    await self._try_again()
            except StorageError as error:
                # What cannot be seen has not changed; new logins need the database as well.
                logger.debug("cannot look at the roles", extra={"reason": error.message})

    async def _look(self) -> None:
        before = list(self._known.values())
        found = await self._roles.described([role.name for role in before])
        if changed := [role for role in before if found.get(role.name) != role and self._known.get(role.name) == role]:
            self._revoke(changed)

    async def _try_again(self) -> None:
        trap = await self._find_trust() or ""
        if trap:
            self._remembered.clear()
            logger.error("nobody can log in as a role", extra={"reason": trap})
        elif self.trap:
            logger.info("roles can log in again")
        self.trap = trap

    async def find_trap(self) -> str | None:
        """Try wrong passwords: a sentence when PostgreSQL does not mind. Raises StorageError."""
        if (trap := await self._find_trust()) is not None:
            return trap
        for name in await self._roles.samples():
            async with self._room:
                if await self._log_in(name, secrets.token_urlsafe()) is Outcome.PROVEN:
                    return _trap(name)
        return None

    async def _find_trust(self) -> str | None:
        """No role can have a name that begins with pg_, so whatever is said of this one is said to everybody."""
        async with self._room:
            outcome = await self._log_in(f"pg_kafka_{secrets.token_hex(8)}", secrets.token_urlsafe())
        return None if outcome is Outcome.REFUSED else _trap(None)


def _trap(role: str | None) -> str:
    whom = "everybody" if role is None else f'role "{role}"'
    return (
        f"pg_kafka.users = roles needs a PostgreSQL that asks for passwords, and this one lets {whom} in with any: the line of"
        " pg_hba.conf for the broker's way to the database has trust, peer, ident or cert. Put a line with scram-sha-256"
        " before it, or give --database an address for which there is one"
    )


class RoleVerifier:
    """One dialogue (`broker.authentication.Verifier`)."""

    def __init__(self, logins: RoleLogins, host: str) -> None:
        self._logins = logins
        self._host = host

    async def respond(self, message: bytes) -> Challenge | Authenticated:
        """Raises AuthenticationFailed, CannotVerify."""
        try:
            login = plain.login(message)
        except plain.PlainError as error:
            raise AuthenticationFailed(str(error), shown=str(error)) from None
        role = await self._logins.prove(login, self._host)
        return Authenticated(principal=user(role.name), kind=Kind.ROLE, proof=role)
