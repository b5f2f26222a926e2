"""Compressed streams of every shape that their formats allow, and of some that they do not.

`STREAMS` has one row for each: how it is made, and what pg_kafka does with it. The unit tests read all of them, the
comparison sends all of them to Apache Kafka as well, and the clients' tests have every library read those that are taken.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import cramjam
import lz4.frame

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
_M32, _M64 = 2**32 - 1, 2**64 - 1


class Fate(Enum):
    KEPT = "all clients read it, and get it as it came"
    ANEW = "Kafka takes it, not all clients read it; they get its records compressed anew"
    REFUSED = "not taken"


KEPT, ANEW, REFUSED = Fate


@dataclass(frozen=True)
class Stream:
    """One shape: `make` compresses bytes into it."""

    codec: int
    make: Callable[[bytes], bytes]
    fate: Fate


# -- what can be done to a stream of any format ----------------------------------------------------------------------


def halves(make: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: make(data[: len(data) // 2]) + make(data[len(data) // 2 :])


def after(make: Callable[[bytes], bytes], more: bytes) -> Callable[[bytes], bytes]:
    return lambda data: make(data) + more


def before(make: Callable[[bytes], bytes], more: bytes) -> Callable[[bytes], bytes]:
    return lambda data: more + make(data)


def changed(make: Callable[[bytes], bytes], at: int) -> Callable[[bytes], bytes]:
    """With one bit of a byte turned."""

    def damaged(data: bytes) -> bytes:
        out = bytearray(make(data))
        out[at] ^= 1
        return bytes(out)

    return damaged


def cut(make: Callable[[bytes], bytes], count: int) -> Callable[[bytes], bytes]:
    return lambda data: make(data)[:-count]


# -- gzip (RFC 1952) ------------------------------------------------------------------------------------------------


def gzip_with(flags: int, fields: bytes = b"") -> Callable[[bytes], bytes]:
    """One member with header fields: 1 text, 2 CRC of the header (added here), 4 extra, 8 name, 16 comment."""

    def make(data: bytes) -> bytes:
        head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + fields
        if flags & 2:
            head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
        return head + gzip.compress(data)[10:]

    return make


# -- snappy, raw and in xerial's framing ----------------------------------------------------------------------------

XERIAL_MAGIC = b"\x82SNAPPY\x00"


def raw_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def xerial(version: int = 1, compatible: int = 1, block_bytes: int = 32 * 1024) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        out = XERIAL_MAGIC + version.to_bytes(4) + compatible.to_bytes(4)
        for start in range(0, len(data), block_bytes):
            block = raw_snappy(data[start : start + block_bytes])
            out += len(block).to_bytes(4) + block
        return out

    return make


# -- lz4 (the frame format 1.6) -------------------------------------------------------------------------------------


def xxh32(data: bytes, seed: int = 0) -> int:
    primes = 2654435761, 2246822519, 3266489917, 668265263, 374761393

    def turn(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & _M32

    at = 0
    if len(data) >= 16:
        lanes = [seed + primes[0] + primes[1], seed + primes[1], seed, seed - primes[0]]
        while at + 16 <= len(data):
            for lane in range(4):
                word = int.from_bytes(data[at : at + 4], "little")
                lanes[lane] = turn((lanes[lane] + word * primes[1]) & _M32, 13) * primes[0] & _M32
                at += 4
        hashed = sum(turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _M32
    else:
        hashed = (seed + primes[4]) & _M32
    hashed = (hashed + len(data)) & _M32
    while at + 4 <= len(data):
        hashed = turn((hashed + int.from_bytes(data[at : at + 4], "little") * primes[2]) & _M32, 17) * primes[3] & _M32
        at += 4
    for byte in data[at:]:
        hashed = turn((hashed + byte * primes[4]) & _M32, 11) * primes[0] & _M32
    hashed = (hashed ^ hashed >> 15) * primes[1] & _M32
    hashed = (hashed ^ hashed >> 13) * primes[2] & _M32
    return hashed ^ hashed >> 16


def lz4_frame(
    *,
    is_independent: bool = True,
    block_size: int = 4,
    has_block_checksums: bool = False,
    content_checksum: int | None = None,
    content_size: int | None = None,
    dictionary: int | None = None,
    version: int = 1,
    reserved: int = 0,
    header_checksum_xor: int = 0,
    block_checksum_xor: int = 0,
    end_mark: bytes = bytes(4),
    is_stored_plain: bool = False,
    block_bytes: int = 64 * 1024,
    empty_block: bytes = b"",
) -> Callable[[bytes], bytes]:
    """A frame written by hand. `content_checksum` and `content_size` are what to add to the right ones."""

    def make(data: bytes) -> bytes:
        flags = version << 6 | is_independent << 5 | has_block_checksums << 4 | reserved
        flags |= (content_size is not None) << 3 | (content_checksum is not None) << 2 | (dictionary is not None)
        head = bytes([flags, block_size << 4])
        if content_size is not None:
            head += (len(data) + content_size).to_bytes(8, "little")
        if dictionary is not None:
            head += dictionary.to_bytes(4, "little")
        out = b"\x04\x22\x4d\x18" + head + bytes([xxh32(head) >> 8 & 0xFF ^ header_checksum_xor]) + empty_block
        for start in range(0, len(data), block_bytes):
            piece = data[start : start + block_bytes]
            block = bytes(cramjam.lz4.compress_block(piece, store_size=False))
            size = len(block)
            if is_stored_plain or size > len(piece):
                block, size = piece, len(piece) | 1 << 31
            out += size.to_bytes(4, "little") + block
            if has_block_checksums:
                out += (xxh32(block) ^ block_checksum_xor).to_bytes(4, "little")
        out += end_mark
        if content_checksum is not None:
            out += (xxh32(data) ^ content_checksum).to_bytes(4, "little")
        return out

    return make


def linked(data: bytes) -> bytes:
    return lz4.frame.compress(data, block_linked=True, block_size=lz4.frame.BLOCKSIZE_MAX64KB, store_size=False)


def lz4_legacy(data: bytes) -> bytes:
    block = bytes(cramjam.lz4.compress_block(data, store_size=False))
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block


def skippable(magic: bytes, size: int) -> bytes:
    """A frame of `size` bytes that readers of the format pass over."""
    return magic + size.to_bytes(4, "little") + bytes(size)


LZ4_SKIPPABLE, ZSTD_SKIPPABLE = b"\x50\x2a\x4d\x18", b"\x5f\x2a\x4d\x18"

# -- zstd (RFC 8878) ------------------------------------------------------------------------------------------------


def xxh64(data: bytes) -> int:
    primes = (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )

    def turn(value: int, by: int) -> int:
        return (value << by | value >> 64 - by) & _M64

    def step(lane: int, word: int) -> int:
        return turn((lane + word * primes[1]) & _M64, 31) * primes[0] & _M64

    at = 0
    if len(data) >= 32:
        lanes = [primes[0] + primes[1], primes[1], 0, -primes[0]]
        while at + 32 <= len(data):
            for lane in range(4):
                lanes[lane] = step(lanes[lane], int.from_bytes(data[at : at + 8], "little"))
                at += 8
        hashed = sum(turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _M64
        for lane in lanes:
            hashed = ((hashed ^ step(0, lane)) * primes[0] + primes[3]) & _M64
    else:
        hashed = primes[4]
    hashed = (hashed + len(data)) & _M64
    while at + 8 <= len(data):
        hashed = turn(hashed ^ step(0, int.from_bytes(data[at : at + 8], "little")), 27) * primes[0] + primes[3] & _M64
        at += 8
    if at + 4 <= len(data):
        hashed ^= int.from_bytes(data[at : at + 4], "little") * primes[0] & _M64
        hashed = turn(hashed, 23) * primes[1] + primes[2] & _M64
        at += 4
    for byte in data[at:]:
        hashed = turn(hashed ^ byte * primes[4] & _M64, 11) * primes[0] & _M64
    hashed = (hashed ^ hashed >> 33) * primes[1] & _M64
    hashed = (hashed ^ hashed >> 29) * primes[2] & _M64
    return hashed ^ hashed >> 32


def zstd_frame(
    *,
    window_log: int = 17,
    content_size: int | None = None,
    is_single_segment: bool = False,
    checksum: int | None = None,
    dictionary: int | None = None,
    reserved: int = 0,
) -> Callable[[bytes], bytes]:
    """A frame of raw blocks written by hand. `content_size` and `checksum` are what to add to the right ones."""

    def make(data: bytes) -> bytes:
        has_size = content_size is not None
        descriptor = (3 << 6 if has_size else 0) | is_single_segment << 5 | reserved << 3 | (checksum is not None) << 2
        descriptor |= 0 if dictionary is None else 3
        out = b"\x28\xb5\x2f\xfd" + bytes([descriptor])
        if not is_single_segment:
            out += bytes([window_log - 10 << 3])
        if dictionary is not None:
            out += dictionary.to_bytes(4, "little")
        if has_size:
            out += (len(data) + (content_size or 0)).to_bytes(8, "little")
        pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)] or [b""]
        for number, piece in enumerate(pieces, 1):
            out += (len(piece) << 3 | (number == len(pieces))).to_bytes(3, "little") + piece
        if checksum is not None:
            out += (xxh64(data) & _M32 ^ checksum).to_bytes(4, "little")
        return out

    return make


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


ZEROS, GARBAGE, EMPTY = bytes(8), b"garbage!", b""
STREAMS: dict[str, Stream] = {
    "gzip": Stream(GZIP, gzip.compress, KEPT),
    "gzip-stored": Stream(GZIP, lambda data: gzip.compress(data, 0), KEPT),
    "gzip-text-flag": Stream(GZIP, gzip_with(1), KEPT),
    "gzip-header-crc": Stream(GZIP, gzip_with(2), KEPT),
    "gzip-header-crc-wrong": Stream(GZIP, changed(gzip_with(2), 10), REFUSED),
    "gzip-extra": Stream(GZIP, gzip_with(4, b"\x04\x00abcd"), KEPT),
    "gzip-name": Stream(GZIP, gzip_with(8, b"name\x00"), KEPT),
    "gzip-comment": Stream(GZIP, gzip_with(16, b"comment\x00"), KEPT),
    "gzip-all-fields": Stream(GZIP, gzip_with(31, b"\x04\x00abcdname\x00comment\x00"), KEPT),
    "gzip-reserved-flag": Stream(GZIP, gzip_with(0x20), REFUSED),
    "gzip-method-7": Stream(GZIP, changed(gzip.compress, 2), REFUSED),
    "gzip-magic-wrong": Stream(GZIP, changed(gzip.compress, 0), REFUSED),
    "gzip-two-members": Stream(GZIP, halves(gzip.compress), ANEW),
    "gzip-empty-member-first": Stream(GZIP, before(gzip.compress, gzip.compress(b"")), ANEW),
    "gzip-empty-member-last": Stream(GZIP, after(gzip.compress, gzip.compress(b"")), ANEW),
    "gzip-zeros-after": Stream(GZIP, after(gzip.compress, ZEROS), ANEW),
    "gzip-one-zero-after": Stream(GZIP, after(gzip.compress, b"\x00"), ANEW),
    "gzip-zeros-then-member": Stream(GZIP, after(gzip.compress, ZEROS + gzip.compress(b"")), REFUSED),
    "gzip-garbage-after": Stream(GZIP, after(gzip.compress, GARBAGE), REFUSED),
    "gzip-long-garbage-after": Stream(GZIP, after(gzip.compress, GARBAGE * 100), REFUSED),
    "gzip-half-a-member-after": Stream(GZIP, after(gzip.compress, gzip.compress(b"more")[:-3]), REFUSED),
    "gzip-crc-wrong": Stream(GZIP, changed(gzip.compress, -8), REFUSED),
    "gzip-size-wrong": Stream(GZIP, changed(gzip.compress, -4), REFUSED),
    "gzip-trailer-cut": Stream(GZIP, cut(gzip.compress, 1), REFUSED),
    "gzip-no-trailer": Stream(GZIP, cut(gzip.compress, 8), REFUSED),
    "gzip-no-size": Stream(GZIP, cut(gzip.compress, 4), REFUSED),
    "gzip-two-members-and-zeros": Stream(GZIP, after(halves(gzip.compress), ZEROS), REFUSED),
    "gzip-zlib": Stream(GZIP, zlib.compress, REFUSED),
    "gzip-raw-deflate": Stream(GZIP, lambda data: zlib.compress(data, wbits=-15), REFUSED),
    "gzip-empty": Stream(GZIP, lambda data: EMPTY, REFUSED),
    "snappy-raw": Stream(SNAPPY, raw_snappy, KEPT),
    "snappy-raw-bytes-after": Stream(SNAPPY, after(raw_snappy, ZEROS), REFUSED),
    "snappy-raw-cut": Stream(SNAPPY, cut(raw_snappy, 1), REFUSED),
    "snappy-framed": Stream(SNAPPY, lambda data: bytes(cramjam.snappy.compress(data)), REFUSED),
    "snappy-empty": Stream(SNAPPY, lambda data: EMPTY, REFUSED),
    "snappy-xerial": Stream(SNAPPY, xerial(), KEPT),
    "snappy-xerial-one-block": Stream(SNAPPY, xerial(block_bytes=1 << 24), KEPT),
    "snappy-xerial-small-blocks": Stream(SNAPPY, xerial(block_bytes=1000), KEPT),
    "snappy-xerial-version-0": Stream(SNAPPY, xerial(0), ANEW),
    "snappy-xerial-version-9": Stream(SNAPPY, xerial(9), ANEW),
    "snappy-xerial-compatible-0": Stream(SNAPPY, xerial(1, 0), ANEW),
    "snappy-xerial-compatible-9": Stream(SNAPPY, xerial(1, 9), ANEW),
    "snappy-xerial-two-headers": Stream(SNAPPY, halves(xerial()), ANEW),
    "snappy-xerial-header-after": Stream(SNAPPY, after(xerial(), xerial()(b"")), ANEW),
    "snappy-xerial-header-before": Stream(SNAPPY, before(xerial(), xerial()(b"")), ANEW),
    "snappy-xerial-empty-block": Stream(SNAPPY, after(xerial(), b"\x00\x00\x00\x01\x00"), KEPT),
    "snappy-xerial-zero-size-after": Stream(SNAPPY, after(xerial(), bytes(4)), REFUSED),
    "snappy-xerial-one-byte-after": Stream(SNAPPY, after(xerial(), b"\x00"), REFUSED),
    "snappy-xerial-three-bytes-after": Stream(SNAPPY, after(xerial(), bytes(3)), REFUSED),
    "snappy-xerial-garbage-after": Stream(SNAPPY, after(xerial(), GARBAGE), REFUSED),
    "snappy-xerial-cut": Stream(SNAPPY, cut(xerial(), 1), REFUSED),
    "lz4": Stream(LZ4, lz4_frame(), KEPT),
    "lz4-plain-blocks": Stream(LZ4, lz4_frame(is_stored_plain=True), KEPT),
    "lz4-blocks-of-256-kb": Stream(LZ4, lz4_frame(block_size=5, block_bytes=256 << 10), KEPT),
    "lz4-blocks-of-1-mb": Stream(LZ4, lz4_frame(block_size=6, block_bytes=1 << 20), KEPT),
    "lz4-blocks-of-4-mb": Stream(LZ4, lz4_frame(block_size=7, block_bytes=4 << 20), KEPT),
    "lz4-small-blocks": Stream(LZ4, lz4_frame(block_bytes=1000), KEPT),
    "lz4-block-size-3": Stream(LZ4, lz4_frame(block_size=3), REFUSED),
    "lz4-block-size-8": Stream(LZ4, lz4_frame(block_size=8), REFUSED),
    "lz4-block-above-its-size": Stream(LZ4, lz4_frame(block_bytes=128 << 10), REFUSED),
    "lz4-plain-block-above-its-size": Stream(LZ4, lz4_frame(block_bytes=128 << 10, is_stored_plain=True), REFUSED),
    "lz4-linked": Stream(LZ4, linked, REFUSED),
    "lz4-says-linked": Stream(LZ4, lz4_frame(is_independent=False), REFUSED),
    "lz4-block-checksums": Stream(LZ4, lz4_frame(has_block_checksums=True), KEPT),
    "lz4-block-checksum-wrong": Stream(LZ4, lz4_frame(has_block_checksums=True, block_checksum_xor=1), REFUSED),
    "lz4-content-checksum": Stream(LZ4, lz4_frame(content_checksum=0), KEPT),
    "lz4-content-checksum-wrong": Stream(LZ4, lz4_frame(content_checksum=1), REFUSED),
    "lz4-content-checksum-missing": Stream(LZ4, cut(lz4_frame(content_checksum=0), 4), REFUSED),
    "lz4-content-size": Stream(LZ4, lz4_frame(content_size=0), KEPT),
    "lz4-content-size-and-checksums": Stream(
        LZ4, lz4_frame(content_size=0, content_checksum=0, has_block_checksums=True), KEPT
    ),
    "lz4-content-size-wrong": Stream(LZ4, lz4_frame(content_size=1), REFUSED),
    "lz4-dictionary": Stream(LZ4, lz4_frame(dictionary=7), REFUSED),
    "lz4-version-2": Stream(LZ4, lz4_frame(version=2), REFUSED),
    "lz4-reserved-flag": Stream(LZ4, lz4_frame(reserved=2), REFUSED),
    "lz4-header-checksum-wrong": Stream(LZ4, lz4_frame(header_checksum_xor=1), REFUSED),
    "lz4-no-end-mark": Stream(LZ4, lz4_frame(end_mark=b""), REFUSED),
    "lz4-half-an-end-mark": Stream(LZ4, lz4_frame(end_mark=bytes(2)), REFUSED),
    "lz4-empty-plain-block": Stream(LZ4, lz4_frame(empty_block=b"\x00\x00\x00\x80"), REFUSED),
    "lz4-block-of-nothing": Stream(LZ4, lz4_frame(empty_block=b"\x01\x00\x00\x00\x00"), REFUSED),
    "lz4-cut": Stream(LZ4, cut(lz4_frame(), 6), REFUSED),
    "lz4-zeros-after": Stream(LZ4, after(lz4_frame(), ZEROS), REFUSED),
    "lz4-garbage-after": Stream(LZ4, after(lz4_frame(), GARBAGE), REFUSED),
    "lz4-two-frames": Stream(LZ4, halves(lz4_frame()), REFUSED),
    "lz4-empty-frame-first": Stream(LZ4, before(lz4_frame(), lz4_frame()(b"")), REFUSED),
    "lz4-empty-frame-last": Stream(LZ4, after(lz4_frame(), lz4_frame()(b"")), REFUSED),
    "lz4-skippable-first": Stream(LZ4, before(lz4_frame(), skippable(LZ4_SKIPPABLE, 5)), REFUSED),
    "lz4-skippable-last": Stream(LZ4, after(lz4_frame(), skippable(LZ4_SKIPPABLE, 5)), REFUSED),
    "lz4-legacy": Stream(LZ4, lz4_legacy, REFUSED),
    "lz4-empty": Stream(LZ4, lambda data: EMPTY, REFUSED),
    "zstd": Stream(ZSTD, zstd, KEPT),
    "zstd-raw-blocks": Stream(ZSTD, zstd_frame(), KEPT),
    "zstd-content-size": Stream(ZSTD, zstd_frame(content_size=0), KEPT),
    "zstd-content-size-wrong": Stream(ZSTD, zstd_frame(content_size=1), REFUSED),
    "zstd-single-segment": Stream(ZSTD, zstd_frame(content_size=0, is_single_segment=True), KEPT),
    "zstd-checksum": Stream(ZSTD, zstd_frame(checksum=0), KEPT),
    "zstd-checksum-wrong": Stream(ZSTD, zstd_frame(checksum=1), REFUSED),
    "zstd-checksum-missing": Stream(ZSTD, cut(zstd_frame(checksum=0), 4), REFUSED),
    "zstd-dictionary-0": Stream(ZSTD, zstd_frame(dictionary=0), KEPT),
    "zstd-dictionary": Stream(ZSTD, zstd_frame(dictionary=7), REFUSED),
    "zstd-reserved-bit": Stream(ZSTD, zstd_frame(reserved=1), REFUSED),
    "zstd-unused-bit": Stream(ZSTD, zstd_frame(reserved=2), KEPT),
    "zstd-window-8-mb": Stream(ZSTD, zstd_frame(window_log=23), KEPT),
    "zstd-window-64-mb": Stream(ZSTD, zstd_frame(window_log=26), KEPT),
    "zstd-window-128-mb": Stream(ZSTD, zstd_frame(window_log=27), KEPT),
    "zstd-window-256-mb": Stream(ZSTD, zstd_frame(window_log=28), REFUSED),
    "zstd-window-2-gb": Stream(ZSTD, zstd_frame(window_log=31), REFUSED),
    "zstd-window-1-tb": Stream(ZSTD, zstd_frame(window_log=40), REFUSED),
    "zstd-window-256-mb-and-size": Stream(ZSTD, zstd_frame(window_log=28, content_size=0), REFUSED),
    "zstd-two-frames": Stream(ZSTD, halves(zstd), KEPT),
    "zstd-two-frames-without-size": Stream(ZSTD, halves(zstd_frame()), KEPT),
    "zstd-empty-frame-first": Stream(ZSTD, before(zstd, zstd(b"")), KEPT),
    "zstd-empty-frame-last": Stream(ZSTD, after(zstd, zstd(b"")), KEPT),
    "zstd-skippable-first": Stream(ZSTD, before(zstd, skippable(ZSTD_SKIPPABLE, 5)), KEPT),
    "zstd-skippable-last": Stream(ZSTD, after(zstd, skippable(ZSTD_SKIPPABLE, 5)), KEPT),
    "zstd-zeros-after": Stream(ZSTD, after(zstd, ZEROS), REFUSED),
    "zstd-one-byte-after": Stream(ZSTD, after(zstd, b"\x00"), REFUSED),
    "zstd-garbage-after": Stream(ZSTD, after(zstd, GARBAGE), REFUSED),
    "zstd-half-a-frame-after": Stream(ZSTD, after(zstd, zstd(b"more")[:-3]), REFUSED),
    "zstd-cut": Stream(ZSTD, cut(zstd, 1), REFUSED),
    "zstd-empty": Stream(ZSTD, lambda data: EMPTY, REFUSED),
}
