"""Answers of two brokers made comparable: a message becomes paths with plain values.

What belongs to the place and not to the protocol (addresses, ids, epochs, wording) is replaced by a word for its kind.
Elements of lists are named by what identifies them, so that the order, which Kafka leaves open, does not count.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from aiokafka.record.default_records import DefaultRecordBatch

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import ZERO_UUID, Message

_IDENTITIES = (
    "name",
    "topic",
    "resource_name",
    "key",
    "partition_index",
    "partition",
    "index",
    "broker_id",
    "node_id",
    "api_key",
    "batch_index",
    "topic_id",
    "group_id",
    "transactional_id",
)


def _is_there(word: str) -> Callable[[Any], Any]:
    """A value of one's own; only whether there is one can be compared."""
    return lambda value: f"<{word}>" if value is not None and value != "" and value not in (0, -1) else value


def _at_least_zero(word: str) -> Callable[[int], Any]:
    return lambda value: f"<{word}>" if value >= 0 else value


def _today(word: str) -> Callable[[int], Any]:
    """A time of the run, and not one that the cases give to records."""
    return lambda value: f"<{word}>" if value > RECORDS_END_MS else value


def _above_zero(word: str) -> Callable[[int], Any]:
    return lambda value: f"<{word}>" if value > 0 else value


# Timestamps of the cases' records are long before that, the time of day is after.
RECORDS_END_MS = 1_750_000_000_000

_OF_THE_PLACE: Mapping[str, Callable[[Any], Any]] = {
    "host": _is_there("host"),
    "port": _is_there("port"),
    "cluster_id": _is_there("id"),
    "session_id": _is_there("id"),
    "producer_id": _at_least_zero("id"),
    "leader_epoch": _at_least_zero("epoch"),
    "epoch": _at_least_zero("epoch"),
    "coordinator_epoch": _at_least_zero("epoch"),
    "log_append_time_ms": _at_least_zero("time"),
    "transaction_start_time_ms": _at_least_zero("time"),
    "last_timestamp": _today("time"),
    "error_message": _is_there("text"),
    "batch_index_error_message": _is_there("text"),
    "documentation": _is_there("text"),
    "finalized_features_epoch": _at_least_zero("epoch"),
    "member_id": _is_there("member"),
    "leader": _is_there("member"),
    "client_host": _is_there("host"),
    # Where they begin differs; what they grow by is compared in test_group_rebalances.py.
    "member_epoch": _above_zero("epoch"),
    "group_epoch": _above_zero("epoch"),
    "assignment_epoch": _above_zero("epoch"),
}


def flattened(seen: Any, topics: Mapping[UUID, str]) -> dict[str, str]:
    """What was seen, as path and value; `topics` names the topic ids that this broker has given."""
    found: dict[str, str] = {}
    _flatten(seen, "", topics, found)
    return found


def _flatten(value: Any, path: str, topics: Mapping[UUID, str], found: dict[str, str]) -> None:
    here = path or "answer"
    if isinstance(value, Message):
        found[here] = "there"
        for name, entry in value.FIELDS.items():
            part = getattr(value, name)
            if entry.kind == "records":
                part = _described(part)
            elif name in _OF_THE_PLACE:
                part = _OF_THE_PLACE[name](part)
            elif name == "error_code":
                part = ErrorCode(part).name
            _flatten(part, f"{path}.{name}" if path else name, topics, found)
    elif isinstance(value, Mapping):
        found[here] = "there"
        for name, part in value.items():
            _flatten(part, f"{path}.{name}" if path else name, topics, found)
    elif isinstance(value, list | tuple):
        found[here] = "list"
        times: Counter[str] = Counter()
        for one in value:
            name = _identity(one, topics)
            times[name] += 1
            _flatten(one, f"{path}[{name if times[name] == 1 else f'{name} {times[name]}'}]", topics, found)
    else:
        found[here] = _written(value, topics)


def _identity(value: Any, topics: Mapping[UUID, str]) -> str:
    if not isinstance(value, Message):
        return _written(value, topics)
    for name in _IDENTITIES:
        if (part := getattr(value, name, None)) is not None and part not in ("", ZERO_UUID):
            if name == "api_key":
                return APIS[part].name if part in APIS else "other"
            return _written(part, topics)
    return ""


def _written(value: Any, topics: Mapping[UUID, str]) -> str:
    if isinstance(value, UUID):
        return "0" if value == ZERO_UUID else topics.get(value, "<id>")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "empty" if value == "" else str(value)


def _described(records: Any) -> Any:
    """Records by their content; where batches begin and end is the broker's to choose."""
    if records is None:
        return None
    data = bytes(records) if isinstance(records, bytes | memoryview) else b"".join(records)
    shown: dict[str, Any] = {"bytes": "some" if data else "none"}
    position = 0
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        if end > len(data):
            shown["cut"] = "true"
            break
        batch = DefaultRecordBatch(data[position:end])
        for record in batch:
            value = record.value
            if batch.is_control_batch:  # version, and the coordinator's epoch
                value = (value or b"")[:2] + b"<epoch>"
            shown[f"record{record.offset}"] = (
                f"key {record.key!r} value {value!r} headers {record.headers}"
                f" timestamp {'<time>' if batch.is_control_batch else record.timestamp}"
                f" type {record.timestamp_type} codec {batch.compression_type} transactional {batch.is_transactional}"
                f" control {batch.is_control_batch} producer {_at_least_zero('id')(batch.producer_id)}"
                f" epoch {batch.producer_epoch}"
            )
        position = end
    return shown


def differences(kafka: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Path, and what Kafka and pg_kafka have there. What lies below a difference is not named."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted({*kafka, *ours}, key=lambda path: (path != "answer", path)):
        pair = kafka.get(path, "absent"), ours.get(path, "absent")
        is_below = "answer" in found or any(path.startswith((f"{above}.", f"{above}[")) for above in found)
        if pair[0] != pair[1] and not is_below:
            found[path] = pair
    return found


def field_of(path: str) -> str:
    """The path without what names the elements of lists."""
    return re.sub(r"\[.*?\]", "", path)
