# cython: language_level=3, boundscheck=True, cdivision=True
"""What Python is too slow for in compressed streams: finding bytes in them, and walking over the blocks of an lz4 frame.

An lz4 frame, little endian:

     0  magic = 04 22 4d 18
     4  flags     7-6 version = 1 | 5 independent blocks | 4 block checksums | 3 content size | 2 content checksum
                  1 reserved | 0 dictionary id
     5  block descriptor    6-4 the largest block
     6  content size int64, when flagged | dictionary id int32, when flagged | header checksum int8
        blocks: size int32, the highest bit of it for bytes that are not compressed | the bytes | checksum, when flagged
        end mark = 0 int32 | content checksum int32, when flagged

Checksums, and what is in the blocks, are for the decoder to check.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

cdef extern from "Python.h":
    object PyByteArray_FromStringAndSize(const char *, Py_ssize_t)

cdef enum:
    INDEPENDENT = 0x20
    BLOCK_CHECKSUMS = 0x10
    CONTENT_SIZE = 0x08
    CONTENT_CHECKSUM = 0x04
    DICTIONARY = 0x01


def unwritten(Py_ssize_t size):
    """A bytearray of any content: large ones cost memory only where they are written."""
    if size < 0:
        raise ValueError(f"no buffer has {size} bytes")
    return PyByteArray_FromStringAndSize(NULL, size)


def contains(data, bytes wanted not None, Py_ssize_t start):
    """Whether `wanted` is somewhere in `data` from `start` on."""
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef const uint8_t *pattern = wanted
    cdef Py_ssize_t size = len(wanted)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if size == 0 or start < 0 or start > view.len:
            raise ValueError(f"nothing to look for, or nowhere: {size} bytes from {start} of {view.len}")
        at = <const uint8_t *>view.buf + start
        end = <const uint8_t *>view.buf + view.len
        while end - at >= size:
            at = <const uint8_t *>memchr(at, pattern[0], end - at - size + 1)
            if at == NULL:
                return False
            if memcmp(at, pattern, size) == 0:
                return True
            at += 1
        return False
    finally:
        PyBuffer_Release(&view)


cdef inline uint32_t get32(const uint8_t *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


def lz4_flaw(data):
    """Why `data` are not the one lz4 frame that all of Kafka's readers understand, or None when they are."""
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef Py_ssize_t left, block
    cdef uint32_t size, flags, checksum
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        at = <const uint8_t *>view.buf
        left = view.len
        if left < 7 or get32(at) != 0x184D2204:
            return "it does not begin with a frame"
        flags = at[4]
        if not flags & INDEPENDENT:
            return "its blocks are linked"
        if flags & DICTIONARY:
            return "it needs a dictionary"
        block = 7 + (8 if flags & CONTENT_SIZE else 0)
        checksum = 4 if flags & BLOCK_CHECKSUMS else 0
        while True:
            left -= block
            if left < 4:
                return "it has no end mark"
            at += block
            size = get32(at)
            at += 4
            left -= 4
            if size == 0:
                break
            # One byte that is compressed is nothing, and Java ends at a block of nothing.
            if size == 1 or size == 0x80000000:
                return "a block holds nothing"
            size &= 0x7FFFFFFF
            block = <Py_ssize_t>size + checksum
            if block > left:
                return f"a block of {size} bytes, {left} left"
        left -= 4 if flags & CONTENT_CHECKSUM else 0
        if left < 0:
            return "it has no content checksum"
        return f"{left} bytes come after the frame" if left else None
    finally:
        PyBuffer_Release(&view)
