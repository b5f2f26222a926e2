# What other native modules use of the record codec.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint64_t

cdef struct Elements:           # a stored array, next element first
    const uint8_t *at
    const uint8_t *end
    int32_t count
    bint is_present

cdef int open_array(bytes data, int oid, int width, str name, Elements *elements) except -1
cdef bint next_element(Elements *elements, const uint8_t **data, int32_t *size) noexcept nogil
cdef uint8_t *write_unsigned(uint8_t *at, uint64_t raw) noexcept nogil
cdef uint8_t *write_datum(uint8_t *out, const uint8_t *data, int32_t size) noexcept nogil
cdef uint64_t zigzag(int64_t value) noexcept nogil
cdef int64_t varint_of(int64_t value) noexcept nogil
cdef int64_t datum_size(int32_t size) noexcept nogil
cdef write_header(
    bytes batch, int64_t base_offset, int32_t leader_epoch, int attributes, int32_t last_offset_delta,
    int64_t base_timestamp, int64_t max_timestamp, int64_t producer_id, int16_t producer_epoch, int32_t base_sequence,
    int32_t count,
)
