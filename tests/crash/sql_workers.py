"""SQL consumers of one group: each transaction polls orders, books them and produces receipts.

What a transaction does is noted by the transaction itself, so the tables say what was consumed, whatever became of the
sessions: `handled` has a row for each order in the order of the commits of its partition, `balances` the sums.

An order is "ACCOUNT AMOUNT NUMBER" with the account as its key; its receipt has the order's place in front of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

import asyncpg
from tests.clients.records import Record
from tests.crash.sql_sessions import CALL_S, DATABASE_IS_AWAY, Vanished, is_expected

ACCOUNTS = 16
WORKERS = 12
APPLICATION = "proof worker"
GROUP, ORDERS, RECEIPTS = "workers", "orders", "receipts"

_TABLES = """
CREATE SCHEMA proof;
CREATE TABLE proof.handled (
    number           bigint GENERATED ALWAYS AS IDENTITY,
    worker           integer,
    partition_id     integer,
    partition_offset bigint,
    value            bytea
);
CREATE TABLE proof.balances (account text PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
"""
_POLL = """
SELECT partition_id, partition_offset, key, value
FROM kafka.poll($1::text, $2::text, max_records => $3)
"""
_HANDLE = """
INSERT INTO proof.handled (worker, partition_id, partition_offset, value)
SELECT $1, o.partition_id, o.partition_offset, o.value
FROM unnest($2::integer[], $3::bigint[], $4::bytea[]) WITH ORDINALITY AS o (partition_id, partition_offset, value, n)
ORDER BY n
"""
# In one snapshot: what is booked, and what was ordered below the group's offsets.
_AUDIT = """
WITH position AS (
    SELECT c.partition_id, c.committed_offset
    FROM kafka.consumer_offsets c JOIN kafka.topics t ON t.id = c.topic_id
    WHERE c.group_id = $1 AND t.name = 'orders'
)
SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM proof.balances) AS booked,
       (SELECT count(*) FROM proof.handled) AS handled,
       (SELECT coalesce(sum(split_part(kafka.as_text(o.value), ' ', 2)::bigint), 0)::bigint
        FROM topics.orders o JOIN position p USING (partition_id)
        WHERE o.partition_offset < p.committed_offset) AS ordered,
       (SELECT count(*) FROM topics.orders o JOIN position p USING (partition_id)
        WHERE o.partition_offset < p.committed_offset) AS orders
"""

Orders = Mapping[int, Sequence[Record]]


def amount_of(value: bytes | None) -> int:
    assert value is not None
    return int(value.split()[1])


def receipt_of(partition: int, offset: int, value: bytes | None) -> bytes:
    return b"%d:%d " % (partition, offset) + (value or b"")


class Workers:
    """Sessions of one group at work, from `start` to `stop`."""

    def __init__(self, dsn: str, seed: int, count: int = WORKERS, *, direct_dsn: str | None = None) -> None:
        self.endings: Counter[str] = Counter()
        self.audits = 0
        self.faults: list[str] = []
        self._dsn, self._direct_dsn = dsn, direct_dsn or dsn
        self._seed, self._count = seed, count
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        async with self.connection() as connection:
            await connection.execute(_TABLES)
            accounts = [(str(account),) for account in range(ACCOUNTS)]
            await connection.executemany("INSERT INTO proof.balances (account) VALUES ($1)", accounts)

    def start(self) -> None:
        work = [*(self._work(number) for number in range(self._count)), self._kill(), self._audit()]
        self._tasks = [asyncio.create_task(one) for one in work]

    async def handle_all(self, count: int, deadline_s: float = CALL_S) -> None:
        """Return when so many orders are handled, or more, and nobody works any more."""
        deadline = time.monotonic() + deadline_s
        try:
            async with self.connection() as connection:
                while (handled := await connection.fetchval("SELECT count(*) FROM proof.handled")) < count:
                    if time.monotonic() > deadline or self.faults:
                        self.faults.append(f"{handled} orders of {count} are handled")
                        break
                    await asyncio.sleep(0.05)
        finally:
            self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        """Leave nothing running, whatever happened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def check(self, orders: Orders, receipts: Orders | None) -> list[str]:
        """What is wrong, when all orders are handled and all receipts, if there are any, are in the log."""
        faults: list[str] = []
        async with self.connection() as connection:
            rows = await connection.fetch("SELECT * FROM proof.handled ORDER BY number")
            balances = dict(await connection.fetch("SELECT account, balance FROM proof.balances"))
        handled: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for row in rows:
            handled[row["partition_id"]].append((row["partition_offset"], row["value"]))
        sums: Counter[str] = Counter({str(account): 0 for account in range(ACCOUNTS)})
        for partition, records in orders.items():
            wanted = [(record.offset, record.value) for record in records]
            faults += _difference(f"handled of partition {partition}", wanted, handled[partition])
            for record in records:
                sums[(record.value or b"").split()[0].decode()] += amount_of(record.value)
            if receipts is None:
                continue
            answers = [(record.key, receipt_of(partition, record.offset, record.value)) for record in records]
            got = [(record.key, record.value) for record in receipts[partition]]
            faults += _difference(f"receipts in partition {partition}", answers, got)
        if balances != sums:
            faults.append(f"balances are {balances}, the orders say {dict(sums)}")
        return faults

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._direct_dsn, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def _work(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        deadline = time.monotonic() + CALL_S
        while not self._stopping.is_set():
            try:
                connection = await asyncpg.connect(
                    self._dsn,
                    timeout=10,
                    command_timeout=CALL_S,
                    statement_cache_size=0,
                    server_settings={"application_name": APPLICATION},
                )
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                if not is_expected(error) or time.monotonic() > deadline:
                    self.faults.append(f"worker {number} cannot connect: {error!r}")
                    return
                await asyncio.sleep(0.1)
                continue
            try:
                while not self._stopping.is_set():
                    polled, ending = await self._transaction(connection, number, chance)
                    self.endings[ending if polled else "empty"] += 1
                    deadline = time.monotonic() + CALL_S
                    if not polled:
                        await asyncio.sleep(0.03)  # as an application without LISTEN would
            except Vanished:
                self.endings["vanished"] += 1
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                self.endings[f"broken by {type(error).__name__}"] += 1
                if not is_expected(error):
                    self.faults.append(f"worker {number}: {error!r}")
                    return
            finally:
                connection.terminate()

    async def _transaction(self, connection: asyncpg.Connection, worker: int, chance: random.Random) -> tuple[int, str]:
        """How many orders it polled, and how it ended."""
        level = "REPEATABLE READ" if chance.random() < 0.3 else "READ COMMITTED"
        await connection.execute(f"BEGIN ISOLATION LEVEL {level}")
        try:
            polled = 0
            if chance.random() < 0.2:  # what is rolled back is not consumed, and comes again
                await connection.execute("SAVEPOINT before")
                await self._consume(connection, worker, chance)
                await connection.execute("ROLLBACK TO SAVEPOINT before")
            for _ in range(chance.choice([1, 1, 2])):
                polled += await self._consume(connection, worker, chance)
            roll = chance.random()
            if roll < 0.1:
                await connection.execute("ROLLBACK")
                return polled, "rolled back"
            if roll < 0.15:
                await connection.execute("SELECT 1 / 0")
            if roll < 0.2:
                raise Vanished
            if roll < 0.25:
                commit = asyncio.create_task(connection.execute("COMMIT"))
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
                connection.terminate()
                with contextlib.suppress(*DATABASE_IS_AWAY, asyncpg.PostgresError):
                    await commit
                raise Vanished
            await connection.execute("COMMIT")
            return polled, "committed"
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if connection.is_closed() or not is_expected(error):
                raise
            await connection.execute("ROLLBACK")
            return 1, f"rolled back after {type(error).__name__}"

    async def _consume(self, connection: asyncpg.Connection, worker: int, chance: random.Random) -> int:
        rows = await connection.fetch(_POLL, GROUP, ORDERS, chance.choice([1, 5, 50, 200]))
        if not rows:
            return 0
        await connection.execute(
            _HANDLE,
            worker,
            [row["partition_id"] for row in rows],
            [row["partition_offset"] for row in rows],
            [row["value"] for row in rows],
        )
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row["value"].split()[0].decode()] += amount_of(row["value"])
        for account in sorted(sums):
            await connection.execute(
                "UPDATE proof.balances SET balance = balance + $2 WHERE account = $1", account, sums[account]
            )
        await connection.fetch(
            "SELECT kafka.produce_many($1, $2::bytea[], keys => $3::bytea[])",
            RECEIPTS,
            [receipt_of(row["partition_id"], row["partition_offset"], row["value"]) for row in rows],
            [row["key"] for row in rows],
        )
        return len(rows)

    async def _kill(self) -> None:
        """End sessions that are in the middle of something."""
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = $1 AND xact_start IS NOT NULL ORDER BY random() LIMIT 1"
        )
        while not self._stopping.is_set():
            with contextlib.suppress(*DATABASE_IS_AWAY, asyncpg.PostgresError):
                async with self.connection() as connection:
                    while not self._stopping.is_set():
                        self.endings["ended by another"] += len(await connection.fetch(end, APPLICATION))
                        await asyncio.sleep(0.3)
            await asyncio.sleep(0.1)

    async def _audit(self) -> None:
        """At any moment balances are the sum of the orders below the group's offsets."""
        while not self._stopping.is_set():
            with contextlib.suppress(*DATABASE_IS_AWAY, asyncpg.PostgresError):
                async with self.connection() as connection:
                    while not self._stopping.is_set():
                        row = await connection.fetchrow(_AUDIT, GROUP, timeout=30)
                        self.audits += 1
                        if (row["booked"], row["handled"]) != (row["ordered"], row["orders"]):
                            self.faults.append(f"the sums differ: {dict(row)}")
                            return
                        await asyncio.sleep(0.2)
            await asyncio.sleep(0.1)


def _difference(what: str, wanted: Sequence[object], got: Sequence[object]) -> list[str]:
    if list(wanted) == list(got):
        return []
    pairs = enumerate(zip(wanted, got, strict=False))
    place = next((place for place, (a, b) in pairs if a != b), min(len(wanted), len(got)))
    doubled = [one for one, count in Counter(got).items() if count > 1]
    return [
        f"{what}: {len(got)} of {len(wanted)}, {len(doubled)} more than once, other from place {place} on: "
        f"{got[place : place + 2]} in place of {wanted[place : place + 2]}"
    ]
