"""The dispatch table: complete, consistent with the message schemas, and what the documentation says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pg_kafka.broker.api import Api
from pg_kafka.broker.client import ConnectionInfo
from pg_kafka.broker.context import Context
from pg_kafka.broker.dispatch import APIS, VERSIONS
from pg_kafka.broker.handlers import api_versions
from pg_kafka.wire import codec
from pg_kafka.wire.error_codes import ErrorCode
from pg_kafka.wire.frames import RequestHeader
from pg_kafka.wire.messages import API_NAMES, API_SCHEMAS
from pg_kafka.wire.messages.api_versions import ApiVersionsRequest

ROOT = Path(__file__).parents[2]

# What Kafka 4.4's ApiKeys say of the APIs that are served: the lowest and the highest stable version.
KAFKA_VERSIONS = {
    0: (3, 13),
    1: (4, 18),
    2: (1, 11),
    3: (0, 13),
    8: (2, 10),
    9: (1, 10),
    10: (0, 6),
    11: (0, 9),
    12: (0, 4),
    13: (0, 5),
    14: (0, 5),
    15: (0, 6),
    16: (0, 5),
    17: (0, 1),
    18: (0, 5),
    19: (2, 7),
    20: (1, 6),
    21: (0, 2),
    22: (0, 5),
    23: (2, 4),
    24: (0, 5),
    25: (0, 4),
    26: (0, 5),
    27: (1, 2),
    28: (0, 6),
    29: (1, 3),
    30: (1, 3),
    31: (1, 3),
    32: (1, 4),
    33: (0, 2),
    34: (1, 2),
    35: (1, 5),
    36: (0, 2),
    37: (0, 3),
    42: (0, 3),
    43: (0, 2),
    44: (0, 1),
    45: (0, 1),
    46: (0, 0),
    47: (0, 0),
    48: (0, 1),
    49: (0, 1),
    50: (0, 0),
    51: (0, 0),
    55: (0, 2),
    57: (0, 2),
    60: (0, 2),
    61: (0, 0),
    64: (0, 0),
    65: (0, 0),
    66: (0, 2),
    68: (0, 1),
    69: (0, 1),
    71: (0, 0),
    72: (0, 0),
    74: (0, 1),
    75: (0, 0),
}

every_api = pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)


def context(version: int) -> Context:
    return Context(
        cast(Any, SimpleNamespace(versions=VERSIONS)),
        cast(Any, None),
        RequestHeader(18, version, 1, "test"),
        ConnectionInfo(1, ("127.0.0.1", 1), ("127.0.0.1", 2)),
    )


def test_versions_are_kafkas_stable_ones() -> None:
    assert {api.key: (api.min_version, api.max_version) for api in APIS.values()} == KAFKA_VERSIONS


@every_api
def test_rows_agree_with_the_schemas(api: Api) -> None:
    schema = API_SCHEMAS[api.key]
    assert schema.name == "".join("_" + c.lower() if c.isupper() else c for c in api.name).lstrip("_")
    assert API_NAMES[api.key] == api.name
    assert schema.first_version <= api.min_version <= api.max_version <= schema.last_stable


@every_api
def test_handlers_say_what_they_promise(api: Api) -> None:
    doc = api.handler.__doc__ or ""
    assert "Versions  " in doc
    assert "Rules " in doc


@every_api
def test_all_but_the_beginning_of_a_connection_and_telemetry_asks_for_permission(api: Api) -> None:
    is_beginning = api.name in ("ApiVersions", "SaslHandshake", "SaslAuthenticate")
    is_telemetry = api.name in ("GetTelemetrySubscriptions", "PushTelemetry")
    assert bool(api.access) != (is_beginning or is_telemetry)


@every_api
def test_failures_can_be_encoded_in_every_version(api: Api) -> None:
    if api.failure is None:
        return
    request = codec.message_class(api.key, "request")()
    for version in range(api.min_version, api.max_version + 1):
        response = api.failure(request, ErrorCode.UNKNOWN_SERVER_ERROR)
        codec.encode_response(response, api.key, version)


@pytest.mark.parametrize("version", range(6))
async def test_api_versions_names_every_row(version: int) -> None:
    request = ApiVersionsRequest(client_software_name="test", client_software_version="1.0-x")
    answer = await api_versions.api_versions(context(version), request)
    assert answer.error_code == ErrorCode.NONE
    served = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}
    assert served == {**KAFKA_VERSIONS, 0: (0, 13)}
    codec.encode_response(answer, 18, version)


async def test_software_names_are_kept() -> None:
    ctx = context(4)
    await api_versions.api_versions(
        ctx, ApiVersionsRequest(client_software_name="apache-kafka-java", client_software_version="4.4.0")
    )
    assert (ctx.connection.client_software_name, ctx.connection.client_software_version) == (
        "apache-kafka-java",
        "4.4.0",
    )


@pytest.mark.parametrize("page", ["protocol.md", "deviations.md"])
def test_pages_are_the_programs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import coverage_table

    text = (ROOT / "docs" / page).read_text()
    assert coverage_table.with_parts(page, text) == text, "run: .venv/bin/python scripts/coverage_table.py"


def test_not_done_blocks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import coverage_table

    assert coverage_table.not_done(APIS[19]) == [
        "replicas: any replication factor is accepted and one replica reported",
        "the timeout: the answer comes when PostgreSQL has committed",
    ]
