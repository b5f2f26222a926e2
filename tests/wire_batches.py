"""Record batches for tests, made and read by an independent implementation (aiokafka's)."""

from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

Record = tuple[bytes | None, bytes | None, int, Sequence[tuple[str, bytes | None]]]


def batch(
    records: Sequence[Record],
    *,
    codec: int = 0,
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = -1,
) -> bytes:
    """One batch of (key, value, timestamp, headers)."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=1 << 30,
    )
    for offset, (key, value, timestamp, headers) in enumerate(records):
        assert builder.append(offset, timestamp, key, value, list(headers)) is not None
    return bytes(builder.build())


def values(*texts: bytes, timestamp: int = 1_700_000_000_000) -> list[Record]:
    return [(None, text, timestamp, ()) for text in texts]


def records(wire: Sequence[bytes]) -> list[tuple[int, bytes | None, bytes | None]]:
    """(offset, key, value) of all records in wire batches."""
    found = []
    for data in wire:
        parsed = DefaultRecordBatch(bytes(data))
        assert parsed.validate_crc()
        found += [(r.offset, r.key, r.value) for r in parsed]
    return found
