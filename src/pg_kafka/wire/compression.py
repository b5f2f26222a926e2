"""The four codecs of Kafka's record batches, with a bound on what comes out.

`decompress` never makes more than `limit` bytes, whatever the compressed data declare: output buffers grow with what
the data turn out to hold. `compress` writes what every client can read: xerial's framing for snappy, independent blocks
for lz4. Whatever a stranger sends, the only exception is RecordsError.

Kafka's clients do not agree about what a codec's stream may look like. librdkafka ends its process at a gzip member that
is empty, and loses what comes after the first one; Java stops at linked lz4 blocks. So there are three kinds of streams:
those that all clients read, those that Kafka takes and some clients cannot read (`is_read_by_all` says so, and consumers
get their records compressed anew), and those that are refused. `tests/compressed_streams.py` lists them.

Codec numbers are Kafka's: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import cramjam

from pg_kafka.wire import _streams

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

# Kafka's error codes for what can be wrong with records.
CORRUPT_MESSAGE = 2
MESSAGE_TOO_LARGE = 10
UNSUPPORTED_COMPRESSION_TYPE = 76
INVALID_RECORD = 87

_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
_DEFAULT_LEVELS = {GZIP: 6, LZ4: 0, ZSTD: 3}
# Kafka's default lz4 level, for which its Java client takes the fast compressor and not the high one.
_KAFKA_LZ4_DEFAULT = 9

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + (1).to_bytes(4) + (1).to_bytes(4)
_XERIAL_BLOCK_BYTES = 64 * 1024
# Each block costs some microseconds, an empty one too. No writer's are smaller than this, but for the last ones of streams.
_XERIAL_LEAST_BLOCK_BYTES = 1024
_XERIAL_BLOCKS = 64
# A copy element of 3 bytes makes at most 64: no snappy block expands more, so a larger declared size is a lie.
_SNAPPY_MAX_RATIO = 22

# First guess at the output: most record batches shrink less than that.
_GUESSED_RATIO = 8
_GUESS_AT_LEAST = 16 * 1024
_GROWTH = 4
_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_LEAST_BYTES = 18
_ZLIB_GZIP = 31  # wbits: the largest window, in gzip's wrapping
_PIECE_BYTES = 64 * 1024
# Rust's std::io::Write for a buffer that is full; pinned by a test.
_OUTPUT_FULL = "failed to write whole buffer"

_DECOMPRESS_INTO: dict[int, Callable[[bytes | memoryview, bytearray], int]] = {
    GZIP: cramjam.gzip.decompress_into,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}


class RecordsError(Exception):
    """Records that cannot be taken, with Kafka's error code and the index of the record to blame or -1 (KIP-467)."""

    def __init__(self, code: int, message: str, record_index: int = -1) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.record_index = record_index


def compress(codec: int, data: bytes, level: int | None = None) -> bytes:
    """`data` compressed, by Kafka's default level without one. Raises RecordsError for an unknown codec."""
    if codec == NONE:
        return data
    if codec == SNAPPY:
        return _compress_xerial(memoryview(data))
    if codec not in _DEFAULT_LEVELS:
        raise _unknown(codec)
    if level is None or (codec == LZ4 and level == _KAFKA_LZ4_DEFAULT) or (codec == GZIP and level < 0):
        level = _DEFAULT_LEVELS[codec]
    if codec == GZIP:
        return bytes(cramjam.gzip.compress(data, level))
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data, level))
    # Java refuses frames with linked blocks, which are cramjam's default.
    compressor = cramjam.lz4.Compressor(level=level, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


def decompress(codec: int, data: bytes | memoryview, limit: int) -> bytes | memoryview:
    """What `data` hold, at most `limit` bytes.

    Raises RecordsError: MESSAGE_TOO_LARGE above the limit, INVALID_RECORD for data that are not of the codec (not
    CORRUPT_MESSAGE, which makes clients send the same again), UNSUPPORTED_COMPRESSION_TYPE for an unknown codec.
    """
    if codec == NONE:
        if len(data) > limit:
            raise _too_large(codec, limit)
        return data
    if codec == SNAPPY:
        return _decompress_snappy(memoryview(data), limit)
    if codec not in _DECOMPRESS_INTO:
        raise _unknown(codec)
    if codec == LZ4 and (flaw := _streams.lz4_flaw(data)) is not None:
        raise _damaged(LZ4, flaw)
    try:
        return _decompress(codec, data, limit)
    except RecordsError as error:
        if codec != GZIP or error.code != INVALID_RECORD or not (end := _gzip_end_before_zeros(data, limit)):
            raise
    return _decompress(codec, data[:end], limit)


def is_read_by_all(codec: int, data: bytes | memoryview, size: int) -> bool:
    """Whether every client can read `data`, which Kafka takes and which hold `size` bytes."""
    if codec == GZIP:
        # A size that is not that of all means more members, or bytes that are none; so may the beginning of another member.
        if int.from_bytes(data[-4:], "little") != size:
            return False
        return not _streams.contains(data, _GZIP_MAGIC, _GZIP_LEAST_BYTES) or _gzip_member_end(data, size) == len(data)
    if codec == SNAPPY and data[: len(_XERIAL_MAGIC)] == _XERIAL_MAGIC:
        # aiokafka wants these versions; nobody but Java reads a second header.
        is_usual = data[: len(_XERIAL_HEADER)] == _XERIAL_HEADER
        return is_usual and not _streams.contains(data, _XERIAL_MAGIC, len(_XERIAL_MAGIC))
    return True


def size_hint(codec: int, data: bytes | memoryview) -> int:
    """How many bytes `data` may hold: what the stream says, or else a guess."""
    return _declared_size(codec, data) or len(data) * _GUESSED_RATIO + _GUESS_AT_LEAST


def _decompress(codec: int, data: bytes | memoryview, limit: int) -> memoryview:
    declared = _declared_size(codec, data)
    if declared > limit and codec != GZIP:  # gzip says it at the end, which may be missing
        raise _too_large(codec, limit)
    size = min(limit, declared or len(data) * _GUESSED_RATIO + _GUESS_AT_LEAST)
    while True:
        # One more byte than needed, since a full buffer does not tell whether there would have been more.
        output = _streams.unwritten(size + 1)
        try:
            written = _DECOMPRESS_INTO[codec](data, output)
        except cramjam.DecompressionError as error:
            if str(error) != _OUTPUT_FULL:
                raise _damaged(codec, error) from None
            written = size + 1
        if written <= size:
            return memoryview(output)[:written]
        if size >= limit:
            raise _too_large(codec, limit)
        del output
        size = min(limit, size * _GROWTH)


def _declared_size(codec: int, data: bytes | memoryview) -> int:
    """How many bytes a stream says that it holds, 0 when it does not say. It may lie: the codecs find out."""
    compressed = len(data)
    if codec == GZIP and compressed >= _GZIP_LEAST_BYTES and data[:3] == _GZIP_MAGIC:
        return int.from_bytes(data[-4:], "little")
    if codec == LZ4 and compressed >= 15 and data[4] & 0x08:
        return int.from_bytes(data[6:14], "little")
    if codec == ZSTD and compressed >= 14 and data[:4] == _ZSTD_MAGIC:
        return _zstd_content_size(data)
    return 0


def _gzip_member_end(data: bytes | memoryview, limit: int) -> int:
    """Where the first member ends; 0 when it has no end, or holds more than `limit` bytes."""
    inflating = zlib.decompressobj(_ZLIB_GZIP)
    made = 0
    try:
        for start in range(0, len(data), _PIECE_BYTES):
            piece: bytes | memoryview = data[start : start + _PIECE_BYTES]
            while len(piece):
                made += len(inflating.decompress(piece, _PIECE_BYTES))
                if inflating.eof:
                    return min(start + _PIECE_BYTES, len(data)) - len(inflating.unused_data)
                if made > limit:
                    return 0
                piece = inflating.unconsumed_tail
    except zlib.error:
        pass
    return 0


def _gzip_end_before_zeros(data: bytes | memoryview, limit: int) -> int:
    """Where the only member ends when nothing but zero bytes comes after it, which Kafka takes; else 0."""
    if not len(data) or data[-1]:
        return 0
    end = _gzip_member_end(data, limit)
    return end if end < len(data) and not bytes(data[end:]).strip(b"\x00") else 0


def _zstd_content_size(data: bytes | memoryview) -> int:
    """The content size in a zstd frame header (RFC 8878, 3.1.1.1), 0 when it has none."""
    descriptor = data[4]
    single_segment = descriptor & 0x20
    field = (descriptor >> 6, 1 if single_segment else 0)
    width = {0: field[1], 1: 2, 2: 4, 3: 8}[field[0]]
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(data[start : start + width], "little")
    return size + 256 if width == 2 else size


def _compress_xerial(data: memoryview) -> bytes:
    parts = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (len(block).to_bytes(4), block)
    return b"".join(parts)


def _decompress_snappy(data: memoryview, limit: int) -> memoryview:
    """Raw snappy (librdkafka and others) or xerial's blocks of it (Java)."""
    size = 0
    for number, block in enumerate(_snappy_blocks(data)):
        size += _snappy_size(block)
        if size > limit or number > _XERIAL_BLOCKS + limit // _XERIAL_LEAST_BLOCK_BYTES:
            raise _too_large(SNAPPY, limit)
    output = memoryview(bytearray(size))
    at = 0
    for block in _snappy_blocks(data):
        end = at + _snappy_size(block)
        try:
            written = cramjam.snappy.decompress_raw_into(block, output[at:end])
        except cramjam.DecompressionError as error:
            raise _damaged(SNAPPY, error) from None
        if written != end - at:
            raise _damaged(SNAPPY, f"a block of {end - at} bytes holds {written}")
        at = end
    return output


def _snappy_blocks(data: memoryview) -> Iterator[memoryview]:
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        yield data
        return
    at = 0
    while at < len(data):
        # Streams may have been joined: xerial's reader accepts a header wherever a block may begin.
        if data[at : at + len(_XERIAL_MAGIC)] == _XERIAL_MAGIC:
            at += len(_XERIAL_HEADER)
            continue
        size = int.from_bytes(data[at : at + 4])
        at += 4
        if size > len(data) - at:
            raise _damaged(SNAPPY, f"a block of {size} bytes, {max(0, len(data) - at)} left")
        yield data[at : at + size]
        at += size


def _snappy_size(block: memoryview) -> int:
    try:
        size = int(cramjam.snappy.decompress_raw_len(block))
    except cramjam.DecompressionError as error:
        raise _damaged(SNAPPY, error) from None
    if size > len(block) * _SNAPPY_MAX_RATIO:
        raise _damaged(SNAPPY, f"a block of {len(block)} bytes declares {size}")
    return size


def _unknown(codec: int) -> RecordsError:
    return RecordsError(UNSUPPORTED_COMPRESSION_TYPE, f"unknown compression codec {codec}")


def _too_large(codec: int, limit: int) -> RecordsError:
    return RecordsError(MESSAGE_TOO_LARGE, f"the {_NAMES[codec]} batch holds more than {limit} bytes")


def _damaged(codec: int, reason: object) -> RecordsError:
    return RecordsError(INVALID_RECORD, f"the batch is not valid {_NAMES[codec]}: {reason}")
