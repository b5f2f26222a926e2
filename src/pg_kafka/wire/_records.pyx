# cython: language_level=3, boundscheck=True, cdivision=True
"""Record batches to rows of kafka.log and back: the native core.

A batch, format v2 (KIP-98), big endian, zigzag varints:

     0  base offset            int64     counted in neither
     8  length                 int32     of all that follows
    12  partition leader epoch int32  +
    16  magic = 2              int8   |
    17  CRC32C                 uint32 |  of all that follows
    21  attributes             int16  |  0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon
    23  last offset delta      int32  |
    27  base timestamp         int64  |  the delete horizon when bit 6 is set; deltas count from it all the same
    35  max timestamp          int64  |
    43  producer id            int64  |
    51  producer epoch         int16  |
    53  base sequence          int32  |
    57  record count           int32  |
    61  records, compressed together when there is a codec; each one:
            length varint | attributes int8 | timestamp delta varlong | offset delta varint
            key length varint (< 0 null) | key | value length varint (< 0 null) | value
            header count varint | per header: key length varint | key | value length varint (< 0 null) | value

A row in COPY BINARY, big endian:

    column count int16 | per column: length int32 (-1 null), data
    an array's data:   dimensions int32 (0 empty, 1) | has nulls int32 | element type oid int32
                       elements int32 | lower bound int32 = 1 | per element: length int32 (-1 null), data

Decoding runs twice over the records: `measure` checks everything and counts, `fill` writes into objects of exactly
the size. A compressed batch may be kept packed: then it is measured only, and its row has its bytes instead of arrays. Counts and lengths from outside are compared with the bytes that remain before they are used for anything.
No pointer outlives the call that made it. Only RecordsError is raised for what the bytes say.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int16_t, int32_t, int64_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from pg_kafka.wire.compression import RecordsError, compress, decompress, is_read_by_all

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Big endian, unaligned. */
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define PGK_BE(bits, value) (value)
    #else
    #define PGK_BE(bits, value) __builtin_bswap##bits(value)
    #endif
    #define PGK_ACCESS(bits) \\
        static inline uint##bits##_t get##bits(const uint8_t *at) \\
        { uint##bits##_t v; memcpy(&v, at, sizeof v); return PGK_BE(bits, v); } \\
        static inline uint8_t *put##bits(uint8_t *at, uint##bits##_t v) \\
        { v = PGK_BE(bits, v); memcpy(at, &v, sizeof v); return at + sizeof v; }
    PGK_ACCESS(16)
    PGK_ACCESS(32)
    PGK_ACCESS(64)

    /* Bytes of the varint of an unsigned value: one for each 7 bits begun; 9/64 divides by 7 up to 64 bits. */
    static inline int varint_size(uint64_t v) { return ((64 - __builtin_clzll(v | 1)) * 9 + 64) >> 6; }

    /* CRC32C (Castagnoli, reflected 0x82F63B78), by table for eight bytes at a time or by instruction. */
    static uint32_t pgk_crc_table[8][256];

    static void crc32c_prepare(void)
    {
        for (int i = 0; i < 256; i++) {
            uint32_t c = (uint32_t) i;
            for (int bit = 0; bit < 8; bit++)
                c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
            pgk_crc_table[0][i] = c;
        }
        for (int k = 1; k < 8; k++)
            for (int i = 0; i < 256; i++)
                pgk_crc_table[k][i] = (pgk_crc_table[k - 1][i] >> 8) ^ pgk_crc_table[0][pgk_crc_table[k - 1][i] & 255];
    }

    static uint32_t crc32c_by_table(uint32_t crc, const uint8_t *p, size_t n)
    {
        uint32_t (*const t)[256] = pgk_crc_table;
        while (n >= 8) {
            uint32_t a = crc ^ ((uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24);
            crc = t[7][a & 255] ^ t[6][(a >> 8) & 255] ^ t[5][(a >> 16) & 255] ^ t[4][a >> 24]
                ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
            p += 8;
            n -= 8;
        }
        while (n--)
            crc = (crc >> 8) ^ t[0][(crc ^ *p++) & 255];
        return crc;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    __attribute__((target("sse4.2")))
    static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *p, size_t n)
    {
        uint64_t c = crc, word;
        for (; n >= 8; p += 8, n -= 8) {
            memcpy(&word, p, 8);
            c = __builtin_ia32_crc32di(c, word);
        }
        crc = (uint32_t) c;
        while (n--)
            crc = __builtin_ia32_crc32qi(crc, *p++);
        return crc;
    }
    static int pgk_has_crc_instruction(void) { __builtin_cpu_init(); return __builtin_cpu_supports("sse4.2"); }
    #else
    #define crc32c_by_instruction crc32c_by_table
    static int pgk_has_crc_instruction(void) { return 0; }
    #endif

    static int pgk_crc_instruction;
    static void crc32c_init(void) { crc32c_prepare(); pgk_crc_instruction = pgk_has_crc_instruction(); }
    static inline uint32_t crc32c_of(const uint8_t *p, size_t n)
    {
        return ~(pgk_crc_instruction ? crc32c_by_instruction(~0u, p, n) : crc32c_by_table(~0u, p, n));
    }
    static uint32_t crc32c_of_by_table(const uint8_t *p, size_t n) { return ~crc32c_by_table(~0u, p, n); }
    """
    uint16_t get16(const uint8_t *at) noexcept nogil
    uint32_t get32(const uint8_t *at) noexcept nogil
    uint64_t get64(const uint8_t *at) noexcept nogil
    uint8_t *put16(uint8_t *at, uint16_t value) noexcept nogil
    uint8_t *put32(uint8_t *at, uint32_t value) noexcept nogil
    uint8_t *put64(uint8_t *at, uint64_t value) noexcept nogil
    int varint_size(uint64_t value) noexcept nogil
    void crc32c_init() noexcept nogil
    uint32_t crc32c_of(const uint8_t *at, size_t size) noexcept nogil
    uint32_t crc32c_of_by_table(const uint8_t *at, size_t size) noexcept nogil

crc32c_init()

COLUMNS = (
    "series", "topic", "base_offset", "last_offset", "global_base", "max_timestamp", "running_max_timestamp",
    "append_time", "first_timestamp", "segment", "partition", "record_count", "row_bytes", "leader_epoch",
    "timestamp_type", "codec", "is_transactional", "is_control", "delete_horizon", "producer_id", "batch_base_offset",
    "base_sequence", "batch_count", "producer_epoch", "producer_ids", "batch_base_offsets", "base_sequences",
    "batch_counts", "producer_epochs", "timestamps", "offset_deltas", "keys", "header_ends", "header_keys",
    "header_values", "values", "wire_bytes", "batch",
)
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER = b"\xff\xff"
MAX_SLICE_BYTES = 131_072

cdef enum:
    HEADER_BYTES = 61
    SIZE_BYTES = 12             # base offset and length, which the length does not count
    CRC_FROM = 21
    SLICE_BYTES = 131072
    LEAST_RECORD_BYTES = 7      # each of its seven fields takes a byte
    LEAST_HEADER_BYTES = 2
    LARGE_BYTES = 32768         # below it, letting other threads run costs more than it gives
    ARRAY_BYTES = 20
    COLUMN_COUNT = 38
    # SQL's field limit; PostgreSQL refuses a datum or a COPY row above 1 GB.
    ROW_BYTES_LIMIT = 1000000000

cdef enum:                      # attributes
    CODEC_MASK = 7
    LOG_APPEND_TIME = 8
    TRANSACTIONAL = 16
    CONTROL = 32
    DELETE_HORIZON = 64

cdef enum:                      # PostgreSQL's type oids
    BYTEA = 17
    INT8 = 20
    INT2 = 21
    INT4 = 23

cdef enum:                      # Kafka's error codes
    CORRUPT_MESSAGE = 2
    MESSAGE_TOO_LARGE = 10
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_COMPRESSION_TYPE = 76
    INVALID_RECORD = 87

cdef enum Flaw:                 # what `measure` finds wrong with a record
    SOUND
    BAD_LENGTH
    BAD_TIMESTAMP
    BAD_OFFSET
    OFFSET_NOT_NEXT
    OFFSET_OUT_OF_RANGE
    BAD_KEY
    BAD_VALUE
    BAD_HEADER_COUNT
    BAD_HEADER
    BYTES_LEFT_IN_RECORD
    BYTES_LEFT_IN_BATCH
    TOO_LARGE
    CHANGED

cdef tuple _FLAWS = (
    "is sound",
    "has a length that is no varint or more than what is left of the batch",
    "has a timestamp that is no varint",
    "has an offset that is no varint",
    "does not have the offset after the one before it",
    "has an offset that does not lie between the one before it and the batch's last",
    "has a key longer than what is left of it",
    "has a value longer than what is left of it",
    "has a header count that is negative or more than what is left of it can hold",
    "has a header longer than what is left of it",
    "is longer than what it holds",
)

BatchHeader = namedtuple(
    "BatchHeader",
    "base_offset length leader_epoch magic crc attributes last_offset_delta base_timestamp max_timestamp producer_id"
    " producer_epoch base_sequence record_count",
)


# ---- varints

cdef inline const uint8_t *read_varint(const uint8_t *at, const uint8_t *end, int32_t *value) noexcept nogil:
    """The byte after a zigzag varint of at most 5 bytes; NULL when there is none before `end`."""
    cdef uint32_t raw, byte
    cdef int shift
    if at >= end:
        return NULL
    raw = at[0]
    at += 1
    if raw >= 0x80:
        raw &= 0x7F
        shift = 7
        while True:
            if at >= end or shift > 28:
                return NULL
            byte = at[0]
            at += 1
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
    value[0] = <int32_t>((raw >> 1) ^ (0 - (raw & 1)))
    return at


cdef inline const uint8_t *read_varlong(const uint8_t *at, const uint8_t *end, int64_t *value) noexcept nogil:
    """As read_varint, of at most 10 bytes."""
    cdef uint64_t raw, byte
    cdef int shift
    if at >= end:
        return NULL
    raw = at[0]
    at += 1
    if raw >= 0x80:
        raw &= 0x7F
        shift = 7
        while True:
            if at >= end or shift > 63:
                return NULL
            byte = at[0]
            at += 1
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
    value[0] = <int64_t>((raw >> 1) ^ (0 - (raw & 1)))
    return at


cdef inline uint64_t zigzag(int64_t value) noexcept nogil:
    return (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)


cdef inline uint8_t *write_unsigned(uint8_t *at, uint64_t raw) noexcept nogil:
    if raw < 0x80:
        at[0] = <uint8_t>raw
        return at + 1
    if raw < 0x4000:
        at[0] = <uint8_t>(raw | 0x80)
        at[1] = <uint8_t>(raw >> 7)
        return at + 2
    while raw >= 0x80:
        at[0] = <uint8_t>(raw | 0x80)
        at += 1
        raw >>= 7
    at[0] = <uint8_t>raw
    return at + 1


# ---- batch -> slices

cdef struct Rules:
    int32_t count
    int32_t last_offset_delta
    int64_t base_timestamp
    int64_t append_time         # of every record, when is_append_time
    bint is_append_time
    bint is_dense               # every record must have the offset after the one before

cdef struct Span:               # what one slice will hold
    Py_ssize_t start, end       # in the records' bytes
    int32_t count, first_index, first_delta, headers
    int32_t null_keys, null_values, null_header_values
    int64_t key_bytes, value_bytes, header_key_bytes, header_value_bytes
    int64_t first_timestamp, min_timestamp, max_timestamp
    bint timestamps_differ, is_sparse

cdef struct Measured:
    int spans
    int flaw
    int32_t index               # of the record with the flaw
    int32_t null_key_index
    int32_t largest_index, largest_bytes
    int32_t max_timestamp_delta
    int64_t min_timestamp, max_timestamp
    int64_t body_bytes

cdef struct Bodies:             # where `fill` writes; NULL: the slice has none of it
    uint8_t *keys
    uint8_t *values
    uint8_t *timestamps
    uint8_t *offset_deltas
    uint8_t *header_ends
    uint8_t *header_keys
    uint8_t *header_values


cdef int measure(
    const uint8_t *raw, Py_ssize_t size, const Rules *rules, Span *spans, int most_spans, Measured *found
) noexcept nogil:
    """Check all records and say what slices they make; SOUND or the flaw."""
    cdef const uint8_t *at = raw
    cdef const uint8_t *end = raw + size
    cdef const uint8_t *record
    cdef const uint8_t *stop
    cdef Span *span = NULL
    cdef int32_t i, h, length, delta, key, value, headers, part
    cdef int64_t expected = 0
    cdef int64_t timestamp, timestamp_delta
    found.spans = 0
    found.null_key_index = -1
    found.largest_index = found.largest_bytes = 0
    found.max_timestamp_delta = 0
    found.min_timestamp = INT64_MAX
    found.max_timestamp = INT64_MIN
    found.body_bytes = 0
    for i in range(rules.count):
        found.index = i
        record = at
        at = read_varint(at, end, &length)
        if at == NULL or length < 1 or length > end - at:
            return BAD_LENGTH
        stop = at + length
        if length > found.largest_bytes:
            found.largest_index = i
            found.largest_bytes = length
        at = read_varlong(at + 1, stop, &timestamp_delta)   # its attributes are unused
        if at == NULL:
            return BAD_TIMESTAMP
        at = read_varint(at, stop, &delta)
        if at == NULL:
            return BAD_OFFSET
        if delta != expected:
            if rules.is_dense:
                return OFFSET_NOT_NEXT
            if delta < expected:
                return OFFSET_OUT_OF_RANGE
        if delta > rules.last_offset_delta:
            return OFFSET_OUT_OF_RANGE

        # A record belongs to the slice before it as long as that stays within its limit.
        if span == NULL or (stop - raw) - span.start > SLICE_BYTES:
            if found.spans == most_spans:
                return CHANGED
            span = spans + found.spans
            found.spans += 1
            span.start = record - raw
            span.first_index = i
            span.first_delta = delta if i else 0
            span.count = span.headers = span.null_keys = span.null_values = span.null_header_values = 0
            span.key_bytes = span.value_bytes = span.header_key_bytes = span.header_value_bytes = 0
            span.timestamps_differ = span.is_sparse = False
            span.min_timestamp = INT64_MAX
            span.max_timestamp = INT64_MIN
        if delta != <int64_t>span.first_delta + span.count:
            span.is_sparse = True
        expected = <int64_t>delta + 1

        timestamp = rules.append_time
        if not rules.is_append_time:
            timestamp = <int64_t>(<uint64_t>rules.base_timestamp + <uint64_t>timestamp_delta)
        if span.count == 0:
            span.first_timestamp = timestamp
        elif timestamp != span.first_timestamp:
            span.timestamps_differ = True
        if timestamp < span.min_timestamp:
            span.min_timestamp = timestamp
        if timestamp > span.max_timestamp:
            span.max_timestamp = timestamp
        if timestamp > found.max_timestamp or i == 0:
            found.max_timestamp = timestamp
            found.max_timestamp_delta = delta

        at = read_varint(at, stop, &key)
        if at == NULL or key > stop - at:
            return BAD_KEY
        if key < 0:
            span.null_keys += 1
            if found.null_key_index < 0:
                found.null_key_index = i
        else:
            at += key
            span.key_bytes += key

        at = read_varint(at, stop, &value)
        if at == NULL or value > stop - at:
            return BAD_VALUE
        if value < 0:
            span.null_values += 1
        else:
            at += value
            span.value_bytes += value

        at = read_varint(at, stop, &headers)
        if at == NULL or headers < 0 or headers > (stop - at) // LEAST_HEADER_BYTES:
            return BAD_HEADER_COUNT
        for h in range(headers):
            at = read_varint(at, stop, &part)
            if at == NULL or part < 0 or part > stop - at:
                return BAD_HEADER
            at += part
            span.header_key_bytes += part
            at = read_varint(at, stop, &part)
            if at == NULL or part > stop - at:
                return BAD_HEADER
            if part < 0:
                span.null_header_values += 1
            else:
                at += part
                span.header_value_bytes += part
        if at != stop:
            return BYTES_LEFT_IN_RECORD
        span.headers += headers
        span.count += 1
        span.end = stop - raw
    if at != end:
        return BYTES_LEFT_IN_BATCH
    for h in range(found.spans):
        span = spans + h
        if span.min_timestamp < found.min_timestamp:
            found.min_timestamp = span.min_timestamp
        found.body_bytes += 4 * span.count + span.value_bytes
        if span.null_keys < span.count:
            found.body_bytes += 4 * span.count + span.key_bytes
        if span.timestamps_differ:
            found.body_bytes += 12 * span.count
        if span.is_sparse:
            found.body_bytes += 8 * span.count
        if span.headers:
            found.body_bytes += 8 * span.count + 8 * <int64_t>span.headers + span.header_key_bytes + span.header_value_bytes
    return SOUND


cdef inline uint8_t *put_datum(uint8_t *out, const uint8_t *data, int32_t size) noexcept nogil:
    out = put32(out, <uint32_t>size)
    memcpy(out, data, size)
    return out + size


cdef int fill(const uint8_t *raw, const Rules *rules, const Span *span, Bodies *out) noexcept nogil:
    """Write the slice of `span`. Follows the same bytes as `measure`, and still trusts neither them nor itself."""
    cdef const uint8_t *at = raw + span.start
    cdef const uint8_t *end = raw + span.end
    cdef int32_t i, h, length, delta, size, headers
    cdef int32_t header_end = 0
    cdef int32_t left_null_keys = span.null_keys, left_null_values = span.null_values
    cdef int64_t left_keys = span.key_bytes, left_values = span.value_bytes
    cdef int64_t left_header_keys = span.header_key_bytes, left_header_values = span.header_value_bytes
    cdef int64_t timestamp_delta
    for i in range(span.count):
        at = read_varint(at, end, &length)
        if at == NULL or at >= end:
            return CHANGED
        at = read_varlong(at + 1, end, &timestamp_delta)
        if at == NULL:
            return CHANGED
        at = read_varint(at, end, &delta)
        if at == NULL:
            return CHANGED
        if out.timestamps != NULL:
            out.timestamps = put64(put32(out.timestamps, 8), <uint64_t>rules.base_timestamp + <uint64_t>timestamp_delta)
        if out.offset_deltas != NULL:
            out.offset_deltas = put32(put32(out.offset_deltas, 4), <uint32_t>(delta - span.first_delta))

        at = read_varint(at, end, &size)
        if at == NULL or size > end - at:
            return CHANGED
        if size >= 0:
            if out.keys != NULL:
                left_keys -= size
                if left_keys < 0:
                    return CHANGED
                out.keys = put_datum(out.keys, at, size)
            at += size
        elif out.keys != NULL:
            out.keys = put32(out.keys, 0xFFFFFFFF)

        at = read_varint(at, end, &size)
        if at == NULL or size > end - at:
            return CHANGED
        if size >= 0:
            left_values -= size
            if left_values < 0:
                return CHANGED
            out.values = put_datum(out.values, at, size)
            at += size
        else:
            out.values = put32(out.values, 0xFFFFFFFF)

        at = read_varint(at, end, &headers)
        if at == NULL or headers < 0 or headers > span.headers - header_end:
            return CHANGED
        header_end += headers
        if out.header_ends != NULL:
            out.header_ends = put32(put32(out.header_ends, 4), <uint32_t>header_end)
        for h in range(headers):
            at = read_varint(at, end, &size)
            if at == NULL or size < 0 or size > end - at:
                return CHANGED
            left_header_keys -= size
            if left_header_keys < 0:
                return CHANGED
            out.header_keys = put_datum(out.header_keys, at, size)
            at += size
            at = read_varint(at, end, &size)
            if at == NULL or size > end - at:
                return CHANGED
            if size >= 0:
                left_header_values -= size
                if left_header_values < 0:
                    return CHANGED
                out.header_values = put_datum(out.header_values, at, size)
                at += size
            else:
                out.header_values = put32(out.header_values, 0xFFFFFFFF)
    # Whatever is missing would be memory that nobody has written.
    if left_values or left_header_keys or left_header_values or header_end != span.headers:
        return CHANGED
    return CHANGED if left_keys and out.keys != NULL else SOUND


cdef class Slice:
    """At most MAX_SLICE_BYTES of a batch (or one record), as bodies of PostgreSQL arrays.

    A body is the array's elements (length and bytes each) without the array's header. The slice covers `span` offsets
    from the batch's base offset + `first_delta`; `offset_deltas` count from there. The `wire_bytes` of a batch's slices add
    up to the whole batch as it came. The one slice of a packed batch is all of it, without bodies.
    """

    cdef readonly int32_t first_delta, count, headers
    cdef readonly int64_t span, raw_bytes, wire_bytes, first_timestamp, min_timestamp, max_timestamp
    cdef readonly int32_t null_keys, null_values, null_header_values
    cdef readonly bytes keys, values, timestamps, offset_deltas, header_ends, header_keys, header_values


cdef class Batch:
    """A producer's batch that has been checked. `wire` are its bytes as they came, except that a max timestamp that
    its records do not have has been corrected, as Kafka does. Unless it `is_read_by_all`, consumers do not get them.
    One that `is_packed` has been checked all the same, and is stored as those bytes."""

    cdef readonly int64_t base_offset, base_timestamp, max_timestamp, producer_id, raw_bytes
    cdef readonly int64_t min_timestamp, max_record_timestamp
    cdef readonly int32_t length, leader_epoch, last_offset_delta, base_sequence, count
    cdef readonly int32_t max_timestamp_delta, null_key_index, largest_index, largest_bytes
    cdef readonly int16_t attributes, producer_epoch
    cdef readonly int codec, timestamp_type
    cdef readonly bint is_transactional, is_control, has_null_key, is_read_by_all, is_packed
    cdef readonly object delete_horizon
    cdef readonly object wire
    cdef readonly list slices


cdef inline uint8_t *body(bytes data) noexcept:
    return <uint8_t *>PyBytes_AS_STRING(data)


cdef Slice make_slice(const uint8_t *raw, const Rules *rules, const Span *span):
    cdef Slice slice_ = Slice.__new__(Slice)
    cdef Bodies out
    cdef int flaw
    cdef int64_t count = span.count
    out.keys = out.values = out.timestamps = out.offset_deltas = NULL
    out.header_ends = out.header_keys = out.header_values = NULL
    slice_.first_delta = span.first_delta
    slice_.count = span.count
    slice_.headers = span.headers
    slice_.raw_bytes = span.end - span.start
    slice_.first_timestamp = span.first_timestamp
    slice_.min_timestamp = span.min_timestamp
    slice_.max_timestamp = span.max_timestamp
    slice_.null_keys = span.null_keys
    slice_.null_values = span.null_values
    slice_.null_header_values = span.null_header_values
    slice_.values = PyBytes_FromStringAndSize(NULL, 4 * count + span.value_bytes)
    out.values = body(slice_.values)
    if span.null_keys < span.count:
        slice_.keys = PyBytes_FromStringAndSize(NULL, 4 * count + span.key_bytes)
        out.keys = body(slice_.keys)
    if span.timestamps_differ:
        slice_.timestamps = PyBytes_FromStringAndSize(NULL, 12 * count)
        out.timestamps = body(slice_.timestamps)
    if span.is_sparse:
        slice_.offset_deltas = PyBytes_FromStringAndSize(NULL, 8 * count)
        out.offset_deltas = body(slice_.offset_deltas)
    if span.headers:
        slice_.header_ends = PyBytes_FromStringAndSize(NULL, 8 * count)
        out.header_ends = body(slice_.header_ends)
        slice_.header_keys = PyBytes_FromStringAndSize(NULL, 4 * <int64_t>span.headers + span.header_key_bytes)
        out.header_keys = body(slice_.header_keys)
        slice_.header_values = PyBytes_FromStringAndSize(NULL, 4 * <int64_t>span.headers + span.header_value_bytes)
        out.header_values = body(slice_.header_values)
    if slice_.raw_bytes > LARGE_BYTES:
        with nogil:
            flaw = fill(raw, rules, span, &out)
    else:
        flaw = fill(raw, rules, span, &out)
    if flaw != SOUND:
        raise RecordsError(CORRUPT_MESSAGE, "the batch changed while it was read")
    return slice_


cdef Slice sum_up(const Span *spans, int count):
    """All of a batch as one slice without bodies."""
    cdef Slice slice_ = Slice.__new__(Slice)
    cdef int i
    slice_.first_timestamp = spans[0].first_timestamp
    slice_.min_timestamp = spans[0].min_timestamp
    slice_.max_timestamp = spans[0].max_timestamp
    for i in range(count):
        slice_.count += spans[i].count
        slice_.headers += spans[i].headers
        slice_.null_keys += spans[i].null_keys
        slice_.null_values += spans[i].null_values
        slice_.null_header_values += spans[i].null_header_values
        slice_.min_timestamp = min(slice_.min_timestamp, spans[i].min_timestamp)
        slice_.max_timestamp = max(slice_.max_timestamp, spans[i].max_timestamp)
    slice_.raw_bytes = spans[count - 1].end
    return slice_


cdef void read_header(const uint8_t *at, Batch batch) noexcept:
    cdef int16_t attributes = <int16_t>get16(at + 21)
    batch.base_offset = <int64_t>get64(at)
    batch.length = <int32_t>get32(at + 8)
    batch.leader_epoch = <int32_t>get32(at + 12)
    batch.attributes = attributes
    batch.last_offset_delta = <int32_t>get32(at + 23)
    batch.base_timestamp = <int64_t>get64(at + 27)
    batch.max_timestamp = <int64_t>get64(at + 35)
    batch.producer_id = <int64_t>get64(at + 43)
    batch.producer_epoch = <int16_t>get16(at + 51)
    batch.base_sequence = <int32_t>get32(at + 53)
    batch.count = <int32_t>get32(at + 57)
    batch.codec = attributes & CODEC_MASK
    batch.timestamp_type = 1 if attributes & LOG_APPEND_TIME else 0
    batch.is_transactional = (attributes & TRANSACTIONAL) != 0
    batch.is_control = (attributes & CONTROL) != 0


cdef check_frame(const uint8_t *at, Py_ssize_t size, bint from_producer):
    """The length and the magic; what Kafka's log input stream and ProduceRequest refuse, with their error codes."""
    cdef int32_t length
    cdef int magic
    if size < SIZE_BYTES:
        raise RecordsError(INVALID_RECORD, f"no record batch: {size} bytes")
    length = <int32_t>get32(at + 8)
    if length < 14:
        raise RecordsError(CORRUPT_MESSAGE, f"a record batch cannot have a length of {length}")
    if size < 17 or length > size - SIZE_BYTES:
        raise RecordsError(INVALID_RECORD, f"no whole record batch: {length} bytes wanted, {size - SIZE_BYTES} found")
    magic = <int>at[16]
    if magic > 2:
        raise RecordsError(CORRUPT_MESSAGE, f"unknown record batch magic {magic}")
    if magic < 2:
        raise RecordsError(INVALID_RECORD, f"record batch magic must be 2, found {magic}")
    if length < HEADER_BYTES - SIZE_BYTES:
        raise RecordsError(CORRUPT_MESSAGE, f"a record batch cannot have a length of {length}")
    if from_producer and length != size - SIZE_BYTES:
        raise RecordsError(INVALID_RECORD, f"one record batch wanted, found {size - SIZE_BYTES - length} bytes after it")


cdef check_producer_header(Batch batch):
    """Kafka's LogValidator, for a batch from a client."""
    if batch.last_offset_delta < 0 or batch.count <= 0 or batch.last_offset_delta != batch.count - 1:
        raise RecordsError(
            INVALID_RECORD, f"record count {batch.count} does not agree with last offset delta {batch.last_offset_delta}"
        )
    if batch.is_control:
        raise RecordsError(INVALID_RECORD, "clients may not write control batches")
    if batch.producer_id >= 0 and (batch.base_sequence < 0 or batch.producer_epoch < 0):
        raise RecordsError(
            INVALID_RECORD,
            f"producer {batch.producer_id} with base sequence {batch.base_sequence} and epoch {batch.producer_epoch}",
        )
    if batch.is_transactional and batch.producer_id < 0:
        raise RecordsError(INVALID_RECORD, "a transactional batch without a producer id")
    if batch.timestamp_type:
        raise RecordsError(INVALID_TIMESTAMP, "the timestamp type LogAppendTime is for the broker to set")
    if batch.attributes & DELETE_HORIZON:
        raise RecordsError(INVALID_RECORD, "the delete horizon is for the broker to set")


cdef raise_flaw(int flaw, int32_t index, int64_t limit):
    if flaw == BYTES_LEFT_IN_BATCH:
        raise RecordsError(INVALID_RECORD, "there are bytes after the last record of the batch")
    if flaw == TOO_LARGE:
        raise RecordsError(MESSAGE_TOO_LARGE, f"the batch holds more than {limit} bytes")
    if flaw == CHANGED:
        raise RecordsError(CORRUPT_MESSAGE, "the batch changed while it was read")
    raise RecordsError(INVALID_RECORD, f"record {index} {_FLAWS[flaw]}", index)


cdef inline int64_t share_of(int64_t whole, int64_t part, int64_t parts) noexcept nogil:
    return whole * part // parts


cdef take_records(
    Batch batch, const uint8_t *raw, Py_ssize_t size, int64_t max_raw_bytes, bint from_producer, bint is_packed
):
    """Fill `batch` from the uncompressed bytes of its records."""
    cdef Rules rules
    cdef Measured found
    cdef Span few[4]
    cdef Span *spans = few
    cdef int most_spans = 4
    cdef int flaw, i
    cdef int64_t wire_bytes = SIZE_BYTES + <int64_t>batch.length
    cdef Slice slice_, previous = None
    batch.raw_bytes = size
    if size > max_raw_bytes:
        raise_flaw(TOO_LARGE, -1, max_raw_bytes)
    if batch.count > size // LEAST_RECORD_BYTES:
        raise RecordsError(INVALID_RECORD, f"{batch.count} records cannot be in {size} bytes")
    rules.count = batch.count
    rules.last_offset_delta = batch.last_offset_delta
    rules.base_timestamp = batch.base_timestamp
    rules.append_time = batch.max_timestamp
    rules.is_append_time = batch.timestamp_type == 1
    rules.is_dense = from_producer
    # Two neighbours always exceed the limit together, so this many are enough.
    if size > SLICE_BYTES:
        most_spans = <int>(2 * (size // SLICE_BYTES) + 4)
        spans = <Span *>malloc(most_spans * sizeof(Span))
        if spans == NULL:
            raise MemoryError
    try:
        if size > LARGE_BYTES:
            with nogil:
                flaw = measure(raw, size, &rules, spans, most_spans, &found)
        else:
            flaw = measure(raw, size, &rules, spans, most_spans, &found)
        # Tiny records grow in arrays: what they become is bounded as well.
        if flaw == SOUND and found.body_bytes > 2 * max_raw_bytes + 4096:
            flaw = TOO_LARGE
        if flaw != SOUND:
            raise_flaw(flaw, found.index, max_raw_bytes)
        batch.slices = []
        batch.is_packed = is_packed and found.spans > 0
        if batch.is_packed:
            slice_ = previous = sum_up(spans, found.spans)
            slice_.wire_bytes = wire_bytes
            batch.slices.append(slice_)
            found.spans = 0
        for i in range(found.spans):
            slice_ = make_slice(raw, &rules, spans + i)
            slice_.wire_bytes = share_of(wire_bytes, spans[i].end, size) - share_of(wire_bytes, spans[i].start, size)
            if previous is not None:
                previous.span = slice_.first_delta - previous.first_delta
            previous = slice_
            batch.slices.append(slice_)
        if previous is not None:
            previous.span = <int64_t>batch.last_offset_delta + 1 - previous.first_delta
    finally:
        if spans != few:
            free(spans)
    batch.null_key_index = found.null_key_index
    batch.largest_index = found.largest_index
    batch.largest_bytes = found.largest_bytes
    batch.has_null_key = found.null_key_index >= 0
    batch.max_timestamp_delta = found.max_timestamp_delta
    batch.max_record_timestamp = found.max_timestamp if batch.count else batch.max_timestamp
    batch.min_timestamp = found.min_timestamp if batch.count else batch.max_timestamp


def crc32c(data, *, bint by_table=False):
    """CRC32C of `data`; `by_table` computes it without the processor's instruction."""
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if by_table:
            crc = crc32c_of_by_table(<const uint8_t *>view.buf, view.len)
        else:
            crc = crc32c_of(<const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return crc


def peek(data, Py_ssize_t offset=0):
    """The BatchHeader at `offset`, not verified by CRC; the records need not be there. Raises RecordsError."""
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef int32_t length
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= offset <= view.len - HEADER_BYTES:
            raise RecordsError(CORRUPT_MESSAGE, f"no batch header of {HEADER_BYTES} bytes at {offset} of {view.len}")
        at = <const uint8_t *>view.buf + offset
        length = <int32_t>get32(at + 8)
        if length < HEADER_BYTES - SIZE_BYTES:
            raise RecordsError(CORRUPT_MESSAGE, f"a record batch cannot have a length of {length}")
        if at[16] != 2:
            raise RecordsError(CORRUPT_MESSAGE, f"record batch magic must be 2, found {at[16]}")
        return BatchHeader(
            <int64_t>get64(at), length, <int32_t>get32(at + 12), at[16], get32(at + 17), <int16_t>get16(at + 21),
            <int32_t>get32(at + 23), <int64_t>get64(at + 27), <int64_t>get64(at + 35), <int64_t>get64(at + 43),
            <int16_t>get16(at + 51), <int32_t>get32(at + 53), <int32_t>get32(at + 57),
        )
    finally:
        PyBuffer_Release(&view)


def decode_batch(data, *, int64_t max_raw_bytes=134217728, bint from_producer=True, bint keeps_packed=False):
    """The Batch in `data`, all of it checked. Raises RecordsError.

    From a producer it must be one whole batch that fills `data` and obeys Kafka's LogValidator; otherwise any valid
    batch will do (sparse, empty, control), and bytes after it are left alone. With `keeps_packed`, one that is compressed
    in a way that all clients read is packed.
    """
    cdef Py_buffer view, raw
    cdef Batch batch = Batch.__new__(Batch)
    cdef const uint8_t *at
    cdef Py_ssize_t size
    cdef uint32_t crc
    cdef object stream, records
    if max_raw_bytes < 0 or max_raw_bytes > ROW_BYTES_LIMIT:
        raise ValueError(f"max_raw_bytes must lie between 0 and {ROW_BYTES_LIMIT}, found {max_raw_bytes}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        at = <const uint8_t *>view.buf
        check_frame(at, view.len, from_producer)
        read_header(at, batch)
        size = SIZE_BYTES + <Py_ssize_t>batch.length
        if from_producer and batch.base_offset != 0:
            raise RecordsError(INVALID_RECORD, f"the base offset of a producer's batch must be 0, found {batch.base_offset}")
        if size > LARGE_BYTES:
            with nogil:
                crc = crc32c_of(at + CRC_FROM, size - CRC_FROM)
        else:
            crc = crc32c_of(at + CRC_FROM, size - CRC_FROM)
        if crc != get32(at + 17):
            raise RecordsError(CORRUPT_MESSAGE, f"the batch's CRC is {get32(at + 17):#010x}, its bytes have {crc:#010x}")
        if batch.codec > 4:
            raise RecordsError(UNSUPPORTED_COMPRESSION_TYPE, f"unknown compression codec {batch.codec}")
        if from_producer:
            check_producer_header(batch)
        elif not 0 <= batch.base_offset <= INT64_MAX - INT32_MAX or batch.last_offset_delta < 0 or batch.count < 0:
            raise RecordsError(
                INVALID_RECORD,
                f"base offset {batch.base_offset}, last offset delta {batch.last_offset_delta}, record count {batch.count}",
            )
        if batch.attributes & DELETE_HORIZON:
            batch.delete_horizon = batch.base_timestamp
        batch.wire = data if size == view.len else memoryview(data)[:size]
        if batch.codec == 0:
            batch.is_read_by_all = True
            take_records(batch, at + HEADER_BYTES, size - HEADER_BYTES, max_raw_bytes, from_producer, False)
        else:
            stream = memoryview(batch.wire)[HEADER_BYTES:]
            records = decompress(batch.codec, stream, max_raw_bytes)
            PyObject_GetBuffer(records, &raw, PyBUF_SIMPLE)
            try:
                batch.is_read_by_all = not from_producer or is_read_by_all(batch.codec, stream, raw.len)
                take_records(
                    batch, <const uint8_t *>raw.buf, raw.len, max_raw_bytes, from_producer,
                    keeps_packed and batch.is_read_by_all,
                )
            finally:
                PyBuffer_Release(&raw)
        if from_producer and batch.max_record_timestamp != batch.max_timestamp:
            batch.wire = with_max_timestamp(at, size, batch.max_record_timestamp)
    finally:
        PyBuffer_Release(&view)
    return batch


cdef bytes with_max_timestamp(const uint8_t *at, Py_ssize_t size, int64_t max_timestamp):
    cdef bytes copy = PyBytes_FromStringAndSize(<const char *>at, size)
    put64(body(copy) + 35, <uint64_t>max_timestamp)
    put32(body(copy) + 17, crc32c_of(body(copy) + CRC_FROM, size - CRC_FROM))
    return copy


def restamp(wire, int64_t base_offset, int32_t leader_epoch, int64_t log_append_time_ms=-1):
    """A copy of the batch with its place in the log, which the CRC does not cover. With a log append time also that,
    and a new CRC. Raises RecordsError when `wire` is no whole batch."""
    cdef Py_buffer view
    cdef bytes copy
    cdef uint8_t *at
    cdef Py_ssize_t size
    PyObject_GetBuffer(wire, &view, PyBUF_SIMPLE)
    try:
        size = view.len
        if size < HEADER_BYTES or <int32_t>get32(<const uint8_t *>view.buf + 8) != size - SIZE_BYTES:
            raise RecordsError(CORRUPT_MESSAGE, f"{size} bytes are not one record batch")
        copy = PyBytes_FromStringAndSize(<const char *>view.buf, size)
    finally:
        PyBuffer_Release(&view)
    at = body(copy)
    put64(at, <uint64_t>base_offset)
    put32(at + 12, <uint32_t>leader_epoch)
    if log_append_time_ms >= 0:
        put16(at + 21, get16(at + 21) | LOG_APPEND_TIME)
        put64(at + 35, <uint64_t>log_append_time_ms)
        if size > LARGE_BYTES:
            with nogil:
                put32(at + 17, crc32c_of(at + CRC_FROM, size - CRC_FROM))
        else:
            put32(at + 17, crc32c_of(at + CRC_FROM, size - CRC_FROM))
    return copy


def batches_in(bytes data, int64_t start_offset=0):
    """The batches that lie one behind the other in `data`, without those that end before `start_offset`.

    Raises RecordsError when they are not whole.
    """
    cdef const uint8_t *at = body(data)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(data)
    cdef int64_t size
    cdef list found = []
    while left > 0:
        check_frame(at, left, False)
        size = SIZE_BYTES + <int64_t><int32_t>get32(at + 8)
        if <int64_t>get64(at) + <int32_t>get32(at + 23) >= start_offset:
            found.append(PyBytes_FromStringAndSize(<const char *>at, size))
        at += size
        left -= size
    return found


# ---- slices -> a row

cdef inline uint8_t *put_null(uint8_t *out) noexcept nogil:
    return put32(out, 0xFFFFFFFF)

cdef inline uint8_t *put_bool(uint8_t *out, bint value) noexcept nogil:
    out = put32(out, 1)
    out[0] = 1 if value else 0
    return out + 1

cdef inline uint8_t *put_int2(uint8_t *out, int16_t value) noexcept nogil:
    return put16(put32(out, 2), <uint16_t>value)

cdef inline uint8_t *put_int4(uint8_t *out, int32_t value) noexcept nogil:
    return put32(put32(out, 4), <uint32_t>value)

cdef inline uint8_t *put_int8(uint8_t *out, int64_t value) noexcept nogil:
    return put64(put32(out, 8), <uint64_t>value)

cdef inline uint8_t *put_array(uint8_t *out, int64_t body_bytes, bint has_nulls, int oid, int32_t count) noexcept nogil:
    """The field's length and the array's header."""
    out = put32(out, <uint32_t>(ARRAY_BYTES + body_bytes))
    out = put32(put32(put32(out, 1), 1 if has_nulls else 0), <uint32_t>oid)
    return put32(put32(out, <uint32_t>count), 1)


cdef inline uint8_t *put_body(uint8_t *out, bytes data) noexcept:
    memcpy(out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return out + PyBytes_GET_SIZE(data)


cdef inline int64_t size_of(bytes data) noexcept:
    return 0 if data is None else PyBytes_GET_SIZE(data)


cdef uint8_t *put_repeated(uint8_t *out, int64_t value, int32_t count) noexcept nogil:
    """int8 elements that are all the same."""
    cdef int32_t i
    for i in range(count):
        out = put_int8(out, value)
    return out


cdef uint8_t *put_constant(uint8_t *out, int32_t value, int32_t count) noexcept nogil:
    """int4 elements that are all the same."""
    cdef int32_t i
    for i in range(count):
        out = put_int4(out, value)
    return out


cdef uint8_t *put_shifted(uint8_t *out, const uint8_t *elements, int32_t count, int32_t by) noexcept nogil:
    """int4 elements, each `by` larger."""
    cdef int32_t i
    for i in range(count):
        out = put_int4(out, <int32_t>(get32(elements + 8 * <int64_t>i + 4) + <uint32_t>by))
    return out


cdef uint8_t *put_counted(uint8_t *out, int32_t first, int32_t count) noexcept nogil:
    """int4 elements that count up."""
    cdef int32_t i
    for i in range(count):
        out = put_int4(out, first + i)
    return out


cdef uint8_t *put_nulls(uint8_t *out, int32_t count) noexcept nogil:
    cdef int32_t i
    for i in range(count):
        out = put_null(out)
    return out


def copy_row(
    *, int64_t series, int64_t topic, int32_t partition, int32_t segment, int64_t base_offset, int32_t leader_epoch,
    int64_t global_base, int64_t running_max_timestamp, int64_t append_time, int16_t timestamp_type, int16_t codec,
    bint is_transactional, bint is_control, delete_horizon, producers, slices, int64_t log_append_time=-1, packed=None,
):
    """One COPY BINARY tuple of kafka.log, columns in the order of COLUMNS, of slices whose offsets follow one another
    from `base_offset`. Raises RecordsError MESSAGE_TOO_LARGE for a row that PostgreSQL could not take.

    With `packed`, a list of restamped batches, the row has these instead of arrays; `slices` are theirs then.
    """
    cdef Slice part
    cdef list parts = slices if type(slices) is list else list(slices)
    cdef list batches = producers if type(producers) is list else list(producers)
    cdef int64_t count = 0, span = 0, headers = 0, raw_bytes = 0, wire_bytes = 0
    cdef int64_t first_timestamp = 0, max_timestamp = INT64_MIN
    cdef int64_t key_bytes = 0, value_bytes = 0, header_key_bytes = 0, header_value_bytes = 0
    cdef int64_t null_keys = 0, null_values = 0, null_header_values = 0
    cdef bint has_timestamps = False, is_sparse = False
    cdef list wires = packed
    cdef int64_t packed_bytes = 0
    cdef int64_t size
    cdef int32_t done, n
    cdef bytes row, wire
    cdef uint8_t *out
    if not parts:
        raise ValueError("a row takes at least one slice")
    if wires is not None:
        for wire in wires:
            packed_bytes += PyBytes_GET_SIZE(wire)
    for part in parts:
        if part.values is None and wires is None:
            raise ValueError("a slice that no batch has made")
        if count == 0:
            first_timestamp = part.first_timestamp
        elif part.first_timestamp != first_timestamp:
            has_timestamps = True
        if part.timestamps is not None:
            has_timestamps = True
        if part.max_timestamp > max_timestamp:
            max_timestamp = part.max_timestamp
        if part.offset_deltas is not None or (part.span != part.count and part is not parts[len(parts) - 1]):
            is_sparse = True
        count += part.count
        span += part.span
        headers += part.headers
        raw_bytes += part.raw_bytes
        wire_bytes += part.wire_bytes
        null_keys += part.null_keys
        null_values += part.null_values
        null_header_values += part.null_header_values
        key_bytes += size_of(part.keys) if part.keys is not None else 4 * part.count
        value_bytes += size_of(part.values)
        header_key_bytes += size_of(part.header_keys)
        header_value_bytes += size_of(part.header_values)
    if timestamp_type == 1 and log_append_time >= 0:
        first_timestamp = max_timestamp = log_append_time
        has_timestamps = False
    if wires is not None:
        has_timestamps = is_sparse = False
        null_keys = count
        headers = 0
    if max_timestamp > running_max_timestamp:
        running_max_timestamp = max_timestamp
    if raw_bytes > ROW_BYTES_LIMIT or span > INT32_MAX:
        raise RecordsError(MESSAGE_TOO_LARGE, f"a row of {raw_bytes} bytes and {span} offsets")

    n = <int32_t>min(len(batches), INT32_MAX)
    size = 2 + 9 * 12 + 5 * 8 + 2 * 6 + 2 * 5 + (4 if delete_horizon is None else 12)
    size += (12 + 12 + 8 + 8 + 6) if n == 1 else 5 * 4
    size += 5 * (4 + ARRAY_BYTES) + <int64_t>n * (12 + 12 + 8 + 8 + 6) if n > 1 else 5 * 4
    size += 4 + ARRAY_BYTES + 12 * count if has_timestamps else 4
    size += 4 + ARRAY_BYTES + 8 * count if is_sparse else 4
    size += 4 + ARRAY_BYTES + key_bytes if null_keys < count else 4
    size += 3 * (4 + ARRAY_BYTES) + 8 * count + header_key_bytes + header_value_bytes if headers else 3 * 4
    size += (4 + ARRAY_BYTES + value_bytes + 4 if wires is None else 4 + 4 + packed_bytes) + 8
    if size > ROW_BYTES_LIMIT:
        raise RecordsError(MESSAGE_TOO_LARGE, f"a row of {size} bytes")
    row = PyBytes_FromStringAndSize(NULL, size)
    out = body(row)

    out = put16(out, COLUMN_COUNT)
    out = put_int8(out, series)
    out = put_int8(out, topic)
    out = put_int8(out, base_offset)
    out = put_int8(out, base_offset + span - 1)
    out = put_int8(out, global_base)
    out = put_int8(out, max_timestamp)
    out = put_int8(out, running_max_timestamp)
    out = put_int8(out, append_time)
    out = put_int8(out, first_timestamp)
    out = put_int4(out, segment)
    out = put_int4(out, partition)
    out = put_int4(out, <int32_t>count)
    out = put_int4(out, <int32_t>raw_bytes)
    out = put_int4(out, leader_epoch)
    out = put_int2(out, timestamp_type)
    out = put_int2(out, codec)
    out = put_bool(out, is_transactional)
    out = put_bool(out, is_control)
    out = put_null(out) if delete_horizon is None else put_int8(out, delete_horizon)
    out = put_producers(out, batches, n)

    if has_timestamps:
        out = put_array(out, 12 * count, False, INT8, count)
        for part in parts:
            if part.timestamps is not None:
                out = put_body(out, part.timestamps)
            else:
                out = put_repeated(out, part.first_timestamp, part.count)
    else:
        out = put_null(out)

    if is_sparse:
        out = put_array(out, 8 * count, False, INT4, count)
        done = 0
        for part in parts:
            if part.offset_deltas is not None:
                out = put_shifted(out, body(part.offset_deltas), part.count, done)
            else:
                out = put_counted(out, done, part.count)
            done += <int32_t>part.span
    else:
        out = put_null(out)

    if null_keys < count:
        out = put_array(out, key_bytes, null_keys > 0, BYTEA, count)
        for part in parts:
            out = put_body(out, part.keys) if part.keys is not None else put_nulls(out, part.count)
    else:
        out = put_null(out)

    if headers:
        out = put_array(out, 8 * count, False, INT4, count)
        done = 0
        for part in parts:
            if part.header_ends is not None:
                out = put_shifted(out, body(part.header_ends), part.count, done)
            else:
                out = put_constant(out, done, part.count)
            done += part.headers
        out = put_array(out, header_key_bytes, False, BYTEA, headers)
        for part in parts:
            if part.header_keys is not None:
                out = put_body(out, part.header_keys)
        out = put_array(out, header_value_bytes, null_header_values > 0, BYTEA, headers)
        for part in parts:
            if part.header_values is not None:
                out = put_body(out, part.header_values)
    else:
        out = put_null(put_null(put_null(out)))

    if wires is None:
        out = put_array(out, value_bytes, null_values > 0, BYTEA, count)
        for part in parts:
            out = put_body(out, part.values)
    else:
        out = put_null(out)
    out = put_int4(out, <int32_t>min(wire_bytes, <int64_t>INT32_MAX))
    if wires is None:
        out = put_null(out)
    else:
        out = put32(out, <uint32_t>packed_bytes)
        for wire in wires:
            out = put_body(out, wire)
    assert out - body(row) == size
    return row


cdef uint8_t *put_producers(uint8_t *out, list batches, int32_t n) except NULL:
    """The five columns of one producer batch, then the five arrays for more of them."""
    cdef int64_t producer_id, batch_base_offset
    cdef int32_t base_sequence, batch_count, column
    cdef int16_t producer_epoch
    if n == 1:
        producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count = batches[0]
        out = put_int8(put_int8(out, producer_id), batch_base_offset)
        out = put_int4(put_int4(out, base_sequence), batch_count)
        out = put_int2(out, producer_epoch)
        return put_nulls(out, 5)
    out = put_nulls(out, 5)
    if n == 0:
        return put_nulls(out, 5)
    out = put_array(out, 12 * <int64_t>n, False, INT8, n)
    for producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count in batches:
        out = put_int8(out, producer_id)
    out = put_array(out, 12 * <int64_t>n, False, INT8, n)
    for producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count in batches:
        out = put_int8(out, batch_base_offset)
    out = put_array(out, 8 * <int64_t>n, False, INT4, n)
    for producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count in batches:
        out = put_int4(out, base_sequence)
    out = put_array(out, 8 * <int64_t>n, False, INT4, n)
    for producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count in batches:
        out = put_int4(out, batch_count)
    out = put_array(out, 6 * <int64_t>n, False, INT2, n)
    for producer_id, producer_epoch, base_sequence, batch_base_offset, batch_count in batches:
        out = put_int2(out, producer_epoch)
    return out


# ---- a row -> a batch

cdef struct Row:
    Elements timestamps, offset_deltas, keys, header_ends, header_keys, header_values, values
    int64_t base_offset, last_offset, first_timestamp, horizon, start_offset, max_bytes
    int32_t count
    bint has_horizon
    # What `size_row` finds out.
    int32_t first_index, first_header, included
    int64_t first_offset, end_offset, base_timestamp, max_timestamp, bytes

cdef enum Lie:                  # what `size_row` finds wrong
    TRUE
    BAD_KEYS
    BAD_VALUES
    BAD_HEADERS
    BAD_DELTAS
    BAD_TIMESTAMPS
    TOO_MUCH

cdef tuple _LIES = ("", "keys", "values", "headers", "offset deltas", "timestamps")


cdef int open_array(bytes data, int oid, int width, str name, Elements *elements) except -1:
    """The array header of array_send()'s output; `width` of the elements, 0 when it varies."""
    cdef const uint8_t *at
    cdef Py_ssize_t size
    cdef int32_t dimensions
    elements.at = elements.end = NULL
    elements.count = 0
    elements.is_present = data is not None
    if data is None:
        return 0
    at = body(data)
    size = PyBytes_GET_SIZE(data)
    if size >= 12:
        dimensions = <int32_t>get32(at)
        if <int32_t>get32(at + 8) == oid:
            if dimensions == 0 and size == 12:
                return 0
            if dimensions == 1 and size >= ARRAY_BYTES:
                elements.count = <int32_t>get32(at + 12)
                elements.at = at + ARRAY_BYTES
                elements.end = at + size
                if elements.count >= 0 and elements.count <= (size - ARRAY_BYTES) // (4 + width):
                    if width == 0 or elements.count * <int64_t>(4 + width) == size - ARRAY_BYTES:
                        return 0
    raise RecordsError(CORRUPT_MESSAGE, f"{name}: no one-dimensional array of type {oid} in {size} bytes")


cdef inline bint next_element(Elements *elements, const uint8_t **data, int32_t *size) noexcept nogil:
    """Step to the next element of a bytea array; size -1 is null."""
    cdef int32_t length
    if elements.end - elements.at < 4:
        return False
    length = <int32_t>get32(elements.at)
    elements.at += 4
    if length > elements.end - elements.at or length < -1:
        return False
    data[0] = elements.at
    size[0] = length
    if length > 0:
        elements.at += length
    return True


cdef inline int64_t varint_of(int64_t value) noexcept nogil:
    return varint_size(zigzag(value))


cdef inline int64_t datum_size(int32_t size) noexcept nogil:
    return 1 if size < 0 else varint_of(size) + size


cdef inline int64_t timestamp_at(const Row *row, int32_t i) noexcept nogil:
    return <int64_t>get64(row.timestamps.at + 12 * <int64_t>i + 4) if row.timestamps.is_present else row.first_timestamp


cdef inline int64_t offset_at(const Row *row, int32_t i) noexcept nogil:
    if row.offset_deltas.is_present:
        return row.base_offset + <int32_t>get32(row.offset_deltas.at + 8 * <int64_t>i + 4)
    return row.base_offset + i


cdef inline int32_t header_end_at(const Row *row, int32_t i) noexcept nogil:
    return <int32_t>get32(row.header_ends.at + 8 * <int64_t>i + 4) if row.header_ends.is_present else 0


cdef int size_row(Row *row, Row *start) noexcept nogil:
    """Check the row, choose its records, and size them. `start` becomes the row from the first chosen record on."""
    cdef const uint8_t *data
    cdef int32_t i, h, size, header_end
    cdef int32_t header = 0
    cdef int64_t offset, timestamp, record
    cdef int64_t previous = row.base_offset - 1
    cdef bint is_cut = False
    row.included = 0
    row.bytes = 0
    row.first_offset = row.base_offset
    row.base_timestamp = row.horizon if row.has_horizon else row.first_timestamp
    row.max_timestamp = row.first_timestamp
    start[0] = row[0]
    for i in range(row.count):
        offset = offset_at(row, i)
        if offset <= previous or offset > row.last_offset:
            return BAD_DELTAS
        if row.offset_deltas.is_present and get32(row.offset_deltas.at + 8 * <int64_t>i) != 4:
            return BAD_DELTAS
        if row.timestamps.is_present and get32(row.timestamps.at + 12 * <int64_t>i) != 8:
            return BAD_TIMESTAMPS
        previous = offset
        header_end = header_end_at(row, i)
        if header_end < header or header_end > row.header_keys.count:
            return BAD_HEADERS
        if row.included == 0:
            # Skipped records lie before `start`, which is taken anew for each record until one is included.
            start[0] = row[0]
            start.first_index = i
            start.first_header = header
            start.first_offset = offset if row.max_bytes > 0 else row.base_offset
            start.base_timestamp = row.horizon if row.has_horizon else timestamp_at(row, i)
            start.max_timestamp = timestamp_at(row, i)
        timestamp = timestamp_at(row, i)
        record = 2 + varint_of(<int64_t>(<uint64_t>timestamp - <uint64_t>start.base_timestamp))
        record += varint_of(offset - start.first_offset)
        if row.keys.is_present:
            if not next_element(&row.keys, &data, &size):
                return BAD_KEYS
            record += datum_size(size) - 1
        if not next_element(&row.values, &data, &size):
            return BAD_VALUES
        record += datum_size(size)
        record += varint_of(header_end - header)
        for h in range(header, header_end):
            if not next_element(&row.header_keys, &data, &size) or size < 0:
                return BAD_HEADERS
            record += datum_size(size)
            if not next_element(&row.header_values, &data, &size):
                return BAD_HEADERS
            record += datum_size(size)
        header = header_end
        if row.max_bytes > 0 and offset < row.start_offset:
            continue
        if record > INT32_MAX:
            return TOO_MUCH
        record += varint_of(record)
        if row.included and row.max_bytes > 0 and HEADER_BYTES + row.bytes + record > row.max_bytes:
            is_cut = True
            break
        row.bytes += record
        if row.bytes > ROW_BYTES_LIMIT:
            return TOO_MUCH
        row.included += 1
        row.end_offset = offset
        if timestamp > start.max_timestamp:
            start.max_timestamp = timestamp
    start.included = row.included
    start.bytes = row.bytes
    start.end_offset = row.end_offset if is_cut else row.last_offset
    if row.included == 0:
        # Nothing is left of what was asked for: a batch without records that covers its offsets.
        start.first_offset = max(row.base_offset, row.start_offset) if row.max_bytes > 0 else row.base_offset
        start.first_offset = min(start.first_offset, row.last_offset)
        start.base_timestamp = row.horizon if row.has_horizon else row.first_timestamp
        start.max_timestamp = row.first_timestamp
    if not is_cut:
        if header != row.header_keys.count or row.header_keys.at != row.header_keys.end:
            return BAD_HEADERS
        if row.header_values.at != row.header_values.end:
            return BAD_HEADERS
        if row.keys.at != row.keys.end:
            return BAD_KEYS
        if row.values.at != row.values.end:
            return BAD_VALUES
    return TRUE


cdef inline uint8_t *write_datum(uint8_t *out, const uint8_t *data, int32_t size) noexcept nogil:
    if size < 0:
        out[0] = 1              # zigzag of -1
        return out + 1
    out = write_unsigned(out, <uint64_t>size << 1)
    memcpy(out, data, size)
    return out + size


cdef uint8_t *write_records(Row *row, uint8_t *out) noexcept nogil:
    """The records that `size_row` has chosen and checked."""
    cdef const uint8_t *key = NULL
    cdef const uint8_t *value = NULL
    cdef const uint8_t *data = NULL
    cdef int32_t i, h, key_size, header_end
    cdef int32_t value_size = -1, size = -1
    cdef int32_t header = row.first_header
    cdef int64_t offset_delta, timestamp_delta, length
    cdef Elements keys, values
    for i in range(row.first_index, row.first_index + row.included):
        offset_delta = offset_at(row, i) - row.first_offset
        timestamp_delta = <int64_t>(<uint64_t>timestamp_at(row, i) - <uint64_t>row.base_timestamp)
        header_end = header_end_at(row, i)
        key_size = -1
        if row.keys.is_present:
            next_element(&row.keys, &key, &key_size)
        next_element(&row.values, &value, &value_size)
        length = 1 + varint_of(timestamp_delta) + varint_of(offset_delta) + datum_size(key_size) + datum_size(value_size)
        length += varint_of(header_end - header)
        if header_end != header:
            keys = row.header_keys
            values = row.header_values
            for h in range(header, header_end):
                next_element(&keys, &data, &size)
                length += datum_size(size)
                next_element(&values, &data, &size)
                length += datum_size(size)
        out = write_unsigned(out, <uint64_t>length << 1)
        out[0] = 0
        out = write_unsigned(out + 1, zigzag(timestamp_delta))
        out = write_unsigned(out, zigzag(offset_delta))
        out = write_datum(out, key, key_size)
        out = write_datum(out, value, value_size)
        out = write_unsigned(out, zigzag(header_end - header))
        for h in range(header, header_end):
            next_element(&row.header_keys, &data, &size)
            out = write_datum(out, data, size)
            next_element(&row.header_values, &data, &size)
            out = write_datum(out, data, size)
        header = header_end
    return out


def encode_row(
    *, int64_t base_offset, int64_t last_offset, int32_t leader_epoch, int32_t record_count, int64_t first_timestamp,
    int64_t max_timestamp, int16_t timestamp_type, bint is_transactional, bint is_control, producer_id,
    producer_epoch, base_sequence, batch_base_offset, delete_horizon, bytes timestamps, bytes offset_deltas, bytes keys,
    bytes header_ends, bytes header_keys, bytes header_values, bytes values, int codec, int64_t start_offset=-1,
    int64_t max_bytes=0, level=None,
):
    """One batch of a stored row, whose arrays are array_send()'s output. Raises RecordsError when they disagree.

    With `max_bytes` it begins with the first record at or after `start_offset`, and ends where the uncompressed batch
    would grow above `max_bytes`, but takes at least one record.
    """
    cdef Row row, start
    cdef int lie
    cdef bytes batch, records
    cdef uint8_t *out
    cdef uint8_t *written
    cdef int32_t sequence = -1
    if codec < 0 or codec > 4:
        raise RecordsError(UNSUPPORTED_COMPRESSION_TYPE, f"unknown compression codec {codec}")
    if record_count < 0 or not 0 <= base_offset <= INT64_MAX - INT32_MAX or last_offset < base_offset or (
        last_offset - base_offset > INT32_MAX
    ):
        raise RecordsError(CORRUPT_MESSAGE, f"offsets {base_offset} to {last_offset} with {record_count} records")
    open_array(timestamps, INT8, 8, "timestamps", &row.timestamps)
    open_array(offset_deltas, INT4, 4, "offset_deltas", &row.offset_deltas)
    open_array(keys, BYTEA, 0, "keys", &row.keys)
    open_array(header_ends, INT4, 4, "header_ends", &row.header_ends)
    open_array(header_keys, BYTEA, 0, "header_keys", &row.header_keys)
    open_array(header_values, BYTEA, 0, "header_values", &row.header_values)
    open_array(values, BYTEA, 0, "values", &row.values)
    check_count(record_count, &row.timestamps, "timestamps")
    check_count(record_count, &row.offset_deltas, "offset_deltas")
    check_count(record_count, &row.keys, "keys")
    check_count(record_count, &row.header_ends, "header_ends")
    check_count(record_count, &row.values, "values")
    if row.values.count != record_count or row.header_keys.count != row.header_values.count:
        raise RecordsError(CORRUPT_MESSAGE, f"{record_count} records with {row.values.count} values")
    if timestamp_type == 1 and row.timestamps.is_present:
        raise RecordsError(CORRUPT_MESSAGE, "timestamps of their own in a row with LogAppendTime")
    row.base_offset = base_offset
    row.last_offset = last_offset
    row.first_timestamp = first_timestamp
    row.has_horizon = delete_horizon is not None
    row.horizon = 0 if delete_horizon is None else delete_horizon
    row.start_offset = start_offset
    row.max_bytes = max_bytes
    row.count = record_count
    row.first_index = row.first_header = 0
    row.end_offset = last_offset
    if PyBytes_GET_SIZE(values) > LARGE_BYTES:
        with nogil:
            lie = size_row(&row, &start)
    else:
        lie = size_row(&row, &start)
    if lie == TOO_MUCH:
        raise RecordsError(MESSAGE_TOO_LARGE, f"a batch of more than {ROW_BYTES_LIMIT} bytes")
    if lie != TRUE:
        raise RecordsError(
            CORRUPT_MESSAGE, f"the {_LIES[lie]} of the row at offset {base_offset} do not fit its {record_count} records"
        )

    if codec == 0:
        batch = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + start.bytes)
        out = body(batch) + HEADER_BYTES
    else:
        records = PyBytes_FromStringAndSize(NULL, start.bytes)
        out = body(records)
    if start.bytes > LARGE_BYTES:
        with nogil:
            written = write_records(&start, out)
    else:
        written = write_records(&start, out)
    assert written - out == start.bytes
    if codec != 0:
        records = compress(codec, records, level)
        batch = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + PyBytes_GET_SIZE(records))
        memcpy(body(batch) + HEADER_BYTES, body(records), PyBytes_GET_SIZE(records))

    if producer_id is not None and base_sequence >= 0:  # markers have a producer and no sequence
        sequence = sequence_at(base_sequence, batch_base_offset, start.first_offset)
    write_header(
        batch, start.first_offset, leader_epoch,
        codec | (LOG_APPEND_TIME if timestamp_type == 1 else 0) | (TRANSACTIONAL if is_transactional else 0)
        | (CONTROL if is_control else 0) | (DELETE_HORIZON if row.has_horizon else 0),
        <int32_t>(start.end_offset - start.first_offset), start.base_timestamp,
        max_timestamp if timestamp_type == 1 or start.included == 0 else start.max_timestamp,
        -1 if producer_id is None else producer_id, -1 if producer_id is None else producer_epoch, sequence,
        start.included,
    )
    return batch


cdef int32_t sequence_at(int32_t first, int64_t first_offset, int64_t offset) noexcept:
    """The sequence of a record of a producer's batch; after the largest comes 0. A row may claim any numbers."""
    return <int32_t>((<uint64_t>first + <uint64_t>offset - <uint64_t>first_offset) & INT32_MAX)


cdef check_count(int32_t wanted, const Elements *elements, str name):
    if elements.is_present and elements.count != wanted:
        raise RecordsError(CORRUPT_MESSAGE, f"{wanted} records with {elements.count} {name}")


cdef write_header(
    bytes batch, int64_t base_offset, int32_t leader_epoch, int attributes, int32_t last_offset_delta,
    int64_t base_timestamp, int64_t max_timestamp, int64_t producer_id, int16_t producer_epoch, int32_t base_sequence,
    int32_t count,
):
    """Write the header of `batch`, whose records are in their place; the CRC last."""
    cdef uint8_t *at = body(batch)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(batch)
    if size - SIZE_BYTES > INT32_MAX:
        raise RecordsError(MESSAGE_TOO_LARGE, f"a batch of {size} bytes")
    put64(at, <uint64_t>base_offset)
    put32(at + 8, <uint32_t>(size - SIZE_BYTES))
    put32(at + 12, <uint32_t>leader_epoch)
    at[16] = 2
    put16(at + 21, <uint16_t>attributes)
    put32(at + 23, <uint32_t>last_offset_delta)
    put64(at + 27, <uint64_t>base_timestamp)
    put64(at + 35, <uint64_t>max_timestamp)
    put64(at + 43, <uint64_t>producer_id)
    put16(at + 51, <uint16_t>producer_epoch)
    put32(at + 53, <uint32_t>base_sequence)
    put32(at + 57, <uint32_t>count)
    if size > LARGE_BYTES:
        with nogil:
            put32(at + 17, crc32c_of(at + CRC_FROM, size - CRC_FROM))
    else:
        put32(at + 17, crc32c_of(at + CRC_FROM, size - CRC_FROM))


def control_batch(
    *, int64_t base_offset, int32_t leader_epoch, int64_t timestamp, int64_t producer_id, int16_t producer_epoch,
    bint is_commit, int32_t coordinator_epoch,
):
    """The marker that ends a transaction: a transactional control batch of one record."""
    cdef bytes batch = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + 17)
    cdef uint8_t *out = body(batch) + HEADER_BYTES
    out[0] = 16 << 1            # bytes that follow
    out[1] = out[2] = out[3] = 0
    out[4] = 4 << 1
    out = put16(put16(out + 5, 0), 1 if is_commit else 0)       # key: version, type
    out[0] = 6 << 1
    out = put32(put16(out + 1, 0), <uint32_t>coordinator_epoch)  # value: version, epoch
    out[0] = 0
    write_header(
        batch, base_offset, leader_epoch, TRANSACTIONAL | CONTROL, 0, timestamp, timestamp, producer_id,
        producer_epoch, -1, 1,
    )
    return batch
