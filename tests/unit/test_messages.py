"""Generated messages and the codec, compared with kio for every API, version and direction that it knows.

`tests/compare/test_messages.py` compares all of them with Kafka's own classes. Set PG_KAFKA_ORACLE_EXAMPLES for more than
the few random messages of each that are tried by default.
"""

from __future__ import annotations

import os
import random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema import errors
from kio.schema.index import api_key_map
from tests.unit.kio_oracle import KIO_CASES, NEWER_CASES, kio_bytes, kio_class, message_of, random_kio
from tests.unit.random_messages import CASES, Case, case_name, decode, encode, random_message

from pg_kafka.wire._decoder import compile_decoder
from pg_kafka.wire._encoder import compile_encoder
from pg_kafka.wire.codec import decode_response, encode_response, message_class
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.message import Message, array, field
from pg_kafka.wire.messages import API_NAMES, API_SCHEMAS
from pg_kafka.wire.messages.api_versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse
from pg_kafka.wire.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from pg_kafka.wire.messages.fetch import FetchableTopicResponse, FetchResponse, LeaderIdAndEpoch, PartitionData
from pg_kafka.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from pg_kafka.wire.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "4"))


@pytest.mark.parametrize("case", KIO_CASES, ids=case_name)
def test_agrees_with_kio(case: Case) -> None:
    cls = message_class(case[0], case[2])

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(size=st.integers(0, 3), seed=st.integers(0, 2**32))
    def check(size: int, seed: int) -> None:
        theirs = random_kio(kio_class(case), random.Random(seed), size)
        expected = kio_bytes(theirs)
        ours = message_of(theirs, cls)
        assert encode(case, ours) == expected
        assert decode(case, expected) == ours
        assert decode(case, memoryview(expected)) == ours

    check()


TOPIC_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")

# Messages that kio does not know, and the bytes that Kafka's own classes write for them.
WRITTEN_BY_KAFKA: dict[Case, tuple[Message, str]] = {
    (18, 5, "request"): (
        ApiVersionsRequest(
            client_software_name="java", client_software_version="4.4.0", cluster_id="cluster", node_id=7
        ),
        "056a61766106342e342e3008636c75737465720000000700",
    ),
    (18, 5, "response"): (
        ApiVersionsResponse(
            error_code=35,
            api_keys=[ApiVersion(api_key=18, min_version=0, max_version=5)],
            throttle_time_ms=3,
            finalized_features_epoch=9,
        ),
        "00230200120000000500000000030101080000000000000009",
    ),
    (28, 6, "request"): (
        TxnOffsetCommitRequest(
            transactional_id="t",
            group_id="g",
            producer_id=5,
            producer_epoch=1,
            generation_id_or_member_epoch=3,
            member_id="m",
            topics=[
                TxnOffsetCommitRequestTopic(
                    topic_id=TOPIC_ID,
                    partitions=[
                        TxnOffsetCommitRequestPartition(
                            partition_index=2, committed_offset=10, committed_leader_epoch=4, committed_metadata="x"
                        )
                    ],
                )
            ],
        ),
        "027402670000000000000005000100000003026d00"
        "0200112233445566778899aabbccddeeff0200000002000000000000000a000000040278000000",
    ),
    (28, 6, "response"): (
        TxnOffsetCommitResponse(
            throttle_time_ms=1,
            topics=[
                TxnOffsetCommitResponseTopic(
                    topic_id=TOPIC_ID, partitions=[TxnOffsetCommitResponsePartition(partition_index=2, error_code=100)]
                )
            ],
        ),
        "000000010200112233445566778899aabbccddeeff02000000020064000000",
    ),
    (42, 3, "request"): (DeleteGroupsRequest(groups_names=["g", "h"]), "030267026800"),
    (42, 3, "response"): (
        DeleteGroupsResponse(
            results=[
                DeletableGroupResult(group_id="g", error_code=134, error_message="why"),
                DeletableGroupResult(group_id="h"),
            ]
        ),
        "000000000302670086047768790002680000000000",
    ),
}


@pytest.mark.parametrize("case", NEWER_CASES, ids=case_name)
def test_newer_messages_are_as_kafka_writes_them(case: Case) -> None:
    message, expected = WRITTEN_BY_KAFKA[case]
    assert encode(case, message).hex() == expected
    assert decode(case, bytes.fromhex(expected)) == message


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_messages_survive_a_round_trip(case: Case) -> None:
    default = message_class(case[0], case[2])()
    assert decode(case, encode(case, default)) == default
    for size in range(4):
        message = random_message(case, random.Random(size), size)
        assert decode(case, encode(case, message)) == message


def test_names_are_kios() -> None:
    snake = {key: "".join("_" + c.lower() if c.isupper() else c for c in name)[1:] for key, name in API_NAMES.items()}
    assert {key: snake[key] for key in api_key_map} == dict(api_key_map)
    assert {key: schema.name for key, schema in API_SCHEMAS.items()} == {key: snake[key] for key in API_SCHEMAS}


def test_error_codes_of_kio_are_there() -> None:
    ours = {code.name: code.value for code in ErrorCode}
    assert {code.name.upper(): int(code) for code in errors.ErrorCode}.items() <= ours.items()


class Unsigned(Message):
    one: int = field("uint32", "0+", default=0)
    several: Any = array("uint32", "0+", default=())


def test_unsigned_numbers_of_four_bytes() -> None:
    message = Unsigned(one=0xFFFF_FFFE, several=[1, 0x8000_0000])
    data = b"".join(compile_encoder(Unsigned, 0, False)(message, 10))
    assert data == bytes.fromhex("fffffffe 00000002 00000001 80000000")
    assert compile_decoder(Unsigned, 0, False)(data, 0, 10) == message


def test_lists_and_tuples_of_equal_items_are_equal() -> None:
    topic = MetadataRequestTopic(name="a")
    assert MetadataRequest(topics=[topic]) == MetadataRequest(topics=(MetadataRequestTopic(name="a"),))
    assert MetadataRequest(topics=[topic]) != MetadataRequest(topics=[MetadataRequestTopic(name="b")])
    assert MetadataRequest(topics=None) != MetadataRequest(topics=[])
    assert topic != "a"


def test_repr_names_what_differs_from_the_defaults() -> None:
    assert repr(PartitionData(partition_index=3)) == "PartitionData(partition_index=3)"


def test_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError):
        PartitionData(partition=3)  # type: ignore[call-arg]


def test_shared_default_struct_cannot_be_changed() -> None:
    partition = PartitionData()
    with pytest.raises(AttributeError, match="assign a new LeaderIdAndEpoch"):
        partition.current_leader.leader_id = 1
    partition.current_leader = LeaderIdAndEpoch(leader_id=1)
    assert PartitionData().current_leader == LeaderIdAndEpoch(leader_id=-1)


@pytest.mark.parametrize("version", [4, 11, 12, 17])
@pytest.mark.parametrize("form", ["list", "tuple", "memoryview", "bytes"])
def test_records_are_passed_through_uncopied(version: int, form: str) -> None:
    batch = bytes(range(256)) * 20
    pieces = {"list": [batch, memoryview(batch)], "tuple": (batch,), "memoryview": memoryview(batch), "bytes": batch}
    partition = PartitionData(records=pieces[form])
    response = FetchResponse(responses=[FetchableTopicResponse(partitions=[partition, PartitionData(records=b"x")])])
    parts = encode_response(response, 1, version)
    assert any(part is batch or (isinstance(part, memoryview) and part.obj is batch) for part in parts)
    decoded = decode_response(1, version, b"".join(parts))
    found = [bytes(partition.records) for partition in decoded.responses[0].partitions]
    assert found == [b"".join([batch, batch] if form == "list" else [batch]), b"x"]


def test_decoded_records_are_views_of_the_frame() -> None:
    response = FetchResponse(responses=[FetchableTopicResponse(partitions=[PartitionData(records=b"abc")])])
    frame = b"".join(encode_response(response, 1, 12))
    records = decode_response(1, 12, memoryview(frame)).responses[0].partitions[0].records
    assert isinstance(records, memoryview)
    assert records.obj is frame


def test_fields_that_a_version_lacks_are_left_out() -> None:
    response = FetchResponse(session_id=7, responses=[FetchableTopicResponse(topic="t", topic_id=UUID(int=5))])
    assert decode_response(1, 4, b"".join(encode_response(response, 1, 4))).session_id == 0
    assert decode_response(1, 13, b"".join(encode_response(response, 1, 13))).responses[0].topic == ""


def test_encoding_for_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        encode_response(FetchResponse(), 1, 99)
