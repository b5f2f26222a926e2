"""Logins by token, with the client libraries of Python: right, wrong, expired, and again in the middle of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import pytest
from aiokafka.abc import AbstractTokenProvider as AsyncTokenProvider
from kafka.net.sasl.oauth import AbstractTokenProvider
from tests.clients.brokers import COMMAND
from tests.kafka_reference import HOST, end, free_port, wait_until_served
from tests.token_issuer import AUDIENCE, ISSUER, Issuer

PATIENCE_S = 60
# The token of the streams: it is used up several times while they run.
SHORT_S = 4
STREAM_S = 10
# librdkafka looks once a second whether its token has lived for 80 % of its time, and logs in again after 90 %.
SHORT_LIBRDKAFKA_S = 15
STREAM_LIBRDKAFKA_S = 32


@dataclass
class Secured:
    """A broker with a listener for tokens."""

    bootstrap: str
    issuer: Issuer
    log: Path

    def token(self, name: str = "alice", **changed: Any) -> str:
        return self.issuer.token(name, time.time(), **changed)

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.log.read_text()))


@pytest.fixture(scope="module")
def secured(postgres15: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tokens")
    issuer = Issuer("rsa", "ec")
    keys = folder / "keys.json"
    keys.write_bytes(issuer.keys)
    plain, tokens = free_port(), free_port()
    settings = {
        "LISTENERS": f"PLAINTEXT://{HOST}:{plain},TOKENS://{HOST}:{tokens}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,TOKENS:SASL_PLAINTEXT",
        "LISTENER_NAME_TOKENS_SASL_ENABLED_MECHANISMS": "OAUTHBEARER",
        "LISTENER_NAME_TOKENS_SASL_OAUTHBEARER_JWKS_ENDPOINT_URL": keys.as_uri(),
        "SASL_OAUTHBEARER_EXPECTED_ISSUER": ISSUER,
        "LISTENER_NAME_TOKENS_OAUTHBEARER_SASL_OAUTHBEARER_EXPECTED_AUDIENCE": AUDIENCE,
        "SASL_OAUTHBEARER_CLOCK_SKEW_SECONDS": "0",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    log = folder / "broker.log"
    database = postgres15.create_database()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(COMMAND), "serve", "--database", database.dsn],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {f"PG_KAFKA_{name}": value for name, value in settings.items()},
            )
        try:
            wait_until_served(plain, process, log, leads=True)
            yield Secured(f"{HOST}:{tokens}", issuer, log)
        finally:
            end(process, signal.SIGTERM)
        assert "traceback=" not in log.read_text()
        # No token is in the log: each begins with '{"' in base64url.
        assert "eyJ" not in log.read_text()
    finally:
        postgres15.drop_database(database)


@dataclass
class Given:
    """What a library asks for when it needs a token."""

    make: Callable[[], str]
    lifetime_s: float = 3600
    asked: int = field(default=0)

    def __call__(self) -> str:
        self.asked += 1
        return self.make()


def confluent_settings(secured: Secured, given: Given) -> dict[str, Any]:
    def tell(_config: str) -> tuple[str, float]:
        return given(), time.time() + given.lifetime_s

    return {
        "bootstrap.servers": secured.bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "OAUTHBEARER",
        "oauth_cb": tell,
    }


class Provider(AbstractTokenProvider):
    """kafka-python's."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self._given = given

    def token(self) -> str:
        return self._given()


class AsyncProvider(AsyncTokenProvider):
    """aiokafka's."""

    def __init__(self, given: Given) -> None:
        self._given = given

    async def token(self) -> str:
        return self._given()


def python_settings(secured: Secured, provider: object) -> dict[str, Any]:
    return {
        "bootstrap_servers": secured.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_provider": provider,
    }


# One record there and back


def test_librdkafka(secured: Secured) -> None:
    given = Given(secured.token)
    producer = confluent_kafka.Producer(confluent_settings(secured, given))
    producer.produce("by-librdkafka", b"hello")
    assert producer.flush(PATIENCE_S) == 0
    with contextlib.closing(consumer_of(secured, given, "by-librdkafka")) as consumer:
        assert next_value(consumer) == b"hello"


def test_kafka_python(secured: Secured) -> None:
    provider = Provider(Given(secured.token))
    with contextlib.closing(kafka.KafkaProducer(**python_settings(secured, provider))) as producer:
        producer.send("by-kafka-python", b"hello").get(PATIENCE_S)
    consumer = kafka.KafkaConsumer(
        "by-kafka-python",
        auto_offset_reset="earliest",
        consumer_timeout_ms=PATIENCE_S * 1000,
        **python_settings(secured, provider),
    )
    with contextlib.closing(consumer):
        assert next(consumer).value == b"hello"


async def test_aiokafka(secured: Secured) -> None:
    provider = AsyncProvider(Given(secured.token))
    async with aiokafka.AIOKafkaProducer(**python_settings(secured, provider)) as producer:
        await producer.send_and_wait("by-aiokafka", b"hello")
    consumer = aiokafka.AIOKafkaConsumer(
        "by-aiokafka", auto_offset_reset="earliest", **python_settings(secured, provider)
    )
    async with consumer, asyncio.timeout(PATIENCE_S):
        assert (await consumer.getone()).value == b"hello"


# Tokens that are not good


@pytest.mark.parametrize(
    "changed",
    [{"exp": 1_000_000_000, "iat": 999_999_000}, {"key": "unpublished"}, {"aud": "mail"}],
    ids=["expired", "by another key", "for somebody else"],
)
def test_librdkafka_with_a_bad_token(secured: Secured, changed: dict[str, Any]) -> None:
    errors: list[confluent_kafka.KafkaError] = []
    settings = confluent_settings(secured, Given(lambda: secured.token(**changed)))
    producer = confluent_kafka.Producer({**settings, "error_cb": errors.append})
    deadline = time.monotonic() + PATIENCE_S
    while not any(error.code() == confluent_kafka.KafkaError._AUTHENTICATION for error in errors):
        assert time.monotonic() < deadline, errors
        producer.poll(0.1)
    assert any("invalid_token" in error.str() for error in errors), errors


def test_kafka_python_with_a_bad_token(secured: Secured) -> None:
    provider = Provider(Given(lambda: secured.token(exp=1_000_000_000, iat=999_999_000)))
    with pytest.raises(kafka.errors.KafkaError):
        kafka.KafkaProducer(**python_settings(secured, provider), bootstrap_timeout_ms=3000).send("t", b"x").get(20)


async def test_aiokafka_with_a_bad_token(secured: Secured) -> None:
    """It takes the answer to a refused token for a welcome and tries again, as it does with Apache Kafka."""
    provider = AsyncProvider(Given(lambda: secured.token(exp=1_000_000_000, iat=999_999_000)))
    producer = aiokafka.AIOKafkaProducer(**python_settings(secured, provider))
    refused = secured.count("login failed")
    try:
        with pytest.raises((aiokafka.errors.KafkaError, TimeoutError)):
            async with asyncio.timeout(4):
                await producer.start()
                await producer.send_and_wait("t", b"x")
    finally:
        with contextlib.suppress(aiokafka.errors.KafkaError, TimeoutError):
            async with asyncio.timeout(4):
                await producer.stop()
    assert secured.count("login failed") > refused


# A stream that lives longer than its token


def test_librdkafka_comes_again_in_the_middle_of_a_stream(secured: Secured) -> None:
    given = Given(lambda: secured.token(exp=time.time() + SHORT_LIBRDKAFKA_S), lifetime_s=SHORT_LIBRDKAFKA_S)
    failed: list[object] = []
    producer = confluent_kafka.Producer({**confluent_settings(secured, given), "error_cb": failed.append})
    sent = 0
    stop = time.monotonic() + STREAM_LIBRDKAFKA_S
    with contextlib.closing(consumer_of(secured, given, "stream-librdkafka")) as consumer:
        received: list[bytes] = []
        while time.monotonic() < stop or len(received) < sent:
            if time.monotonic() < stop:
                producer.produce("stream-librdkafka", str(sent).encode())
                sent += 1
            producer.poll(0.05)
            if (record := consumer.poll(0.05)) is not None and record.error() is None:
                received.append(record.value())
            assert time.monotonic() < stop + PATIENCE_S
        assert producer.flush(PATIENCE_S) == 0
    assert received == [str(n).encode() for n in range(sent)]
    # Producer and consumer, each at the start and then again and again.
    assert given.asked >= 2 * (1 + STREAM_LIBRDKAFKA_S // SHORT_LIBRDKAFKA_S)
    assert not failed


def test_kafka_python_comes_again_in_the_middle_of_a_stream(secured: Secured) -> None:
    given = Given(lambda: secured.token(exp=time.time() + SHORT_S))
    producer = kafka.KafkaProducer(**python_settings(secured, Provider(given)))
    stop = time.monotonic() + STREAM_S
    offsets = []
    with contextlib.closing(producer):
        while time.monotonic() < stop:
            offsets.append(producer.send("stream-kafka-python", b"x").get(PATIENCE_S).offset)
    assert offsets == list(range(len(offsets)))
    assert given.asked >= STREAM_S / SHORT_S


async def test_aiokafka_goes_on_after_its_token(secured: Secured) -> None:
    given = Given(lambda: secured.token(exp=time.time() + SHORT_S))
    stop = time.monotonic() + STREAM_S
    offsets = []
    producer = aiokafka.AIOKafkaProducer(**python_settings(secured, AsyncProvider(given)), enable_idempotence=True)
    async with producer:
        while time.monotonic() < stop:
            offsets.append((await producer.send_and_wait("stream-aiokafka", b"x")).offset)
    assert offsets == list(range(len(offsets)))
    assert given.asked >= STREAM_S / SHORT_S


def consumer_of(secured: Secured, given: Given, topic: str) -> confluent_kafka.Consumer:
    consumer = confluent_kafka.Consumer(
        {
            **confluent_settings(secured, given),
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": True,
        }
    )
    consumer.subscribe([topic])
    return consumer


def next_value(consumer: confluent_kafka.Consumer) -> bytes:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        record = consumer.poll(1)
        if record is not None and record.error() is None:
            return bytes(record.value())
    raise AssertionError("no record came")
