"""Recorded sessions made hostile: what one connection sends, in which pieces, how it ends, and what it may expect.

Requests are changed field by field (they stay decodable and reach the handlers), byte by byte, and as a stream: frames
lost, doubled, moved, mixed with another client's, sizes that lie, a stream that ends in the middle.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

from tests.batches import batch_bytes
from tests.fuzz import fuzz_records
from tests.fuzz.fuzz_frames import frames_of
from tests.fuzz.sessions import NAMES, Session
from tests.fuzz.target import damage
from tests.unit.kio_oracle import random_body

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.codec import MalformedRequest, decode_request, decode_response, encode_request
from pg_kafka.wire.frames import RequestHeader, decode_request_header, decode_response_header, encode_request_header
from pg_kafka.wire.message import Field, Message

PRODUCE, FETCH, JOIN_GROUP, SYNC_GROUP, API_VERSIONS, CONSUMER_GROUP_HEARTBEAT = 0, 1, 11, 14, 18, 68
MAX_REQUESTS = 40
BOMB_BYTES = 50 << 20
# A fetch that waits no longer is one whose answer is waited for; many of them may stand in line.
SHORT_WAIT_MS = 20

INTEGERS = {"int8": 8, "int16": 16, "uint16": 16, "int32": 32, "int64": 64}
STRINGS = (
    "",
    "a",
    "a" * 249,
    "a" * 250,
    "a" * 32_767,
    ".",
    "..",
    "a b",
    "a/b",
    "a\0b",
    "\0",
    "é漢🐘",
    "__consumer_offsets",
    "%s%n",
    "'; --",
    "true",
    "-1",
    "9223372036854775808",
    "[",
    "(a+)+$",
    ".*",
    "range",
    "uniform",
    "consumer",
    "connect",
    "max.message.bytes",
    "cleanup.policy",
    "compact",
)
JUNK = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"\x00\x00\x00\x00" * 50,
    b"\xff" * 100,
    b"SSH-2.0-OpenSSH_9.2\r\n",
)


class Ending(Enum):
    WAIT = "read until all is answered that has an answer"
    ABORT = "close at once, as a reset"
    LEAVE = "stay open and silent as long as the burst lasts"


@dataclass
class Plan:
    """The life of one connection. With a seed, its pieces are requests that wait for the answer to the one before.

    Groups of recordings get the mark behind their name: a few connections of a burst share one that nobody else knows.
    """

    pieces: list[bytes]
    ending: Ending = Ending.WAIT
    reads: bool = True
    seed: int | None = None
    mark: str = ""

    @property
    def stream(self) -> bytes:
        return b"".join(self.pieces)


class Asked(NamedTuple):
    """A request that a broker answers."""

    correlation_id: int
    api_key: int
    version: int


@dataclass
class Expected:
    """What a stream asks for, as far as a broker can read it."""

    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0  # so many of them are answered without waiting for anybody
    is_refused: bool = False  # the broker closes the connection, after those
    waits: bool = False  # an answer may take as long as it likes


def expected(stream: bytes, max_frame_bytes: int) -> Expected:
    found = Expected()
    frames, _, refused_at = frames_of(stream, max_frame_bytes)
    for frame in frames:
        try:
            header, offset = decode_request_header(frame)
            api = APIS.get(header.api_key)
            if api is None:
                raise MalformedRequest("an unknown API")
            if not api.min_version <= header.api_version <= api.max_version:
                if header.api_key != API_VERSIONS:
                    raise MalformedRequest("an unknown version")
                header = header._replace(api_version=0)
                request = None
            else:
                request = decode_request(header.api_key, header.api_version, frame, offset)
        except MalformedRequest:
            found.is_refused = True
            return found
        found.waits = found.waits or may_wait(header.api_key, request)
        if header.api_key == PRODUCE and request.acks == 0:
            continue
        found.asked.append(Asked(header.correlation_id, header.api_key, header.api_version))
        found.at_once += not found.waits
    found.is_refused = refused_at is not None
    return found


def may_wait(api_key: int, request: Any) -> bool:
    return api_key in (JOIN_GROUP, SYNC_GROUP) or (api_key == FETCH and request.max_wait_ms > SHORT_WAIT_MS)


def check_answers(asked: Sequence[Asked], answers: Sequence[bytes]) -> list[Message]:
    """Every answer is one to a request, in the order of the requests, and can be read."""
    left = iter(asked)
    found = []
    for answer in answers:
        correlation_id = int.from_bytes(answer[:4], signed=True)
        one = next((one for one in left if one.correlation_id == correlation_id), None)
        assert one is not None, f"an answer to nothing that was asked, or out of turn: {answer[:100].hex()}"
        try:
            _, offset = decode_response_header(answer, one.api_key, one.version)
            found.append(decode_response(one.api_key, one.version, answer, offset))
        except MalformedRequest as error:
            raise AssertionError(f"the answer to {one} is {error}: {answer[:2000].hex()}") from error
    return found


# ---- words


@dataclass
class Vocabulary:
    """Names and ids that mean something to the broker, gathered from what clients said to it."""

    strings: list[str] = field(default_factory=list)
    uuids: list[UUID] = field(default_factory=list)
    # Ids of topics that were made again, as they were recorded and as they are now.
    renamed: dict[bytes, bytes] = field(default_factory=dict)

    @staticmethod
    def of(sessions: Sequence[Session]) -> Vocabulary:
        strings: dict[str, None] = {}
        uuids: dict[UUID, None] = {}
        for session in sessions:
            for frame in session.frames:
                header, offset = decode_request_header(frame)
                strings[header.client_id or ""] = None
                for message, name, _ in slots(decode_request(header.api_key, header.api_version, frame, offset)):
                    value = getattr(message, name)
                    for one in value if isinstance(value, tuple) else (value,):
                        if isinstance(one, str):
                            strings[one] = None
                        elif isinstance(one, UUID):
                            uuids[one] = None
        return Vocabulary(list(strings), list(uuids))

    def current(self, frame: bytes) -> bytes:
        """A recorded request as a client would send it now."""
        for old, new in self.renamed.items():
            frame = frame.replace(old, new)
        return frame


def slots(message: Message) -> Iterator[tuple[Message, str, Field]]:
    """All fields of a message and of the structs in it."""
    for name, entry in message.FIELDS.items():
        yield message, name, entry
        value = getattr(message, name)
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Message):
                yield from slots(one)


# ---- requests


def hurried(session: Session) -> Session:
    """The session without the patience of its long polls."""
    frames = []
    for frame in session.frames:
        header, offset = decode_request_header(frame)
        if header.api_key == FETCH:
            request = decode_request(header.api_key, header.api_version, frame, offset)
            request.max_wait_ms = min(request.max_wait_ms, SHORT_WAIT_MS)
            frame = encoded(header, request) or frame
        frames.append(frame)
    return Session(session.client, frames)


def alter(rng: Random, message: Message, words: Vocabulary) -> None:
    """Give one field of the message, or of a struct in it, another value of its type."""
    found = [slot for slot in slots(message) if type(slot[0]).__setattr__ is object.__setattr__]
    if found:
        owner, name, entry = rng.choice(found)
        setattr(owner, name, another(rng, entry, getattr(owner, name), words))


def another(rng: Random, entry: Field, value: Any, words: Vocabulary) -> Any:
    if entry.nullable is not None and rng.random() < 0.2:
        return None
    if not entry.is_array:
        return another_value(rng, entry.kind, value, words)
    items = list(value or ())
    match rng.randrange(5):
        case 0:
            return []
        case 1 if items:
            return items + [rng.choice(items)] * rng.choice((1, 2, 50))
        case 2 if items:
            items.pop(rng.randrange(len(items)))
        case 3 if items and isinstance(entry.kind, str):
            items[rng.randrange(len(items))] = another_value(rng, entry.kind, items[0], words)
        case _ if isinstance(entry.kind, str):
            items += [another_value(rng, entry.kind, None, words) for _ in range(rng.choice((1, 3, 300)))]
        case _:
            items += [entry.kind() for _ in range(rng.choice((1, 3)))]
    return items


def another_value(rng: Random, kind: str | type[Message], value: Any, words: Vocabulary) -> Any:
    if not isinstance(kind, str):
        return kind()
    if kind in INTEGERS:
        bits = INTEGERS[kind]
        low, high = (0, (1 << bits) - 1) if kind == "uint16" else (-(1 << bits - 1), (1 << bits - 1) - 1)
        near = (value or 0) + rng.randint(-2, 2)
        return min(high, max(low, rng.choice((near, near, 0, 1, -1, -2, low, high, rng.randrange(200), 1 << bits - 2))))
    match kind:
        case "bool":
            return not value
        case "float64":
            return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e308))
        case "uuid":
            return rng.choice(
                [*words.uuids, *map(uuid_of, words.renamed.values()), UUID(int=0), UUID(int=rng.getrandbits(128))]
            )
        case "string":
            return rng.choice(words.strings if rng.random() < 0.6 else STRINGS)
        case "records" if rng.random() < 0.08:
            return bomb(rng.randint(1, 4))
        case "records" if rng.random() < 0.6:
            return b"".join(fuzz_records.batch(rng) for _ in range(rng.choice((1, 1, 1, 2))))
    data = bytes(value) if value is not None else b""
    for _ in range(rng.randint(1, 3)):
        data = damage(rng, data)
    return data


@cache
def bomb(codec: int) -> bytes:
    """A batch that passes for one of ordinary size."""
    return batch_bytes(codec=codec, raw=bytes(BOMB_BYTES), count=1, base_timestamp=fuzz_records.NOW)


def uuid_of(data: bytes) -> UUID:
    return UUID(bytes=data)


def altered(rng: Random, frame: bytes, words: Vocabulary) -> bytes:
    """The request with some fields changed, or as it is when it has no other form."""
    try:
        header, offset = decode_request_header(frame)
        request = decode_request(header.api_key, header.api_version, frame, offset)
    except MalformedRequest:
        return frame
    for _ in range(rng.choice((1, 1, 2, 4))):
        alter(rng, request, words)
    return encoded(header, request) or frame


def encoded(header: RequestHeader, request: Message) -> bytes | None:
    with contextlib.suppress(ValueError, TypeError, AttributeError, struct.error, OverflowError):
        return encode_request_header(header) + b"".join(encode_request(request, header.api_key, header.api_version))
    return None


def made(rng: Random, words: Vocabulary) -> bytes:
    """A request of any API that is served, in any version, of chance values and known words."""
    while True:
        api = rng.choice(list(APIS.values()))
        version = rng.randint(api.min_version, api.max_version)
        body = random_body((api.key, version, "request"), rng, rng.randint(0, 2))
        request = decode_request(api.key, version, body)
        for owner, name, entry in list(slots(request)):
            is_word = entry.kind in ("string", "uuid", "records") and not entry.is_array
            is_number = entry.kind in INTEGERS and not entry.is_array
            if (is_word and rng.random() < 0.8) or (is_number and rng.random() < 0.5):
                with contextlib.suppress(AttributeError):  # of a default that all share
                    setattr(owner, name, another_value(rng, entry.kind, None, words))
            if name in ("session_timeout_ms", "rebalance_timeout_ms") and rng.random() < 0.8:
                setattr(owner, name, rng.randint(1000, 3000))
        header = RequestHeader(api.key, version, 0, rng.choice(("fuzz", None, "")))
        if (frame := encoded(header, request)) is not None:
            return frame


# ---- conversations


TOLD = {"member_id", "generation_id", "member_epoch", "producer_id", "producer_epoch"}


@dataclass
class Member:
    """What a conversation has been told about itself, which takes the place of what the recorded one was told."""

    words: Vocabulary
    rng: Random
    mark: str
    told: dict[str, Any] = field(default_factory=dict)

    def listen(self, answer: Message) -> None:
        for name in TOLD & answer.FIELDS.keys():
            if value := getattr(answer, name):
                self.told[name] = value
                if name in ("generation_id", "member_epoch"):
                    self.told["generation_id_or_member_epoch"] = value  # in commits of offsets

    def request(self, frame: bytes) -> bytes:
        """The recorded request as this member would send it; now and then with a field that nobody would send."""
        header, offset = decode_request_header(frame)
        request = decode_request(header.api_key, header.api_version, frame, offset)
        for owner, name, _ in slots(request):
            value = getattr(owner, name)
            if isinstance(value, str) and value.startswith(NAMES.group):
                setattr(owner, name, value + self.mark)
            elif isinstance(value, tuple) and value and isinstance(value[0], str):
                setattr(owner, name, [one + self.mark * one.startswith(NAMES.group) for one in value])
            elif name in self.told and value not in ("", -1, 0) and self.rng.random() < 0.9:
                setattr(owner, name, self.told[name])
        for _ in range(self.rng.choice((0, 0, 0, 0, 1, 1, 3))):
            alter(self.rng, request, self.words)
        return encoded(header, request) or frame


# ---- sessions


def plans(rng: Random, count: int, sessions: Sequence[Session], words: Vocabulary, max_frame_bytes: int) -> list[Plan]:
    """Hostile sessions to be played at the same time; some are honest."""
    mark = f"-{rng.getrandbits(30)}"
    if rng.random() < 0.05:
        return [half_sent(rng, sessions, words, max_frame_bytes) for _ in range(count)]
    return [one_plan(rng, sessions, words, max_frame_bytes, f"{mark}-{rng.randrange(3)}") for _ in range(count)]


def one_plan(rng: Random, sessions: Sequence[Session], words: Vocabulary, max_frame_bytes: int, mark: str) -> Plan:
    kind = rng.random()
    if kind < 0.04:
        return Plan([rng.choice(JUNK) + rng.randbytes(rng.randrange(50))], rng.choice(list(Ending)))
    if kind < 0.12:
        return half_sent(rng, sessions, words, max_frame_bytes)
    if kind < 0.3:
        in_groups = [session for session in sessions if is_of_a_member(session)]
        some = some_frames(rng, in_groups if in_groups and rng.random() < 0.6 else sessions, words)
        frames = [numbered(frame, index + 1) for index, frame in enumerate(some)]
        return Plan(frames, rng.choice((Ending.WAIT, Ending.WAIT, Ending.LEAVE)), seed=rng.getrandbits(32), mark=mark)
    if kind < 0.55:
        frames = [made(rng, words) for _ in range(rng.randint(1, MAX_REQUESTS // 2))]
        is_honest = rng.random() < 0.7
    else:
        frames = some_frames(rng, sessions, words)
        is_honest = kind < 0.6
        if not is_honest:
            frames = mixed(rng, frames, sessions, words)
    frames = [numbered(frame, index + 1) for index, frame in enumerate(frames)]
    stream = joined(rng, frames, max_frame_bytes, may_lie=not is_honest)
    ending = rng.choices(list(Ending), (6, 2, 1))[0]
    return Plan(pieces(rng, stream), ending, reads=ending is Ending.WAIT or rng.random() < 0.5)


def is_of_a_member(session: Session) -> bool:
    return any(int.from_bytes(frame[:2]) in (JOIN_GROUP, CONSUMER_GROUP_HEARTBEAT) for frame in session.frames)


def some_frames(rng: Random, sessions: Sequence[Session], words: Vocabulary) -> list[bytes]:
    """A part of a session, mostly from its beginning."""
    frames = rng.choice(sessions).frames
    start = 0 if rng.random() < 0.7 else rng.randrange(len(frames))
    return [words.current(frame) for frame in frames[start : start + rng.randint(1, MAX_REQUESTS)]]


def mixed(rng: Random, frames: list[bytes], sessions: Sequence[Session], words: Vocabulary) -> list[bytes]:
    """The frames, some changed, lost, doubled, moved, or another session's."""
    for _ in range(rng.choice((1, 1, 2, 5, 12))):
        at = rng.randrange(len(frames)) if frames else 0
        match rng.randrange(8):
            case 0 | 1 | 2 if frames:
                frames[at] = altered(rng, frames[at], words)
            case 3 if frames:
                frames[at] = damage(rng, frames[at])
            case 4 if frames:
                frames[at:at] = [frames[at]] * rng.choice((1, 1, 3, 30))
            case 5 if frames:
                frames.insert(rng.randrange(len(frames)), frames.pop(at))
            case 6 if frames:
                del frames[at]
            case _:
                other = some_frames(rng, sessions, words)
                frames[at:at] = other[: rng.randint(1, 5)]
    return frames[: 2 * MAX_REQUESTS]


def numbered(frame: bytes, correlation_id: int) -> bytes:
    return frame[:4] + correlation_id.to_bytes(4) + frame[8:] if len(frame) >= 8 else frame


def joined(rng: Random, frames: list[bytes], max_frame_bytes: int, *, may_lie: bool) -> bytes:
    """The stream of the frames, with at most one lie about a size, and perhaps cut."""
    sizes = [len(frame) for frame in frames]
    if may_lie and frames and rng.random() < 0.15:
        at = rng.randrange(len(frames))
        lies = (0, 1, 7, -1, -(1 << 31), (1 << 31) - 1, max_frame_bytes, max_frame_bytes + 1, 1 << 20)
        sizes[at] = rng.choice((*lies, sizes[at] + rng.choice((-3, -1, 1, 4))))
    stream = b"".join(size.to_bytes(4, signed=True) + frame for size, frame in zip(sizes, frames, strict=True))
    if may_lie and rng.random() < 0.1:
        stream = damage(rng, stream)
    return stream[: rng.randrange(len(stream) + 1)] if may_lie and rng.random() < 0.15 else stream


def pieces(rng: Random, stream: bytes) -> list[bytes]:
    """The stream as the network might deliver it."""
    if rng.random() < 0.6 or not stream:
        return [stream]
    size = max(len(stream) // 200, rng.choice((1, 3, 50, 1000)))
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def half_sent(rng: Random, sessions: Sequence[Session], words: Vocabulary, max_frame_bytes: int) -> Plan:
    """Some good requests, and one that claims to be large and stops somewhere."""
    frames = [numbered(frame, index + 1) for index, frame in enumerate(some_frames(rng, sessions, words)[:3])]
    start = b"".join(len(frame).to_bytes(4) + frame for frame in frames)
    size = rng.choice((max_frame_bytes, max_frame_bytes // 2, 100_000, 50))
    sent = rng.choice((0, 1, size // 2, size - 1))
    head = rng.choice(frames)[:sent] if frames else b""
    rest = size.to_bytes(4) + head + bytes(max(0, sent - len(head)))
    return Plan([start, rest], rng.choice((Ending.LEAVE, Ending.LEAVE, Ending.ABORT)), reads=True)
