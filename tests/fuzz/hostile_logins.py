"""Strangers that say nearly what a login says: bytes changed, lost and doubled, out of turn, in pieces, and TLS likewise.

A conversation goes on with what it is answered, so that what is damaged may be its last word. Whether its credentials are
right is known: who has none must never be let in, whatever it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.target import damage
from tests.sasl_dialogues import API_VERSIONS, AUTHENTICATE, HANDSHAKE, METADATA, ScramClient, bearer, plain
from tests.tokens import Issuer

from pg_kafka.wire import codec
from pg_kafka.wire.codec import MalformedRequest
from pg_kafka.wire.frames import RequestHeader, decode_response_header, encode_request_header
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest
from pg_kafka.wire.messages.produce import ProduceRequest
from pg_kafka.wire.messages.sasl_authenticate import SaslAuthenticateRequest
from pg_kafka.wire.messages.sasl_handshake import SaslHandshakeRequest

PRODUCE = 0
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
ANSWER_S = 2.0
# A peer that is neither answered nor closed after that is left alone: others are asked whether the broker serves.
PATIENCE_S = 1.0
JUNK = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),  # a ClientHello of SSL 2
    b"\x00\x00\x00\x00" * 50,
    b"\xff" * 400,
)


@dataclass(frozen=True)
class Ground:
    """Where strangers come to: ports of listeners by name, those with TLS, and one user."""

    host: str
    ports: Mapping[str, int]
    with_tls: frozenset[str]
    ca: Path
    user: str
    password: str
    issuer: Issuer
    strange: Issuer
    cluster_id: bytes


class Conversation:
    """One connection."""

    def __init__(self, rng: Random, ground: Ground) -> None:
        self._rng = rng
        self._ground = ground
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._heard = bytearray()
        self._sent = 0

    async def hold(self) -> None:
        """Say it all. Raises AssertionError when somebody without credentials was let in."""
        rng = self._rng
        listener = rng.choice(sorted(self._ground.ports))
        has_tls = listener in self._ground.with_tls
        speaks_tls = has_tls and rng.random() < 0.5
        context = ssl.create_default_context(cafile=str(self._ground.ca)) if speaks_tls else None
        is_right = rng.random() < 0.2
        try:
            async with asyncio.timeout(ANSWER_S):
                self._reader, self._writer = await asyncio.open_connection(
                    self._ground.host, self._ground.ports[listener], ssl=context, limit=1 << 22
                )
        except (OSError, TimeoutError):
            return
        try:
            with contextlib.suppress(ConnectionError, EOFError, TimeoutError, ssl.SSLError, MalformedRequest):
                if has_tls and not speaks_tls:
                    await self._nearly_tls()
                elif rng.random() < 0.1:
                    await self._say(rng.choice(JUNK))
                else:
                    await self._log_in(is_right)
                await self._listen()
        finally:
            self._writer.transport.abort()
        if not is_right:
            assert self._ground.cluster_id not in self._heard, "let in without credentials"

    async def _nearly_tls(self) -> None:
        """A ClientHello, damaged, and more of its kind."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(self._ground.ca))
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        await self._say(self._changed(outgoing.read(), 0.7))
        for _ in range(3):
            data = await self._some()
            incoming.write(data)
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                break
            await self._say(self._changed(outgoing.read(), 0.7))
            tls.write(self._request(ApiVersionsRequest(), API_VERSIONS, 0))
            await self._say(self._changed(outgoing.read(), 0.7))

    async def _log_in(self, is_right: bool) -> None:
        rng = self._rng
        mechanism = rng.choice(MECHANISMS)
        version = rng.choice((0, 1, 1, 1))
        if rng.random() < 0.3:
            await self._say(self._changed(self._request(ApiVersionsRequest(), API_VERSIONS, rng.randrange(5))))
            await self._frame()
        shown = mechanism if rng.random() < 0.9 else rng.choice(("", "GSSAPI", "x" * 3000, "plain"))
        handshake = self._request(SaslHandshakeRequest(mechanism=shown), HANDSHAKE, version)
        await self._say(self._changed(handshake) * rng.choice((1, 1, 1, 1, 2)))
        await self._frame()
        for _ in range(rng.choice((1, 1, 1, 3))):
            await self._by(mechanism, is_right, version)
        key, message = rng.choice(((METADATA, MetadataRequest(topics=None)), (PRODUCE, ProduceRequest(acks=1))))
        await self._say(self._request(message, key, 9))

    async def _by(self, mechanism: str, is_right: bool, version: int) -> None:
        rng, ground = self._rng, self._ground
        password = (
            ground.password if is_right else rng.choice(("", "wrong", ground.password[:-1], ground.password + " "))
        )
        if mechanism == "PLAIN":
            user = rng.choice((ground.user, ground.user, "nobody", "\u00e9" * 100))
            await self._token(plain(user, password, rng.choice(("", "", user))), version)
        elif mechanism == "OAUTHBEARER":
            issuer = ground.issuer if is_right else ground.strange
            claims = {
                rng.choice(("x", "nbf", "iat", "crit", "kid")): rng.choice((0, -1, 1e300, "x" * 5000, None, [[]]))
            }
            token = issuer.token(ground.user, head=claims if rng.random() < 0.2 else None)
            await self._token(bearer(damage(rng, token.encode()) if rng.random() < 0.5 else token), version)
            await self._token(b"\x01", version)
        else:
            client = ScramClient(mechanism, ground.user, password, b64encode(rng.randbytes(18)).decode())
            client.header = rng.choice(("n,,", "n,,", "n,,", "y,,", "p=tls-unique,,", f"n,a={ground.user},"))
            client.extensions = rng.choice(("", "", "", ",m=x", ",x=y" * 1000))
            challenge = await self._token(client.first(), version)
            try:
                last = client.final(challenge)
            except (KeyError, ValueError):
                last = rng.randbytes(50)
            await self._token(last, version)

    # ---- words

    def _request(self, message: object, key: int, version: int) -> bytes:
        head = encode_request_header(RequestHeader(key, version, self._rng.randrange(1 << 31), "fuzz"))
        body = b"".join((head, *codec.encode_request(message, key, version)))
        return len(body).to_bytes(4) + body

    async def _token(self, token: bytes, version: int) -> bytes:
        """Say a token; the one that comes back, b"" for none that can be read."""
        token = self._changed(token)
        if version == 0:
            await self._say(self._changed(len(token).to_bytes(4) + token, 0.1))
            return await self._frame()
        version = self._rng.randrange(3)
        await self._say(
            self._changed(self._request(SaslAuthenticateRequest(auth_bytes=token), AUTHENTICATE, version), 0.1)
        )
        frame = await self._frame()
        _, offset = decode_response_header(frame, AUTHENTICATE, version)
        return bytes(codec.decode_response(AUTHENTICATE, version, frame, offset).auth_bytes)

    def _changed(self, data: bytes, often: float = 0.2) -> bytes:
        while self._rng.random() < often:
            data = damage(self._rng, data)
        return data

    async def _say(self, data: bytes) -> None:
        step = self._rng.choice((len(data), len(data), 1, 7, 1000)) or 1
        step = max(step, len(data) // 50)
        for start in range(0, len(data), step):
            self._writer.write(data[start : start + step])
            async with asyncio.timeout(ANSWER_S):
                await self._writer.drain()
            if step < len(data):
                await asyncio.sleep(0)

    async def _frame(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            size = int.from_bytes(await self._reader.readexactly(4))
            assert size < 1 << 20, f"an answer of {size} bytes"
            frame = await self._reader.readexactly(size)
        self._heard += frame
        return frame

    async def _some(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            data = await self._reader.read(1 << 16)
        if not data:
            raise EOFError
        return data

    async def _listen(self) -> None:
        while True:
            self._heard += await self._some()


async def burst(rng: Random, ground: Ground, count: int) -> None:
    """So many conversations at the same time."""
    conversations = [Conversation(Random(rng.randrange(1 << 62)), ground).hold() for _ in range(count)]
    found = [one for one in await asyncio.gather(*conversations, return_exceptions=True) if one is not None]
    if found:
        raise found[0]
