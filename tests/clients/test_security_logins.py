"""Published clients log in: by password, by certificate, by token; what is refused gives the error that each client has.

PG_KAFKA_TEST_AGAINST_KAFKA=1 checks the tests themselves against Apache Kafka.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.clients.agents import FranzGo, JavaClient, Sarama
from tests.clients.client import Client, ClientError
from tests.clients.conftest import unavailable
from tests.clients.kafkajs_client import KafkaJs
from tests.clients.kcat_client import Kcat
from tests.clients.logins import Login
from tests.clients.python_clients import Aiokafka, Confluent, KafkaPython
from tests.clients.records import Record, at_offsets, numbered
from tests.clients.secure_brokers import (
    ADMIN,
    MECHANISMS,
    REAUTHENTICATE_MS,
    Secrets,
    SecureBroker,
    SecurePgKafka,
    SecureReference,
)
from tests.kafka_reference import ToolMissing
from tests.tokens import Issuer

LIBRARIES: Mapping[str, type[Client]] = {
    library.name: library for library in (Confluent, Aiokafka, KafkaPython, Kcat, JavaClient, FranzGo, Sarama, KafkaJs)
}
FLAVOURS = ["postgresql-15"] + ["apache-kafka"] * (os.environ.get("PG_KAFKA_TEST_AGAINST_KAFKA") == "1")
# Users that are there from the start, of every mechanism with passwords.
USERS = {"alice": "alice's password", "bob": "bob's password"}
# How each library says that a login was refused.
REFUSED = {
    "confluent-kafka": r"SASL authentication error|SSL handshake failed|SSL routines",
    "aiokafka": r"AuthenticationFailed|SaslAuthenticationFailed|KafkaConnectionError",
    "kafka-python": r"SaslAuthenticationFailed|Unable to bootstrap",  # why is in its log alone
    "kcat": r"Authentication fail|SASL authentication error|SSL handshake failed|SSL routines",
    "java": r"SaslAuthenticationException|SslAuthenticationException",
    "franz-go": r"SASL_AUTHENTICATION_FAILED|unexpected data in oauth response|tls: |certificate",
    "sarama": r"SASL Authentication failed|authentication failed|tls: |certificate",
    "kafkajs": r"KafkaJSSASLAuthenticationError|SASL state|certificate|SSL",
}
WAYS = [(listener, mechanism) for listener in ("SASL_SSL", "SASL_PLAINTEXT") for mechanism in MECHANISMS]
# A refused token is answered with a challenge that says why; these go on as if they were let in, and try again for long.
# kcat makes its own tokens.
TAKES_REFUSALS_FOR_WELCOMES = ("aiokafka", "kcat")
# Consumers that do not tell their caller of a login that is refused when they come again.
TRIES_AGAIN_IN_SILENCE = ("aiokafka", "kafka-python", "franz-go", "kcat")
# Clients that stay in a stream over several sessions; kcat makes a new process for each call.
LIVES_LONG = ("confluent-kafka", "aiokafka", "kafka-python", "java", "franz-go", "sarama", "kafkajs")
DEADLINE_S = 20.0


def ways(libraries: Mapping[str, type[Client]], places: list[tuple[str, str]]) -> list[Any]:
    """Parameters: each library with each listener and mechanism. kcat makes tokens of its own, which nobody signs."""
    return [
        pytest.param(name, *place, id=f"{name}-{place[0]}-{place[1]}")
        for name in libraries
        for place in places
        if (name, place[1]) != ("kcat", "OAUTHBEARER")
    ]


@pytest.fixture(scope="session")
def secrets() -> Iterator[Secrets]:
    folder = Path(tempfile.mkdtemp(prefix="pgk-secrets-", dir="/tmp"))
    yield Secrets(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def library() -> Iterator[Callable[[str], Client]]:
    """Factory: the client library of a name, made once."""
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


@pytest.fixture(scope="session", params=FLAVOURS)
def secure_broker(request: pytest.FixtureRequest, secrets: Secrets) -> Iterator[SecureBroker]:
    folder = secrets.folder / f"broker-{request.param}"
    broker: SecureBroker
    if request.param == "apache-kafka":
        broker = SecureReference(folder, secrets, USERS)
    else:
        broker = SecurePgKafka(folder, secrets, request.getfixturevalue("postgres15").create_database())
    try:
        try:
            broker.start()
        except ToolMissing as missing:
            unavailable(missing)
        for user in USERS.items():
            broker.create_user(*user)
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def secure_topic(secure_broker: SecureBroker, unused_topic: Callable[[], str]) -> str:
    """A new topic that everybody may use."""
    name = unused_topic()
    for future in secure_broker.admin.create_topics([ADMIN.NewTopic(name, 1, 1)]).values():
        future.result(DEADLINE_S)
    return name


def seen(client: Client, records: list[Record]) -> list[tuple[Any, ...]]:
    """What is compared of records; some libraries choose the time themselves."""
    return [(one.key, one.value, one.offset, one.timestamp if client.sets_timestamps else None) for one in records]


def write_and_read(client: Client, address: str, topic: str, login: Login) -> None:
    records = numbered(20)
    with closing(client.producer(address, login=login)) as producer:
        offsets = producer.send(topic, records)
    assert offsets == list(range(20))
    with closing(client.consumer(address, topic, login=login)) as consumer:
        read = consumer.read(20)
    assert seen(client, read) == seen(client, at_offsets(records, offsets))


def refusal(client: Client, address: str, topic: str, login: Login) -> str:
    """The error that a login gets; it must be the one that the library has for this."""
    begun = time.monotonic()
    with pytest.raises(ClientError) as refused, closing(client.producer(address, login=login)) as producer:
        producer.send(topic, numbered(1))
    said = str(refused.value)
    assert re.search(REFUSED[client.name], said), said
    assert time.monotonic() - begun < DEADLINE_S, "the client has only given up waiting"
    return said


@pytest.mark.parametrize(("name", "listener", "mechanism"), ways(LIBRARIES, WAYS))
def test_right_credentials_write_and_read(
    secure_broker: SecureBroker,
    secrets: Secrets,
    library: Callable[[str], Client],
    secure_topic: str,
    name: str,
    listener: str,
    mechanism: str,
) -> None:
    if name == "kcat" and "SCRAM" in mechanism and secure_broker.flavour == "apache-kafka":
        pytest.skip("Apache Kafka 4 refuses SCRAM of the librdkafka before 2.6.1 that kcat may come with")
    login = secrets.login(listener, mechanism, "alice", USERS["alice"])
    write_and_read(library(name), secure_broker.address(listener), secure_topic, login)


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_certificate_writes_and_reads(
    secure_broker: SecureBroker, secrets: Secrets, library: Callable[[str], Client], secure_topic: str, name: str
) -> None:
    login = secrets.certified("alice")
    write_and_read(library(name), secure_broker.address("SSL"), secure_topic, login)


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_certificate_of_a_strange_authority_is_refused(
    secure_broker: SecureBroker, secrets: Secrets, library: Callable[[str], Client], secure_topic: str, name: str
) -> None:
    login = secrets.certified("alice", secrets.stranger)
    refusal(library(name), secure_broker.address("SSL"), secure_topic, login)


@pytest.mark.parametrize(
    ("name", "listener", "mechanism"), ways(LIBRARIES, [place for place in WAYS if place[1] != "OAUTHBEARER"][:4])
)
def test_wrong_password_and_unknown_user_get_the_same_answer(
    secure_broker: SecureBroker,
    secrets: Secrets,
    library: Callable[[str], Client],
    secure_topic: str,
    name: str,
    listener: str,
    mechanism: str,
) -> None:
    address = secure_broker.address(listener)
    said = []
    for user in ("alice", "nobody"):
        login = secrets.login(listener, mechanism, user, "not the password")
        text = refusal(library(name), address, secure_topic, login).replace(user, "USER")
        said.append(re.sub(r"\d+|0x[0-9a-f]+", "N", text.splitlines()[0]))
    assert said[0] == said[1]


@pytest.mark.parametrize("flaw", ["expired", "wrong key", "other audience"])
@pytest.mark.parametrize("name", [name for name in LIBRARIES if name not in TAKES_REFUSALS_FOR_WELCOMES])
def test_bad_token_is_refused(
    secure_broker: SecureBroker,
    secrets: Secrets,
    library: Callable[[str], Client],
    secure_topic: str,
    name: str,
    flaw: str,
) -> None:
    issuer = secrets.issuer
    if flaw == "expired":
        token = issuer.token("alice", lifetime_s=-60)
    elif flaw == "wrong key":
        token = Issuer(secrets.folder / "tokens", is_published=False).token("alice")
    else:
        token = issuer.token("alice", aud="somebody else")
    login = secrets.login("SASL_SSL", "OAUTHBEARER", "alice", token=token)
    refusal(library(name), secure_broker.address("SASL_SSL"), secure_topic, login)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "OAUTHBEARER"])
@pytest.mark.parametrize("name", LIVES_LONG)
def test_stream_outlives_its_sessions(
    secure_broker: SecureBroker,
    secrets: Secrets,
    library: Callable[[str], Client],
    secure_topic: str,
    name: str,
    mechanism: str,
) -> None:
    """Whether a client logs in again within its connection or makes a new one, it loses and doubles nothing."""
    client = library(name)
    address = secure_broker.address("SHORT")
    login = secrets.login("SHORT", mechanism, "alice", USERS["alice"])
    read: list[Record] = []
    sent: list[Record] = []
    with (
        closing(client.producer(address, login=login)) as producer,
        closing(client.consumer(address, secure_topic, login=login)) as consumer,
    ):
        ends = time.monotonic() + 2.5 * REAUTHENTICATE_MS / 1000
        while time.monotonic() < ends:
            records = numbered(10, first=len(sent))
            sent += at_offsets(records, producer.send(secure_topic, records))
            read += consumer.read(10)
        while len(read) < len(sent):
            more = consumer.read(1)
            assert more, "the rest does not come"
            read += more
    assert [(one.key, one.value, one.offset) for one in read] == [(one.key, one.value, one.offset) for one in sent]
    assert [one.offset for one in sent] == list(range(len(sent)))


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name not in TRIES_AGAIN_IN_SILENCE])
def test_dropped_user_is_cut_off(
    secure_broker: SecureBroker, secrets: Secrets, library: Callable[[str], Client], secure_topic: str, name: str
) -> None:
    if secure_broker.flavour == "apache-kafka":
        pytest.skip("Apache Kafka lets connections that are there go on")
    client = library(name)
    address = secure_broker.address("SASL_SSL")
    user = f"leaver-{name}"
    secure_broker.create_user(user, "the password")
    login = secrets.login("SASL_SSL", "SCRAM-SHA-256", user, "the password")
    with closing(client.producer(address, login=login)) as producer:
        assert producer.send(secure_topic, numbered(3)) == [0, 1, 2]
    with closing(client.consumer(address, secure_topic, login=login)) as consumer:
        assert len(consumer.read(3)) == 3
        secure_broker.drop_user(user)
        said = until_refused(lambda: consumer.read(1, timeout_s=1))
    # sarama tells first that its connection is gone.
    assert re.search(f"{REFUSED[name]}|EOF" if name == "sarama" else REFUSED[name], said), said


def until_refused(call: Callable[[], object]) -> str:
    """Calls until a call raises; what that one says."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            call()
        except ClientError as refused:
            return str(refused)
        time.sleep(0.05)  # calls in between are what is tested
    raise AssertionError("nothing is refused")


# How each library says that a topic may not be used.
NOT_AUTHORIZED = r"(?i)topic.?authoriz|not authorized|TOPIC_AUTHORIZATION_FAILED"


@pytest.mark.parametrize("name", [name for name, one in LIBRARIES.items() if one.keeps_open])
def test_permission_removed_in_the_middle_of_a_stream(
    secure_broker: SecureBroker, secrets: Secrets, library: Callable[[str], Client], secure_topic: str, name: str
) -> None:
    client = library(name)
    address = secure_broker.address("SASL_PLAINTEXT")
    login = secrets.login("SASL_PLAINTEXT", "SCRAM-SHA-256", "bob", USERS["bob"])
    secure_broker.allow("somebody-else", secure_topic, "ALL")
    secure_broker.allow("bob", secure_topic, "READ", "WRITE", "DESCRIBE")
    with (
        closing(client.producer(address, login=login)) as producer,
        closing(client.consumer(address, secure_topic, login=login)) as consumer,
    ):
        until_done(lambda: producer.send(secure_topic, numbered(3)))  # Apache Kafka answers before ACLs hold
        assert len(consumer.read(3)) == 3
        assert secure_broker.remove_acls("bob", secure_topic) == 3
        said = until_refused(lambda: producer.send(secure_topic, numbered(1)))
        assert re.search(NOT_AUTHORIZED, said), said
        said = until_refused(lambda: consumer.read(1, timeout_s=1))
        assert re.search(NOT_AUTHORIZED, said), said


def until_done(call: Callable[[], Any]) -> Any:
    """Calls until a call does not raise; what that one returns."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return call()
        except ClientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)  # calls in between are what is tested


def test_kcats_own_tokens_are_refused(
    secure_broker: SecureBroker, secrets: Secrets, library: Callable[[str], Client], secure_topic: str
) -> None:
    """They say "alg": "none", and nobody has signed them."""
    login = replace(secrets.login("SASL_SSL", "OAUTHBEARER", "alice"), token=None, unsigned="principal=alice")
    refusal(library("kcat"), secure_broker.address("SASL_SSL"), secure_topic, login)
