"""Rows of the outbox become batches: each record once, in order, in the partition where Java's client would put it."""

from __future__ import annotations

import random
import struct
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.wire import _outbox, _records

NOW_MS = 1_790_000_000_000
BYTEA, INT8, INT4 = 17, 20, 23
STEP = 65_536


def array(oid: int, elements: list[bytes | None] | None) -> bytes | None:
    """What array_send() gives."""
    if elements is None:
        return None
    if not elements:
        return struct.pack(">iii", 0, 0, oid)
    has_nulls = any(element is None for element in elements)
    body = b"".join(b"\xff\xff\xff\xff" if e is None else struct.pack(">i", len(e)) + e for e in elements)
    return struct.pack(">iiiii", 1, has_nulls, oid, len(elements), 1) + body


def row(
    number: int,
    values: list[bytes | None],
    keys: list[bytes | None] | None = None,
    *,
    partition: int | None = None,
    headers: list[list[tuple[bytes, bytes | None]]] | None = None,
    timestamps: list[int] | None = None,
) -> _outbox.Row:
    ends = names = contents = None
    if headers is not None:
        total = 0
        ends = []
        for those in headers:
            total += len(those)
            ends.append(struct.pack(">i", total))
        names = [name for those in headers for name, _ in those]
        contents = [content for those in headers for _, content in those]
    stamps = None if timestamps is None else [struct.pack(">q", stamp) for stamp in timestamps]
    return (
        number * STEP,
        partition,
        len(values),
        NOW_MS if timestamps is None else timestamps[0],
        array(INT8, stamps),
        array(BYTEA, keys),
        array(INT4, ends),
        array(BYTEA, names),
        array(BYTEA, contents),
        array(BYTEA, values),
    )


def read(wire: bytes) -> list[tuple[int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]]:
    """Records of a batch, taken apart here and not by the code under test: timestamp, key, value, headers."""
    head = _records.peek(wire)
    assert _records.crc32c(wire[21:]) == head.crc
    at = 61

    def varint() -> int:
        nonlocal at
        raw = shift = 0
        while True:
            byte = wire[at]
            at += 1
            raw |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return (raw >> 1) ^ -(raw & 1)

    def datum() -> bytes | None:
        nonlocal at
        size = varint()
        if size < 0:
            return None
        at += size
        return wire[at - size : at]

    found = []
    for number in range(head.record_count):
        end = varint() + at
        at += 1
        stamp = head.base_timestamp + varint()
        assert varint() == number
        key, value = datum(), datum()
        headers = [(datum() or b"", datum()) for _ in range(varint())]
        assert at == end
        found.append((stamp, key, value, headers))
    assert at == len(wire)
    assert head.max_timestamp == max(stamp for stamp, *_ in found)
    return found


# From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_kafka(key: bytes, expected: int) -> None:
    assert _outbox.murmur2(key) == expected & 0xFFFFFFFF
    assert _outbox.partition_of(key, 12) == (expected & 0x7FFFFFFF) % 12


element = st.one_of(st.none(), st.binary(max_size=40))
record = st.tuples(
    element, element, st.lists(st.tuples(st.binary(max_size=5), element), max_size=2), st.integers(-1, 1 << 40)
)


@given(
    st.lists(st.tuples(st.lists(record, min_size=1, max_size=8), st.one_of(st.none(), st.integers(0, 6)))),
    st.integers(1, 300),
    st.integers(100, 400),
)
def test_each_record_goes_to_its_partition_once_and_in_order(
    given_rows: list[tuple[list[tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]], int]], int | None]],
    partitions: int,
    batch_bytes: int,
) -> None:
    rows = [
        row(
            number,
            [value for _, value, _, _ in records],
            [key for key, _, _, _ in records],
            partition=asked,
            headers=[headers for _, _, headers, _ in records],
            timestamps=[stamp for _, _, _, stamp in records],
        )
        for number, (records, asked) in enumerate(given_rows, 1)
    ]
    found = _outbox.spread(rows, partitions, batch_bytes=batch_bytes, most_bytes=1 << 20)

    expected = defaultdict(list)
    places = {}
    failed = []
    for number, (records, asked) in enumerate(given_rows, 1):
        for index, (key, value, headers, stamp) in enumerate(records):
            if asked is not None and asked >= partitions:
                failed.append((number * STEP, index, _outbox.NO_PARTITION, -1))
                continue
            keyless = number % partitions
            partition = (
                asked if asked is not None else keyless if key is None else _outbox.partition_of(key, partitions)
            )
            places[number * STEP, index] = (partition, len(expected[partition]))
            expected[partition].append((stamp, key, value, headers))
    written = defaultdict(list)
    for partition, wire in found.batches:
        records_there = read(wire)
        assert len(wire) <= batch_bytes or len(records_there) == 1
        written[partition] += records_there
    assert written == expected
    assert found.failed == failed

    told = {}
    for (row_id, partition, ordinal, count), where in zip(found.pieces, found.maps, strict=True):
        indexes = range(count)
        if where is not None:
            width = where[0]
            those = [int.from_bytes(where[i : i + width], "big") for i in range(1, len(where), width)]
            indexes = [index for index, place in enumerate(those) if place == partition]
        assert len(indexes) == count
        told |= {(row_id, index): (partition, ordinal + nth) for nth, index in enumerate(indexes)}
    assert told == places


def test_what_a_topic_does_not_take_is_named_and_the_rest_goes_on() -> None:
    rows = [row(1, [b"x" * 200, b"y", b"z"], [b"k", None, b"k"])]
    found = _outbox.spread(rows, 1, batch_bytes=120, most_bytes=120, needs_key=True)
    assert found.failed == [(STEP, 0, _outbox.TOO_LARGE, 0), (STEP, 1, _outbox.NO_KEY, 0)]
    assert [record[2] for _, wire in found.batches for record in read(wire)] == [b"z"]
    assert found.maps == [bytes([1, 255, 255, 0])]


def test_the_largest_record_that_a_topic_takes_fills_its_limit() -> None:
    size = len(_outbox.spread([row(1, [b"x" * 500])], 1, batch_bytes=10_000, most_bytes=10_000).batches[0][1])
    assert not _outbox.spread([row(1, [b"x" * 500])], 1, batch_bytes=size, most_bytes=size).failed
    assert _outbox.spread([row(1, [b"x" * 500])], 1, batch_bytes=size - 1, most_bytes=size - 1).failed


def test_damaged_rows_are_named_and_never_read_beyond_their_bytes() -> None:
    sound = row(
        1,
        [b"value", None, b""],
        [b"key", None, b"k"],
        headers=[[(b"h", b"1")], [], [(b"i", None)]],
        timestamps=[1, 2, 3],
    )
    chance = random.Random(19)
    for _ in range(20_000):
        place = chance.randrange(4, 10)
        data = bytearray(sound[place] or b"")
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        damaged = (*sound[:place], bytes(data), *sound[place + 1 :])
        found = _outbox.spread([damaged], 3, batch_bytes=1000, most_bytes=1000)  # type: ignore[list-item]
        assert found.failed or sum(len(read(wire)) for _, wire in found.batches) == 3
