"""The way of docs/security.md from nothing to a broker that is locked down: its commands as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka
import confluent_kafka.admin
import pytest
from tests.broker.command import Serving
from tests.broker.test_database_tls import Secured, secure_server
from tests.clients.brokers import COMMAND
from tests.kafka_reference import free_port
from tests.postgres import PostgresServer

PAGE = Path(__file__).parents[2] / "docs/security.md"
SECTION = "## From nothing to locked down\n"
BLOCK = re.compile(r"^```(sql|sh|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEADLINE_S = 30.0
NAMES = ("kafka_owner", "kafka_broker", "analyst", "auditor")


@pytest.fixture(scope="module")
def server(make_postgres: Callable[..., PostgresServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    yield from secure_server(make_postgres("postgresql-15", fsync=True), tmp_path_factory.mktemp("ca"))


@dataclass
class Reader:
    """Somebody who does what the page says."""

    server: Secured
    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def blocks(self) -> list[tuple[str, str]]:
        section = PAGE.read_text().split(SECTION)[1].split("\n## ")[0]
        return [(kind, self.own_names(text)) for kind, text in BLOCK.findall(section)]

    def own_names(self, text: str) -> str:
        """For the page's hosts and folders, those of the test."""
        text = text.replace("db.example.com:5432", f"127.0.0.1:{self.server.server.port}")
        text = text.replace("broker.example.com:9093", f"localhost:{self.port}").replace(
            "broker.example.com", "localhost"
        )
        text = text.replace("0.0.0.0:9093", f"127.0.0.1:{self.port}")
        return text.replace("/etc/pg_kafka", str(self.folder))

    def shell(self, text: str) -> str:
        """Run commands; what they export holds for the next ones. `pg-kafka serve` is left out."""
        commands = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("pg-kafka serve"))
        for line in re.findall(r"^export (.*)$", commands, re.MULTILINE):
            self.environment |= dict(pair.split("=", 1) for pair in line.split())
        path = f"{COMMAND.parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "KAFKA_"))}
        self.environment = {**kept, "PATH": path, **self.environment}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout

    def client(self, user: str, password: str, **more: Any) -> dict[str, Any]:
        return {
            "bootstrap.servers": f"localhost:{self.port}",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "ssl.ca.location": str(self.folder / "certs/ca.pem"),
            "log_level": 0,
            **more,
        }


async def run_as(dsn: str, statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


def produced(settings: dict[str, Any], topic: str) -> str | None:
    """What went wrong, by Kafka's name for it; None if nothing did."""
    found: list[Any] = []
    producer = confluent_kafka.Producer({**settings, "message.timeout.ms": 8000})
    producer.produce(topic, b"a record", on_delivery=lambda error, _message: found.append(error))
    producer.flush(DEADLINE_S)
    (error,) = found
    return None if error is None else str(error.name())


def created(settings: dict[str, Any], topic: str) -> str | None:
    """As `produced`."""
    admin = confluent_kafka.admin.AdminClient(settings)
    wanted = [confluent_kafka.admin.NewTopic(topic, 1, 1)]
    try:
        admin.create_topics(wanted, request_timeout=DEADLINE_S)[topic].result()
    except confluent_kafka.KafkaException as error:
        return str(error.args[0].name())
    return None


async def test_commands_of_the_page_lead_there(server: Secured, tmp_path: Path) -> None:
    reader = Reader(server, tmp_path, free_port())
    (tmp_path / "root.crt").write_bytes(server.ca.file.read_bytes())
    postgres = server.server
    blocks = reader.blocks()
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["sql", "sh", "sh", "sh", "toml", "sh", "sql", "sql"]
    database, schema, certs, users, settings, start, rights, readers = (text for _, text in blocks)
    postgres.sql("CREATE ROLE analyst LOGIN; CREATE ROLE auditor LOGIN;")
    try:
        postgres.sql(database)
        for block in (schema, certs):
            reader.shell(block)
        of_admin, of_shop = reader.shell(users).split()
        (tmp_path / "broker.toml").write_text(settings)
        found = reader.shell(start)
        assert not re.search("^(error|warning)", found, re.MULTILINE), found
        with Serving("--config", str(tmp_path / "broker.toml"), env=reader.environment) as broker:
            broker.ready()
            await run_as(postgres.dsn("kafka", "kafka_owner"), rights)
            shop = reader.client("shop", of_shop)
            # The broker follows rights that SQL has given within a second.
            async with asyncio.timeout(DEADLINE_S):
                while created(shop, "shop-orders"):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
            assert created(shop, "other") == "TOPIC_AUTHORIZATION_FAILED"
            assert produced(shop, "shop-orders") is None
            admin = reader.client("admin", of_admin)
            assert created(admin, "other") is None
            assert produced(shop, "other") == "TOPIC_AUTHORIZATION_FAILED"
            assert produced(reader.client("shop", "wrong"), "shop-orders") == "_MSG_TIMED_OUT"
            plain = {"bootstrap.servers": f"localhost:{reader.port}", "log_level": 0}
            assert produced(plain, "shop-orders") == "_MSG_TIMED_OUT"
            await until(
                postgres.dsn("kafka"), "SELECT view_name IS NOT NULL FROM kafka.topics WHERE name = 'shop-orders'"
            )
            await run_as(postgres.dsn("kafka", "kafka_owner"), readers)
            analyst = await asyncpg.connect(postgres.dsn("kafka", "analyst"))
            assert await analyst.fetchval('SELECT kafka.as_text(value) FROM topics."shop-orders"') == "a record"
            for refused in (
                "SELECT * FROM topics.other",
                "SELECT * FROM kafka.user_keys",
                "SELECT * FROM kafka.audit_log",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await analyst.execute(refused)
            await analyst.close()
            auditor = postgres.dsn("kafka", "auditor")
            told = (
                "SELECT count(*) > 0 FROM kafka.audit_log WHERE event = '{}' AND principal = '{}' AND resource = '{}'"
            )
            for event, principal, resource in (
                ("user created", "kafka_owner", "user shop"),
                ("login", "User:shop", "user shop"),
                ("login failed", "User:ANONYMOUS", "user shop"),
                ("topic created", "User:shop", "topic shop-orders"),
                ("topic created", "User:admin", "topic other"),
            ):
                await until(auditor, told.format(event, principal, resource))
            for secret in (of_shop, of_admin, "secret-of-the-broker", "secret-of-the-owner"):
                assert secret not in broker.out + broker.err
        assert of_shop not in postgres.log
    finally:
        postgres.sql("DROP DATABASE IF EXISTS kafka WITH (FORCE);")
        for name in NAMES:
            postgres.sql(f"DROP ROLE IF EXISTS {name};")


async def until(dsn: str, question: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await connection.fetchval(question):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
    except TimeoutError:
        rows = await connection.fetch("SELECT event, principal, resource, detail FROM kafka.audit_log")
        raise AssertionError(f"{question}: {[tuple(row) for row in rows]}") from None
    finally:
        await connection.close()
