"""Strangers before it is known who they are: what they cost, when they are closed, and that they never come in."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from tests.clients.secure_brokers import LISTENERS, Secrets, SecurePgKafka
from tests.fuzz.fuzz_logins import PASSWORD, USER, Guarded
from tests.kafka_reference import HOST, need
from tests.sasl_dialogues import Peer, bearer, plain
from tests.token_attacks import attacks
from tests.tokens import Issuer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

STRANGERS = 1000
# What one may cost: resident memory of the broker, and with TLS.
COST_BYTES = {"SASL_PLAINTEXT": 64 << 10, "SASL_SSL": 96 << 10}
SETTINGS = {
    "sasl.server.max.receive.size": str(32 << 10),
    "pg_kafka.authentication_timeout_ms": "6000",
    "log_level": "debug",
}
CLOSED_S = 60.0
FUZZ_SEEDS = (1, 2, 3)


class World:
    """The broker, and who may come in."""

    def __init__(self, broker: SecurePgKafka, secrets: Secrets) -> None:
        self.broker = broker
        self.secrets = secrets
        assert broker.process is not None
        self.process = psutil.Process(broker.process.pid)
        self.trusting = ssl.create_default_context(cafile=str(secrets.authority.ca))

    async def peer(self, listener: str) -> Peer:
        tls = self.trusting if LISTENERS[listener].endswith("SSL") else None
        return await Peer.connect(self.broker.at(listener), tls)

    async def serves(self) -> None:
        """Somebody with the right credentials is served."""
        async with await self.peer("SASL_SSL") as peer:
            await peer.handshake("PLAIN")
            await peer.authenticate(plain(USER, PASSWORD))
            await peer.metadata()
            assert peer.heard[-1] == "1 broker", peer.heard

    def log(self) -> str:
        return self.broker.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def world(postgres15: Any) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="pgk-strangers-", dir="/tmp"))
    database = postgres15.create_database()
    secrets = Secrets(folder)
    broker = SecurePgKafka(folder / "broker", secrets, database, SETTINGS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    try:
        broker.start()
        broker.create_user(USER, PASSWORD)
        yield World(broker, secrets)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        broker.stop()
        log = broker.log.read_text(errors="replace")
        postgres15.drop_database(database)
        shutil.rmtree(folder)
    assert "traceback=" not in log and "Traceback" not in log, log[-4000:]
    assert PASSWORD not in log and "eyJ" not in log, "a secret in the log"


# ---- what they cost


async def say_nothing(writer: asyncio.StreamWriter) -> None:
    """Connected, and that is all."""


async def say_half_a_frame(writer: asyncio.StreamWriter) -> None:
    """All but the last byte of the largest frame that may come."""
    writer.write((32 << 10).to_bytes(4) + bytes((32 << 10) - 1))
    await writer.drain()


async def say_half_a_dialogue(writer: asyncio.StreamWriter) -> None:
    """A handshake, whose answer is not read, and a token's beginning."""
    writer.write(bytes.fromhex("00000017 0011 0001 00000000 ffff 000d 534352414d2d5348412d353132"))
    writer.write((20 << 10).to_bytes(4) + b"\x00\x24\x00\x02" + bytes(10 << 10))
    await writer.drain()


async def say_a_byte_at_a_time(writer: asyncio.StreamWriter) -> None:
    """Never enough, and never nothing."""
    writer.write((1000).to_bytes(4))

    async def dribble() -> None:
        with contextlib.suppress(ConnectionError):
            while not writer.transport.is_closing():
                writer.write(b"\0")
                await asyncio.sleep(1)

    _dribbling.append(asyncio.create_task(dribble()))


_dribbling: list[asyncio.Task[None]] = []


async def strangers(world: World, listener: str, speak: Any, count: int) -> list[Any]:
    """Open connections on which so much has been said."""
    tls = world.trusting if LISTENERS[listener].endswith("SSL") else None
    place = world.broker.at(listener)
    turns = asyncio.Semaphore(50)

    async def come() -> Any:
        async with turns, asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
            with contextlib.suppress(ConnectionError):
                await speak(writer)
            return reader, writer

    return await asyncio.gather(*(come() for _ in range(count)))


async def are_closed(peers: list[Any]) -> None:
    """All of them, by the broker."""
    async with asyncio.timeout(CLOSED_S):
        for reader, writer in peers:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await reader.read(1 << 16):
                    pass
            writer.transport.abort()


@pytest.mark.parametrize("listener", list(COST_BYTES))
async def test_strangers_cost_little_and_are_closed_in_time(world: World, listener: str) -> None:
    await world.serves()
    await are_closed(await strangers(world, listener, say_nothing, 20))  # what is made once is made
    before = world.process.memory_info().rss
    peers = await strangers(world, listener, say_half_a_frame, STRANGERS)
    await world.serves()
    cost = (world.process.memory_info().rss - before) / STRANGERS
    for speak in (say_nothing, say_half_a_dialogue, say_a_byte_at_a_time):
        peers += await strangers(world, listener, speak, 50)
    await world.serves()
    await are_closed(peers)
    for task in _dribbling:
        task.cancel()
    await asyncio.gather(*_dribbling, return_exceptions=True)
    _dribbling.clear()
    await world.serves()
    print(f"{listener}: {cost / 1024:.1f} kB resident for each of {STRANGERS}")
    assert cost <= COST_BYTES[listener], f"{cost / 1024:.1f} kB resident for each"


# ---- TLS


def client_hello(world: World) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = world.trusting.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def old_hello(version: bytes) -> bytes:
    """A ClientHello of a version below TLS 1.2, with ciphers that it had."""
    ciphers = bytes.fromhex("c013c009002f0035000a")
    body = version + bytes(32) + b"\0" + len(ciphers).to_bytes(2) + ciphers + b"\x01\0"
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


async def said_to(world: World, pieces: list[bytes], *, closes: bool = False) -> bytes:
    """What the broker says to bytes on the port with TLS, until it closes."""
    reader, writer = await asyncio.open_connection(HOST, world.broker.ports["SASL_SSL"])
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if closes:
                writer.write_eof()
        async with asyncio.timeout(CLOSED_S):
            try:
                return await reader.read()
            except ConnectionError:
                return b""
    finally:
        writer.transport.abort()


ALERT, HANDSHAKE_FAILURE, PROTOCOL_VERSION = 21, 40, 70


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"], ids=["SSL 3", "TLS 1.0", "TLS 1.1"])
async def test_old_versions_of_tls_are_refused(world: World, version: bytes) -> None:
    answer = await said_to(world, [old_hello(version)])
    assert answer[0] == ALERT and answer[6] in (HANDSHAKE_FAILURE, PROTOCOL_VERSION), answer
    await world.serves()


async def test_hello_in_pieces_is_a_hello(world: World) -> None:
    hello = client_hello(world)
    reader, writer = await asyncio.open_connection(HOST, world.broker.ports["SASL_SSL"])
    try:
        for place in range(len(hello)):
            writer.write(hello[place : place + 1])
            await writer.drain()
        async with asyncio.timeout(CLOSED_S):
            answer = await reader.readexactly(6)
    finally:
        writer.transport.abort()
    assert answer[0] == 22 and answer[5] == 2, "a ServerHello"


@pytest.mark.parametrize(
    "where", ["a cut hello", "a hello and garbage", "garbage", "a record of 64 kB", "a flood of alerts"]
)
async def test_broken_tls_is_closed(world: World, where: str) -> None:
    hello = client_hello(world)
    pieces = {
        "a cut hello": [hello[:100]],
        "a hello and garbage": [hello, Random(1).randbytes(5000)],
        "garbage": [Random(2).randbytes(5000)],
        "a record of 64 kB": [b"\x16\x03\x01\xff\xff" + bytes(65535)],
        "a flood of alerts": [hello, b"\x15\x03\x03\x00\x02\x01\x5a" * 5000],
    }[where]
    answer = await said_to(world, pieces)
    assert len(answer) < 10_000
    await world.serves()


async def test_renegotiation_is_refused(world: World) -> None:
    """A client that asks for it within TLS 1.2 would have the broker compute again and again."""
    openssl = need("openssl", "apt-get install openssl")
    place = f"{HOST}:{world.broker.ports['SASL_SSL']}"
    command = [openssl, "s_client", "-connect", place, "-tls1_2", "-CAfile", str(world.secrets.authority.ca)]
    client = await asyncio.to_thread(
        subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert client.stdin is not None
        said = await asyncio.to_thread(_until, client, b"Verify return code: 0")
        client.stdin.write(b"R\n")
        client.stdin.flush()
        rest, _ = await asyncio.to_thread(client.communicate, timeout=CLOSED_S)
    finally:
        client.kill()
        client.wait()
    assert b"RENEGOTIATING" in said + rest
    assert b"no renegotiation" in rest or b"unexpected" in rest or client.returncode != 0, rest
    await world.serves()


def _until(client: subprocess.Popen[bytes], words: bytes) -> bytes:
    assert client.stdout is not None
    said = b""
    while words not in said:
        line = client.stdout.readline()
        assert line, said
        said += line
    return said


async def test_huge_certificate_costs_little(world: World) -> None:
    issued = world.secrets.authority.issue("huge", padding_bytes=60_000)
    tls = ssl.create_default_context(cafile=str(world.secrets.authority.ca))
    tls.load_cert_chain(issued.chain, issued.key)
    before = world.process.memory_info().rss
    for _ in range(20):
        with contextlib.suppress(ConnectionError, ssl.SSLError, EOFError):
            async with await Peer.connect(world.broker.at("SSL"), tls) as peer:
                await peer.metadata()
    assert world.process.memory_info().rss - before < 16 << 20
    await world.serves()


# ---- who never comes in


async def test_no_attack_by_token_lets_in(world: World) -> None:
    strange = Issuer(world.secrets.folder / "strange", is_published=False)
    let_in = []
    for name, token in attacks(world.secrets.issuer, strange).items():
        async with await world.peer("SASL_PLAINTEXT") as peer:
            await peer.handshake("OAUTHBEARER")
            await peer.authenticate(bearer(token.encode("latin-1")))
            await peer.metadata()
            if peer.heard[-1] not in ("closed", "0 broker"):  # an error in the form of the request
                let_in.append(name)
    assert let_in == []
    await world.serves()


async def test_oversized_tokens_are_closed(world: World) -> None:
    before = world.process.memory_info().rss
    for size in (33 << 10, 512 << 10, 100 << 20, (1 << 31) - 1, (1 << 32) - 1):
        for handshake_version in (0, 1):
            async with await world.peer("SASL_PLAINTEXT") as peer:
                await peer.handshake("PLAIN", handshake_version)
                with contextlib.suppress(ConnectionError):
                    peer.client.writer.write(size.to_bytes(4) + bytes(min(size, 1 << 20)))
                    await peer.client.writer.drain()
                await peer.ends()
                assert peer.heard[-1] == "closed", size
    assert world.process.memory_info().rss - before < 16 << 20
    await world.serves()


async def test_wrong_passwords_are_in_no_log(world: World) -> None:
    marks = [f"mark-{kind}-7c1f" for kind in ("plain", "raw", "scram", "token", "name\nlevel=info forged")]
    async with await world.peer("SASL_PLAINTEXT") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain(USER, marks[0]))
    async with await world.peer("SASL_PLAINTEXT") as peer:
        await peer.handshake("PLAIN", 0)
        await peer.raw_token(plain(USER, marks[1]))
    async with await world.peer("SASL_PLAINTEXT") as peer:
        await peer.scram("SCRAM-SHA-256", USER, marks[2])
    async with await world.peer("SASL_PLAINTEXT") as peer:
        await peer.handshake("OAUTHBEARER")
        await peer.authenticate(bearer(marks[3]))
    async with await world.peer("SASL_PLAINTEXT") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain(marks[4], "wrong"))
    await world.serves()
    log = world.log()
    assert [mark for mark in marks[:4] if mark in log] == []
    assert "\nlevel=info forged" not in log, "a name that writes a line of the log"


async def test_fuzzed_logins(world: World) -> None:
    guarded = Guarded(world.broker, world.secrets)
    for seed in FUZZ_SEEDS:
        await guarded.play(Random(seed))
