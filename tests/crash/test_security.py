"""Users, permissions and quotas outlive kill -9 of PostgreSQL and of the broker; clients with SCRAM over TLS go on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.clients.client import ClientError
from tests.clients.logins import Login
from tests.clients.python_clients import Confluent
from tests.clients.records import numbered
from tests.clients.secure_brokers import ADMIN, Secrets, SecurePgKafka, run_sql
from tests.crash.servers import Server
from tests.postgres import FLAVOURS

pytestmark = pytest.mark.timeout(300)

SCRAM = "SCRAM-SHA-512"
TOPIC = "ledger"
PASSWORDS = {"alice": "alice's password", "bob": "bob's password"}
DEADLINE_S = 90.0
# What is stored of them, in the order in which it is shown.
STORED = (
    "SELECT * FROM kafka.users ORDER BY name, mechanism",
    "SELECT * FROM kafka.acls ORDER BY 1, 2, 3, 4, 5, 6",
    "SELECT * FROM kafka.quotas ORDER BY 1, 2, 3",
)


@pytest.fixture
def server() -> Iterator[Server]:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    server = Server()
    server.create()
    try:
        yield server
    finally:
        server.destroy()


@pytest.fixture
def pair(server: Server) -> Iterator[tuple[SecurePgKafka, SecurePgKafka]]:
    """The first one leads, the other waits; users may log in to both."""
    folder = Path(tempfile.mkdtemp(prefix="pgk-secure-", dir="/tmp"))
    secrets = Secrets(folder)
    database = server.create_database()
    brokers = tuple(SecurePgKafka(folder / name, secrets, database) for name in ("one", "two"))
    first, second = brokers
    try:
        first.start()
        second.start(leads=False)
        yield first, second
    finally:
        for broker in brokers:
            broker.kill()
        shutil.rmtree(folder)


def write(client: Confluent, address: str, login: Login) -> None:
    with closing(client.producer(address, login=login)) as producer:
        producer.send(TOPIC, numbered(1))


def test_who_may_do_what_outlives_both(server: Server, pair: tuple[SecurePgKafka, SecurePgKafka]) -> None:
    first, second = pair
    dsn = first.database.dsn
    for user in PASSWORDS.items():
        first.create_user(*user)
    for future in first.admin.create_topics([ADMIN.NewTopic(TOPIC, 1, 1)]).values():
        future.result(20)
    first.allow("alice", TOPIC, "READ", "WRITE", "DESCRIBE")
    first.sql("SELECT kafka.set_client_quota('producer_byte_rate', 1e9, 'alice')")
    stored = [run_sql(dsn, statement) for statement in STORED]
    assert all(stored), "nothing is stored"

    client = Confluent()
    addresses = ",".join(broker.address("SASL_SSL") for broker in pair)
    logins = {name: first.secrets.login("SASL_SSL", SCRAM, name, password) for name, password in PASSWORDS.items()}
    with (
        closing(client.producer(addresses, login=logins["alice"])) as producer,
        closing(client.consumer(addresses, TOPIC, login=logins["alice"])) as consumer,
    ):
        written = 0

        def goes_on() -> None:
            nonlocal written
            records = numbered(50, first=written)
            producer.send(TOPIC, records)
            read = []
            deadline = time.monotonic() + DEADLINE_S
            while len(read) < len(records):
                assert time.monotonic() < deadline, f"{len(read)} records of {len(records)} read"
                read += consumer.read(len(records) - len(read), timeout_s=5)
            assert [one.value for one in read] == [one.value for one in records]
            written += len(records)

        def is_as_before(broker: SecurePgKafka) -> None:
            goes_on()
            address = broker.address("SASL_SSL")
            with pytest.raises(ClientError, match=r"(?i)authoriz"):
                write(client, address, logins["bob"])
            with pytest.raises(ClientError, match=r"(?i)authentication"):
                write(client, address, first.secrets.login("SASL_SSL", SCRAM, "alice", "wrong"))

        is_as_before(first)
        server.kill()
        server.start_again()
        is_as_before(first)
        first.kill()
        is_as_before(second)
    assert [run_sql(dsn, statement) for statement in STORED] == stored
