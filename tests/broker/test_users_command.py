"""`pg-kafka users`, and who can log in then: published clients, on brokers that lead and that wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from tests.broker.command import Serving, run, wait_until
from tests.broker.saslpeer import ALL, SaslPeer
from tests.kafka_reference import HOST, free_port
from tests.postgres import Database

from pg_kafka.security import scram
from pg_kafka.security.scram import SHA_512
from pg_kafka.users_cli import PASSWORD_VARIABLE
from pg_kafka.wire.messages.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    ScramCredentialDeletion,
)
from pg_kafka.wire.messages.describe_user_scram_credentials import DescribeUserScramCredentialsRequest


class SaslServing:
    """A process with a listener for everybody and one that asks."""

    def __init__(self, dsn: str, **settings: str) -> None:
        self.host, self.open_port, self.port = HOST, free_port(), free_port()
        self.serving = Serving(
            "--database",
            dsn,
            settings={
                "LISTENERS": f"PLAINTEXT://{HOST}:{self.open_port},SASL://{HOST}:{self.port}",
                "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
                "LISTENER_NAME_SASL_SASL_ENABLED_MECHANISMS": ",".join(ALL),
                "CONNECTION_FAILED_AUTHENTICATION_DELAY_MS": "0",
                **settings,
            },
        )

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"


@pytest.fixture
def leader(pg_database: Database) -> Iterator[SaslServing]:
    one = SaslServing(pg_database.dsn)
    with one.serving:
        one.serving.ready()
        yield one


def users(*arguments: str, dsn: str, **more: Any) -> Any:
    return run("users", *arguments, "--database", dsn, **more)


async def keys_of(dsn: str, name: str) -> dict[str, scram.Keys]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT * FROM kafka.user_keys WHERE name = $1", name)
    finally:
        await connection.close()
    return {
        row["mechanism"]: scram.Keys(row["salt"], row["stored_key"], row["server_key"], row["iterations"])
        for row in rows
    }


def is_password(found: dict[str, scram.Keys], password: str) -> bool:
    return bool(found) and all(
        scram.is_password(scram.MECHANISMS[name], keys, password) for name, keys in found.items()
    )


async def test_users_are_made_changed_listed_and_dropped(pg_dsn: str) -> None:
    assert run("migrate", "--database", pg_dsn).code == 0
    variable = {"USER_PASSWORD": "secret"}
    assert users("create", "alice", dsn=pg_dsn, settings=variable).code == 0
    assert is_password(await keys_of(pg_dsn, "alice"), "secret")
    made = users("create", "bob", "--generate", "--mechanism", "SCRAM-SHA-512", "--iterations", "8192", dsn=pg_dsn)
    found = await keys_of(pg_dsn, "bob")
    assert is_password(found, made.out.strip())
    assert [(name, keys.iterations) for name, keys in found.items()] == [("SCRAM-SHA-512", 8192)]
    assert len(made.out.strip()) >= 20

    listed = users("list", dsn=pg_dsn).out.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["alice", "SCRAM-SHA-256", "4096"],
        ["alice", "SCRAM-SHA-512", "4096"],
        ["bob", "SCRAM-SHA-512", "8192"],
    ]

    assert users("alter", "alice", dsn=pg_dsn, settings={"USER_PASSWORD": "another"}).code == 0
    assert is_password(await keys_of(pg_dsn, "alice"), "another")
    assert users("drop", "alice", "--mechanism", "SCRAM-SHA-256", dsn=pg_dsn).code == 0
    assert list(await keys_of(pg_dsn, "alice")) == ["SCRAM-SHA-512"]
    assert users("drop", "alice", dsn=pg_dsn).code == 0
    assert not await keys_of(pg_dsn, "alice")


def test_mistakes_are_told_in_a_sentence(pg_dsn: str) -> None:
    variable = {"USER_PASSWORD": "secret"}
    untouched = users("list", dsn=pg_dsn)
    assert (untouched.code, untouched.out) == (1, "")
    assert "pg-kafka migrate makes room for them" in untouched.err
    assert run("migrate", "--database", pg_dsn).code == 0
    assert users("list", dsn=pg_dsn).out == ""
    assert users("create", "alice", dsn=pg_dsn, settings=variable).code == 0
    for arguments, sentence in (
        (("create", "alice"), 'there is a user "alice" already'),
        (("alter", "nobody"), 'there is no user "nobody"'),
        (("drop", "nobody"), 'there is no user "nobody"'),
        (("drop", "alice", "--mechanism", "PLAIN"), "'PLAIN' is not one of"),
        (("create", "bob", "--iterations", "1"), "4096"),
    ):
        done = users(*arguments, dsn=pg_dsn, settings=variable)
        assert done.code != 0
        assert sentence in done.err
    none = users("create", "bob", dsn=pg_dsn)
    assert (none.code, none.err) == (
        1,
        f"pg-kafka: no password: give --password-stdin, {PASSWORD_VARIABLE} or --generate\n",
    )
    empty = users("create", "bob", "--password-stdin", dsn=pg_dsn)
    assert empty.err == "pg-kafka: a password must not be empty\n"


def test_users_of_the_embedded_server(embedded_folder: Path) -> None:
    """Whether a broker runs on it or not."""
    data = embedded_folder / "data"
    variable = {"USER_PASSWORD": "secret"}
    assert run("users", "create", "alice", "--data", str(data), settings=variable).code == 0
    with Serving("--listen", f"{HOST}:0", "--data", str(data)) as serving:
        serving.ready()
        assert run("users", "create", "bob", "--data", str(data), settings=variable).code == 0
        listed = run("users", "list", "--data", str(data)).out.splitlines()
    assert [line.split()[0] for line in listed] == ["alice", "alice", "bob", "bob"]


def settings_of(mechanism: str, leader: SaslServing, password: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": leader.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "alice",
        "sasl_plain_password": password,
    }


async def test_published_clients_log_in(leader: SaslServing, pg_dsn: str) -> None:
    assert users("create", "alice", dsn=pg_dsn, settings={"USER_PASSWORD": "secret"}).code == 0
    await logged_in(leader, "secret")
    for mechanism in ALL:
        await librdkafka_logs_in(leader, mechanism)
        async with AIOKafkaProducer(**settings_of(mechanism, leader, "secret")) as producer:
            await producer.send_and_wait("orders", b"aiokafka")
        refused = AIOKafkaProducer(**settings_of(mechanism, leader, "wrong"))
        with pytest.raises(KafkaConnectionError, match="Unable to bootstrap"):
            await refused.start()
        await refused.stop()


async def librdkafka_logs_in(leader: SaslServing, mechanism: str) -> None:
    settings = {
        "bootstrap.servers": leader.bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": "alice",
    }
    delivered: list[Any] = []
    producer = confluent_kafka.Producer({**settings, "sasl.password": "secret"})
    producer.produce("orders", b"librdkafka", on_delivery=lambda error, _: delivered.append(error))
    assert await asyncio.to_thread(producer.flush, 30) == 0
    assert delivered == [None]

    told: list[Any] = []
    refused = confluent_kafka.Producer({**settings, "sasl.password": "wrong", "error_cb": told.append})
    for _ in range(300):
        if any(error.code() == confluent_kafka.KafkaError._AUTHENTICATION for error in told):
            return
        await asyncio.to_thread(refused.poll, 0.1)
    pytest.fail(f"librdkafka was not told: {told}")


async def logged_in(place: Any, password: str, user: str = "alice") -> None:
    """Until the broker knows the user by this password."""
    async with asyncio.timeout(20):
        while True:
            async with await SaslPeer.connect(place) as peer:
                if not (await peer.scram(user, password)).error_code:
                    return
            await asyncio.sleep(0.05)


async def test_a_broker_that_waits_asks_and_cuts_off(leader: SaslServing, pg_dsn: str) -> None:
    other = SaslServing(pg_dsn)
    with other.serving:
        other.serving.wait_for("waiting to take over")
        assert users("create", "alice", dsn=pg_dsn, settings={"USER_PASSWORD": "secret"}).code == 0
        await asyncio.to_thread(wait_until, lambda: listens(other), "the broker that waits listens")
        await logged_in(other, "secret")
        async with await SaslPeer.connect(other) as peer:
            assert (await peer.plain("alice", "secret")).error_code == 0
            assert leader.port in [broker.port for broker in (await peer.metadata()).brokers]
            # What holds no secret goes to the leader.
            described = await peer.call(DescribeUserScramCredentialsRequest(users=None), 50, 0)
            assert [(one.user, one.error_code) for one in described.results] == [("alice", 0)]
            request = AlterUserScramCredentialsRequest(
                deletions=[ScramCredentialDeletion(name="alice", mechanism=SHA_512.number)]
            )
            assert (await peer.call(request, 51, 0)).results[0].error_code == 41

            assert users("drop", "alice", dsn=pg_dsn).code == 0
            assert await peer.is_closed_by_peer()
        async with await SaslPeer.connect(other) as peer:
            assert (await peer.scram("alice", "secret")).error_code == 58


def listens(place: SaslServing) -> bool:
    try:
        socket.create_connection((place.host, place.port), timeout=5).close()
    except OSError:
        return False
    return True
