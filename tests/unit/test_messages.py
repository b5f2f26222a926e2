"""Generated messages and the codec, compared with kio for every API, version and direction.

Set PG_KAFKA_ORACLE_EXAMPLES for more than the few random messages of each that are tried by default.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema import errors
from kio.schema.index import api_key_map
from tests.unit.kio_oracle import CASES, Case, case_name, decode, encode, kio_bytes, kio_class, message_of, random_kio

from pg_kafka.wire.codec import decode_response, encode_response, message_class
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.messages import API_SCHEMAS
from pg_kafka.wire.messages.fetch_response import FetchableTopicResponse, FetchResponse, LeaderIdAndEpoch, PartitionData
from pg_kafka.wire.messages.metadata_request import MetadataRequest, MetadataRequestTopic

EXAMPLES = int(os.environ.get("PG_KAFKA_ORACLE_EXAMPLES", "4"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("case", CASES, ids=case_name)
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


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_defaults_survive_a_round_trip(case: Case) -> None:
    message = message_class(case[0], case[2])()
    assert decode(case, encode(case, message)) == message


def test_generated_files_are_up_to_date() -> None:
    path = ROOT / "scripts" / "generate_messages.py"
    spec = importlib.util.spec_from_file_location("generate_messages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_messages"] = module
    spec.loader.exec_module(module)
    files: dict[Path, str] = module.generate()
    assert {path for path, text in files.items() if path.read_text() != text} == set()
    assert set((ROOT / "src/pg_kafka/wire/messages").glob("*.py")) <= set(files)


def test_all_apis_and_error_codes_of_kio_are_there() -> None:
    assert {key: schema.name for key, schema in API_SCHEMAS.items()} == dict(api_key_map)
    assert {code.name: code.value for code in ErrorCode} == {code.name.upper(): int(code) for code in errors.ErrorCode}


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
