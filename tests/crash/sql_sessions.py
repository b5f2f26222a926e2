"""Many SQL sessions that produce in random transactions: commits, rollbacks, savepoints, errors, killed sessions.

Each record is noted by the transaction that produces it (sql_account.py). Whoever asks afterwards what was committed
asks the database, so that it does not matter whether a session lived to hear of its own commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
from tests.crash.sql_account import PARTITIONS, Note, Shape

SESSIONS = 50
SHARED_NAMES = 60
CALL_S = 60.0
APPLICATION = "proof session"
# The last two: what asyncpg says of a connection that broke just then.
DATABASE_IS_AWAY = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# What the tests themselves bring about: conflicts (40), ended sessions and servers (57P, 08), a server that is full
# of sessions whose clients have gone (53300), and a division by zero.
_EXPECTED = ("40", "57P", "08", "53300", "22012")

_TABLES = """
CREATE SCHEMA proof;
CREATE TABLE proof.names (name text PRIMARY KEY, version bigint NOT NULL DEFAULT 0);
CREATE TABLE proof.notes (name text, version bigint, attempt bigint, id bigint);
"""
_PRODUCE = """
INSERT INTO proof.notes (name, version, attempt, id)
VALUES ($1, $2, $3, kafka.produce($4, $5::bytea, key => $6::bytea, partition => $7, headers => $8::text::jsonb))
"""
# Ids of rows of many records: each row says the first of its own.
_PRODUCE_MANY = """
INSERT INTO proof.notes (name, version, attempt, id)
SELECT $1, v.version, v.attempt, i.id
FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS v (version, attempt, place)
JOIN (SELECT p.first_id + n, row_number() OVER (ORDER BY p.first_id, n)
      FROM kafka.produce_many($4, $5::bytea[], keys => $6::bytea[], partition => $7) AS p,
           generate_series(0, p.record_count - 1) AS n
     ) AS i (id, place) USING (place)
"""


def is_expected(error: BaseException) -> bool:
    """Whether a test that ends sessions and servers has to put up with it."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_EXPECTED)
    return isinstance(error, DATABASE_IS_AWAY)


class Vanished(Exception):
    """The session's client is gone in the middle of its transaction."""


class Sessions:
    """Sessions at work on one topic, from `start` to `stop`."""

    def __init__(
        self,
        dsn: str,
        topic: str,
        seed: int,
        count: int = SESSIONS,
        *,
        kills: bool = True,
        direct_dsn: str | None = None,
        deadline_s: float = CALL_S,
    ) -> None:
        """`direct_dsn` is past any pooler, for what the test itself asks."""
        self.topic = topic
        self.endings: Counter[str] = Counter()
        self.faults: list[str] = []
        self._dsn, self._direct_dsn = dsn, direct_dsn or dsn
        self._seed, self._count, self._kills, self._deadline_s = seed, count, kills, deadline_s
        self._attempts = itertools.count(1)
        self._marks = itertools.count(1)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Make the tables, in a database that has none."""
        async with self.connection() as connection:
            await connection.execute(_TABLES)
            names = [*names_for_all(), *(name for number in range(self._count) for name in names_of(number))]
            await connection.executemany("INSERT INTO proof.names (name) VALUES ($1)", [(name,) for name in names])

    def start(self) -> None:
        self._stopping.clear()
        self._tasks = [asyncio.create_task(self._session(number)) for number in range(self._count)]
        if self._kills:
            self._tasks.append(asyncio.create_task(self._kill()))

    async def stop(self) -> None:
        """Return when no transaction of any session is open any more, also of those whose clients are gone."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        await self.until(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL",
            APPLICATION,
        )

    async def cancel(self) -> None:
        """Leave nothing running, whatever happened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def committed(self) -> list[Note]:
        return [Note(row["name"], row["version"], row["attempt"]) for row in await self._notes()]

    async def ids(self) -> dict[int, Note]:
        """What was committed, by what produce returned."""
        return {row["id"]: Note(row["name"], row["version"], row["attempt"]) for row in await self._notes()}

    async def mark(self) -> list[Note]:
        """Produce one record to each partition, when all is quiet: every record before is relayed before these."""
        number = next(self._marks)
        notes = [Note(f"at{index}-mark", number, self._attempt(Shape.PLAIN)) for index in range(PARTITIONS)]
        async with self.connection() as connection, connection.transaction():
            for note in notes:
                await _produce(connection, self.topic, note)
        return notes

    async def until(self, question: str, *arguments: object) -> None:
        """Return when the answer is true, also when the database is away meanwhile."""
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                async with self.connection() as connection:
                    while not await connection.fetchval(question, *arguments):
                        assert time.monotonic() < deadline, question
                        await asyncio.sleep(0.02)
                    return
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                if not is_expected(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A session of the test itself."""
        connection = await asyncpg.connect(self._direct_dsn, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def _notes(self) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return list(await connection.fetch("SELECT name, version, attempt, id FROM proof.notes"))

    def _attempt(self, shape: Shape) -> int:
        return next(self._attempts) << 2 | shape

    async def _session(self, number: int) -> None:
        """One transaction after the other; a connection that was lost is made anew."""
        chance = random.Random(f"{self._seed}/{number}")
        deadline = time.monotonic() + self._deadline_s
        while not self._stopping.is_set():
            try:
                connection = await asyncpg.connect(
                    self._dsn,
                    timeout=10,
                    command_timeout=CALL_S,
                    statement_cache_size=0,  # what is prepared in one transaction is not there in the next one
                    server_settings={"application_name": APPLICATION},
                )
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                if not is_expected(error) or time.monotonic() > deadline:
                    self.faults.append(f"session {number} cannot connect: {error!r}")
                    return
                await asyncio.sleep(0.1)
                continue
            try:
                while not self._stopping.is_set():
                    ending = await _Transaction(self, connection, number, chance).run()
                    self.endings[ending] += 1
                    deadline = time.monotonic() + self._deadline_s
            except Vanished:
                self.endings["vanished"] += 1
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                self.endings[f"broken by {type(error).__name__}"] += 1
                if not is_expected(error):
                    self.faults.append(f"session {number}: {error!r}")
                    return
            finally:
                connection.terminate()

    async def _kill(self) -> None:
        """End sessions that are in the middle of something."""
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = $1 AND xact_start IS NOT NULL ORDER BY random() LIMIT 2"
        )
        while not self._stopping.is_set():
            with contextlib.suppress(*DATABASE_IS_AWAY, asyncpg.PostgresError):
                async with self.connection() as connection:
                    while not self._stopping.is_set():
                        self.endings["ended by another"] += len(await connection.fetch(end, APPLICATION))
                        await asyncio.sleep(0.3)
            await asyncio.sleep(0.1)


def names_for_all() -> list[str]:
    """Names that all sessions take versions of."""
    at = [f"at{index % PARTITIONS}-{index}" for index in range(SHARED_NAMES // 4)]
    return [*(f"k{number}" for number in range(SHARED_NAMES)), *at]


def names_of(session: int) -> list[str]:
    """Names that only one session takes versions of."""
    return [f"own-{session}", f"none-{session}"]


async def _produce(connection: asyncpg.Connection, topic: str, note: Note) -> None:
    headers = json.dumps([{"key": "note", "value": note.text.decode()}, {"key": "none", "value": None}])
    await connection.execute(
        _PRODUCE,
        note.name,
        note.version,
        note.attempt,
        topic,
        note.value,
        note.key,
        note.asked_partition,
        headers if note.headers else None,
    )


class _Transaction:
    """One random transaction of a session."""

    def __init__(self, sessions: Sessions, connection: asyncpg.Connection, session: int, chance: random.Random) -> None:
        self._sessions, self._connection, self._chance = sessions, connection, chance
        shared = chance.sample(names_for_all(), chance.randint(0, 3))
        if chance.random() < 0.95:
            shared.sort()  # else it may meet another one in a deadlock
        self._names = [*names_of(session), *shared]
        self._savepoints = itertools.count(1)

    async def run(self) -> str:
        """Returns how it ended. Raises what broke it, or Vanished."""
        chance, connection = self._chance, self._connection
        level = "REPEATABLE READ" if chance.random() < 0.1 else "READ COMMITTED"
        await connection.execute(f"BEGIN ISOLATION LEVEL {level}")
        try:
            await self._steps(depth=0)
            roll = chance.random()
            if roll < 0.1:
                await connection.execute("ROLLBACK")
                return "rolled back"
            if roll < 0.15:
                await connection.execute("SELECT 1 / 0")
            if roll < 0.2:
                raise Vanished
            if roll < 0.25:
                commit = asyncio.create_task(connection.execute("COMMIT"))
                await asyncio.sleep(chance.choice([0, 0, 0.001]))  # it is on its way, or done, or was never sent
                connection.terminate()
                with contextlib.suppress(*DATABASE_IS_AWAY, asyncpg.PostgresError):
                    await commit
                raise Vanished
            await connection.execute("COMMIT")
            return "committed"
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if connection.is_closed() or not is_expected(error):
                raise
            await connection.execute("ROLLBACK")
            return f"rolled back after {type(error).__name__}"

    async def _steps(self, depth: int) -> None:
        chance = self._chance
        steps: list[Callable[[], Awaitable[None]]] = [self._one, self._one, self._many]
        if depth < 3:
            steps.append(lambda: self._savepoint(depth))
        for _ in range(chance.randint(1, 3)):
            await chance.choice(steps)()
            if chance.random() < 0.1:
                await asyncio.sleep(chance.uniform(0, 0.05))  # it thinks, and others overtake it

    async def _one(self) -> None:
        name = self._take_name()
        shape = self._chance.choices(list(Shape), [60, 20, 10, 1])[0]
        if name.startswith("none-") and shape is Shape.TOMBSTONE:
            shape = Shape.PLAIN
        note = Note(name, await self._advance(name, 1), self._sessions._attempt(shape))
        await _produce(self._connection, self._sessions.topic, note)

    async def _many(self) -> None:
        name = self._take_name()
        count = self._chance.choice([1, 3, 10, 30, 200])
        first = await self._advance(name, count) - count + 1
        notes = [Note(name, first + place, self._sessions._attempt(Shape.PLAIN)) for place in range(count)]
        keys = None if notes[0].key is None else [note.key for note in notes]
        await self._connection.execute(
            _PRODUCE_MANY,
            name,
            [note.version for note in notes],
            [note.attempt for note in notes],
            self._sessions.topic,
            [note.value for note in notes],
            keys,
            notes[0].asked_partition,
        )

    async def _savepoint(self, depth: int) -> None:
        name = f"s{next(self._savepoints)}"
        await self._connection.execute(f"SAVEPOINT {name}")
        await self._steps(depth + 1)
        roll = self._chance.random()
        if roll < 0.4:
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {name}")
        elif roll < 0.6:
            with contextlib.suppress(asyncpg.DivisionByZeroError):
                await self._connection.execute("SELECT 1 / 0")
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {name}")
        else:
            await self._connection.execute(f"RELEASE SAVEPOINT {name}")

    def _take_name(self) -> str:
        """Shared ones in their order, each once, so that sessions wait for each other and rarely in a circle."""
        if len(self._names) > 2 and self._chance.random() < 0.6:
            return self._names.pop(2)
        return self._chance.choice(self._names[:2])

    async def _advance(self, name: str, by: int) -> int:
        """Take versions; the name is this transaction's until it ends."""
        version = await self._connection.fetchval(
            "UPDATE proof.names SET version = version + $2 WHERE name = $1 RETURNING version", name, by
        )
        assert isinstance(version, int), name
        return version
