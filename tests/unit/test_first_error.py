"""Which error code stands for a response."""

from __future__ import annotations

import pytest

from pg_kafka.broker.dispatch import APIS
from pg_kafka.wire import codec
from pg_kafka.wire.first_error import first_error
from pg_kafka.wire.message import Field, Message
from pg_kafka.wire.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
)
from pg_kafka.wire.messages.create_topics import CreatableTopicResult, CreateTopicsResponse
from pg_kafka.wire.messages.metadata import MetadataResponse, MetadataResponsePartition, MetadataResponseTopic


def paths(cls: type[Message]) -> list[list[str]]:
    """Each error code in a class, by the arrays that lead to it."""
    found = [[name] for name in cls.FIELDS if name.endswith("error_code") and name != "topic_config_error_code"]
    for name, entry in cls.FIELDS.items():
        if entry.is_array and isinstance(entry.kind, type):
            found += [[name, *path] for path in paths(entry.kind)]
    return found


def with_code(cls: type[Message], path: list[str], code: int) -> Message:
    """A message with this code there, behind a part without an error."""
    name, *rest = path
    if not rest:
        return cls(**{name: code})
    entry: Field = cls.FIELDS[name]
    assert isinstance(entry.kind, type)
    return cls(**{name: [entry.kind(), with_code(entry.kind, rest, code)]})


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_every_error_code_of_a_response_is_found(api: object) -> None:
    cls = codec.message_class(api.key, "response")  # type: ignore[attr-defined]
    assert paths(cls)
    for path in paths(cls):
        assert first_error(with_code(cls, path, 42)) == 42
    assert first_error(cls()) == 0


def test_own_code_comes_before_those_of_parts_and_an_element_before_the_next() -> None:
    partition = MetadataResponsePartition(error_code=3)
    topics = [MetadataResponseTopic(partitions=[partition]), MetadataResponseTopic(error_code=2)]
    assert first_error(MetadataResponse(topics=topics)) == 3
    assert first_error(MetadataResponse(topics=topics[1:])) == 2
    assert first_error(MetadataResponse(topics=topics, error_code=1)) == 1


def test_codes_of_another_name_count_and_nulls_do_not_disturb() -> None:
    one = AddPartitionsToTxnPartitionResult(partition_error_code=5)
    topics = [AddPartitionsToTxnTopicResult(results_by_partition=[one])]
    answer = AddPartitionsToTxnResponse(results_by_transaction=[AddPartitionsToTxnResult(topic_results=topics)])
    assert first_error(answer) == 5
    topic = CreatableTopicResult(configs=None, topic_config_error_code=29)
    assert first_error(CreateTopicsResponse(topics=[topic])) == 0
