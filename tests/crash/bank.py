"""The bank: transfers between accounts by transactional processors, which are killed, as are broker and PostgreSQL.

    python -m tests.crash.bank [--seconds N] [--seed S] [--protocol classic|consumer] [--results FILE] [--failover | --kafka]

Orders ("give 7 from account 3 to account 11") come steadily. Tellers of one group (two libraries, two with static members)
take them and book each as two entries, of which each account's go to one partition, in a transaction with their offsets;
some attempts they abort, and now and then an operator aborts one. Meanwhile

- SQL says at any moment, of `kafka.messages` and of the topic's view, that the accounts have together what was paid in
- so does a read_committed reader of the entries up to the last stable offsets, which it asks for again and again: where one
  entry of an order is there and the other is not, another transaction that is open there holds the other back

With `--failover` PostgreSQL has a synchronous standby, which takes the primary's place when that is killed, again and again.

In the end all is quiet, and the books are checked: `ledger.py`. With `--kafka` the broker is Apache Kafka and only tellers
are killed; its transactions become visible in one partition after another, which is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic
from tests.broker.rawclient import RawClient, only
from tests.clients.groups import LIST_OFFSETS, SETTINGS, place_of
from tests.crash.ledger import ACCOUNTS, DEPOSIT, OPENING, TOTAL, Books, Seen, torn_orders, total
from tests.crash.servers import Given, Pair
from tests.crash.teller import CLIENT_SETTINGS
from tests.kafka_reference import ROOT, ApacheKafka, compiled, java

from pg_kafka.wire.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic

ORDER_PARTITIONS, ENTRY_PARTITIONS = 4, 6
ORDERS_A_SECOND = 60
TRANSACTION_TIMEOUT_MS = 8_000
ABORT_SHARE = 0.1
QUIET_S = 90.0
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
LIBRARIES = ("confluent-kafka", "java", "confluent-kafka", "java")
TELLERS = list(LIBRARIES)  # --library replaces all by one
TELLER_SOURCE = Path(__file__).with_name("Teller.java")
# The last two: what asyncpg says of a connection that broke just then.
PG_IS_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
READER = {
    "group.id": "unused",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 100,
}
BROKER_SETTINGS = {**SETTINGS, "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}


class Teller:
    """A place in the group: the process that has it now, and the transactional id that it uses."""

    def __init__(self, bank: Bank, number: int, library: str) -> None:
        self._bank, self._number, self._library = bank, number, library
        self._starts = 0
        self._ids = 0
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None

    def start(self) -> None:
        bank = self._bank
        self._starts += 1
        bank.tell(f"{self._library}-{self._number}", f"started as {self._starts}")
        settings = {
            "name": f"{self._library}-{self._number}/{self._starts}",
            "bootstrap": bank.bootstrap,
            "transactional_id": f"{bank.name}-teller-{self._number}-{self._ids}",
            "group": bank.group,
            "protocol": bank.protocol,
            "instance_id": f"teller-{self._number}" if self._number < 2 else None,
            "orders": bank.orders,
            "entries": bank.entries,
            "partitions": ENTRY_PARTITIONS,
            "timeout_ms": TRANSACTION_TIMEOUT_MS,
            "session_timeout_ms": 4000,
            "abort_share": ABORT_SHARE,
            "batch": 20,
        }
        command = [sys.executable, "-m", "tests.crash.teller", json.dumps(settings)]
        if self._library == "java":
            options = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx96m")
            command = java("Teller", json.dumps(settings), options=options, more_classes=compiled(TELLER_SOURCE))
        with bank.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            what, _, about = line.strip().partition(" ")
            self._bank.tell(f"{self._library}-{self._number}", line.strip())
            if what == "committed":
                self._bank.books.committed.add(about)
            elif what == "aborted":
                self._bank.books.aborted.add(about)
            elif what == "failed":
                self._bank.failures[f"{self._library}: {about}"] += 1
                if "NoOffsetForPartition" in about:
                    self._bank.books.faults.append(f"{self._library}-{self._number} found no committed offset")

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._bank.tell(f"{self._library}-{self._number}", "killed")
        self._process.kill()
        self._finish()

    def abandon(self) -> None:
        """kill -9, and whoever starts next has another transactional id: what is open has to time out."""
        self.kill()
        self._ids += 1

    def stop(self) -> None:
        """In good order."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._bank.books.faults.append(f"{self._library}-{self._number} did not come to an end")
            self._process.kill()
        self._finish()

    def _finish(self) -> None:
        assert self._process is not None and self._listener is not None
        self._process.wait()
        self._listener.join()  # what it said before is heard
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Bank:
    """Topics, orders, tellers and the reader, at work on a broker."""

    def __init__(self, bootstrap: str, name: str, protocol: str, log: Path) -> None:
        self.bootstrap, self.name, self.protocol, self.log = bootstrap, name, protocol, log
        self.orders, self.entries, self.group = f"{name}-orders", f"{name}-entries", f"{name}-tellers"
        self.books = Books()
        self.seen = Seen(ENTRY_PARTITIONS)
        self.failures: Counter[str] = Counter()
        self.tellers = [Teller(self, number, library) for number, library in enumerate(TELLERS)]
        self.story: list[str] = []
        self.newest = 0.0
        self.silence_s = 0.0
        self.admin = AdminClient({"bootstrap.servers": bootstrap, **CLIENT_SETTINGS})
        self._ending = threading.Event()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._order, self._read)]

    def tell(self, who: str, what: str) -> None:
        """For whoever wants to know how it came to a fault."""
        self.story.append(f"{time.time():.3f} {who} {what}")

    def open(self) -> None:
        topics = [NewTopic(self.orders, ORDER_PARTITIONS, 1), NewTopic(self.entries, ENTRY_PARTITIONS, 1)]
        for answer in self.admin.create_topics(topics).values():
            answer.result(30)
        opening = confluent_kafka.Producer(
            {"bootstrap.servers": self.bootstrap, "transactional.id": f"{self.name}-{OPENING}", **CLIENT_SETTINGS}
        )
        opening.init_transactions(30)
        opening.begin_transaction()
        for account in range(ACCOUNTS):
            value = f"{OPENING} {account} {DEPOSIT} {OPENING}"
            opening.produce(self.entries, value, str(account), partition=account % ENTRY_PARTITIONS)
        opening.commit_transaction(30)
        # Tellers never begin without an offset: librdkafka, when a rebalance comes while it waits for unstable offsets, may
        # take a partition for one without, and would book its orders again.
        beginning = [confluent_kafka.TopicPartition(self.orders, index, 0) for index in range(ORDER_PARTITIONS)]
        first = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.group, **CLIENT_SETTINGS}
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                first.commit(offsets=beginning, asynchronous=False)
                break
            except confluent_kafka.KafkaException:  # Apache Kafka makes the topic of offsets when it is first asked
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        first.close()
        self.newest = time.monotonic()
        for thread in self._threads:
            thread.start()
        for teller in self.tellers:
            teller.start()

    async def close_orders(self) -> None:
        """Order nothing more; return when all that was ordered is booked."""
        self._ending.set()
        await asyncio.to_thread(self._threads[0].join)
        deadline = time.monotonic() + QUIET_S
        while not (len(self.seen.booked) == len(self.books.ordered) or time.monotonic() > deadline):
            self.revive()
            await asyncio.sleep(0.1)
        for teller in self.tellers:
            await asyncio.to_thread(teller.stop)

    def revive(self) -> None:
        """Start tellers that could not go on."""
        for teller in self.tellers:
            if teller.has_ended():
                teller.kill()
                teller.start()

    async def quiet(self) -> None:
        """Return when the last stable offsets are at the ends and the reader has come there."""
        deadline = time.monotonic() + QUIET_S
        while True:
            stable = await self.ends(self.entries, ENTRY_PARTITIONS, READ_COMMITTED)
            high = await self.ends(self.entries, ENTRY_PARTITIONS, READ_UNCOMMITTED)
            if stable == high == self.seen.ends:
                return
            if time.monotonic() > deadline:
                self.books.faults.append(f"not quiet: stable to {stable} of {high}, read to {self.seen.ends}")
                return
            await asyncio.sleep(0.2)

    async def ends(self, topic: str, partitions: int, isolation: int) -> dict[int, int]:
        """Where each partition ends for such a reader: one request, so one moment. Raises OSError and the like."""
        asked = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(partitions)]
        topics = [ListOffsetsTopic(name=topic, partitions=asked)]
        request = ListOffsetsRequest(replica_id=-1, isolation_level=isolation, topics=topics)
        async with await RawClient.connect(place_of(self.bootstrap)) as client:
            answer = await client.call(request, LIST_OFFSETS, 7, 5.0)
        found = only(answer.topics).partitions
        if any(one.error_code for one in found):
            raise OSError(f"no end is told: {found}")
        return {one.partition_index: one.offset for one in found}

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        self._ending.set()
        for teller in self.tellers:
            with contextlib.suppress(AssertionError):
                teller.kill()
        self._closed.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def committed_offsets(self) -> dict[int, int]:
        """The group's."""
        places = [confluent_kafka.TopicPartition(self.orders, index) for index in range(ORDER_PARTITIONS)]
        asker = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.group, **CLIENT_SETTINGS}
        )
        try:
            return {place.partition: place.offset for place in asker.committed(places, 20)}
        finally:
            asker.close()

    def read_all(self, topic: str, ends: Mapping[int, int]) -> dict[int, list[tuple[int, str]]]:
        """All that is written in a topic, aborted or not."""
        found: dict[int, list[tuple[int, str]]] = {index: [] for index in ends}
        open_partitions = set(ends)
        with self._reader(topic, len(ends), "read_uncommitted") as consumer:
            deadline = time.monotonic() + QUIET_S
            while open_partitions:
                assert time.monotonic() < deadline, f"{topic} cannot be read to {ends}"
                for message in consumer.consume(5000, 0.2):
                    error = message.error()
                    if error is None:
                        found[message.partition()].append((message.offset(), message.value().decode()))
                    elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                        open_partitions.discard(message.partition())
        return found

    @contextlib.contextmanager
    def _reader(self, topic: str, partitions: int, isolation: str) -> Iterator[confluent_kafka.Consumer]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "isolation.level": isolation, **READER, **CLIENT_SETTINGS}
        )
        consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in range(partitions)])
        try:
            yield consumer
        finally:
            consumer.close()

    def _order(self) -> None:
        """Gives orders, steadily."""
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                "linger.ms": 5,
                **CLIENT_SETTINGS,
            }
        )
        chance = random.Random(self.name)

        def delivered(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            if error is None:
                order = message.value().decode()
                self.books.ordered[order.split()[0]] = order
            else:
                self.books.faults.append(f"an order was refused: {error.str()}")

        number = 0
        while not self._ending.wait(1 / ORDERS_A_SECOND):
            giver, taker = chance.sample(range(ACCOUNTS), 2)
            order = f"{number} {giver} {taker} {chance.randrange(1, 100)}"
            producer.produce(self.orders, order, partition=number % ORDER_PARTITIONS, on_delivery=delivered)
            producer.poll(0)
            number += 1
        producer.flush(120)

    def _read(self) -> None:
        """Sees the entries as a read_committed reader does."""
        with self._reader(self.entries, ENTRY_PARTITIONS, "read_committed") as consumer:
            while not self._closed.is_set():
                for message in consumer.consume(1000, 0.1):
                    error = message.error()
                    if error is None:
                        self.seen.add(message.partition(), message.offset(), message.value().decode())
                        now = time.monotonic()
                        self.silence_s = max(self.silence_s, now - self.newest)
                        self.newest = now
                    elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                        self.seen.ends[message.partition()] = message.offset()
                    elif error.code() == confluent_kafka.KafkaError._AUTO_OFFSET_RESET or error.fatal():
                        self.books.faults.append(f"the reader: {error.str()}")


class Audits:
    """Totals while transfers are under way."""

    def __init__(self, bank: Bank, system: Given | None) -> None:
        self._bank, self._system = bank, system
        self.cuts = 0
        self.uneven: list[dict[int, int]] = []  # cuts that have one entry of some order
        self.totals = 0
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._by_kafka())]
        if self._system is not None:
            self._tasks.append(asyncio.create_task(self._by_sql(self._system)))

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _by_kafka(self) -> None:
        bank = self._bank
        while not self._stopping.is_set():
            await asyncio.sleep(0.3)
            try:
                cut = await bank.ends(bank.entries, ENTRY_PARTITIONS, READ_COMMITTED)
            except (OSError, EOFError, TimeoutError):  # the broker is away
                continue
            while any(bank.seen.ends[partition] < end for partition, end in cut.items()):
                if self._stopping.is_set():
                    return
                await asyncio.sleep(0.02)
            self.cuts += 1
            if total(bank.seen.log, cut) != TOTAL:
                self.uneven.append(cut)

    async def _by_sql(self, system: Given) -> None:
        bank, entries = self._bank, 0
        sources = (
            f"(SELECT m.* FROM kafka.messages m JOIN kafka.topics t ON t.id = m.topic_id WHERE t.name = '{bank.entries}') s",
            f'topics."{bank.entries}"',
        )
        while not self._stopping.is_set():
            try:
                async with system.sql() as connection:
                    while not self._stopping.is_set():
                        row = await connection.fetchrow(
                            "SELECT count(*) AS entries, sum(split_part(kafka.as_text(value), ' ', 3)::bigint)::bigint AS total "
                            f"FROM {sources[self.totals % 2]}",
                            timeout=30,
                        )
                        self.totals += 1
                        if row["total"] != TOTAL:
                            bank.books.faults.append(
                                f"by SQL the accounts have {row['total']} ({row['entries']} entries)"
                            )
                        if row["entries"] < entries:
                            bank.books.faults.append(f"by SQL entries went from {entries} to {row['entries']}")
                        entries = row["entries"]
                        await asyncio.sleep(0.5 + entries / 50_000)
            except PG_IS_AWAY:
                await asyncio.sleep(0.2)


@dataclass
class Trouble:
    """What faults work on."""

    bank: Bank
    system: Given | None
    chance: random.Random


async def teller_killed(t: Trouble) -> None:
    teller = t.chance.choice(t.bank.tellers)
    teller.kill()
    await asyncio.sleep(t.chance.choice([0, 0, 1]))
    teller.start()


async def teller_abandoned(t: Trouble) -> None:
    teller = t.chance.choice(t.bank.tellers)
    teller.abandon()
    teller.start()


async def broker_killed(t: Trouble) -> None:
    assert t.system is not None
    broker = t.system.brokers[0]
    broker.kill()
    broker.start()
    await broker.serves()


async def postgres_killed(t: Trouble) -> None:
    assert t.system is not None
    t.system.server.kill()
    await asyncio.to_thread(t.system.server.start_again)


async def both_killed(t: Trouble) -> None:
    assert t.system is not None
    t.system.server.kill()
    t.system.brokers[0].kill()
    await asyncio.to_thread(t.system.server.start_again)
    t.system.brokers[0].start()
    await t.system.brokers[0].serves()


async def backend_killed(t: Trouble) -> None:
    assert t.system is not None
    with contextlib.suppress(RuntimeError, ProcessLookupError):  # it has just come back and has none yet
        if lanes := await t.system.backends("lane"):
            os.kill(t.chance.choice(lanes), signal.SIGKILL)


async def transaction_aborted(t: Trouble) -> None:
    """By an operator; whoever has it open is fenced."""
    assert t.system is not None
    with contextlib.suppress(*PG_IS_AWAY):
        for _ in range(50):
            found = await t.system.fetch("SELECT transactional_id FROM kafka.transactions WHERE state = 'Ongoing'")
            if found:
                await t.system.fetch("SELECT kafka.abort_transaction($1)", t.chance.choice(found)[0])
                return
            await asyncio.sleep(0.02)


async def primary_killed(t: Trouble) -> None:
    """The standby takes its place."""
    assert isinstance(t.system, Pair)
    await t.system.fail_over()
    await t.system.brokers[0].serves()
    await t.system.renew_standby()


async def primary_and_broker_killed(t: Trouble) -> None:
    """As above, and nobody but the standby remembers what was acknowledged."""
    assert isinstance(t.system, Pair)
    broker = t.system.brokers[0]
    broker.kill()
    await t.system.fail_over()
    broker.start()
    await broker.serves()
    await t.system.renew_standby()


Fault = Callable[[Trouble], Awaitable[None]]
OF_TELLERS: tuple[Fault, ...] = (teller_killed, teller_abandoned)
OF_BROKERS: tuple[Fault, ...] = (broker_killed, postgres_killed, backend_killed, both_killed, transaction_aborted)
OF_PAIRS: tuple[Fault, ...] = (primary_killed, primary_and_broker_killed, broker_killed, backend_killed)


@dataclass
class Report:
    """What became of a run."""

    seed: int
    protocol: str
    seconds: float = 0.0
    transfers: int = 0
    silence_s: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        notes = "".join(f", {value} {name}" for name, value in self.notes.items())
        return (
            f"bank ({self.protocol}) seed {self.seed}: {'FAILED' if self.faults else 'ok'} in {self.seconds:.0f} s, "
            f"{self.transfers} transfers, silent for {self.silence_s:.1f} s{notes}"
        )


async def play(bootstrap: str, system: Given | None, folder: Path, seed: int, protocol: str, seconds: float) -> Report:
    """One run on a broker that serves; `system` is None where only tellers may be killed. Logs go into the folder."""
    started = time.monotonic()
    report = Report(seed, protocol)
    bank = Bank(bootstrap, f"bank{seed}-{protocol}", protocol, folder / "tellers.log")
    trouble = Trouble(bank, system, random.Random(seed))
    audits = Audits(bank, system)
    try:
        await asyncio.to_thread(bank.open)
        audits.start()
        played = await _trouble(trouble, seconds)
        await bank.close_orders()
        await bank.quiet()
        if system is not None:
            await _nothing_open(bank, system)
        await audits.stop()
        if not audits.cuts or (system is not None and not audits.totals):
            report.faults.append("no audit was made")
        await _account(bank, audits, system, report)
        report.notes |= dict(sorted(played.items()))
    except Exception:
        report.faults.append(traceback.format_exc())
    finally:
        with contextlib.suppress(Exception):
            await audits.stop()
        await asyncio.to_thread(bank.close)
    (folder / "story.log").write_text("\n".join(bank.story))
    report.transfers, report.silence_s = len(bank.books.ordered), bank.silence_s
    report.notes |= {
        "attempts committed": len(bank.books.committed),
        "aborted": len(bank.books.aborted),
        "tellers gave up": bank.failures.total(),
        "cuts": audits.cuts,
        "uneven": len(audits.uneven),
        "totals by SQL": audits.totals,
    }
    report.faults += bank.books.faults
    if system is not None:
        report.faults += system.brokers[0].complaints()
        (folder / "postgresql.log").write_text(system.server.log)
    if report.faults:
        report.faults += [f"{count} times: {reason}" for reason, count in bank.failures.most_common()]
        keep_logs(folder, report)
    report.seconds = time.monotonic() - started
    return report


async def _trouble(trouble: Trouble, seconds: float) -> Counter[str]:
    """Every fault once, then any, until the time is over."""
    chance, played = trouble.chance, Counter[str]()
    of_brokers = OF_PAIRS if isinstance(trouble.system, Pair) else OF_BROKERS if trouble.system is not None else ()
    first = chance.sample([*OF_TELLERS, *of_brokers], len(OF_TELLERS) + len(of_brokers))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or first:
        pause = time.monotonic() + chance.uniform(0.5, 4)
        while time.monotonic() < pause:
            trouble.bank.revive()
            await asyncio.sleep(0.1)
        fault = first.pop() if first else chance.choice([*OF_TELLERS * 2, *of_brokers])
        trouble.bank.tell("fault", fault.__name__)
        await fault(trouble)
        played[fault.__name__] += 1
    return played


async def _account(bank: Bank, audits: Audits, system: Given | None, report: Report) -> None:
    entry_ends = await bank.ends(bank.entries, ENTRY_PARTITIONS, READ_UNCOMMITTED)
    order_ends = await bank.ends(bank.orders, ORDER_PARTITIONS, READ_UNCOMMITTED)
    orders = await asyncio.to_thread(bank.read_all, bank.orders, order_ends)
    everything = await asyncio.to_thread(bank.read_all, bank.entries, entry_ends)
    bank.books.check((value for records in orders.values() for _, value in records), bank.seen.log, everything)
    committed = await asyncio.to_thread(bank.committed_offsets)
    if committed != order_ends:
        bank.books.faults.append(f"committed offsets are {committed}, the orders end at {order_ends}")
    if bank.seen.halves:
        bank.books.faults.append(f"{len(bank.seen.halves)} transfers are half seen")
    written = sum(len(records) for records in everything.values())
    report.notes["entries hidden"] = written - sum(len(records) for records in bank.seen.log.values())
    torn = [order for cut in audits.uneven for order in torn_orders(bank.seen.log, everything, cut)]
    if system is None:
        report.notes["orders torn"] = len(torn)
    else:
        if torn:
            bank.books.faults.append(f"transactions became visible in parts, by the orders {torn[:5]}")
        await _compare_with_sql(bank, system)


async def _nothing_open(bank: Bank, system: Given) -> None:
    """Return when SQL knows of no open transaction, which may take its timeout, and of no pending offset."""
    deadline = time.monotonic() + QUIET_S
    while left := await system.fetch(
        "SELECT transactional_id FROM kafka.transactions WHERE age IS NOT NULL "
        "UNION SELECT transactional_id FROM kafka.pending_offsets"
    ):
        if time.monotonic() > deadline:
            bank.books.faults.append(f"transactions are left open, by SQL: {[row[0] for row in left]}")
            return
        await asyncio.sleep(0.2)


async def _compare_with_sql(bank: Bank, system: Given) -> None:
    rows = await system.fetch(
        "SELECT m.partition_id AS partition, m.partition_offset AS at, kafka.as_text(m.value) AS value FROM kafka.messages m "
        "JOIN kafka.topics t ON t.id = m.topic_id WHERE t.name = $1 ORDER BY m.partition_id, m.partition_offset",
        bank.entries,
    )
    by_sql: dict[int, list[tuple[int, str]]] = {index: [] for index in range(ENTRY_PARTITIONS)}
    for row in rows:
        by_sql[row["partition"]].append((row["at"], row["value"]))
    for partition, records in by_sql.items():
        if records != bank.seen.log[partition]:
            differing = sorted(set(records) ^ set(bank.seen.log[partition]))
            bank.books.faults.append(f"{partition}: SQL and the reader differ in {len(differing)}: {differing[:3]}")


async def run(seed: int, protocol: str, seconds: float, *, has_standby: bool = False) -> Report:
    """A run on a system made for it."""
    system = Pair(synchronous=True) if has_standby else Given()
    await system.open()
    try:
        place = await system.serving()
        return await play(f"{place.host}:{place.port}", system, system.folder, seed, protocol, seconds)
    finally:
        await system.close()


async def run_with_standby(seed: int, protocol: str, seconds: float) -> Report:
    """A run on a pair of servers that fails over."""
    return await run(seed, protocol, seconds, has_standby=True)


async def run_on_kafka(seed: int, protocol: str, seconds: float) -> Report:
    """A run on Apache Kafka, where only tellers are killed."""
    folder = Path(tempfile.mkdtemp(prefix="pgk-bank-"))
    kafka = ApacheKafka(folder, BROKER_SETTINGS, heap="512m")
    try:
        await asyncio.to_thread(kafka.start)
        return await play(kafka.bootstrap, None, folder, seed, protocol, seconds)
    finally:
        await asyncio.to_thread(kafka.stop)
        shutil.rmtree(folder, ignore_errors=True)


def keep_logs(folder: Path, report: Report) -> None:
    """Put the logs of a failed run where they outlive the system."""
    kept = Path("build/crash") / f"bank-{report.protocol}-{report.seed}"
    kept.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copyfile(log, kept / log.name)


def environment() -> dict[str, str]:
    """What the broker of a run is told."""
    return {f"PG_KAFKA_{name.replace('.', '_').upper()}": value for name, value in SETTINGS.items()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 30))
    parser.add_argument("--protocol", choices=("classic", "consumer"), default=None)
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("--failover", action="store_true")
    parser.add_argument("--library", choices=sorted(set(LIBRARIES)), default=None)
    given = parser.parse_args()
    os.environ.update(environment())
    play_it = run_on_kafka if given.kafka else run_with_standby if given.failover else run
    if given.library:
        TELLERS[:] = [given.library] * len(TELLERS)
    failed = False
    protocols = [given.protocol] if given.protocol else ["classic", "consumer"]
    for protocol in protocols:
        report = asyncio.run(play_it(given.seed, protocol, given.seconds / len(protocols)))
        print(report.line(), *report.faults[:20], sep="\n    ", flush=True)
        failed |= bool(report.faults)
        if given.results is not None:
            _append(given.results, report)
    return int(failed)


def _append(results: Path, report: Report) -> None:
    notes = " ".join(f"{name.replace(' ', '_')}={value}" for name, value in report.notes.items())
    faults = "; ".join(" ".join(fault.split())[:200] for fault in report.faults[:3]).replace("|", "/")
    with results.open("a") as file:
        file.write(
            f"| bank, {report.protocol} | {report.seed} | {'FAILED' if report.faults else 'ok'} | {report.transfers} "
            f"| {report.silence_s:.1f} | {notes} | {faults} |\n"
        )


if __name__ == "__main__":
    sys.exit(main())
