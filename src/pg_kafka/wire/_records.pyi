from collections.abc import Sequence
from typing import NamedTuple, final

from pg_kafka.wire.compression import RecordsError as RecordsError

COLUMNS: tuple[str, ...]
COPY_HEADER: bytes
COPY_TRAILER: bytes
MAX_SLICE_BYTES: int

class BatchHeader(NamedTuple):
    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

@final
class Slice:
    @property
    def first_delta(self) -> int: ...  # where it begins, from the batch's base offset
    @property
    def span(self) -> int: ...  # offsets that it covers; `count` unless it is sparse
    @property
    def count(self) -> int: ...
    @property
    def headers(self) -> int: ...  # headers of all its records
    @property
    def raw_bytes(self) -> int: ...  # its records in Kafka's format, uncompressed
    @property
    def wire_bytes(self) -> int: ...  # its share of the batch as the producer sent it
    @property
    def first_timestamp(self) -> int: ...
    @property
    def min_timestamp(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...
    @property
    def null_keys(self) -> int: ...
    @property
    def null_values(self) -> int: ...
    @property
    def null_header_values(self) -> int: ...
    @property
    def keys(self) -> bytes | None: ...
    @property
    def values(self) -> bytes: ...  # None in the slice of a packed batch
    @property
    def timestamps(self) -> bytes | None: ...
    @property
    def offset_deltas(self) -> bytes | None: ...
    @property
    def header_ends(self) -> bytes | None: ...
    @property
    def header_keys(self) -> bytes | None: ...
    @property
    def header_values(self) -> bytes | None: ...

@final
class Batch:
    @property
    def base_offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def attributes(self) -> int: ...
    @property
    def last_offset_delta(self) -> int: ...
    @property
    def base_timestamp(self) -> int: ...
    @property
    def max_timestamp(self) -> int: ...  # as the header has it
    @property
    def producer_id(self) -> int: ...
    @property
    def producer_epoch(self) -> int: ...
    @property
    def base_sequence(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def codec(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def is_transactional(self) -> bool: ...
    @property
    def is_control(self) -> bool: ...
    @property
    def is_read_by_all(self) -> bool: ...  # by every client, as the producer compressed it
    @property
    def is_packed(self) -> bool: ...  # `wire` is stored; `slices` is one that sums it up
    @property
    def delete_horizon(self) -> int | None: ...
    @property
    def raw_bytes(self) -> int: ...  # all records, uncompressed
    @property
    def min_timestamp(self) -> int: ...
    @property
    def max_record_timestamp(self) -> int: ...
    @property
    def max_timestamp_delta(self) -> int: ...  # offset delta of the first record that has it
    @property
    def has_null_key(self) -> bool: ...
    @property
    def largest_index(self) -> int: ...  # of the largest record
    @property
    def largest_bytes(self) -> int: ...  # its size decompressed, without the length in front
    @property
    def null_key_index(self) -> int: ...  # of the first record without a key, or -1
    @property
    def wire(self) -> bytes | memoryview: ...
    @property
    def slices(self) -> list[Slice]: ...

def crc32c(data: bytes | memoryview, *, by_table: bool = False) -> int: ...
def peek(data: bytes | memoryview, offset: int = 0) -> BatchHeader: ...
def decode_batch(
    data: bytes | memoryview,
    *,
    max_raw_bytes: int = 134_217_728,
    from_producer: bool = True,
    keeps_packed: bool = False,
) -> Batch: ...
def batches_in(data: bytes, start_offset: int = 0) -> list[bytes]: ...
def restamp(wire: bytes | memoryview, base_offset: int, leader_epoch: int, log_append_time_ms: int = -1) -> bytes: ...
def copy_row(
    *,
    series: int,
    topic: int,
    partition: int,
    segment: int,
    base_offset: int,
    leader_epoch: int,
    global_base: int,
    running_max_timestamp: int,
    append_time: int,
    timestamp_type: int,
    codec: int,
    is_transactional: bool,
    is_control: bool,
    delete_horizon: int | None,
    producers: Sequence[tuple[int, int, int, int, int]],  # id, epoch, base sequence, base offset and count of a batch
    slices: Sequence[Slice],
    log_append_time: int = -1,
    packed: list[bytes] | None = None,
) -> bytes: ...
def encode_row(
    *,
    base_offset: int,
    last_offset: int,
    leader_epoch: int,
    record_count: int,
    first_timestamp: int,
    max_timestamp: int,
    timestamp_type: int,
    is_transactional: bool,
    is_control: bool,
    producer_id: int | None,
    producer_epoch: int | None,
    base_sequence: int | None,
    batch_base_offset: int | None,
    delete_horizon: int | None,
    timestamps: bytes | None,
    offset_deltas: bytes | None,
    keys: bytes | None,
    header_ends: bytes | None,
    header_keys: bytes | None,
    header_values: bytes | None,
    values: bytes,
    codec: int,
    start_offset: int = -1,
    max_bytes: int = 0,
    level: int | None = None,
) -> bytes: ...
def control_batch(
    *,
    base_offset: int,
    leader_epoch: int,
    timestamp: int,
    producer_id: int,
    producer_epoch: int,
    is_commit: bool,
    coordinator_epoch: int,
) -> bytes: ...
