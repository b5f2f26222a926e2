"""Who logs in wrongly, out of turn, or with what somebody else has said is answered as Apache Kafka answers.

Each script is played on both brokers with the same users; what is heard must be the same, but for `DIFFERENCES`.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import shutil
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.clients.secure_brokers import LISTENERS, MECHANISMS, Secrets, SecureBroker, SecurePgKafka, SecureReference
from tests.kafka_reference import ToolMissing
from tests.sasl_dialogues import API_VERSIONS, HANDSHAKE, Peer, ScramClient, bearer, plain
from tests.token_attacks import attacks
from tests.tokens import Issuer

from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

USERS = {"alice": "alice's password", "bob": "bob's password"}
ALICE = USERS["alice"]
SHA_256, SHA_512 = "SCRAM-SHA-256", "SCRAM-SHA-512"


@dataclass(frozen=True)
class World:
    """One of the two brokers, as the scripts see it."""

    broker: SecureBroker
    secrets: Secrets
    strange: Issuer

    async def peer(self, listener: str = "SASL_PLAINTEXT") -> Peer:
        tls = None
        if LISTENERS[listener].endswith("SSL"):
            tls = ssl.create_default_context(cafile=str(self.secrets.authority.ca))
        return await Peer.connect(self.broker.at(listener), tls)


def framed(request: str) -> bytes:
    """A request written in hexadecimal digits, with its size."""
    data = bytes.fromhex(request)
    return len(data).to_bytes(4) + data


Script = Callable[[World], Awaitable[list[str]]]
SCRIPTS: dict[str, Script] = {}
WRONG = "due to invalid credentials with SASL mechanism"
OTHER_MECHANISM = "requested by client is not supported for re-authentication of mechanism 'PLAIN'"
ALL = ",".join(sorted(MECHANISMS))
# What Apache Kafka (-) and pg_kafka (+) alone are heard to say, by script.
DIFFERENCES: dict[str, tuple[str, ...]] = {
    # Asking again does no harm.
    "versions_asked_for_twice": ("- closed", "+ 0 for ApiVersions"),
    "handshake_where_nobody_asks_who_comes": (
        "- 34 SaslAuthenticate request received after successful authentication",
        "+ 34 this listener has no authentication: set security.protocol=PLAINTEXT in the client",
    ),
    # Who is not known gets a challenge as everybody, and is refused after its answer: once for each mechanism.
    "scram_right_and_wrong": ("+ 0", "+ 0"),
    # Before 2.6.1 it said its nonce twice.
    "scram_of_old_librdkafka": (
        f"- 58 Authentication failed during authentication {WRONG} SCRAM-SHA-256",
        "+ 0",
    ),
    "scram_bent": (
        "- {'header': 'n,a=bob,'}: 58 Authentication failed: Client requested an authorization id that is different from"
        " username",
        f"+ {{'header': 'n,a=bob,'}}: 58 Authentication failed during authentication {WRONG} SCRAM-SHA-256",
    ),
    # RFC 5801: "y" is a client that believes rightly that there is no binding to the channel.
    "bearers_bent": (
        f"- header y: 58 Authentication failed during authentication {WRONG} OAUTHBEARER",
        "+ header y: 0 for some time",
        "+ header y: 1 broker",
        f"+ auth as an extension: 58 Authentication failed during authentication {WRONG} OAUTHBEARER",
        "- auth as an extension: 0",
        '- auth as an extension: {"status":"invalid_token"}',
        '- auth as an extension: 58 {"status":"invalid_token"}',
        "- auth as an extension: closed",
        "- of another kind: closed",
        f"+ of another kind: 58 Authentication failed during authentication {WRONG} OAUTHBEARER",
    ),
    "token_attacks": (
        f"+ base64 of another kind: 58 Authentication failed during authentication {WRONG} OAUTHBEARER",
        "- base64 of another kind: 0",
        '- base64 of another kind: {"status":"invalid_token"}',
        '- base64 of another kind: 58 {"status":"invalid_token"}',
        "- base64 of another kind: closed",
    ),
    # Kafka closes where the mechanism changes; the client is told why.
    "another_login_in_time": (
        "- SCRAM-SHA-256 b'n,,n=alice,r': closed",
        f"+ SCRAM-SHA-256 b'n,,n=alice,r': 58 SASL mechanism 'SCRAM-SHA-256' {OTHER_MECHANISM}",
        r"- OAUTHBEARER b'n,,\x01auth=Bea': closed",
        rf"+ OAUTHBEARER b'n,,\x01auth=Bea': 58 SASL mechanism 'OAUTHBEARER' {OTHER_MECHANISM}",
        f"+ GSSAPI b'': 33 {ALL}",
        "+ GSSAPI b'': closed",
    ),
}


def script(function: Script) -> Script:
    SCRIPTS[function.__name__] = function
    return function


# ---- out of turn


@script
async def request_before_authentication(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.metadata()
        return peer.heard


@script
async def versions_before_and_after_everything(world: World) -> list[str]:
    heard = []
    for version in (0, 1, 2, 3, 4):
        async with await world.peer() as peer:
            await peer.api_versions(version)
            await peer.handshake("PLAIN")
            await peer.authenticate(plain("alice", ALICE))
            await peer.api_versions(version)
            await peer.metadata()
            heard += peer.heard
    return heard


@script
async def versions_asked_for_twice(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.api_versions()
        await peer.api_versions()
        return peer.heard


@script
async def versions_in_the_middle(world: World) -> list[str]:
    heard = []
    for version in (0, 3):
        async with await world.peer() as peer:
            await peer.handshake("PLAIN")
            peer.client.send(ApiVersionsRequest(), API_VERSIONS, version)
            async with asyncio.timeout(20):
                answer = await peer.client.reader.read()
            heard.append(f"{version}: code {int.from_bytes(answer[8:10])}, and the end")
    return heard


@script
async def request_in_the_middle(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("PLAIN")
        await peer.metadata()
        return peer.heard


@script
async def handshake_twice(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("PLAIN")
        await peer.handshake("PLAIN")
        await peer.ends()
        return peer.heard


@script
async def token_without_handshake(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.authenticate(plain("alice", ALICE))
        return peer.heard


@script
async def request_after_a_refusal(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", "wrong"))
        await peer.metadata()
        return peer.heard


@script
async def handshake_where_nobody_asks_who_comes(world: World) -> list[str]:
    async with await world.peer("PLAINTEXT") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        await peer.metadata()
        return peer.heard


@script
async def handshake_where_certificates_say_who_comes(world: World) -> list[str]:
    login = world.secrets.certified("alice")
    tls = ssl.create_default_context(cafile=str(world.secrets.authority.ca))
    assert login.certificate is not None
    tls.load_cert_chain(login.certificate, login.key)
    async with await Peer.connect(world.broker.at("SSL"), tls) as peer:
        await peer.handshake("PLAIN")
        await peer.metadata()
        return peer.heard


@script
async def handshake_of_a_version_that_is_not_there(world: World) -> list[str]:
    async with await world.peer() as peer:
        peer.client.writer.write(framed("0011 0009 00000000 ffff 0005 504c41494e"))
        await peer.ends()
        return peer.heard


@script
async def versions_of_a_version_that_is_not_there(world: World) -> list[str]:
    async with await world.peer() as peer:
        peer.client.writer.write(framed("0012 0063 00000000 ffff 00"))
        answer = await peer.client.receive(API_VERSIONS, 0, 0)
        peer.heard.append(f"{answer.error_code}")
        await peer.handshake("PLAIN")
        return peer.heard


@script
async def no_kafka_at_all(world: World) -> list[str]:
    heard = []
    for junk in (
        b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n",
        bytes(100),
        b"\xff" * 100,
        b"\x16\x03\x01\x00\xa5\x01" + bytes(160),
    ):
        async with await world.peer() as peer:
            peer.client.writer.write(junk)
            await peer.ends()
            heard += peer.heard
    return heard


@script
async def plain_text_where_tls_is_wanted(world: World) -> list[str]:
    async with await Peer.connect(world.broker.at("SASL_SSL")) as peer:
        peer.client.send(SaslHandshakeRequest(mechanism="PLAIN"), HANDSHAKE, 1)
        try:
            rest = await asyncio.wait_for(peer.client.reader.read(), 20)
        except ConnectionError:
            rest = b""
        # An alert of TLS may come first.
        return ["closed" if not rest or rest[0] == 21 else "an answer"]


# ---- mechanisms


@script
async def mechanism_that_is_not_there(world: World) -> list[str]:
    heard = []
    for mechanism in ("GSSAPI", "plain", "", "x" * 1000, "SCRAM-SHA-1"):
        async with await world.peer() as peer:
            await peer.handshake(mechanism)
            await peer.ends()
            heard += peer.heard
    return heard


@script
async def plain_where_only_scram_is(world: World) -> list[str]:
    async with await world.peer("SCRAM") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        heard = peer.heard
    async with await world.peer("SCRAM") as peer:
        await peer.handshake(SHA_512)
        await peer.authenticate(plain("alice", ALICE))
        return heard + peer.heard


@script
async def handshake_of_version_0(world: World) -> list[str]:
    heard = []
    for token in (
        plain("alice", ALICE),
        plain("alice", "wrong"),
        plain("nobody", "wrong"),
        b"",
        b"\0" * 3,
        bytes(5000),
    ):
        async with await world.peer() as peer:
            await peer.handshake("PLAIN", 0)
            if await peer.raw_token(token) is not None:
                await peer.metadata()
            heard += peer.heard
    return heard


@script
async def scram_of_version_0(world: World) -> list[str]:
    async with await world.peer() as peer:
        client = ScramClient(SHA_256, "alice", ALICE)
        await peer.handshake(SHA_256, 0)
        challenge = await peer.raw_token(client.first())
        assert challenge is not None
        answer = await peer.raw_token(client.final(challenge))
        assert answer is not None
        client.check(answer)
        await peer.metadata()
        return peer.heard


@script
async def request_where_a_raw_token_is_wanted(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("PLAIN", 0)
        await peer.metadata()
        return peer.heard


# ---- PLAIN


@script
async def passwords(world: World) -> list[str]:
    heard = []
    tokens = [
        plain("alice", ALICE),
        plain("alice", ALICE, "alice"),
        plain("alice", ALICE, "bob"),
        plain("alice", "wrong"),
        plain("nobody", "wrong"),
        plain("", ALICE),
        plain("alice", ""),
        plain("ALICE", ALICE),
        b"alice\0" + ALICE.encode(),
        plain("alice", ALICE) + b"\0",
        b"\0alice",
        b"",
        b"\0\0",
    ]
    for token in tokens:
        for version in (0, 1, 2):
            async with await world.peer() as peer:
                await peer.handshake("PLAIN")
                await peer.authenticate(token, version)
                heard += peer.heard
    return heard


# ---- SCRAM


@script
async def scram_right_and_wrong(world: World) -> list[str]:
    heard = []
    for mechanism in (SHA_256, SHA_512):
        for name, password in (("alice", ALICE), ("alice", "wrong"), ("nobody", ALICE), ("bob", ALICE)):
            async with await world.peer() as peer:
                await peer.scram(mechanism, name, password)
                if peer.heard[-1] == "0":
                    await peer.metadata()
                heard += peer.heard
    return heard


@script
async def scram_of_fewer_iterations(world: World) -> list[str]:
    heard = []
    for iterations in (1, 4095):
        client = ScramClient(SHA_512, "alice", ALICE)
        client.iterations = iterations
        async with await world.peer() as peer:
            await peer.scram(SHA_512, "alice", ALICE, client)
            heard += peer.heard
    return heard


@script
async def scram_said_again(world: World) -> list[str]:
    """Every word that a login was heard to say, on a connection of somebody else."""
    client = ScramClient(SHA_512, "alice", ALICE)
    async with await world.peer() as peer:
        await peer.handshake(SHA_512)
        challenge = await peer.authenticate(client.first())
        recorded = client.final(bytes(challenge.auth_bytes))
        answer = await peer.authenticate(recorded)
        assert answer.error_code == 0
    async with await world.peer() as peer:
        await peer.handshake(SHA_512)
        await peer.authenticate(client.first())
        await peer.authenticate(recorded)
        await peer.ends()
        return peer.heard


@script
async def scram_of_old_librdkafka(world: World) -> list[str]:
    client = ScramClient(SHA_256, "alice", ALICE)
    client.says_its_nonce_twice = True
    async with await world.peer() as peer:
        await peer.scram(SHA_256, "alice", ALICE, client)
        return peer.heard


@script
async def scram_bent(world: World) -> list[str]:
    heard = []
    for change in (
        {"header": "y,,"},
        {"header": "p=tls-unique,,"},
        {"header": "n,a=alice,"},
        {"header": "n,a=bob,"},
        {"header": ""},
        {"extensions": ",m=must"},
        {"extensions": ",x=may"},
        {"final_nonce": "fyko+d2lbbFgONRv9qkxdawL"},
        {"final_nonce": "another-nonce-altogether"},
    ):
        client = ScramClient(SHA_256, "alice", ALICE)
        for name, value in change.items():
            setattr(client, name, value)
        async with await world.peer() as peer:
            await peer.scram(SHA_256, "alice", ALICE, client)
            heard += [f"{change}: {one}" for one in peer.heard]
    return heard


@script
async def scram_that_is_none(world: World) -> list[str]:
    heard = []
    for message in (
        b"",
        b"n,,",
        b"n,,n=alice",
        b"n,,r=abc,n=alice",
        b"\xff\xfe",
        b"n,,n=a=2Fb,r=abcdefgh",
        bytes(9000),
    ):
        async with await world.peer() as peer:
            await peer.handshake(SHA_256)
            await peer.authenticate(message)
            heard += [f"{message[:30]!r}: {one}" for one in peer.heard]
    for last in (b"", b"c=biws", b"c=biws,r=x,p=", b"c=biws,r=x,p=!!", b"\xff"):
        async with await world.peer() as peer:
            await peer.handshake(SHA_256)
            await peer.authenticate(ScramClient(SHA_256, "alice", ALICE).first())
            await peer.authenticate(last)
            heard += [f"{last!r}: {one}" for one in peer.heard]
    return heard


# ---- OAUTHBEARER


async def by_token(world: World, message: bytes) -> list[str]:
    """What is heard after a first message: a refusal is told in a token, which the client answers with one byte."""
    async with await world.peer() as peer:
        await peer.handshake("OAUTHBEARER")
        answer = await peer.authenticate(message)
        if answer is not None and answer.auth_bytes:
            peer.heard.append(bytes(answer.auth_bytes).decode(errors="replace"))
            await peer.authenticate(b"\x01")
            await peer.ends()
        elif answer is not None and answer.error_code == 0:
            await peer.metadata()
        return peer.heard


@script
async def good_tokens(world: World) -> list[str]:
    issuer = world.secrets.issuer
    heard = []
    for token in (
        issuer.token("alice"),
        issuer.token("somebody who has never been here"),
        issuer.token("alice", aud=["another", "kafka"]),
        issuer.token("alice", head={"typ": "at+jwt"}),
        issuer.token("alice", scope="produce consume"),
    ):
        heard += await by_token(world, bearer(token))
    return heard


@script
async def bearers_bent(world: World) -> list[str]:
    token = world.secrets.issuer.token("alice")
    heard = []
    for name, message in {
        "header y": bearer(token, b"y,,"),
        "for somebody else": bearer(token, b"n,a=bob,"),
        "for himself": bearer(token, b"n,a=alice,"),
        "with an extension": bearer(token, extensions=[b"traceId=123"]),
        "with a wrong extension": bearer(token, extensions=[b"trace_id=123"]),
        "auth as an extension": bearer(token, extensions=[b"auth=Bearer x"]),
        "of another kind": bearer(token).replace(b"Bearer", b"Basic"),
        "lower case": bearer(token).replace(b"Bearer", b"bearer"),
        "without an end": bearer(token)[:-2],
        "nothing": b"",
        "one byte": b"\x01",
        "no UTF-8": b"n,,\x01auth=Bearer \xff\xfe\x01\x01",
    }.items():
        heard += [f"{name}: {one}" for one in await by_token(world, message)]
    return heard


@script
async def token_attacks(world: World) -> list[str]:
    heard = []
    for name, token in attacks(world.secrets.issuer, world.strange).items():
        heard += [f"{name}: {one}" for one in await by_token(world, bearer(token.encode("latin-1")))]
    return heard


# ---- sizes


@script
async def oversized_tokens(world: World) -> list[str]:
    heard = []
    for size in (1 << 14, (512 << 10) - 100, 512 << 10, 1 << 20, 100 << 20, (1 << 31) - 1):
        async with await world.peer() as peer:
            await peer.handshake("PLAIN", 0)
            peer.client.writer.write(size.to_bytes(4) + b"x" * min(size, 1 << 20))
            try:
                await asyncio.wait_for(peer.client.writer.drain(), 20)
            except ConnectionError:
                pass
            await peer.ends()
            heard.append(f"{size}: {peer.heard[-1]}")
    return heard


# ---- sessions with an end


@script
async def session_that_has_ended(world: World) -> list[str]:
    async with await world.peer("SHORT") as peer:
        await peer.handshake("PLAIN")
        answer = await peer.authenticate(plain("alice", ALICE))
        await peer.metadata()
        await asyncio.sleep(answer.session_lifetime_ms / 1000 + 0.2)  # it is the clock that ends it
        await peer.metadata()
        return peer.heard


@script
async def another_login_in_time(world: World) -> list[str]:
    heard = []
    for mechanism, token in (
        ("PLAIN", plain("alice", ALICE)),
        ("PLAIN", plain("bob", USERS["bob"])),
        ("PLAIN", plain("alice", "wrong")),
        ("PLAIN", plain("nobody", "wrong")),
        (SHA_256, ScramClient(SHA_256, "alice", ALICE).first()),
        ("OAUTHBEARER", bearer(world.secrets.issuer.token("alice"))),
        ("GSSAPI", b""),
    ):
        async with await world.peer("SHORT") as peer:
            await peer.handshake("PLAIN")
            await peer.authenticate(plain("alice", ALICE))
            await peer.metadata()
            await asyncio.sleep(1.1)  # a login sooner than that is refused
            if await peer.handshake(mechanism) is not None:
                await peer.authenticate(token)
                await peer.metadata()
            heard += [f"{mechanism} {token[:12]!r}: {one}" for one in peer.heard]
    return heard


@script
async def another_login_too_soon(world: World) -> list[str]:
    """The first one in a session is never too soon."""
    async with await world.peer("SHORT") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        for _ in range(2):
            if await peer.handshake("PLAIN") is None:
                break
            await peer.authenticate(plain("alice", ALICE))
        await peer.metadata()
        return peer.heard


@script
async def another_login_where_sessions_do_not_end(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        await peer.metadata()
        return peer.heard


@script
async def request_in_the_middle_of_another_login(world: World) -> list[str]:
    async with await world.peer("SHORT") as peer:
        await peer.handshake("PLAIN")
        await peer.authenticate(plain("alice", ALICE))
        await peer.handshake("PLAIN")
        await peer.metadata()
        return peer.heard


@script
async def session_of_a_token_ends_with_it(world: World) -> list[str]:
    async with await world.peer() as peer:
        await peer.handshake("OAUTHBEARER")
        answer = await peer.authenticate(bearer(world.secrets.issuer.token("alice", lifetime_s=2)))
        await peer.metadata()
        await asyncio.sleep(answer.session_lifetime_ms / 1000 + 0.2)  # it is the clock that ends it
        await peer.metadata()
        return peer.heard


# ---- both brokers


@pytest.fixture(scope="module")
def worlds(postgres15: Any) -> Iterator[tuple[World, World]]:
    """Apache Kafka and pg_kafka."""
    folder = Path(tempfile.mkdtemp(prefix="pgk-security-", dir="/tmp"))
    secrets = Secrets(folder)
    strange = Issuer(folder / "strange", is_published=False)
    database = postgres15.create_database()
    brokers: list[SecureBroker] = []
    try:
        brokers.append(SecureReference(folder / "kafka", secrets, USERS))
        try:
            brokers[0].start()
        except ToolMissing as missing:
            if os.environ.get("PG_KAFKA_REQUIRE_CLIENTS") == "1":
                pytest.fail(str(missing))
            pytest.skip(str(missing))
        brokers.append(SecurePgKafka(folder / "pg-kafka", secrets, database))
        brokers[1].start()
        for broker in brokers:
            for user in USERS.items():
                broker.create_user(*user)
        yield World(brokers[0], secrets, strange), World(brokers[1], secrets, strange)
    finally:
        for broker in brokers:
            broker.kill()
        postgres15.drop_database(database)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_both_hear_the_same(name: str, worlds: tuple[World, World]) -> None:
    kafka, ours = await asyncio.gather(*(SCRIPTS[name](world) for world in worlds))
    differences = [line for line in difflib.ndiff(kafka, ours) if line[0] in "-+"]
    assert differences == list(DIFFERENCES.get(name, ())), "\n".join(differences)
