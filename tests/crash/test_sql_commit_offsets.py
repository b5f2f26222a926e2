"""Members of a consumer group book what they read and commit its offsets by SQL, while they and the broker are killed.

A member that is frozen in its transaction and wakes up when another one has its partitions is the worst of them: what it
has booked must not be committed beside what the other one books. PG_KAFKA_SQL_CRASH_SECONDS=600 goes on for ten minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.crash.servers import Given
from tests.crash.sql_faults import broker_killed, postgres_killed
from tests.crash.sql_member import SESSION_TIMEOUT_MS
from tests.crash.sql_orders import Feed
from tests.crash.sql_rounds import create_topic
from tests.crash.sql_workers import ORDERS, Workers
from tests.kafka_reference import ROOT

SECONDS = float(os.environ.get("PG_KAFKA_SQL_CRASH_SECONDS", "8"))
SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))
MEMBERS = 4
OFFSETS_S = 30.0
GROUP = "members"

pytestmark = [
    pytest.mark.timeout(400 + SECONDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members may be missed soon."""
    monkeypatch.setenv("PG_KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000")
    monkeypatch.setenv("PG_KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")


class Member:
    """A process; one that has ended is started again by `revive`."""

    def __init__(self, settings: dict[str, object], log: Path) -> None:
        self.said: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._settings, self._log = settings, log
        self._starts = 0
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None

    def start(self) -> None:
        self._starts += 1
        settings = json.dumps({**self._settings, "seed": f"{self._settings['seed']}/{self._starts}"})
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.sql_member", settings],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def revive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.kill()
            self.start()

    def kill(self) -> None:
        if self._process is not None and self._listener is not None:
            self._process.kill()
            self._process.wait()
            self._listener.join()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                what = line.split()[0]
                self.said[what] += 1
                if what == "unexpected":
                    self.unexpected.append(line.strip())


async def member_killed(system: Given, members: list[Member], chance: random.Random) -> None:
    member = chance.choice(members)
    member.kill()
    member.start()


async def member_frozen(system: Given, members: list[Member], chance: random.Random) -> None:
    """For longer than its session: it wakes up as a member of an old generation."""
    member = chance.choice(members)
    member.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(SESSION_TIMEOUT_MS / 1000 + 1)
    finally:
        member.signal(signal.SIGCONT)


async def broker_is_killed(system: Given, members: list[Member], chance: random.Random) -> None:
    await broker_killed(system, chance)


async def postgres_is_killed(system: Given, members: list[Member], chance: random.Random) -> None:
    await postgres_killed(system, chance)


Fault = Callable[[Given, list[Member], random.Random], Awaitable[None]]
FAULTS: list[Fault] = [member_frozen, member_killed, broker_is_killed, postgres_is_killed]


async def trouble(system: Given, members: list[Member]) -> Counter[str]:
    chance, played = random.Random(SEED), Counter[str]()
    first = chance.sample(FAULTS, len(FAULTS))
    deadline = time.monotonic() + SECONDS
    while first or time.monotonic() < deadline:
        pause = time.monotonic() + chance.uniform(0.5, 2)
        while time.monotonic() < pause:
            for member in members:
                member.revive()
            await asyncio.sleep(0.1)
        fault = first.pop() if first else chance.choice(FAULTS)
        await fault(system, members, chance)
        played[fault.__name__] += 1
    return played


async def group_offsets(system: Given) -> dict[int, int]:
    """What the group has committed, by partition."""
    rows = await system.fetch(
        "SELECT c.partition_id, c.committed_offset FROM kafka.consumer_offsets c WHERE c.group_id = $1", GROUP
    )
    return {row["partition_id"]: row["committed_offset"] for row in rows}


async def test_every_order_is_booked_once_by_members_that_commit_by_sql(
    one_broker: Given,
) -> None:
    system = one_broker
    bootstrap = f"{system.bootstrap.host}:{system.bootstrap.port}"
    await asyncio.to_thread(create_topic, bootstrap, ORDERS)
    books = Workers(system.sql_dsn, SEED, 0)
    await books.prepare()
    feed = Feed(bootstrap, system.sql_dsn, SEED)
    settings = {"bootstrap": bootstrap, "dsn": system.sql_dsn, "group": GROUP, "topic": ORDERS}
    log = system.folder / "members.log"
    members = [Member({**settings, "seed": f"{SEED}/{number}"}, log) for number in range(MEMBERS)]
    try:
        feed.start()
        for member in members:
            member.start()
        played = await trouble(system, members)
        await feed.stop()
        orders = await feed.everything()
        await _handled(books, members, sum(map(len, orders.values())))
    finally:
        for member in members:
            member.signal(signal.SIGCONT)
            await asyncio.to_thread(member.kill)
        await feed.stop()
    said = sum((member.said for member in members), Counter[str]())
    wrong = [*feed.faults, *books.faults, *await books.check(orders, None)]
    wrong += [line for member in members for line in member.unexpected]
    wrong += [line for broker in system.brokers for line in broker.complaints()]
    told = f"{sum(map(len, orders.values()))} orders, {dict(said)}, {dict(played)}"
    print(told)
    assert not wrong, "\n".join([f"seed {SEED}", told, *wrong[:20]])
    wanted = {partition: records[-1].offset + 1 for partition, records in orders.items()}
    # The view has what members have committed within about a second (docs/sql-groups.md).
    deadline = time.monotonic() + OFFSETS_S
    while (offsets := await group_offsets(system)) != wanted and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert offsets == wanted
    assert said["committed"]


async def _handled(books: Workers, members: list[Member], count: int) -> None:
    """Return when so many orders are booked, or more."""
    deadline = time.monotonic() + 90
    async with books.connection() as connection:
        while (handled := await connection.fetchval("SELECT count(*) FROM proof.handled")) < count:
            if time.monotonic() > deadline:
                books.faults.append(f"{handled} orders of {count} are booked")
                return
            for member in members:
                member.revive()
            await asyncio.sleep(0.05)
