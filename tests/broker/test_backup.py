"""Backup and restore with exactly the commands of docs/operations.md, on a server and an archive of this test's own."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka
import pytest
from tests.broker.command import Serving
from tests.broker.rawclient import RawClient
from tests.clients.brokers import COMMAND
from tests.crash.servers import Server
from tests.kafka_reference import HOST, free_port
from tests.postgres import FLAVOURS, Database, embedded_dsn, unprivileged_user
from tests.storage.test_strangers import EVERYBODY_S

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
TOPIC = "orders"
HISTORY_EPOCHS = 1000
HISTORY_PRODUCER_IDS = 1_000_000_000
READER = "backup_reader"


def blocks(heading: str) -> list[str]:
    """The code blocks of a section."""
    section = PAGE.read_text().split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"^```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def server() -> Iterator[Server]:
    try:
        one = Server()
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        one.create()
        yield one
    finally:
        one.destroy()


class Shell:
    """Runs the page's commands as the user who runs PostgreSQL, with the page's names for what is this test's."""

    def __init__(self, folder: Path, binaries: Path, names: Mapping[str, str], **environment: str) -> None:
        self.folder = folder
        self.names = {**names, "/srv/": f"{folder}/srv/"}
        self.environment = {"PATH": f"{binaries}:{COMMAND.parent}:{os.environ['PATH']}", "LC_ALL": "C", **environment}
        user = unprivileged_user()
        self._user = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        (folder / "srv" / "archive").mkdir(parents=True)
        if user is not None:
            for made in (folder / "srv", folder / "srv" / "archive"):
                shutil.chown(made, user)

    def here(self, text: str) -> str:
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    def run(self, commands: str) -> None:
        done = subprocess.run(
            ["bash", "-euc", self.here(commands)],
            cwd=self.folder / "srv",
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **self._user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


def shell_of(server: Server, database: Database) -> Shell:
    return Shell(
        server.folder,
        server.binaries,
        {"--owner=pg_kafka": f"--owner={database.name}"},
        SERVER=server.dsn(),
        DATABASE=database.dsn,
        RESTORED=server.dsn("kafka_restored", database.name),
    )


class Clients:
    """A producer that stays open, a consumer that keeps its place in a table of the same database, and a group."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.acks: list[tuple[int, bytes]] = []
        self._numbers = itertools.count()
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def produce(self, count: int) -> list[bytes]:
        """Values of so many new records, acknowledged at the offsets that come next."""
        values = [b"%d" % next(self._numbers) for _ in range(count)]

        def delivered(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
            assert error is None, error
            self.acks.append((message.offset(), message.value()))

        for value in values:
            self._producer.produce(TOPIC, value, partition=0, on_delivery=delivered)
        assert self._producer.flush(60) == 0
        assert [value for _, value in self.acks[-count:]] == values
        return values

    def consume(self, place: int, count: int) -> list[tuple[int, bytes | None]]:
        """So many records from a place on."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "unused", "auto.offset.reset": "error"}
        )
        consumer.assign([confluent_kafka.TopicPartition(TOPIC, 0, place)])
        try:
            found: list[confluent_kafka.Message] = []
            while len(found) < count:
                more = consumer.consume(count - len(found), 30)
                assert more and not any(message.error() for message in more), [m.error() for m in more]
                found += more
            return [(message.offset(), message.value()) for message in found]
        finally:
            consumer.close()

    def consume_in_group(self, count: int) -> list[tuple[int, bytes | None]]:
        """So many records from where the group has committed; then that is committed."""
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "backup",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([TOPIC])
        try:
            found: list[confluent_kafka.Message] = []
            while len(found) < count:
                more = consumer.consume(count - len(found), 60)
                assert more and not any(message.error() for message in more), [m.error() for m in more]
                found += more
            place = confluent_kafka.TopicPartition(TOPIC, 0, found[-1].offset() + 1)
            consumer.commit(offsets=[place], asynchronous=False)
            return [(message.offset(), message.value()) for message in found]
        finally:
            consumer.close()


async def log_of(dsn: str) -> list[tuple[int, bytes]]:
    """The topic's log as SQL shows it; its global offsets grow and none is there twice."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT partition_offset, value, global_offset FROM kafka.messages m JOIN kafka.topics t ON t.id = m.topic_id"
            " WHERE t.name = $1 ORDER BY partition_offset",
            TOPIC,
        )
    finally:
        await connection.close()
    order = [row["global_offset"] for row in rows]
    assert order == sorted(set(order))
    return [(row["partition_offset"], row["value"]) for row in rows]


async def keep_place(dsn: str, place: int) -> None:
    """The consumer's own transaction, as an application would have it."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS public.place (next_offset bigint)")
        await connection.execute("DELETE FROM public.place")
        await connection.execute("INSERT INTO public.place VALUES ($1)", place)
    finally:
        await connection.close()


async def value_of(dsn: str, question: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def epochs_of(dsn: str) -> Sequence[int]:
    found: Sequence[int] = await value_of(dsn, "SELECT array_agg(epoch ORDER BY epoch) FROM kafka.leader_epochs")
    return found


async def give_to_reader(server: Server, dsn: str) -> None:
    """A role that may read the topic, as the page has it."""
    (section,) = (
        text for text in PAGE.read_text().split("```sql\n")[1:] if "GRANT USAGE ON SCHEMA" in text.split("```")[0]
    )
    section = section.split("```")[0]
    server.sql(f"CREATE ROLE {READER} LOGIN")
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(20):
            while not await connection.fetchval("SELECT to_regclass('topics.orders') IS NOT NULL"):  # noqa: ASYNC110 - the janitor makes it
                await asyncio.sleep(0.05)
        await connection.execute(section.replace("TO reader", f"TO {READER}"))
    finally:
        await connection.close()


def serve(dsn: str, port: int) -> Serving:
    return Serving("--listen", f"{HOST}:{port}", "--database", dsn)


async def test_dump_restored_into_a_new_database_goes_on(server: Server) -> None:
    database = server.create_database()
    shell = shell_of(server, database)
    port = free_port()
    clients = Clients(f"{HOST}:{port}")
    with serve(database.dsn, port).ready() as broker:
        values = clients.produce(300)
        assert len(clients.consume_in_group(200)) == 200
        await keep_place(database.dsn, 200)
        await give_to_reader(server, database.dsn)
        async with await RawClient.connect(broker) as client:
            producer_id = await client.new_producer_id()
        (dump,) = blocks("Dump")
        shell.run(dump)
        epochs = await epochs_of(database.dsn)
        clients.consume_in_group(100)  # its offset after this is not in the dump
        assert broker.stop() == 0

    restored = server.dsn("kafka_restored", database.name)
    commands, started = blocks("Restore a dump")[0].split("pg-kafka serve")
    assert started == ' --database "$RESTORED"\n'
    shell.run(commands)
    with serve(restored, port).ready() as broker:
        # The same producer, under way since before the dump.
        values += clients.produce(50)
        place = await value_of(restored, "SELECT next_offset FROM public.place")
        assert clients.consume(place, 150) == list(enumerate(values))[200:]
        assert clients.consume_in_group(150) == list(enumerate(values))[200:]
        async with await RawClient.connect(broker) as client:
            assert await client.new_producer_id() >= producer_id + HISTORY_PRODUCER_IDS
            await client.create_topic()
        assert "the server's history changed" in broker.err
    assert await log_of(restored) == list(enumerate(values)) == clients.acks
    assert (await epochs_of(restored))[-1] >= epochs[-1] + HISTORY_EPOCHS
    as_reader = server.dsn("kafka_restored", READER)
    assert await value_of(as_reader, 'SELECT count(*) FROM topics."orders"') == len(values)
    assert not await value_of(as_reader, "SELECT has_table_privilege('kafka.log', 'SELECT')")
    open_to_all = (
        "SELECT array_agg(proname::text ORDER BY proname) FROM pg_proc WHERE pronamespace = 'kafka'::regnamespace"
        f" AND has_function_privilege('{READER}', oid, 'EXECUTE')"
    )
    # Views call them in the reader's name; none returns a record that the reader has not.
    names = sorted(signature.removeprefix("kafka.").partition("(")[0] for signature in EVERYBODY_S)
    assert await value_of(restored, open_to_all) == names

    # A second start on it is an ordinary one.
    before = (await epochs_of(restored))[-1]
    with serve(restored, port).ready():
        clients.produce(1)
    assert (await epochs_of(restored))[-1] == before + 1


async def test_dump_restored_in_the_place_of_what_is_there_goes_on(server: Server) -> None:
    database = server.create_database()
    shell = shell_of(server, database)
    clients = Clients(f"{HOST}:{(port := free_port())}")
    with serve(database.dsn, port).ready() as broker:
        values = clients.produce(100)
        await give_to_reader(server, database.dsn)
        await keep_place(database.dsn, 70)
        epochs = await epochs_of(database.dsn)
        dump, restore = blocks("Restore in the same place")
        shell.run(dump)
        clients.produce(100)
        shell.run(restore)
        again = Clients(f"{HOST}:{port}")
        values += again.produce(50)
        assert await log_of(database.dsn) == list(enumerate(values))
        assert again.consume(0, 150) == list(enumerate(values))
        assert await value_of(database.dsn, "SELECT next_offset FROM public.place") == 70
        assert broker.process.poll() is None
    assert (await epochs_of(database.dsn))[-1] >= epochs[-1] + HISTORY_EPOCHS
    as_reader = server.dsn(database.name, READER)
    assert await value_of(as_reader, 'SELECT count(*) FROM topics."orders"') == len(values)


async def test_recovery_to_a_point_in_time_goes_on(server: Server) -> None:
    database = server.create_database()
    shell = shell_of(server, database)
    archiving, base_backup, put_in_place, recovery = blocks("Point-in-time recovery")
    server.stop()
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(shell.here(archiving))
    server.start()
    port = free_port()
    clients = Clients(f"{HOST}:{port}")
    with serve(server.dsn(database.name, database.name), port).ready() as broker:
        shell.environment["SERVER"] = server.dsn()
        values = clients.produce(100)
        shell.run(base_backup)
        values += clients.produce(100)
        assert len(clients.consume_in_group(150)) == 150
        await keep_place(server.dsn(database.name, database.name), 150)
        epochs = await epochs_of(server.dsn(database.name))
        async with await RawClient.connect(broker) as client:
            producer_id = await client.new_producer_id()
        moment = server.sql("SELECT pg_sleep(0.01), clock_timestamp()").strip().partition("|")[2]
        lost = clients.produce(100)
        assert len(clients.consume_in_group(150)) == 150
        server.sql("SELECT pg_switch_wal()")
        server.stop()

        shell.run(put_in_place)
        restored = server.folder / "srv" / "restored"
        with (restored / "postgresql.auto.conf").open("a") as file:
            file.write(shell.here(recovery).replace("2026-01-31 12:00:00+00", moment))
        server.data = restored
        server.start()  # on its port: the broker has tried all the time
        dsn = server.dsn(database.name, database.name)
        # The old producer's last records are gone; a new one goes on, as an application that starts again does.
        again = Clients(f"{HOST}:{port}")
        values += again.produce(50)
        place = await value_of(dsn, "SELECT next_offset FROM public.place")
        assert again.consume(place, 100) == list(enumerate(values))[150:]
        assert again.consume_in_group(100) == list(enumerate(values))[150:]
        async with await RawClient.connect(broker) as client:
            assert await client.new_producer_id() >= producer_id + HISTORY_PRODUCER_IDS
        assert "the server's history changed" in broker.err
        assert broker.process.poll() is None
    assert lost[0] not in dict(map(reversed, await log_of(dsn)))  # type: ignore[arg-type]
    assert await log_of(dsn) == list(enumerate(values))
    assert (await epochs_of(dsn))[-1] >= epochs[-1] + HISTORY_EPOCHS


async def test_embedded_server_recovers_to_a_point_in_time(embedded_folder: Path) -> None:
    data = embedded_folder / "data"
    port = free_port()

    def serve_data() -> Serving:
        return Serving("--listen", f"{HOST}:{port}", "--data", str(data)).ready()

    def dsn() -> str:
        found = embedded_dsn(data)
        assert found is not None
        return found

    binaries = FLAVOURS["embedded"]()
    assert binaries is not None
    # The password is the broker's user's; this is another one when root runs the tests.
    shell = Shell(embedded_folder, binaries, {})
    archiving, base_backup, put_in_place, recovery = blocks("Point-in-time recovery")
    clients = Clients(f"{HOST}:{port}")
    with serve_data() as broker:
        clients.produce(10)
        assert broker.stop() == 0
    with (data / "postgres" / "postgresql.conf").open("a") as file:
        file.write(shell.here(archiving))
    with serve_data() as broker:
        shell.environment["SERVER"] = f"postgresql://postgres@{HOST}:{dsn().rpartition('=')[2]}/pg_kafka"
        password = shell.folder / "srv" / "pgpass"
        shutil.copy(data / "pgpass", password)
        shutil.chown(password, (data / "postgres").owner())
        shell.environment["PGPASSFILE"] = str(password)
        shell.run(base_backup)
        clients.produce(10)
        moment = str(await value_of(dsn(), "SELECT clock_timestamp()"))
        clients.produce(10)
        epochs = await epochs_of(dsn())
        await value_of(dsn(), "SELECT pg_switch_wal()")
        assert broker.stop() == 0
    shell.run(put_in_place)
    restored = embedded_folder / "srv" / "restored"
    with (restored / "postgresql.auto.conf").open("a") as file:
        file.write(shell.here(recovery).replace("2026-01-31 12:00:00+00", moment))
    (data / "postgres").rename(embedded_folder / "old")
    restored.rename(data / "postgres")
    with serve_data():
        assert [offset for offset, _ in await log_of(dsn())] == list(range(20))
        Clients(f"{HOST}:{port}").produce(5)
        assert [offset for offset, _ in await log_of(dsn())] == list(range(25))
        assert (await epochs_of(dsn()))[-1] >= epochs[-1] + HISTORY_EPOCHS
