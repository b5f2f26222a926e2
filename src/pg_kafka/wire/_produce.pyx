# cython: language_level=3, boundscheck=True, cdivision=True
"""Requests off a connection, natively: frames, request headers, and Produce's messages, which make up most of the traffic.

    frame             size int32 | header | body
    request header    api_key int16 | api_version int16 | correlation_id int32 | client_id string16 or null | tags

    ProduceRequest    transactional_id string or null | acks int16 | timeout_ms int32 | topics [
                        name string (versions 3-12) or id uuid (13) | partitions [ index int32 | records | tags ] | tags
                      ] | tags
    ProduceResponse   topics [
                        name or id | partitions [
                          index int32 | error int16 | base_offset int64 | log_append_time_ms int64 |
                          log_start_offset int64 (5) | record errors [] (8) | error message or null (8) | tags
                        ] | tags
                      ] | throttle_time_ms int32 | tags

    A string has its length in an int16 and an array in an int32, records in an int32. From version 9 on (headers of such
    requests alike, but for the client id) lengths are varints of length + 1, and there are tags, a zero byte mostly.

What is ordinary is read and written here. Anything else (tagged fields, a length or a text that cannot be) is left to the
general codec, so what it says of it holds. A length is compared with what remains before it is used, and a claimed size
allocates nothing.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pg_kafka.wire._decoder import MalformedRequest
from pg_kafka.wire.message import ZERO_UUID
from pg_kafka.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

cdef extern from "Python.h":
    object PyMemoryView_FromObject(object)
    object PyType_GenericAlloc(type, Py_ssize_t)
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL

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
    """
    uint16_t get16(const uint8_t *at) noexcept nogil
    uint32_t get32(const uint8_t *at) noexcept nogil
    uint8_t *put16(uint8_t *at, uint16_t value) noexcept nogil
    uint8_t *put32(uint8_t *at, uint32_t value) noexcept nogil
    uint8_t *put64(uint8_t *at, uint64_t value) noexcept nogil

cdef enum:
    FIRST_WITH_LOG_START = 5
    FIRST_WITH_RECORD_ERRORS = 8
    FIRST_FLEXIBLE = 9
    FIRST_WITH_IDS = 13
    OLDEST = 3
    NEWEST = 13
    SIZE_BYTES = 4
    UUID_BYTES = 16
    COPIED_FRAME_BYTES = 4096
    ROOM_BYTES = 131072         # what a frame may have room for before it has arrived
    # More topics and partitions than these are left to the general decoder, which counts them all together.
    MOST_ITEMS = 1000
    # What an item takes at least: an empty name and an empty array, or tags; an index and no records.
    LEAST_TOPIC_BYTES = 3
    LEAST_PARTITION_BYTES = 6
    MOST_KEYS = 128             # more API keys than Kafka has
    NULL_LENGTH = -1
    UNUSUAL = -2


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef inline int64_t read_length(Cursor *c, int width, bint flexible) noexcept nogil:
    """A length or count that fits into what remains, NULL_LENGTH, or UNUSUAL. `width` is that of the old notation."""
    cdef int64_t length
    cdef uint64_t raw
    cdef int shift
    if flexible:
        raw = 0
        shift = 0
        while True:
            if c.at == c.end or shift > 28:
                return UNUSUAL
            raw |= <uint64_t>(c.at[0] & 0x7F) << shift
            shift += 7
            c.at += 1
            if c.at[-1] < 0x80:
                break
        length = <int64_t>raw - 1
    elif c.end - c.at < width:
        return UNUSUAL
    elif width == 2:
        length = <int16_t>get16(c.at)
        c.at += 2
    else:
        length = <int32_t>get32(c.at)
        c.at += 4
    if length < NULL_LENGTH or length > c.end - c.at:
        return UNUSUAL
    return length


cdef inline bint has_no_tags(Cursor *c, bint flexible) noexcept nogil:
    """Step over an empty tag section."""
    if not flexible:
        return True
    if c.at == c.end or c.at[0] != 0:
        return False
    c.at += 1
    return True


cdef inline object new_message(type cls):
    """As the general decoder makes them: without calling __init__."""
    return PyType_GenericAlloc(cls, 0)


cdef class RequestReader:
    """A decoder of ProduceRequest in one version: (data, offset) -> message. `general` gets what is not ordinary."""

    cdef bint flexible
    cdef bint has_ids
    cdef object general
    cdef object read_uuid
    cdef bytes id_bytes         # of the topic that was named last, and its id: mostly it is named again
    cdef object id

    def __init__(self, int version, general, read_uuid):
        if not OLDEST <= version <= NEWEST:
            raise ValueError(f"Produce version {version}")
        self.flexible = version >= FIRST_FLEXIBLE
        self.has_ids = version >= FIRST_WITH_IDS
        self.general = general
        self.read_uuid = read_uuid

    def __call__(self, data, Py_ssize_t offset, Py_ssize_t max_items):
        cdef Py_buffer view
        cdef Cursor c
        cdef object message = None
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if 0 <= offset <= view.len:
                c.at = <const uint8_t *>view.buf + offset
                c.end = <const uint8_t *>view.buf + view.len
                message = self.request(&c, <const uint8_t *>view.buf, data)
        except UnicodeDecodeError:
            message = None
        finally:
            PyBuffer_Release(&view)
        return self.general(data, offset, max_items) if message is None else message

    cdef object request(self, Cursor *c, const uint8_t *start, data):
        """The message, or None."""
        cdef int64_t length
        cdef Py_ssize_t i, topics, left = MOST_ITEMS
        cdef object message, items, topic, transactional_id = None
        length = read_length(c, 2, self.flexible)
        if length == UNUSUAL:
            return None
        if length >= 0:
            transactional_id = PyUnicode_DecodeUTF8(<const char *>c.at, length, NULL)
            c.at += length
        if c.end - c.at < 6:
            return None
        message = new_message(<type>ProduceRequest)
        message.transactional_id = transactional_id
        message.acks = <int16_t>get16(c.at)
        message.timeout_ms = <int32_t>get32(c.at + 2)
        c.at += 6
        length = read_length(c, 4, self.flexible)
        if length < 0 or length > MOST_ITEMS or length * LEAST_TOPIC_BYTES > c.end - c.at:
            return None
        topics = length
        items = PyTuple_New(topics)
        for i in range(topics):
            topic = self.topic(c, start, data, &left)
            if topic is None:
                return None
            Py_INCREF(topic)
            PyTuple_SET_ITEM(items, i, topic)
        if not has_no_tags(c, self.flexible):
            return None
        message.topic_data = items
        return message

    cdef object topic(self, Cursor *c, const uint8_t *start, data, Py_ssize_t *left):
        """A topic with its partitions, which are taken off what may be `left` of them; or None."""
        cdef int64_t length
        cdef Py_ssize_t i, partitions, at
        cdef object items, partition, view = None
        cdef object topic = new_message(<type>TopicProduceData)
        if self.has_ids:
            if c.end - c.at < UUID_BYTES:
                return None
            topic.name = ""
            topic.topic_id = self.uuid(c.at)
            c.at += UUID_BYTES
        else:
            length = read_length(c, 2, self.flexible)
            if length < 0:
                return None
            topic.name = PyUnicode_DecodeUTF8(<const char *>c.at, length, NULL)
            topic.topic_id = ZERO_UUID
            c.at += length
        length = read_length(c, 4, self.flexible)
        if length < 0 or length > left[0] or length * LEAST_PARTITION_BYTES > c.end - c.at:
            return None
        left[0] -= length
        partitions = length
        items = PyTuple_New(partitions)
        for i in range(partitions):
            if c.end - c.at < 4:
                return None
            partition = new_message(<type>PartitionProduceData)
            partition.index = <int32_t>get32(c.at)
            c.at += 4
            length = read_length(c, 4, self.flexible)
            if length == UNUSUAL:
                return None
            if length == NULL_LENGTH:
                partition.records = None
            else:
                if view is None:
                    view = PyMemoryView_FromObject(data)
                at = c.at - start
                partition.records = view[at : at + length]
                c.at += length
            if not has_no_tags(c, self.flexible):
                return None
            Py_INCREF(partition)
            PyTuple_SET_ITEM(items, i, partition)
        if not has_no_tags(c, self.flexible):
            return None
        topic.partition_data = items
        return topic

    cdef object uuid(self, const uint8_t *at):
        cdef bytes raw = PyBytes_FromStringAndSize(<const char *>at, UUID_BYTES)
        if raw != self.id_bytes:
            self.id = self.read_uuid(raw)
            self.id_bytes = raw
        return self.id


cdef class FrameSplitter:
    """Cuts what a connection receives into frames. After MalformedRequest it must not be used again."""

    cdef public int64_t max_frame_bytes  # holds for frames that begin from now on
    cdef uint8_t head[SIZE_BYTES]   # the start of a size
    cdef int head_bytes
    cdef bytes frame                # one that has begun: its first `frame_bytes`, and room for more
    cdef Py_ssize_t frame_bytes
    cdef Py_ssize_t size            # of that frame when it is complete

    def __init__(self, int64_t max_frame_bytes):
        self.max_frame_bytes = max_frame_bytes

    @property
    def buffered_bytes(self):
        """What is held of a frame that is not complete."""
        return self.head_bytes + self.frame_bytes

    def feed(self, data):
        """The frames that `data` completes, without their sizes. Raises MalformedRequest for a size out of bounds.

        A frame may be a view of `data`, which must not change afterwards.
        """
        cdef Py_buffer view
        cdef list frames = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.cut(<const uint8_t *>view.buf, view.len, data, frames)
        finally:
            PyBuffer_Release(&view)
        return frames

    cdef int cut(self, const uint8_t *start, Py_ssize_t length, data, list frames) except -1:
        cdef Py_ssize_t at = 0, taken
        cdef object whole = None
        if self.frame is not None:
            at = self.append(start, min(self.size - self.frame_bytes, length))
            if self.frame_bytes < self.size:
                return 0
            frames.append(self.frame)
            self.frame = None
            self.frame_bytes = 0
        while True:
            taken = min(SIZE_BYTES - self.head_bytes, length - at)
            memcpy(self.head + self.head_bytes, start + at, taken)
            self.head_bytes += <int>taken
            at += taken
            if self.head_bytes < SIZE_BYTES:
                return 0
            self.head_bytes = 0
            self.size = <int32_t>get32(self.head)
            if not 0 <= self.size <= self.max_frame_bytes:
                raise MalformedRequest(f"a frame of {self.size} bytes; at most {self.max_frame_bytes} are allowed")
            if self.size > length - at:
                self.frame = b""
                self.append(start + at, length - at)
                return 0
            # Small frames are copied: the chunk that they came in can go.
            if self.size <= COPIED_FRAME_BYTES:
                frames.append(PyBytes_FromStringAndSize(<const char *>start + at, self.size))
            else:
                if whole is None:
                    whole = PyMemoryView_FromObject(data)
                frames.append(whole[at : at + self.size])
            at += self.size

    cdef Py_ssize_t append(self, const uint8_t *piece, Py_ssize_t length) except -1:
        """Add to the frame that has begun. The room for it grows with what arrives, and is never larger than the frame."""
        cdef Py_ssize_t wanted = self.frame_bytes + length
        cdef bytes larger
        if wanted > len(self.frame):
            larger = PyBytes_FromStringAndSize(NULL, min(self.size, max(2 * wanted, min(4 * wanted, ROOM_BYTES))))
            memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(self.frame), self.frame_bytes)
            self.frame = larger
        memcpy(PyBytes_AS_STRING(self.frame) + self.frame_bytes, piece, length)
        self.frame_bytes = wanted
        return length


cdef class HeaderReader:
    """A decoder of request headers: frame -> (header, offset of the body), or None when it is not an ordinary one.

    `header_class` is a named tuple of api_key, api_version, correlation_id and client_id; `flexible` has the first and the
    last version of each API whose header ends with tags.
    """

    cdef type header_class
    cdef int16_t first_flexible[MOST_KEYS]
    cdef int16_t last_flexible[MOST_KEYS]

    def __init__(self, type header_class, flexible):
        cdef int key
        if not issubclass(header_class, tuple) or header_class.__itemsize__ != tuple.__itemsize__:
            raise TypeError(f"{header_class} is no named tuple")
        self.header_class = header_class
        for key in range(MOST_KEYS):
            self.first_flexible[key], self.last_flexible[key] = flexible.get(key, (1, 0))

    def __call__(self, frame):
        cdef Py_buffer view
        cdef Cursor c
        cdef int16_t key, version
        cdef int64_t length
        cdef object correlation_id, client_id = None
        PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
        try:
            if view.len < 10:
                return None
            c.at = <const uint8_t *>view.buf
            c.end = c.at + view.len
            key = <int16_t>get16(c.at)
            version = <int16_t>get16(c.at + 2)
            if not 0 <= key < MOST_KEYS:
                return None
            correlation_id = <int32_t>get32(c.at + 4)
            c.at += 8
            length = read_length(&c, 2, False)
            if length == UNUSUAL:
                return None
            if length >= 0:
                client_id = PyUnicode_DecodeUTF8(<const char *>c.at, length, NULL)
                c.at += length
            if not has_no_tags(&c, self.first_flexible[key] <= version <= self.last_flexible[key]):
                return None
            return self.header(key, version, correlation_id, client_id), c.at - <const uint8_t *>view.buf
        except UnicodeDecodeError:
            return None
        finally:
            PyBuffer_Release(&view)

    cdef object header(self, object key, object version, object correlation_id, object client_id):
        """As tuple.__new__ makes one of a subclass."""
        cdef object header = PyType_GenericAlloc(self.header_class, 4)
        Py_INCREF(key)
        PyTuple_SET_ITEM(header, 0, key)
        Py_INCREF(version)
        PyTuple_SET_ITEM(header, 1, version)
        Py_INCREF(correlation_id)
        PyTuple_SET_ITEM(header, 2, correlation_id)
        Py_INCREF(client_id)
        PyTuple_SET_ITEM(header, 3, client_id)
        return header


cdef inline int varint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *put_varint(uint8_t *out, uint64_t value) noexcept nogil:
    while value > 0x7F:
        out[0] = <uint8_t>(value & 0x7F | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


def acknowledgement(int version, int32_t correlation_id, topics, results):
    """The whole frame of a ProduceResponse without errors to a request of these topics.

    `results` has one result for each partition, in the request's order: base_offset, log_append_time_ms and
    log_start_offset are its attributes.
    """
    cdef bint flexible = version >= FIRST_FLEXIBLE
    cdef bint has_ids = version >= FIRST_WITH_IDS
    cdef Py_ssize_t topic_count = len(topics), partition_count, name_size, size, at = 0
    cdef int each = 22 + (8 if version >= FIRST_WITH_LOG_START else 0)
    cdef const char *name
    cdef object topic, partition, result
    cdef tuple partitions
    cdef bytes frame
    cdef uint8_t *out
    if version >= FIRST_WITH_RECORD_ERRORS:
        each += 3 if flexible else 6
    # The frame's size, correlation id and tags, the topics' count, throttle time and tags.
    size = 4 + 4 + 4 + (2 + varint_size(topic_count + 1) if flexible else 4)
    for topic in topics:
        if has_ids:
            size += UUID_BYTES
        else:
            PyUnicode_AsUTF8AndSize(topic.name, &name_size)
            size += name_size + (varint_size(name_size + 1) if flexible else 2)
        partition_count = len(topic.partition_data)
        size += each * partition_count + (varint_size(partition_count + 1) + 1 if flexible else 4)
        at += partition_count
    if at != len(results):
        raise ValueError(f"{len(results)} results for {at} partitions")
    frame = PyBytes_FromStringAndSize(NULL, size)
    out = <uint8_t *>PyBytes_AS_STRING(frame)
    out = put32(put32(out, <uint32_t>(size - 4)), <uint32_t>correlation_id)
    if flexible:
        out[0] = 0
        out = put_varint(out + 1, topic_count + 1)
    else:
        out = put32(out, <uint32_t>topic_count)
    at = 0
    for topic in topics:
        if has_ids:
            memcpy(out, PyBytes_AS_STRING(topic.topic_id.int.to_bytes(UUID_BYTES, "big")), UUID_BYTES)
            out += UUID_BYTES
        else:
            name = PyUnicode_AsUTF8AndSize(topic.name, &name_size)
            out = put_varint(out, name_size + 1) if flexible else put16(out, <uint16_t>name_size)
            memcpy(out, name, name_size)
            out += name_size
        partition_count = len(topic.partition_data)
        out = put_varint(out, partition_count + 1) if flexible else put32(out, <uint32_t>partition_count)
        for partition in topic.partition_data:
            result = results[at]
            at += 1
            out = put16(put32(out, <uint32_t><int32_t>partition.index), 0)
            out = put64(out, <uint64_t><int64_t>result.base_offset)
            out = put64(out, <uint64_t><int64_t>result.log_append_time_ms)
            if version >= FIRST_WITH_LOG_START:
                out = put64(out, <uint64_t><int64_t>result.log_start_offset)
            if flexible:
                out[0] = 1              # no record errors
                out[1] = out[2] = 0     # no error message, no tags
                out += 3
            elif version >= FIRST_WITH_RECORD_ERRORS:
                out = put16(put32(out, 0), 0xFFFF)
        if flexible:
            out[0] = 0
            out += 1
    out = put32(out, 0)
    if flexible:
        out[0] = 0
    return frame
