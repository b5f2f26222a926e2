"""SCRAM, the broker's side: RFC 5802 with SHA-256 (RFC 7677) or SHA-512.

    keys = make_keys(SHA_256, "secret", salt, 4096)          what is stored of a password, never the password
    server = ScramServer(SHA_256, nonce)
    name = server.first(b"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL")   who wants to come in
    server.challenge(keys)                                    b"r=...,s=...,i=4096"
    server.final(b"c=biws,r=...,p=...")                       b"v=...", or raises ScramError

    client-first    gs2-header "n=" name ",r=" client-nonce [extensions]       gs2-header: "n,," | "n,a=" name ","
    server-first    "r=" client-nonce server-nonce ",s=" base64(salt) ",i=" iterations
    client-final    "c=" base64(gs2-header) ",r=" both nonces ",p=" base64(proof)
    server-final    "v=" base64(signature) | "e=" error

A name that nobody has goes through the same steps with keys that cannot be met (`keys_of_nobody`), so that neither answers
nor time tell whether it exists.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

MIN_ITERATIONS = 4096
MAX_ITERATIONS = 16384
"""Kafka's bounds for what AlterUserScramCredentials may ask for."""
MAX_MESSAGE_BYTES = 4096
MIN_NONCE_CHARACTERS = 8
DEFAULT_SALT_BYTES = 20
"""Of users that are made here."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """SCRAM with one hash function. `number` is the one of Describe/AlterUserScramCredentials (KIP-554)."""

    name: str
    digest: str
    number: int

    @property
    def key_bytes(self) -> int:
        return hashlib.new(self.digest).digest_size


SHA_256 = Mechanism("SCRAM-SHA-256", "sha256", 1)
SHA_512 = Mechanism("SCRAM-SHA-512", "sha512", 2)
MECHANISMS = {mechanism.name: mechanism for mechanism in (SHA_256, SHA_512)}


class ScramError(Exception):
    """The dialogue cannot go on. The message is for our log; the client learns nothing but that it failed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is stored for a user and mechanism (RFC 5802, section 3)."""

    salt: bytes
    stored_key: bytes
    server_key: bytes
    iterations: int


def salted_password(mechanism: Mechanism, password: str, salt: bytes, iterations: int) -> bytes:
    """Hi() of the RFC, which is PBKDF2. Passwords are taken as UTF-8, not prepared by SASLprep, as Kafka does."""
    return hashlib.pbkdf2_hmac(mechanism.digest, password.encode(), salt, iterations)


def keys_from(mechanism: Mechanism, salted: bytes, salt: bytes, iterations: int) -> Keys:
    """The keys that follow from a salted password: what AlterUserScramCredentials brings (KIP-554)."""
    client_key = hmac.digest(salted, b"Client Key", mechanism.digest)
    return Keys(
        salt,
        hashlib.new(mechanism.digest, client_key).digest(),
        hmac.digest(salted, b"Server Key", mechanism.digest),
        iterations,
    )


def make_keys(mechanism: Mechanism, password: str, salt: bytes, iterations: int) -> Keys:
    return keys_from(mechanism, salted_password(mechanism, password, salt, iterations), salt, iterations)


def verifier(mechanism: Mechanism, keys: Keys) -> str:
    """Keys in the form that PostgreSQL has for them, and kafka.create_user() takes instead of a password."""
    salt, stored, server = (base64.b64encode(part).decode() for part in (keys.salt, keys.stored_key, keys.server_key))
    return f"{mechanism.name}${keys.iterations}:{salt}${stored}:{server}"


def is_password(mechanism: Mechanism, keys: Keys, password: str) -> bool:
    """Are these the keys of this password? Takes the time of all iterations."""
    made = make_keys(mechanism, password, keys.salt, keys.iterations)
    return hmac.compare_digest(made.stored_key, keys.stored_key)


def keys_of_nobody(mechanism: Mechanism, name: str, secret: bytes, users: Sequence[Keys] = ()) -> Keys:
    """Keys that no password meets, for a name that nobody has.

    They are the same each time: the salt must not change between two attempts. The client sees salt and iterations, so
    they are like those of one of the `users`.
    """
    seed = hmac.digest(secret, f"{mechanism.name} {name}".encode(), "sha512")
    like = users[int.from_bytes(seed[:8]) % len(users)] if users else None
    salt_bytes = DEFAULT_SALT_BYTES if like is None else len(like.salt)
    salt = hashlib.shake_256(b"salt" + seed).digest(salt_bytes)
    unknown = hmac.digest(seed, b"key", mechanism.digest)
    return Keys(salt, unknown, unknown, MIN_ITERATIONS if like is None else like.iterations)


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError(f"{what} is no base64") from None


def _attributes(text: str) -> list[tuple[str, str]]:
    """`a=1,b=2` as pairs. Names of extensions may have several letters, as Kafka's `tokenauth` has. Raises ScramError."""
    pairs = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.isascii() or not name.isalpha():
            raise ScramError("a part of the message is no attribute")
        pairs.append((name, value))
    return pairs


def _name(escaped: str) -> str:
    """A saslname: `=2C` is a comma, `=3D` an equals sign, and nothing else is escaped. Raises ScramError."""
    if "=" in escaped.replace("=2C", "").replace("=3D", ""):
        raise ScramError("the name is not escaped")
    name = escaped.replace("=2C", ",").replace("=3D", "=")
    if not name:
        raise ScramError("the name is empty")
    return name


def _text(message: bytes) -> str:
    if len(message) > MAX_MESSAGE_BYTES:
        raise ScramError("the message is too long")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise ScramError("the message is not UTF-8") from None
    if "\0" in text:
        raise ScramError("the message has a NUL")
    return text


class ScramServer:
    """One dialogue. Methods are called in the order `first`, `challenge`, `final`, each once; each may raise ScramError."""

    def __init__(self, mechanism: Mechanism, nonce: str) -> None:
        """`nonce` is random, for this dialogue alone, and has no comma."""
        self.mechanism = mechanism
        self._own_nonce = nonce
        self._gs2_header = ""
        self._first_bare = ""
        self._challenge = ""
        self._client_nonce = self._nonce = ""
        self._keys: Keys | None = None
        self.extensions: dict[str, str] = {}

    def first(self, message: bytes) -> str:
        """Take the client's first message; the name that it gives."""
        text = _text(message)
        flag, comma, rest = text.partition(",")
        authorization, second_comma, bare = rest.partition(",")
        if not comma or not second_comma:
            raise ScramError("the message has no header")
        # As in Kafka. "y", the client could bind to a channel and believes that we cannot, would be true as well.
        if flag != "n":
            raise ScramError("channel binding is not offered")
        pairs = _attributes(bare)
        if pairs and pairs[0][0] == "m":
            raise ScramError("an extension that must be understood is not known")
        if len(pairs) < 2 or pairs[0][0] != "n" or pairs[1][0] != "r":
            raise ScramError("the message has no name and nonce")
        name, nonce = _name(pairs[0][1]), pairs[1][1]
        if len(nonce) < MIN_NONCE_CHARACTERS or not all("!" <= character <= "~" for character in nonce):
            raise ScramError("the nonce is too short, or has characters that are not allowed")
        if authorization and (not authorization.startswith("a=") or _name(authorization[2:]) != name):
            raise ScramError("the client wants to act for somebody else")
        self._gs2_header = f"{flag},{authorization},"
        self._first_bare = bare
        self._client_nonce, self._nonce = nonce, nonce + self._own_nonce
        self.extensions = dict(pairs[2:])
        return name

    def challenge(self, keys: Keys) -> bytes:
        """What the client is asked, whose keys these are."""
        self._keys = keys
        self._challenge = f"r={self._nonce},s={base64.b64encode(keys.salt).decode()},i={keys.iterations}"
        return self._challenge.encode()

    def final(self, message: bytes) -> bytes:
        """Take the client's proof; our own signature, by which the client knows us. Raises ScramError."""
        keys = self._keys
        assert keys is not None, "challenge() comes first"
        text = _text(message)
        without_proof, separator, proof_text = text.rpartition(",p=")
        pairs = _attributes(without_proof) if separator else []
        if len(pairs) < 2 or pairs[0][0] != "c" or pairs[1][0] != "r":
            raise ScramError("the message has no channel, nonce and proof")
        proof = _decoded(proof_text, "the proof")
        if _decoded(pairs[0][1], "the channel") != self._gs2_header.encode():
            raise ScramError("the header has changed")
        # librdkafka before 2.6.1 repeats its own nonce once too often; the proof is over what it says, so that is as safe.
        if pairs[1][1] not in (self._nonce, self._client_nonce + self._nonce):
            raise ScramError("the nonce has changed")
        digest = self.mechanism.digest
        signed = f"{self._first_bare},{self._challenge},{without_proof}".encode()
        signature = hmac.digest(keys.stored_key, signed, digest)
        # Of a proof with another length nothing is left over: it is wrong in any case.
        client_key = bytes(a ^ b for a, b in zip(signature, proof.ljust(len(signature), b"\0"), strict=False))
        is_right = hmac.compare_digest(hashlib.new(digest, client_key).digest(), keys.stored_key)
        if not is_right or len(proof) != len(signature):
            raise ScramError("the proof is wrong")
        return b"v=" + base64.b64encode(hmac.digest(keys.server_key, signed, digest))
