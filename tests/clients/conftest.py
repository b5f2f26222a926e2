"""A broker for each flavour and a driver for each client library, started when a test first asks for them.

def test_x(broker, client): ...                 runs for every flavour and every client
pytest tests/clients -k "embedded and java"     one of each
PG_KAFKA_TEST_AGAINST_KAFKA=1 pytest -k apache-kafka    checks the tests themselves against Apache Kafka
PG_KAFKA_REQUIRE_CLIENTS=1                      a client that is not installed fails its tests
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import confluent_kafka
import pytest
from tests.clients.agents import FranzGo, JavaClient, Sarama
from tests.clients.brokers import Broker, PgKafka, Reference
from tests.clients.client import Client
from tests.clients.groups import SETTINGS
from tests.clients.kcat_client import Kcat
from tests.clients.python_clients import Aiokafka, Confluent, KafkaPython
from tests.kafka_reference import ToolMissing

from pg_kafka.broker.dispatch import APIS

LIBRARIES: Mapping[str, type[Client]] = {
    library.name: library for library in (Confluent, Aiokafka, KafkaPython, Kcat, JavaClient, FranzGo, Sarama)
}
FLAVOURS = ["embedded", "postgresql-15"]
if os.environ.get("PG_KAFKA_TEST_AGAINST_KAFKA") == "1":
    FLAVOURS.append("apache-kafka")
# Of PostgreSQLs one will do where a test takes long.
GROUP_FLAVOURS = [flavour for flavour in FLAVOURS if flavour != "embedded"]
JOIN_GROUP = 11

for library in ("kafka", "aiokafka"):  # they log each refused connection of a restart
    logging.getLogger(library).setLevel(logging.CRITICAL)

_topic_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sockets that client libraries forget when a broker goes away are not ours to close."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(autouse=True, scope="module")
def _collect_forgotten_sockets() -> Iterator[None]:
    """Before tests of other folders run, which would be blamed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def unavailable(missing: ToolMissing) -> None:
    """Skips the test, or fails it where every client must be there."""
    if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
        pytest.fail(str(missing))
    pytest.skip(str(missing))


@pytest.fixture(scope="session")
def clients() -> Iterator[Callable[[str], Client]]:
    """Factory: the client library of a name, made once; skips the test when its toolchain is missing."""
    made: dict[str, Client] = {}

    def get(name: str) -> Client:
        if name not in made:
            try:
                made[name] = LIBRARIES[name]()
            except ToolMissing as missing:
                unavailable(missing)
        return made[name]

    yield get
    for client in made.values():
        client.stop()


@pytest.fixture(scope="session")
def available_clients(clients: Callable[[str], Client]) -> list[Client]:
    """All libraries whose toolchain is here, for tests that run them at the same time."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(clients(name))
        except pytest.skip.Exception:
            continue
    return found


@pytest.fixture(params=list(LIBRARIES))
def client(request: pytest.FixtureRequest, clients: Callable[[str], Client]) -> Client:
    """Each client library in turn."""
    return clients(request.param)


@pytest.fixture(params=[name for name, library in LIBRARIES.items() if library.administers])
def admin(request: pytest.FixtureRequest, clients: Callable[[str], Client]) -> Client:
    """Each library with an admin client in turn."""
    return clients(request.param)


@pytest.fixture(params=[name for name, library in LIBRARIES.items() if library.keeps_open])
def open_client(request: pytest.FixtureRequest, clients: Callable[[str], Client]) -> Client:
    """Each library whose consumers stay open in turn."""
    return clients(request.param)


@pytest.fixture
def confluent(clients: Callable[[str], Client]) -> Client:
    """The library that prepares what a test of another one needs."""
    return clients("confluent-kafka")


@pytest.fixture(scope="session")
def brokers(request: pytest.FixtureRequest) -> Iterator[Callable[..., Broker]]:
    """Factory: the session's broker of a flavour, started when first asked for, and again when a test left it dead.

    `brokers(flavour, name, settings)` is another one, by that name, with settings.
    """
    started: dict[str, Broker] = {}
    # Not pytest's temporary folder, which is closed to the user that PostgreSQL runs as under root.
    root = Path(tempfile.mkdtemp(prefix="pgk-clients-", dir="/tmp"))
    root.chmod(0o711)

    def make(flavour: str, name: str, settings: Mapping[str, str]) -> Broker:
        folder = root / f"{flavour}{name}"
        folder.mkdir()
        if flavour == "apache-kafka":
            return Reference(folder, settings)
        database = None
        if flavour == "postgresql-15":
            database = request.getfixturevalue("postgres15").create_database().dsn
        return PgKafka(flavour, folder, database, settings)

    def get(flavour: str, name: str = "", settings: Mapping[str, str] = MappingProxyType({})) -> Broker:
        key = f"{flavour}{name}"
        if key not in started:
            started[key] = make(flavour, name, settings)
        started[key].ensure_started()
        return started[key]

    yield get
    try:
        for broker in started.values():
            broker.clean_up()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def group_brokers(brokers: Callable[..., Broker]) -> Callable[[str], Broker]:
    """Factory: a broker of a flavour where sessions of group members may be short."""
    return lambda flavour: brokers(flavour, "groups", SETTINGS)


@pytest.fixture(params=GROUP_FLAVOURS)
def group_flavour(request: pytest.FixtureRequest) -> str:
    """The flavours that the slow tests of groups run with."""
    flavour: str = request.param
    if flavour != "apache-kafka" and JOIN_GROUP not in APIS:
        pytest.skip("pg_kafka has no groups")
    return flavour


@pytest.fixture
def group_broker(group_flavour: str, group_brokers: Callable[[str], Broker]) -> Broker:
    """A running broker where sessions of group members may be short."""
    try:
        return group_brokers(group_flavour)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture(params=FLAVOURS)
def broker(request: pytest.FixtureRequest, brokers: Callable[[str], Broker]) -> Broker:
    """A running broker of each flavour in turn."""
    try:
        return brokers(request.param)
    except ToolMissing as missing:
        unavailable(missing)
        raise


@pytest.fixture
def bootstrap(broker: Broker) -> str:
    """Where clients connect."""
    return broker.bootstrap


@pytest.fixture
def unused_topic() -> Callable[[], str]:
    """Factory: a topic name that nobody has used."""
    return lambda: f"orders-{os.getpid()}-{next(_topic_numbers)}"


@pytest.fixture
def new_topic(bootstrap: str, confluent: Client, unused_topic: Callable[[], str]) -> Callable[..., str]:
    """Factory: `new_topic(partitions, {config: value})` creates a topic and returns its name."""

    def create(partitions: int = 1, configs: Mapping[str, str] | None = None) -> str:
        topic = unused_topic()
        confluent.create_topic(bootstrap, topic, partitions, configs)
        for partition in range(partitions):
            wait_until_led(topic, partition)
        return topic

    def wait_until_led(topic: str, partition: int) -> None:
        """Apache Kafka answers before the partition's leader is ready."""
        deadline = time.monotonic() + 30
        while True:
            try:
                confluent.watermarks(bootstrap, topic, partition)
                return
            except confluent_kafka.KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    return create


@pytest.fixture
def topic(new_topic: Callable[..., str]) -> str:
    """A new topic with one partition."""
    return new_topic()


@pytest.fixture(scope="session")
def once() -> dict[Any, Any]:
    """What several tests share: a dictionary that lives as long as the run."""
    return {}
