"""Speed of the native core: records per second each way, and the cost of a call for the smallest batch.

    python -m bench.codec [--seconds 1.0] [--record-bytes 100]

In is `decode_batch` with its checks and `copy_row`; out is `encode_row`. One thread, best of several rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from tests.batches import Record, batch_bytes, encode_arguments, read_row, record_bytes

from pg_kafka.wire import _records, compression

_NOW = 1_700_000_000_000
_ROUNDS = 5
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def records_of(batch_bytes_wanted: int, record_size: int) -> list[Record]:
    """As many records of `record_size` wire bytes as fit; keys of 8 bytes, times that differ."""
    overhead = len(record_bytes(Record(1000, _NOW + 7, bytes(8), bytes(record_size)), 0, _NOW)) - record_size
    count = max(1, (batch_bytes_wanted - 61) // record_size)
    value = (b'{"id":12345,"name":"someone","price":9.5,"active":true},' * (record_size // 50 + 1))[
        : record_size - overhead
    ]
    return [Record(i, _NOW + i % 7, b"%08d" % i, value) for i in range(count)]


def seconds_each(call: Callable[[], object], seconds: float) -> float:
    """The best round's time of one call."""
    repeats = 1
    while True:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        took = time.perf_counter() - start
        if took > seconds / _ROUNDS / 4:
            break
        repeats *= 2
    best = took / repeats
    for _ in range(_ROUNDS - 1):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def measure(size: int, record_size: int, codec: int, seconds: float) -> None:
    wire = memoryview(batch_bytes(records_of(size, record_size), codec=codec))
    batch = _records.decode_batch(wire)
    row_of = _row_maker()
    arguments = encode_arguments(read_row(row_of(batch.slices)))
    times = {
        "decode_batch": seconds_each(lambda: _records.decode_batch(wire), seconds),
        "copy_row": seconds_each(lambda: row_of(batch.slices), seconds),
        "in": seconds_each(lambda: row_of(_records.decode_batch(wire).slices), seconds),
        "restamp": seconds_each(lambda: _records.restamp(wire, 5, 1), seconds),
        "out": seconds_each(lambda: _records.encode_row(**arguments, codec=codec), seconds),
    }
    if batch.count == 1:
        shown = "   ".join(f"{name} {took * 1e6:5.2f} us" for name, took in times.items())
        print(f"one record, {len(wire)} bytes: {shown}")
        return
    speed = {name: batch.count / times[name] / 1e6 for name in ("in", "out")}
    parts = "   ".join(f"{name} {took * 1e9 / batch.count:5.1f}" for name, took in times.items())
    print(
        f"{_CODECS[codec]:6} {batch.count:6} records, {batch.raw_bytes:8} bytes raw, {len(wire):8} on the wire:"
        f"  in {speed['in']:5.1f} M/s   out {speed['out']:5.1f} M/s   (ns a record: {parts})"
    )


def _row_maker() -> Callable[[list[_records.Slice]], bytes]:
    producers = [(1, 0, 0, 0, 1)]

    def row_of(slices: list[_records.Slice]) -> bytes:
        return _records.copy_row(
            series=0,
            topic=1,
            partition=0,
            segment=1,
            base_offset=0,
            leader_epoch=0,
            global_base=0,
            running_max_timestamp=0,
            append_time=0,
            timestamp_type=0,
            codec=0,
            is_transactional=False,
            is_control=False,
            delete_horizon=None,
            producers=producers,
            slices=slices,
        )

    return row_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--record-bytes", type=int, default=100)
    options = parser.parse_args()
    data = bytes(1 << 20)
    for name, by_table in (("as the processor can", False), ("by table", True)):
        took = seconds_each(lambda by_table=by_table: _records.crc32c(data, by_table=by_table), options.seconds)  # type: ignore[misc]
        print(f"CRC32C {name}: {len(data) / took / 1e9:.1f} GB/s")
    measure(1, options.record_bytes, compression.NONE, options.seconds)
    for size in (16 << 10, 64 << 10, 1 << 20):
        measure(size, options.record_bytes, compression.NONE, options.seconds)
    for codec in range(1, 5):
        measure(64 << 10, options.record_bytes, codec, options.seconds)


if __name__ == "__main__":
    main()
