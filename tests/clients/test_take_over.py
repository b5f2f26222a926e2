"""Two brokers on one database: each library finds the one that leads, through whichever of its list it reaches."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import asyncpg
import pytest
from tests.clients.agents import JavaClient
from tests.clients.brokers import PgKafka
from tests.clients.client import Client, ClientError, Consumer
from tests.clients.conftest import LIBRARIES
from tests.clients.records import Record, at_offsets, numbered
from tests.clients.transactions import OLD_JAVA_DIR
from tests.kafka_reference import JAVA_DIR, java, need
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

NAMES = [name for name, library in LIBRARIES.items() if library.keeps_open]
_numbers = itertools.count(1)


class OldJava(JavaClient):
    """Java clients that know the addresses of the last Metadata alone."""

    name = "java-3.9"

    def command(self) -> list[str]:
        need("javac", "apt-get install openjdk-17-jdk-headless")
        return java(str(JAVA_DIR / "ClientAgent.java"), libraries=OLD_JAVA_DIR)


class Pair:
    """`leader` serves and `other` waits, whoever is killed."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._dsn = dsn
        folders = [folder / name for name in ("one", "two")]
        for place in folders:
            place.mkdir()
        self.leader, self.other = (PgKafka("postgresql-15", place, dsn) for place in folders)
        self.brokers = (self.leader, self.other)

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    async def settle(self) -> None:
        """Both run, and each is known to the other."""
        self.leader.ensure_started()
        if not self.other.is_running():
            self.other.start(leads=False)
        await self._until("waiting", self.other)

    async def kill_the_leader(self) -> None:
        """The other one serves when this returns."""
        self.leader.kill()
        self.leader, self.other = self.other, self.leader
        await self._until("live", self.leader)

    async def _until(self, status: str, broker: PgKafka) -> None:
        port = int(broker.bootstrap.rpartition(":")[2])
        connection = await asyncpg.connect(self._dsn)
        deadline = time.monotonic() + 60
        wanted = "SELECT count(*) FROM kafka.brokers WHERE status = $1 AND port = $2 AND beats > 1"
        while not await connection.fetchval(wanted, status, port):
            assert time.monotonic() < deadline, f"{broker.bootstrap} is not {status}"
            await asyncio.sleep(0.05)
        await connection.close()


@pytest.fixture(scope="module")
def pair(postgres15: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    database = postgres15.create_database()
    pair = Pair(tmp_path_factory.mktemp("pair"), database.dsn)
    try:
        yield pair
    finally:
        for broker in pair.brokers:
            broker.clean_up()
        postgres15.drop_database(database)


@pytest.fixture(scope="module", params=[*NAMES, OldJava.name])
def library(request: pytest.FixtureRequest, clients: Callable[[str], Client]) -> Iterator[Client]:
    if request.param != OldJava.name:
        yield clients(request.param)
        return
    clients("java")  # skips when there is no Java
    client = OldJava()
    yield client
    client.stop()


@pytest.fixture
async def topic(pair: Pair, clients: Callable[[str], Client]) -> str:
    await pair.settle()
    name = f"orders-{next(_numbers)}"
    clients("confluent-kafka").create_topic(pair.leader.bootstrap, name)
    return name


def expected(client: Client, count: int) -> list[Record]:
    return at_offsets(numbered(count), range(count))


def read_on(consumer: Consumer, count: int) -> list[Record]:
    """Read past the errors of the lost connection: Sarama tells its caller of each, and goes on."""
    for _ in range(20):
        with suppress(ClientError):
            return consumer.read(count)
    return consumer.read(count)


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "plain"])
async def test_open_clients_go_on_after_a_take_over_at_another_address(
    pair: Pair, library: Client, topic: str, idempotent: bool
) -> None:
    with (
        closing(library.producer(pair.bootstrap, idempotent=idempotent)) as producer,
        closing(library.consumer(pair.bootstrap, topic)) as consumer,
    ):
        assert producer.send(topic, numbered(50)) == list(range(50))
        read = consumer.read(50)
        await pair.kill_the_leader()
        assert producer.send(topic, numbered(50, first=50)) == list(range(50, 100))
        read += read_on(consumer, 50)
    assert read == expected(library, 100)


async def test_clients_find_the_leader_through_the_one_that_waits(pair: Pair, library: Client, topic: str) -> None:
    waiting = pair.other.bootstrap
    assert library.produce(waiting, topic, numbered(50)) == list(range(50))
    assert library.consume(waiting, topic, 50) == expected(library, 50)
    if library.administers:
        library.create_topic(waiting, f"{topic}-by-{library.name}", 2)
        assert library.watermarks(waiting, topic) == (0, 50)
        assert library.configs(waiting, topic)["cleanup.policy"] == "delete"
