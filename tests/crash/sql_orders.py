"""Orders for the workers: from a plain Kafka producer, from transactional ones that also abort, and by SQL."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time

import asyncpg
import confluent_kafka
from aiokafka.partitioner import murmur2
from tests.crash.sql_account import PARTITIONS
from tests.crash.sql_readers import Log, read_whole
from tests.crash.sql_sessions import DATABASE_IS_AWAY, is_expected
from tests.crash.sql_workers import ACCOUNTS, ORDERS

TRANSACTION_TIMEOUT_MS = 6_000
QUIET_S = 90.0
_SETTINGS = {
    "partitioner": "murmur2_random",  # as Java and the relay do
    "linger.ms": 5,
    "message.timeout.ms": 120_000,
    "socket.timeout.ms": 10_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "log_level": 0,
    "error_cb": lambda error: None,
}


class Feed:
    """Gives orders from `start` to `stop`."""

    def __init__(self, bootstrap: str, dsn: str, seed: int) -> None:
        self.faults: list[str] = []
        self._bootstrap, self._dsn, self._seed = bootstrap, dsn, seed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, name), daemon=True)
            for work, name in ((self._plain, "plain"), (self._transactional, "tx-1"), (self._transactional, "tx-2"))
        ]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._task = asyncio.create_task(self._by_sql("sql"))

    async def stop(self) -> None:
        """Return when all is sent or given up."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join)
        if self._task is not None:
            await self._task

    async def everything(self) -> Log:
        """All orders that are committed, when nothing is open and nothing waits in the outbox any more."""
        deadline = time.monotonic() + QUIET_S
        connection = await asyncpg.connect(self._dsn, timeout=10)
        try:
            while await connection.fetchval("SELECT count(*) FROM kafka.transactions WHERE age IS NOT NULL"):
                assert time.monotonic() < deadline, "a transaction stays open"
                await asyncio.sleep(0.1)
            marks = {}
            for partition in range(PARTITIONS):
                account = account_in(partition)
                marks[partition] = f"{account} 0 last-{partition}".encode()
                statement = "SELECT kafka.produce($1, $2::bytea, key => $3::bytea)"
                await connection.fetchval(statement, ORDERS, marks[partition], account.encode())
        finally:
            await connection.close(timeout=5)
        while True:
            log = await asyncio.to_thread(read_whole, self._bootstrap, ORDERS, "read_committed")
            if all(log[partition] and log[partition][-1].value == mark for partition, mark in marks.items()):
                return log
            assert time.monotonic() < deadline, "what SQL has produced does not come"

    def _guarded(self, work: object, name: str) -> None:
        try:
            assert callable(work)
            work(name, random.Random(f"{self._seed}/{name}"))
        except Exception as error:
            self.faults.append(f"{name}: {error!r}")

    def _produce(self, producer: confluent_kafka.Producer, name: str, number: int, chance: random.Random) -> None:
        account = str(chance.randrange(ACCOUNTS))
        producer.produce(ORDERS, f"{account} {chance.randint(-50, 100)} {name}-{number}", account)

    def _plain(self, name: str, chance: random.Random) -> None:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": self._bootstrap, "enable.idempotence": True, **_SETTINGS}
        )
        number = 0
        while not self._stopping.is_set():
            if len(producer) < 2000:
                number += 1
                self._produce(producer, name, number, chance)
            producer.poll(0.01)
        if left := producer.flush(60):
            self.faults.append(f"{name}: {left} orders could not be sent")

    def _transactional(self, name: str, chance: random.Random) -> None:
        settings = {
            "bootstrap.servers": self._bootstrap,
            "transactional.id": name,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            **_SETTINGS,
            "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "socket.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
        number = 0
        while not self._stopping.is_set():
            producer = confluent_kafka.Producer(settings)
            with contextlib.suppress(confluent_kafka.KafkaException):
                producer.init_transactions(30)
                while not self._stopping.is_set():
                    producer.begin_transaction()
                    for _ in range(chance.choice([1, 5, 20])):
                        number += 1
                        self._produce(producer, name, number, chance)
                    producer.flush(10)
                    self._stopping.wait(chance.choice([0, 0.02, 0.2]))  # others cannot be polled beyond this
                    if chance.random() < 0.3:
                        producer.abort_transaction(30)
                    else:
                        producer.commit_transaction(30)
                    self._stopping.wait(0.02)
            producer.purge()
        confluent_kafka.Producer(settings).init_transactions(60)  # ends what is still open

    async def _by_sql(self, name: str) -> None:
        chance = random.Random(f"{self._seed}/{name}")
        number = 0
        deadline = time.monotonic() + QUIET_S
        while not self._stopping.is_set():
            try:
                connection = await asyncpg.connect(self._dsn, timeout=10)
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                if not is_expected(error) or time.monotonic() > deadline:
                    self.faults.append(f"{name}: {error!r}")
                    return
                await asyncio.sleep(0.1)
                continue
            try:
                while not self._stopping.is_set():
                    accounts = [str(chance.randrange(ACCOUNTS)) for _ in range(chance.choice([1, 5, 20]))]
                    values = [f"{account} {chance.randint(-50, 100)} {name}-{number}" for account in accounts]
                    number += 1
                    await connection.fetch(
                        "SELECT kafka.produce_many($1, $2::bytea[], keys => $3::bytea[])",
                        ORDERS,
                        [value.encode() for value in values],
                        [account.encode() for account in accounts],
                    )
                    deadline = time.monotonic() + QUIET_S
                    await asyncio.sleep(0.02)
            except (*DATABASE_IS_AWAY, asyncpg.PostgresError) as error:
                if not is_expected(error):
                    self.faults.append(f"{name}: {error!r}")
                    return
            finally:
                connection.terminate()


def account_in(partition: int) -> str:
    """An account whose orders go to the partition."""
    return next(
        str(account) for account in range(ACCOUNTS) if (murmur2(b"%d" % account) & 0x7FFFFFFF) % PARTITIONS == partition
    )
