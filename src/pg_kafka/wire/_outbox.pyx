# cython: language_level=3, boundscheck=True, cdivision=True
"""Rows of the outbox to record batches: which partition each record goes to, and the batches of each partition.

A row comes as the output of array_send() for each of its arrays, in the form that _records.pyx draws. A record goes to the
partition that its row asks for; else to that of its key, murmur2 as Java's client has it; else to one for all records of
the row that have no key, which takes turns with the row's id. A record that cannot be sent is named with a reason.

What the arrays say is compared with their bytes before it is used. No pointer outlives the call that made it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from pg_kafka.wire._records cimport (
    Elements,
    datum_size,
    next_element,
    open_array,
    varint_of,
    write_datum,
    write_header,
    write_unsigned,
    zigzag,
)

from pg_kafka.wire.compression import RecordsError

cdef enum:
    HEADER_BYTES = 61
    ID_STEP = 65536             # between the ids of two rows, and the most records of one
    BYTEA = 17
    INT8 = 20
    INT4 = 23
    CORRUPT_MESSAGE = 2

NO_PARTITION, TOO_LARGE, NO_KEY, DAMAGED = 1, 2, 3, 4
"""Why a record cannot be sent."""

cdef enum Reason:
    _SENT = 0
    _NO_PARTITION = 1
    _TOO_LARGE = 2
    _NO_KEY = 3
    _DAMAGED = 4

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* MurmurHash2 as org.apache.kafka.common.utils.Utils has it; little endian on any machine. */
    static inline uint32_t pgk_murmur2(const uint8_t *data, int32_t length)
    {
        const uint32_t m = 0x5bd1e995u;
        uint32_t h = 0x9747b28cu ^ (uint32_t) length;
        int32_t i, whole = length & ~3;
        for (i = 0; i < whole; i += 4) {
            uint32_t k = (uint32_t) data[i] | (uint32_t) data[i + 1] << 8 | (uint32_t) data[i + 2] << 16
                | (uint32_t) data[i + 3] << 24;
            k *= m;
            k ^= k >> 24;
            k *= m;
            h = (h * m) ^ k;
        }
        switch (length & 3) {
            case 3: h ^= (uint32_t) data[whole + 2] << 16; /* fall through */
            case 2: h ^= (uint32_t) data[whole + 1] << 8; /* fall through */
            case 1: h ^= (uint32_t) data[whole]; h *= m;
        }
        h ^= h >> 13;
        h *= m;
        return h ^ (h >> 15);
    }

    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define PGK_OUTBOX_BE(bits, value) (value)
    #else
    #define PGK_OUTBOX_BE(bits, value) __builtin_bswap##bits(value)
    #endif
    static inline int32_t pgk_int32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return (int32_t) PGK_OUTBOX_BE(32, v); }
    static inline int64_t pgk_int64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return (int64_t) PGK_OUTBOX_BE(64, v); }
    """
    uint32_t pgk_murmur2(const uint8_t *data, int32_t length) noexcept nogil
    int32_t pgk_int32(const uint8_t *at) noexcept nogil
    int64_t pgk_int64(const uint8_t *at) noexcept nogil


def murmur2(bytes data):
    """The hash of a key by which Java's client chooses a partition, as an unsigned number."""
    return pgk_murmur2(<const uint8_t *>PyBytes_AS_STRING(data), <int32_t>PyBytes_GET_SIZE(data))


def partition_of(bytes key, int32_t partitions):
    """Where a record with this key goes in a topic with so many partitions."""
    if partitions < 1:
        raise ValueError("a topic has at least one partition")
    return <int32_t>(murmur2(key) & 0x7FFFFFFF) % partitions


cdef struct Builder:            # the batch of a partition that is being written
    uint8_t *data               # its records
    int64_t size, capacity
    int64_t base_timestamp, max_timestamp
    int32_t count
    # Of this call, and of the row that is looked at.
    int64_t total
    int64_t row                 # the last row with a record here, from 1
    int64_t row_ordinal
    int32_t row_count


cdef class Spread:
    """What `spread` makes of rows.

    `batches`   (partition, wire batch), in the order of the records of a partition
    `pieces`    (id of the row, partition, records of the call before those in that partition, records), by row
    `maps`      of each piece: where the records of its row went, None when all of them are in this piece. The first byte
                is the width of what follows for each record: its partition, or all ones when it cannot be sent
    `failed`    (id of the row, number of the record in it from 0, why, its partition or -1)
    """

    cdef readonly list batches, pieces, maps, failed


cdef bytes finish(Builder *builder):
    """The batch, which leaves the builder empty."""
    cdef bytes batch = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + builder.size)
    memcpy(<uint8_t *>PyBytes_AS_STRING(batch) + HEADER_BYTES, builder.data, builder.size)
    write_header(
        batch, 0, -1, 0, builder.count - 1, builder.base_timestamp, builder.max_timestamp, -1, -1, -1, builder.count
    )
    builder.size = builder.count = 0
    return batch


cdef int reserve(Builder *builder, int64_t size) except -1:
    cdef int64_t capacity = builder.capacity
    cdef uint8_t *grown
    if builder.size + size > capacity:
        capacity = max(2 * capacity, builder.size + size, 4096)
        grown = <uint8_t *>realloc(builder.data, capacity)
        if grown == NULL:
            raise MemoryError
        builder.data = grown
        builder.capacity = capacity
    return 0


cdef struct Arrays:
    Elements timestamps, keys, header_ends, header_keys, header_values, values


cdef int open_row(tuple row, int32_t count, Arrays *arrays) except -1:
    """The arrays of a row; raises RecordsError when they do not belong together."""
    open_array(row[4], INT8, 8, "timestamps", &arrays.timestamps)
    open_array(row[5], BYTEA, 0, "keys", &arrays.keys)
    open_array(row[6], INT4, 4, "header_ends", &arrays.header_ends)
    open_array(row[7], BYTEA, 0, "header_keys", &arrays.header_keys)
    open_array(row[8], BYTEA, 0, "header_values", &arrays.header_values)
    open_array(row[9], BYTEA, 0, "values", &arrays.values)
    if (
        not 0 < count <= ID_STEP
        or arrays.values.count != count
        or (arrays.timestamps.is_present and arrays.timestamps.count != count)
        or (arrays.keys.is_present and arrays.keys.count != count)
        or (arrays.header_ends.is_present and arrays.header_ends.count != count)
        or arrays.header_keys.count != arrays.header_values.count
    ):
        raise RecordsError(CORRUPT_MESSAGE, f"{count} records with arrays of other lengths")
    return 0


cdef int check_row(Arrays arrays, int32_t count) noexcept nogil:
    """Whether all elements are where the arrays say; 0 when not. Takes a copy of the arrays, which stay at their begin."""
    cdef const uint8_t *data
    cdef int32_t i, size, before = 0, end
    for i in range(count):
        if arrays.timestamps.is_present and pgk_int32(arrays.timestamps.at + 12 * <int64_t>i) != 8:
            return 0
        if arrays.keys.is_present and not next_element(&arrays.keys, &data, &size):
            return 0
        if not next_element(&arrays.values, &data, &size):
            return 0
        if arrays.header_ends.is_present:
            if pgk_int32(arrays.header_ends.at + 8 * <int64_t>i) != 4:
                return 0
            end = pgk_int32(arrays.header_ends.at + 8 * <int64_t>i + 4)
            if end < before or end > arrays.header_keys.count:
                return 0
            before = end
    if before != arrays.header_keys.count:
        return 0
    for i in range(arrays.header_keys.count):
        if not next_element(&arrays.header_keys, &data, &size) or size < 0:
            return 0
        if not next_element(&arrays.header_values, &data, &size):
            return 0
    return 1


def spread(list rows, int32_t partitions, *, int64_t batch_bytes, int64_t most_bytes, bint needs_key=False):
    """Give the records of rows to the partitions of their topic, in order.

    A row is (id, partition or None, record count, first timestamp, timestamps, keys, header ends, header keys, header values,
    values), the last six as array_send() has them, or None. A batch ends where it would grow above `batch_bytes`, but has at
    least one record. One that alone makes a batch of more than `most_bytes` cannot be sent, nor one without key with `needs_key`.
    """
    cdef Spread found = Spread.__new__(Spread)
    cdef Builder *builders
    cdef Builder *builder
    cdef Arrays arrays
    cdef Elements headers_before, values_before
    cdef tuple row
    cdef const uint8_t *key = NULL
    cdef const uint8_t *value = NULL
    cdef const uint8_t *data = NULL
    cdef uint8_t *out
    cdef int32_t count, i, h, size, key_size, value_size, header, header_end, partition, asked, keyless, reason, width
    cdef int64_t id_, first_timestamp, timestamp, length, delta, number = 0, sent
    cdef bytes where
    cdef uint8_t *at
    cdef list touched
    if partitions < 1:
        raise ValueError("a topic has at least one partition")
    found.batches, found.pieces, found.maps, found.failed = [], [], [], []
    width = 1 if partitions < 255 else 4
    builders = <Builder *>calloc(partitions, sizeof(Builder))
    if builders == NULL:
        raise MemoryError
    try:
        for row in rows:
            number += 1
            id_, count, first_timestamp = row[0], row[2], row[3]
            asked = -1 if row[1] is None else min(<int64_t>row[1], <int64_t>INT32_MAX)
            keyless = <int32_t>((id_ // ID_STEP) % partitions)
            try:
                open_row(row, count, &arrays)
                reason = _SENT if check_row(arrays, count) else _DAMAGED
            except RecordsError:
                reason = _DAMAGED
            if reason == _SENT and row[1] is not None and not 0 <= asked < partitions:
                reason = _NO_PARTITION
            if reason != _SENT:
                for i in range(max(1, min(count, <int32_t>ID_STEP))):
                    found.failed.append((id_, i, reason, -1))
                continue
            touched = []
            where = PyBytes_FromStringAndSize(NULL, 1 + width * <int64_t>count)
            at = <uint8_t *>PyBytes_AS_STRING(where)
            at[0] = <uint8_t>width
            at += 1
            header = 0
            sent = 0
            for i in range(count):
                timestamp = pgk_int64(arrays.timestamps.at + 12 * <int64_t>i + 4) if arrays.timestamps.is_present else first_timestamp
                key_size = -1
                if arrays.keys.is_present:
                    next_element(&arrays.keys, &key, &key_size)
                next_element(&arrays.values, &value, &value_size)
                header_end = pgk_int32(arrays.header_ends.at + 8 * <int64_t>i + 4) if arrays.header_ends.is_present else 0
                headers_before, values_before = arrays.header_keys, arrays.header_values
                length = 0
                for h in range(header, header_end):
                    next_element(&arrays.header_keys, &data, &size)
                    length += datum_size(size)
                    next_element(&arrays.header_values, &data, &size)
                    length += datum_size(size)
                if asked >= 0:
                    partition = asked
                elif key_size >= 0:
                    partition = <int32_t>(pgk_murmur2(key, key_size) & 0x7FFFFFFF) % partitions
                else:
                    partition = keyless
                builder = builders + partition
                length += 1 + datum_size(key_size) + datum_size(value_size) + varint_of(header_end - header)
                # As the first record of a batch it has the smallest deltas.
                if HEADER_BYTES + length + 2 + varint_of(length + 2) > most_bytes or length > INT32_MAX - 64:
                    reason = _TOO_LARGE
                elif needs_key and key_size < 0:
                    reason = _NO_KEY
                else:
                    reason = _SENT
                if reason != _SENT:
                    found.failed.append((id_, i, reason, partition))
                    memset(at, 0xFF, width)
                    at += width
                    header = header_end
                    continue
                # Its deltas make it longer by at most 15 bytes, and its length by 5.
                if builder.count and HEADER_BYTES + builder.size + length + 20 > batch_bytes:
                    found.batches.append((partition, finish(builder)))
                if builder.count == 0:
                    builder.base_timestamp = builder.max_timestamp = timestamp
                delta = <int64_t>(<uint64_t>timestamp - <uint64_t>builder.base_timestamp)
                length += varint_of(delta) + varint_of(builder.count)
                reserve(builder, length + 5)
                out = write_unsigned(builder.data + builder.size, <uint64_t>length << 1)
                out[0] = 0
                out = write_unsigned(out + 1, zigzag(delta))
                out = write_unsigned(out, zigzag(builder.count))
                out = write_datum(out, key, key_size)
                out = write_datum(out, value, value_size)
                out = write_unsigned(out, zigzag(header_end - header))
                for h in range(header, header_end):
                    next_element(&headers_before, &data, &size)
                    out = write_datum(out, data, size)
                    next_element(&values_before, &data, &size)
                    out = write_datum(out, data, size)
                header = header_end
                builder.size = out - builder.data
                builder.count += 1
                if timestamp > builder.max_timestamp:
                    builder.max_timestamp = timestamp
                if builder.row != number:
                    builder.row = number
                    builder.row_ordinal = builder.total
                    builder.row_count = 0
                    touched.append(partition)
                builder.row_count += 1
                builder.total += 1
                sent += 1
                if width == 1:
                    at[0] = <uint8_t>partition
                else:
                    at[0], at[1] = <uint8_t>(partition >> 24), <uint8_t>(partition >> 16)
                    at[2], at[3] = <uint8_t>(partition >> 8), <uint8_t>partition
                at += width
            for partition in touched:
                builder = builders + partition
                found.pieces.append((id_, partition, builder.row_ordinal, builder.row_count))
                found.maps.append(None if builder.row_count == count else where)
        for partition in range(partitions):
            if builders[partition].count:
                found.batches.append((partition, finish(builders + partition)))
    finally:
        for partition in range(partitions):
            free(builders[partition].data)
        free(builders)
    return found
