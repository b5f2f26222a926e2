"""Listeners with TLS: certificates right and wrong, principals, reloading, and peers that do not speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import confluent_kafka.admin
import pytest
from tests.broker import tls_files
from tests.broker.command import Serving, run
from tests.broker.rawclient import RawClient

from pg_kafka import certs
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest

API_VERSIONS, METADATA = 18, 3
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certs.Made:
    return tls_files.make(tmp_path_factory.mktemp("certificates"), "alice")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> certs.Made:
    """Of a CA that nobody trusts."""
    return tls_files.make(tmp_path_factory.mktemp("strangers"), "alice")


def served(dsn: str, listeners: str, **settings: str) -> Serving:
    """Names of settings are those of variables."""
    return Serving("--listeners", listeners, "--database", dsn, settings=settings)


def keys(files: certs.Made, **more: str) -> dict[str, str]:
    return {"SSL_KEYSTORE_LOCATION": str(files.broker), "SSL_TRUSTSTORE_LOCATION": str(files.ca), **more}


async def connect(broker: Serving, context: ssl.SSLContext, port: int | None = None) -> RawClient:
    reader, writer = await asyncio.open_connection("127.0.0.1", port or broker.port, ssl=context, limit=2**27)
    return RawClient(reader, writer)


async def versions(client: RawClient) -> int:
    """The error code of ApiVersions; the connection works."""
    answer = await client.call(
        ApiVersionsRequest(client_software_name="t", client_software_version="1"), API_VERSIONS, 3
    )
    return int(answer.error_code)


async def is_refused(broker: Serving, context: ssl.SSLContext) -> bool:
    """Whether a connection with this context comes to nothing. In TLS 1.3 the client hears of that with its first answer."""
    try:
        async with await connect(broker, context) as client:
            await versions(client)
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


async def wait_for_log(broker: Serving, text: str) -> str:
    async with asyncio.timeout(DEADLINE_S):
        while text not in broker.err:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(0.02)
    return next(line for line in broker.err.splitlines() if text in line)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_clients_speak_either_version(pg_dsn: str, files: certs.Made, version: str) -> None:
    context = tls_files.client_context(files.ca)
    chosen = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[version]
    context.minimum_version = context.maximum_version = chosen
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files)).ready() as broker:
        async with await connect(broker, context) as client:
            assert client.writer.get_extra_info("ssl_object").version() == version
            assert await versions(client) == 0


async def test_older_versions_of_tls_are_refused(pg_dsn: str, files: certs.Made) -> None:
    context = tls_files.client_context(files.ca)
    with pytest.warns(DeprecationWarning):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files)).ready() as broker:
        assert await is_refused(broker, context)
        assert "TLS handshake failed: unsupported protocol" in await wait_for_log(broker, "TLS handshake failed")


async def test_settings_choose_version_and_suite(pg_dsn: str, files: certs.Made) -> None:
    suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files, SSL_CIPHER_SUITES=suite)).ready() as broker:
        async with await connect(broker, tls_files.client_context(files.ca)) as client:
            spoken = client.writer.get_extra_info("ssl_object")
            assert (spoken.version(), spoken.cipher()[0]) == ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")


class Principals:
    """Who the clients of a broker are, as its log says at level debug."""


@pytest.mark.parametrize(
    ("client_auth", "shows", "is_let_in"),
    [
        ("none", None, True),
        ("none", "alice", True),
        ("requested", None, True),
        ("requested", "alice", True),
        ("requested", "stranger", False),
        ("required", None, False),
        ("required", "alice", True),
        ("required", "stranger", False),
        ("required", "expired", False),
        ("required", "not yet", False),
    ],
)
async def test_client_certificates(
    pg_dsn: str,
    files: certs.Made,
    strangers: certs.Made,
    tmp_path: Path,
    client_auth: str,
    shows: str | None,
    is_let_in: bool,
) -> None:
    days: dict[str, tuple[float, float]] = {"expired": (-2, -1), "not yet": (1, 2)}
    match shows:
        case None:
            client = None
        case "alice":
            client = files.clients[0]
        case "stranger":
            client = strangers.clients[0]
        case _:
            client = tls_files.signed(files, tmp_path / "c.pem", tls_files.common_name("alice"), days=days[shows])
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files, SSL_CLIENT_AUTH=client_auth)).ready() as broker:
        assert await is_refused(broker, tls_files.client_context(files.ca, client)) is not is_let_in
        if not is_let_in:
            assert "TLS handshake failed" in await wait_for_log(broker, "TLS handshake failed")


def test_librdkafka_with_a_client_certificate(pg_dsn: str, files: certs.Made, strangers: certs.Made) -> None:
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files, SSL_CLIENT_AUTH="required")).ready() as broker:
        common = {
            "bootstrap.servers": f"localhost:{broker.port}",
            "security.protocol": "SSL",
            "ssl.ca.location": str(files.ca),
            "broker.address.family": "v4",
        }
        client = {"ssl.certificate.location": str(files.clients[0]), "ssl.key.location": str(files.clients[0])}
        producer = confluent_kafka.Producer(common | client)
        payload = os.urandom(300_000)
        for number in range(40):
            producer.produce("tls", payload, str(number))
            producer.poll(0)
        assert producer.flush(DEADLINE_S) == 0
        consumer = confluent_kafka.Consumer(
            common | client | {"group.id": "g", "auto.offset.reset": "earliest", "fetch.max.bytes": 50_000_000}
        )
        consumer.subscribe(["tls"])
        found = []
        while len(found) < 40:
            message = consumer.poll(DEADLINE_S)
            assert message is not None
            assert message.error() is None
            assert message.value() == payload
            found.append(message.key())
        consumer.close()
        errors: list[Any] = []
        stranger = {
            "ssl.certificate.location": str(strangers.clients[0]),
            "ssl.key.location": str(strangers.clients[0]),
            "error_cb": errors.append,
        }
        admin = confluent_kafka.admin.AdminClient(common | stranger)
        with pytest.raises(confluent_kafka.KafkaException):
            admin.list_topics(timeout=3)


async def test_each_listener_tells_its_own_address(pg_dsn: str, files: certs.Made) -> None:
    listeners = "INSIDE://127.0.0.1:0,OUTSIDE://127.0.0.1:0"
    settings = keys(files)
    names = {f"LISTENER_NAME_OUTSIDE_{name}": value for name, value in settings.items()}
    with Serving(
        "--listeners",
        listeners,
        "--advertised-listeners",
        "OUTSIDE://kafka.example:19093",
        "--listener-security-protocol-map",
        "INSIDE:PLAINTEXT,OUTSIDE:SSL",
        "--database",
        pg_dsn,
        settings=names,
    ).ready() as broker:
        outside = broker.wait_for("advertised as kafka.example:19093, SSL")
        port = int(outside.split("127.0.0.1:")[1].split(",")[0])
        async with await RawClient.connect(broker) as client:
            plain = await client.call(MetadataRequest(topics=[]), METADATA, 12)
        async with await connect(broker, tls_files.client_context(files.ca), port) as client:
            secure = await client.call(MetadataRequest(topics=[]), METADATA, 12)
    assert [(one.host, one.port) for one in plain.brokers] == [("127.0.0.1", broker.port)]
    assert [(one.host, one.port) for one in secure.brokers] == [("kafka.example", 19093)]


async def test_plain_client_on_a_tls_port_is_told_in_the_log(pg_dsn: str, files: certs.Made) -> None:
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files)).ready() as broker:
        client = await RawClient.connect(broker)
        client.send(ApiVersionsRequest(client_software_name="t", client_software_version="1"), API_VERSIONS, 3)
        assert await client.is_closed_by_peer()
        await client.close()
        line = await wait_for_log(broker, "this is no TLS; this listener speaks TLS")
        assert "set security.protocol=SSL in the client" in line


async def test_tls_client_on_a_plain_port_is_told_in_the_log(pg_dsn: str, files: certs.Made) -> None:
    with served(pg_dsn, "PLAINTEXT://127.0.0.1:0").ready() as broker:
        assert await is_refused(broker, tls_files.client_context(files.ca))
        await wait_for_log(broker, "this looks like a TLS handshake; this listener speaks plain Kafka")


async def test_new_files_are_taken_without_dropping_connections(pg_dsn: str, tmp_path: Path) -> None:
    """Under load: clients that are connected go on, new ones see the new certificate, and none is refused."""
    folder = tmp_path / "certificates"
    first = tls_files.make(folder)
    trusted = tmp_path / "trusted.pem"
    other = tls_files.make(tmp_path / "others")
    trusted.write_bytes(first.ca.read_bytes() + other.ca.read_bytes())
    broker_file = tmp_path / "broker.pem"
    shutil.copy(first.broker, broker_file)
    context = tls_files.client_context(trusted)
    failures: list[BaseException] = []
    done = asyncio.Event()

    async def stay(client: RawClient) -> int:
        calls = 0
        while not done.is_set():
            assert await versions(client) == 0
            calls += 1
        return calls

    async def come_and_go(broker: Serving) -> None:
        while not done.is_set():
            try:
                async with await connect(broker, context) as client:
                    assert await versions(client) == 0
            except (OSError, asyncio.IncompleteReadError) as error:
                failures.append(error)

    with served(pg_dsn, "SSL://127.0.0.1:0", SSL_KEYSTORE_LOCATION=str(broker_file)).ready() as broker:
        stayers = [await connect(broker, context) for _ in range(3)]
        tasks = [asyncio.create_task(stay(client)) for client in stayers]
        tasks.append(asyncio.create_task(come_and_go(broker)))  # type: ignore[arg-type]
        try:
            assert await issuer(broker, context) == serial(first)
            new = tmp_path / "new.pem"
            shutil.copy(other.broker, new)
            new.replace(broker_file)
            async with asyncio.timeout(DEADLINE_S):
                while await issuer(broker, context) != serial(other):  # noqa: ASYNC110 - files tell nobody
                    await asyncio.sleep(0.05)
            await wait_for_log(broker, "certificates read anew")
        finally:
            done.set()
            counts = await asyncio.gather(*tasks)
            for client in stayers:
                await client.close()
        assert all(count for count in counts[:3] if count is not None)
        assert failures == []


async def issuer(broker: Serving, context: ssl.SSLContext) -> bytes:
    """The certificate that a new connection is shown."""
    async with await connect(broker, context) as client:
        found: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found


def serial(made: certs.Made) -> bytes:
    text = made.broker.read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") :])


async def test_bad_new_file_leaves_the_old_one(pg_dsn: str, tmp_path: Path) -> None:
    made = tls_files.make(tmp_path / "certificates")
    other = tls_files.make(tmp_path / "others")
    context = tls_files.client_context(made.ca)
    with served(pg_dsn, "SSL://127.0.0.1:0", SSL_KEYSTORE_LOCATION=str(made.broker)).ready() as broker:
        whole = made.broker.read_bytes()
        key = other.broker.read_bytes().split(b"-----BEGIN CERTIFICATE")[0]
        certificate = whole[whole.index(b"-----BEGIN CERTIFICATE") :]
        made.broker.write_bytes(key + certificate)
        line = await wait_for_log(broker, "new certificates cannot be used, so the old ones stay")
        assert "is not that of its private key" in line
        async with await connect(broker, context) as client:
            assert await versions(client) == 0
        made.broker.write_bytes(whole)
        await wait_for_log(broker, "certificates read anew")


async def test_a_ca_that_is_trusted_no_more_is_refused_at_once_for_new_connections(
    pg_dsn: str, files: certs.Made, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    shutil.copy(files.ca, trusted)
    other = tls_files.make(tmp_path / "others")
    settings = {
        "SSL_KEYSTORE_LOCATION": str(files.broker),
        "SSL_TRUSTSTORE_LOCATION": str(trusted),
        "SSL_CLIENT_AUTH": "required",
    }
    context = tls_files.client_context(files.ca, files.clients[0])
    with served(pg_dsn, "SSL://127.0.0.1:0", **settings).ready() as broker:
        assert not await is_refused(broker, context)
        shutil.copy(other.ca, trusted)
        await wait_for_log(broker, "certificates read anew")
        # The same context would take up its old session, if there were tickets for one.
        assert await is_refused(broker, context)


@contextlib.contextmanager
def half_open(broker: Serving, count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(count)]
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError(pid)


async def test_a_cut_handshake_closes_and_others_go_on(pg_dsn: str, files: certs.Made) -> None:
    hello = client_hello(tls_files.client_context(files.ca))
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files)).ready() as broker:
        for size in (1, 5, 6, 50, len(hello) - 1):
            with socket.create_connection(("127.0.0.1", broker.port)) as one:
                one.sendall(hello[:size])
        with socket.create_connection(("127.0.0.1", broker.port)) as one:
            one.sendall(hello[:6] + os.urandom(len(hello) - 6))
            assert one.recv(1000)[:1] in (b"\x15", b"")  # an alert
        assert not await is_refused(broker, tls_files.client_context(files.ca))


def client_hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_an_unauthenticated_peer_costs_less_than_96_kb(pg_dsn: str, files: certs.Made) -> None:
    """Peers that have sent a ClientHello, and as much as they could of what comes after it."""
    hello = client_hello(tls_files.client_context(files.ca))
    # A record that says it has 16 kB, and has less; and a message that says it has 128 kB.
    unfinished = struct.pack(">BHH", 22, 0x0301, 16384) + b"\x01\x00\x3f\x00" + bytes(16000)
    announced = struct.pack(">BHH", 22, 0x0301, 16384) + b"\x01\x01\xff\x00" + bytes(96)
    count = 300
    with served(pg_dsn, "SSL://127.0.0.1:0", **keys(files)).ready() as broker:
        assert not await is_refused(broker, tls_files.client_context(files.ca))
        with half_open(broker, 50) as sockets:  # what the first ones bring about is not theirs
            for one in sockets:
                one.sendall(hello)
                assert one.recv(100)
        before = resident_kb(broker.process.pid)
        with half_open(broker, count) as sockets:
            for number, one in enumerate(sockets):
                one.sendall((hello, unfinished, announced)[number % 3])
                if number % 3 == 0:
                    assert one.recv(100)
            # All that was sent has been read when a later client is answered.
            assert not await is_refused(broker, tls_files.client_context(files.ca))
            each = (resident_kb(broker.process.pid) - before) / count
        assert each < 96


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "listener SSL: TLS wants a key and a certificate: set ssl.keystore.location"),
        (
            {"SSL_KEYSTORE_LOCATION": "/nowhere.pem"},
            "listener SSL: cannot read /nowhere.pem: No such file or directory",
        ),
        ({"SSL_KEYSTORE_TYPE": "JKS"}, "keytool -importkeystore"),
        ({"SSL_KEYSTORE_LOCATION": "{ca}"}, "ca.pem has no private keys in PEM: it wants one"),
        ({"SSL_CLIENT_AUTH": "required"}, "ssl.client.auth=required wants the CAs of clients' certificates"),
        (
            {"SSL_PRINCIPAL_MAPPING_RULES": "RULE:("},
            "ssl.principal.mapping.rules cannot be used: the rule at character 1",
        ),
        (
            {"SSL_CIPHER_SUITES": "TLS_NO_SUCH_SUITE"},
            "ssl.cipher.suites has none that OpenSSL knows: TLS_NO_SUCH_SUITE",
        ),
        ({"SSL_CIPHER_SUITES": "TLS_AES_256_GCM_SHA384"}, "has some suites of TLS 1.3: name all of"),
        ({"SSL_KEY_PASSWORD": "x"}, "is not encrypted: remove ssl.key.password"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    pg_dsn: str, files: certs.Made, settings: dict[str, str], sentence: str
) -> None:
    given = {"SSL_KEYSTORE_LOCATION": str(files.broker)} if settings else {}
    given |= {name: value.format(ca=files.ca) for name, value in settings.items()}
    done = run("serve", "--listeners", "SSL://127.0.0.1:0", "--database", pg_dsn, settings=given)
    assert done.code == 1
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1


def configs_of(admin: Any, resource: Any) -> dict[str, Any]:
    found: dict[str, Any] = admin.describe_configs([resource])[resource].result(DEADLINE_S)
    return found


async def test_clients_change_the_certificate_of_a_listener(pg_dsn: str, files: certs.Made, tmp_path: Path) -> None:
    """As kafka-configs does: listener.name.<name>.ssl.keystore.location, at once, refused when it cannot be used."""
    other = tls_files.make(tmp_path / "others")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(files.ca.read_bytes() + other.ca.read_bytes())
    context = tls_files.client_context(trusted)
    name = "listener.name.ssl.ssl.keystore.location"
    settings = {"LISTENER_NAME_SSL_SSL_KEYSTORE_LOCATION": str(files.broker)}
    with served(pg_dsn, "SSL://127.0.0.1:0", **settings).ready() as broker:
        admin: Any = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": broker.bootstrap, "security.protocol": "SSL", "ssl.ca.location": str(trusted)}
        )

        def change(value: str | None) -> Any:
            operation = confluent_kafka.admin.AlterConfigOpType
            entry = confluent_kafka.admin.ConfigEntry(
                name, value, incremental_operation=operation.DELETE if value is None else operation.SET
            )
            resource = confluent_kafka.admin.ConfigResource("BROKER", "1", incremental_configs=[entry])
            return admin.incremental_alter_configs([resource])[resource].result(DEADLINE_S)

        async def is_shown(made: certs.Made) -> None:
            async with asyncio.timeout(DEADLINE_S):
                while await issuer(broker, context) != serial(made):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.05)

        resource = confluent_kafka.admin.ConfigResource("BROKER", "1")
        with pytest.raises(confluent_kafka.KafkaException, match=r"cannot read /nowhere\.pem"):
            await asyncio.to_thread(change, "/nowhere.pem")
        with pytest.raises(confluent_kafka.KafkaException, match=r"ca\.pem has no private keys"):
            await asyncio.to_thread(change, str(files.ca))
        await asyncio.to_thread(change, str(other.broker))
        await is_shown(other)
        described = (await asyncio.to_thread(configs_of, admin, resource))[name]
        assert (described.value, described.source, described.is_read_only) == (str(other.broker), 2, False)
        await asyncio.to_thread(change, None)
        await is_shown(files)
        described = await asyncio.to_thread(configs_of, admin, resource)
        assert (described[name].value, described[name].source) == (str(files.broker), 4)
        assert described["listener.security.protocol.map"].value == "SSL:SSL"
        assert (described["ssl.key.password"].value, described["ssl.key.password"].is_sensitive) == (None, True)
