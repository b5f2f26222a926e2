"""`pg-kafka serve` as its user sees it: settings, banner, log, signals, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer
from tests.broker.command import ANY_PORT, Serving, copied, ordinary_user, processes_of, wait_until
from tests.broker.rawclient import CREATE_TOPICS, PRODUCE, RawClient, SomeTopic, batch, producing, records_of
from tests.kafka_reference import HOST, free_port
from tests.postgres import Database, PostgresServer, embedded_dsn, reachable_folder

from pg_kafka import __version__, app
from pg_kafka.config.load import load
from pg_kafka.embedded.postmaster import read_status
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from pg_kafka.wire.messages.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from pg_kafka.wire.messages.metadata import MetadataRequest

METADATA, DESCRIBE_CONFIGS = 3, 32
BROKER = 4
STATIC_BROKER, DYNAMIC_DEFAULT_BROKER, DEFAULT = 4, 3, 5


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    """A data folder that a broker has made, and that no test changes."""
    with reachable_folder(in_memory=True) as folder:
        data = folder / "data"
        with Serving("--listen", ANY_PORT, "--data", str(data)) as broker:
            broker.ready()
        yield data


@pytest.fixture
def data(made_once: Path, embedded_folder: Path) -> Path:
    """A copy of it for one test."""
    return copied(made_once, embedded_folder / "data")


def serve(*where: str, **more: Any) -> Serving:
    return Serving("--listen", ANY_PORT, *where, **more)


@asynccontextmanager
async def held_back(dsn: str) -> AsyncIterator[None]:
    """Nothing is appended to the log meanwhile: its tables are locked."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE kafka.log IN SHARE MODE")
            yield
    finally:
        await connection.close()


async def wait_until_writing(dsn: str) -> None:
    """Return when a session waits for the tables of the log."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(30):
            while not await connection.fetchval(  # noqa: ASYNC110 - PostgreSQL tells nobody that a session waits
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            ):
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def postmaster(data: Path) -> int | None:
    status = read_status(data / "postgres")
    return None if status is None else status.pid


async def values_in(broker: Serving, topic: SomeTopic) -> list[bytes | None]:
    async with await RawClient.connect(broker) as client:
        return [value for _, value in records_of(await client.fetch(topic, 0))]


# -- settings ------------------------------------------------------------------------------------------------------------


async def test_stronger_source_of_a_setting_wins(pg_database: Database, postgres15: Any, tmp_path: Path) -> None:
    await asyncio.to_thread(app.migrate, load({"database": pg_database.dsn}, {}, None))
    stored = {"log_roll_ms": 1002, "num_partitions": 2, "fetch_max_bytes": 2002, "max_connections_per_ip": 302}
    for name in ("message_max_bytes", *stored):
        postgres15.sql(f"ALTER DATABASE {pg_database.name} SET pg_kafka.{name} = '100001'")
    for name, value in stored.items():
        postgres15.sql(f"SELECT kafka.set_config('pg_kafka.{name}', '{value}')", pg_database.name)
    file = tmp_path / "pg-kafka.toml"
    file.write_text(
        f'database = "{pg_database.dsn}"\nlisten = "127.0.0.1:1"\nadvertise = "file.example:1"\n'
        'num.partitions = 3\n"fetch.max.bytes" = 2003\n'
    )
    variables = {
        "CONFIG": str(file),
        "LISTEN": "127.0.0.1:2",
        "ADVERTISE": "variable.example:2",
        "NUM_PARTITIONS": "4",
    }
    with serve(settings=variables) as broker:
        broker.ready()
        assert broker.line("Kafka clients").endswith(", advertised as variable.example:2")
        async with await RawClient.connect(broker) as client:
            request = DescribeConfigsRequest(
                resources=[DescribeConfigsResource(resource_type=BROKER, resource_name="1")]
            )
            (answer,) = (await client.call(request, DESCRIBE_CONFIGS, 4)).results
            assert answer.error_code == 0
            found = {entry.name: (entry.value, entry.config_source) for entry in answer.configs}
            create = CreateTopicsRequest(topics=[CreatableTopic(name="t", num_partitions=-1, replication_factor=-1)])
            (topic,) = (await client.call(create, CREATE_TOPICS, 7)).topics
    assert topic.num_partitions == 4
    assert {name: found[name] for name in found if name in _NAMES} == {
        "num.partitions": ("4", STATIC_BROKER),
        "fetch.max.bytes": ("2003", STATIC_BROKER),
        "log.roll.ms": ("1002", DYNAMIC_DEFAULT_BROKER),
        "max.connections.per.ip": ("302", DYNAMIC_DEFAULT_BROKER),
        "message.max.bytes": ("100001", STATIC_BROKER),
        "delete.topic.enable": ("true", DEFAULT),
    }


_NAMES = {
    "num.partitions",
    "fetch.max.bytes",
    "log.roll.ms",
    "max.connections.per.ip",
    "message.max.bytes",
    "delete.topic.enable",
}


# -- banner, addresses, log ----------------------------------------------------------------------------------------------


def test_banner_on_a_given_database(pg_database: Database, postgres15: PostgresServer) -> None:
    with serve("--database", pg_database.dsn) as broker:
        broker.ready()
        assert broker.out.startswith(f"pg-kafka {__version__} is ready\n")
        where = rf"{postgres15.socket_folder}:{postgres15.port}/{pg_database.name}"
        assert re.fullmatch(rf"PostgreSQL \d+\.\d+, {where}", broker.line("kept in"))
        if shutil.which("psql"):
            assert shell(f"{broker.line('SQL')} -Atc 'SELECT count(*) FROM kafka.topics'") == "0\n"
        if shutil.which("kcat"):
            shell(broker.line("try"))
            assert shell(broker.wait_for("-C -e").strip()) == "hello\n"


def test_banner_on_the_embedded_database(data: Path) -> None:
    with serve("--data", str(data)) as broker:
        broker.ready()
        assert re.fullmatch(rf"PostgreSQL \d+\.\d+, embedded, {data}", broker.line("kept in"))
        assert shell(f"{broker.line('SQL')} -Atc 'SELECT count(*) FROM kafka.topics'") == "0\n"


def shell(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done
    return done.stdout


async def test_clients_are_told_the_address_they_connected_to(pg_dsn: str) -> None:
    port = free_port()
    with Serving("--listen", f"0.0.0.0:{port}", "--database", pg_dsn, "--allow-anonymous") as broker:
        broker.ready()
        assert f"kcat -b 127.0.0.1:{port} " in broker.out
        assert "note            0.0.0.0:" in broker.wait_for("there is no authentication")
        for host in ("127.0.0.1", "127.0.0.2"):
            async with await RawClient.connect(Somewhere(host, port)) as client:
                metadata = await client.call(MetadataRequest(topics=[]), METADATA, 12)
            assert [(one.host, one.port) for one in metadata.brokers] == [(host, port)]


class Somewhere:
    """An address to connect to."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port


async def test_advertised_address_is_what_all_clients_are_told(pg_dsn: str) -> None:
    with serve("--database", pg_dsn, "--advertise", "kafka.example:19092") as broker:
        broker.ready()
        assert "kcat -b kafka.example:19092 " in broker.out
        async with await RawClient.connect(broker) as client:
            metadata = await client.call(MetadataRequest(topics=[]), METADATA, 12)
    assert [(one.host, one.port) for one in metadata.brokers] == [("kafka.example", 19092)]


async def test_ordinary_run_says_nothing_but_the_banner(pg_dsn: str) -> None:
    with serve("--database", pg_dsn) as broker:
        broker.ready()
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
            assert (await client.produce(topic, batch())).error_code == 0
        assert broker.stop(signal.SIGINT) == 0
        assert broker.err == ""
        # The servers of the tests run without fsync, which is noted.
        assert len([line for line in broker.out.splitlines() if "  note  " not in line]) == 6


def test_log_lines_are_structured(pg_dsn: str) -> None:
    with serve("--database", pg_dsn, "--log-level", "info") as broker:
        broker.ready()
        assert broker.stop() == 0
        lines = broker.err.splitlines()
    assert any("message=serving node=1 epoch=1 " in line for line in lines)
    pattern = r'time=\S+Z level=\w+ source=\S+ message=("[^"]*"|\S+)( \w+=("([^"\\]|\\.)*"|\S+))*'
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []


# -- signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_broker_and_its_postgresql(number: signal.Signals, data: Path) -> None:
    with serve("--data", str(data)) as broker:
        broker.ready()
        assert processes_of(data)
        assert broker.stop(number) == 0
        assert broker.err == ""
    wait_until(lambda: not processes_of(data), "the server's log collector ends after it")
    assert not (data / "postgres" / "postmaster.pid").exists()


async def test_requests_in_progress_are_finished_before_the_end(pg_dsn: str) -> None:
    with serve("--database", pg_dsn) as broker:
        broker.ready()
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
            async with held_back(pg_dsn):
                sent = client.send(producing(topic, {0: batch()}), PRODUCE, 9)
                await wait_until_writing(pg_dsn)
                broker.send(signal.SIGTERM)
                wait_until(lambda: not is_listening(broker.port), "the broker stops listening")
            response = await client.receive(PRODUCE, 9, sent)
        assert response.responses[0].partition_responses[0].error_code == 0
        assert broker.ended() == 0
        assert broker.err == ""
    connection = await asyncpg.connect(pg_dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM kafka.messages") == 1
        # What a take-over would read back is one row now.
        assert await connection.fetchval("SELECT count(*) FROM kafka.partition_checkpoints") == 1
        assert await connection.fetchval("SELECT status FROM kafka.brokers") == "stopped"
    finally:
        await connection.close()


async def test_second_signal_ends_it_at_once(data: Path) -> None:
    with serve("--data", str(data)) as broker:
        broker.ready()
        dsn = embedded_dsn(data)
        assert dsn is not None
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
            connection = await asyncpg.connect(dsn)
            await connection.execute("BEGIN; LOCK TABLE kafka.log IN SHARE MODE")
            client.send(producing(topic, {0: batch()}), PRODUCE, 9)
            await wait_until_writing(dsn)
            broker.send(signal.SIGTERM)
            wait_until(lambda: not is_listening(broker.port), "the broker stops listening")
            assert broker.stop(signal.SIGTERM) == 1
            connection.terminate()
    wait_until(lambda: not processes_of(data), "PostgreSQL ends")


def test_signal_during_the_start_leaves_nothing_running(embedded_folder: Path) -> None:
    data = embedded_folder / "data"
    with serve("--data", str(data)) as broker:
        wait_until(lambda: list(data.glob("postgres.new-*/global")), "initdb")
        assert broker.stop(signal.SIGINT) == 0
        assert (broker.out, broker.err) == ("", "")
    assert list(data.glob("postgres*/PG_VERSION")) == []


# -- what it survives ----------------------------------------------------------------------------------------------------


async def test_postgresql_of_a_killed_broker_is_adopted(data: Path) -> None:
    with serve("--data", str(data)) as killed:
        killed.ready()
        async with await RawClient.connect(killed) as client:
            topic = await client.create_topic()
            await client.produce(topic, batch([b"kept"]))
        orphan = postmaster(data)
        killed.stop(signal.SIGKILL)
    with serve("--data", str(data)) as broker:
        broker.ready()
        assert postmaster(data) == orphan
        assert await values_in(broker, topic) == [b"kept"]
        assert broker.stop() == 0
    wait_until(lambda: not processes_of(data), "the adopted server ends with the broker")


async def test_clients_go_on_after_postgresql_was_killed(data: Path) -> None:
    with serve("--data", str(data)) as broker:
        broker.ready()
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic()
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "enable.idempotence": True})
        producer.produce(topic.name, b"before")
        assert producer.flush(30) == 0
        killed = postmaster(data)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: postmaster(data) not in (None, killed), "a new server")
        producer.produce(topic.name, b"after")
        assert producer.flush(60) == 0
        assert await values_in(broker, topic) == [b"before", b"after"]
        assert "PostgreSQL ended, starting it again" in broker.err
        assert broker.stop() == 0
    wait_until(lambda: not processes_of(data), "the new server ends with the broker")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_second_broker_waits_and_takes_over(how: signal.Signals, pg_dsn: str) -> None:
    first_port = free_port()
    with Serving("--listen", f"{HOST}:{first_port}", "--database", pg_dsn) as first:
        first.ready()
        async with await RawClient.connect(first) as client:
            topic = await client.create_topic()
            await client.produce(topic, batch([b"kept"]))
        with serve("--database", pg_dsn) as second:
            assert f"another broker ({HOST}:{first_port}) serves this database" in second.wait_for("waiting")
            assert "is ready" not in second.out
            first.stop(how)
            second.ready()
            assert await values_in(second, topic) == [b"kept"]
            assert second.stop() == 0


async def test_frozen_broker_is_replaced_and_waits_when_it_wakes(pg_dsn: str) -> None:
    patience = {"HEARTBEAT_MS": "500", "EVICTION_MS": "1500"}
    with serve("--database", pg_dsn, settings=patience) as first:
        first.ready()
        async with await RawClient.connect(first) as client:
            topic = await client.create_topic()
        with serve("--database", pg_dsn, settings=patience) as second:
            second.wait_for("waiting")
            first.send(signal.SIGSTOP)
            second.ready()
            async with await RawClient.connect(second) as client:
                assert (await client.produce(topic, batch([b"kept"]))).error_code == 0
            first.send(signal.SIGCONT)
            assert f"another broker ({HOST}:" in first.wait_for("waiting")
            wait_until(lambda: is_listening(first.port), "it tells clients where the other one is")
            async with await RawClient.connect(first) as client:
                assert (await client.fetch(topic, 0)).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert second.stop() == 0
        async with asyncio.timeout(30):
            values: list[bytes | None] = []
            while values != [b"kept"]:  # it serves again, where it did
                with contextlib.suppress(OSError, EOFError):  # the listener of the one that waited has ended
                    values = await values_in(first, topic)
                await asyncio.sleep(0.05)
        assert first.stop() == 0


def test_waiting_broker_ends_on_a_signal(pg_dsn: str) -> None:
    with serve("--database", pg_dsn) as first:
        first.ready()
        with serve("--database", pg_dsn) as second:
            second.wait_for("waiting")
            assert second.stop() == 0
            assert second.err == ""
        assert first.process.poll() is None


async def test_as_many_connections_as_it_asks_for_are_enough(pg_database: Database, postgres15: Any) -> None:
    postgres15.sql(f"ALTER ROLE {pg_database.name} CONNECTION LIMIT 12")
    with serve("--database", pg_database.dsn) as broker:
        broker.ready()
        async with await RawClient.connect(broker) as client:
            topic = await client.create_topic(8)
            for _ in range(3):
                await client.call(producing(topic, {index: batch() for index in range(8)}), PRODUCE, 9)
            await asyncio.gather(*(client_reads(broker, topic) for _ in range(4)))
        assert broker.stop() == 0
        assert broker.err == ""


async def client_reads(broker: Serving, topic: SomeTopic) -> None:
    async with await RawClient.connect(broker) as client:
        # A look-up by time is answered by PostgreSQL.
        assert (await client.offset_at(topic, 0)).error_code == 0


# -- users ---------------------------------------------------------------------------------------------------------------


def test_ordinary_user_with_an_empty_home(embedded_folder: Path) -> None:
    home = embedded_folder / "home"
    with ordinary_user(home) as (command, identity), serve(command=command, **identity) as broker:
        broker.ready()
        data = home / ".local" / "share" / "pg-kafka"
        assert broker.line("kept in").endswith(f", embedded, {data}")
        query = [*shlex.split(broker.line("SQL")), "-Atc", "SELECT count(*) FROM kafka.topics"]
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30, **identity)
        assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
        assert broker.stop() == 0
        assert broker.err == ""
        wait_until(lambda: not processes_of(data), "PostgreSQL ends")


def test_name_of_a_database_needs_no_escape(postgres15: PostgresServer) -> None:
    name = f"a b?{secrets.token_hex(4)}"
    postgres15.sql(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
    try:
        with serve("--database", postgres15.dsn(name.replace(" ", "%20").replace("?", "%3F"))) as broker:
            broker.ready()
            assert broker.line("kept in").endswith(f"/{name}")
            if shutil.which("psql"):
                assert shell(f"{broker.line('SQL')} -Atc 'SELECT current_database()'") == f"{name}\n"
    finally:
        postgres15.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
