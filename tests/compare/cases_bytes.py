"""Bytes below the messages: frames and headers that are wrong, APIs and versions that are not served."""

from __future__ import annotations

import struct
from typing import Any

from tests.compare.scene import API_VERSIONS, Scene, case, sized

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

METADATA = 3
# A name that no version creates by being asked for it.
ASKED = MetadataRequest(topics=[MetadataRequestTopic(name="a b")])


def _add_size(name: str, data: bytes) -> None:
    @case(f"bytes-{name}", METADATA, (1,))
    async def ask(scene: Scene) -> Any:
        return await scene.tell(data)


_add_size("size-0", struct.pack(">i", 0))
_add_size("size-negative", struct.pack(">i", -1))
_add_size("size-most-negative", struct.pack(">i", -(2**31)))
_add_size("size-just-too-large", struct.pack(">i", 104_857_601))
_add_size("size-largest", struct.pack(">i", 2**31 - 1))
_add_size("size-allowed-without-more", struct.pack(">i", 104_857_600))
_add_size("size-cut", b"\0\0")
_add_size("http", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
_add_size("tls", bytes.fromhex("1603010200010001fc0303") + bytes(300))
for _length in (1, 2, 4, 7, 8, 9):
    _add_size(f"header-of-{_length}", sized(struct.pack(">hhih", METADATA, 1, 7, -1)[:_length]))
_add_size("header-only", sized(struct.pack(">hhih", METADATA, 1, 7, -1)))
_add_size("client-id-beyond", sized(struct.pack(">hhih", METADATA, 1, 7, 100)))
_add_size("client-id-negative", sized(struct.pack(">hhihi", METADATA, 1, 7, -2, 0)))
_add_size("client-id-no-text", sized(struct.pack(">hhih", METADATA, 1, 7, 2) + b"\xff\xfe" + bytes(4)))


def _add_body(name: str, version: int, body: bytes, *, answers: bool = True) -> None:
    @case(f"bytes-{name}", METADATA, (version,))
    async def ask(scene: Scene) -> Any:
        return await scene.tell(sized(scene.frame(body)), (METADATA, version) if answers else None)


_add_body("count-lies", 1, struct.pack(">i", 2**31 - 1), answers=False)
_add_body("count-negative", 1, struct.pack(">i", -2), answers=False)
_add_body("count-below-the-elements", 1, struct.pack(">ih1sh1s", 1, 1, b"!", 1, b"b"))
_add_body("string-beyond", 1, struct.pack(">ih", 1, 100) + b"short", answers=False)
_add_body("string-null", 1, struct.pack(">ih", 1, -1), answers=False)
_add_body("string-no-text", 1, struct.pack(">ih2s", 1, 2, b"\xff\xfe"))
_add_body("array-null", 0, struct.pack(">i", -1), answers=False)
_add_body("boolean-2", 4, struct.pack(">ih1sb", 1, 1, b"!", 2))
_add_body("compact-lies", 9, b"\xff\xff\xff\xff\x0f", answers=False)
_add_body("varint-endless", 9, b"\xff" * 20, answers=False)
_add_body("tag-unknown", 9, b"\x01\0\0\0" + b"\x01\x63\x02ab")
_add_body("tag-beyond", 9, b"\x01\0\0\0" + b"\x01\x63\x7fab", answers=False)
_add_body("tags-descending", 9, b"\x01\0\0\0" + b"\x02\x63\x01a\x62\x01a", answers=False)
_add_body("tag-twice", 9, b"\x01\0\0\0" + b"\x02\x63\x01a\x63\x01a", answers=False)


@case("bytes-header-tag", METADATA, (9,))
async def _(scene: Scene) -> Any:
    frame = struct.pack(">hhih", METADATA, 9, 7, -1) + b"\x01\x63\x02ab" + b"\x01\0\0\0\0"
    return await scene.tell(sized(frame), (METADATA, 9))


@case("bytes-trailing", METADATA)
async def _(scene: Scene) -> Any:
    return await scene.tell(sized(scene.frame(ASKED) + b"\0\0\0"), (METADATA, scene.version))


@case("bytes-cut", METADATA)
async def _(scene: Scene) -> Any:
    return await scene.tell(sized(scene.frame(ASKED)[:-1]))


@case("bytes-half-sent", METADATA, (1, 9))
async def _(scene: Scene) -> Any:
    return await scene.tell(sized(scene.frame(ASKED))[:-1])


@case("bytes-two-in-one", METADATA)
async def _(scene: Scene) -> Any:
    first = await scene.tell(sized(scene.frame(ASKED)) * 2, (METADATA, scene.version))
    return {"first": first, "second": await scene.tell(b"", (METADATA, scene.version))}


@case("bytes-good-then-bad", METADATA)
async def _(scene: Scene) -> Any:
    first = await scene.tell(sized(scene.frame(ASKED)) + sized(b"\0"), (METADATA, scene.version))
    return {"first": first, "second": await scene.tell(b"")}


# APIs and versions that nobody serves. Those that Kafka serves and pg_kafka does not are in `versions-plain`.

for _key in (-1, 4, 5, 6, 7, 52, 93, 1000, 32767):

    @case(f"key-{_key}", METADATA, (0,))
    async def _(scene: Scene, key: int = _key) -> Any:
        frame = struct.pack(">hhih", key, 0, 7, -1) + bytes(20)
        return await scene.tell(sized(frame))


for _api in APIS.values():
    _around = {_api.min_version - 1, _api.max_version + 1}
    for _version in sorted(_around | {-1, 32767} if _api.key == API_VERSIONS else _around):

        @case(f"version-{_api.name}-{_version}", _api.key, (_version,))
        async def _(scene: Scene) -> Any:
            frame = struct.pack(">hhih", scene.api_key, scene.version, 7, -1) + bytes(20)
            return await scene.tell(sized(frame), (API_VERSIONS, 0))


@case("version-api-versions-with-software", API_VERSIONS, (99,))
async def _(scene: Scene) -> Any:
    frame = struct.pack(">hhih", API_VERSIONS, scene.version, 7, 3) + b"raw" + b"\0\x04raw\x041.0\0"
    return await scene.tell(sized(frame), (API_VERSIONS, 0))


@case("bytes-answers-keep-their-order", API_VERSIONS, (0,))
async def _(scene: Scene) -> Any:
    """The second is quicker to make."""
    await scene.topic()
    first = scene.client.send(ASKED, METADATA, 4)
    second = scene.client.send(ApiVersionsRequest(), API_VERSIONS, 0)
    return {
        "first": await scene.client.receive(METADATA, 4, first),
        "second": await scene.client.receive(API_VERSIONS, 0, second),
    }
