"""Produce: check batches, queue them for their lanes, answer when all are committed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Final
from uuid import UUID

from pg_kafka.broker.context import Context
from pg_kafka.broker.decoding import Abandoned
from pg_kafka.broker.doors import Topic
from pg_kafka.broker.handlers import transactional_batches
from pg_kafka.broker.partitions import FIRST_VERSION_WITH_TOPIC_IDS
from pg_kafka.broker.permission import Operation, ResourceType
from pg_kafka.broker.records import Records
from pg_kafka.broker.refusals import Refused, shortened
from pg_kafka.broker.reply import Reply
from pg_kafka.config.topics import TopicSettings
from pg_kafka.errors import StorageError
from pg_kafka.storage.partition import AppendResult, Partition, counted_bytes
from pg_kafka.wire import _produce, _records, compression
from pg_kafka.wire._records import Batch, RecordsError
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages.produce import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)

THREADED_BYTES: Final = 64 * 1024
THREADED_RAW_BYTES: Final = 1024 * 1024
"""A compressed batch above the first, or records above the second, are decoded in a thread: they would hold up all other
connections for milliseconds (inflating 1 MB takes 2 to 17, checking 1 MB without compression 0.7)."""

INLINE_RAW_BYTES: Final = 4 * 1024 * 1024
"""So much of one request is decoded on the event loop: a request may have thousands of batches, each of them small."""

MAX_RECORD_ERRORS: Final = 1000
"""Records that one answer names: a batch may hold millions, and each would cost a sentence."""

_WRITE: Final = Operation.WRITE
_ACKS_ALL, _ACKS_NONE, _ACKS = -1, 0, (-1, 0, 1)
_FIRST_VERSION_WITH_ZSTD = 7
_ZSTD = 4
_CODEC_MASK = 7
_BATCH_OVERHEAD_BYTES = 12  # base offset and length, which the length leaves out
_BATCH_HEADER_BYTES = 61
_ATTRIBUTES_LOW_BYTE = 22
_NO_TIMESTAMP = -1
_CREATE_TIME, _LOG_APPEND_TIME = 0, 1
_UNKNOWN: Final = AppendResult(ErrorCode.UNKNOWN_SERVER_ERROR)
_TOO_FEW_STANDBYS: Final = AppendResult(
    ErrorCode.NOT_ENOUGH_REPLICAS, message="too few synchronous standbys are connected (pg_kafka.min_sync_standbys)"
)
_LATE: Final = AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="other large batches are dealt with first")


def produce(ctx: Context, request: ProduceRequest, reply: Reply) -> Coroutine[Any, Any, None] | None:
    """Append one record batch to each of the named partitions.

    Versions  3-13, advertised from 0 (librdkafka wants that). 7 brings zstd, 8 record errors (KIP-467), 9 is flexible,
              13 has topic ids.
    Rules     - acks other than -1, 0, 1 is INVALID_REQUIRED_ACKS for every partition; 1 and -1 both mean committed
              - acks -1 is NOT_ENOUGH_REPLICAS while fewer than pg_kafka.min_sync_standbys are connected
              - acks 0 gets no answer; when anything failed, the connection is closed instead
              - each partition answers for itself; a partition named twice takes both batches, and answers twice
              - exactly one batch of format 2: see `decode_batch` for INVALID_RECORD and CORRUPT_MESSAGE
              - a batch larger than max.message.bytes, as it is on the wire, is MESSAGE_TOO_LARGE
              - a record without key in a compacted topic is INVALID_RECORD; a timestamp beyond
                message.timestamp.before/after.max.ms is INVALID_TIMESTAMP; the answer names up to 1000 such records
              - a batch that says LogAppendTime of itself is INVALID_TIMESTAMP, in topics of either timestamp type
              - zstd below version 7 is UNSUPPORTED_COMPRESSION_TYPE
              - large batches come in turn, of all connections (`decoding.py`); one whose turn does not come is
                REQUEST_TIMED_OUT, which is retriable
              - duplicates, sequence gaps and old epochs are the lane's to judge, in the order of its queue
              - transactional batches: see `transactional_batches`
    Not done  - timeout_ms: the answer waits for the commit or its failure, there are no replicas to wait for
    """
    answer = _Answer(request, reply)
    if ctx.is_large:
        return _append_many(ctx, answer, reply, request)
    appends: list[_Append] = []
    is_simple = True
    for topic_key, data in _asked(ctx, request):
        append = _take(ctx, answer, request, topic_key, data)
        if append is not None:
            appends.append(append)
            is_simple = is_simple and append.partition is not None and not append.is_heavy
    if is_simple:
        _decode_small(ctx, appends)
        is_simple = not any(append.is_heavy for append in appends)
    if not is_simple:
        return _append_later(ctx, answer, reply, appends)
    _append(ctx, answer, appends)
    answer.release()
    return None


def _asked(ctx: Context, request: ProduceRequest) -> Iterator[tuple[str | UUID, PartitionProduceData]]:
    """Each partition's data with the name or id of its topic."""
    names_ids = ctx.version >= FIRST_VERSION_WITH_TOPIC_IDS
    for topic_data in request.topic_data:
        topic_key: str | UUID = topic_data.topic_id if names_ids else topic_data.name
        for data in topic_data.partition_data:
            yield topic_key, data


def _as_refused(ctx: Context, request: ProduceRequest, data: PartitionProduceData, error: Refused) -> AppendResult:
    """As Kafka does, who may not use the transactional id is told so first, for every transactional batch."""
    name = request.transactional_id
    if (
        name is not None
        and transactional_batches.is_transactional(data.records)
        and not ctx.doors.may(_WRITE, ResourceType.TRANSACTIONAL_ID, name)
    ):
        return AppendResult(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    return AppendResult(error.code, message=error.message)


def _take(
    ctx: Context, answer: _Answer, request: ProduceRequest, topic_key: str | UUID, data: PartitionProduceData
) -> _Append | None:
    """A partition's batch with its place in the answer; None when that is filled already."""
    slot = answer.add()
    try:
        append = _Append(ctx, slot, ctx.doors.topics.with_partition(_WRITE, topic_key, data.index), data)
    except Refused as error:
        answer.fill(slot, _as_refused(ctx, request, data, error))
    except RecordsError as error:
        answer.fill(slot, _as_result(error))
    else:
        if request.acks not in _ACKS:
            answer.fill(slot, _invalid_acks(request))
        elif request.acks == _ACKS_ALL and not ctx.broker.has_standbys:
            answer.fill(slot, _TOO_FEW_STANDBYS)
            append.await_again(ctx.broker.records)
        else:
            return append
    return None


async def _append_many(ctx: Context, answer: _Answer, reply: Reply, request: ProduceRequest) -> None:
    """The same for a request with very many partitions, in slices."""
    appends: list[_Append] = []
    async for asked in ctx.broker.turns.each(_asked(ctx, request)):
        append = _take(ctx, answer, request, *asked)
        if append is not None:
            appends.append(append)
    await _append_later(ctx, answer, reply, appends)


class _Append:
    """One partition's batch. Making one raises RecordsError for what the header alone tells."""

    __slots__ = (
        "batch",
        "codec",
        "expected_bytes",
        "index",
        "is_heavy",
        "partition",
        "records",
        "refusal",
        "slot",
        "topic",
    )

    def __init__(self, ctx: Context, slot: int, topic: Topic, data: PartitionProduceData) -> None:
        records = data.records
        if records is None:
            raise RecordsError(ErrorCode.INVALID_RECORD, "there is no record batch", -1)
        codec = records[_ATTRIBUTES_LOW_BYTE] & _CODEC_MASK if len(records) > _ATTRIBUTES_LOW_BYTE else 0
        if codec == _ZSTD and ctx.version < _FIRST_VERSION_WITH_ZSTD:
            raise RecordsError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7", -1)
        limit = topic.settings.max_message_bytes
        if len(records) > limit:
            size = _BATCH_OVERHEAD_BYTES + _records.peek(records).length
            if size > limit:
                raise RecordsError(
                    ErrorCode.MESSAGE_TOO_LARGE,
                    f"the batch has {size} bytes, {topic.name} takes {limit} (max.message.bytes)",
                    -1,
                )
        self.slot = slot
        self.codec = codec
        self.topic = topic
        self.index = data.index
        self.records = records
        self.expected_bytes = len(records)
        if codec and len(records) > _BATCH_HEADER_BYTES:
            self.expected_bytes = compression.size_hint(codec, memoryview(records)[_BATCH_HEADER_BYTES:])
        self.is_heavy = self.expected_bytes > THREADED_RAW_BYTES or (codec != 0 and len(records) > THREADED_BYTES)
        self.partition: Partition | None = ctx.doors.topics.loaded(topic, data.index)
        self.batch: Batch | None = None
        self.refusal: AppendResult | None = None

    def await_again(self, records: Records) -> None:
        """The partition could not be loaded: a producer's later batches must not come before this one."""
        with contextlib.suppress(RecordsError):
            head = _records.peek(self.records)
            if head.producer_id >= 0:
                records.first_batches.await_again(
                    self.topic.id, self.index, head.producer_id, head.producer_epoch, head.base_sequence
                )

    def decode(self, limit_bytes: int, wall_ms: int, max_raw_bytes: int) -> bool:
        """Fill `batch` or `refusal`; False when the records are more than `max_raw_bytes` and fewer may be more than that.

        May run in a thread.
        """
        try:
            keeps_packed = self.topic.keeps_packed(self.codec)
            batch = _records.decode_batch(self.records, max_raw_bytes=max_raw_bytes, keeps_packed=keeps_packed)
            if not _obeys(batch, self.topic.settings, wall_ms):
                if batch.is_packed:  # which records are to blame is seen when they are taken apart
                    batch = _records.decode_batch(self.records, max_raw_bytes=max_raw_bytes)
                self.refusal = _check_records(batch, self.topic.settings, wall_ms)
        except RecordsError as error:
            if error.code != ErrorCode.MESSAGE_TOO_LARGE:
                self.refusal = _as_result(error)
            elif max_raw_bytes < limit_bytes:
                return False
            else:
                message = f"{error.message} (pg_kafka.decompressed_batch_bytes)"
                self.refusal = AppendResult(error.code, message=message)
            return True
        if self.refusal is None:
            self.batch = batch
        return True

    @property
    def is_outdated(self) -> bool:
        """Was it decoded to be stored packed, in a topic that keeps no batches any more?"""
        partition, batch = self.partition, self.batch
        return partition is not None and batch is not None and batch.is_packed and not partition.topic.is_packing

    def decode_small(self, limit_bytes: int, wall_ms: int) -> int:
        """Fill `batch` or `refusal`, or find that it is heavy; returns for how many bytes that was work."""
        self.is_heavy = not self.decode(limit_bytes, wall_ms, THREADED_RAW_BYTES)
        return THREADED_RAW_BYTES if self.batch is None else self.batch.raw_bytes


class _Answer:
    """Collects what each partition answers; the last one sends the reply."""

    __slots__ = ("_has_errors", "_missing", "_reply", "_request", "_results", "transactional_id")

    def __init__(self, request: ProduceRequest, reply: Reply) -> None:
        self._request = request
        self._reply = reply
        self.transactional_id = request.transactional_id
        self._results: list[AppendResult] = []
        self._missing = 1  # our own hold, until everything is queued
        self._has_errors = False

    def add(self) -> int:
        """A place in the answer, for the request's next partition."""
        self._results.append(_UNKNOWN)
        self._missing += 1
        return len(self._results) - 1

    def fill(self, slot: int, result: AppendResult) -> None:
        """One partition's result; called once for each place."""
        self._results[slot] = result
        if result.error:
            self._has_errors = True
            if result.error == ErrorCode.MESSAGE_TOO_LARGE:
                message = result.message or ""
                setting = message.rpartition("(")[2].rstrip(")")
                self._reply.note("batch too large", message, kind=setting)
                self._reply.refused_by(setting)
        self._missing -= 1
        if not self._missing:
            self._send()

    def release(self) -> None:
        """Nothing is added any more."""
        self._missing -= 1
        if not self._missing:
            self._send()

    def _send(self) -> None:
        request, reply, results = self._request, self._reply, self._results
        if request.acks == _ACKS_NONE:
            failed = next((result for result in results if result.error), None)
            if failed is None:
                reply.send(None)
            else:
                name = ErrorCode(failed.error).name
                reply.close(f"produce with acks=0 failed: {name}: {shortened(failed.message)}", failed.error)
        elif self._has_errors:
            left = iter(results)
            reply.send(ProduceResponse(responses=[_as_response(topic, left) for topic in request.topic_data]))
        else:
            header = reply.header
            frame = _produce.acknowledgement(header.api_version, header.correlation_id, request.topic_data, results)
            reply.send_frame(frame)


def _as_response(topic: TopicProduceData, results: Iterator[AppendResult]) -> TopicProduceResponse:
    return TopicProduceResponse(
        name=topic.name,
        topic_id=topic.topic_id,
        partition_responses=[
            PartitionProduceResponse(
                index=data.index,
                error_code=result.error,
                base_offset=result.base_offset,
                log_append_time_ms=result.log_append_time_ms,
                log_start_offset=result.log_start_offset,
                error_message=shortened(result.message) if result.error else None,
                record_errors=[
                    BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=message)
                    for index, message in result.record_errors
                ],
            )
            for data, result in zip(topic.partition_data, results, strict=False)
        ],
    )


def _invalid_acks(request: ProduceRequest) -> AppendResult:
    """What the whole request is refused with."""
    return AppendResult(ErrorCode.INVALID_REQUIRED_ACKS, message=f"acks is {request.acks}, not -1, 0 or 1")


def _decode_small(ctx: Context, appends: Iterable[_Append]) -> None:
    """Decode on the event loop up to the first batch that is heavy, which it may not have looked like.

    What comes after that one stays as it was sent: it may have to wait for long.
    """
    left_bytes = INLINE_RAW_BYTES
    limit_bytes, wall_ms = ctx.broker.config.decompressed_batch_bytes, ctx.broker.clock.wall_ms()
    for append in appends:
        if not append.is_heavy and append.batch is None and append.refusal is None:
            if left_bytes > 0:
                left_bytes -= append.decode_small(limit_bytes, wall_ms)
            else:
                append.is_heavy = True
        if append.is_heavy:
            return


async def _append_later(ctx: Context, answer: _Answer, reply: Reply, appends: list[_Append]) -> None:
    """Load partitions, then append batch after batch, in the request's order; large ones are decoded beside the event loop.

    Each is queued before the next one is decoded, so that its memory comes back by itself.
    """
    appends = await _load(ctx, answer, appends)
    is_wanted = True
    async for part in ctx.broker.turns.parts(appends):
        if is_wanted:
            is_wanted = await _append_part(ctx, answer, reply, deque(part))
        else:
            _forget(answer, part)
    answer.release()


async def _append_part(ctx: Context, answer: _Answer, reply: Reply, appends: deque[_Append]) -> bool:
    """Append some; False when nobody waits for an answer any more."""
    while appends:
        _decode_small(ctx, appends)
        ready: list[_Append] = []
        while appends and not appends[0].is_heavy:
            ready.append(appends.popleft())
        _append(ctx, answer, ready)
        if not appends:
            break
        append = appends.popleft()
        try:
            await _append_heavy(ctx, answer, reply, append)
        except Abandoned:
            _forget(answer, (append, *appends))
            return False
    return True


def _forget(answer: _Answer, unwanted: Iterable[_Append]) -> None:
    for append in unwanted:
        answer.fill(append.slot, _UNKNOWN)


async def _load(ctx: Context, answer: _Answer, appends: list[_Append]) -> list[_Append]:
    """Load partitions that are not; batches for those that cannot be are answered, the others are returned."""
    unloaded = [append for append in appends if append.partition is None]
    if not unloaded:
        return appends
    loaded = await ctx.doors.topics.load([(append.topic, append.index) for append in unloaded])
    for append, partition in zip(unloaded, loaded, strict=True):
        if isinstance(partition, StorageError):
            answer.fill(append.slot, AppendResult(partition.code, message=partition.message))
            append.await_again(ctx.broker.records)
        else:
            append.partition = partition
    return [append for append in appends if append.partition is not None]


async def _append_heavy(ctx: Context, answer: _Answer, reply: Reply, append: _Append) -> None:
    """Decode one batch when its turn comes, and queue it. Raises Abandoned."""
    decoding = ctx.broker.decoding
    limit_bytes = ctx.broker.config.decompressed_batch_bytes

    def on_wait() -> None:
        reply.note("large batches wait", f"pg_kafka.decoding_bytes = {decoding.limit_bytes}")

    while True:
        decode = partial(append.decode, limit_bytes, ctx.broker.clock.wall_ms())
        try:
            claim = await decoding.decode(decode, append.expected_bytes, limit_bytes, reply, on_wait)
        except TimeoutError:
            append.await_again(ctx.broker.records)
            answer.fill(append.slot, _LATE)
            reply.refused_by("pg_kafka.decoding_bytes")
            return
        if not append.is_outdated:
            break
        # SQL has asked for the topic meanwhile.
        claim.give_back()
        append.topic = append.topic if append.partition is None else append.partition.topic
        append.batch = None
    if append.batch is None:
        claim.give_back()
        _append(ctx, answer, [append])
        return
    _append(ctx, answer, [append], decoding.queued(claim, counted_bytes(append.batch)))


def _append(ctx: Context, answer: _Answer, appends: list[_Append], answered: Callable[[], None] | None = None) -> None:
    """Queue what is good, answer what is not. `answered` is called when there is an answer to what was queued."""
    records = ctx.broker.records
    of_transaction: list[tuple[Partition, Batch, Callable[[AppendResult], None]]] = []
    for append in appends:
        batch, partition = append.batch, append.partition
        append.batch = None  # the lane's; the request may live much longer
        if batch is None or partition is None:
            answer.fill(append.slot, append.refusal or _UNKNOWN)
            continue
        done = partial(answer.fill, append.slot)
        if answered is not None:
            done = partial(_fill, answered, done)
        if batch.is_transactional:
            of_transaction.append((partition, batch, done))
        else:
            records.append(partition, batch, done, timestamp_type=append.topic.settings.timestamp_type)
    if of_transaction:
        transactional_batches.append(ctx, answer.transactional_id, of_transaction)


def _fill(answered: Callable[[], None], fill: Callable[[AppendResult], None], result: AppendResult) -> None:
    answered()
    fill(result)


def _as_result(error: RecordsError) -> AppendResult:
    record_errors = [(error.record_index, error.message)] if error.record_index >= 0 else []
    return AppendResult(error.code, message=error.message, record_errors=record_errors)


def _obeys(batch: Batch, settings: TopicSettings, wall_ms: int) -> bool:
    """Whether nothing can be wrong by the topic's own rules; else `_check_records` has to look."""
    return (
        wall_ms - settings.timestamp_before_max_ms <= batch.min_timestamp
        and batch.max_record_timestamp <= wall_ms + settings.timestamp_after_max_ms
        and batch.timestamp_type == _CREATE_TIME
        and not (batch.has_null_key and settings.is_compacted)
        and not (batch.codec and batch.largest_bytes > settings.max_decompressed_message_bytes)
    )


def _check_records(batch: Batch, settings: TopicSettings, wall_ms: int) -> AppendResult | None:
    """The topic's own rules for records: sizes, keys where it is compacted, timestamps within bounds."""
    most_bytes = settings.max_decompressed_message_bytes
    if batch.codec and batch.largest_bytes > most_bytes:
        message = (
            f"record {batch.largest_index} has {batch.largest_bytes} bytes decompressed,"
            f" {most_bytes} are allowed (max.decompressed.message.bytes)"
        )
        return AppendResult(ErrorCode.INVALID_RECORD, message=message, record_errors=[(batch.largest_index, message)])
    oldest = wall_ms - settings.timestamp_before_max_ms
    newest = wall_ms + settings.timestamp_after_max_ms
    errors: dict[int, str] = {}
    code = ErrorCode.INVALID_RECORD
    message = "records without key were sent to a compacted topic"
    if batch.has_null_key and settings.is_compacted:
        errors = dict.fromkeys(_records_without_key(batch), "a compacted topic takes no record without key")
    if batch.timestamp_type == _LOG_APPEND_TIME:
        code = ErrorCode.INVALID_TIMESTAMP
        message = "the batch says LogAppendTime, which only the broker may set"
        errors.setdefault(0, message)
    elif settings.timestamp_type == _CREATE_TIME and (outside := _records_outside(batch, oldest, newest)):
        code = ErrorCode.INVALID_TIMESTAMP
        message = f"records have timestamps outside {oldest} to {newest}"
        errors = {index: f"timestamp {stamp} is outside {oldest} to {newest}" for index, stamp in outside} | errors
    if not errors:
        return None
    return AppendResult(code, message=message, record_errors=sorted(errors.items())[:MAX_RECORD_ERRORS])


def _records_without_key(batch: Batch) -> list[int]:
    found: list[int] = []
    for part in batch.slices:
        if not part.null_keys:
            continue
        if part.keys is None:
            found += range(part.first_delta, part.first_delta + min(part.count, MAX_RECORD_ERRORS))
        else:
            found += (part.first_delta + i for i, key in enumerate(_elements(part.keys)) if key is None)
        if len(found) >= MAX_RECORD_ERRORS:
            break
    return found[:MAX_RECORD_ERRORS]


def _records_outside(batch: Batch, oldest: int, newest: int) -> list[tuple[int, int]]:
    """Index and timestamp of records that lie before or after; a record may say that it has none."""
    found: list[tuple[int, int]] = []
    for part in batch.slices:
        if oldest <= part.min_timestamp and part.max_timestamp <= newest:
            continue
        if part.timestamps is None:
            stamps: Iterator[int] = iter([part.first_timestamp] * min(part.count, MAX_RECORD_ERRORS))
        else:
            stamps = (int.from_bytes(stamp or b"", "big", signed=True) for stamp in _elements(part.timestamps))
        found += (
            (part.first_delta + i, stamp)
            for i, stamp in enumerate(stamps)
            if stamp != _NO_TIMESTAMP and not oldest <= stamp <= newest
        )
        if len(found) >= MAX_RECORD_ERRORS:
            break
    return found[:MAX_RECORD_ERRORS]


def _elements(array_body: bytes) -> Iterator[bytes | None]:
    """Elements of a PostgreSQL array in binary form: int32 length, -1 for NULL, then the bytes."""
    position = 0
    while position < len(array_body):
        length = int.from_bytes(array_body[position : position + 4], "big", signed=True)
        position += 4
        if length < 0:
            yield None
        else:
            yield array_body[position : position + length]
            position += length
